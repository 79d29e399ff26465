"""Reading of files in untrusted folders: a pipe, a device, a bomb or nonsense gives a one-line error."""

import json
import os
import re
import signal
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from evaluated import write_evaluated

from i2i_bridge.data.index import recall, remember
from i2i_bridge.data.sources.lists import ListFile
from i2i_bridge.data.sources.lmdb import Database
from i2i_bridge.data.splits import listed_positions
from i2i_bridge.degradations.masks import packed_masks
from i2i_bridge.errors import UserError
from i2i_bridge.evaluation.records import Record, Records
from i2i_bridge.evaluation.results import read_evaluation
from i2i_bridge.metrics.frechet import read_moments
from i2i_bridge.recipe.load import load_recipe
from i2i_bridge.recipe.protocol import load_protocol, read_list
from i2i_bridge.report.entries import open_entries
from i2i_bridge.report.folder import check_out
from i2i_bridge.report.gallery import gallery
from i2i_bridge.report.page import write_page
from i2i_bridge.report.pictures import Pictures
from i2i_bridge.report.table import table_of
from i2i_bridge.storage import reader as file_reader
from i2i_bridge.storage.reader import NotRegular, open_arrays, parse_json, read_bytes, read_lines
from i2i_bridge.storage.tensors import read_safetensors
from i2i_bridge.storage.toml import read_toml
from i2i_bridge.training.guard import UNUSABLE_FILE, read_unusable
from i2i_bridge.training.log import MetricsLog, read_metrics


@pytest.fixture(autouse=True)
def no_reader_waits():
    """Fail a test whose reader blocks, after 120 s."""

    def stop(number, frame):
        raise AssertionError("a reader waits for ever")

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(120)
    yield
    signal.alarm(0)


def pipe(file):
    os.mkfifo(file)


def device(file):
    file.symlink_to("/dev/zero")


def folder(file):
    file.mkdir()


def huge(file):
    with file.open("wb") as stream:
        stream.truncate(2**36)


def brackets(file):
    file.write_text("[" * 100_000)


def nonsense(file):
    file.write_bytes(b"\xff\x00\x1b[2J" * 100)


def empty(file):
    file.write_bytes(b"")


def numbers(file):
    file.write_bytes(b"9" * 10_000)


ODD = [pipe, device, folder, huge, brackets, nonsense, empty, numbers]
NOT_REGULAR = [pipe, device, folder, huge]


def at(name):
    """The reader's file, below the folder of a test."""

    def place(here):
        file = here / name
        file.parent.mkdir(parents=True, exist_ok=True)
        return file

    return place


def evaluation(file):
    read_evaluation(file.parents[2])


READERS = {
    "evaluation": (at("evaluation/held-out/evaluation.json"), evaluation),
    "recipe": (at("a.toml"), load_recipe),
    "protocol": (at("a.toml"), load_protocol),
    "toml": (at("a.toml"), read_toml),
    "statistics": (at("a.npz"), read_moments),
    "masks": (at("a.npz"), lambda file: packed_masks(file, (0.1, 0.2))),
    "safetensors": (at("a.safetensors"), read_safetensors),
    "lmdb": (at("data.mdb"), lambda file: Database(file)),
    "csv list": (at("a.csv"), lambda file: ListFile(file.parent, "train", file.name)),
    "jsonl list": (at("a.jsonl"), lambda file: ListFile(file.parent, "train", file.name)),
    "list of a protocol": (at("a.txt"), read_list),
    "list of a split": (at("a.txt"), lambda file: listed_positions(["x"], file, "here")),
}


FINE = [("list of a protocol", numbers), ("list of a protocol", brackets), ("list of a split", empty), ("toml", empty)]


@pytest.mark.parametrize("make", ODD)
@pytest.mark.parametrize("kind", READERS)
def test_every_reader_refuses_in_one_line_that_names_the_file(kind, make, tmp_path):
    place, read = READERS[kind]
    file = place(tmp_path)
    make(file)
    fine = (
        ("list of a protocol", numbers),
        ("list of a protocol", brackets),
        ("list of a split", empty),
        ("toml", empty),
    )
    if (kind, make) in fine:
        return
    with pytest.raises(UserError) as refused:
        read(file)
    assert str(file) in str(refused.value) and str(refused.value).isprintable()


@pytest.mark.parametrize("make", ODD)
def test_records_and_caches_that_cannot_be_read_count_as_missing(make, tmp_path, monkeypatch):
    records = Records(tmp_path / "records")
    records.write("nfe 1", Record("a", "f", {"psnr": (float("nan"), "x")}))
    assert records.read("nfe 1", "a", "f").scores["psnr"][1] == "x", "a score may be NaN"
    file = records.file("nfe 1", "a")
    file.unlink()
    make(file)
    assert records.read("nfe 1", "a", "f") is None
    monkeypatch.setenv("I2I_CACHE_DIR", str(tmp_path / "cache"))
    remember("list", {"a": np.arange(3)})
    (cached,) = (tmp_path / "cache" / "listings").iterdir()
    assert np.array_equal(recall("list")["a"], np.arange(3))
    cached.unlink()
    make(cached)
    assert recall("list") is None
    assert not (tmp_path / "page.html").exists()
    make(tmp_path / "page.html")
    if make is not folder:  # an empty one may be replaced
        with pytest.raises(UserError, match="not a page of i2i-bridge"):
            check_out(tmp_path / "page.html", single_file=True)


@pytest.mark.parametrize("make", ODD)
@pytest.mark.parametrize(("name", "read"), [("metrics.jsonl", read_metrics), (UNUSABLE_FILE, read_unusable)])
def test_the_logs_of_a_run(name, read, make, tmp_path):
    make(tmp_path / name)
    if make in NOT_REGULAR:
        with pytest.raises(UserError, match=f"{re.escape(name)}: cannot be read"):
            read(tmp_path)
    else:
        assert read(tmp_path) == []


def test_rows_of_a_log_have_the_types_that_are_written(tmp_path):
    good = [{"step": 1, "loss": 0.5, "skipped": 0}, {"step": 2, "loss": float("nan"), "note": None}]
    odd = [
        {"step": "1"},
        {"step": True},
        {"step": -1},
        {"step": 3, "loss": []},
        {"step": 3, "loss": 10**400},
        [],
        3,
        None,
    ]
    lines = [json.dumps(row) for row in [*good, *odd]] + ["[" * 100_000, '{"step": 4, "lo', "9" * 5000]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    assert str(read_metrics(tmp_path)) == str(good)
    MetricsLog(tmp_path, after_step=5)
    assert str(read_metrics(tmp_path)) == str(good)


EVALUATIONS = {
    "null": "null",
    "list": "[]",
    "number": "3",
    "text": '"x"',
    "NaN": lambda table: json.dumps(table | {"step": float("nan")}),
    "no rows": lambda table: json.dumps({key: value for key, value in table.items() if key != "rows"}),
    "rows of numbers": lambda table: json.dumps(table | {"rows": [1, 2]}),
    "unknown key": lambda table: json.dumps(table | {"x": 1}),
    "a list for a name": lambda table: json.dumps(table | {"method": ["a"]}),
    "a name of 10,000 letters": lambda table: json.dumps(table | {"method": "a" * 10_000}),
    "negative step": lambda table: json.dumps(table | {"step": -1}),
    "a row called 'nfe x'": lambda table: json.dumps(table | {"rows": [table["rows"][0] | {"name": "nfe x"}]}),
    "seconds without end": lambda table: json.dumps(
        table | {"rows": [table["rows"][0] | {"seconds_per_image": "inf"}]}
    ),
    "images": lambda table: json.dumps(table | {"rows": [table["rows"][0] | {"images": 10**30}]}),
    "n of a protocol": lambda table: json.dumps(table | {"protocol": table["protocol"] | {"settings": {"n": [1]}}}),
}


@pytest.mark.parametrize("what", EVALUATIONS)
def test_a_strangers_evaluation_is_read_or_named_as_damaged(what, tmp_path):
    # kills: evaluation-of-any-type
    made = write_evaluated(tmp_path / "run", images=2)
    file = made / "evaluation" / "held-out" / "evaluation.json"
    assert read_evaluation(made).rows
    change = EVALUATIONS[what]
    file.write_text(change if isinstance(change, str) else change(json.loads(file.read_text())))
    with pytest.raises(UserError, match=r"evaluation\.json: damaged \(.*\); evaluate again"):
        read_evaluation(made)


def test_hostile_names_in_an_evaluation_stay_text_on_its_page(tmp_path):
    made = write_evaluated(
        tmp_path / "run",
        images=2,
        label="[/red]\x1b[2J $\\frac <script>alert(1)</script>",
        overrides=['summary="turn \\u202e it"'],
    )
    page = write_page(open_entries([made], "held-out"), tmp_path / "page")
    text = page.read_text(encoding="utf-8")
    assert "<script>alert(1)" not in text and "\x1b" not in text and "[/red]" in text and "\u202e" not in text


@pytest.mark.parametrize("make", [pipe, device, folder, nonsense, empty])
def test_pictures_of_a_page_are_regular_files_of_its_own(make, tmp_path):
    """A pipe is left out, a link is not followed (it could publish any file of the user), and a non-PNG is reported."""
    made = write_evaluated(tmp_path / "run", images=2)
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"secret")
    for row in ("clean", "input", "nfe-1", "nfe-5", "nfe-20"):
        home = made / "evaluation" / "held-out" / "images" / row
        first = min(home.iterdir())
        first.unlink()
        make(first)
        (home / "0007-link.png").symlink_to(secret)
    entries = open_entries([made], "held-out")
    (tmp_path / "page").mkdir()
    pictures = Pictures(tmp_path / "page", inside=False)
    table = table_of(entries)
    if make in (nonsense, empty):
        with pytest.raises(UserError, match=r"0000-photo-0\.png: not a readable PNG"):
            gallery(entries, table, pictures)
        return
    found = gallery(entries, table, pictures)
    assert [image["key"] for image in found["images"]] == ["photo 1"]
    assert not any(b"secret" in file.read_bytes() for file in (tmp_path / "page").rglob("*.png"))


def test_json_and_bytes(tmp_path):
    assert parse_json('{"a": [1, 2.5, null]}') == {"a": [1, 2.5, None]}
    for text in ("[" * 100_000, "9" * 5000, "", "{", "nul"):
        with pytest.raises(ValueError):
            parse_json(text)
    file = tmp_path / "a"
    file.write_bytes(b"12345")
    assert read_bytes(file, 5) == b"12345"
    with pytest.raises(OSError, match="larger than 4 bytes"):
        read_bytes(file, 4)
    os.truncate(file, 2**40)
    tracemalloc.start()
    with pytest.raises(OSError, match="larger than 268435456 bytes"):
        read_bytes(file, 2**28)
    assert tracemalloc.get_traced_memory()[1] < 2**20, "it is not read to be refused"
    tracemalloc.stop()
    with pytest.raises(NotRegular):
        read_bytes(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_bytes(tmp_path / "none")


def test_arrays_that_unpack_to_too_much(tmp_path, monkeypatch):
    file = tmp_path / "a.npz"
    np.savez_compressed(file, mu=np.zeros(10_000))
    with open_arrays(file) as stored:
        assert stored["mu"].shape == (10_000,)
    monkeypatch.setattr(file_reader, "ARRAYS_LIMIT", 1000)
    with pytest.raises(ValueError, match="unpacks to more"), open_arrays(file):
        pass
    with pytest.raises(UserError, match=r"a\.npz.*unpacks to more"):
        read_moments(file)


def test_the_descriptor_is_closed_where_a_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    before = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").is_dir() else 0
    for _ in range(5):
        with pytest.raises(NotRegular):
            read_bytes(tmp_path / "pipe")
    assert not before or len(list(Path("/proc/self/fd").iterdir())) == before


def test_lines_of_lists_written_on_other_systems(tmp_path):
    """A byte order mark and other line ends are no part of a name; U+2028 may be."""
    # kills: list-lines-by-splitlines
    file = tmp_path / "list.txt"
    file.write_bytes("a.png\r\nb\u2028c.png\rd.png\n".encode("utf-8-sig"))
    assert read_lines(file) == ["a.png", "b\u2028c.png", "d.png", ""]
    file.write_bytes(b"\xff")
    with pytest.raises(UserError, match=r"list\.txt: not a readable text file"):
        read_lines(file)
    with pytest.raises(UserError, match=r"list\.txt: no such file"):
        read_lines(tmp_path / "none" / "list.txt")


@pytest.mark.skipif(not Path("/proc/self/smaps").is_file(), reason="no file here that is longer than its size says")
def test_of_a_file_longer_than_its_size_no_more_than_the_limit_is_read():
    """As one that grows meanwhile."""
    # kills: files-without-limit
    file = Path("/proc/self/smaps")
    assert file.stat().st_size == 0 and len(file.read_bytes()) > 100_000
    tracemalloc.start()
    try:
        with pytest.raises(OSError, match="larger than 1000 bytes"):
            read_bytes(file, 1000)
        assert tracemalloc.get_traced_memory()[1] < 50_000
    finally:
        tracemalloc.stop()
