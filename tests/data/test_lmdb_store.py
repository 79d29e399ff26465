import io
import os

import numpy as np
import pytest
from PIL import Image

from i2i_bridge.data.dataset import PairDataset
from i2i_bridge.data.items import decode_item
from i2i_bridge.data.loader import training_batches
from i2i_bridge.data.source import item_of
from i2i_bridge.data.sources.lmdb import LmdbImages
from i2i_bridge.data.transforms import Geometry
from i2i_bridge.errors import UserError
from i2i_bridge.registry import DEGRADATIONS

lmdb = pytest.importorskip("lmdb")


def encoded(code, form="PNG"):
    data = io.BytesIO()
    Image.fromarray(np.full((20, 20, 3), code, np.uint8)).save(data, format=form)
    return data.getvalue()


def write(path, entries):
    path.parent.mkdir(parents=True, exist_ok=True)
    with lmdb.open(str(path), map_size=1 << 24) as environment, environment.begin(write=True) as transaction:
        for key, value in entries.items():
            transaction.put(key.encode(), value)
    (path / "lock.mdb").unlink()
    return path


@pytest.fixture
def official(tmp_path):
    """The official code's cache, built on another machine: absolute paths, and a pickle that must not be read."""
    for split, classes in (("train", ("n02", "n01")), ("val", ("n01", "n02"))):
        entries = {
            f"/fast2/data/imagenet/{split}/{c}/{split}_{c}_{i}.JPEG": encoded(10 * i + int(c[1:]))
            for c in classes
            for i in range(3)
        }
        write(tmp_path / f"{split}_faster_imagefolder.lmdb", entries)
        (tmp_path / f"{split}_faster_imagefolder.lmdb.pt").write_bytes(b"\x80\x02cos\nsystem\n")
    return tmp_path


def code(item, part="x_0"):
    return int(decode_item(item, 3)[part][0, 0, 0])


def test_the_official_cache_is_read_by_the_ends_of_its_keys(official):
    # kills: lmdb-keys-by-whole-path
    train, val = (LmdbImages(official, "i2sb", split) for split in ("train", "val"))
    assert [train[i]["key"] for i in range(6)] == [f"n0{c}/train_n0{c}_{i}.JPEG" for c in (1, 2) for i in range(3)]
    assert [code(item_of(val, i)) for i in range(6)] == [1, 11, 21, 2, 12, 22]
    assert [val[i]["label"] for i in range(6)] == [0, 0, 0, 1, 1, 1]
    before = sorted(path.name for path in official.rglob("*"))
    assert "lock.mdb" not in before, "reading writes nothing beside the data"
    alone = LmdbImages(official / "val_faster_imagefolder.lmdb", "i2sb", "train")
    assert len(alone) == 6
    parts = [LmdbImages(official / "val_faster_imagefolder.lmdb", "i2sb", s, holdout=0.5) for s in ("train", "val")]
    assert sum(map(len, parts)) == 6


def test_a_list_of_names_from_another_machine(official):
    (official / "10k.txt").write_text("/other/val/n02/val_n02_1.JPEG\n\n/other/val/n02/val_n02_0.JPEG\n")
    chosen = LmdbImages(official, "i2sb", "val", names="10k.txt")
    # The labels stay those of the whole database.
    assert [(chosen[i]["key"], chosen[i]["label"]) for i in range(2)] == [
        ("n02/val_n02_0.JPEG", 1),
        ("n02/val_n02_1.JPEG", 1),
    ]
    # kills: names-cut-training-too: the list is of validation images, and training's are elsewhere.
    assert len(LmdbImages(official, "i2sb", "train", names="10k.txt")) == len(LmdbImages(official, "i2sb", "train"))
    (official / "10k.txt").write_text("/other/val/n02/none.JPEG\n")
    with pytest.raises(UserError, match=r"10k.txt:1: 'none.JPEG' is not in"):
        LmdbImages(official, "i2sb", "val", names="10k.txt")
    with pytest.raises(UserError, match=r"none.txt: no such file"):
        LmdbImages(official, "i2sb", "val", names="none.txt")


def test_workers_read_a_database_that_the_parent_has_read(official):
    def stream(workers):
        noise = DEGRADATIONS.build({"name": "noise", "std": 0.2})
        data = PairDataset(LmdbImages(official, "i2sb", "train"), Geometry(8), noise, 3, 0, "train")
        batches = training_batches(data, 4, workers=workers)
        return [
            (batch["key"], batch["label"].tolist(), batch["x_1"].numpy().tobytes())
            for batch, _ in zip(batches, range(3), strict=False)
        ]

    assert stream(0) == stream(2)


@pytest.mark.parametrize("meta", [True, False])
def test_basicsr_pairs(tmp_path, meta):
    for side, offset in (("gt", 0), ("lq", 100)):
        path = write(tmp_path / "train" / f"{side}.lmdb", {f"a {i}": encoded(offset + i) for i in range(3)})
        if meta:
            (path / "meta_info.txt").write_text("a 0.png (20,20,3) 1\na 2.png (20,20,3) 1\n")
    source = LmdbImages(tmp_path, "basicsr", "train", x_0="gt.lmdb", x_1="lq.lmdb")
    items = [item_of(source, i) for i in range(len(source))]
    numbers = [0, 2] if meta else [0, 1, 2]
    assert [item["key"] for item in items] == [f"a {i}" for i in numbers]
    assert [(code(item), code(item, "x_1")) for item in items] == [(i, 100 + i) for i in numbers]
    clean = LmdbImages(tmp_path / "train" / "gt.lmdb", "basicsr", "train")
    assert set(clean[0]) == {"key", "file", "x_0"}
    with pytest.raises(UserError, match="no folder for the split 'val'; there is train"):
        LmdbImages(tmp_path, "basicsr", "val", x_0="gt.lmdb", x_1="lq.lmdb")


def test_wrong_databases(tmp_path, official):
    (tmp_path / "sides").mkdir()
    write(tmp_path / "sides" / "gt.lmdb", {"a": encoded(0), "b": encoded(1)})
    write(tmp_path / "sides" / "lq.lmdb", {"a": encoded(0)})
    with pytest.raises(UserError, match=r"gt.lmdb: 1 of 2 keys are not in .*lq.lmdb, 'b' the first"):
        LmdbImages(tmp_path / "sides", "basicsr", "train", x_0="gt.lmdb", x_1="lq.lmdb")
    (tmp_path / "sides" / "lq.lmdb" / "meta_info.txt").write_text("a.png (1,1,3)\nb.png (1,1,3)\n")
    source = LmdbImages(tmp_path / "sides", "basicsr", "train", x_0="gt.lmdb", x_1="lq.lmdb")
    with pytest.raises(UserError, match=r"lq.lmdb: no key 'b'"):
        source[1]
    twins = write(tmp_path / "twins.lmdb", {"/a/n01/1.JPEG": b"", "/b/n01/1.JPEG": b""})
    with pytest.raises(UserError, match="end alike"):
        LmdbImages(twins, "i2sb", "train")
    whole = tmp_path / "val_faster_imagefolder.lmdb" / "data.mdb"
    data = whole.read_bytes()
    whole.write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match=r"data.mdb: truncated"):
        LmdbImages(official, "i2sb", "val")
    whole.write_bytes(b"no database" * 1000)
    with pytest.raises(UserError, match="not a readable LMDB database"):
        LmdbImages(official, "i2sb", "val")
    (tmp_path / "sides" / "gt.lmdb" / "data.mdb").unlink()
    os.mkfifo(tmp_path / "sides" / "gt.lmdb" / "data.mdb")
    with pytest.raises(UserError, match="not a regular file"):
        LmdbImages(tmp_path / "sides", "basicsr", "train", x_0="gt.lmdb", x_1="lq.lmdb")
    write(tmp_path / "val_other.lmdb", {"a": b""})
    with pytest.raises(UserError, match="both fit 'val'"):
        LmdbImages(official, "i2sb", "val")
    for options, message in (
        ({"layout": "i2sb", "x_0": "gt"}, "leave x_0 and x_1 out"),
        ({"layout": "basicsr", "x_1": "lq"}, "x_1 needs x_0"),
        ({"layout": "basicsr"}, "no LMDB database for the split"),
    ):
        with pytest.raises(UserError, match=message):
            LmdbImages(tmp_path, split="nothing", **options)
    with pytest.raises(UserError, match=r"none: no such folder"):
        LmdbImages(tmp_path / "none", "i2sb", "train")
