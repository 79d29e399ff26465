"""Uniform and Gaussian blur: correct ("honest"), and as the paper's code computed them ("ddrm-compat")."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from i2i_bridge.degradations.base import Degradation, Degraded
from i2i_bridge.degradations.linear import LinearOperator, filter_matrix, precise, separable, separable_filter
from i2i_bridge.errors import UserError
from i2i_bridge.randomness import Generator
from i2i_bridge.registry import register_degradation


def blur_taps(kernel: str) -> tuple[float, ...]:
    """The paper's kernels, summing to 1: "uniform", 9 taps; "gaussian", 5 taps with sigma = 10 pixels."""
    weights = [1.0] * 9 if kernel == "uniform" else [math.exp(-0.5 * (d / 10) ** 2) for d in range(-2, 3)]
    return tuple(weight / sum(weights) for weight in weights)


@register_degradation("blur")
@dataclass(frozen=True)
class Blur(Degradation):
    """x_1 = A x_0 A^T, with the kernel of `blur_taps` along rows and columns.

    Args:
        kernel: "uniform" or "gaussian".
        backend: "honest": that, with reflected borders; a constant image stays as it is. "ddrm-compat": the
            operator which the paper's released models were trained on, three defects included (see
            `compat_operator`): darker, and stronger than its name says; square images only.
    """

    kernel: Literal["uniform", "gaussian"] = "uniform"
    backend: Literal["honest", "ddrm-compat"] = "honest"

    def __call__(self, x_0: Tensor, generator: Generator) -> Degraded:
        if self.backend == "honest":
            taps = blur_taps(self.kernel)
            return Degraded(separable_filter(x_0, taps, before=len(taps) // 2, stride=1, border="reflect"))
        self._check_square(*x_0.shape[-2:])
        x = (precise(x_0) + 1) / 2
        left, right, gains = (part.to(x) for part in compat_operator(self.kernel, x.shape[-1], x.shape[1]))
        return Degraded((left @ (gains * (right @ x @ right.T)) @ left.T * 2 - 1).to(x_0.dtype))

    def linear(self, height: int, width: int, mask: Tensor | None = None) -> LinearOperator:
        """Of "ddrm-compat", which works on images in [0, 1], the offset is A 1 - 1.

        Raises:
            UserError: "ddrm-compat" and an image that is not square.
        """
        if self.backend == "honest":
            taps = blur_taps(self.kernel)
            rows, columns = (filter_matrix(side, taps, len(taps) // 2, 1, "reflect") for side in (height, width))
            return separable(rows, columns)
        self._check_square(height, width)

        def between(x: Tensor, gain: Callable[[Tensor], Tensor], swapped: bool) -> Tensor:
            exact = precise(x)
            left, right, gains = (part.to(exact) for part in compat_operator(self.kernel, height, x.shape[1]))
            # U and V are orthogonal: adjoint and inverse exchange them.
            source, target = (left.T, right.T) if swapped else (right, left)
            return (target @ (gain(gains) * (source @ exact @ source.T)) @ target.T).to(x.dtype)

        return LinearOperator(
            forward=lambda x: between(x, lambda g: g, swapped=False),
            adjoint=lambda y: between(y, lambda g: g, swapped=True),
            pinv=lambda y: between(y, lambda g: torch.where(g > 0, 1 / g, 0.0), swapped=True),
            offset=lambda x: between(torch.ones_like(x), lambda g: g, swapped=False) - 1,
            damped=lambda y, delta: between(y, lambda g: g / (g.square() + delta), swapped=True),
        )

    def _check_square(self, height: int, width: int) -> None:
        if height != width:
            raise UserError(
                f"Blur: the image is {height} x {width}, but backend 'ddrm-compat' is for square images;"
                " crop it, or set backend = 'honest'"
            )


@lru_cache(maxsize=8)
def compat_operator(kernel: str, size: int, channels: int) -> tuple[Tensor, Tensor, Tensor]:
    """The blur of the paper's code as y = U (gains * (V^T x V)) U^T on images in [0, 1].

    It departs from A x A^T thrice: the last tap is missing (and all is black beyond the border), singular
    values below 0.03 are dropped, and gains meet the wrong coefficients: that of rank r in channel c gets the
    gain of rank (channels * r + c) mod size^2.

    Returns:
        U (size, size), V^T (size, size), gains (channels, size, size), float64.
    """
    taps = blur_taps(kernel)
    matrix = torch.zeros(size, size, dtype=torch.float64)
    for k, tap in enumerate(taps[:-1]):
        offset = k - len(taps) // 2
        if abs(offset) < size:
            matrix.diagonal(offset).fill_(tap)
    left, values, right = torch.linalg.svd(matrix)
    values = torch.where(values < 0.03, 0.0, values)
    products = torch.outer(values, values).flatten()
    # Products tie (s_i s_j = s_j s_i). The original leaves their order to torch's unstable sort; so do we:
    # a stable one departs from it to 48..59 dB at 64 pixels (closer at 256), this one hardly on the same CPU.
    ranked, order = products.sort(descending=True)
    rank = torch.arange(size * size)
    gains = torch.empty(channels, size * size, dtype=torch.float64)
    for channel in range(channels):
        gains[channel, order] = ranked[(channels * rank + channel) % (size * size)]
    return left, right, gains.view(channels, size, size)
