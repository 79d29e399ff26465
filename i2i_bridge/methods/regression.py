"""Regression: one call of the recipe's network at t = 1."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from i2i_bridge.bridge.base import Process
from i2i_bridge.bridge.predictor import predictor
from i2i_bridge.bridge.targets import Target, X0Target
from i2i_bridge.methods.base import Batch, condition_of, label_of, refuse_guidance
from i2i_bridge.randomness import Generator
from i2i_bridge.recipe.recipe import Recipe
from i2i_bridge.registry import register_method


@dataclass
class Regression:
    """x_0_hat read from F(c_in X_1, t = 1) by the target, and the mean squared error to X_0.

    The baseline that a bridge of one network call must beat: same network, same input, same read-out.
    """

    network: nn.Module
    process: Process
    target: Target
    condition: bool = False
    clip: bool = False
    label: bool = False

    def with_network(self, network: nn.Module) -> "Regression":
        """A copy of the method with another network."""
        return dataclasses.replace(self, network=network)

    def companions(self) -> dict[str, nn.Module]:
        """None."""
        return {}

    def losses(self, batch: Batch, generator: Generator) -> Iterator[tuple[str, Tensor]]:
        """E || x_0_hat - X_0 ||^2, with a mask over unknown pixels; the mean runs over all pixels."""
        mask = batch.get("mask")
        error = (self._answer(batch, clip=False).float() - batch["x_0"]).square()
        yield "network", (error if mask is None else error * mask).mean()

    def trajectory(self, batch: Batch, *, nfe: int, generator: Generator) -> Iterator[Tensor]:
        """x_0_hat, by exactly one network call."""
        yield self._answer(batch, clip=self.clip)

    def _answer(self, batch: Batch, *, clip: bool) -> Tensor:
        x_1 = batch["x_1"]
        predict_x0 = predictor(
            self.network,
            self.process,
            self.target,
            x_1,
            condition=condition_of(batch, self.condition),
            label=label_of(batch, self.label),
            mask=batch.get("mask"),
            clip=clip,
        )
        return predict_x0(x_1, torch.ones(x_1.shape[0], dtype=torch.float64))


@register_method("regression")
def from_recipe(recipe: Recipe, network: nn.Module) -> Regression:
    """The recipe's own network in one call at t = 1, by mean squared error; no options."""
    refuse_guidance(recipe)
    process = recipe.build_process()
    # At t = 1 the targets of a process that starts from noise do not contain X_1.
    target = X0Target() if process.starts_from_noise else recipe.build_target()
    condition, label = recipe.condition_channels > 0, recipe.classes > 0
    return Regression(network, process, target, condition=condition, label=label, clip=recipe.sample.clip)
