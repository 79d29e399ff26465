"""Whether the restored image, degraded again, gives the degraded image back."""

import math

from torch import Tensor

from i2i_bridge.metrics.base import ItemMetric, Sample
from i2i_bridge.randomness import generator
from i2i_bridge.registry import register_metric

TOLERANCE = 1 / 255
"""Rounding to 8 bits leaves an RMS of 2 / 255 / sqrt(12), a little more than half of this."""


@register_metric("consistency")
class Consistency(ItemMetric):
    """Data-consistency error: RMS of A(x_0_hat) - A(x_0), in units of [-1, 1]; 0 if x_0_hat explains x_1.

    A is the degradation's linear operator where it has one. Else x_0_hat and x_0 are degraded with the item's own
    draws; if those of x_0 do not give x_1 again (the draws came from elsewhere), the value is NaN, as it is for pairs.
    """

    label = "consistency (RMS)"
    higher_is_better = False

    def of(self, sample: Sample) -> float:
        """The item's value; NaN where no operator is known."""
        degradation = sample.degradation
        if degradation is None:
            return math.nan
        x_0_hat, x_0 = sample.restored[:1].double(), sample.x_0[None].double()
        mask = sample.item.get("mask")
        operator = degradation.linear(x_0.shape[-2], x_0.shape[-1], None if mask is None else mask[None])
        if operator is not None:
            return rms(operator.forward(x_0_hat) - operator.forward(x_0))

        def degraded(x: Tensor) -> Tensor:
            draws = [generator(sample.seed, "validation degradation", str(sample.item["key"]))]
            return degradation(x.float(), draws).x_1

        measured = degraded(x_0)
        if rms(measured.clamp(-1, 1) - sample.x_1[None].clamp(-1, 1)) > TOLERANCE:
            return math.nan
        return rms(degraded(x_0_hat) - measured)


def rms(x: Tensor) -> float:
    """Root of the mean square over all pixels and channels."""
    return float(x.double().square().mean().sqrt())
