"""metrics.jsonl and metrics.csv of a run: the same rows, one per logged step."""

import io
import json
from pathlib import Path
from typing import Any

from i2i_bridge.csv_file import Writer
from i2i_bridge.errors import UserError
from i2i_bridge.file_reader import read_json_lines
from i2i_bridge.files import append, write_whole


class MetricsLog:
    """Appends rows to both files of a run folder.

    Args:
        folder: The run folder.
        after_step: Rows of later steps are dropped: a resumed run writes them again.
        writes: False makes every call do nothing (processes other than the first).

    Raises:
        UserError: The files cannot be written.
    """

    def __init__(self, folder: Path, *, after_step: int, writes: bool = True) -> None:
        self._jsonl, self._csv = folder / "metrics.jsonl", folder / "metrics.csv"
        self._writes = writes
        if writes and self._jsonl.is_file():
            rows = [row for row in read_metrics(folder) if row["step"] <= after_step]
            # Whole, so that a crash here loses no row, and a line cut off by an earlier one is gone.
            write_whole(self._csv, (_csv(list(rows[0])) + "".join(map(_csv, rows)) if rows else "").encode())
            write_whole(self._jsonl, "".join(json.dumps(row) + "\n" for row in rows).encode())

    def write(self, row: dict[str, Any]) -> None:
        """Append a row, of the same names each time.

        Raises:
            OSError: As the operating system says.
        """
        if self._writes:
            new = not self._csv.exists() or not self._csv.stat().st_size
            append(self._csv, ((_csv(list(row)) if new else "") + _csv(row)).encode())
            append(self._jsonl, (json.dumps(row) + "\n").encode())


def _csv(row: dict[str, Any] | list[str]) -> str:
    line = io.StringIO(newline="")
    Writer(line).writerow(row if isinstance(row, list) else row.values())
    return line.getvalue()


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The logged rows of a run folder, oldest first; a line cut off by a crash, or of a stranger's, is left out.

    Raises:
        UserError: The file cannot be read, is no regular file, or is larger than any log.
    """
    file = folder / "metrics.jsonl"
    try:
        return [row for row in read_json_lines(file) if _is_row(row)]
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror or error})") from error


def _is_row(row: Any) -> bool:
    if not isinstance(row, dict) or type(row.get("step")) is not int or row["step"] < 0:
        return False
    integers = [value for value in row.values() if isinstance(value, int)]
    return all(isinstance(value, int | float | str | None) for value in row.values()) and all(
        abs(value) < 2**63 for value in integers
    )
