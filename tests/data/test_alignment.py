"""Shifts between the sides of a pair: known ones are found, for sides that look different too, and pairs are cut."""

import pickle
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from i2i_bridge.data.alignment import SIDE, Alignment, alignment_of, misalignments, overlap_of, shift_between
from i2i_bridge.data.dataset import PairDataset
from i2i_bridge.data.statistics import facts_of
from i2i_bridge.data.transforms import Geometry


def photo(seed, side=240):
    """Shapes of many sizes and colours."""
    draw = np.random.default_rng(seed)
    image = np.full((side, side, 3), 120, np.uint8)
    for _ in range(60):
        colour = tuple(int(v) for v in draw.integers(0, 256, 3))
        centre, size = tuple(int(v) for v in draw.integers(0, side, 2)), int(draw.integers(4, 40))
        if draw.random() < 0.5:
            cv2.circle(image, centre, size, colour, -1)
        else:
            cv2.rectangle(image, centre, (centre[0] + size, centre[1] + size // 2), colour, -1)
    return image


def looks(kind, image, seed=0):
    if kind == "noisy":
        noise = np.random.default_rng(seed).normal(0, 30, image.shape)
        return (image + noise).clip(0, 255).astype(np.uint8)
    if kind == "edges":
        lines = cv2.Canny(image, 80, 160)
        return 255 - np.repeat(lines[..., None], 3, 2)
    return 255 - image if kind == "negative" else image


def pair(kind, row, column, seed=0):
    """x_0, and x_1 that must move by (row, column) to lie on it."""
    image = photo(seed)
    x_1 = looks(kind, image, seed)[20 + row : 220 + row, 20 + column : 220 + column]
    return image[20:220, 20:220], x_1


@pytest.mark.parametrize("kind", ["same", "noisy", "negative", "edges"])
def test_a_known_shift_is_found(kind):
    # kills: shift-the-other-way; rows and columns exchanged
    allowed = 1 if kind == "edges" else 0
    for seed, (row, column) in enumerate([(0, 0), (3, 0), (0, -5), (7, 4), (-6, 9), (-2, -3)]):
        found = shift_between(*pair(kind, row, column, seed))
        assert found is not None
        assert max(abs(found[0] - row), abs(found[1] - column)) <= allowed, (seed, found)


def test_the_shift_of_a_thumbnail_is_in_pixels_of_the_image():
    # kills: shift-in-pixels-of-the-thumbnail
    image = photo(0, 4 * SIDE + 32)
    found = alignment_of(image[:-32, 16:-16], image[:-32, :-32])
    assert found.step == 4 and found.shift == pytest.approx((0, -16), abs=4) and found.pixels == (0, -16)


def test_what_has_nothing_in_common_has_no_shift():
    # kills: any-shift-believed
    for seed in range(6):
        assert shift_between(pair("same", 0, 0, seed)[0], pair("same", 0, 0, seed + 50)[0]) is None
    flat = np.full((64, 64, 3), 90, np.uint8)
    assert shift_between(flat, flat) is None
    assert shift_between(flat[:20], flat[:20]) is None
    assert shift_between(flat, flat[:40]) is None


@pytest.mark.parametrize("shift", [(0, 0), (3, 0), (-4, 2), (5, -6)])
def test_the_overlap_shows_the_same(shift):
    # kills: overlap-of-the-same-side, shift-the-other-way
    x_0, x_1 = overlap_of(*pair("same", *shift), shift)
    assert np.array_equal(x_0, x_1)
    assert x_0.shape[:2] == (200 - abs(shift[0]), 200 - abs(shift[1]))


@pytest.mark.parametrize("shift", [(-6, 0), (5, -1), (-8, -7), (6, 3)])
def test_the_overlap_starts_on_the_grid(shift):
    # kills: overlap-out-of-phase, overlap-of-the-same-side
    x_0, x_1 = pair("same", *shift)
    first, second = overlap_of(x_0, x_1, shift, 4)
    assert np.array_equal(first, second)
    assert all(side >= 200 - abs(by) - 3 for side, by in zip(first.shape, shift, strict=False))
    rows, columns = np.indices((200, 200))
    place = overlap_of(x_0, np.stack([rows, columns], 2), shift, 4)[1]
    assert not (place[0, 0] % 4).any()


class Pairs:
    def __init__(self, **parts):
        self.parts = parts

    def __len__(self):
        return 1

    def __getitem__(self, index):
        x_0, x_1 = pair("same", 4, -3)
        return {"x_0": x_0, "x_1": x_1, "key": "one"} | self.parts


def test_a_shifted_pair_is_cut_where_the_recipe_says_so():
    # kills: shifted-pairs-as-they-are; a pair with a mask moved away from it
    for align, equal in ((True, True), (False, False)):
        data = PairDataset(Pairs(), Geometry(64, resize="none", crop="random"), None, 3, 0, "train", align=align)
        for number in range(3):
            item = data.sample(number)
            assert bool((item["x_0"] == item["x_1"]).all()) is equal
    mask = np.zeros((200, 200, 1), np.uint8)
    masked = PairDataset(Pairs(mask=mask), Geometry(64, resize="none"), None, 3, 0, "train", align=True)[0]
    assert not bool((masked["x_0"] == masked["x_1"]).all())


def test_a_condition_is_cut_where_its_source_is_cut():
    """It lies as x_1 lies: here it is x_1."""
    # kills: condition-cut-as-the-target
    x_1 = pair("same", 4, -3)[1]
    data = PairDataset(
        Pairs(condition=x_1.copy()), Geometry(64, resize="none", crop="random"), None, 3, 0, "train",
        condition_channels=3, own_condition=True, align=True,
    )  # fmt: skip
    item = data.sample(0)
    assert torch.equal(item["condition"], item["x_1"]) and torch.equal(item["x_0"], item["x_1"])


def test_a_pair_that_lies_right_is_not_cut():
    x_0, x_1 = pair("same", 0, 0)
    items = [
        PairDataset(Pairs(x_0=x_0, x_1=x_1), Geometry(200, resize="none"), None, 3, 0, "train", align=align)[0]
        for align in (True, False)
    ]
    assert all(torch.equal(items[0][side], items[1][side]) for side in ("x_0", "x_1"))


@pytest.mark.parametrize("shift", [(-6, 0), (3, -5)])
def test_a_cut_pair_keeps_the_pixels_of_its_small_source(shift, monkeypatch):
    # kills: overlap-out-of-phase; the factor of the pair forgotten
    monkeypatch.setattr("i2i_bridge.data.dataset.shift_between", lambda x_0, x_1: shift)
    small = np.random.default_rng(0).integers(0, 256, (50, 50, 3), dtype=np.uint8)
    data = PairDataset(
        Pairs(x_1=small), Geometry(64, resize="none", crop="random"), None, 3, 0, "train", enlarge="nearest", align=True
    )
    for number in range(3):
        x_1 = data.sample(number)["x_1"]
        assert torch.equal(x_1, x_1[:, ::4, ::4].repeat_interleave(4, 1).repeat_interleave(4, 2))


def test_shifts_are_estimated_once_and_take_no_more_memory_with_use(monkeypatch):
    # kills: a dictionary of shifts that grows in each worker; a shift estimated for every sample
    calls = []
    monkeypatch.setattr("i2i_bridge.data.dataset.shift_between", lambda x_0, x_1: calls.append(0) or (4, -3))
    data = PairDataset(Pairs(), Geometry(64, resize="none"), None, 3, 0, "train", align=True)
    before = data.factor, len(pickle.dumps(data))
    samples = [data.sample(number) for number in range(3)]
    assert (data.factor, len(pickle.dumps(data))) == before
    assert len(calls) == 1 and all(torch.equal(sample["x_0"], sample["x_1"]) for sample in samples)


def test_pairs_that_cannot_be_cut_are_told():
    # kills: data.align ignored without a word
    mask = np.zeros((200, 200, 1), np.uint8)
    line = "data.align = 'crop' leaves pairs with a mask as they are"
    for parts, align, told in (({"mask": mask}, True, True), ({"mask": mask}, False, False), ({}, True, False)):
        data = PairDataset(Pairs(**parts), Geometry(64, resize="none"), None, 3, 0, "train", align=align)
        assert (line in data.notes()) is told


def test_a_shift_that_gains_little_is_no_mistake():
    # kills: every-pair-misaligned
    even = Alignment({"as it is": 0.95}, (0.0, 0.0), 1.0, 0.95)
    little, much = (replace(even, shift=(3.0, 0.0), shifted=shifted) for shifted in (0.97, 0.99))
    assert list(misalignments([even, even, little, even, much])) == [4]


def test_pairs_with_a_mask_have_no_alignment():
    """The edges of a hole that x_1 has and x_0 has not look like those of a shifted image.

    kills: holes-taken-for-a-shift
    """
    x_0, x_1 = (np.asarray(Image.fromarray(side)) for side in pair("noisy", 0, 3, 0))
    assert facts_of({"x_0": x_0, "x_1": x_1, "key": "0"}).alignment is not None
    mask = np.zeros(x_0.shape[:2], np.uint8)
    mask[10:20, 10:20] = 255
    assert facts_of({"x_0": x_0, "x_1": x_1, "mask": mask, "key": "0"}).alignment is None


def test_shifted_pairs_are_named():
    # kills: any-shift-believed; a shift of one pixel called a mistake
    facts = []
    for seed, shift in enumerate([(0, 0), (0, 1), (0, 3), (0, 0), (-2, 0), (0, 0)]):
        x_0, x_1 = (np.asarray(Image.fromarray(side)) for side in pair("noisy", *shift, seed))
        facts.append(facts_of({"x_0": x_0, "x_1": x_1, "key": str(seed)}))
    found = misalignments([fact.alignment for fact in facts])
    assert found.keys() == {2, 4}
    assert "by about -3 pixels across and 0 down" in found[2]
    assert "by about 0 pixels across and 2 down" in found[4]


def test_a_shift_that_the_pixels_leave_open_is_told_by_the_thumbnails():
    # kills: shifted-partner-unseen
    sound = Alignment({"as it is": 0.95}, (0, 0), 4.0, 0.95)
    moved = Alignment({"as it is": 0.7}, (0, -8), 4.0, 0.9)
    assert misalignments([moved, *[sound] * 9]) == {
        0: "x_1 looks shifted against x_0, by about 8 pixels across and 0 down"
    }
    # Where most pairs correlate little, as photos and label maps do, it is no evidence.
    apart = Alignment({"as it is": 0.5}, (0, 0), 4.0, 0.5)
    assert misalignments([moved, *[apart] * 9]) == {}
