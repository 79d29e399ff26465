"""A dataset of one's own, from the command line: guessed where the layout leaves no doubt, asked for where it does."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from i2i_bridge.cli import main
from i2i_bridge.data.cards import load_card, open_source
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


def images(*folders, n=20, width=12, height=10):
    for folder in folders:
        Path(folder).mkdir(parents=True, exist_ok=True)
        for i in range(n):
            # The red of a pixel tells the folder: the sides cannot be mixed up unseen.
            pixels = np.full((height, width, 3), (len(folder) * 7 % 256, i, 0), np.uint8)
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


@pytest.mark.parametrize("n", [2, 3, 5, 8, 13])
def test_few_images_still_have_a_validation_split(call, n):
    """Names are held out by their hash, so a tenth of few may be none."""
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
        assert red(open_source(table("mine"), "train")[0], "x_0") == len("one/clean") * 7
        assert call("data", "remove", "mine")[0] == 0


def test_sides_that_the_names_do_not_tell_are_asked_for(call):
    images("set/left", "set/right")
    code, _, err = call("data", "add", "mine", "set")
    assert code == 2 and "add x_0=FOLDER" in err and "--kind images" in err
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


def test_two_classes_are_no_pairs(call):
    images("set/cats", n=20)
    images("set/dogs", n=2)
    for i, file in enumerate(sorted(Path("set/dogs").iterdir())):
        file.rename(f"set/dogs/dog-{i}.png")
    code, out, _ = call("data", "add", "mine", "set")
    assert code == 0 and "kind images" in out and table("mine")["name"] == "images"


def test_wide_files_need_a_direction(call):
    images("wide/train", "wide/val", width=20)
    code, _, err = call("data", "add", "mine", "wide")
    assert code == 2 and "direction=AtoB" in err and not load_names()
    code, _, err = call("data", "add", "mine", "wide", "direction=BtoA")
    assert code == 0 and table("mine")["direction"] == "BtoA" and table("mine")["name"] == "side_by_side", err
    assert call("data", "add", "panoramas", "wide", "--kind", "images")[0] == 0
    assert table("panoramas")["name"] == "images"


def load_names():
    from i2i_bridge.data.card_store import own_card_names

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
    """From any folder; and a folder of the same name does not hide it."""
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
        (["mine", "photos", "--kind", "imagse"], "did you mean 'images'"),
        (["mine", "photos", "--kind", "packaged_images"], "has no root"),
        (["mine", "photos", "--kind", "side_by_side"], "direction"),
        (["mine", "photos", "direction=up"], "direction"),
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
    for i in range(9):
        Path(f"broken/{i}.png").write_bytes(b"x")
    assert call("data", "add", "taken", "photos")[0] == 0
    before = sorted(store.rglob("*"))
    code, _, err = call("data", "add", *words)
    assert code == 2 and part in err and err.count("\n") == 1, err
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
