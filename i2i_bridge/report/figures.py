"""Plots of a page as SVG; colours are variables of the page's style sheet, which has a dark mode."""

import io
import math
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from i2i_bridge.report.table import Column, Line, Table

# Placeholder colours, replaced by the variables in VARIABLES. They must not occur in an SVG by chance.
INK, SOFT, GRID = "#0a0b0c", "#0a0b0d", "#0a0b0e"
COLOURS = tuple(f"#0a0c{i:02d}" for i in range(8))
VARIABLES = {INK: "--ink", SOFT: "--soft", GRID: "--line"} | {colour: f"--c{i}" for i, colour in enumerate(COLOURS)}
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")

SCALES = 10
"""Losses that are larger than others by more than this factor get separate axes."""

SETTINGS: Any = {
    "svg.fonttype": "none",  # text stays text, for search, screen readers and the fonts of the page
    "text.parse_math": False,  # otherwise a '$' in the name of a run starts a formula
    "font.size": 9,
    "svg.hashsalt": "i2i-bridge",
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": SOFT,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "grid.color": GRID,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "savefig.transparent": True,
}


@dataclass(frozen=True)
class Panel:
    """Plots of one metric against its cost."""

    label: str
    by_nfe: str
    """SVG."""
    by_seconds: str
    """SVG; '' if no row was timed."""
    note: str = ""


def quality_panels(table: Table) -> list[Panel]:
    """A panel for each metric: value with its 95 % interval against network calls, and against seconds per image."""
    panels = []
    for i, column in enumerate(table.columns):
        if not any(math.isfinite(line.cells[i].estimate.value) for line in table.lines if not line.is_baseline):
            continue
        by_nfe, note = _quality_plot(
            table, i, {id(line): float(line.nfe) for line in table.lines if line.nfe}, "network calls per image (NFE)"
        )
        timed = {
            id(line): line.seconds
            for line in table.lines
            if line.seconds and math.isfinite(line.cells[i].estimate.value)
        }
        by_seconds = _quality_plot(table, i, timed, "seconds per image")[0] if timed else ""
        panels.append(Panel(column.label + _arrow(column), by_nfe, by_seconds, note))
    return panels


def _arrow(column: Column) -> str:
    return {True: " ↑", False: " ↓", None: ""}[column.higher_is_better]


def _quality_plot(table: Table, i: int, costs: Mapping[int, float], title: str) -> tuple[str, str]:
    with _canvas() as (canvas, axes):
        axes.set_xscale("log")
        finite = [line for line in table.lines if math.isfinite(line.cells[i].estimate.value)]
        ticks = {costs[id(line)] for line in finite if id(line) in costs and not line.is_baseline}
        if ticks:  # before drawing: otherwise the axes of a single point have no width
            axes.set_xlim(min(ticks) / 1.25, max(ticks) * 1.25)
        ends: list[float] = []
        for entry in dict.fromkeys(line.entry for line in table.lines if not line.is_baseline):
            lines = [line for line in finite if line.entry == entry]
            points = sorted(
                ((costs[id(line)], line) for line in lines if id(line) in costs), key=lambda point: point[0]
            )
            if points:
                ends += _draw_curve(axes, points, i, entry)
            for line in lines:
                if id(line) not in costs:  # results of other code have no known cost
                    value = line.cells[i].estimate.value
                    axes.axhline(value, ls=":", lw=1.4, color=COLOURS[entry % len(COLOURS)])
                    ends.append(value)
        note = _draw_baselines(axes, table, i, ends)
        if title.startswith("network"):
            axes.set_xticks(sorted(ticks))
        axes.xaxis.set_major_formatter(_tick_label)
        axes.minorticks_off()
        axes.set_xlabel(title)
        return _svg(canvas, table.columns[i].label), note


def _draw_curve(axes: Any, points: Sequence[tuple[float, Line]], i: int, entry: int) -> list[float]:
    colour, marker = COLOURS[entry % len(COLOURS)], MARKERS[entry % len(MARKERS)]
    x = [cost for cost, _ in points]
    estimates = [line.cells[i].estimate for _, line in points]
    y = [e.value for e in estimates]
    low = [e.low if math.isfinite(e.low) else e.value for e in estimates]
    high = [e.high if math.isfinite(e.high) else e.value for e in estimates]
    if len(x) > 1:
        axes.fill_between(x, low, high, color=colour, alpha=0.14, linewidth=0)
    else:
        axes.vlines(x, low, high, color=colour, alpha=0.5, linewidth=1.4)
    axes.plot(x, y, color=colour, marker=marker, markersize=4.5, linewidth=1.5)
    return [*low, *high]


def _draw_baselines(axes: Any, table: Table, i: int, ends: Sequence[float]) -> str:
    """Draw baselines as dashed lines; return a note for those far outside, which would flatten the curves."""
    low, high = min(ends), max(ends)
    reach = 1.5 * ((high - low) or abs(high) or 1.0)
    notes = []
    for line in table.lines:
        value = line.cells[i].estimate.value
        if not line.is_baseline or not math.isfinite(value):
            continue
        if low - reach <= value <= high + reach:
            axes.axhline(value, ls=(0, (4, 3)), lw=1, color=SOFT)
            axes.annotate(
                line.label, (1, value), xycoords=("axes fraction", "data"), xytext=(0, 2), textcoords="offset points",
                ha="right", va="bottom", fontsize=8, color=SOFT,
            )  # fmt: skip
        else:
            notes.append(f"{line.label} {table.columns[i].text(value)}, outside the plot")
    return "; ".join(notes)


def training_curves(curves: Mapping[int, Mapping[str, Sequence[tuple[float, float]]]]) -> str:
    """Loss against step, one line for each entry, as SVG; '' if nothing was logged.

    Losses of one scale share axes; a loss more than 10 times larger than another gets separate axes.

    Args:
        curves: By entry and name: (step, loss) of the network under '', and of its companions under their names,
            drawn dashed with the name at the end.
    """
    lines = [(entry, name, points) for entry, losses in curves.items() for name, points in losses.items() if points]
    groups = _group_by_scale(lines)
    if not groups:
        return ""
    with _canvas(5.2, 1.1 + 1.6 * len(groups), len(groups)) as (canvas, *many):
        for axes, group in zip(many, groups, strict=True):
            _draw_losses(axes, group, max(points[-1][0] for _, _, points in lines))
        many[-1].set_xlabel("step")
        return _svg(canvas, "training loss")


Losses = Sequence[tuple[int, str, Sequence[tuple[float, float]]]]
"""Curves as (entry, name, [(step, loss), ...])."""


def _group_by_scale(lines: Losses) -> list[Losses]:
    """Group curves whose median absolute losses differ by a factor of at most SCALES; largest last."""
    sized = []
    for i, (_, _, points) in enumerate(lines):
        finite = [abs(loss) for _, loss in points if math.isfinite(loss)]
        if finite:
            sized.append((statistics.median(finite), i))
    groups: list[list[int]] = []
    smallest = math.nan
    for size, i in sorted(sized):
        if not groups or size > SCALES * smallest:
            groups.append([])
            smallest = size
        groups[-1].append(i)
    return [[lines[i] for i in sorted(group)] for group in groups]


def _draw_losses(axes: Any, lines: Losses, last: float) -> None:
    values = [loss for _, _, points in lines for _, loss in points if math.isfinite(loss)]
    for entry, name, points in lines:
        colour = COLOURS[entry % len(COLOURS)]
        axes.plot(
            [step for step, _ in points], [loss for _, loss in points],
            color=colour, lw=0.9 if name else 1.4, ls=(0, (4, 2)) if name else "-",
            marker="o" if len(points) == 1 else "", markersize=4,
        )  # fmt: skip
        if name:
            side = "right" if points[-1][0] > last / 2 else "left"  # keeps the name inside the axes
            axes.annotate(
                name, points[-1], xytext=(0, 4), textcoords="offset points", ha=side, fontsize=8, color=colour
            )
    if min(values) > 0 and max(values) / min(values) > 10:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(_tick_label)
        axes.minorticks_off()
    axes.set_ylabel("loss")


def _tick_label(value: float, place: int) -> str:
    """Tick label as a plain number; on a log axis matplotlib writes powers of ten."""
    return f"{value:g}"


@contextmanager
def _canvas(width: float = 4.3, height: float = 2.9, count: int = 1) -> Iterator[tuple[Any, ...]]:
    """Yield a figure and `count` axes, stacked with a shared x axis, under SETTINGS."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(SETTINGS):
        canvas = Figure(figsize=(width, height), layout="constrained")
        many = canvas.subplots(count, squeeze=False, sharex=True)[:, 0]
        for axes in many:
            axes.grid(linewidth=0.6)
            axes.set_axisbelow(True)
            axes.tick_params(length=0)
        yield canvas, *many


def _svg(canvas: Any, title: str) -> str:
    stream = io.StringIO()
    canvas.savefig(stream, format="svg", metadata={"Date": None, "Title": title})
    text = stream.getvalue()
    text = text[text.index("<svg") :].replace("<svg ", '<svg role="img" ', 1)
    # Ids must be unique in a page of many figures. Drop the numbered ones; ids that are referenced contain a hash.
    text = re.sub(r' id="[A-Za-z0-9.]+_\d+"', "", text)
    # A style element would apply to the whole page.
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    return text
