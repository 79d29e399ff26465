"""Terminals of letters A to Z only, and paths that begin with ~."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from i2i_bridge.cli.command import _expand_home, _open_closed_streams
from i2i_bridge.recipe.load import load_recipe


def command(*words: str, **environment: str) -> "subprocess.CompletedProcess[bytes]":
    whole = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHON"))}
    code = [sys.executable, "-m", "i2i_bridge.cli", *words]
    path = os.environ.get("PYTHONPATH", str(Path(__file__).parents[2]))
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
        assert _expand_home(word) == wanted
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


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full here")
def test_an_output_that_is_closed_or_full_is_no_bug(tmp_path: Path) -> None:
    # kills: sys.stdout that is None; a full disk below the output called a bug of ours
    whole = os.environ | {"PYTHONPATH": os.environ.get("PYTHONPATH", str(Path(__file__).parents[2]))}
    for outputs, code in ((">&-", 0), ("2>&-", 0), (">&- 2>&-", 0), ("<&- >&- 2>&-", 0), (">/dev/full", 74)):
        words = [*("sh", "-c", f'"$0" -m i2i_bridge.cli list {outputs}'), sys.executable]
        done = subprocess.run(words, capture_output=True, env=whole, timeout=300)
        assert done.returncode == code, (outputs, done.stderr)
        assert done.stderr == (b"error: the output cannot be written (No space left on device)\n" if code else b"")


def test_nothing_printed_goes_into_a_file_that_took_the_number_of_a_closed_output() -> None:
    # kills: descriptor 1 left free, so that the next file opened is where messages go
    pid = os.fork()
    if pid == 0:
        for number in (0, 1, 2):
            os.close(number)
        sys.stdin = sys.stdout = sys.stderr = None  # as Python leaves them where they are closed at its start
        _open_closed_streams()
        places = [Path(f"/proc/self/fd/{number}") for number in (0, 1, 2)] if Path("/proc/self").exists() else []
        taken = {str(place.readlink()) for place in places}
        print("lost", flush=True)
        os._exit(0 if taken <= {os.devnull} and os.open(os.devnull, os.O_RDONLY) > 2 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
