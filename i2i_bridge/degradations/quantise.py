"""Quantisation to integer codes."""

from dataclasses import dataclass

from torch import Tensor

from i2i_bridge.degradations.base import Degradation, Degraded
from i2i_bridge.errors import UserError
from i2i_bridge.randomness import Generator
from i2i_bridge.registry import register_degradation


@register_degradation("quantise")
@dataclass(frozen=True)
class Quantise(Degradation):
    """Whole codes of so many bits, values beyond black and white cut off: what a file keeps of noise, say.

        x_1 = 2 round(n clamp((x_0 + 1) / 2, 0, 1)) / n - 1,   n = 2^bits - 1

    Args:
        bits: Of a code, 1 to 16.
    """

    bits: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.bits <= 16:
            raise UserError(f"Quantise: bits = {self.bits} is outside 1..16")

    @property
    def why_not_linear(self) -> str:
        return "rounds, so it is not linear in x_0"

    def __call__(self, x_0: Tensor, generator: Generator) -> Degraded:
        highest = 2**self.bits - 1
        return Degraded(((x_0 + 1) / 2).clamp(0, 1).mul(highest).round().mul(2 / highest).sub(1))
