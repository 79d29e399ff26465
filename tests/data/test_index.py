"""Lists of files and the order of epochs at any size."""

import itertools
import os
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from i2i_bridge.data import index
from i2i_bridge.data.dataset import PairDataset
from i2i_bridge.data.index import Names, image_names, recall, remember
from i2i_bridge.data.loader import training_batches
from i2i_bridge.data.order import shuffled
from i2i_bridge.data.sources.folders import CleanImages
from i2i_bridge.data.transforms import Geometry
from i2i_bridge.images.folder import list_images
from i2i_bridge.registry import DEGRADATIONS


@given(st.lists(st.text(max_size=8)))
def test_names_are_a_list_of_strings(names):
    packed = Names(names)
    assert list(packed) == names and len(packed) == len(names)
    assert packed[1:3] == names[1:3] and packed[::-1] == names[::-1]
    if names:
        assert packed[-1] == names[-1]
    with pytest.raises(IndexError):
        packed[len(names)]


def test_names_keep_undecodable_file_names():
    name = os.fsdecode(b"caf\xe9.png")
    assert list(Names([name])) == [name]


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A tree large and old enough to be cached, and a count of its listings."""
    monkeypatch.setenv("I2I_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(index, "WORTH_KEEPING", 1)
    for name in ("a/1.png", "a/2.png", "b/3.png"):
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree" / name).touch()
    for folder in ("a", "b", "."):
        os.utime(tmp_path / "tree" / folder, (1e9, 1e9))
    listed = []
    monkeypatch.setattr(index, "list_images", lambda folder: listed.append(folder) or list_images(folder))
    return tmp_path / "tree", listed


def test_a_tree_is_listed_once_until_it_changes(tree):
    # kills: stale-listing
    folder, listed = tree
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    for _ in range(3):
        assert list(image_names(folder)) == ["a/1.png", "a/2.png", "b/3.png"]
    assert len(listed) == 1
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}, (
        "nothing is written beside the images"
    )
    (folder / "b" / "4.png").touch()
    assert list(image_names(folder)) == ["a/1.png", "a/2.png", "b/3.png", "b/4.png"]
    (folder / "a" / "new").mkdir()
    (folder / "a" / "new" / "5.png").touch()
    assert "a/new/5.png" in list(image_names(folder))
    (folder / "a" / "1.png").unlink()
    assert "a/1.png" not in list(image_names(folder))


def test_a_change_in_the_same_instant_is_seen(tree):
    folder, _ = tree
    (folder / "a" / "6.png").touch()
    moment = (folder / "a").stat().st_mtime_ns
    image_names(folder)
    (folder / "a" / "7.png").touch()
    os.utime(folder / "a", ns=(moment, moment))
    assert "a/7.png" in list(image_names(folder))


def test_a_ruined_cache_is_made_again(tree, tmp_path):
    folder, listed = tree
    image_names(folder)
    (file,) = (tmp_path / "cache" / "listings").iterdir()
    whole = file.read_bytes()
    for ruin in (b"", b"no archive", whole[: len(whole) // 2], whole[:200] + b"\xff" * 20 + whole[220:]):
        file.write_bytes(ruin)
        listed.clear()
        assert len(image_names(folder)) == 3 and len(listed) == 1
        assert file.read_bytes() != ruin
    short = {"names": np.zeros(3, np.uint8), "name_ends": np.array([0, 9]), "folders": np.zeros(0, np.uint8)}
    remember(f"images {folder.resolve()}", short | {"folder_ends": np.array([0]), "times": np.zeros(0)})
    assert len(image_names(folder)) == 3


def test_a_damaged_cache_is_never_believed(tmp_path, monkeypatch):
    monkeypatch.setenv("I2I_CACHE_DIR", str(tmp_path))
    remember("a", {"x": np.arange(50)})
    (file,) = (tmp_path / "listings").iterdir()
    whole, rng = file.read_bytes(), np.random.default_rng(0)
    for _ in range(500):
        damaged = bytearray(whole)
        for place in rng.integers(len(whole), size=rng.integers(1, 5)):
            damaged[place] = rng.integers(256)
        file.write_bytes(damaged)
        known = recall("a")
        assert known is None or "x" not in known or np.array_equal(known["x"], np.arange(50))


def test_a_cache_that_cannot_be_written_does_no_harm(tree, tmp_path, monkeypatch):
    folder, _ = tree
    (tmp_path / "file").touch()
    monkeypatch.setenv("I2I_CACHE_DIR", str(tmp_path / "file"))
    assert len(image_names(folder)) == 3
    remember("a", {"x": np.arange(3)})
    assert recall("a") is None


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 7, 16, 17, 100, 101, 4096, 5000])
def test_an_epoch_is_a_permutation(length):
    for epoch in range(3):
        assert sorted(shuffled(i, length, 0, epoch) for i in range(length)) == list(range(length))


def test_the_order_stays_what_it_was():
    """A run resumed by a newer version must use the same images."""
    # kills: order-of-another-grid
    known = {
        (9, 0, 0): [7, 3, 2, 6, 8, 1, 4, 0, 5],
        (16, 0, 1): [11, 14, 6, 15, 4, 13, 7, 3, 8, 1, 9, 0, 12, 5, 2, 10],
        (10, 3, 0): [7, 9, 4, 8, 2, 1, 0, 3, 6, 5],
    }
    for (length, seed, epoch), order in known.items():
        assert [shuffled(i, length, seed, epoch) for i in range(length)] == order


@pytest.mark.parametrize("length", [2, 3, 4, 5, 10, 37])
def test_the_order_has_no_pattern(length):
    """Over many epochs every item comes to every place equally often, and follows every other equally often.

    Chi-squared per degree of freedom is 1 for fair draws, and stays within 1 +- 5 sqrt(2 / degrees).
    """
    # kills: order-keeps-its-round-key
    epochs = 3000
    orders = [[shuffled(i, length, 0, epoch) for i in range(length)] for epoch in range(epochs)]
    places = Counter((i, order[i]) for order in orders for i in range(length))
    expected = epochs / length
    fit = sum((places[cell] - expected) ** 2 / expected for cell in itertools.product(range(length), repeat=2))
    degrees = (length - 1) ** 2
    assert abs(fit / degrees - 1) < 5 * np.sqrt(2 / degrees)
    follows = Counter(pair for order in orders for pair in itertools.pairwise(order))
    expected = epochs * (length - 1) / (length * (length - 1))
    fit = sum((follows[pair] - expected) ** 2 / expected for pair in itertools.permutations(range(length), 2))
    degrees = length * (length - 1) - 1
    assert abs(fit / degrees - 1) < 5 * np.sqrt(2 / degrees)


def test_a_big_epoch_is_well_mixed():
    length = 1_300_000
    order = np.array([shuffled(i, length, 0, 0) for i in range(20_000)])
    assert len(set(order)) == len(order)
    for other in (np.arange(len(order)), np.roll(order, 1), np.roll(order, 1140)):
        assert abs(np.corrcoef(order, other)[0, 1]) < 5 / np.sqrt(len(order))
    assert abs(np.corrcoef(order, [shuffled(i, length, 1, 0) for i in range(20_000)])[0, 1]) < 5 / np.sqrt(len(order))


def test_workers_may_change_on_resume(tmp_path):
    for i in range(7):
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (12, 12, 3), dtype=np.uint8)).save(
            tmp_path / f"{i}.png"
        )
    noise = DEGRADATIONS.build({"name": "noise", "std": 0.2})
    data = PairDataset(CleanImages(tmp_path, "train"), Geometry(8, crop="random", flip=True), noise, 3, 0, "train")

    def stream(workers, first, count):
        batches = itertools.islice(training_batches(data, 4, start_step=first, workers=workers), count)
        return [(batch["key"], batch["x_1"].numpy().tobytes()) for batch in batches]

    whole = stream(0, 0, 9)
    assert stream(2, 0, 4) + stream(1, 4, 3) + stream(0, 7, 2) == whole
