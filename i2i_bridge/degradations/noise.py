"""Additive Gaussian noise."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from i2i_bridge.degradations.base import Degradation, Degraded
from i2i_bridge.degradations.linear import LinearOperator, diagonal
from i2i_bridge.degradations.ranges import Draws, Range, column
from i2i_bridge.randomness import Generator, randn_like
from i2i_bridge.registry import register_degradation


@register_degradation("noise")
@dataclass(frozen=True)
class Noise(Degradation):
    """x_1 = x_0 + std z, z ~ N(0, 1); not clamped.

    Args:
        std: In units of [-1, 1] images: 2 / 255 is one grey level. A number, or [low, high].
    """

    std: Range
    limits: ClassVar = {"std": (0, 1000)}

    def __call__(self, x_0: Tensor, generator: Generator) -> Degraded:
        draws = Draws(self, x_0, generator)
        std = draws("std")
        return Degraded(x_0 + column(std, x_0) * randn_like(x_0, generator), parameters=draws.parameters)

    def linear(self, height: int, width: int, mask: Tensor | None = None) -> LinearOperator:
        """The identity: the noise is b."""
        return diagonal(None)

    @property
    def measurement_std(self) -> float:
        return float(max(self.std)) if isinstance(self.std, tuple | list) else float(self.std)
