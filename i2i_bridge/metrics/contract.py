"""`check_metric`: what every metric must do, checked on random images."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from i2i_bridge.bridge.contract import collect_faults
from i2i_bridge.metrics.base import Estimate, ItemMetric, Metric, Sample, SetMetric, metric_faults


def check_metric(metric: Metric | ItemMetric | SetMetric, channels: int = 3, size: int = 64) -> list[str]:
    """What is wrong with a metric, one line each; empty when it keeps the contract.

    Checked of every kind: `label`, `higher_is_better`, equal numbers from equal images, the global random generator
    unread. Of a `Metric`: one value per image, which depends on that image alone, images untouched, and the clean image
    itself scores no worse than one with noise. Of an `ItemMetric`: a number, or NaN. Of a `SetMetric`: an `Estimate`,
    the same in every order of the rows, and equal sets score no worse than sets apart. A metric that misses something
    here (`missing`) is not called.

    Args:
        channels: C, of the images that it is tried on.
        size: Their height and width.

    Examples:
        >>> from i2i_bridge import Metric, check_metric
        >>> class MAE(Metric):
        ...     label, higher_is_better = "MAE (codes)", False
        ...
        ...     def __call__(self, restored, clean):
        ...         return 127.5 * (restored - clean).abs().mean((1, 2, 3))
        >>> check_metric(MAE())
        []
    """
    return collect_faults(lambda: _metric_faults(metric, channels, size))


def _metric_faults(metric: Any, channels: int, size: int) -> Iterator[str]:
    faults = metric_faults(metric)
    yield from faults
    if faults:
        return
    missing = metric.missing(channels)
    if missing is not None and not isinstance(missing, str):
        yield f"missing() gave {type(missing).__name__}; a reason in one line is needed, or None"
    if missing is not None:
        return
    make = torch.Generator().manual_seed(0)
    # Smooth images, coded to 8 bits as files are; of noise alone a metric may say anything.
    ramp = torch.linspace(-0.9, 0.9, size)
    clean = torch.stack([(ramp * (k + 1) / channels).expand(size, size) for k in range(channels)])
    clean = torch.stack([clean, clean.transpose(1, 2)])
    noisy = (clean + 0.2 * torch.randn(clean.shape, generator=make)).clamp(-1, 1)
    clean, noisy = (((image + 1) * 127.5).round() / 127.5 - 1 for image in (clean, noisy))
    before = torch.random.get_rng_state()
    if isinstance(metric, Metric):
        yield from _image_metric_faults(metric, noisy, clean)
    elif isinstance(metric, ItemMetric):
        yield from _item_metric_faults(metric, noisy[0], clean[0])
    else:
        yield from _set_metric_faults(metric)
    if not torch.equal(before, torch.random.get_rng_state()):
        yield "the global random generator was used"


def _image_metric_faults(metric: Metric, noisy: Tensor, clean: Tensor) -> Iterator[str]:
    kept = noisy.clone(), clean.clone()
    values: Any = metric(noisy, clean)
    if not torch.equal(noisy, kept[0]) or not torch.equal(clean, kept[1]):
        yield "it changes the images in place"
        noisy, clean = kept[0].clone(), kept[1].clone()
    if not isinstance(values, Tensor) or values.shape != (len(noisy),):
        given = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        yield f"gave {given} for {len(noisy)} images; a tensor of shape ({len(noisy)},) is needed, a value per image"
        return
    if bool(values.isnan().any()):
        yield "gave NaN"
        return
    if not torch.equal(values, metric(noisy.clone(), clean.clone())):
        yield "equal images get different values"
    # Not to the bit: a library may sum in another order for another batch, and `evaluate` scores one image at a time.
    if not torch.allclose(values[:1], metric(noisy[:1], clean[:1]), rtol=1e-4):
        yield "the value of an image depends on the rest of the batch"
    best = metric(clean.clone(), clean)
    if bool(best.isnan().any()):
        yield "gave NaN"
    elif bool(((best < values) if metric.higher_is_better else (best > values)).any()):
        yield f"noise scores better than the clean image itself, and higher_is_better is {metric.higher_is_better}"


def _item_metric_faults(metric: ItemMetric, noisy: Tensor, clean: Tensor) -> Iterator[str]:
    if not isinstance(metric.samples, int) or metric.samples < 1:
        yield f"samples is {metric.samples!r}; the number of restorations of each item is needed, at least 1"
        return
    restored = torch.stack([clean + (noisy - clean) / (k + 1) for k in range(metric.samples)])
    sample = Sample(restored, clean, noisy, {"key": "check", "label": 0}, None, 0)
    values = [metric.of(sample), metric.of(sample)]
    try:
        first, second = (float(value) for value in values)
    except (TypeError, ValueError):
        yield f"of() gave {type(values[0]).__name__}; a number is needed, NaN where the metric does not apply"
        return
    if first != second and not (np.isnan(first) and np.isnan(second)):
        yield "equal items get different values"


def _set_metric_faults(metric: SetMetric) -> Iterator[str]:
    rng = np.random.default_rng(0)
    reference = rng.standard_normal((64, 8)).astype(np.float32)
    far = (reference + 3 + rng.standard_normal((64, 8))).astype(np.float32)
    apart: Any = metric.estimate(far, reference, seed=0)
    if not isinstance(apart, Estimate):
        yield f"estimate() gave {type(apart).__name__}; an Estimate is needed"
        return
    order = rng.permutation(64)
    if metric.estimate(far[order], reference[order], seed=0).value != apart.value:
        yield "the value depends on the order of the images"
    equal = metric.estimate(reference.copy(), reference, seed=0).value
    if np.isnan(apart.value) or np.isnan(equal):
        yield "gave NaN"
    elif equal < apart.value if metric.higher_is_better else equal > apart.value:
        yield f"sets apart score better than equal ones, and higher_is_better is {metric.higher_is_better}"
