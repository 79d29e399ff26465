"""Group normalisation with what follows it in ADM (time modulation, SiLU), in few passes over the image.

On a CPU these operations cost as much as memory can carry, and torch's own are many and slow for channels_last: here
the statistics are two sums, everything that multiplies or adds is folded into one factor and one summand per sample
and channel, and the gradient recomputes what it needs from x instead of keeping it.
"""

import math
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class GroupNorm(nn.GroupNorm):
    """torch's GroupNorm of 32 groups, or of the most that divide both 32 and the channels.

    Args:
        channels: Channels of the input, (B, channels, H, W).
    """

    silu = False

    def __init__(self, channels: int) -> None:
        super().__init__(math.gcd(32, channels), channels)

    def forward(self, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
        """norm(x) * (1 + scale) + shift, scale and shift being (B, channels) or, both, nothing."""
        if x.device.type != "cpu" or not x.is_contiguous(memory_format=torch.channels_last):
            y = super().forward(x)
            if scale is not None and shift is not None:
                y = torch.addcmul(shift[..., None, None], y, 1 + scale[..., None, None])
            return F.silu(y, inplace=not y.requires_grad) if self.silu else y
        gamma, beta = self.weight[None], self.bias[None]
        if scale is not None and shift is not None:
            gamma, beta = gamma * (1 + scale), torch.addcmul(shift, beta, 1 + scale)
        normalised: Tensor = _ChannelsLast.apply(x, gamma, beta, self.num_groups, self.eps, self.silu)
        return normalised


class GroupNormSiLU(GroupNorm):
    """silu(norm(x) * (1 + scale) + shift); silu(norm(x)) without scale and shift."""

    silu = True


class _ChannelsLast(torch.autograd.Function):
    """act(gamma z + beta), z = (x - mean) rstd, for channels_last on a CPU; act is SiLU or nothing.

    torch's CPU gradient of group_norm for channels_last (measured on 2.15) is slow where a group has few channels: on
    one thread 30 ms for (8, 32, 64, 64) in bfloat16, by few vectorised passes 1.6 ms.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, gamma: Tensor, beta: Tensor, groups: int, eps: float, silu: bool) -> Tensor:
        batch, channels, *sides = x.shape
        if x.dtype in (torch.float32, torch.float64):
            y = x * x
            sums = torch.stack([x.sum((2, 3)), y.sum((2, 3))]).view(2, batch, groups, -1).sum(3, keepdim=True)
            mean, square = sums * (groups / x[0].numel())
            rstd = torch.addcmul(square, mean, mean, value=-1).clamp_(min=0).add_(eps).rsqrt_()
            a, b = _folded(gamma, beta, mean, rstd)
            torch.addcmul(_per_channel(b, x), x, _per_channel(a, x), out=y)
        else:
            # The square of a bfloat16 has 8 bits, too few for a variance; and gamma z + beta rounds less than a x + b.
            # Statistics come back in the dtype of weight and bias.
            one, zero = gamma.new_ones(channels, dtype=torch.float32), gamma.new_zeros(channels, dtype=torch.float32)
            y, mean, rstd = torch.native_group_norm(x, one, zero, batch, channels, math.prod(sides), groups, eps)
            mean, rstd = mean[..., None], rstd[..., None]
            torch.addcmul(_per_channel(beta, x), y, _per_channel(gamma, x), out=y)
        ctx.save_for_backward(x, gamma, beta, mean, rstd)
        ctx.silu = silu
        return F.silu(y, inplace=True) if silu else y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        # With u = gamma z + beta = a x + b, g = gamma du and <.> the mean over a group:
        #   d/dx = rstd (g - <g> - z <g z>) = a du + p x + q
        x, gamma, beta, mean, rstd = ctx.saved_tensors
        batch, groups, _ = mean.shape
        a, b = _folded(gamma, beta, mean, rstd)
        if ctx.silu:
            u = torch.addcmul(_per_channel(b, x), x, _per_channel(a, x))
            d_u = torch.ops.aten.silu_backward(gradient, u)
        else:
            u, d_u = torch.empty_like(x), gradient
        over_pixels = partial(torch.sum, dim=(2, 3), dtype=mean.dtype)
        total = over_pixels(d_u).view(batch, groups, -1)
        total_x = over_pixels(torch.mul(d_u, x, out=u)).view(batch, groups, -1)
        total_z = torch.addcmul(total_x, mean, total, value=-1) * rstd
        weight = gamma.view(len(gamma), groups, -1).to(mean.dtype)
        share = rstd * (groups / x[0].numel())
        p = (weight * total_z).sum(2, keepdim=True) * share * -rstd
        q = -torch.addcmul((weight * total).sum(2, keepdim=True) * share, p, mean)
        torch.addcmul(_per_channel(q.expand_as(total), x), x, _per_channel(p.expand_as(total), x), out=u)
        d_x = u.addcmul_(d_u, _per_channel(a, x))
        d_gamma, d_beta = (value.view(batch, -1).sum_to_size(gamma.shape) for value in (total_z, total))
        return d_x, d_gamma.to(gamma.dtype), d_beta.to(beta.dtype), None, None, None


def _folded(gamma: Tensor, beta: Tensor, mean: Tensor, rstd: Tensor) -> tuple[Tensor, Tensor]:
    """a and b, (B, groups, channels of a group), of gamma (x - mean) rstd + beta = a x + b."""
    shape = (len(gamma), mean.shape[1], -1)
    a = gamma.view(shape) * rstd
    return a, torch.addcmul(beta.view(shape), a, mean, value=-1)


def _per_channel(value: Tensor, x: Tensor) -> Tensor:
    return value.reshape(len(value), -1, 1, 1).to(x.dtype)
