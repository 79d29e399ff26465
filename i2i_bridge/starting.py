"""The weights that a new run starts from: those of another run's folder (`train.init`, `train --init RUN`)."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from i2i_bridge.checkpoint import Checkpoint, latest_checkpoint, passed_over
from i2i_bridge.errors import UserError
from i2i_bridge.file_reader import open_regular
from i2i_bridge.files import write_whole
from i2i_bridge.recipe import Recipe, load_recipe
from i2i_bridge.run import load_weights
from i2i_bridge.shipped import RECIPE_FILE
from i2i_bridge.train_state import NETWORK, TrainState

INIT_FILE = "init.json"
"""Where a run folder says what its first weights were."""


@dataclass(frozen=True)
class Init:
    """A run folder whose newest checkpoint gives a new run its first weights."""

    folder: Path
    recipe: Recipe
    checkpoint: Checkpoint
    sha256: str
    """Of the checkpoint's ema.safetensors."""
    notes: list[str]

    def load_into(self, state: TrainState, recipe: Recipe) -> list[str]:
        """Copy the moving average into the network and its average, and companions' weights where both runs have them.

        The optimizer starts anew, at step 0. What was restored by the other run is restored by the new one's step 0.

        Returns:
            Lines for the user: what the weights are, and what the recipes do not share.

        Raises:
            UserError: The tensors are not exactly those of the recipe's network.
        """
        where = str(self.checkpoint.folder)
        try:
            weights = self.checkpoint.tensors("ema")
            load_weights(state.ema, weights, where)
            load_weights(state.network, weights, where)
            taken = [name for name in state.modules if name != NETWORK and self._has(name)]
            for name in taken:
                load_weights(state.modules[name], self.checkpoint.tensors(name), where)
        except UserError as error:
            raise UserError(f"{error}; train.init takes a run of exactly the same network") from error
        fresh = [name for name in state.modules if name != NETWORK and name not in taken]
        lines = [
            f"starting from the weights of {self.folder}, step {self.checkpoint.step} (ema.safetensors, SHA-256 "
            f"{self.sha256})",
            *self.notes,
        ]
        lines += [f"note: {self.folder} has no weights of the {name}; it starts afresh" for name in fresh]
        for part in ("method", "process", "target"):
            there, here = getattr(self.recipe, part), getattr(recipe, part)
            if there != here:
                lines.append(f"note: the weights were trained with another {part}: {there} there, {here} here")
        return lines

    def _has(self, part: str) -> bool:
        return (self.checkpoint.folder / f"{part}.safetensors").is_file()

    def write(self, folder: Path) -> None:
        """Write down in a run folder where its first weights came from.

        Raises:
            UserError: The file cannot be written.
        """
        said = {
            "source": str(self.folder),
            "checkpoint": self.checkpoint.folder.name,
            "file": "ema.safetensors",
            "sha256": self.sha256,
        }
        write_whole(folder / INIT_FILE, (json.dumps(said, indent=1) + "\n").encode())


def with_init(recipe: Recipe, source: str | Path) -> Recipe:
    """The recipe, to start from a run's weights."""
    return recipe.model_copy(update={"train": recipe.train.model_copy(update={"init": str(source)})})


def absolute_init(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with `train.init` as an absolute path, so that it means the same from any folder.

    Args:
        folder: Of the new run.

    Raises:
        UserError: It is the new run's own folder.
    """
    if recipe.train.init is None:
        return recipe
    source = Path(recipe.train.init).expanduser().absolute()
    if source.resolve() == folder.resolve():
        raise UserError(f"{folder}: a run cannot start from the weights of its own folder; choose another --out")
    return with_init(recipe, source)


def open_init(recipe: Recipe) -> Init | None:
    """The run that `train.init` names, read and verified; None where it names none.

    Raises:
        UserError: There is no such run, or it has no whole checkpoint.
    """
    if recipe.train.init is None:
        return None
    source = Path(recipe.train.init)
    if not (source / RECIPE_FILE).is_file():
        raise UserError(f"train.init: {source} is not a run folder (it has no {RECIPE_FILE})")
    checkpoint, damaged = latest_checkpoint(source / "checkpoints")
    if checkpoint is None:
        raise UserError(f"train.init: {source} has no checkpoint yet; train it first")
    notes = [f"note: {passed_over(line)}" for line in damaged]
    weights = checkpoint.folder / "ema.safetensors"
    try:
        with open_regular(weights) as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"train.init: {weights}: cannot be read ({error.strerror})") from error
    return Init(source, load_recipe(source / RECIPE_FILE), checkpoint, digest, notes)
