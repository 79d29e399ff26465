"""Saving checkpoints during training, with a limit on failed saves in a row."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from i2i_bridge.distributed import Ranks
from i2i_bridge.errors import IO_ERROR, UserError
from i2i_bridge.recipe.recipe import Recipe
from i2i_bridge.runs.checkpoint import save_checkpoint
from i2i_bridge.storage.files import write_whole
from i2i_bridge.storage.shipped import RECIPE_FILE
from i2i_bridge.training.state import TrainState
from i2i_bridge.training.validation import Best, write_best

PATIENCE = 3
"""Number of failed saves in a row that ends the run."""


class Checkpointer:
    """Save the run's state on rank 0 and share the outcome with all ranks.

    Args:
        folder: The run folder.
        recipe: The run's recipe.
        machine: Facts about the machine, written into the manifest.
        report: Receives a line for each failed save.
        saved_at: The step of the checkpoint that the run resumes from; None for a new run.
        best: The best validation of that checkpoint, which may be of another rule; None if it has none.
    """

    def __init__(
        self,
        folder: Path,
        recipe: Recipe,
        ranks: Ranks,
        machine: Mapping[str, str],
        report: Callable[[str], None],
        saved_at: int | None,
        best: Best | None = None,
    ) -> None:
        self._folder, self._recipe, self._ranks = folder, recipe, ranks
        self._machine, self._report = dict(machine), report
        self.saved_at = saved_at
        self.best = best
        """The best validation whose checkpoint was saved."""
        self._failures = 0

    def save(self, state: TrainState, best: Best | None = None, *, last: bool) -> None:
        """Save a checkpoint; report a failure and let training continue.

        Args:
            best: The best validation so far. The checkpoint of the best one that was saved is not removed.
            last: Whether the run ends here; a failure then raises.

        Raises:
            UserError: The save failed at the end of the run, or for the PATIENCE-th time in a row.
        """
        saved = None if self.best is None else self.best.step
        if best is None or best.step not in (state.step, saved):
            best = self.best  # the save at `best` failed: otherwise the older best, which is on disk, would be removed
        problem = ""
        if self._ranks.is_first:
            try:
                counters: dict[str, Any] = state.counters() | {"machine": self._machine}
                counters |= {} if best is None else {"best": asdict(best)}
                if not (self._folder / RECIPE_FILE).is_file():  # the folder was removed during the run
                    write_whole(self._folder / RECIPE_FILE, self._recipe.to_toml().encode())
                home, keep = self._folder / "checkpoints", state.settings.keep
                kept = None if best is None else best.step
                save_checkpoint(home, state.step, state.parts(), counters, keep, best=kept)
            except UserError as error:
                problem = str(error)
        if not self._ranks.any(bool(problem)):
            self.saved_at, self._failures, self.best = state.step, 0, best
            if self._ranks.is_first and best is not None and best.step == state.step:
                try:
                    write_best(self._folder, best)
                except UserError as error:
                    self._report(f"note: {error}; training continues, the next start writes it")
            return
        self._failures += 1
        good = "there is no checkpoint yet" if self.saved_at is None else f"last good step {self.saved_at}"
        line = problem or "checkpoint not saved (see process 0)"
        if last or self._failures == PATIENCE:
            times = "" if last else f"{self._failures} times in a row; "
            raise UserError(f"{line}; {times}{good}", IO_ERROR)
        self._report(f"{line}; training continues, {good}")
