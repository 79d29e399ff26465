"""The discrete schedule of the released I2SB checkpoints, kept apart because nothing else should use it.

The released code tabulates the bridge at `interval` indices. Index k stands for the cell (k/N, (k+1)/N], and
both tables count the cell's own beta, so sigma_k^2 + sigma_bar_k^2 = S + beta_k and index 0 is not X_0: a
half-cell offset that its checkpoints were trained with. For your own training use `I2SB`.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from i2i_bridge.bridge.base import Coefficients, Process, as_times
from i2i_bridge.registry import register_process, register_time_grid


class OfficialTables(NamedTuple):
    """The released code's tables, float64, (interval,); the names are the released ones in the paper's notation."""

    beta: Tensor
    sigma: Tensor
    sigma_bar: Tensor
    mean_x_0: Tensor
    mean_x_1: Tensor
    std: Tensor


@register_process("official-grid")
@dataclass(frozen=True)
class OfficialGrid(Process):
    """I2SB on the released code's grid, for its checkpoints only.

        beta_k = (sqrt(1e-4) + k/(N-1) (sqrt(beta_max/N) - sqrt(1e-4)))^2,  k < N/2,   beta_{N-1-k} = beta_k
        sigma_k^2 = sum_{i<=k} beta_i,   sigma_bar_k^2 = sum_{i>=k} beta_i

    `coefficients` are those of the sampling chain, which runs on sigma_k^2 alone, with S = sigma_{N-1}^2:

        a = sigma_k^2 / S,   b = 1 - a,   c = sigma_k sqrt(S - sigma_k^2) / sqrt(S)

    Time t in (k/N, (k+1)/N] is index k; t = 0 is the clean image, which the released code never reaches: it stops at
    index 0.

    Args:
        interval: Number of indices N; even.
        beta_max: 0.3 or 1.0 in the released checkpoints.
    """

    interval: int = 1000
    beta_max: float = 0.3

    def __post_init__(self) -> None:
        if self.interval > 1_000_000:
            raise ValueError(f"interval {self.interval}: at most 1000000")
        if self.interval < 2 or self.interval % 2:
            raise ValueError(f"interval must be even, got {self.interval}: the schedule is mirrored at its middle")
        if not self.beta_max > 0:
            raise ValueError(f"beta_max must be positive, got {self.beta_max}")

    @property
    def tables(self) -> OfficialTables:
        """All tables of the released code, to rtol 1e-12."""
        return _tables(self.interval, self.beta_max)

    def index(self, t: Tensor | float) -> Tensor:
        """Index k of each time t in (k/N, (k+1)/N]; t = 0 counts as index 0."""
        # A hair below the next integer, or (k+1)/N times N would round up into the next cell.
        return (as_times(t) * self.interval - 1e-9).ceil().long().sub(1).clamp(0, self.interval - 1)

    def coefficients(self, t: Tensor | float) -> Coefficients:
        times = as_times(t)
        sigma2 = self.tables.sigma.square()
        done = torch.where(times > 0, sigma2[self.index(times)], torch.zeros_like(times))
        total = sigma2[-1]
        return Coefficients(done / total, (total - done) / total, torch.sqrt(done * (total - done) / total))

    def sigma(self, t: Tensor | float) -> Tensor:
        return self.tables.sigma[self.index(t)]

    def network_time(self, t: Tensor | float) -> Tensor:
        """linspace(1e-4, 1, N)[k]; the network multiplies it by 1000."""
        return torch.linspace(1e-4, 1, self.interval, dtype=torch.float64)[self.index(t)]

    def indices(self, nfe: int) -> list[int]:
        """The nfe + 1 indices of the released sampler, from 0 to N - 1: rounded multiples of (N-1)/nfe.

        Raises:
            ValueError: nfe is not in 1..N-1.
        """
        if not 1 <= nfe < self.interval:
            raise ValueError(f"nfe must lie in 1..{self.interval - 1}, got {nfe}")
        # The stride is accumulated, and rounded half to even, because the released indices are.
        position, indices = 0.0, []
        for _ in range(nfe + 1):
            indices.append(round(position))
            position += (self.interval - 1) / nfe
        return indices

    def times(self, nfe: int) -> Tensor:
        """The released sampler's times, 1 to 0, (nfe + 1,); its last index is replaced by exactly t = 0."""
        later = [(index + 1) / self.interval for index in reversed(self.indices(nfe)[1:])]
        return torch.tensor([*later, 0.0], dtype=torch.float64)


@register_process("official-grid-ode")
@dataclass(frozen=True)
class OfficialGridODE(OfficialGrid):
    """The released grid without noise (the released code's --ot-ode): X_t = a_t X_1 + b_t X_0."""

    beta_max: float = 1.0

    deterministic = True

    def coefficients(self, t: Tensor | float) -> Coefficients:
        a, b, c = super().coefficients(t)
        return Coefficients(a, b, torch.zeros_like(c))


@register_time_grid("official")
def official(process: Process, nfe: int) -> Tensor:
    """The times of the released sampler, for its two processes alone; its last index becomes exactly 0.

    Raises:
        ValueError: Another process, or nfe is not in 1..interval - 1.
    """
    if not isinstance(process, OfficialGrid):
        raise ValueError(
            f"grid 'official' belongs to the process 'official-grid' (or '-ode'), not {type(process).__name__}"
        )
    return process.times(nfe)


def check_text(beta_max: float) -> str:
    """Numbers of the released grid of 1000 steps, by which other implementations can be compared."""
    tables = OfficialGrid(1000, beta_max).tables
    total, largest = float(tables.beta.sum()), float(tables.std.max())
    names = ("beta", "sigma", "sigma_bar", "mean_x_0", "mean_x_1", "std")
    lines = [
        f"released grid, N = 1000, beta_max = {beta_max:g}: sum of beta {total:.9f}, largest std {largest:.9f}",
        "     k" + "".join(f"{name:>13}" for name in names),
    ]
    for k in (0, 1, 250, 500, 999):
        lines.append(f"{k:>6}" + "".join(f"{float(getattr(tables, name)[k]):>13.9f}" for name in names))
    return "\n".join(lines) + "\n"


@lru_cache(maxsize=8)
def _tables(interval: int, beta_max: float) -> OfficialTables:
    start, end = math.sqrt(1e-4), math.sqrt(beta_max / interval)
    ramp = torch.linspace(start, end, interval, dtype=torch.float64)[: interval // 2].square()
    beta = torch.cat([ramp, ramp.flip(0)])
    sigma2 = beta.cumsum(0)
    sigma_bar2 = beta.flip(0).cumsum(0).flip(0)
    both = sigma2 + sigma_bar2
    return OfficialTables(
        beta,
        sigma2.sqrt(),
        sigma_bar2.sqrt(),
        sigma_bar2 / both,
        sigma2 / both,
        (sigma2 * sigma_bar2 / both).sqrt(),
    )
