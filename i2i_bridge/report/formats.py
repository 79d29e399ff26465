"""Formats of a table: text for a terminal, CSV, and the templates of Markdown, LaTeX and HTML."""

import io
import json
import math
import re
from functools import cache
from typing import TYPE_CHECKING, Any

from i2i_bridge.errors import printable
from i2i_bridge.report.table import Table
from i2i_bridge.storage.csv_file import Writer

if TYPE_CHECKING:
    from jinja2 import Environment


def seconds_text(seconds: float | None) -> str:
    """Seconds with three significant digits."""
    if seconds is None or math.isnan(seconds):
        return "–"
    return f"{seconds:.0f}" if seconds >= 100 else f"{seconds:.3g}"


def to_words(table: Table) -> tuple[list[str], list[list[str]]]:
    """Header and rows as plain text, for a terminal."""
    header, rows = ["", "NFE", *(column.label for column in table.columns)], []
    for line in table.lines:
        row = [line.label, line.calls]
        for cell in table.texts(line):
            small = cell.small if table.of_differences or not cell.small else f"[{cell.small.replace(' – ', ', ')}]"
            row.append(f"{cell.value} {small}".strip())
        rows.append(row if table.of_differences else [*row, seconds_text(line.seconds)])
    return header if table.of_differences else [*header, "seconds per image"], rows


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


def to_markdown(table: Table, paired: Any = None) -> str:
    """The table as Markdown: best bold, intervals small; with `paired` also the paired differences."""
    return render("table.md", table=table, paired=paired)


def to_latex(table: Table, caption: str) -> str:
    """The table as LaTeX (booktabs, amsmath): best bold, a star if the interval overlaps the best's.

    Args:
        caption: First sentence of the caption; it is escaped.
    """
    return render("table.tex", table=table, caption=caption)


def markdown(text: str) -> str:
    """Escape plain text for a cell of a Markdown table."""
    return re.sub(r"([\\`*_{}\[\]<>#|~$&])", r"\\\1", " ".join(printable(text).split()))


def code(text: str) -> str:
    """Plain text as a code span of Markdown."""
    return f"`{' '.join(printable(text).replace('`', chr(39)).split())}`"


LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
}  # fmt: skip


def latex(text: str) -> str:
    """Escape plain text for LaTeX."""
    return "".join(LATEX.get(letter, letter) for letter in printable(text))


def render(template: str, **values: Any) -> str:
    """Render a template; in HTML names and labels are escaped."""
    return _environment().get_template(template).render(**values)


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    def finalize(value: Any) -> Any:
        # Otherwise control characters in a label could change the writing direction of the text after it.
        return printable(value, lines=True) if isinstance(value, str) and not isinstance(value, Markup) else value

    environment = Environment(
        loader=PackageLoader("i2i_bridge.report"),
        autoescape=lambda name: name is not None and name.endswith(".html"),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
        finalize=finalize,
    )
    environment.filters |= {
        "markdown": markdown,
        "code": code,
        "quoted": json.dumps,
        "latex": latex,
        "seconds": seconds_text,
    }
    return environment
