"""Restore image files: one file, or every image below a folder."""

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from i2i_bridge.errors import UserError, of_kind
from i2i_bridge.images.files import image_size
from i2i_bridge.images.folder import folder_notes
from i2i_bridge.images.outputs import DoneJobs, Existing, Job, keep_apart, plan_files, process
from i2i_bridge.runs.batch import check_inputs
from i2i_bridge.runs.restore_workers import Part, check_jobs, restored_by_workers
from i2i_bridge.runs.restorer import Outcome, Restorer, RestoreSettings
from i2i_bridge.runs.run import Run
from i2i_bridge.runs.workload import Workload, workload_of
from i2i_bridge.storage.files import check_writable

if TYPE_CHECKING:  # pydantic: `import i2i_bridge` stays light
    from i2i_bridge.recipe.schema import Direction

TILE = "tile"
"""Key in the record of an image: the side of automatically chosen tiles."""


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
    jobs: int = 1,
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
        tile: Restore larger images in overlapping tiles of this side, see `Run.tiled`; 0: whole. By default images of
            2 million pixels or more are tiled, and those that would not fit into memory whole.
        overlap: Fewest pixels that neighbouring tiles share.
        colour_fix: Low frequencies of the degraded image that the result gets: 'none', 'mean' or 'wavelet'.
        sequence: The folder holds the frames of a video: they must have one size, are restored in the order of the
            numbers in their names, whole or in the same tiles, and share one noise field (that of the seed).
        report: Called with (images done, images in all).
        report_calls: Called with (network calls done, network calls in all) of each image that is not tiled.
        report_tiles: Called with (tiles done, tiles in all) of each image that is tiled; each call sees all tiles.
        say: Called before the work with a line on tuned sampling (`Run.tuned_line`), and with one on memory, time and
            automatic tiles if an image is large (`workload`).
        jobs: Worker processes that restore the images of a folder, on the CPU, each with a copy of the run and an equal
            share of torch's threads; `report_calls` and `report_tiles` are then not called. Fewer are started where
            there are fewer images or too little memory. The results are those of one process with as many threads as
            each has. A script that uses it needs `if __name__ == "__main__":`, since each process imports the script.

    Raises:
        UserError: The input is missing, the output would overwrite it, or a single file cannot be restored; or there
            are several jobs, and the run computes elsewhere than on the CPU or is not as `load_run` opened it.

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
    of_kind("run", run, Run, "a run, load_run(FOLDER)")
    for name, place in (("source", source), ("target", target)):
        of_kind(name, place, (str, os.PathLike), "one file or folder")
    source, target = Path(source), Path(target)
    if degrade and run.recipe.is_reverse(direction):
        raise UserError("--degrade makes X_1, which is what the direction 'reverse' restores; leave one of them out")
    if existing not in get_args(Existing):
        raise UserError(f"existing={existing!r}: give {', '.join(map(repr, get_args(Existing)))}")
    check_jobs(run, jobs)
    # Checked here: otherwise every image of a folder would be refused for the same reason.
    check_inputs(
        run.recipe, mask=mask is not None or degrade, condition=condition is not None, label=label, direction=direction
    )
    run = run.in_tiles(tile, overlap)
    settings = RestoreSettings(
        source=source, root=target if source.is_dir() else None,
        extras={name: Path(path) for name, path in (("mask", mask), ("condition", condition)) if path is not None},
        nfe=nfe, samples=samples, seed=seed, label=label, degrade=degrade, trajectory=trajectory,
        trajectory_side=trajectory_side, animation_side=animation_side, format=format, quality=quality,
        direction=direction, colour_fix=colour_fix,
    )  # fmt: skip
    planned = plan_files(
        source, target, results=settings.results, beside=settings.beside(), format=format, quality=quality
    )
    if sequence:
        planned = _frames(planned, source)
    for name, path in settings.extras.items():
        keep_apart(planned, target, path, name)
    done = DoneJobs(settings.root, existing, settings.record(run))
    outcome = Outcome(notes=folder_notes(source) + [note for job in planned for note in job.notes.values()])

    def is_done(job: Job) -> bool:
        try:
            extra = done.extra(job, settings.companions(job).values())
        except (UserError, OSError):  # reported when the image is restored
            return False
        # With --tile 0 an image that an earlier command tiled by itself is restored again.
        return extra is not None and not (tile == 0 and existing == "resume" and TILE in extra)

    left = {job.name: job for job in planned if not is_done(job)}
    skipped, work = len(planned) - len(left), Workload()
    if left:
        check_writable(settings.root or next(iter(planned[0].outputs.values())).parent)
        images, calls = [job.source for job in left.values()], settings.network_calls(run)
        jobs = min(jobs, len(images))
        work = workload_of(run, images, nfe=calls, samples=samples, automatic=tile is None, jobs=jobs)
        for line in (run.tuned_line(nfe), work.line, work.jobs_line):
            if line is not None:
                say(line)

    def record(job: Job) -> None:
        tiled = {TILE: work.tiles[job.source]} if job.source in work.tiles else {}
        done.add(job, settings.companions(job).values(), tiled)

    parts, reported = dict[str, Part](), 0
    if work.jobs > 1:
        for number in range(skipped):
            report(number + 1, len(planned))
        parts = restored_by_workers(
            run,
            settings,
            [(job, work.tiles.get(job.source)) for job in left.values()],
            workers=work.jobs,
            record=record,
            notes=outcome.notes,
            report=lambda count: report(skipped + count, len(planned)),
        )
        reported = skipped + len(parts)
    restorer = Restorer(run, settings, report_calls, report_tiles)

    def restore(job: Job) -> None:
        if job.name not in left:
            outcome.skipped += 1
        elif job.name in parts:
            outcome.join(*parts[job.name])
        else:
            restorer.restore(job, work.tiles.get(job.source), outcome)
            record(job)

    process(
        planned, source, outcome, restore, lambda number, total: report(number, total) if number > reported else None
    )
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
