"""Where recipes and dataset cards lie: shipped ones inside the wheel or beside the package, a run's in its folder."""

from pathlib import Path

from i2i_bridge.errors import UserError

RECIPE_FILE = "recipe.toml"
"""The name of the resolved recipe in a run folder."""


def shipped_folder(kind: str) -> Path:
    """The folder of shipped TOML files; kind is 'datasets' or 'recipes'."""
    package = Path(__file__).parent
    inside = package / "_shipped" / kind
    return inside if inside.is_dir() else package.parent / kind


def recipe_of_run(folder: Path) -> Path:
    """The recipe's file in a run folder.

    Raises:
        UserError: The folder has none.
    """
    file = folder / RECIPE_FILE
    if not file.is_file():
        raise UserError(f"{folder}: not a run folder (it has no {RECIPE_FILE})")
    return file
