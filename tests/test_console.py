"""What a person sees while a training runs."""

import io
import re

import pytest
from rich.console import Console

from i2i_bridge import console
from i2i_bridge.training import Progress

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
    """What a display of one progress report and one line of text prints, on a terminal or elsewhere."""

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
