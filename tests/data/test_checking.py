"""`check`: all problems of a dataset in one pass, each with its file."""

import numpy as np
import pytest
from PIL import Image, ImageCms

from i2i_bridge.cli.data_check import check_data
from i2i_bridge.data.alignment import misalignments
from i2i_bridge.data.cards import load_card, open_source
from i2i_bridge.data.check import ItemFacts, read_facts
from i2i_bridge.data.statistics import FEW, exchanged_sides


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


CARD = """
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


def test_sides_that_are_all_exchanged_show_against_the_card(pairs, tmp_path):
    # kills: card-statistics-ignored
    for sides, count in ((("photo", "edges"), 0), (("edges", "photo"), 1)):
        (tmp_path / "mine.toml").write_text(CARD.format(*sides))
        problems = check_data(str(tmp_path / "mine.toml"), []).problems
        assert len(problems) == count and all("sides are probably exchanged" in line for line in problems)


def test_a_few_pairs_tell_no_exchange(pairs, tmp_path):
    # kills: few-pairs-exchanged
    (tmp_path / "mine.toml").write_text(CARD.format("edges", "photo"))
    card = load_card(tmp_path / "mine.toml")
    facts = list(read_facts(ItemFacts(open_source(card.dataset | {"root": str(pairs)}, "train"))))
    assert "sides are probably exchanged" in exchanged_sides(facts, card.statistics)
    assert exchanged_sides(facts[: FEW - 1], card.statistics) is None


def test_sides_of_two_colour_profiles_are_told(pairs):
    other = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    for file in (pairs / "train" / "photo").iterdir():
        picture(int(file.stem)).save(file, icc_profile=other)
    checked = check_data(str(pairs), OPTIONS)
    lines = [
        line for line in checked.problems + checked.notes if "whose two sides have different colour profiles" in line
    ]
    assert len(lines) == 1 and lines[0].startswith("12 "), checked


def test_a_training_does_not_start_on_exchanged_sides(pairs, tmp_path, monkeypatch, capsys):
    """The sentence of `check`; --force trains all the same, and what was forced once resumes without it.

    kills: exchanged-sides-train
    """
    from i2i_bridge.cli.command import main

    monkeypatch.chdir(tmp_path)
    words = "train demo/pairs data.card=mine.toml data.size=16 network.channels=8 train.batch_size=1 train.workers=0"
    words = [*words.split(), "data.resize=none", "data.load_size=32", "data.crop=random", "--device", "cpu"]

    def call(*more):
        with pytest.raises(SystemExit) as ended:
            main([*words, *more])
        return ended.value.code, capsys.readouterr().err

    (tmp_path / "mine.toml").write_text(CARD.format("edges", "photo"))
    code, said = call("train.steps=1", "--out", "run")
    assert code == 2 and "the sides are probably exchanged: by" in said and "--force trains" in said
    assert not (tmp_path / "run").exists()
    assert call("train.steps=1", "--out", "run", "--force")[0] == 0
    assert call("train.steps=2", "--out", "run") == (0, "")
    (tmp_path / "mine.toml").write_text(CARD.format("photo", "edges"))
    assert call("train.steps=1", "--out", "other") == (0, "")


def facade(seed, size=32):
    """A photo on the left, flat gaudy labels on the right, as in CMP facades."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:size, :size]
    grey = 100 + 50 * np.sin(rows / (3 + seed % 4)) * np.sin(columns / 4) + rng.normal(0, 20, (size, size))
    photo = np.stack([grey + 10, grey, grey - 10], axis=2).clip(0, 255)
    labels = np.zeros((size, size, 3))
    labels[..., 2] = 255
    labels[5 + seed % 9 : 20] = (255, 255, 0)
    return Image.fromarray(np.concatenate([photo, labels], axis=1).astype(np.uint8))


@pytest.fixture
def facades(tmp_path):
    for split, first, count in (("train", 1, 30), ("val", 101, 12)):
        (tmp_path / "facades" / split).mkdir(parents=True)
        for i in range(first, first + count):
            facade(i).save(tmp_path / "facades" / split / f"{i}.jpg", quality=95)
    return tmp_path / "facades"


def break_facades(root):
    """Apply twelve kinds of damage, each to one file; returns a part of the line that `check` must print for each."""
    train, val = root / "train", root / "val"
    kinds = {}

    def kind(name, says):
        kinds[name] = says
        return train / name

    kind("1.jpg", "train/1.jpg: not a readable image").write_bytes(b"")
    cut = kind("2.jpg", "train/2.jpg: not a readable image")
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    kind("3.jpg", "train/3.jpg: not a readable image").write_text("<html>404 not found</html>")
    facade(4).crop((0, 0, 63, 32)).save(kind("4.jpg", "train/4.jpg: 63 pixels wide; a side-by-side pair needs"))
    facade(5).crop((0, 0, 32, 32)).save(kind("5.jpg", "1 of another size than most, 32x32 (first: "))
    turned = np.asarray(facade(6))
    turned = Image.fromarray(np.concatenate([turned[:, 32:], turned[:, :32]], axis=1))
    turned.save(kind("6.jpg", "train/6.jpg: its sides look exchanged"))
    kinds["101.jpg"] = "val/101.jpg: the same pixels as"
    (val / "101.jpg").write_bytes((train / "7.jpg").read_bytes())
    facade(10).convert("L").save(kind("10.jpg", "grey among colour (first: "))
    facade(9).convert("CMYK").save(kind("9.jpg", "1 CMYK (first: "))
    deep = np.asarray(facade(8).convert("L")).astype(np.uint16) * 257
    (train / "8.jpg").unlink()
    Image.fromarray(deep).save(kind("8.png", "1 of 16 bits (first: "))
    facade(11).save(kind("11.jpg", "1 PNG named .jpg (first: "), format="PNG")
    facade(12).quantize(16).save(kind("12.png", "1 with a palette (first: "))
    (train / "12.jpg").unlink()
    return kinds


def test_a_broken_copy_of_facades_has_every_kind_named_in_one_pass(facades):
    # kills: odd-sizes-unseen, grey-is-a-problem, and each finding left out
    options = ["kind=side_by_side", "direction=BtoA"]
    sound = check_data(str(facades), options)
    assert (sound.problems, sound.notes) == ([], [])
    kinds = break_facades(facades)
    checked = check_data(str(facades), options)
    said = [*checked.problems, *checked.notes]
    for name, says in kinds.items():
        (line,) = [line for line in said if says in line]
        assert name in line, (name, line)
    assert any("5.jpg (32x32 pixels): hardly a pair of halves; most are 64x32" in line for line in checked.problems)
    # Grey, 16 bits and the like are counted: training takes them as they are.
    assert len(checked.problems) == 7 and len(kinds) == 12, checked.problems


def test_grey_photos_among_colour_are_counted_not_refused(tmp_path):
    # kills: grey-is-a-problem. One in fifty photos of ImageNet is grey.
    for i in range(20):
        (tmp_path / "photos").mkdir(exist_ok=True)
        picture(i, "L" if i == 3 else "RGB").save(tmp_path / "photos" / f"{i:02d}.png")
    np.save(tmp_path / "photos" / "five.npy", np.zeros((32, 40, 5), np.uint8))
    checked = check_data(str(tmp_path / "photos"), ["holdout=0.2"])
    assert checked.notes == [f"1 grey among colour (first: {tmp_path / 'photos' / '03.png'})"]
    (problem,) = checked.problems
    assert "five.npy: x_0 5 x uint8, while most others are x_0 3 x uint8" in problem


def test_the_shipped_facades_turned_round_show_against_their_card(facades, tmp_path):
    # kills: card-of-a-recipe-unseen
    for what, name in ((["facades", f"root={facades}"], "direction"), (["demo/pairs"], "data.source.direction")):
        more = [] if what[0] == "facades" else ["data.card=facades", f"data.root={facades}", "data.size=32"]
        more += [] if what[0] == "facades" else ["data.load_size=32", "data.validation_size=32"]
        for direction, count in (("BtoA", 0), ("AtoB", 1)):
            problems = check_data(what[0], [*what[1:], *more, f"{name}={direction}"]).problems
            assert len(problems) == count, (what, direction, problems)
            assert all("sides are probably exchanged" in line for line in problems)


def test_a_recipe_that_jitters_against_the_card_s_advice_is_told(facades):
    # kills: advice-unheard. Drawings of shoes all point one way; Pix2pix neither mirrors nor jitters them.
    size = [f"data.root={facades}", "data.size=32", "data.validation_size=32"]
    for flip, jitter in (("true", "data.load_size=36"), ("false", "data.load_size=32")):
        settings = ["data.card=edges2shoes", *size, f"data.flip={flip}", jitter]
        notes = check_data("demo/pairs", settings).notes
        assert any("edges2shoes advises data.flip=false" in note for note in notes) == (flip == "true")
        assert any("advises no jitter" in note and jitter in note for note in notes)
    assert not any("advises" in note for note in check_data("translation/edges2shoes", size).notes)
    # The card's own name is the card: no recipe, no advice to compare with, yet the same word for the folder.
    assert "train 30, val 12" in check_data("edges2shoes", size[:1]).summary


def test_masks_are_named(tmp_path):
    # kills: masks-not-named
    from i2i_bridge.errors import UserError
    from i2i_bridge.recipe.load import parse_recipe
    from i2i_bridge.training.trainer import train

    full = np.full((32, 40), 255, np.uint8)
    rows = ["x_0,x_1,mask"]
    for i in range(8):
        name = f"{i}.png" if i else "clear.png"
        image = picture(i)
        image.putalpha(Image.linear_gradient("L").resize(image.size) if i == 0 else 255)
        image.save(tmp_path / name)
        picture(i).save(tmp_path / f"{i}-hole.png")
        mask = np.zeros((32, 40), np.uint8)
        mask[8:20, 10:30] = 1 if i < 6 else 0
        Image.fromarray(full if i == 5 else mask).save(tmp_path / f"{i}-mask.png")
        rows.append(f"{name},{i}-hole.png,{i}-mask.png")
    table = {
        "name": "holes", "summary": "holes", "task": "restoration",
        "data": {"root": str(tmp_path), "source": {"name": "list", "file": "items.csv"}, "size": 32},
        "network": {"name": "unet", "channels": 8, "channel_mult": [1, 1], "blocks_per_level": 1},
        "train": {"steps": 1, "batch_size": 2, "workers": 0, "precision": "fp32"},
    }  # fmt: skip
    (tmp_path / "items.csv").write_text("\n".join(rows) + "\n")
    notes = check_data(str(tmp_path), ["kind=list", "file=items.csv"]).notes
    lines: list[str] = []
    train(parse_recipe(table, "holes"), tmp_path / "run", cpu=True, report=lambda event: lines.append(str(event)))
    for said in (notes, lines):
        for part, first in (
            ("0 and 1: 1 is taken as unknown", "clear.png"),
            ("marks no pixel", "6.png"),
            ("marks every pixel", "5.png"),
            ("shown on white", "clear.png"),
        ):
            (line,) = [line for line in said if part in line]
            assert f"(first: {tmp_path / first}" in line, line
    assert any(line.startswith("2 ") and "marks no pixel" in line for line in notes)
    # With nothing but empty masks there is nothing to learn: refused before the folder is there.
    (tmp_path / "items.csv").write_text("\n".join([rows[0], *rows[7:]]) + "\n")
    with pytest.raises(UserError, match=r"all of 2 images .* marks no pixel"):
        train(parse_recipe(table, "holes"), tmp_path / "empty", cpu=True)
    assert not (tmp_path / "empty").exists()


def photo(seed, size=(120, 96)):
    """A picture with structure of its own in every corner: nothing that a turn or mirror brings back."""
    rng = np.random.default_rng(seed)
    rough = Image.fromarray(rng.integers(0, 256, (7, 9, 3), dtype=np.uint8))
    return np.asarray(rough.resize(size, Image.Resampling.BICUBIC)).astype(np.float64)


def spoilt(kind, x, seed):
    rng = np.random.default_rng((9, seed))
    if kind == "noisy":
        x = x + rng.normal(0, 40, x.shape)
    elif kind == "blurred":
        x = np.stack([x[max(i - 4, 0) : i + 5].mean(0) for i in range(len(x))])
    elif kind == "edges":
        steps = np.hypot(*np.gradient(x.mean(2)))
        x = np.repeat(255 * (steps < np.quantile(steps, 0.85))[..., None], 3, 2)
    return Image.fromarray(x.round().clip(0, 255).astype(np.uint8))


DAMAGE = {
    "turned upside down": lambda image: image.rotate(180),
    "mirrored left to right": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "mirrored top to bottom": lambda image: image.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
    "shifted": lambda image: Image.fromarray(np.roll(np.asarray(image), (0, 6), (0, 1))),
}


@pytest.mark.parametrize("kind", ["noisy", "blurred", "edges"])
def test_turned_shifted_equal_and_exchanged_partners_are_named_and_sound_ones_not(tmp_path, kind):
    # kills: turned-partner-unseen, equal-sides-unseen
    for side in ("clean", "bad"):
        (tmp_path / side).mkdir()
    for i in range(24):
        x = photo(i)
        Image.fromarray(x.astype(np.uint8)).save(tmp_path / "clean" / f"{i:02d}.png")
        spoilt(kind, x, i).save(tmp_path / "bad" / f"{i:02d}.png")
    options = ["kind=paired_folders", "x_0=clean", "x_1=bad", "holdout=0.2"]
    assert check_data(str(tmp_path), options).problems == []
    wanted = {}
    for i, (says, change) in enumerate(DAMAGE.items()):
        if says == "shifted" and kind == "edges":
            continue  # an edge map's lines are too thin to say how far
        file = tmp_path / "bad" / f"{i:02d}.png"
        change(Image.open(file)).save(file)
        wanted[f"{i:02d}.png"] = f"x_1 looks {says} against x_0"
    (tmp_path / "bad" / "05.png").write_bytes((tmp_path / "clean" / "05.png").read_bytes())
    wanted["05.png"] = "the same pixels on both sides"
    if kind != "blurred":  # by looks alone, the sharper of two soft pictures is not told
        data = [(tmp_path / side / "06.png").read_bytes() for side in ("clean", "bad")]
        (tmp_path / "clean" / "06.png").write_bytes(data[1]), (tmp_path / "bad" / "06.png").write_bytes(data[0])
        wanted["06.png"] = "its sides look exchanged"
    problems = check_data(str(tmp_path), options).problems
    assert len(problems) == len(wanted), problems
    for name, says in wanted.items():
        (line,) = [line for line in problems if f"clean/{name}" in line]
        assert says in line
        if says.endswith("shifted against x_0"):  # by 6, as far as a thumbnail tells
            assert "about 5 pixels across and 0 down" in line or "about 6 pixels across and 0 down" in line


def test_partners_that_are_all_turned_take_one_line(tmp_path):
    for side in ("clean", "bad"):
        (tmp_path / side).mkdir()
    for i in range(24):
        square = Image.fromarray(photo(i, (96, 96)).astype(np.uint8))
        square.save(tmp_path / "clean" / f"{i:02d}.png")
        square.rotate(90).save(tmp_path / "bad" / f"{i:02d}.png")
    (line,) = check_data(str(tmp_path), ["kind=paired_folders", "x_0=clean", "x_1=bad", "holdout=0.2"]).problems
    assert "24 pairs: x_1 looks turned by 270 degrees against x_0 (first: " in line


def test_sides_that_have_nothing_in_common_are_not_called_turned(tmp_path):
    # kills: unlike-sides-called-turned
    for first, side in ((0, "clean"), (100, "bad")):
        (tmp_path / side).mkdir()
        for i in range(30):
            rough = np.random.default_rng(first + i).integers(0, 256, (4, 5, 3), dtype=np.uint8)
            Image.fromarray(rough).resize((50, 44)).save(tmp_path / side / f"{i:02d}.png")
    options = ["kind=paired_folders", "x_0=clean", "x_1=bad", "holdout=0.2"]
    assert check_data(str(tmp_path), options).problems == []


@pytest.mark.filterwarnings("error")
def test_images_too_small_to_tell_a_turn_warn_nobody():
    assert misalignments([None, None]) == {}
