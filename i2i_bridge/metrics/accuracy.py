"""Whether a classifier still sees in the restored image what is in it."""

import math
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from i2i_bridge.errors import UserError
from i2i_bridge.metrics import weights
from i2i_bridge.metrics.base import ItemMetric, Sample, in_colour
from i2i_bridge.metrics.extractors import ResNet50
from i2i_bridge.registry import register_metric


class Classifier(Protocol):
    """A network of ImageNet's 1000 classes."""

    def classes(self, images: Tensor) -> Tensor:
        """Logits (B, 1000) of images (B, 3, H, W) in [-1, 1]."""
        ...


@register_metric("accuracy")
class Accuracy(ItemMetric):
    """Top-1 accuracy of torchvision's ResNet-50 on the restored images, in % (CA in the I2SB paper).

    100 where the largest of the 1000 logits is the item's label, else 0; NaN for items without a label. The labels
    must be ImageNet-1k's own (the 1000 WordNet ids, sorted): a folder with other classes gives other numbers.
    """

    label = "accuracy (ResNet-50, %)"
    higher_is_better = True

    def missing(self, channels: int = 3) -> str | None:
        """Says which file is missing, or that there are too many channels."""
        if channels not in (1, 3):
            return f"accuracy is for images of 1 or 3 channels, not {channels}"
        return weights.missing("resnet50", "accuracy")

    @cached_property
    def _classifier(self) -> Classifier:
        return ResNet50()

    def of(self, sample: Sample) -> float:
        """100 or 0; NaN without a label.

        Raises:
            UserError: The label is not one of ImageNet's.
        """
        label = sample.item.get("label")
        if label is None:
            return math.nan
        if not 0 <= int(label) < 1000:
            raise UserError(f"item '{sample.item.get('key')}': label {int(label)} is not one of ImageNet's 0 to 999")
        with torch.inference_mode():
            logits = self._classifier.classes(in_colour(sample.restored[:1]))
        return 100.0 if int(logits.argmax()) == int(label) else 0.0
