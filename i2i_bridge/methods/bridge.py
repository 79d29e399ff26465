"""The diffusion bridge as a method: Algorithm 1 (training) and Algorithm 2 (generation) of I2SB."""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from i2i_bridge import registry
from i2i_bridge.bridge.base import Process, expand
from i2i_bridge.bridge.predictor import call_network, keep_known, predictor
from i2i_bridge.bridge.proposals import PosteriorProposal, Proposal
from i2i_bridge.bridge.samplers import PredictX0, Sampler, ancestral
from i2i_bridge.bridge.targets import Target
from i2i_bridge.bridge.time_grids import TimeGrid, uniform
from i2i_bridge.degradations.base import Degradation, Degraded
from i2i_bridge.guidance.base import Guidance, Guided, measure
from i2i_bridge.methods.base import Batch, condition_of, label_of, with_dropout
from i2i_bridge.methods.curriculum import Curriculum
from i2i_bridge.methods.losses import AdversarialLoss, PerceptualLoss
from i2i_bridge.methods.mean import Mean
from i2i_bridge.randomness import Generator
from i2i_bridge.recipe.recipe import Recipe
from i2i_bridge.registry import register_method


@dataclass
class Bridge:
    """A diffusion bridge from X_1 to X_0.

    Args:
        network: Called as network(x_t, t, condition[, label]).
        condition: Whether X_1 (or the batch's condition) is a further input of the network: eps(X_t, t, X_1).
        label: Whether the batch's class label is a further input of the network.
        condition_dropout: Share of the training samples without condition and label.
        condition_scale: w of `predictor`; other than 0 and 1 it takes two network calls for one.
        sampler_options: Keyword options of the sampler.
        guidance: Moves x_0_hat towards A x_0_hat = y, with A and y from `degradation` and X_1.
        mean: Start of the process instead of X_1. Condition, guidance and critic still use X_1.
    """

    network: nn.Module
    process: Process
    target: Target
    condition: bool = False
    proposal: Proposal = field(default_factory=PosteriorProposal)
    sampler: Sampler = ancestral
    sampler_options: dict[str, Any] = field(default_factory=dict)
    grid: TimeGrid = uniform
    clip: bool = False
    guidance: Guidance | None = None
    degradation: Degradation | None = None
    curriculum: Curriculum = field(default_factory=Curriculum)
    perceptual: PerceptualLoss | None = None
    adversarial: AdversarialLoss | None = None
    mean: Mean | None = None
    label: bool = False
    condition_dropout: float = 0.0
    condition_scale: float = 1.0

    def with_network(self, network: nn.Module) -> "Bridge":
        """A copy of the bridge with another network."""
        return dataclasses.replace(self, network=network)

    def with_sampling(self, recipe: Recipe) -> "Bridge":
        """A copy of the bridge with the sampler, grid and clipping of another recipe."""
        return dataclasses.replace(self, **_sampling(recipe))

    def companions(self) -> dict[str, nn.Module]:
        """The critic of the adversarial loss, if there is one.

        Raises:
            UserError: The package with the perceptual loss's weights is not installed; training needs it, restoring
                does not.
        """
        if self.perceptual is not None:
            self.perceptual.check()
        return {} if self.adversarial is None else {"critic": self.adversarial.critic}

    def losses(self, batch: Batch, generator: Generator) -> Iterator[tuple[str, Tensor]]:
        """Mean squared error to the target at t ~ U(0, 1] (Eq. 12), over unknown pixels where there is a mask.

            E || F(X_t, t[, X_1]) - (X_t - X_0) / sigma_t ||^2

        The mean runs over all pixels, with 0 for known ones. The curriculum changes times, weights and norm; the losses
        of x_0_hat are added.
        """
        x_0, mask = batch["x_0"], batch.get("mask")
        x_1 = self._start(batch, generator)
        t = self._times(batch, generator)
        x_t = self.proposal.sample(self.process, x_0, x_1, t, generator)
        clean = self._clean(batch, x_1, x_t, t, generator)
        wanted = self.target.of(self.process, clean, x_1, x_t, t)
        time = (self.process.network_time(t) + self._offsets(batch)).to(x_t.device)
        noisy = self.target.network_input(self.process, x_t, t)
        condition, label = condition_of(batch, self.condition), label_of(batch, self.label)
        if self.condition_dropout and "number" in batch:
            share, seed = self.condition_dropout, self.curriculum.seed
            condition, label = with_dropout(condition, label, share=share, seed=seed, numbers=batch["number"])
        output = call_network(self.network, noisy, time, condition, label).float()
        error = self.curriculum.error(output, wanted)
        if self.curriculum.weight != "uniform":
            error = error * expand(self.curriculum.weights(self.process, self.target, t), error)
        loss = (error if mask is None else error * mask).mean()
        if self.perceptual is None and self.adversarial is None:
            yield "network", loss
            return
        x_0_hat = self.target.x_0_hat(self.process, output, x_t, x_1, t)
        x_0_hat = x_0_hat if mask is None else keep_known(x_0_hat, x_1, mask)
        if self.adversarial is not None:
            yield "critic", self.adversarial.of_critic(batch["x_1"], x_0_hat, x_0)
            adversarial = self.adversarial.of_network(batch["x_1"], x_0_hat, output, loss)
        if self.perceptual is not None:
            loss = loss + self.perceptual(x_0_hat, clean, t)
        yield "network", loss if self.adversarial is None else loss + adversarial

    def trajectory(self, batch: Batch, *, nfe: int, generator: Generator) -> Iterator[Tensor]:
        """The sampler's states; the last is the restored image.

        x_0_hat is predicted exactly nfe times: so many network calls, twice as many with a condition_scale other than 0
        and 1; those of `mean` come on top.
        """
        x_1 = self._start(batch, generator)
        times = self.grid(self.process, nfe)
        predict_x0 = predictor(
            self.network,
            self.process,
            self.target,
            x_1,
            condition=condition_of(batch, self.condition),
            label=label_of(batch, self.label),
            condition_scale=self.condition_scale,
            mask=batch.get("mask"),
            clip=self.clip,
            guide=self._guide(batch, times),
            time_offset=self.time_offset(nfe),
        )
        sample: Callable[..., Iterator[Tensor]] = self.sampler
        return sample(self.process, predict_x0, x_1, times, generator, **self.sampler_options)

    def time_offset(self, nfe: int) -> int:
        """Offset of the network's time in a walk of `nfe` calls; 0 except in `Shortcut`."""
        return 0

    def _offsets(self, batch: Batch) -> Tensor | int:
        """Offset of the network's time for each sample of a training batch, (B,), or one for all."""
        return 0

    def _times(self, batch: Batch, generator: Generator) -> Tensor:
        """Times of a batch's samples, float64 (B,), in (0, 1]."""
        return self.curriculum.times(batch["x_0"].shape[0], generator, batch.get("number"))

    def _clean(self, batch: Batch, x_1: Tensor, x_t: Tensor, t: Tensor, generator: Generator) -> Tensor:
        """The clean images that the network learns to predict from x_t: X_0."""
        x_0: Tensor = batch["x_0"]
        return x_0

    def _predictor(
        self, network: nn.Module, batch: Batch, x_1: Tensor, *, clip: bool = False, time_offset: int = 0
    ) -> PredictX0:
        """(x_t, t) -> x_0_hat of a network for a batch, without guidance."""
        condition, label, mask = condition_of(batch, self.condition), label_of(batch, self.label), batch.get("mask")
        return predictor(
            network,
            self.process,
            self.target,
            x_1,
            condition=condition,
            label=label,
            mask=mask,
            clip=clip,
            time_offset=time_offset,
        )

    def _start(self, batch: Batch, generator: Generator) -> Tensor:
        x_1: Tensor = batch["x_1"]
        return x_1 if self.mean is None else self.mean(batch, generator)

    def _guide(self, batch: Batch, times: Tensor) -> Guided | None:
        if self.guidance is None or self.degradation is None:
            return None
        degraded = Degraded(batch["x_1"], batch.get("mask"), batch.get("condition"))
        return Guided(self.guidance, self.process, measure(self.degradation, degraded, batch.get("size")), times)


@register_method("bridge")
def from_recipe(
    recipe: Recipe,
    network: nn.Module,
    perceptual: float = 0.0,
    perceptual_until: float = 1.0,
    adversarial: float = 0.0,
    discriminator: dict[str, Any] = {},  # noqa: B006 - read only; the registry shows it as the default
) -> Bridge:
    """Diffusion bridge from X_1 to X_0 (I2SB, and Palette, flow and OT-ODE by their [process]).

    Args:
        perceptual: Weight of ST-LPIPS of x_0_hat beside the squared error; needs the extra `metrics`. 0: none.
        perceptual_until: Largest t at which the perceptual loss counts; 1 for all.
        adversarial: Gradient of an adversary of (X_1, x_0_hat), as a share of the squared error's. 0: none.
        discriminator: A table with the options of `patchgan`, or with the `name` of another discriminator.

    Raises:
        ValueError: A weight is negative, or perceptual_until lies outside (0, 1].
    """
    for key, weight in (("perceptual", perceptual), ("adversarial", adversarial)):
        if weight < 0:
            raise ValueError(f"{key} {weight}: must not be negative; 0 is without it")
    if not 0 < perceptual_until <= 1:
        raise ValueError(f"perceptual_until {perceptual_until}: must lie in (0, 1]")
    critic = None
    if adversarial:
        channels = 2 * recipe.data.channels
        critic = registry.DISCRIMINATORS.build({"name": "patchgan"} | discriminator, in_channels=channels)
    return Bridge(
        network,
        recipe.build_process(),
        recipe.build_target(),
        condition=recipe.condition_channels > 0,
        label=recipe.classes > 0,
        condition_dropout=float(recipe.network.get("condition_dropout", 0)),
        condition_scale=1.0 if recipe.sample.condition_scale is None else recipe.sample.condition_scale,
        proposal=recipe.build_proposal(),
        **_sampling(recipe),
        guidance=recipe.build_guidance(),
        degradation=recipe.build_degradation(),
        curriculum=Curriculum.of(recipe.train),
        perceptual=PerceptualLoss(perceptual, perceptual_until) if perceptual else None,
        adversarial=None if critic is None else AdversarialLoss(critic, adversarial),
    )


def _sampling(recipe: Recipe) -> dict[str, Any]:
    """The fields of a bridge that say how it samples, apart from guidance."""
    return {
        "sampler": registry.SAMPLERS.get(str(recipe.sample.sampler["name"])),
        "sampler_options": recipe.sampler_options(),
        "grid": registry.TIME_GRIDS.get(recipe.sample.grid),
        "clip": recipe.sample.clip,
    }
