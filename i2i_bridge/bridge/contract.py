"""Contract checks that authors of plug-ins call on their own parts; the tests run them over every registered one.

`check_degradation` stands beside its contract in degradations/contract.py.
"""

import copy
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from i2i_bridge.bridge.base import Process
from i2i_bridge.bridge.predictor import call_network
from i2i_bridge.bridge.samplers import Sampler
from i2i_bridge.bridge.time_grids import TimeGrid, log_snr
from i2i_bridge.errors import UserError, plural
from i2i_bridge.plugins import plugin_error


def check_process(process: Process) -> list[str]:
    """What is wrong with a process, one line each; empty when it keeps the contract.

    Checked on a fine grid: shapes and float64, exact ends, c >= 0, and a signal-to-noise ratio that never rises from
    X_0 to X_1, so that every step of a sampler removes noise.

    Examples:
        >>> from dataclasses import dataclass
        >>> from i2i_bridge import Coefficients, Process, check_process
        >>> from i2i_bridge.bridge.base import as_times
        >>> @dataclass(frozen=True)
        ... class Quadratic(Process):
        ...     def coefficients(self, t):
        ...         t = as_times(t)
        ...         return Coefficients(t**2, 1 - t**2, 0.3 * t * (1 - t))
        >>> check_process(Quadratic())
        []
    """
    problems = []
    times = torch.linspace(0, 1, 1001, dtype=torch.float64).reshape(7, 143)
    a, b, c = process.coefficients(times)
    for name, value in (("a", a), ("b", b), ("c", c)):
        if value.shape != times.shape or value.dtype != torch.float64:
            problems.append(f"{name}: float64 of the shape of t is needed, got {value.dtype} {tuple(value.shape)}")
        if not bool(torch.isfinite(value).all()):
            problems.append(f"{name} is not finite everywhere in [0, 1]")
    if problems:
        return problems
    a, b, c = a.flatten(), b.flatten(), c.flatten()
    if (float(a[0]), float(b[0]), float(c[0])) != (0, 1, 0):
        problems.append(f"at t = 0 the state must be X_0 exactly, got a, b, c = {a[0]}, {b[0]}, {c[0]}")
    if process.pinned and not (abs(a[-1] - 1) < 1e-12 and b[-1] == 0 and c[-1] == 0):
        problems.append(f"a pinned process must be X_1 exactly at t = 1, got a, b, c = {a[-1]}, {b[-1]}, {c[-1]}")
    if bool((c < 0).any()):
        problems.append("c is negative somewhere")
    if process.deterministic != bool((c == 0).all()):
        problems.append(f"deterministic is {process.deterministic}, but c says otherwise")
    ratio = log_snr(process, times.flatten())
    if not bool((ratio[1:] <= ratio[:-1]).all()) or not bool(ratio[0] > ratio[-1]):
        problems.append("log(b / c) must fall from t = 0 to t = 1, so that each step removes noise")
    return problems


def check_sampler(sampler: Sampler, process: Process, grid: TimeGrid) -> list[str]:
    """What is wrong with a sampler on a process, one line each; empty when it keeps the contract.

    Checked for several NFE: as many calls of predict_x0 as `times` has steps, at times inside (0, 1] that fall; an
    oracle's X_0 returned to the last bit; x_1 untouched; the same images from the same generator; the global generator
    unread.

    Examples:
        >>> from i2i_bridge import check_sampler
        >>> from i2i_bridge.bridge.processes import I2SB
        >>> from i2i_bridge.bridge.samplers import ancestral
        >>> from i2i_bridge.bridge.time_grids import uniform
        >>> check_sampler(ancestral, I2SB(), uniform)
        []
    """
    problems = []
    make = torch.Generator().manual_seed(0)
    x_0 = torch.rand(2, 3, 4, 4, generator=make) * 2 - 1
    x_1 = x_0 + 0.3 * torch.randn(2, 3, 4, 4, generator=make)
    before = torch.random.get_rng_state()
    for nfe in (1, 2, 3, 7, 10):
        seen: list[float] = []

        def oracle(x_t: Tensor, t: Tensor, seen: list[float] = seen) -> Tensor:
            seen.append(float(t[0]))
            return x_0

        runs = []
        times = grid(process, nfe)
        for _ in range(2):
            seen.clear()
            kept = x_1.clone()
            states = list(sampler(process, oracle, kept, times, torch.Generator().manual_seed(1)))
            if not torch.equal(kept, x_1):
                problems.append(f"nfe {nfe}: x_1 was changed in place")
            runs.append(states)
        if len(seen) != nfe:
            problems.append(f"nfe {nfe}: predict_x0 was called {plural(len(seen), 'time')}")
        if not all(0 < t <= 1 for t in seen) or any(later > earlier for earlier, later in itertools.pairwise(seen)):
            problems.append(f"nfe {nfe}: times {seen} must fall inside (0, 1]")
        if not all(bool(torch.isfinite(state).all()) for state in runs[0]):
            problems.append(f"nfe {nfe}: a state is not finite")
        if not torch.equal(runs[0][-1], x_0):
            problems.append(f"nfe {nfe}: with an oracle x_0_hat = X_0 the result is not X_0")
        if not all(torch.equal(left, right) for left, right in zip(*runs, strict=True)):
            problems.append(f"nfe {nfe}: two runs from equal generators differ")
    if not torch.equal(before, torch.random.get_rng_state()):
        problems.append("the global random generator was used")
    return problems


def check_network(network: nn.Module, channels: int = 3, condition_channels: int = 0, size: int = 64) -> list[str]:
    """What is wrong with a network, one line each; empty when it keeps the contract.

    network(x_t (B, C, H, W), t (B,) in [0, 1], condition (B, K, H, W) or None) -> (B, C, H, W). Checked as training and
    restoring call it: in float32, under bfloat16 autocast and with bfloat16 weights, of square and oblong images; every
    weight gets a gradient, the inputs stay as they are, and in evaluation mode an image's output depends on nothing
    but that image. The network itself is left as it was: a copy is tried.

    Args:
        channels: C, of the images.
        condition_channels: K, of the condition; 0 for none.
        size: Height of the images that it is tried on; rounded up to a multiple of the network's `stride`.

    Examples:
        >>> from torch import nn
        >>> from i2i_bridge import check_network
        >>> class Plain(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.convolution = nn.Conv2d(3, 3, 3, padding=1)
        ...
        ...     def forward(self, x_t, t, condition=None):
        ...         return self.convolution(x_t) * t[:, None, None, None]
        >>> check_network(Plain(), size=16)
        []
    """
    return collect_faults(lambda: _network_faults(network, channels, condition_channels, size))


def _network_faults(network: Any, channels: int, condition_channels: int, size: int) -> Iterator[str]:
    if not isinstance(network, nn.Module):
        yield f"{type(network).__name__} is not a torch.nn.Module: its weights could be neither trained nor saved"
        return
    stride = getattr(network, "stride", 1)
    if not isinstance(stride, int) or stride < 1:
        yield f"stride is {stride!r}: the number that both sides of an image must be multiples of is needed, such as 8"
        return
    if not any(weight.requires_grad for weight in network.parameters()):
        yield "it has no weights to train"
        return
    network = copy.deepcopy(network)
    size = -(-size // stride) * stride
    make = torch.Generator().manual_seed(0)

    def inputs(batch: int, height: int, width: int) -> tuple[Tensor, Tensor, Tensor | None]:
        x_t = torch.rand(batch, channels, height, width, generator=make) * 2 - 1
        condition = torch.rand(batch, condition_channels, height, width, generator=make) * 2 - 1
        t = 1 - torch.rand(batch, generator=make, dtype=torch.float64)
        return x_t, t, condition if condition_channels else None

    x_t, t, condition = inputs(2, size, size)
    given = [value for value in (x_t, condition) if value is not None]
    kept = [value.clone() for value in given]
    network.train()
    output = call_network(network, x_t, t, condition)
    if not all(torch.equal(value, before) for value, before in zip(given, kept, strict=True)):
        yield "it changes its input in place"
    if not bool(output.isfinite().all()):
        yield "the output is not finite"
        return
    trained = {name: weight for name, weight in network.named_parameters() if weight.requires_grad}
    loss = output.float().square().sum()
    gradients = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
    idle = [name for name, gradient in zip(trained, gradients, strict=True) if gradient is None]
    if idle:
        yield f"the weight '{idle[0]}' takes no part in the output, so that it would never be trained"

    network.eval().requires_grad_(False)
    before = torch.random.get_rng_state()
    alike = call_network(network, x_t, t, condition)
    if not torch.equal(alike, call_network(network, x_t, t, condition)) or not torch.equal(
        before, torch.random.get_rng_state()
    ):
        yield "in evaluation mode it draws at random: use dropout modules, which eval() turns off"
    single = call_network(network, x_t[:1], t[:1], None if condition is None else condition[:1])
    # Not to the bit: a library's convolution may sum in another order for another batch.
    if not torch.allclose(single, alike[:1], rtol=1e-3, atol=1e-3 * float(alike.abs().max())):
        yield "in evaluation mode the output of an image depends on the rest of the batch"
    for what, height, width in (("oblong", size, size + stride), ("larger", 2 * size, 2 * size)):
        yield from _tried(f"for {what} images of {height} x {width}", network, *inputs(1, height, width))
    with torch.autocast("cpu", torch.bfloat16):
        yield from _tried("under bfloat16 autocast, as in training", network, x_t, t, condition)
    half = network.to(torch.bfloat16)
    yield from _tried("with bfloat16 weights (restore --precision bf16)", half, x_t, t, condition)


def _tried(when: str, network: nn.Module, x_t: Tensor, t: Tensor, condition: Tensor | None) -> Iterator[str]:
    try:
        if not bool(call_network(network, x_t, t, condition).isfinite().all()):
            yield f"{when}: the output is not finite"
    except Exception as error:  # anybody's code: whatever it raises is the finding
        yield f"{when}: {error_line(error)}"


def collect_faults(faults: Callable[[], Iterator[str]]) -> list[str]:
    """The faults as a list; an exception of the tried code is the last of them."""
    problems = []
    try:
        for problem in faults():
            problems.append(problem)
    except Exception as error:  # anybody's code: whatever it raises is the finding
        problems.append(error_line(error))
    return problems


def error_line(error: Exception) -> str:
    return str(
        error if isinstance(error, UserError) else plugin_error(error) or f"raised {type(error).__name__}: {error}"
    )
