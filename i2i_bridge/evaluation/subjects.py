"""Subjects of an evaluation: a trained run at several NFE, or a folder of images of any origin."""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import torch
from torch import Tensor

from i2i_bridge.data.loader import collate
from i2i_bridge.errors import UserError, brief, located
from i2i_bridge.evaluation.results import calls_in_name
from i2i_bridge.images.files import read_picture
from i2i_bridge.images.folder import find_images
from i2i_bridge.images.pixels import Range, to_tensor, with_channels
from i2i_bridge.methods.calls import checked_nfes, counted_calls
from i2i_bridge.methods.tiles import whole_network
from i2i_bridge.networks.weights import weights_sha256
from i2i_bridge.randomness import evaluation_noise
from i2i_bridge.recipe.protocol import digest
from i2i_bridge.runs.run import Run
from i2i_bridge.storage.names import normal_form
from i2i_bridge.storage.reader import file_sha256


@dataclasses.dataclass(frozen=True)
class Restored:
    """Restorations of a batch of items."""

    images: list[Tensor]
    """(C, H, W) each."""
    seconds: float | None
    """Seconds per image."""
    calls: int
    """Network calls per image, counted; 0 without a network."""


class Subject(Protocol):
    """The interface of what an evaluation scores: it gives restored images, in one or more rows."""

    recipe: str
    method: str
    step: int
    fingerprint: str
    """Fingerprint of everything that the images depend on, except the item."""
    baselines: bool
    """Whether the degraded input and simple restorations are rows too."""
    one_draw: bool
    """Whether every item has one image only, so that there is no diversity to measure."""

    warnings: Sequence[str]
    """Warnings to print with the results."""

    tuned: Mapping[str, str]
    """A line on the tuned sampling of each row that has one (`Run.tuned_line`)."""

    capped: bool
    """Whether the subject makes fewer network calls than requested; valid after `rows`."""

    def rows(self, first: Mapping[str, Any]) -> list[str]:
        """Names of the rows, in order; `first` is an item for a trial restoration."""
        ...

    def of_item(self, key: str) -> str:
        """Fingerprint of further input for one item, such as a file; empty if `fingerprint` covers it."""
        ...

    def restore(self, row: str, items: Sequence[Mapping[str, Any]], draws: Sequence[int]) -> Restored:
        """Restore items of one size; draw j of an item is the same in every batch and order."""
        ...


class RunSubject:
    """A trained run at several NFE.

    Args:
        name: Name in tables; by default the method of the run's recipe.
    """

    baselines = True
    one_draw = False
    capped = False

    def __init__(self, run: Run, nfe: Sequence[int], name: str | None = None) -> None:
        self.counts = checked_nfes(nfe)
        self.recipe, self.step = run.recipe.name, run.step
        self.method = name or run.recipe.method_label
        self.seed = run.recipe.evaluate.seed
        tiles = (
            []
            if run.tiles is None
            else ["images larger than {0}x{0} pixels: restored in tiles of that size that share {1}".format(*run.tiles)]
        )
        backend = [] if run.backend == "eager" else [f"the network was computed by {run.backend}"]
        self.warnings: Sequence[str] = [*run.warnings, *tiles, *backend]
        tuned = [] if run.tuned is None else list(map(int, run.tuned.nfe))
        self.tuned: Mapping[str, str] = {f"nfe {count}": str(run.tuned_line(count)) for count in tuned}
        self.fingerprint = fingerprint_of(run)
        self.run = run

    def rows(self, first: Mapping[str, Any]) -> list[str]:
        """As `Subject.rows`; a method that always makes one call has one row."""
        if self.counts[-1] > 1:
            self.capped = self.restore("nfe 2", [first], [0]).calls < 2
        return ["nfe 1"] if self.capped else [f"nfe {count}" for count in self.counts]

    def of_item(self, key: str) -> str:
        """Empty: a restoration depends on the checkpoint and the item only."""
        return ""

    def restore(self, row: str, items: Sequence[Mapping[str, Any]], draws: Sequence[int]) -> Restored:
        """As `Subject.restore`; draw j of an item is keyed by (seed, its key, j)."""
        noise = [evaluation_noise(self.seed, str(item["key"]), draw) for item, draw in zip(items, draws, strict=True)]
        batch, nfe = collate(items), calls_in_name(row)
        with counted_calls(self.run.method) as calls:
            start = time.perf_counter()
            with located(f"{row} of {brief(', '.join(str(item['key']) for item in items))}"):
                restored = self.run.restore_batch(batch, nfe=nfe, generator=noise)
            seconds = (time.perf_counter() - start) / len(items)
        # Images, not calls, are counted: a method may restore the images of a batch one by one, as Pix2pix does.
        return Restored(list(restored), seconds, calls.images // len(items))


def fingerprint_of(run: Run) -> str:
    """SHA-256 of a run's step, weights, tiles and the settings that its restorations depend on."""
    # Training settings and data act through the weights only; the evaluated data are part of the protocol.
    apart = {"name", "summary", "reference", "train", "evaluate", "data", "degradation", "teacher"}
    settings = run.recipe.model_dump(mode="json", exclude=apart)
    settings["sample"].pop("nfe", None)
    if run.recipe.sample.condition_scale is None:
        del settings["sample"]["condition_scale"]  # otherwise evaluations older than it would be computed again
    if run.recipe.mean is None:
        del settings["mean"]  # otherwise evaluations older than [mean] would be computed again
    else:
        # The path of the mean (mean.sha256 identifies its weights) and its cache, which change no result.
        del settings["mean"]["run"], settings["mean"]["cache"]
    if run.tuned is not None:  # otherwise rows of tuned and other sampling would stand in one evaluation
        settings["tuned"] = {nfe: tuned.settings for nfe, tuned in run.tuned.nfe.items()}
    if run.recipe.latent is None:
        del settings["latent"]  # otherwise evaluations older than [latent] would be computed again
    else:
        settings["latent"]["encoder"].pop("source", None)  # a path; latent.sha256 identifies the weights
        del settings["latent"]["cache"]  # only training uses it
    # In float32 the backend is left out: all agree to 1e-4, so that one may continue the evaluation of another.
    exact = all(value.dtype == torch.float32 for value in run.method.network.parameters())
    if run.backend != "eager" and not exact:
        settings["backend"] = run.backend
    tiles = [] if run.tiles is None else [{"tiles": run.tiles}]
    return digest([run.step, weights_sha256(whole_network(run.method)), settings, *tiles])


class FolderSubject:
    """A folder of images of any origin, one for each item.

    Args:
        name: Name of the row.
        files: The image of each item, by key; see `match_images`.
        channels: Channels of the images.
        value_range: Pixel values that mean -1 and 1, in files of the dataset's dtype.
    """

    baselines = False
    one_draw = True
    capped = False
    warnings: Sequence[str] = ()
    tuned: Mapping[str, str] = {}
    step = 0

    def __init__(self, recipe: str, name: str, files: Mapping[str, Path], channels: int, value_range: Range) -> None:
        self.recipe, self.method, self.files = recipe, name, files
        self.channels, self.value_range = channels, value_range
        self.fingerprint = digest(["images", name])

    def rows(self, first: Mapping[str, Any]) -> list[str]:
        """The one row."""
        return [self.method]

    def of_item(self, key: str) -> str:
        """SHA-256 of the item's file."""
        return file_sha256(self.files[key])

    def restore(self, row: str, items: Sequence[Mapping[str, Any]], draws: Sequence[int]) -> Restored:
        """Read the images of the items from their files."""
        images = []
        for item in items:
            pixels = with_channels(read_picture(self.files[str(item["key"])]).pixels, self.channels)
            # `value_range` is for the dataset's dtype; files of another dtype use that dtype's full range.
            images.append(to_tensor(pixels, self.value_range if pixels.dtype.name == item["dtype"] else None))
        return Restored(images, None, 0)


def picture_name(position: int, key: str) -> str:
    """An item's file name in `images/`: position, and key in characters that are valid on every file system."""
    safe = "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in key.rpartition(".")[0] or key)
    safe = safe[-80:]
    while len(safe.encode()) > 200:  # otherwise multi-byte letters could exceed the length limit of file names
        safe = safe[1:]
    return f"{position:04d}-{safe}"


def match_images(folder: Path, keys: Sequence[str], size: tuple[int, int]) -> tuple[dict[str, Path], list[str]]:
    """Find the image of each item in a folder; return them, and a line for each missing, surplus or unusable image.

    A file belongs to the item whose key equals its path below the folder, with or without suffix, or its name without
    suffix, or whose name in `images/` (`picture_name`) equals its name.

    Args:
        keys: Keys of the items, in their order.
        size: Required (height, width).

    Raises:
        UserError: The folder is missing, or has no image.
    """
    if not folder.is_dir():
        raise UserError(f"--images {folder}: no such folder")
    files = find_images(folder)
    if not files:
        raise UserError(f"--images {folder}: no images in this folder")
    words: dict[str, set[int]] = {}
    for position, key in enumerate(keys):
        name = normal_form(key)
        path = PurePosixPath(name.replace("\\", "/"))
        for word in {name, str(path.with_suffix("")) if path.name else name, path.stem, picture_name(position, key)}:
            words.setdefault(word, set()).add(position)
    found: dict[int, Path] = {}
    problems: list[str] = []
    for file in files:
        path = PurePosixPath(normal_form(file.relative_to(folder).as_posix()))
        matches = next(
            (words[word] for word in (str(path), str(path.with_suffix("")), path.stem) if word in words), None
        )
        if matches is None:
            problems.append(f"{file}: belongs to no image of the protocol")
            continue
        if len(matches) > 1:
            problems.append(
                f"{file}: the name means {len(matches)} images; put it in sub-folders as the dataset has them"
            )
            continue
        (position,) = matches
        if position in found:
            problems.append(f"{file}: a second image of '{keys[position]}', beside {found[position].name}")
            continue
        found[position] = file
        try:
            height, width = read_picture(file).pixels.shape[:2]
        except UserError as error:
            problems.append(str(error))
            continue
        if (height, width) != size:
            problems.append(f"{file}: {width}x{height} pixels, but {size[1]}x{size[0]} are scored")
    problems += [f"{folder}: no image of '{key}'" for position, key in enumerate(keys) if position not in found]
    return {keys[position]: file for position, file in found.items()}, problems
