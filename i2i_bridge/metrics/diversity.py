"""How much the restorations of one degraded image differ from each other."""

import math
from functools import cached_property
from itertools import combinations

import torch

from i2i_bridge.metrics.base import ItemMetric, Sample
from i2i_bridge.metrics.perceptual import LPIPS
from i2i_bridge.registry import register_metric


@register_metric("diversity")
class Diversity(ItemMetric):
    """Mean LPIPS (alex) between the pairs of 4 restorations of one image, each with noise of its own; 0 if they agree.

    2 / (K (K - 1)) sum_{i<j} LPIPS(x_0_hat_i, x_0_hat_j)  (Zhu et al., BicycleGAN, 2017)
    """

    label = "diversity (LPIPS alex)"
    higher_is_better = True
    samples = 4
    smallest = LPIPS.smallest

    @cached_property
    def _distance(self) -> LPIPS:
        return LPIPS()

    def missing(self, channels: int = 3) -> str | None:
        """What LPIPS lacks."""
        reason = self._distance.missing(channels)
        return reason and f"diversity: {reason}"

    def of(self, sample: Sample) -> float:
        """The item's value; NaN for fewer than two restorations."""
        pairs = list(combinations(range(len(sample.restored)), 2))
        if not pairs:
            return math.nan
        first, second = (sample.restored[list(side)] for side in zip(*pairs, strict=True))
        return float(self._distance(first, second).double().mean())


@register_metric("diversity-rms")
class DiversityRMS(ItemMetric):
    """Mean RMS difference between the pairs of 4 restorations of one image, in units of [-1, 1]; needs no weights."""

    label = "diversity (RMS)"
    higher_is_better = True
    samples = 4

    def of(self, sample: Sample) -> float:
        """The item's value; NaN for fewer than two restorations."""
        restored = sample.restored.double().flatten(1)
        if len(restored) < 2:
            return math.nan
        distances = torch.pdist(restored) / math.sqrt(restored.shape[1])
        return float(distances.mean())
