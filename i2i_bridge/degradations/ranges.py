"""Options that are a number, or a pair [low, high] from which a value is drawn for each image."""

import math
from typing import Any

import torch
from torch import Tensor

from i2i_bridge.errors import UserError
from i2i_bridge.randomness import Generator, rand

Range = float | tuple[float, float]
"""A number, or [low, high]: drawn evenly for each image."""
WholeRange = int | tuple[int, int]
"""A whole number, or [low, high]: drawn evenly for each image, both ends included."""


def is_range(value: Any) -> bool:
    """Whether an option's value is a pair to draw from."""
    return isinstance(value, tuple | list)


def check_range(owner: str, name: str, value: Any, limits: tuple[float, float]) -> None:
    """Checks a `Range` against its limits.

    Raises:
        UserError: The value is not a number or a rising pair, or lies outside of the limits.
    """
    ends = list(value) if is_range(value) else [value]
    if not all(isinstance(end, int | float) and not math.isnan(end) for end in ends) or len(ends) not in (1, 2):
        raise UserError(f"{owner}: {name} = {value!r} is neither a number nor a pair [low, high]")
    if ends[0] > ends[-1]:
        raise UserError(f"{owner}: {name} = {list(ends)} falls; write [low, high]")
    low, high = limits
    if ends[0] < low or ends[-1] > high or math.isinf(ends[-1]):
        allowed = f"{low:g}..{high:g}" if math.isfinite(high) else f"{low:g} and more"
        raise UserError(f"{owner}: {name} = {value} is outside {allowed}")


class Draws:
    """The values of a degradation's options for one batch; `parameters` collects those that were drawn.

    A fixed number draws nothing, so that replacing a range by a number does not change the other draws.

    Args:
        degradation: The degradation whose fields are the options.
        x_0: The batch; parameters are on its device.
        generator: As in `Degradation.__call__`.
    """

    def __init__(self, degradation: Any, x_0: Tensor, generator: Generator) -> None:
        self._degradation, self._x_0, self._generator = degradation, x_0, generator
        self.parameters: dict[str, Tensor] = {}

    def __call__(self, name: str, whole: bool = False) -> Tensor:
        """The values of an option, (B,) float64 on the CPU; of whole numbers, the range's upper end included."""
        value, batch = getattr(self._degradation, name), len(self._x_0)
        if not is_range(value):
            return torch.full((batch,), float(value), dtype=torch.float64)
        low, high = value
        even = rand((batch,), self._generator)
        values: Tensor = (low + (high - low + 1) * even).floor() if whole else low + (high - low) * even
        self.record(name, values)
        return values

    def record(self, name: str, values: Tensor) -> None:
        """Stores drawn values (B,) in `parameters`."""
        self.parameters[name] = values.to(self._x_0.device, torch.float32)


def column(values: Tensor, x: Tensor) -> Tensor:
    """(B,) values as (B, 1, 1, 1), of x's dtype and device."""
    return values.to(x).view(-1, 1, 1, 1)
