"""Several degradations on one image, one after the other."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from i2i_bridge.degradations.base import Degradation, Degraded
from i2i_bridge.degradations.downsample import Resize
from i2i_bridge.degradations.linear import resized
from i2i_bridge.errors import UserError
from i2i_bridge.randomness import Generator, per_sample
from i2i_bridge.registry import DEGRADATIONS, register_degradation

MAX_MEMBERS = 100
"""Largest number of degradations in a composition or mixture."""


def build_members(owner: str, tables: Sequence[dict[str, Any]]) -> tuple[tuple[Degradation, ...], tuple[str, ...]]:
    """Build the members of a composition or mixture, with a unique label for each: its name, or "jpeg-2".

    Raises:
        UserError: There is none, there are too many, or one cannot be built.
    """
    if len(tables) > MAX_MEMBERS:
        raise UserError(f"{owner}: {len(tables)} degradations; at most {MAX_MEMBERS}")
    if not tables:
        raise UserError(f"{owner}: degradations is empty; name at least one")
    names = [str(table.get("name")) for table in tables]
    counts = [names[: i + 1].count(name) for i, name in enumerate(names)]
    labels = tuple(f"{name}-{n}" if n > 1 else name for name, n in zip(names, counts, strict=True))
    return tuple(DEGRADATIONS.build(table) for table in tables), labels


@register_degradation("compose")
@dataclass(frozen=True)
class Compose(Degradation):
    """x_1 = A_n ... A_2 A_1 x_0; the result is brought back to x_0's size where a `resize` changed it.

    If any member has masks, the result's mask is their union; a member without masks counts as a mask of ones, since no
    pixel of its result is known exactly. At most one member may give the network a condition.

    Args:
        degradations: A table for each member, in order, such as {name = "noise", std = [0, 0.1]}; `mixture` and
            `compose` may be among them.
    """

    degradations: list[dict[str, Any]]
    members: tuple[Degradation, ...] = field(init=False, repr=False, compare=False)
    labels: tuple[str, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        members, labels = build_members("Compose", self.degradations)
        object.__setattr__(self, "members", members)
        object.__setattr__(self, "labels", labels)
        if sum(member.condition_channels > 0 for member in self.members) > 1:
            raise UserError("Compose: more than one degradation gives the network a condition; leave one")
        resizes = [isinstance(member, Resize) for member in self.members]
        for member, label, before in zip(self.members, self.labels, range(len(resizes)), strict=True):
            if any(resizes[:before]) and (member.multiple > 1 or member.masked or member.condition_channels):
                reason = f"needs sides that are multiples of {member.multiple}" if member.multiple > 1 else "has masks"
                reason = "gives a condition" if member.condition_channels else reason
                raise UserError(
                    f"Compose: '{label}' {reason}, but a resize before it changes the size; put it first"
                    + (", or set backend = 'pillow'" if label.startswith("jpeg") else "")
                )

    @property
    def multiple(self) -> int:
        return math.lcm(*(member.multiple for member in self.members))

    @property
    def masked(self) -> bool:
        return any(member.masked for member in self.members)

    @property
    def condition_channels(self) -> int:
        return max(member.condition_channels for member in self.members)

    @property
    def scale(self) -> int:
        """The last member's scale if `prepare` delegates to it; else 1, for a user's image of full size."""
        return self.members[-1].scale if self._preparer is self.members[-1] else 1

    @property
    def parameter_names(self) -> tuple[str, ...]:
        pairs = zip(self.members, self.labels, strict=True)
        return tuple(f"{label}.{name}" for member, label in pairs for name in member.parameter_names)

    @property
    def why_not_linear(self) -> str:
        return "is a chain of operators, whose A^+ has no closed form"

    @property
    def _preparer(self) -> Degradation:
        """The member for `prepare`: the last with a condition, else the last with masks, else the last."""
        special = [member for member in self.members if member.condition_channels] or [
            member for member in self.members if member.masked
        ]
        return (special or list(self.members))[-1]

    def __call__(self, x_0: Tensor, generator: Generator) -> Degraded:
        self.check_image(x_0)
        if not any(isinstance(member, Resize) for member in self.members):
            return self._through(x_0, generator)
        # One by one: each image has its own random sizes.
        parts = [self._through(x_0[i : i + 1], [one]) for i, one in enumerate(per_sample(generator, len(x_0)))]
        return Degraded(
            torch.cat([part.x_1 for part in parts]),
            torch.cat([_present(part.mask) for part in parts]) if self.masked else None,
            torch.cat([_present(part.condition) for part in parts]) if self.condition_channels else None,
            {name: torch.cat([part.parameters[name] for part in parts]) for name in self.parameter_names},
        )

    def prepare(self, image: Tensor, generator: Generator, mask: Tensor | None = None) -> Degraded:
        """As `Degradation.prepare`, by the member that fills holes or gives the condition, if there is one."""
        member = self._preparer
        if member.masked and mask is None:
            return Degraded(image, torch.ones_like(image[:, :1]))
        prepared = member.prepare(image, generator, mask)
        if self.masked and not all(one.masked for one in self.members):
            return Degraded(prepared.x_1, torch.ones_like(prepared.x_1[:, :1]), prepared.condition)
        return prepared

    def measurement(self, degraded: Degraded) -> Tensor:
        """As `Degradation.measurement`, by the member that gives the condition, if there is one."""
        return self._preparer.measurement(degraded) if self.condition_channels else degraded.x_1

    def reduced(self, x_1: Tensor) -> Tensor:
        return self.members[-1].reduced(x_1) if self.scale > 1 else x_1

    def _through(self, x_0: Tensor, generator: torch.Generator | Sequence[torch.Generator]) -> Degraded:
        x, condition = x_0, None
        parameters: dict[str, Tensor] = {}
        masks: list[Tensor] = []
        for member, label in zip(self.members, self.labels, strict=True):
            degraded = member.stage(x, generator)
            x = degraded.x_1
            masks += [] if degraded.mask is None else [degraded.mask]
            condition = condition if degraded.condition is None else degraded.condition
            parameters |= {f"{label}.{name}": values for name, values in degraded.parameters.items()}
        if x.shape != x_0.shape:
            x = resized(x, x_0.shape[-2:], "bicubic")
        mask = None
        if masks:
            known_all = len(masks) == len(self.members)
            mask = torch.stack(masks).amax(0) if known_all else torch.ones_like(x_0[:, :1])
        return Degraded(x, mask, condition, parameters)


def _present(part: Tensor | None) -> Tensor:
    if part is None:
        raise ValueError("a member announced a mask or condition and gave none")
    return part
