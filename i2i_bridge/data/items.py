"""The images of an item: read, checked against each other, decoded to pixels of one size, and described."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from i2i_bridge.data.source import IMAGES
from i2i_bridge.data.transforms import Enlargement, enlarged, factor_between
from i2i_bridge.errors import UserError, located
from i2i_bridge.images.files import image_size, read_picture
from i2i_bridge.images.pixels import Picture, from_pil, mask_of, opaque, to_mask, to_pixels, with_channels

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
EMPTY_MASK = "with a mask that marks no pixel (white means unknown), which teaches nothing"


def location(item: dict[str, Any]) -> str:
    """The files of an item, or its key if it has none; for messages."""
    files = [str(item[part]) for part in ("file", "x_0", "x_1", "condition") if isinstance(item.get(part), Path | str)]
    return " and ".join(files) or str(item["key"])


def decode_item(
    item: dict[str, Any],
    channels: int,
    condition_channels: int = 0,
    enlarge: Enlargement = "bicubic",
    factor: int | None = None,
) -> dict[str, np.ndarray]:
    """Decode an item: pixels (H, W, C) of x_0 and, if present, x_1, mask and condition, all of one size.

    Args:
        item: An item of a dataset.
        channels: Number of channels of x_0 and x_1 after conversion.
        condition_channels: Number of channels of the condition after conversion; 0 for no conversion.
        enlarge: Interpolation by which a smaller x_1 is enlarged to the size of x_0.
        factor: Required factor between the sizes of x_0 and x_1; by default any integer.

    Raises:
        UserError: A file is unreadable, the images differ in size, or channels cannot be converted.
    """
    images = raw_pixels(item)
    wanted = {"mask": 1, "condition": condition_channels}
    with located(location(item)):
        if "x_1" in images:
            images["x_1"] = _of_one_size(images, enlarge, factor)
        return {
            part: with_channels(pixels, wanted.get(part, channels) or pixels.shape[2])
            for part, pixels in images.items()
        }


def raw_pixels(item: dict[str, Any]) -> dict[str, np.ndarray]:
    """The pixels (H, W, C) of an item's images without conversion of channels, blended over white if transparent.

    Raises:
        UserError: A file is unreadable, the images differ in size, or the mask is invalid (`mask_of`).
    """
    return {
        part: _mask_pixels(item, picture)[0] if part == "mask" else opaque(picture)
        for part, picture in pictures_of(item).items()
    }


def pictures_of(item: dict[str, Any]) -> dict[str, Picture]:
    """Read the images of an item: x_0 and, if present, x_1, mask and condition.

    All have the same size, except that x_1 may be smaller by an integer factor.

    Raises:
        UserError: A file is unreadable, or the images differ in size.
    """
    where = location(item)
    parts = [part for part in IMAGES if part in item]
    pictures: dict[str, Picture] = {part: _picture(item[part], where, part == "mask") for part in parts}
    sizes = {part: picture.pixels.shape[:2] for part, picture in pictures.items()}
    others = {size for part, size in sizes.items() if part != "x_1"}
    if len(others) > 1 or ("x_1" in sizes and not factor_between(sizes["x_0"], sizes["x_1"])):
        shown = ", ".join(f"{part} {width}x{height}" for part, (height, width) in sizes.items())
        raise UserError(f"{where}: the images of a pair differ in size ({shown})")
    return pictures


def _of_one_size(images: dict[str, np.ndarray], enlarge: Enlargement, factor: int | None) -> np.ndarray:
    """Enlarge x_1 to the size of x_0."""
    (height, width), (low, narrow) = images["x_0"].shape[:2], images["x_1"].shape[:2]
    times = height // low
    if factor is not None and times != factor:
        raise UserError(
            f"x_0 is {width}x{height} and x_1 {narrow}x{low} pixels, {times} to 1; in this dataset or run it is "
            f"{factor} to 1 (data.factor)"
        )
    return enlarged(images["x_1"], times, enlarge)


def size_of(image: Any, where: str) -> tuple[int, int]:
    """(height, width) of an image of an item; for a file, only the header is read.

    Raises:
        UserError: The value is not an image.
    """
    if isinstance(image, Path | str | bytes):
        return image_size(where if isinstance(image, bytes) else image, image if isinstance(image, bytes) else None)
    if isinstance(image, Image.Image):
        return image.height, image.width
    shape = getattr(image, "shape", ())
    if len(shape) not in (2, 3):
        raise UserError(f"{where}: the dataset gave {type(image).__name__}, which is no image")
    height, width = map(int, shape[-2:] if isinstance(image, Tensor) else shape[:2])
    return height, width


def remarks(item: dict[str, Any], pictures: dict[str, Picture]) -> list[str]:
    """Remarks on the transparency and the mask of an item, as phrases that can be counted over items.

    Raises:
        UserError: The mask is invalid (`mask_of`).
    """
    phrases = []
    if any(opaque(picture) is not picture.pixels for part, picture in pictures.items() if part != "mask"):
        phrases.append("with transparent parts, which are shown on white")
    if "mask" in pictures:
        pixels, remark = _mask_pixels(item, pictures["mask"])
        mask = to_mask(pixels)
        phrases += [f"with a mask {remark}"] if remark else []
        phrases += [] if mask.any() else [EMPTY_MASK]
        phrases += ["with a mask that marks every pixel as unknown"] if mask.all() else []
    return phrases


def _mask_pixels(item: dict[str, Any], picture: Picture) -> tuple[np.ndarray, str]:
    with located(item["mask"] if isinstance(item["mask"], Path | str) else location(item)):
        return mask_of(picture)


def _picture(
    image: Path | str | bytes | Image.Image | np.ndarray | Tensor, where: str, is_mask: bool = False
) -> Picture:
    if isinstance(image, Path | str):
        return read_picture(image)
    if isinstance(image, bytes):
        return read_picture(where, image)
    if isinstance(image, Tensor):
        if is_mask and image.dtype in (torch.bool, *FLOATS) and bool((image >= 0).all()):
            image = image * 2.0 - 1  # a mask of 0 and 1; otherwise 0 would be read as the middle of [-1, 1]
        with located(where):
            return Picture(_tensor_pixels(image))
    if isinstance(image, Image.Image):
        return from_pil(image)
    if isinstance(image, np.ndarray) and image.dtype in (np.uint8, np.uint16, np.float32):
        return Picture(image if image.ndim == 3 else image[..., None])
    raise UserError(
        f"{where}: the dataset gave {type(image).__name__}; images are paths, bytes of a file, PIL images, "
        "uint8, uint16 or float32 arrays (H, W, C), or tensors (C, H, W) of uint8 or of floats in [-1, 1]"
    )


def _tensor_pixels(image: Tensor) -> np.ndarray:
    if image.ndim != 3:
        raise UserError(f"a tensor of shape {tuple(image.shape)}; an image is (C, H, W)")
    if image.dtype == torch.uint8:
        return np.ascontiguousarray(image.cpu().permute(1, 2, 0).numpy())
    if not image.is_floating_point():
        raise UserError(f"a tensor of {image.dtype}; images are uint8, or floats in [-1, 1]")
    # A tolerance of half a 16-bit step for rounding; images in [0, 255] exceed it by far.
    if not (image.abs() <= 1 + 1e-5).all():
        raise UserError(f"a float tensor must lie in [-1, 1]; from {image.min():.4g} to {image.max():.4g}")
    return to_pixels(image, np.uint16)
