import json

import numpy as np
import pytest
from PIL import Image

from i2i_bridge.data.cards import open_source
from i2i_bridge.data.dataset import PairDataset
from i2i_bridge.data.items import decode_item
from i2i_bridge.data.loader import training_batches
from i2i_bridge.data.source import item_of
from i2i_bridge.data.sources.lists import ListFile
from i2i_bridge.data.transforms import Geometry
from i2i_bridge.errors import UserError


def save(path, code=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((20, 20, 3), code, np.uint8)).save(path)
    return path


@pytest.fixture
def images(tmp_path):
    """Images whose grey level is their number, sources 100 above."""
    for i in range(6):
        save(tmp_path / "clean" / f"{i}.png", i)
        save(tmp_path / "noisy" / f"{i}x4.png", 100 + i)
    return tmp_path


def codes(source, part):
    return [int(decode_item(item_of(source, i), 3)[part][0, 0, 0]) for i in range(len(source))]


def test_csv_with_other_column_names_labels_and_splits(images):
    rows = [f"{'train' if i % 3 else 'valid'},clean/{i}.png,noisy/{i}x4.png,{7 - i},photo {i}" for i in range(6)]
    (images / "all.csv").write_text("\n".join(["split,target,noisy,class,who", *rows]) + "\n")
    columns = {"x_0": "target", "x_1": "noisy", "label": "class", "key": "who"}
    train = open_source({"name": "list", "root": str(images), "file": "all.csv", "columns": columns}, "train")
    val = ListFile(images, "val", file="all.csv", columns=columns)
    assert codes(train, "x_0") == [1, 2, 4, 5] and codes(train, "x_1") == [101, 102, 104, 105]
    assert codes(val, "x_0") == [0, 3] and [item["label"] for item in val] == [7, 4]
    assert [item["key"] for item in val] == ["photo 0", "photo 3"]


def test_labels_come_in_a_batch(images):
    (images / "all.csv").write_text(
        "x_0,x_1,label\n" + "".join(f"clean/{i}.png,noisy/{i}x4.png,{i}\n" for i in range(6))
    )
    data = PairDataset(ListFile(images, "train", file="all.csv"), Geometry(8), None, 3, 0, "train")
    batch = next(training_batches(data, 6))
    assert str(batch["label"].dtype) == "torch.int64"
    assert batch["label"].tolist() == ((batch["x_0"][:, 0, 0, 0] + 1) * 127.5).round().int().tolist()


def test_jsonl_and_a_list_for_each_split(images):
    for split, numbers in (("train", (0, 1, 2)), ("val", (3,))):
        rows = [json.dumps({"x_0": f"clean/{i}.png", "x_1": f"noisy/{i}x4.png", "more": None}) for i in numbers]
        (images / f"{split}.jsonl").write_text("\n\n".join(rows) + "\n")
    lists = {"train": "train.jsonl", "val": "val.jsonl"}
    assert codes(ListFile(images, "train", **lists), "x_1") == [100, 101, 102]
    assert codes(ListFile(images, "val", **lists), "x_0") == codes(ListFile(images, "test", **lists), "x_0") == [3]


def test_lists_of_the_splits_are_taken_whole(images):
    """`holdout` divides a list for all splits; if each split has a list, no row is held out."""
    # kills: holdout-cuts-lists-of-their-own
    for split, numbers in (("train", (0, 1, 2, 3)), ("val", (4, 5))):
        rows = [f"clean/{i}.png,noisy/{i}x4.png\n" for i in numbers]
        (images / f"{split}.csv").write_text("x_0,x_1\n" + "".join(rows))
    lists = {"train": "train.csv", "val": "val.csv", "holdout": 0.5}
    assert codes(ListFile(images, "train", **lists), "x_0") == [0, 1, 2, 3]
    assert codes(ListFile(images, "val", **lists), "x_0") == codes(ListFile(images, "test", **lists), "x_0") == [4, 5]
    (images / "both.csv").write_text(
        "split,x_0\n" + "".join(f"{'val' if i < 2 else 'train'},clean/{i}.png\n" for i in range(6))
    )
    assert codes(ListFile(images, "train", file="both.csv", holdout=0.5), "x_0") == [2, 3, 4, 5]
    assert codes(ListFile(images, "val", file="both.csv", holdout=0.5), "x_0") == [0, 1]


def test_a_list_of_training_rows_alone_is_divided_by_holdout(images):
    """Its column `split` tells nothing apart; without `holdout` the message names it."""
    # kills: train-rows-alone-are-no-dataset
    (images / "all.csv").write_text("split,x_0\n" + "".join(f"train,clean/{i}.png\n" for i in range(6)))
    found = [codes(ListFile(images, split, file="all.csv", holdout=0.5), "x_0") for split in ("train", "val")]
    assert all(found) and sorted(found[0] + found[1]) == list(range(6))
    with pytest.raises(UserError, match=r"'val'; there is train; holdout=0.1 holds out a tenth of them"):
        ListFile(images, "val", file="all.csv")


def test_validation_and_test_rows_of_one_list_are_told_apart(images):
    """A split takes the rows of its best name alone: 'test' is an alias of 'val' only where no row says 'val'."""

    # kills: rows-of-every-alias
    def parts(*names):
        rows = "".join(f"{name},clean/{i}.png\n" for i, name in enumerate(names))
        (images / "all.csv").write_text("split,x_0\n" + rows)
        return [codes(ListFile(images, split, file="all.csv"), "x_0") for split in ("train", "val", "test")]

    assert parts("train", "val", "test", "val", "test", "train") == [[0, 5], [1, 3], [2, 4]]
    assert parts("training", "test", "test") == [[0], [1, 2], [1, 2]]
    assert parts("train", "validation", "testing") == [[0], [1], [2]]


def test_labels_stay_with_their_images_where_a_share_is_held_out(images):
    # kills: labels-of-the-first-rows
    (images / "all.csv").write_text("x_0,label\n" + "".join(f"clean/{i}.png,{i}\n" for i in range(6)))
    sources = [ListFile(images, split, file="all.csv", holdout=0.5) for split in ("train", "val")]
    assert [len(source) for source in sources] != [6, 0]
    for source in sources:
        assert codes(source, "x_0") == [item["label"] for item in source]


def test_basicsr_meta_info(images):
    # kills: prefix-of-the-template-lost
    save(images / "noisy" / "lq_0_x4.png", 77)
    (images / "meta.txt").write_text("0.png (20,20,3)\n")
    named = ListFile(images, "train", file="meta.txt", folders={"x_0": "clean", "x_1": "noisy"}, x_1_name="lq_{}_x4")
    assert codes(named, "x_1") == [77]
    save(images / "clean" / "a b.png", 50), save(images / "noisy" / "a bx4.png", 150)
    (images / "meta.txt").write_text("0.png (20,20,3)\na b.png (20,20,3) 1\n\n2.png\n")
    folders = {"x_0": "clean", "x_1": "noisy"}
    source = ListFile(images, "train", file="meta.txt", folders=folders, x_1_name="{}x4")
    assert codes(source, "x_0") == [0, 50, 2] and codes(source, "x_1") == [100, 150, 102]
    alone = ListFile(images, "train", file="meta.txt", folders={"x_0": "clean"})
    assert set(alone[1]) == {"key", "x_0"}


def test_without_splits_a_share_is_held_out_and_keys_are_unique(images):
    (images / "all.tsv").write_text("x_0\tx_1\n" + "".join(f"clean/{i // 3}.png\tnoisy/{i}x4.png\n" for i in range(6)))
    keys = {
        split: [item["key"] for item in ListFile(images, split, file="all.tsv", holdout=0.5)]
        for split in ("train", "val")
    }
    assert len(keys["train"]) + len(keys["val"]) == 6 == len({*keys["train"], *keys["val"]})
    assert {"clean/0.png", "clean/0.png#2", "clean/0.png#3"} < {*keys["train"], *keys["val"]}


def test_absolute_paths_are_taken_and_relative_ones_stay_below_root(images, tmp_path):
    # kills: list-paths-may-leave-the-root
    inside = images / "clean"
    (inside / "a.csv").write_text(f"x_0\n{images / 'noisy' / '0x4.png'}\nsub/../1.png\n")
    assert codes(ListFile(inside, "train", file="a.csv"), "x_0") == [100, 1]
    (inside / "b.csv").write_text("x_0\n0.png\na/../../noisy/0x4.png\n")
    with pytest.raises(UserError, match=r"b.csv:3: .*leads out of"):
        ListFile(inside, "train", file="b.csv")


@pytest.mark.parametrize(
    ("name", "text", "options", "message"),
    [
        ("a.csv", "x0,x_1\na,b\n", {}, r"no column 'x_0'; did you mean 'x0'\?"),
        ("a.csv", "x_0\na.png\n", {"columns": {"x_1": "lq"}}, "no column 'lq'"),
        ("a.csv", "x_0\na.png\n", {"columns": {"x_2": "lq"}}, "columns: unknown key 'x_2'"),
        ("a.csv", "x_0,x_1\na,b\na\n", {}, "a.csv:3: 1 cell, but the header has 2"),
        ("a.csv", "x_0,x_1\na,\n", {}, "a.csv:2: nothing in the column 'x_1'"),
        ("a.csv", 'x_0\n"a\n', {}, "a.csv:[23]: unexpected end of data"),
        ("a.csv", "x_0,label\na.png,cat\n", {}, "a.csv:2: the label 'cat' is no integer"),
        ("a.csv", "x_0,split\na.png,train\n", {}, "no rows of the split 'val'; there is train"),
        ("a.csv", "", {}, "an empty list"),
        ("a.jsonl", '{"x_0": "a"}\n{"x_0": \n', {}, "a.jsonl:2: not JSON"),
        ("a.jsonl", '["a"]\n', {}, "a.jsonl:1: a row is a JSON object"),
        ("a.yaml", "", {}, "not a list file; known: .csv"),
        ("a.csv", "x_0\na.png\n", {"holdout": 1.5}, "holdout 1.5"),
        ("a.txt", "a.png\n", {"folders": {"x_1": "lq"}, "x_1_name": "x4"}, "a name template has one {}"),
    ],
)  # fmt: skip
def test_wrong_lists_are_named_with_their_line(tmp_path, name, text, options, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        ListFile(tmp_path, "val", file=name, **options)


def test_missing_lists_and_files(tmp_path):
    with pytest.raises(UserError, match=r"none.csv: no such file"):
        ListFile(tmp_path, "train", file="none.csv")
    with pytest.raises(UserError, match=r"needs `file` for all splits, or `train` and `val`"):
        ListFile(tmp_path, "train")
    with pytest.raises(UserError, match="no list for the split 'val'; there is train"):
        ListFile(tmp_path, "val", train="a.csv")
    (tmp_path / "bytes.csv").write_bytes(b"x_0\n\xff\xfe\n")
    with pytest.raises(UserError, match="not a readable text file"):
        ListFile(tmp_path, "train", file="bytes.csv")
    (tmp_path / "a.csv").write_text("x_0\nnone.png\n")
    with pytest.raises(UserError, match=r"none.png: no such file"):
        decode_item(ListFile(tmp_path, "train", file="a.csv")[0], 3)
