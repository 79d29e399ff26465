"""Restore image files: one file, or every image below a folder."""

import contextlib
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from i2i_bridge import __version__
from i2i_bridge.errors import UserError
from i2i_bridge.images.files import IMAGE_SUFFIXES, MAX_FRAMES, check_format, left_out, read_picture, write_picture
from i2i_bridge.images.montage import montage, states_shown
from i2i_bridge.images.outputs import DoneJobs, Existing, Job, keep_apart, plan_files
from i2i_bridge.images.pixels import Picture, mask_of, to_mask, to_pixels, to_tensor, visible, with_channels
from i2i_bridge.methods.calls import CountedMethod
from i2i_bridge.methods.mean import mean_calls
from i2i_bridge.randomness import generator
from i2i_bridge.registry import plugin_digests
from i2i_bridge.runs.batch import alpha_like
from i2i_bridge.runs.checkpoint import MANIFEST, SEAL
from i2i_bridge.runs.run import Run
from i2i_bridge.runs.workload import announcement
from i2i_bridge.storage.files import normal_form
from i2i_bridge.storage.reader import read_text


@dataclass
class Outcome:
    """The result of `restore_files`."""

    written: int = 0
    nfe: int = 0
    """Network calls per image, counted."""
    skipped: int = 0
    """Images that were not restored because their results exist (`existing`)."""
    problems: list[str] = field(default_factory=list)
    """One line for each image that could not be restored."""
    notes: list[str] = field(default_factory=list)
    """One line for each file that was left out, and for each unusual name, mask or number of frames."""


def restore_files(
    run: Run,
    source: Path,
    target: Path,
    *,
    nfe: int | None = None,
    samples: int = 1,
    seed: int = 0,
    mask: Path | None = None,
    condition: Path | None = None,
    degrade: bool = False,
    trajectory: bool = False,
    format: str | None = None,
    quality: int | None = None,
    existing: Existing = "resume",
    report: Callable[[int, int], None] = lambda done, total: None,
    report_calls: Callable[[int, int], None] = lambda done, total: None,
    say: Callable[[str], None] = lambda line: None,
) -> Outcome:
    """Restore a file, or every image below a folder, keeping names.

    An unreadable image in a folder does not stop the others. Sample k (from 1) is written as NAME-k if samples > 1, and
    uses seed + k - 1, so that each sample can be reproduced alone.

    Args:
        mask: Image, or folder of images of the same names; white = unknown.
        condition: Image, or folder of images of the same names, for a recipe with data.own_condition.
        degrade: The inputs are clean: apply the recipe's degradation first (written as NAME-degraded).
        trajectory: Write states from X_1 to X_0 beside each result, as NAME-trajectory.png.
        format: 'png', 'jpg', 'webp' or 'tif'; by default the format of each input.
        quality: Quality of JPEG and WebP, 1 to 100 (`write_picture`).
        existing: How to treat inputs of a folder whose results exist.
        report: Called with (images done, images in all).
        report_calls: Called with (network calls done, network calls in all) of each image.
        say: Called before the work with a line on memory and time if an image is large (`workload`).

    Raises:
        UserError: The input is missing, the output would overwrite it, or a single file cannot be restored.
    """
    numbers = [f"-{k + 1}" for k in range(samples)] if samples > 1 else [""]
    beside = {"-degraded": ""} if degrade else {}
    beside |= {f"{number}-trajectory": ".png" for number in numbers} if trajectory else {}
    jobs = plan_files(source, target, results=numbers, beside=beside, format=format, quality=quality)
    for what, given in (("mask", mask), ("condition", condition)):
        if given is not None:
            keep_apart(jobs, target, given, what)
    settings = {
        "verb": "restore", "run": _identity(run), "nfe": nfe, "samples": samples, "seed": seed, "mask": mask is None,
        "degrade": degrade, "trajectory": trajectory, "format": format, "quality": quality, "plugins": plugin_digests(),
    }  # fmt: skip
    done = DoneJobs(target if source.is_dir() else None, existing, settings)
    calls = (run.recipe.sample.nfe if nfe is None else nfe) + mean_calls(run.method)
    left = [job for job in jobs if done.extra(job, _others(job, mask, condition, source)) is None]
    line = announcement(run, [job.source for job in left], nfe=calls, samples=samples) if left else None
    if line is not None:
        say(line)
    within = target if source.is_dir() else None  # links in a folder of results are not followed
    counted = CountedMethod(run.method)
    restorer = Run(run.folder, run.recipe, counted.method, run.step, run.device)
    outcome = Outcome(notes=left_out(source) + [note for job in jobs for note in job.notes.values()])
    for i, job in enumerate(jobs):
        file = job.source
        try:
            pairs = (("mask", mask), ("condition", condition))
            more = [_partner(what, given, file, source) for what, given in pairs if given is not None]
            if done.extra(job, more) is not None:
                outcome.skipped += 1
                report(i + 1, len(jobs))
                continue
            picture = read_picture(file, metadata=True)
            if picture.converted_from:
                outcome.notes.append(f"{file}: converted from {picture.converted_from} to sRGB")
            if picture.frames > 1:
                counted_to = " or more" if picture.frames == MAX_FRAMES else ""
                outcome.notes.append(f"{file}: {picture.frames}{counted_to} frames; only the first is restored")
            hole = None if mask is None else _read_mask(more[0], outcome.notes)
            seen = None if condition is None else read_picture(more[-1])
            if degrade:
                picture, hole = _degraded(run, picture, seed, job.outputs["-degraded"], within)
            made = 0
            for k, number in enumerate(numbers):
                made += counted.calls if k else 0
                counted.reset()
                draws = generator(seed + k, "restore")
                batch = run.batch_of(picture, draws, mask=hole, condition=seen)
                named = job.outputs[number]
                # Checked here: otherwise a wrong format would fail only after the network calls.
                check_format(named, run.picture_of(batch["x_1"][0], picture))
                states = (state[0] for state in restorer.walk(batch, nfe=nfe, generator=[draws]))
                walk = _counted(states, counted, made, calls * samples, report_calls)
                shown, words = states_shown(batch["x_1"][0], walk)
                lost = write_picture(named, run.picture_of(shown[-1], picture), quality=quality, root=within)
                outcome.notes += [f"{named}: without {what}" for what in lost]
                if trajectory:
                    strip = Picture(montage([shown], words))
                    write_picture(job.outputs[f"{number}-trajectory"], strip, root=within)
                outcome.written += 1
                outcome.nfe = counted.calls
            done.add(job, more)
        except UserError as error:
            line = str(error) if str(file) in str(error) else f"{file}: {error}"
            if source.is_file():
                raise UserError(line) from error
            outcome.problems.append(line)
        report(i + 1, len(jobs))
    return outcome


def _counted(
    states: Iterator[Tensor], network: CountedMethod, before: int, total: int, report: Callable[[int, int], None]
) -> Iterator[Tensor]:
    """Yield the states of a walk, and report the number of network calls at each."""
    for state in states:
        report(min(before + network.calls, total), total)
        yield state


def _others(job: Job, mask: Path | None, condition: Path | None, source: Path) -> list[Path]:
    """The files of an image's mask and condition, those that exist."""
    found = []
    for what, given in (("mask", mask), ("condition", condition)):
        with contextlib.suppress(UserError):
            found += [] if given is None else [_partner(what, given, job.source, source)]
    return found


def _identity(run: Run) -> list[Any]:
    """The facts that a run's results depend on: version, step, digest of the checkpoint, recipe and precision."""
    folder = run.folder / "checkpoints" / f"step-{run.step:08d}"
    weights = [read_text(folder / name) for name in (SEAL, MANIFEST) if (folder / name).is_file()][:1]
    if not weights:
        weights = [str(uuid.uuid4())]  # not from a run folder: the weights cannot be identified, so nothing is reused
    dtypes = sorted({str(value.dtype) for value in run.method.network.state_dict().values()})
    return [__version__, run.step, *weights, run.recipe.to_toml(), dtypes]


def _read_mask(file: Path, notes: list[str]) -> Picture:
    """Read a mask as a picture of one channel; append notes on unusual masks."""
    try:
        pixels, remark = mask_of(read_picture(file))
    except UserError as error:
        raise UserError(str(error) if str(file) in str(error) else f"{file}: {error}") from error
    hole = to_mask(pixels)
    if not hole.any():
        raise UserError(f"{file}: the mask marks no pixel: white (above half) means unknown, to be restored")
    if hole.all():
        notes.append(f"{file}: the mask marks every pixel as unknown; nothing of the image is kept")
    if remark:
        notes.append(f"{file}: a mask {remark}")
    return Picture(pixels)


def _partner(what: str, given: Path, file: Path, source: Path) -> Path:
    """The mask or condition of an image: the given file, or the file of that name in the given folder."""
    if not given.is_dir():
        return given
    wanted = given / file.relative_to(source if source.is_dir() else file.parent)
    candidates = sorted(wanted.parent.iterdir()) if wanted.parent.is_dir() else []
    stem = normal_form(wanted.stem)
    found = [path for path in candidates if normal_form(path.stem) == stem and path.suffix.lower() in IMAGE_SUFFIXES]
    if not found:
        raise UserError(f"{wanted}: no {what} for {file}")
    return found[0]


def _degraded(run: Run, picture: Picture, seed: int, result: Path, root: Path | None) -> tuple[Picture, Picture | None]:
    """Degrade a clean picture by the recipe's degradation; return a user's input (degraded picture) and its mask."""
    degradation = run.recipe.build_degradation()
    if degradation is None:
        raise UserError(f"--degrade: recipe '{run.recipe.name}' learns from pairs and has no degradation")
    multiple = degradation.multiple
    settings = run.recipe.data
    clean = to_tensor(with_channels(visible(picture), settings.channels), settings.value_range)[None]
    height, width = (side // multiple * multiple for side in clean.shape[-2:])
    if not (height and width):
        raise UserError(f"--degrade: the image is smaller than {multiple}x{multiple} pixels")
    degraded = degradation(clean[..., :height, :width], [generator(seed, "degrade")])

    alpha = None if picture.alpha is None else picture.alpha[:height, :width]

    def written(x: Tensor) -> Picture:
        pixels = to_pixels(x[0], picture.pixels.dtype, settings.value_range)
        return replace(picture, pixels=pixels, alpha=alpha_like(alpha, pixels), lossy=False)

    write_picture(result, written(degraded.x_1), root=root)
    # A user's input: for super-resolution the small image, for colorization the grey image without noise.
    small = written(degradation.reduced(degradation.measurement(degraded)))
    hole = None if degraded.mask is None else Picture(to_pixels(degraded.mask[0] * 2 - 1), None)
    return small, hole
