"""Table of a comparison: methods x NFE with intervals and marks of the best."""

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from i2i_bridge.errors import UserError
from i2i_bridge.evaluation.results import INPUT, Evaluation, Row
from i2i_bridge.metrics.base import Estimate, build_metric
from i2i_bridge.report.entries import Entry

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
    def name(self) -> str:
        """The name of the row on a page, such as 'degraded input' or 'bridge, NFE 5'."""
        return row_name(self.label, self.row)

    @property
    def calls(self) -> str:
        """Network calls; a dash if there is no network or the number is unknown."""
        return str(self.nfe) if self.nfe else "–"


class CellText(NamedTuple):
    """A cell as text."""

    value: str
    small: str
    """The interval; of a difference the standard error and the mark."""
    title: str
    """The note of the number; of a difference the interval."""
    mark: str


@dataclass(frozen=True)
class Table:
    """Columns are metrics, lines are methods x NFE."""

    columns: list[Column]
    lines: list[Line]
    of_differences: bool = False

    def texts(self, line: Line) -> list[CellText]:
        """The cells of a line as text."""
        found = []
        for column, cell in zip(self.columns, line.cells, strict=True):
            number, interval = cell.estimate, interval_text(column, cell.estimate)
            if self.of_differences:
                error = "" if math.isnan(number.standard_error) else f"± {column.text(number.standard_error)}"
                small, title = " ".join(filter(None, [error, cell.mark])), interval and f"95 % interval: {interval}"
                found.append(CellText(column.signed(number.value), small, title, cell.mark))
            else:
                found.append(CellText(column.text(number.value), interval, number.note, cell.mark))
        return found

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


def interval_text(column: Column, estimate: Estimate) -> str:
    """'low – high', or '' if the interval is unknown."""
    if math.isnan(estimate.low) or math.isnan(estimate.high):
        return ""
    return f"{column.text(estimate.low)} – {column.text(estimate.high)}"


def baseline_label(row: str) -> str:
    """The label of a baseline row in the table."""
    return "degraded input" if row == INPUT else row


def row_name(label: str, row: str) -> str:
    """The name of a row of a method on a page, such as 'bridge, NFE 5'."""
    return f"{label}, {row.upper()}" if row.startswith("nfe ") else label


def table_of(entries: Sequence[Entry]) -> Table:
    """The table of entries: baselines, then the shown rows of each entry."""
    baselines = {row.name: row for entry in reversed(entries) for row in entry.evaluation.baselines}
    rows = [(-1, baseline_label(name), row) for name, row in baselines.items()]
    return build_table([*rows, *((i, entry.label, row) for i, entry in enumerate(entries) for row in entry.rows)])


def single_table(evaluation: Evaluation) -> Table:
    """The table of one evaluation."""
    rows = [(-1, baseline_label(row.name), row) for row in evaluation.baselines]
    return build_table([*rows, *((0, evaluation.method, row) for row in evaluation.rows_of_method())])


def build_table(rows: Sequence[tuple[int, str, Row]]) -> Table:
    """Build the table of (entry, label, row of an evaluation), with marks.

    Per metric, the best value among rows over the most images is marked 'best', and rows whose 95 % interval overlaps
    its interval 'near'. Baselines are never marked.
    """
    names = list(dict.fromkeys(name for _, _, row in rows for name in row.metrics))
    columns = []
    for name in names:
        label, higher_is_better = name, None
        with contextlib.suppress(UserError):  # a metric of a plug-in that is not loaded
            label, higher_is_better = (metric := build_metric(name)[1]).label, metric.higher_is_better
        values = [row.metrics[name].value for _, _, row in rows if name in row.metrics]
        columns.append(Column(name, label, higher_is_better, decimals(values)))
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
    values = [e.value for e in estimates if e is not None and not math.isnan(e.value)]
    if not values or column.higher_is_better is None:
        return [""] * len(estimates)
    best = max(values) if column.higher_is_better else min(values)
    winners = [e for e in estimates if e is not None and e.value == best]
    marks = []
    for e in estimates:
        near = e is not None and any(e.low <= winner.high and winner.low <= e.high for winner in winners)
        marks.append(BEST if e is not None and e.value == best else NEAR if near else "")
    return marks


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


def decimals(values: Sequence[float]) -> int:
    """Decimals that show four digits of the largest value: 2 for 27.31, 4 for 0.8123, one to six."""
    largest = max((abs(value) for value in values if math.isfinite(value) and value), default=1.0)
    return min(max(3 - math.floor(math.log10(largest)), 1), 6)
