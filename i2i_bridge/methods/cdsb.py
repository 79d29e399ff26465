"""Conditional diffusion Schroedinger bridge (CDSB, Shi et al. 2022): half-bridges between X_0 | X_1 and a prior."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from i2i_bridge import registry
from i2i_bridge.bridge.base import Gaussian, Process, expand
from i2i_bridge.bridge.half_bridges import Chain, Kernel, matched
from i2i_bridge.bridge.predictor import keep_known, predictor
from i2i_bridge.bridge.processes import I2SB, BrownianBridge
from i2i_bridge.bridge.samplers import PredictX0, Sampler, ancestral
from i2i_bridge.bridge.targets import I2SBTarget
from i2i_bridge.bridge.time_grids import TimeGrid, uniform
from i2i_bridge.errors import UserError
from i2i_bridge.methods.base import Batch, condition_of, in_mode, label_of, refuse_guidance
from i2i_bridge.randomness import Generator, rand
from i2i_bridge.recipe.recipe import Recipe
from i2i_bridge.registry import register_method

PriorMean = Literal["degraded", "zero"]


@dataclass
class CDSB:
    """A Schroedinger bridge from the prior N(m, sigma_1^2 I) to X_0, given X_1, by alternating half-bridges.

    The networks see X_1 at every state, so that one pair of them serves all X_1. The reference is the diffusion of the
    process, from X_0, in N steps (`bridge.half_bridges`). Training goes by halves, each of which trains one network:

        half 0         backward: the reference reversed, by its known kernel (a conditional diffusion)
        half 1, 3, ... forward:  the backward chain reversed, from the prior
        half 2, 4, ... backward: the forward chain reversed, from X_0

    A sample is restored by the backward network: from a draw of the prior, with the process's posterior of X_t between
    that draw and x_0_hat, as a bridge is from X_1.

    With a mask, known pixels of x_0_hat are X_1's, the forward chain only diffuses there, and m is 0 in the hole.

    Args:
        network: The backward network, x_0_hat = X_t - sigma_t F(X_t, t, X_1).
        forward: The forward one, X_N_hat = X_t - sigma_s F(X_t, s, X_1) at s = 1 - t, what is left of the chain.
        process: A Brownian one, the same from both ends.
        steps: N.
        states: States of each simulated chain that a training step learns from.
        first_steps: Training steps of half 0.
        half_steps: Those of each other half.
        prior: m is X_1 ("degraded") or 0 ("zero").
        batch_size: Of a training step, over all ranks and micro-batches; it tells the step of a sample's number.
    """

    network: nn.Module
    forward: nn.Module
    process: Process
    steps: int = 20
    states: int = 4
    first_steps: int = 10_000
    half_steps: int = 5_000
    prior: PriorMean = "degraded"
    batch_size: int = 1
    label: bool = False
    sampler: Sampler = ancestral
    sampler_options: dict[str, Any] = field(default_factory=dict)
    grid: TimeGrid = uniform
    clip: bool = False

    def with_network(self, network: nn.Module) -> "CDSB":
        """A copy of the method with another backward network."""
        return dataclasses.replace(self, network=network)

    def companions(self) -> dict[str, nn.Module]:
        """The forward network."""
        return {"forward": self.forward}

    def half(self, step: int) -> int:
        """Number of the half that a training step belongs to, 0, 1, ...; even ones train the backward network."""
        return 0 if step < self.first_steps else 1 + (step - self.first_steps) // self.half_steps

    def trained_at(self, step: int) -> list[str]:
        """The network of the step's half."""
        return ["forward" if self.half(step) % 2 else "network"]

    def losses(self, batch: Batch, generator: Generator) -> Iterator[tuple[str, Tensor]]:
        """The loss of the step's half, over unknown pixels where there is a mask; the mean runs over all pixels.

            half 0:    E || F(X_k, t_k) - (X_k - X_0) / sigma_k ||^2,     X_k = X_0 + sigma_k z,  k = 1, ..., N
            others:    E || mean(X) - matched mean ||^2 / (2 gamma),      X of chains of the other network

        A chain takes N forward passes without gradients. Nothing of it is kept for other steps: otherwise a resumed run
        would need what an earlier step simulated.
        """
        half = self.half(int(batch["number"][0]) // self.batch_size) if "number" in batch else 0
        if half == 0:
            yield "network", self._denoising(batch, generator)
        else:
            yield ("forward" if half % 2 else "network"), self._matching(batch, generator, backwards=half % 2 == 0)

    def trajectory(self, batch: Batch, *, nfe: int, generator: Generator) -> Iterator[Tensor]:
        """The sampler's states from a draw of the prior; the last is the restored image."""
        start = self._prior(batch).sample(generator)
        predict_x0 = self._predict_x0(batch, clip=self.clip)
        times = self.grid(self.process, nfe)
        return self.sampler(self.process, predict_x0, start, times, generator, **self.sampler_options)

    def _denoising(self, batch: Batch, generator: Generator) -> Tensor:
        x_0: Tensor = batch["x_0"]
        mask: Tensor | None = batch.get("mask")
        t = (1 + (rand((len(x_0),), generator) * self.steps).floor()) / self.steps
        x_t = self.process.forward(x_0, t).sample(generator)
        # Of the network's output, whose error is that of x_0_hat over sigma_t; known pixels have none.
        error = (self._predict_x0(batch)(x_t, t) - x_0) / expand(self.process.sigma(t), x_0)
        return (error if mask is None else error * mask).square().mean()

    def _matching(self, batch: Batch, generator: Generator, *, backwards: bool) -> Tensor:
        """The loss of the backward network on chains of the forward one, or the other way round."""
        chain, mask = Chain(self.process, self.steps), batch.get("mask")
        start = batch["x_0"] if backwards else self._prior(batch).sample(generator)
        network = self.forward if backwards else self.network
        count = len(start)
        share = rand((count, self.states), generator)
        # One state of each of as many parts of the chain; (states, count).
        k = ((torch.arange(self.states) + share) * self.steps / self.states).floor().long().T
        many = {
            name: torch.cat([batch[name]] * self.states)
            for name in ("x_1", "mask", "condition", "label", "direction")
            if name in batch
        }
        with torch.no_grad(), in_mode(network, training=False):
            walker = self._kernel(chain, batch, backwards=not backwards)
            states, means = chain.walk(walker, start, generator, backwards=not backwards)
            samples = torch.arange(count)
            x = states[k + int(backwards), samples].flatten(0, 1)
            mean, k = means[k, samples].flatten(0, 1), k.flatten()
            wanted = matched(self._kernel(chain, many, backwards=not backwards), x, mean, k)
        error = (self._kernel(chain, many, backwards=backwards)(x, k) - wanted).square()
        error = error / expand(chain.variances[k], x)
        return (error if mask is None else error * many["mask"]).mean()

    def _kernel(self, chain: Chain, batch: Batch, *, backwards: bool) -> Kernel:
        """Means of the steps of one direction, for a batch."""
        if backwards:
            return chain.backward(self._predict_x0(batch))
        predict, mask = self._predictor(self.forward, {**batch, "mask": None}), batch.get("mask")
        return chain.forward(
            predict if mask is None else lambda x, t: keep_known(predict(x, t), x, mask)  # a known pixel only diffuses
        )

    def _predict_x0(self, batch: Batch, *, clip: bool = False) -> PredictX0:
        return self._predictor(self.network, batch, clip=clip)

    def _predictor(self, network: nn.Module, batch: Batch, *, clip: bool = False) -> PredictX0:
        condition, label = condition_of(batch, True), label_of(batch, self.label)
        target, mask = I2SBTarget(), batch.get("mask")
        return predictor(
            network, self.process, target, batch["x_1"], condition=condition, label=label, mask=mask, clip=clip
        )

    def _prior(self, batch: Batch) -> Gaussian:
        x_1, mask = batch["x_1"], batch.get("mask")
        mean = torch.zeros_like(x_1) if self.prior == "zero" else x_1
        if mask is not None:
            mean = keep_known(torch.zeros_like(x_1), x_1, mask)
        return Gaussian(mean, expand(self.process.sigma(1.0), x_1))


@register_method("cdsb")
def from_recipe(
    recipe: Recipe,
    network: nn.Module,
    steps: int = 20,
    states: int = 4,
    first_steps: int = 10_000,
    half_steps: int = 5_000,
    prior: PriorMean = "degraded",
) -> CDSB:
    """Conditional diffusion Schroedinger bridge: two networks learn to reverse each other's chain by turns (CDSB).

    Args:
        steps: Steps of the simulated chains, 2 to 1000.
        states: States of each chain that a training step learns from, 1 to `steps`.
        first_steps: Training steps of the first half, a conditional diffusion.
        half_steps: Training steps of each further half: forward, backward, forward, ...
        prior: Mean of the noise that restoring starts from: "degraded" is X_1, with 0 in its holes, and "zero" is 0.

    Raises:
        UserError: The process is none of the Brownian ones, or the target, the condition or a guidance does not fit.
        ValueError: A number is out of its range.
    """
    refuse_guidance(recipe, "starts from a prior, and takes no guidance")
    process = recipe.build_process()
    if process.deterministic or not isinstance(process, I2SB | BrownianBridge):
        raise UserError(
            f"method 'cdsb' walks a Brownian motion: process.name = 'i2sb' or 'brownian', not "
            f"'{recipe.process['name']}'"
        )
    if recipe.target["name"] != "i2sb":
        raise UserError(f"method 'cdsb' learns target.name = 'i2sb', not '{recipe.target['name']}'")
    if recipe.condition_channels == 0:
        raise UserError("method 'cdsb' sees X_1 at every state: set network.condition_channels")
    for name, value, low, high in (
        ("steps", steps, 2, 1000),
        ("states", states, 1, steps),
        ("first_steps", first_steps, 0, 10**9),
        ("half_steps", half_steps, 1, 10**9),
    ):
        if not low <= value <= high:
            raise ValueError(f"{name} {value}: must lie in {low}..{high}")
    return CDSB(
        network,
        recipe.build_network(),
        process,
        steps,
        states,
        first_steps,
        half_steps,
        prior,
        batch_size=recipe.train.batch_size,
        label=recipe.classes > 0,
        sampler=registry.SAMPLERS.get(str(recipe.sample.sampler["name"])),
        sampler_options=recipe.sampler_options(),
        grid=registry.TIME_GRIDS.get(recipe.sample.grid),
        clip=recipe.sample.clip,
    )
