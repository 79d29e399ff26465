"""The teacher of a distillation (`[teacher]`): which runs can be one, and the recipe of its student."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from i2i_bridge import registry
from i2i_bridge.errors import UserError
from i2i_bridge.recipe.load import load_recipe
from i2i_bridge.recipe.recipe import Recipe
from i2i_bridge.recipe.schema import STUDENTS
from i2i_bridge.storage.names import expanded
from i2i_bridge.storage.shipped import folder_of_run, place_of, recipe_of_run

OF_TEACHER = ("init", "init_sha256", "init_strict", "regression_share", "freeze", "keep_best", "patience")
"""Settings of [train] that a student does not take over from its teacher."""


def check_teacher(recipe: Recipe, teacher: Recipe, where: str) -> list[str]:
    """Check that a run of the recipe `teacher` can be the teacher of a run of `recipe`.

    Returns:
        Lines for the user: differences between the degradations.

    Raises:
        UserError: The teacher is no bridge, starts from another run's output, or its process, target, images or
            condition are not the student's.
    """
    _check_bridge(teacher.method, teacher.mean is not None, teacher.latent is not None, where)
    parts: list[tuple[str, Any, Any]] = [
        (name, getattr(teacher, name), getattr(recipe, name))
        for name in ("process", "target", "condition_channels", "classes")
    ]
    parts += [
        (f"data.{name}", getattr(teacher.data, name), getattr(recipe.data, name))
        for name in ("channels", "own_condition", "value_range", "direction")
    ]
    for name, required, actual in parts:
        if required != actual:
            raise UserError(f"teacher.run: {where} was trained with {name} {required}, the student has {actual}")
    if teacher.degradation != recipe.degradation:
        return [f"note: {where} was trained with another degradation: {teacher.degradation}, not {recipe.degradation}"]
    return []


def student_recipe(run: str | Path, settings: Iterable[str] = (), *, method: str = "consistency") -> Recipe:
    """The recipe of a student of a trained bridge (`i2i-bridge distill RUN`).

    It is the teacher's recipe with another method and one or two network calls. Training starts from the teacher's EMA.

    Args:
        run: A run folder or the name of a shipped run.
        settings: `key=value`, as on the command line.
        method: "consistency" or "inverse-bridge".

    Raises:
        UserError: There is no such run, it is no bridge, or a setting is wrong.
    """
    if method not in STUDENTS:
        raise UserError(f"--method {method}: a student learns by {' or '.join(STUDENTS)}")
    place = place_of(str(run))

    def change(table: dict[str, Any], user_keys: frozenset[str]) -> dict[str, Any]:
        tables = {name: table.get(name, {}) for name in ("method", "train", "sample", "evaluate")}
        if not all(isinstance(inner, dict) for inner in tables.values()):
            return table  # the check of the recipe reports it
        _check_bridge(tables["method"], "mean" in table, "latent" in table, str(run))
        steps = tables["method"].get("steps")  # the user's: a bridge has no such option
        if method == "inverse-bridge":
            calls = steps if type(steps) is int and 1 <= steps <= 1000 else 1
        else:
            process = registry.PROCESSES.build(table.get("process", {"name": "i2sb"}))
            # The first step of a bridge with noise draws it: the walk from X_1 has many ends, and one call gives one.
            calls = 2 if process.pinned and not process.deterministic else 1
        train = {key: value for key, value in tables["train"].items() if key not in OF_TEACHER}
        return table | {
            "method": {"name": method},
            "method_label": method,
            "teacher": {"run": str(place)},
            "train": train | {"init": str(place)},
            "sample": {key: value for key, value in tables["sample"].items() if key != "condition_scale"}
            | {"nfe": calls},
            "evaluate": tables["evaluate"] | {"nfe": [1, 2]},
        }

    return load_recipe(recipe_of_run(folder_of_run(expanded(run))), settings, change)


def _check_bridge(method: dict[str, Any], mean: bool, latent: bool, where: str) -> None:
    name = method.get("name", "bridge")
    if name != "bridge":
        raise UserError(
            f"teacher.run: {where} is a run of method '{name}'; a student learns from one of method 'bridge'"
        )
    if mean:
        raise UserError(f"teacher.run: {where} starts from another run's answer; take a bridge without [mean]")
    if latent:
        raise UserError(f"teacher.run: {where} works on latents; take a bridge without [latent]")
