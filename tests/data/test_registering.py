"""`data add`: the kind of a user's dataset is guessed if the layout is unambiguous, otherwise the user must choose."""

import re
import shlex
import tarfile
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from i2i_bridge.cli.command import main
from i2i_bridge.data.cards import load_card, open_source
from i2i_bridge.data.registration import register
from i2i_bridge.errors import UserError
from i2i_bridge.recipe.load import load_recipe
from i2i_bridge.registry import DATASETS


@pytest.fixture
def call(capsys):
    def run(*words):
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        out = capsys.readouterr()
        return ended.value.code, out.out, out.err

    return run


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def red_of(folder):
    return zlib.crc32(folder.encode()) % 251


def images(*folders, n=20, width=12, height=10):
    for folder in folders:
        Path(folder).mkdir(parents=True, exist_ok=True)
        for i in range(n):
            # The red of a pixel tells the folder: the sides cannot be mixed up unseen.
            pixels = np.full((height, width, 3), (red_of(folder), i, 0), np.uint8)
            Image.fromarray(pixels).save(Path(folder, f"{i:02d}.png"))


def table(name):
    return load_card(name).dataset


def red(item, side):
    return np.asarray(Image.open(item[side]))[0, 0, 0]


def test_a_folder_of_photos(call, workplace):
    images("photos")
    code, out, err = call("data", "add", "mine", "photos")
    assert code == 0, err
    assert "kind images" in out and "holdout=0.1" in out and "items: train " in out
    assert table("mine") == {"name": "images", "root": str(workplace / "photos"), "holdout": 0.1}
    counts = {split: len(open_source(table("mine"), split)) for split in ("train", "val")}
    assert sum(counts.values()) == 20 and f"train {counts['train']}, val {counts['val']}" in out


def test_split_folders_need_no_holdout(call):
    images("set/train", "set/val", n=3)
    code, out, _ = call("data", "add", "mine", "set")
    assert code == 0 and "train 3, val 3" in out and set(table("mine")) == {"name", "root"}
    images("eval/val", n=3)
    code, out, _ = call("data", "add", "scores", "eval")
    assert code == 0 and "val 3, train none (" in out


@pytest.mark.parametrize(
    ("folders", "words", "wanted"),
    [
        (["set/train"], [], {"root": "set/train"}),
        (["set/training"], ["--kind", "images", "holdout=0.5"], {"root": "set/training", "holdout": 0.5}),
        (["set/train/clean", "set/train/noisy"], [], {"root": "set/train", "x_0": "clean", "x_1": "noisy"}),
        (["set/clean/train", "set/noisy/train"], [], {"root": "set", "x_0": "clean/train", "x_1": "noisy/train"}),
    ],
)
def test_validation_images_are_held_out_of_a_training_folder_alone(call, workplace, folders, words, wanted):
    # kills: training-folder-alone
    images(*folders)
    code, out, err = call("data", "add", "mine", "set", *words)
    assert code == 0 and "is the only split folder" in out, err
    assert (wanted | {"root": str(workplace / wanted["root"])}).items() <= table("mine").items()
    counts = [len(open_source(table("mine"), split)) for split in ("train", "val")]
    assert min(counts) > 0 and sum(counts) == 20, counts


def test_validation_images_are_held_out_where_names_are_of_training_alone(call, workplace):
    # kills: training-names-alone, evaluation-names-ignored
    images("maps/trainA", "maps/trainB")
    with tarfile.open("Train-0.tar", "w") as tar:
        for i in range(20):
            tar.add(f"maps/trainA/{i:02d}.png", f"{i:02d}.png")
    shards = {"name": "tar_shards", "root": str(workplace), "shards": "Train-*.tar"}
    for words, wanted in (
        (["maps"], {"name": "paired_folders", "root": str(workplace / "maps"), "x_0": "trainB", "x_1": "trainA"}),
        ([".", "--kind", "tar_shards", "shards={split}-*.tar"], shards),
        ([".", "--kind", "tar_shards", "shards={split}-*.tar", "holdout=0.4"], shards | {"holdout": 0.4}),
    ):
        code, out, err = call("data", "add", "mine", *words, "--replace")
        assert code == 0 and "is the only split of" in out, err
        assert wanted.items() <= table("mine").items()
        counts = [len(open_source(table("mine"), split)) for split in ("train", "val")]
        assert min(counts) > 0 and sum(counts) == 20, counts
    Path("maps/testA").mkdir()  # the other side of the test images is missing: none of training takes their place
    code, _, err = call("data", "add", "mine", "maps", "--replace")
    assert code == 2 and "{split}B: no folder for the split 'val'" in err, err


def test_a_dataset_without_a_validation_split_is_not_registered(call):
    # kills: card-that-no-training-takes
    images("one", n=1)
    code, _, err = call("data", "add", "mine", "one")
    assert code == 2 and "'val'" in err, err
    assert load_names() == []
    images("eval/testing", n=3)  # the other way round: for evaluation only
    code, out, err = call("data", "add", "mine", "eval")
    assert code == 0 and "val 3, train none (" in out, err


def test_a_list_of_training_rows_alone_is_divided(call):
    images("photos", n=20)
    Path("rows.csv").write_text("x_0,split\n" + "".join(f"photos/{i:02d}.png,train\n" for i in range(20)))
    code, out, err = call("data", "add", "mine", "rows.csv")
    assert code == 0 and re.search(r"train 1\d, val \d", out), out + err


def test_splits_that_are_no_folders_are_seen(call):
    # kills: only-folders-are-splits
    images("photos", n=12)
    images("photos/train", n=1)  # a folder's name says nothing of the splits of a list
    for split, numbers in (("train", range(8)), ("val", range(8, 12))):
        with tarfile.open(f"photos/{split}-0.tar", "w") as tar:
            for i in numbers:
                tar.add(f"photos/{i:02d}.png", f"{i:02d}.png")
    Path("photos/split.csv").write_text("x_0,split\n00.png,train\n01.png,val\n")
    Path("photos/plain.csv").write_text("x_0\n" + "".join(f"{i:02d}.png\n" for i in range(12)))
    Path("shards").mkdir()
    for file in Path("photos").glob("*.tar"):
        file.rename(Path("shards", file.name))
    for name, words, has in (
        ("tars", ["shards", "--kind", "tar_shards", "shards={split}-*.tar"], True),
        ("both", ["shards", "--kind", "tar_shards"], False),
        ("rows", ["photos/split.csv"], True),
        ("list", ["photos/plain.csv"], False),
    ):
        code, out, err = call("data", "add", name, *words)
        assert code == 0 and ("is held out by name" in out) != has and ("holdout" in table(name)) != has, (out, err)
    assert "train 8, val 4" in call("data", "add", "tars", *["shards", "--kind", "tar_shards"], "shards={split}-*.tar",
                                    "--replace")[1]  # fmt: skip
    code, out, _ = call("data", "add", "said", "photos/split.csv", "holdout=0.2")
    assert code == 0 and "holdout=0.2 has no effect" in out


@pytest.mark.parametrize("n", [2, 3, 5, 8, 13])
def test_few_images_still_have_a_validation_split(call, n):
    """Names are held out by their hash, so a tenth of a few images may be none."""
    # kills: tenth-of-few-is-none
    images("few", n=n)
    code, out, err = call("data", "add", "mine", "few")
    assert code == 0 and "none" not in out, (out, err)
    counts = [len(open_source(table("mine"), split)) for split in ("train", "val")]
    assert min(counts) > 0 and sum(counts) == n and f"holdout={table('mine')['holdout']}" in out


@pytest.mark.parametrize("layout", ["set/{side}", "set/{split}/{side}", "set/{side}/{split}"])
@pytest.mark.parametrize(("target", "source"), [("clean", "noisy"), ("GT", "input"), ("x", "lq"), ("B", "A")])
def test_two_folders_of_the_same_names_are_pairs(call, workplace, layout, target, source):
    # kills: sides-swapped-by-guess
    for split in ("train", "val"):
        for side in (target, source):
            images(layout.format(side=side, split=split))
    code, out, err = call("data", "add", "mine", "set")
    assert code == 0 and f"{target} the targets x_0, {source} the sources x_1" in out, err
    assert (table("mine")["x_0"], table("mine")["x_1"]) == (target, source)
    assert ("holdout" in table("mine")) == ("split" not in layout)
    item = open_source(table("mine"), "train")[0]
    assert target in item["x_0"].parts and source in item["x_1"].parts
    assert call("check", "mine")[0] == 0


def test_two_paths_are_pairs_wherever_they_lie(call, workplace):
    images("one/clean", "other/place/noisy")
    for paths in (("one/clean", "other/place/noisy"), ("other/place/noisy", workplace / "one/clean")):
        code, _, err = call("data", "add", "mine", *paths)
        assert code == 0, err
        wanted = {"root": str(workplace), "x_0": "one/clean", "x_1": "other/place/noisy"}
        assert wanted.items() <= table("mine").items()
        assert red(open_source(table("mine"), "train")[0], "x_0") == red_of("one/clean")
        assert call("data", "remove", "mine")[0] == 0


def test_sides_that_the_names_do_not_tell_are_asked_for(call, workplace):
    images("set/left", "set/right")
    code, _, err = call("data", "add", "mine", "set")
    root = workplace / "set"
    ways = [f"{root} x_0=left x_1=right", f"{root} x_0=right x_1=left", f"{root} --kind images"]
    assert code == 2 and commands(err) == [f"i2i-bridge data add mine {way}" for way in ways]
    code, out, err = call("data", "add", "mine", "set", "x_0=right")
    assert code == 0 and "guessed" not in out, err
    assert (table("mine")["x_0"], table("mine")["x_1"]) == ("right", "left")
    for n, words in enumerate((["x_1=right"], ["x_1=right", "x_0=left"], ["set/left", "set/right", "x_0=left"])):
        paths = [] if "set/left" in words else ["set"]
        code, _, err = call("data", "add", f"m{n}", *paths, *words)
        assert code == 0 and (table(f"m{n}")["x_0"], table(f"m{n}")["x_1"]) == ("left", "right"), err
    assert call("data", "add", "kind", "set", "x_0=left", "--kind", "paired_folders")[0] == 0
    assert table("kind")["x_1"] == "right"
    code, _, err = call("data", "add", "no", "set", "x_0=middle")
    assert code == 2 and "x_0=middle: neither left nor right" in err
    code, _, err = call("data", "add", "no", "set/left", "set/right")
    assert code == 2 and "which one holds the targets" in err
    ways = [f"{root / 'left'} {root / 'right'} x_0={side}" for side in ("left", "right")]
    assert commands(err) == [f"i2i-bridge data add no {way}" for way in ways]
    images("parts/train/left", "parts/train/right", "parts/val/left", "parts/val/right")
    code, _, err = call("data", "add", "parts", "parts", "x_0=right")
    assert code == 0 and table("parts") == {
        "name": "paired_folders", "root": str(workplace / "parts"), "x_0": "right", "x_1": "left"
    }, err  # fmt: skip


def test_two_classes_are_no_pairs(call):
    images("set/cats", n=20)
    images("set/dogs", n=2)
    for i, file in enumerate(sorted(Path("set/dogs").iterdir())):
        file.rename(f"set/dogs/dog-{i}.png")
    code, out, _ = call("data", "add", "mine", "set")
    assert code == 0 and "kind images" in out and table("mine")["name"] == "images"


def commands(err):
    """The commands offered by an error message, one per line."""
    return [line.strip().split("   #")[0] for line in err.splitlines()[1:]]


def offered(call, *words):
    """Run each command offered by an error message: the card's table, or None if the command fails too."""
    code, out, err = call(*words)
    assert code == 2 and out == "", (out, err)
    tables = []
    for command in commands(err):
        program, *rest = shlex.split(command)
        assert program == "i2i-bridge"
        code, _, err = call(*rest)
        tables.append(table(rest[2]) if code == 0 else None)
        call("data", "remove", rest[2])
    return tables


def one_folder(root, endings=("_mean", "_real"), n=20, alone=()):
    Path(root).mkdir(parents=True)
    for i in range(n):
        for code, ending in zip((50, 100), endings, strict=True):
            Image.fromarray(np.full((10, 12, 3), (code, i, 0), np.uint8)).save(Path(root, f"bag{i}{ending}.png"))
    for name in alone:
        Image.new("RGB", (12, 10)).save(Path(root, name))


def test_pairs_in_one_folder_are_asked_for(call, workplace):
    # kills: endings-unseen
    one_folder("poly", alone=("readme.png",))
    code, _, err = call("data", "add", "mine", "poly")
    assert code == 2 and "20 names come twice" in err and "1 file does not fit: readme.png" in err
    first, second, images_ = offered(call, "data", "add", "mine", "poly")
    assert first["name"] == second["name"] == "paired_folders" and images_["name"] == "images"
    code, out, _ = call("data", "add", "mine", "poly", "x_0=.", "x_1=.", "x_0_name={}_mean", "x_1_name={}_real")
    assert code == 0 and "readme.png: left out: neither '{}_mean' nor '{}_real'" in out
    assert call("data", "remove", "mine")[0] == 0
    Path("poly/readme.png").unlink()
    first, second, images_ = offered(call, "data", "add", "mine", "poly")
    names = {"x_0_name": "{}_mean", "x_1_name": "{}_real"}
    assert first.items() >= names.items() and second["x_0_name"] == "{}_real"
    assert call("data", "add", "mine", "poly", *(f"{key}={value}" for key, value in first.items() if key != "name"
                and key != "root"))[0] == 0  # fmt: skip
    for split in ("train", "val"):
        for item in open_source(table("mine"), split):
            assert (np.asarray(Image.open(item["x_0"]))[0, 0, 0], np.asarray(Image.open(item["x_1"]))[0, 0, 0]) == (
                50,
                100,
            )
    assert call("check", "mine")[0] == 0


def test_telling_endings_leave_no_doubt(call):
    for root, endings, target, source in (
        ("one", ("_clean", "_noisy"), "{}_clean", "{}_noisy"),
        ("two", ("", "-lq"), None, None),
    ):
        one_folder(root, endings)
        code, out, err = call("data", "add", root, root)
        if target:
            assert code == 0 and "names come twice" in out, err
            assert (table(root)["x_0_name"], table(root)["x_1_name"]) == (target, source)
        else:
            assert code == 0 and table(root)["x_1_name"] == "{}-lq" and "x_0_name" not in table(root), err
    item = open_source(table("two"), "train")[0]
    assert item["x_1"].stem == f"{item['x_0'].stem}-lq"


def test_numbers_at_the_end_are_no_sides(call):
    # kills: numbers-taken-for-sides
    Path("burst").mkdir()
    for scene in range(10):
        for shot in (1, 2):
            Image.new("RGB", (12, 10)).save(f"burst/scene{scene}_{shot}.png")
    code, out, err = call("data", "add", "mine", "burst")
    assert code == 0 and "kind images" in out, err


def test_folders_of_telling_names_are_pairs_however_many_are_unmatched(call):
    # kills: telling-folders-ignored
    images("set/clean", n=20)
    images("set/noisy", n=12)
    for file in sorted(Path("set/noisy").iterdir())[6:]:
        file.rename(file.with_name("q" + file.stem[::-1] + "z.png"))
    images("set/masks", n=3)
    code, _, err = call("data", "add", "mine", "set")
    assert code == 2 and "20 files do not fit: clean/" in err
    assert "--kind images" in commands(err)[-1] and "x_0=clean x_1=noisy" in commands(err)[0]
    code, _, err = call("data", "add", "mine", "set", "x_0=clean", "x_1=noisy")
    assert code == 2 and "do not match one to one" in err and "lenient=true" in err
    (command,) = commands(err)
    code, out, _ = call(*shlex.split(command)[1:])
    assert code == 2 and out.count("no partner") == 20
    code, _, err = call("data", "add", "mine", "set", "x_0=clean", "x_1=noisy", "lenient=true")
    assert code == 0 and 0 < len(open_source(table("mine"), "train")) < 6, err


def test_names_of_two_folders_that_differ_by_an_ending(call):
    images("sr/HR", n=12)
    images("sr/LR", n=12, width=6, height=5)
    for file in sorted(Path("sr/LR").iterdir()):
        file.rename(file.with_name(f"{file.stem}x2.png"))
    (pairs, images_) = offered(call, "data", "add", "mine", "sr")
    assert (pairs["x_0"], pairs["x_1"], pairs["x_1_name"]) == ("HR", "LR", "{}x2") and images_["name"] == "images"


def test_both_sides_with_an_ending_of_their_own(call):
    # kills: endings-of-both-sides-ignored
    images("haze/gt", "haze/mist", n=12)
    for side, ending in (("gt", "GT"), ("mist", "mist")):
        for file in sorted(Path("haze", side).iterdir()):
            file.rename(file.with_name(f"{file.stem}_{ending}.png"))
    (pairs, images_) = offered(call, "data", "add", "mine", "haze")
    assert (pairs["x_0"], pairs["x_0_name"]) == ("gt", "{}_GT") and images_["name"] == "images"
    assert (pairs["x_1"], pairs["x_1_name"]) == ("mist", "{}_mist")


def test_several_sources_of_one_target_are_asked_for(call):
    # kills: folders-of-several-sources-are-clean-images
    images("set/clean", "set/noisy1", "set/noisy_2", n=8)
    tables = offered(call, "data", "add", "mine", "set")
    assert [(table.get("x_0"), table.get("x_1")) for table in tables] == [
        ("clean", "noisy1"),
        ("clean", "noisy_2"),
        (None, None),
    ]


@pytest.mark.parametrize(
    ("full", "empty", "wanted"),
    [
        (["noisy1", "noisy_2"], "clean", [(None, None)]),
        (["clean", "noisy1"], "noisy_2", [("clean", "noisy1"), (None, None)]),
    ],
)
def test_a_folder_without_images_is_no_side(call, full, empty, wanted):
    images(*(f"set/{name}" for name in full), n=8)
    Path("set", empty).mkdir()
    if len(wanted) == 1:
        assert call("data", "add", "mine", "set")[0] == 0
        tables = [table("mine")]
    else:
        tables = offered(call, "data", "add", "mine", "set")
    assert [(found.get("x_0"), found.get("x_1")) for found in tables] == wanted


def test_folders_beside_both_sides_are_named(call):
    images("set/clean", "set/noisy", "set/extra", n=8)
    code, out, err = call("data", "add", "mine", "set")
    assert code == 0 and "not used: extra" in out, err


def test_one_telling_folder_of_two_is_asked_about(call):
    # kills: one-telling-folder-ignored
    images("set/clean", "set/phone", n=8)
    for file in Path("set/phone").iterdir():
        file.rename(file.with_name(f"shot{int(file.stem) + 100}.png"))
    code, _, err = call("data", "add", "mine", "set")
    assert code == 2 and "x_0=clean x_1=phone" in commands(err)[0] and "--kind images" in commands(err)[-1]


@pytest.mark.parametrize("header", ["sharp,soft", "x_0,soft"])
def test_a_second_column_of_images_is_asked_about(call, header):
    # kills: unknown-column-of-images-ignored
    images("rows/a", "rows/b", n=8)
    target = header.partition(",")[0]
    Path("rows/one.csv").write_text(f"{header}\n" + "".join(f"a/{i:02d}.png,b/{i:02d}.png\n" for i in range(8)))
    pairs, alone = offered(call, "data", "add", "one", "rows/one.csv")
    assert pairs["columns"] == {"x_0": target, "x_1": "soft"} and alone["columns"] == {"x_0": target}


def test_a_list_of_pairs_in_a_folder_is_asked_about(call):
    # kills: list-in-a-folder-unseen
    images("here/all", n=40)
    rows = "\n".join(f"all/{i:02d}.png,all/{i + 20:02d}.png" for i in range(20))
    Path("here/pairs.csv").write_text(f"target,source\n{rows}\n")
    code, _, err = call("data", "add", "mine", "here", "--kind", "images")  # said by the user: no question
    assert code == 0, err
    code, _, err = call("data", "add", "other", "here")
    assert code == 2 and "pairs.csv in it seems to list pairs" in err
    assert [found["name"] for found in offered(call, "data", "add", "other", "here")] == ["list", "images"]
    # Columns that name no two sides say nothing, nor does an empty list.
    images("photos")
    Path("photos/empty.csv").write_text("")
    Path("photos/index.csv").write_text("file,width\n00.png,12\n")
    assert call("data", "add", "third", "photos")[0] == 0


def test_at_a_terminal_a_list_of_pairs_in_the_folder_is_told(workplace):
    images("here/all", n=4)
    Path("here/pairs.csv").write_text("target,source\nall/00.png,all/02.png\nall/01.png,all/03.png\n")
    messages = register("mine", [Path("here")], [], choose=lambda seen, found: found[0]).messages
    command = shlex.join(["i2i-bridge", "data", "add", "mine", str(workplace / "here" / "pairs.csv")])
    assert f"pairs.csv seems to list pairs; they are registered by: {command}" in messages


def test_the_source_is_told_where_the_target_has_its_own_name(call):
    images("rows/a", "rows/b", n=8)
    Path("rows/one.csv").write_text("x_0,source\n" + "".join(f"a/{i:02d}.png,b/{i:02d}.png\n" for i in range(8)))
    code, out, err = call("data", "add", "one", "rows/one.csv")
    assert code == 0 and table("one")["columns"] == {"x_1": "source"} and "source is x_1" in out, err


def test_folders_of_split_and_side(call):
    for folder, n in (("trainA", 6), ("trainB", 6), ("testA", 3), ("testB", 3)):
        images(f"maps/{folder}", n=n)
    code, out, err = call("data", "add", "mine", "maps")
    assert code == 0 and "train 6, val 3" in out, err
    assert (table("mine")["x_0"], table("mine")["x_1"]) == ("{split}B", "{split}A")


def test_sheets_with_some_of_another_size(call):
    # kills: odd-sheets-make-it-no-sheets
    images("wide/train", n=30, width=20)
    images("wide/val", n=7, width=20)
    for name in ("train/03", "train/04", "val/02"):
        Image.new("RGB", (16, 10)).save(f"wide/{name}.png")
    code, _, err = call("data", "add", "mine", "wide")
    assert code == 2 and "3 files do not fit: train/03.png (16x10), train/04.png (16x10), val/02.png (16x10)" in err
    tables = offered(call, "data", "add", "mine", "wide")
    assert [found.get("direction") for found in tables] == ["AtoB", "BtoA", None]
    code, out, _ = call("data", "add", "mine", "wide", "direction=AtoB")
    assert code == 0 and "3 files are hardly pairs of halves" in out and "train/03.png (16x10)" in out
    code, out, _ = call("check", "mine")
    assert code == 2 and out.count("hardly a pair of halves; most are 20x10") == 3


def test_single_pictures_are_not_cut_in_the_middle(call):
    """A split of single pictures, in a set whose other split has sheets, or alone."""
    # kills: singles-cut-in-the-middle
    images("mixed/train", n=20, width=512, height=256)
    images("mixed/val", n=12, width=256, height=255)
    images("single", n=12, width=256, height=255)
    for root in ("mixed", "single"):
        code, _, err = call("data", "add", "mine", root, "direction=AtoB")
        assert code == 2 and "12 files are hardly pairs of halves" in err and "(256x255)" in err
        forced, plain = offered(call, "data", "add", "mine", root, "direction=AtoB")
        assert forced["name"] == "side_by_side" and plain["name"] == "images"
    code, out, _ = call("check", "mixed", "kind=side_by_side", "direction=AtoB")
    assert (
        code == 2 and "val: 12 of 12 files are hardly pairs of halves, such as mixed/val/00.png (256x255 pixels)" in out
    )
    images("portraits", n=12, width=400, height=300)  # halves of 2 to 3
    assert call("data", "add", "mine", "portraits", "direction=AtoB")[0] == 0


def test_somebody_at_the_terminal_is_shown_the_readings_and_asked(monkeypatch, workplace):
    # kills: guess-not-asked
    asked = []
    images("set/left", "set/right", "photos")

    def choose(seen, found):
        asked.append((seen, [reading.words for reading in found]))
        return found[answer] if answer is not None else None

    for answer, wanted in ((0, "left"), (1, "right")):  # noqa: B007
        registered = register("mine", [Path("set")], [], replace=True, choose=choose)
        assert registered.card.dataset["x_0"] == wanted
    answer = 2
    assert register("mine", [Path("set")], [], replace=True, choose=choose).card.dataset["name"] == "images"
    answer = 0
    register("other", [Path("photos")], [], choose=choose)
    assert len(asked) == 4 and "two folders, left and right" in asked[0][0] and len(asked[0][1]) == 3
    assert asked[3][1] == ["clean images, for a recipe's degradation"]
    answer = None
    with pytest.raises(UserError, match="nothing is registered"):
        register("third", [Path("photos")], [], choose=choose)
    assert load_names() == ["mine", "other"]


def test_replace(call):
    images("photos", "better")
    assert call("data", "add", "mine", "photos")[0] == 0
    code, _, err = call("data", "add", "mine", "better")
    assert code == 2 and "--replace" in err and table("mine")["root"].endswith("photos")
    code, _, err = call("data", "add", "mine", "nowhere", "--replace")
    assert code == 2 and table("mine")["root"].endswith("photos")  # nothing is lost by a mistake
    assert call("data", "add", "mine", "better", "--replace")[0] == 0 and table("mine")["root"].endswith("better")
    assert call("data", "add", "facades", "better", "--replace")[0] == 2  # a shipped card


def test_columns_of_telling_names_and_semicolons(call):
    # kills: telling-columns-ignored, semicolons-unread
    images("rows/a", "rows/b", n=8)
    rows = "".join(f"b/{i:02d}.png;a/{i:02d}.png\n" for i in range(8))
    Path("rows/one.csv").write_text(f"Source;Target\n{rows}")
    code, out, err = call("data", "add", "one", "rows/one.csv")
    assert code == 0 and "Target is x_0, Source is x_1" in out, err
    item = open_source(table("one"), "train")[0]
    assert (item["x_0"].parent.name, item["x_1"].parent.name) == ("a", "b")
    Path("rows/two.csv").write_text(f"foto,2024\n{rows.replace(';', ',')}")
    code, _, err = call("data", "add", "two", "rows/two.csv")
    assert code == 2 and "which of the columns foto, 2024 is x_0" in err and "columns.x_0=COLUMN" in commands(err)[0]
    code, _, err = call("data", "add", "two", "rows/two.csv", "columns.x_0=2024", "columns.x_1=foto")
    assert code == 0 and table("two")["columns"] == {"x_0": "2024", "x_1": "foto"}, err
    assert call("check", "two")[0] == 0
    assert call("check", "one", "columns.x_1=Target")[0] == 2  # as a dotted key of the card, and both sides are equal


@pytest.mark.parametrize("name", ["2024", "0", "1", "1e3", "true", "2024-01-01", "nan", "0x10"])
def test_folders_called_like_numbers(call, name):
    # kills: folder-names-taken-for-numbers
    images(f"set/{name}", "set/lq", f"years/{name}/clean", f"years/{name}/noisy")
    code, _, err = call("data", "add", "mine", "set", f"x_0={name}", "x_1=lq")
    assert code == 0 and table("mine")["x_0"] == name, err
    code, _, err = call("data", "add", name, f"years/{name}")
    assert code == 0, err
    recipe = load_recipe("demo/pairs", [f"data.card={name}"])
    assert len(recipe.build_dataset("train")) > 10
    settings = ["data.root=set", f"data.source.x_0={name}", "data.source.x_1=lq"]
    assert load_recipe("demo/pairs", settings).build_dataset("train").source[0]["x_0"].parent.name == name
    Path(name).mkdir()
    images(f"{name}/clean", f"{name}/noisy")
    assert Path(load_recipe("demo/pairs", [f"data.root={name}"]).data.root).name == name
    assert call("check", "set", "kind=paired_folders", f"x_0={name}", "x_1=lq")[0] == 0


def test_wide_files_need_a_direction(call):
    images("wide/train", "wide/val", width=20)
    code, _, err = call("data", "add", "mine", "wide")
    assert code == 2 and "direction=AtoB" in err and not load_names()
    code, _, err = call("data", "add", "mine", "wide", "direction=BtoA")
    assert code == 0 and table("mine")["direction"] == "BtoA" and table("mine")["name"] == "side_by_side", err
    assert call("data", "add", "panoramas", "wide", "--kind", "images")[0] == 0
    assert table("panoramas")["name"] == "images"


def halves(folder, width, height, alike, n=10):
    """Files of a smooth random texture and, where alike, a noisy copy of it; else one texture over the whole width."""
    Path(folder).mkdir(parents=True)
    for i in range(n):
        draw = np.random.default_rng(i)
        side = width // 2 if alike else width
        fine = cv2.GaussianBlur(draw.uniform(0, 255, (height, side, 3)).astype(np.float32), (0, 0), 3)
        fine = (fine - fine.mean()) / fine.std() * 40 + 128
        if alike:
            fine = np.concatenate([fine + draw.normal(0, 15, fine.shape), fine], axis=1)
        Image.fromarray(fine.clip(0, 255).astype(np.uint8)).save(Path(folder, f"{i:02d}.png"))


@pytest.mark.parametrize("size", [(512, 192), (192, 80), (320, 180), (160, 120)])
def test_pairs_of_two_halves_of_any_shape_are_asked_about(call, size):
    # kills: halves-not-compared
    halves("wide", *size, alike=True)
    code, _, err = call("data", "add", "mine", "wide")
    assert code == 2 and "10 of 10 files are" in err and "(side_by_side)" in err and not load_names()
    tables = offered(call, "data", "add", "mine", "wide")
    assert [(found["name"], found.get("direction")) for found in tables] == [
        ("side_by_side", "AtoB"), ("side_by_side", "BtoA"), ("images", None)
    ]  # fmt: skip


def test_wide_files_are_asked_about_though_their_halves_differ(call):
    # kills: halves-are-squares
    halves("wide", 192, 80, alike=False)
    code, _, err = call("data", "add", "mine", "wide")
    assert code == 2 and "10 of 10 files are at least twice as wide as high" in err and "direction=AtoB" in err, err


@pytest.mark.parametrize("size", [(320, 180), (160, 120)])
def test_photos_are_not_asked_about(call, size):
    # kills: every-photo-is-two-halves
    halves("photos", *size, alike=False)
    code, out, err = call("data", "add", "mine", "photos")
    assert code == 0 and "kind images" in out, err


def test_what_a_file_may_be_is_told(call, workplace):
    # kills: archives-are-lists
    images("photos", n=6)
    for name in ("x.json", "x.zip", "x.tar.gz", "x.parquet", "x.lmdb"):
        Path(name).write_bytes(b"")
    for name, part in (
        ("x.json", "a list is .csv, .jsonl, .tsv, or .txt"),
        ("x.zip", "an archive; unpack it first"),
        ("x.tar.gz", "an archive; unpack it first"),
        ("x.parquet", "the kind huggingface reads it"),
        ("x.lmdb", "the kind lmdb reads it"),
    ):
        code, _, err = call("data", "add", "mine", name)
        assert code == 2 and part in err, err
        code, _, err = call("check", name)
        assert code == 2 and f"{name}: a file" in err, err
    with tarfile.open("x.tar", "w") as tar:
        for i in range(6):
            tar.add(f"photos/{i:02d}.png", f"{i:02d}.png")
    code, _, err = call("data", "add", "mine", "x.tar", "--kind", "tar_shards")
    assert code == 2 and "x.tar: a file, not a folder" in err, err
    Path("photos/meta.txt").write_text("".join(f"{i:02d}.png (10,12,3)\n" for i in range(6)))
    assert [found["name"] for found in offered(call, "data", "add", "mine", "x.tar")] == ["tar_shards"]
    alone, _ = offered(call, "data", "add", "mine", "photos/meta.txt")
    assert (alone["name"], alone["file"]) == ("list", "meta.txt")


@pytest.mark.parametrize(
    ("name", "part"),
    [
        (None, "no images in it; the folder is empty"),
        ("a.txt", "no images in it; there is a.txt"),
        ("a-0.tar", "no images in it; .tar files, such as a-0.tar, are read by the kind tar_shards"),
        ("a.zip", "no images in it; a.zip is an archive; unpack it first"),
    ],
)
def test_a_folder_without_images(call, name, part):
    # kills: empty-folder-lacks-a-split
    for folder in ("here", "pairs/clean", "pairs/noisy"):
        Path(folder).mkdir(parents=True)
        if name:
            Path(folder, name).write_bytes(b"")
    for words in (
        ["check", "here"],
        ["data", "add", "mine", "here"],
        ["check", "here", "kind=class_folders"],
        ["check", "pairs", "kind=paired_folders", "x_0=clean", "x_1=noisy"],
    ):
        code, _, err = call(*words)
        assert code == 2 and "no images in it" in err and part.partition("; ")[2] in err, err
        assert "hold some out" not in err


def load_names():
    from i2i_bridge.data.store import own_card_names

    return own_card_names()


PLUGIN = """
from pathlib import Path
from i2i_bridge import register_dataset
@register_dataset("rows")
class Rows:
    def __init__(self, root: Path, file: str, split: str, every: int = 1):
        self.files = [root / line for line in (root / file).read_text().split()][::every]
    def __len__(self): return len(self.files)
    def __getitem__(self, i): return {"key": self.files[i].stem, "x_0": self.files[i]}
"""


def test_a_kind_of_ones_own_and_a_list_file(call, workplace):
    images("photos")
    Path("rows.py").write_text(PLUGIN)
    Path("photos/list.txt").write_text("03.png 05.png 07.png")
    code, _, err = call("data", "add", "mine", "photos/list.txt")
    assert code == 2 and "say with --kind" in err
    words = ("data", "add", "mine", "photos/list.txt", "--kind", "rows", "every=2", "--plugin", "rows.py")
    code, out, err = call(*words)
    assert code == 0 and "train 2, val 2" in out, err
    assert table("mine") == {"name": "rows", "root": str(workplace / "photos"), "file": "list.txt", "every": 2}


@pytest.mark.skipif("list" not in DATASETS.names(), reason="the kind 'list' is not here")
def test_a_csv_is_a_list(call):
    images("photos", n=3)
    Path("photos/list.csv").write_text("x_0,split\n00.png,train\n01.png,val\n")
    code, out, err = call("data", "add", "mine", "photos/list.csv")
    assert code == 0 and "train 1, val 1" in out, err


def test_afterwards_everybody_knows_it(call, workplace, monkeypatch):
    """A registered dataset is found from any folder, also if there is a folder of the same name."""
    images("scans/clean", "scans/noisy")
    assert call("data", "add", "scans", "scans")[0] == 0
    assert "scans" in call("list", "datasets")[1]
    assert 'x_0 = "clean"' in call("show", "scans")[1]
    code, out, _ = call("check", "scans")
    assert code == 0 and "20 items" not in out and "no problem" in out  # pairs, not 40 images
    assert "./scans: train 40, val 40 items" in call("check", "./scans")[1]
    (workplace / "elsewhere").mkdir()
    monkeypatch.chdir(workplace / "elsewhere")
    assert call("check", "scans")[0] == 0
    code, out, err = call("preview", "demo/pairs", "x.png", "data.card=scans", "data.size=8", "-n", "1")
    assert code == 0, err
    assert call("copy", "scans", "mine.toml")[0] == 0
    # Forgotten: the card, never the images.
    code, out, _ = call("data", "remove", "scans")
    assert code == 0 and "the images stay" in out
    assert len(list((workplace / "scans").rglob("*.png"))) == 40
    code, _, err = call("preview", "demo/pairs", "x.png", "data.card=scans")
    assert code == 2 and "no dataset card 'scans'" in err


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["edges2shoes", "photos"], "shipped card or recipe"),
        (["deblur", "photos"], "shipped card or recipe"),
        (["a/b", "photos"], "a dataset's name has"),
        (["../x", "photos"], "a dataset's name has"),
        (["x.toml", "photos"], "a dataset's name has"),
        (["mine", "nowhere"], "nowhere: no such file or folder"),
        (["mine", "empty"], "no images"),
        (["mine", "photos", "photos/deep"], "one is inside the other"),
        (["mine", "photos", "empty", "empty"], "at a time"),
        (["mine", "photos", "hold=0.1"], "unknown key 'hold'; did you mean 'holdout'"),
        (["mine", "photos", "holdout=much"], "holdout"),
        (["mine", "photos", "kind=images"], "--kind images"),
        (["mine", "photos", "a=1", "a.b=2"], "'a' is a value, not a table"),
        (["mine", "photos", "--kind", "imagse"], "did you mean 'images'"),
        (["mine", "photos", "--kind", "packaged_images"], "has no root"),
        (["mine", "photos", "--kind", "side_by_side"], "direction"),
        (["mine", "photos", "direction=up"], "direction"),
        (["mine", "listed.csv", "columns=foo"], "columns: should be a table"),
        (["mine", "listed.csv", "columns.x_0.y=1"], "columns: should be a table"),
        (["mine", "uneven"], "do not match one to one"),
        (["mine", "broken"], "not a readable image"),
        (["taken", "photos"], "data remove taken"),
        (["mine"], "PATH"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_every_mistake_is_one_line_and_registers_nothing(call, store, words, part):
    images("photos", n=10)
    images("photos/deep", n=1)
    images("uneven/clean", n=10)
    images("uneven/noisy", n=8)
    Path("empty").mkdir()
    Path("broken").mkdir()
    Path("listed.csv").write_text("x_0,x_1\nphotos/0.png,photos/1.png\n")
    for i in range(9):
        Path(f"broken/{i}.png").write_bytes(b"x")
    assert call("data", "add", "taken", "photos")[0] == 0
    before = sorted(store.rglob("*"))
    code, _, err = call("data", "add", *words)
    assert code == 2 and part in err and err.count("\n") == 1 + len(commands(err)), err
    assert sorted(store.rglob("*")) == before


def test_a_store_that_cannot_be_written(call, monkeypatch):
    images("photos")
    monkeypatch.setenv("I2I_HOME", "photos/00.png")
    code, _, err = call("data", "add", "mine", "photos")
    assert code == 2 and "cannot be written" in err


def test_help(call):
    for verb in ("fetch", "add", "remove"):
        code, out, _ = call("data", verb, "--help")
        assert code == 0 and len(out) > 200
    assert "fetch" in call("data", "--help")[1]
