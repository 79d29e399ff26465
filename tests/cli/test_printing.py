"""Text of strangers on a terminal, in tables and in CSV: shown, never obeyed."""

import csv
import io
from pathlib import Path

import pytest
from rich.console import Console

from i2i_bridge import console
from i2i_bridge.cli.command import main
from i2i_bridge.errors import UserError, printable
from i2i_bridge.evaluation.results import Row
from i2i_bridge.metrics.base import Estimate
from i2i_bridge.report.formats import latex, markdown, to_csv
from i2i_bridge.report.table import build_table
from i2i_bridge.storage import csv_file

HOSTILE = "a[/red]\x1b[2J\x1b]0;title\x07\x9b31m\u202e\u2066\x00\x7f\udcff[link=http://x]b :smile: [bold]"


def is_harmless(text):
    """No control character, override of direction or half of a surrogate pair, but line ends."""
    return all(line.isprintable() for line in text.split("\n"))


def test_printable_keeps_what_is_text_and_escapes_the_rest():
    # kills: message-plays-with-the-terminal
    assert printable(HOSTILE).startswith(
        "a[/red]\\x1b[2J\\x1b]0;title\\x07\\x9b31m\\u202e\\u2066\\x00\\x7f\\udcff[link"
    )
    assert printable("é 日本 ∞ –\xa0x") == "é 日本 ∞ –\xa0x"
    assert printable("two\nlines\r\nand\ta tab") == "two lines and a tab"
    assert printable("two\n  lines\r\nand\ta tab", lines=True) == "two\n  lines\nand    a tab"
    assert printable("over\rwritten", lines=True) == "over written"


@pytest.mark.parametrize("terminal", [True, False])
def test_no_way_to_print_obeys_markup_or_escapes(terminal, capsys, monkeypatch):
    out = io.StringIO()
    if terminal:
        screen = Console(file=out, force_terminal=True, color_system=None, width=400, soft_wrap=True, **console.PLAIN)
        monkeypatch.setattr(console, "console", screen)
        monkeypatch.setattr(console, "errors", screen)
    console.say(HOSTILE)
    console.say_error(HOSTILE)
    console.show_table(["", HOSTILE], [["x", HOSTILE], [HOSTILE, "y"]], numbers=True)
    console.write(HOSTILE)
    for progress in (console.count_display, console.transfer_display):
        with progress(HOSTILE) as report:
            report(1, 1)
    with console.training_display(3) as report:
        report(HOSTILE)
    said = capsys.readouterr()
    text = out.getvalue() + said.out + said.err
    assert text.count("[/red]") >= 9 and ":smile:" in text
    for control in ("\x1b[2J", "\x1b]0;", "\x9b", "\u202e", "\x00"):
        assert control not in text
    if not terminal:
        assert is_harmless(text)


def test_list_and_show_of_a_strangers_card_and_recipe(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("I2I_HOME", str(tmp_path))
    words = "[/red] \\u001b[2J \\u202e [bold]x"
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "odd.toml").write_text(
        f'name = "odd"\nsummary = "{words}"\nterms = "{words}"\ndataset = {{ name = "images" }}\n'
        '[[download]]\nurl = "http://127.0.0.1:1/x"\n'
    )
    recipe = tmp_path / "mine.toml"
    shipped = (Path(__file__).parents[2] / "recipes" / "restoration" / "jpeg-5.toml").read_text(encoding="utf-8")
    recipe.write_text(f"# [/red] \x85 \u202e\n{shipped}", encoding="utf-8")
    for command in (["list", "datasets"], ["show", "odd"], ["show", str(recipe)], ["data", "fetch", "odd"]):
        with pytest.raises(SystemExit):
            main(command)
        said = capsys.readouterr()
        assert "[/red]" in said.out and is_harmless(said.out + said.err), command


@pytest.mark.parametrize(
    "text", ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(1)", "\t=1", "\r=1", "＝1", "'=1", "-", "+-1"]
)
def test_no_cell_is_a_formula_and_each_comes_back(text, tmp_path):
    # kills: cell-is-a-formula
    assert csv_file.cell(text) == f"'{text}" and csv_file.text_of(f"'{text}") == text
    file = tmp_path / "a.csv"
    with file.open("w", encoding="utf-8", newline="") as stream:
        csv_file.Writer(stream).writerows([["key", text], [text, -0.5]])
    assert list(csv_file.read_rows(file)) == [{"key": text, text: "-0.5"}]


@pytest.mark.parametrize("value", ["-0.25", "+1e-3", "-inf", -3, "plain", "'quoted'", "", "a=b", "–"])
def test_numbers_and_plain_text_stay_as_they_are(value):
    assert csv_file.cell(value) == value and csv_file.text_of(str(value)) == str(value)


def test_a_hostile_label_in_the_tables_of_a_comparison():
    metrics = {"=1+1": Estimate(-3.25, -4.0, -2.5, 0.5)}
    table = build_table([(0, f"=HYPERLINK({HOSTILE})", Row("nfe 1", 1, 6, metrics, 0.1))])
    header, row = csv.reader(io.StringIO(to_csv(table)))
    assert header[4] == "'=1+1" and row[0].startswith("'=HYPERLINK(a[/red]\\x1b")
    assert [float(cell) for cell in row[4:8]] == [-3.25, -4.0, -2.5, 0.5], "a negative number is no formula"
    assert is_harmless(to_csv(table)) and is_harmless(markdown(HOSTILE)) and is_harmless(latex(HOSTILE))


def test_a_damaged_file_of_rows_is_named(tmp_path):
    file = tmp_path / "a.csv"
    for data in (b"key\n\xff", b'key\n"' + b"x" * 200_000 + b'"\n'):
        file.write_bytes(data)
        with pytest.raises(ValueError, match=r"codec|line \d"):
            list(csv_file.read_rows(file))


def test_messages_of_unexpected_errors_are_lines(monkeypatch, capsys):
    def fail():
        raise ValueError(f"odd {HOSTILE}\nsecond line")

    monkeypatch.setattr("i2i_bridge.cli.doctor.examine", fail)
    with pytest.raises(SystemExit):
        main(["doctor"])
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and is_harmless(said) and "unexpected ValueError: odd a[/red]" in said
    assert is_harmless(str(UserError(HOSTILE)))
