"""Errors of data and file readers that no other test reaches (found by `make coverage`)."""

import gzip
import io
import os
import signal
import struct
import sys
import tarfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from i2i_bridge import registry
from i2i_bridge.data import loader, store
from i2i_bridge.data.cards import is_card, open_source
from i2i_bridge.data.dataset import PairDataset
from i2i_bridge.data.sources.folders import CleanImages, PairedFolders, shared_files
from i2i_bridge.data.sources.lists import ListFile
from i2i_bridge.data.sources.lmdb import LmdbImages
from i2i_bridge.data.sources.packaged import PackagedImages
from i2i_bridge.data.sources.tar import TarShards
from i2i_bridge.data.sources.torchvision import TorchvisionImages
from i2i_bridge.data.splits import listed_positions
from i2i_bridge.data.transforms import Geometry
from i2i_bridge.errors import UserError
from i2i_bridge.images.files import read_picture, write_picture
from i2i_bridge.images.folder import find_images
from i2i_bridge.images.pixels import Picture, to_pil, to_pixels
from i2i_bridge.runs.imports import released
from i2i_bridge.storage import pt_reader
from i2i_bridge.storage.archive import BadArchive, unpack
from i2i_bridge.storage.names import expanded
from i2i_bridge.storage.toml import MAX_BYTES, read_toml


def photo(path, size=(12, 10), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, 90).save(path)
    return path


def refused(match):
    return pytest.raises(UserError, match=match)


def broken(*arguments, **options):
    raise OSError(5, "Input/output error")


def test_tables(tmp_path):
    card, recipe = tmp_path / "card.toml", tmp_path / "recipe.toml"
    card.write_text("[dataset]\n")
    recipe.write_text("[data]\n")
    assert is_card(card) and not is_card(recipe) and not is_card(tmp_path / "none.toml")
    with refused("no such file"):
        read_toml(tmp_path / "none.toml")
    with refused("is not a file"):
        read_toml(tmp_path)
    card.write_text("a = 1\n" + "#" * MAX_BYTES)
    with refused("larger than"):
        read_toml(card)
    card.write_text("a = " + "[" * 5000)
    with refused("too deep"):
        read_toml(card)
    card.write_bytes(b"a = '\xff'")
    with refused("not UTF-8"):
        read_toml(card)
    with refused("cannot be read"):
        read_toml(recipe / "under-a-file.toml")


def test_a_user_of_whom_no_home_is_known():
    assert expanded("~nobody-is-called-so/photos") == Path("~nobody-is-called-so/photos")


def test_a_user_without_a_home_and_a_card_that_stays(tmp_path, monkeypatch):
    monkeypatch.setenv("I2I_HOME", str(tmp_path))
    file = store.own_card_file("mine")
    file.parent.mkdir(parents=True)
    file.write_text("")
    with monkeypatch.context() as patched:
        patched.setattr(store, "remove", broken)
        with refused("cannot be deleted"):
            store.forget("mine")
    assert store.forget("mine") == [file] and not file.exists()
    monkeypatch.delenv("I2I_HOME")

    def homeless(self):
        raise RuntimeError("could not determine home directory")

    monkeypatch.setattr(Path, "expanduser", homeless)
    assert store.store_folder() == Path(".i2i-bridge")


def test_splits_without_items(tmp_path, monkeypatch):
    class Nothing:
        def __init__(self, split):
            self.split = split

        def __len__(self):
            return 0

    monkeypatch.setitem(registry.DATASETS._members, "nothing", Nothing)
    with refused("no items in the split 'val'"):
        open_source({"name": "nothing"}, "val")
    with refused("no images for the split 'val'"):
        PackagedImages(train=[], val=[], split="val")
    with refused("skimage is installed, but holds no data/none.png"):
        PackagedImages(train=["skimage:data/none.png"], val=[], split="train")
    with refused("reads package:path/inside"):
        PackagedImages(train=["skimage/data.png"], val=[], split="train")
    photo(tmp_path / "x_0" / "a.png")
    photo(tmp_path / "x_1" / "a.png")
    with refused("no pairs for the split 'val'"):
        PairedFolders(tmp_path, "x_0", "x_1", "val", holdout=1e-9)
    with refused("no such folder"):
        PairedFolders(tmp_path / "none", "x_0", "x_1", "val")
    with refused("not a readable text file"):
        listed_positions(["a"], photo(tmp_path / "list.png"), "here")


def test_lists(tmp_path):
    photo(tmp_path / "a.png")
    file = tmp_path / "list.csv"
    file.write_text("x_0,split\n\n , \na.png,train\n")
    assert ListFile(tmp_path, "train", file=file.name).keys[0] == "a.png"
    file.write_text("x_0\na.png\n")
    with refused("no items for the split 'val'"):
        ListFile(tmp_path, "val", file=file.name, holdout=1e-9)


def test_databases(tmp_path, monkeypatch):
    lmdb = pytest.importorskip("lmdb")

    def write(path, keys):
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = io.BytesIO()
        Image.new("RGB", (8, 8)).save(stream, format="PNG")
        with lmdb.open(str(path), map_size=1 << 22) as environment, environment.begin(write=True) as transaction:
            for key in keys:
                transaction.put(key.encode(), stream.getvalue())
        return path

    # The second name that means the split is looked for where the first is not there.
    write(tmp_path / "both" / "validation_images.lmdb", ["val/b.png"])
    assert len(LmdbImages(tmp_path / "both", "i2sb", "val")) == 1
    alone = write(tmp_path / "alone.lmdb", ["a.png"])
    with refused("no items for the split 'val'"):
        LmdbImages(alone, "i2sb", "val", holdout=1e-9)
    pairs = [write(tmp_path / "pairs" / name, ["a"]) for name in ("x_0.lmdb", "x_1.lmdb")]
    (pairs[0] / "meta_info.txt").write_bytes(b"\xff\xfe\x00")
    with refused("meta_info.txt: not a readable text file"):
        LmdbImages(tmp_path / "pairs", "basicsr", "train", x_0="x_0.lmdb", x_1="x_1.lmdb")
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with refused(r"pip install 'i2i-bridge\[lmdb\]'"):
        LmdbImages(alone, "i2sb", "train")


def test_files_come_in_slices_and_kinds_without_files_tell_nothing(tmp_path):
    for name in "abc":
        photo(tmp_path / f"{name}.png")
    source = CleanImages(tmp_path, "train", holdout=0.0)
    assert source.files[1:] == [("b.png", tmp_path / "b.png"), ("c.png", tmp_path / "c.png")]
    assert shared_files(source, [1, 2]) is None

    class Plain:
        files = (tmp_path / "b.png", tmp_path / "elsewhere" / "c.png")

    assert shared_files(source, Plain()) == shared_files(Plain(), source) == 0, "names alone are no files"
    assert shared_files(Plain(), Plain()) == 2


def test_shards_and_torchvision_images_that_cannot_be_read(tmp_path, monkeypatch):
    stream = io.BytesIO()
    Image.new("RGB", (8, 8)).save(stream, format="PNG")
    for split in ("train", "val"):
        with tarfile.open(tmp_path / f"{split}-0.tar", "w") as shard:
            member = tarfile.TarInfo("a.png")
            member.size = len(stream.getvalue())
            shard.addfile(member, io.BytesIO(stream.getvalue()))
    source = TarShards(tmp_path, "train")
    (tmp_path / "train-0.tar").unlink()
    with refused("no such file"):
        _ = source[0]["x_0"]

    vision = TorchvisionImages("FakeData", "train", options={"size": 4})
    monkeypatch.setattr(vision, "images", [("no image", 0)] * 4)
    with refused("gives str, not an image"):
        _ = vision[0]

    class Damaged:
        def __getitem__(self, index):
            raise RuntimeError("damaged")

    monkeypatch.setattr(vision, "images", Damaged())
    with refused(r"torchvision 'FakeData' train \d+: damaged"):
        _ = vision[0]


def test_items_that_do_not_fit(tmp_path):
    photo(tmp_path / "images" / "a.png")
    source = CleanImages(tmp_path / "images", "train", holdout=0.0)
    small = PairDataset(source, Geometry(64, resize="none"), None, 3, 0, "train")
    with refused(r"a\.png: .*smaller"):
        _ = small[0]

    class Moody:
        def __call__(self, x_0, generators):
            raise UserError("not today")

    moody = PairDataset(source, Geometry(8), Moody(), 3, 0, "train")
    with refused(r"a\.png: not today"):
        _ = moody[0]

    class Floats:
        def __init__(self, image, **more):
            self.item = {"key": "a", "x_0": image} | more

        def __len__(self):
            return 1

        def __getitem__(self, index):
            return self.item

    real = np.full((10, 12, 3), 0.5, np.float32)
    with refused(r"a: float pixels have no known range; set data\.value_range"):
        _ = PairDataset(Floats(real), Geometry(8), None, 3, 0, "train")[0]
    with refused(r"a: float tensors are in \[-1, 1\] already"):
        _ = PairDataset(Floats(torch.zeros(3, 10, 12)), Geometry(8), None, 3, 0, "train", value_range=(0.0, 1.0))[0]
    with refused("the condition has 3 channels, but network.condition_channels is 1"):
        pair = Floats(real, x_1=real)
        _ = PairDataset(pair, Geometry(8), None, 3, 0, "train", condition_channels=1, value_range=(0.0, 1.0))[0]
    with refused("brings a condition of its own, but data.own_condition is False"):
        _ = PairDataset(Floats(real, x_1=real, condition=real), Geometry(8), None, 3, 0, "train")[0]
    with refused("brings no condition, but data.own_condition is True"):
        _ = PairDataset(Floats(real, x_1=real), Geometry(8), None, 3, 0, "train", own_condition=True)[0]
    x = torch.linspace(-1, 1, 12).view(1, 3, 4)
    assert np.allclose(to_pixels(x, np.float32, (0.0, 10.0))[..., 0], (x[0].numpy() + 1) * 5)

    class Masked:
        """Pairs with a mask of their own."""

        def __len__(self):
            return 1

        def __getitem__(self, index):
            white = np.zeros((10, 12, 1), np.uint8)
            white[:, 6:] = 255
            grey = np.full((10, 12, 3), 90, np.uint8)
            return {"key": "a", "x_0": grey, "x_1": grey, "mask": white}

    item = PairDataset(Masked(), Geometry((10, 12), resize="none"), None, 3, 0, "train")[0]
    assert item["mask"].shape == (1, 10, 12) and item["mask"].sum() == 60


def test_workers_ignore_stop_signals_on_a_system_that_lacks_one(monkeypatch):
    given = {}
    monkeypatch.setattr(loader, "STOP_SIGNALS", ("SIGINT", "SIGNOWHERE"))
    monkeypatch.setattr(signal, "signal", lambda number, handler: given.update({number: handler}))
    loader._init_worker(0)
    assert given == {signal.SIGINT: signal.SIG_IGN}


def deep_png(width, height, alpha):
    """A PNG of 16-bit colour, all zeros."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    row = b"\0" + bytes(width * (8 if alpha else 6))
    header = struct.pack(">2I5B", width, height, 16, 6 if alpha else 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(row * height))
        + chunk(b"IEND", b"")
    )


def test_images(tmp_path, monkeypatch):
    photo(tmp_path / "images" / "a.png")
    with monkeypatch.context() as patched:
        patched.setattr(os, "scandir", broken)
        with refused("cannot be listed"):
            find_images(tmp_path / "images")
    huge = tmp_path / "huge.png"
    whole = deep_png(4, 4, alpha=False)
    header = whole[12:16] + struct.pack(">2I5B", 10_000, 10_000, 16, 2, 0, 0, 0)
    huge.write_bytes(whole[:12] + header + struct.pack(">I", zlib.crc32(header)) + whole[33:])
    with refused("10000"):
        read_picture(huge)
    cut = tmp_path / "cut.png"
    cut.write_bytes(whole[:50])
    with refused("not a readable"):
        read_picture(cut)
    with refused("1 or 3 channels, not 4"):
        to_pil(Picture(np.zeros((2, 2, 4), np.uint8)))
    for name, pixels, says in (
        ("deep.jpg", np.zeros((2, 2, 3), np.uint16), "16 bits"),
        ("real.png", np.zeros((2, 2, 3), np.float32), "holds floats"),
        ("four.png", np.zeros((2, 2, 4), np.uint8), "four.png: a PIL image"),
        ("wide.jpg", np.zeros((1, 70_000, 3), np.uint8), "cannot be encoded"),
    ):
        with refused(says):
            write_picture(tmp_path / name, Picture(pixels))
        assert not (tmp_path / name).exists()
    write_picture(tmp_path / "flat.jpg", Picture(np.full((8, 8, 3), 90, np.uint8), np.zeros((8, 8), np.uint8)))
    assert read_picture(tmp_path / "flat.jpg").alpha is None, "a JPEG has no place for alpha"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_deep_colour_is_turned_upright_as_other_images_are(tmp_path, orientation):
    # kills: 16-bit colour read by another library, which does not heed EXIF
    pixels = np.arange(5 * 7 * 3, dtype=np.uint16).reshape(5, 7, 3) * 600
    write_picture(tmp_path / "deep.png", Picture(pixels))
    plain = Image.fromarray((pixels // 256).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    plain.save(tmp_path / "plain.png", exif=exif)
    block = exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = b"eXIf" + block
    chunk = struct.pack(">I", len(block)) + chunk + struct.pack(">I", zlib.crc32(chunk))
    whole = (tmp_path / "deep.png").read_bytes()
    (tmp_path / "deep.png").write_bytes(whole[:33] + chunk + whole[33:])
    deep, shallow = read_picture(tmp_path / "deep.png").pixels, read_picture(tmp_path / "plain.png").pixels
    assert deep.dtype == np.uint16 and np.array_equal(deep // 256, shallow)


def test_archives(tmp_path, monkeypatch):
    archive = tmp_path / "a.tar"
    with tarfile.open(archive, "w") as members:
        folder = tarfile.TarInfo("inside")
        folder.type = tarfile.DIRTYPE
        members.addfile(folder)
        member = tarfile.TarInfo("inside/a.txt")
        member.size = 2
        members.addfile(member, io.BytesIO(b"hi"))
    unpack(archive, "tar", tmp_path / "out")
    assert (tmp_path / "out" / "inside" / "a.txt").read_bytes() == b"hi"
    compressed = bytearray(gzip.compress(archive.read_bytes()))
    compressed[-6] ^= 1  # of the checksum
    archive.write_bytes(compressed)
    with pytest.raises(BadArchive, match="damaged"):
        unpack(archive, "tar", tmp_path / "damaged")
    monkeypatch.setattr(Path, "mkdir", broken)
    with refused("cannot be unpacked"):
        unpack(archive, "tar", tmp_path / "again")


def test_a_recipe_without_numbers_of_calls_is_released_too():
    assert released({"evaluate": {"metrics": ["psnr"]}}, frozenset())["evaluate"]["metrics"] == ["psnr"]


def test_the_child_in_this_process(tmp_path, monkeypatch):
    """Code of the child process, run in this process for the coverage report."""

    def says(match):
        return pytest.raises(pt_reader.Refused, match=match)

    short = tmp_path / "short.pt"
    short.write_bytes(b"PK\x03\x04" + bytes(10))
    with says("cut off"):
        pt_reader.examine(str(short))
    archive = tmp_path / "archive.pt"
    with zipfile.ZipFile(archive, "w") as members:
        members.writestr("a/version", "3")
        members.writestr("a/byteorder", "little")
    with says("without data.pkl"):
        pt_reader.examine(str(archive))
    whole = archive.read_bytes()
    archive.write_bytes(whole[:4] + whole[4:].replace(b"PK\x03\x04", b"PK\x03\x05", 1))
    with says("cannot be trusted"):
        pt_reader.examine(str(archive))
    honest, old = tmp_path / "honest.pt", tmp_path / "old.pt"
    torch.save({"a": torch.ones(2)}, honest)
    torch.save({"a": torch.ones(2)}, old, _use_new_zipfile_serialization=False)
    assert pt_reader.examine(str(old), legacy=True) is None
    assert torch.equal(pt_reader.load(str(old), "state dict", None)["a"], torch.ones(2))
    with monkeypatch.context() as patched:
        patched.setattr(os, "open", broken)
        with says("cannot be read"):
            pt_reader.examine(str(honest))

    def full(*arguments, **options):
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(torch, "load", full)
        with pytest.raises(MemoryError):
            pt_reader.load(str(honest), "state dict", None)
    torch.save({"a": torch.ones(2).to_sparse()}, honest)
    with monkeypatch.context() as patched:
        patched.setattr(torch, "load", lambda *a, **k: {"a": torch.ones(2).to_sparse()})
        with says("not a plain tensor"):
            pt_reader.load(str(honest), "state dict", None)
    with says("beyond 80 bits"):
        pt_reader.scan(io.BytesIO(b"\x80\x02\x8a\x0b" + b"\x01" * 11 + b"."))


def test_the_child_s_limits(monkeypatch):
    ended = []
    monkeypatch.setattr(os, "_exit", ended.append)
    for event in ("open", "os.listdir", "subprocess.Popen", "socket.connect", "ctypes.dlopen"):
        pt_reader._watch(event, ())
    assert ended == [70, 70, 70]
    monkeypatch.setitem(sys.modules, "resource", None)
    pt_reader.limit(1, final=True)  # no such limit on this system: time remains
    pt_reader.limit_time(1)
