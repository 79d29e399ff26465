"""The same network twice: ours, and diffusers' UNet2DModel of the same structure, FLOPs and weights."""

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from i2i_bridge.networks.blocks import AttentionBlock, ResidualBlock
from i2i_bridge.networks.unet import UNet

B64: dict[str, Any] = {
    "channels": 32,
    "channel_mult": (1, 2, 3, 4),
    "blocks_per_level": 1,
    "attention_factors": (4, 8),
    "head_channels": 32,
}
"""4.474 M parameters, 3.28 GFLOP forward at 64 x 64."""
ADM256: dict[str, Any] = {
    "channels": 256,
    "channel_mult": (1, 1, 2, 2, 4, 4),
    "blocks_per_level": 2,
    "attention_factors": (8, 16, 32),
    "head_channels": 64,
}
TINY: dict[str, Any] = B64 | {"channel_mult": (1, 2), "attention_factors": (2,)}


def ours(config: dict[str, Any], seed: int = 0) -> UNet:
    """The U-Net, channels_last, with no branch silent."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        network = UNet(**config)
        for parameter in network.parameters():
            if parameter.ndim > 1 and not parameter.any():
                parameter.normal_(std=0.5 / parameter[0].numel() ** 0.5)
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


class Diffusers(nn.Module):
    """UNet2DModel of a configuration, called as ours: (x_t, t in [0, 1])."""

    def __init__(self, config: dict[str, Any], side: int) -> None:
        from diffusers import UNet2DModel

        super().__init__()
        factors = [2**level for level in range(len(config["channel_mult"]))]
        attends = [factor in config["attention_factors"] for factor in factors]
        warnings.simplefilter("ignore")
        self.network = UNet2DModel(
            sample_size=side,
            in_channels=3,
            out_channels=3,
            block_out_channels=tuple(int(config["channels"] * mult) for mult in config["channel_mult"]),
            layers_per_block=config["blocks_per_level"],
            down_block_types=tuple("AttnDownBlock2D" if attend else "ResnetDownsampleBlock2D" for attend in attends),
            up_block_types=tuple("AttnUpBlock2D" if attend else "ResnetUpsampleBlock2D" for attend in attends[::-1]),
            downsample_type="resnet",
            upsample_type="resnet",
            attention_head_dim=config["head_channels"],
            resnet_time_scale_shift="scale_shift",
            downsample_padding=1,
            flip_sin_to_cos=True,
            freq_shift=0,
        )

        middle = self.network.mid_block.attentions[0]
        # With scale and shift it leaves out the norm of this one attention: 256 of B64's parameters.
        middle.group_norm = nn.GroupNorm(32, middle.to_q.in_features)

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        output: Tensor = self.network(x_t, 1000 * t).sample
        return output

    def take(self, network: UNet, side: int) -> None:
        """Copy our weights, block by block in the order in which both are called."""
        from diffusers.models.attention_processor import Attention
        from diffusers.models.resnet import ResnetBlock2D

        mine = _called(network, (ResidualBlock, AttentionBlock), side)
        yours = _called(self, (ResnetBlock2D, Attention), side)
        model = self.network
        pairs: list[tuple[nn.Module, nn.Module]] = [
            (network.time_embed[0], model.time_embedding.linear_1),
            (network.time_embed[2], model.time_embedding.linear_2),
            (network.input_blocks[0][0], model.conv_in),
            (network.out[0], model.conv_norm_out),
            (network.out[2], model.conv_out),
        ]
        for ours, theirs in zip(mine, yours, strict=True):
            if isinstance(ours, ResidualBlock):
                pairs += [
                    (ours.in_layers[0], theirs.norm1),
                    (ours.in_layers[2], theirs.conv1),
                    (ours.emb_layers[1], theirs.time_emb_proj),
                    (ours.out_layers[0], theirs.norm2),
                    (ours.out_layers[3], theirs.conv2),
                ]
                if theirs.conv_shortcut is not None:
                    pairs.append((ours.skip_connection, theirs.conv_shortcut))
            else:
                pairs += [(ours.norm, theirs.group_norm), (ours.proj_out, theirs.to_out[0])]
                weight = ours.qkv.weight[..., 0].unflatten(0, (ours.heads, 3, -1))
                bias = ours.qkv.bias.unflatten(0, (ours.heads, 3, -1))
                with torch.no_grad():
                    for part, linear in enumerate((theirs.to_q, theirs.to_k, theirs.to_v)):
                        linear.weight.copy_(weight[:, part].flatten(0, 1))
                        linear.bias.copy_(bias[:, part].flatten())
        with torch.no_grad():
            for source, target in pairs:
                for to, value in zip(target.parameters(), source.parameters(), strict=True):
                    to.copy_(value.view_as(to))


def theirs(config: dict[str, Any], side: int, weights: UNet) -> Diffusers:
    """diffusers' network with the weights of ours."""
    network = Diffusers(config, side)
    network.take(weights, side)
    return network


def _called(network: nn.Module, kinds: tuple[type, ...], side: int) -> list[Any]:
    order: list[Any] = []
    hooks = [
        module.register_forward_pre_hook(lambda module, _: order.append(module))
        for module in network.modules()
        if isinstance(module, kinds)
    ]
    with torch.inference_mode():
        network(torch.zeros(1, 3, side, side), torch.zeros(1))
    for hook in hooks:
        hook.remove()
    return order
