"""Additive Gaussian noise."""

import math
from dataclasses import dataclass

from torch import Tensor

from i2i_bridge.degradations.base import Degradation, Degraded
from i2i_bridge.errors import UserError
from i2i_bridge.randomness import Generator, randn_like
from i2i_bridge.registry import register_degradation


@register_degradation("noise")
@dataclass(frozen=True)
class Noise(Degradation):
    """x_1 = x_0 + std z, z ~ N(0, 1); not clamped.

    Args:
        std: In units of [-1, 1] images: 2 / 255 is one grey level.
    """

    std: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (math.isfinite(self.std) and self.std >= 0):
            raise UserError(f"Noise: std = {self.std} must not be negative")

    def __call__(self, x_0: Tensor, generator: Generator) -> Degraded:
        return Degraded(x_0 + self.std * randn_like(x_0, generator))
