"""The restoration of an uploaded picture, without gradio."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from i2i_bridge.app.limits import Limits, check_size
from i2i_bridge.app.pictures import ANIMATION_SIDE, WALK_SIDE, mask_file
from i2i_bridge.degradations.files import degrade_files, parse_op
from i2i_bridge.errors import UserError, plural
from i2i_bridge.methods.factory import resampled
from i2i_bridge.recipe.load import load_recipe
from i2i_bridge.registry import SAMPLERS
from i2i_bridge.runs.restore import restore_files
from i2i_bridge.runs.run import Run
from i2i_bridge.storage.shipped import recipe_of_run

MASK_OPTIONS = ("folder", "file")
"""Options of degradations that name files, which would be files of the server."""


@dataclass(frozen=True)
class Request:
    """The settings of a restoration, as the page has them."""

    nfe: int | None = None
    sampler: str = ""
    """A sampler's name; empty: the run's own."""
    seed: int = 0
    samples: int = 1
    degrade: bool = False
    """Apply the degradation of the run's recipe first."""
    ops: str = ""
    """Degradations to apply first, `name:key=value,...`, one per line."""
    layers: Sequence[np.ndarray] = ()
    """Painted layers (H, W, 4) uint8; opaque = unknown."""
    walk: bool = True
    format: str | None = None


@dataclass(frozen=True)
class Answer:
    """The files that a restoration made."""

    degraded: Path
    """The picture that was restored."""
    restored: list[Path]
    """The samples."""
    walk: Path | None
    """The states from X_1 to X_0 of the first sample, scaled down for the page."""
    animation: Path | None
    """These states one after the other."""
    notes: list[str]


def restore_picture(
    run: Run,
    file: Path,
    request: Request,
    folder: Path,
    limits: Limits,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Answer:
    """Restore an uploaded file as `i2i-bridge restore` does; the results have its depth, alpha and profile.

    Args:
        run: The run that restores.
        file: The uploaded file.
        request: The settings.
        folder: An empty folder for the results.
        limits: The most that a visitor may ask for.
        report: Called with (network calls done, network calls in all).

    Raises:
        UserError: A limit is passed, a setting is wrong, or `restore_files` refuses the file.
    """
    for name, value, most in (("NFE", request.nfe or 1, limits.nfe), ("samples", request.samples, limits.samples)):
        if not 1 <= value <= most:
            raise UserError(f"{name} {value}: this page takes 1 to {most}")
    run = with_sampler(run, request.sampler)
    if request.ops.strip() and request.degrade:
        raise UserError("choose the run's own degradation or operators, not both")
    scale = 1 if request.degrade else _scale(run)
    check_size(file, limits, scale)
    notes: list[str] = []
    source, hole = file, None
    if request.ops.strip():
        source, hole = degrade_picture_file(file, request.ops, request.seed, folder / "degraded", limits)
    painted = mask_file(request.layers, source, scale, folder / "mask.png")
    if painted is not None and request.degrade:
        notes.append("the painted mask is not used: the run's own degradation draws one where it needs one")
    outcome = restore_files(
        run,
        source,
        folder / "restored",
        nfe=request.nfe,
        samples=request.samples,
        seed=request.seed,
        mask=None if request.degrade else painted or hole,
        degrade=request.degrade,
        trajectory=request.walk,
        trajectory_side=WALK_SIDE,  # several states of the largest picture are more pixels than the page takes
        animation_side=ANIMATION_SIDE if request.walk else None,
        format=request.format,
        report_calls=report,
        report_tiles=report,
        say=notes.append,
    )
    (job,) = outcome.jobs
    return Answer(
        job.outputs.get("-degraded", source),
        [job.outputs[ending] for ending in job.results],
        job.outputs.get(f"{job.results[0]}-trajectory"),
        job.outputs.get(f"{job.results[0]}-animation"),
        [f"{plural(outcome.nfe, 'network call')} for each sample", *notes, *outcome.notes],
    )


def with_sampler(run: Run, sampler: str) -> Run:
    """The run with another sampler and its default options; the weights are shared.

    Raises:
        UserError: There is no such sampler, or it does not fit the run's process.
    """
    if not sampler:
        return run
    if sampler == run.recipe.sample.sampler["name"]:
        return replace(run, tuned=None, tuned_methods={})
    SAMPLERS.require(sampler)
    recipe = load_recipe(recipe_of_run(run.folder), [f'sample.sampler={{name="{sampler}"}}'])
    return replace(run, recipe=recipe, method=resampled(run.method, recipe), tuned=None, tuned_methods={})


def degrade_picture_file(file: Path, ops: str, seed: int, folder: Path, limits: Limits) -> tuple[Path, Path | None]:
    """Apply degradations as `i2i-bridge degrade` does; the degraded file, and the mask's if there is one.

    Args:
        file: The clean picture.
        ops: `name:key=value,...`, one per line.
        seed: Of all draws.
        folder: For the results.
        limits: The most that a visitor may ask for.

    Raises:
        UserError: A degradation is wrong or names a file, or the picture cannot be degraded.
    """
    if not limits.operators:
        raise UserError("this page applies no operators (--no-operators)")
    check_size(file, limits)
    tables = [parse_op(line.strip()) for line in ops.splitlines() if line.strip()]
    for table in tables:
        _refuse_files(table)
    outputs = degrade_files(tables, file, folder, seed=seed).jobs[0].outputs
    return outputs[""], outputs["-mask"] if outputs["-mask"].is_file() else None


def _refuse_files(value: Any) -> None:
    # Otherwise a visitor could read masks, or learn names, of the server's files.
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key in MASK_OPTIONS:
                raise UserError(f"'{key}' names a file of the server; this page takes none")
            _refuse_files(inner)
    elif isinstance(value, list):
        for inner in value:
            _refuse_files(inner)
    elif isinstance(value, str) and re.search(r"[/\\~]", value):
        raise UserError("an operator's option looks like a path; this page takes none")


def _scale(run: Run) -> int:
    degradation = run.recipe.build_degradation()
    return (run.recipe.data.factor or 1) * (1 if degradation is None else degradation.scale)
