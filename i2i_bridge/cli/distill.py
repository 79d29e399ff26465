"""The verb `i2i-bridge distill`: a student of one or two network calls from a trained bridge."""

from pathlib import Path
from typing import Annotated

import typer

from i2i_bridge.cli.options import Device, Overrides, Plugins, RunFolder, fetched_run, load_plugins
from i2i_bridge.cli.train import train_run
from i2i_bridge.errors import TRY_AGAIN
from i2i_bridge.storage.names import expanded
from i2i_bridge.storage.shipped import RECIPE_FILE, folder_of_run, is_shipped_run


def distill(
    run: RunFolder,
    settings: Overrides = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="The student's run folder. Default: runs/RUN-METHOD.")
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            "--method",
            metavar="consistency|inverse-bridge",
            help="Learn the end of the teacher's walk, or the distribution of its images.",
        ),
    ] = "consistency",
    plugin: Plugins = None,
    device: Device = None,
) -> None:
    """Train a student that restores in one or two network calls from a trained bridge; the same command resumes."""
    load_plugins(plugin)
    from i2i_bridge import load_recipe
    from i2i_bridge.storage.shipped import place_of
    from i2i_bridge.training.teacher import student_recipe

    folder = out or Path("runs") / f"{expanded(run).resolve().name}-{method}"
    begun, place = folder / RECIPE_FILE, expanded(run)
    recipe = load_recipe(begun, settings or []) if begun.is_file() and not folder_of_run(place).exists() else None
    if recipe is None or recipe.teacher is None or Path(recipe.teacher.run) != place_of(str(run)):
        # Otherwise the teacher is gone, and the student's folder holds a copy.
        teacher = place if is_shipped_run(place) else fetched_run(place, plugin)
        recipe = student_recipe(teacher, settings or [], method=method)
    if not train_run(recipe, folder, device=device):
        raise typer.Exit(TRY_AGAIN)
