"""Inpainting: the holes and what is put into them."""

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from i2i_bridge.data.dataset import PairDataset
from i2i_bridge.data.transforms import Geometry
from i2i_bridge.degradations.inpaint import CropOut, Inpaint
from i2i_bridge.degradations.masks import _stroke, brush_mask, center_mask
from i2i_bridge.errors import UserError
from i2i_bridge.images.files import read_picture
from i2i_bridge.images.pixels import to_mask
from i2i_bridge.randomness import generator, rand
from i2i_bridge.registry import DEGRADATIONS


def images(batch: int = 2, height: int = 64, width: int = 64) -> Tensor:
    return rand((batch, 3, height, width), generator(0, "test")).float() * 2 - 1


def generators(batch: int) -> list[torch.Generator]:
    return [generator(0, "test", i) for i in range(batch)]


def hole_of(degradation: Inpaint, x_0: Tensor) -> Tensor:
    mask = degradation(x_0, generators(len(x_0))).mask
    assert mask is not None
    return mask


# ---------------------------------------------------------------------------------------------------- shapes


def test_center_is_the_middle_half_of_each_side() -> None:
    # kills: half of the area instead; inverted mask; height and width exchanged
    mask = center_mask(256, 256)
    assert mask.sum() == 16384
    assert mask[64:192, 64:192].eq(1).all()
    oblong = center_mask(32, 80)
    assert oblong.sum() == 16 * 40
    assert oblong[8:24, 20:60].eq(1).all()


@pytest.mark.parametrize("area", [(0.1, 0.2), (0.2, 0.3), (0.3, 0.4)])
def test_freeform_holes_meet_their_band(area: tuple[float, float]) -> None:
    # kills: no area control; the last stroke overshooting; always the lower bound; one area for all
    shares = torch.tensor([brush_mask(96, 96, area, generator(0, "mask", i)).mean() for i in range(300)])
    assert shares.min() >= area[0]
    assert shares.max() <= area[1]
    assert shares.mean().item() == pytest.approx(sum(area) / 2, abs=0.008)
    assert shares.std().item() == pytest.approx((area[1] - area[0]) / 12**0.5, rel=0.15)


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(8, 90),
    width=st.integers(8, 90),
    low=st.floats(0.02, 0.85) | st.integers(2, 85).map(lambda percent: percent / 100),
    index=st.integers(0, 10**6),
)
def test_freeform_holes_meet_any_band_at_any_size(height: int, width: int, low: float, index: int) -> None:
    # kills: a loop that never ends; rounding that leaves the band in small images
    area = (low, low + 0.05)
    mask = brush_mask(height, width, area, generator(0, "mask", index))
    assert mask.shape == (height, width)
    assert area[0] <= int(mask.sum()) / (height * width) <= area[1]


def test_freeform_holes_are_strokes_all_over_the_image() -> None:
    # kills: salt and pepper; one corner preferred; borders avoided; the same mask each time
    masks = torch.stack([brush_mask(64, 64, (0.2, 0.3), generator(0, "mask", i)) for i in range(300)])
    assert len({mask.numpy().tobytes() for mask in masks}) == 300
    inside = masks[:, 1:-1, 1:-1]
    around = masks[:, :-2, 1:-1] + masks[:, 2:, 1:-1] + masks[:, 1:-1, :-2] + masks[:, 1:-1, 2:]
    assert (around[inside == 1] == 4).float().mean() > 0.55
    by_place = masks.mean(0).view(4, 16, 4, 16).mean((1, 3))
    assert by_place.min() > 0.18
    assert by_place.max() < 0.33
    border = torch.cat([masks[:, :2].flatten(), masks[:, -2:].flatten(), masks[..., :2].flatten()])
    assert border.mean().item() == pytest.approx(0.29, abs=0.06)


def test_a_stroke_is_all_that_lies_within_half_its_width() -> None:
    """Brute force over all pixels; the ends are round, and a stroke that is too much ends across its direction."""
    # kills: stroke-of-twice-the-width, stroke-beyond-its-ends
    for start, end, brush in (((12.3, 40.0), (55.0, 18.7), 9.0), ((30.0, 30.0), (30.0, 30.0), 14.0)):
        hole = np.zeros((60, 70), dtype=bool)
        count = _stroke(hole, start, end, brush, 10**6)
        a, b = np.array(start), np.array(end)
        for y in range(60):
            for x in range(70):
                share = np.clip(np.dot((x, y) - a, b - a) / max(np.dot(b - a, b - a), 1e-9), 0, 1)
                distance = np.linalg.norm((x, y) - (a + share * (b - a)))
                assert hole[y, x] == (distance <= brush / 2), (x, y)
        area = np.linalg.norm(b - a) * brush + np.pi * brush**2 / 4
        assert count == hole.sum() == pytest.approx(area, rel=0.05)
    cut = np.zeros((60, 70), dtype=bool)
    assert _stroke(cut, (10.0, 20.0), (50.0, 20.0), 8.0, 100) == cut.sum() == 100
    assert cut[:, 6:20].sum() == 100, "the part nearest to its start"


def test_freeform_holes_come_from_the_generator_alone() -> None:
    # kills: a global generator; state kept between calls
    again = [brush_mask(64, 64, (0.1, 0.2), generator(3, "mask", 5)) for _ in range(2)]
    assert torch.equal(*again)
    assert not torch.equal(again[0], brush_mask(64, 64, (0.1, 0.2), generator(4, "mask", 5)))


def test_freeform_holes_are_of_the_smallest_band_unless_told(tmp_path: Path) -> None:
    # kills: another-band-by-default
    file, masks = palette_file(tmp_path, 4)
    freeform, packed = Inpaint("freeform"), Inpaint("file", file=file)
    shares = hole_of(freeform, images(40)).flatten(1).mean(1)
    assert shares.min() >= 0.1 and shares.max() <= 0.2 and shares.max() - shares.min() > 0.06
    known = {mask.tobytes() for mask in masks["10-20% freeform"]}
    assert {hole[0].numpy().astype(np.uint8).tobytes() for hole in hole_of(packed, images(9, 256, 256))} <= known


def test_freeform_holes_are_quick() -> None:
    """A stroke costs its own extent: ten holes of dozens of strokes take less than 500 distances over the whole image.

    Both are of this machine and this moment, so that its speed does not matter.
    """
    # kills: work that grows with image size x strokes
    rows, columns = np.arange(1024.0)[:, None], np.arange(1024.0)
    start = time.process_time()
    for i in range(10):
        brush_mask(1024, 1024, (0.2, 0.3), generator(0, "mask", i))
    holes = time.process_time() - start
    for i in range(500):
        np.count_nonzero(np.square(rows - i) + np.square(columns - i) <= 100)
    assert holes < time.process_time() - start - holes


def test_a_band_that_no_number_of_pixels_meets_is_refused() -> None:
    # kills: an endless loop; a mask outside its band
    with pytest.raises(UserError, match="widen"):
        brush_mask(3, 3, (0.12, 0.2), generator(0, "mask"))


def test_masks_from_a_folder(tmp_path: Path) -> None:
    # kills: black as the hole; smooth resizing; unsorted listing; always the first file; other files read
    for k, name in enumerate(["b.png", "a.PNG", "c.png"]):
        picture = Image.new("L", (16, 8))
        picture.paste(255, (0, 0, 4 * (k + 1), 8))
        picture.save(tmp_path / name)
    (tmp_path / "readme.txt").write_text("not a mask")
    degradation = DEGRADATIONS.build({"name": "inpaint", "mask": "folder", "folder": str(tmp_path)})
    holes = hole_of(degradation, images(30))
    assert set(holes.flatten(1).mean(1).tolist()) == {0.25, 0.5, 0.75}
    assert all(torch.equal(hole[0, 0], hole[0, -1]) and hole[0, 0].diff().le(0).all() for hole in holes)
    # Sorted by name: the order of creation or of the file system does not matter.
    assert [file.name for file in degradation._files] == ["a.PNG", "b.png", "c.png"]


def test_a_mask_image_is_resized_pixel_by_pixel(tmp_path: Path) -> None:
    # kills: bilinear resizing, which rounds corners off
    picture = Image.new("RGB", (16, 16))
    picture.putpixel((3, 5), (255, 255, 255))
    picture.save(tmp_path / "point.png")
    hole = hole_of(Inpaint("folder", folder=tmp_path), images(1, 64, 64))
    assert hole.sum() == 16
    assert hole[0, 0, 20:24, 12:16].eq(1).all()


def test_masks_of_a_folder_and_masks_of_a_user_have_one_threshold(tmp_path: Path) -> None:
    """Above half of 255 is the hole: code 128, not 127; the same as for the masks that `restore` takes."""
    # kills: folder-mask-threshold
    codes = np.array([[0, 1, 127, 128], [254, 255, 128, 127]], dtype=np.uint8)
    Image.fromarray(codes).save(tmp_path / "grey.png")
    hole = hole_of(Inpaint("folder", folder=tmp_path), images(1, 2, 4))[0]
    assert hole[0].tolist() == [[0, 0, 0, 1], [1, 1, 1, 0]]
    assert torch.equal(hole, to_mask(read_picture(tmp_path / "grey.png").pixels))


@pytest.mark.parametrize(("height", "width"), [(8, 8), (6, 10)])
def test_a_rectangle_may_lie_anywhere(height: int, width: int) -> None:
    """Every place at which the hole fits is taken, the last row and column included; all are as frequent."""
    # kills: crop-out-never-at-the-far-edge
    degradation = CropOut(count=1, size=0.5, fill="white")
    x_0 = images(1, height, width)
    masks = [degradation(x_0, [generator(0, "test", i)]).mask[0, 0] for i in range(400)]  # type: ignore[index]
    for axis, side in ((1, height), (0, width)):
        first = torch.tensor([int(mask.amax(axis).argmax()) for mask in masks])
        assert sorted(set(first.tolist())) == list(range(side - side // 2 + 1))
        # 400 / (side / 2 + 1) times each, within five standard deviations.
        places = side - side // 2 + 1
        assert (first.bincount() - 400 / places).abs().max() < 5 * (400 / places) ** 0.5
    assert all(int(mask.sum()) == (height // 2) * (width // 2) for mask in masks)


def test_a_folder_is_read_only_when_it_is_needed(tmp_path: Path) -> None:
    # kills: a trained model that cannot be used where the masks are not; a late or many-line error
    degradation = Inpaint("folder", folder=tmp_path / "gone")
    mask = torch.ones(1, 1, 64, 64)
    assert degradation.prepare(images(), generators(2), mask).x_1.shape == (2, 3, 64, 64)
    with pytest.raises(UserError, match="gone"):
        degradation(images(), generators(2))
    with pytest.raises(UserError, match="no mask images"):
        Inpaint("folder", folder=tmp_path)(images(), generators(2))
    (tmp_path / "torn.png").write_bytes(b"\x89PNG torn")
    with pytest.raises(UserError, match=r"torn\.png"):
        Inpaint("folder", folder=tmp_path)(images(), generators(2))


def palette_file(folder: Path, count: int = 40) -> tuple[Path, dict[str, np.ndarray]]:
    """A file as Palette's authors give: an array of bits for each band, all masks of 256 x 256 in one row."""
    masks = {}
    for band, (low, high) in {"10-20% freeform": (0.1, 0.2), "20-30% freeform": (0.2, 0.3)}.items():
        drawn = [brush_mask(256, 256, (low, high), generator(0, band, i)) for i in range(count)]
        masks[band] = torch.stack(drawn).numpy().astype(np.uint8)
    file = folder / "imagenet_freeform_masks.npz"
    np.savez_compressed(file, **{band: np.packbits(values) for band, values in masks.items()})  # type: ignore[arg-type]
    return file, masks


def test_palette_s_packed_masks_are_read_as_they_are(tmp_path: Path) -> None:
    # kills: packed-masks-unread: bits read in the other order, or the hole inverted; another band; one mask for all
    file, masks = palette_file(tmp_path)
    for band, area in (("10-20% freeform", [0.1, 0.2]), ("20-30% freeform", [0.2, 0.3])):
        table = {"name": "inpaint", "mask": "file", "file": str(file), "area": area}
        holes = hole_of(DEGRADATIONS.build(table), images(30, 256, 256))
        known = {mask.tobytes() for mask in masks[band]}
        drawn = {hole[0].numpy().astype(np.uint8).tobytes() for hole in holes}
        assert drawn <= known and len(drawn) > 15
    # At another size each pixel is one of the mask's.
    small = hole_of(Inpaint("file", file=file), images(1, 64, 128))[0, 0].numpy()
    assert small.tobytes() in {mask[2::4, 1::2].astype(np.float32).tobytes() for mask in masks["10-20% freeform"]}


def test_the_last_mask_of_a_file_or_folder_is_drawn_too(tmp_path: Path) -> None:
    """Of three masks each is drawn about as often; so is every area of a freeform band, both ends included."""
    # kills: last-packed-mask-never, largest-freeform-hole-never
    file, masks = palette_file(tmp_path, 3)
    for n in range(3):
        Image.fromarray(masks["10-20% freeform"][n] * 255).save(tmp_path / f"{n}.png")
    known = [mask.tobytes() for mask in masks["10-20% freeform"]]
    for degradation in (Inpaint("file", file=file), Inpaint("folder", folder=tmp_path)):
        holes = hole_of(degradation, images(60, 256, 256))
        drawn = [known.index(hole[0].numpy().astype(np.uint8).tobytes()) for hole in holes]
        assert all(8 < drawn.count(n) < 32 for n in range(3)), drawn
    areas = [int(brush_mask(10, 10, (0.095, 0.125), generator(0, "mask", i)).sum()) for i in range(120)]
    assert all(20 < areas.count(n) < 60 for n in (10, 11, 12)) and set(areas) == {10, 11, 12}


def test_a_wrong_file_of_packed_masks_is_one_line(tmp_path: Path) -> None:
    # kills: a traceback of NumPy's; a pickle that is opened
    file, _ = palette_file(tmp_path, 1)
    np.savez(tmp_path / "other.npz", **{"10-20% freeform": np.zeros(9000)})  # type: ignore[arg-type]
    np.savez(tmp_path / "pickled.npz", **{"10-20% freeform": np.array([{}], dtype=object)})  # type: ignore[arg-type]
    (tmp_path / "torn.npz").write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    np.save(tmp_path / "one.npy", np.zeros(3))
    for name, words in (
        ("gone.npz", "no such file"),
        ("torn.npz", "not a readable"),
        ("one.npy", "not a readable"),
        ("pickled.npz", "not a readable"),
        ("other.npz", "float64"),
    ):
        with pytest.raises(UserError, match=words) as caught:
            Inpaint("file", file=tmp_path / name)(images(), generators(2))
        assert name in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(UserError, match="no masks '30-40% freeform'; there is '10-20% freeform'"):
        Inpaint("file", (0.3, 0.4), file=file)(images(), generators(2))


# ------------------------------------------------------------------------------------------------------ fill


@pytest.mark.parametrize("mask", ["center", "freeform"])
def test_known_pixels_are_kept_and_holes_are_noise(mask: str) -> None:
    # kills: hole-and-known-exchanged;
    # inverted mask; hole left as it was; noise added to the image; noise of another std; grey noise
    x_0 = images(8, 128, 128)
    degraded = Inpaint(mask)(x_0, generators(8))  # type: ignore[arg-type]
    assert degraded.mask is not None
    hole = degraded.mask.expand_as(x_0) == 1
    assert torch.equal(degraded.x_1[~hole], x_0[~hole])
    noise = degraded.x_1[hole]
    assert noise.mean().item() == pytest.approx(0, abs=0.02)
    assert noise.std().item() == pytest.approx(1, abs=0.02)
    assert abs(torch.corrcoef(torch.stack([noise, x_0[hole]]))[0, 1].item()) < 0.02
    assert abs(torch.corrcoef(degraded.x_1[0, :, 48:80, 48:80].flatten(1))[0, 1].item()) < 0.2


@pytest.mark.parametrize(("fill", "value"), [("white", 1.0), ("grey", 0.0)])
def test_plain_fills(fill: str, value: float) -> None:
    # kills: white and grey exchanged; 0.5 as grey
    degraded = Inpaint(fill=fill)(images(), generators(2))  # type: ignore[arg-type]
    assert degraded.mask is not None
    assert degraded.x_1[degraded.mask.expand(-1, 3, -1, -1) == 1].eq(value).all()


def test_each_sample_has_its_own_hole() -> None:
    # kills: one mask for the batch, with one generator or with many
    for one_or_many in (generator(0, "test"), generators(4)):
        mask = Inpaint("freeform")(images(4), one_or_many).mask
        assert mask is not None
        assert len({one.numpy().tobytes() for one in mask}) == 4


def test_prepare_fills_the_user_s_hole() -> None:
    # kills: what was under the hole leaking into x_1, NaN included; the hole inverted; fill forgotten
    image = images(2)
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., 10:20, 30:50] = 1
    image[..., 12, 35] = float("nan")
    degraded = Inpaint().prepare(image, generators(2), mask)
    assert degraded.x_1.isfinite().all()
    known = (mask == 0).expand_as(image)
    assert torch.equal(degraded.x_1[known], image[known])
    assert degraded.x_1[~known].std().item() == pytest.approx(1, abs=0.1)
    assert degraded.mask is not None
    assert degraded.mask.shape == (2, 1, 64, 64)
    white = Inpaint(fill="white").prepare(image, generators(2), mask)
    assert white.x_1[~known].eq(1).all()


def test_each_image_of_a_batch_has_its_own_mask() -> None:
    """A batch of masks is taken sample by sample; one mask serves all."""
    # kills: first-mask-for-all
    x, masks = images(), torch.zeros(2, 1, 64, 64)
    masks[0, :, :8], masks[1, :, 40:] = 1, 1
    together = Inpaint(fill="white").prepare(x, generators(2), masks)
    assert together.mask is not None and torch.equal(together.mask, masks)
    assert torch.equal(together.x_1, torch.where(masks > 0, torch.ones(()), x))
    one = Inpaint(fill="white").prepare(x, generators(2), masks[:1])
    assert one.mask is not None and torch.equal(one.mask, masks[:1].expand(2, -1, -1, -1))


def test_prepare_needs_a_mask_of_the_image_s_size() -> None:
    # kills: an empty hole taken for granted
    with pytest.raises(UserError, match="needs a mask"):
        Inpaint().prepare(images(), generators(2))
    with pytest.raises(UserError, match=r"32 x 64.*64 x 64"):
        Inpaint().prepare(images(), generators(2), torch.ones(1, 1, 32, 64))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mask": "centre"}, "center"),
        ({"mask": "freeform", "area": [0.3, 0.2]}, "rising"),
        ({"mask": "freeform", "area": [0.0, 0.2]}, "above 0"),
        ({"mask": "freeform", "area": [0.2, 0.95]}, "0.9"),
        ({"mask": "freeform", "area": [0.2]}, "area"),
        ({"mask": "center", "area": [0.1, 0.2]}, "freeform"),
        ({"mask": "folder"}, "folder"),
        ({"mask": "center", "folder": "masks"}, "folder"),
        ({"mask": "file"}, "needs a file"),
        ({"mask": "folder", "folder": "masks", "file": "x.npz"}, "file"),
        ({"fill": "black"}, "white"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, object], words: str) -> None:
    # kills: options that are taken and ignored
    with pytest.raises(UserError, match=words):
        DEGRADATIONS.build({"name": "inpaint", **options})


@pytest.mark.parametrize(("side", "draws"), [(64, 9700), (256, 300)])
def test_ten_thousand_freeform_holes_meet_the_paper_s_bands(side: int, draws: int) -> None:
    # kills: a band that is missed once in a thousand draws
    for i in range(draws):
        low, high = ((0.1, 0.2), (0.2, 0.3), (0.3, 0.4))[i % 3]
        area = int(brush_mask(side, side, (low, high), generator(0, "mask", i)).sum())
        assert low * side**2 <= area <= high * side**2


class Greys:
    """Six grey images, the same for both splits: only the draws may tell them apart."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"x_0": np.full((32, 32, 3), 9, dtype=np.uint8), "key": f"grey-{index}"}


def test_validation_s_masks_are_fixed_and_never_training_s() -> None:
    # kills: keyed-by-split-forgotten; masks drawn anew in each epoch; a training mask that repeats in a later epoch
    def dataset(purpose: str, seed: int = 0) -> PairDataset:
        inpaint = Inpaint("freeform", area=(0.1, 0.2))
        return PairDataset(Greys(), Geometry(32, crop="center"), inpaint, 3, seed, purpose)  # type: ignore[arg-type]

    def holes(items: Iterable[dict[str, Any]]) -> list[bytes]:
        return [item["mask"].numpy().tobytes() for item in items]

    validation, training = dataset("validation"), dataset("train")
    fixed = holes(validation[i] for i in range(6))
    # Ten epochs of training later, in another order, by another object: still the same.
    seen = holes(training.sample(n) for n in range(60))
    assert len(set(seen)) == 60
    assert holes(validation[i] for i in reversed(range(6))) == fixed[::-1]
    assert holes(dataset("validation")[i] for i in range(6)) == fixed
    assert len(set(fixed)) == 6
    assert not set(fixed) & set(seen)
    assert not set(fixed) & set(holes(training[i] for i in range(6)))
    assert not set(fixed) & set(holes(dataset("validation", seed=1)[i] for i in range(6)))
