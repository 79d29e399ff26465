"""The networks of Pix2pix (Isola et al. 2017, arXiv:1611.07004, appendix 6.1): U-Net generator and PatchGAN."""

from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from i2i_bridge.errors import UserError
from i2i_bridge.registry import register_discriminator, register_network

WIDEST = 8
"""No layer is wider than 8 times the base width."""


@register_network("pix2pix-unet")
class Pix2pixUNet(nn.Module):
    """U-Net generator of Pix2pix: 4x4 convolutions of stride 2 down to `levels` halvings and up again, with skips.

    C64-C128-C256-C512-...; BatchNorm but on the outermost and the innermost way down; Tanh at the end. Levels 8 is the
    paper's U-Net-256 (54.414 M parameters), 7 its U-Net-128, 6 fits 64 pixels. It answers in one call and ignores t.

    Args:
        in_channels: Channels of x_1.
        out_channels: Channels of the output.
        condition_channels: Channels of a further image, appended to x_1; 0 for none.
        channels: Base width (ngf); 64 in the paper.
        levels: Halvings of the image; its sides must be multiples of 2^levels.
        dropout: Probability on the way up, on the levels from the sixteenth of the side inward but the innermost (as
            in the authors' PyTorch layout; none below 6 levels).

    Raises:
        ValueError: A number out of its range.
    """

    casts_inputs: ClassVar[bool] = True
    """See `bridge.predictor.call_network`."""

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 3,
        condition_channels: int = 0,
        channels: int = 64,
        levels: int = 8,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("in_channels", in_channels, 1),
            ("out_channels", out_channels, 1),
            ("condition_channels", condition_channels, 0),
            ("channels", channels, 1),
            ("levels", levels, 2),
        ):
            if value < least:
                raise ValueError(f"{name} {value}: at least {least}")
        if levels > 16:
            raise ValueError(f"levels {levels}: at most 16")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout {dropout}: outside [0, 1)")
        self.in_channels, self.condition_channels = in_channels, condition_channels
        self.stride = self.smallest_side = 2**levels
        widths = [channels * min(2**level, WIDEST) for level in range(levels)]
        innermost = levels - 1
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for level, width in enumerate(widths):
            above = widths[level - 1] if level else in_channels + condition_channels
            self.down.append(_Down(above, width, norm=0 < level < innermost, active=level > 0))
            back = widths[level - 1] if level else out_channels
            joined = width if level == innermost else 2 * width
            self.up.append(_Up(joined, back, norm=level > 0, dropout=dropout if 4 <= level < innermost else 0.0))
        self.apply(initialise)

    def forward(self, x_1: Tensor, t: Tensor | None = None, condition: Tensor | None = None) -> Tensor:
        """x_0_hat in [-1, 1].

        Args:
            x_1: Degraded images, (B, in_channels, H, W); H and W multiples of `stride`.
            t: Ignored; an argument of every network.
            condition: (B, condition_channels, H, W); None exactly if condition_channels is 0.

        Returns:
            (B, out_channels, H, W) in the dtype of x_1.

        Raises:
            ValueError: A shape does not fit.
        """
        self._check_shapes(x_1, condition)
        h = x_1 if condition is None else torch.cat([x_1, condition.to(x_1.dtype)], dim=1)
        h = h.to(next(self.parameters()).dtype)
        skips = []
        for down in self.down:
            h = down(h)
            skips.append(h)
        h = self.up[-1](skips.pop())
        for up in reversed(self.up[:-1]):
            h = up(torch.cat([skips.pop(), h], dim=1))
        return torch.tanh(h).to(x_1.dtype)

    def _check_shapes(self, x_1: Tensor, condition: Tensor | None) -> None:
        shape = tuple(x_1.shape)
        if x_1.ndim != 4 or shape[1] != self.in_channels:
            raise ValueError(f"x_1 has shape {shape}, expected (B, {self.in_channels}, H, W)")
        if shape[2] % self.stride or shape[3] % self.stride:
            raise ValueError(f"x_1 is {shape[2]}x{shape[3]}: both sides must be multiples of {self.stride}")
        given = None if condition is None else tuple(condition.shape)
        wanted = (shape[0], self.condition_channels, *shape[2:]) if self.condition_channels else None
        if given != wanted:
            raise ValueError(f"condition has shape {given}, expected {wanted}")


class _Down(nn.Module):
    """Half the side: LeakyReLU (but at the image), convolution, BatchNorm."""

    def __init__(self, above: int, width: int, *, norm: bool, active: bool) -> None:
        super().__init__()
        self.active = active
        self.conv = nn.Conv2d(above, width, 4, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width) if norm else nn.Identity()

    def forward(self, h: Tensor) -> Tensor:
        return cast(Tensor, self.norm(self.conv(F.leaky_relu(h, 0.2) if self.active else h)))


class _Up(nn.Module):
    """Twice the side: ReLU, transposed convolution, BatchNorm, dropout; a bias instead of BatchNorm at the image."""

    def __init__(self, joined: int, back: int, *, norm: bool, dropout: float) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(joined, back, 4, stride=2, padding=1, bias=not norm)
        self.norm = nn.BatchNorm2d(back) if norm else nn.Identity()
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()

    def forward(self, h: Tensor) -> Tensor:
        return cast(Tensor, self.dropout(self.norm(self.conv(F.relu(h)))))


@register_discriminator("patchgan")
class PatchGAN(nn.Module):
    """Judges overlapping patches of a pair, without a view of the whole (Pix2pix, Sec. 3.2.2).

    n_layers convolutions of stride 2, two of stride 1, all 4x4; n_layers 0 is the PixelGAN of 1x1 convolutions. The
    receptive field is 1, 16, 34, 70, 142, 286, 574 pixels for n_layers 0 to 6; 3 is the paper's (2.769 M parameters).

    Args:
        in_channels: Channels of the pair, x_1 and the judged image.
        n_layers: Convolutions of stride 2.
        channels: Base width (ndf); 64 in the paper.

    Raises:
        ValueError: A number out of its range.
    """

    def __init__(self, in_channels: int, n_layers: int = 3, channels: int = 64) -> None:
        super().__init__()
        if not 0 <= n_layers <= 6:
            raise ValueError(f"n_layers {n_layers}: outside 0..6")
        if channels < 1:
            raise ValueError(f"channels {channels}: at least 1")
        # The two convolutions of stride 1 need 3 pixels a side, and those of stride 2 halve it, rounded down.
        self.smallest_side = 3 << n_layers if n_layers else 1
        size, padding = (4, 1) if n_layers else (1, 0)
        stride = 2 if n_layers else 1
        layers: list[nn.Module] = [
            nn.Conv2d(in_channels, channels, size, stride=stride, padding=padding),
            nn.LeakyReLU(0.2),
        ]
        width = channels
        for layer in range(1, max(n_layers, 1) + 1):
            wider = channels * min(2**layer, WIDEST)
            stride = 2 if layer < n_layers else 1
            layers += [
                nn.Conv2d(width, wider, size, stride=stride, padding=padding, bias=False),
                nn.BatchNorm2d(wider),
                nn.LeakyReLU(0.2),
            ]
            width = wider
        # As in the authors' code, the PixelGAN's last layer has no bias.
        layers.append(nn.Conv2d(width, 1, size, padding=padding, bias=n_layers > 0))
        self.layers = nn.Sequential(*layers)
        self.apply(initialise)

    def forward(self, pair: Tensor) -> Tensor:
        """Logits (B, 1, h, w), positive for "real", of pairs (B, in_channels, H, W)."""
        return cast(Tensor, self.layers(pair))


def receptive_field(n_layers: int) -> int:
    """Pixels (of one side) that a logit of `PatchGAN` sees."""
    field = 1
    for stride in [1, 1] + [2] * n_layers if n_layers else []:
        field = (field - 1) * stride + 4
    return field


def initialise(module: nn.Module) -> None:
    """Weights of convolutions ~ N(0, 0.02), of BatchNorm ~ N(1, 0.02), biases 0 (appendix 6.2)."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0 if isinstance(module, nn.BatchNorm2d) else 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def official_names(levels: int) -> dict[str, str]:
    """Names of the generator's tensors in the authors' PyTorch files (`*_net_G.pth`), by the names used here.

    In those files each level contains the next: [conv, inner, relu, convT, tanh] outermost, [lrelu, conv, norm, inner,
    relu, convT, norm, dropout] between, [lrelu, conv, relu, convT, norm] innermost.
    """
    names = {"down.0.conv.weight": "model.model.0.weight"}
    names |= {f"up.0.conv.{part}": f"model.model.3.{part}" for part in ("weight", "bias")}
    prefix = "model.model.1.model"
    norm_parts = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    for level in range(1, levels):
        innermost = level == levels - 1
        names[f"down.{level}.conv.weight"] = f"{prefix}.1.weight"
        names[f"up.{level}.conv.weight"] = f"{prefix}.{3 if innermost else 5}.weight"
        for part in norm_parts:
            names[f"up.{level}.norm.{part}"] = f"{prefix}.{4 if innermost else 6}.{part}"
            if not innermost:
                names[f"down.{level}.norm.{part}"] = f"{prefix}.2.{part}"
        prefix += ".3.model"
    return names


def from_official(network: Pix2pixUNet, stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of an official file under this network's names.

    Raises:
        UserError: A tensor is missing, unknown or of another shape; the message gives its official name.
    """
    names = official_names(len(network.down))
    wanted = network.state_dict()
    tensors = {}
    for name, official in names.items():
        # Files older than PyTorch 0.4.1 do not count their batches.
        value = stored.get(official, torch.tensor(0) if official.endswith("num_batches_tracked") else None)
        if value is None:
            raise UserError(f"the tensor '{official}' is missing for {len(network.down)} levels (network.levels)")
        if value.shape != wanted[name].shape:
            raise UserError(
                f"'{official}' is {tuple(value.shape)}, the recipe's network has {tuple(wanted[name].shape)} "
                "(network.levels, network.channels, data.channels)"
            )
        tensors[name] = value.to(wanted[name].dtype)
    unknown = sorted(set(stored) - set(names.values()))
    if unknown:
        raise UserError(
            f"the tensor '{unknown[0]}' is none of a BatchNorm U-Net of {len(network.down)} levels (network.levels)"
        )
    return tensors


def to_official(network: Pix2pixUNet) -> dict[str, Tensor]:
    """The generator's tensors under the names of the authors' PyTorch files."""
    names = official_names(len(network.down))
    return {names[name]: value for name, value in network.state_dict().items()}
