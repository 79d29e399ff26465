"""CSV files: cells that no spreadsheet takes for a formula, and the rows of a file from anybody."""

import csv
import io
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

from i2i_bridge.storage.reader import LIST_LIMIT, read_text

FORMULA = re.compile(r"'*[=+\-@\t\r\n＝＋－＠]")
"""How a text begins that a spreadsheet would run, or that has been marked as one by `cell`."""


def cell(value: Any) -> Any:
    """A value as a CSV cell: a text that begins like a formula gets a `'` before it, a number stays a number."""
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
    """The text that `cell` wrote."""
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
    """The rows of a file that `Writer` wrote, by the names in its first row; cells that a row lacks are missing.

    Raises:
        OSError: It cannot be read, is no regular file, or is too large.
        ValueError: It is no CSV file in UTF-8.
    """
    reader = csv.reader(io.StringIO(read_text(file, LIST_LIMIT), newline=""))
    try:
        header = [text_of(name) for name in next(reader, [])]
        for cells in reader:
            yield {name: text_of(written) for name, written in zip(header, cells, strict=False)}
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num}: {error}") from error
