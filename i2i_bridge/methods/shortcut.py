"""Shortcut training: one network for walks of many and of few steps."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from i2i_bridge.bridge.base import Process, expand
from i2i_bridge.bridge.samplers import deterministic
from i2i_bridge.errors import UserError
from i2i_bridge.methods.base import Batch
from i2i_bridge.methods.bridge import Bridge, from_recipe
from i2i_bridge.methods.distillation import on_grid, step_weights, walked
from i2i_bridge.randomness import Generator, generator, rand
from i2i_bridge.recipe.recipe import Recipe
from i2i_bridge.registry import register_method


@dataclass
class Shortcut(Bridge):
    """A bridge that learns long steps of its own deterministic walk (Frans et al. 2024, for flows).

    The network also knows how long the step is that its answer is used for: at level k it sees the time t + k, in place
    of t, and its x_0_hat D_k takes a state one step further on the grid of N / 2^k steps. Level 0 is the bridge. D_k
    learns that one step lands where two steps of the level below do:

        X_m = U(X_t, D_{k-1}(X_t, t)),    X_s = U(X_m, D_{k-1}(X_m, m)),    U(X_t, D_k(X_t, t)) = X_s

    with t > m > s neighbours on the grid of twice as many steps, and U the update (U) of the samplers with eta = 0,
    which is linear in D. The answers of level k - 1 are the network's own, without gradients.

    A walk of n calls uses the level whose number of steps is nearest to n, by ratio; with another sampler than
    'deterministic' all calls are those of the bridge. From X_1 of a bridge with noise, where the first step draws it,
    D_k is a mean over these draws.

    Args:
        steps: N, a power of 2: from so many calls on a walk is the bridge's.
        share: Share of the samples that learn levels above 0. All those of a training step learn the same level.
    """

    steps: int = 8
    share: float = 0.25

    @property
    def levels(self) -> int:
        """Number of levels above 0."""
        return int(math.log2(self.steps))

    @property
    def more_calls(self) -> float:
        """Network calls without gradients beside the bridge's one, for a sample in the mean, after the regression."""
        return 2 * self.share

    def time_offset(self, nfe: int) -> int:
        """The level of a walk of `nfe` calls."""
        if self.sampler is not deterministic:
            return 0
        return min(max(round(math.log2(self.steps / nfe)), 0), self.levels)

    def _level(self, batch: Batch) -> Tensor:
        """The level that each sample of a training batch learns, (B,); by the samples' numbers and the seed."""
        numbers, curriculum = batch.get("number"), self.curriculum
        if numbers is None or (step := int(numbers[0]) // curriculum.batch_size) < curriculum.source_steps:
            return torch.zeros(batch["x_0"].shape[0], dtype=torch.int64)
        seed = curriculum.seed
        level = 1 + int(torch.randint(self.levels, (), generator=generator(seed, "shortcut level", step)))
        draws = [float(rand((), generator(seed, "shortcut", number))) for number in numbers.tolist()]
        return torch.tensor([level if draw < self.share else 0 for draw in draws])

    def _times(self, batch: Batch, generator: Generator) -> Tensor:
        """As the bridge's; those of samples above level 0 are moved to the times of their level's walk."""
        t, level = super()._times(batch, generator), self._level(batch)
        k = int(level.max())
        return t if k == 0 else torch.where(level > 0, on_grid(t, self._walk(k)), t)

    def _offsets(self, batch: Batch) -> Tensor:
        return self._level(batch)

    def _clean(self, batch: Batch, x_1: Tensor, x_t: Tensor, t: Tensor, generator: Generator) -> Tensor:
        """X_0 at level 0; above it the D whose one step lands where two steps of the level below do."""
        x_0: Tensor = batch["x_0"]
        level = self._level(batch)
        k = int(level.max())
        if k == 0:
            return x_0
        rows = torch.nonzero(level)[:, 0]
        chosen = rows.to(x_t.device)
        part = {name: value[rows.to(value.device)] for name, value in batch.items() if isinstance(value, Tensor)}
        draws = generator if isinstance(generator, torch.Generator) else [generator[i] for i in rows.tolist()]
        start, x, times, fine = x_1[chosen], x_t[chosen], t[rows], self._walk(k - 1)
        with torch.no_grad():
            predict = self._predictor(self.network, part, start, clip=self.clip, time_offset=k - 1)
            x_m, m = walked(self.process, predict, start, x, times, fine, draws)
            x_s, _ = walked(self.process, predict, start, x_m, m, fine, draws)
            answer = one_answer(self.process, start, x, times, x_s, self._walk(k))
        return x_0.index_copy(0, chosen, answer.to(x_0.dtype))

    def _walk(self, level: int) -> Tensor:
        """The times of a level's walk: every 2^level-th of the bridge's."""
        return self.grid(self.process, self.steps)[:: 1 << level]


def one_answer(process: Process, x_1: Tensor, x_t: Tensor, t: Tensor, x_s: Tensor, times: Tensor) -> Tensor:
    """The x_0_hat with which one deterministic step (U) leads from X_t to X_s.

        D = (X_s - k_1 X_1 - k_s X_t) / k_d

    Args:
        x_t: States, (B, C, H, W).
        t: Their times, (B,), each one of `times` but the last.
        x_s: States at the next of `times`.
        times: A walk's, decreasing to 0.
    """
    weights, _ = step_weights(process, t, times)
    k_1, k_d, k_s, _ = (expand(values, x_t) for values in weights.unbind(1))
    return (x_s - k_1 * x_1 - k_s * x_t) / k_d


@register_method("shortcut")
def shortcut_from_recipe(recipe: Recipe, network: torch.nn.Module, steps: int = 8, share: float = 0.25) -> Shortcut:
    """Bridge whose one network serves walks of any number of calls, one included (shortcut training).

    Args:
        steps: Number of calls, a power of 2, from which on a walk is the plain bridge's.
        share: Share of the training samples that learn longer steps.

    Raises:
        UserError: The recipe drops its condition.
        ValueError: An option is out of range, or the recipe's grid of n steps is no part of that of 2 n.
    """
    if not 2 <= steps <= 256 or steps & (steps - 1):
        raise ValueError(f"steps {steps}: must be a power of 2 from 2 to 256")
    if not 0 < share < 1:
        raise ValueError(f"share {share}: must lie between 0 and 1")
    if recipe.network.get("condition_dropout"):
        raise UserError(
            "network.condition_dropout: the half steps of method 'shortcut' see the condition; leave it out"
        )
    bridge = from_recipe(recipe, network)
    method = Shortcut(**{name: getattr(bridge, name) for name in bridge.__dataclass_fields__}, steps=steps, share=share)
    with torch.device("cpu"):  # also where costs are computed from shapes
        for level in range(1, method.levels + 1):
            count = steps >> level
            if not torch.allclose(method._walk(level), method.grid(method.process, count), rtol=0, atol=1e-6):
                raise ValueError(
                    f"grid '{recipe.sample.grid}': the times of {count} steps are not all among those of {steps}"
                )
    return method
