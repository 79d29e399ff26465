"""Layouts of pairs and class folders, and what a dataset may return."""

import itertools
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from i2i_bridge import register_dataset
from i2i_bridge.data.cards import open_source
from i2i_bridge.data.dataset import PairDataset
from i2i_bridge.data.items import decode_item, size_of
from i2i_bridge.data.loader import training_batches
from i2i_bridge.data.source import item_of
from i2i_bridge.data.sources.folders import ClassFolders, CleanImages, PairedFolders, shared_files
from i2i_bridge.data.transforms import Geometry
from i2i_bridge.errors import UserError
from i2i_bridge.images.files import read_picture, write_picture
from i2i_bridge.images.pixels import Picture, to_tensor
from i2i_bridge.recipe.protocol import chosen
from i2i_bridge.registry import DATASETS, DEGRADATIONS


def save(path, code=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((20, 20, 3), code, np.uint8)).save(path)
    return path


LAYOUTS = {
    "split first": ("{split}/{side}", {}),
    "side first": ("{side}/{split}", {}),
    "A and B": ("{split}/{side}", {"x_0": "B", "x_1": "A"}),
    "SRC and TRG": ("{split}/{side}", {"x_0": "TRG", "x_1": "SRC"}),
    "trainA and trainB": ("{side}", {"x_0": "{split}B", "x_1": "{split}A"}),
    "a deeper template": ("set/{side}", {"x_0": "set/{split}_hr", "x_1": "set/{split}_lr/x4"}),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("names", [("train", "val"), ("training", "test"), ("train", "validation")])
def test_layouts_of_pairs(tmp_path, layout, names):
    where, sides = LAYOUTS[layout]
    x_0, x_1 = sides.get("x_0", "clean"), sides.get("x_1", "noisy")
    for number, split in enumerate(names):
        for code, side in ((10, x_0), (20, x_1)):
            folder = where if "{split}" not in side else "{side}"
            save(tmp_path / folder.replace("{side}", side).replace("{split}", split) / "sub" / "a.png", code + number)
    options = {"name": "paired_folders", "root": str(tmp_path), "x_0": x_0, "x_1": x_1, "holdout": 0.5}
    for number, split in enumerate(("train", "val")):
        (item,) = [item_of(open_source(options, split), 0)]
        pixels = decode_item(item, 3)
        assert item["key"] == "sub/a"
        assert pixels["x_0"][0, 0, 0] == 10 + number and pixels["x_1"][0, 0, 0] == 20 + number


@pytest.mark.parametrize(("train", "val"), [("Train", "Test"), ("TRAIN", "VAL"), ("Training", "test")])
@pytest.mark.parametrize("layout", ["{split}/{side}", "{side}/{split}"])
def test_splits_in_capitals_keep_test_images_out_of_training(tmp_path, train, val, layout):
    # kills: splits-in-capitals-unseen
    for number, split in enumerate((train, val)):
        for code, side in ((10, "clean"), (20, "noisy")):
            save(tmp_path / layout.format(split=split, side=side) / "a.png", code + number)
    options = {"root": str(tmp_path), "holdout": 0.5}
    for number, split in enumerate(("train", "val")):
        pairs = open_source(options | {"name": "paired_folders", "x_0": "clean", "x_1": "noisy"}, split)
        assert len(pairs) == 1 and decode_item(item_of(pairs, 0), 3)["x_0"][0, 0, 0] == 10 + number
        if layout.startswith("{split}"):
            images = open_source(options | {"name": "images"}, split)
            assert [path.parents[1].name for _, path in images.files] == [(train, val)[number]] * 2
    (tmp_path / "rows.csv").write_text(f"x_0,split\na.png,{train}\nb.png,{val}\n")
    for name, split in (("a.png", "train"), ("b.png", "val")):
        rows = open_source({"name": "list", "root": str(tmp_path), "file": "rows.csv"}, split)
        assert [item_of(rows, i)["key"] for i in range(len(rows))] == [name]


def test_names_in_either_unicode_form_are_partners(tmp_path):
    # kills: unicode-forms-apart
    composed, apart = "\xe9t\xe9", "e\u0301te\u0301"
    save(tmp_path / "clean" / f"{composed}.png", 1), save(tmp_path / "noisy" / f"{apart}.png", 2)
    save(tmp_path / "clean" / apart / "b.png", 3), save(tmp_path / "noisy" / composed / "b.png", 4)
    pairs = PairedFolders(tmp_path, "clean", "noisy", "train")
    assert sorted(item["key"] for item in pairs) == sorted([composed, f"{apart}/b"])  # as the target spells it
    for item in pairs:
        pixels = decode_item(item, 3)
        assert pixels["x_1"][0, 0, 0] == pixels["x_0"][0, 0, 0] + 1
    (tmp_path / "rows.csv").write_text(f"x_0,x_1\nclean/{apart}.png,noisy/{composed}.png\n", encoding="utf-8")
    rows = open_source({"name": "list", "root": str(tmp_path), "file": "rows.csv"}, "train")
    assert decode_item(item_of(rows, 0), 3)["x_1"][0, 0, 0] == 2
    assert chosen([composed, "b"], [f"{apart}.png"]).tolist() == [0]


def test_what_a_source_leaves_out_is_told(tmp_path):
    save(tmp_path / "set" / "clean" / "a.png"), save(tmp_path / "set" / "noisy" / "a.png")
    (tmp_path / "set" / "noisy" / "b.heic").write_bytes(b"")
    (tmp_path / "set" / "clean" / "more").symlink_to(tmp_path)
    pairs = PairedFolders(tmp_path / "set", "clean", "noisy", "train")
    assert len(pairs) == 1 and len(pairs.left_out) == 2
    assert "clean/more: left out" in pairs.left_out[0] and "noisy/b.heic: left out" in pairs.left_out[1]
    save(tmp_path / "only" / "x.txt.png").rename(tmp_path / "only" / "x.cr2")
    with pytest.raises(UserError, match=r"no images for the split 'train'; .*x\.cr2: left out"):
        CleanImages(tmp_path / "only", "train")


def test_name_templates(tmp_path):
    for i in range(3):
        save(tmp_path / "hr" / f"im_{i}.png", i), save(tmp_path / "lr" / f"im_{i}_x4.jpg", 100 + i)
    pairs = PairedFolders(tmp_path, "hr", "lr", "train", x_1_name="{}_x4")
    assert [(item["key"], item["x_0"].name, item["x_1"].name) for item in pairs] == [
        (f"im_{i}", f"im_{i}.png", f"im_{i}_x4.jpg") for i in range(3)
    ]
    save(tmp_path / "lr" / "im_1_x2.jpg")
    with pytest.raises(UserError, match=r"im_1_x2.jpg: the name is not of the form '\{\}_x4'"):
        PairedFolders(tmp_path, "hr", "lr", "train", x_1_name="{}_x4")
    assert len(PairedFolders(tmp_path, "hr", "lr", "train", x_1_name="{}_x4", lenient=True)) == 3
    for wrong in ("x4", "{}{}", "a/{}"):
        with pytest.raises(UserError, match=r"a name template has one \{\}"):
            PairedFolders(tmp_path, "hr", "lr", "train", x_1_name=wrong)


def test_both_sides_in_one_folder(tmp_path):
    for i in range(3):
        save(tmp_path / f"{i}_clean.png", i), save(tmp_path / f"{i}_noisy.png", 100 + i)
    pairs = PairedFolders(tmp_path, ".", ".", "train", x_0_name="{}_clean", x_1_name="{}_noisy")
    assert [(item["x_0"].name, item["x_1"].name) for item in pairs] == [
        (f"{i}_clean.png", f"{i}_noisy.png") for i in range(3)
    ]
    with pytest.raises(UserError, match="tell them apart"):
        PairedFolders(tmp_path, ".", ".", "train")


def test_wrong_templates_of_folders(tmp_path):
    save(tmp_path / "trainA" / "a.png"), save(tmp_path / "trainB" / "a.png")
    for x_0, x_1, split, message in (
        ("{split}B", "A", "train", "the other must too"),
        ("{split}B", "{split}A", "val", "no folder for the split 'val'; there is train$"),
        ("{split}B", "{split}C", "train", "trainC: no such folder"),
        ("{split}Z", "{split}A", "train", "no such folder for any split"),
    ):
        with pytest.raises(UserError, match=message):
            PairedFolders(tmp_path, x_0, x_1, split)
    save(tmp_path / "hr" / "train" / "a.png"), save(tmp_path / "lr" / "a.png")
    with pytest.raises(UserError, match="hr has split folders, lr has none"):
        PairedFolders(tmp_path, "hr", "lr", "train")


def test_class_folders_number_the_classes_of_all_splits(tmp_path):
    # kills: labels-by-split
    for name in ("train/cat/1.png", "train/dog/deep/2.png", "train/emu/3.png", "val/dog/4.png", "val/emu/5.png"):
        save(tmp_path / "split" / name)
    train, val = (ClassFolders(tmp_path / "split", split) for split in ("train", "val"))
    assert [(item["key"], item["label"]) for item in train] == [
        ("cat/1.png", 0),
        ("dog/deep/2.png", 1),
        ("emu/3.png", 2),
    ]
    assert [(item["key"], item["label"]) for item in val] == [("dog/4.png", 1), ("emu/5.png", 2)]
    noise = DEGRADATIONS.build({"name": "noise", "std": 0.2})
    batch = next(training_batches(PairDataset(train, Geometry(8), noise, 3, 0, "train"), 3))
    assert batch["label"].dtype == torch.int64
    assert {key: int(label) for key, label in zip(batch["key"], batch["label"], strict=True)} == {
        "cat/1.png": 0,
        "dog/deep/2.png": 1,
        "emu/3.png": 2,
    }
    for i in range(20):
        save(tmp_path / "flat" / f"class {i % 2}" / f"{i}.png")
    parts = [ClassFolders(tmp_path / "flat", split, holdout=0.3) for split in ("train", "val")]
    assert sum(map(len, parts)) == 20 and {item["label"] for item in parts[0]} == {0, 1}
    save(tmp_path / "flat" / "loose.png")
    with pytest.raises(UserError, match=r"loose.png: lies in no class folder"):
        ClassFolders(tmp_path / "flat", "train")
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match="no images"):
        ClassFolders(tmp_path / "none", "train")


class Torch(torch.utils.data.Dataset):
    """A dataset class independent of this package."""

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


def test_a_torch_dataset_of_any_form(tmp_path):
    file = save(tmp_path / "a.png", 30)
    pixels = read_picture(file).pixels
    forms = [
        file, str(file), file.read_bytes(), Image.open(file), pixels, pixels.astype(np.uint16) * 257,
        to_tensor(pixels), torch.tensor(pixels).permute(2, 0, 1),
    ]  # fmt: skip
    for form, other in itertools.product(forms, forms[-2:]):
        for item in ((form, other), [form, other], {"x_0": form, "x_1": other, "key": "0"}):
            register = register_dataset("foreign")
            register(lambda split, item=item: Torch([item]))
            data = PairDataset(open_source({"name": "foreign"}, "train"), Geometry(20), None, 3, 0, "train")[0]
            del DATASETS._members["foreign"]
            assert data["key"] == "0"
            assert torch.allclose(data["x_0"], to_tensor(pixels), atol=2e-5)
            assert torch.allclose(data["x_1"], to_tensor(pixels), atol=2e-5)
    assert item_of(Torch([(file, 3)]), 0) == {"key": "0", "x_0": file, "label": 3}
    assert item_of(Torch([(file, torch.tensor(3))]), 0)["label"] == 3
    assert item_of(Torch([file]), 0) == {"key": "0", "x_0": file}


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"image": 1}, "no x_0; the dataset gave image"),
        ((1, 2, 3), "a tuple of 3"),
        ({"x_0": np.zeros((4, 4, 3), np.uint8), "label": 1.5}, "a label is an integer, got 1.5"),
        ({"x_0": np.zeros((4, 4, 3), np.uint8), "label": True}, "a label is an integer, got True"),
        (None, "gave NoneType; images are paths"),
        (np.zeros((4, 4, 3), np.float64), "gave ndarray; images are"),
        (torch.full((3, 4, 4), 255.0), r"must lie in \[-1, 1\]; from 255 to 255"),
        (torch.full((3, 4, 4), float("nan")), "must lie in"),
        (torch.zeros(3, 4, 4, dtype=torch.int64), "a tensor of torch.int64"),
        (torch.zeros(4, 4), "an image is "),
        (b"no image", "not a readable image"),
    ],
)
def test_what_a_dataset_may_not_return(item, message):
    with pytest.raises(UserError, match=message):
        decode_item(item_of(Torch([item]), 0), 3)


def test_a_size_is_that_of_an_image():
    """Sizes are read from headers, before an image is decoded."""
    assert size_of(torch.zeros(3, 4, 5), "here") == size_of(np.zeros((4, 5, 3)), "here") == (4, 5)
    for value in (np.zeros(4), None):
        with pytest.raises(UserError, match=f"here: the dataset gave {type(value).__name__}, which is no image"):
            size_of(value, "here")


def test_bytes_of_arrays_and_of_16_bit_colour():
    deep = np.random.default_rng(0).integers(0, 65536, (8, 8, 3), dtype=np.uint16)
    for suffix in (".npy", ".png"):
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / f"a{suffix}"
            write_picture(file, Picture(deep))
            data = file.read_bytes()
        assert np.array_equal(decode_item({"key": "a", "x_0": data}, 3)["x_0"], deep)


def test_float_tensors_have_their_range():
    source = Torch([(torch.zeros(3, 8, 8), torch.zeros(3, 8, 8))])
    with pytest.raises(UserError, match=r"in \[-1, 1\] already; leave data.value_range out"):
        PairDataset(source, Geometry(8), None, 3, 0, "train", value_range=(0, 4095))[0]


@pytest.mark.parametrize("holdout", [0.0, 0.5])
def test_items_in_both_splits_are_counted(tmp_path, holdout):
    # kills: shared-files-of-other-folders
    for i in range(9):
        save(tmp_path / "clean" / f"{i}.png"), save(tmp_path / "noisy" / f"{i}.png")
    (tmp_path / "all.csv").write_text("x_0\n" + "".join(f"clean/{i}.png\n" for i in range(9)))
    for table in (
        {"name": "images"},
        {"name": "class_folders"},
        {"name": "paired_folders", "x_0": "clean", "x_1": "noisy"},
        {"name": "list", "file": "all.csv"},
        {"name": "torchvision", "dataset": "FakeData", "options": {"size": 9}},
    ):
        sources = [
            open_source({"root": str(tmp_path), "holdout": holdout} | table, split) for split in ("train", "val")
        ]
        assert shared_files(*sources) == (0 if holdout else len(sources[1]))
    for split in ("train", "val"):
        save(tmp_path / "split" / split / "1.png")
    assert shared_files(*(CleanImages(tmp_path / "split", split) for split in ("train", "val"))) == 0
