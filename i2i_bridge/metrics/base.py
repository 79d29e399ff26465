"""What a metric is: one number per restored image against its clean partner."""

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor


class Metric(ABC):
    """A full-reference image metric. Registered classes take no options, so a number's name says all about it."""

    label: ClassVar[str]
    """For tables, with the unit."""
    higher_is_better: ClassVar[bool]

    @abstractmethod
    def __call__(self, restored: Tensor, clean: Tensor) -> Tensor:
        """Values (B,) of images (B, C, H, W) in [-1, 1], already rounded to 8 bits as they are written to files."""

    def missing(self, channels: int = 3) -> str | None:
        """Why the metric cannot be computed here (its weights are absent, say), in one line; None when it can."""
        return None
