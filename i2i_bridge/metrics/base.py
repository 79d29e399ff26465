"""What a metric is: a number per restored image, or one for a set of images, and what a feature network is."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from i2i_bridge import registry
from i2i_bridge.degradations.base import Degradation
from i2i_bridge.errors import UserError
from i2i_bridge.metrics.names import metric_table
from i2i_bridge.plugins import plugin_errors
from i2i_bridge.randomness import key

N = TypeVar("N", bound=nn.Module)


@dataclass(frozen=True)
class Sample:
    """One evaluated item."""

    restored: Tensor
    """(K, C, H, W): K restorations of the same x_1, in [-1, 1], rounded as in files; a `Metric` sees the first."""
    x_0: Tensor
    """(C, H, W), rounded likewise."""
    x_1: Tensor
    """(C, H, W), rounded likewise."""
    item: Mapping[str, Any]
    """The item's key, and mask, condition and label where there are."""
    degradation: Degradation | None
    """What made x_1, or None for pairs."""
    seed: int
    """Of the evaluation."""


@dataclass(frozen=True)
class Estimate:
    """A number and how well it is known; NaN where that is unknown."""

    value: float
    low: float = math.nan
    """Of the 95 % interval."""
    high: float = math.nan
    standard_error: float = math.nan
    note: str = ""
    """What a reader must know to take the number for what it is, in one line."""


class Metric(ABC):
    """A full-reference image metric.

    Options of its constructor are part of its name, `psnr-y:border=4`: a number's name says all about it.
    """

    label: str
    """For tables, with the unit."""
    higher_is_better: ClassVar[bool]
    smallest: int = 1
    """Side in pixels below which an image is not measured."""

    @abstractmethod
    def __call__(self, restored: Tensor, clean: Tensor) -> Tensor:
        """Values (B,) of images (B, C, H, W) in [-1, 1], already rounded to 8 bits as they are written to files."""

    def missing(self, channels: int = 3) -> str | None:
        """Why the metric cannot be computed here (its weights are absent, say), in one line; None when it can."""
        return None


class ItemMetric(ABC):
    """A number per item that needs more than two images: several restorations, the degradation, a label."""

    label: str
    higher_is_better: ClassVar[bool]
    samples: ClassVar[int] = 1
    """K: how many restorations of each item it needs."""
    smallest: int = 1
    """As `Metric.smallest`."""

    @abstractmethod
    def of(self, sample: Sample) -> float:
        """The item's value; NaN where the metric does not apply to it."""

    def missing(self, channels: int = 3) -> str | None:
        """As `Metric.missing`."""
        return None


class SetMetric(ABC):
    """A distance between two sets of images, by the features of a network."""

    label: str
    higher_is_better: ClassVar[bool]
    extractor: ClassVar[str]
    """The network's name among the extractors."""

    @abstractmethod
    def estimate(self, restored: np.ndarray, reference: np.ndarray, *, seed: int) -> Estimate:
        """The distance between sets of features (n, d) and (m, d), arrays in memory or mapped from a file.

        The order of the rows changes no digit; in an evaluation whose sets have the same n, row i of each belongs to
        item i.
        """

    def estimate_matched(
        self, restored: np.ndarray, reference: np.ndarray, partners: np.ndarray, *, seed: int
    ) -> Estimate:
        """What an evaluation calls: `estimate`, for a metric to which it matters that the sets have items in common.

        Args:
            restored: Features (n, d).
            reference: Features (m, d).
            partners: (n,) which row of `reference` belongs to the same item as each row of `restored`; -1 for none.
            seed: Of what is drawn.
        """
        return self.estimate(restored, reference, seed=seed)

    def difference_of_means(
        self,
        first: Sequence[np.ndarray],
        second: Sequence[np.ndarray],
        reference: np.ndarray,
        partners: np.ndarray,
        *,
        seed: int,
    ) -> Estimate | None:
        """The mean distance of some rows minus that of others, of the same items, with the error of the difference.

        Args:
            first: Features (n, d) of one row, or of several whose distances are averaged (seeds of a training).
            second: Features (n, d) of another row, or of several; row i of every array belongs to the same item.
            reference: Features (m, d).
            partners: As in `estimate_matched`.
            seed: Of what is drawn.

        Returns:
            The difference with standard error and interval; None where the metric has no paired error.

        Raises:
            UserError: The arrays differ in their number of features, or the rows in their number of images.
        """
        return None

    def missing(self, channels: int = 3) -> str | None:
        """As `Metric.missing`: here, what the extractor lacks."""
        if channels not in (1, 3):
            return f"the extractor '{self.extractor}' is for images of 1 or 3 channels, not {channels}"
        extractor: Extractor = registry.EXTRACTORS.get(self.extractor)()
        return extractor.missing()


def metric_faults(metric: Any) -> list[str]:
    """What a metric lacks before it is called, one line each; empty when it is complete."""
    if not isinstance(metric, Metric | ItemMetric | SetMetric):
        return [f"{type(metric).__name__} is none of Metric, ItemMetric and SetMetric"]
    faults = []
    if not isinstance(getattr(metric, "label", None), str):
        faults.append("label is missing: what tables call it, with the unit, such as label = 'MAE (codes)'")
    if not isinstance(getattr(metric, "higher_is_better", None), bool):
        faults.append("higher_is_better is missing: True or False")
    if isinstance(metric, SetMetric) and not isinstance(getattr(metric, "extractor", None), str):
        faults.append("extractor is missing: the name of a registered extractor")
    return faults


def build_metric(name: str) -> tuple[str, "Metric | ItemMetric | SetMetric"]:
    """The metric that a name means, such as `kid` or `psnr-y:border=4`, and that name in its one spelling.

    An option at its default is left out of the spelling.

    Raises:
        UserError: There is no such metric or option, or its value is wrong.
    """
    table = metric_table(name)
    metric: Metric | ItemMetric | SetMetric = registry.METRICS.build(table)
    defaults = {key: parameter.default for key, parameter in registry.METRICS.options(table["name"]).items()}
    options = [f"{key}={table[key]}" for key in sorted(table) if key != "name" and table[key] != defaults[key]]
    return ":".join([str(table["name"]), *([",".join(options)] if options else [])]), metric


class Extractor(ABC):
    """A network that makes features of images. Registered classes take no options.

    `@register_extractor("X")` gives the metrics `fd-X` and `kid-X`.
    """

    dimension: int
    """d: how many features an image has."""

    @abstractmethod
    def __call__(self, images: Tensor) -> Tensor:
        """Features (B, d) float32 of images (B, 3, H, W) in [-1, 1]; computed on the images' device."""

    def missing(self) -> str | None:
        """Why it cannot be computed here, in one line; None when it can."""
        return None


def extract(extractor: Extractor, images: Tensor) -> np.ndarray:
    """The features of images (B, 1 or 3, H, W) in [-1, 1]: (B, d) float32, in memory.

    Grey images are given as three equal channels.

    Raises:
        UserError: The extractor gave something else, or values that are not finite.
    """
    name = type(extractor).__name__
    with torch.inference_mode(), plugin_errors():
        features = extractor(in_colour(images))
    wanted = (len(images), extractor.dimension)
    if not isinstance(features, Tensor) or tuple(features.shape) != wanted:
        shape = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise UserError(f"extractor {name}: gave {shape} instead of features {wanted}")
    if not features.isfinite().all():
        raise UserError(f"extractor {name}: gave features that are not finite")
    array: np.ndarray = features.float().cpu().numpy()
    return array


@torch.inference_mode(False)
def moved(network: N, device: torch.device) -> N:
    """The network, moved to a device in place, with weights that may be used with and without gradients afterwards.

    Weights that are moved inside `torch.inference_mode` may not. The loaders of networks leave it for the same reason.
    """
    return network.to(device)


def in_colour(images: Tensor) -> Tensor:
    """Images (B, 1 or 3, H, W) with three channels."""
    return images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images


def bootstrap_interval(values: Sequence[float], seed: int, resamples: int = 2000) -> tuple[float, float]:
    """95 % interval of the mean of per-image values: the percentile bootstrap over images (Efron, 1979).

    Args:
        values: One per image, in any order; NaN (the metric does not apply) is left out.
        seed: Of the resampling.

    Returns:
        The 2.5 % and 97.5 % quantiles of the means of resampled sets; NaN for fewer than two values.
    """
    # Sorted: the order in which images were scored must not show.
    kept = np.sort(np.asarray([value for value in values if not math.isnan(value)], np.float64))
    if len(kept) < 2:
        return math.nan, math.nan
    rng = np.random.default_rng(key(seed, "bootstrap"))
    rows = max(1, 50_000 // len(kept))  # of resamples at once: memory stays flat at any number of images
    shares = [min(rows, resamples - start) for start in range(0, resamples, rows)]
    means = np.concatenate([kept[rng.integers(len(kept), size=(share, len(kept)))].mean(axis=1) for share in shares])
    # Quantiles that are members, never between two: infinite PSNR must not become NaN.
    low, high = np.quantile(means, (0.025, 0.975), method="inverted_cdf")
    return float(low), float(high)


def one_by_one(function: Callable[..., Tensor], *batches: Tensor) -> Tensor:
    """A function of batches (B, ...) applied to each sample (1, ...) alone.

    Libraries choose another convolution, or order of summing, for another batch size or memory layout, and the last
    digits differ: a value would depend on what else was in the batch.
    """
    return torch.cat([function(*(batch[i : i + 1].contiguous() for batch in batches)) for i in range(len(batches[0]))])
