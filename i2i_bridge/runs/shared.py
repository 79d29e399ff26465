"""Shared runs: run folders of recipe, weights (EMA) and model card alone, for other machines and people.

FOLDER/  recipe.toml  [tuned.toml]  README.md  [mean/]  [latent/]
         checkpoints/step-00003000/{ema.safetensors,manifest.json,manifest.sha256}

It is the format of the shipped runs, and opened by `load_run` as any run folder.
"""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING, Any

from i2i_bridge.errors import UserError, brief, located
from i2i_bridge.storage.files import TEMPORARY, TEMPORARY_BYTES, real_folder, refuse_links, remove, replace, write_whole
from i2i_bridge.storage.names import expanded, extended_name, leads_out
from i2i_bridge.storage.reader import MEGABYTE, read_bytes, read_json
from i2i_bridge.storage.shipped import CACHE_FOLDER, CARD_FILE, LATENT_FOLDER, MEAN_FOLDER, RECIPE_FILE, recipe_of_run

if TYPE_CHECKING:
    from i2i_bridge.recipe.recipe import Recipe
    from i2i_bridge.runs.run import Run

TEXTS = ("name", "summary", "method_label", "reference")
"""Keys of a recipe that are only shown; all other texts may name files."""
PICTURE = "samples.png"
"""File name of the picture of a shared run."""
ENCODER_CONFIG = "config.json"
"""File name of the settings of an autoencoder that is no run, in LATENT_FOLDER."""
ENCODER_FILES = re.compile(rf"{re.escape(ENCODER_CONFIG)}|[A-Za-z0-9_-]{{1,100}}\.safetensors")
"""File names of an autoencoder that is no run, such as an AutoencoderKL."""
ENCODER_BYTES = 4 * 10**9
"""Maximum bytes of a weights file of such an autoencoder: 10^9 parameters in float32."""


def write_shared(run: "Run", folder: Path, card: str, picture: bytes | None = None) -> Path:
    """Write a run as a shared run: nothing in the folder executes, and no path of this machine is named in its recipe.

    Args:
        folder: A folder that does not exist or is empty; it appears whole or not at all.
        card: Text of README.md, the model card.
        picture: Bytes of a PNG, which the card shows.

    Returns:
        The folder.

    Raises:
        UserError: The folder holds something or cannot be written, the run's checkpoint is gone or damaged, or the
            autoencoder of [latent] has files of other kinds than are shared.
    """
    out = real_folder(expanded(folder).absolute())
    with located(folder, "cannot be written", OSError):
        _check_empty(out, folder)
        fresh = out.with_name(extended_name(out.name, TEMPORARY, f"-{os.getpid()}", limit=TEMPORARY_BYTES))
        try:
            _write_run(run.folder, run.recipe, run.step, fresh)
            if run.tuned is not None:
                from i2i_bridge.runs.tuned import write_tuned

                write_tuned(fresh, run.tuned)
            if run.recipe.mean is not None:
                _write_stage(run.folder, MEAN_FOLDER, fresh)
            if run.recipe.latent is not None and "source" in run.recipe.latent.encoder:
                _write_autoencoder(run.folder, run.recipe.latent.encoder["name"], fresh)
            write_whole(fresh / CARD_FILE, card.encode())
            if picture is not None:
                write_whole(fresh / PICTURE, picture)
            _check_empty(out, folder)
            replace(fresh, out)  # an empty folder at most: what comes there in this instant is kept
        finally:
            remove(fresh)
    return folder


def _check_empty(out: Path, named: str | Path) -> None:
    """Check that a folder does not exist or is empty; before the work, and after it, since another may have come."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{named}: exists and is not empty; choose another folder")


def _write_run(source: Path, recipe: "Recipe", step: int, out: Path) -> None:
    """Copy the weights (EMA) of a step, in their own precision, and the portable recipe."""
    from i2i_bridge.runs.checkpoint import read_checkpoint, save_checkpoint

    _, _, weights = read_checkpoint(source, lambda saved: saved.tensors("ema"), step)
    # "imported": training refuses to resume from these files, which hold no optimizer state.
    save_checkpoint(out / "checkpoints", step, {"ema": weights}, {"imported": recipe.name}, keep=1)
    write_whole(out / RECIPE_FILE, portable(recipe).to_toml().encode())


def _write_stage(source: Path, name: str, out: Path) -> None:
    """Copy the run that a run folder holds under a name."""
    from i2i_bridge.recipe.load import load_recipe
    from i2i_bridge.runs.checkpoint import latest_checkpoint

    refuse_links(source, [name])
    stage = source / name
    checkpoint, _ = latest_checkpoint(stage / "checkpoints")
    if checkpoint is None:
        raise UserError(f"{stage}: the copy of the run that this run needs is missing; put it back")
    _write_run(stage, load_recipe(recipe_of_run(stage)), checkpoint.step, out / name)


def _write_autoencoder(source: Path, kind: str, out: Path) -> None:
    """Copy the autoencoder of [latent]: a run, or the settings and safetensors that its `save` wrote."""
    if kind == "run":
        _write_stage(source, LATENT_FOLDER, out)
        return
    from i2i_bridge.storage.tensors import read_safetensors

    refuse_links(source, [LATENT_FOLDER])
    for file in sorted((source / LATENT_FOLDER).iterdir()):
        if file.name == CACHE_FOLDER:
            continue
        if not ENCODER_FILES.fullmatch(file.name) or file.is_symlink():
            raise UserError(
                f"{file}: of autoencoder '{kind}' only {ENCODER_CONFIG} and safetensors can be shared; give others the "
                "whole run folder"
            )
        if file.name == ENCODER_CONFIG:
            check_encoder_config(file)
        else:
            read_safetensors(file)
        write_whole(out / LATENT_FOLDER / file.name, read_bytes(file, ENCODER_BYTES))


def check_encoder_config(file: Path) -> None:
    """Check that the settings of an autoencoder are a small JSON table, in which no text leads out of its folder.

    Raises:
        UserError: They are not; the message names the file.
    """
    with located(file, "cannot be read", (OSError, ValueError)):
        table = read_json(file, MEGABYTE)
    with located(file):
        if not isinstance(table, dict):
            raise UserError("no table of settings")
        check_portable(table)


def portable(recipe: "Recipe") -> "Recipe":
    """A copy of a recipe that names no place outside of its folder: such paths are cut to their last part.

    `download = true` of a Hub dataset is removed, since whoever opens the run decides about downloads.
    """
    from i2i_bridge.recipe.load import parse_recipe

    table = recipe.model_dump(mode="json", exclude_none=True)
    table = {key: value if key in TEXTS else _cut(value) for key, value in table.items()}
    table["data"].get("source", {}).pop("download", None)
    return parse_recipe(table, recipe.name)


def _cut(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _cut(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_cut(inner) for inner in value]
    if isinstance(value, str) and leads_out(value):
        last = PureWindowsPath(value).name.lstrip("~:")
        return last if last and not leads_out(last) else "folder"
    return value


def check_portable(table: Mapping[str, Any]) -> None:
    """Check the table of an untrusted recipe: no path in it leads out of the folder, and it downloads nothing.

    Raises:
        UserError: One does; the message names the key.
    """
    for key, value in _leaves(table):
        place = ".".join(key)
        if isinstance(value, str) and key[0] not in TEXTS and leads_out(value):
            raise UserError(f"{place}: '{brief(value)}' leads out of the folder; nothing outside of it is read")
        if key == ("data", "card") and (not isinstance(value, str) or re.search(r"[/\\]|\.toml$", value)):
            raise UserError(f"{place}: '{brief(value)}' is a file; a shared recipe names shipped cards only")
        if key[0] == "data" and key[-1] == "download" and value is not False:
            raise UserError(f"{place}: a shared recipe must not download; add data.source.download=true yourself")


def _leaves(value: Any, key: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Values of a table that are no tables or arrays, with the keys that lead there."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _leaves(inner, (*key, str(name)))
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner, key)
    else:
        yield key, value
