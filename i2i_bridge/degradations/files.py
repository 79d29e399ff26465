"""Degradations applied to files: `i2i-bridge degrade`."""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from i2i_bridge import __version__
from i2i_bridge.degradations.base import Degradation, Degraded, degraded_by
from i2i_bridge.degradations.linear import mirrored
from i2i_bridge.errors import UserError
from i2i_bridge.images.files import read_picture, write_picture
from i2i_bridge.images.folder import folder_notes
from i2i_bridge.images.outputs import DoneJobs, Existing, FilesOutcome, Job, plan_files, process
from i2i_bridge.images.pixels import Picture, to_pixels, to_tensor, visible
from i2i_bridge.plugins import plugin_digests
from i2i_bridge.randomness import generator
from i2i_bridge.registry import DEGRADATIONS
from i2i_bridge.storage.csv_file import Writer
from i2i_bridge.storage.files import write_whole
from i2i_bridge.storage.toml import toml_value

PARAMETERS_FILE = "parameters.csv"


@dataclass
class Degradings(FilesOutcome):
    """The result of `degrade_files`."""

    parameters: dict[str, dict[str, float]] = field(default_factory=dict)
    """Drawn parameters by file (its path below the input) and name; no entry for a file without drawn parameters."""


def parse_op(text: str) -> dict[str, Any]:
    """Parse `name:key=value,key=value` to a table; values as in TOML, strings also without quotes.

        jpeg:quality=[5, 30],backend=pillow  ->  {name = "jpeg", quality = [5, 30], backend = "pillow"}

    Raises:
        UserError: The text has another form, or a key comes twice.
    """
    name, colon, rest = text.partition(":")
    table: dict[str, Any] = {"name": name.strip()}
    for setting in split_list(rest) if colon else []:
        key, equals, value = (part.strip() for part in setting.partition("="))
        if not (key and equals and value):
            raise UserError(f"--op {text}: '{setting}' is not key=value; write name:key=value,key=value")
        if key in table:
            raise UserError(f"--op {text}: '{key}' is there twice")
        table[key] = toml_value(value)
    return table


def split_list(text: str) -> list[str]:
    """Split a text at the commas outside of brackets, braces and quotes."""
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        else:
            depth += (letter in "[{") - (letter in "]}")
        if letter == "," and depth == 0 and not quote:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def build_ops(tables: Sequence[Mapping[str, Any]]) -> Degradation:
    """Build the degradation of one table, or the `compose` of several.

    Raises:
        UserError: There is no table, or one is wrong.
    """
    if not tables:
        raise UserError("--op is missing; for example --op jpeg:quality=5, and `list degradations` shows all")
    table = tables[0] if len(tables) == 1 else {"name": "compose", "degradations": [dict(table) for table in tables]}
    degradation: Degradation = DEGRADATIONS.build(table)
    return degradation


def degrade_files(
    tables: Sequence[Mapping[str, Any]],
    source: str | Path,
    target: str | Path,
    *,
    seed: int = 0,
    format: str | None = None,
    quality: int | None = None,
    existing: Existing = "resume",
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Degradings:
    """Degrade a file, or every image below a folder, keeping names, sizes, bit depth and alpha.

    Each file's draws are keyed by the seed and its name, so they do not depend on the other files. Results are
    compressed without loss: JPEGs become PNGs, unless the output's name or `format` is JPEG. A mask is written beside
    the result as NAME-mask.png, white = unknown; drawn parameters of a folder are written to its parameters.csv. An
    unreadable image in a folder does not stop the others.

    Args:
        tables: Degradations in order, as in a recipe.
        format: 'png', 'jpg', 'webp' or 'tif' for all results.
        quality: Quality of JPEG and WebP, 1 to 100 (`write_picture`).
        existing: How to treat inputs of a folder whose results exist.
        report: Called with (images done, images in all).

    Raises:
        UserError: The degradations are wrong, the input is missing, the output would overwrite it, or a single file
            cannot be degraded.
    """
    source, target, degradation = Path(source), Path(target), build_ops(tables)
    jobs = plan_files(source, target, beside={"-mask": ".png"}, format=format, quality=quality, lossless=True)
    settings = {
        "verb": "degrade", "version": __version__, "ops": [dict(table) for table in tables], "seed": seed,
        "format": format, "quality": quality, "plugins": plugin_digests(),
    }  # fmt: skip
    root = target if source.is_dir() else None  # links in a folder of results are not followed
    done = DoneJobs(root, existing, settings)
    outcome = Degradings(notes=folder_notes(source) + [job.notes[""] for job in jobs if "" in job.notes])

    def degrade(job: Job) -> None:
        recorded = done.extra(job)
        if recorded is not None:
            outcome.skipped += 1
            parameters = {
                key: np.nan if value is None else value
                for key, value in recorded.items()
                if value is None or isinstance(value, float)
            }
        else:
            picture = read_picture(job.source, metadata=True)
            if picture.converted_from:
                outcome.notes.append(f"{job.source}: converted from {picture.converted_from} to sRGB")
            degraded = degrade_picture(degradation, picture, seed, job.name)
            pixels = to_pixels(degraded.x_1[0], picture.pixels.dtype)
            lost = write_picture(
                job.outputs[""], replace(picture, pixels=pixels, lossy=False), quality=quality, root=root
            )
            outcome.notes += [f"{job.outputs['']}: without {what}" for what in lost]
            if degraded.mask is not None:
                write_picture(job.outputs["-mask"], Picture(to_pixels(degraded.mask[0] * 2 - 1)), root=root)
                outcome.notes += [job.notes["-mask"]] if "-mask" in job.notes else []
            parameters = {key: float(values[0]) for key, values in degraded.parameters.items()}
            # NaN marks an unused parameter; JSON has no NaN.
            done.add(job, extra={key: None if np.isnan(value) else value for key, value in parameters.items()})
            outcome.written += 1
        if parameters:
            outcome.parameters[job.name] = parameters

    process(jobs, source, outcome, degrade, report)
    if source.is_dir() and outcome.parameters:
        write_whole(target / PARAMETERS_FILE, _table(outcome.parameters).encode())
    return outcome


def degrade_picture(degradation: Degradation, picture: Picture, seed: int, name: str) -> Degraded:
    """Degrade one picture; sides are padded by mirroring to the degradation's multiple, and cropped again."""
    clean = to_tensor(visible(picture))[None]
    height, width = clean.shape[-2:]
    rows, columns = (mirrored(side, 0, -side % degradation.multiple, "symmetric") for side in (height, width))
    degraded = degraded_by(degradation, clean[..., rows, :][..., columns], [generator(seed, "degrade", name)])
    mask = None if degraded.mask is None else degraded.mask[..., :height, :width]
    return Degraded(degraded.x_1[..., :height, :width], mask, None, degraded.parameters)


def _table(parameters: Mapping[str, Mapping[str, float]]) -> str:
    names = dict.fromkeys(name for values in parameters.values() for name in values)
    text = io.StringIO()
    writer = Writer(text, lineterminator="\n")
    writer.writerow(["file", *names])
    for file, values in parameters.items():
        # NaN is an empty cell.
        writer.writerow(
            [file, *("" if np.isnan(values.get(name, np.nan)) else f"{values[name]:.6g}" for name in names)]
        )
    return text.getvalue()
