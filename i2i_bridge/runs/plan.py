"""The arithmetic of a restoration as plain numbers: with the network, all that a program without this package needs.

A plan is a list of stages (one, or two with [mean]), each with a list of network calls. From x_1, the start of a stage,

    x_t       = start.x_1 x_1 + start.noise z
    x_0_hat   = k_x x_t + k_1 x_1 + k_o network(c_in x_t, time, condition),   clipped, with known pixels put back
    x_t      <- n_1 x_1 + n_t x_t + n_0 x_0_hat + n_p (the x_0_hat one call before) + n_z z

and the last x_t is the result. The clipped result of a stage, with known pixels put back, is the x_1 of the next one.
With [latent] x_1, condition and result are latents, and known pixels are put back into the decoded result alone.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from i2i_bridge.bridge.base import Process
from i2i_bridge.bridge.samplers import Sampler
from i2i_bridge.bridge.targets import Target
from i2i_bridge.errors import UserError
from i2i_bridge.methods.base import Method
from i2i_bridge.methods.bridge import Bridge
from i2i_bridge.methods.latent import LatentMethod
from i2i_bridge.methods.mean import mean_of
from i2i_bridge.methods.pix2pix import Pix2pix
from i2i_bridge.methods.regression import Regression
from i2i_bridge.randomness import generator

PIXELS = 64
"""Equations per step from which the weights of a sampler are solved; five unknowns at most."""


@dataclass(frozen=True)
class Start:
    """Weights of the state before the first call."""

    x_1: float = 1.0
    noise: float = 0.0


@dataclass(frozen=True)
class Readout:
    """Weights of x_0_hat (`bridge.targets.Weights`)."""

    x_t: float = 0.0
    x_1: float = 0.0
    output: float = 1.0


@dataclass(frozen=True)
class Next:
    """Weights of the state after a call; `previous` is that of the x_0_hat one call before."""

    x_1: float = 0.0
    x_t: float = 0.0
    x_0_hat: float = 1.0
    previous: float = 0.0
    noise: float = 0.0


@dataclass(frozen=True)
class Call:
    """One network call.

    Args:
        t: Time of the state.
        time: Time that the network gets as input.
        c_in: Factor of the state in the network's input.
    """

    t: float = 1.0
    time: float = 1.0
    c_in: float = 1.0
    x_0_hat: Readout = Readout()
    next: Next = Next()


@dataclass(frozen=True)
class Stage:
    """All calls of one network.

    Args:
        network: Name of the network: "network" or "mean".
        condition: Whether it has a further input: the condition, or X_1 where there is none.
        clip: Whether x_0_hat is limited to [-1, 1].
    """

    network: str
    condition: bool
    clip: bool = False
    start: Start = Start()
    calls: tuple[Call, ...] = field(default=(Call(),))

    @property
    def draws(self) -> int:
        """Number of noise images of the size of x_1."""
        return sum(weight != 0 for weight in (self.start.noise, *(call.next.noise for call in self.calls)))


def plan_of(method: Method, nfe: int) -> list[Stage]:
    """The stages of a method's walk with `nfe` calls, or one for regression and Pix2pix; that of [mean] comes first.

    Raises:
        UserError: The walk is not the arithmetic of a plan.
        ValueError: The time grid has no such nfe.
    """
    mean = mean_of(method)
    before = [] if mean is None else plan_of(mean.method, mean.nfe)
    return [*(replace(stage, network="mean") for stage in before), _stage(method, nfe)]


def _stage(method: Method, nfe: int) -> Stage:
    if isinstance(method, LatentMethod):
        return _stage(method.method, nfe)
    if isinstance(method, Pix2pix):
        if method.inference == "train":
            raise UserError(
                "method 'pix2pix' with inference = 'train' draws dropout inside the network, which no graph takes "
                'as an input; a run with method.inference = "eval" can be exported'
            )
        return Stage("network", method.condition)
    if getattr(method, "label", False):
        raise UserError("network.classes: export knows no class labels; only a run without them can be exported")
    if isinstance(method, Regression):
        call = _call(method.process, method.target, 1.0, Next())
        return Stage("network", method.condition, method.clip, calls=(call,))
    if not isinstance(method, Bridge):
        raise UserError(f"method {type(method).__name__}: export knows the methods bridge, regression and pix2pix only")
    if method.condition_scale != 1:
        raise UserError(
            f"sample.condition_scale {method.condition_scale:g}: takes two network calls for one, which export does "
            "not know; --set sample.condition_scale=1 exports the run without it"
        )
    if method.guidance is not None:
        raise UserError(
            f"guidance {type(method.guidance).__name__}: computes with the degradation's operator, which is no part of "
            "an exported graph; only a run without sample.guidance can be exported"
        )
    times = method.grid(method.process, nfe)
    start, steps = sampler_weights(method.sampler, method.process, times, method.sampler_options)
    offset = method.time_offset(nfe)
    calls = tuple(_call(method.process, method.target, t, following, offset) for t, following in steps)
    return Stage("network", method.condition, method.clip, start, calls)


def _call(process: Process, target: Target, t: float, following: Next, time_offset: int = 0) -> Call:
    at = torch.tensor([t], dtype=torch.float64)
    weights = target.weights(process, at)
    k_x, k_1, k_o, c_in = (float(value) for value in weights)
    return Call(t, float(process.network_time(at)) + time_offset, c_in, Readout(k_x, k_1, k_o), following)


def sampler_weights(
    sampler: Sampler, process: Process, times: Tensor, options: Mapping[str, Any]
) -> tuple[Start, list[tuple[float, Next]]]:
    """Weights of a sampler's start, and time and weights of each of its network calls.

    The sampler is run on random vectors with random answers in place of the network's. Each state must be a weighted
    sum of at most five of them, so that the weights are the solution of linear equations. A sampler of the user's own
    is covered as well as those of the package.

    Raises:
        UserError: A state is no such sum.
    """
    draws, copy, answers = (generator(0, "export", name) for name in ("noise", "noise", "answers"))
    shape = (1, 1, 1, PIXELS)

    def randn(source: torch.Generator) -> Tensor:
        return torch.randn(shape, generator=source, dtype=torch.float64)

    def drawn() -> Tensor | None:
        """The noise that the sampler has drawn since the last call."""
        noise = None if torch.equal(copy.get_state(), draws.get_state()) else randn(copy)
        if not torch.equal(copy.get_state(), draws.get_state()):
            raise UserError(
                f"sampler {_name(sampler)}: draws more than one noise image in a step; it cannot be exported"
            )
        return noise

    x_1 = randn(answers)
    seen: list[tuple[float, Tensor, Tensor, Tensor | None]] = []

    def predict_x0(x_t: Tensor, t: Tensor) -> Tensor:
        answer = randn(answers)
        seen.append((float(t[0]), x_t.clone(), answer, drawn()))
        return answer

    *_, last = sampler(process, predict_x0, x_1, times, draws, **options)
    noises = [noise for *_, noise in seen[1:]] + [drawn()]
    states = [x_t for _, x_t, *_ in seen[1:]] + [last]
    start = _solved(sampler, seen[0][1], {"x_1": x_1, "noise": seen[0][3]}, [("x_1", "noise")])
    steps, previous = [], None
    for (t, x_t, x_0_hat, _), state, noise in zip(seen, states, noises, strict=True):
        columns = {"x_1": x_1, "x_t": x_t, "x_0_hat": x_0_hat, "previous": previous, "noise": noise}
        # The shortest sum first: otherwise terms that depend on each other, such as x_t = x_1, would share a weight.
        sums = [("x_0_hat",), ("x_t", "x_0_hat"), ("x_1", "x_t", "x_0_hat"), ("x_1", "x_t", "x_0_hat", "previous")]
        weights = _solved(sampler, state, columns, [(*names, "noise") for names in sums])
        steps.append((t, Next(**({"x_0_hat": 0.0} | weights))))
        previous = x_0_hat
    return Start(**({"x_1": 0.0} | start)), steps


def _solved(
    sampler: Sampler, state: Tensor, columns: Mapping[str, Tensor | None], sums: Sequence[tuple[str, ...]]
) -> dict[str, float]:
    """Weights of a state as the first of the sums of columns that gives it."""
    for names in sums:
        given = {name: column.flatten() for name in names if (column := columns[name]) is not None}
        matrix = torch.stack(list(given.values()), dim=1)
        solution = torch.linalg.lstsq(matrix, state.flatten()).solution
        if float((matrix @ solution - state.flatten()).abs().max()) < 1e-10 * max(1.0, float(state.abs().max())):
            # Rounded: otherwise exact zeros and ones would show the solver's last digits.
            return {name: round(weight, 14) for name, weight in zip(given, solution.tolist(), strict=True)}
    raise UserError(
        f"sampler {_name(sampler)}: a state is no weighted sum of X_1, the state before, the last two x_0_hat and one "
        "noise image; it cannot be exported"
    )


def _name(sampler: Sampler) -> str:
    return str(getattr(sampler, "__name__", sampler))


def restored(
    stages: Sequence[Stage],
    networks: Mapping[str, Callable[[Any, float, Any], Any]],
    x_1: Any,
    mask: Any,
    condition: Any,
    noise: Iterator[Any],
    *,
    clip: Callable[[Any], Any],
    choose: Callable[[Any, Any, Any], Any],
    coder: tuple[Callable[[Any], Any], Callable[[Any], Any]] | None = None,
) -> Any:
    """Run a plan: on tensors, or on values of a graph under construction; both need * by a float and +.

    Args:
        networks: Called with (c_in x_t, time, condition).
        x_1: Image.
        mask: 1 = unknown, or None.
        condition: The user's condition, or None.
        noise: Noise images in the order of their use.
        clip: Limits a value to [-1, 1].
        choose: (mask, a, b) -> a where the mask is above 0.5, else b.
        coder: With [latent], encoder and decoder, between images and the latents that the plan is of.
    """
    if coder is not None:
        encode, decode = coder
        seen = None if condition is None else encode(condition)
        image = decode(restored(stages, networks, encode(x_1), None, seen, noise, clip=clip, choose=choose))
        return image if mask is None else choose(mask, image, x_1)
    begin = x_1
    for number, stage in enumerate(stages):
        x_t = _sum((stage.start.x_1, begin), (stage.start.noise, noise))
        previous = None
        for call in stage.calls:
            seen = (x_1 if condition is None else condition) if stage.condition else None
            output = networks[stage.network](_sum((call.c_in, x_t)), call.time, seen)
            k = call.x_0_hat
            x_0_hat = _sum((k.x_t, x_t), (k.x_1, begin), (k.output, output))
            x_0_hat = clip(x_0_hat) if stage.clip else x_0_hat
            x_0_hat = x_0_hat if mask is None else choose(mask, x_0_hat, begin)
            n = call.next
            x_t = _sum((n.x_0_hat, x_0_hat), (n.x_t, x_t), (n.x_1, begin), (n.previous, previous), (n.noise, noise))
            previous = x_0_hat
        if number < len(stages) - 1:
            begin = clip(x_t) if mask is None else choose(mask, clip(x_t), x_1)
    return x_t


def _sum(*terms: tuple[float, Any]) -> Any:
    total = None
    for weight, value in terms:
        if weight:
            term = next(value) if isinstance(value, Iterator) else value
            term = term if weight == 1 else term * weight
            total = term if total is None else total + term
    return total
