"""Numbers of network calls: counted, and checked."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Integral
from typing import Any

from torch import nn

from i2i_bridge.errors import UserError, listed
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


def checked_nfe(nfe: int) -> int:
    """A number of network calls.

    Raises:
        UserError: It is no whole number from 1 to 1000.
    """
    if isinstance(nfe, bool) or not isinstance(nfe, Integral) or not 1 <= nfe <= 1000:
        raise UserError(f"nfe {nfe!r}: give a number from 1 to 1000")
    return int(nfe)


def checked_nfes(nfe: Iterable[int]) -> list[int]:
    """Several numbers of network calls, each once, in order.

    Raises:
        UserError: There is none, or one is no whole number from 1 to 1000.
    """
    if not isinstance(nfe, Iterable) or not (values := listed("nfe", nfe)):
        raise UserError(f"nfe {nfe!r}: give a list of numbers from 1 to 1000")
    return sorted({checked_nfe(value) for value in values})
