"""Pictures of a run for its page: sampling trajectories, several samples of one image, training and held-out images."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from i2i_bridge.data.dataset import PairDataset
from i2i_bridge.data.loader import collate
from i2i_bridge.data.sources.folders import shared_files
from i2i_bridge.errors import UserError
from i2i_bridge.images.montage import states_shown
from i2i_bridge.randomness import evaluation_noise
from i2i_bridge.runs.run import Run


@dataclass(frozen=True)
class Samples:
    """Several restorations of one image, one for each seed."""

    x_1: Tensor
    x_0: Tensor
    restored: list[Tensor]
    spread: Tensor
    """Standard deviation over the samples, mean over channels, (1, H, W), scaled to [-1, 1] with 1 the largest."""
    largest: float
    """The largest standard deviation, in 8-bit codes; 0 if every seed gives the same image."""


@dataclass(frozen=True)
class Drawn:
    """Pictures of one run."""

    nfe: int
    """NFE of the walk; samples and strips use fewer if the evaluation has a row with fewer."""
    nfe_of_samples: int
    nfe_of_strips: int
    words: list[str] = field(default_factory=list)
    """Headings of the columns of the walk."""
    walk: list[list[Tensor]] = field(default_factory=list)
    """A row of states for each image, X_1 first; empty for a one-step method."""
    samples: Samples | None = None
    trained_on: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)
    """(x_1, restored, x_0) of training images; empty if the training data cannot be opened."""
    held_out: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)
    overlap: str = ""
    """A sentence on whether validation images were trained on; '' if unknown."""


WALK_NFE, SAMPLES_NFE = 20, 10
"""Largest NFE of the walk and of the samples, if the evaluation has a smaller row; otherwise a page takes too long."""
SAMPLES = 5
"""Number of restorations of the first image, one for each seed."""
COLUMNS = 8
"""Maximum number of states of an image."""


def draw(run: Run, dataset: PairDataset, *, calls: Sequence[int], images: int = 2) -> Drawn:
    """Restore a few images for the page of a run.

    Args:
        dataset: The validation pairs.
        calls: NFE of the evaluation's rows, to choose from.
        images: Number of training images, and of validation images.
    """
    nfe, few = (max((n for n in calls if n <= most), default=min(calls)) for most in (WALK_NFE, SAMPLES_NFE))
    walks, words = walk_rows(run, dataset, nfe=nfe, images=images)
    several = any(len(row) > 2 for row in walks)
    return Drawn(
        nfe,
        few,
        min(calls),
        words if several else [],
        walks if several else [],
        _samples(run, dataset, few) if len(dataset) else None,
        _strip(run, _training_pairs(run), min(calls), images),
        _strip(run, dataset, min(calls), images),
        overlap(run, dataset),
    )


def walk_rows(run: Run, dataset: PairDataset, *, nfe: int, images: int) -> tuple[list[list[Tensor]], list[str]]:
    """The sampling states of the first images, at most COLUMNS of each, and a heading for each column."""
    rows: list[list[Tensor]] = []
    words: list[str] = []
    for i in range(min(images, len(dataset))):
        item = dataset[i]
        noise = [evaluation_noise(run.recipe.evaluate.seed, item["key"])]
        states = run.trajectory(collate([item]), nfe=nfe, generator=noise)
        row, words = states_shown(item["x_1"], (state[0] for state in states), COLUMNS)
        rows.append(row)
    return rows, words


def overlap(run: Run, dataset: PairDataset) -> str:
    """A sentence on whether the images were trained on; '' if the training data cannot be opened."""
    trained_on = _training_pairs(run)
    shared = None if trained_on is None else shared_files(trained_on.source, dataset.source)
    if shared is None:
        return ""
    return "None was trained on." if shared == 0 else f"{shared} of {len(dataset)} were TRAINED ON: not held out."


def _training_pairs(run: Run) -> PairDataset | None:
    try:
        return run.recipe.build_dataset("train")
    except UserError:
        return None


def _strip(run: Run, dataset: PairDataset | None, nfe: int, images: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    if dataset is None:
        return []
    rows = []
    for i in range(min(images, len(dataset))):
        item = dataset[i]
        rows.append((item["x_1"], _restored(run, item, nfe, run.recipe.evaluate.seed), item["x_0"]))
    return rows


def _samples(run: Run, dataset: PairDataset, nfe: int) -> Samples:
    item = dataset[0]
    restored = [_restored(run, item, nfe, seed) for seed in range(2)]
    if not torch.equal(*restored):  # otherwise sampling is deterministic and more seeds give the same image
        restored += [_restored(run, item, nfe, seed) for seed in range(2, SAMPLES)]
    spread = torch.stack(restored).std(dim=0).mean(dim=0, keepdim=True)
    largest = float(spread.max())
    return Samples(
        item["x_1"], item["x_0"], restored, 2 * spread / largest - 1 if largest else spread - 1, 127.5 * largest
    )


def _restored(run: Run, item: dict[str, Any], nfe: int, seed: int) -> Tensor:
    return run.restore_batch(collate([item]), nfe=nfe, generator=[evaluation_noise(seed, item["key"])])[0]
