"""Distillation: a student that answers in one or two calls learns from a trained bridge, its teacher ([teacher])."""

import copy
import dataclasses
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from i2i_bridge.bridge.base import Process, expand
from i2i_bridge.bridge.predictor import call_network
from i2i_bridge.bridge.samplers import PredictX0, points, update
from i2i_bridge.errors import UserError
from i2i_bridge.methods.base import Batch, Method, condition_of, label_of
from i2i_bridge.methods.bridge import Bridge, from_recipe
from i2i_bridge.randomness import Generator, rand, randn_like
from i2i_bridge.recipe.recipe import Recipe
from i2i_bridge.registry import register_method


@runtime_checkable
class Student(Method, Protocol):
    """A method that learns from a teacher's network."""

    def taught(self, teacher: nn.Module, average: nn.Module) -> Method:
        """A copy of the method that is ready for training.

        Args:
            teacher: The frozen network of the teacher, in evaluation mode.
            average: The moving average (EMA) of the student's network, which training updates after each step.
        """
        ...


@dataclass
class Consistency(Bridge):
    """Consistency distillation on a bridge (CDBM, He et al. 2024).

    The consistency function f(X_t, t) maps a state to the end of the teacher's deterministic walk through it. It is the
    network's x_0_hat, and f(X, 0) = X exactly. One step of the teacher's walk, from t to s < t, gives X_s; the student
    learns

        f(X_t, t) = f_avg(X_s, s)                 f_avg: f of the moving average (EMA), without gradients

    so that it answers at t what it answers at s, down to the teacher's own x_0_hat at the last step, where s = 0.

    Args:
        steps: N, steps of the teacher's walk on the recipe's grid; t and s are neighbours on it.
        teacher: The teacher's network; None outside of training.
        average: The EMA of `network`; None outside of training.
    """

    steps: int = 10
    teacher: nn.Module | None = None
    average: nn.Module | None = None

    def taught(self, teacher: nn.Module, average: nn.Module) -> "Consistency":
        """As `Student.taught`."""
        return dataclasses.replace(self, teacher=teacher, average=average)

    def _times(self, batch: Batch, generator: Generator) -> Tensor:
        """One of the times of the teacher's walk for each sample."""
        return on_grid(super()._times(batch, generator), self._walk())

    def _clean(self, batch: Batch, x_1: Tensor, x_t: Tensor, t: Tensor, generator: Generator) -> Tensor:
        """f_avg(X_s, s), with X_s one step of the teacher's walk after X_t; without gradients."""
        if self.teacher is None or self.average is None:
            raise UserError(
                "method 'consistency' learns from a teacher; give [teacher] run, or use `i2i-bridge distill`"
            )
        with torch.no_grad():
            predict = self._predictor(self.teacher, batch, x_1, clip=self.clip)
            x_s, s = walked(self.process, predict, x_1, x_t, t, self._walk(), generator)
            return consistency(self._predictor(self.average, batch, x_1, clip=self.clip), x_s, s)

    def _walk(self) -> Tensor:
        return self.grid(self.process, self.steps)


def on_grid(t: Tensor, times: Tensor) -> Tensor:
    """One of n times for each t in (0, 1]: uniform t fall on each with probability 1/n, and t = 1 on the first.

    Args:
        t: Times of samples, (B,).
        times: Decreasing from 1 to 0, (n + 1,); the last is none of the n.
    """
    steps = len(times) - 1
    return times[steps - (t * steps).ceil().long()]


def step_weights(process: Process, t: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
    """Weights k_1, k_d, k_s, w of one deterministic step (U) of each sample, (B, 4), and the places of t in `times`."""
    pairs = list(itertools.pairwise(points(process, times)))
    weights = torch.tensor([update(now, later, 0.0) for now, later in pairs], dtype=torch.float64)
    index = (t[:, None] == times[:-1]).long().argmax(1)
    return weights[index], index


def walked(
    process: Process, predict_x0: PredictX0, x_1: Tensor, x_t: Tensor, t: Tensor, times: Tensor, generator: Generator
) -> tuple[Tensor, Tensor]:
    """One deterministic step of samples that stand at different times of a walk: (U) of the samplers with eta = 0.

    Args:
        x_t: States, (B, C, H, W).
        t: Their times, (B,), each one of `times` but the last.
        times: The walk's, decreasing to 0.
        generator: Draws the noise of the samples that leave X_1 of a bridge.

    Returns:
        The states X_s and their times s.
    """
    weights, index = step_weights(process, t, times)
    k_1, k_d, k_s, w = (expand(values, x_t) for values in weights.unbind(1))
    x_s = k_1 * x_1 + k_d * predict_x0(x_t, t) + k_s * x_t
    if bool((weights[:, 3] > 0).any()):
        x_s = x_s + w * randn_like(x_s, generator)
    return x_s, times[index + 1]


def consistency(predict_x0: PredictX0, x: Tensor, t: Tensor) -> Tensor:
    """f(x, t): x_0_hat where t > 0, and x itself, to the last bit, where t = 0."""
    arrived = t == 0
    # At a time > 0 also where the answer is not used: a target need not be defined at 0.
    x_0_hat = predict_x0(x, torch.where(arrived, torch.ones_like(t), t))
    return torch.where(expand(arrived, x).bool(), x, x_0_hat)


@dataclass
class InverseBridge(Bridge):
    """Distribution matching by an inverse bridge (IBMD, Gushchin et al. 2025).

    The student's images are x_0_hat = G(X_t', t') of its own few times t'. An auxiliary bridge, which starts as a copy
    of the teacher, learns from them as any bridge learns from X_0. Where both bridges agree on every state, the
    student's images have the distribution of the teacher's; so the student learns to make the teacher as good a bridge
    of its images as the auxiliary one:

        auxiliary:  E || F_aux(X_t) - F*(x_0_hat, X_t) ||^2            X_t ~ q(X_t | x_0_hat, X_1)
        student:    E || F_teacher(X_t) - F*(x_0_hat, X_t) ||^2 - || F_aux(X_t) - F*(x_0_hat, X_t) ||^2

    Args:
        steps: Number of times t' on the recipe's grid; 1 learns from X_1 alone.
        teacher: The teacher's network; None outside of training.
        auxiliary: The auxiliary bridge's network; None outside of training.
    """

    steps: int = 1
    teacher: nn.Module | None = None
    auxiliary: nn.Module | None = None

    def taught(self, teacher: nn.Module, average: nn.Module) -> "InverseBridge":
        """As `Student.taught`."""
        auxiliary = copy.deepcopy(teacher).train().requires_grad_(True)
        return dataclasses.replace(self, teacher=teacher, auxiliary=auxiliary)

    def companions(self) -> dict[str, nn.Module]:
        """The auxiliary bridge.

        Raises:
            UserError: There is no teacher.
        """
        if self.auxiliary is None:
            raise UserError(
                "method 'inverse-bridge' learns from a teacher; give [teacher] run, or use `i2i-bridge distill`"
            )
        return {"auxiliary": self.auxiliary}

    def losses(self, batch: Batch, generator: Generator) -> Iterator[tuple[str, Tensor]]:
        """The loss of the auxiliary bridge, then that of the student against the updated one."""
        assert self.teacher is not None and self.auxiliary is not None
        x_0, mask = batch["x_0"], batch.get("mask")
        x_1 = self._start(batch, generator)
        # Not `_times`, which is drawn below: strata are keyed by the step, and t would depend on t'.
        t_of_student = on_grid(1 - rand((x_0.shape[0],), generator), self.grid(self.process, self.steps))
        seen = self.proposal.sample(self.process, x_0, x_1, t_of_student, generator)
        x_0_hat = self._predictor(self.network, batch, x_1)(seen, t_of_student)
        t = self._times(batch, generator)
        x_t = self.process.marginal(x_0_hat, x_1, t).sample(generator)
        wanted = self.target.of(self.process, x_0_hat, x_1, x_t, t)

        def error(network: nn.Module, x_t: Tensor, wanted: Tensor) -> Tensor:
            time = self.process.network_time(t).to(x_t.device)
            seen = self.target.network_input(self.process, x_t, t)
            condition, label = condition_of(batch, self.condition), label_of(batch, self.label)
            output = call_network(network, seen, time, condition, label).float()
            squares = self.curriculum.error(output, wanted)
            if self.curriculum.weight != "uniform":
                squares = squares * expand(self.curriculum.weights(self.process, self.target, t), squares)
            return (squares if mask is None else squares * mask).mean()

        yield "auxiliary", error(self.auxiliary, x_t.detach(), wanted.detach())
        yield "network", error(self.teacher, x_t, wanted) - error(self.auxiliary, x_t, wanted)


def _bridge(recipe: Recipe, network: nn.Module, **options: Any) -> dict[str, Any]:
    """The fields of the recipe's bridge.

    Raises:
        UserError: The recipe has a condition_scale.
    """
    if recipe.sample.condition_scale not in (None, 1):
        raise UserError("sample.condition_scale: a student learns its teacher's answers as they are; leave it out")
    bridge = from_recipe(recipe, network, **options)
    # No dropout of the condition: the student learns what the teacher answers with its condition.
    return {name: getattr(bridge, name) for name in bridge.__dataclass_fields__} | {"condition_dropout": 0.0}


def _checked(steps: int) -> int:
    if not 1 <= steps <= 1000:
        raise ValueError(f"steps {steps}: must lie in 1..1000")
    return steps


@register_method("consistency")
def consistency_from_recipe(
    recipe: Recipe, network: nn.Module, steps: int = 10, perceptual: float = 0.0, perceptual_until: float = 1.0
) -> Consistency:
    """Student of a bridge: the end of the teacher's deterministic walk in one or two calls (CDBM).

    Args:
        steps: Steps of the teacher's walk, on the recipe's grid.
        perceptual: Weight of ST-LPIPS to the walk's end beside the squared error; needs the extra `metrics`. 0: none.
        perceptual_until: Largest t at which the perceptual loss counts; 1 for all.

    Raises:
        ValueError: steps is no number of steps, or an option of the perceptual loss is out of range.
    """
    bridge = _bridge(recipe, network, perceptual=perceptual, perceptual_until=perceptual_until)
    return Consistency(**bridge, steps=_checked(steps))


@register_method("inverse-bridge")
def inverse_bridge_from_recipe(recipe: Recipe, network: nn.Module, steps: int = 1) -> InverseBridge:
    """Student of a bridge: images of the teacher's distribution in one or two calls, by matching bridges (IBMD).

    Args:
        steps: The number of calls that it learns to answer in.

    Raises:
        ValueError: steps is no number of steps.
    """
    return InverseBridge(**_bridge(recipe, network), steps=_checked(steps))
