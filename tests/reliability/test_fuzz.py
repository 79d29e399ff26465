"""A slice of the mutated files, every finding of the past, and the judge itself; `make fuzz` runs all of them."""

import os
import signal
import socket
import sys
import warnings
from pathlib import Path

import fuzz
import interpreter
import pytest

from i2i_bridge.errors import LONGEST, UserError, one_line

ROOT = Path(__file__).parents[2]


def run(*words):
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    return interpreter.python(str(ROOT / "tests" / "fuzz.py"), *words, env=environment)


@pytest.mark.parametrize(
    "kinds",
    [
        ["images=1000"],
        ["pt=500", "safetensors=300", "folders=200"],
        ["recipes=600", "cards=300", "protocols=100", "fetched=100"],
        ["names=300", "evaluations=500", "tiffs=500", "archives=300"],
    ],
    ids=["images", "checkpoints", "recipes", "results and archives"],
)
def test_a_slice_of_mutated_files(kinds):
    # kills: exif-warnings, array-header-believed, message-plays-with-the-terminal
    done = run(*kinds)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count('"failures": 0') == len(kinds)


def test_every_finding_of_the_past():
    assert len([file for file in fuzz.CORPUS.rglob("*") if file.is_file()]) >= 20
    done = run("--replay")
    assert done.returncode == 0, done.stdout


def _hangs(file):
    while True:
        pass


def _takes_memory(file):
    bytearray(700 * 2**20)
    raise UserError(str(file))


def _connects(file):
    socket.socket()


def _writes(file):
    Path("/dev/null").write_bytes(b"")


def _imports(file):
    sys.modules.pop("this", None)
    sys.modules.pop("antigravity", None)
    import this  # noqa: F401


def _warns(file):
    warnings.warn("odd", stacklevel=1)


def _says_too_much(file):
    raise UserError(f"{file} " + "many words " * 20 + "a/b" * 200)


def _names_nothing(file):
    raise UserError("something is wrong")


def _refuses(file):
    raise UserError(f"{file}: wrong")


@pytest.mark.parametrize(
    ("reader", "says"),
    [
        (_hangs, "hang"),
        (_takes_memory, "took"),
        (_connects, "no reader does"),
        (_writes, "no reader does"),
        (_imports, "no reader does"),
        (_warns, "warned: odd"),
        (_says_too_much, "bad message"),
        (_names_nothing, "bad message"),
        (lambda file: {}["x"], "KeyError"),
        (_refuses, "refused"),
        (lambda file: None, "read"),
    ],
)
def test_the_judge_sees_what_it_must(reader, says, tmp_path, monkeypatch):
    """A harness that lets everything pass would prove nothing."""
    if reader is _hangs:  # A slow machine takes longer for the others' work.
        monkeypatch.setattr(fuzz, "SECONDS", 0.3)

    def judged():
        signal.signal(signal.SIGPROF, fuzz._over)
        outcome, _ = fuzz.judge(reader, tmp_path / "x.png", fuzz.Watch(tmp_path))
        return {"outcome": outcome}, []

    result, _ = fuzz.apart(judged)
    assert says in result["outcome"]


def test_a_dead_process_is_a_failure():
    _, failures = fuzz.apart(lambda: os._exit(3))
    assert failures[0][0] == -1 and "ended with status" in failures[0][1]


def test_messages_are_lines():
    """No control character reaches the terminal, and no file fills the screen; paths stay whole."""
    # kills: message-plays-with-the-terminal
    assert one_line("a\n b\x1b[2J\u202e") == "a b\\x1b[2J\\u202e"
    path = "/" + "d/" * 200
    assert path in one_line(f"{path}: " + "word " * 20)
    assert len(one_line("word " * 500)) <= LONGEST and one_line("word " * 500).startswith("word word")
    assert one_line("x" * 5000) == "x" * 60 + "..."
