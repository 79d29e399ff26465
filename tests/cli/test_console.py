"""Output of the command line during training, on a terminal and elsewhere."""

import io
import os
import re
from pathlib import Path

import interpreter
import pytest
from rich.console import Console

from i2i_bridge import console
from i2i_bridge.training.trainer import Progress

ROOT = Path(__file__).parents[2]
PROGRESS = Progress(5000, 10000, 0.1234, 1e-4, 0.1, 2.5, 0.02, 78.8, 3600 * 13 + 62)
PARTS = (
    "step 5000/10000",
    "loss 0.1234",
    "lr 1.00e-04",
    "|grad| 0.100",
    "2.50 it/s",
    "data 2%",
    "mem 78.8 GB",
    "13:01:02",
)


@pytest.fixture
def shown(monkeypatch):
    """Output of a training display for one progress report and one line of text, on a terminal or elsewhere."""

    def display(**options):
        out = io.StringIO()
        screen = Console(file=out, highlight=False, soft_wrap=True, color_system=None, **options)
        monkeypatch.setattr(console, "console", screen)
        with console.training_display(10000) as report:
            report("note: [brackets] are text")
            report(PROGRESS)
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue())

    return display


def test_eighty_columns_show_all_of_a_report_and_a_bar(shown):
    # kills: a report whose end is cut off, a bar without room
    text = shown(force_terminal=True, width=80)
    assert all(part in text for part in PARTS), text
    assert "━━━━" in text and "…" not in text and "note: [brackets] are text" in text
    assert max(map(len, re.split("[\r\n]", text))) <= 80


def test_elsewhere_a_report_is_a_line(shown, capsys):
    assert shown(force_terminal=False) == ""
    first, second = capsys.readouterr().out.splitlines()
    assert first == "note: [brackets] are text" and all(part in second for part in PARTS)


def test_train_and_evaluate_show_progress_to_whoever_looks_on(tmp_path, monkeypatch, capsys):
    # kills: a notebook that stays silent; a script that prints; a `report` that is not heard
    from i2i_bridge.evaluation.evaluate import evaluate, open_evaluation
    from i2i_bridge.recipe.load import load_recipe
    from i2i_bridge.runs.load import load_run
    from i2i_bridge.training.trainer import train

    small = [
        "network.channels=8", "network.channel_mult=[1]", "train.batch_size=2", "train.workers=0", "train.log_every=1",
        "data.size=32", "data.load_size=40", "data.validation_size=32", "evaluate.images=2",
    ]  # fmt: skip

    def trained(steps, **options):
        train(load_recipe("demo/deblur", [*small, f"train.steps={steps}"]), tmp_path / "run", cpu=True, **options)
        return capsys.readouterr().out

    def evaluated(nfe, **options):
        run = load_run(tmp_path / "run", device="cpu")
        evaluate(
            run,
            open_evaluation(run.recipe, open_evaluation(run.recipe).rules).dataset,
            nfe=[nfe],
            metrics=["psnr"],
            **options,
        )
        return capsys.readouterr().out

    assert trained(1) == ""
    assert evaluated(1) == ""
    monkeypatch.setattr("sys.ps1", ">>> ", raising=False)  # as at a prompt, in IPython and in a notebook
    assert "step 2/2  loss" in trained(2)
    assert "evaluated" in evaluated(2)
    assert trained(3, report=lambda event: None) == evaluated(3, report=lambda done, total: None) == ""


def test_a_notebooks_backend_of_matplotlib_breaks_no_command():
    # kills: a command that imports matplotlib with the backend that a notebook set for itself
    code = """
from i2i_bridge.cli.command import main
try:
    main(["--version"])
except SystemExit:
    from torchmetrics.functional.image import peak_signal_noise_ratio
    from i2i_bridge.report.figures import training_curves
    print(training_curves({0: {"": [(1, 0.5), (2, 0.3)]}})[:4])
"""
    environment = {**os.environ, "MPLBACKEND": "module://a_backend_that_is_not_there"}
    done = interpreter.python("-c", code, env=environment, cwd=ROOT)
    assert done.stdout.endswith("<svg\n"), done.stderr
