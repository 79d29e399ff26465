"""Training of an autoencoder on both sides of the pairs."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from i2i_bridge.errors import UserError
from i2i_bridge.methods.base import Batch, refuse_guidance
from i2i_bridge.randomness import Generator, randn_like
from i2i_bridge.recipe.recipe import Recipe
from i2i_bridge.registry import register_method


@dataclass
class AutoencoderTraining:
    """Encoder E and decoder D of X_0 and X_1, as a variational autoencoder whose posterior has a fixed variance.

        E || D(E(x) + noise z) - x ||^2 + penalty E || E(x) ||^2,     z ~ N(0, I),  x = X_0 and X_1

    The penalty keeps latents near 0, and the noise keeps close latents close in what they decode to: a bridge's answer
    is not exactly a latent of an image.

    Args:
        network: Has `encode` and `decode`; called, it gives D(E(x)).
        noise: Standard deviation of the noise of latents in training.
        penalty: Weight of the latents' mean square.
    """

    network: nn.Module
    noise: float = 0.1
    penalty: float = 1e-3

    def with_network(self, network: nn.Module) -> "AutoencoderTraining":
        """A copy of the method with another network."""
        return dataclasses.replace(self, network=network)

    def companions(self) -> dict[str, nn.Module]:
        """None."""
        return {}

    def losses(self, batch: Batch, generator: Generator) -> Iterator[tuple[str, Tensor]]:
        """The mean over both sides of the pairs, their pixels and their latents; masks are ignored."""
        network: Any = self.network
        losses = []
        for x in (batch["x_0"], batch["x_1"]):
            latents = network.encode(x)
            answer = network.decode(latents + self.noise * randn_like(latents, generator))
            losses.append((answer.float() - x).square().mean() + self.penalty * latents.float().square().mean())
        yield "network", torch.stack(losses).mean()

    def trajectory(self, batch: Batch, *, nfe: int, generator: Generator) -> Iterator[Tensor]:
        """D(E(X_1)), by one call of the network: the reconstruction of X_1."""
        yield self.network(batch["x_1"], None, None)


@register_method("autoencoder")
def from_recipe(recipe: Recipe, network: nn.Module, noise: float = 0.1, penalty: float = 1e-3) -> AutoencoderTraining:
    """Autoencoder of both sides of the pairs, for the bridges of recipes with [latent]; it restores nothing.

    Args:
        noise: Standard deviation of the noise that is added to latents in training.
        penalty: Weight of the latents' mean square.

    Raises:
        UserError: The network has no encoder and decoder.
        ValueError: An option is negative.
    """
    refuse_guidance(recipe)
    if not (hasattr(network, "encode") and hasattr(network, "decode")):
        raise UserError(
            f"method 'autoencoder' needs a network with encoder and decoder, such as 'autoencoder', not "
            f"'{recipe.network['name']}'"
        )
    if noise < 0 or penalty < 0:
        raise ValueError(f"noise {noise}, penalty {penalty}: must not be negative")
    return AutoencoderTraining(network, noise, penalty)
