"""The U-Net of ADM (Dhariwal and Nichol, 2021, arXiv:2105.05233), which I2SB trains as its network."""

import math
from collections.abc import Iterable, Iterator
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from i2i_bridge.networks.blocks import AttentionBlock, ResidualBlock, modulations, sinusoid, zeroed
from i2i_bridge.networks.normalisation import GroupNormSiLU
from i2i_bridge.registry import register_network


@register_network("unet")
class UNet(nn.Module):
    """Residual U-Net with time modulation and, at chosen levels and always in the middle, self-attention.

    Fully convolutional: any sides that are multiples of `stride`. The output is exactly 0 at initialisation.
    Fastest after `.to(memory_format=torch.channels_last)`, whatever the layout of the inputs.

    Args:
        in_channels: Channels of x_t.
        out_channels: Channels of the output.
        condition_channels: Channels of the condition, which is appended to x_t; 0 for none.
        classes: Number of class labels, whose embedding is added to that of the time; 0 for none.
        condition_dropout: Share of the training samples of a bridge whose condition is zeros and whose label is none,
            in [0, 1), for `sample.condition_scale`. The network itself does nothing with it.
        channels: Base width; even.
        channel_mult: Width of each level, from full resolution down, in multiples of `channels`.
        blocks_per_level: Residual blocks of a level on the way down; the way up has one more.
        attention_factors: Downsampling factors (1, 2, 4, ...) whose levels get attention after each block.
        head_channels: Channels of an attention head; a narrower level has one head.
        dropout: Probability in each residual block, in [0, 1).
        time_scale: The sinusoid sees time_scale * t. 1000 for weights of I2SB and ADM.
        checkpointing: Recompute the blocks in the backward pass: less memory, about a third more time.

    Raises:
        ValueError: A number out of its range: a width not whole, a factor without a level, heads unfit.
    """

    repeated = (ResidualBlock, AttentionBlock)
    """Classes of the modules that `compile_blocks` compiles."""

    casts_inputs: ClassVar[bool] = True
    """See `bridge.predictor.call_network`."""

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 3,
        condition_channels: int = 0,
        channels: int = 64,
        channel_mult: tuple[float, ...] = (1, 2, 3, 4),
        blocks_per_level: int = 2,
        attention_factors: tuple[int, ...] = (),
        head_channels: int = 64,
        dropout: float = 0.0,
        time_scale: float = 1000.0,
        checkpointing: bool = False,
        classes: int = 0,
        condition_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        widths = [_width(channels, mult) for mult in channel_mult]
        _check(
            in_channels >= 1 and out_channels >= 1,
            f"in_channels {in_channels}, out_channels {out_channels}: at least 1",
        )
        _check(condition_channels >= 0, f"condition_channels {condition_channels}: at least 0")
        _check(0 <= classes <= 10**6, f"classes {classes}: outside 0..1000000")
        _check(0 <= condition_dropout < 1, f"condition_dropout {condition_dropout}: outside [0, 1)")
        _check(
            condition_dropout == 0 or condition_channels + classes > 0,
            f"condition_dropout {condition_dropout}: condition_channels and classes are 0, so there is nothing to drop",
        )
        _check(channels >= 2 and channels % 2 == 0, f"channels {channels}: not a positive even number")
        _check(bool(widths), "channel_mult: at least one level")
        _check(len(widths) <= 12, f"channel_mult: {len(widths)} levels; at most 12")
        _check(1 <= blocks_per_level <= 100, f"blocks_per_level {blocks_per_level}: outside 1..100")
        _check(head_channels >= 1, f"head_channels {head_channels}: at least 1")
        _check(0 <= dropout < 1, f"dropout {dropout}: outside [0, 1)")
        _check(0 < time_scale < math.inf, f"time_scale {time_scale}: not a positive number")
        factors = [2**level for level in range(len(widths))]
        for factor in attention_factors:
            _check(factor in factors, f"attention_factors: {factor} is none of the levels' factors {factors}")

        self.in_channels = in_channels
        self.out_channels = out_channels
        self.condition_channels = condition_channels
        self.classes = classes
        self.channels = channels
        self.time_scale = time_scale
        self.checkpointing = checkpointing
        self.stride = factors[-1]

        features = 4 * channels
        self.time_embed = nn.Sequential(nn.Linear(channels, features), nn.SiLU(), nn.Linear(features, features))

        if classes:
            self.label_emb = nn.Embedding(classes, features)

        def attention(width: int, factor: int) -> list[nn.Module]:
            return [AttentionBlock(width, head_channels)] if factor in attention_factors else []

        width = widths[0]
        self.input_blocks = nn.ModuleList(
            [nn.ModuleList([nn.Conv2d(in_channels + condition_channels, width, 3, padding=1)])]
        )
        skips = [width]
        for target, factor in zip(widths, factors, strict=True):
            for _ in range(blocks_per_level):
                block = ResidualBlock(width, target, features, dropout)
                self.input_blocks.append(nn.ModuleList([block, *attention(target, factor)]))
                width = target
                skips.append(width)
            if factor != self.stride:
                self.input_blocks.append(nn.ModuleList([ResidualBlock(width, width, features, dropout, "down")]))
                skips.append(width)

        self.middle_block = nn.ModuleList(
            [
                ResidualBlock(width, width, features, dropout),
                AttentionBlock(width, head_channels),
                ResidualBlock(width, width, features, dropout),
            ]
        )

        self.output_blocks = nn.ModuleList()
        for target, factor in zip(reversed(widths), reversed(factors), strict=True):
            for index in range(blocks_per_level + 1):
                block = ResidualBlock(width + skips.pop(), target, features, dropout)
                stage = nn.ModuleList([block, *attention(target, factor)])
                width = target
                if factor != 1 and index == blocks_per_level:
                    stage.append(ResidualBlock(width, width, features, dropout, "up"))
                self.output_blocks.append(stage)

        self.out = nn.Sequential(
            GroupNormSiLU(width), nn.Identity(), zeroed(nn.Conv2d(width, out_channels, 3, padding=1))
        )
        # A plain list: the blocks are registered by their stages. A deep copy has its own.
        self._residual_blocks = [block for block in self.modules() if isinstance(block, ResidualBlock)]

    def forward(self, x_t: Tensor, t: Tensor, condition: Tensor | None = None, label: Tensor | None = None) -> Tensor:
        """The raw output of the network; the target defines its meaning.

        Args:
            x_t: States, (B, in_channels, H, W); H and W multiples of `stride`.
            t: Times in [0, 1], (B,). 0 is clean, 1 is degraded.
            condition: (B, condition_channels, H, W); None exactly if condition_channels is 0.
            label: Class of each sample, (B,), whole numbers below `classes`, negative for none; None exactly if classes
                is 0.

        Returns:
            (B, out_channels, H, W) in the dtype of x_t; computed in that of the weights, or autocast's.

        Raises:
            ValueError: A shape does not fit.
        """
        h, time = self.inputs(x_t, t, condition, label)
        modulated = iter(modulations(self._residual_blocks, time))
        skips = []
        for stage in self.input_blocks:
            h = self._run(stage.children(), h, time, modulated)
            skips.append(h)
        h = self._run(self.middle_block.children(), h, time, modulated)
        for stage in self.output_blocks:
            h = self._run(stage.children(), torch.cat([h, skips.pop()], dim=1), time, modulated)
        output: Tensor = self.out(h)
        return output.to(x_t.dtype)

    def inputs(self, x_t: Tensor, t: Tensor, condition: Tensor | None, label: Tensor | None) -> tuple[Tensor, Tensor]:
        """Inputs of the blocks: x_t with the condition behind it, (B, C + K, H, W), and the embedding, (B, 4 channels).

        Both in the dtype of the weights. Arguments and errors are those of `forward`.
        """
        self._check_shapes(x_t, t, condition, label)
        dtype = next(self.time_embed.parameters()).dtype
        time: Tensor = self.time_embed(sinusoid(t, self.channels, self.time_scale).to(dtype))
        if label is not None:
            time = time + self.label_emb(label.clamp(min=0)) * (label >= 0)[:, None]
        h = x_t if condition is None else torch.cat([x_t, condition.to(x_t.dtype)], dim=1)
        return h.to(dtype), time

    def _run(self, stage: Iterable[nn.Module], h: Tensor, time: Tensor, modulated: Iterator[Tensor | None]) -> Tensor:
        for block in stage:
            inputs = (h, time, next(modulated)) if isinstance(block, ResidualBlock) else (h,)
            if self.checkpointing and self.training and torch.is_grad_enabled():
                h = checkpoint(block, *inputs, use_reentrant=False)
            else:
                h = block(*inputs)
        return h

    def _check_shapes(self, x_t: Tensor, t: Tensor, condition: Tensor | None, label: Tensor | None) -> None:
        shape = tuple(x_t.shape)
        if x_t.ndim != 4 or shape[1] != self.in_channels:
            raise ValueError(f"x_t has shape {shape}, expected (B, {self.in_channels}, H, W)")
        if shape[2] % self.stride or shape[3] % self.stride:
            raise ValueError(f"x_t is {shape[2]}x{shape[3]}: both sides must be multiples of {self.stride}")
        if t.shape != shape[:1]:
            raise ValueError(f"t has shape {tuple(t.shape)}, expected {shape[:1]}")
        given = None if condition is None else tuple(condition.shape)
        wanted = (shape[0], self.condition_channels, *shape[2:]) if self.condition_channels else None
        if given != wanted:
            raise ValueError(f"condition has shape {given}, expected {wanted}")
        given = None if label is None else tuple(label.shape)
        wanted = shape[:1] if self.classes else None
        if given != wanted:
            raise ValueError(f"label has shape {given}, expected {wanted}")


@register_network("adm256")
def adm256(
    in_channels: int = 3,
    out_channels: int = 3,
    condition_channels: int = 0,
    dropout: float = 0.0,
    time_scale: float = 1000.0,
    checkpointing: bool = False,
    classes: int = 0,
    condition_dropout: float = 0.0,
) -> UNet:
    """The 256x256 network of ADM and I2SB: 552,807,171 parameters, 552,814,083 with 3 condition channels.

    Its state dict has the names, order and shapes of the published weights.
    """
    return UNet(
        in_channels=in_channels,
        out_channels=out_channels,
        condition_channels=condition_channels,
        channels=256,
        channel_mult=(1, 1, 2, 2, 4, 4),
        blocks_per_level=2,
        attention_factors=(8, 16, 32),
        head_channels=64,
        dropout=dropout,
        time_scale=time_scale,
        checkpointing=checkpointing,
        classes=classes,
        condition_dropout=condition_dropout,
    )


def _width(channels: int, mult: float) -> int:
    width = channels * mult
    _check(width >= 1 and width % 1 == 0, f"channel_mult {mult} of channels {channels} is no whole width")
    return int(width)


def _check(holds: bool, message: str) -> None:
    if not holds:
        raise ValueError(message)
