"""A method whose networks see a large image in overlapping tiles."""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from i2i_bridge.bridge.tiles import TiledNetwork
from i2i_bridge.errors import UserError
from i2i_bridge.methods.base import Method
from i2i_bridge.methods.latent import latent_of
from i2i_bridge.methods.mean import mean_of, starting_from


def why_not_tiled(method: Method) -> str | None:
    """The reason why a method cannot work in tiles, in one line; None if it can."""
    if latent_of(method) is not None:
        return "the autoencoder of [latent] sees the image whole, and would need its memory all the same"
    guidance: Any = getattr(method, "guidance", None)
    if guidance is not None and guidance.through_network:
        name = type(guidance).__name__
        return f"guidance {name} differentiates the whole image through the network, for which tiles save no memory"
    return None


def tiled(method: Method, side: int, overlap: int, stride: int, batch: int = 1) -> Method:
    """A copy of the method whose network, and that of its [mean], is a `TiledNetwork`; the weights are shared.

    Raises:
        UserError: The method cannot work in tiles.
    """
    reason = why_not_tiled(method)
    if reason is not None:
        raise UserError(f"tile {side}: {reason}; restore the image whole (tile 0)")
    mean = mean_of(method)
    if mean is not None:
        mean = dataclasses.replace(mean, method=tiled(mean.method, side, overlap, stride, batch))
    network = TiledNetwork(whole_network(method), side, overlap, stride, batch)
    return starting_from(method.with_network(network), mean)


def whole_network(method: Method) -> nn.Module:
    """The network of a method, which may be inside a `TiledNetwork`."""
    return method.network.network if isinstance(method.network, TiledNetwork) else method.network


@contextmanager
def counted_tiles(method: Method, report: Callable[[int], None]) -> Iterator[None]:
    """Call `report` with the number of windows so far after each call on windows, of the network and of [mean]'s."""
    count, mean = 0, mean_of(method)

    def add(network: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        nonlocal count
        count += len(inputs[0])
        report(count)

    networks = [method.network, *([] if mean is None else [mean.method.network])]
    hooks = [network.network.register_forward_hook(add) for network in networks if isinstance(network, TiledNetwork)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
