"""Colour correction: a restored image takes its low frequencies from the degraded one."""

import torch
from torch import Tensor

from i2i_bridge.errors import UserError, did_you_mean

COLOUR_FIXES = ("none", "mean", "wavelet")
LEVELS = 5
"""Levels of the wavelet: its low band has a value for each 32 x 32 pixels."""


def check_colour_fix(kind: str, *, masked: bool) -> None:
    """Check the name of a colour correction, and that the degraded image has the colours everywhere.

    Raises:
        UserError: There is no such correction, or the image has a hole.
    """
    if kind not in COLOUR_FIXES:
        raise UserError(f"colour_fix '{kind}'{did_you_mean(kind, COLOUR_FIXES)}")
    if masked and kind != "none":
        raise UserError(f"colour_fix '{kind}' takes the colours of the degraded image, which has a hole; leave it out")


def colour_fixed(x_0_hat: Tensor, x_1: Tensor, kind: str) -> Tensor:
    """x_0_hat with the low frequencies of X_1.

        mean:      x_0_hat + mean(X_1 - x_0_hat), for each channel
        wavelet:   x_0_hat + S L (X_1 - x_0_hat)

    L is the low band after 5 levels of the wavelet 5/3 (LeGall and Tabatabai, 1988) and S its synthesis without
    details, so L S = 1: the result has the low band of X_1, and all details of x_0_hat.

    Args:
        x_0_hat: Restored image, (..., H, W).
        x_1: Degraded image, same shape.
        kind: One of `COLOUR_FIXES`.
    """
    if kind == "none":
        return x_0_hat
    change = x_1 - x_0_hat
    if kind == "mean":
        return x_0_hat + change.mean((-2, -1), keepdim=True)
    return x_0_hat + _raised(low_band(change), (change.shape[-2], change.shape[-1]))


def low_band(x: Tensor, levels: int = LEVELS) -> Tensor:
    """L: the low band of images (..., H, W), with sides divided by 2^levels, rounded up. Constants keep their value."""
    for _ in range(levels):
        x = _low(_low(x, -1), -2)
    return x


def _raised(low: Tensor, size: tuple[int, int], levels: int = LEVELS) -> Tensor:
    """S: the image of this size that has this low band and no details."""
    sizes = [size]
    for _ in range(levels - 1):
        sizes.append((-(-sizes[-1][0] // 2), -(-sizes[-1][1] // 2)))
    for height, width in reversed(sizes):
        low = _doubled(_doubled(low, -2, height), -1, width)
    return low


def _low(x: Tensor, axis: int) -> Tensor:
    """One level along one axis, by lifting: d = odd - (both even neighbours) / 2, low = even + (both d) / 4."""
    x = x.movedim(axis, 0)
    even, odd = x[::2], x[1::2]
    if not len(odd):
        return even.movedim(0, axis)
    detail = odd - _middle(even, len(odd))
    before = torch.cat([detail[:1], detail])[: len(even)]
    after = torch.cat([detail, detail[-1:]])[: len(even)]
    return (even + (before + after) / 4).movedim(0, axis)


def _doubled(low: Tensor, axis: int, side: int) -> Tensor:
    """The inverse of `_low` for details of 0: linear interpolation."""
    even = low.movedim(axis, 0)
    x = even.new_empty(side, *even.shape[1:])
    x[::2], x[1::2] = even, _middle(even, side // 2)
    return x.movedim(0, axis)


def _middle(even: Tensor, count: int) -> Tensor:
    """Means of neighbours; the last one's neighbour is itself."""
    return (even[:count] + torch.cat([even[1:], even[-1:]])[:count]) / 2
