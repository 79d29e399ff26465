"""docs/your-own-network.md and your-own-metric.md do what they say: files are written and commands run as they are."""

import json
import os
import re
import shlex
from pathlib import Path

import interpreter
import pytest

from i2i_bridge.cli.command import main

ROOT = Path(__file__).parents[2]


def blocks(page: str) -> list[tuple[str, str]]:
    """(language, text) of each code block, in order."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return re.findall(r"^```(\w+)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def run(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    words = shlex.split(command)
    if words[0] == "python":
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = interpreter.python(*words[1:], env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout
    assert words[0] == "i2i-bridge", command
    with pytest.raises(SystemExit) as left:
        main(words[1:])
    shown = capsys.readouterr()
    assert left.value.code == 0, f"{command}: {shown.out}{shown.err}"
    return shown.out


def follow(page: str, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """Writes the files and runs the commands of a page, in order; the output of each command."""
    said: dict[str, str] = {}
    for language, text in blocks(page):
        named = re.match(r"# (\S+\.py)\n", text)
        if named:
            Path(named[1]).write_text(text)
        elif language == "bash":
            for command in text.strip().splitlines():
                said[command] = run(command, capsys)
    return said


def code_lines(page: str, start: str) -> int:
    (text,) = (text for _, text in blocks(page) if start in text)
    return len([line for line in text[text.index(start) :].strip().splitlines() if line.strip()])


def test_the_network_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    # kills: a page that fell behind; t in float64 under bfloat16 autocast, or with other weights than float32
    monkeypatch.chdir(tmp_path)
    said = follow("your-own-network.md", capsys)
    assert said["python check_network.py"] == "SmallConv keeps the contract\n"
    shown = said["i2i-bridge show small-conv --plugin my_network.py"]
    assert shown.splitlines()[:3] == [
        "networks: small-conv",
        "",
        "Three convolutions with the time added between the first two.",
    ]
    assert "  width: int = 16" in shown
    row = json.loads(Path("runs/mine/metrics.jsonl").read_text().splitlines()[-1])
    assert row["step"] == 4
    evaluation = json.loads(Path("runs/mine/evaluation/held-out/evaluation.json").read_text())
    assert {"nfe 1", "nfe 2"} <= {row["name"] for row in evaluation["rows"]}
    restored = run(
        "i2i-bridge restore runs/mine runs/mine/samples out --plugin my_network.py --precision bf16 --device cpu",
        capsys,
    )
    assert "wrote 1 image" in restored
    assert code_lines("your-own-network.md", "@register_network") <= 14


def test_the_metric_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    # kills: a page that fell behind: an import, option, verb or message that changed
    monkeypatch.chdir(tmp_path)
    said = follow("your-own-metric.md", capsys)
    assert said["python check_mae.py"] == "MAE keeps the contract\n"
    assert "MAE (codes)" in list(said.values())[-1]
    evaluation = json.loads(Path("runs/short/evaluation/held-out/evaluation.json").read_text())
    for row in evaluation["rows"]:
        assert 0 < row["metrics"]["mae"]["value"] < 128
    assert code_lines("your-own-metric.md", "@register_metric") <= 12
