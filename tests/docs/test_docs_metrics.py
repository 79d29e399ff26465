"""docs/metrics.md does what it says: its files are written and its commands run, as they stand there."""

import os
import re
import shlex
from pathlib import Path

import interpreter
import numpy as np
import pytest
from PIL import Image

from i2i_bridge.cli.command import main
from i2i_bridge.evaluation.evaluate import read_evaluation
from i2i_bridge.metrics.weights import KNOWN
from i2i_bridge.registry import METRICS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")


def run(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    program, *words = shlex.split(command)
    if program == "python":
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = interpreter.python(*words, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout
    assert program == "i2i-bridge", command
    with pytest.raises(SystemExit) as left:
        main(words)
    shown = capsys.readouterr()
    assert left.value.code == 0, f"{command}: {shown.out}{shown.err}"
    return shown.out


def test_the_page_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # kills: a page that fell behind: an import, option, verb or message that changed
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))  # as for the program, which looks for modules where it is called
    rng = np.random.default_rng(0)
    for folder, contrast in (("photos", 90), ("restored", 40)):
        Path(folder).mkdir()
        for i in range(12):
            waves = np.sin(np.mgrid[:48, :48].sum(0)[..., None] * rng.uniform(0.1, 0.5, 3)) * contrast + 128
            Image.fromarray(np.rint(waves).astype(np.uint8)).save(f"{folder}/{i}.png")
    settings = "data.card=my-photos data.root=photos data.size=32 train.steps=2"
    run(f"i2i-bridge train demo/sr4x --out runs/photos {settings} train.batch_size=2 evaluate.nfe=[1]", capsys)
    said: dict[str, str] = {}
    for language, text in re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL):
        named = re.match(r"# (\S+\.py)\n", text)
        if named:
            Path(named[1]).write_text(text)
        elif language == "sh":
            for command in text.strip().splitlines():
                said[command] = run(command, capsys)
    measured = said["python measure.py"]
    numbers = re.fullmatch(
        r"FD-mine: (\S+) \+- nan n = 12 < 2048: dominated .*\nKID-mine x1e3: (\S+) \+- (\S+) \n", measured
    )
    assert numbers, measured
    assert float(numbers[1]) > 0 and float(numbers[2]) > 3 * float(numbers[3]) > 0
    (listed,) = [out for command, out in said.items() if "list metrics" in command]
    assert "fd-mine" in listed and "kid-mine" in listed
    rows = read_evaluation(Path("runs/photos")).rows
    assert all({"psnr", "fd-mine", "kid-mine"} <= set(row.metrics) for row in rows) and len(rows) > 1
    assert all(row.metrics["fd-mine"].value > 0 for row in rows)


def test_the_tables_name_every_metric_and_file() -> None:
    # kills: a metric that the page forgets
    rows = [line for line in PAGE.splitlines() if line.startswith("| `")]
    first = " ".join(row.split(" | ")[0] for row in rows)
    assert all(f"`{name}`" in first for name in METRICS.names())
    assert set(re.findall(r"`([\w-]+)`", first)) <= {
        *METRICS.names(),
        "fd-X",
        "kid-X",
        "kid-paired-X",
        *(k.name for k in KNOWN),
    }
    for name in METRICS.names():
        label = METRICS.get(name).label.split(" (legacy")[0]
        assert label.removeprefix("KID-resnet50 x1e3") in PAGE, label
    for known in KNOWN:
        assert f"| `{known.name}` | `{known.file}` | {known.megabytes} MB | " in PAGE
        for metric in known.metrics:
            (row,) = [row for row in rows if f"`{metric}`" in row.split(" | ")[0]]
            assert f"`{known.name}`" in row, metric
