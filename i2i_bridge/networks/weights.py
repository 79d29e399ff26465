"""Weights of a network: their SHA-256, and tensors copied into it after a check."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from i2i_bridge.errors import UserError


def weights_sha256(network: object) -> str:
    """SHA-256 over name, dtype, shape and bytes of all tensors of a network; an object that is no module has none."""
    total = hashlib.sha256()
    tensors: Mapping[str, Tensor] = network.state_dict() if isinstance(network, nn.Module) else {}
    for name, tensor in sorted(tensors.items()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        total.update(tensor_bytes(tensor))
    return total.hexdigest()


def tensor_bytes(tensor: Tensor) -> bytes:
    """The bytes of a tensor's values, of any dtype, in row-major order."""
    # A copy: `contiguous` keeps the stride 0 of one expanded value, which no other dtype can view.
    plain = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
    return plain.reshape(-1).view(torch.uint8).numpy().tobytes()


def load_weights(network: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Copy weights into a network of exactly the same names and shapes.

    Raises:
        UserError: A tensor is missing, unexpected, of another shape or kind of numbers, or not finite; the message
            names it.
    """
    wanted = network.state_dict()
    for name, value in wanted.items():
        if name not in tensors:
            raise UserError(f"{where}: the tensor '{name}' is missing")
        if tensors[name].shape != value.shape:
            raise UserError(
                f"{where}: '{name}' is {tuple(tensors[name].shape)}, the recipe's network has {tuple(value.shape)}"
            )
        if _kind(tensors[name]) != _kind(value):  # a copy would round, or drop an imaginary part
            raise UserError(f"{where}: '{name}' holds {tensors[name].dtype}, the recipe's network {value.dtype}")
        # Converted first: float8 has no isfinite, and a float64 may overflow.
        if not bool(tensors[name].to(value.dtype).isfinite().all()):
            raise UserError(f"{where}: '{name}' holds numbers that are not finite")
    for name in tensors:
        if name not in wanted:
            raise UserError(f"{where}: the recipe's network has no tensor '{name}'")
    network.load_state_dict(tensors)


def _kind(tensor: Tensor) -> tuple[bool, bool]:
    return tensor.is_floating_point(), tensor.is_complex()
