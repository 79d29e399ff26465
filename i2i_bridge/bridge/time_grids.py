"""Time grids: at which times a sampler looks. Each runs from 1 down to exactly 0 in nfe + 1 points."""

import functools
import math
from collections.abc import Callable
from numbers import Integral

import torch
from torch import Tensor

from i2i_bridge.bridge.base import Process
from i2i_bridge.registry import register_time_grid

TimeGrid = Callable[[Process, int], Tensor]
"""(process, nfe) -> times, float64, (nfe + 1,), strictly decreasing from 1 to 0."""

EDGE = 0.1
"""The inner points of the lambda grids lie in [EDGE / nfe, 1 - EDGE / nfe]: lambda is infinite at the ends of a
bridge, and the error of the first and the last step must vanish with the number of steps."""


def _kept(grid: TimeGrid) -> TimeGrid:
    """A grid that keeps its times for each process and nfe: the bisection takes as long as a call of a small network.

    Every walk, and every step of a distillation, asks for them anew. Only for processes whose class is a frozen
    dataclass, as the toolkit's are. Otherwise an option could change after the first call, or be left out by `==`.
    """
    kept = functools.lru_cache(maxsize=256, typed=True)(grid)

    @functools.wraps(grid)
    def times(process: Process, nfe: int) -> Tensor:
        dataclass = vars(type(process)).get("__dataclass_params__")
        if dataclass is None or not (dataclass.frozen and dataclass.eq):
            return grid(process, nfe)
        try:
            hash(process)
        except TypeError:  # an option is a list
            return grid(process, nfe)
        return kept(process, nfe).clone()

    return times


@register_time_grid("uniform")
def uniform(process: Process, nfe: int) -> Tensor:
    """t_i = 1 - i / nfe; the paper's grid."""
    return torch.linspace(1, 0, _checked(nfe) + 1, dtype=torch.float64)


@register_time_grid("quadratic")
def quadratic(process: Process, nfe: int) -> Tensor:
    """t_i = (1 - i / nfe)^2: finer towards the clean image."""
    return torch.linspace(1, 0, _checked(nfe) + 1, dtype=torch.float64).square()


@register_time_grid("uniform-lambda")
@_kept
def uniform_lambda(process: Process, nfe: int) -> Tensor:
    """Inner points uniform in lambda_t, the log of signal over noise (DPM-Solver); ends at 1 and 0."""
    return _inner(process, nfe, lambda share, low, high: low + share * (high - low))


@register_time_grid("karras")
@_kept
def karras(process: Process, nfe: int) -> Tensor:
    """Inner points as Karras et al. 2022 (Eq. 5, rho = 7) in the bridge's noise level exp(-lambda_t); ends at 1 and 0.

    sigma_i = (sigma_max^(1/7) + i/(n-1) (sigma_min^(1/7) - sigma_max^(1/7)))^7
    """

    def spaced(share: Tensor, low: float, high: float) -> Tensor:
        largest, smallest = math.exp(-low / 7), math.exp(-high / 7)
        return -7 * torch.log(largest + share * (smallest - largest))

    return _inner(process, nfe, spaced)


def log_snr(process: Process, t: Tensor | float) -> Tensor:
    """lambda_t = log(b_t / n_t), n_t = c_t, or a_t for a deterministic process; rises from X_1 to X_0.

    -inf at t = 1 of a bridge, +inf at t = 0.
    """
    a, b, c = process.coefficients(t)
    ratio = torch.log(b) - torch.log(a if process.deterministic else c)
    # At the source end of a bridge b and c both vanish, b faster: the ratio there is 0, not 0/0.
    return torch.where(b == 0, -math.inf, ratio)


def _checked(nfe: int) -> int:
    if not (isinstance(nfe, Integral) and 1 <= nfe <= 1000):
        raise ValueError(f"nfe must be a whole number in 1..1000, got {nfe!r}")
    return nfe


def _inner(process: Process, nfe: int, spaced: Callable[[Tensor, float, float], Tensor]) -> Tensor:
    ends = uniform(process, 1)
    if _checked(nfe) == 1:
        return ends
    edge = EDGE / nfe
    edges = log_snr(process, torch.tensor([1 - edge, edge], dtype=torch.float64)).tolist()
    share = torch.linspace(0, 1, nfe - 1, dtype=torch.float64) if nfe > 2 else torch.tensor([0.5], dtype=torch.float64)
    inner = _time_of(process, spaced(share, *edges))
    return torch.cat([ends[:1], inner, ends[1:]])


def _time_of(process: Process, lambdas: Tensor) -> Tensor:
    """Inverse of the decreasing lambda_t by bisection, to the last bits of float64."""
    low, high = torch.zeros_like(lambdas), torch.ones_like(lambdas)
    for _ in range(60):
        middle = (low + high) / 2
        too_clean = log_snr(process, middle) > lambdas
        low, high = torch.where(too_clean, middle, low), torch.where(too_clean, high, middle)
    return (low + high) / 2
