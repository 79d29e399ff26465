"""Decoded images (`Picture`: pixels, alpha, metadata), and their conversion to tensors in [-1, 1] and back."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from i2i_bridge.errors import UserError, plural
from i2i_bridge.images.metadata import ORIENTATION, Metadata, as_srgb, exif_with_density

NO_METADATA = Metadata()


@dataclass(frozen=True)
class Picture:
    """A decoded image.

    Args:
        pixels: (H, W, C), uint8, uint16 or float32; C = 1 (grey), 3 (RGB), or any number (from `.npy`).
        alpha: Opacity (H, W) of the same dtype, or None.
        frames: Number of frames or pages in the file; `pixels` is the first.
        lossy: Whether the file has lossy compression (JPEG, and WebP that is not lossless).
        metadata: Profile, density and EXIF fields that are written with the result, if they were read.
        value_range: The values of black and white given by the caller; None: as in the recipe.
        converted_from: The colour space of the file, such as CMYK, if the pixels were converted.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None = None
    frames: int = 1
    lossy: bool = False
    metadata: Metadata = NO_METADATA
    value_range: "Range" = None
    converted_from: str = ""


def from_array(array: np.ndarray) -> Picture:
    """Convert an array (H, W) or (H, W, C) to a Picture; floats become float32.

    Raises:
        UserError: The shape or dtype is not supported, or values are not finite.
    """
    check_array(array.shape, array.dtype)
    pixels = np.array(array, dtype=array.dtype if array.dtype.kind == "u" else np.float32)
    if not np.isfinite(pixels).all():
        raise UserError("holds values that are not finite")
    return Picture(pixels if pixels.ndim == 3 else pixels[..., None])


def check_array(shape: tuple[int, ...], dtype: np.dtype) -> None:
    if len(shape) not in (2, 3) or min(shape) < 1:
        raise UserError(f"an array of shape {shape}; an image is (height, width) or (height, width, channels)")
    if dtype not in (np.uint8, np.uint16, np.float16, np.float32, np.float64):
        raise UserError(f"an array of {str(dtype)[:40]}; images are uint8, uint16 or float")


def from_pil(image: Image.Image) -> Picture:
    """Convert a PIL image to a Picture.

    L, LA, 1, P, RGB, RGBA, CMYK, YCbCr, LAB and HSV give 8 bits, I;16 gives 16-bit grey, F gives floats. Palette
    transparency becomes alpha. EXIF orientation is applied. CMYK is converted to sRGB by its profile, if it has one.

    Raises:
        UserError: The image has no pixel, the range of the values is unknown (32-bit integers beyond 16 bits), or
            values are not finite.
    """
    if not (image.width and image.height):
        raise UserError(f"an image of {image.width}x{image.height} pixels")
    if image.getexif().get(ORIENTATION, 1) != 1:  # otherwise exif_transpose would copy the image
        image = ImageOps.exif_transpose(image)
    mode = image.mode
    if mode.startswith("I;16"):
        return Picture(np.asarray(image).astype(np.uint16)[..., None])
    if mode == "I":
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise UserError(
                "32-bit integer pixels beyond 16 bits have no known range; convert the image to 8 or 16 bits"
            )
        return Picture(values.astype(np.uint16)[..., None])
    if mode == "F":
        return from_array(np.asarray(image))
    transparent = mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info
    grey = mode in ("1", "L", "LA", "La")
    wanted = ("LA" if grey else "RGBA") if transparent else ("L" if grey else "RGB")
    other = mode if mode in ("CMYK", "LAB", "HSV") else ""
    by_profile = as_srgb(image, image.info["icc_profile"]) if mode == "CMYK" and "icc_profile" in image.info else None
    array = np.asarray(by_profile or (image if mode == wanted else image.convert(wanted)))
    if array.ndim == 2:
        array = array[..., None]
    if transparent:
        return Picture(np.ascontiguousarray(array[..., :-1]), np.ascontiguousarray(array[..., -1]))
    return Picture(array, converted_from=other)


def to_pil(picture: Picture) -> Image.Image:
    """Convert a Picture to a PIL image of mode L, LA, RGB, RGBA, I;16 or F, with the metadata in `info`.

    Raises:
        UserError: Pillow cannot store the picture: 16-bit colour, 16 bits or floats with alpha, or other numbers of
            channels.
    """
    pixels, alpha = picture.pixels, picture.alpha
    if pixels.shape[2] not in (1, 3):
        raise UserError(f"a PIL image holds 1 or 3 channels, not {pixels.shape[2]}; use .npy files or arrays")
    if pixels.dtype != np.uint8:
        if pixels.shape[2] != 1 or alpha is not None:
            raise UserError(f"a PIL image holds {pixels.dtype} for grey without alpha only; use files or arrays")
        image = Image.fromarray(np.ascontiguousarray(pixels[..., 0]))
    else:
        image = Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels))
        if alpha is not None:
            image.putalpha(Image.fromarray(np.ascontiguousarray(alpha)))
    image.info.update(metadata_to_save(picture, ""))
    return image


def metadata_to_save(picture: Picture, kind: str) -> dict[str, Any]:
    """The metadata as options of Pillow's `save` for a format."""
    kept = picture.metadata
    density = kept.density
    if density is not None and kind == "JPEG":  # a JPEG stores integers
        density = (max(round(density[0]), 1), max(round(density[1]), 1))
    exif = exif_with_density(kept) if kind == "WEBP" else kept.exif
    options = {"icc_profile": kept.profile_for(picture.pixels.shape[2]), "dpi": density, "exif": exif}
    return {name: value for name, value in options.items() if value is not None}


def with_channels(pixels: np.ndarray, channels: int) -> np.ndarray:
    """Convert pixels (H, W, C) to 1 or 3 channels: grey is repeated, RGB becomes luma 0.299 R + 0.587 G + 0.114 B.

    Raises:
        UserError: Any other conversion.
    """
    have = pixels.shape[2]
    if have == channels:
        return pixels
    if have == 1:
        return np.repeat(pixels, channels, axis=2)
    if have == 3 and channels == 1:
        luma = pixels.astype(np.float64) @ _LUMA[3]
        grey: np.ndarray = np.rint(luma).astype(pixels.dtype)[..., None]
        return grey
    raise UserError(f"an image of {plural(have, 'channel')} cannot become one of {channels}")


Range = tuple[float, float] | None
"""The pixel values that map to -1 and 1; None: 0 and the largest value of the integer dtype."""


def to_tensor(pixels: np.ndarray, value_range: Range = None) -> Tensor:
    """Convert pixels (H, W, C) to a float32 tensor (C, H, W) in [-1, 1]: 2 (value - low) / (high - low) - 1.

    Args:
        pixels: uint8, uint16 or float32.
        value_range: (low, high). Values outside give results outside [-1, 1].

    Raises:
        UserError: Float pixels without a range.
    """
    low, high = _ends(pixels.dtype, value_range)
    height, width, channels = pixels.shape
    x = np.empty((channels, height, width), np.float32)
    for rows in _bands(pixels.shape):
        x[:, rows] = ((pixels[rows].astype(np.float64) - low) / ((high - low) / 2) - 1).transpose(2, 0, 1)
    return torch.from_numpy(x)


def to_pixels(x: Tensor, dtype: np.dtype | type = np.uint8, value_range: Range = None) -> np.ndarray:
    """Convert an image (C, H, W) to pixels (H, W, C): low + (x + 1) (high - low) / 2, with x clamped to [-1, 1].

    For an integer dtype the values are rounded to the nearest.
    """
    low, high = _ends(np.dtype(dtype), value_range)
    channels, height, width = x.shape
    image, pixels = x.detach().cpu(), np.empty((height, width, channels), dtype)
    for rows in _bands(pixels.shape):
        values = (image[:, rows].double().clamp(-1, 1).numpy() + 1) * ((high - low) / 2) + low
        if pixels.dtype.kind == "u":
            values = np.rint(values).clip(0, np.iinfo(dtype).max)  # value_range may be wider than the dtype's range
        pixels[rows] = values.transpose(1, 2, 0)
    return pixels


def _bands(shape: tuple[int, ...]) -> Iterator[slice]:
    """The rows of pixels (H, W, C) in parts of about a million values, whose float64 need little memory."""
    height, width, channels = shape
    step = max(2**20 // max(width * channels, 1), 1)
    return (slice(first, first + step) for first in range(0, height, step))


def to_mask(pixels: np.ndarray) -> Tensor:
    """Convert grey pixels (H, W, 1) to a mask (1, H, W), float32 in {0, 1}: 1 for values above half of their range."""
    half = _half(pixels.dtype)
    return torch.from_numpy((pixels > half).astype(np.float32).transpose(2, 0, 1).copy())


def mask_of(picture: Picture) -> tuple[np.ndarray, str]:
    """Convert a picture to the grey pixels (H, W, 1) of a mask for `to_mask`, and a remark if it was interpreted.

    * White (above half of the range) is unknown.
    * Transparent parts are unknown, as in a photo with an erased region; but if all opaque pixels are white, the white
      is unknown: a hole painted on an empty layer.
    * If there are only two values and neither is white, such as 0 and 1, the larger is unknown.

    Raises:
        UserError: Other values without white, or a picture with black, white and transparent parts.
    """
    half = _half(picture.pixels.dtype)
    top = 1.0 if picture.pixels.dtype.kind == "f" else float(np.iinfo(picture.pixels.dtype).max)

    def codes(unknown: np.ndarray) -> np.ndarray:
        return (unknown[..., None] * top).astype(picture.pixels.dtype)

    if picture.alpha is not None:
        clear = picture.alpha <= _half(picture.alpha.dtype)
        if clear.any():
            seen = with_channels(picture.pixels, 1)[..., 0][~clear]
            if seen.size and seen.min() > half:
                return codes(~clear), "white on transparency: the white is taken as unknown"
            if seen.size and seen.min() == 0 and seen.max() == top and np.isin(seen, (0, top)).all():
                raise UserError("a mask of black, white and transparent parts; save it in black and white only")
            return codes(clear), "with transparent parts, which are taken as unknown"
    pixels = with_channels(picture.pixels, 1)
    if pixels.max() > half or not picture.pixels.any():
        return pixels, ""
    # Not rounded to integers as in `with_channels`: a red of 1 would become a grey of 0.
    grey = np.round(picture.pixels.astype(np.float64) @ _LUMA[picture.pixels.shape[2]], 6)
    low, high = float(grey.min()), float(grey.max())
    if low > high / 2 or not ((grey == low) | (grey == high)).all():
        raise UserError(
            f"not a mask: its values lie from {low:.4g} to {high:.4g} of {top:.4g}, and none is above half; make "
            "what is unknown white"
        )
    return codes(grey == high), f"of the values {low:.4g} and {high:.4g}: {high:.4g} is taken as unknown"


_LUMA = {1: np.ones(1), 3: np.array([0.299, 0.587, 0.114])}


def _half(dtype: np.dtype) -> float:
    return float(np.iinfo(dtype).max / 2) if dtype.kind == "u" else 0.5


def opaque(picture: Picture) -> np.ndarray:
    """The pixels (H, W, C) blended over white by their opacity, as an image viewer shows them."""
    if picture.alpha is None:
        return picture.pixels
    top = np.iinfo(picture.alpha.dtype).max
    if picture.alpha.min() == top:
        return picture.pixels
    share = picture.alpha[..., None].astype(np.float64) / top
    white = np.iinfo(picture.pixels.dtype).max
    over: np.ndarray = np.rint(picture.pixels * share + white * (1 - share)).astype(picture.pixels.dtype)
    return over


def visible(picture: Picture) -> np.ndarray:
    """The pixels (H, W, C), white where the opacity is 0: the colours stored there are invisible and arbitrary."""
    if picture.alpha is None or picture.alpha.min() > 0:
        return picture.pixels
    white = np.iinfo(picture.pixels.dtype).max
    return np.where(picture.alpha[..., None] == 0, picture.pixels.dtype.type(white), picture.pixels)


def shown(x: Tensor) -> np.ndarray:
    """Convert an image (C, H, W) to 8-bit colour (H, W, 3) for display: the first three channels, or grey."""
    pixels = to_pixels(x[:3] if x.shape[0] != 2 else x[:1])
    return with_channels(pixels, 3)


def _ends(dtype: np.dtype, value_range: Range) -> tuple[float, float]:
    if value_range is not None:
        return value_range
    if dtype.kind != "u":
        raise UserError(
            "float pixels have no known range; set data.value_range = [low, high] in the recipe, or in Python give "
            "value_range=(0, 1) or (-1, 1); or give uint8 or uint16"
        )
    return 0.0, float(np.iinfo(dtype).max)
