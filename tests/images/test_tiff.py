"""TIFFs by their tags: the right pixels, or an error that describes the file; never wrong pixels without an error."""

import io
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from i2i_bridge.data.items import decode_item
from i2i_bridge.degradations.files import degrade_files
from i2i_bridge.errors import UserError
from i2i_bridge.images.files import read_picture
from i2i_bridge.images.pixels import NO_METADATA, with_channels

RNG = np.random.default_rng(0)
DEEP = RNG.integers(0, 65536, (9, 7, 6), dtype=np.uint16)
CODES = (DEEP >> 8).astype(np.uint8)
FLOATS = RNG.random((9, 7, 6)).astype(np.float32)


WIDE = np.tile(FLOATS, (2, 3, 1))[..., :3]


def planes(array: np.ndarray) -> np.ndarray:
    return np.moveaxis(array, 2, 0)


IN_PLANES = {"photometric": "rgb", "planarconfig": "separate"}
CASES: dict[str, tuple[np.ndarray, dict[str, Any], np.ndarray]] = {
    "16-bit RGB in planes": (planes(DEEP[..., :3]), {"photometric": "rgb", "planarconfig": "separate"}, DEEP[..., :3]),
    "8-bit RGB in planes": (planes(CODES[..., :3]), {"photometric": "rgb", "planarconfig": "separate"}, CODES[..., :3]),
    "16-bit RGB": (DEEP[..., :3], {"photometric": "rgb"}, DEEP[..., :3]),
    "16-bit grey": (DEEP[..., 0], {"photometric": "minisblack"}, DEEP[..., :1]),
    "16-bit grey, white is 0": (DEEP[..., 0], {"photometric": "miniswhite"}, 65535 - DEEP[..., :1]),
    "8-bit grey, white is 0": (CODES[..., 0], {"photometric": "miniswhite"}, 255 - CODES[..., :1]),
    "compressed, white is 0": (
        DEEP[..., 0],
        {"photometric": "miniswhite", "compression": "zlib"},
        65535 - DEEP[..., :1],
    ),
    "RGB and infrared": (CODES[..., :4], {"photometric": "rgb", "extrasamples": ["unspecified"]}, CODES[..., :4]),
    "16-bit RGB and infrared": (DEEP[..., :4], {"photometric": "rgb", "extrasamples": ["unspecified"]}, DEEP[..., :4]),
    "grey and another": (CODES[..., :2], {"photometric": "minisblack", "planarconfig": "contig"}, CODES[..., :2]),
    "six bands": (DEEP, {"photometric": "minisblack", "planarconfig": "contig"}, DEEP),
    "six bands in planes": (planes(DEEP), {"photometric": "minisblack", "planarconfig": "separate"}, DEEP),
    "float grey": (FLOATS[..., 0], {"photometric": "minisblack"}, FLOATS[..., :1]),
    "float RGB": (FLOATS[..., :3], {"photometric": "rgb"}, FLOATS[..., :3]),
    "float RGB in planes": (planes(FLOATS[..., :3]), IN_PLANES, FLOATS[..., :3]),
    "half floats": (FLOATS[..., 0].astype(np.float16), {}, FLOATS[..., :1].astype(np.float16).astype(np.float32)),
    "doubles": (FLOATS.astype(np.float64), {"photometric": "minisblack", "planarconfig": "contig"}, FLOATS),
    "compressed floats": (FLOATS[..., :3], {"photometric": "rgb", "compression": "zlib"}, FLOATS[..., :3]),
    "big TIFF": (FLOATS[..., :3], {"photometric": "rgb", "bigtiff": True}, FLOATS[..., :3]),
    "big-endian": (planes(DEEP[..., :3]), IN_PLANES | {"byteorder": ">"}, DEEP[..., :3]),
    "tiles": (WIDE, {"photometric": "rgb", "tile": (16, 16)}, WIDE),
}  # fmt: skip


def write(file: Path, array: np.ndarray, options: dict[str, Any]) -> None:
    given = dict(options)
    kept = {name: given.pop(name) for name in ("bigtiff", "byteorder") if name in given}
    with tifffile.TiffWriter(file, **kept) as writer:
        writer.write(array, metadata=None, **given)


@pytest.mark.parametrize("name", CASES)
def test_pixels_are_those_of_the_tags(tmp_path: Path, name: str) -> None:
    # kills: planes-read-in-stripes, negative-kept, infrared-is-opacity
    array, options, wanted = CASES[name]
    write(tmp_path / "a.tif", array, options)
    for picture in (read_picture(tmp_path / "a.tif"), read_picture("bytes", (tmp_path / "a.tif").read_bytes())):
        assert picture.pixels.dtype == wanted.dtype and np.array_equal(picture.pixels, wanted)
        assert picture.alpha is None and picture.frames == 1
    # The same in datasets and in `degrade`, or the same refusal.
    channels = wanted.shape[2]
    assert np.array_equal(decode_item({"key": "k", "x_0": tmp_path / "a.tif"}, channels)["x_0"], wanted)
    if channels not in (1, 3):
        with pytest.raises(UserError, match=f"of {channels} channels cannot become one of 3"):
            decode_item({"key": "k", "x_0": tmp_path / "a.tif"}, 3)
    elif wanted.dtype != np.float32:
        degrade_files([{"name": "noise", "std": 1e-7}], tmp_path / "a.tif", tmp_path / "b.tif")
        assert np.abs(read_picture(tmp_path / "b.tif").pixels.astype(int) - wanted).max() <= 1


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("separate", [False, True])
def test_opacity_is_what_the_tags_call_so(tmp_path: Path, kind: type, separate: bool) -> None:
    # kills: colours that were multiplied by their opacity taken for dark ones
    top = np.iinfo(kind).max
    array = RNG.integers(top // 2, top, (9, 7, 4)).astype(kind)
    options: dict[str, Any] = {"photometric": "rgb", "planarconfig": "separate" if separate else "contig"}
    for extra in ("unassalpha", "assocalpha"):
        stored = array.copy()
        if extra == "assocalpha":
            stored[..., :3] = np.rint(array[..., :3] * (array[..., 3:] / top))
        write(tmp_path / "a.tif", planes(stored) if separate else stored, options | {"extrasamples": [extra]})
        picture = read_picture(tmp_path / "a.tif")
        assert picture.alpha is not None and np.array_equal(picture.alpha, array[..., 3])
        assert np.abs(picture.pixels.astype(int) - array[..., :3]).max() <= (2 if extra == "assocalpha" else 0)


def test_depths_between_are_spread(tmp_path: Path) -> None:
    # kills: 12-bit grey 16 times too dark
    codes = RNG.integers(0, 4096, (4, 6)).astype(np.uint16)
    bits = np.unpackbits(codes.astype(">u2").view(np.uint8).reshape(4, 6, 2), axis=2)[..., 4:]
    packed = np.packbits(bits.reshape(4, -1), axis=1).tobytes()
    tags = ((256, 6), (257, 4), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, 4), (279, len(packed)))
    head = b"MM\0*" + (8 + len(packed)).to_bytes(4, "big") + packed
    table = b"".join(tag.to_bytes(2, "big") + b"\0\4\0\0\0\1" + value.to_bytes(4, "big") for tag, value in tags)
    (tmp_path / "a.tif").write_bytes(head + len(tags).to_bytes(2, "big") + table + bytes(4))
    try:
        pixels = read_picture(tmp_path / "a.tif").pixels[..., 0]
    except UserError as error:  # tifffile unpacks such depths by another package only
        assert "12 bits" in str(error)
    else:
        assert np.array_equal(pixels, np.rint(codes * (65535 / 4095)).astype(np.uint16))


def test_a_tiff_of_too_many_pixels_is_refused_by_its_header(tmp_path: Path) -> None:
    head = b"II*\0\x08\0\0\0"
    tags = ((256, 90000), (257, 90000), (258, 16), (259, 1), (262, 1), (273, 8), (277, 6), (278, 1), (279, 8))
    table = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    (tmp_path / "a.tif").write_bytes(head + struct.pack("<H", len(tags)) + table + bytes(4))
    with pytest.raises(UserError, match=r"a\.tif: 90000x90000 pixels; at most 64 million can be read"):
        read_picture(tmp_path / "a.tif")


def test_bands_that_pillow_cannot_open_have_no_metadata(tmp_path: Path) -> None:
    write(tmp_path / "a.tif", *CASES["six bands"][:2])
    picture = read_picture(tmp_path / "a.tif", metadata=True)
    assert picture.pixels.shape[2] == 6 and picture.metadata == NO_METADATA


def test_what_cannot_be_right_is_refused_with_its_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # kills: "not a readable image" for a sound file; missing pixels filled with zeros
    refused = {
        "photometric 32803": (DEEP[..., 0], {"photometric": "cfa"}),
        "signed integers": (DEEP[..., :3].astype(np.int16), {"photometric": "rgb"}),
        "32 bits": (DEEP[..., :3].astype(np.uint32), {"photometric": "rgb"}),
        "photometric 5": (DEEP[..., :4], {"photometric": "separated"}),
    }
    for says, (array, options) in refused.items():
        write(tmp_path / "a.tif", array, options)
        with pytest.raises(UserError, match=says) as caught:
            read_picture(tmp_path / "a.tif")
        assert str(caught.value).startswith(str(tmp_path / "a.tif"))
    for name in ("float RGB", "16-bit RGB in planes", "compressed floats"):
        write(tmp_path / "a.tif", *CASES[name][:2])
        whole = (tmp_path / "a.tif").read_bytes()
        for kept in (len(whole) - 40, len(whole) // 2, 20):
            (tmp_path / "cut.tif").write_bytes(whole[:kept])
            with pytest.raises(UserError, match=r"cut\.tif"):
                read_picture(tmp_path / "cut.tif")
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(UserError, match=r"32 bits, floats.* pip install 'i2i-bridge\[tiff\]'"):
        read_picture("float RGB", whole)
    stream = io.BytesIO()
    Image.fromarray(CODES[..., :3]).save(stream, "TIFF")
    assert np.array_equal(read_picture("plain", stream.getvalue()).pixels, CODES[..., :3])


@pytest.mark.parametrize("name", ["float RGB", "six bands"])
def test_lzw_is_read_where_it_can_be(tmp_path: Path, name: str) -> None:
    # kills: red and blue exchanged by the other decoder
    import cv2

    array = CASES[name][2]
    file = tmp_path / "a.tif"
    if array.shape[2] == 3:
        assert cv2.imwrite(str(file), array[..., ::-1], [cv2.IMWRITE_TIFF_COMPRESSION, 5])
        assert np.array_equal(read_picture(file).pixels, array)
    else:
        write(file, array, {"photometric": "minisblack", "planarconfig": "contig"})
        assert with_channels(read_picture(file).pixels, 6).shape[2] == 6


def test_orientation_of_bands(tmp_path: Path) -> None:
    # kills: what tifffile reads not turned upright
    write(tmp_path / "a.tif", FLOATS[..., :3], {"photometric": "rgb", "extratags": [(274, 3, 1, 6, True)]})
    assert np.array_equal(read_picture(tmp_path / "a.tif").pixels, np.rot90(FLOATS[..., :3], -1))
