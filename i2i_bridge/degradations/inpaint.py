"""Inpainting: part of the image is missing."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from i2i_bridge.degradations.base import Degradation, Degraded, binary_mask
from i2i_bridge.degradations.linear import LinearOperator, diagonal
from i2i_bridge.degradations.masks import brush_mask, center_mask, folder_mask, mask_files, packed_mask, packed_masks
from i2i_bridge.degradations.ranges import Draws, Range, WholeRange
from i2i_bridge.errors import UserError
from i2i_bridge.randomness import Generator, per_sample, rand, randn_like
from i2i_bridge.registry import register_degradation

Fill = Literal["noise", "white", "grey"]


class Holed(Degradation):
    """Base class of degradations with holes: x_1 = (1 - mask) x_0 + mask fill; known pixels are kept exactly."""

    fill: Fill

    @property
    def masked(self) -> bool:
        return True

    def prepare(self, image: Tensor, generator: Generator, mask: Tensor | None = None) -> Degraded:
        """As `Degradation.prepare`; the image's pixels in the hole are not used.

        Raises:
            UserError: No mask, or one of another size.
        """
        if mask is None:
            raise UserError("inpainting needs a mask of the hole, white = unknown (--mask FILE, or mask= in Python)")
        return self._filled(image, binary_mask(mask, image), generator)

    def linear(self, height: int, width: int, mask: Tensor | None = None) -> LinearOperator:
        """A = 1 - mask.

        Raises:
            UserError: No mask, or one of another size.
        """
        if mask is None or mask.shape[-2:] != (height, width):
            raise UserError(f"{type(self).__name__}: A depends on the hole; give its mask, {height} x {width}")
        return diagonal(mask)

    def measurement(self, degraded: Degraded) -> Tensor:
        """The known pixels, and 0 in the hole."""
        return diagonal(degraded.mask).forward(degraded.x_1)

    def _filled(self, x: Tensor, mask: Tensor, generator: Generator) -> Degraded:
        if self.fill == "noise":
            fill = randn_like(x, generator)
        else:
            fill = torch.full_like(x, 1.0 if self.fill == "white" else 0.0)
        # Not by arithmetic: pixels in the hole may be NaN, and known pixels stay bit-exact.
        return Degraded(torch.where(mask > 0, fill, x), mask)


@register_degradation("inpaint")
@dataclass(frozen=True)
class Inpaint(Holed):
    """x_1 = (1 - mask) x_0 + mask fill; known pixels are kept exactly.

    Args:
        mask: "center": the middle half of each side. "freeform": brush strokes. "folder": mask images. "file": the
            packed free-form masks of Palette, which the paper trained and scored on.
        area: Band of a freeform hole's share of the image, above 0 and at most 0.9; 0.1 to 0.2 if not given. Of a
            file, the band to take.
        folder: Folder of mask images, white = hole; read only when images are degraded, so that a trained
            model can be used where the folder is not.
        file: Likewise an .npz of packed masks (`packed_masks`).
        fill: "noise": N(0, 1), which the paper found essential; "white" = 1; "grey" = 0.
    """

    mask: Literal["center", "freeform", "folder", "file"] = "center"
    area: tuple[float, float] | None = None
    folder: Path | None = None
    file: Path | None = None
    fill: Fill = "noise"

    def __post_init__(self) -> None:
        super().__post_init__()
        for kind, place in (("folder", self.folder), ("file", self.file)):
            if (place is not None) != (self.mask == kind):
                raise UserError(
                    f"Inpaint: mask = '{self.mask}' but {kind} = {place}; mask = '{kind}' needs a {kind},"
                    " and no other mask takes one"
                )
        if self.area is not None:
            if self.mask not in ("freeform", "file"):
                raise UserError(f"Inpaint: area is for mask = 'freeform' and 'file', not '{self.mask}'")
            low, high = self.area
            if not 0 < low <= high <= 0.9:
                raise UserError(f"Inpaint: area = [{low}, {high}] must be two rising shares above 0 and at most 0.9")

    @cached_property
    def _files(self) -> list[Path]:
        return mask_files(Path(self.folder or "."))

    @cached_property
    def _packed(self) -> npt.NDArray[np.uint8]:
        return packed_masks(Path(self.file or "."), self.area or (0.1, 0.2))

    def __call__(self, x_0: Tensor, generator: Generator) -> Degraded:
        height, width = x_0.shape[-2:]
        if self.mask == "center":
            return self._filled(x_0, center_mask(height, width).to(x_0).repeat(len(x_0), 1, 1, 1), generator)
        masks = [self._draw_mask(height, width, one) for one in per_sample(generator, len(x_0))]
        return self._filled(x_0, torch.stack(masks)[:, None].to(x_0), generator)

    def _draw_mask(self, height: int, width: int, generator: torch.Generator) -> Tensor:
        if self.mask == "freeform":
            return brush_mask(height, width, self.area or (0.1, 0.2), generator)
        if self.mask == "file":
            return packed_mask(self._packed, height, width, generator)
        return folder_mask(self._files, height, width, generator)


@register_degradation("crop-out")
@dataclass(frozen=True)
class CropOut(Holed):
    """x_1 = (1 - mask) x_0 + mask fill, with rectangles as holes; they may overlap.

    Args:
        count: How many. A whole number, or [low, high].
        size: Share of the image's side that each side of a rectangle has, drawn for each from [low, high].
        fill: As in `inpaint`.
    """

    count: WholeRange = (1, 3)
    size: Range = (0.1, 0.4)
    fill: Fill = "noise"
    limits: ClassVar = {"count": (1, 100), "size": (0.001, 1)}

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """The count. The sizes are not listed: each image has several, and the mask shows them."""
        return tuple(name for name in super().parameter_names if name == "count")

    def __call__(self, x_0: Tensor, generator: Generator) -> Degraded:
        draws = Draws(self, x_0, generator)
        counts = draws("count", whole=True)
        height, width = x_0.shape[-2:]
        masks = [
            self._draw_mask(height, width, int(count), one)
            for count, one in zip(counts, per_sample(generator, len(x_0)), strict=True)
        ]
        filled = self._filled(x_0, torch.stack(masks)[:, None].to(x_0), generator)
        return Degraded(filled.x_1, filled.mask, parameters=draws.parameters)

    def _draw_mask(self, height: int, width: int, count: int, generator: torch.Generator) -> Tensor:
        low, high = self.size if isinstance(self.size, tuple | list) else (self.size, self.size)
        mask = torch.zeros(height, width)
        for place in rand((count, 4), generator).tolist():
            (top, rows), (left, columns) = (
                _interval(side, low + (high - low) * share, shift)
                for side, share, shift in ((height, place[0], place[1]), (width, place[2], place[3]))
            )
            mask[top : top + rows, left : left + columns] = 1
        return mask


def _interval(side: int, share: float, shift: float) -> tuple[int, int]:
    """Start and length of an interval inside 0..side; shift in [0, 1) is its relative position."""
    length = max(1, round(side * share))
    return int(shift * (side - length + 1)), length
