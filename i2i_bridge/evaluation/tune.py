"""Sampling settings of a run, chosen by a metric: sampler, share of noise, time grid and clipping for each NFE.

The validation images are halved by a keyed draw. The first half chooses (`evaluation.search`); the second only reports
the choice beside the recipe's settings.
"""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from i2i_bridge.data.dataset import PairDataset
from i2i_bridge.data.source import item_of
from i2i_bridge.errors import UserError, of_kind
from i2i_bridge.evaluation.evaluate import open_evaluation
from i2i_bridge.evaluation.items import positions
from i2i_bridge.evaluation.scores import build_scorer
from i2i_bridge.evaluation.search import Choice, Search
from i2i_bridge.methods.calls import checked_nfes
from i2i_bridge.metrics.base import build_metric
from i2i_bridge.randomness import key
from i2i_bridge.recipe.protocol import Resolved
from i2i_bridge.runs.run import Run
from i2i_bridge.runs.tuned import TunedFile, TunedSample, read_tuned, write_tuned
from i2i_bridge.storage.files import refuse_links, remove
from i2i_bridge.storage.lock import locked
from i2i_bridge.storage.shipped import PACKAGE, TUNED_FILE

LOCKED = "evaluation"
"""Subfolder whose lock is held while tuned.toml is read and written: training holds that of the run folder for days."""
COUNT = 64
"""Default number of images, both halves together."""


@dataclass(frozen=True)
class Tuning:
    """The result of `tune`."""

    metric: str
    label: str
    """Name of the metric in tables, with the unit."""
    choices: list[Choice]
    images: tuple[int, int]
    """Number of images that chose, and that reported."""
    calls: int
    """Network calls made."""
    asked: int
    """Network calls that the samplers asked for."""
    file: Path | None
    """The file written; None where the recipe's settings are the best everywhere and no other NFE is tuned."""


def tune(
    run: Run,
    dataset: PairDataset | None = None,
    *,
    nfe: Sequence[int],
    metric: str,
    count: int = COUNT,
    protocol: Resolved | str | Path | None = None,
    seed: int = 0,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Tuning:
    """Choose the sampling settings of a run for numbers of network calls, and write them to its tuned.toml.

    Settings of other NFE in the file are kept if they are of the same checkpoint, metric, protocol, list, number of
    images and seed.
    The same arguments give the same file.

    Args:
        run: The run; where its folder has tuned settings, they are found anew and their own are no candidates.
        dataset: As in `evaluate`.
        nfe: Network calls per image.
        metric: Name of a registered metric.
        count: Number of validation images, the first ones, at least 4; one half chooses, the other reports.
        protocol: As in `evaluate`.
        seed: Seed of the halves; the noise is that of `evaluate`.
        report: Called with (images done, images in all).

    Raises:
        UserError: The run answers in one call or cannot be written to, the metric cannot be computed or has no paired
            standard error, or there are too few images.
    """
    of_kind("run", run, Run, "a run, load_run(FOLDER)")
    counts = checked_nfes(nfe)
    _check_folder(run.folder)
    setup = open_evaluation(run.recipe, protocol, count=count)
    dataset = setup.dataset if dataset is None else dataset
    halves = halved(dataset, setup.rules, seed)
    height, width = dataset[halves[0][0]]["x_0"].shape[-2:]
    name = build_metric(metric)[0]
    scorer = build_scorer([name], dataset.channels, len(halves[1]), setup.rules, (height, width))
    search = Search(replace(run, tuned=None, tuned_methods={}), dataset, setup.rules, scorer, name)
    search.check(halves[0][0])
    choices = search.choices(counts, *halves, report)
    tuned = TunedFile(
        step=run.step,
        metric=name,
        protocol=f"{setup.rules.name}@{setup.rules.protocol.version}",
        images=len(halves[0]),
        seed=seed,
        list_sha256=setup.rules.settings.get("list", {}).get("sha256"),
        nfe={str(choice.nfe): _entry(choice) for choice in choices if not choice.is_own},
    )
    # Otherwise two searches that end at once would each write the table that it read, without the other's NFE.
    with locked(
        run.folder / LOCKED, "its tuned settings are being written by another process", root=run.folder, wait=60
    ):
        file = _written(run, tuned, counts)
    lengths = (len(halves[0]), len(halves[1]))
    calls, asked = (sum(counts) for counts in zip(*((each.calls, each.asked) for each in search.networks), strict=True))
    return Tuning(name, search.label, choices, lengths, calls, asked, file)


def halved(dataset: PairDataset, rules: Resolved, seed: int) -> tuple[list[int], list[int]]:
    """Indices of the images that choose, and of those that report: disjoint halves by a draw keyed by the item's key.

    Raises:
        UserError: There are fewer than 4 images.
    """
    indices = [int(index) for index in positions(dataset, rules)]
    if len(indices) < 4:
        raise UserError(
            f"tune: {len(indices)} validation images; 4 are needed, two that choose and two that report;"
            " raise count (-n), or add images to the validation split"
        )
    keys = {index: str(item_of(dataset.source, index)["key"]) for index in indices}
    order = sorted(indices, key=lambda index: (key(seed, "tune", keys[index]), index))
    return order[: len(order) // 2], order[len(order) // 2 :]


def _check_folder(folder: Path) -> None:
    if folder.resolve().is_relative_to(PACKAGE):
        raise UserError(
            f"{folder}: is shipped with the package; `i2i-bridge tune` makes a copy of it that can be tuned"
        )
    if not os.access(folder, os.W_OK):
        raise UserError(f"{folder}: cannot be written, and tuned settings belong there; copy the run to another folder")
    refuse_links(folder, [LOCKED])


def _entry(choice: Choice) -> TunedSample:
    scores: dict[str, Any] = {
        "own_score": choice.own,
        "tuned_score": choice.tuned,
        "difference": choice.difference.value,
        "standard_error": choice.difference.standard_error,
    }
    return TunedSample(**choice.settings, **{name: value for name, value in scores.items() if math.isfinite(value)})


def _written(run: Run, tuned: TunedFile, counts: Sequence[int]) -> Path | None:
    """Write the file, with the NFE of an earlier search of the same kind; None if there is nothing to write."""
    try:
        earlier = read_tuned(run.folder)
    except UserError:  # damaged: to be replaced
        earlier = None
    if earlier is not None and earlier.model_dump(exclude={"nfe"}) == tuned.model_dump(exclude={"nfe"}):
        kept = {nfe: each for nfe, each in earlier.nfe.items() if int(nfe) not in counts}
        tuned = tuned.model_copy(
            update={"nfe": dict(sorted((kept | tuned.nfe).items(), key=lambda item: int(item[0])))}
        )
    if not tuned.nfe:
        remove(run.folder / TUNED_FILE, root=run.folder)
        return None
    return write_tuned(run.folder, tuned)
