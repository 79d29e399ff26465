"""The curriculum of a bridge's training: distribution of times, and weight and norm of errors.

All draws are keyed: a sample's time depends on its number only, not on micro-batch, number of ranks or restarts.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from i2i_bridge.bridge.base import Process, as_times
from i2i_bridge.bridge.targets import Target
from i2i_bridge.randomness import Generator, generator, rand, randn_like
from i2i_bridge.recipe.schema import TrainSettings

TimeDensity = Literal["uniform", "stratified", "logit-normal"]
ErrorWeight = Literal["uniform", "min-snr", "edm"]
ErrorNorm = Literal["mse", "l1", "huber"]

MIN_SNR = 5.0
"""gamma of 'min-snr' (Hang et al. 2023)."""
VAR_0 = 0.25
"""Variance of a pixel of X_0 in 'edm' (sigma_data = 0.5; Karras et al. 2022)."""
HUBER = 0.1
"""Where the Huber loss turns from a parabola into a line, in units of the network's output."""


@dataclass(frozen=True)
class Curriculum:
    """Times and weights of a training's samples.

    Args:
        source_steps: Number of first steps with t = 1 only: a regression from X_1 by the same network and target.
        at_source: Share of the samples at exactly t = 1 afterwards.
        time: Density of the other times on (0, 1].
            uniform: t = 1 - u.
            stratified: t = 1 - (k + u) / B, with k a permutation of the B samples of a step: one in each B-th.
            logit-normal: log(t / (1 - t)) ~ N(0, 1).
        weight: Weight of a sample's error, see `weights`.
        loss: mse, l1, or huber (a parabola up to 0.1 and a line beyond it).
        batch_size: B, over all ranks and micro-batches.
        seed: Seed of the permutations.
    """

    source_steps: int = 0
    at_source: float = 0.0
    time: TimeDensity = "uniform"
    weight: ErrorWeight = "uniform"
    loss: ErrorNorm = "mse"
    batch_size: int = 1
    seed: int = 0

    @classmethod
    def of(cls, train: TrainSettings) -> "Curriculum":
        """The curriculum of a table [train]; `regression_share` is rounded to whole steps."""
        return cls(
            round(train.regression_share * train.steps),
            train.at_source,
            train.time,
            train.weight,
            train.loss,
            train.batch_size,
            train.seed,
        )

    def times(self, count: int, generator: Generator, numbers: Tensor | None = None) -> Tensor:
        """Times of samples, float64 (count,), in (0, 1].

        Args:
            generator: One for all, or one per sample.
            numbers: Each sample's number in the whole training, step * batch_size + position. Without it the times are
                those of steps after `source_steps`, and not stratified.
        """
        if numbers is not None and int(numbers[0]) // self.batch_size < self.source_steps:
            return torch.ones(count, dtype=torch.float64)
        if self.time == "logit-normal":
            t = torch.sigmoid(randn_like(torch.zeros(count, dtype=torch.float64), generator))
        else:
            t = rand((count,), generator)
            if self.time == "stratified" and numbers is not None:
                t = (self._strata(numbers) + t) / self.batch_size
            t = 1 - t
        if self.at_source:
            t = torch.where(rand((count,), generator) < self.at_source, torch.ones_like(t), t)
        return t

    def _strata(self, numbers: Tensor) -> Tensor:
        step = int(numbers[0]) // self.batch_size
        order = torch.randperm(self.batch_size, generator=generator(self.seed, "strata", step))
        return order[numbers.cpu() % self.batch_size].double()

    def weights(self, process: Process, target: Target, t: Tensor) -> Tensor:
        """Weights of the error of the network's output at each time; float64, the shape of t.

        The target's own weight of an error of x_0_hat is 1 / k_o^2 (x_0_hat = ... + k_o F).

            uniform:  1, that is 1 / k_o^2 for x_0_hat
            min-snr:  min(1, gamma k_o^2), that is min(1 / k_o^2, gamma) for x_0_hat, gamma = 5 (Hang et al. 2023)
            edm:      k_o^2 (1 / v + 1 / s^2), v = Var(X_0) = 0.25, s^2 = c^2 / b^2: for x_0_hat the weight of
                      Karras et al. 2022 (Table 1), (s^2 + v) / (s^2 v)

        s^2 is held to at least 1e-4 in 'edm' (a noiseless path has s = 0).
        """
        if self.weight == "uniform":
            return torch.ones_like(as_times(t))
        k_o2 = target.weights(process, t).k_o.square()
        if self.weight == "min-snr":
            return (MIN_SNR * k_o2).clamp(max=1.0)
        _, b, c = process.coefficients(t)
        snr = torch.where(c > 0, b / c, torch.where(b > 0, math.inf, 0.0)).square().clamp(max=1e4)
        return k_o2 * (1 / VAR_0 + snr)

    def error(self, output: Tensor, wanted: Tensor) -> Tensor:
        """The loss of each value, of the output's shape: (F - F*)^2, |F - F*|, or Huber's of them."""
        if self.loss == "mse":
            return (output - wanted).square()
        if self.loss == "l1":
            return (output - wanted).abs()
        return functional.huber_loss(output, wanted, reduction="none", delta=HUBER)
