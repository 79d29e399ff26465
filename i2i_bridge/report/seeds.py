"""Pooling of runs that differ only in the training seed: means, and intervals over images and seeds."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from i2i_bridge.evaluation.results import Evaluation
from i2i_bridge.metrics.base import Estimate

if TYPE_CHECKING:  # pydantic
    from i2i_bridge.recipe.recipe import Recipe


def same_but_seed(recipe: "Recipe", evaluation: Evaluation) -> Any:
    """A value that is equal for two runs if and only if they differ only in `train.seed`.

    It holds the evaluated step, tuned sampling and all settings, except the target moments, which are estimated from
    crops of the seed.
    """
    settings = recipe.without_places().model_dump(
        mode="json", exclude={"train": {"seed"}, "target": {"var_0", "var_1", "cov_01"}}
    )
    return settings, evaluation.method, evaluation.step, evaluation.tuned


def pool(evaluations: Sequence[Evaluation]) -> Evaluation:
    """Pool k >= 2 evaluations of different training seeds: each number is the mean over them.

    Rows and metrics are those that all evaluations have. Seconds are averaged too; other fields are the first one's.
    """
    first = evaluations[0]
    warnings = list(dict.fromkeys(text for evaluation in evaluations for text in evaluation.warnings))
    named = [{row.name: row for row in evaluation.rows} for evaluation in evaluations]
    rows = []
    for name in (name for name in named[0] if all(name in rows_of_seed for rows_of_seed in named)):
        same = [rows_of_seed[name] for rows_of_seed in named]
        metrics = [metric for metric in same[0].metrics if all(metric in row.metrics for row in same)]
        estimates = {metric: pool_estimates([row.metrics[metric] for row in same]) for metric in metrics}
        seconds = [row.seconds_per_image for row in same if row.seconds_per_image is not None]
        mean = sum(seconds) / len(seconds) if seconds else None
        rows.append(replace(same[0], metrics=estimates, seconds_per_image=mean))
    return replace(first, rows=rows, warnings=warnings)


def pool_estimates(estimates: Sequence[Estimate]) -> Estimate:
    """The mean m of k estimates on the same images, with a 95 % interval over images and trainings.

    high = m + sqrt(h^2 + (t_{k-1} s / sqrt(k))^2), and low likewise: h is the mean half-width of the estimates' own
    intervals, which more seeds do not shrink, as all see the same images; s their standard deviation; t_{k-1} the
    97.5 % quantile of Student's t (4.30 for three seeds, 12.7 for two). standard_error^2 is the mean of the squares
    + s^2 / k. If all estimates are equal (rows without a network), the result is the first one.
    """
    from scipy.special import stdtrit

    if len(set(map(repr, estimates))) == 1:  # not ==: unknown ends are NaN
        return estimates[0]
    k = len(estimates)
    mean = sum(estimate.value for estimate in estimates) / k
    if not math.isfinite(mean):
        return Estimate(mean, note=_common_note(estimates))
    variance = sum((estimate.value - mean) ** 2 for estimate in estimates) / (k - 1)
    of_seeds = float(stdtrit(k - 1, 0.975)) * math.sqrt(variance / k)
    below = sum(estimate.value - estimate.low for estimate in estimates) / k
    above = sum(estimate.high - estimate.value for estimate in estimates) / k
    squares = sum(estimate.standard_error**2 for estimate in estimates) / k
    return Estimate(
        mean, mean - math.hypot(below, of_seeds), mean + math.hypot(above, of_seeds),
        math.sqrt(squares + variance / k), _common_note(estimates),
    )  # fmt: skip


def difference_estimate(image: Estimate, first: Sequence[float], second: Sequence[float]) -> Estimate:
    """A paired difference d of means over seeds, with a 95 % interval over images and trainings.

    standard_error^2 = e^2 + s_1^2 / k_1 + s_2^2 / k_2 with e the paired error over images and s the standard deviation
    of the k seeds' values; a row of one seed adds nothing. The interval is d -+ sqrt((1.96 e)^2 + t^2 (s_1^2 / k_1 +
    s_2^2 / k_2)), t the 97.5 % quantile of Student's t with Welch's (1947) degrees of freedom.

    Args:
        image: d and e.
        first: Values of the first row, one for each seed.
        second: Values of the second row.
    """
    from scipy.special import stdtrit

    shares = [(statistics.variance(values) / len(values), len(values) - 1) for values in (first, second) if values[1:]]
    of_seeds = sum(share for share, _ in shares)
    half = 1.96 * image.standard_error
    if of_seeds > 0:
        freedom = of_seeds**2 / sum(share**2 / k for share, k in shares)
        half = math.hypot(half, float(stdtrit(freedom, 0.975)) * math.sqrt(of_seeds))
    error = math.sqrt(image.standard_error**2 + of_seeds)
    return Estimate(image.value, image.value - half, image.value + half, error, image.note)


def _common_note(estimates: Sequence[Estimate]) -> str:
    """The common note, or a note that lists the different notes of single trainings."""
    notes = list(dict.fromkeys(estimate.note for estimate in estimates))
    return notes[0] if len(notes) == 1 else f"of single trainings: {' | '.join(note or 'nothing' for note in notes)}"
