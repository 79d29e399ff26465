"""The U-Net as a graph of OpenVINO, built layer by layer from a network's weights.

A graph of torch.export or ONNX takes minutes to make where this one takes milliseconds, so nothing is kept on disk.
OpenVINO is an extra and imported inside the function.
"""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from i2i_bridge.networks.blocks import AttentionBlock, ResidualBlock
from i2i_bridge.networks.normalisation import GroupNorm
from i2i_bridge.networks.unet import UNet


def unet_model(network: UNet) -> Any:
    """The blocks of a U-Net as an `openvino.Model`: the two tensors of `UNet.inputs` -> output, float32.

    Any batch and any sides that are multiples of the network's stride. The weights are copied.
    """
    import openvino

    return openvino.Model(*_Builder().network(network), "unet")


class _Stack(ctypes.Structure):
    """Linux's stack_t."""

    _fields_ = (("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextmanager
def signal_stack_kept() -> Iterator[None]:
    """Context for compiling by OpenVINO: afterwards this thread's alternate signal stack is what it was before.

    On Linux OpenVINO sets one and leaves it set. Otherwise the next signal that Python handles (Ctrl-C, the end of a
    child process) may end the process by a segmentation fault.
    """
    if sys.platform != "linux":
        yield
        return
    libc, before = ctypes.CDLL(None), _Stack()
    libc.sigaltstack(None, ctypes.byref(before))
    try:
        yield
    finally:
        libc.sigaltstack(ctypes.byref(before), None)


class _Builder:
    """Nodes of OpenVINO for the layers of a U-Net; `time` is SiLU of the embedding, (B, features)."""

    def __init__(self) -> None:
        from openvino import opset13

        self.op: Any = opset13

    def network(self, network: UNet) -> tuple[list[Any], list[Any]]:
        """Outputs and parameters of the model."""
        x = self.op.parameter([-1, network.in_channels + network.condition_channels, -1, -1], np.float32, name="x_t")
        embedding = self.op.parameter([-1, 4 * network.channels], np.float32, name="time")
        time, h = self.op.swish(embedding), x
        skips = []
        for stage in network.input_blocks:
            h = self._stage(stage, h, time)
            skips.append(h)
        h = self._stage(network.middle_block, h, time)
        for stage in network.output_blocks:
            h = self._stage(stage, self.op.concat([h, skips.pop()], 1), time)
        norm, _, conv = network.out
        return [self._conv(conv, self._norm(norm, h))], [x, embedding]

    def _stage(self, stage: nn.Module, h: Any, time: Any) -> Any:
        for block in stage.children():
            if isinstance(block, ResidualBlock):
                h = self._residual(block, h, time)
            elif isinstance(block, AttentionBlock):
                h = self._attention(block, h)
            else:
                h = self._conv(block, h)
        return h

    def _residual(self, block: ResidualBlock, x: Any, time: Any) -> Any:
        norm, _, conv = block.in_layers
        h, small = self._norm(norm, x), x
        if block.resample == "down":
            h, small = (self.op.avg_pool(image, [2, 2], [0, 0], [0, 0], [2, 2], False) for image in (h, x))
        elif block.resample == "up":
            h, small = self._doubled(h), self._doubled(x)
        h = self._conv(conv, h)
        linear = cast(nn.Linear, block.emb_layers[1])
        maps = zip(linear.weight.chunk(2), linear.bias.chunk(2), strict=True)
        scale, shift = (self._reshaped(self._linear(weight, bias, time), 0, -1, 1, 1) for weight, bias in maps)
        norm, _, _, conv = block.out_layers
        h = self._conv(conv, self._norm(norm, h, scale, shift))
        skip = small if isinstance(block.skip_connection, nn.Identity) else self._conv(block.skip_connection, small)
        return self.op.add(h, skip)

    def _norm(self, norm: nn.Module, x: Any, scale: Any = None, shift: Any = None) -> Any:
        """As `GroupNorm.forward`; the factors of the channels are folded into those of the time."""
        norm = cast(GroupNorm, norm)
        groups = self._reshaped(x, 0, norm.num_groups, -1)
        z = self.op.mvn(groups, self._integers(2), True, norm.eps, "inside_sqrt")
        a, b = (self._constant(value.view(1, -1, 1, 1)) for value in (norm.weight, norm.bias))
        if scale is not None:
            gain = self.op.add(scale, self.op.constant(np.float32(1)))
            a, b = self.op.multiply(a, gain), self.op.add(self.op.multiply(b, gain), shift)
        y = self.op.add(self.op.multiply(self.op.reshape(z, self.op.shape_of(x), False), a), b)
        return self.op.swish(y) if norm.silu else y

    def _attention(self, block: AttentionBlock, x: Any) -> Any:
        channels, heads = block.norm.num_channels, block.heads
        tokens = self._swapped(self._reshaped(self._norm(block.norm, x), 0, channels, -1), 0, 2, 1)
        weights = block.qkv.weight.view(heads, 3, -1, channels)
        biases = cast(Tensor, block.qkv.bias).view(heads, 3, -1)
        q, k, v = (
            self._swapped(
                self._reshaped(
                    self._linear(weights[:, i].flatten(0, 1), biases[:, i].flatten(), tokens), 0, 0, heads, -1
                ),
                0, 2, 1, 3,
            )
            for i in range(3)
        )  # fmt: skip
        mixed = self._swapped(self.op.scaled_dot_product_attention(q, k, v), 0, 2, 1, 3)
        weight, bias = (cast(Tensor, value) for value in (block.proj_out.weight, block.proj_out.bias))
        change = self._swapped(self._linear(weight.squeeze(-1), bias, self._reshaped(mixed, 0, 0, channels)), 0, 2, 1)
        return self.op.add(self.op.reshape(change, self.op.shape_of(x), False), x)

    def _conv(self, conv: nn.Module, x: Any) -> Any:
        conv = cast(nn.Conv2d, conv)
        pads = list(cast(tuple[int, int], conv.padding))
        y = self.op.convolution(x, self._constant(conv.weight), [1, 1], pads, pads, [1, 1])
        return self.op.add(y, self._constant(cast(Tensor, conv.bias).view(1, -1, 1, 1)))

    def _doubled(self, x: Any) -> Any:
        """Nearest x2."""
        twice, sides = self.op.constant(np.array([2, 2], np.float32)), self._integers(2, 3)
        return self.op.interpolate(
            x, twice, "nearest", "scales", axes=sides, coordinate_transformation_mode="asymmetric", nearest_mode="floor"
        )

    def _linear(self, weight: Tensor, bias: Tensor, x: Any) -> Any:
        return self.op.add(self.op.matmul(x, self._constant(weight), False, True), self._constant(bias))

    def _reshaped(self, x: Any, *sides: int) -> Any:
        """A side of 0 stays as it is, and one of -1 takes the rest."""
        return self.op.reshape(x, self._integers(*sides), True)

    def _swapped(self, x: Any, *axes: int) -> Any:
        return self.op.transpose(x, self._integers(*axes))

    def _constant(self, value: Tensor) -> Any:
        return self.op.constant(value.detach().to("cpu", torch.float32).contiguous().numpy())

    def _integers(self, *values: int) -> Any:
        return self.op.constant(np.array(values, np.int64))
