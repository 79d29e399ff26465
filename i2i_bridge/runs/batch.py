"""Conversion between pictures and a run's batch: padding to the network's stride, size checks, alpha."""

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from i2i_bridge.errors import UserError
from i2i_bridge.images.pixels import Picture


def degraded_batch(degraded: Any) -> dict[str, Tensor]:
    """The fields of a `Degraded` that are not None, as a batch."""
    fields = {"x_1": degraded.x_1, "mask": degraded.mask, "condition": degraded.condition}
    return {name: value for name, value in fields.items() if value is not None}


def pad_to_stride(x: Tensor, stride: int, smallest: int) -> Tensor:
    """Pad images (B, C, H, W) by reflection at the right and lower edge to multiples of stride, at least `smallest`.

    The reflection repeats where the image is smaller than the padding.
    """
    for axis in (-2, -1):
        side = x.shape[axis]
        missing = max(-side % stride, smallest - side)
        if missing:
            # 0 1 2 3 2 1 0 1 ...: reflection without repeating the edge, of any length.
            period = max(2 * (side - 1), 1)
            ramp = torch.arange(side + missing) % period
            index = torch.minimum(ramp, period - ramp) if side > 1 else torch.zeros_like(ramp)
            x = x.index_select(axis, index.to(x.device))
    return x


def check_size(name: str, other: Picture, picture: Picture, factor: int) -> None:
    height, width = (side * factor for side in picture.pixels.shape[:2])
    other_height, other_width = other.pixels.shape[:2]
    if (height, width) != (other_height, other_width):
        what = "the image" if factor == 1 else "the restored image"
        raise UserError(
            f"the {name} is {other_width}x{other_height} pixels and {what} {width}x{height}; they must agree"
        )


def alpha_like(alpha: np.ndarray | None, pixels: np.ndarray) -> np.ndarray | None:
    """Resize opacity (H, W) to the size of pixels (H', W', C), bicubically; None stays None."""
    if alpha is not None and alpha.shape != pixels.shape[:2]:
        size = (pixels.shape[1], pixels.shape[0])
        floats = Image.fromarray(alpha.astype(np.float32)).resize(size, Image.Resampling.BICUBIC)
        alpha = np.rint(np.asarray(floats)).clip(0, np.iinfo(alpha.dtype).max).astype(alpha.dtype)
    return alpha
