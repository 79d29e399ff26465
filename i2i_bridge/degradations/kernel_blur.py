"""Blurs by a two-dimensional kernel, fixed or drawn for each image: motion, defocus, Gaussian."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from i2i_bridge.degradations.base import Degradation, Degraded
from i2i_bridge.degradations.linear import LinearOperator, convolution, convolved
from i2i_bridge.degradations.ranges import Draws, Range
from i2i_bridge.randomness import Generator
from i2i_bridge.registry import register_degradation


class KernelBlur(Degradation):
    """x_1 = k * x_0, mirrored about the edges; the kernel sums to 1, so a constant image stays as it is."""

    def kernels(self, draws: Draws) -> Tensor:
        """(B, K, K) float64, K odd."""
        raise NotImplementedError

    def __call__(self, x_0: Tensor, generator: Generator) -> Degraded:
        draws = Draws(self, x_0, generator)
        return Degraded(convolved(x_0, self.kernels(draws)), parameters=draws.parameters)

    def linear(self, height: int, width: int, mask: Tensor | None = None) -> LinearOperator | None:
        """As `Degradation.linear`; None if an option is a range (kernels then differ), or the kernel is slanted."""
        if self.parameter_names:
            return None
        # All options are numbers: nothing is drawn from this generator.
        return convolution(self.kernels(Draws(self, torch.empty(1), torch.Generator()))[0], height, width)

    @property
    def why_not_linear(self) -> str:
        if self.parameter_names:
            return f"draws its {', '.join(self.parameter_names)} anew for each image, so A is not known"
        return "has a slanted kernel, whose A^+ has no closed form"


@register_degradation("motion-blur")
@dataclass(frozen=True)
class MotionBlur(KernelBlur):
    """A camera that moves along a straight line while the shutter is open (kornia's kernel).

    Args:
        length: Of the path in pixels; rounded up to an odd number. A number, or [low, high].
        angle: Of the path in degrees: 0 is horizontal, and it turns counter-clockwise. Likewise.
        direction: From -1 to 1: where along the path the light is heaviest; 0 is even. Likewise.
    """

    length: Range = 15.0
    angle: Range = (0.0, 180.0)
    direction: Range = 0.0
    limits: ClassVar = {"length": (1, 201), "angle": (-360, 360), "direction": (-1, 1)}

    def kernels(self, draws: Draws) -> Tensor:
        length = draws("length").ceil() // 2 * 2 + 1
        if "length" in draws.parameters:
            draws.record("length", length)
        return motion_kernels(length, draws("angle"), draws("direction"))


def motion_kernels(length: Tensor, angle: Tensor, direction: Tensor) -> Tensor:
    """Lines as kernels, each summing to 1, (B, K, K) float64.

    Args:
        length: Odd numbers of pixels, (B,).
        angle: Degrees, counter-clockwise, (B,).
        direction: -1 to 1, (B,).
    """
    from kornia.filters import get_motion_kernel2d

    largest = int(length.max())
    kernels = torch.zeros(len(length), largest, largest, dtype=torch.float64)
    for i, pixels in enumerate(int(one) for one in length):
        margin = (largest - pixels) // 2
        # kornia takes one size for the whole batch, 3 at least.
        kernel = (
            get_motion_kernel2d(pixels, angle[i : i + 1], direction[i : i + 1], mode="bilinear")
            if pixels > 1
            else torch.ones(1, 1, 1)
        )
        kernels[i, margin : margin + pixels, margin : margin + pixels] = kernel[0]
    return kernels


@register_degradation("defocus")
@dataclass(frozen=True)
class Defocus(KernelBlur):
    """A lens out of focus: every point becomes an even disk.

    Args:
        radius: Of the disk in pixels; its edge is antialiased. A number, or [low, high].
    """

    radius: Range = 4.0
    limits: ClassVar = {"radius": (0.1, 100)}

    def kernels(self, draws: Draws) -> Tensor:
        radius = draws("radius")
        rows, columns = _grid(float(radius.max()) + 0.5)
        return _normalised((radius[:, None, None] + 0.5 - torch.hypot(rows, columns)).clamp(0, 1))


@register_degradation("gaussian-blur")
@dataclass(frozen=True)
class GaussianBlur(KernelBlur):
    """A Gaussian of any width, also longer in one direction. (`blur` has the paper's fixed ones.)

    Args:
        sigma: Standard deviation in pixels along the longer axis. A number, or [low, high].
        ratio: Of the shorter axis to the longer one; 1 is round. Likewise.
        angle: Of the longer axis in degrees: 0 is horizontal, and it turns counter-clockwise. Likewise.
    """

    sigma: Range = 2.0
    ratio: Range = 1.0
    angle: Range = 0.0
    limits: ClassVar = {"sigma": (0.1, 50), "ratio": (0.05, 1), "angle": (-360, 360)}

    def kernels(self, draws: Draws) -> Tensor:
        sigma, ratio, angle = draws("sigma"), draws("ratio"), draws("angle").deg2rad()
        # Beyond 4 sigma lies less than 1e-4 of the weight.
        rows, columns = _grid(4 * float(sigma.max()))
        cosine, sine = angle.cos()[:, None, None], angle.sin()[:, None, None]
        # Rows count downwards, angles turn counter-clockwise.
        along, across = columns * cosine - rows * sine, columns * sine + rows * cosine
        scaled = (along.square() + (across / ratio[:, None, None]).square()) / sigma[:, None, None].square()
        return _normalised(torch.exp(-scaled / 2))


def _grid(reach: float) -> tuple[Tensor, Tensor]:
    """Row and column of each kernel pixel, counted from the centre."""
    pixels = int(-(-reach // 1))
    offsets = torch.arange(-pixels, pixels + 1, dtype=torch.float64)
    return offsets[:, None], offsets[None, :]


def _normalised(kernels: Tensor) -> Tensor:
    return kernels / kernels.sum((-2, -1), keepdim=True)
