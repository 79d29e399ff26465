"""Camera sensors in low light: shot noise, and a dark exposure."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from i2i_bridge.degradations.base import Degradation, Degraded
from i2i_bridge.degradations.ranges import Draws, Range, column
from i2i_bridge.randomness import Generator, per_sample, randn_like
from i2i_bridge.registry import register_degradation


@register_degradation("shot-noise")
@dataclass(frozen=True)
class ShotNoise(Degradation):
    """Counted photons and the noise of reading them, v being x_0 brought to [0, 1]; not clamped.

        v_1 = (n + read z) / photons,  n ~ Poisson(photons v),  z ~ N(0, 1)

    Args:
        photons: Mean count of a white pixel: few are much noise. A number, or [low, high].
        read: Standard deviation of the read noise, in photons. Likewise.
    """

    photons: Range = 100.0
    read: Range = 0.0
    limits: ClassVar = {"photons": (0.1, 1e6), "read": (0, 1e6)}

    def __call__(self, x_0: Tensor, generator: Generator) -> Degraded:
        draws = Draws(self, x_0, generator)
        photons, read = column(draws("photons"), x_0), column(draws("read"), x_0)
        rates = photons * ((x_0 + 1) / 2).clamp(min=0)
        # torch draws Poisson numbers only where the generator lives.
        counts = [
            torch.poisson(rate.to(one.device), generator=one)
            for rate, one in zip(rates, per_sample(generator, len(x_0)), strict=True)
        ]
        counted = torch.stack(counts).to(x_0) + read * randn_like(x_0, generator)
        return Degraded(counted / photons * 2 - 1, parameters=draws.parameters)


@register_degradation("low-light")
@dataclass(frozen=True)
class LowLight(Degradation):
    """v_1 = exposure v^gamma + noise z / 2, v being x_0 brought to [0, 1]; not clamped.

    Args:
        exposure: Share of the light that is left, above 0. A number, or [low, high].
        gamma: Above 1 darkens the middle tones more than white. Likewise.
        noise: Standard deviation in units of [-1, 1] images, as in `noise`. Likewise.
    """

    exposure: Range = (0.1, 0.5)
    gamma: Range = (1.0, 2.5)
    noise: Range = 0.02
    limits: ClassVar = {"exposure": (0.001, 1), "gamma": (0.1, 10), "noise": (0, 1000)}

    def __call__(self, x_0: Tensor, generator: Generator) -> Degraded:
        draws = Draws(self, x_0, generator)
        exposure, gamma, noise = (column(draws(name), x_0) for name in ("exposure", "gamma", "noise"))
        dark = exposure * ((x_0 + 1) / 2).clamp(min=0) ** gamma
        return Degraded(dark * 2 - 1 + noise * randn_like(x_0, generator), parameters=draws.parameters)
