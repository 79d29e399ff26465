"""The files of a shared run on the Hugging Face Hub: which are fetched, how large they may be, and how each is checked.

The repository may hold anything: only files of known names are fetched, after a check of the sizes that the Hub states.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from i2i_bridge.errors import UserError, located
from i2i_bridge.runs.shared import (
    ENCODER_BYTES,
    ENCODER_CONFIG,
    ENCODER_FILES,
    PICTURE,
    check_encoder_config,
    check_portable,
)
from i2i_bridge.storage.reader import MEGABYTE
from i2i_bridge.storage.shipped import CARD_FILE, LATENT_FOLDER, MEAN_FOLDER, RECIPE_FILE, TUNED_FILE
from i2i_bridge.storage.toml import read_toml

if TYPE_CHECKING:
    from i2i_bridge.recipe.recipe import Recipe

STAGE = rf"(?:{MEAN_FOLDER}/|{LATENT_FOLDER}/)?"
WEIGHTS = re.compile(rf"({STAGE})checkpoints/step-([0-9]{{8,15}})/(ema\.safetensors|manifest\.json|manifest\.sha256)")
ENCODER = re.compile(rf"{LATENT_FOLDER}/(?:{ENCODER_FILES.pattern})")
WANTED = re.compile(
    rf"{STAGE}{re.escape(RECIPE_FILE)}|{re.escape(TUNED_FILE)}|{re.escape(CARD_FILE)}|{ENCODER.pattern}|{WEIGHTS.pattern}"
)
"""Names of the files of a shared run that are fetched."""
LIMITS = {".toml": MEGABYTE, ".md": MEGABYTE, ".json": MEGABYTE, ".sha256": 1000}
"""Maximum bytes of a file that is fetched, by its suffix; the recipe's network bounds those of weights."""
HEADER = 16 * MEGABYTE
"""Maximum bytes of weights files beside the tensors' own."""


def is_pushed(path: str) -> bool:
    """Whether a file of this name belongs to a shared run: one that is fetched, or the picture."""
    return path == PICTURE or WANTED.fullmatch(path) is not None


def wanted_files(name: str, published: Mapping[str, Any]) -> tuple[dict[str, int], int]:
    """Sizes of the files to fetch (of the newest checkpoint of each stage), and the number of other files.

    Args:
        published: The sizes that the Hub names, by file.

    Raises:
        UserError: It is no shared run, or the size of a file is missing or above its limit.
    """
    newest: dict[str, str] = {}
    for path in published:
        found = WEIGHTS.fullmatch(path)
        if found is not None:
            newest[found[1]] = max(newest.get(found[1], ""), found[2], key=lambda step: int(step or 0))
    sizes: dict[str, int] = {}
    for path, size in published.items():
        found = WEIGHTS.fullmatch(path)
        if not WANTED.fullmatch(path) or (found is not None and found[2] != newest[found[1]]):
            continue
        if type(size) is not int or size < 0:
            raise UserError(f"{name}: the Hub does not say how large {path} is")
        limit = LIMITS.get(Path(path).suffix)
        if limit is not None and size > limit:
            raise UserError(f"{name}: {path} has {size} bytes; at most {limit} are read")
        sizes[path] = size
    if RECIPE_FILE not in sizes or "" not in newest:
        raise UserError(f"{name}: not a run of i2i-bridge (it has no {RECIPE_FILE} with checkpoints)")
    return sizes, len(published) - len(sizes)


def fetch_checked(name: str, part: Path, sizes: Mapping[str, int], fetch: Callable[[str], None]) -> None:
    """Fetch the files of a run and of its stages (`mean/`, `latent/`), and check each before the next one is fetched.

    Args:
        name: Name of the run, for messages.
        part: Folder of the download.
        sizes: Sizes of the files, as `wanted_files` gives them.
        fetch: Downloads one file into `part`.

    Raises:
        UserError: A file is not what a shared run has, is larger than it may be, or is damaged.
    """
    from i2i_bridge.runs.tuned import read_tuned

    stages = sorted(path.removesuffix(RECIPE_FILE) for path in sizes if path.endswith(RECIPE_FILE))
    recipes = {stage: _fetch_stage(name, part, stage, sizes, fetch) for stage in stages}
    if recipes[""].latent is not None:
        _fetch_autoencoder(name, part, sizes, recipes[""], fetch)
    if TUNED_FILE in sizes:
        fetch(TUNED_FILE)
        with _about(name, part), located(TUNED_FILE):
            check_portable(read_toml(part / TUNED_FILE))
            read_tuned(part)
    if CARD_FILE in sizes:
        fetch(CARD_FILE)


def _fetch_stage(name: str, part: Path, stage: str, sizes: Mapping[str, int], fetch: Callable[[str], None]) -> "Recipe":
    """Fetch and check the recipe of a stage, then its checkpoint, whose size the recipe's network bounds."""
    from i2i_bridge.recipe.load import load_recipe
    from i2i_bridge.runs.checkpoint import latest_checkpoint

    fetch(f"{stage}{RECIPE_FILE}")
    with _about(name, part):
        check_portable(read_toml(part / stage / RECIPE_FILE))
        recipe = load_recipe(part / stage / RECIPE_FILE)
    for path in sizes:
        found = WEIGHTS.fullmatch(path)
        if found is None or found[1] != stage:
            continue
        if path.endswith(".safetensors") and sizes[path] > (most := _weight_bytes(recipe)):
            raise UserError(f"{name}: {path} has {sizes[path]} bytes; its recipe's network has at most {most}")
        fetch(path)
    with _about(name, part):
        if latest_checkpoint(part / stage / "checkpoints")[0] is None:
            raise UserError(f"no checkpoint in {stage or 'it'}")
    return recipe


def _fetch_autoencoder(
    name: str, part: Path, sizes: Mapping[str, int], recipe: "Recipe", fetch: Callable[[str], None]
) -> None:
    """Fetch the files of an autoencoder that is not itself a run, and check that [latent] can be opened."""
    import torch

    from i2i_bridge.runs.latent import load_latent

    for path in filter(ENCODER.fullmatch, sizes):
        if sizes[path] > ENCODER_BYTES:
            raise UserError(f"{name}: {path} has {sizes[path]} bytes; an autoencoder has at most {ENCODER_BYTES}")
        fetch(path)
        if path.endswith(ENCODER_CONFIG):
            with _about(name, part):
                check_encoder_config(part / path)
    with _about(name, part.absolute()):
        load_latent(part.absolute(), recipe, device=torch.device("cpu"))


def _weight_bytes(recipe: "Recipe") -> int:
    """Maximum bytes of a file with the weights of a recipe's network; nothing is allocated."""
    import torch

    from i2i_bridge.networks.size import MAX_PARAMETERS

    try:
        with torch.device("meta"):
            network = recipe.build_network()
    except (NotImplementedError, RuntimeError):  # a plug-in's network that needs real weights
        return 4 * MAX_PARAMETERS + HEADER
    sizes: list[int] = [value.numel() * max(4, value.element_size()) for value in network.state_dict().values()]
    return HEADER + sum(sizes)


@contextmanager
def _about(name: str, part: Path) -> Iterator[None]:
    """Context in which errors name the repository in place of the folder that it is fetched into."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{name}: {str(error).replace(f'{part}/', '')}", error.code) from error
