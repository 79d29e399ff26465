"""FID, KID, and the same distances on a user's own feature network."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from i2i_bridge.errors import UserError
from i2i_bridge.metrics import kernel
from i2i_bridge.metrics.base import Estimate, SetMetric
from i2i_bridge.metrics.frechet import Moments, canonical_order, frechet_distance, moments
from i2i_bridge.metrics.kernel import (
    jackknife_variance,
    kernel_distance,
    mean_leave_one_out,
    pair_kernel,
    u_statistic,
)
from i2i_bridge.randomness import key
from i2i_bridge.registry import EXTRACTORS, METRICS, register_metric

ENOUGH = 2048
"""Images below which a Fréchet distance is mostly the bias of its sample size."""
LARGEST = 10_000
"""Images of the larger set of a block of KID; more would add time and memory, and no precision."""
TOO_FEW = "KID needs at least 2 images"
WRITTEN_OUT = ("inception", "inception-legacy-pytorch", "resnet50", "efficientnet-lite0")
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

    The unbiased squared maximum mean discrepancy (Gretton et al., 2012, equation 3) of n restorations x_i and m clean
    images y_j, with k(x, y) = (x . y / d + 1)^3 (Bińkowski et al., 2018):

        1 / (n (n - 1)) sum_{i != j} k(x_i, x_j) + 1 / (m (m - 1)) sum_{i != j} k(y_i, y_j) - 2 / |C| sum_C k(x_i, y_j)

    C holds the pairs (i, j) of two different items. Where the sets are apart these are all n m, and the value is
    torch-fidelity's and torchmetrics'. Where p of the x_i were restored from what was made of a y_j, their partner, the
    p pairs of partners are not in C: |C| = n m - p. Items are independent, so x_i and y_j of two different items are
    independent draws, and E k(x_i, y_j) = E k(x, y). Each of the three sums is thus a mean of terms with the wanted
    expectation, for any n, m and p. A partner's term has another expectation: with it, perfect restorations, x_i = y_i,
    would get less than 0. Without it all three means have the expectation E k(y, y'), and the value is 0 on average.

    The standard error is the jackknife's over items (Efron & Stein, 1981: never too small on average): an item's
    restoration and its partner are left out together. Items with both, restorations alone and clean images alone are
    three strata: variance = sum_strata (N - 1) / N sum_i (v_i - mean v)^2 of the values v_i without item i. The
    interval is 1.96 standard errors each way. Where both sets have more than 1000 images, they are cut into random
    blocks, partners in the same one, whose values are averaged; of a larger set a block takes at most 10,000 images.
    """

    higher_is_better = False

    def estimate(self, restored: np.ndarray, reference: np.ndarray, *, seed: int) -> Estimate:
        """1000 x KID of two sets that are apart, with its standard error and 95 % interval.

        Args:
            restored: Features (n, d).
            reference: Features (m, d) of other items; else `estimate_matched` is the right one.
            seed: Of the blocks.

        Raises:
            UserError: The two differ in their number of features.
        """
        return self.estimate_matched(restored, reference, np.full(len(restored), -1), seed=seed)

    def estimate_matched(
        self, restored: np.ndarray, reference: np.ndarray, partners: np.ndarray, *, seed: int
    ) -> Estimate:
        """As `estimate`, of sets that have items in common.

        Args:
            restored: Features (n, d).
            reference: Features (m, d).
            partners: (n,) which row of `reference` belongs to the same item as each row of `restored`; -1 for none.
            seed: Of the blocks.

        Raises:
            UserError: The two differ in their number of features.
        """
        n = _smaller_size(restored, reference)
        if n < 2:
            return Estimate(math.nan, note=TOO_FEW)
        return _mean_of_blocks(
            [
                kernel_distance(_rows(restored, x, x_alone), _rows(reference, y, y_alone), len(x))
                for x, y, x_alone, y_alone in self._blocks([restored], reference, partners, n, seed)
            ]
        )

    def difference_of_means(
        self,
        first: Sequence[np.ndarray],
        second: Sequence[np.ndarray],
        reference: np.ndarray,
        partners: np.ndarray,
        *,
        seed: int,
    ) -> Estimate:
        """As `SetMetric.difference_of_means`. The standard error is the jackknife's over the items of `estimate`.

        v_i of the class's text is then the difference without item i: what the two rows share, the clean images and
        the items, cancels before it is squared.
        """
        n = min(_smaller_size(features, reference) for features in (*first, *second))
        sizes = {len(features) for features in (*first, *second)}
        if len(sizes) > 1:
            raise UserError(f"rows of {' and '.join(map(str, sorted(sizes)))} images have no paired difference")
        if n < 2:
            return Estimate(math.nan, note=TOO_FEW)
        blocks = []
        for x, y, x_alone, y_alone in self._blocks([*first, *second], reference, partners, n, seed):
            clean = _rows(reference, y, y_alone)
            (value, strata), (other, others) = (
                mean_leave_one_out([_rows(features, x, x_alone) for features in rows], clean, len(x))
                for rows in (first, second)
            )
            variance = jackknife_variance([a - b for a, b in zip(strata, others, strict=True)])
            blocks.append((value - other, variance))
        return _mean_of_blocks(blocks)

    def _blocks(
        self, restored: Sequence[np.ndarray], reference: np.ndarray, partners: np.ndarray, n: int, seed: int
    ) -> Iterator[tuple[np.ndarray, ...]]:
        """Rows of each block: of items with both images, by their restoration and by their clean one, and of others."""
        rng = np.random.default_rng(key(seed, "kernel distance"))
        x = np.flatnonzero(partners >= 0)
        y = partners[x]
        alone = np.flatnonzero(partners < 0), np.setdiff1d(np.arange(len(reference)), y)
        order = canonical_order(*restored, reference, rows=[*[x] * len(restored), y])[rng.permutation(len(x))]
        count = math.ceil(n / kernel.BLOCK)
        strata = [x[order], y[order]]
        for features, rows in zip((restored, [reference]), alone, strict=True):
            order = canonical_order(*features, rows=[rows] * len(features))[rng.permutation(len(rows))]
            strata.append(rows[order][: LARGEST * count - len(x)])
        yield from zip(*(np.array_split(rows, count) for rows in strata), strict=True)


class PairedKernelDistance(SetMetric):
    """Kernel distance between restorations and their own clean partners alone, times 1000: for differences of rows.

    The U-statistic over pairs z_i = (x_i, y_i) (Gretton et al., 2012, Lemma 6), with the kernel of `KernelDistance`:

        1 / (n (n - 1)) sum_{i != j} h_ij,    h_ij = k(x_i, x_j) + k(y_i, y_j) - k(x_i, y_j) - k(x_j, y_i)

    It is `KernelDistance` where the reference is the partners, and has the same expectation where there are more clean
    images. Two rows of one evaluation share their items and their partners: k(y_i, y_j) cancels in `difference`, whose
    standard error is that of the difference, most often far smaller than the rows' own errors suggest. The standard
    error is the jackknife's over items; sets of more than 1000 items are cut into random blocks.
    """

    higher_is_better = False

    def estimate(self, restored: np.ndarray, reference: np.ndarray, *, seed: int) -> Estimate:
        """1000 x the distance, with its standard error and 95 % interval.

        Args:
            restored: Features (n, d).
            reference: Features (n, d); row i belongs to restored row i.
            seed: Of the blocks.

        Raises:
            UserError: The two differ in their number of features, or of images.
        """
        return self._over_blocks([restored], [], reference, seed)

    def difference(self, first: np.ndarray, second: np.ndarray, reference: np.ndarray, *, seed: int) -> Estimate:
        """The first row's distance minus the second's, with standard error and interval of the difference.

        Args:
            first: Features (n, d) of one row's restorations.
            second: Features (n, d) of another row's, of the same items in the same order.
            reference: Features (n, d) of their clean partners.
            seed: Of the blocks.

        Raises:
            UserError: They differ in their number of features, or of images.
        """
        return self._over_blocks([first], [second], reference, seed)

    def difference_of_means(
        self,
        first: Sequence[np.ndarray],
        second: Sequence[np.ndarray],
        reference: np.ndarray,
        partners: np.ndarray,
        *,
        seed: int,
    ) -> Estimate:
        """As `SetMetric.difference_of_means`, over the items that have both images."""
        both = np.flatnonzero(partners >= 0)
        rows, others = ([features[both] for features in part] for part in (first, second))
        return self._over_blocks(rows, others, reference[partners[both]], seed)

    def _over_blocks(
        self, first: Sequence[np.ndarray], second: Sequence[np.ndarray], reference: np.ndarray, seed: int
    ) -> Estimate:
        n = min(_smaller_size(features, reference) for features in (*first, *second))
        sizes = {len(features) for features in (*first, *second, reference)}
        if len(sizes) > 1:
            raise UserError(f"sets of {' and '.join(map(str, sorted(sizes)))} images are no pairs")
        if n < 2:
            return Estimate(math.nan, note=TOO_FEW)
        rng = np.random.default_rng(key(seed, "kernel distance"))
        order = canonical_order(*first, *second, reference)[rng.permutation(n)]
        blocks = []
        for rows in np.array_split(order, math.ceil(n / kernel.BLOCK)):
            y = _rows(reference, rows)
            h = np.zeros((len(rows), len(rows)))
            for features in first:
                h += pair_kernel(_rows(features, rows), y) / len(first)
            for features in second:
                h -= pair_kernel(_rows(features, rows), y) / len(second)
            blocks.append(u_statistic(h))
        return _mean_of_blocks(blocks)


def _mean_of_blocks(blocks: Sequence[tuple[float, float]]) -> Estimate:
    """1000 x the mean of (value, variance), with standard error and interval."""
    value = 1000 * float(np.mean([value for value, _ in blocks]))
    error = 1000 * math.sqrt(sum(variance for _, variance in blocks)) / len(blocks)
    return Estimate(value, value - 1.96 * error, value + 1.96 * error, error)


def _rows(features: np.ndarray, *rows: np.ndarray) -> np.ndarray:
    picked: np.ndarray = features[np.concatenate(rows)].astype(np.float64)
    return picked


def _smaller_size(restored: np.ndarray, reference: np.ndarray) -> int:
    if restored.shape[1] != reference.shape[1]:
        raise UserError(f"{reference.shape[1]} features cannot be compared with {restored.shape[1]} features")
    return min(len(restored), len(reference))


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


@register_metric("kid-paired")
class KIDPaired(PairedKernelDistance):
    """Kernel Inception Distance to the clean partners alone, times 1000: for differences between rows."""

    label = "KID-paired x1e3"
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


@register_metric("kid-paired-resnet50")
class KIDPairedResNet50(PairedKernelDistance):
    """Kernel distance to the clean partners, times 1000, of the features of the extractor 'resnet50'."""

    label = "KID-paired-resnet50 x1e3"
    extractor = "resnet50"


@register_metric("kid-paired-legacy-pytorch")
class KIDPairedLegacyPytorch(PairedKernelDistance):
    """As `kid-paired`, with clean-fid's `legacy_pytorch` resizing."""

    label = "KID-paired x1e3 (legacy_pytorch)"
    extractor = "inception-legacy-pytorch"


@register_metric("fd-efficientnet-lite0")
class FDEfficientNetLite0(FrechetDistance):
    """Fréchet distance of the features of the extractor 'efficientnet-lite0'."""

    label = "FD-efficientnet-lite0"
    extractor = "efficientnet-lite0"


@register_metric("kid-efficientnet-lite0")
class KIDEfficientNetLite0(KernelDistance):
    """Kernel distance, times 1000, of the features of the extractor 'efficientnet-lite0'."""

    label = "KID-efficientnet-lite0 x1e3"
    extractor = "efficientnet-lite0"


@register_metric("kid-paired-efficientnet-lite0")
class KIDPairedEfficientNetLite0(PairedKernelDistance):
    """Kernel distance to the clean partners, times 1000, of the features of the extractor 'efficientnet-lite0'."""

    label = "KID-paired-efficientnet-lite0 x1e3"
    extractor = "efficientnet-lite0"


def _distances_of(name: str, extractor: Any) -> None:
    """Registers `fd-NAME`, `kid-NAME` and `kid-paired-NAME` for an extractor: never under the names FID and KID."""
    if name in WRITTEN_OUT:
        return
    kinds: tuple[tuple[str, str, type[SetMetric], str], ...] = (
        ("fd", "FD-{}", FrechetDistance, "Fréchet distance"),
        ("kid", "KID-{} x1e3", KernelDistance, "Kernel distance, times 1000,"),
        ("kid-paired", "KID-paired-{} x1e3", PairedKernelDistance, "Kernel distance to the partners, times 1000,"),
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
