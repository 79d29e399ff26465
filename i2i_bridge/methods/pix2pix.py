"""Pix2pix (Isola et al. 2017, arXiv:1611.07004): a conditional GAN with an L1 loss, which answers in one call."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from i2i_bridge import registry
from i2i_bridge.bridge.predictor import call_network, keep_known
from i2i_bridge.errors import UserError
from i2i_bridge.methods.base import INPUTS, Batch, condition_of, in_mode, refuse_guidance
from i2i_bridge.networks.size import build_checked
from i2i_bridge.randomness import Generator, global_seed, per_sample
from i2i_bridge.recipe.recipe import Recipe
from i2i_bridge.registry import register_method

Inference = Literal["train", "eval"]


@dataclass
class Pix2pix:
    """Generator G = `network` and discriminator D of pairs (X_1, image).

    Args:
        network: Called as network(x_1, 1, condition).
        discriminator: Logits of a pair, any shape; positive for "real".
        l1_weight: lambda of Eq. 4.
        condition: Whether the networks have the batch's condition as a further input beside X_1.
        inference: "train" runs G as in training (Sec. 3.3): dropout on, BatchNorm by the image's own statistics.
            "eval" is deterministic: dropout off, BatchNorm by the running statistics.
    """

    network: nn.Module
    discriminator: nn.Module
    l1_weight: float = 100.0
    condition: bool = False
    inference: Inference = "train"

    def with_network(self, network: nn.Module) -> "Pix2pix":
        """A copy of the method with another generator."""
        return dataclasses.replace(self, network=network)

    def companions(self) -> dict[str, nn.Module]:
        """The discriminator."""
        return {"discriminator": self.discriminator}

    def losses(self, batch: Batch, generator: Generator) -> Iterator[tuple[str, Tensor]]:
        """The loss of D, then that of G against the updated D, with one forward pass of G (Eq. 4, Sec. 3.3).

            D:  (BCE(D(X_1, G(X_1)), 0) + BCE(D(X_1, X_0), 1)) / 2
            G:   BCE(D(X_1, G(X_1)), 1) + lambda E |G(X_1) - X_0|

        With a mask, D sees G's output with the known pixels of X_1, and L1 runs over unknown pixels (its mean over all
        pixels, with 0 for known ones).
        """
        x_0, mask = batch["x_0"], batch.get("mask")
        fake = self._answer(batch)
        seen = [image for image in (batch["x_1"], condition_of(batch, self.condition)) if image is not None]
        real_pair, fake_pair = torch.cat([*seen, x_0], dim=1), torch.cat([*seen, fake], dim=1)
        discriminator = self.discriminator
        on_fake, on_real = (
            _judged(discriminator(fake_pair.detach()), real=False),
            _judged(discriminator(real_pair), real=True),
        )
        yield "discriminator", 0.5 * (on_fake + on_real)
        error = (fake.float() - x_0).abs()
        l1 = (error if mask is None else error * mask).mean()
        yield "network", _judged(discriminator(fake_pair), real=True) + self.l1_weight * l1

    def trajectory(self, batch: Batch, *, nfe: int, generator: Generator) -> Iterator[Tensor]:
        """x_0_hat, by exactly one network call per image.

        Images are restored one by one, with dropout from the image's generator: otherwise a result would depend on the
        batch. Running statistics do not change.
        """
        images = []
        for i, draws in enumerate(per_sample(generator, len(batch["x_1"]))):
            one = {name: batch[name][i : i + 1] for name in INPUTS if name in batch}
            if self.inference == "eval":
                with in_mode(self.network, training=False):
                    images.append(self._answer(one))
                continue
            seed = int(torch.randint(2**62, (), generator=draws, device=draws.device))
            # BatchNorm in training mode updates its running statistics; here it updates copies.
            buffers = {name: value.clone() for name, value in self.network.named_buffers()}
            with global_seed(seed, one["x_1"].device), in_mode(self.network, training=True):
                images.append(self._answer(one, buffers))
        yield torch.cat(images)

    def _answer(self, batch: Batch, buffers: dict[str, Tensor] | None = None) -> Tensor:
        x_1, mask = batch["x_1"], batch.get("mask")
        t = torch.ones(x_1.shape[0], device=x_1.device)
        network = self.network if buffers is None else _WithBuffers(self.network, buffers)
        x_0_hat = call_network(network, x_1, t, condition_of(batch, self.condition))
        return x_0_hat if mask is None else keep_known(x_0_hat, x_1, mask)


def _judged(logits: Tensor, *, real: bool) -> Tensor:
    """Binary cross-entropy of logits to one label, the mean over patches and batch."""
    return binary_cross_entropy_with_logits(logits.float(), torch.full_like(logits, float(real), dtype=torch.float32))


class _WithBuffers(nn.Module):
    """A network that runs with replaced buffers."""

    def __init__(self, network: nn.Module, buffers: dict[str, Tensor]) -> None:
        super().__init__()
        self.network, self.other = network, buffers
        self.casts_inputs = getattr(network, "casts_inputs", False)
        self.shown_as = type(network).__name__

    def forward(self, *inputs: Tensor | None) -> Tensor:
        output: Tensor = torch.func.functional_call(self.network, self.other, inputs)
        return output


@register_method("pix2pix")
def from_recipe(
    recipe: Recipe,
    network: nn.Module,
    l1_weight: float = 100.0,
    inference: Inference = "train",
    discriminator: dict[str, Any] = {},  # noqa: B006 - read only; the registry shows it as the default
) -> Pix2pix:
    """Conditional GAN with an L1 loss, one call: generator `pix2pix-unet`, discriminator `patchgan`.

    Args:
        l1_weight: Weight of the L1 loss beside the GAN's.
        inference: "train" as in the paper (dropout on, BatchNorm by the image's own statistics; drawn by the seed), or
            "eval" (deterministic, by the running statistics).
        discriminator: A table with the options of `patchgan`, or with the `name` of another discriminator.

    Raises:
        ValueError: l1_weight is negative.
        UserError: The network takes a class label, or there is a guidance.
    """
    refuse_guidance(recipe)
    if recipe.classes:
        raise UserError("method 'pix2pix' gives its network no label; leave network.classes out")
    if l1_weight < 0:
        raise ValueError(f"l1_weight {l1_weight}: must not be negative")
    channels = 2 * recipe.data.channels + recipe.extra_channels
    built = build_checked(registry.DISCRIMINATORS, {"name": "patchgan"} | discriminator, in_channels=channels)
    return Pix2pix(network, built, l1_weight, recipe.condition_channels > 0, inference)
