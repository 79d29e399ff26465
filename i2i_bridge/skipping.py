"""Steps whose numbers are not finite: they change nothing, are said and written down, and too many end the run."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from i2i_bridge.data.loading import PairDataset
from i2i_bridge.errors import UserError
from i2i_bridge.files import write_whole
from i2i_bridge.train_state import TrainState

LIMIT = 10
"""So many in a row end the run."""
NOT_FINITE = 65
"""Exit code of a run that ended so (EX_DATAERR)."""


class Skips:
    """Keeps count of the skipped steps.

    The step itself is skipped on the device, without waiting for it (TrainState); here the flags are read, on a CPU
    after each step, on an accelerator after every LIMIT steps and before each report and checkpoint.

    Args:
        folder: The run folder.
        dataset: Names the samples of a step.
        report: Receives a line for each skipped step.
        writes: Whether this process writes the files.
    """

    def __init__(
        self, state: TrainState, folder: Path, dataset: PairDataset, report: Callable[[str], None], writes: bool
    ) -> None:
        self._state, self._folder, self._dataset = state, folder, dataset
        self._report, self._writes = report, writes
        self._flags: list[Tensor] = []

    def add(self, flag: Tensor) -> None:
        """Take the flag of the step that was just counted: 1 where it was skipped, on every process the same.

        Raises:
            UserError: It was one too many in a row.
        """
        self._flags.append(flag)
        if flag.device.type == "cpu" or len(self._flags) == LIMIT:
            self.read()

    def read(self) -> None:
        """Wait for the device, and count.

        Raises:
            UserError: There were too many in a row.
        """
        flags = torch.stack(self._flags).tolist() if self._flags else []
        first = self._state.step - len(flags)
        self._flags = []
        for step, skipped in enumerate(flags, first + 1):
            self._state.in_a_row = self._state.in_a_row + 1 if skipped else 0
            if skipped:
                self._state.skipped += 1
                self._note(step)
            if self._state.in_a_row >= LIMIT:
                raise UserError(
                    f"the loss or its gradient is not finite at step {step}, the {LIMIT}th in a row; the last "
                    "checkpoint is kept. Lower train.lr, set train.clip_norm, or use train.precision=fp32",
                    NOT_FINITE,
                )

    def _note(self, step: int) -> None:
        if not self._writes:
            return
        size = self._state.settings.batch_size
        numbers = range((step - 1) * size, step * size)
        samples: list[dict[str, Any]] = [{"number": n, "key": self._dataset.key_of(n)} for n in numbers]
        file = self._folder / f"nonfinite-step-{step}.json"
        where = f"listed in {file.name}"
        try:
            write_whole(file, json.dumps({"step": step, "samples": samples}, indent=1).encode())
        except UserError as error:
            where = str(error)
        self._report(f"step {step} skipped: its loss or gradient is not finite ({size} samples, {where})")
