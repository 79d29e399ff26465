"""Images between files and tensors. Pillow is the only decoder.

Inside, an image is float32 in [-1, 1], (C, H, W). Outside it is 8-bit or 16-bit; rounding is to the nearest code, so an
untouched image comes back bit for bit.
"""

import io
import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from i2i_bridge.errors import UserError
from i2i_bridge.files import write_whole

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"})
MAX_PIXELS = 64_000_000
"""Larger images are refused from their header, before they are decoded."""


@dataclass(frozen=True)
class Picture:
    """A decoded image.

    Args:
        pixels: (H, W, C), uint8 or uint16, C = 1 (grey) or 3 (RGB).
        alpha: Opacity (H, W) of the same dtype, or None.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None = None


def find_images(folder: Path) -> list[Path]:
    """All images below a folder, sorted by path; hidden files and links that lead out of the folder are left out."""
    root = folder.resolve()
    found = []
    for directory, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            path = Path(directory) / name
            if name.startswith(".") or path.suffix.lower() not in IMAGE_SUFFIXES:
                continue
            if path.is_symlink() and not path.resolve().is_relative_to(root):
                continue
            found.append(path)
    return sorted(found)


def read_picture(path: Path | str) -> Picture:
    """Decode an image file, upright (EXIF orientation applied).

    Raises:
        UserError: The file is missing, not one of PNG, JPEG, WebP, BMP, TIFF, damaged, too large, or of a mode
            without a documented meaning here (`from_pil`).
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path}: is a folder, not an image")
    try:
        with warnings.catch_warnings(), Image.open(path, formats=FORMATS) as image:
            # Pillow only warns where a file is odd; the size is checked here instead.
            warnings.simplefilter("ignore")
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise UserError(f"{path}: {width}x{height} pixels; at most {MAX_PIXELS // 10**6} million can be read")
            image.load()
            return from_pil(image)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except UserError as error:
        raise UserError(str(error) if str(path) in str(error) else f"{path}: {error}") from error
    except Image.DecompressionBombError as error:
        raise UserError(f"{path}: too many pixels to be read") from error
    except (
        OSError,
        SyntaxError,
        ValueError,
        EOFError,
        MemoryError,
        IndexError,
        KeyError,
        TypeError,
        OverflowError,
    ) as error:
        # Pillow's decoders raise all of these for damaged files.
        raise UserError(f"{path}: not a readable image ({type(error).__name__}: {error})") from error


def from_pil(image: Image.Image) -> Picture:
    """A PIL image as a Picture: L, LA, 1, P, RGB, RGBA, CMYK, YCbCr, LAB, HSV in 8 bits, I;16 (grey) in 16.

    Palette transparency becomes alpha. EXIF orientation is applied.

    Raises:
        UserError: A mode whose range is unknown (32-bit integers beyond 16 bits, floats).
    """
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
        raise UserError("float pixels have no known range; convert the image to 8 or 16 bits")
    transparent = mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info
    grey = mode in ("1", "L", "LA", "La")
    converted = image.convert(("LA" if grey else "RGBA") if transparent else ("L" if grey else "RGB"))
    array = np.asarray(converted)
    if array.ndim == 2:
        array = array[..., None]
    if transparent:
        return Picture(np.ascontiguousarray(array[..., :-1]), np.ascontiguousarray(array[..., -1]))
    return Picture(array)


def to_pil(picture: Picture) -> Image.Image:
    """The Picture as L, LA, RGB, RGBA or I;16.

    Raises:
        UserError: 16-bit colour, or 16 bits with alpha, which Pillow cannot hold.
    """
    pixels, alpha = picture.pixels, picture.alpha
    if pixels.dtype == np.uint16:
        if pixels.shape[2] != 1 or alpha is not None:
            raise UserError("Pillow holds 16 bits for grey images without alpha only")
        return Image.fromarray(np.ascontiguousarray(pixels[..., 0]))
    image = Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels))
    if alpha is not None:
        image.putalpha(Image.fromarray(np.ascontiguousarray(alpha)))
    return image


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
        luma = pixels.astype(np.float64) @ np.array([0.299, 0.587, 0.114])
        grey: np.ndarray = np.rint(luma).astype(pixels.dtype)[..., None]
        return grey
    raise UserError(f"an image of {have} channels cannot become one of {channels}")


def to_tensor(pixels: np.ndarray) -> Tensor:
    """Pixels (H, W, C), uint8 or uint16, as float32 (C, H, W) in [-1, 1]: 2 code / largest code - 1."""
    half = np.iinfo(pixels.dtype).max / 2
    scaled = pixels.astype(np.float64) / half - 1
    return torch.from_numpy(np.ascontiguousarray(scaled.transpose(2, 0, 1).astype(np.float32)))


def to_pixels(x: Tensor, dtype: type[np.uint8] | type[np.uint16] = np.uint8) -> np.ndarray:
    """An image (C, H, W) in [-1, 1] as pixels (H, W, C): clamped, then rounded to the nearest code."""
    half = np.iinfo(dtype).max / 2
    codes = np.rint((x.detach().cpu().double().clamp(-1, 1).numpy() + 1) * half)
    return np.ascontiguousarray(codes.transpose(1, 2, 0).astype(dtype))


def write_picture(path: Path | str, picture: Picture) -> None:
    """Write an image; the suffix says the format. Nothing is left half-written.

    Raises:
        UserError: An unknown suffix, a format that cannot hold the picture, or a folder that cannot be written.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in IMAGE_SUFFIXES:
        raise UserError(f"{path}: not an image suffix; use one of {', '.join(sorted(IMAGE_SUFFIXES))}")
    if picture.pixels.dtype == np.uint16 and suffix not in (".png", ".tif", ".tiff"):
        raise UserError(f"{path}: this image has 16 bits; write it as .png or .tif")
    if picture.alpha is not None and suffix in (".jpg", ".jpeg", ".bmp"):
        picture = Picture(picture.pixels)
    options = {"quality": 95} if suffix in (".jpg", ".jpeg", ".webp") else {}
    encoded = io.BytesIO()
    try:
        to_pil(picture).save(encoded, format=Image.registered_extensions()[suffix], **options)
    except (OSError, ValueError) as error:  # more pixels than the format can hold
        raise UserError(f"{path}: cannot be encoded ({error})") from error
    write_whole(path, encoded.getvalue())
