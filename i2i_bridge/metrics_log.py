"""metrics.jsonl and metrics.csv of a run: the same rows, one per logged step."""

import csv
import json
from pathlib import Path
from typing import Any


class MetricsLog:
    """Appends rows to both files of a run folder.

    Args:
        folder: The run folder.
        after_step: Rows of later steps are dropped: a resumed run writes them again.
        writes: False makes every call do nothing (processes other than the first).
    """

    def __init__(self, folder: Path, *, after_step: int, writes: bool = True) -> None:
        self._jsonl, self._csv = folder / "metrics.jsonl", folder / "metrics.csv"
        self._writes = writes
        if writes and self._jsonl.is_file():
            rows = [row for row in read_metrics(folder) if row["step"] <= after_step]
            self._jsonl.unlink()
            self._csv.unlink(missing_ok=True)
            for row in rows:
                self._append(row)

    def write(self, row: dict[str, Any]) -> None:
        """Append a row, of the same names each time."""
        if self._writes:
            self._append(row)

    def _append(self, row: dict[str, Any]) -> None:
        with self._jsonl.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row) + "\n")
        new = not self._csv.exists()
        with self._csv.open("a", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, fieldnames=list(row))
            if new:
                writer.writeheader()
            writer.writerow(row)


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The logged rows of a run folder, oldest first; a line cut off by a crash is left out."""
    rows = []
    file = folder / "metrics.jsonl"
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows
