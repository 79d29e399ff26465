"""Run identity: check that a recipe and the run in a folder are the same run, and fill in data-dependent settings."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from i2i_bridge.bridge.targets import estimate_moments
from i2i_bridge.data.dataset import PairDataset, usable_items
from i2i_bridge.errors import UserError, plural
from i2i_bridge.networks.weights import weights_sha256
from i2i_bridge.recipe.load import load_recipe
from i2i_bridge.recipe.recipe import Recipe
from i2i_bridge.recipe.schema import LatentSettings, MeanSettings, TeacherSettings, TrainSettings
from i2i_bridge.runs.load import load_run
from i2i_bridge.storage.reader import read_bytes
from i2i_bridge.storage.shipped import LATENT_FOLDER, MEAN_FOLDER, RECIPE_FILE, TEACHER_FOLDER, place_of
from i2i_bridge.training.schedule import learning_rate

NamedRun = MeanSettings | TeacherSettings
"""A table that names another run, of which the run folder holds a copy."""
RATE = ("lr", "schedule", "warmup_steps", "decay_from", "lr_gamma", "lr_step")
"""Settings of [train] that the learning rate depends on, beside `steps`."""
FREE_TO_CHANGE = (
    *RATE,
    "steps",
    "workers",
    "save_every",
    "keep",
    "keep_best",
    "validate_every",
    "validate_images",
    "patience",
    "sample_every",
    "log_every",
    "track",
    "micro_batch",
    "compile",
    "rank_timeout",
    "init",
    "init_added",
    "init_strict",
)
"""Settings of [train] that may change on resume, since data, times and noise of every step do not depend on them.
RATE changes the updates from there on, `steps` moves the end of a falling learning rate, `micro_batch` draws other
dropout, and `compile` changes last bits."""
MOMENTS = ("var_0", "var_1", "cov_01")
RUN_FILES = (
    "metrics.csv",
    "metrics.jsonl",
    "init.json",
    "best.json",
    "samples/step-*.png",
    *(f"{copied}/{RECIPE_FILE}" for copied in (MEAN_FOLDER, TEACHER_FOLDER, LATENT_FOLDER)),
)
"""Patterns of the files of a run beside its recipe that a new run would write over."""
_OTHER_OUT = "choose another --out"


class OtherSettings(UserError):
    """A run folder holds a run of other settings than the ones given.

    Args:
        text: The message.
        fits: Whether a new run with the settings given could start from that run's weights.
    """

    def __init__(self, text: str, *, fits: bool) -> None:
        super().__init__(text)
        self.fits = fits


def resolved(
    folder: Path,
    recipe: Recipe,
    dataset: PairDataset,
    *,
    started: Recipe | None,
    init: Recipe | None,
    start: Callable[[dict[str, Any]], Tensor] = lambda item: item["x_1"],
) -> Recipe:
    """Fill in data-dependent settings (target moments); if the folder holds a run, check that its recipe is the same.

    The image folder becomes an absolute path, so that the run can be evaluated from any working directory.

    Args:
        started: The recipe of the run that the folder holds; None where it holds no checkpoint.
        init: The recipe of the run whose weights a new run starts from.
        start: Maps an item to the start of the process: X_1, or a mean's output.

    Raises:
        UserError: The folder holds a run of another recipe or of other first weights, or the images hold no variation.
    """
    recipe = recipe.with_absolute_root()
    if started is not None:
        recipe, difference = _compared(started, recipe)
        if difference:
            fits = _network(started) == _network(recipe)
            then = f"choose another --out, with --init {folder} to start from its weights" if fits else _OTHER_OUT
            raise OtherSettings(f"{folder} holds a run of other settings ({difference}); {then}", fits=fits)
        source = started.train.init
        if recipe.train.init not in (None, source):
            began = "from no other weights" if source is None else f"from {source}"
            raise UserError(f"{folder} holds a run that started {began}; leave --init out, or {_OTHER_OUT}")
        recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update={"init": source})})
    elif recipe.target["name"] == "preconditioned" and not all(name in recipe.target for name in MOMENTS):
        if init is not None and init.target["name"] == "preconditioned":
            moments = {name: init.target[name] for name in MOMENTS}  # the weights were trained for these
        else:
            try:
                moments = estimate_moments((item["x_0"], start(item)) for item in _first_items(dataset))
            except ValueError as error:
                raise UserError(f"target: {error}") from error
        recipe = recipe.model_copy(update={"target": moments | recipe.target})
    if started is None and dataset.factor > 1:
        recipe = _with_factor(recipe, dataset.factor)
    return recipe


def started_recipe(folder: Path) -> Recipe:
    """Load the recipe of the run that a folder holds.

    Raises:
        UserError: The recipe is missing or cannot be read.
    """
    if not (folder / RECIPE_FILE).is_file():
        raise UserError(
            f"{folder} holds checkpoints but no {RECIPE_FILE}, so their run is unknown; choose another --out"
        )
    return load_recipe(folder / RECIPE_FILE)


def refuse_files_of_others(folder: Path) -> None:
    """Check that a folder without a checkpoint holds no files of a user's that a new run would write over.

    A run writes recipe.toml first, and every default into it, without comments.

    Raises:
        UserError: It holds a recipe.toml that no run wrote, or another file of a run's name and no recipe.toml.
    """
    if any((folder / "checkpoints").glob("step-*")):
        return
    file = folder / RECIPE_FILE
    if os.path.lexists(file):
        if not _is_written(file):
            raise UserError(
                f"{file} is not of a run, and a run writes its own {RECIPE_FILE}; choose another --out, or rename it"
            )
    elif found := next((path for name in RUN_FILES for path in folder.glob(name) if not path.is_dir()), None):
        raise UserError(
            f"{folder} is no run (it has no {RECIPE_FILE}) and holds {found.relative_to(folder)}, which a run would "
            f"write over; {_OTHER_OUT}"
        )


def _is_written(file: Path) -> bool:
    """Whether the text of a recipe is the one that a run writes for it."""
    try:
        return load_recipe(file).to_toml().encode() == read_bytes(file)
    except (UserError, OSError):
        return False


def is_run_of(folder: Path, recipe: Recipe) -> bool:
    """Whether a folder holds a run of this recipe, so that leftovers of an interrupted save may be removed."""
    try:
        return is_same_run(load_recipe(folder / RECIPE_FILE), recipe)
    except UserError:  # the recipe is missing or cannot be read
        return False


def is_same_run(started: Recipe, recipe: Recipe) -> bool:
    """Whether a recipe is that of a started run, except for what may change on resume and what is measured.

    Raises:
        UserError: A run that the recipe starts from cannot be read.
    """
    return not _compared(started, recipe)[1]


def _compared(started: Recipe, recipe: Recipe) -> tuple[Recipe, str]:
    """The recipe with the values measured for the started run (moments, noise, factor), and the first difference."""
    if recipe.data.factor is None:
        recipe = _with_factor(recipe, started.data.factor)
    if recipe.target["name"] == "preconditioned":
        recipe = recipe.model_copy(update={"target": started.target | recipe.target})
    if recipe.train.init_sha256 is None:  # the source is read at step 0 only and may have been deleted since
        source = {"init_sha256": started.train.init_sha256}
        recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update=source)})
    others = {name: _recorded(name, getattr(started, name), getattr(recipe, name)) for name in ("mean", "teacher")}
    recipe = recipe.model_copy(update=others | {"latent": _recorded_latent(started.latent, recipe.latent)})
    if recipe.auto_noise and started.process["name"] == recipe.process["name"]:
        noise = {key: started.process.get(key) for key in recipe.any_process().with_noise(1.0)}
        recipe = recipe.model_copy(update={"process": recipe.process | noise})
    started, current = started.with_absolute_root(), recipe.with_absolute_root()
    same = started.without_places().data == current.without_places().data
    if same and started.data.root is not None and not Path(started.data.root).exists():
        # The image folder was moved, for example to another machine: still the same run.
        started = started.model_copy(update={"data": current.data})
    return recipe, _first_difference(run_identity(started), run_identity(current))


def _recorded(name: str, started: NamedRun | None, current: NamedRun | None) -> NamedRun | None:
    """[mean] or [teacher] of the started run if both name the same weights; those at another path are compared."""
    if started is None or current is None:
        return current
    sha256 = current.sha256
    if sha256 is None and place_of(current.run) == Path(started.run):
        sha256 = started.sha256
    elif sha256 is None:
        try:
            sha256 = weights_sha256(load_run(place_of(current.run), device="cpu").method.network)
        except UserError as error:
            raise UserError(f"{name}.run: {error}; the run started from {started.run}") from error
    return current.model_copy(update={"sha256": sha256} | ({"run": started.run} if sha256 == started.sha256 else {}))


def _recorded_latent(started: LatentSettings | None, current: LatentSettings | None) -> LatentSettings | None:
    """The [latent] of the started run, with what was measured, unless the current one says otherwise."""
    if started is None or current is None:
        return current
    given = {key: value for key, value in current if value is not None and key != "cache"}
    if isinstance(current.encoder.get("source"), str):
        given["encoder"] = current.encoder | {"source": str(place_of(current.encoder["source"]))}
    same = all(getattr(started, key) == value for key, value in given.items())
    return started.model_copy(update={"cache": current.cache}) if same else current


def _with_factor(recipe: Recipe, factor: int | None) -> Recipe:
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"factor": factor})})


def _first_items(dataset: PairDataset) -> Iterator[dict[str, Any]]:
    for i in range(min(len(dataset), 256)):
        for side in dataset.directions():
            yield from (item for _, item in usable_items(side, [i]))


def _network(recipe: Recipe) -> Any:
    """The settings that determine the names and shapes of a run's weights."""
    return recipe.network, recipe.data.channels, recipe.extra_channels


def falling_end(recipe: Recipe) -> dict[str, str]:
    """`train.steps` if any step's update depends on it (for the comparison on resume), else an empty dict.

    It does where the learning rate falls towards the last step, or a share of the steps is a regression.
    """
    decides = recipe.train.schedule in ("linear", "cosine") or recipe.train.regression_share > 0
    return {"train.steps": str(recipe.train.steps)} if decides else {}


def rate_settings(train: TrainSettings) -> dict[str, str]:
    """The settings of the learning rate, for the comparison on resume."""
    return {f"train.{name}": str(getattr(train, name)) for name in RATE}


def changed_rate(before: TrainSettings, now: TrainSettings, step: int) -> list[str]:
    """A note on settings of the learning rate that have changed.

    Args:
        before: [train] before the change.
        now: [train] after it.
        step: The step that the run resumes at.
    """
    old, new = rate_settings(before), rate_settings(now)
    changes = [f"{name} {old[name]} -> {value}" for name, value in new.items() if old[name] != value]
    if not changes or step >= now.steps:
        return []
    rate = _next_rate(before.model_copy(update={"steps": now.steps}), now, step)
    return [
        f"note: {', '.join(changes)} from step {step} on{rate}. The result is not that of one rate in one run; "
        "from here on it resumes as ever"
    ]


def moved_end(before: int, recipe: Recipe, step: int) -> list[str]:
    """A note on what a changed `train.steps` moves: the falling learning rate, and the end of the regression share.

    Args:
        before: `train.steps` before the change.
        step: The step that the run resumes at.
    """
    now = recipe.train
    if before == now.steps or step >= now.steps or not falling_end(recipe):
        return []
    changes = []
    if now.schedule in ("linear", "cosine"):
        rate = _next_rate(now.model_copy(update={"steps": before}), now, step)
        changes.append(f"the end of the {now.schedule} schedule{rate}")
    ends = [round(now.regression_share * steps) for steps in (before, now.steps)]
    if ends[0] != ends[1]:
        changes.append(f"the end of the regression share: it is step {ends[1]}, not {ends[0]}")
    if not changes:
        return []
    return [
        f"note: train.steps {before} -> {now.steps} moves {', and '.join(changes)}. The result is not that of "
        f"{plural(now.steps, 'step')} in one run"
    ]


def _next_rate(before: TrainSettings, now: TrainSettings, step: int) -> str:
    """How a change moves the learning rate of the next step; empty where only later steps differ (in the warm-up)."""
    old, new = (f"{learning_rate(train, step):.3g}" for train in (before, now))
    return "" if old == new else f": the next learning rate is {new}, not {old}"


def run_identity(recipe: Recipe) -> dict[str, Any]:
    """The settings that must not change on resume."""
    table = recipe.model_dump(mode="json", exclude={"summary", "reference", "sample", "evaluate", "method_label"})
    del table["data"]["on_error"]  # otherwise a run stopped by a damaged image could not resume with on_error=skip
    if table["latent"] is not None:
        del table["latent"]["cache"]  # it changes no result; the disk may be full
    table["train"] = {key: value for key, value in table["train"].items() if key not in FREE_TO_CHANGE}
    return table


def _first_difference(started: Any, current: Any, path: str = "") -> str:
    if isinstance(started, dict) and isinstance(current, dict):
        for key in [*started, *(key for key in current if key not in started)]:
            found = _first_difference(started.get(key), current.get(key), f"{path}.{key}".lstrip("."))
            if found:
                return found
        return ""
    return "" if started == current else f"{path}: {started!r} there, {current!r} here"
