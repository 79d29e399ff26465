"""Building blocks of the ADM U-Net (Dhariwal and Nichol, 2021, arXiv:2105.05233).

Parameter names and shapes are those of the published ADM and I2SB weights, so that their files load.
"""

import math
from collections.abc import Sequence
from typing import Literal, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from i2i_bridge.networks.normalisation import GroupNorm, GroupNormSiLU

FEW_TOKENS = 256
"""Most tokens for which attention in bfloat16 with a gradient is computed in float32 on a CPU: forward and backward are
1.2 (256 tokens) to 3 times (64) as fast, and more exact. For 1,024 it would be slower."""


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


def zeroed(module: nn.Conv1d | nn.Conv2d) -> nn.Module:
    """Set the weight and bias of a convolution to 0, so that a residual branch is 0 at initialisation."""
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
        # Identity in place of the SiLU, which the norm applies: otherwise the layer numbers would differ from ADM's.
        self.in_layers = nn.Sequential(
            GroupNormSiLU(in_channels), nn.Identity(), nn.Conv2d(in_channels, out_channels, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(time_features, 2 * out_channels))
        self.out_layers = nn.Sequential(
            GroupNormSiLU(out_channels),
            nn.Identity(),
            nn.Dropout(dropout),
            zeroed(nn.Conv2d(out_channels, out_channels, 3, padding=1)),
        )
        same = in_channels == out_channels
        self.skip_connection = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, time: Tensor, modulation: Tensor | None = None) -> Tensor:
        """(B, in_channels, H, W) and the time embedding (B, time_features) -> (B, out_channels, H', W').

        modulation is scale and shift, (B, 2 out_channels), if they are known already (`modulations`).
        """
        norm, _, conv = self.in_layers
        h, small = norm(x), x
        if self.resample == "down":
            h, small = F.avg_pool2d(h, 2), F.avg_pool2d(x, 2)
        h = doubled_conv(cast(nn.Conv2d, conv), h) if self.resample == "up" else conv(h)
        scale, shift = (self.emb_layers(time) if modulation is None else modulation).chunk(2, dim=1)
        norm, _, dropout, conv = self.out_layers
        h = conv(dropout(norm(h, scale, shift)))
        # In place: no gradient needs what the convolution returned. Each small pixel is added to its 2x2 copies.
        skip, whole = self.skip_connection(small), h
        if self.resample == "up":
            skip, whole = skip[:, :, :, None, :, None], h.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))
        whole.add_(skip)
        out: Tensor = h
        return out


def modulations(blocks: Sequence[ResidualBlock], time: Tensor) -> Sequence[Tensor | None]:
    """Scale and shift of each block, (B, 2 out_channels), or None where the block computes them itself.

    On a CPU in bfloat16 they are one product: small products spend their time on preparing the weights.
    """
    half = time.dtype == torch.bfloat16 or torch.is_autocast_enabled("cpu")
    if torch.compiler.is_exporting() or time.device.type != "cpu" or not half:
        return [None] * len(blocks)
    linears = [cast(nn.Linear, block.emb_layers[1]) for block in blocks]
    weight, bias = torch.cat([linear.weight for linear in linears]), torch.cat([linear.bias for linear in linears])
    return F.linear(F.silu(time), weight, bias).split_with_sizes([linear.out_features for linear in linears], dim=1)


def doubled_conv(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """conv(nearest x2 of x), a 3x3 convolution with padding 1: (B, C, H, W) -> (B, C', 2H, 2W).

    Of the 3x3 pixels that the kernel meets, only 2x2 differ; adding up its weights over equal ones leaves a transposed
    convolution of stride 2 and 4x4 weights: 4/9 of the FLOPs, on the small image. (Measured on CPUs, used there but not
    in exported graphs.)
    """
    if torch.compiler.is_exporting() or x.device.type != "cpu":
        y: Tensor = conv(F.interpolate(x, scale_factor=2, mode="nearest"))
        return y
    # Along one axis weight k moves input i to output 2i + q - 1: row k has a 1 at both q that it serves.
    along = torch.tensor([[0.0, 0, 1, 1], [0, 1, 1, 0], [1, 1, 0, 0]], dtype=conv.weight.dtype)
    spread = torch.einsum("kp,lq->klpq", along, along).view(9, 16)
    # Weights in the order of a transposed convolution: one product; in their own order there is one per channel.
    weight = rearrange(conv.weight, "o i h w -> (i o) (h w)")
    kernel = (weight @ spread).view(conv.in_channels, conv.out_channels, 4, 4)
    return F.conv_transpose2d(x, kernel, conv.bias, stride=2, padding=1)


class TokenLinear(nn.Conv1d):
    """Linear map of tokens, (B, N, in) -> (B, N, out), whose weight has ADM's shape (out, in, 1)."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, 1)

    def forward(self, tokens: Tensor) -> Tensor:
        return F.linear(tokens, self.weight.squeeze(-1), self.bias)


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(c)) v; q, k, v and the result are (B, heads, N, c)."""
    if q.device.type != "cpu" or q.dtype != torch.bfloat16 or not q.requires_grad or q.shape[2] > FEW_TOKENS:
        return F.scaled_dot_product_attention(q, k, v)
    with torch.autocast("cpu", enabled=False):
        return F.scaled_dot_product_attention(q.float(), k.float(), v.float()).to(q.dtype)


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
        mixed = rearrange(attention(q, k, v), "b head n c -> b n (head c)")
        change: Tensor = rearrange(self.proj_out(mixed), "b (h w) c -> b c h w", h=x.shape[2])
        return change.add_(x)
