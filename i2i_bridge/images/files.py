"""Read and write image files. Pillow decodes; OpenCV decodes 16-bit colour, tifffile the other TIFFs."""

import contextlib
import io
import math
import os
import stat
import struct
import warnings
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from i2i_bridge.errors import UserError, located
from i2i_bridge.images.folder import IMAGE_SUFFIXES, JPEG_SUFFIXES, PNM_SUFFIXES
from i2i_bridge.images.metadata import ORIENTATION, Metadata, as_srgb, metadata_of, profile_name
from i2i_bridge.images.pixels import (
    NO_METADATA,
    Picture,
    check_array,
    from_array,
    from_pil,
    metadata_to_save,
    opaque,
    to_pil,
    with_channels,
)
from i2i_bridge.images.tiff import Layout, is_negative, layout_of, pillow_is_right, read_bands
from i2i_bridge.storage.files import write_whole
from i2i_bridge.storage.reader import open_regular

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "PPM", "JPEG2000")
"""Pillow's formats that are recognised by the first bytes. A TGA has no such bytes and is recognised by its suffix."""
DEEP_SUFFIXES = frozenset({".png", ".tif", ".tiff"}) | PNM_SUFFIXES
"""Suffixes of formats with 16 bits per channel, in grey and in colour."""
WITH_METADATA = frozenset({"PNG", "JPEG", "WEBP", "TIFF"})
WITHOUT_ALPHA = JPEG_SUFFIXES | PNM_SUFFIXES | {".bmp"}
LONGEST_SIDE = {"JPEG": 65500, "WEBP": 16383}
NPY = b"\x93NUMPY"
MAX_FRAMES = 1000
"""Maximum number of pages of a TIFF that are counted."""
MAX_PIXELS = 64_000_000
"""Maximum number of pixels; the header is checked before an image is decoded."""


def read_picture(path: Path | str, data: bytes | None = None, *, metadata: bool = False) -> Picture:
    """Decode an image file and apply its EXIF orientation.

    Args:
        path: The file. If `data` is given, `path` is only used in messages.
        data: The bytes of the file.
        metadata: Whether to read the metadata that a result of this file keeps.

    Raises:
        UserError: The file is missing, damaged, too large, of a mode that `from_pil` does not support, or not a PNG,
            JPEG, WebP, BMP, TIFF, PPM, JPEG 2000, TGA or NPY.
    """
    try:
        if data is None and not stat.S_ISREG(Path(path).stat().st_mode):
            raise UserError(f"{path}: is not a file" if Path(path).exists() else f"{path}: no such file")
        if str(path)[-4:].lower() == ".npy" if data is None else data.startswith(NPY):
            return _read_array(Path(path), data)
        layout = _layout(Path(path), data)
        if layout is not None and not pillow_is_right(layout):
            picture = _read_bands(Path(path), data, layout)
            return replace(picture, metadata=_tiff_metadata(path, data)) if metadata else picture
        source = path if data is None else io.BytesIO(data)
        formats = ("TGA",) if data is None and str(path)[-4:].lower() == ".tga" else FORMATS
        # Pillow warns about large or unusual files; the size is checked below instead.
        with warnings.catch_warnings(action="ignore"), Image.open(source, formats=formats) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise _too_large(Path(path), width, height)
            largest = _largest_code(image)
            deep = largest > 255
            _check_jpeg_2000(Path(path), image, data)
            frames = 1 if deep else count_frames(image)
            orientation = getattr(image, "tag_v2", {}).get(ORIENTATION)
            image.load()
            picture = _read_deep_colour(Path(path), image, data, largest) if deep else from_pil(image)
            if layout is not None and is_negative(layout):
                picture = replace(picture, pixels=65535 - picture.pixels)
            kept = metadata_of(image, orientation) if metadata else NO_METADATA
            return replace(picture, frames=frames, lossy=_is_lossy(image.format, path, data), metadata=kept)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except UserError:
        with located(path):
            raise
    except Image.DecompressionBombError as error:
        raise UserError(f"{path}: too many pixels to be read") from error
    except Exception as error:  # for damaged files, decoders raise many types of exceptions
        if isinstance(error, UnidentifiedImageError):  # its text is the path again, or an object's address
            raise UserError(
                f"{path}: not a readable image (none of {', '.join(FORMATS)}, or damaged at its start)"
            ) from error
        reason = " ".join(str(error).split())[:100]
        raise UserError(f"{path}: not a readable image ({type(error).__name__}: {reason})") from error


def _opened(path: Path | str, data: bytes | None) -> BinaryIO:
    return Path(path).open("rb") if data is None else io.BytesIO(data)


def _layout(path: Path, data: bytes | None) -> Layout | None:
    with warnings.catch_warnings(action="ignore"), open_regular(path) if data is None else io.BytesIO(data) as stream:
        layout = layout_of(stream)
    if layout is not None and layout.width * layout.height > MAX_PIXELS:
        raise _too_large(path, layout.width, layout.height)
    return layout


def _read_bands(path: Path, data: bytes | None, layout: Layout) -> Picture:
    with _opened(path, data) as stream:
        array, alpha, pages = read_bands(stream, layout, stream.seek(0, os.SEEK_END))
    picture = from_array(np.ascontiguousarray(_upright(array, layout.orientation)))
    opacity = None if alpha is None else np.ascontiguousarray(_upright(alpha, layout.orientation))
    return replace(picture, alpha=opacity, frames=min(pages, MAX_FRAMES))


def _tiff_metadata(path: Path | str, data: bytes | None) -> Metadata:
    try:
        with Image.open(path if data is None else io.BytesIO(data), formats=["TIFF"]) as image:
            return metadata_of(image)
    except Exception:  # Pillow cannot open this kind of TIFF
        return NO_METADATA


def _is_lossy(kind: str | None, path: Path | str, data: bytes | None) -> bool:
    if kind != "WEBP":
        return kind == "JPEG"
    # A RIFF file: "RIFF", size, "WEBP", then chunks of a four-byte name, a size, and that many bytes padded to even.
    with _opened(path, data) as stream:
        stream.seek(12)
        name = b""
        while name not in (b"VP8 ", b"VP8L") and len(head := stream.read(8)) == 8:
            name, size = head[:4], int.from_bytes(head[4:], "little")
            # A frame of an animation contains chunks, after a header of 16 bytes.
            stream.seek(16 if name == b"ANMF" else size + size % 2, os.SEEK_CUR)
    return name != b"VP8L"


def count_frames(image: Image.Image) -> int:
    """Number of frames or pages of an open image, at most MAX_FRAMES for a TIFF. The first frame is selected again."""
    if image.format != "TIFF":
        return int(getattr(image, "n_frames", 1))  # from the header
    # Not `n_frames`: for a TIFF, Pillow's count takes time quadratic in the number of pages.
    frames = 1
    with contextlib.suppress(EOFError):
        while frames < MAX_FRAMES:
            image.seek(frames)
            frames += 1
    image.seek(0)
    return frames


def image_size(path: Path | str, data: bytes | None = None) -> tuple[int, int]:
    """(height, width) of an image file with its orientation applied, read from the header if possible.

    The arguments are as in `read_picture`.

    Raises:
        UserError: As `read_picture`.
    """
    try:
        # Not opened by Pillow: a pipe would wait for a writer.
        stream = open_regular(path) if data is None else io.BytesIO(data)
        with warnings.catch_warnings(action="ignore"), stream, Image.open(stream) as image:
            turned = image.getexif().get(ORIENTATION, 1) >= 5
            return (image.width, image.height) if turned else (image.height, image.width)
    except Exception:  # not a format of Pillow's, or damaged: `read_picture` reports what is wrong
        height, width = read_picture(path, data).pixels.shape[:2]
        return height, width


def _too_large(path: Path, width: int, height: int) -> UserError:
    return UserError(f"{path}: {width}x{height} pixels; at most {MAX_PIXELS // 10**6} million can be read")


def _read_array(path: Path, data: bytes | None) -> Picture:
    # Not np.load, which also opens archives and pickles, and allocates memory before it checks the header's size.
    with warnings.catch_warnings(action="ignore"), _opened(path, data) as stream:
        version = np.lib.format.read_magic(stream)
        readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in readers:
            raise UserError(f"an array of version {version}; 1.0 and 2.0 are read")
        shape, by_columns, dtype = readers[version](stream)
        if len(shape) in (2, 3) and shape[0] * shape[1] > MAX_PIXELS:
            raise _too_large(path, shape[1], shape[0])
        check_array(shape, dtype)
        size = math.prod(shape) * dtype.itemsize
        begin = stream.tell()
        available = stream.seek(0, os.SEEK_END) - begin
        if available != size:
            raise UserError(f"holds {available} bytes of pixels, and its header says {size}")
        stream.seek(begin)
        array = np.frombuffer(stream.read(size), dtype).reshape(shape, order="F" if by_columns else "C")
    return from_array(array)


def _largest_code(image: Image.Image) -> int:
    """Largest pixel value of a colour image, from its header; 255 for all modes that Pillow decodes without loss."""
    if image.mode not in ("RGB", "RGBA", "LA"):
        return 255
    for tile in getattr(image, "tile", ()):
        if image.format == "PPM" and isinstance(tile[3], tuple):
            return int(tile[3][1])
        if ";16" in str(tile[3]):  # Pillow drops the low byte of these without a warning
            return 65535
    return 255


def _check_jpeg_2000(path: Path, image: Image.Image, data: bytes | None) -> None:
    # Pillow truncates colour to 8 bits without a warning, and OpenCV does not report whether it decoded 10 or 12 bits.
    if image.format != "JPEG2000" or image.mode in ("L", "I;16"):
        return
    if data is None:
        with path.open("rb") as stream:
            data = stream.read(65536)
    size = data.find(b"\xff\x4f\xff\x51")  # the first two markers of the codestream, 42 bytes before the depth
    depth = (data[size + 42] & 0x7F) + 1 if 0 <= size < len(data) - 42 else 8
    if depth > 8:
        raise UserError(
            f"{path}: JPEG 2000 in colour of {depth} bits is not read here; convert to a 16-bit .png or .tif"
        )


def _read_deep_colour(path: Path, image: Image.Image, data: bytes | None, largest: int) -> Picture:
    """Decode 16-bit colour with OpenCV. Pillow must have decoded the file before: it detects truncated files."""
    import cv2

    encoded = np.fromfile(path, np.uint8) if data is None else np.frombuffer(data, np.uint8)
    array = cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED)
    if array is None or array.dtype != np.uint16 or array.ndim != 3 or array.shape[1::-1] != image.size:
        raise UserError(f"{path}: not a readable 16-bit image")
    if largest != 65535:  # a PPM with another maximum, by which OpenCV does not scale
        array = np.rint(array * (65535 / largest)).astype(np.uint16)
    array = _upright(array, image.getexif().get(ORIENTATION, 1))
    alpha = array[..., 3].copy() if array.shape[2] == 4 else None
    # Pillow opens 16-bit grey with alpha as colour; in the header of a PNG it has colour type 4.
    grey = image.mode == "LA" or (image.format == "PNG" and encoded[25] == 4)
    pixels = array[..., :1] if grey else array[..., 2::-1]
    return Picture(np.ascontiguousarray(pixels), alpha)


def _upright(array: np.ndarray, orientation: int) -> np.ndarray:
    """Apply an EXIF orientation: 5 to 8 transpose, then vertical and horizontal flips."""
    if orientation >= 5:
        array = array.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    return array[:, ::-1] if orientation in (2, 3, 6, 7) else array


def write_picture(
    path: Path | str, picture: Picture, *, quality: int | None = None, root: Path | None = None
) -> list[str]:
    """Write an image file atomically, with its metadata, in the format of its suffix.

    Args:
        path: The file.
        picture: The image.
        quality: Quality of JPEG and WebP, 1 to 100. Default: 95 for JPEG; WebP is lossless, or 95 if the picture was
            read from a lossy file. JPEG is written without chroma subsampling (4:4:4).
        root: As in `write_whole`: no folder from `root` down to the file may be a link.

    Returns:
        Descriptions of what the format cannot store, such as opacity (blended over white) or a colour profile
        (converted to sRGB).

    Raises:
        UserError: The suffix is unknown, the format cannot store the picture, or the folder cannot be written.
    """
    path = Path(path)
    check_format(path, picture)
    suffix, pixels = path.suffix.lower(), picture.pixels
    encoded, lost = io.BytesIO(), []
    if suffix == ".npy":
        np.save(encoded, pixels, allow_pickle=False)
        lost += [] if picture.alpha is None else ["opacity"]
        lost += [] if picture.metadata == NO_METADATA else ["profile, density and EXIF"]
    elif pixels.dtype == np.uint16 and (pixels.shape[2] == 3 or picture.alpha is not None):
        encoded.write(_deep_colour(picture, suffix, lost))
    else:
        kind = Image.registered_extensions()[suffix]
        if picture.alpha is not None and suffix in WITHOUT_ALPHA:
            lost += [] if opaque(picture) is pixels else ["opacity (it is shown on white)"]
            picture = replace(picture, pixels=opaque(picture), alpha=None)
        options = metadata_to_save(picture, kind)
        if picture.metadata.profile is not None and "icc_profile" not in options:
            lost.append(f"the colour profile '{profile_name(picture.metadata.profile)}', which is of other channels")
        if kind == "JPEG":
            options |= {"quality": quality or 95, "subsampling": 0}
        elif kind == "WEBP":
            # Without `exact`, lossless WebP still discards the colours of transparent pixels.
            lossy = picture.lossy or quality is not None
            options |= {"quality": quality or 95} if lossy else {"lossless": True, "exact": True}
        # A ValueError: larger than the format allows.
        with located(path, "cannot be encoded", (OSError, ValueError)):
            image = to_pil(picture)
            if kind not in WITH_METADATA and "icc_profile" in options:
                profile = options.pop("icc_profile")
                image = as_srgb(image, profile) or image
                lost.append(f"the colour profile '{profile_name(profile)}' (its colours are converted to sRGB)")
            if kind not in WITH_METADATA:
                lost += ["EXIF"] if options.pop("exif", None) else []
            image.save(encoded, format=kind, **options)
    write_whole(path, encoded.getvalue(), root=root)
    return lost


def check_format(path: Path, picture: Picture) -> None:
    """Check that the format of a suffix can store a picture, before any expensive work.

    Raises:
        UserError: The suffix is unknown, or the format does not support the depth, number of channels or size.
    """
    suffix = path.suffix.lower()
    if suffix not in IMAGE_SUFFIXES:
        raise UserError(f"{path}: not an image suffix; use one of {', '.join(sorted(IMAGE_SUFFIXES))}")
    pixels = picture.pixels
    if suffix == ".npy":
        return
    if pixels.dtype == np.uint16 and suffix not in DEEP_SUFFIXES:
        raise UserError(f"{path}: this image has 16 bits; write it as .png or .tif")
    if pixels.dtype == np.float32 and (suffix not in (".tif", ".tiff") or pixels.shape[2] != 1):
        raise UserError(f"{path}: this image holds floats; write it as .npy, or grey as .tif")
    if pixels.shape[2] not in (1, 3):
        raise UserError(f"{path}: a PIL image holds 1 or 3 channels, not {pixels.shape[2]}; use .npy files or arrays")
    kind = Image.registered_extensions()[suffix]
    if max(pixels.shape[:2]) > LONGEST_SIDE.get(kind, math.inf):
        height, width = pixels.shape[:2]
        raise UserError(
            f"{path}: cannot be encoded ({width}x{height} pixels; a {kind} has at most {LONGEST_SIDE[kind]} on a side)"
        )


def _deep_colour(picture: Picture, suffix: str, lost: list[str]) -> bytes:
    # OpenCV writes no 16-bit grey with alpha: it is written as colour.
    import cv2

    red_green_blue = with_channels(picture.pixels, 3)
    picture = replace(picture, pixels=red_green_blue)
    if picture.alpha is not None and suffix in WITHOUT_ALPHA:
        lost += [] if opaque(picture) is picture.pixels else ["opacity (it is shown on white)"]
        picture = replace(picture, pixels=opaque(picture), alpha=None)
    kept = metadata_to_save(picture, "")
    layers = [picture.pixels[..., ::-1], *([] if picture.alpha is None else [picture.alpha[..., None]])]
    kind = ".ppm" if suffix in PNM_SUFFIXES else suffix
    _, data = cv2.imencode(kind, np.ascontiguousarray(np.concatenate(layers, axis=2)))
    if suffix == ".png":
        return _with_chunks(bytes(data), kept)
    if kept:
        lost.append("profile, density and EXIF, which 16-bit colour keeps in .png only")
    return bytes(data)


def _with_chunks(data: bytes, kept: dict[str, Any]) -> bytes:
    """Insert the metadata into a PNG, as chunks after its header."""
    chunks = []
    if "icc_profile" in kept:
        chunks.append((b"iCCP", b"ICC Profile\0\0" + zlib.compress(kept["icc_profile"])))
    if "dpi" in kept:  # in pixels per metre
        chunks.append((b"pHYs", struct.pack(">IIB", *(round(value / 0.0254) for value in kept["dpi"]), 1)))
    if "exif" in kept:
        chunks.append((b"eXIf", kept["exif"].removeprefix(b"Exif\0\0")))
    end = 8 + 12 + 13  # signature, then the length, name, CRC and contents of IHDR
    packed = [
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    ]
    return data[:end] + b"".join(packed) + data[end:]
