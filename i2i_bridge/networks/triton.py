"""Group normalisation with modulation and SiLU as kernels of Triton for GPUs, channels_last.

torch's own operation changes the layout of channels_last inputs and back, and runs modulation and SiLU as passes of
their own. Here x is read twice and y written once; the gradient reads x and its input twice and writes once. Triton
comes with torch for CUDA and ROCm on Linux; this module is imported where it is there.

Statistics and sums are float32 for every dtype: sums over the pixels of a part of an image for each channel, which
`_statistics` and `_gradient_statistics` join in a fixed order, so that equal inputs give equal bits.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

TILE = 4096
"""Elements that a program loads at once."""
CHANNELS = 64
"""Most channels of a tile: 128 bytes of bfloat16 in a row."""
PARTS = 256
"""Most parts of an image whose sums are taken apart."""
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@triton.jit
def _load(x_ptr, image, pixel, channel, pixels, channels):
    """A tile of an image as float32, 0 outside."""
    inside = (pixel < pixels)[:, None] & (channel < channels)[None, :]
    at = image.to(tl.int64) * pixels * channels + pixel[:, None] * channels + channel[None, :]
    return tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _store(y_ptr, y, image, pixel, channel, pixels, channels):
    inside = (pixel < pixels)[:, None] & (channel < channels)[None, :]
    at = image.to(tl.int64) * pixels * channels + pixel[:, None] * channels + channel[None, :]
    tl.store(y_ptr + at, y.to(y_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _of_channels(values_ptr, image, channel, channels):
    return tl.load(values_ptr + image * channels + channel, mask=channel < channels, other=0.0)[None, :]


@triton.jit
def _store_sums(sums_ptr, first, second, image, channel, channels):
    """Sums over the pixels of two tiles, into (image, part, 2, channel)."""
    at = sums_ptr + ((image * tl.num_programs(0) + tl.program_id(0)) * 2) * channels + channel
    tl.store(at, tl.sum(first, 0), mask=channel < channels)
    tl.store(at + channels, tl.sum(second, 0), mask=channel < channels)


@triton.jit
def _joined(sums_ptr, image, channel, inside, parts, channels, STEP: tl.constexpr):
    """Both sums of each channel over all parts."""
    first, second = tl.zeros_like(channel).to(tl.float32), tl.zeros_like(channel).to(tl.float32)
    for start in range(0, parts, STEP):
        part = start + tl.arange(0, STEP)
        mask = (part < parts)[:, None] & inside[None, :]
        at = sums_ptr + ((image * parts + part) * 2)[:, None] * channels + channel[None, :]
        first += tl.sum(tl.load(at, mask=mask, other=0.0), 0)
        second += tl.sum(tl.load(at + channels, mask=mask, other=0.0), 0)
    return first, second


@triton.jit(do_not_specialize=["span"])
def _sums(x_ptr, sums_ptr, pixels, channels, span, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Sums of x - x[first pixel] and of its square: about that value, otherwise a large mean would cancel digits."""
    image, channel = tl.program_id(2), tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    origin = _load(x_ptr, image, tl.zeros([1], tl.int32), channel, pixels, channels)
    first, second = tl.zeros([ROWS, COLUMNS], tl.float32), tl.zeros([ROWS, COLUMNS], tl.float32)
    begin = tl.program_id(0) * span
    for start in range(begin, tl.minimum(begin + span, pixels), ROWS):
        pixel = start + tl.arange(0, ROWS)
        away = _load(x_ptr, image, pixel, channel, pixels, channels) - origin
        away = tl.where((pixel < pixels)[:, None], away, 0.0)
        first += away
        second += away * away
    _store_sums(sums_ptr, first, second, image, channel, channels)


@triton.jit(do_not_specialize=["parts"])
def _statistics(
    x_ptr,
    sums_ptr,
    weight_ptr,
    bias_ptr,
    scale_ptr,
    shift_ptr,
    mean_ptr,
    rstd_ptr,
    a_ptr,
    b_ptr,
    pixels,
    channels,
    parts,
    scale_stride,
    shift_stride,
    eps,
    WIDTH: tl.constexpr,
    COLUMNS: tl.constexpr,
    STEP: tl.constexpr,
    MODULATED: tl.constexpr,
):
    """Mean and 1 / standard deviation of a group, and a and b of its channels: a x + b is its normalised output."""
    group, image, index = tl.program_id(0), tl.program_id(1), tl.arange(0, COLUMNS)
    inside, channel = index < WIDTH, group * WIDTH + index
    first, second = _joined(sums_ptr, image, channel, inside, parts, channels, STEP)
    origin = tl.load(x_ptr + image.to(tl.int64) * pixels * channels + channel, mask=inside, other=0.0).to(tl.float32)
    away = first / pixels
    mean = tl.sum(tl.where(inside, origin + away, 0.0), 0) / WIDTH
    apart = origin + away - mean
    square = tl.where(inside, (second / pixels - away * away) + apart * apart, 0.0)
    rstd = 1.0 / tl.sqrt(tl.maximum(tl.sum(square, 0) / WIDTH, 0.0) + eps)
    tl.store(mean_ptr + image * tl.num_programs(0) + group, mean)
    tl.store(rstd_ptr + image * tl.num_programs(0) + group, rstd)
    a = tl.load(weight_ptr + channel, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(bias_ptr + channel, mask=inside, other=0.0).to(tl.float32)
    if MODULATED:
        gain = 1.0 + tl.load(scale_ptr + image * scale_stride + channel, mask=inside, other=0.0).to(tl.float32)
        shift = tl.load(shift_ptr + image * shift_stride + channel, mask=inside, other=0.0).to(tl.float32)
        a, b = a * gain, b * gain + shift
    a *= rstd
    tl.store(a_ptr + image * channels + channel, a, mask=inside)
    tl.store(b_ptr + image * channels + channel, b - a * mean, mask=inside)


@triton.jit
def _output(
    x_ptr, a_ptr, b_ptr, y_ptr, pixels, channels, SILU: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    """act(a x + b)."""
    image, channel = tl.program_id(2), tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    pixel = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    a, b = _of_channels(a_ptr, image, channel, channels), _of_channels(b_ptr, image, channel, channels)
    y = a * _load(x_ptr, image, pixel, channel, pixels, channels) + b
    if SILU:
        y *= tl.sigmoid(y)
    _store(y_ptr, y, image, pixel, channel, pixels, channels)


@triton.jit
def _inner_gradient(x, gradient, a, b, SILU: tl.constexpr):
    """d/du of act(u), u = a x + b, times the gradient."""
    if SILU:
        u = a * x + b
        sigmoid = tl.sigmoid(u)
        gradient *= sigmoid * (1.0 + u * (1.0 - sigmoid))
    return gradient


@triton.jit(do_not_specialize=["span"])
def _gradient_sums(
    x_ptr,
    gradient_ptr,
    a_ptr,
    b_ptr,
    mean_ptr,
    sums_ptr,
    pixels,
    channels,
    span,
    WIDTH: tl.constexpr,
    SILU: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Sums of d = d/du and of d (x - mean)."""
    image, channel = tl.program_id(2), tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    a, b = _of_channels(a_ptr, image, channel, channels), _of_channels(b_ptr, image, channel, channels)
    group = image * (channels // WIDTH) + channel // WIDTH
    mean = tl.load(mean_ptr + group, mask=channel < channels, other=0.0)[None, :]
    first, second = tl.zeros([ROWS, COLUMNS], tl.float32), tl.zeros([ROWS, COLUMNS], tl.float32)
    begin = tl.program_id(0) * span
    for start in range(begin, tl.minimum(begin + span, pixels), ROWS):
        pixel = start + tl.arange(0, ROWS)
        x = _load(x_ptr, image, pixel, channel, pixels, channels)
        d = _load(gradient_ptr, image, pixel, channel, pixels, channels)  # 0 outside, and so are the sums
        d = _inner_gradient(x, d, a, b, SILU)
        first += d
        second += d * (x - mean)
    _store_sums(sums_ptr, first, second, image, channel, channels)


@triton.jit(do_not_specialize=["parts"])
def _gradient_statistics(
    sums_ptr,
    a_ptr,
    mean_ptr,
    rstd_ptr,
    d_weight_ptr,
    d_bias_ptr,
    p_ptr,
    q_ptr,
    pixels,
    channels,
    parts,
    WIDTH: tl.constexpr,
    COLUMNS: tl.constexpr,
    STEP: tl.constexpr,
):
    """p and q of a group, d/dx = a d + p x + q, and sums for each channel: d z, z = (x - mean) rstd, and d."""
    group, image, index = tl.program_id(0), tl.program_id(1), tl.arange(0, COLUMNS)
    inside, channel = index < WIDTH, group * WIDTH + index
    first, second = _joined(sums_ptr, image, channel, inside, parts, channels, STEP)
    at = image * tl.num_programs(0) + group
    mean, rstd = tl.load(mean_ptr + at), tl.load(rstd_ptr + at)
    a = tl.load(a_ptr + image * channels + channel, mask=inside, other=0.0)
    p = -tl.sum(tl.where(inside, a * second, 0.0), 0) / WIDTH / pixels * rstd * rstd
    q = -tl.sum(tl.where(inside, a * first, 0.0), 0) / WIDTH / pixels - p * mean
    tl.store(p_ptr + at, p)
    tl.store(q_ptr + at, q)
    tl.store(d_weight_ptr + image * channels + channel, second * rstd, mask=inside)
    tl.store(d_bias_ptr + image * channels + channel, first, mask=inside)


@triton.jit
def _gradient(
    x_ptr,
    gradient_ptr,
    a_ptr,
    b_ptr,
    p_ptr,
    q_ptr,
    d_x_ptr,
    pixels,
    channels,
    WIDTH: tl.constexpr,
    SILU: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """a d + p x + q."""
    image, channel = tl.program_id(2), tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    pixel = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    a, b = _of_channels(a_ptr, image, channel, channels), _of_channels(b_ptr, image, channel, channels)
    group = image * (channels // WIDTH) + channel // WIDTH
    p = tl.load(p_ptr + group, mask=channel < channels, other=0.0)[None, :]
    q = tl.load(q_ptr + group, mask=channel < channels, other=0.0)[None, :]
    x = _load(x_ptr, image, pixel, channel, pixels, channels)
    d = _load(gradient_ptr, image, pixel, channel, pixels, channels)
    d_x = a * _inner_gradient(x, d, a, b, SILU) + p * x + q
    _store(d_x_ptr, d_x, image, pixel, channel, pixels, channels)


class _Sizes:
    """How an input is cut: the sizes that kernels take, and their grids of programs."""

    def __init__(self, x: Tensor, groups: int) -> None:
        self.images, self.channels, height, width = x.shape
        self.pixels, self.width = height * width, self.channels // groups
        columns = min(CHANNELS, triton.next_power_of_2(self.channels))
        rows = min(TILE // columns, triton.next_power_of_2(self.pixels))
        self.tile: dict[str, Any] = {"ROWS": rows, "COLUMNS": columns}
        self.group: dict[str, Any] = {"WIDTH": self.width, "COLUMNS": triton.next_power_of_2(self.width), "STEP": 16}
        tiles, across = triton.cdiv(self.pixels, rows), triton.cdiv(self.channels, columns)
        self.span = triton.cdiv(tiles, PARTS) * rows
        self.parts = triton.cdiv(self.pixels, self.span)
        self.by_tile = (tiles, across, self.images)
        self.by_part = (self.parts, across, self.images)
        self.by_group = (groups, self.images)


def _new(x: Tensor, *shape: int) -> Tensor:
    return x.new_empty(shape, dtype=torch.float32)


class FusedNorm(torch.autograd.Function):
    """act((weight z + bias) (1 + scale) + shift), z = (x - mean) rstd, for channels_last; act is SiLU or nothing."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        scale: Tensor | None,
        shift: Tensor | None,
        groups: int,
        eps: float,
        silu: bool,
    ) -> Tensor:
        sizes = _Sizes(x, groups)
        images, channels, pixels = sizes.images, sizes.channels, sizes.pixels
        sums = _new(x, images, sizes.parts, 2, channels)
        mean, rstd = _new(x, 2, images, groups).unbind()
        a, b = _new(x, 2, images, channels).unbind()
        modulation = [] if scale is None or shift is None else [scale, shift]
        modulation = [part if part.stride(1) == 1 else part.contiguous() for part in modulation]
        _sums[sizes.by_part](x, sums, pixels, channels, sizes.span, **sizes.tile)
        _statistics[sizes.by_group](
            x,
            sums,
            weight,
            bias,
            *(modulation or (x, x)),  # unused where there is none
            mean,
            rstd,
            a,
            b,
            pixels,
            channels,
            sizes.parts,
            *([part.stride(0) for part in modulation] or (0, 0)),
            eps,
            MODULATED=bool(modulation),
            **sizes.group,
        )
        y = torch.empty_like(x)
        _output[sizes.by_tile](x, a, b, y, pixels, channels, SILU=silu, **sizes.tile)
        ctx.save_for_backward(x, weight, bias, scale, mean, rstd, a, b)
        ctx.silu, ctx.groups = silu, groups
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        # With u = a x + b, d = d/du, c = x - mean and <.> the mean over a group, a = gamma rstd in it:
        #   d/dx = a d - <a d> - c rstd^2 <a d c> = a d + p x + q
        x, weight, bias, scale, mean, rstd, a, b = ctx.saved_tensors
        sizes = _Sizes(x, ctx.groups)
        images, channels, pixels = sizes.images, sizes.channels, sizes.pixels
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        sums = _new(x, images, sizes.parts, 2, channels)
        d_weight, d_bias = _new(x, 2, images, channels).unbind()
        p, q = _new(x, 2, images, ctx.groups).unbind()
        _gradient_sums[sizes.by_part](
            x, gradient, a, b, mean, sums, pixels, channels, sizes.span, WIDTH=sizes.width, SILU=ctx.silu, **sizes.tile
        )
        _gradient_statistics[sizes.by_group](
            sums, a, mean, rstd, d_weight, d_bias, p, q, pixels, channels, sizes.parts, **sizes.group
        )
        d_x = torch.empty_like(x)
        _gradient[sizes.by_tile](
            x, gradient, a, b, p, q, d_x, pixels, channels, WIDTH=sizes.width, SILU=ctx.silu, **sizes.tile
        )
        d_scale, d_shift = None, None
        if scale is not None:
            # b and d_bias are of the modulated output; weight and bias see it through the gain 1 + scale.
            gain = scale + 1
            d_scale = torch.addcmul(d_bias * bias, d_weight, weight).to(scale.dtype)
            d_shift = d_bias.to(scale.dtype)
            d_weight, d_bias = d_weight * gain, d_bias * gain
        d_weight, d_bias = d_weight.sum(0).to(weight.dtype), d_bias.sum(0).to(bias.dtype)
        return d_x, d_weight, d_bias, d_scale, d_shift, None, None, None
