"""docs/your-own-degradation.md does what it says: its files are written and its commands run, as they stand there."""

import csv
import os
import re
import shlex
from pathlib import Path

import interpreter
import numpy as np
import pytest
from PIL import Image

from i2i_bridge.cli.command import main

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "your-own-degradation.md").read_text(encoding="utf-8")


def blocks() -> list[tuple[str, str]]:
    """(language, text) of each code block, in order."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)


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


def test_the_page_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # kills: a page that fell behind: an import, option, verb or message that changed
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    waves = np.random.default_rng(0).uniform(0, 0.3, (10, 3))
    rows, columns = np.mgrid[:72, :96]
    for i, (a, b, c) in enumerate(waves):
        layers = [np.sin(rows * a + columns * b + k * c * 9) for k in range(3)]
        Image.fromarray(np.rint((np.stack(layers, -1) + 1) * 100).astype(np.uint8)).save(f"photos/{i}.png")
    said: dict[str, str] = {}
    for language, text in blocks():
        named = re.match(r"# (\S+\.(?:py|toml))\n", text)
        if named:
            Path(named[1]).write_text(text)
        elif language == "bash":
            for command in text.strip().splitlines():
                said[command] = run(command, capsys)
    assert said["python check_fog.py"] == "Fog keeps all promises\n"
    written = list(csv.DictReader(Path("foggy/parameters.csv").read_text().splitlines()))
    densities = [float(row["density"]) for row in written]
    assert len(set(densities)) == 10
    assert min(densities) >= 0.5
    assert max(densities) <= 3
    # Fog is thick at the top and thin at the bottom.
    clean, foggy = (np.asarray(Image.open(f"{folder}/3.png")).astype(float) for folder in ("photos", "foggy"))
    assert np.abs(foggy - clean)[:9].mean() > 5 * np.abs(foggy - clean)[-9:].mean()
    assert np.asarray(Image.open("strengths.png")).shape[1] == 5 * 96 + 4 * 2
    assert np.asarray(Image.open("settings.png")).shape[1] == 5 * 64 + 4 * 2
    assert np.asarray(Image.open("sheet.png")).shape[1] >= 2 * 64
    assert sorted(path.name for path in Path("restored").glob("[!.]*")) == [f"{i}.png" for i in range(10)]
    assert len(list(Path("worn").glob("*.png"))) == 10


def test_the_operator_is_as_short_as_the_page_promises() -> None:
    # kills: an example that grows
    ((_, fog),) = [block for block in blocks() if block[1].startswith("# fog.py")]
    body = fog[fog.index("@register") :].strip().splitlines()
    assert len([line for line in body if line.strip()]) <= 12
