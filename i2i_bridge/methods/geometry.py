"""Sides of images that networks take: their strides and smallest sides, and padding to them."""

import math

import torch
from torch import Tensor, nn

from i2i_bridge.methods.base import Method
from i2i_bridge.methods.latent import latent_of
from i2i_bridge.methods.mean import mean_of
from i2i_bridge.methods.tiles import whole_network


def network_geometry(network: nn.Module) -> tuple[int, int]:
    """A network's stride, of which both sides of an image must be multiples, and the smallest side.

    The smallest side is the network's attribute `smallest_side`, by default 2 * stride: with a side of one stride the
    lowest level has a single value per channel, too few to normalise.
    """
    stride = int(getattr(network, "stride", 1))
    sides = (getattr(part, "smallest_side", None) for part in network.modules())
    return stride, next((int(side) for side in sides if side is not None), 2 * stride)


def method_geometry(method: Method) -> tuple[int, int]:
    """As `network_geometry`, for all networks that see the image: that of the method, and those of [mean], [latent]."""
    geometry, mean, latent = network_geometry(whole_network(method)), mean_of(method), latent_of(method)
    if latent is not None:
        geometry = geometry[0] * latent.autoencoder.factor, geometry[1] * latent.autoencoder.factor
    if mean is None:
        return geometry
    other = method_geometry(mean.method)
    stride = math.lcm(geometry[0], other[0])
    return stride, -(-max(geometry[1], other[1]) // stride) * stride


def pad_to_stride(x: Tensor, stride: int, smallest: int) -> Tensor:
    """Pad images (B, C, H, W) by reflection at the right and lower edge to multiples of stride, at least `smallest`.

    The reflection repeats where the image is smaller than the padding.
    """
    for axis in (-2, -1):
        side = x.shape[axis]
        missing = max(-side % stride, smallest - side)
        if missing:
            # 0 1 2 3 2 1 0 1 ...: reflection without repeating the edge, of any length.
            period = max(2 * (side - 1), 1)
            ramp = torch.arange(side + missing) % period
            index = torch.minimum(ramp, period - ramp) if side > 1 else torch.zeros_like(ramp)
            x = x.index_select(axis, index.to(x.device))
    return x
