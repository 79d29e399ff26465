"""Read TIFFs according to their tags: detect those that Pillow decodes wrongly, and decode them with tifffile.

Pillow maps a TIFF to the nearest of its modes: it reads separate planes as interleaved, ignores "white is zero" in 16
bits, and takes an infrared band as opacity. This module evaluates the tags BitsPerSample, SampleFormat,
SamplesPerPixel, PhotometricInterpretation, PlanarConfiguration and ExtraSamples. tifffile is an optional dependency.
"""

import logging
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from PIL import TiffImagePlugin

from i2i_bridge.errors import UserError

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR, LAB = 0, 1, 2, 3, 5, 6, 8
UNSIGNED, SIGNED, FLOAT = 1, 2, 3
ASSOCIATED, UNASSOCIATED = 1, 2
"""Kinds of opacity in ExtraSamples: with premultiplied colours, or not."""
FORMATS = {UNSIGNED: "unsigned integers", SIGNED: "signed integers", FLOAT: "floats"}
EXTRA = "pip install 'i2i-bridge[tiff]'"
MAX_BYTES = 2 << 30
"""Maximum bytes of the decoded pixels."""


@dataclass(frozen=True)
class Layout:
    """The pixel layout of the first page of a TIFF, from its tags."""

    width: int
    height: int
    bits: tuple[int, ...]
    format: int
    samples: int
    photometric: int
    separate: bool
    extra: tuple[int, ...]
    compression: int
    orientation: int

    @property
    def colours(self) -> int:
        """Number of colour samples; the other samples are opacity or further bands."""
        return {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3}.get(self.photometric, 0)

    @property
    def opacity(self) -> int:
        """The kind of opacity of the sample after the colours; 0 if that sample is another band or missing."""
        if self.samples != self.colours + 1:
            return 0
        # Older writers, including OpenCV, write no ExtraSamples tag for opacity as the fourth sample.
        kind = self.extra or ((UNASSOCIATED,) if self.photometric == RGB else (0,))
        return kind[0] if kind[0] in (ASSOCIATED, UNASSOCIATED) else 0

    def __str__(self) -> str:
        planes = ", in separate planes" if self.separate and self.samples > 1 else ""
        kind = FORMATS.get(self.format, "complex numbers")
        return f"{self.samples} samples of {self.bits[0]} bits, {kind}{planes}, photometric {self.photometric}"


def layout_of(stream: BinaryIO) -> Layout | None:
    """The layout of a TIFF; None for other files.

    Raises:
        Exception: Pillow raises many types for damaged tags.
    """
    header = stream.read(8)
    if header[:4] not in MAGIC:
        return None
    if header[2] == 43 or header[3] == 43:  # BigTIFF
        header += stream.read(8)
    tags = TiffImagePlugin.ImageFileDirectory_v2(header)
    stream.seek(tags.next)
    tags.load(stream)

    def numbers(tag: int, default: tuple[int, ...]) -> tuple[int, ...]:
        value = tags.get(tag, default)
        return tuple(int(part) for part in (value if isinstance(value, tuple) else (value,)))

    samples = numbers(277, (1,))[0]
    bits = numbers(258, (1,))
    formats = numbers(339, (UNSIGNED,))
    if len(set(bits)) != 1 or len(set(formats)) != 1:
        raise UserError(f"a TIFF whose samples differ in kind ({', '.join(map(str, bits[:8]))} bits); convert it")
    return Layout(
        width=numbers(256, (0,))[0],
        height=numbers(257, (0,))[0],
        bits=bits,
        format=formats[0],
        samples=samples,
        photometric=numbers(262, (BLACK_IS_ZERO,))[0],
        separate=numbers(284, (1,))[0] == 2,
        extra=numbers(338, ()),
        compression=numbers(259, (1,))[0],
        orientation=numbers(274, (1,))[0],
    )


def pillow_is_right(layout: Layout) -> bool:
    """Whether Pillow, or OpenCV for 16-bit colour, decodes a layout correctly.

    Raises:
        UserError: The layout is not supported by any decoder used here.
    """
    bits, colours = layout.bits[0], layout.colours
    if layout.photometric not in (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR, LAB):
        raise UserError(
            f"a TIFF of photometric {layout.photometric} (a raw or scientific kind); convert it to RGB or grey"
        )
    if not colours:  # palettes, CMYK, YCbCr, LAB
        if bits > 8 or layout.format != UNSIGNED:
            raise UserError(f"a TIFF of {layout}: convert it to RGB or grey")
        return True
    opacity = layout.samples == colours + 1 and bool(layout.opacity)
    if layout.samples != colours and not opacity:
        return False
    if layout.format == UNSIGNED and bits <= 8:
        return not (layout.separate and opacity)
    if layout.samples == 1:
        if (layout.format, bits, layout.photometric) == (UNSIGNED, 16, WHITE_IS_ZERO):
            return True  # inverted; see `is_negative`
        # 32-bit integers with values from 0 to 65535 are read as 16 bits.
        whole = (layout.format, bits) in ((UNSIGNED, 16), (FLOAT, 32), (UNSIGNED, 32), (SIGNED, 32))
        return whole and layout.photometric == BLACK_IS_ZERO
    return (layout.format, bits, colours) == (UNSIGNED, 16, 3) and not layout.separate and layout.opacity != ASSOCIATED


def is_negative(layout: Layout) -> bool:
    """Whether Pillow decodes a file as its negative: it ignores "white is zero" for 16-bit grey."""
    return (layout.samples, layout.format, layout.bits[0], layout.photometric) == (1, UNSIGNED, 16, WHITE_IS_ZERO)


def read_bands(stream: BinaryIO, layout: Layout, size: int) -> tuple[np.ndarray, np.ndarray | None, int]:
    """Decode a TIFF with tifffile: pixels (H, W, C) of the first page, opacity (H, W) or None, and number of pages.

    Depths from 1 to 16 bits are scaled to 8 or 16 bits. "White is zero" is inverted, and premultiplied colours are
    divided by their opacity.

    Args:
        stream: The file.
        layout: Its layout.
        size: Size of the file in bytes.

    Raises:
        UserError: tifffile is not installed or does not support the compression, or pixels are missing.
    """
    if layout.width * layout.height * layout.samples * max(layout.bits[0] // 8, 1) > MAX_BYTES:
        raise UserError(f"a TIFF of {layout.width}x{layout.height} pixels with {layout}: too large to be read")
    try:
        import tifffile
    except ImportError as error:
        raise UserError(f"a TIFF of {layout}: to read it, {EXTRA}") from error
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # errors are reported by the exceptions below
    stream.seek(0)
    with tifffile.TiffFile(stream) as file:
        page: Any = file.pages[0]
        # tifffile replaces missing data by zeros without an error.
        segments = list(zip(page.dataoffsets, page.databytecounts, strict=False))
        if not segments or any(count <= 0 or offset <= 0 or offset + count > size for offset, count in segments):
            raise UserError("not a readable TIFF: pixels are missing")
        wanted = layout.width * layout.height * layout.samples * layout.bits[0] // 8
        if layout.compression == 1 and sum(count for _, count in segments) < wanted:
            raise UserError("not a readable TIFF: pixels are missing")
        try:
            array = np.asarray(page.asarray())
        except Exception as error:  # tifffile and its decoders raise many types
            decoded = _by_opencv(stream, layout)
            if decoded is None:
                reason = " ".join(str(error).split())[:120]
                raise UserError(f"a TIFF of {layout}: not readable ({reason}); save it uncompressed") from error
            array = decoded
        pages = len(file.pages)
    if layout.samples > 1 and layout.separate:
        array = np.moveaxis(array.reshape(layout.samples, layout.height, layout.width), 0, 2)
    array = array.reshape(layout.height, layout.width, layout.samples)
    array = _full_range(array, layout)
    alpha = None
    if layout.opacity:
        alpha = np.ascontiguousarray(array[..., -1])
        colours = array[..., :-1]
        if layout.opacity == ASSOCIATED:
            share = np.maximum(alpha[..., None].astype(np.float64), 1)
            top = np.iinfo(array.dtype).max
            colours = np.rint(colours * (top / share)).clip(0, top).astype(array.dtype)
        array = colours
    return np.ascontiguousarray(array), alpha, pages


def _by_opencv(stream: BinaryIO, layout: Layout) -> np.ndarray | None:
    """Decode interleaved samples with OpenCV, for compressions such as LZW that tifffile needs another package for."""
    import cv2

    if (
        layout.separate
        or layout.samples not in (1, 3, 4)
        or layout.photometric == WHITE_IS_ZERO
        or layout.orientation != 1
    ):
        return None
    stream.seek(0)
    array = cv2.imdecode(np.frombuffer(stream.read(), np.uint8), cv2.IMREAD_UNCHANGED)
    kinds = {(UNSIGNED, 8): np.uint8, (UNSIGNED, 16): np.uint16, (FLOAT, 32): np.float32, (FLOAT, 64): np.float64}
    wanted = kinds.get((layout.format, layout.bits[0]))
    if array is None or wanted is None or array.dtype != wanted:
        return None
    if array.size != layout.width * layout.height * layout.samples or array.shape[:2] != (layout.height, layout.width):
        return None
    bands = array.reshape(layout.height, layout.width, layout.samples)
    return bands if layout.samples == 1 else bands[..., [2, 1, 0, 3][: layout.samples]]


def _full_range(array: np.ndarray, layout: Layout) -> np.ndarray:
    if layout.format not in (UNSIGNED, FLOAT):
        raise UserError(f"a TIFF of {layout}: convert it to unsigned integers or floats")
    if layout.format == FLOAT:
        if layout.opacity:
            raise UserError(f"a TIFF of {layout} with opacity: save it without, or in 8 or 16 bits")
        if layout.photometric == WHITE_IS_ZERO:
            raise UserError(f"a TIFF of {layout}, where white is 0: save it with black as 0")
        return array
    bits = layout.bits[0]
    if bits > 16:
        raise UserError(f"a TIFF of {layout}: convert it to 16 bits or floats")
    largest, top = 2**bits - 1, 255 if bits <= 8 else 65535
    if largest != top:
        array = np.rint(array * (top / largest))
    codes: np.ndarray = array.astype(np.uint8 if top == 255 else np.uint16)
    return top - codes if layout.photometric == WHITE_IS_ZERO else codes
