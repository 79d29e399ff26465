"""The feature networks behind distances between sets of images; their weights come from the user's folder only."""

import io
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from i2i_bridge.degradations.linear import precise
from i2i_bridge.errors import UserError
from i2i_bridge.metrics import weights
from i2i_bridge.metrics.base import Extractor, moved, one_by_one
from i2i_bridge.registry import register_extractor


def codes(images: Tensor) -> Tensor:
    """Images in [-1, 1] as 8-bit codes, uint8 of the same shape: as a PNG file would hold them."""
    return ((precise(images).clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


@register_extractor("inception")
class Inception(Extractor):
    """The FID's own network (TensorFlow's Inception of 2015-12-05, pool3), resized as TensorFlow 1 does.

    torch-fidelity's network and resizing, bit for bit: bilinear to 299 without antialias, pixel corners aligned at
    the top left, (x - 128) / 128. This is clean-fid's `legacy_tensorflow`.
    """

    dimension = 2048

    def missing(self) -> str | None:
        """Says which file is missing."""
        return weights.missing("inception", "the extractor 'inception'")

    @cached_property
    def _network(self) -> nn.Module:
        return inception()

    def __call__(self, images: Tensor) -> Tensor:
        network = moved(self._network, images.device)

        def pooled(image: Tensor) -> Tensor:
            features: Tensor = network(codes(image))[0]
            return features

        return one_by_one(pooled, images)


@register_extractor("inception-legacy-pytorch")
class InceptionLegacyPytorch(Extractor):
    """The FID's own network, resized as old PyTorch code does: clean-fid's `legacy_pytorch`, used by I2SB.

    Bilinear to 299 without antialias, pixel centres aligned (F.interpolate), then 2 x / 255 - 1. Its numbers are not
    comparable with those of `inception`.
    """

    dimension = 2048

    def missing(self) -> str | None:
        """Says which file is missing."""
        return weights.missing("inception", "the extractor 'inception-legacy-pytorch'")

    @cached_property
    def _network(self) -> nn.Module:
        # The stages in their order, up to the pooled features: torch-fidelity's forward resizes by itself.
        return nn.Sequential(*[stage for name, stage in inception().named_children() if name != "fc"])

    def __call__(self, images: Tensor) -> Tensor:
        network = moved(self._network, images.device)

        def pooled(image: Tensor) -> Tensor:
            resized = functional.interpolate(codes(image).float(), size=(299, 299), mode="bilinear")
            features: Tensor = network(2 * (resized / 255) - 1)
            return features.flatten(1)

        return one_by_one(pooled, images)


@register_extractor("resnet50")
class ResNet50(Extractor):
    """torchvision's ResNet-50 (IMAGENET1K_V1), pooled features; its classes are what `accuracy` asks.

    As I2SB measures it: the whole image bicubic to 224 without antialias and without a crop, ImageNet's mean and std.
    """

    dimension = 2048

    def missing(self) -> str | None:
        """Says which file is missing."""
        return weights.missing("resnet50", "the extractor 'resnet50'")

    @cached_property
    def _network(self) -> nn.Module:
        from torchvision.models import resnet50

        with torch.device("meta"):
            network: nn.Module = resnet50(weights=None)
        return _filled(network, "resnet50", "ResNet-50's")

    @cached_property
    def _stages(self) -> nn.Module:
        return nn.Sequential(*[stage for name, stage in self._network.named_children() if name != "fc"])

    def __call__(self, images: Tensor) -> Tensor:
        stages = moved(self._stages, images.device)
        mean, std = (
            torch.tensor(values, device=images.device)[:, None, None]
            for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        )

        def pooled(image: Tensor) -> Tensor:
            resized = functional.interpolate(codes(image).float() / 255, size=(224, 224), mode="bicubic")
            features: Tensor = stages((resized - mean) / std)
            return features.flatten(1)

        return one_by_one(pooled, images)

    def classes(self, images: Tensor) -> Tensor:
        """Logits (B, 1000) of images (B, 3, H, W)."""
        features = self(images)
        logits: Tensor = moved(self._network.get_submodule("fc"), images.device)(features)
        return logits


def inception() -> nn.Module:
    """torch-fidelity's Inception with the weights of the user's file; gives a tuple of the pooled features (B, 2048).

    Raises:
        UserError: The file is missing or not of this network.
    """
    from torch_fidelity import FeatureExtractorInceptionV3

    class Network(FeatureExtractorInceptionV3):  # type: ignore[misc]
        def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
            return super().load_state_dict(state_dict, strict=bool(state_dict), assign=assign)

    # The constructor insists on unpickling a file without any safety: it gets an empty one of ours, and the tensors
    # of the user's file come afterwards.
    empty = io.BytesIO()
    torch.save({}, empty)
    empty.seek(0)
    with torch.device("meta"):
        network = Network("inception-v3-compat", ["2048"], feature_extractor_weights_path=empty)
    return _filled(network, "inception", "the FID Inception's")


@torch.inference_mode(False)
def _filled(network: nn.Module, name: str, whose: str) -> nn.Module:
    """A network made on the device "meta" (no draw, no memory) with the tensors of a file as its weights."""
    file, stored = weights.load(name, f"the extractor '{name}'")
    try:
        network.load_state_dict(stored, assign=True)
    except (RuntimeError, KeyError) as error:
        raise UserError(f"{file}: not {whose} weights ({str(error)[:200]})") from error
    return network.eval().requires_grad_(False)
