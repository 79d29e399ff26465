"""docs/evaluating.md: outputs of other programs become rows by the page's commands."""

import re
import shutil
from pathlib import Path

import pytest
from killing import photos, recipe_of

from i2i_bridge.cli.command import main
from i2i_bridge.training.trainer import train

PAGE = (Path(__file__).parents[2] / "docs" / "evaluating.md").read_text(encoding="utf-8")


def test_outputs_of_other_programs_become_rows(tmp_path, monkeypatch, capsys):
    # kills: a verb or option of the page's commands that is renamed, and inputs that are written elsewhere
    part = PAGE.split("DeepFillv2 and HiFill, the paper's other rows")[1].split("\n## ")[0]
    first = re.search(r"^1\. `([^`]+)`", part, flags=re.MULTILINE)[1]
    (block,) = re.findall(r"^```sh\n(.*?)^```$", part, flags=re.MULTILINE | re.DOTALL)
    table = recipe_of(photos(tmp_path / "photos"), steps=1)
    changes = {"degradation": {"name": "inpaint", "mask": "center"}}
    monkeypatch.chdir(tmp_path)
    train(table.model_copy(update=changes), "runs/inpaint", cpu=True)

    def typed(line):
        assert line.startswith("i2i-bridge ")
        with pytest.raises(SystemExit) as ended:
            main(line.split()[1:])
        assert ended.value.code == 0, (line, capsys.readouterr())

    typed(first)
    (inputs,) = Path("runs/inpaint/evaluation").glob("*/images/input")
    assert len(list(inputs.iterdir())) == len(list((inputs.parent / "mask").iterdir())) == 3
    for name in ("deepfillv2", "hifill"):
        shutil.copytree(inputs, f"outputs/{name}")
    for line in block.splitlines():
        typed(line)
    shown = capsys.readouterr().out
    assert "DeepFillv2" in shown and "HiFill" in shown, shown
