"""Automatic noise level: estimate how much of X_0 is unknown given X_1, and choose the noise of the process from it.

The network removes noise of the level c/b from X_t, in units of X_0. Where that is far above what X_1 leaves unknown,
most times and most steps of the sampler are spent on noise that X_1 makes easy to remove, and only the last step adds
detail. The rule: c/b at t = 1/2 is two thirds of the rms of the unknown,

    c_{1/2} / b_{1/2} = 2/3 rms      (brownian: sigma_1 = 2/3 rms; i2sb: sigma at t = 1; source-noise: sigma_s)

As b/c falls with t, the noise then exceeds the unknown on less than half of [0, 1]. The rule rests on few measurements:
on JPEG-10 at 64 pixels regression leaves rms 0.15 (by its mean PSNR), and sigma_1 = 0.1 was much better than the
paper's schedule. The linear estimate leaves 0.176, for which the rule gives 0.117.
"""

import copy
import math
from collections.abc import Callable
from statistics import fmean
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from i2i_bridge.bridge.base import Process
from i2i_bridge.data.dataset import PairDataset, evenly_spread, usable_items
from i2i_bridge.errors import UserError, plural
from i2i_bridge.randomness import generator
from i2i_bridge.recipe.recipe import Recipe

SHARE = 2 / 3
"""Ratio of c/b at t = 1/2 to the rms of the unknown."""
PAIRS, PAIRS_OF_NOTE, PIXELS = 256, 64, 2048
"""Limits of the measurement: pairs for "auto" noise, pairs for a note, and pixels of each pair."""
WINDOW = 5
"""Side of the window of X_1's pixels that the linear estimate sees."""
RIDGE = 1e-6
"""Added to the second moments of X_1's pixels; otherwise equal neighbours (an enlarged X_1) make a singular system."""
SMALLEST_RMS = 1e-3
"""An rms below this counts as 0: rounding to 8 bits changes pixels by twice as much."""
SHOWN = (0.05, 0.1, 0.2, 0.5, 0.8, 0.9)
"""Times of the printed curve."""


Start = Callable[[dict[str, Any]], Tensor]
"""Maps an item of a dataset to the start of the process: its X_1, or a mean's output; (C, H, W)."""


def x_1_of(item: dict[str, Any]) -> Tensor:
    """X_1 of an item."""
    x_1: Tensor = item["x_1"]
    return x_1


def noise_level(process: Process, t: Tensor | float) -> Tensor:
    """c_t / b_t, the noise of X_t in units of X_0; float64, the shape of t, for t in [0, 1)."""
    _, b, c = process.coefficients(t)
    return c / b


def share_above(process: Process, rms: float) -> float:
    """The share of [0, 1] on which c/b exceeds rms, to 1e-4. For brownian: sigma_1^2 / (sigma_1^2 + rms^2)."""
    t = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000
    return float((noise_level(process, t) > rms).double().mean())


def proposed(process: Process, rms: float) -> dict[str, float]:
    """Options of the process, to three digits, for which c/b at t = 1/2 is SHARE rms.

    Raises:
        ValueError: The process has no option that scales its noise alone.
    """
    options = process.with_noise(SHARE * rms / float(noise_level(process, 0.5)))
    return {key: float(f"{value:.3g}") for key, value in options.items()}


def unknown_rms(dataset: PairDataset, pairs: int = PAIRS, start: Start = x_1_of) -> tuple[float, int]:
    """Root mean square error of a linear estimate of X_0 from X_1, over the pixels where the mask is 1 (unknown).

        x_0[p] ~ w . (1, x_1 in the 5 x 5 pixels around p, the item's condition at p)

    Least squares with a small ridge, fitted on one half of the pairs and measured on the other, both ways round. The
    error of a network is smaller, as it is not linear and sees more pixels.

    The pairs are spread evenly over the data. Crops, degradations and the pixels taken of each pair are drawn with the
    seed 0 and not with the run's: otherwise runs that differ only in their seed would differ in their noise too.

    Where one network learns both directions, the rms of the two together.

    Args:
        pairs: Number of pairs at most.
        start: Gives the start of the process, used as X_1.

    Returns:
        The rms in units of [-1, 1] (0 where nothing is unknown), and the number of pairs.

    Raises:
        UserError: An item cannot be used, unless the data's on_error is "skip".
    """
    measured = [_unknown_rms(copy.copy(side), pairs, start) for side in dataset.directions()]
    return math.sqrt(fmean(rms**2 for rms, _ in measured)), measured[0][1]


def _unknown_rms(data: PairDataset, pairs: int, start: Start) -> tuple[float, int]:
    data.seed = 0
    grams: list[Tensor] = []
    channels = data.channels
    for index, item in usable_items(data, evenly_spread(len(data), pairs)):
        rows, channels = _rows(item, start(item), index), len(item["x_0"])
        if len(rows):
            grams.append(rows.T @ rows)
    if not grams:
        return 0.0, 0
    fit, measure = (torch.stack(grams[i % len(grams) :: 2]).sum(0) for i in (0, 1))
    errors = [_error(fit, measure, channels), _error(measure, fit, channels)]
    return math.sqrt(max(sum(errors) / 2, 0.0)), len(grams)


def _rows(item: dict[str, Any], x_1: Tensor, index: int) -> Tensor:
    """A row (1, window of X_1, condition, x_0) for each drawn pixel, float64."""
    _, height, width = x_1.shape
    around = functional.pad(x_1[None].double(), [WINDOW // 2] * 4, mode="replicate")
    columns = functional.unfold(around, WINDOW)[0]
    other = [item["condition"].double().flatten(1)] if "condition" in item else []
    unknown = item["mask"].flatten() > 0.5 if "mask" in item else torch.ones(height * width, dtype=torch.bool)
    pixels = unknown.nonzero()[:, 0]
    # Random, not every n-th pixel: a regular grid would hit the same position of each JPEG block.
    pixels = pixels[torch.randperm(len(pixels), generator=generator(0, "unknown", index))[:PIXELS]]
    rows = torch.cat([columns.new_ones(1, height * width), columns, *other, item["x_0"].double().flatten(1)])
    return rows[:, pixels].T


def _error(fit: Tensor, measure: Tensor, channels: int) -> float:
    """Mean square error on `measure` of the estimate fitted on `fit`; both are sums of z z^T, z = (1, ..., x_0)."""
    fit, measure = (gram / gram[0, 0] for gram in (fit, measure))
    known = fit[:-channels, :-channels]
    weights = torch.linalg.solve(
        known + RIDGE * torch.eye(len(known), dtype=torch.float64), fit[:-channels, -channels:]
    )
    # |x_0 - w z|^2 as a quadratic form of the second moments.
    form = torch.cat([-weights, torch.eye(channels, dtype=torch.float64)])
    return float((form * (measure @ form)).sum() / channels)


def with_measured_noise(recipe: Recipe, dataset: PairDataset, start: Start = x_1_of) -> tuple[Recipe, list[str]]:
    """Replace noise "auto" by a number; return the recipe, and a line for the user.

    If the recipe gives the noise and c/b exceeds the unknown on more than half of [0, 1], the line proposes another.

    Args:
        start: Gives the start of the process, used as X_1.

    Raises:
        UserError: The noise is "auto", and an image cannot be used, or X_1 leaves nothing unknown.
    """
    if recipe.auto_noise is None:
        return recipe, _remark(recipe, dataset, start)
    return _with_measured_noise(recipe, *unknown_rms(dataset, start=start))


def _with_measured_noise(recipe: Recipe, rms: float, pairs: int) -> tuple[Recipe, list[str]]:
    if rms < SMALLEST_RMS:
        raise UserError(
            f"process.{recipe.auto_noise}: X_1 leaves nothing of X_0 unknown in {plural(pairs, 'pair')}; give a number"
        )
    options = proposed(recipe.any_process(), rms)
    line = (
        f"{_words(options, ' = ', 'process.')}: X_1 leaves rms {rms:.3g} unknown, by a linear estimate from "
        f"{plural(pairs, 'pair')}; the noise c/b at t = 1/2 is two thirds of that"
    )
    return recipe.model_copy(update={"process": recipe.process | options}), [line]


def _remark(recipe: Recipe, dataset: PairDataset, start: Start) -> list[str]:
    process = recipe.any_process()
    # No proposal for the settings of a paper, nor for a method that does not sample with the process's noise.
    if process.noise_key is None or recipe.method["name"] != "bridge" or recipe.reference is not None:
        return []
    try:
        rms, _ = unknown_rms(dataset, PAIRS_OF_NOTE, start)
    except UserError:  # an unusable item; training reports it when it reads that item
        return []
    share = share_above(process, rms)
    if rms < SMALLEST_RMS or share <= 0.5:
        return []
    return [
        f"note: the state's noise exceeds what X_1 leaves unknown (rms {rms:.2g}) on {share:.0%} of [0, 1]; "
        f"{_words(proposed(process, rms), ' ')} proposed".replace("%", " %")
    ]


def curve(recipe: Recipe, dataset: PairDataset) -> list[str]:
    """A table of c/b at some times and the rms of the unknown, as lines of text.

    Empty for a process without noise or a recipe with [mean] or [latent].

    Raises:
        UserError: As `with_measured_noise`.
    """
    process = recipe.any_process()
    if (
        recipe.mean is not None
        or recipe.latent is not None
        or process.deterministic
        or process.starts_from_noise
        or recipe.method["name"] != "bridge"
    ):
        return []
    rms, pairs = unknown_rms(dataset)
    recipe, lines = _with_measured_noise(recipe, rms, pairs) if recipe.auto_noise else (recipe, [])
    process = recipe.build_process()
    levels = noise_level(process, torch.tensor(SHOWN, dtype=torch.float64)).tolist()
    share = f"{share_above(process, rms):.0%}".replace("%", " %")
    of = plural(pairs, "pair")
    return [
        *lines,
        f"noise c/b of the state, beside rms {rms:.3g} that X_1 leaves unknown (linear estimate from {of}):",
        "  t    " + "".join(f"{t:>8g}" for t in SHOWN),
        "  c/b  " + "".join(f"{level:>8.3g}" for level in levels),
        f"  above it on {share} of [0, 1]",
    ]


def _words(options: dict[str, float], equals: str, place: str = "") -> str:
    return ", ".join(f"{place}{key}{equals}{value:g}" for key, value in options.items())
