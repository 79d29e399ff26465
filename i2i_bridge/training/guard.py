"""Skipped steps and skipped images: count, report and log them.

A step with a non-finite loss or gradient leaves the state unchanged, and LIMIT of them in a row end the run. With
data.on_error = "skip", PairDataset.sample replaces an unusable image by another; the replacements are listed in a file.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from i2i_bridge.data.dataset import PairDataset
from i2i_bridge.distributed import Ranks
from i2i_bridge.errors import UserError, located, one_line, plural
from i2i_bridge.storage.files import append, write_whole
from i2i_bridge.storage.reader import read_json_lines
from i2i_bridge.training.step import Outcome

LIMIT = 10
"""Number of skipped steps in a row that ends the run."""
NOT_FINITE = 65
"""Exit code of a run that ended after LIMIT skipped steps (EX_DATAERR)."""
UNUSABLE_FILE = "unusable-images.jsonl"
RECHECKED = 100
"""Number of the most recently replaced images that are checked again when a run resumes."""


class NonFiniteGuard:
    """Report skipped steps (non-finite loss or gradient), list their samples, and abort after LIMIT in a row.

    The step itself decides, without a sync. Its outcome is read here: on a CPU after each step, on an accelerator after
    every LIMIT steps and before each report and checkpoint.

    Args:
        folder: The run folder.
        dataset: The training data, for the keys of a step's samples.
        batch_size: Samples of a step, over all ranks.
        report: Receives a line for each skipped step.
        writes: Whether this process writes the files.
    """

    def __init__(
        self, folder: Path, dataset: PairDataset, batch_size: int, report: Callable[[str], None], writes: bool
    ) -> None:
        self._folder, self._dataset, self._batch_size = folder, dataset, batch_size
        self._report, self._writes = report, writes
        self._unread: list[Outcome] = []

    def add(self, outcome: Outcome) -> None:
        """Add the outcome of a step.

        Raises:
            UserError: LIMIT steps in a row were skipped.
        """
        self._unread.append(outcome)
        if outcome.in_a_row.device.type == "cpu" or len(self._unread) == LIMIT:
            self.read()

    def read(self) -> None:
        """Read the outcomes since the last call, which waits for the device.

        Raises:
            UserError: LIMIT steps in a row were skipped.
        """
        outcomes, self._unread = self._unread, []
        counts = torch.stack([outcome.in_a_row for outcome in outcomes]).tolist() if outcomes else []
        for outcome, in_a_row in zip(outcomes, counts, strict=True):
            if in_a_row > 0:
                self._note(outcome.step)
            if in_a_row >= LIMIT:
                raise UserError(
                    f"the loss or its gradient is not finite at step {outcome.step}, the {LIMIT}th in a row; the last "
                    "checkpoint is kept. Lower train.lr, set train.clip_norm, or use train.precision=fp32",
                    NOT_FINITE,
                )

    def _note(self, step: int) -> None:
        if not self._writes:
            return
        numbers = range((step - 1) * self._batch_size, step * self._batch_size)
        samples: list[dict[str, Any]] = [{"number": n, "key": self._dataset.key_of(n)} for n in numbers]
        file = self._folder / f"nonfinite-step-{step}.json"
        where = f"listed in {file.name}"
        try:
            write_whole(file, json.dumps({"step": step, "samples": samples}, indent=1).encode())
        except UserError as error:
            where = str(error)
        self._report(
            f"step {step} skipped: its loss or gradient is not finite ({plural(len(samples), 'sample')}, {where})"
        )


class UnusableImages:
    """List unusable images in `unusable-images.jsonl`: a row for each sample that got another image.

    Args:
        folder: The run folder.
        after: Rows of this sample number and later ones are dropped: a resumed run writes them again.
        report: Receives one line for all images since the previous report.
    """

    def __init__(self, folder: Path, after: int, report: Callable[[str], None], ranks: Ranks) -> None:
        self._file, self._report, self._ranks = folder / UNUSABLE_FILE, report, ranks
        self._new: list[dict[str, Any]] = []
        self._count = 0
        if ranks.is_first and self._file.is_file():
            rows = [row for row in read_unusable(folder) if row["sample"] < after]
            write_whole(self._file, _lines(rows))
            self._count = len(rows)

    def add(self, step: int, batch_size: int, batch: Mapping[str, Any]) -> None:
        """Add the replaced images of a batch of this process, from its fields "unusable" and "key"."""
        first = step * batch_size + self._ranks.index * len(batch["unusable"])
        for number, (skipped, instead) in enumerate(zip(batch["unusable"], batch["key"], strict=True), first):
            self._new += [
                {"sample": number, "step": step + 1, "item": index, "key": key, "reason": reason, "instead": instead}
                for index, key, reason in skipped
            ]

    def write(self) -> None:
        """Gather the new rows of all ranks, and report and write them on rank 0. Collective: every rank calls it."""
        rows = [row for rows in self._ranks.gathered(self._new) for row in rows]
        self._new = []
        if not rows or not self._ranks.is_first:
            return
        rows.sort(key=lambda row: row["sample"])
        self._count += len(rows)
        where = f"listed in {self._file.name}"
        try:
            append(self._file, _lines(rows), flush=True)
        except OSError as error:
            where = f"{self._file.name} not written: {error.strerror or error}"
        reasons = list(dict.fromkeys(row["reason"] for row in rows))
        more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
        self._report(
            f"unusable images: {plural(len(rows), 'sample')} got another image, {self._count} in all, {where}: "
            f"{one_line(reasons[0])}{more}"
        )


def read_unusable(folder: Path) -> list[dict[str, Any]]:
    """Read the rows of a run folder's `unusable-images.jsonl`, in order; malformed rows are left out.

    Raises:
        UserError: The file cannot be read, or is no regular file.
    """
    file = folder / UNUSABLE_FILE
    with located(file, "cannot be read", OSError):
        rows = read_json_lines(file)
    return [
        row for row in rows if isinstance(row, dict) and all(type(row.get(name)) is int for name in ("sample", "item"))
    ]


def repaired(folder: Path, before: int, dataset: PairDataset) -> int:
    """Count the images that were unusable before sample number `before` and can be read now.

    Only the last RECHECKED of them are checked. Where the count is not 0, later samples differ from those of a run that
    was never stopped.
    """
    items = dict.fromkeys(row["item"] for row in reversed(read_unusable(folder)) if row["sample"] < before)
    candidates = [item for item in list(items)[:RECHECKED] if 0 <= item < len(dataset)]
    return sum(dataset.is_usable(item) for item in candidates)


def _lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()
