"""The parts of the ADM U-Net (Dhariwal and Nichol, 2021, arXiv:2105.05233).

Parameter names and shapes are those of the published ADM and I2SB weights, so that their files load.
"""

import math
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def sinusoid(t: Tensor, dim: int, time_scale: float = 1000.0, max_period: float = 1e4) -> Tensor:
    """[cos(w_k t), sin(w_k t)], w_k = time_scale * max_period^(-2k/dim), k = 0 .. dim/2 - 1 (Vaswani, 2017).

    Args:
        t: Times in [0, 1], (B,).
        dim: Even number of features.
        time_scale: Highest angular frequency.
        max_period: Highest frequency over (about) the lowest.

    Returns:
        (B, dim), in [-1, 1], float64 (float32 on MPS, which has no float64).
    """
    # In float32 an angle near 1000 is wrong by up to 6e-5; so small a tensor may as well be float64.
    dtype = torch.float32 if t.device.type == "mps" else torch.float64
    k = torch.arange(dim // 2, dtype=dtype, device=t.device)
    angles = t.to(dtype)[:, None] * time_scale * torch.exp(-math.log(max_period) * 2 / dim * k)
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class GroupNorm(nn.GroupNorm):
    """torch's GroupNorm of 32 groups, or of the most that divide both 32 and the channels.

    Args:
        channels: Channels of the input, (B, channels, H, W).
    """

    def __init__(self, channels: int) -> None:
        super().__init__(math.gcd(32, channels), channels)

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type == "cpu" and x.is_contiguous(memory_format=torch.channels_last) and x.requires_grad:
            y: Tensor = _ChannelsLastGroupNorm.apply(x, self.weight, self.bias, self.num_groups, self.eps)
            return y
        return super().forward(x)


class _ChannelsLastGroupNorm(torch.autograd.Function):
    """torch's own forward, with a gradient of few vectorised passes.

    torch's CPU gradient for channels_last (measured on 2.15) is slow where a group has few channels: on one thread
    30 ms for (8, 32, 64, 64) in bfloat16, here 1.6 ms. That was 45 % of the training step of a small network.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        batch, channels, *sides = x.shape
        # Statistics come back in the dtype of weight and bias: float32 for bfloat16 maps.
        y, mean, rstd = torch.native_group_norm(x, weight, bias, batch, channels, math.prod(sides), groups, eps)
        ctx.save_for_backward(x, weight, mean, rstd)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        # With z = (x - mean) rstd, g = gradient * weight and <.> the mean over a group:
        #   d/dx = rstd (g - <g> - z <g z>) = a gradient + p x + q
        x, weight, mean, rstd = ctx.saved_tensors
        batch, groups = mean.shape
        mean, rstd = mean[..., None], rstd[..., None]
        weight = weight.view(1, groups, -1)
        size = x[0].numel() // groups
        over_pixels = partial(torch.sum, dim=(2, 3), dtype=weight.dtype)
        total = over_pixels(gradient).view(batch, groups, -1)
        total_z = (over_pixels(gradient * x).view(batch, groups, -1) - mean * total) * rstd
        g = (weight * total).sum(2, keepdim=True) / size
        g_z = (weight * total_z).sum(2, keepdim=True) / size

        def per_channel(value: Tensor) -> Tensor:
            return value.expand_as(total).reshape(batch, -1, 1, 1).to(x.dtype)

        a, p = weight * rstd, -g_z * rstd**2
        q = -g * rstd - p * mean
        d_x = torch.addcmul(per_channel(q), x, per_channel(p)).addcmul_(gradient, per_channel(a))
        return d_x, total_z.sum(0).flatten(), total.sum(0).flatten(), None, None


def zeroed(module: nn.Conv1d | nn.Conv2d) -> nn.Module:
    """The convolution with weight and bias 0: a residual branch that starts silent."""
    nn.init.zeros_(module.weight)
    if module.bias is not None:
        nn.init.zeros_(module.bias)
    return module


class ResidualBlock(nn.Module):
    """x + f(x, time): two 3x3 convolutions, the second one modulated by the time (scale-shift GroupNorm).

        h   = conv(resample(silu(norm(x))))
        out = skip(resample(x)) + conv(dropout(silu(norm(h) * (1 + scale) + shift)))

    Args:
        in_channels: Channels of x.
        out_channels: Channels of the result.
        time_features: Length of the time embedding, from which scale and shift are a linear map.
        dropout: Probability in [0, 1).
        resample: "down" halves the sides (2x2 mean), "up" doubles them (nearest).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        time_features: int,
        dropout: float = 0.0,
        resample: Literal["none", "down", "up"] = "none",
    ) -> None:
        super().__init__()
        self.resample = resample
        self.in_layers = nn.Sequential(
            GroupNorm(in_channels), nn.SiLU(), nn.Conv2d(in_channels, out_channels, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(time_features, 2 * out_channels))
        self.out_layers = nn.Sequential(
            GroupNorm(out_channels),
            nn.SiLU(),
            nn.Dropout(dropout),
            zeroed(nn.Conv2d(out_channels, out_channels, 3, padding=1)),
        )
        same = in_channels == out_channels
        self.skip_connection = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """(B, in_channels, H, W) and the time embedding (B, time_features) -> (B, out_channels, H', W')."""
        norm, activation, conv = self.in_layers
        h = conv(self._resampled(activation(norm(x))))
        scale, shift = rearrange(self.emb_layers(time), "b (two c) -> two b c 1 1", two=2)
        norm, activation, dropout, conv = self.out_layers
        h = conv(dropout(activation(torch.addcmul(shift, norm(h), 1 + scale))))
        out: Tensor = self.skip_connection(self._resampled(x)) + h
        return out

    def _resampled(self, x: Tensor) -> Tensor:
        if self.resample == "down":
            return F.avg_pool2d(x, 2)
        if self.resample == "up":
            return F.interpolate(x, scale_factor=2, mode="nearest")
        return x


class TokenLinear(nn.Conv1d):
    """Linear map of tokens, (B, N, in) -> (B, N, out), whose weight has ADM's shape (out, in, 1)."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, 1)

    def forward(self, tokens: Tensor) -> Tensor:
        return F.linear(tokens, self.weight.squeeze(-1), self.bias)


class AttentionBlock(nn.Module):
    """x + proj(attention(norm(x))): multi-head self-attention over pixels, softmax(q k^T / sqrt(c)) v.

    The channels of qkv are laid out head by head, each as q, k, v: the order of the published weights.

    Args:
        channels: Channels of x.
        head_channels: Channels c of a head; fewer channels than that make one head.

    Raises:
        ValueError: The channels are not a multiple of the head's.
    """

    def __init__(self, channels: int, head_channels: int) -> None:
        super().__init__()
        if channels > head_channels and channels % head_channels:
            raise ValueError(
                f"attention over {channels} channels: not a multiple of head_channels {head_channels};"
                f" {math.gcd(channels, head_channels)} would do"
            )
        self.heads = max(1, channels // head_channels)
        self.norm = GroupNorm(channels)
        self.qkv = TokenLinear(channels, 3 * channels)
        self.proj_out = zeroed(TokenLinear(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        # Tokens are the memory order of channels_last, where both outer rearrangements are views.
        tokens = rearrange(self.norm(x), "b c h w -> b (h w) c")
        q, k, v = rearrange(self.qkv(tokens), "b n (head qkv c) -> qkv b head n c", head=self.heads, qkv=3)
        mixed = rearrange(F.scaled_dot_product_attention(q, k, v), "b head n c -> b n (head c)")
        change: Tensor = rearrange(self.proj_out(mixed), "b (h w) c -> b c h w", h=x.shape[2])
        return x + change
