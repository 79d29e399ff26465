"""README.md and docs/your-own-parts.md: their files are written and their commands run, as they stand there.

Only the size of trainings is turned down, by settings appended to each.
"""

import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_layout import ROOMS

from i2i_bridge import check_dataset, check_degradation, check_sampler, load_plugin, load_recipe
from i2i_bridge.bridge.processes import I2SB
from i2i_bridge.bridge.time_grids import uniform
from i2i_bridge.cli.command import main
from i2i_bridge.evaluation.results import read_evaluation
from i2i_bridge.plugins import PLUGIN_GROUP
from i2i_bridge.registry import DATASETS, DEGRADATIONS, SAMPLERS

ROOT = Path(__file__).parents[2]
README, CONTRIBUTING, PARTS = (
    (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "CONTRIBUTING.md", "docs/your-own-parts.md")
)
SMALL = [
    *("train.steps=2", "train.batch_size=2", "train.workers=0", "network.channels=8", "network.channel_mult=[1,1]"),
    *("data.size=32", "data.validation_size=32", "data.load_size=40"),
]


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture
def run(capsys):
    """Runs one line of a page; returns what it printed."""

    def typed(line: str) -> str:
        program, *words = shlex.split(line, comments=True)
        assert program == "i2i-bridge", line
        if words[0] in ("train", "run"):
            words += [setting for setting in SMALL if "pix2pix" not in words or "channel_mult" not in setting]
        with pytest.raises(SystemExit) as ended:
            main(words)
        out, err = capsys.readouterr()
        assert ended.value.code == 0, (line, out, err)
        return out

    return typed


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The folders that the pages speak of."""
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    sides = [f"path/to/scans/{split}/{side}" for split in ("train", "val") for side in ("clean", "noisy")]
    for folder in ("photos", "path/to/pairs/clean", "path/to/pairs/noisy", *sides):
        Path(folder).mkdir(parents=True)
        for i in range(20):
            pixels = draw.integers(0, 256, (4, 5, 3), dtype=np.uint8)
            name = f"{folder}/{'photo' if i == 0 and folder == 'photos' else i}.png"
            Image.fromarray(pixels).resize((50, 44)).save(name)
    Path("photo.png").write_bytes(Path("photos/photo.png").read_bytes())
    return tmp_path


def test_the_readme_as_it_stands(place, run):
    # kills: a verb, option, recipe, key or import of the README that is renamed
    ran = []
    for kind, text in re.findall(r"^```(\w+)\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL):
        named = re.match(r"# (\S+\.(?:py|toml))\b", text)
        if kind == "toml" and not named:
            # "[data]": to be put into one's own copy of a recipe.
            source = text.splitlines()[1]
            assert source.startswith("source = ")
            mine = Path("mine.toml").read_text()
            Path("mine.toml").write_text(re.sub(r"^source = .*$", source, mine, flags=re.MULTILINE))
        elif named:
            Path(named[1]).write_text(text)
        elif kind == "python":
            small = ", ".join(f'"{setting}"' for setting in SMALL)
            Path("block.py").write_text(text.replace('"train.steps=200"', small))
            runpy.run_path("block.py")
            if not Path("mine.toml").exists():
                run("i2i-bridge copy demo/pairs mine.toml")
        else:
            for line in text.splitlines():
                if line.startswith("i2i-bridge"):
                    ran.append(line.split()[1])
                    run(line)
    assert Image.open("restored.png").size == (50, 44) and Path("runs/page/index.html").is_file()
    for verb in ("list", "show", "train", "evaluate", "restore", "report", "check", "preview"):
        assert verb in ran, verb
    assert sorted(Path("restored").glob("*.png")) and Path("runs/mine/report/index.html").is_file()
    assert Path("runs/pairs/recipe.toml").is_file() and Image.open("sheet.png").width > 64


def test_the_commands_inside_the_readmes_text(place, run):
    inside = [
        # What fetches needs a network; tests/metrics/test_weights.py and test_fetching.py bring their own.
        line
        for line in re.findall(r"`(i2i-bridge [^`]+)`", README)
        if not re.search(r"\b(NAME|FILE|DIR|fetch)\b", line)
    ]
    assert len(inside) > 6
    for line in inside:
        run(line)


def test_the_first_screen_says_what_it_is_shows_a_picture_and_two_commands():
    """Eighteen lines of at most 160 characters and a picture: what is seen without scrolling."""
    # kills: a README that starts with something else
    screen = README.splitlines()[:18]
    assert max(map(len, screen)) <= 160
    text = "\n".join(screen)
    (picture,) = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text)
    assert (ROOT / picture).is_file() and "make demo" in text and "make test" in text
    assert all((ROOT / target).exists() for target in re.findall(r"\]\((?!http)([^)#]+)\)", README + CONTRIBUTING))


def test_make_demo_compares_three_methods_on_a_dozen_held_out_images(place, run):
    # kills: a command of `make demo` that no longer runs; tiles left out of its recipe; methods of unequal data
    pytest.importorskip("skimage")
    pytest.importorskip("sklearn")
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    outside = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    made = subprocess.run(["make", "-n", "demo"], cwd=ROOT, env=outside, capture_output=True, text=True, check=True)
    lines = re.findall(r"^.*?bin/(i2i-bridge [^>\n\\]+)", made.stdout, flags=re.MULTILINE)
    assert len(lines) == 4 and "compare" in lines[-1]
    for line in lines:
        run(re.sub(r"train\.steps=\d+", "", line))
    recipes = [load_recipe(file) for file in sorted(Path("runs/demo").glob("*/recipe.toml"))]
    assert len(recipes) == 3 and len({str(recipe.data) for recipe in recipes}) == 1
    assert len({str(recipe.degradation) for recipe in recipes}) == 1
    methods = {recipe.method_label: recipe for recipe in recipes}
    assert methods["regression"].network == methods["bridge"].network
    assert methods["regression"].train == methods["bridge"].train
    rows = {row.nfe for row in read_evaluation(Path("runs/demo/bridge")).rows if row.nfe}
    assert rows == {1, 2, 5} and len(recipes[0].build_dataset("validation")) >= 12
    table = Path("runs/demo/report/table.md").read_text()
    assert Path("runs/demo/report/index.html").is_file() and "ST-LPIPS" in table
    assert all(method in table for method in methods)


def test_contributing_is_short_and_draws_the_rooms_in_order():
    # kills: a room that is added or moved without a word to those who look for it
    assert len(CONTRIBUTING.splitlines()) <= 60
    (picture,) = re.findall(r"^```\n(.*?)^```$", CONTRIBUTING, re.MULTILINE | re.DOTALL)
    assert [line.split()[0] for line in picture.splitlines()] == ROOMS
    for name in re.findall(r"`(\w+/[\w/]*(?:\.py)?)`", CONTRIBUTING):
        assert any((ROOT / base / name).exists() for base in ("", "i2i_bridge")), name


def test_the_how_tos_of_parts_run(place, run):
    # kills: an import, decorator, signature or verb of a how-to that changed
    assert re.findall(r"^## A (\w+)", PARTS, re.MULTILINE) == ["dataset", "degradation", "sampler", "recipe"]
    (declared,) = (block for block in blocks(PARTS, "toml") if "entry-points" in block)
    assert list(tomllib.loads(declared)["project"]["entry-points"]) == [PLUGIN_GROUP]
    Path("mine.py").write_text("\n\n".join(blocks(PARTS, "python")))
    load_plugin(Path("mine.py"))
    assert check_degradation(DEGRADATIONS.build({"name": "darken"})) == []
    assert check_dataset(DATASETS.build({"name": "scans", "root": "path/to/scans"}, split="train")) == []
    assert check_sampler(SAMPLERS.get("euler"), I2SB(), uniform) == []
    run("i2i-bridge copy demo/pairs own.toml")
    own = re.sub(
        r"^source = .*$",
        'source = { name = "scans", root = "path/to/scans" }',
        Path("own.toml").read_text(),
        flags=re.M,
    )
    Path("own.toml").write_text(own.replace("[sample]\n", '[sample]\nsampler = { name = "euler" }\n'))
    assert "no problem" in run("i2i-bridge check own.toml --plugin mine.py")
    run("i2i-bridge train own.toml --out runs/own --plugin mine.py")
    assert "degraded input" in run("i2i-bridge evaluate runs/own --nfe 2 -n 2 --plugin mine.py")
    run("i2i-bridge train demo/deblur --out runs/dark --plugin mine.py degradation.name=darken")
    for line in "".join(blocks(PARTS, "sh")).splitlines():
        typed, _, file = line.partition(" > ")
        printed = run(typed)
        if file:
            Path(file).write_text(printed)
            assert json.loads(printed)
    assert Path("runs/ours/report/index.html").is_file()
