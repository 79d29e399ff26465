"""Files in, files out: restoring folders of images, and contact sheets of training data."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from torch import Tensor

from i2i_bridge.errors import UserError
from i2i_bridge.images import (
    IMAGE_SUFFIXES,
    Picture,
    find_images,
    read_picture,
    to_pixels,
    to_tensor,
    with_channels,
    write_picture,
)
from i2i_bridge.montage import montage, states_shown
from i2i_bridge.randomness import generator
from i2i_bridge.recipe import Recipe
from i2i_bridge.run import Run
from i2i_bridge.subjects import CountedNetwork


@dataclass
class Outcome:
    """What `restore_files` did."""

    written: int = 0
    nfe: int = 0
    """Network calls per image, counted."""
    problems: list[str] = field(default_factory=list)
    """One line for each image that could not be restored."""
    notes: list[str] = field(default_factory=list)
    """One line for what was left out: further frames, files that look like images of an unknown kind."""


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
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Outcome:
    """Restore a file, or every image below a folder, keeping names.

    A bad image of a folder does not stop the others. Sample k (from 1) is written as NAME-k where samples > 1, and
    uses seed + k - 1, so each can be had again alone.

    Args:
        mask: Image, or folder of images of the same names; white = unknown.
        condition: Likewise, for a recipe with data.own_condition.
        degrade: The inputs are clean: the recipe's degradation first (written as NAME-degraded).
        trajectory: Write states from X_1 to X_0 beside each result, as NAME-trajectory.png.
        report: Called with (images done, images in all).

    Raises:
        UserError: The input is missing, the output would overwrite it, or a single file cannot be restored.
    """
    jobs = file_jobs(source, target)
    counted = CountedNetwork(run.method.network)
    restorer = Run(run.folder, run.recipe, run.method.with_network(counted), run.step, run.device)
    outcome = Outcome(notes=_left_out(source))
    for i, (file, result) in enumerate(jobs):
        try:
            picture = read_picture(file)
            if picture.frames > 1:
                outcome.notes.append(f"{file}: {picture.frames} frames; only the first is restored")
            hole = None if mask is None else read_picture(_partner("mask", mask, file, source))
            seen = None if condition is None else read_picture(_partner("condition", condition, file, source))
            if degrade:
                picture, hole = _degraded(run, picture, seed, result)
            for k in range(samples):
                counted.calls = 0
                draws = generator(seed + k, "restore")
                batch = run.batch_of(picture, draws, mask=hole, condition=seen)
                walk = (state[0] for state in restorer.walk(batch, nfe=nfe, generator=[draws]))
                shown, words = states_shown(batch["x_1"][0], walk)
                named = result.with_stem(f"{result.stem}-{k + 1}") if samples > 1 else result
                write_picture(named, run.picture_of(shown[-1], picture))
                if trajectory:
                    strip = Picture(montage([shown], words))
                    write_picture(named.with_name(f"{named.stem}-trajectory.png"), strip)
                outcome.written += 1
                outcome.nfe = counted.calls
        except UserError as error:
            line = str(error) if str(file) in str(error) else f"{file}: {error}"
            if source.is_file():
                raise UserError(line) from error
            outcome.problems.append(line)
        report(i + 1, len(jobs))
    return outcome


def file_jobs(source: Path, target: Path) -> list[tuple[Path, Path]]:
    """(input, output) of a file, or of every image below a folder; names stay the same.

    Raises:
        UserError: The input is missing or has no images, or the output would overwrite it.
    """
    if source.is_file():
        into_folder = target.is_dir() or not target.suffix
        result = target / source.name if into_folder else target
        if result.suffix.lower() not in IMAGE_SUFFIXES:
            raise UserError(f"{result}: not an image suffix; use one of {', '.join(sorted(IMAGE_SUFFIXES))}")
        if result.resolve() == source.resolve():
            raise UserError(f"{target}: the result would overwrite the input")
        return [(source, result)]
    if not source.is_dir():
        raise UserError(f"{source}: no such file or folder")
    if target.is_file():
        raise UserError(f"{target}: is a file, and {source} is a folder of images")
    if target.resolve().is_relative_to(source.resolve()):
        raise UserError(
            f"{target}: lies in the folder of the inputs: results would overwrite them, or be restored again"
        )
    files = find_images(source)
    if not files:
        raise UserError(f"{source}: no images in this folder")
    return [(file, target / file.relative_to(source)) for file in files]


OTHER_IMAGES = frozenset({".gif", ".heic", ".avif", ".jp2", ".jxl", ".psd", ".exr", ".hdr", ".dng", ".svg"})


def _left_out(source: Path) -> list[str]:
    others = (
        [file for file in sorted(source.rglob("*")) if file.suffix.lower() in OTHER_IMAGES] if source.is_dir() else []
    )
    return [f"{file}: left out, {file.suffix} is not read here; convert it" for file in others]


def _partner(what: str, given: Path, file: Path, source: Path) -> Path:
    """The mask or condition of an image: the given file, or the file of that name in the given folder."""
    if not given.is_dir():
        return given
    wanted = given / file.relative_to(source if source.is_dir() else file.parent)
    there = sorted(wanted.parent.iterdir()) if wanted.parent.is_dir() else []
    found = [path for path in there if path.stem == wanted.stem and path.suffix.lower() in IMAGE_SUFFIXES]
    if not found:
        raise UserError(f"{wanted}: no {what} for {file}")
    return found[0]


def _degraded(run: Run, picture: Picture, seed: int, result: Path) -> tuple[Picture, Picture | None]:
    """The picture as the recipe's degradation leaves it, as a user would bring it, and its mask."""
    degradation = run.recipe.build_degradation()
    if degradation is None:
        raise UserError(f"--degrade: recipe '{run.recipe.name}' learns from pairs and has no degradation")
    multiple = degradation.multiple
    settings = run.recipe.data
    clean = to_tensor(with_channels(picture.pixels, settings.channels), settings.value_range)[None]
    height, width = (side // multiple * multiple for side in clean.shape[-2:])
    if not (height and width):
        raise UserError(f"--degrade: the image is smaller than {multiple}x{multiple} pixels")
    degraded = degradation(clean[..., :height, :width], [generator(seed, "degrade")])

    def written(x: Tensor) -> Picture:
        return Picture(to_pixels(x[0], picture.pixels.dtype, settings.value_range), None)

    write_picture(result.with_stem(f"{result.stem}-degraded"), written(degraded.x_1))
    # What the user would bring: for super-resolution the small image.
    small = written(degradation.reduced(degraded.x_1))
    hole = None if degraded.mask is None else Picture(to_pixels(degraded.mask[0] * 2 - 1), None)
    return small, hole


def contact_sheet(recipe: Recipe, file: Path, *, rows: int, split: Literal["train", "validation"]) -> str:
    """Write a PNG of items after all transforms, and say what its columns are.

    Raises:
        UserError: The data are unusable, or the file cannot be written.
    """
    dataset = recipe.build_dataset(split)
    names = ["x_0", "x_1", "mask", "condition"]
    table: list[list[Tensor]] = []
    columns: list[str] = []
    for i in range(min(rows, len(dataset))):
        item = dataset[i]
        columns = [name for name in names if name in item]
        # A mask is in {0, 1}; its picture is in [-1, 1].
        table.append([item[name] * 2 - 1 if name == "mask" else item[name] for name in columns])
    write_picture(file, Picture(montage(table, columns)))
    return f"{' | '.join(columns).replace('x_0', 'clean x_0')}, {len(table)} rows"
