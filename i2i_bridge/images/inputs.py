"""Convert images given by a Python caller (files, bytes, PIL images, arrays, tensors, lists), and results back."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from i2i_bridge.errors import UserError, plural
from i2i_bridge.images.files import read_picture
from i2i_bridge.images.metadata import metadata_of
from i2i_bridge.images.pixels import Picture, Range, from_array, from_pil, to_pil
from i2i_bridge.storage.names import expanded

AnyImage = str | Path | bytes | Image.Image | np.ndarray | Tensor
Images = AnyImage | Sequence[AnyImage]
KINDS = (
    "a file (path or bytes), a PIL image, an array (H, W), (H, W, C) or (B, H, W, C), a tensor (C, H, W) or "
    "(B, C, H, W), or a list of these"
)
MARGIN = 0.1
"""Share of the value range by which floats may exceed it: filters overshoot by less, a wrong range gives far more."""
Back = Callable[[list[Picture]], Any]


def inputs_of(
    image: Images, mask: Images | None, condition: Images | None, value_range: Range
) -> tuple[list[tuple[Picture, Picture | None, Picture | None]], Back]:
    """Convert images with their masks and conditions: (picture, mask, condition) of each, and the function of results.

    A single mask or condition is used for all images; without one it is None. Arrays and tensors of masks may be
    boolean.

    Raises:
        UserError: A type is not supported, an input is empty, its values exceed the range, or there are not as many
            masks or conditions as images.
    """
    pictures, back = _pictures(image, value_range)
    count = len(pictures)
    masks = _for_each("mask", [None] if mask is None else _pictures(_without_booleans(mask))[0], count)
    conditions = _for_each("condition", [None] if condition is None else _pictures(condition, value_range)[0], count)
    return list(zip(pictures, masks, conditions, strict=True)), back


def _pictures(image: Images, value_range: Range = None) -> tuple[list[Picture], Back]:
    """Convert an image, batch or list to pictures, and return a function that converts results to the same type.

    Args:
        image: One of `KINDS`. Arrays and tensors are uint8, uint16 or floats.
        value_range: The float values of black and white; None: as in the recipe.

    Raises:
        UserError: The type is not supported, the input is empty, or its values exceed the range.
    """
    if isinstance(image, list | tuple):
        return _listed(image, value_range)
    if isinstance(image, Tensor):
        return _of_tensor(image, value_range)
    if isinstance(image, np.ndarray):
        dtype = image.dtype
        if image.ndim != 4:
            return [_array_picture(image, value_range)], lambda results: results[0].pixels.astype(dtype, copy=False)
        if not len(image):
            raise UserError("an array of no images")
        pictures = [_array_picture(one, value_range) for one in image]
        return pictures, lambda results: np.stack([result.pixels for result in results]).astype(dtype, copy=False)
    if isinstance(image, Image.Image):
        return [replace(from_pil(image), metadata=metadata_of(image))], lambda results: to_pil(results[0])
    if isinstance(image, bytes | bytearray):
        picture = read_picture("the bytes given", bytes(image), metadata=True)
    elif isinstance(image, str | Path):
        picture = read_picture(expanded(image), metadata=True)
    else:
        raise UserError(f"not an image: {type(image).__name__}; give {KINDS}")
    return [picture], lambda results: to_pil(results[0])


def _for_each(name: str, images: Sequence[Picture | None], count: int) -> list[Picture | None]:
    if len(images) not in (1, count):
        raise UserError(f"{plural(len(images), 'image')} as {name} for {count}; give one, or one for each")
    return [*images] * count if len(images) == 1 else [*images]


def _without_booleans(mask: Any) -> Any:
    if isinstance(mask, list | tuple):
        return [_without_booleans(one) for one in mask]
    if isinstance(mask, Tensor):
        array = mask.detach().cpu().float().numpy() if mask.is_floating_point() else mask.detach().cpu().numpy()
        mask = np.moveaxis(array, -3, -1) if array.ndim >= 3 else array
    return mask.astype(np.uint8) * 255 if isinstance(mask, np.ndarray) and mask.dtype == np.bool_ else mask


def _listed(images: Sequence[AnyImage], value_range: Range) -> tuple[list[Picture], Back]:
    if not images:
        raise UserError("a list of no images")
    parts = [_pictures(one, value_range) for one in images]

    def back(results: list[Picture]) -> list[Any]:
        rest = iter(results)
        return [back_of_part(list(itertools.islice(rest, len(pictures)))) for pictures, back_of_part in parts]

    return [picture for pictures, _ in parts for picture in pictures], back


def _array_picture(array: np.ndarray, value_range: Range) -> Picture:
    picture = from_array(array)
    return _ranged(picture, value_range) if picture.pixels.dtype.kind == "f" else picture


def _ranged(picture: Picture, value_range: Range) -> Picture:
    if value_range is None:
        return picture
    low, high = _ends_of(value_range)
    least, most = float(picture.pixels.min()), float(picture.pixels.max())
    room = MARGIN * (high - low)
    if least < low - room or most > high + room:
        raise UserError(f"values from {least:.4g} to {most:.4g} are beyond value_range={value_range}")
    return replace(picture, value_range=(low, high))


def _ends_of(value_range: Any) -> tuple[float, float]:
    """The two ends of a range that a caller gave.

    Raises:
        UserError: It is no pair of finite numbers, the smaller one first.
    """
    try:
        low, high = (float(end) for end in value_range)
    except (TypeError, ValueError):
        low = high = math.nan
    if not (low < high and math.isfinite(high - low)):
        raise UserError(f"value_range={value_range!r}: give (low, high), such as (0, 1) or (-1, 1)")
    return low, high


def _of_tensor(tensor: Tensor, value_range: Range) -> tuple[list[Picture], Back]:
    if tensor.ndim not in (3, 4) or not tensor.numel():
        raise UserError(f"a tensor of shape {tuple(tensor.shape)}; an image is (C, H, W), a batch (B, C, H, W)")
    if not (tensor.is_floating_point() or tensor.dtype in (torch.uint8, torch.uint16)):
        raise UserError(f"a tensor of {tensor.dtype}; give uint8, uint16 or floats with value_range=(0, 1) or (-1, 1)")
    values = tensor.detach().cpu()
    array = (values.float() if tensor.is_floating_point() else values).numpy()
    batch = np.moveaxis(array if tensor.ndim == 4 else array[None], 1, 3)
    pictures = [_array_picture(one, value_range) for one in batch]

    def back(results: list[Picture]) -> Tensor:
        stacked = torch.from_numpy(np.ascontiguousarray(np.stack([np.moveaxis(p.pixels, 2, 0) for p in results])))
        moved = stacked.to(tensor.device, tensor.dtype)
        return moved if tensor.ndim == 4 else moved[0]

    return pictures, back
