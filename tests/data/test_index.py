"""Lists of files and the order of epochs at any size."""

import itertools
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from i2i_bridge.data import index
from i2i_bridge.data.dataset import PairDataset
from i2i_bridge.data.index import Names, image_names, recall, remember
from i2i_bridge.data.loader import _BatchSampler, training_batches
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
    with np.load(file) as stored:
        what = str(stored["what"])
    short = {"names": np.zeros(3, np.uint8), "name_ends": np.array([0, 9]), "folders": np.zeros(0, np.uint8)}
    remember(what, short | {"folder_ends": np.array([0]), "times": np.zeros(0)})
    listed.clear()
    assert len(image_names(folder)) == 3 and len(listed) == 1


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


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 7, 16, 17, 100, 101])
def test_an_epoch_is_a_permutation(length):
    """Every item once, however many parts an epoch is cut into."""
    for most, (seed, epoch) in itertools.product((1, 2, 3, 7, 16, 100, 2**22), ((0, 0), (0, 1), (-(2**63), 10**9))):
        assert sorted(shuffled(i, length, seed, epoch, most) for i in range(length)) == list(range(length))


def test_a_part_of_a_long_epoch_is_spread_over_all_items():
    """Every k-th item, otherwise the first part of a sorted dataset would be of its first classes alone."""
    # kills: parts-of-neighbours
    orders = [[shuffled(i, 103, 0, epoch, 35) for i in range(103)] for epoch in range(2)]
    for order in orders:
        assert [sorted(part) for part in (order[:35], order[35:69], order[69:])] == [
            list(range(j, 103, 3)) for j in range(3)
        ]
    first, second = orders[0][:34], orders[0][35:69]
    assert orders[0] != orders[1] and [index // 3 for index in first] != [index // 3 for index in second]


def test_the_order_stays_what_it_was():
    """A run resumed by a newer version must use the same images."""
    # kills: order-of-every-epoch-alike
    known = {
        (9, 0, 0): [5, 7, 1, 2, 6, 4, 0, 8, 3],
        (16, 0, 1): [2, 7, 15, 10, 5, 4, 9, 14, 6, 8, 3, 12, 1, 13, 0, 11],
        (10, 3, 0): [0, 2, 8, 4, 6, 1, 5, 7, 9, 3],
    }
    for (length, seed, epoch), order in known.items():
        assert [shuffled(i, length, seed, epoch) for i in range(length)] == order


@pytest.mark.parametrize("length", [2, 3, 4, 5, 10, 37])
def test_the_order_has_no_pattern(length):
    """Over many epochs every item comes to every place equally often, and follows every other equally often.

    Chi-squared per degree of freedom is 1 for fair draws, and stays within 1 +- 5 sqrt(2 / degrees).
    """
    # kills: order-of-every-epoch-alike
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


@pytest.mark.parametrize(
    ("length", "processes", "share", "start"), [(1, 2, 3, 5), (7, 1, 4, 0), (7, 3, 1, 9), (24, 2, 2, 40), (30, 4, 3, 2)]
)
def test_every_process_sees_its_own_part(length, processes, share, start):
    """From any step on, the shares of all processes are the samples of one process, and each epoch has every item."""
    batch_size, steps = processes * share, 2 * length
    streams = [
        list(itertools.islice(iter(_BatchSampler(batch_size, start, rank, processes)), steps))
        for rank in range(processes)
    ]
    numbers = [n for step in zip(*streams, strict=True) for share in step for n in share]
    assert numbers == list(range(start * batch_size, (start + steps) * batch_size))
    items = [shuffled(n % length, length, 0, n // length) for n in numbers]
    begin = -numbers[0] % length  # where the next epoch begins
    assert sorted(items[begin : begin + length]) == list(range(length))


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


def test_a_user_without_a_home_has_no_cache(tree, monkeypatch):
    folder, listed = tree
    for variable in ("I2I_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)

    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    for _ in range(2):
        assert len(image_names(folder)) == 3
    assert len(listed) == 2 and recall("a") is None
