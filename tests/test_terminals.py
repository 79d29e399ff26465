"""Terminals of letters A to Z only, and paths that begin with ~."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from i2i_bridge.cli import _with_home
from i2i_bridge.recipe import load_recipe


def command(*words: str, **environment: str) -> "subprocess.CompletedProcess[bytes]":
    whole = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHON"))}
    code = [sys.executable, "-m", "i2i_bridge.cli", *words]
    path = os.environ.get("PYTHONPATH", str(Path(__file__).parents[1]))
    return subprocess.run(code, capture_output=True, env=whole | {"PYTHONPATH": path} | environment, timeout=300)


@pytest.mark.parametrize("encoding", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C"}])
def test_no_output_needs_more_than_ascii(tmp_path: Path, encoding: dict[str, str]) -> None:
    # kills: a run that ends in UnicodeEncodeError for a box or a file's name
    (tmp_path / "clean").mkdir()
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(tmp_path / "clean" / "caf\xe9.png")
    (tmp_path / "clean" / os.fsdecode(b"bad-\xff.png")).write_bytes(b"no image")
    for words, code, says in (
        (("degrade", str(tmp_path / "clean"), str(tmp_path / "out"), "--op", "blur"), 2, b"bad-"),
        (("check", str(tmp_path / "clean")), 2, b"bad-"),
        (("list", "degradations"), 0, b"jpeg"),
        (("show", "demo/jpeg"), 0, b"quality"),
        (("restore", "--help"), 0, b"--samples"),
        (("show", "caf\xe9"), 2, b"caf"),
    ):
        done = command(*words, **encoding)
        output = done.stdout + done.stderr
        assert done.returncode == code and says in output, (words, output[-600:])
        assert (
            b"UnicodeEncodeError" not in output
            and b"Traceback" not in output
            and (output.isascii() or "LC_ALL" in encoding)
        )
    assert (tmp_path / "out" / "caf\xe9.png").is_file()


def test_home_is_found_in_options_settings_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # kills: a folder called ~ in the folder where one works
    monkeypatch.setenv("HOME", str(tmp_path))
    home = str(tmp_path)
    for word, wanted in (
        ("~", home), ("~/a", f"{home}/a"), ("--out=~/a", f"--out={home}/a"),
        ("data.root=~/a b", f"data.root={home}/a b"),
        ("data.root='~/a'", f"data.root='{home}/a'"), ("blur:a=b,folder=~/m", f"blur:a=b,folder={home}/m"),
        ("a~/b", "a~/b"), ("~a", "~a"), ("x~", "x~"), ("name=a~", "name=a~"),
    ):  # fmt: skip
        assert _with_home(word) == wanted
    for i in range(4):
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.fromarray(np.full((72, 72, 3), 50 * i, np.uint8)).save(tmp_path / "photos" / f"{i}.png")
    settings = [
        "data.card=my-photos",
        "data.root=~/photos",
        "data.source.holdout=0.5",
        "data.size=32",
        "data.load_size=36",
    ]
    recipe = load_recipe("demo/jpeg", settings)
    assert recipe.build_dataset("train").sample(0)["x_0"].shape == (3, 32, 32)
    assert recipe.data.root == "~/photos", "what is written down holds on other machines too"
    (tmp_path / "mine.toml").write_text(recipe.to_toml())
    assert load_recipe("~/mine.toml").build_dataset("train").sample(0)["x_0"].shape == (3, 32, 32)
    done = command("degrade", "~/photos", "~/out", "--op", "blur", HOME=home)
    assert done.returncode == 0 and len(list((tmp_path / "out").glob("[!.]*"))) == 4
