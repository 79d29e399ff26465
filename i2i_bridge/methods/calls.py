"""Counting of a method's network calls."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn

from i2i_bridge.methods.base import Method
from i2i_bridge.methods.mean import mean_of


@dataclass
class Calls:
    """Number of network calls, and of the images in all of them."""

    count: int = 0
    images: int = 0


@contextmanager
def counted_calls(method: Method, report: Callable[[int], None] = lambda count: None) -> Iterator[Calls]:
    """Count the calls of a method's network, and of the network of its [mean], inside the context.

    Args:
        method: The method.
        report: Called after each call with the number of calls so far.
    """
    calls, mean = Calls(), mean_of(method)

    def count(network: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        calls.count += 1
        calls.images += len(inputs[0])
        report(calls.count)

    networks = [method.network, *([] if mean is None else [mean.method.network])]
    hooks = [network.register_forward_hook(count) for network in networks]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()
