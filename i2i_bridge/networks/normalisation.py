"""Group normalisation fused with ADM's time modulation and SiLU, in few passes over the image.

These operations are limited by memory bandwidth; torch needs several of them, has a slow gradient for channels_last on
a CPU and changes the layout back and forth on a GPU. Here all factors and summands are folded into one scale and one
shift per sample and channel, and the backward pass recomputes intermediate values from x instead of storing them.
"""

import functools
import math
import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

FEW_PIXELS = 256
"""Maximum size for which statistics are taken by torch's native_group_norm, one operation instead of ten. It sums
squares sequentially: for larger inputs it is less exact (256 x 256 pixels: error 2e-4) and no faster."""
FEW_PIXELS_BF16 = 64
"""The same for bfloat16. Its statistics are taken in float32 too: up to here torch's operation is faster, for 16 x 16
pixels half as fast, and for larger ones less exact where a mean is large (64 standard deviations: 0.7 to 8 % off)."""


FUSED_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
"""Dtypes that the kernels of Triton compute, each with statistics in float32."""


class GroupNorm(nn.GroupNorm):
    """torch's GroupNorm of 32 groups, or of the most that divide both 32 and the channels.

    Args:
        channels: Channels of the input, (B, channels, H, W).
    """

    silu = False

    def __init__(self, channels: int) -> None:
        super().__init__(math.gcd(32, channels), channels)

    def forward(self, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
        """norm(x) * (1 + scale) + shift, scale and shift are (B, channels), or both None."""
        if x.device.type == "cuda" and (kernels := self._kernels(x)) is not None:
            fused: Tensor = kernels.apply(x, self.weight, self.bias, scale, shift, self.num_groups, self.eps, self.silu)
            return fused
        # Shapes alone (the meta device) are counted as what a CPU or a GPU keeps. Exported graphs are of torch's own
        # operations: those of _ChannelsLast depend on the number of pixels.
        last = x.device.type == "cpu" and x.is_contiguous(memory_format=torch.channels_last)
        if torch.compiler.is_exporting() or not (last or x.device.type == "meta"):
            y = super().forward(x)
            if scale is not None and shift is not None:
                y = torch.addcmul(shift[..., None, None], y, 1 + scale[..., None, None])
            return F.silu(y, inplace=not y.requires_grad) if self.silu else y
        gain = None if scale is None else scale + 1
        normalised: Tensor = _ChannelsLast.apply(
            x, self.weight, self.bias, gain, shift, self.num_groups, self.eps, self.silu
        )
        return normalised

    def _kernels(self, x: Tensor) -> Any:
        """The kernels of Triton where they serve: torch.compile fuses its own, and exports have torch's operations."""
        # A grid of CUDA has at most 65,535 programs in the direction of the images.
        fits = x.is_contiguous(memory_format=torch.channels_last) and x.numel() > 0 and len(x) < 2**16
        if not fits or x.dtype not in FUSED_DTYPES or torch.compiler.is_compiling():
            return None
        return triton_kernels(x.device)


class GroupNormSiLU(GroupNorm):
    """silu(norm(x) * (1 + scale) + shift); silu(norm(x)) without scale and shift."""

    silu = True


@functools.cache
def triton_kernels(device: torch.device) -> Any:
    """`triton.FusedNorm`, or None where Triton is missing, fails, or is off torch's results on a small image."""
    try:
        from i2i_bridge.networks.triton import FusedNorm

        off = _deviation(FusedNorm, device)
        if off <= 1e-4:
            return FusedNorm
        error = f"its output is off by {off:.1e}"
    except ImportError:  # torch for Windows comes without Triton
        return None
    except Exception as problem:  # no C compiler, a device that Triton does not know: of many types
        error = str(problem).strip().partition("\n")[0] or type(problem).__name__
    warnings.warn(
        f"normalisation on {device} by torch's operations, which are slower: Triton fails ({error})", stacklevel=2
    )
    return None


@torch.inference_mode(False)
@torch.enable_grad()
def _deviation(function: type[torch.autograd.Function], device: torch.device) -> float:
    """Largest difference of the output and the gradients from torch's on a small image, in float32."""
    with torch.autocast(device.type, enabled=False):
        values = torch.arange(2 * 96 * 9 * 7, device=device).mul(0.7).sin().view(2, 96, 9, 7)
        x = values.contiguous(memory_format=torch.channels_last).requires_grad_()
        scale, shift = values[:, :, 0, 0].clone().requires_grad_(), values[:, :, 0, 1].clone().requires_grad_()
        weight, bias = values[0, :, 1, 0].clone().requires_grad_(), values[0, :, 1, 1].clone().requires_grad_()
        inputs = (x, weight, bias, scale, shift)
        plain = F.group_norm(x, 32, weight, bias)
        wanted = F.silu(plain * (1 + scale[..., None, None]) + shift[..., None, None])
        found: Tensor = function.apply(*inputs, 32, 1e-5, True)
        pairs = [(found, wanted)]
        pairs += zip(*(torch.autograd.grad(y, inputs, values.cos()) for y in (found, wanted)), strict=True)
    return max(float(((y - z).abs().max() / z.abs().max()).detach()) for y, z in pairs)


class _ChannelsLast(torch.autograd.Function):
    """act((weight z + bias) gain + shift), z = (x - mean) rstd, for channels_last on a CPU; act is SiLU or nothing.

    torch's CPU gradient of group_norm for channels_last (measured on 2.14) is slow where a group has few channels: on
    one thread 8.9 ms for (4, 32, 64, 64) in float32, in another layout 0.3 ms.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        gain: Tensor | None,
        shift: Tensor | None,
        groups: int,
        eps: float,
        silu: bool,
    ) -> Tensor:
        batch, channels, *sides = x.shape
        # bfloat16 is computed in float32 and rounded once: otherwise modulation and SiLU would each round again. On
        # bfloat16 itself torch's operation is 5 to 8 times slower for fewer than 1,024 pixels.
        half = x.dtype not in (torch.float32, torch.float64)
        wide = x.float() if half else x
        if math.prod(sides) > (FEW_PIXELS_BF16 if half else FEW_PIXELS):
            y = wide * wide
            sums = torch.stack([wide.sum((2, 3)), y.sum((2, 3))]).view(2, batch, groups, -1).sum(3, keepdim=True)
            mean, square = sums.mul_(groups * batch / x.numel()).unbind()
            rstd = torch.addcmul(square, mean, mean, value=-1).clamp_(min=0).add_(eps).rsqrt_()
            a, b = _folded(weight, bias, gain, shift, mean, rstd)
            y = torch.addcmul(_per_channel(b, wide), wide, _per_channel(a, wide), out=wide if half else y)
        else:
            scale, offset = weight.to(wide.dtype), bias.to(wide.dtype)
            y, mean, rstd = torch.native_group_norm(wide, scale, offset, batch, channels, math.prod(sides), groups, eps)
            mean, rstd = mean[..., None], rstd[..., None]
            if gain is not None and shift is not None:
                torch.addcmul(_per_channel(shift, wide), y, _per_channel(gain, wide), out=y)
        ctx.save_for_backward(x, weight, bias, gain, shift, mean, rstd)
        ctx.silu = silu
        return (F.silu(y, inplace=True) if silu else y).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        # With u = a x + b, d = d/du, c = x - mean and <.> the mean over a group, a = gamma rstd in it:
        #   d/dx = a d - <a d> - c rstd^2 <a d c> = a d + p x + q
        x, weight, bias, gain, shift, mean, rstd = ctx.saved_tensors
        a, b = _folded(weight, bias, gain, shift, mean, rstd)
        if ctx.silu:
            u = torch.addcmul(_per_channel(b, x), x, _per_channel(a, x))
            d = torch.ops.aten.silu_backward(gradient, u)
        else:
            u, d = torch.empty_like(x), gradient
        d_total = d.sum((2, 3), dtype=a.dtype).view(a.shape)
        dx_total = torch.mul(d, x, out=u).sum((2, 3), dtype=a.dtype).view(a.shape)
        dc_total = torch.addcmul(dx_total, mean, d_total, value=-1)
        share = -mean.numel() / x.numel()
        p = (a * dc_total).sum(2, keepdim=True).mul_(rstd).mul_(rstd).mul_(share)
        q = (a * d_total).sum(2, keepdim=True).mul_(share).addcmul_(p, mean, value=-1)
        torch.addcmul(_per_channel(q.expand_as(a), x), x, _per_channel(p.expand_as(a), x), out=u)
        d_x = u.addcmul_(d, _per_channel(a, x))

        d_weight, d_bias = dc_total.mul_(rstd).view(len(x), -1), d_total.view(len(x), -1)
        d_gain, d_shift = None, None
        if gain is not None:
            d_gain, d_shift = torch.addcmul(d_bias * bias, d_weight, weight).to(gain.dtype), d_bias.to(gain.dtype)
            d_weight, d_bias = d_weight * gain, d_bias * gain
        d_weight, d_bias = d_weight.sum(0).to(weight.dtype), d_bias.sum(0).to(bias.dtype)
        return d_x, d_weight, d_bias, d_gain, d_shift, None, None, None


def _folded(
    weight: Tensor, bias: Tensor, gain: Tensor | None, shift: Tensor | None, mean: Tensor, rstd: Tensor
) -> tuple[Tensor, Tensor]:
    """a and b, (B, groups, channels of a group), of (weight z + bias) gain + shift = a x + b."""
    # Otherwise products of bfloat16 weights would be rounded to bfloat16.
    weight, bias = weight.to(mean.dtype), bias.to(mean.dtype)
    if gain is not None and shift is not None:
        weight, bias = weight * gain, torch.addcmul(shift, bias, gain)
    groups = mean.shape[1]
    a = weight.view(-1, groups, weight.shape[-1] // groups) * rstd
    return a, torch.addcmul(bias.view(-1, groups, bias.shape[-1] // groups), a, mean, value=-1)


def _per_channel(value: Tensor, x: Tensor) -> Tensor:
    return value.reshape(len(value), -1, 1, 1).to(x.dtype)
