import io
import os
import tarfile

import numpy as np
import pytest
from PIL import Image

from i2i_bridge.data.dataset import PairDataset
from i2i_bridge.data.items import decode_item
from i2i_bridge.data.loader import training_batches
from i2i_bridge.data.source import item_of
from i2i_bridge.data.sources import tar as tar_shards
from i2i_bridge.data.sources.tar import TarShards
from i2i_bridge.data.transforms import Geometry
from i2i_bridge.errors import UserError


def encoded(code):
    data = io.BytesIO()
    Image.fromarray(np.full((20, 20, 3), code, np.uint8)).save(data, format="PNG")
    return data.getvalue()


def write(path, members, mode="w"):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:
        for name, data in members.items():
            if isinstance(data, tarfile.TarInfo):
                tar.addfile(data)
                continue
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def pairs(numbers, long=""):
    members = {}
    for i in numbers:
        key = f"./some.folder/{long}im{i}"
        members |= {
            f"{key}.Clean.PNG": encoded(i),
            f"{key}.noisy.png": encoded(100 + i),
            f"{key}.cls": b"%d\n" % (7 - i),
        }
        members |= {f"{key}.json": b"{}"}
    return members


SIDES = {"x_0": ("clean.png",), "x_1": ("noisy.png",), "label": "cls"}


@pytest.fixture
def shards(tmp_path):
    # Names beyond 100 characters travel in extra headers.
    write(tmp_path / "train-0000.tar", pairs(range(3), "long" * 30))
    write(tmp_path / "train-0001.tar", pairs(range(3, 5)))
    write(tmp_path / "val-0000.tar", pairs(range(5, 6)))
    return tmp_path


def codes(source, part):
    return [int(decode_item(item_of(source, i), 3)[part][0, 0, 0]) for i in range(len(source))]


def test_members_of_a_key_are_an_item(shards):
    # kills: tar-offset-of-the-header
    train, val = (TarShards(shards, split, "{split}-*.tar", **SIDES) for split in ("train", "val"))
    assert codes(train, "x_0") == [0, 1, 2, 3, 4] and codes(train, "x_1") == [100, 101, 102, 103, 104]
    assert [train[i]["label"] for i in range(5)] == [7, 6, 5, 4, 3]
    assert train[3]["key"] == "train-0001/some.folder/im3" and codes(val, "x_0") == [5]
    clean = TarShards(shards, "train", x_0=("jpg", "noisy.png"))
    assert codes(clean, "x_0") == [100, 101, 102, 103, 104, 105] and set(clean[0]) == {"key", "x_0", "file"}
    parts = [TarShards(shards, split, holdout=0.5, **SIDES) for split in ("train", "val")]
    assert sum(map(len, parts)) == 6


def test_workers_read_the_same(shards):
    def stream(workers):
        data = PairDataset(TarShards(shards, "train", **SIDES), Geometry(8), None, 3, 0, "train")
        return [
            batch["x_1"].numpy().tobytes()
            for batch, _ in zip(training_batches(data, 4, workers=workers), range(3), strict=False)
        ]

    assert stream(0) == stream(2)


def test_only_regular_files_count(tmp_path):
    link, hard, pipe = (tarfile.TarInfo(f"b.{kind}.png") for kind in ("link", "hard", "pipe"))
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    hard.type, hard.linkname = tarfile.LNKTYPE, "a.png"
    pipe.type = tarfile.FIFOTYPE
    folder = tarfile.TarInfo("c.d")
    folder.type = tarfile.DIRTYPE
    members = {"a.png": encoded(1), "1": link, "2": hard, "3": pipe, "4": folder, "__notes__": b"x"}
    write(tmp_path / "a.tar", members)
    assert codes(TarShards(tmp_path, "train"), "x_0") == [1]
    with pytest.raises(UserError, match="no items"):
        TarShards(tmp_path, "train", x_0=("link.png", "hard.png", "pipe.png"))


def test_the_list_is_kept_until_a_shard_changes(shards, tmp_path, monkeypatch):
    monkeypatch.setenv("I2I_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(tar_shards, "WORTH_KEEPING", 1)
    whole = {shard: shard.read_bytes() for shard in shards.glob("*.tar")}
    for header in (b"", bytes(512)):  # without its first header a shard could not be listed again
        for shard, data in whole.items():
            shard.write_bytes(header + data[len(header) :])
            os.utime(shard, (1e9, 1e9))
        assert codes(TarShards(shards, "train", **SIDES), "x_1") == [100, 101, 102, 103, 104, 105]
    for shard, data in whole.items():
        shard.write_bytes(data)
    write(shards / "train-0001.tar", pairs([9]))
    assert codes(TarShards(shards, "train", **SIDES), "x_0") == [0, 1, 2, 9, 5]


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_a_truncated_shard_is_named(shards, share):
    shard = shards / "train-0001.tar"
    data = shard.read_bytes()
    # tarfile pads a file with zeros to 10 KiB; the last member ends before.
    end = len(data.rstrip(b"\0")) // 512 * 512 + 512
    shard.write_bytes(data[: int(end * share)])
    with pytest.raises(UserError, match=r"train-0001.tar: (ends |not a whole).*") as refusal:
        TarShards(shards, "train", **SIDES)
    assert "unpacks" not in str(refusal.value), "a shard is not compressed"


def test_a_shard_cut_between_members_or_damaged_inside_is_named(shards):
    shard = shards / "train-0001.tar"
    data = shard.read_bytes()
    with tarfile.open(shard) as tar:
        second = tar.getmembers()[1]
    shard.write_bytes(data[: second.offset])
    with pytest.raises(UserError, match=r"train-0001.tar: ends or is damaged at byte \d+ of"):
        TarShards(shards, "train", **SIDES)
    shard.write_bytes(data[: second.offset] + b"\xaa" * 512 + data[second.offset + 512 :])
    with pytest.raises(UserError, match=r"train-0001.tar: ends or is damaged"):
        TarShards(shards, "train", **SIDES)


def test_wrong_shards(tmp_path, shards):
    write(tmp_path / "zip" / "a.tar", pairs([1]), "w:gz")
    write(tmp_path / "half" / "a.tar", {"a.clean.png": encoded(0)})
    write(tmp_path / "twice" / "a.tar", {"a.png": encoded(0), "b.png": encoded(0), "a.jpg": encoded(0)})
    write(tmp_path / "label" / "a.tar", {"a.png": encoded(0), "a.cls": b"cat"})
    (tmp_path / "none").mkdir()
    for folder, options, message in (
        ("zip", SIDES, r"a.tar: not a whole, uncompressed tar file"),
        ("half", SIDES, r"a.tar: 'a': no x_1 \(noisy.png\); there is clean.png"),
        ("twice", {}, r"a.tar: 'a': comes twice"),
        ("none", {}, r"no shards '\*.tar' for the split 'train'; there is no .tar file"),
        (".", {"shards": "*.tar.gz"}, "shards are named like"),
        (".", {"shards": "val-{split}.tar"}, r"there is train-0000.tar"),
    ):
        with pytest.raises(UserError, match=message):
            TarShards(tmp_path / folder, "train", **options)
    with pytest.raises(UserError, match=r"a.tar: a: the label b'cat' is no integer"):
        TarShards(tmp_path / "label", "train", label="cls")[0]
    source = TarShards(shards, "train", **SIDES)
    os.truncate(shards / "train-0000.tar", 600)
    with pytest.raises(UserError, match="shorter than when it was opened"):
        source[0]
