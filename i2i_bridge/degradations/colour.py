"""Colorization: the degradation to grey."""

import math
from dataclasses import dataclass

from torch import Tensor

from i2i_bridge.degradations.base import Degradation, Degraded, binary_mask
from i2i_bridge.degradations.linear import LinearOperator
from i2i_bridge.errors import UserError
from i2i_bridge.randomness import Generator, randn_like
from i2i_bridge.registry import register_degradation

LUMA_WEIGHTS = (0.299, 0.587, 0.114)
"""Red, green, blue: Rec. 601, as in JPEG and in Pillow's mode "L"."""


def grey(x: Tensor) -> Tensor:
    """0.299 R + 0.587 G + 0.114 B, repeated to (B, 3, H, W), of x (B, 3, H, W) or grey (B, 1, H, W)."""
    if x.shape[1] == 3:
        x = (x * x.new_tensor(LUMA_WEIGHTS).view(3, 1, 1)).sum(1, keepdim=True)
    return x.repeat(1, 3, 1, 1)


@register_degradation("colorization")
@dataclass(frozen=True)
class Colorization(Degradation):
    """x_1 = grey(x_0) + noise_std z; the condition is the clean grey image, in 3 channels as x_1.

    Args:
        noise_std: Noise on x_1 alone, so that there is something to draw colours from; 0 for none, 1.0 is the
            original code's --add-x1-noise.
    """

    noise_std: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (math.isfinite(self.noise_std) and self.noise_std >= 0):
            raise UserError(f"Colorization: noise_std = {self.noise_std} must not be negative")

    @property
    def condition_channels(self) -> int:
        return 3

    def __call__(self, x_0: Tensor, generator: Generator) -> Degraded:
        self.check_image(x_0, channels=(3,))
        return self._from_grey(grey(x_0), generator)

    def linear(self, height: int, width: int, mask: Tensor | None = None) -> LinearOperator:
        """A = 1 w^T across the channels, w the luma weights; so A^+ = w 1^T / (3 |w|^2)."""
        square = sum(weight**2 for weight in LUMA_WEIGHTS)

        def adjoint(y: Tensor) -> Tensor:
            return y.sum(1, keepdim=True) * y.new_tensor(LUMA_WEIGHTS).view(3, 1, 1)

        return LinearOperator(
            grey,
            adjoint,
            lambda y: adjoint(y) / (3 * square),
            damped=lambda y, delta: adjoint(y) / (3 * square + delta),
        )

    def measurement(self, degraded: Degraded) -> Tensor:
        """The grey image without the noise, which is the condition."""
        return degraded.x_1 if degraded.condition is None else degraded.condition

    def prepare(self, image: Tensor, generator: Generator, mask: Tensor | None = None) -> Degraded:
        """As `Degradation.prepare`, of a grey (B, 1, H, W) or a colour image (B, 3, H, W)."""
        self.check_image(image, channels=(1, 3))
        return self._from_grey(grey(image), generator, None if mask is None else binary_mask(mask, image))

    def _from_grey(self, clean: Tensor, generator: Generator, mask: Tensor | None = None) -> Degraded:
        x_1 = clean + self.noise_std * randn_like(clean, generator) if self.noise_std else clean.clone()
        return Degraded(x_1, mask, clean)
