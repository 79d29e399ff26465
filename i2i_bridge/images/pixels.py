"""Pictures (arrays with alpha, depth and metadata) to tensors in [-1, 1] and back."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from i2i_bridge.errors import UserError
from i2i_bridge.images.metadata import ORIENTATION, Metadata, as_srgb, exif_with_density

NO_METADATA = Metadata()


@dataclass(frozen=True)
class Picture:
    """A decoded image.

    Args:
        pixels: (H, W, C), uint8, uint16 or float32; C = 1 (grey), 3 (RGB), or any number (from `.npy`).
        alpha: Opacity (H, W) of the same dtype, or None.
        frames: Images in the file: an animation or many pages, of which `pixels` is the first.
        lossy: Whether the file was compressed with loss (JPEG, and WebP that is not lossless).
        metadata: Profile, density and EXIF fields that are written again, where they were asked for.
        value_range: The values that mean black and white, where the caller said it; None: the dataset's.
        converted_from: The file's kind of colours, such as CMYK, where the pixels are not those of the file.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None = None
    frames: int = 1
    lossy: bool = False
    metadata: Metadata = NO_METADATA
    value_range: "Range" = None
    converted_from: str = ""


def from_array(array: np.ndarray) -> Picture:
    """An array (H, W) or (H, W, C) as a Picture; floats become float32.

    Raises:
        UserError: Another shape or type, or values that are not finite.
    """
    _check_array(array.shape, array.dtype)
    pixels = np.array(array, dtype=array.dtype if array.dtype.kind == "u" else np.float32)
    if not np.isfinite(pixels).all():
        raise UserError("holds values that are not finite")
    return Picture(pixels if pixels.ndim == 3 else pixels[..., None])


def _check_array(shape: tuple[int, ...], dtype: np.dtype) -> None:
    if len(shape) not in (2, 3) or min(shape) < 1:
        raise UserError(f"an array of shape {shape}; an image is (height, width) or (height, width, channels)")
    if dtype not in (np.uint8, np.uint16, np.float16, np.float32, np.float64):
        raise UserError(f"an array of {str(dtype)[:40]}; images are uint8, uint16 or float")


def from_pil(image: Image.Image) -> Picture:
    """A PIL image as a Picture: L, LA, 1, P, RGB, RGBA, CMYK, YCbCr, LAB, HSV in 8 bits, I;16 (grey) in 16, F as float.

    Palette transparency becomes alpha. EXIF orientation is applied. CMYK becomes sRGB by its profile, if it has one.

    Raises:
        UserError: Values whose range is unknown (32-bit integers beyond 16 bits), or not finite.
    """
    if image.getexif().get(ORIENTATION, 1) != 1:  # else it would be copied
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
    """The Picture as L, LA, RGB, RGBA, I;16 or F, with its metadata in `info`, where `save` of some formats finds it.

    Raises:
        UserError: 16-bit colour, 16 bits or floats with alpha, or other numbers of channels, which Pillow cannot hold.
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
    image.info.update(_saved_metadata(picture, ""))
    return image


def _saved_metadata(picture: Picture, kind: str) -> dict[str, Any]:
    """What Pillow's `save` of a format takes of the metadata."""
    kept = picture.metadata
    density = kept.density
    if density is not None and kind == "JPEG":  # whole numbers
        density = (max(round(density[0]), 1), max(round(density[1]), 1))
    exif = exif_with_density(kept) if kind == "WEBP" else kept.exif
    found = {"icc_profile": kept.profile_for(picture.pixels.shape[2]), "dpi": density, "exif": exif}
    return {name: value for name, value in found.items() if value is not None}


def with_channels(pixels: np.ndarray, channels: int) -> np.ndarray:
    """Pixels (H, W, C) with 1 or 3 channels: grey is repeated, RGB becomes luma (0.299 R + 0.587 G + 0.114 B).

    Raises:
        UserError: Another number of channels.
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
    raise UserError(f"an image of {have} channels cannot become one of {channels}")


Range = tuple[float, float] | None
"""The pixel values that mean -1 and 1; None: all codes of the integer type, from 0 to its largest."""


def to_tensor(pixels: np.ndarray, value_range: Range = None) -> Tensor:
    """Pixels (H, W, C) as float32 (C, H, W), in [-1, 1]: 2 (value - low) / (high - low) - 1.

    Args:
        pixels: uint8, uint16 or float32.
        value_range: (low, high); values beyond it leave [-1, 1].

    Raises:
        UserError: Floats without a range.
    """
    low, high = _ends(pixels.dtype, value_range)
    scaled = (pixels.astype(np.float64) - low) / ((high - low) / 2) - 1
    return torch.from_numpy(np.ascontiguousarray(scaled.transpose(2, 0, 1).astype(np.float32)))


def to_pixels(x: Tensor, dtype: np.dtype | type = np.uint8, value_range: Range = None) -> np.ndarray:
    """An image (C, H, W) as pixels (H, W, C): clamped to [-1, 1], then rounded to the nearest code of the dtype.

    value = low + (x + 1) (high - low) / 2; floats are not rounded.
    """
    low, high = _ends(np.dtype(dtype), value_range)
    values = (x.detach().cpu().double().clamp(-1, 1).numpy() + 1) * ((high - low) / 2) + low
    if np.dtype(dtype).kind == "u":
        values = np.rint(values).clip(0, np.iinfo(dtype).max)  # a range may be wider than the codes
    return np.ascontiguousarray(values.transpose(1, 2, 0).astype(dtype))


def to_mask(pixels: np.ndarray) -> Tensor:
    """Grey pixels (H, W, 1) as a mask (1, H, W) float32 in {0, 1}: 1 where they are above half of their range."""
    half = _half(pixels.dtype)
    return torch.from_numpy((pixels > half).astype(np.float32).transpose(2, 0, 1).copy())


def mask_of(picture: Picture) -> tuple[np.ndarray, str]:
    """A picture as a mask: grey pixels (H, W, 1) for `to_mask`, and a remark where they are not the file's own codes.

    * White (above half of the range) is unknown.
    * Where there are transparent parts, they are unknown, as in a photo out of which a hole was rubbed; but where all
      that is opaque is white, the white is unknown: a hole that was painted on an empty layer.
    * Of two values, none of them white, such as 0 and 1, the larger one is unknown.

    Raises:
        UserError: Other values, none of which is white; or black, white and transparent parts.
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
    # Not rounded to codes as in `with_channels`: a red of 1 would become a grey of 0.
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
    """The pixels (H, W, C) over white by their opacity, as a viewer shows them: what datasets give."""
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
    """The pixels (H, W, C), white where the opacity is 0: nobody can have seen the colours that the file has there."""
    if picture.alpha is None or picture.alpha.min() > 0:
        return picture.pixels
    white = np.iinfo(picture.pixels.dtype).max
    return np.where(picture.alpha[..., None] == 0, picture.pixels.dtype.type(white), picture.pixels)


def shown(x: Tensor) -> np.ndarray:
    """An image (C, H, W) of any number of channels as 8-bit colour (H, W, 3) for people: the first three, or grey."""
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
