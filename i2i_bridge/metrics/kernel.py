"""The kernel distance between two sets of features, and its values without each item, for the jackknife.

    k(x, y) = (x . y / d + 1)^3   (Bińkowski et al., 2018)

The estimators are those of `distribution.KernelDistance` and `distribution.PairedKernelDistance`, for one block.
"""

import math
from collections.abc import Sequence

import numpy as np

BLOCK = 1000
"""Images of a block of KID, as in the paper's subsets."""


def kernel_distance(x: np.ndarray, y: np.ndarray, pairs: int = 0) -> tuple[float, float]:
    """The value of `KernelDistance` for one block, and the jackknife's variance of it.

    Args:
        x: (n, d) float64, n >= 2.
        y: (m, d) float64, m >= 2.
        pairs: p: so many first rows of x and of y belong to the same items, in the same order.

    Returns:
        KID (not times 1000) and its variance, NaN where a set has only two images. The mean over the pairs of more than
        1000 images of one set is that of the pairs within groups of at most 1000: memory and time stay small.
    """
    value, strata = leave_one_out(x, y, pairs)
    return value, jackknife_variance(strata)


def leave_one_out(x: np.ndarray, y: np.ndarray, pairs: int) -> tuple[float, tuple[np.ndarray, ...]]:
    """KID as in `kernel_distance`, and its values without each item, by stratum: (pairs,), and of each set alone."""
    if len(x) > len(y):
        x, y = y, x
    n, m = len(x), len(y)
    (xx, xx_without), (yy, yy_without) = _own_pairs(x), _own_pairs(y)
    # Sums over the pairs in C, per row of x and per row of y.
    x_sums, y_sums = np.zeros(n), np.zeros(m)
    for part in np.array_split(np.arange(m), math.ceil(m / BLOCK)):
        cross = _kernel(x, y[part])
        both = part[part < pairs]
        cross[both, both - part[0]] = 0.0
        x_sums += cross.sum(1)
        y_sums[part] = cross.sum(0)
    total, count = float(x_sums.sum()), n * m - pairs
    value = xx + yy - 2 * total / count
    # With two images a mean without one of them is over nothing: NaN.
    with np.errstate(divide="ignore", invalid="ignore"):
        strata = (
            xx_without[:pairs] + yy_without[:pairs]
            - 2 * (total - x_sums[:pairs] - y_sums[:pairs]) / ((n - 1) * (m - 1) - (pairs - 1)),
            xx_without[pairs:] + yy - 2 * (total - x_sums[pairs:]) / ((n - 1) * m - pairs),
            xx + yy_without[pairs:] - 2 * (total - y_sums[pairs:]) / (n * (m - 1) - pairs),
        )  # fmt: skip
    return value, strata


def mean_leave_one_out(xs: Sequence[np.ndarray], y: np.ndarray, pairs: int) -> tuple[float, list[np.ndarray]]:
    """The mean of `leave_one_out` over several x."""
    values, strata = zip(*(leave_one_out(x, y, pairs) for x in xs), strict=True)
    return float(np.mean(values)), [np.mean(same, axis=0) for same in zip(*strata, strict=True)]


def jackknife_variance(strata: Sequence[np.ndarray]) -> float:
    """sum_strata (N - 1) / N sum_i (v_i - mean v)^2 of the values v_i without item i."""
    return sum(
        (len(values) - 1) / len(values) * float(np.square(values - values.mean()).sum())
        for values in strata
        if len(values)
    )


def _own_pairs(x: np.ndarray) -> tuple[float, np.ndarray]:
    """The mean of k over the pairs of different rows within groups, and (n,) the same without each row."""
    means, without = [], []
    parts = np.array_split(np.arange(len(x)), math.ceil(len(x) / BLOCK))
    for part in parts:
        k = _kernel(x[part], x[part])
        np.fill_diagonal(k, 0.0)
        sums, n = k.sum(1), len(part)
        means.append(float(sums.sum() / (n * (n - 1))))
        left = (n - 1) * (n - 2)
        without.append((sums.sum() - 2 * sums) / left - means[-1] if left else np.full(n, math.nan))
    mean = float(np.mean(means))
    return mean, mean + np.concatenate(without) / len(parts)


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    k: np.ndarray = (x @ y.T / x.shape[1] + 1) ** 3
    return k


def pair_kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """h of `PairedKernelDistance`: (n, n)."""
    cross = _kernel(x, y)
    h: np.ndarray = _kernel(x, x) + _kernel(y, y) - cross - cross.T
    return h


def u_statistic(h: np.ndarray) -> tuple[float, float]:
    """The mean of h (n, n) over i != j, and the jackknife's variance of it.

    4 / (n (n - 1) (n - 2)^2) sum_i (r_i - mean r)^2 with r_i = sum_{j != i} h_ij; NaN for n = 2.
    """
    n = len(h)
    np.fill_diagonal(h, 0.0)
    sums = h.sum(1)
    value = float(sums.sum() / (n * (n - 1)))
    if n == 2:
        return value, math.nan
    return value, float(4 * np.square(sums - sums.mean()).sum() / (n * (n - 1) * (n - 2) ** 2))
