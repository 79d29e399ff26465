"""Drawings of a photo: edges, a pencil sketch, a halftone print, flat tones.

To learn the way back is translation (edges to photo, sketch to photo) from any folder of photos, without a data set of
drawings. v is x_0 brought to [0, 1], its luma 0.299 R + 0.587 G + 0.114 B; a pixel is the unit of length.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from i2i_bridge.degradations.base import Degradation, Degraded
from i2i_bridge.degradations.colour import grey
from i2i_bridge.degradations.linear import precise, separable_filter
from i2i_bridge.degradations.ranges import Draws, Range, WholeRange, column
from i2i_bridge.randomness import Generator
from i2i_bridge.registry import register_degradation


@register_degradation("edges")
@dataclass(frozen=True)
class Edges(Degradation):
    """Lines where the smoothed luma is steep: |gradient| > threshold, by Sobel's filter.

    Args:
        detector: "canny" draws the ridges of the gradient alone, and follows a line down to 0.4 threshold (kornia's
            Canny); "sobel" every pixel above the threshold; "soft" greys in proportion to |gradient| / threshold.
        sigma: Standard deviation of the Gaussian that smooths the photo first: more leaves fewer lines. A number, or
            [low, high].
        threshold: Change of luma per pixel; more leaves fewer lines. Likewise.
        width: Of a line from "canny"; the others' grow by width - 1. A whole number, or [low, high].
        ink: The colour of the lines; the paper has the other.
    """

    detector: Literal["canny", "sobel", "soft"] = "canny"
    sigma: Range = 1.0
    threshold: Range = 0.05
    width: WholeRange = 1
    ink: Literal["black", "white"] = "black"
    limits: ClassVar = {"sigma": (0, 20), "threshold": (0.001, 1), "width": (1, 32)}

    def __call__(self, x_0: Tensor, generator: Generator) -> Degraded:
        self.check_image(x_0, channels=(1, 3))
        draws = Draws(self, x_0, generator)
        sigma, threshold, width = draws("sigma"), draws("threshold"), draws("width", whole=True)
        # One by one: convolutions may sum in another order for another batch size, and an edge is a comparison.
        lines = torch.cat(
            [
                _widened(self._lines(_smoothed(_luma(x_0[i : i + 1]), float(sigma[i])), float(threshold[i])), width[i])
                for i in range(len(x_0))
            ]
        )
        x_1 = (lines * 2 - 1 if self.ink == "white" else 1 - lines * 2).to(x_0)
        return Degraded(x_1.expand_as(x_0).contiguous(), parameters=draws.parameters)

    def _lines(self, luma: Tensor, threshold: float) -> Tensor:
        """Lines of a luma (1, 1, H, W) in [0, 1], 1 = ink."""
        if self.detector == "canny":
            from kornia.filters import canny

            # Scaled: older versions of kornia take thresholds below 1 only, of the unnormalised Sobel filter (8 times
            # the slope).
            return canny(luma / (16 * threshold), 0.2, 0.5, kernel_size=1)[1]
        across = luma.new_tensor([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]) / 8
        slopes = F.conv2d(F.pad(luma, (1, 1, 1, 1), mode="replicate"), torch.stack([across, across.T])[:, None])
        steepness = slopes.square().sum(1, keepdim=True).sqrt() / threshold
        return steepness.clamp(max=1) if self.detector == "soft" else (steepness > 1).to(luma)


@register_degradation("sketch")
@dataclass(frozen=True)
class Sketch(Degradation):
    """A pencil drawing: the luma g over its own blur, v_1 = min(1, g / blur(g))^darkness.

    Args:
        sigma: Standard deviation of the blur: more shades wider areas. A number, or [low, high].
        darkness: Exponent: 1 is a light pencil. Likewise.
    """

    sigma: Range = 4.0
    darkness: Range = 2.0
    limits: ClassVar = {"sigma": (0.5, 50), "darkness": (0.1, 20)}

    def __call__(self, x_0: Tensor, generator: Generator) -> Degraded:
        self.check_image(x_0, channels=(1, 3))
        draws = Draws(self, x_0, generator)
        sigma, darkness = draws("sigma"), draws("darkness")
        luma = _luma(x_0)
        blurred = torch.cat([_smoothed(luma[i : i + 1], float(sigma[i])) for i in range(len(x_0))])
        # 1/255: otherwise black over black is 0 / 0.
        shade = ((luma + 1 / 255) / (blurred + 1 / 255)).clamp(max=1) ** column(darkness, luma)
        return Degraded((shade * 2 - 1).to(x_0).expand_as(x_0).contiguous(), parameters=draws.parameters)


@register_degradation("posterise")
@dataclass(frozen=True)
class Posterise(Degradation):
    """Flat tones: v_1 = min(floor(n v), n - 1) / (n - 1) in each channel.

    Args:
        levels: n, the number of tones. A whole number, or [low, high].
    """

    levels: WholeRange = 4
    limits: ClassVar = {"levels": (2, 256)}

    def __call__(self, x_0: Tensor, generator: Generator) -> Degraded:
        draws = Draws(self, x_0, generator)
        levels = column(draws("levels", whole=True), x_0)
        steps = torch.minimum(((x_0 + 1) / 2 * levels).floor().clamp(min=0), levels - 1)
        return Degraded(steps / (levels - 1) * 2 - 1, parameters=draws.parameters)


@register_degradation("halftone")
@dataclass(frozen=True)
class Halftone(Degradation):
    """A print of dots of ink whose size follows the tone: v_1 = 1 where v > s, else 0.

        s = F((a + b) / 2),  a = |2 frac(u / period) - 1|,  b = |2 frac(w / period) - 1|

    u and w are the pixel's coordinates, turned by the angle; F(z) = 2 z^2 up to 1/2 and 1 - 2 (1 - z)^2 above makes s
    uniform in [0, 1], so that a flat tone keeps its mean.

    Args:
        period: Distance of the dots. A number, or [low, high].
        angle: Of the rows of dots in degrees. Likewise.
        ink: "black" prints the luma; "colour" each channel, at angles 30 degrees apart.
    """

    period: Range = 6.0
    angle: Range = 45.0
    ink: Literal["black", "colour"] = "black"
    limits: ClassVar = {"period": (2, 64), "angle": (-360, 360)}

    def __call__(self, x_0: Tensor, generator: Generator) -> Degraded:
        self.check_image(x_0, channels=(1, 3))
        draws = Draws(self, x_0, generator)
        period, angle = column(draws("period"), precise(x_0)), draws("angle")
        tone = (precise(x_0) + 1) / 2 if self.ink == "colour" else _luma(x_0)
        turns = torch.deg2rad(angle[:, None] + 30 * torch.arange(tone.shape[1], dtype=torch.float64))
        cosine, sine = (turn.to(tone)[..., None, None] for turn in (turns.cos(), turns.sin()))
        rows = torch.arange(x_0.shape[-2], device=x_0.device, dtype=tone.dtype)[:, None]
        columns = torch.arange(x_0.shape[-1], device=x_0.device, dtype=tone.dtype)
        a, b = (
            (2 * (place / period).remainder(1) - 1).abs()
            for place in (columns * cosine + rows * sine, rows * cosine - columns * sine)
        )
        z = (a + b) / 2
        screen = torch.where(z < 0.5, 2 * z**2, 1 - 2 * (1 - z) ** 2)
        return Degraded(((tone > screen).to(x_0) * 2 - 1).expand_as(x_0).contiguous(), parameters=draws.parameters)


def _luma(x: Tensor) -> Tensor:
    """Luma of x (B, 1 or 3, H, W) in [-1, 1], as (B, 1, H, W) in [0, 1], float64 where there is one."""
    return (grey(precise(x))[:, :1] + 1) / 2


def _smoothed(x: Tensor, sigma: float) -> Tensor:
    """x (..., H, W) after a Gaussian cut off at 4 sigma, mirrored about the edges; sigma 0 leaves it as it is."""
    reach = math.ceil(4 * sigma)
    weights = [math.exp(-(k**2) / (2 * sigma**2)) for k in range(-reach, reach + 1)] if reach else [1.0]
    return separable_filter(x, [weight / sum(weights) for weight in weights], reach, 1, "symmetric")


def _widened(lines: Tensor, width: Tensor) -> Tensor:
    """Lines (1, 1, H, W) drawn by a square pen of that many pixels."""
    pen = int(width)
    return F.max_pool2d(F.pad(lines, ((pen - 1) // 2, pen // 2, (pen - 1) // 2, pen // 2)), pen, 1)
