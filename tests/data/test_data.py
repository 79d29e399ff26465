import hashlib
import itertools
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from i2i_bridge.data.cards import card_names, load_card, open_source
from i2i_bridge.data.dataset import PairDataset
from i2i_bridge.data.loader import training_batches
from i2i_bridge.data.sources.folders import CleanImages, PairedFolders, SideBySide, shared_files
from i2i_bridge.data.sources.packaged import PackagedImages
from i2i_bridge.data.splits import SPLITS, list_applies, listed_positions, split_name, split_positions
from i2i_bridge.data.transforms import Geometry
from i2i_bridge.errors import UserError
from i2i_bridge.recipe.load import load_recipe
from i2i_bridge.registry import DATASETS, DEGRADATIONS


def save(path, height=40, width=48, seed=0, mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)
    return path


@pytest.fixture
def photos(tmp_path):
    for i in range(10):
        save(tmp_path / "photos" / f"{i:02d}.png", seed=i)
    return tmp_path / "photos"


def coordinates(height=40, width=48):
    """An image whose pixels encode their coordinates."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, 0 * rows], axis=2).astype(np.uint8)


def test_more_workers_than_processors_are_no_warning(photos, monkeypatch):
    # kills: warned-of-the-recipes-workers
    monkeypatch.setattr(torch._utils, "cpu_count", lambda: 1)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        batches = training_batches(dataset(photos), 2, workers=2)
        next(batches)
        batches.close()
    assert not [str(one.message) for one in seen if "worker processes" in str(one.message)]


@pytest.mark.parametrize("seed", range(8))
def test_one_transform_for_all_images_of_an_item(seed):
    geometry = Geometry(16, resize="none", crop="random", flip=True)
    done = geometry({"x_0": coordinates(), "x_1": coordinates(), "mask": coordinates()[..., :1]}, seed)
    assert np.array_equal(done["x_0"], done["x_1"])
    assert np.array_equal(done["x_0"][..., :1], done["mask"])
    assert done["x_0"].shape == (16, 16, 3)


def test_a_mask_is_cut_and_mirrored_with_the_image():
    """One draw per item: x_0, x_1, condition and mask have the same crop and flip."""
    # kills: mask-not-mirrored, mask-of-another-window
    geometry = Geometry((16, 12), resize="none", crop="random", flip=True)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    images = {"x_0": pixels, "x_1": pixels, "condition": pixels, "mask": pixels[..., 1:2]}
    cuts = [geometry(images, seed) for seed in range(40)]
    for cut in cuts:
        assert np.array_equal(cut["x_0"], cut["x_1"]) and np.array_equal(cut["x_0"], cut["condition"])
        assert np.array_equal(cut["x_0"][..., 1:2], cut["mask"])
    plain = Geometry((16, 12), resize="none", crop="random", flip=False)
    mirrored = [not np.array_equal(plain(images, seed)["mask"], cut["mask"]) for seed, cut in enumerate(cuts)]
    assert 10 < sum(mirrored) < 30


@pytest.mark.parametrize("size", [7, 16, 20, 23, 40, 64, (30, 13), (13, 30), (60, 30)], ids=str)
@pytest.mark.parametrize("resize", ["short_side", "stretch"])
def test_a_resized_pair_is_equal_wherever_its_mask_is_0(size, resize):
    """Interpolation mixes pixels of the hole into their neighbours, which must then be marked unknown."""
    # kills: mixed-pixels-taken-for-known
    draw = np.random.default_rng(0)
    for height, width in ((40, 48), (37, 41)):
        x_0, fill = (draw.integers(0, 256, (height, width, 3), dtype=np.uint8) for _ in range(2))
        hole = np.zeros((height, width, 1), np.uint8)
        hole[11:18, 9:21], hole[30, 33], hole[-1, 0] = 255, 255, 255
        done = Geometry(size, resize=resize)({"x_0": x_0, "x_1": np.where(hole > 0, fill, x_0), "mask": hole}, 0)
        known = done["mask"][..., 0] == 0
        assert np.array_equal(done["x_0"][known], done["x_1"][known])
        assert set(np.unique(done["mask"])) <= {0, 255}
        # And no pixel is given up that is known: of the unknown ones most differ.
        assert (done["x_0"][~known] != done["x_1"][~known]).any(1).mean() > 0.8


class Masked:
    """Clean images, and a mask of the left half in the form that a test wants."""

    half = np.repeat(np.arange(20) < 10, 20).reshape(20, 20).T

    def __init__(self, mask, dtype=np.uint8):
        self.mask, self.dtype = mask, dtype

    def __len__(self):
        return 3

    def __getitem__(self, index):
        pixels = np.random.default_rng(index).integers(0, 256, (20, 20, 3)).astype(self.dtype)
        return {"x_0": pixels, "mask": self.mask, "key": f"photo-{index}"}


@pytest.mark.parametrize("options", [{"name": "inpaint", "mask": "center"}, {"name": "crop-out", "fill": "white"}])
def test_the_hole_of_an_item_is_the_one_that_is_filled(options):
    """x_1 is x_0 outside the item's own mask, to the bit, and the fill inside; another degradation is refused."""
    # kills: a-hole-drawn-beside-the-items-own
    source = Masked(np.where(Masked.half, np.uint8(255), np.uint8(0)))
    data = PairDataset(source, Geometry(20), DEGRADATIONS.build(options), 3, 0, "train")
    left = torch.from_numpy(Masked.half)
    for item in (data.sample(0), data.sample(7), data[2]):
        assert torch.equal(item["mask"][0] > 0, left)
        assert torch.equal(item["x_1"][:, ~left], item["x_0"][:, ~left])
        assert (item["x_1"][:, left] != item["x_0"][:, left]).float().mean() > 0.9
    data = PairDataset(source, Geometry(20), DEGRADATIONS.build({"name": "noise", "std": 0.2}), 3, 0, "train")
    with pytest.raises(UserError, match="brings a mask, and Noise would change what it says is known"):
        data.sample(0)


@pytest.mark.parametrize("dtype", [bool, torch.uint8, torch.float32, torch.float64, "signed", "array", "white"])
def test_a_mask_may_be_a_tensor_of_zeros_and_ones(dtype):
    """0 is known in every form: of floats in [0, 1] it is not the middle of [-1, 1], which would be unknown."""
    # kills: zeros-of-a-mask-are-half-white
    half = torch.from_numpy(Masked.half)[None]
    forms = {"signed": half * 2.0 - 1, "array": Masked.half.astype(np.float32), "white": half.to(torch.uint8) * 255}
    mask = forms[dtype] if isinstance(dtype, str) else half.to(torch.bool if dtype is bool else dtype)
    inpaint = DEGRADATIONS.build({"name": "inpaint"})
    data = PairDataset(Masked(mask, np.uint16), Geometry(20), inpaint, 3, 0, "train", value_range=(0.0, 255.0))
    assert torch.equal(data.sample(0)["mask"], half.float())


def test_a_mask_stays_black_and_white():
    # kills: mask-blended
    mask = np.zeros((40, 48, 1), np.uint8)
    mask[7:23, 5:30] = 255
    for size in (23, 97):
        done = Geometry(size)({"x_0": coordinates(), "mask": mask}, 0)["mask"]
        assert set(np.unique(done)) == {0, 255}


def test_geometry_is_a_function_of_the_seed():
    geometry = Geometry(16, resize="none", crop="random", flip=True)
    corners = {tuple(geometry({"x_0": coordinates()}, seed)["x_0"][0, 0]) for seed in range(50)}
    assert len(corners) > 30
    again = [geometry({"x_0": coordinates()}, 3)["x_0"] for _ in range(2)]
    assert np.array_equal(*again)


@pytest.mark.parametrize(("channels", "dtype"), [(1, np.uint16), (2, np.float32), (3, np.uint8), (7, np.float32)])
def test_any_channels_and_depths_are_cut_and_mirrored(channels, dtype):
    # kills: a channel lost where there is one; a mirror of 8-bit colour only
    pixels = np.random.default_rng(0).integers(0, 200, (20, 24, channels)).astype(dtype)
    geometry = Geometry(16, resize="none", crop="random", flip=True)
    for seed in range(20):
        cut = geometry({"x_0": pixels}, seed)["x_0"]
        assert cut.dtype == dtype and cut.shape == (16, 16, channels)
        windows = [pixels[top : top + 16, left : left + 16] for top in range(5) for left in range(9)]
        assert sum(np.array_equal(cut, turned) for one in windows for turned in (one, one[:, ::-1])) == 1


def test_where_a_crop_lies_says_nothing_of_its_mirroring():
    """Row, column and flip are independent: uniform over all positions, flipped half of the time."""
    # kills: crop-and-mirror-coupled. Then every crop of the upper half is mirrored, and none of the lower (r = -0.87).
    geometry = Geometry(16, resize="none", crop="random", flip=True)
    drawn = []
    for seed in range(2000):
        cut = geometry({"x_0": coordinates()}, seed)["x_0"].astype(int)
        drawn.append((cut[0, 0, 0], cut[0, :, 1].min(), cut[0, 0, 1] > cut[0, -1, 1]))
    rows, columns, mirrored = np.array(drawn).T
    # Of n independent draws r has the spread 1 / sqrt(n) = 0.022.
    assert np.abs(np.corrcoef([rows, columns, mirrored])[~np.eye(3, dtype=bool)]).max() < 0.1
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (0, 24, 0, 32)
    assert abs(rows.mean() - 12) < 0.7 and abs(columns.mean() - 16) < 0.9 and abs(mirrored.mean() - 0.5) < 0.05


def test_resizing():
    tall = np.zeros((100, 50, 3), np.uint8)
    assert Geometry(20)({"x_0": tall}, 0)["x_0"].shape == (20, 20, 3)
    assert Geometry((20, 30), resize="stretch")({"x_0": tall}, 0)["x_0"].shape == (20, 30, 3)
    constant = np.full((64, 64, 1), 1234, np.uint16)
    small = Geometry(16)({"x_0": constant}, 0)["x_0"]
    assert small.dtype == np.uint16 and (small == 1234).all() and small.shape == (16, 16, 1)
    # Antialiased: a one-pixel checkerboard becomes flat grey, not stripes.
    board = ((np.indices((64, 64)).sum(0) % 2) * 255).astype(np.uint8)[..., None]
    assert np.ptp(Geometry(16)({"x_0": board}, 0)["x_0"].astype(int)) <= 1
    with pytest.raises(UserError, match="50x100 pixels, smaller than the crop 60x60"):
        Geometry(60, resize="none")({"x_0": tall}, 0)
    with pytest.raises(UserError, match="load_size"):
        Geometry(60, load_size=50)


@pytest.mark.parametrize(
    ("resize", "rows", "columns"), [("stretch", 40 * 15 / 24, 48 * 15 / 24), ("short_side", 25, 25), ("none", 25, 25)]
)
def test_load_size_leaves_room_for_the_crop_in_every_way_of_resizing(resize, rows, columns):
    """16 of 24 pixels are cut: of a short side of 24, or, stretching, of 24 x 24."""
    # kills: stretched-without-room, load-size-only-where-resized
    for crop in ("center", "random"):
        cut = Geometry(16, resize=resize, load_size=24, crop=crop)({"x_0": coordinates()}, 3)["x_0"].astype(int)
        assert np.ptp(cut[..., 0]) == pytest.approx(rows, abs=2) and np.ptp(cut[..., 1]) == pytest.approx(
            columns, abs=2
        )


@pytest.mark.parametrize("size", [(16, 30), (30, 16), (20, 20)])
def test_the_shape_is_kept_for_any_shape_of_the_cut(size):
    """'short_side' covers the size: a row and a column are scaled alike, and one of the two sides is used whole."""
    # kills: scale-of-the-other-side
    for height, width in ((40, 48), (60, 30)):
        cut = Geometry(size)({"x_0": coordinates(height, width)}, 0)["x_0"].astype(float)
        assert cut.shape[:2] == size
        scale = [np.ptp(cut[..., axis]) / (size[axis] - 1) for axis in (0, 1)]
        assert scale[0] == pytest.approx(scale[1], rel=0.08)
        assert min(height / size[0], width / size[1]) == pytest.approx(np.mean(scale), rel=0.08)


def test_the_middle_is_cut_from_the_middle():
    """(have - wanted) // 2 rows above and columns left: if the rest is odd, one more below and to the right."""
    # kills: middle-rounded-up
    for have, wanted, first in ((40, 16, 12), (41, 16, 12), (40, 17, 11), (17, 17, 0)):
        cut = Geometry(wanted, resize="none")({"x_0": coordinates(have, have + 2)}, 0)["x_0"]
        assert tuple(cut[0, 0, :2]) == (first, first + 1)
    with pytest.raises(UserError, match="load_size 24 is smaller"):
        Geometry((16, 32), load_size=24)  # kills: load-size-below-the-longer-side


def dataset(root, **options):
    geometry = Geometry(16, resize="none", crop="random", flip=True)
    noise = DEGRADATIONS.build({"name": "noise", "std": 0.2})
    return PairDataset(CleanImages(root, "train"), geometry, noise, 3, options.get("seed", 0), "train")


def stream_hash(data, workers, start=0, batches=8):
    digest = hashlib.sha256()
    for batch in itertools.islice(training_batches(data, 4, start_step=start, workers=workers), batches):
        digest.update(batch["x_0"].numpy().tobytes() + batch["x_1"].numpy().tobytes() + "".join(batch["key"]).encode())
    return digest.hexdigest()


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_the_stream_does_not_depend_on_workers(photos):
    # kills: augmentation-not-reseeded
    assert len({stream_hash(dataset(photos), workers) for workers in (0, 1, 2, 4)}) == 1
    assert stream_hash(dataset(photos), 0) != stream_hash(dataset(photos, seed=1), 0)


def test_the_stream_starts_anywhere(photos):
    whole = list(itertools.islice(training_batches(dataset(photos), 4), 6))
    later = next(training_batches(dataset(photos), 4, start_step=5))
    assert torch.equal(whole[5]["x_1"], later["x_1"])


def test_processes_share_a_batch(photos):
    whole = next(training_batches(dataset(photos), 4, start_step=2))
    parts = [next(training_batches(dataset(photos), 4, start_step=2, rank=rank, world_size=2)) for rank in range(2)]
    assert torch.equal(whole["x_1"], torch.cat([part["x_1"] for part in parts]))


def test_every_epoch_visits_each_item_once_in_new_crops(photos):
    # kills: augmentation-not-reseeded
    data = dataset(photos)
    epochs = [[data.sample(epoch * 10 + i) for i in range(10)] for epoch in range(3)]
    orders = [[item["key"] for item in epoch] for epoch in epochs]
    assert all(sorted(order) == sorted(orders[0]) for order in orders) and len(set(map(tuple, orders))) == 3
    crops = {item["x_0"].numpy().tobytes() for epoch in epochs for item in epoch}
    assert len(crops) == 30


def test_the_condition_has_the_range_and_the_cut_of_the_images():
    # kills: condition-in-its-whole-range
    class Conditioned:
        def __len__(self):
            return 1

        def __getitem__(self, index):
            pixels = np.random.default_rng(0).integers(0, 4096, (40, 48, 3)).astype(np.uint16)
            return {"key": "a", "x_0": pixels, "x_1": 4095 - pixels, "condition": pixels[..., :1]}

    geometry = Geometry(16, resize="none", crop="random", flip=True)
    options = {"condition_channels": 1, "own_condition": True, "value_range": (0.0, 4095.0)}
    data = PairDataset(Conditioned(), geometry, None, 3, 0, "train", **options)
    for item in (data[0], *(data.sample(n) for n in range(8))):
        assert torch.equal(item["condition"], item["x_0"][:1]) and item["condition"].max() > 0.9
        assert torch.allclose(item["x_1"], -item["x_0"], atol=1e-6)

    # kills: own-condition-over-the-items
    class Clean(Conditioned):
        def __getitem__(self, index):
            item = super().__getitem__(index)
            return {"key": "a", "x_0": item["x_0"], "condition": 4095 - item["x_1"]}

    colorization = DEGRADATIONS.build({"name": "colorization"})
    data = PairDataset(Clean(), geometry, colorization, 3, 0, "train", **options | {"condition_channels": 3})
    item = data.sample(0)
    assert torch.equal(item["condition"], item["x_0"]) and not torch.equal(item["x_1"], item["x_0"])


def test_no_training_sample_is_drawn_as_a_validation_item_is(photos):
    """Samples are keyed by their number, the first one too, and items by their name."""
    # kills: first-sample-keyed-by-its-name
    data = dataset(photos)
    items = {data[i]["x_1"].numpy().tobytes() for i in range(len(data))}
    assert items.isdisjoint(data.sample(n)["x_1"].numpy().tobytes() for n in range(2 * len(data)))


def test_evaluation_items_depend_on_their_key_alone(photos):
    data = dataset(photos)
    before = data[3]["x_1"]
    (photos / "00.png").unlink()
    assert torch.equal(dataset(photos)[2]["x_1"], before)


def test_clean_images_finds_splits_and_holds_out(tmp_path, photos):
    for name in ("train/a/1.png", "train/2.png", "validation/3.png"):
        save(tmp_path / "split" / name)
    assert [key for key, _ in CleanImages(tmp_path / "split", "train").files] == ["2.png", "a/1.png"]
    assert [key for key, _ in CleanImages(tmp_path / "split", "val").files] == ["3.png"]
    train = {key for key, _ in CleanImages(photos, "train", holdout=0.3).files}
    val = {key for key, _ in CleanImages(photos, "val", holdout=0.3).files}
    assert not train & val and len(train | val) == 10 and val
    save(photos / "new.png")
    assert val <= {key for key, _ in CleanImages(photos, "val", holdout=0.3).files}


def test_a_share_is_held_out_under_every_name_of_a_split():
    """For a in (train, training, trainset) and b in (val, ..., test, ...): disjoint, and together all keys."""
    # kills: hold-out-leaks-under-an-alias
    keys = [f"{i}.png" for i in range(200)]
    assert set(SPLITS["train"]).isdisjoint({*SPLITS["val"], *SPLITS["test"]})
    for a in (*SPLITS["train"], "Train", "TRAINING"):
        for b in {*SPLITS["val"], *SPLITS["test"], "Val", "TEST"}:
            train, held = (set(split_positions(keys, split, 0.25).tolist()) for split in (a, b))
            assert train.isdisjoint(held) and train | held == set(range(200)), (a, b)
            assert 25 < len(held) < 75, (a, b)


def test_a_split_is_found_by_its_nearest_name(tmp_path):
    """Each split's own aliases come before those of its neighbour: 'testing' is 'test' before 'val' is."""
    # kills: test-is-val-first, named-images-cut-training-by-an-alias, names-sorted
    for there, wanted in (
        ({"train", "val", "testing"}, {"train": "train", "val": "val", "test": "testing"}),
        ({"training", "validation", "test"}, {"train": "training", "val": "validation", "test": "test"}),
        ({"trainset", "valid"}, {"train": "trainset", "val": "valid", "test": "valid"}),
        ({"train", "testing"}, {"train": "train", "val": "testing", "test": "testing"}),
    ):
        assert {split: split_name(there, split, "here") for split in wanted} == wanted
    # A list of names concerns a split under any of its names; training only where it has no folder of its own.
    assert [list_applies(split, True) for split in (*SPLITS["train"], *SPLITS["val"])] == [False] * 3 + [True] * 5
    assert all(list_applies(split, False) for split in (*SPLITS["train"], *SPLITS["val"]))
    (tmp_path / "names.txt").write_text("deep/c.png\na.png\n\nb.png\n")
    assert listed_positions(["a.png", "b.png", "x/c.png", "d.png"], tmp_path / "names.txt", "here").tolist() == [
        2,
        0,
        1,
    ]


def test_paired_folders_pair_by_stem(tmp_path):
    for layout in ("{split}/{side}", "{side}/{split}", "{side}"):
        root = tmp_path / layout.replace("/", "-").replace("{", "").replace("}", "")
        save(root / layout.format(split="train", side="clean") / "a.png", seed=1)
        save(root / layout.format(split="train", side="noisy") / "a.jpg", seed=2)
        (item,) = list(PairedFolders(root, "clean", "noisy", "train"))
        assert item["key"] == "a" and item["x_0"].suffix == ".png" and item["x_1"].suffix == ".jpg"


@pytest.mark.parametrize("kind", ["images", "class_folders"])
def test_the_official_list_of_ten_thousand_cuts_validation_alone(tmp_path, kind):
    # kills: names-cut-training-too, and a list whose paths are taken as they stand
    for name in ("train/n01/a.png", "train/n02/b.png", "val/n01/c.png", "val/n01/d.png", "val/n02/e.png"):
        save(tmp_path / name)
    (tmp_path / "10k.txt").write_text("/fast2/data/imagenet/val/n02/e.png\n\n/fast2/data/imagenet/val/n01/c.png\n")
    table = {"name": kind, "root": str(tmp_path), "names": "10k.txt"}
    items = {split: [*open_source(table, split)] for split in ("train", "val")}
    assert [item["key"] for item in items["train"]] == ["n01/a.png", "n02/b.png"]
    assert [item["key"] for item in items["val"]] == ["n01/c.png", "n02/e.png"]
    assert kind == "images" or [item["label"] for item in items["val"]] == [0, 1]
    recipe = load_recipe("jpeg-10", [f"data.root={tmp_path}", "data.source.names=10k.txt"])
    assert len(recipe.build_dataset("validation")) == 2 and len(recipe.build_dataset("train")) == 2
    (tmp_path / "10k.txt").write_text("val/n02/f.png\n")
    with pytest.raises(UserError, match=r"10k.txt:1: 'f.png' is not in"):
        open_source(table, "val")


def test_a_name_that_goes_on_is_nearer_than_one_spelt_alike(tmp_path):
    # kills: nearest-by-spelling-alone: 102 is closer to 103 than to 102_labels, letter by letter
    for name in ("clean/101.png", "clean/102.png", "noisy/101.png", "noisy/102_labels.png", "noisy/103.png"):
        save(tmp_path / name)
    problems = PairedFolders(tmp_path, "clean", "noisy", "train", lenient=True).pairing_problems
    assert [line.rpartition("nearest: ")[2] for line in problems[:2]] == ["102_labels.png", "102.png"]


def test_unmatched_files_are_named_all_at_once(tmp_path):
    for name in ("clean/a.png", "clean/photo_12.png", "noisy/a.png", "noisy/photo12.png", "noisy/zzz.png"):
        save(tmp_path / name)
    with pytest.raises(
        UserError, match=r"2 images .* and 3 .*photo_12.png: no partner.*nearest: photo12.png.*leaves out all 3"
    ):
        PairedFolders(tmp_path, "clean", "noisy", "train")
    assert len(PairedFolders(tmp_path, "clean", "noisy", "train", lenient=True)) == 1
    save(tmp_path / "clean" / "a.jpg")
    with pytest.raises(UserError, match="same name"):
        PairedFolders(tmp_path, "clean", "noisy", "train")


def test_side_by_side_direction(tmp_path):
    both = np.concatenate([np.zeros((20, 20, 3), np.uint8), np.full((20, 20, 3), 255, np.uint8)], axis=1)
    Image.fromarray(both).save(tmp_path / "1.png")
    for direction, target in (("AtoB", 255), ("BtoA", 0)):
        item = SideBySide(tmp_path, direction, "train")[0]
        assert np.asarray(item["x_0"]).max() == np.asarray(item["x_0"]).min() == target
        assert np.asarray(item["x_1"]).max() == 255 - target
    save(tmp_path / "2.png", width=31)
    with pytest.raises(UserError, match=r"2.png: 31 pixels wide"):
        SideBySide(tmp_path, "AtoB", "train")[1]


def test_items_that_cannot_be_used(tmp_path, photos):
    geometry = Geometry(16, resize="none")
    with pytest.raises(UserError, match="no x_1"):
        PairDataset(CleanImages(photos, "train"), geometry, None, 3, 0, "train")[0]
    save(tmp_path / "pairs/clean/a.png"), save(tmp_path / "pairs/noisy/a.png", width=50)
    pairs = PairedFolders(tmp_path / "pairs", "clean", "noisy", "train")
    with pytest.raises(
        UserError, match=r"a.png and .*a.png: the images of a pair differ in size \(x_0 48x40, x_1 50x40\)"
    ):
        PairDataset(pairs, geometry, None, 3, 0, "train")[0]
    with pytest.raises(UserError, match="leave \\[degradation\\] out"):
        PairDataset(pairs, geometry, DEGRADATIONS.build({"name": "noise", "std": 0.1}), 3, 0, "train")[0]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_file_reaches_the_caller_as_one_line(photos, workers):
    for file in photos.iterdir():
        file.write_bytes(b"broken")
    with pytest.raises(UserError, match="not a readable image"):
        next(training_batches(dataset(photos), 4, workers=workers))


def test_missing_things(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "split" / "train").mkdir(parents=True)
    for make, part in (
        (lambda: CleanImages(tmp_path / "none", "train"), "no such folder"),
        (lambda: CleanImages(tmp_path / "empty", "train"), "no images"),
        (
            lambda: CleanImages(tmp_path / "split", "val"),
            r"'val'; there is train; make one, or give the folder \S*train, ",
        ),
        (lambda: PairedFolders(tmp_path / "split", "a", "b", "train"), "no such folder"),
        (lambda: open_source({"name": "images"}, "train"), "data.root"),
        (lambda: open_source({"name": "imagse", "root": "x"}, "train"), "did you mean 'images'"),
        (
            lambda: open_source({"name": "packaged_images", "train": ["nope_package:a.png"], "val": []}, "train"),
            "not installed",
        ),
        (
            lambda: open_source({"name": "packaged_images", "train": ["../x.png"], "val": []}, "train"),
            "package:path",
        ),
    ):
        with pytest.raises(UserError, match=part):
            make()


def test_every_card_loads():
    assert {"demo-photos", "imagenet256", "edges2shoes", "night2day", "my-pairs"} <= set(card_names())
    for name in card_names():
        card = load_card(name)
        assert card.name == name and card.summary and card.licence
        kind = str(card.dataset["name"])
        options = {**({"root": "."} if "root" in DATASETS.options(kind) else {}), **card.dataset}
        DATASETS.check(options, split="train")
    with pytest.raises(UserError, match="did you mean 'edges2shoes'"):
        load_card("edge2shoes")


def test_a_wrong_card_is_named(tmp_path):
    file = tmp_path / "c.toml"
    for text, part in (
        ("name = ", "c.toml"),
        ('name = "x"\nsumary = "y"\n', "did you mean 'summary'|field required"),
    ):
        file.write_text(text)
        with pytest.raises(UserError, match=part):
            load_card(file)


def test_demo_photos_are_real_and_held_out():
    pytest.importorskip("skimage")
    table = load_card("demo-photos").dataset
    train, val = open_source(table, "train"), open_source(table, "val")
    assert not {item["key"] for item in train} & {item["key"] for item in val}
    assert len(train) == load_card("demo-photos").splits["train"]


def test_tiles_of_held_out_photos_are_disjoint_squares_of_the_photo():
    # kills: tiles-shifted, tiles-of-training
    from PIL import Image

    pytest.importorskip("skimage")
    table = load_card("demo-photos").dataset
    whole, tiled = (open_source(table | more, "val") for more in ({}, {"tiles": 3}))
    place = {item["key"]: np.asarray(Image.open(item["x_0"]).convert("RGB")) for item in whole}
    items = [tiled[i] for i in range(len(tiled))]
    assert len(items) >= 12 and len({item["key"] for item in items}) == len(items)
    assert [item["key"].rpartition("/")[0] for item in items[: len(place)]] == list(place)
    for name, pixels in place.items():
        side = min(pixels.shape[:2]) // 3
        rows, columns = pixels.shape[0] // side, pixels.shape[1] // side
        top, left = (pixels.shape[0] - rows * side) // 2, (pixels.shape[1] - columns * side) // 2
        inner = pixels[top : top + rows * side, left : left + columns * side]
        tiles = [item["x_0"] for item in items if item["key"].startswith(name + "/")]
        joined = np.concatenate(
            [np.concatenate(tiles[row * columns : (row + 1) * columns], axis=1) for row in range(rows)]
        )
        assert np.array_equal(joined, inner)
    train = open_source(table | {"tiles": 2}, "train")
    first = open_source(table, "train")[0]
    assert len(train) == load_card("demo-photos").splits["train"] and train[0]["key"] == first["key"]
    assert np.array_equal(train[0]["x_0"], np.asarray(Image.open(first["x_0"]).convert("RGB")))
    with pytest.raises(UserError, match="tiles = 0"):
        open_source(table | {"tiles": 0}, "val")


def test_a_photo_may_not_be_in_both_splits():
    # kills: overlap-unseen
    with pytest.raises(UserError, match="held-out images must not be trained on"):
        PackagedImages(["skimage:data/coffee.png"], ["skimage:data/coffee.png"], "train")


def test_validation_that_is_trained_on_is_counted(tmp_path, photos):
    # kills: shared-files-unseen
    same = [CleanImages(photos, split) for split in ("train", "val")]
    assert shared_files(*same) == len(same[1].files) > 0
    apart = [CleanImages(photos, split, holdout=0.3) for split in ("train", "val")]
    assert shared_files(*apart) == 0
    assert shared_files(same[0], [1, 2]) is None


def test_a_degradation_that_returns_something_else_is_named(photos):
    dataset = PairDataset(CleanImages(photos, "train"), Geometry(16), lambda x_0, generators: x_0, 3, 0, "train")
    with pytest.raises(UserError, match=r"must return Degraded\(x_1\), not Tensor"):
        dataset[0]


def test_spawned_workers_know_the_plugins(tmp_path, photos):
    """A spawned worker starts without the parent's plug-in modules."""
    # kills: plugins-unknown-to-workers
    (tmp_path / "mine.py").write_text(
        "from i2i_bridge import register_dataset\n"
        "from i2i_bridge.data.sources.folders import CleanImages\n"
        "@register_dataset('mine')\n"
        "class Mine(CleanImages):\n"
        "    pass\n"
    )
    script = f"""
import torch
from torch.utils.data import DataLoader
from i2i_bridge.plugins import load_plugin
from i2i_bridge.registry import DATASETS
from i2i_bridge.data.dataset import PairDataset
from i2i_bridge.data.loader import WithPlugins, _TrainingSamples
from i2i_bridge.data.transforms import Geometry
if __name__ == "__main__":
    load_plugin({str(tmp_path / "mine.py")!r})
    source = DATASETS.build({{"name": "mine", "root": {str(photos)!r}}}, split="train")
    from i2i_bridge.degradations.noise import Noise
    dataset = PairDataset(source, Geometry(16), Noise(0.1), 3, 0, "train")
    stream = WithPlugins(_TrainingSamples(dataset))
    loader = DataLoader(stream, None, sampler=[3], num_workers=1, multiprocessing_context="spawn")
    (item,) = loader
    assert torch.equal(item["x_1"], dataset.sample(3)["x_1"])
    print("same")
"""
    (tmp_path / "script.py").write_text(script)
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, str(tmp_path / "script.py")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": root},
    )
    assert done.stdout == "same\n", done.stderr


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks into /proc")
@pytest.mark.parametrize("moment", ["while it reads", "while it starts"])
def test_no_worker_outlives_a_killed_run(photos, moment):
    """A worker blocked in a read, and one whose parent is killed while it starts; torch's watchdog misses both."""
    # kills: workers-not-bound
    code = f"""
import os, sys, time
from pathlib import Path
from i2i_bridge.data import dataset, loader
from i2i_bridge.data.sources.folders import CleanImages
from i2i_bridge.data.transforms import Geometry

if {moment!r} == "while it starts":
    init_worker = loader._init_worker
    loader._init_worker = lambda worker: (print(os.getpid(), flush=True), time.sleep(2), init_worker(worker))

class Stuck(CleanImages):
    def __getitem__(self, index):
        print(os.getpid(), flush=True)
        while True:
            time.sleep(1)

data = dataset.PairDataset(Stuck(Path({str(photos)!r}), "train"), Geometry(16, resize="none"), None, 3, 0, "train")
next(loader.training_batches(data, 4, workers=1))
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)
    worker = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    limit = time.monotonic() + 1800  # it would be stuck for ever
    while Path(f"/proc/{worker}").exists() and time.monotonic() < limit:
        time.sleep(0.05)
    alive = Path(f"/proc/{worker}").exists() and "Z" not in Path(f"/proc/{worker}/stat").read_text().split()[2]
    if alive:
        os.kill(worker, 9)
    assert not alive
