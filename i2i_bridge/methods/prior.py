"""An unconditional diffusion prior: a model of clean images only; a guidance adds the operator in sampling."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from i2i_bridge.errors import UserError
from i2i_bridge.methods.base import Batch
from i2i_bridge.methods.bridge import Bridge, from_recipe
from i2i_bridge.randomness import Generator
from i2i_bridge.recipe.recipe import Recipe
from i2i_bridge.registry import register_method


@dataclass
class Prior(Bridge):
    """A diffusion from noise whose network does not see X_1; only a guidance ties samples to X_1."""

    def losses(self, batch: Batch, generator: Generator) -> Iterator[tuple[str, Tensor]]:
        """As `Bridge.losses`, of the whole clean image; x_1, mask and condition are ignored, a label is not."""
        clean = {"x_0": batch["x_0"], "x_1": batch["x_0"]}
        return super().losses(
            clean | {name: batch[name] for name in ("number", "label", "direction") if name in batch}, generator
        )


@register_method("unconditional-prior")
def prior_from_recipe(recipe: Recipe, network: nn.Module) -> Prior:
    """Diffusion from noise that never sees X_1, to be led by `sample.guidance`; no options.

    Raises:
        UserError: The process starts from X_1, or the network sees it.
    """
    bridge = from_recipe(recipe, network)
    if not bridge.process.starts_from_noise:
        raise UserError(
            "method 'unconditional-prior' needs a diffusion from noise: set process.name = 'gaussian-prior'"
        )
    if bridge.condition:
        raise UserError("method 'unconditional-prior' never sees X_1: set network.condition_channels = 0")
    return Prior(**{name: getattr(bridge, name) for name in bridge.__dataclass_fields__})
