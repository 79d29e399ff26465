"""A small convolutional autoencoder, for bridges between latents ([latent])."""

import itertools

from torch import Tensor, nn

from i2i_bridge.networks.normalisation import GroupNormSiLU
from i2i_bridge.registry import register_network


@register_network("autoencoder")
class ConvolutionalAutoencoder(nn.Module):
    """Encoder E and decoder D of images: D(E(x)), without time or condition; for method `autoencoder`.

    E halves both sides `halvings` times: (B, C, H, W) -> (B, latent_channels, H / 2^halvings, W / 2^halvings).

    Args:
        in_channels: Channels of images.
        latent_channels: Channels of latents.
        halvings: Number of halvings of both sides.
        channels: Width at full resolution; each halving doubles it, up to four times.
        blocks: Residual blocks of each level.

    Raises:
        ValueError: A number out of its range.
    """

    casts_inputs = True
    """See `bridge.predictor.call_network`."""

    def __init__(
        self, in_channels: int = 3, latent_channels: int = 4, halvings: int = 2, channels: int = 32, blocks: int = 1
    ) -> None:
        super().__init__()
        limits = {"in_channels": 4096, "latent_channels": 4096, "halvings": 6, "channels": 4096, "blocks": 16}
        given = (in_channels, latent_channels, halvings, channels, blocks)
        for (name, most), value in zip(limits.items(), given, strict=True):
            if not 1 <= value <= most:
                raise ValueError(f"{name} {value}: outside 1..{most}")
        self.latent_channels = latent_channels
        self.stride = self.smallest_side = 2**halvings
        widths = [channels * min(2**level, 4) for level in range(halvings + 1)]
        down: list[nn.Module] = [nn.Conv2d(in_channels, widths[0], 3, padding=1)]
        for narrow, wide in itertools.pairwise(widths):
            down += [_Residual(narrow) for _ in range(blocks)]
            down.append(nn.Conv2d(narrow, wide, 4, stride=2, padding=1))
        down += [_Residual(widths[-1]), GroupNormSiLU(widths[-1]), nn.Conv2d(widths[-1], latent_channels, 3, padding=1)]
        up: list[nn.Module] = [nn.Conv2d(latent_channels, widths[-1], 3, padding=1), _Residual(widths[-1])]
        for wide, narrow in itertools.pairwise(reversed(widths)):
            up += [nn.Upsample(scale_factor=2.0), nn.Conv2d(wide, narrow, 3, padding=1)]
            up += [_Residual(narrow) for _ in range(blocks)]
        up += [GroupNormSiLU(widths[0]), nn.Conv2d(widths[0], in_channels, 3, padding=1)]
        self.encoder, self.decoder = nn.Sequential(*down), nn.Sequential(*up)

    def encode(self, x: Tensor) -> Tensor:
        """Latents (B, latent_channels, H / stride, W / stride) of images (B, in_channels, H, W)."""
        latents: Tensor = self.encoder(x)
        return latents

    def decode(self, latents: Tensor) -> Tensor:
        """Images (B, in_channels, H, W) of latents."""
        images: Tensor = self.decoder(latents)
        return images

    def forward(self, x_t: Tensor, t: Tensor | None = None, condition: Tensor | None = None) -> Tensor:
        """D(E(x_t)); t and condition are ignored."""
        return self.decode(self.encode(x_t)).to(x_t.dtype)


class _Residual(nn.Module):
    """x + conv(act(norm(conv(act(norm(x))))))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        self.norms = nn.ModuleList([GroupNormSiLU(channels), GroupNormSiLU(channels)])

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.first(self.norms[0](x))
        change: Tensor = self.second(self.norms[1](h))
        return x + change
