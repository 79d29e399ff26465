"""Locations of the shipped recipes, dataset cards and trained runs, and of the files in a run folder."""

from pathlib import Path

from i2i_bridge.errors import UserError
from i2i_bridge.storage.names import expanded


def recipe_names() -> list[str]:
    """Names of the shipped recipes, such as 'restoration/jpeg-5'."""
    folder = shipped_folder("recipes")
    return sorted(str(path.relative_to(folder).with_suffix("")).replace("\\", "/") for path in folder.rglob("*.toml"))


def is_recipe_name(name: str) -> bool:
    """Whether a shipped recipe has this name, with or without its folder."""
    return any(name in (known, known.split("/")[-1]) for known in recipe_names())


RECIPE_FILE = "recipe.toml"
"""File name of the resolved recipe in a run folder."""
TUNED_FILE = "tuned.toml"
"""File name of the tuned sampling settings in a run folder (`runs.tuned`)."""
CARD_FILE = "README.md"
"""File name of the model card of a shipped run: training data, licences, cost, results, limitations."""
MEAN_FOLDER = "mean"
"""Subfolder of a run folder with a copy of the run of [mean]: a run folder of recipe and weights."""
TEACHER_FOLDER = "teacher"
"""Subfolder with a copy of the run of [teacher]; a resumed training needs it, restoring does not."""
LATENT_FOLDER = "latent"
"""Subfolder with a copy of the autoencoder of [latent], and the cache of latents."""
CACHE_FOLDER = "cache"
"""Subfolder of MEAN_FOLDER and LATENT_FOLDER with what is computed once for each training image."""
PACKAGE = Path(__file__).parents[1]
"""The package folder, which contains the folder `pretrained` of shipped runs."""


def shipped_folder(kind: str) -> Path:
    """The folder of the shipped TOML files of a kind: 'datasets' or 'recipes'."""
    inside = PACKAGE / "_shipped" / kind
    return inside if inside.is_dir() else PACKAGE.parent / kind


def pretrained_names() -> list[str]:
    """Names of the shipped runs, such as 'pretrained/photos'."""
    return sorted(file.parent.relative_to(PACKAGE).as_posix() for file in PACKAGE.glob(f"pretrained/*/{RECIPE_FILE}"))


def is_shipped_run(run: Path) -> bool:
    """Whether a path names a shipped run: `pretrained/NAME`, unless that path exists in the current folder."""
    return not run.exists() and run.as_posix() in pretrained_names()


def folder_of_run(run: Path) -> Path:
    """The folder of a run: the path itself, or the folder inside the package for a shipped run."""
    return PACKAGE / run if is_shipped_run(run) else run


def place_of(run: str) -> Path:
    """Absolute path of a run's folder; the name of a shipped run is returned as it is."""
    folder = expanded(run)
    return folder if is_shipped_run(folder) else folder.absolute()


def recipe_of_run(folder: Path) -> Path:
    """The recipe file of a run folder.

    Raises:
        UserError: The folder has no recipe.
    """
    file = folder / RECIPE_FILE
    if not file.is_file():
        also = f"; shipped: {', '.join(pretrained_names())}" if folder.parts[:1] == ("pretrained",) else ""
        if is_recipe_name(folder.as_posix()) and not folder.exists():
            also = f"; it is a recipe, to train first: i2i-bridge train {folder.as_posix()}"
        raise UserError(f"{folder}: not a run folder (it has no {RECIPE_FILE}){also}")
    return file
