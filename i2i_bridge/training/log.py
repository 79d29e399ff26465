"""Training logs: metrics.jsonl and metrics.csv, rates, and the time left."""

import io
import json
import math
import resource
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from i2i_bridge.console import Progress
from i2i_bridge.errors import located
from i2i_bridge.storage.csv_file import Writer
from i2i_bridge.storage.files import append, write_whole
from i2i_bridge.storage.reader import read_json_lines
from i2i_bridge.training.state import NETWORK
from i2i_bridge.training.step import Outcome
from i2i_bridge.training.trackers import Trackers


class MetricsLog:
    """Append rows to metrics.jsonl and metrics.csv of a run folder.

    Args:
        folder: The run folder.
        after_step: Rows of later steps are dropped: a resumed run writes them again.
        columns: Further names of rows to come, which older rows get without a value.
        writes: False makes every call do nothing (processes other than the first).

    Raises:
        UserError: The files cannot be written.
    """

    def __init__(self, folder: Path, *, after_step: int, columns: Sequence[str] = (), writes: bool = True) -> None:
        self._jsonl, self._csv = folder / "metrics.jsonl", folder / "metrics.csv"
        self._writes = writes
        self._header: list[str] = []
        self.last_step = 0
        """Step of the last row that the files had, of a dropped one too."""
        self.trackers: Trackers | None = None
        """Get a copy of every row."""
        if writes and self._jsonl.is_file():
            rows = read_metrics(folder)
            self.last_step = max((row["step"] for row in rows), default=0)
            rows = [row for row in rows if row["step"] <= after_step]
            rows = [row | {name: row.get(name) for name in columns} for row in rows]
            self._header = list(dict.fromkeys(name for row in rows for name in row))
            # Rewritten atomically: otherwise a crash here loses rows. A line cut off by an earlier crash is dropped.
            text = _csv(self._header) + "".join(map(self._line, rows)) if rows else ""
            write_whole(self._csv, text.encode())
            write_whole(self._jsonl, "".join(json.dumps(row) + "\n" for row in rows).encode())

    def write(self, row: dict[str, Any]) -> None:
        """Append a row; metrics.csv gets its values under the names of the file's header.

        Raises:
            OSError: A file cannot be written.
        """
        if self._writes:
            new = not self._csv.exists() or not self._csv.stat().st_size
            if new or not self._header:
                self._header = list(row)
            append(self._csv, ((_csv(self._header) if new else "") + self._line(row)).encode())
            append(self._jsonl, (json.dumps(row) + "\n").encode())
        if self.trackers is not None:
            self.trackers.log(row)

    def _line(self, row: dict[str, Any]) -> str:
        return _csv([row.get(name) for name in self._header])


def _csv(values: Sequence[Any]) -> str:
    line = io.StringIO(newline="")
    Writer(line).writerow(values)
    return line.getvalue()


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Read the logged rows of a run folder, oldest first; lines that are cut off or no rows are left out.

    Raises:
        UserError: The file cannot be read, is no regular file, or is larger than any log.
    """
    file = folder / "metrics.jsonl"
    with located(file, "cannot be read", OSError):
        return [row for row in read_json_lines(file) if _is_row(row)]


def _is_row(row: Any) -> bool:
    if not isinstance(row, dict) or type(row.get("step")) is not int or row["step"] < 0:
        return False
    integers = [value for value in row.values() if isinstance(value, int)]
    return all(isinstance(value, int | float | str | None) for value in row.values()) and all(
        abs(value) < 2**63 for value in integers
    )


class Window:
    """Losses, gradient norms and times since the last report; only `progress` waits for the device."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Forget the outcomes and times."""
        self.wait, self.busy = 0.0, 0.0
        self.outcomes: list[Outcome] = []
        self.mark = time.perf_counter()

    def waiting(self) -> None:
        """Count the time since the last call as work; from here on the data are waited for."""
        now = time.perf_counter()
        self.busy += now - self.mark
        self.mark = now

    def working(self) -> None:
        """Count the time since the last call as waiting for data."""
        now = time.perf_counter()
        self.wait += now - self.mark
        self.mark = now

    def add(self, outcome: Outcome) -> None:
        """Add the outcome of a step."""
        self.outcomes.append(outcome)

    def _mean(self, values: list[Tensor]) -> Tensor:
        """Mean of a value of each step over the steps that were not skipped; NaN if all were skipped."""
        taken = torch.stack([outcome.in_a_row for outcome in self.outcomes]) == 0
        return torch.stack(values).where(taken, math.nan).nanmean()

    def progress(self, steps: int, accelerator: Any) -> Progress:
        """The means and rates since the last report, over all ranks; `steps` is the number of steps of the run."""
        last = self.outcomes[-1]
        means = {name: self._mean([outcome.losses[name] for outcome in self.outcomes]) for name in last.losses}
        losses = {name: accelerator.reduce(mean, reduction="mean").item() for name, mean in means.items()}
        loss = losses.pop(NETWORK)
        norm = self._mean([outcome.norms[NETWORK] for outcome in self.outcomes]).item()
        self.waiting()
        seconds = max(self.busy + self.wait, 1e-9)
        rate = len(self.outcomes) / seconds
        wait, memory, left = self.wait / seconds, _peak_memory(accelerator.device), (steps - last.step) / rate
        self.restart()
        return Progress(last.step, steps, loss, last.lr, norm, rate, wait, memory, left, losses)


def _peak_memory(device: torch.device) -> float:
    if device.type == "cuda":  # pragma: no cover - needs a GPU
        return torch.cuda.max_memory_allocated(device) / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
