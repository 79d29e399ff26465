"""The restoration of one image file: its settings, its inputs, and the files of its results."""

import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from i2i_bridge import __version__
from i2i_bridge.degradations.base import degraded_by
from i2i_bridge.errors import UserError, located
from i2i_bridge.images.colour import check_colour_fix, colour_fixed
from i2i_bridge.images.files import MAX_FRAMES, check_format, read_picture, write_picture
from i2i_bridge.images.folder import IMAGE_SUFFIXES
from i2i_bridge.images.montage import animation, montage, scaled_down, states_shown
from i2i_bridge.images.outputs import FilesOutcome, Job
from i2i_bridge.images.pixels import Picture, mask_of, to_mask, to_pixels, to_tensor, visible, with_channels
from i2i_bridge.methods.base import Batch
from i2i_bridge.methods.calls import checked_nfe, counted_calls
from i2i_bridge.methods.mean import network_calls
from i2i_bridge.methods.tiles import counted_tiles
from i2i_bridge.plugins import plugin_digests
from i2i_bridge.randomness import generator
from i2i_bridge.runs.batch import alpha_like, to_batch, to_picture
from i2i_bridge.runs.checkpoint import MANIFEST, SEAL
from i2i_bridge.runs.run import Run
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


@dataclass(frozen=True, kw_only=True)
class RestoreSettings:
    """How each image is restored: the arguments of `restore_files`.

    Raises:
        UserError: A value is wrong, or two exclude each other.
    """

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
    _listings: dict[Path, dict[str, Path]] = field(default_factory=dict, init=False, repr=False, compare=False)
    """Images of the folders of extras, listed once: otherwise the time of each image would grow with the folder."""

    def __post_init__(self) -> None:
        if type(self.samples) is not int or self.samples < 1:
            raise UserError(f"samples={self.samples!r}: give a whole number from 1 on")
        if self.degrade and "mask" in self.extras:
            raise UserError("--degrade draws its own mask; leave it out: --mask makes the hole of a clean image, too")
        if self.animation_side is not None and not self.trajectory:
            raise UserError("animation_side: shows the states of trajectory=True; give both")
        check_colour_fix(self.colour_fix, masked="mask" in self.extras)

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
        """Files of the mask and of the condition of an image, by name."""
        return {name: self._companion(name, path, job.source) for name, path in self.extras.items()}

    def _companion(self, name: str, given: Path, file: Path) -> Path:
        """The mask or condition of an image: the given file, or the file of the image's name in the given folder."""
        if not given.is_dir():
            return given
        wanted = given / file.relative_to(self.source if self.source.is_dir() else file.parent)
        if wanted.parent not in self._listings:
            self._listings[wanted.parent] = _images_by_stem(wanted.parent)
        path = self._listings[wanted.parent].get(normal_form(wanted.stem))
        if path is None:
            raise UserError(f"{wanted}: no {name} for {file}")
        return path

    def network_calls(self, run: Run) -> int:
        """Network calls of one sample of an image."""
        return network_calls(run.method, run.recipe.sample.nfe if self.nfe is None else checked_nfe(self.nfe))

    def record(self, run: Run) -> dict[str, Any]:
        """Everything that determines the bytes of the results, for the record of finished images."""
        record: dict[str, Any] = {
            "verb": "restore", "run": result_facts(run, self.nfe), "nfe": self.nfe, "samples": self.samples,
            "seed": self.seed, "mask": "mask" not in self.extras, "degrade": self.degrade,
            "trajectory": self.trajectory, "format": self.format, "quality": self.quality, "plugins": plugin_digests(),
        }  # fmt: skip
        for name in ("label", "trajectory_side", "animation_side"):
            if getattr(self, name) is not None:
                record[name] = getattr(self, name)
        if run.recipe.is_reverse(self.direction):
            record["direction"] = "reverse"
        if run.tiles is not None:
            record["tiles"] = run.tiles
        if self.colour_fix != "none":
            record["colour_fix"] = self.colour_fix
        return record


@dataclass(frozen=True)
class Restorer:
    """A run and how it restores images."""

    run: Run
    settings: RestoreSettings
    report_calls: Callable[[int, int], None] = lambda done, total: None
    report_tiles: Callable[[int, int], None] = lambda done, total: None

    def restore(self, job: Job, tile: int | None, outcome: Outcome) -> None:
        """Restore an image, write its results, and count them in the outcome.

        Args:
            tile: Side of automatically chosen tiles; None: as the run has it.

        Raises:
            UserError: The image, its mask or its condition cannot be used, or a result cannot be written.
        """
        run, settings = self.run, self.settings
        used = run if tile is None else run.tiled(tile)
        picture, hole, extra = self._inputs(job, outcome.notes)
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

    def _inputs(self, job: Job, notes: list[str]) -> tuple[Picture, Picture | None, Picture | None]:
        """Read an image, its mask and its condition; of a clean image, what its degradation makes of it."""
        settings, files = self.settings, self.settings.companions(job)
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


def _notes(file: Path, picture: Picture) -> list[str]:
    """Notes on the colour space and the frames of an input."""
    notes = [f"{file}: converted from {picture.converted_from} to sRGB"] if picture.converted_from else []
    if picture.frames > 1:
        or_more = " or more" if picture.frames == MAX_FRAMES else ""
        notes.append(f"{file}: {picture.frames}{or_more} frames; only the first is restored")
    return notes


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


def _images_by_stem(folder: Path) -> dict[str, Path]:
    """The images of a folder by name without suffix; of several with one name, the first in order."""
    paths = sorted(folder.iterdir(), reverse=True) if folder.is_dir() else []
    return {normal_form(path.stem): path for path in paths if path.suffix.lower() in IMAGE_SUFFIXES}


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


def result_facts(run: Run, nfe: int | None) -> list[Any]:
    """The facts that a run's results depend on: version, step, digest of the checkpoint, recipe, precision, backend,
    tuning."""
    folder = run.folder / "checkpoints" / f"step-{run.step:08d}"
    weights = [read_text(folder / name) for name in (SEAL, MANIFEST) if (folder / name).is_file()][:1]
    if not weights:
        weights = [str(uuid.uuid4())]  # not from a run folder: the weights cannot be identified, so nothing is reused
    dtypes = sorted({str(value.dtype) for value in run.method.network.state_dict().values()})
    if run.backend != "eager":  # else left out, so that results of earlier versions stay valid
        dtypes.append(f"backend {run.backend}")
    line = run.tuned_line(nfe)
    return [__version__, run.step, *weights, run.recipe.to_toml(), dtypes, *([] if line is None else [line])]
