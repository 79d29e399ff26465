"""Haze and rain."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from i2i_bridge.degradations.base import Degradation, Degraded
from i2i_bridge.degradations.kernel_blur import motion_kernels
from i2i_bridge.degradations.linear import convolved, resized
from i2i_bridge.degradations.ranges import Draws, Range, column
from i2i_bridge.randomness import Generator, rand
from i2i_bridge.registry import register_degradation


@register_degradation("haze")
@dataclass(frozen=True)
class Haze(Degradation):
    """Atmospheric scattering (Koschmieder), v being x_0 brought to [0, 1].

        v_1 = v t + airlight (1 - t),  t = exp(-beta depth)

    The depth is a smooth random field in [0, 1] of the image's own: no depth map is needed.

    Args:
        beta: Scattering at depth 1: 0.5 is a haze, 3 a fog. A number, or [low, high].
        airlight: Brightness of the haze itself, 0 to 1. Likewise.
    """

    beta: Range = (0.5, 2.0)
    airlight: Range = (0.7, 1.0)
    limits: ClassVar = {"beta": (0, 20), "airlight": (0, 1)}

    def __call__(self, x_0: Tensor, generator: Generator) -> Degraded:
        draws = Draws(self, x_0, generator)
        beta, airlight = column(draws("beta"), x_0), column(draws("airlight"), x_0) * 2 - 1
        coarse = rand((len(x_0), 1, 4, 4), generator).to(x_0)
        t = torch.exp(-beta * resized(coarse, x_0.shape[-2:], "bicubic").clamp(0, 1))
        return Degraded(x_0 * t + airlight * (1 - t), parameters=draws.parameters)


@register_degradation("rain")
@dataclass(frozen=True)
class Rain(Degradation):
    """Bright streaks over the image, all of one shower alike: v_1 = v + s (1 - v), s in [0, 1].

    (kornia's rain draws its drops one by one and from global generators.)

    Args:
        density: Share of the pixels where a streak is centred. A number, or [low, high].
        length: Of a streak in pixels; rounded up to an odd number. Likewise.
        angle: In degrees: 90 falls straight down, less leans to the right at the top. Likewise.
        brightness: s in the middle of a streak, 0 to 1. Likewise.
    """

    density: Range = (0.002, 0.01)
    length: Range = (9.0, 21.0)
    angle: Range = (70.0, 110.0)
    brightness: Range = (0.3, 0.7)
    limits: ClassVar = {"density": (0, 1), "length": (1, 201), "angle": (-360, 360), "brightness": (0, 1)}

    def __call__(self, x_0: Tensor, generator: Generator) -> Degraded:
        draws = Draws(self, x_0, generator)
        density, brightness = draws("density"), column(draws("brightness"), x_0)
        length, angle = draws("length").ceil() // 2 * 2 + 1, draws("angle")
        if "length" in draws.parameters:
            draws.record("length", length)
        drops = rand((len(x_0), 1, *x_0.shape[-2:]), generator) < density.view(-1, 1, 1, 1)
        streaks = motion_kernels(length, angle, torch.zeros_like(angle))
        shape = streaks / streaks.amax((-2, -1), keepdim=True)
        s = brightness * convolved(drops.to(x_0), shape).clamp(0, 1)
        return Degraded(x_0 + s * (1 - x_0), parameters=draws.parameters)
