"""Read and write CSV files whose cells a spreadsheet does not evaluate as formulas."""

import csv
import io
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

from i2i_bridge.storage.reader import LIST_LIMIT, read_text

FORMULA = re.compile(r"'*[=+\-@\t\r\n＝＋－＠]")
"""Matches a text that a spreadsheet would evaluate as a formula, also after `cell` has quoted it."""


def cell(value: Any) -> Any:
    """A value as a CSV cell: a text that begins like a formula is prefixed with `'`; numbers are unchanged."""
    if isinstance(value, str) and FORMULA.match(value) and not _is_number(value):
        return f"'{value}"
    return value


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return text[0] in "+-"


def text_of(written: str) -> str:
    """The inverse of `cell`: the text without the `'` that `cell` added."""
    return written[1:] if written.startswith("'") and FORMULA.match(written) else written


class Writer:
    """Writes rows of cells (`cell`) to a text stream opened with `newline=""`."""

    def __init__(self, stream: TextIO, lineterminator: str = "\r\n") -> None:
        self._writer = csv.writer(stream, lineterminator=lineterminator)

    def writerow(self, values: Iterable[Any]) -> None:
        """Write a row."""
        self._writer.writerow([cell(value) for value in values])

    def writerows(self, rows: Iterable[Iterable[Any]]) -> None:
        """Write several rows."""
        for row in rows:
            self.writerow(row)


def read_rows(file: Path) -> Iterator[dict[str, str]]:
    """The rows of a file written by `Writer`, as dictionaries keyed by the first row; a short row has fewer keys.

    Raises:
        OSError: The file cannot be read, is not a regular file, or is too large.
        ValueError: The file is not CSV in UTF-8.
    """
    reader = csv.reader(io.StringIO(read_text(file, LIST_LIMIT), newline=""))
    try:
        header = [text_of(name) for name in next(reader, [])]
        for cells in reader:
            yield {name: text_of(written) for name, written in zip(header, cells, strict=False)}
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num}: {error}") from error
