"""Restore image files: one file, or every image below a folder."""

import re
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from i2i_bridge import __version__
from i2i_bridge.errors import UserError, located
from i2i_bridge.images.colour import check_colour_fix, colour_fixed
from i2i_bridge.images.files import MAX_FRAMES, check_format, image_size, read_picture, write_picture
from i2i_bridge.images.folder import IMAGE_SUFFIXES, folder_notes
from i2i_bridge.images.montage import animation, montage, scaled_down, states_shown
from i2i_bridge.images.outputs import DoneJobs, Existing, FilesOutcome, Job, keep_apart, plan_files, process
from i2i_bridge.images.pixels import Picture, mask_of, to_mask, to_pixels, to_tensor, visible, with_channels
from i2i_bridge.methods.calls import counted_calls
from i2i_bridge.methods.mean import network_calls
from i2i_bridge.methods.tiles import counted_tiles
from i2i_bridge.plugins import plugin_digests
from i2i_bridge.randomness import generator
from i2i_bridge.runs.batch import alpha_like, to_batch, to_picture
from i2i_bridge.runs.checkpoint import MANIFEST, SEAL
from i2i_bridge.runs.run import Run
from i2i_bridge.runs.workload import Workload, workload_of
from i2i_bridge.storage.files import write_whole
from i2i_bridge.storage.names import normal_form
from i2i_bridge.storage.reader import read_text

if TYPE_CHECKING:  # pydantic: `import i2i_bridge` stays light
    from i2i_bridge.recipe.schema import Direction


@dataclass
class Outcome(FilesOutcome):
    """The result of `restore_files`."""

    nfe: int = 0
    """Network calls per image, counted."""


def restore_files(
    run: Run,
    source: str | Path,
    target: str | Path,
    *,
    nfe: int | None = None,
    samples: int = 1,
    seed: int = 0,
    mask: str | Path | None = None,
    condition: str | Path | None = None,
    label: int | None = None,
    degrade: bool = False,
    trajectory: bool = False,
    trajectory_side: int | None = None,
    animation_side: int | None = None,
    format: str | None = None,
    quality: int | None = None,
    existing: Existing = "resume",
    direction: "Direction | None" = None,
    tile: int | None = None,
    overlap: int | None = None,
    colour_fix: str = "none",
    sequence: bool = False,
    report: Callable[[int, int], None] = lambda done, total: None,
    report_calls: Callable[[int, int], None] = lambda done, total: None,
    report_tiles: Callable[[int, int], None] = lambda done, total: None,
    say: Callable[[str], None] = lambda line: None,
) -> Outcome:
    """Restore a file, or every image below a folder, keeping names.

    An unreadable image in a folder does not stop the others. Sample k (from 1) is written as NAME-k if samples > 1, and
    uses seed + k - 1, so that each sample can be reproduced alone.

    Args:
        mask: Image, or folder of images of the same names; white = unknown.
        condition: Image, or folder of images of the same names, for a recipe with data.own_condition.
        label: Class of the images, 0, 1, ..., for a network with classes.
        degrade: The inputs are clean: apply the recipe's degradation first (written as NAME-degraded).
        trajectory: Write states from X_1 to X_0 beside each result, as NAME-trajectory.png.
        trajectory_side: Longest side in pixels of the row of states, which are scaled down; by default they are not.
        animation_side: With trajectory, write the states also as an animation, NAME-animation.webp, of at most so many
            pixels a side.
        format: 'png', 'jpg', 'webp' or 'tif'; by default the format of each input.
        quality: Quality of JPEG and WebP, 1 to 100 (`write_picture`).
        existing: How to treat inputs of a folder whose results exist.
        direction: As in `Run.restore`.
        tile: Restore larger images in overlapping tiles of this side, see `Run.tiled`; 0: whole. By default images are
            tiled that would not fit into memory whole.
        overlap: Fewest pixels that neighbouring tiles share.
        colour_fix: Low frequencies of the degraded image that the result gets: 'none', 'mean' or 'wavelet'.
        sequence: The folder holds the frames of a video: they must have one size, are restored in the order of the
            numbers in their names, whole or in the same tiles, and share one noise field (that of the seed).
        report: Called with (images done, images in all).
        report_calls: Called with (network calls done, network calls in all) of each image that is not tiled.
        report_tiles: Called with (tiles done, tiles in all) of each image that is tiled; each call sees all tiles.
        say: Called before the work with a line on tuned sampling (`Run.tuned_line`), and with one on memory, time and
            automatic tiles if an image is large (`workload`).

    Raises:
        UserError: The input is missing, the output would overwrite it, or a single file cannot be restored.

    Examples:
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from i2i_bridge import load_run, restore_files
        >>> Path("photos").mkdir()
        >>> Image.new("RGB", (50, 40), (90, 120, 150)).save("photos/sky.png")
        >>> outcome = restore_files(load_run("pretrained/photos"), "photos", "restored", nfe=1)
        >>> Image.open("restored/sky.png").size
        (50, 40)
    """
    source, target = Path(source), Path(target)
    reverse = run.recipe.is_reverse(direction)
    if reverse and degrade:
        raise UserError("--degrade makes X_1, which is what the direction 'reverse' restores; leave one of them out")
    if animation_side is not None and not trajectory:
        raise UserError("animation_side: shows the states of trajectory=True; give both")
    run = run.in_tiles(tile, overlap)
    check_colour_fix(colour_fix, masked=mask is not None)
    results = [f"-{k + 1}" for k in range(samples)] if samples > 1 else [""]
    beside = {"-degraded": ""} if degrade else {}
    beside |= {f"{ending}-trajectory": ".png" for ending in results} if trajectory else {}
    beside |= {f"{ending}-animation": ".webp" for ending in results} if animation_side is not None else {}
    jobs = plan_files(source, target, results=results, beside=beside, format=format, quality=quality)
    if sequence:
        jobs = _frames(jobs, source)
    extras = {name: Path(path) for name, path in (("mask", mask), ("condition", condition)) if path is not None}
    for name, path in extras.items():
        keep_apart(jobs, target, path, name)
    root = target if source.is_dir() else None  # links in a folder of results are not followed
    settings: dict[str, Any] = {
        "verb": "restore", "run": _identity(run, nfe), "nfe": nfe, "samples": samples, "seed": seed,
        "mask": mask is None, "degrade": degrade, "trajectory": trajectory, "format": format, "quality": quality,
        "plugins": plugin_digests(),
    }  # fmt: skip
    given = {"label": label, "trajectory_side": trajectory_side, "animation_side": animation_side}
    settings |= {name: value for name, value in given.items() if value is not None}
    if reverse:
        settings["direction"] = "reverse"
    if run.tiles is not None:
        settings["tiles"] = run.tiles
    if colour_fix != "none":
        settings["colour_fix"] = colour_fix
    done = DoneJobs(root, existing, settings)
    calls = network_calls(run.method, run.recipe.sample.nfe if nfe is None else nfe)
    outcome = Outcome(notes=folder_notes(source) + [note for job in jobs for note in job.notes.values()])

    def companions(job: Job) -> dict[str, Path]:
        return {name: _companion(name, path, job.source, source) for name, path in extras.items()}

    def is_done(job: Job) -> bool:
        try:
            return done.extra(job, companions(job).values()) is not None
        except (UserError, OSError):  # reported when the image is restored
            return False

    def restore(job: Job) -> None:
        if job.name not in left:
            outcome.skipped += 1
            return
        used = run.tiled(work.tiles[job.source]) if job.source in work.tiles else run
        files = companions(job)
        picture = read_picture(job.source, metadata=True)
        outcome.notes += _notes(job.source, picture)
        hole = _read_mask(files["mask"], outcome.notes) if mask is not None else None
        extra = read_picture(files["condition"]) if condition is not None else None
        if degrade:
            picture, hole = _degraded(run, picture, seed, job.outputs["-degraded"], root)
        total, tiles = calls * samples, 1

        def count_call(count: int) -> None:
            if tiles == 1:
                report_calls(min(count, total), total)

        def count_tile(count: int) -> None:
            if tiles > 1:
                report_tiles(min(count, total * tiles), total * tiles)

        with counted_calls(used.method, count_call) as counted, counted_tiles(used.method, count_tile):
            for k, ending in enumerate(results):
                draws, output = [generator(seed + k, "restore")], job.outputs[ending]
                batch = to_batch(run.recipe, picture, hole, extra, draws, direction, label)
                check_colour_fix(colour_fix, masked="mask" in batch)
                tiles = used.tile_count(*batch["x_1"].shape[-2:])
                # Checked here: otherwise a wrong format would fail only after the network calls.
                check_format(output, to_picture(run.recipe, batch["x_1"][0], picture))
                walk = used.trajectory(batch, nfe=nfe, generator=draws, every=trajectory)
                states = (state[0] for state in walk)
                if trajectory:
                    shown, headings = states_shown(batch["x_1"][0], states)
                else:  # otherwise several states of a large photo would be kept
                    shown, headings = list(deque(states, maxlen=1)), []
                fixed = colour_fixed(shown[-1], batch["x_1"][0], colour_fix)
                lost = write_picture(output, to_picture(run.recipe, fixed, picture), quality=quality, root=root)
                outcome.notes += [f"{output}: without {what}" for what in lost]
                if trajectory:
                    row = shown if trajectory_side is None else scaled_down(shown, trajectory_side)
                    strip = Picture(montage([row], headings))
                    write_picture(job.outputs[f"{ending}-trajectory"], strip, root=root)
                if animation_side is not None:
                    frames = [scaled_down([state], animation_side)[0] for state in shown]
                    write_whole(job.outputs[f"{ending}-animation"], animation(frames, headings), root=root)
                outcome.written += 1
                outcome.nfe = counted.count // (k + 1)
        done.add(job, files.values())

    left = {job.name: job.source for job in jobs if not is_done(job)}
    files = list(left.values())
    work = workload_of(run, files, nfe=calls, samples=samples, automatic=tile is None) if left else Workload()
    for line in (run.tuned_line(nfe), work.line) if left else ():
        if line is not None:
            say(line)
    process(jobs, source, outcome, restore, report)
    return outcome


def _frames(jobs: Sequence[Job], source: Path) -> list[Job]:
    """The frames of a video in the order of the numbers in their names: 2 before 10.

    Raises:
        UserError: It is a single file, or a frame has another size than the first one.
    """
    if source.is_file():
        raise UserError(f"{source}: a sequence is a folder of frames, and this is a file")

    def order(job: Job) -> list[tuple[int, str]]:
        return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", job.name)]

    frames = sorted(jobs, key=order)
    first = image_size(frames[0].source)
    for job in frames:
        size = image_size(job.source)
        if size != first:
            raise UserError(
                f"{job.source}: {size[1]}x{size[0]} pixels, and the first frame of the sequence has "
                f"{first[1]}x{first[0]}; frames have one size"
            )
    return frames


def _notes(file: Path, picture: Picture) -> list[str]:
    """Notes on the colour space and the frames of an input."""
    notes = [f"{file}: converted from {picture.converted_from} to sRGB"] if picture.converted_from else []
    if picture.frames > 1:
        or_more = " or more" if picture.frames == MAX_FRAMES else ""
        notes.append(f"{file}: {picture.frames}{or_more} frames; only the first is restored")
    return notes


def _identity(run: Run, nfe: int | None) -> list[Any]:
    """The facts that a run's results depend on: version, step, digest of the checkpoint, recipe, precision, tuning."""
    folder = run.folder / "checkpoints" / f"step-{run.step:08d}"
    weights = [read_text(folder / name) for name in (SEAL, MANIFEST) if (folder / name).is_file()][:1]
    if not weights:
        weights = [str(uuid.uuid4())]  # not from a run folder: the weights cannot be identified, so nothing is reused
    dtypes = sorted({str(value.dtype) for value in run.method.network.state_dict().values()})
    line = run.tuned_line(nfe)  # left out where there is none: results of before stay valid
    return [__version__, run.step, *weights, run.recipe.to_toml(), dtypes, *([] if line is None else [line])]


def _read_mask(file: Path, notes: list[str]) -> Picture:
    """Read a mask as a picture of one channel; append notes on unusual masks."""
    with located(file):
        pixels, remark = mask_of(read_picture(file))
    hole = to_mask(pixels)
    if not hole.any():
        raise UserError(f"{file}: the mask marks no pixel: white (above half) means unknown, to be restored")
    if hole.all():
        notes.append(f"{file}: the mask marks every pixel as unknown; nothing of the image is kept")
    if remark:
        notes.append(f"{file}: a mask {remark}")
    return Picture(pixels)


def _companion(name: str, given: Path, file: Path, source: Path) -> Path:
    """The mask or condition of an image: the given file, or the file of the image's name in the given folder."""
    if not given.is_dir():
        return given
    wanted = given / file.relative_to(source if source.is_dir() else file.parent)
    stem = normal_form(wanted.stem)
    for path in sorted(wanted.parent.iterdir()) if wanted.parent.is_dir() else []:
        if normal_form(path.stem) == stem and path.suffix.lower() in IMAGE_SUFFIXES:
            return path
    raise UserError(f"{wanted}: no {name} for {file}")


def _degraded(run: Run, picture: Picture, seed: int, result: Path, root: Path | None) -> tuple[Picture, Picture | None]:
    """Degrade a clean picture by the recipe's degradation; return a user's input (degraded picture) and its mask."""
    settings, degradation = run.recipe.data, run.recipe.build_degradation()
    if degradation is None:
        raise UserError(f"--degrade: recipe '{run.recipe.name}' learns from pairs and has no degradation")
    multiple = degradation.multiple
    clean = to_tensor(with_channels(visible(picture), settings.channels), settings.value_range)[None]
    height, width = (side // multiple * multiple for side in clean.shape[-2:])
    if not (height and width):
        raise UserError(f"--degrade: the image is smaller than {multiple}x{multiple} pixels")
    degraded = degradation(clean[..., :height, :width], [generator(seed, "degrade")])
    alpha = None if picture.alpha is None else picture.alpha[:height, :width]

    def as_file(x: Tensor) -> Picture:
        pixels = to_pixels(x[0], picture.pixels.dtype, settings.value_range)
        return replace(picture, pixels=pixels, alpha=alpha_like(alpha, pixels), lossy=False)

    write_picture(result, as_file(degraded.x_1), root=root)
    # A user's input: for super-resolution the small image, for colorization the grey image without noise.
    reduced = as_file(degradation.reduced(degradation.measurement(degraded)))
    return reduced, None if degraded.mask is None else Picture(to_pixels(degraded.mask[0] * 2 - 1))
