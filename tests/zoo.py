"""At least 80 image files of all kinds, and what each must give: the documented array, or the documented refusal.

python tests/zoo.py      prints the table of docs/images.md
"""

import io
import os
import struct
import sys
import tempfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageCms

COLOUR = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)
GREY = COLOUR[..., :1]
DEEP = np.random.default_rng(1).integers(0, 65536, (6, 5, 3), dtype=np.uint16)


class Exhibit(NamedTuple):
    """A file of the zoo."""

    name: str
    data: bytes | None
    """None: it is not made of bytes (a folder, a link)."""
    gives: str
    """In words."""
    pixels: np.ndarray | None = None
    """Exactly these; None where it is refused, or not known in advance (lossy)."""
    says: str = ""
    """What the refusal says."""
    shape: tuple[int, ...] = ()
    """Height, width, channels, where the pixels are lossy."""


def saved(image, kind, **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def png(header, body, *chunks):
    """A PNG of given IHDR fields (width, height, depth, colour type) and raw bytes."""

    def chunk(name, data):
        return struct.pack(">L", len(data)) + name + data + struct.pack(">L", zlib.crc32(name + data))

    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">LLBBBBB", *header, 0, 0, 0))
    return start + b"".join(chunk(*c) for c in chunks) + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")


def array(value, version=None):
    stream = io.BytesIO()
    np.lib.format.write_array(stream, value, version=version, allow_pickle=True)
    return stream.getvalue()


def modes():
    rgb = Image.fromarray(COLOUR)
    grey = Image.fromarray(GREY[..., 0])
    bits = grey.convert("1")
    palette = rgb.quantize(8)
    colours = np.asarray(palette.convert("RGB"))
    cmyk, ycbcr = rgb.convert("CMYK"), rgb.convert("YCbCr")
    alpha = Image.fromarray(np.concatenate([COLOUR, GREY], 2))
    faint = grey.convert("LA")
    for kind, suffix in (("PNG", "png"), ("BMP", "bmp"), ("TIFF", "tif")):
        yield Exhibit(f"rgb.{suffix}", saved(rgb, kind), "the pixels, 8 bits", COLOUR)
        yield Exhibit(f"grey.{suffix}", saved(grey, kind), "the pixels, 8 bits, one channel", GREY)
        one = np.asarray(bits.convert("L"))[..., None]
        yield Exhibit(f"bits.{suffix}", saved(bits, kind), "0 and 255, one channel", one)
        yield Exhibit(f"palette.{suffix}", saved(palette, kind), "the palette's colours", colours)
        yield Exhibit(f"rgba.{suffix}", saved(alpha, kind), "the colours; opacity kept apart", COLOUR)
    for suffix in ("png", "tif"):
        kind = {"png": "PNG", "tif": "TIFF"}[suffix]
        yield Exhibit(f"grey-alpha.{suffix}", saved(faint, kind), "the grey; opacity kept apart", GREY)
        deep = Image.fromarray(DEEP[..., 0])
        yield Exhibit(f"grey16.{suffix}", saved(deep, kind), "the pixels, 16 bits, one channel", DEEP[..., :1])
        yield Exhibit(f"rgb16.{suffix}", deep_colour(DEEP, suffix), "the pixels, 16 bits", DEEP)
        four = np.concatenate([DEEP, DEEP[..., :1]], 2)
        yield Exhibit(f"rgba16.{suffix}", deep_colour(four, suffix), "the pixels, 16 bits; opacity kept apart", DEEP)
    both = np.concatenate([DEEP[..., :1], DEEP[..., 1:2]], 2)
    body = b"".join(b"\0" + row.tobytes() for row in both.astype(">u2"))
    yield Exhibit("grey-alpha16.png", png((5, 6, 16, 4), body), "the grey, 16 bits; opacity kept apart", DEEP[..., :1])
    yield Exhibit("webp-lossless.webp", saved(rgb, "WEBP", lossless=True), "the pixels, 8 bits", COLOUR)
    for name, image in (("rgb", rgb), ("grey", grey), ("cmyk", cmyk)):
        channels = 1 if name == "grey" else 3
        data = saved(image, "JPEG", quality=95)
        yield Exhibit(f"{name}.jpg", data, "decoded, 8 bits", shape=(6, 5, channels))
    yield Exhibit("progressive.jpeg", saved(rgb, "JPEG", progressive=True), "decoded, 8 bits", shape=(6, 5, 3))
    yield Exhibit("cmyk.tif", saved(cmyk, "TIFF"), "converted to RGB", np.asarray(cmyk.convert("RGB")))
    yield Exhibit("ycbcr.tif", saved(ycbcr, "TIFF"), "converted to RGB", np.asarray(ycbcr.convert("RGB")))
    lab = ImageCms.profileToProfile(
        rgb, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    yield Exhibit("lab.tif", saved(lab, "TIFF"), "converted to RGB", shape=(6, 5, 3))
    for compression in ("tiff_lzw", "tiff_deflate", "packbits"):
        yield Exhibit(f"{compression}.tif", saved(rgb, "TIFF", compression=compression), "the pixels, 8 bits", COLOUR)
    data = saved(palette, "PNG", transparency=0)
    yield Exhibit("palette-transparent.png", data, "the palette's colours; opacity kept apart", shape=(6, 5, 3))
    yield Exhibit(
        "key-transparent.png", saved(rgb, "PNG", transparency=(1, 2, 3)), "the colours; opacity kept apart", COLOUR
    )
    low = png((5, 6, 4, 0), b"\0\x12\x34\x50" * 6)
    yield Exhibit("grey4.png", low, "spread over 0 to 255", np.tile(np.uint8([17, 34, 51, 68, 85]), (6, 1))[..., None])
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    yield Exhibit(
        "profile.png", saved(rgb, "PNG", icc_profile=profile), "the pixels as stored; results keep the profile", COLOUR
    )
    floats = Image.fromarray(GREY[..., 0].astype(np.float32) / 255)
    yield Exhibit(
        "float.tif",
        saved(floats, "TIFF"),
        "the floats; data.value_range says what they mean",
        GREY.astype(np.float32) / 255,
    )
    nans = Image.fromarray(np.full((6, 5), np.nan, np.float32))
    yield Exhibit("float-nan.tif", saved(nans, "TIFF"), "refused", says="not finite")
    yield Exhibit(
        "integers.tif", saved(Image.fromarray(DEEP[..., 0].astype(np.int32)), "TIFF"), "taken as 16 bits", DEEP[..., :1]
    )
    far = Image.fromarray(DEEP[..., 0].astype(np.int32) * 9)
    yield Exhibit("integers-beyond.tif", saved(far, "TIFF"), "refused", says="no known range")


def deep_colour(pixels, suffix):
    import cv2

    order = [2, 1, 0, 3][: pixels.shape[2]]
    return bytes(cv2.imencode(f".{suffix}", np.ascontiguousarray(pixels[..., order]))[1])


def orientations():
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        stored = Image.fromarray(COLOUR)
        if orientation in undo:
            stored = stored.transpose(Image.Transpose(undo[orientation]))
        yield Exhibit(f"orientation-{orientation}.png", saved(stored, "PNG", exif=exif), "upright", COLOUR)
    exif = Image.Exif()
    exif[0x0112] = 99
    yield Exhibit("orientation-99.png", saved(Image.fromarray(COLOUR), "PNG", exif=exif), "as stored", COLOUR)


def animations():
    frames = [Image.fromarray(COLOUR), Image.fromarray(COLOUR[::-1].copy())]
    for kind, suffix, options in (("PNG", "png", {}), ("WEBP", "webp", {"lossless": True}), ("TIFF", "tif", {})):
        data = saved(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        yield Exhibit(f"animation.{suffix}", data, "the first frame; restore says so", COLOUR)


def sizes():
    yield Exhibit("one-pixel.png", saved(Image.fromarray(COLOUR[:1, :1]), "PNG"), "the pixels", COLOUR[:1, :1])
    yield Exhibit("one-row.png", saved(Image.fromarray(COLOUR[:1]), "PNG"), "the pixels", COLOUR[:1])
    yield Exhibit("one-column.png", saved(Image.fromarray(COLOUR[:, :1]), "PNG"), "the pixels", COLOUR[:, :1])
    yield Exhibit("claims-2-GB.png", png((30_000, 24_000, 8, 2), b"\0"), "refused from its header", says="pixels")
    yield Exhibit(
        "claims-20000x20000.png",
        png((20_000, 20_000, 8, 2), b"\0"),
        "refused from its header",
        says="pixels",
    )
    yield Exhibit(
        "claims-2-to-the-31.png", png((2**31 - 1, 2**31 - 1, 8, 0), b"\0"), "refused from its header", says="pixels"
    )
    yield Exhibit(
        "65-million.npy", npy_header("(8125, 8000)", "|u1"), "refused from its header", says="at most 64 million"
    )
    bmp = bytearray(saved(Image.fromarray(COLOUR), "BMP"))
    bmp[18:26] = struct.pack("<ll", 30_000, 30_000)
    yield Exhibit("claims-much.bmp", bytes(bmp), "refused from its header", says="pixels")
    yield Exhibit("no-width.png", png((0, 6, 8, 2), b"\0"), "refused", says="not a readable image")


def npy_header(shape, kind):
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text) + 1) + text + b"\n"


def damage():
    rgb = Image.fromarray(np.tile(COLOUR, (8, 8, 1)))
    for kind, suffix in (("PNG", "png"), ("JPEG", "jpg"), ("WEBP", "webp"), ("BMP", "bmp"), ("TIFF", "tif")):
        data = saved(rgb, kind)
        yield Exhibit(
            f"cut-off.{suffix}", data[: len(data) // 2], "refused, never filled with grey", says="not a readable"
        )
    deep = deep_colour(np.tile(DEEP, (8, 8, 1)), "png")
    yield Exhibit("cut-off16.png", deep[: len(deep) // 2], "refused, never filled with grey", says="not a readable")
    data = array(COLOUR)
    yield Exhibit("cut-off.npy", data[:-7], "refused", says="its header says")
    yield Exhibit("too-long.npy", data + b"more", "refused", says="its header says")
    whole = saved(rgb, "PNG")
    yield Exhibit("checksum.png", whole.replace(b"IDAT", b"IDAt", 1), "refused", says="not a readable")
    for suffix in ("png", "jpg", "tif", "npy"):
        yield Exhibit(f"empty.{suffix}", b"", "refused", says="not a readable")
    yield Exhibit("web-page.png", b"<!DOCTYPE html><html>Quota exceeded", "refused", says="not a readable")
    yield Exhibit("lfs-pointer.png", b"version https://git-lfs.github.com/spec/v1\n", "refused", says="not a readable")
    yield Exhibit("zeros.jpg", bytes(4096), "refused", says="not a readable")


def disguises():
    rgb = Image.fromarray(COLOUR)
    yield Exhibit("jpeg-inside.png", saved(rgb, "JPEG"), "by its content", shape=(6, 5, 3))
    yield Exhibit("png-inside.jpg", saved(rgb, "PNG"), "by its content", COLOUR)
    yield Exhibit("ppm-inside.png", saved(rgb, "PPM"), "by its content", COLOUR)
    yield Exhibit("rgb.ppm", saved(rgb, "PPM"), "the pixels, 8 bits", COLOUR)
    yield Exhibit("rgb.tga", saved(rgb, "TGA"), "the pixels, 8 bits", COLOUR)
    yield Exhibit("rgb.jp2", saved(rgb, "JPEG2000"), "the pixels, 8 bits", COLOUR)
    yield Exhibit("rgb.jfif", saved(rgb, "JPEG"), "what JPEG made of it", shape=(6, 5, 3))
    yield Exhibit("UPPER.PNG", saved(rgb, "PNG"), "the pixels", COLOUR)
    for kind, suffix in (
        ("GIF", "gif"),
        ("ICO", "ico"),
        ("TGA", "tga"),
        ("PCX", "pcx"),
        ("SGI", "sgi"),
    ):
        yield Exhibit(
            f"{suffix}-inside.png",
            saved(rgb, kind),
            "refused: not among the formats that are read",
            says="not a readable",
        )
    for name, data in (
        ("postscript", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
        ("pdf", b"%PDF-1.7\n"),
        ("svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
        ("pickle", b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix"),
    ):
        yield Exhibit(f"{name}-inside.png", data, "refused: not among the formats that are read", says="not a readable")


def arrays():
    yield Exhibit("array.npy", array(COLOUR), "the pixels", COLOUR)
    yield Exhibit("array-grey.npy", array(GREY[..., 0]), "one channel", GREY)
    many = np.tile(DEEP, (1, 1, 3))
    yield Exhibit("array-9-channels.npy", array(many), "nine channels, 16 bits", many)
    yield Exhibit("array-by-columns.npy", array(np.asfortranarray(COLOUR)), "the pixels", COLOUR)
    yield Exhibit("array-version-2.npy", array(COLOUR, (2, 0)), "the pixels", COLOUR)
    yield Exhibit("array-double.npy", array(COLOUR / 255), "as 32-bit floats", (COLOUR / 255).astype(np.float32))
    yield Exhibit(
        "array-of-objects.npy", array(np.array([{"a": 1}, None])), "refused: a pickle, never opened", says="an array of"
    )
    yield Exhibit("array-nan.npy", array(np.full((2, 2), np.inf)), "refused", says="not finite")
    yield Exhibit("array-complex.npy", array(COLOUR * 1j), "refused", says="images are uint8")
    yield Exhibit("array-1d.npy", array(np.zeros(4)), "refused", says="of shape")
    yield Exhibit("array-empty.npy", array(np.zeros((0, 4))), "refused", says="of shape")
    yield Exhibit("array-negative.npy", npy_header("(-4, -4)", "|u1"), "refused", says="of shape")
    yield Exhibit("array-version-3.npy", array(COLOUR, (3, 0)), "refused", says="version")
    yield Exhibit("archive-inside.npy", b"PK\x03\x04" + bytes(100), "refused", says="not a readable")


def names():
    data = saved(Image.fromarray(COLOUR), "PNG")
    for name in (
        "with space.png",
        "emoji-\U0001f600.png",
        "\u202ertl.png",
        "new\nline.png",
        "-dash.png",
        "\xe9.png",
        "%s{x}.png",
    ):
        yield Exhibit(name, data, "the pixels", COLOUR)
    yield Exhibit("n" * 251 + ".png", data, "the pixels", COLOUR)
    yield Exhibit(os.fsdecode(b"not-utf8-\xff.png"), data, "the pixels", COLOUR)


def special(folder):
    """Things of the file system, made in place."""
    (folder / "folder.png").mkdir()
    os.mkfifo(folder / "pipe.png")
    (folder / "dangling.png").symlink_to(folder / "nowhere.png")
    (folder / "endless.png").symlink_to("/dev/zero")
    (folder / "loop.png").symlink_to(folder / "loop.png")
    yield Exhibit("folder.png", None, "refused", says="is not a file")
    yield Exhibit("pipe.png", None, "refused, without waiting", says="is not a file")
    yield Exhibit("dangling.png", None, "refused", says="no such file")
    yield Exhibit("endless.png", None, "refused", says="is not a file")
    yield Exhibit("loop.png", None, "refused", says="not a readable")
    yield Exhibit("missing.png", None, "refused", says="no such file")


def zoo(folder):
    """All exhibits, written into a folder."""
    parts = (modes, orientations, animations, sizes, damage, disguises, arrays, names)
    found = [exhibit for part in parts for exhibit in part()]
    for exhibit in found:
        (folder / exhibit.name).write_bytes(exhibit.data)
    return [*found, *special(folder)]


def shown(name):
    """A file's name in a table."""
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return text if len(text) < 60 else f"{text[:8]}... ({len(os.fsencode(name))} bytes)"


def table(folder):
    """docs/images.md's rows."""
    rows = [f"| `{shown(exhibit.name)}` | {exhibit.gives} |" for exhibit in zoo(folder)]
    return "\n".join(["| file | what it gives |", "|---|---|", *rows])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as home:
        sys.stdout.write(table(Path(home)) + "\n")
