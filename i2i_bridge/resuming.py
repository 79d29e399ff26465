"""Whether a run folder's run and a recipe are the same run."""

from pathlib import Path
from typing import Any

from i2i_bridge.data.loading import PairDataset
from i2i_bridge.errors import UserError
from i2i_bridge.recipe import Recipe, load_recipe
from i2i_bridge.shipped import RECIPE_FILE
from i2i_bridge.targets import estimate_moments

FREE_TO_CHANGE = (
    "steps",
    "workers",
    "save_every",
    "keep",
    "sample_every",
    "log_every",
    "micro_batch",
    "compile",
    "rank_timeout",
)
"""Settings of [train] that a resumed run may change: they leave the data, times and noise of every step as they were.
`steps` moves the end of a falling learning rate, `micro_batch` draws other dropout, and `compile` changes last bits."""


def resolved(folder: Path, recipe: Recipe, dataset: PairDataset, *, started: bool) -> Recipe:
    """The recipe with what is estimated from data; where the folder holds a started run, seen to be the same one."""
    if started:
        if not (folder / RECIPE_FILE).is_file():
            raise UserError(
                f"{folder} holds checkpoints and no {RECIPE_FILE}: nobody knows of which run; choose another --out"
            )
        recipe, difference = _compared(load_recipe(folder / RECIPE_FILE), recipe)
        if difference:
            raise UserError(f"{folder} holds a run of other settings ({difference}); choose another --out")
    elif recipe.target["name"] == "preconditioned" and not {"var_0", "var_1", "cov_01"} <= set(recipe.target):
        count = min(len(dataset), 256)
        moments = estimate_moments((item["x_0"], item["x_1"]) for item in map(dataset.__getitem__, range(count)))
        recipe = recipe.model_copy(update={"target": moments | recipe.target})
    if not started and dataset.factor > 1:
        recipe = _with_factor(recipe, dataset.factor)
    return recipe


def is_run_of(folder: Path, recipe: Recipe) -> bool:
    """Whether a folder is known to be a run of this recipe, so that its leftovers may be removed."""
    try:
        return not _compared(load_recipe(folder / RECIPE_FILE), recipe)[1]
    except UserError:  # there is none, or it cannot be read
        return False


def _compared(there: Recipe, recipe: Recipe) -> tuple[Recipe, str]:
    """The recipe with the moments and the factor that a run's recipe has, and the first setting that differs."""
    if recipe.data.factor is None:
        recipe = _with_factor(recipe, there.data.factor)
    if recipe.target["name"] == "preconditioned":
        recipe = recipe.model_copy(update={"target": there.target | recipe.target})
    return recipe, _first_difference(essence(there), essence(recipe))


def _with_factor(recipe: Recipe, factor: int | None) -> Recipe:
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"factor": factor})})


def essence(recipe: Recipe) -> dict[str, Any]:
    table = recipe.model_dump(mode="json", exclude={"summary", "reference", "sample", "evaluate", "method_label"})
    table["train"] = {key: value for key, value in table["train"].items() if key not in FREE_TO_CHANGE}
    return table


def _first_difference(there: Any, here: Any, path: str = "") -> str:
    if isinstance(there, dict) and isinstance(here, dict):
        for key in [*there, *(key for key in here if key not in there)]:
            found = _first_difference(there.get(key), here.get(key), f"{path}.{key}".lstrip("."))
            if found:
                return found
        return ""
    return "" if there == here else f"{path}: {there!r} there, {here!r} here"
