"""Several degradations for one model: each image gets one of them."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from i2i_bridge.degradations.base import Degradation, Degraded
from i2i_bridge.degradations.compose import build_members
from i2i_bridge.errors import UserError, plural
from i2i_bridge.randomness import Generator, per_sample, rand
from i2i_bridge.registry import register_degradation


@register_degradation("mixture")
@dataclass(frozen=True)
class Mixture(Degradation):
    """Random choice: x_1 = A_k x_0, with k drawn for each sample by its generator.

    k is the parameter "pick", from 0; a member's own parameters follow its name, as in "jpeg.quality".

    If any member has masks, all results have one; for a member without masks it is a mask of ones, since no pixel of
    its x_1 is known exactly. Members must agree on the number of condition channels.

    Args:
        degradations: A table for each member, such as {name = "jpeg", quality = 5}.
        weights: Relative frequency of each member; all alike if not given.
    """

    degradations: list[dict[str, Any]]
    weights: list[float] | None = None
    members: tuple[Degradation, ...] = field(init=False, repr=False, compare=False)
    labels: tuple[str, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        members, labels = build_members("Mixture", self.degradations)
        object.__setattr__(self, "members", members)
        object.__setattr__(self, "labels", labels)
        weights = [1.0] * len(self.members) if self.weights is None else self.weights
        if len(weights) != len(self.members):
            raise UserError(f"Mixture: {plural(len(weights), 'weight')} for {plural(len(self.members), 'degradation')}")
        if not all(math.isfinite(weight) and weight >= 0 for weight in weights) or sum(weights) == 0:
            raise UserError(f"Mixture: weights = {weights} must be positive or 0, and not all 0")
        if len({member.condition_channels for member in self.members}) > 1:
            raise UserError("Mixture: some degradations give the network a condition and others not; split them")

    @property
    def scale(self) -> int:
        """The members' scale if all agree; else 1, for a user's image of full size."""
        scales = {member.scale for member in self.members}
        return scales.pop() if len(scales) == 1 else 1

    @property
    def multiple(self) -> int:
        return math.lcm(*(member.multiple for member in self.members))

    @property
    def masked(self) -> bool:
        return any(member.masked for member in self.members)

    @property
    def condition_channels(self) -> int:
        return self.members[0].condition_channels

    @property
    def parameter_names(self) -> tuple[str, ...]:
        pairs = zip(self.members, self.labels, strict=True)
        return ("pick", *(f"{label}.{name}" for member, label in pairs for name in member.parameter_names))

    @property
    def why_not_linear(self) -> str:
        return "draws another operator for each image, so A is not known"

    def __call__(self, x_0: Tensor, generator: Generator) -> Degraded:
        self.check_image(x_0)
        generators = per_sample(generator, len(x_0))
        picks = self._pick(generators)
        x_1 = torch.empty_like(x_0)
        mask = torch.ones_like(x_0[:, :1]) if self.masked else None
        condition = x_0.new_empty(len(x_0), self.condition_channels, *x_0.shape[-2:])
        parameters = {name: x_0.new_full((len(x_0),), math.nan, dtype=torch.float32) for name in self.parameter_names}
        parameters["pick"] = torch.tensor(picks, dtype=torch.float32).to(x_0.device)
        for k in sorted(set(picks)):
            chosen = [i for i, pick in enumerate(picks) if pick == k]
            degraded = self.members[k](x_0[chosen], [generators[i] for i in chosen])
            x_1[chosen] = degraded.x_1
            if mask is not None and degraded.mask is not None:
                mask[chosen] = degraded.mask
            if degraded.condition is not None:
                condition[chosen] = degraded.condition
            for name, values in degraded.parameters.items():
                parameters[f"{self.labels[k]}.{name}"][chosen] = values
        return Degraded(x_1, mask, condition if self.condition_channels else None, parameters)

    def prepare(self, image: Tensor, generator: Generator, mask: Tensor | None = None) -> Degraded:
        """As `Degradation.prepare`, by the first member with masks if a mask is given, else without.

        If the members' scales differ, the image has full size already and is not enlarged.
        """
        fitting = [member for member in self.members if member.masked == (mask is not None)] or self.members
        fitting = [member for member in fitting if member.scale == self.scale]
        degraded = fitting[0].prepare(image, generator, mask) if fitting else super().prepare(image, generator, mask)
        if self.masked and degraded.mask is None:
            return Degraded(degraded.x_1, torch.ones_like(degraded.x_1[:, :1]), degraded.condition)
        return degraded

    def measurement(self, degraded: Degraded) -> Tensor:
        """As `Degradation.measurement`, by the first member, where all give a condition."""
        return self.members[0].measurement(degraded) if self.condition_channels else degraded.x_1

    def reduced(self, x_1: Tensor) -> Tensor:
        return self.members[0].reduced(x_1) if self.scale > 1 else x_1

    def _pick(self, generators: list[torch.Generator]) -> list[int]:
        weights = torch.tensor(self.weights or [1.0] * len(self.members), dtype=torch.float64)
        bounds = weights.cumsum(0) / weights.sum()
        return [int(k) for k in torch.searchsorted(bounds, rand((len(generators),), generators), right=True)]
