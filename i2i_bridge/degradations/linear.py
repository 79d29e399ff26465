"""Separable linear filters on images, as the named degradations need them."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor


def precise(x: Tensor) -> Tensor:
    """x in float64, or float32 on devices without it (MPS).

    Matrix products of float32 may run in TF32, or in bfloat16 under autocast: enough to flip roundings.
    """
    return x.to(torch.float32 if x.device.type == "mps" else torch.float64)


def mirrored(size: int, before: int, after: int, border: Literal["reflect", "symmetric"]) -> Tensor:
    """Indices into 0..size-1 that continue it by mirroring, (before + size + after,).

    "reflect" mirrors about the outermost pixel (c b | a b c | b a), "symmetric" about its outer edge
    (b a | a b c | c b). Any size >= 1.
    """
    index = torch.arange(-before, size + after)
    if border == "symmetric":
        index = index % (2 * size)
        return torch.minimum(index, 2 * size - 1 - index)
    index = index % max(1, 2 * size - 2)
    return torch.minimum(index, 2 * size - 2 - index)


def separable_filter(
    x: Tensor, taps: Sequence[float], before: int, stride: int, border: Literal["reflect", "symmetric"]
) -> Tensor:
    """Correlation of both axes with the same taps.

        y[i] = sum_k taps[k] x[stride * i + k - before]

    Args:
        x: (..., H, W); beyond its border it continues mirrored (see `mirrored`).
        before: Taps that lie before the output's own first pixel.

    Returns:
        (..., H // stride, W // stride).
    """
    # Shifted sums, not a convolution: exact to float32 whatever TF32 and autocast say, and one image's result
    # cannot depend on how a library splits the batch.
    for axis in (-2, -1):
        size = x.shape[axis]
        outputs = size // stride
        after = max(0, (outputs - 1) * stride + len(taps) - before - size)
        padded = x.index_select(axis, mirrored(size, before, after, border).to(x.device))
        span = (outputs - 1) * stride + 1
        total = torch.zeros_like(padded.narrow(axis, 0, outputs))
        for k, tap in enumerate(taps):
            shifted = padded.narrow(axis, k, span)
            total.add_(shifted[..., ::stride, :] if axis == -2 else shifted[..., ::stride], alpha=tap)
        x = total
    return x


@lru_cache(maxsize=1)
def cubic_taps() -> tuple[float, ...]:
    """The 16 taps of a 4x bicubic reduction: the cubic kernel with a = -1/2 at (k - 7.5) / 4, summing to 1.

    w(d) = 1.5 d^3 - 2.5 d^2 + 1 for d <= 1, and -0.5 d^3 + 2.5 d^2 - 4 d + 2 for 1 < d < 2 (Keys, 1981).
    """
    distances = [abs(k - 7.5) / 4 for k in range(16)]
    taps = [1.5 * d**3 - 2.5 * d**2 + 1 if d <= 1 else -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2 for d in distances]
    return tuple(tap / sum(taps) for tap in taps)
