"""All measurements in one evaluated folder: the evaluation, the values of single images, and the training curves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from i2i_bridge.evaluation.results import (
    DATA_FILE,
    INPUTS_FILE,
    Evaluation,
    evaluation_folder,
    read_evaluation,
    read_hashes,
    read_item_scores,
)
from i2i_bridge.recipe.load import load_recipe
from i2i_bridge.storage.shipped import RECIPE_FILE
from i2i_bridge.training.log import read_metrics
from i2i_bridge.training.validation import Best, best_in

if TYPE_CHECKING:
    from i2i_bridge.recipe.recipe import Recipe


@dataclass(frozen=True)
class Measurements:
    """Everything that a page shows of one folder: a run, or scored results of other code."""

    folder: Path
    home: Path
    """The folder of the evaluation."""
    recipe: "Recipe | None"
    """None for results of other code."""
    evaluation: Evaluation
    scores: Mapping[tuple[str, str], Mapping[str, float]]
    """Values by (key of the item, row) and metric; NaN if the metric has none per image."""
    scored: frozenset[str]
    """Keys of the scored images."""
    inputs: Mapping[str, str]
    """Contents of INPUTS_FILE by key, including images that are only a reference."""
    losses: Mapping[str, Sequence[tuple[float, float]]]
    """(step, loss) of the network under '', and of its companions under their names."""
    best: Best | None
    """The best step of train.keep_best; None if none was measured."""

    @property
    def seed(self) -> int | None:
        """The training seed; None for results of other code."""
        return None if self.recipe is None else self.recipe.train.seed

    def value(self, metric: str, row: str) -> float:
        """The value of a metric over all images."""
        return next(found.metrics[metric].value for found in self.evaluation.rows if found.name == row)


def read_measurements(folder: Path, protocol: str) -> Measurements:
    """Read the measurements in a folder under a protocol.

    Raises:
        UserError: The folder is not evaluated under the protocol, or a file is damaged or cannot be read.
    """
    evaluation, home = read_evaluation(folder, protocol), evaluation_folder(folder, protocol)
    recipe = load_recipe(folder / RECIPE_FILE) if (folder / RECIPE_FILE).is_file() else None
    metrics = dict.fromkeys(name for row in evaluation.rows for name in row.metrics)
    losses: dict[str, list[tuple[float, float]]] = {}
    for logged in read_metrics(folder):
        for name, value in logged.items():
            if name.startswith("loss") and isinstance(value, int | float):
                losses.setdefault(name.removeprefix("loss").removeprefix("_"), []).append((logged["step"], value))
    return Measurements(
        folder,
        home,
        recipe,
        evaluation,
        read_item_scores(home / "per_image.csv", metrics),
        frozenset(read_hashes(home / DATA_FILE)),
        read_hashes(home / INPUTS_FILE),
        losses,
        best_in(folder),
    )
