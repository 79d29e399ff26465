"""All problems of a dataset in one pass, each by name."""

import numpy as np
import pytest
from PIL import Image

from i2i_bridge.checking import check_data


def picture(seed, mode="RGB", size=(40, 32)):
    """A photo-like side: colour and detail."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def drawing(seed, size=(40, 32)):
    """A drawing-like side: white with a dark line."""
    pixels = np.full((size[1], size[0], 3), 255, np.uint8)
    pixels[:, 5 + seed % 20] = 0
    return Image.fromarray(pixels)


@pytest.fixture
def pairs(tmp_path):
    for split, first in (("train", 0), ("val", 100)):
        for i in range(first, first + 12):
            for side, image in (("photo", picture(i)), ("edges", drawing(i))):
                folder = tmp_path / "pairs" / split / side
                folder.mkdir(parents=True, exist_ok=True)
                image.save(folder / f"{i:03d}.png")
    return tmp_path / "pairs"


OPTIONS = ["kind=paired_folders", "x_0=photo", "x_1=edges"]


def test_a_sound_dataset_has_no_problem(pairs):
    checked = check_data(str(pairs), OPTIONS)
    assert (checked.problems, checked.notes) == ([], []) and "train 12, val 12 items; no problems" in checked.summary


def damage(pairs):
    train = pairs / "train"
    (train / "photo" / "000.png").write_bytes(b"")
    data = (train / "photo" / "001.png").read_bytes()
    (train / "photo" / "001.png").write_bytes(data[: len(data) // 2])
    (train / "edges" / "002.png").write_text("not an image")
    drawing(3, (20, 32)).save(train / "edges" / "003.png")
    (train / "edges" / "004.png").rename(train / "edges" / "0004.png")
    picture(5).save(train / "edges" / "005.png")
    drawing(5).save(train / "photo" / "005.png")
    for side in ("photo", "edges"):
        (pairs / "val" / side / "100.png").write_bytes((train / side / "006.png").read_bytes())
    picture(7, "L").save(train / "photo" / "007.png")
    picture(8, "CMYK").save(train / "photo" / "008.png", format="JPEG")
    Image.fromarray(np.arange(40 * 32, dtype=np.uint16).reshape(32, 40)).save(pairs / "val" / "photo" / "101.png")


def test_ten_kinds_of_damage_are_named_in_one_pass(pairs):
    # kills: copies-between-splits-unseen, exchanged-pair-unseen, odd-formats-unseen
    damage(pairs)
    checked = check_data(str(pairs), OPTIONS)
    text = "\n".join(checked.problems)
    for part in (
        "000.png: not a readable image",
        "001.png: not a readable image",
        "002.png: not a readable image",
        "003.png: the images of a pair differ in size (x_0 40x32, x_1 20x32)",
        "004.png: no partner",
        "nearest: 0004.png",
        "005.png: its sides look exchanged",
        "val/edges/100.png: the same pixels as",
        "x_0 1 x uint8 and x_1 3 x uint8, while most others are x_0 3 x uint8",
        "x_0 1 x uint16",
    ):
        assert part in text, (part, text)
    notes = "\n".join(checked.notes)
    for part in ("2 grey among colour", "1 of 16 bits", "1 CMYK", "1 JPEG named .png"):
        assert part in notes, (part, notes)
    assert f"{len(checked.problems)} problems" in checked.summary


def test_sides_that_are_all_exchanged_show_against_the_card(pairs, tmp_path):
    # kills: card-statistics-ignored
    card = """
name = "mine"
summary = "photos and edges"
[dataset]
name = "paired_folders"
root = "pairs"
x_0 = "{0}"
x_1 = "{1}"
[statistics]
x_0 = [0.5, 0.17, 0.2, 0.5]
x_1 = [0.97, 0.15, 0.05, 0.0]
"""
    for sides, count in ((("photo", "edges"), 0), (("edges", "photo"), 1)):
        (tmp_path / "mine.toml").write_text(card.format(*sides))
        problems = check_data(str(tmp_path / "mine.toml"), []).problems
        assert len(problems) == count and all("sides are probably exchanged" in line for line in problems)
