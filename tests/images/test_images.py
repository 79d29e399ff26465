import io
import struct

import numpy as np
import pytest
import torch
from PIL import Image

from i2i_bridge.errors import UserError
from i2i_bridge.images.files import (
    MAX_FRAMES,
    image_size,
    read_picture,
    write_picture,
)
from i2i_bridge.images.folder import find_images, left_out_notes, list_images
from i2i_bridge.images.pixels import (
    Picture,
    from_pil,
    mask_of,
    opaque,
    to_mask,
    to_pil,
    to_pixels,
    to_tensor,
    visible,
    with_channels,
)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_every_code_comes_back(dtype):
    # kills: truncate-instead-of-round
    codes = np.arange(np.iinfo(dtype).max + 1, dtype=dtype).reshape(1, -1, 1)
    x = to_tensor(codes)
    assert x.dtype == torch.float32 and x.min() == -1 and x.max() == 1
    assert np.array_equal(to_pixels(x, dtype), codes)


def test_rounding_is_to_the_nearest_code_and_clamped():
    # kills: truncate-instead-of-round
    x = torch.tensor([[[-5.0, -1 + 2 * 9.6 / 255, -1 + 2 * 9.4 / 255, 7.0]]])
    assert to_pixels(x).flatten().tolist() == [0, 10, 9, 255]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation):
    upright = np.zeros((16, 24, 3), np.uint8)
    upright[:8, :12] = 255
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
    image = Image.fromarray(upright)
    stored = image if orientation == 1 else image.transpose(Image.Transpose(undo[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read_picture(tmp_path / "a.png").pixels, upright)


def test_modes(tmp_path):
    rgb = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    base = Image.fromarray(rgb)
    palette = base.quantize(16)
    palette_alpha = palette.copy()
    palette_alpha.info["transparency"] = 0
    for image, channels, alpha in (
        (base, 3, False),
        (base.convert("L"), 1, False),
        (base.convert("1"), 1, False),
        (base.convert("LA"), 1, True),
        (base.convert("RGBA"), 3, True),
        (palette, 3, False),
        (palette_alpha, 3, True),
        (base.convert("CMYK"), 3, False),
        (base.convert("YCbCr"), 3, False),
    ):
        picture = from_pil(image)
        assert picture.pixels.shape == (6, 5, channels), image.mode
        assert (picture.alpha is not None) == alpha, image.mode
    assert np.array_equal(from_pil(base).pixels, rgb)


def test_sixteen_bit_grey_survives(tmp_path):
    """Pillow's own conversion to RGB would clip nearly all of these values."""
    values = np.linspace(0, 65535, 20 * 30).astype(np.uint16).reshape(20, 30, 1)
    for name in ("a.png", "a.tif"):
        write_picture(tmp_path / name, Picture(values))
        picture = read_picture(tmp_path / name)
        assert picture.pixels.dtype == np.uint16 and np.array_equal(picture.pixels, values)
    with pytest.raises(UserError, match="16 bits"):
        write_picture(tmp_path / "a.jpg", Picture(values))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_deep_pictures_are_turned_as_pillow_turns_others(orientation):
    # kills: deep-pictures-turned-otherwise
    from PIL import ImageOps

    from i2i_bridge.images.files import _upright

    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    image.getexif()[0x0112] = orientation
    assert np.array_equal(_upright(pixels, orientation), np.asarray(ImageOps.exif_transpose(image)))


def test_a_mask_is_what_is_above_half_of_its_own_range():
    """Half of the largest value of the dtype: 255, 65535, or 1.0 for floats."""
    # kills: 16-bit-mask-by-half-of-8-bits, mask-threshold-moved
    for codes, dtype, wanted in (
        ([0, 200, 32767, 32768, 65535], np.uint16, [0, 0, 0, 1, 1]),
        ([0, 1, 127, 128, 255], np.uint8, [0, 0, 0, 1, 1]),
        ([0.0, 0.49, 0.5, 0.51, 1.0], np.float32, [0, 0, 0, 1, 1]),
    ):
        assert to_mask(np.array(codes, dtype).reshape(1, -1, 1)).tolist() == [[wanted]], dtype


def test_alpha_round_trip(tmp_path):
    rng = np.random.default_rng(1)
    picture = Picture(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8), rng.integers(0, 256, (4, 4), dtype=np.uint8))
    write_picture(tmp_path / "a.png", picture)
    back = read_picture(tmp_path / "a.png")
    assert np.array_equal(back.pixels, picture.pixels) and np.array_equal(back.alpha, picture.alpha)
    assert np.array_equal(from_pil(to_pil(picture)).alpha, picture.alpha)


def test_channels():
    rgb = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8)
    assert with_channels(rgb, 1).flatten().tolist() == [76, 150, 29]
    assert with_channels(with_channels(rgb, 1), 3).shape == (1, 3, 3)
    with pytest.raises(UserError, match="cannot become"):
        with_channels(rgb, 2)


def test_listing_follows_links_to_files_and_names_what_it_leaves_out(tmp_path):
    # kills: linked-files-left-out, linked-folders-followed, left-out-in-silence
    inside, outside = tmp_path / "data", tmp_path / "outside"
    (inside / "deep" / ".hidden").mkdir(parents=True)
    outside.mkdir()
    for name in ("b.png", "deep/a.JPG", ".c.png", "._d.png", "deep/.hidden/e.png", "notes.txt", "deep/x.HEIC", "y.dng"):
        (inside / name).write_bytes(b"")
    (outside / "far.png").write_bytes(b"")
    (inside / "link.png").symlink_to(outside / "far.png")
    (inside / "nowhere.png").symlink_to(outside / "nowhere.png")
    (inside / "part").symlink_to(outside)
    (inside / "deep" / "circle").symlink_to(inside)
    listing = list_images(inside)
    assert listing.images == ["b.png", "deep/a.JPG", "link.png"]
    assert [path.relative_to(inside).as_posix() for path in find_images(inside)] == listing.images
    assert listing.left_out == ["deep/circle/", "deep/x.HEIC", "nowhere.png", "part/", "y.dng"]
    words = left_out_notes(inside, listing.left_out)
    assert len(words) == 4 and "links to folders are not followed" in words[0]
    for name, line in (("deep/circle", 0), ("part", 0), ("x.HEIC", 1), ("nowhere.png", 2), ("y.dng", 3)):
        assert f"{inside}/" in words[line] and name in words[line], words
    (many,) = left_out_notes(inside, [f"{i}.gif" for i in range(25)])
    assert "9.gif and 15 more: left out: .gif is not read here" in many


@pytest.mark.parametrize(
    "suffix", [".jfif", ".jpe", ".JPG", ".apng", ".ppm", ".pnm", ".pgm", ".pbm", ".tga", ".TGA", ".jp2", ".j2k"]
)
def test_every_ending_that_is_listed_is_read_and_written(tmp_path, suffix):
    # kills: jfif-unread
    rng = np.random.default_rng(3)
    grey = suffix in (".pgm", ".pbm")
    smooth = np.add.outer(np.arange(48), np.arange(40)).astype(np.uint8)[..., None]
    pixels = smooth if grey else np.concatenate([smooth, smooth + 9, rng.integers(90, 99, smooth.shape, np.uint8)], 2)
    file = tmp_path / f"a{suffix}"
    write_picture(file, Picture(pixels))
    assert find_images(tmp_path) == [file]
    back = read_picture(file).pixels.astype(int)
    lossy = suffix.lower() in (".jfif", ".jpe", ".jpg")
    assert back.shape == pixels.shape and np.abs(back - pixels).max() <= (24 if lossy else 0)
    assert np.abs(back - pixels).mean() < 2
    assert image_size(file) == (48, 40)


def test_deep_netpbm_and_jpeg_2000(tmp_path):
    """Pillow drops the low byte of 16-bit colour in both."""
    # kills: deep-ppm-halved, deep-jpeg-2000-halved
    rng = np.random.default_rng(4)
    colour = rng.integers(0, 65536, (64, 64, 3), dtype=np.uint16)
    for name, pixels in (("a.ppm", colour), ("a.pnm", colour), ("a.pgm", colour[..., :1])):
        write_picture(tmp_path / name, Picture(pixels))
        back = read_picture(tmp_path / name).pixels
        assert back.dtype == np.uint16 and np.array_equal(back, pixels)
    codes = (colour % 1001).astype(">u2")
    (tmp_path / "b.ppm").write_bytes(b"P6\n64 64\n1000\n" + codes.tobytes())
    wanted = np.rint(codes.astype(np.float64) * 65.535)
    assert np.abs(read_picture(tmp_path / "b.ppm").pixels - wanted).max() <= 1
    import cv2

    cv2.imwrite(str(tmp_path / "deep.jp2"), colour)
    for data in (None, (tmp_path / "deep.jp2").read_bytes()):
        with pytest.raises(UserError, match="JPEG 2000 in colour of 16 bits"):
            read_picture(tmp_path / "deep.jp2", data)
    (tmp_path / "no.tga").write_bytes(b"not a picture")
    with pytest.raises(UserError, match="not a readable image"):
        read_picture(tmp_path / "no.tga")


def test_deep_colour_with_opacity_is_shown_on_white_where_a_format_has_none(tmp_path):
    # kills: deep-opacity-dropped
    pixels = np.full((4, 4, 3), 20000, np.uint16)
    alpha = np.full((4, 4), 65535, np.uint16)
    assert write_picture(tmp_path / "a.ppm", Picture(pixels, alpha)) == []
    alpha[0] = 0
    assert write_picture(tmp_path / "a.ppm", Picture(pixels, alpha)) == ["opacity (it is shown on white)"]
    back = read_picture(tmp_path / "a.ppm").pixels
    assert (back[0] == 65535).all() and (back[1:] == 20000).all()


@pytest.mark.parametrize("options", [{"quality": 90}, {"lossless": True}])
@pytest.mark.parametrize("kind", ["plain", "with EXIF", "animation"])
def test_a_webp_is_lossy_as_its_first_frame_is_stored(options, kind):
    # kills: webp-always-lossy
    images = [Image.fromarray(np.random.default_rng(i).integers(0, 256, (9, 7, 3), dtype=np.uint8)) for i in range(2)]
    more = {"plain": {}, "with EXIF": {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0"}}.get(
        kind, {"save_all": True, "append_images": images[1:]}
    )
    stream = io.BytesIO()
    images[0].save(stream, "WEBP", **options, **more)
    assert read_picture("a.webp", stream.getvalue()).lossy == ("quality" in options)


def bad_files(folder):
    good = folder / "good.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(good)
    data = good.read_bytes()
    (folder / "truncated.png").write_bytes(data[: len(data) // 2])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.png").write_text("not an image")
    Image.fromarray(np.full((4, 4), np.nan, np.float32)).save(folder / "float.tif")
    (folder / "folder.png").mkdir()
    gif = folder / "animation.png"
    Image.new("L", (4, 4)).save(gif, format="GIF")
    huge = bytearray(data)
    huge[16:24] = (30000).to_bytes(4, "big") * 2
    (folder / "huge.png").write_bytes(bytes(huge))
    return [
        "truncated.png",
        "empty.png",
        "text.png",
        "float.tif",
        "folder.png",
        "animation.png",
        "huge.png",
        "missing.png",
    ]


def test_bad_files_are_refused_in_one_line_that_names_them(tmp_path):
    for name in bad_files(tmp_path):
        with pytest.raises(UserError) as caught:
            read_picture(tmp_path / name)
        assert name in str(caught.value) and "\n" not in str(caught.value), name


def test_writing_leaves_nothing_half_written(tmp_path):
    picture = Picture(np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(UserError, match="suffix"):
        write_picture(tmp_path / "a.xyz", picture)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_picture(tmp_path / "file" / "a.png", picture)
    write_picture(tmp_path / "new" / "a.png", picture)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.png"]


HOLE = np.zeros((6, 8), bool)
HOLE[2:4, 3:7] = True


def as_mask(picture):
    return to_mask(mask_of(picture)[0])[0].numpy() > 0


@pytest.mark.parametrize(
    ("low", "high", "dtype", "said"),
    [
        (0, 255, np.uint8, ""),
        (3, 140, np.uint8, ""),
        (0, 1, np.uint8, "1 is taken"),
        (0, 1, np.uint16, "1 is taken"),
        (0, 255, np.uint16, "255 is taken"),
        (0, 65535, np.uint16, ""),
        (0, 1, np.float32, ""),
        (0, 0.25, np.float32, "0.25 is taken"),
    ],
)
def test_a_mask_of_two_values_marks_its_hole(low, high, dtype, said):
    # kills: mask-of-ones-is-empty
    pixels = np.where(HOLE, dtype(high), dtype(low))[..., None]
    for channels in (1, 3):
        assert np.array_equal(as_mask(Picture(np.repeat(pixels, channels, 2))), HOLE)
        remark = mask_of(Picture(np.repeat(pixels, channels, 2)))[1]
        assert said in remark and bool(remark) == bool(said)


@pytest.mark.parametrize("colour", [(255, 0, 0), (1, 0, 0), (0, 0, 1), (0, 255, 0)])
def test_a_hole_painted_in_a_colour_is_a_hole(colour):
    # kills: a red of 1 rounded to a grey of 0
    assert np.array_equal(as_mask(Picture(HOLE[..., None] * np.array(colour, np.uint8))), HOLE)


def test_a_picture_that_is_no_mask_is_refused():
    labels = (np.arange(48).reshape(6, 8, 1) % 4).astype(np.uint8)
    dark = (np.arange(48).reshape(6, 8, 1) + 60).astype(np.uint8)
    for pixels in (labels, dark, np.full((6, 8, 1), 90, np.uint8)):
        with pytest.raises(UserError, match="not a mask: its values lie from"):
            mask_of(Picture(pixels))
    assert not as_mask(Picture(np.zeros((6, 8, 1), np.uint8))).any()
    assert as_mask(Picture(np.full((6, 8, 1), 255, np.uint8))).all()


def test_transparent_parts_are_the_hole():
    # kills: mask-ignores-transparency
    photo = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    opacity = np.where(HOLE, 0, 255).astype(np.uint8)
    assert np.array_equal(as_mask(Picture(photo, opacity)), HOLE)
    assert "transparent" in mask_of(Picture(photo, opacity))[1]
    # Painted in white on an empty layer it is the other way round; a black sheet with a hole is a sheet with a hole.
    white, black = np.full((6, 8, 3), 255, np.uint8), np.zeros((6, 8, 1), np.uint8)
    assert np.array_equal(as_mask(Picture(white, np.where(HOLE, 255, 0).astype(np.uint8))), HOLE)
    assert np.array_equal(as_mask(Picture(black, opacity)), HOLE)
    # Opacity that nobody sees through says nothing.
    ink = np.where(HOLE, 255, 0).astype(np.uint8)[..., None]
    for whole in (np.full((6, 8), 255, np.uint8), np.full((6, 8), 200, np.uint8)):
        assert np.array_equal(as_mask(Picture(ink, whole)), HOLE)
    ink[0, 0] = 255
    half = np.where(np.arange(8) < 2, 0, 255)[None].repeat(6, 0).astype(np.uint8)
    with pytest.raises(UserError, match="black, white and transparent"):
        mask_of(Picture(ink, half))


def test_colours_below_transparency_are_not_seen():
    # kills: hidden-colours-are-data, hidden-colours-of-16-bits-are-dark
    pixels = np.full((2, 2, 3), (200, 100, 0), np.uint8)
    alpha = np.array([[0, 255], [51, 255]], np.uint8)
    assert opaque(Picture(pixels, alpha))[:, 0].tolist() == [[255, 255, 255], [244, 224, 204]]
    assert visible(Picture(pixels, alpha))[:, 0].tolist() == [[255, 255, 255], [200, 100, 0]]
    for shown in (opaque, visible):
        assert np.array_equal(shown(Picture(pixels, alpha))[:, 1], pixels[:, 1])
        assert shown(Picture(pixels, np.full((2, 2), 255, np.uint8))) is shown(Picture(pixels)) is pixels
    for shown in (opaque, visible):
        deep = shown(Picture(pixels.astype(np.uint16) * 257, alpha.astype(np.uint16) * 257))
        assert deep.dtype == np.uint16 and np.array_equal(deep, shown(Picture(pixels, alpha)).astype(np.uint16) * 257)


def test_pages_of_a_tiff_are_counted_up_to_a_bound(tmp_path):
    """Pillow's count is quadratic in the number of pages: 20,000 pages in 100 kB took minutes."""
    # kills: pages-without-bound
    head, entries = 8, [(256, 3, 1, 1), (257, 3, 1, 1), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
    entries += [(273, 4, 1, 4), (277, 3, 1, 1), (278, 4, 1, 1), (279, 4, 1, 1)]
    size = 2 + 12 * len(entries) + 4
    for pages, counted in ((3, 3), (MAX_FRAMES, MAX_FRAMES), (3 * MAX_FRAMES, MAX_FRAMES)):
        tables = b"".join(
            struct.pack("<H", len(entries))
            + b"".join(struct.pack("<HHLL", *entry) for entry in entries)
            + struct.pack("<L", head + (page + 1) * size if page + 1 < pages else 0)
            for page in range(pages)
        )
        file = tmp_path / f"{pages}.tif"
        file.write_bytes(b"II*\0" + struct.pack("<L", head) + tables)
        picture = read_picture(file)
        assert picture.frames == counted and picture.pixels.shape == (1, 1, 1) and picture.pixels[0, 0, 0] == head
