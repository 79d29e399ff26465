"""Super-resolution by 4: the image is reduced, then enlarged again by repetition."""

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from i2i_bridge.degradations.base import Degradation, Degraded
from i2i_bridge.degradations.linear import cubic_taps, separable_filter
from i2i_bridge.randomness import Generator
from i2i_bridge.registry import register_degradation


@register_degradation("sr4x")
@dataclass(frozen=True)
class SuperResolution4x(Degradation):
    """x_1 = repeat each pixel 4 x 4 of the image reduced 4 times. Sides must be multiples of 4.

    Args:
        filter: "pool": the mean of each 4 x 4 block. "bicubic": antialiased cubic, a = -1/2, borders mirrored
            with the edge included (the paper's; image libraries differ from it in the outermost pixels).
    """

    filter: Literal["pool", "bicubic"] = "pool"

    @property
    def scale(self) -> int:
        return 4

    @property
    def multiple(self) -> int:
        return 4

    def __call__(self, x_0: Tensor, generator: Generator) -> Degraded:
        self.check_image(x_0)
        return Degraded(_repeated(self.reduce(x_0)))

    def reduce(self, x_0: Tensor) -> Tensor:
        """The small image, (B, C, H / 4, W / 4), of x_0 (B, C, H, W)."""
        if self.filter == "pool":
            return F.avg_pool2d(x_0, 4)
        return separable_filter(x_0, cubic_taps(), before=6, stride=4, border="symmetric")

    def prepare(self, image: Tensor, generator: Generator, mask: Tensor | None = None) -> Degraded:
        return super().prepare(_repeated(image), generator, mask)


def _repeated(small: Tensor) -> Tensor:
    return small.repeat_interleave(4, -2).repeat_interleave(4, -1)
