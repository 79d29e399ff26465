"""Table of a comparison: methods x NFE with intervals and marks of the best; output as text, CSV, Markdown, LaTeX."""

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from i2i_bridge.errors import UserError, printable
from i2i_bridge.evaluation.results import Row
from i2i_bridge.metrics.base import Estimate, build_metric
from i2i_bridge.storage.csv_file import Writer

BEST, NEAR = "best", "near"
BETTER, WORSE, DIFFERS = "better", "worse", "differs"
UNKNOWN = Estimate(math.nan)


@dataclass(frozen=True)
class Column:
    """A metric in the table."""

    name: str
    label: str
    higher_is_better: bool | None
    """None if the metric is not registered (its plug-in is not loaded); nothing is marked then."""
    digits: int
    """Number of decimals."""

    def text(self, value: float) -> str:
        """Format a value of this column; NaN as a dash."""
        if math.isnan(value):
            return "–"
        return "∞" if value == math.inf else f"{value:.{self.digits}f}"

    def signed(self, value: float) -> str:
        """Format a difference with its sign; NaN as a dash."""
        return self.text(value) if math.isnan(value) else f"{value:+.{self.digits}f}"


@dataclass(frozen=True)
class Cell:
    """One number and its mark."""

    estimate: Estimate
    mark: str = ""
    """'best'; 'near' if the interval overlaps the best's; else ''. For differences see `mark_difference`."""


@dataclass(frozen=True)
class Line:
    """A row of the table."""

    entry: int
    """Index of the entry; -1 for baselines (degraded input, bicubic)."""
    label: str
    row: str
    """Name of the row in the evaluation, such as 'nfe 5'."""
    nfe: int
    images: int
    seconds: float | None
    cells: list[Cell]

    @property
    def is_baseline(self) -> bool:
        """True for rows without a network."""
        return self.entry < 0

    @property
    def calls(self) -> str:
        """Network calls; a dash if there is no network or the number is unknown."""
        return str(self.nfe) if self.nfe else "–"


@dataclass(frozen=True)
class Table:
    """Columns are metrics, lines are methods x NFE."""

    columns: list[Column]
    lines: list[Line]

    @property
    def notes(self) -> list[str]:
        """Notes below the table: metrics in which no method beats a baseline."""
        found = []
        for i, column in enumerate(self.columns):
            best = next((line.cells[i].estimate.value for line in self.lines if line.cells[i].mark == BEST), None)
            for line in self.lines:
                if best is not None and line.is_baseline and _better(column, line.cells[i].estimate.value, best):
                    found.append(f"No method beats the {line.label} in {column.label}.")
        return found


def build_table(rows: Sequence[tuple[int, str, Row]]) -> Table:
    """Build the table of (entry, label, row of an evaluation), with marks.

    Per metric, the best value among rows over the most images is marked 'best', and rows whose 95 % interval overlaps
    its interval 'near'. Baselines are never marked.
    """
    names = list(dict.fromkeys(name for _, _, row in rows for name in row.metrics))
    columns = [_column(name, [row for _, _, row in rows]) for name in names]
    most = max((row.images for entry, _, row in rows if entry >= 0), default=0)
    marks = [
        mark_best(
            column,
            [row.metrics.get(column.name) if entry >= 0 and row.images == most else None for entry, _, row in rows],
        )
        for column in columns
    ]
    lines = [
        Line(
            entry, label, row.name, row.nfe, row.images, row.seconds_per_image,
            [Cell(row.metrics.get(c.name, UNKNOWN), marks[k][i]) for k, c in enumerate(columns)],
        )
        for i, (entry, label, row) in enumerate(rows)
    ]  # fmt: skip
    return Table(columns, lines)


def mark_best(column: Column, estimates: Sequence[Estimate | None]) -> list[str]:
    """'best', 'near' or '' for each estimate; None is ignored."""
    there = [e.value for e in estimates if e is not None and not math.isnan(e.value)]
    if not there or column.higher_is_better is None:
        return [""] * len(estimates)
    best = max(there) if column.higher_is_better else min(there)
    winners = [e for e in estimates if e is not None and e.value == best]

    def near(estimate: Estimate) -> bool:
        return any(estimate.low <= winner.high and winner.low <= estimate.high for winner in winners)

    return ["" if e is None else BEST if e.value == best else NEAR if near(e) else "" for e in estimates]


def mark_difference(column: Column, difference: Estimate) -> str:
    """'better', 'worse', or 'differs' if the metric's direction is unknown; '' if the difference is not significant.

    Significant: more than two standard errors from 0, and the 95 % interval, which is wider for few seeds, excludes 0.
    """
    if not abs(difference.value) > 2 * difference.standard_error or difference.low <= 0 <= difference.high:
        return ""
    if column.higher_is_better is None:
        return DIFFERS
    return BETTER if (difference.value > 0) == column.higher_is_better else WORSE


def _better(column: Column, value: float, than: float) -> bool:
    return value > than if column.higher_is_better else value < than


def _column(name: str, rows: Sequence[Row]) -> Column:
    values = [row.metrics[name].value for row in rows if name in row.metrics]
    try:
        _, part = build_metric(name)
    except UserError:
        return Column(name, name, None, decimals(values))
    return Column(name, part.label, part.higher_is_better, decimals(values))


def decimals(values: Sequence[float]) -> int:
    """Decimals that show four digits of the largest value: 2 for 27.31, 4 for 0.8123, one to six."""
    largest = max((abs(value) for value in values if math.isfinite(value) and value), default=1.0)
    return min(max(3 - math.floor(math.log10(largest)), 1), 6)


def interval_text(column: Column, estimate: Estimate) -> str:
    """'low – high', or '' if the interval is unknown."""
    if math.isnan(estimate.low) or math.isnan(estimate.high):
        return ""
    return f"{column.text(estimate.low)} – {column.text(estimate.high)}"


def seconds_text(seconds: float | None) -> str:
    """Seconds with three significant digits."""
    if seconds is None or math.isnan(seconds):
        return "–"
    return f"{seconds:.0f}" if seconds >= 100 else f"{seconds:.3g}"


def to_words(table: Table) -> tuple[list[str], list[list[str]]]:
    """Header and rows as plain text, for a terminal."""
    header = ["", "NFE", *(column.label for column in table.columns), "seconds per image"]
    rows = []
    for line in table.lines:
        cells = []
        for column, cell in zip(table.columns, line.cells, strict=True):
            between = interval_text(column, cell.estimate)
            cells.append(column.text(cell.estimate.value) + (f" [{between.replace(' – ', ', ')}]" if between else ""))
        rows.append([line.label, line.calls, *cells, seconds_text(line.seconds)])
    return header, rows


def error_text(column: Column, estimate: Estimate) -> str:
    """The standard error as '± 0.12'; '' if it is unknown."""
    return "" if math.isnan(estimate.standard_error) else f"± {column.text(estimate.standard_error)}"


def differences_to_words(table: Table) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a table of differences as plain text, for a terminal."""
    rows = []
    for line in table.lines:
        cells = [
            " ".join(filter(None, [column.signed(cell.estimate.value), error_text(column, cell.estimate), cell.mark]))
            for column, cell in zip(table.columns, line.cells, strict=True)
        ]
        rows.append([line.label, line.calls, *cells])
    return ["", "NFE", *(column.label for column in table.columns)], rows


def differences_to_markdown(table: Table) -> str:
    """A table of differences as Markdown: significant ones bold, with their direction."""
    header = ["method", "NFE", *(markdown(column.label) for column in table.columns)]
    lines = [header, ["---", *["---:"] * (len(header) - 1)]]
    for line in table.lines:
        cells = []
        for column, cell in zip(table.columns, line.cells, strict=True):
            value = column.signed(cell.estimate.value)
            small = " ".join(filter(None, [error_text(column, cell.estimate), cell.mark]))
            cells.append((f"**{value}**" if cell.mark else value) + (f" <sub>{small}</sub>" if small else ""))
        lines.append([markdown(line.label), line.calls, *cells])
    return "".join(f"| {' | '.join(words)} |\n" for words in lines)


def to_csv(table: Table) -> str:
    """The table as CSV with full precision: separate columns for value, interval and standard error."""
    stream = io.StringIO()
    writer = Writer(stream, lineterminator="\n")
    parts = ("", "_low", "_high", "_standard_error")
    numbers = [f"{column.name}{part}" for column in table.columns for part in parts]
    writer.writerow(["method", "nfe", "images", "seconds_per_image", *numbers])
    for line in table.lines:
        values: list[str] = []
        for cell in line.cells:
            e = cell.estimate
            values += ["" if math.isnan(x) else repr(float(x)) for x in (e.value, e.low, e.high, e.standard_error)]
        seconds = "" if line.seconds is None else f"{line.seconds:.6g}"
        writer.writerow([printable(line.label, lines=True), line.nfe, line.images, seconds, *values])
    return stream.getvalue()


def to_markdown(table: Table) -> str:
    """The table as Markdown: best bold, intervals small."""
    arrows = {True: " ↑", False: " ↓", None: ""}
    header = ["method", "NFE", *(markdown(c.label) + arrows[c.higher_is_better] for c in table.columns), "s / image"]
    lines = [header, ["---", *["---:"] * (len(header) - 1)]]
    for line in table.lines:
        cells = []
        for column, cell in zip(table.columns, line.cells, strict=True):
            value, interval = column.text(cell.estimate.value), interval_text(column, cell.estimate)
            value = f"**{value}**" if cell.mark == BEST else value
            cells.append(value + (f" <sub>{interval}</sub>" if interval else ""))
        lines.append([markdown(line.label), line.calls, *cells, seconds_text(line.seconds)])
    return "".join(f"| {' | '.join(words)} |\n" for words in lines)


def markdown(text: str) -> str:
    """Escape plain text for a cell of a Markdown table."""
    return re.sub(r"([\\`*_{}\[\]<>#|~$&])", r"\\\1", " ".join(printable(text).split()))


def to_latex(table: Table, caption: str) -> str:
    """The table as LaTeX (booktabs, amsmath): best bold, a star if the interval overlaps the best's.

    Args:
        caption: First sentence of the caption; it is escaped.
    """
    arrows = {True: r" $\uparrow$", False: r" $\downarrow$", None: ""}
    header = ["Method", "NFE", *(latex(c.label) + arrows[c.higher_is_better] for c in table.columns), "s / image"]
    body = []
    for i, line in enumerate(table.lines):
        if i and table.lines[i - 1].entry != line.entry:
            body.append(r"\midrule" if table.lines[i - 1].is_baseline else r"\addlinespace")
        cells = [_latex_cell(column, cell) for column, cell in zip(table.columns, line.cells, strict=True)]
        ends = (line.calls.replace("–", "--"), seconds_text(line.seconds).replace("–", "--"))
        body.append(" & ".join([latex(line.label), ends[0], *cells, ends[1]]) + r" \\")
    return "\n".join(
        [
            r"% needs \usepackage{booktabs} and \usepackage{amsmath}",
            r"\begin{table}",
            r"\centering",
            rf"\begin{{tabular}}{{lr{'r' * len(table.columns)}r}}",
            r"\toprule",
            " & ".join(header) + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            rf"\caption{{{latex(caption)} In brackets: 95\,\% intervals. Bold: best.",
            r"A star: its interval overlaps the best's.}",
            r"\end{table}",
            "",
        ]
    )


def _latex_cell(column: Column, cell: Cell) -> str:
    value = column.text(cell.estimate.value).replace("∞", r"$\infty$").replace("–", "--")
    value = rf"\textbf{{{value}}}" if cell.mark == BEST else value + (r"$^*$" if cell.mark == NEAR else "")
    interval = interval_text(column, cell.estimate).replace("∞", r"$\infty$").replace(" – ", ", ")
    return value + (rf" {{\scriptsize [{interval}]}}" if interval else "")


LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
  }  # fmt: skip


def latex(text: str) -> str:
    """Escape plain text for LaTeX."""
    return "".join(LATEX.get(letter, letter) for letter in printable(text))
