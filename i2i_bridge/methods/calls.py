"""Counting of a method's network calls."""

import dataclasses
from typing import Any

import torch
from torch import Tensor

from i2i_bridge.methods.base import Method
from i2i_bridge.methods.mean import mean_of, starting_from


class CountedNetwork(torch.nn.Module):
    """A wrapper of a network that counts calls and images."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network
        self.stride = getattr(network, "stride", 1)
        self.casts_inputs = getattr(network, "casts_inputs", False)
        self.shown_as = type(network).__name__
        self.calls = self.images = 0

    def forward(self, *args: Any) -> Tensor:
        """Count the call and return the network's output."""
        self.calls += 1
        self.images += len(args[0])
        output: Tensor = self.network(*args)
        return output


class CountedMethod:
    """A wrapper of a method that counts network calls, with those of its [mean]."""

    def __init__(self, method: Method) -> None:
        self._networks = [CountedNetwork(method.network)]
        mean = mean_of(method)
        if mean is not None:
            self._networks.append(CountedNetwork(mean.method.network))
            mean = dataclasses.replace(mean, method=mean.method.with_network(self._networks[1]))
        self.method = starting_from(method.with_network(self._networks[0]), mean)
        """The method with counting networks."""

    @property
    def calls(self) -> int:
        """Number of calls of all networks."""
        return sum(network.calls for network in self._networks)

    @property
    def images(self) -> int:
        """Number of images in the calls of all networks."""
        return sum(network.images for network in self._networks)

    def reset(self) -> None:
        """Set the counts to 0."""
        for network in self._networks:
            network.calls = network.images = 0
