"""Restore image files: one file, or every image below a folder."""

import re
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import torch
from torch import Tensor

from i2i_bridge import __version__
from i2i_bridge.bridge.tiles import TiledNetwork
from i2i_bridge.degradations.base import degraded_by
from i2i_bridge.errors import UserError, located
from i2i_bridge.images.colour import check_colour_fix, colour_fixed
from i2i_bridge.images.files import MAX_FRAMES, check_format, image_size, read_picture, write_picture
from i2i_bridge.images.folder import IMAGE_SUFFIXES, folder_notes
from i2i_bridge.images.montage import animation, montage, scaled_down, states_shown
from i2i_bridge.images.outputs import DoneJobs, Existing, FilesOutcome, Job, keep_apart, plan_files, process
from i2i_bridge.images.pixels import Picture, mask_of, to_mask, to_pixels, to_tensor, visible, with_channels
from i2i_bridge.methods.base import Batch
from i2i_bridge.methods.calls import counted_calls
from i2i_bridge.methods.mean import network_calls
from i2i_bridge.methods.tiles import counted_tiles, whole_network
from i2i_bridge.networks.weights import weights_sha256
from i2i_bridge.plugins import plugin_digests
from i2i_bridge.randomness import generator
from i2i_bridge.runs.batch import alpha_like, to_batch, to_picture
from i2i_bridge.runs.checkpoint import MANIFEST, SEAL
from i2i_bridge.runs.load import load_run
from i2i_bridge.runs.run import Run
from i2i_bridge.runs.workers import Lost, dealt
from i2i_bridge.runs.workload import Workload, pixel_count, workload_of
from i2i_bridge.storage.files import remove_partial, write_whole
from i2i_bridge.storage.names import normal_form
from i2i_bridge.storage.reader import read_text

if TYPE_CHECKING:  # pydantic: `import i2i_bridge` stays light
    from i2i_bridge.recipe.schema import Direction


@dataclass
class Outcome(FilesOutcome):
    """The result of `restore_files`."""

    nfe: int = 0
    """Network calls per image, counted."""

    def join(self, part: "Outcome", error: UserError | None) -> None:
        """Add the outcome of one image, which another process restored.

        Raises:
            UserError: `error`, if there is one.
        """
        self.written += part.written
        self.notes += part.notes
        self.nfe = part.nfe or self.nfe
        if error is not None:
            raise error


_Part = tuple[Outcome, UserError | None]
"""What restoring one image gave, and the problem if it cannot be used."""


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
    source, target = Path(source), Path(target)
    reverse = run.recipe.is_reverse(direction)
    if reverse and degrade:
        raise UserError("--degrade makes X_1, which is what the direction 'reverse' restores; leave one of them out")
    if type(samples) is not int or samples < 1:
        raise UserError(f"samples={samples!r}: give a whole number from 1 on")
    if existing not in get_args(Existing):
        raise UserError(f"existing={existing!r}: give {', '.join(map(repr, get_args(Existing)))}")
    if degrade and mask is not None:
        raise UserError("--degrade draws its own mask; leave it out: --mask makes the hole of a clean image, too")
    if animation_side is not None and not trajectory:
        raise UserError("animation_side: shows the states of trajectory=True; give both")
    _check_jobs(run, jobs)
    run = run.in_tiles(tile, overlap)
    check_colour_fix(colour_fix, masked=mask is not None)
    extras = {name: Path(path) for name, path in (("mask", mask), ("condition", condition)) if path is not None}
    settings = _Settings(
        source=source, root=target if source.is_dir() else None, extras=extras, nfe=nfe, samples=samples, seed=seed,
        label=label, degrade=degrade, trajectory=trajectory, trajectory_side=trajectory_side,
        animation_side=animation_side, format=format, quality=quality, direction=direction,
        colour_fix=colour_fix,
    )  # fmt: skip
    planned = plan_files(
        source, target, results=settings.results, beside=settings.beside(), format=format, quality=quality
    )
    if sequence:
        planned = _frames(planned, source)
    for name, path in settings.extras.items():
        keep_apart(planned, target, path, name)
    done = DoneJobs(settings.root, existing, settings.record(run, reverse))
    outcome = Outcome(notes=folder_notes(source) + [note for job in planned for note in job.notes.values()])

    def is_done(job: Job) -> bool:
        try:
            extra = done.extra(job, settings.companions(job).values())
        except (UserError, OSError):  # reported when the image is restored
            return False
        # Restored whole, where that is asked for: an automatic choice may have tiled it.
        return extra is not None and not (tile == 0 and existing == "resume" and TILE in extra)

    left = {job.name: job for job in planned if not is_done(job)}
    work = Workload()
    if left:
        images, calls = [job.source for job in left.values()], settings.network_calls(run)
        jobs = min(jobs, len(images))
        work = workload_of(run, images, nfe=calls, samples=samples, automatic=tile is None, jobs=jobs)
        for line in (run.tuned_line(nfe), work.line, work.jobs_line):
            if line is not None:
                say(line)
    parts, counted = dict[str, _Part](), 0
    if work.jobs > 1:
        parts = _by_workers(run, settings, list(left.values()), work, done, outcome.notes, len(planned), report)
        counted = len(planned) - len(left) + len(parts)
    restorer = _Restorer(run, settings, report_calls, report_tiles)

    def restore(job: Job) -> None:
        if job.name not in left:
            outcome.skipped += 1
        elif job.name in parts:
            outcome.join(*parts[job.name])
        else:
            files = settings.companions(job)
            restorer.restore(job, files, work.tiles.get(job.source), outcome)
            done.add(job, files.values(), _tile_of(work, job))

    process(
        planned, source, outcome, restore, lambda number, total: report(number, total) if number > counted else None
    )
    return outcome


TILE = "tile"
"""In the record of an image: the side of the tiles that were chosen for it by themselves."""


def _tile_of(work: Workload, job: Job) -> dict[str, Any]:
    return {TILE: work.tiles[job.source]} if job.source in work.tiles else {}


@dataclass(frozen=True, kw_only=True)
class _Settings:
    """How each image is restored: the arguments of `restore_files`."""

    source: Path
    root: Path | None
    """The folder of results, in which links are not followed; None for a single file."""
    extras: Mapping[str, Path]
    """File or folder of the 'mask' and of the 'condition', as far as they are given."""
    nfe: int | None
    samples: int
    seed: int
    label: int | None
    degrade: bool
    trajectory: bool
    trajectory_side: int | None
    animation_side: int | None
    format: str | None
    quality: int | None
    direction: "Direction | None"
    colour_fix: str

    @property
    def results(self) -> list[str]:
        """Endings of the results of an image."""
        return [f"-{k + 1}" for k in range(self.samples)] if self.samples > 1 else [""]

    def beside(self) -> dict[str, str]:
        """Endings and suffixes of the by-products of an image."""
        beside = {"-degraded": ""} if self.degrade else {}
        beside |= {f"{ending}-trajectory": ".png" for ending in self.results} if self.trajectory else {}
        animated = self.animation_side is not None
        return beside | ({f"{ending}-animation": ".webp" for ending in self.results} if animated else {})

    def companions(self, job: Job) -> dict[str, Path]:
        """The mask and the condition of an image."""
        return {name: _companion(name, path, job.source, self.source) for name, path in self.extras.items()}

    def clean(self, task: tuple[Job, int | None], process: int) -> None:
        """Remove what a worker process that was killed left of results that it was writing."""
        for output in task[0].outputs.values():
            remove_partial(output, process, root=self.root)

    def network_calls(self, run: Run) -> int:
        """Network calls of one sample of an image."""
        return network_calls(run.method, run.recipe.sample.nfe if self.nfe is None else self.nfe)

    def record(self, run: Run, reverse: bool) -> dict[str, Any]:
        """Everything that determines the bytes of the results, for the record of finished images."""
        record: dict[str, Any] = {
            "verb": "restore", "run": _identity(run, self.nfe), "nfe": self.nfe, "samples": self.samples,
            "seed": self.seed, "mask": "mask" not in self.extras, "degrade": self.degrade,
            "trajectory": self.trajectory, "format": self.format, "quality": self.quality, "plugins": plugin_digests(),
        }  # fmt: skip
        for name in ("label", "trajectory_side", "animation_side"):
            if getattr(self, name) is not None:
                record[name] = getattr(self, name)
        if reverse:
            record["direction"] = "reverse"
        if run.tiles is not None:
            record["tiles"] = run.tiles
        if self.colour_fix != "none":
            record["colour_fix"] = self.colour_fix
        return record


def _no_report(done: int, total: int) -> None:
    """A report of progress that nobody reads."""


@dataclass(frozen=True)
class _Restorer:
    """A run and how it restores images."""

    run: Run
    settings: _Settings
    report_calls: Callable[[int, int], None] = _no_report
    report_tiles: Callable[[int, int], None] = _no_report

    def restore(self, job: Job, files: Mapping[str, Path], tile: int | None, outcome: Outcome) -> None:
        """Restore an image, write its results, and count them in the outcome.

        Args:
            files: The image's mask and condition, by name.
            tile: Side of the tiles of an image that is tiled by itself.

        Raises:
            UserError: The image, its mask or its condition cannot be used, or a result cannot be written.
        """
        run, settings = self.run, self.settings
        used = run if tile is None else run.tiled(tile)
        picture, hole, extra = self._inputs(job, files, outcome.notes)
        total, tiles = settings.network_calls(run) * settings.samples, 1

        def count_call(count: int) -> None:
            if tiles == 1:
                self.report_calls(min(count, total), total)

        def count_tile(count: int) -> None:
            if tiles > 1:
                self.report_tiles(min(count, total * tiles), total * tiles)

        with counted_calls(used.method, count_call) as counted, counted_tiles(used.method, count_tile):
            for k, ending in enumerate(settings.results):
                draws = [generator(settings.seed + k, "restore")]
                batch = to_batch(run.recipe, picture, hole, extra, draws, settings.direction, settings.label)
                check_colour_fix(settings.colour_fix, masked="mask" in batch)
                tiles = used.tile_count(*batch["x_1"].shape[-2:])
                # Checked here: otherwise a wrong format would fail only after the network calls.
                check_format(job.outputs[ending], to_picture(run.recipe, batch["x_1"][0], picture))
                shown, headings = self._states(used, batch, draws)
                fixed = colour_fixed(shown[-1], batch["x_1"][0], settings.colour_fix)
                self._write(job, ending, to_picture(run.recipe, fixed, picture), outcome.notes)
                if settings.trajectory:
                    self._write_states(job, ending, shown, headings)
                outcome.written += 1
                outcome.nfe = counted.count // (k + 1)

    def _inputs(
        self, job: Job, files: Mapping[str, Path], notes: list[str]
    ) -> tuple[Picture, Picture | None, Picture | None]:
        """Read an image, its mask and its condition; of a clean image, what its degradation makes of it."""
        settings = self.settings
        picture = read_picture(job.source, metadata=True)
        notes += _notes(job.source, picture)
        hole = _read_mask(files["mask"], notes) if "mask" in files else None
        extra = read_picture(files["condition"]) if "condition" in files else None
        if settings.degrade:
            picture, hole = _degraded(self.run, picture, settings.seed, job.outputs["-degraded"], settings.root)
        return picture, hole, extra

    def _states(self, used: Run, batch: Batch, draws: Sequence[torch.Generator]) -> tuple[list[Tensor], list[str]]:
        """The states of a walk that are shown, the restored one last, and their headings."""
        trajectory = self.settings.trajectory
        walk = used.trajectory(batch, nfe=self.settings.nfe, generator=draws, every=trajectory)
        states = (state[0] for state in walk)
        if trajectory:
            return states_shown(batch["x_1"][0], states)
        return list(deque(states, maxlen=1)), []  # otherwise several states of a large photo would be kept

    def _write(self, job: Job, ending: str, result: Picture, notes: list[str]) -> None:
        """Write a restored image; append notes on what its format cannot hold."""
        output = job.outputs[ending]
        lost = write_picture(output, result, quality=self.settings.quality, root=self.settings.root)
        notes += [f"{output}: without {what}" for what in lost]

    def _write_states(self, job: Job, ending: str, shown: list[Tensor], headings: list[str]) -> None:
        """Write the states of a walk as a row, and as an animation where that is asked for."""
        settings = self.settings
        row = shown if settings.trajectory_side is None else scaled_down(shown, settings.trajectory_side)
        write_picture(job.outputs[f"{ending}-trajectory"], Picture(montage([row], headings)), root=settings.root)
        side = settings.animation_side
        if side is not None:
            frames = [scaled_down([state], side)[0] for state in shown]
            write_whole(job.outputs[f"{ending}-animation"], animation(frames, headings), root=settings.root)


def _check_jobs(run: Run, jobs: int) -> None:
    """Refuse worker processes that could not restore as this run does."""
    if jobs < 1:
        raise UserError(f"jobs {jobs}: give 1 or more")
    if jobs > 1 and run.device.type != "cpu":
        raise UserError(
            f"jobs {jobs}: worker processes compute on the CPU, and this run on {run.device}; leave it out, or choose "
            "the device cpu"
        )
    if jobs > 1 and run.options is None:
        raise UserError(
            f"jobs {jobs}: each process opens the run's folder, and this run is not one that load_run opened"
        )


def _by_workers(
    run: Run,
    settings: _Settings,
    left: Sequence[Job],
    work: Workload,
    done: DoneJobs,
    notes: list[str],
    total: int,
    report: Callable[[int, int], None],
) -> dict[str, _Part]:
    """Restore images in worker processes, largest first, and record each that is finished.

    Args:
        notes: Gets a line for each process that ended while it started.
        total: Number of images, with those that are not restored again, for `report`.

    Returns:
        What each image gave, by name; without the images that no process was left for.
    """
    skipped, parts = total - len(left), dict[str, _Part]()
    for number in range(skipped):
        report(number + 1, total)
    # Otherwise the last one to be dealt could be a large one, which the other processes would wait for.
    tasks = [(job, work.tiles.get(job.source)) for job in sorted(left, key=lambda job: -pixel_count(job.source))]
    threads = max(torch.get_num_threads() // work.jobs, 1)

    def record(job: Job) -> None:
        done.add(job, settings.companions(job).values(), _tile_of(work, job))

    answers = dealt(tasks, _Opening.of(run, settings), workers=work.jobs, threads=threads, clean=settings.clean)
    with closing(answers):
        for task, answer in answers:
            if task is None:
                notes += [f"a worker process {answer.how} while it started"] if isinstance(answer, Lost) else []
                continue
            job, _ = task
            if isinstance(answer, Lost):
                answer = Outcome(), UserError(f"{job.source}: the worker process {answer.how}")
            elif answer[1] is None:
                answer = answer[0], _problem(record, job)
            parts[job.name] = answer
            report(skipped + len(parts), total)
    return parts


def _problem(work: Callable[[Job], None], job: Job) -> UserError | None:
    """The error, if any, that work on an image raises."""
    try:
        with located(job.source):
            work(job)
    except UserError as error:
        return error
    return None


@dataclass(frozen=True)
class _Opening:
    """How a worker process opens the same run, and restores with it."""

    folder: Path
    step: int
    options: Mapping[str, Any]
    tiles: tuple[int, int, int] | None
    facts: Sequence[Any]
    settings: _Settings

    @classmethod
    def of(cls, run: Run, settings: _Settings) -> "_Opening":
        network = run.method.network
        tiles = (network.side, network.overlap, network.batch) if isinstance(network, TiledNetwork) else None
        return cls(run.folder, run.step, run.options or {}, tiles, _facts(run, settings), settings)

    def __call__(self) -> Callable[[tuple[Job, int | None]], _Part]:
        """Open the run; a function that restores an image and gives its part of the outcome."""
        run = load_run(self.folder, device="cpu", checkpoint=self.step, report=lambda line: None, **self.options)
        if self.tiles is not None:
            side, overlap, batch = self.tiles
            run = run.tiled(side, overlap, batch=batch)
        if _facts(run, self.settings) != self.facts:
            raise UserError(
                f"{self.folder}: holds other weights or settings than the run that was opened before; leave jobs out"
            )
        restorer = _Restorer(run, self.settings)

        def restore(task: tuple[Job, int | None]) -> _Part:
            (job, tile), outcome = task, Outcome()
            companions = self.settings.companions
            error = _problem(lambda job: restorer.restore(job, companions(job), tile, outcome), job)
            return outcome, error

        return restore


def _facts(run: Run, settings: _Settings) -> list[Any]:
    """What a run that a worker process opened must have in common with the run here: identity and weights."""
    return [*_identity(run, settings.nfe), weights_sha256(whole_network(run.method))]


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
    """The facts that a run's results depend on: version, step, digest of the checkpoint, recipe, precision, backend,
    tuning."""
    folder = run.folder / "checkpoints" / f"step-{run.step:08d}"
    weights = [read_text(folder / name) for name in (SEAL, MANIFEST) if (folder / name).is_file()][:1]
    if not weights:
        weights = [str(uuid.uuid4())]  # not from a run folder: the weights cannot be identified, so nothing is reused
    dtypes = sorted({str(value.dtype) for value in run.method.network.state_dict().values()})
    if run.backend != "eager":  # left out otherwise: results of before stay valid
        dtypes.append(f"backend {run.backend}")
    line = run.tuned_line(nfe)  # likewise
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
    degraded = degraded_by(degradation, clean[..., :height, :width], [generator(seed, "degrade")])
    alpha = None if picture.alpha is None else picture.alpha[:height, :width]

    def as_file(x: Tensor) -> Picture:
        pixels = to_pixels(x[0], picture.pixels.dtype, settings.value_range)
        return replace(picture, pixels=pixels, alpha=alpha_like(alpha, pixels), lossy=False)

    write_picture(result, as_file(degraded.x_1), root=root)
    # A user's input: for super-resolution the small image, for colorization the grey image without noise.
    reduced = as_file(degradation.reduced(degradation.measurement(degraded)))
    return reduced, None if degraded.mask is None else Picture(to_pixels(degraded.mask[0] * 2 - 1))
