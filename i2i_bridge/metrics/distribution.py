"""FID, KID, and the same distances on a user's own feature network."""

import math
from typing import Any

import numpy as np

from i2i_bridge.errors import UserError
from i2i_bridge.metrics.base import Estimate, SetMetric
from i2i_bridge.metrics.frechet import Moments, canonical_order, frechet_distance, moments
from i2i_bridge.randomness import key
from i2i_bridge.registry import EXTRACTORS, METRICS, register_metric

ENOUGH = 2048
"""Images below which a Fréchet distance is mostly the bias of its sample size."""
BLOCK = 1000
"""Images of a block of KID, as in the paper's subsets."""
WRITTEN_OUT = ("inception", "inception-legacy-pytorch", "resnet50")
"""Extractors whose distances are classes of this file, under names of their own: FID and KID, of Inception's."""


class FrechetDistance(SetMetric):
    """Fréchet distance between two sets of features; see the registered ones and `frechet`."""

    higher_is_better = False

    def estimate(self, restored: np.ndarray, reference: np.ndarray | Moments, *, seed: int) -> Estimate:
        """The distance, without an interval: its bias is larger than its scatter, so resampling would mislead.

        Args:
            restored: Features (n, d).
            reference: Features (m, d), or stored statistics (`frechet.read_moments`).
            seed: Not used: nothing is drawn.

        Raises:
            UserError: The two differ in their number of features.
        """
        sizes = [len(restored), reference.count if isinstance(reference, Moments) else len(reference)]
        smallest = min(size for size in sizes if size is not None)
        if smallest < 2:
            return Estimate(math.nan, note="a covariance needs at least 2 images")
        ours = moments(restored)
        theirs = reference if isinstance(reference, Moments) else moments(reference)
        few = f"n = {smallest} < {ENOUGH}: dominated by sample-size bias, compare equal n only"
        return Estimate(frechet_distance(ours, theirs), note=few if smallest < ENOUGH else "")


class KernelDistance(SetMetric):
    """Kernel distance (KID) between two sets of features, times 1000; see the registered ones.

    The unbiased squared maximum mean discrepancy with k(x, y) = (x . y / d + 1)^3 (Bińkowski et al., 2018), as the
    U-statistic over pairs z_i = (x_i, y_i) (Gretton et al., 2012, Lemma 6):

        1 / (n (n - 1)) sum_{i != j} k(x_i, x_j) + k(y_i, y_j) - k(x_i, y_j) - k(x_j, y_i)

    Ours, because the libraries' form keeps k(x_i, y_i): unbiased for sets drawn apart, but here image i was restored
    from what was made of reference i, and the value would sink below zero by about 2 / n of a kernel's value. Sets of
    more than 1000 images are cut into random blocks of equal size, whose values are averaged. The standard error is
    the jackknife's over items (Efron & Stein, 1981: never too small on average); the interval is 1.96 of it each way.
    """

    higher_is_better = False

    def estimate(self, restored: np.ndarray, reference: np.ndarray, *, seed: int) -> Estimate:
        """1000 x KID with its standard error and 95 % interval.

        Where the sets differ in size, the larger one is thinned at random to the smaller one's.

        Args:
            restored: Features (n, d).
            reference: Features (m, d); row i belongs to restored row i if m = n.
            seed: Of the blocks and the thinning.

        Raises:
            UserError: The two differ in their number of features.
        """
        if restored.shape[1] != reference.shape[1]:
            raise UserError(f"{reference.shape[1]} features cannot be compared with {restored.shape[1]} features")
        n = min(len(restored), len(reference))
        if n < 2:
            return Estimate(math.nan, note="KID needs at least 2 images")
        rng = np.random.default_rng(key(seed, "kernel distance"))
        if len(restored) == len(reference):
            order = canonical_order(restored, reference)[rng.permutation(n)]
            rows = [order, order]
        else:
            sets = (restored, reference)
            rows = [canonical_order(features)[rng.permutation(len(features))[:n]] for features in sets]
        blocks = [
            kernel_distance(restored[x].astype(np.float64), reference[y].astype(np.float64))
            for x, y in zip(*(np.array_split(index, math.ceil(n / BLOCK)) for index in rows), strict=True)
        ]
        value = 1000 * float(np.mean([value for value, _ in blocks]))
        error = 1000 * math.sqrt(sum(variance for _, variance in blocks)) / len(blocks)
        thinned = "" if len(restored) == len(reference) else f"the larger set was thinned to n = {n}"
        return Estimate(value, value - 1.96 * error, value + 1.96 * error, error, thinned)


def kernel_distance(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """The U-statistic of `KernelDistance` for one block, and the jackknife's variance of it.

    Args:
        x: (n, d) float64, n >= 2.
        y: (n, d) float64.

    Returns:
        KID (not times 1000), and 4 / (n (n - 1) (n - 2)^2) sum_i (r_i - mean r)^2 with r_i = sum_{j != i} h_ij; NaN for
        n = 2.
    """
    n, d = x.shape
    cross = (x @ y.T / d + 1) ** 3
    h = (x @ x.T / d + 1) ** 3 + (y @ y.T / d + 1) ** 3 - cross - cross.T
    np.fill_diagonal(h, 0.0)
    sums = h.sum(1)
    value = float(sums.sum() / (n * (n - 1)))
    if n == 2:
        return value, math.nan
    return value, float(4 * np.square(sums - sums.mean()).sum() / (n * (n - 1) * (n - 2) ** 2))


@register_metric("fid")
class FID(FrechetDistance):
    """Fréchet Inception Distance (Heusel et al., 2017): features of `inception`, resized as TensorFlow does."""

    label = "FID"
    extractor = "inception"


@register_metric("kid")
class KID(KernelDistance):
    """Kernel Inception Distance (Bińkowski et al., 2018), times 1000: features of `inception`; trust it at small n."""

    label = "KID x1e3"
    extractor = "inception"


@register_metric("fid-legacy-pytorch")
class FIDLegacyPytorch(FrechetDistance):
    """Fréchet Inception Distance with clean-fid's `legacy_pytorch` resizing, as in the I2SB paper."""

    label = "FID (legacy_pytorch)"
    extractor = "inception-legacy-pytorch"


@register_metric("kid-legacy-pytorch")
class KIDLegacyPytorch(KernelDistance):
    """Kernel Inception Distance, times 1000, with clean-fid's `legacy_pytorch` resizing."""

    label = "KID x1e3 (legacy_pytorch)"
    extractor = "inception-legacy-pytorch"


@register_metric("fd-resnet50")
class FDResNet50(FrechetDistance):
    """Fréchet distance of the features of the extractor 'resnet50'."""

    label = "FD-resnet50"
    extractor = "resnet50"


@register_metric("kid-resnet50")
class KIDResNet50(KernelDistance):
    """Kernel distance, times 1000, of the features of the extractor 'resnet50'."""

    label = "KID-resnet50 x1e3"
    extractor = "resnet50"


def _distances_of(name: str, extractor: Any) -> None:
    """Registers `fd-NAME` and `kid-NAME` for an extractor: never under the names FID and KID."""
    if name in WRITTEN_OUT:
        return
    kinds: tuple[tuple[str, str, type[SetMetric], str], ...] = (
        ("fd", "FD-{}", FrechetDistance, "Fréchet distance"),
        ("kid", "KID-{} x1e3", KernelDistance, "Kernel distance, times 1000,"),
    )
    for prefix, label, kind, what in kinds:
        members = {
            "label": label.format(name),
            "extractor": name,
            "__doc__": f"{what} of the features of the extractor '{name}'.",
            # As if it had been written beside the extractor: a plug-in that is loaded again replaces its own.
            "__module__": extractor.__module__,
        }
        METRICS.register(f"{prefix}-{name}")(type(f"{kind.__name__}_{name}", (kind,), members))


EXTRACTORS.follow(_distances_of)
