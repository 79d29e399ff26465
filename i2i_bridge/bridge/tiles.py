"""Overlapping tiles: a network that sees a large image one window at a time.

The window of output row i and column j has the weight v_i(y) w_j(x), and the weights of all windows sum to 1:

    F(x_t) = sum_i v_i sum_j w_j F_ij(x_t in window (i, j))                                                     (T)

x_0_hat is linear in F with the same factors for every pixel (`targets`), so (T) also blends the windows' x_0_hat, in
each step of the walk. The sampler works on the whole image and draws one noise field for it; a pixel's noise therefore
depends on its place in the image alone. Along one axis at most two windows have weight at a pixel, and a sum of two
numbers does not depend on their order: neither does (T), to the last bit.
"""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor, nn

from i2i_bridge.bridge.predictor import Network, call_network
from i2i_bridge.randomness import global_seed, key


class Span(NamedTuple):
    """A window along one axis: its first pixel, and the weight of each of its pixels, float64."""

    start: int
    weights: Tensor


@lru_cache(maxsize=16)  # the same in every call of a walk
def spans(length: int, side: int, overlap: int, stride: int = 1) -> tuple[Span, ...]:
    """The fewest windows of `side` pixels that cover an axis, evenly spread; one of `length` if the axis is shorter.

        w_i = f_(i-1) - f_i,   f_(-1) = 1,   f_last = 0,   f_i(p) = sin^2(pi u / 2)

    u rises from 0 to 1 over overlap / 2 pixels around the middle of what windows i and i + 1 share: a Hann ramp. The
    pixels nearest to a window's edge, overlap / 4 or more, have weight 0: the network pads there. So the result is that
    of the whole image for a network whose output depends on pixels at most overlap / 4 away.

    Args:
        length: Pixels of the axis, a multiple of `stride`.
        side: Pixels of a window, a multiple of `stride`.
        overlap: Fewest pixels that neighbours share; at most side / 2, so that no pixel has weight in three windows.
        stride: Windows start at its multiples.
    """
    if length <= side:
        return (Span(0, torch.ones(length, dtype=torch.float64)),)
    room = (length - side) // stride
    steps = math.ceil(room / ((side - overlap) // stride))
    starts = [room * i // steps * stride for i in range(steps + 1)]
    windows = []
    for i, start in enumerate(starts):
        pixels = torch.arange(start, start + side, dtype=torch.float64) + 0.5
        begun = _ramp(pixels, starts[i - 1] + side, start, overlap) if i else torch.ones_like(pixels)
        ended = _ramp(pixels, start + side, starts[i + 1], overlap) if i < steps else torch.zeros_like(pixels)
        windows.append(Span(start, begun - ended))
    return tuple(windows)


def _ramp(pixels: Tensor, end: int, start: int, overlap: int) -> Tensor:
    """f of a window that ends before `end` and the next one, which starts at `start`."""
    width = max(overlap / 2, 1e-9)  # without overlap a step
    u = ((pixels - (start + end) / 2) / width + 0.5).clamp(0, 1)
    return torch.sin(u * (math.pi / 2)).square()


def blended(
    network: Network,
    x_t: Tensor,
    t: Tensor,
    condition: Tensor | None,
    rows: Sequence[Span],
    columns: Sequence[Span],
    *,
    batch: int = 1,
    seed: int | None = None,
    label: Tensor | None = None,
) -> Tensor:
    """The output (T) of a network for images (B, C, H, W), in the dtype of x_t.

    Args:
        rows: The windows along H; neither their order nor that of `columns` changes the result.
        columns: The windows along W.
        batch: Number of windows of a row in one network call.
        seed: Of a network that draws random numbers (dropout), keyed by the place of each call's first window.
        label: Class of each image, (B,), which all its windows have.
    """
    dtype = torch.promote_types(x_t.dtype, torch.float32)
    output = torch.zeros_like(x_t, dtype=dtype)
    for top, row_weights in rows:
        bottom = top + len(row_weights)
        strip = torch.zeros_like(x_t[..., top:bottom, :], dtype=dtype)
        for first in range(0, len(columns), batch):
            part = columns[first : first + batch]
            places = [(..., slice(top, bottom), slice(left, left + len(weights))) for left, weights in part]
            x = torch.cat([x_t[place] for place in places])
            y = None if condition is None else torch.cat([condition[place] for place in places])
            classes = None if label is None else label.repeat(len(part))
            draws = nullcontext() if seed is None else global_seed(key(seed, "tile", top, part[0].start), x_t.device)
            with draws:
                answers = call_network(network, x, t.repeat(len(part)), y, classes)
            for (left, weights), answer in zip(part, answers.chunk(len(part)), strict=True):
                strip[..., left : left + len(weights)] += answer.to(dtype) * weights.to(dtype).to(answer.device)
        output[..., top:bottom, :] += strip.mul_(row_weights.to(dtype).to(strip.device)[:, None])
    return output.to(x_t.dtype)


class TiledNetwork(nn.Module):
    """A network that is called on overlapping windows of its inputs, whose outputs are blended (T).

    What the network computes from a whole image (attention, statistics of normalisations) it computes from each window.
    An image no larger than a window goes through the network as it is.

    Args:
        network: Any network that takes images of several sizes.
        side: Longest side of a window, a multiple of `stride`.
        overlap: Fewest pixels that neighbouring windows share, at most side / 2.
        stride: Both sides of every image are multiples of it.
        batch: Number of windows in one network call.
    """

    def __init__(self, network: nn.Module, side: int, overlap: int, stride: int, batch: int = 1) -> None:
        super().__init__()
        self.network = network
        self.side, self.overlap, self.stride, self.batch = side, overlap, stride, batch
        self.casts_inputs = getattr(network, "casts_inputs", False)
        self.training = network.training

    def windows(self, height: int, width: int) -> tuple[Sequence[Span], Sequence[Span]]:
        """The windows along the height and along the width of an image."""
        return spans(height, self.side, self.overlap, self.stride), spans(width, self.side, self.overlap, self.stride)

    def forward(self, x_t: Tensor, t: Tensor, condition: Tensor | None = None, label: Tensor | None = None) -> Tensor:
        """As the network's, for images of any size."""
        rows, columns = self.windows(*x_t.shape[-2:])
        if len(rows) == len(columns) == 1:
            return call_network(self.network, x_t, t, condition, label)
        # In training mode, as Pix2pix restores, statistics are of the batch and dropout is drawn: window by window.
        batch, seed = (1, torch.initial_seed()) if self.training else (self.batch, None)
        return blended(self.network, x_t, t, condition, rows, columns, batch=batch, seed=seed, label=label)
