"""Validation during training: a metric of the EMA on the first validation images, the best step, early stopping.

What is drawn is keyed by (evaluate.seed, image), so a resumed run measures the same numbers. The best step so far is
part of every checkpoint, and BEST_FILE names it for readers.
"""

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from torch import Tensor

from i2i_bridge.data.dataset import PairDataset
from i2i_bridge.data.loader import collate
from i2i_bridge.distributed import Ranks
from i2i_bridge.errors import NotFinite, UserError, located
from i2i_bridge.images.pixels import to_pixels, to_tensor
from i2i_bridge.metrics.base import ItemMetric, Metric, Sample, SetMetric, build_metric, metric_faults
from i2i_bridge.plugins import plugin_errors
from i2i_bridge.randomness import evaluation_noise
from i2i_bridge.recipe.recipe import Recipe
from i2i_bridge.storage.files import write_whole
from i2i_bridge.storage.reader import read_json
from i2i_bridge.training.state import TrainState

BEST_FILE = "best.json"
"""File of a run folder that names the best checkpoint."""


@dataclass(frozen=True)
class Best:
    """The best validation of a run so far."""

    rule: str
    """What was measured; values of two rules are not compared."""
    step: int
    value: float
    failures: int = 0
    """Number of validations since then, none of which was better."""


def read_best(stored: Any) -> Best | None:
    """The best validation as a checkpoint's manifest holds it; None if there is none or it is malformed."""
    kinds = {"rule": str, "step": int, "value": float, "failures": int}
    if not isinstance(stored, dict) or any(type(stored.get(name)) is not kind for name, kind in kinds.items()):
        return None
    return Best(**{name: stored[name] for name in kinds})


def best_in(folder: Path) -> Best | None:
    """The best validation that BEST_FILE of a run folder names; None if there is none or the file is malformed."""
    try:
        table = read_json(folder / BEST_FILE)
    except (OSError, ValueError):
        return None
    return read_best(table | {"rule": table.get("metric"), "failures": 0}) if isinstance(table, dict) else None


def write_best(folder: Path, best: Best) -> None:
    """Write BEST_FILE into a run folder.

    Raises:
        UserError: The file cannot be written.
    """
    table = {"checkpoint": f"step-{best.step:08d}", "step": best.step, "value": best.value, "metric": best.rule}
    write_whole(folder / BEST_FILE, (json.dumps(table, indent=1) + "\n").encode())


class Validation:
    """Measures `train.keep_best` and remembers the best step.

    Args:
        recipe: The recipe, with keep_best.
        dataset: The validation images.
        best: The best validation of the checkpoint that the run resumes from.

    Raises:
        UserError: The metric needs a set of images or several restorations, or cannot be computed here.
    """

    def __init__(self, recipe: Recipe, dataset: PairDataset, best: Best | None) -> None:
        with located("train.keep_best"):
            self.name, self._metric = _metric(str(recipe.train.keep_best), recipe.data.channels)
        self._recipe, self._dataset = recipe, dataset
        self._count = min(recipe.train.validate_images, len(dataset))
        self._rule = f"{self.name} of {self._count} validation images at {recipe.sample.nfe} network calls"
        self.best = self._of_this_rule(best)

    def _of_this_rule(self, best: Best | None) -> Best | None:
        return best if best is not None and best.rule == self._rule else None

    @property
    def is_over(self) -> bool:
        """Whether `train.patience` validations in a row were not better."""
        patience = self._recipe.train.patience
        return patience is not None and self.best is not None and self.best.failures >= patience

    @property
    def column(self) -> str:
        """Name of the metric in the rows of metrics.jsonl."""
        return f"validation_{self.name}"

    def measure(self, state: TrainState, folder: Path, ranks: Ranks, saved: Best | None) -> float:
        """Measure the EMA on rank 0, update `best` on all ranks, and return the value; NaN if no image gave a number.

        Args:
            saved: The best validation whose checkpoint was saved.

        Raises:
            UserError: A validation image cannot be used.
        """
        value, problem = math.nan, None
        if ranks.is_first:
            try:
                value = self._value(state, folder)
            except UserError as error:
                problem = error
        ranks.share_problem(problem)
        value = float(ranks.gathered(value)[0])
        if self.best is not None and (saved is None or saved.step != self.best.step):
            # The save at the best step failed: compare with the best that is saved, otherwise a step between the two
            # would not be saved.
            earlier = self._of_this_rule(saved)
            self.best = None if earlier is None else replace(earlier, failures=0)
        if self._is_better(value):
            self.best = Best(self._rule, state.step, value)
        elif self.best is not None:
            self.best = replace(self.best, failures=self.best.failures + 1)
        return value

    def _is_better(self, value: float) -> bool:
        if self.best is None or math.isnan(value):
            return not math.isnan(value)
        return value > self.best.value if self._metric.higher_is_better else value < self.best.value

    def _value(self, state: TrainState, folder: Path) -> float:
        """Mean over the images for which the metric is finite; pixels are rounded as in files."""
        recipe, seed = self._recipe, self._recipe.evaluate.seed
        run = state.ema_run(recipe, folder)
        scores = []
        for i in range(self._count):
            item = self._dataset[i]
            noise = [evaluation_noise(seed, item["key"])]
            try:
                x_0_hat = run.restore_batch(collate([item]), nfe=None, generator=noise)[0]
            except NotFinite:  # not left out of the mean: the step would look better than it is
                return math.nan
            restored, x_0, x_1 = (self._rounded(x, item) for x in (x_0_hat, item["x_0"], item["x_1"]))
            if min(x_0.shape[-2:]) < self._metric.smallest:
                continue
            with plugin_errors():
                if isinstance(self._metric, ItemMetric):
                    sample = Sample(restored[None], x_0, x_1, item, self._dataset.operator, seed)
                    scores.append(float(self._metric.of(sample)))
                else:
                    scores.append(float(self._metric(restored[None], x_0[None])))
        finite = [score for score in scores if math.isfinite(score)]
        return fmean(finite) if finite else math.nan

    def _rounded(self, x: Tensor, item: dict[str, Any]) -> Tensor:
        value_range = self._dataset.value_range
        return to_tensor(to_pixels(x, np.dtype(item["dtype"]), value_range), value_range)


def _metric(wanted: str, channels: int) -> tuple[str, Metric | ItemMetric]:
    """The metric that a name means, and the name in its one spelling.

    Raises:
        UserError: It is no metric of single restorations, or it cannot be computed here.
    """
    name, metric = build_metric(wanted)
    if isinstance(metric, SetMetric):
        raise UserError(f"'{name}' needs a set of images; give a metric of single images, such as psnr or lpips")
    if isinstance(metric, ItemMetric) and metric.samples > 1:
        raise UserError(f"'{name}' needs {metric.samples} restorations of each image; give one that needs one")
    if problems := metric_faults(metric):
        raise UserError(f"metric '{name}': {problems[0]}")
    with plugin_errors():
        missing = metric.missing(channels)
    if missing is not None:
        raise UserError(str(missing))
    return name, metric
