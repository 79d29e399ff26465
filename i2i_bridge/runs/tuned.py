"""The sampling settings that `tune` found, by number of network calls: tuned.toml of a run folder.

step = 3000
metric = "psnr"
[nfe.5]
sampler = { name = "2m-sde", eta = 0.5 }
grid = "karras"
clip = true
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from i2i_bridge.errors import UserError, located
from i2i_bridge.recipe.load import parse_recipe
from i2i_bridge.recipe.schema import Part, Positive, Seed, Settings, Steps, Text
from i2i_bridge.storage.files import write_whole
from i2i_bridge.storage.shipped import TUNED_FILE
from i2i_bridge.storage.table import validated
from i2i_bridge.storage.toml import read_toml

if TYPE_CHECKING:
    from i2i_bridge.recipe.recipe import Recipe

_HEAD = """\
# Written by `i2i-bridge tune`: restore, evaluate, export and the app sample like this at these numbers of network calls
# (NFE), and as recipe.toml says at all others. Without this file the recipe's settings apply again.
"""


class TunedSample(Settings):
    """The settings of [sample] at one NFE, and their scores on the half of the images that they were not chosen on."""

    sampler: Part
    """As `sample.sampler`."""
    grid: Text
    """As `sample.grid`."""
    clip: bool
    """As `sample.clip`."""
    own_score: float | None = None
    """Score of the recipe's settings."""
    tuned_score: float | None = None
    """Score of these settings."""
    difference: float | None = None
    """tuned_score - own_score."""
    standard_error: float | None = None
    """Standard error of the difference, paired by image."""

    @property
    def settings(self) -> dict[str, Any]:
        """The keys that replace those of the recipe's [sample]."""
        return {"sampler": self.sampler, "grid": self.grid, "clip": self.clip}

    def __str__(self) -> str:
        """The settings in words, such as 'sampler 2m-sde with eta 0.5, grid karras, clip true'."""
        return words_of(self.settings)


Number = Annotated[str, Field(pattern="^([1-9][0-9]{0,2}|1000)$")]


class TunedFile(Settings):
    """The file tuned.toml."""

    version: Literal[1] = 1
    step: Steps
    """Step of the checkpoint that was tuned."""
    metric: Text
    """Name of the metric."""
    protocol: Text
    """Name and version of the protocol."""
    images: Positive
    """Number of images that the settings were chosen on."""
    seed: Seed
    """Seed of the halves."""
    list_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    """SHA-256 of the names of the list that the images were chosen by (`--list`)."""
    nfe: Annotated[dict[Number, TunedSample], Field(max_length=1000)]
    """The settings by network calls per image."""

    def line(self, nfe: int) -> str | None:
        """A line for the user on the settings at an NFE; None where they are the recipe's."""
        tuned = self.nfe.get(str(nfe))
        if tuned is None:
            return None
        return (
            f"nfe {nfe}: tuned sampling ({tuned}), chosen by {self.metric} on {self.images} validation images"
            f"{'' if self.list_sha256 is None else ' of a list'} at step {self.step}"
        )


def words_of(settings: Mapping[str, Any]) -> str:
    """The sampler, grid and clip of a table [sample] in words."""
    sampler = dict(settings["sampler"])
    name = sampler.pop("name")
    options = " and ".join(f"{key} {value}" for key, value in sampler.items())
    clip = str(settings["clip"]).lower()
    return f"sampler {name}{f' with {options}' if options else ''}, grid {settings['grid']}, clip {clip}"


def read_tuned(folder: Path) -> TunedFile | None:
    """The tuned settings of a run folder; None without a file.

    Raises:
        UserError: The file is damaged, or a key is wrong.
    """
    file = folder / TUNED_FILE
    if not os.path.lexists(file):  # `exists` is also false for a link that leads nowhere, which is a mistake
        return None
    try:
        return validated(TunedFile, read_toml(file), file)
    except UserError as error:
        raise _with_advice(error) from error


def write_tuned(folder: Path, tuned: TunedFile) -> Path:
    """Write the tuned settings of a run folder atomically.

    Raises:
        UserError: The folder cannot be written.
    """
    import tomlkit

    text = tomlkit.dumps(tuned.model_dump(mode="json", exclude_none=True))
    write_whole(folder / TUNED_FILE, (_HEAD + text).encode(), root=folder)
    return folder / TUNED_FILE


def with_sample(recipe: "Recipe", settings: Mapping[str, Any], place: str) -> "Recipe":
    """The recipe with other keys of [sample], checked.

    Raises:
        UserError: A sampler or option is unknown, or does not fit the process; the message begins with `place`.
    """
    table = recipe.model_dump(mode="json", exclude_none=True)
    return parse_recipe(table | {"sample": table["sample"] | dict(settings)}, place)


def tuned_recipes(recipe: "Recipe", tuned: TunedFile, folder: Path) -> dict[int, "Recipe"]:
    """The recipe with the settings of each tuned NFE.

    Raises:
        UserError: The settings do not fit the recipe.
    """
    try:
        with located(folder / TUNED_FILE):
            return {int(nfe): with_sample(recipe, each.settings, f"nfe.{nfe}") for nfe, each in tuned.nfe.items()}
    except UserError as error:
        raise _with_advice(error) from error


def _with_advice(error: UserError) -> UserError:
    return UserError(f"{error}; tune again, or delete {TUNED_FILE}", error.code)
