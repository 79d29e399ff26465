"""Scores: the choice of computable metrics, an item's scores, and their summary over all items."""

import contextlib
import hashlib
import math
import statistics
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from i2i_bridge import registry
from i2i_bridge.degradations.base import Degradation
from i2i_bridge.errors import UserError, plural
from i2i_bridge.evaluation.items import EvaluatedItem
from i2i_bridge.evaluation.records import CLEAN, Record
from i2i_bridge.metrics.base import (
    Estimate,
    Extractor,
    ItemMetric,
    Metric,
    Sample,
    SetMetric,
    bootstrap_interval,
    build_metric,
    extract,
    metric_faults,
)
from i2i_bridge.metrics.distribution import FrechetDistance, KernelDistance, PairedKernelDistance
from i2i_bridge.plugins import plugin_errors
from i2i_bridge.recipe.protocol import Resolved

FEW = 30
"""Below this number of images a bootstrap interval over images is unreliable."""
FEW_FOR_SETS = 2048
"""Below this number of images the covariance of 2048 features is singular, and the bias of FID, as 1/n, is large."""
FEW_FOR_KID = 200
"""Below this number of images the interval of a KID is wider than the differences between most methods."""


@dataclass
class Scorer:
    """The metrics of an evaluation, by kind, without those that cannot be computed."""

    images: dict[str, Metric | ItemMetric] = field(default_factory=dict)
    sets: dict[str, SetMetric] = field(default_factory=dict)
    extractors: dict[str, Extractor] = field(default_factory=dict)
    features: dict[str, str] = field(default_factory=dict)
    """Name of each extractor's features in a record."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Metrics that cannot be computed, with the reason."""
    codes: dict[str, str] = field(default_factory=dict)
    """Fingerprint of the code of each per-image metric."""

    @property
    def samples(self) -> int:
        """Number of restorations that the metrics need of each item."""
        return max((metric.samples for metric in self.images.values() if isinstance(metric, ItemMetric)), default=1)

    def lacks(self, record: Record, row: str) -> bool:
        """Whether a score or feature of a record is missing."""
        wanted = {} if row == CLEAN else self.codes
        return any(record.scores.get(name, (0.0, ""))[1] != code for name, code in wanted.items()) or any(
            name not in record.stored for name in self.features.values()
        )

    def score(
        self,
        record: Record,
        row: str,
        restored: Sequence[np.ndarray],
        item: EvaluatedItem,
        degradation: Degradation | None,
        seed: int,
    ) -> None:
        """Compute the missing scores and features of a record.

        Args:
            restored: Pixels of the item's restorations; for the row `clean` those of the reference.
            degradation: The degradation of x_1; None for pairs.
            seed: Seed of the evaluation.
        """
        images = torch.stack([item.codec.image(pixels) for pixels in restored])
        if row != CLEAN:
            x_0, x_1 = item.codec.image(item.clean), item.codec.image(item.degraded)
            sample = Sample(images, x_0, x_1, item.fields, degradation, seed)
            for name, metric in self.images.items():
                if record.scores.get(name, (0.0, ""))[1] == self.codes[name]:
                    continue
                record.scores[name] = (_value(name, metric, sample), self.codes[name])
        for name, feature in self.features.items():
            if feature not in record.features:
                record.features[feature] = extract(self.extractors[name], images[:1])[0]


def _value(name: str, metric: Metric | ItemMetric, sample: Sample) -> float:
    """The score of an item; NaN if its image is too small for the metric or it has too few restorations.

    Raises:
        UserError: The metric comes from a plug-in and raised an exception, or its result is no number.
    """
    if isinstance(metric, ItemMetric) and metric.samples > len(sample.restored):
        return math.nan
    if min(sample.x_0.shape[-2:]) < metric.smallest:
        return math.nan
    with plugin_errors():
        value: Any
        value = metric(sample.restored[:1], sample.x_0[None]) if isinstance(metric, Metric) else metric.of(sample)
    if isinstance(metric, Metric):
        if not isinstance(value, Tensor) or tuple(value.shape) != (1,):
            given = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise UserError(
                f"metric '{name}': gave {given} for 1 image; a tensor of shape (1,) is needed, one per image"
            )
        value = value[0]
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise UserError(f"metric '{name}': gave {type(value).__name__} for an item; a number is needed") from error


def build_scorer(
    metrics: Iterable[str], channels: int, images: int, protocol: Resolved, size: tuple[int, int] | None = None
) -> Scorer:
    """Sort metrics by kind; those that cannot be computed are skipped, with the reason.

    Args:
        metrics: Names, with their options; repeated names count once.
        channels: Channels of the images.
        images: Number of images.
        protocol: The protocol of the evaluation.
        size: Height and width of the images if all have the same size.

    Raises:
        UserError: A metric is unknown, or none is left.
    """
    scorer = Scorer()
    for wanted in metrics:
        name, metric = build_metric(wanted)
        if name in {*scorer.skipped, *scorer.sets, *scorer.images}:
            continue
        if problems := metric_faults(metric):
            raise UserError(f"metric '{name}': {problems[0]}")
        with plugin_errors():
            reason = metric.missing(channels)
        if isinstance(metric, SetMetric):
            reason = reason or _set_problem(name, metric, images, protocol)
        elif reason is None and size is not None and min(size) < metric.smallest:
            side = metric.smallest
            reason = f"{name} needs images of at least {side}x{side} pixels; these are {size[1]}x{size[0]}"
        if reason is not None:
            scorer.skipped[name] = str(reason)
        elif isinstance(metric, SetMetric):
            scorer.sets[name] = metric
            if metric.extractor not in scorer.extractors:
                extractor: Extractor = registry.EXTRACTORS.get(metric.extractor)()
                scorer.extractors[metric.extractor] = extractor
                scorer.features[metric.extractor] = feature_name(metric.extractor, extractor)
        else:
            scorer.images[name] = metric
            scorer.codes[name] = code_of(type(metric))
    if not scorer.images and not scorer.sets:
        raise UserError(f"nothing to measure: {'; '.join(scorer.skipped.values()) or 'no metric is named'}")
    return scorer


def _set_problem(name: str, metric: SetMetric, images: int, protocol: Resolved) -> str | None:
    """The reason why a metric of sets cannot be computed on these images; None if it can."""
    if images < 2:
        return f"{name} needs two images at least"
    reference = protocol.protocol.fid_reference
    if not reference.endswith(".npz") or isinstance(metric, PairedKernelDistance):
        return None
    if not isinstance(metric, FrechetDistance):
        return f"{name} needs images to compare with, and the protocol has statistics only ({reference})"
    if protocol.reference_file is None:
        return (
            f"{name}: the protocol's statistics {reference} are not in the folder of weights, nor beside the protocol"
        )
    return None


def feature_name(name: str, extractor: Extractor) -> str:
    """Name of an extractor's features in a record; it changes when the extractor's code does."""
    return f"{name} {code_of(type(extractor))}"


def code_of(member: Any) -> str:
    """Name and file hash of a metric's or network's code: after an edit its scores are computed again."""
    module = str(member.__module__)
    file = getattr(sys.modules.get(module), "__file__", None)
    text = Path(file).read_bytes() if file and Path(file).is_file() else b""
    return f"{module}.{member.__qualname__} {hashlib.sha256(text).hexdigest()[:12]}"


def mean(values: np.ndarray, seed: int, keys: Sequence[str] = ()) -> Estimate:
    """Mean of per-image values, its 95 % bootstrap interval and its standard error s / sqrt(n), s by n - 1.

    NaN values ("does not apply") are left out, and so are infinite ones, such as the PSNR of a restoration that equals
    its clean image; the note gives their number and images. If all are infinite, so is the mean. The sum is exact
    before it is rounded, so the order of the images changes no digit.

    Args:
        values: One per image.
        seed: Seed of the bootstrap.
        keys: The images' keys, for the note.
    """
    applicable = [float(value) for value in values if not math.isnan(value)]
    if not applicable:
        return Estimate(math.nan, note="applies to no image")
    notes = (
        [] if len(applicable) == len(values) else [f"applies to {len(applicable)} of {plural(len(values), 'image')}"]
    )
    kept = [value for value in applicable if math.isfinite(value)]
    if not kept:
        return Estimate(statistics.fmean(applicable), note="; ".join([*notes, "infinite for every image"]))
    if len(kept) < len(applicable):
        names = [key for key, value in zip(keys, values, strict=False) if math.isinf(value)]
        notes.append(
            f"infinite for {len(applicable) - len(kept)} of {plural(len(applicable), 'image')} "
            "and the mean of the others"
            f"{_first(names)}"
        )
    low, high = bootstrap_interval(kept, seed)
    error = statistics.stdev(kept) / math.sqrt(len(kept)) if len(kept) > 1 else math.nan
    return Estimate(statistics.fmean(kept), low, high, error, "; ".join(notes))


def _first(names: Sequence[str]) -> str:
    """': a, b, c ...' for the first three names; empty for none."""
    return f": {', '.join(names[:3])}{' ...' if names[3:] else ''}" if names else ""


def equal_pairs(keys: Sequence[str], images: int) -> list[str]:
    """A warning about pairs whose x_0 and x_1 have the same pixels."""
    if not keys:
        return []
    return [f"x_0 and x_1 are equal in {len(keys)} of {plural(images, 'image')}{_first(keys)}"]


def warnings_of(scorer: Scorer, images: int) -> list[str]:
    """Warnings about results on few images."""
    found = []
    if images < FEW:
        found.append(f"only {plural(images, 'image')}: means and intervals are rough")
    # Not kernel distances: they have no bias at any number of images.
    biased = [name for name, one in scorer.sets.items() if not isinstance(one, KernelDistance | PairedKernelDistance)]
    if biased and images < FEW_FOR_SETS:
        found.append(
            f"{', '.join(biased)} of {plural(images, 'image')}, fewer than {FEW_FOR_SETS}: "
            "biased by the small number; "
            "compare them only with numbers of this very protocol and these images"
        )
    return found + kid_warnings(scorer.sets, images)


def kid_warnings(metrics: Iterable[str], images: int) -> list[str]:
    """A warning with the names of the kernel distances among metrics, for fewer than FEW_FOR_KID images."""
    names = []
    for name in metrics if images < FEW_FOR_KID else ():
        with contextlib.suppress(UserError):  # the metric of a plug-in that is not loaded
            if isinstance(build_metric(name)[1], KernelDistance | PairedKernelDistance):
                names.append(name)
    if not names:
        return []
    return [f"{', '.join(names)} of {plural(images, 'image')}, fewer than {FEW_FOR_KID}: the interval is wide"]
