"""The start of the process of a run with [mean]: the output of its first stage."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from i2i_bridge.degradations.base import Degradation
from i2i_bridge.errors import UserError
from i2i_bridge.methods.mean import Mean
from i2i_bridge.methods.regression import Regression
from i2i_bridge.randomness import generator
from i2i_bridge.recipe.recipe import Recipe
from i2i_bridge.storage.shipped import CACHE_FOLDER, MEAN_FOLDER
from i2i_bridge.training.cache import TensorCache

CACHE = f"{MEAN_FOLDER}/{CACHE_FOLDER}"
"""Folder of the mean's cached outputs in a run folder."""


def start_of(mean: Mean | None, seed: int, item: dict[str, Any]) -> Tensor:
    """The start of the process for an item of a dataset: X_1, or the mean's output; (C, H, W), on the CPU."""
    if mean is None:
        x_1: Tensor = item["x_1"]
        return x_1
    device = next(mean.method.network.parameters()).device
    batch = {name: value[None].to(device) for name, value in item.items() if isinstance(value, Tensor)}
    if "label" in item:
        batch["label"] = torch.tensor([item["label"]], device=device)
    return mean(batch, [generator(seed, "moments", str(item["key"]))])[0].cpu()


def with_mean_cache(mean: Mean | None, recipe: Recipe, folder: Path) -> Mean | None:
    """The mean with a cache of its outputs in the run folder, where `mean.cache` asks for one.

    Raises:
        UserError: The same output is never asked for twice, or the mean draws noise.
    """
    if mean is None or recipe.mean is None or not recipe.mean.cache:
        return mean
    if not isinstance(mean.method, Regression):
        raise UserError("mean.cache: only outputs of a regression are kept; leave it out, or name such a run")
    if recipe.data.augment or recipe.data.crop == "random":
        raise UserError(
            "mean.cache: crops or augmentations are drawn for each sample, so that no output is asked for twice; leave "
            "it out, or set data.crop='center' without data.augment"
        )
    degradation = recipe.build_degradation()
    if degradation is not None and _draws(degradation, recipe):
        raise UserError(
            "mean.cache: [degradation] is drawn for each sample, so that no output is asked for twice; leave it out"
        )
    tensors = TensorCache(folder, CACHE, str(recipe.mean.sha256), "answer")

    def cache(inputs: Sequence[Tensor], compute: Callable[[], Tensor]) -> Tensor:
        return tensors(inputs, tuple(inputs[0].shape), compute)

    return replace(mean, cache=cache)


def _draws(degradation: Degradation, recipe: Recipe) -> bool:
    """Whether the degradation of an image depends on the sample's random numbers."""
    x_0 = torch.rand(1, recipe.data.channels, *recipe.data.sides, generator=generator(0, "mean cache")) * 2 - 1
    one, two = (degradation(x_0, generator(0, "mean cache", i)) for i in range(2))
    return not torch.equal(one.x_1, two.x_1)
