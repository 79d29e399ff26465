"""A trained run that a recipe names ([mean], [teacher]): opened for a new run, which keeps a copy in its folder."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from i2i_bridge.errors import UserError, located
from i2i_bridge.networks.weights import weights_sha256
from i2i_bridge.recipe.recipe import Recipe
from i2i_bridge.runs.copies import write_copy
from i2i_bridge.runs.load import load_run
from i2i_bridge.runs.run import Run
from i2i_bridge.storage.shipped import place_of


@dataclass(frozen=True)
class OtherRun:
    """A trained run that a new run starts from or learns from."""

    run: Run
    table: str
    """The recipe's table that names it, and the subfolder of its copy: "mean" or "teacher"."""
    lines: list[str]
    """Lines for the user."""

    def write(self, folder: Path) -> None:
        """Copy recipe and weights into a run folder, so that it does not depend on the folder that was named.

        Raises:
            UserError: The folder holds a copy of another run, or the copy cannot be written.
        """
        write_copy(self.run, folder, self.table)


def open_other(
    recipe: Recipe, table: str, use: str, check: Callable[[Recipe, Recipe, str], list[str]], device: torch.device
) -> tuple[Recipe, OtherRun | None]:
    """Open the run that a table of the recipe names.

    Args:
        table: "mean" or "teacher".
        use: What it is for, in words, such as "learning from".
        check: `check_mean` or `check_teacher`.

    Returns:
        The recipe with the run's path and SHA-256, and the run; None without the table.

    Raises:
        UserError: There is no such run, it has no whole checkpoint, is refused by `check`, or its weights have another
            SHA-256 than the table says.
    """
    settings = getattr(recipe, table)
    if settings is None:
        return recipe, None
    place, notes = place_of(settings.run), list[str]()
    with located(f"{table}.run"):
        run = load_run(place, device=device, report=lambda line: notes.append(f"note: {line}"))
    notes += check(recipe, run.recipe, str(place))
    sha256 = weights_sha256(run.method.network)
    if settings.sha256 not in (None, sha256):
        raise UserError(f"{table}.run: {place} holds other weights (SHA-256 {sha256}) than {table}.sha256 says")
    notes.insert(0, f"{use} {place}, step {run.step} (SHA-256 of its weights {sha256})")
    settings = settings.model_copy(update={"run": str(place), "sha256": sha256})
    return recipe.model_copy(update={table: settings}), OtherRun(run, table, notes)
