"""Metadata copied to a restored file: profile, density and harmless EXIF fields, and nothing else."""

import functools
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from i2i_bridge.cli.data_check import check_data
from i2i_bridge.degradations.files import degrade_files
from i2i_bridge.images.files import read_picture, write_picture
from i2i_bridge.images.metadata import is_srgb, metadata_of, profile_name
from i2i_bridge.images.pixels import from_pil, to_pil

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
SECRET = {0x8825: {1: "N", 2: (51.0, 30.0, 0.0)}, 0x927C: b"maker", 0xA431: "SERIAL-1", 0xA430: "Owner Name"}
GONE = {"op": {"name": "noise", "std": 0.000001}}


@functools.cache  # it holds the time of its making
def wide_profile() -> bytes:
    """sRGB with the red and green primaries exchanged, so that ignoring the profile changes the colours."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = int.from_bytes(data[128:132], "big")
    for i in range(count):
        entry = 132 + 12 * i
        if data[entry : entry + 4] in (b"rXYZ", b"gXYZ"):
            data[entry : entry + 4] = b"gXYZ" if data[entry : entry + 4] == b"rXYZ" else b"rXYZ"
    return bytes(data).replace("sRGB".encode("utf-16-be"), "Wide".encode("utf-16-be")).replace(b"sRGB", b"Wide")


def exif() -> Image.Exif:
    block = Image.Exif()
    block[0x0132], block[0x013B], block[0x8298] = "2020:01:02 03:04:05", "Someone", "(c) Someone"
    block[0x0110] = "Camera 1"
    fields = block.get_ifd(0x8769)
    fields[0x9003], fields[0x829A], fields[0xA434] = "2020:01:02 03:04:05", 0.01, "50 mm"
    fields[0x927C], fields[0xA431], fields[0xA430] = SECRET[0x927C], SECRET[0xA431], SECRET[0xA430]
    block.get_ifd(0x8825).update(SECRET[0x8825])  # type: ignore[call-overload]
    return block


def save(file: Path, image: Image.Image, **options: Any) -> None:
    block = exif()
    if "orientation" in options:
        block[0x0112] = options.pop("orientation")
    image.save(file, exif=block.tobytes(), dpi=(300, 200), **options)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
@pytest.mark.parametrize("source", [".png", ".jpg", ".webp", ".tif"])
def test_profile_density_and_dates_go_over(tmp_path: Path, source: str, suffix: str) -> None:
    # kills: profile-dropped, place-carried-over
    save(tmp_path / f"a{source}", Image.fromarray(PIXELS), icc_profile=wide_profile(), orientation=6)
    picture = read_picture(tmp_path / f"a{source}", metadata=True)
    assert write_picture(tmp_path / f"b{suffix}", picture) == []
    image = Image.open(tmp_path / f"b{suffix}")
    assert image.info["icc_profile"] == wide_profile()
    block = image.getexif()
    assert image.size == (24, 32) and block.get(0x0112, 1) == 1, "upright, and no longer to be turned"
    kept = block.get_ifd(0x8769)
    assert (block[0x0132], block[0x8298], block[0x0110]) == ("2020:01:02 03:04:05", "(c) Someone", "Camera 1")
    assert kept[0x9003] == "2020:01:02 03:04:05" and abs(float(kept[0x829A]) - 0.01) < 1e-6 and kept[0xA434] == "50 mm"
    assert not block.get_ifd(0x8825) and not SECRET.keys() & kept.keys()
    whole = (tmp_path / f"b{suffix}").read_bytes()
    assert b"SERIAL" not in whole and b"maker" not in whole and b"Owner" not in whole
    if source != ".webp":  # written by Pillow, which puts no density there
        # Turned by a quarter, and so is what is across and down.
        assert metadata_of(image).density == pytest.approx((200, 300), abs=0.01)


def test_the_colours_that_are_seen_stay(tmp_path: Path) -> None:
    # kills: profile-dropped
    def seen(file: Path) -> np.ndarray:
        image = Image.open(file)
        profile = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
        return np.asarray(ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB")), dtype=float)

    Image.fromarray(PIXELS).save(tmp_path / "a.png", icc_profile=wide_profile())
    degrade_files([GONE["op"]], tmp_path / "a.png", tmp_path / "b.png")
    assert np.abs(seen(tmp_path / "b.png") - seen(tmp_path / "a.png")).max() <= 1
    assert np.abs(seen(tmp_path / "a.png") - PIXELS).max() > 50, "the profile matters"
    # A format without room for it holds the colours in sRGB, and says so.
    notes = degrade_files([GONE["op"]], tmp_path / "a.png", tmp_path / "b.bmp").notes
    assert len(notes) == 1 and "'Wide" in notes[0] and "converted to sRGB" in notes[0]
    assert np.abs(read_picture(tmp_path / "b.bmp").pixels - seen(tmp_path / "a.png")).max() <= 1


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "L"])
def test_sixteen_bits_with_metadata(tmp_path: Path, suffix: str, mode: str) -> None:
    # kills: the profile of deep colour lost in silence; chunks that decoders refuse
    deep = np.random.default_rng(1).integers(0, 65536, (9, 7, 4), dtype=np.uint16)
    save(tmp_path / "a.png", Image.fromarray(PIXELS), icc_profile=wide_profile())
    like = read_picture(tmp_path / "a.png", metadata=True)
    colour = mode.startswith("RGB")
    picture = replace(like, pixels=deep[..., : 3 if colour else 1], alpha=deep[..., 3] if mode.endswith("A") else None)
    lost = write_picture(tmp_path / f"b{suffix}", picture)
    back = read_picture(tmp_path / f"b{suffix}", metadata=True)
    grey_with_alpha = mode == "LA"  # no format has it in 16 bits: colour
    assert np.array_equal(back.pixels[..., :1] if grey_with_alpha else back.pixels, picture.pixels)
    assert picture.alpha is None or np.array_equal(back.alpha, picture.alpha)
    if suffix == ".png" and mode != "L":
        assert lost == [] and back.metadata.profile == wide_profile() and back.metadata.exif == like.metadata.exif
        assert back.metadata.density == pytest.approx((300, 200), abs=0.01)
    else:
        assert len(lost) == 1, "what is lost is said"


def test_a_profile_of_other_pixels_is_not_kept(tmp_path: Path) -> None:
    # kills: a colour profile on a grey file, which viewers refuse or misread
    save(tmp_path / "a.png", Image.fromarray(PIXELS), icc_profile=wide_profile())
    picture = read_picture(tmp_path / "a.png", metadata=True)
    (lost,) = write_picture(tmp_path / "b.png", replace(picture, pixels=picture.pixels[..., :1]))
    assert "'Wide" in lost and "icc_profile" not in Image.open(tmp_path / "b.png").info


def test_damaged_metadata_is_left(tmp_path: Path) -> None:
    # kills: an image refused, or a result not written, for a field that nobody needs
    whole = exif().tobytes()
    for seed in range(60):
        rng = np.random.default_rng(seed)
        block = bytearray(whole)
        for place in rng.integers(10, len(block), 6):
            block[place] = rng.integers(256)
        Image.fromarray(PIXELS).save(tmp_path / "a.jpg", exif=bytes(block), icc_profile=rng.bytes(200))
        try:
            picture = read_picture(tmp_path / "a.jpg", metadata=True)
        except Exception as error:  # refused with and without its metadata alike
            with pytest.raises(type(error)):
                read_picture(tmp_path / "a.jpg")
            continue
        for suffix in (".png", ".webp", ".tif", ".jpg", ".bmp"):
            write_picture(tmp_path / f"b{suffix}", picture)
            assert read_picture(tmp_path / f"b{suffix}").pixels.shape[2] == 3


def test_python_images_carry_it_too(tmp_path: Path) -> None:
    # kills: run.restore(...).save(...) without the profile
    save(tmp_path / "a.png", Image.fromarray(PIXELS), icc_profile=wide_profile())
    image = to_pil(read_picture(tmp_path / "a.png", metadata=True))
    image.save(tmp_path / "b.png")
    assert Image.open(tmp_path / "b.png").info["icc_profile"] == wide_profile()
    assert image.getexif()[0x0132] == "2020:01:02 03:04:05"


def test_cmyk_becomes_srgb_by_its_profile() -> None:
    # kills: CMYK by a rule of thumb in spite of its profile
    image = Image.fromarray(PIXELS).convert("CMYK")
    assert from_pil(image).converted_from == "CMYK"
    image.info["icc_profile"] = b"damaged" * 40
    assert np.array_equal(from_pil(image).pixels, np.asarray(image.convert("RGB")))


def test_profiles_of_a_dataset_are_named(tmp_path: Path) -> None:
    # kills: profiles-not-named
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert is_srgb(srgb) and not is_srgb(wide_profile()) and profile_name(b"x" * 200) == "unreadable"

    def notes(*profiles: bytes | None) -> list[str]:
        for i, profile in enumerate(profiles):
            pixels = np.random.default_rng(i).integers(0, 256, (20, 20, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"{i}.png", icc_profile=profile)
        return check_data(str(tmp_path), []).notes

    mixed = [line for line in notes(wide_profile(), srgb, None) if "profile" in line]
    assert len(mixed) == 2 and mixed[0].startswith("1 with the colour profile 'Wide") and "are mixed" in mixed[1]
    assert len([line for line in notes(*[wide_profile()] * 3) if "profile" in line]) == 1
    assert not [line for line in notes(srgb, None, srgb) if "profile" in line]
