"""What training and evaluation need to know of a method."""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from torch import Tensor, nn

from i2i_bridge.randomness import Generator

Batch = Mapping[str, Any]
"""x_0 (B, C, H, W), x_1 of the same shape, optional mask (B, 1, H, W) and condition (B, K, H, W), key.

For `walk` also size, (height, width) of the images before they were padded at their right and lower edge."""


class Method(Protocol):
    """A way to learn X_1 -> X_0."""

    network: nn.Module
    """What is trained, averaged and saved."""

    def losses(self, batch: Batch, generator: Generator) -> Iterator[tuple[str, Tensor]]:
        """Named scalar losses, each the mean over the batch; their sum is minimised."""
        ...

    def walk(self, batch: Batch, *, nfe: int, generator: Generator) -> Iterator[Tensor]:
        """The states on the way from X_1 to the restored image, which is the last; batch needs no x_0."""
        ...

    def with_network(self, network: nn.Module) -> "Method":
        """The same method around another network (its moving average, say)."""
        ...
