"""The table of a comparison: what is marked, how many digits, and its CSV and LaTeX."""

import csv
import io
import math
import re

import pytest

from i2i_bridge.evaluation.results import Row
from i2i_bridge.metrics.base import Estimate
from i2i_bridge.report.formats import latex, seconds_text, to_csv, to_latex, to_markdown
from i2i_bridge.report.table import Column, build_table, decimals, interval_text, mark_best

PSNR = Column("psnr", "PSNR (dB)", True, 2)


def row(name, nfe, images=6, seconds=0.1, **values):
    metrics = {key: Estimate(v, v - 1, v + 1, 0.5) for key, v in values.items()}
    return Row(name, nfe, images, metrics, seconds)


def test_best_and_overlapping_are_marked_by_direction():
    # kills: lowest-is-best overlap-by-value
    found = [Estimate(20, 19.5, 20.5), Estimate(25, 24, 26), Estimate(23.5, 23, 24.2), Estimate(math.nan), None]
    assert mark_best(PSNR, found) == ["", "best", "near", "", ""]
    assert mark_best(Column("lpips", "LPIPS", False, 4), found) == ["best", "", "", "", ""]
    assert mark_best(Column("own", "own", None, 2), found) == [""] * 5
    assert mark_best(PSNR, [Estimate(5), Estimate(5), Estimate(4)]) == ["best", "best", ""], "ties; unknown intervals"
    assert mark_best(PSNR, []) == [] and mark_best(PSNR, [None]) == [""]


def test_baselines_and_rows_of_fewer_images_compete_with_nobody():
    # kills: baseline-competes; a row of three images beside rows of six called best
    table = build_table(
        [(-1, "degraded input", row("input", 0, psnr=40.0)), (0, "a", row("nfe 1", 1, psnr=20.0)),
         (1, "b", row("nfe 1", 1, psnr=30.0, images=3))]
    )  # fmt: skip
    assert [line.cells[0].mark for line in table.lines] == ["", "best", ""]
    assert table.notes == ["No method beats the degraded input in PSNR (dB)."]
    assert build_table([(0, "a", row("nfe 1", 1, psnr=20.0))]).notes == []


def test_a_metric_that_one_method_lacks_leaves_a_dash():
    table = build_table([(0, "a", row("nfe 1", 1, psnr=20.0)), (1, "b", row("nfe 1", 1, ssim=0.5, unheard_of=3.0))])
    assert [column.name for column in table.columns] == ["psnr", "ssim", "unheard_of"]
    assert table.columns[1].text(table.lines[0].cells[1].estimate.value) == "–"
    assert table.columns[2].higher_is_better is None and table.lines[1].cells[2].mark == ""


@pytest.mark.parametrize(
    ("values", "digits"),
    [([27.31, 8.0], 2), ([0.8123], 4), ([4.6], 3), ([0.0123], 5), ([350.0], 1), ([12345.0], 1), ([1e-9], 6), ([], 3),
     ([math.inf, math.nan, 31.0], 2), ([0.0], 3)],
)  # fmt: skip
def test_four_digits_of_the_largest(values, digits):
    assert decimals(values) == digits


def test_texts():
    assert PSNR.text(math.inf) == "∞" and PSNR.text(math.nan) == "–" and PSNR.text(27.305) in ("27.30", "27.31")
    assert interval_text(PSNR, Estimate(1.0)) == "" and interval_text(PSNR, Estimate(1, 0.5, 1.5)) == "0.50 – 1.50"
    assert [seconds_text(s) for s in (None, 0.02131, 1.23456, 345.6)] == ["–", "0.0213", "1.23", "346"]


HOSTILE = 'a_b & 50% $x$ #1 {y} \\input{z} ~^ <i>, "quoted"\nnew'


def test_csv_keeps_every_digit_and_any_name():
    value = 27.123456789
    text = to_csv(build_table([(0, HOSTILE, row("nfe 5", 5, psnr=value)), (1, "b", row("nfe 1", 1, seconds=None))]))
    first, second = csv.DictReader(io.StringIO(text))
    assert first["method"] == HOSTILE and float(first["psnr"]) == value
    assert (first["nfe"], first["images"], float(first["psnr_low"])) == ("5", "6", value - 1)
    assert second["psnr"] == "" and second["seconds_per_image"] == ""


def test_markdown_is_a_table_whatever_the_names():
    # kills: markdown-best-unmarked; a label that breaks the row or becomes markup
    table = build_table(
        [(-1, "degraded input", row("input", 0, psnr=10.0)), (0, "a|b\n*c* <i>", row("nfe 5", 5, psnr=20.0, ssim=0.5))]
    )
    lines = to_markdown(table).splitlines()
    assert lines[0] == "| method | NFE | PSNR (dB) ↑ | SSIM ↑ | s / image |" and lines[1].count("---:") == 4
    assert lines[2] == "| degraded input | – | 10.00 <sub>9.00 – 11.00</sub> | – | 0.1 |"
    assert lines[3].startswith(r"| a\|b \*c\* \<i\> | 5 | **20.00** <sub>19.00 – 21.00</sub> | **0.5000** ")
    assert len(lines) == 4


def test_latex_escapes_every_special_letter():
    # kills: a name that ends the table, opens mathematics, or comments the rest of a line away
    commands = r"\\(textbackslash|textasciitilde|textasciicircum|textless|textgreater)\{\}|\\[&%$#_{}]"
    assert re.sub(commands, "", latex(HOSTILE)) == 'ab  50 x 1 y inputz  i, "quoted" new'
    assert latex("a_b{c}") == r"a\_b\{c\}"
    table = build_table(
        [(-1, "degraded input", row("input", 0, seconds=None, psnr=20.0)), (0, HOSTILE, row("nfe 5", 5, psnr=27.0)),
         (1, "b", row("nfe 1", 1, psnr=26.0))]
    )  # fmt: skip
    whole = to_latex(table, "6 images, 100% ours")
    assert r"\textbf{27.00} {\scriptsize [26.00, 28.00]}" in whole and r"26.00$^*$" in whole
    assert "degraded input & -- & 20.00" in whole and r"100\% ours" in whole
    body = whole[whole.index(r"\toprule") : whole.index(r"\bottomrule")]
    assert {line.count("&") - line.count(r"\&") for line in body.splitlines() if line.endswith(r"\\")} == {3}
    assert whole.count(r"\begin{") == whole.count(r"\end{") == 2
    assert re.search(r"\\begin\{tabular\}\{lrrr\}", whole)
