"""`check_dataset`: a dataset that keeps the contract passes, and each mistake is named in one line."""

import numpy as np
import pytest
import torch
from PIL import Image

from i2i_bridge import check_dataset


def pixels(code, side=8):
    return np.full((side, side, 3), code, np.uint8)


class Good:
    """A dataset that keeps the contract; those below break it in one place each."""

    def __len__(self):
        return 5

    def __getitem__(self, i):
        return {"key": f"photo {i}", "x_0": pixels(i), "x_1": pixels(i + 100), "mask": mask()}


def mask():
    hole = np.zeros((8, 8, 1), np.uint8)
    hole[2:4] = 255
    return hole


def changed(change):
    """A dataset whose item i is change(i, the good one)."""

    class Changed(Good):
        def __getitem__(self, i):
            return change(i, super().__getitem__(i))

    return Changed()


def test_datasets_that_keep_the_contract(tmp_path):
    Image.fromarray(pixels(9)).save(tmp_path / "a.png")
    assert check_dataset(Good()) == []
    forms = [
        lambda i, item: (item["x_0"], item["x_1"]),
        lambda i, item: (item["x_0"], 7),
        lambda i, item: item["x_0"],
        lambda i, item: torch.zeros(3, 8, 8) + i / 10,
        lambda i, item: tmp_path / "a.png",
        lambda i, item: {"key": item["key"], "x_0": Image.fromarray(item["x_0"]), "x_1": pixels(0, 4), "label": i},
    ]
    for form in forms:
        assert check_dataset(changed(form)) == []


def mapped(**parts):
    return lambda i, item: item | {name: make(i) for name, make in parts.items()}


class Empty(Good):
    def __len__(self):
        return 0


class Stream:
    def __iter__(self):
        return iter([pixels(0)])


class Counting(Good):
    """Gives the next item at each call, whatever the index."""

    def __init__(self):
        self.calls = 0

    def __getitem__(self, i):
        self.calls += 1
        return super().__getitem__((self.calls - 1) % 5)


def global_draw(i, item):
    np.random.rand()  # noqa: NPY002
    return item


def random_pixels(i, item, rng=np.random.default_rng(0)):  # noqa: B008
    return item | {"x_0": rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)}


def half_masked(i, item):
    return {name: value for name, value in item.items() if name != "mask" or i != 3}


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (Empty(), "it has no items"),
        (Stream(), "Stream has no __len__"),
        (changed(lambda i, item: {"key": "a"}), "no x_0"),
        (changed(lambda i, item: (item["x_0"],) * 3), "a tuple of 3"),
        (changed(lambda i, item: "nowhere.png"), "nowhere.png"),
        (changed(lambda i, item: 1 / 0), "item 0: raised ZeroDivisionError"),
        (changed(lambda i, item: item["x_2"]), "item 0: raised KeyError"),
        (changed(mapped(x_0=lambda i: torch.full((3, 8, 8), 200.0))), "must lie in [-1, 1]"),
        (changed(mapped(x_0=lambda i: np.full((8, 8, 3), np.nan, np.float32))), "x_0 has NaN"),
        (changed(mapped(x_1=lambda i: pixels(i, 7))), "differ in size"),
        (changed(mapped(mask=lambda i: pixels(0, 4))), "differ in size"),
        (changed(mapped(mask=lambda i: np.arange(64, dtype=np.uint8).reshape(8, 8, 1))), "item 0: "),
        (changed(mapped(x1=lambda i: pixels(i))), "'x1' is no part of an item"),
        (changed(mapped(label=lambda i: "cat")), "a label is an integer"),
        (changed(mapped(key=lambda i: i)), "item 0: the key is 0; a string"),
        (changed(mapped(key=lambda i: "")), "the key is ''"),
        (changed(mapped(key=lambda i: f"photo {i % 3}")), "items 0 and 3 have the same key 'photo 0'"),
        (changed(half_masked), "item 3 has x_0, x_1; a batch needs the same"),
        (changed(random_pixels), "read twice, it is not the same"),
        (Counting(), "read twice, it is not the same"),
        (changed(global_draw), "a global random generator is used"),
    ],
)  # fmt: skip
def test_each_mistake_is_named(source, words):
    # kills: dataset-keys-not-compared dataset-parts-not-compared dataset-pixels-not-compared dataset-read-in-order
    # kills: dataset-global-draws-passed
    found = check_dataset(source)
    assert any(words in problem for problem in found), found
    assert not any("\n" in problem for problem in found)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 64])
def test_the_first_and_the_last_item_are_read_and_no_more_than_count(count):
    # kills: dataset-last-item-unread
    read = set()
    check_dataset(changed(lambda i, item: read.add(i) or item), count=count)
    assert len(read) == min(count, 5) and 0 in read
    assert count == 1 or 4 in read


def test_a_file_that_is_damaged_is_named(tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no image")
    (problem,) = {line.split(": ", 1)[1] for line in check_dataset(changed(lambda i, item: tmp_path / "bad.png"))}
    assert str(tmp_path / "bad.png") in problem
