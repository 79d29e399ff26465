"""Loss of resolution: the image is reduced, then enlarged again."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from i2i_bridge.degradations.base import Degradation, Degraded
from i2i_bridge.degradations.linear import (
    LinearOperator,
    Resampling,
    cubic_taps,
    filter_matrix,
    resize_matrix,
    resized,
    separable,
    separable_filter,
    two_sided,
)
from i2i_bridge.degradations.ranges import Draws, Range
from i2i_bridge.randomness import Generator, per_sample, rand
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
        return Degraded(_repeated(self.reduce(x_0), 4))

    def reduce(self, x_0: Tensor) -> Tensor:
        """The small image, (B, C, H / 4, W / 4), of x_0 (B, C, H, W)."""
        if self.filter == "pool":
            return F.avg_pool2d(x_0, 4)
        return separable_filter(x_0, cubic_taps(), before=6, stride=4, border="symmetric")

    def linear(self, height: int, width: int, mask: Tensor | None = None) -> LinearOperator:
        """Reduction and repetition: A x has x's size."""
        taps, before = ((0.25,) * 4, 0) if self.filter == "pool" else (cubic_taps(), 6)
        rows, columns = (
            filter_matrix(side, taps, before, 4, "symmetric").repeat_interleave(4, 0) for side in (height, width)
        )
        return separable(rows, columns)

    def simple_restorations(self, x_1: Tensor) -> dict[str, Tensor]:
        """ "bicubic": the small image enlarged by cubic convolution (a = -1/2), pixel centres kept in place."""
        return {"bicubic": resized(self.reduced(x_1), x_1.shape[-2:], "bicubic")}

    def prepare(self, image: Tensor, generator: Generator, mask: Tensor | None = None) -> Degraded:
        return super().prepare(_repeated(image, 4), generator, mask)


def _repeated(small: Tensor, times: int) -> Tensor:
    # Along the rows first, while there are few: those are then copied whole.
    return small.repeat_interleave(times, -1).repeat_interleave(times, -2)


@register_degradation("downsample")
@dataclass(frozen=True)
class Downsample(Degradation):
    """x_1 = E D x_0: reduced `factor` times without aliasing, as image libraries do it, and enlarged again.

    Args:
        factor: Sides must be multiples of it.
        kernel: Of the reduction; see `resize_matrix`.
        enlarge: "nearest" repeats pixels; "bicubic" shows no blocks.
    """

    factor: Literal[2, 3, 4, 8] = 4
    kernel: Literal["area", "bilinear", "bicubic", "lanczos"] = "bicubic"
    enlarge: Literal["nearest", "bicubic"] = "nearest"

    @property
    def scale(self) -> int:
        return self.factor

    @property
    def multiple(self) -> int:
        return self.factor

    def __call__(self, x_0: Tensor, generator: Generator) -> Degraded:
        self.check_image(x_0)
        height, width = x_0.shape[-2:]
        small = resized(x_0, (height // self.factor, width // self.factor), self.kernel)
        return Degraded(self._enlarged(small))

    def _enlarged(self, small: Tensor) -> Tensor:
        if self.enlarge == "nearest":
            return _repeated(small, self.factor)
        return resized(small, [side * self.factor for side in small.shape[-2:]], self.enlarge)

    def linear(self, height: int, width: int, mask: Tensor | None = None) -> LinearOperator:
        """Reduction and enlargement: A x has x's size."""
        rows, columns = (
            resize_matrix(side // self.factor, side, self.enlarge)
            @ resize_matrix(side, side // self.factor, self.kernel)
            for side in (height, width)
        )
        return separable(rows, columns)

    def reduced(self, x_1: Tensor) -> Tensor:
        """As `Degradation.reduced`: the small image; for bicubic enlargement its least-squares estimate."""
        if self.enlarge == "nearest":
            return super().reduced(x_1)
        rows, columns = (
            torch.linalg.pinv(resize_matrix(side // self.factor, side, "bicubic")) for side in x_1.shape[-2:]
        )
        return two_sided(rows, x_1, columns)

    def simple_restorations(self, x_1: Tensor) -> dict[str, Tensor]:
        """ "bicubic": the small image enlarged by cubic convolution; none where x_1 is that image already."""
        if self.enlarge == "bicubic":
            return {}
        return {"bicubic": resized(self.reduced(x_1), x_1.shape[-2:], "bicubic")}

    def prepare(self, image: Tensor, generator: Generator, mask: Tensor | None = None) -> Degraded:
        return super().prepare(self._enlarged(image), generator, mask)


FILTERS: tuple[Resampling, ...] = ("area", "bilinear", "bicubic")


@register_degradation("resize")
@dataclass(frozen=True)
class Resize(Degradation):
    """The image at `factor` times its size. Inside `compose` it keeps that size, alone it is brought back.

    Args:
        factor: Of both sides, rounded to whole pixels, one at least. A number, or [low, high].
        filter: "random" draws area, bilinear or bicubic (0, 1, 2 in the parameters) for each image.
    """

    factor: Range = (0.25, 1.0)
    filter: Literal["area", "bilinear", "bicubic", "lanczos", "random"] = "random"
    limits: ClassVar = {"factor": (1 / 64, 16)}

    @property
    def parameter_names(self) -> tuple[str, ...]:
        return super().parameter_names + (("filter",) if self.filter == "random" else ())

    @property
    def why_not_linear(self) -> str:
        return "may draw another size for each image, so A is not known"

    def __call__(self, x_0: Tensor, generator: Generator) -> Degraded:
        # One by one: each image has its own random size.
        parts = [self.stage(x_0[i : i + 1], one) for i, one in enumerate(per_sample(generator, len(x_0)))]
        back = [resized(part.x_1, x_0.shape[-2:], "bicubic") for part in parts]
        names = self.parameter_names
        return Degraded(torch.cat(back), parameters={n: torch.cat([p.parameters[n] for p in parts]) for n in names})

    def stage(self, x: Tensor, generator: Generator) -> Degraded:
        """As `Degradation.stage`, of one image (1, C, H, W)."""
        draws = Draws(self, x, generator)
        factor = float(draws("factor"))
        if self.filter == "random":
            pick = (rand((1,), generator) * len(FILTERS)).floor()
            draws.record("filter", pick)
            kernel: Resampling = FILTERS[int(pick)]
        else:
            kernel = self.filter
        height, width = (max(1, round(side * factor)) for side in x.shape[-2:])
        return Degraded(resized(x, (height, width), kernel), parameters=draws.parameters)
