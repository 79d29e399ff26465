"""Backends that compute a run's networks: torch in eager mode, torch.compile, or OpenVINO."""

import threading
from importlib.util import find_spec
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from i2i_bridge.device import compile_blocks, resolve_precision
from i2i_bridge.errors import UserError, did_you_mean
from i2i_bridge.guidance.base import Guidance
from i2i_bridge.libraries import reason
from i2i_bridge.networks.openvino import signal_stack_kept, unet_model
from i2i_bridge.networks.unet import UNet
from i2i_bridge.randomness import generator

BACKENDS = ("eager", "compile", "openvino", "auto")
TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 0.05}
"""Largest error of a graph's output against torch's, rms over rms. In bfloat16 both differ from float32 by 2 %."""
HINTS = {torch.float32: "f32", torch.bfloat16: "bf16"}


def resolve_backend(backend: str, device: torch.device, dtype: torch.dtype) -> str:
    """The backend that a name selects; "auto" is openvino in bfloat16 on a CPU with native bfloat16, else eager.

    Raises:
        UserError: There is no such backend.
    """
    if backend not in BACKENDS:
        raise UserError(f"backend '{backend}' is unknown{did_you_mean(backend, BACKENDS)}")
    if backend != "auto":
        return backend
    pays = device.type == "cpu" and dtype == torch.bfloat16 == resolve_precision("auto", device)
    return "openvino" if pays and find_spec("openvino") is not None else "eager"


def set_backend(network: nn.Module, backend: str, guidance: Guidance | None = None) -> str | None:
    """Set the backend that computes a network, in place; its weights, their names and its hooks are unchanged.

    Args:
        network: On its device, in its precision, in evaluation mode.
        backend: "eager", "compile" or "openvino".
        guidance: The guidance of the method, if it has one.

    Returns:
        None, or the reason, in one line, why the network is still computed by torch.
    """
    if backend == "openvino":
        if guidance is not None and guidance.through_network:
            return f"guidance {type(guidance).__name__} differentiates through the network, which a graph cannot"
        return _set_openvino(network)
    if backend == "compile":
        try:
            compile_blocks(network, next(network.parameters()).device)
        except UserError as error:
            return reason(error.__cause__ or error)
    return None


def _set_openvino(network: nn.Module) -> str | None:
    if type(network) is not UNet:
        return f"it computes U-Nets alone (unet, adm256), not {type(network).__name__}"
    if find_spec("openvino") is None:
        return "it is not installed (pip install 'i2i-bridge[openvino]')"
    weight = next(network.parameters())
    if weight.device.type != "cpu" or weight.dtype not in HINTS:
        return f"it computes on the CPU alone, not on {weight.device}"
    try:
        graph = _Graph(network)
        error = graph.error()
    except RuntimeError as problem:  # what OpenVINO raises
        return f"it failed ({reason(problem)})"
    if not error <= TOLERANCES[weight.dtype]:
        return f"its output is off by {error:.1e} rms, more than {TOLERANCES[weight.dtype]:g}"
    network.forward = graph  # type: ignore[method-assign]
    return None


class _Graph:
    """`forward` of a U-Net by OpenVINO. Torch computes it in training, for a gradient, and after a weight was changed.

    A deep copy of the network computes by torch.
    """

    def __init__(self, network: UNet) -> None:
        import openvino

        self.network, self.weights, self.lock = network, _versions(network), threading.Lock()
        settings = {
            # Otherwise OpenVINO takes bfloat16 wherever the processor has it.
            "INFERENCE_PRECISION_HINT": HINTS[next(network.parameters()).dtype],
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,  # otherwise processes that compute side by side would share cores
        }
        with signal_stack_kept():
            compiled = openvino.Core().compile_model(unet_model(network), "CPU", settings)
            self.request: Any = compiled.create_infer_request()

    def __call__(self, x_t: Tensor, t: Tensor, condition: Tensor | None = None, label: Tensor | None = None) -> Tensor:
        gradient = torch.is_grad_enabled() and x_t.requires_grad
        if gradient or self.network.training or _versions(self.network) != self.weights:
            return UNet.forward(self.network, x_t, t, condition, label)
        with torch.no_grad():
            inputs = [part.float().contiguous().numpy() for part in self.network.inputs(x_t, t, condition, label)]
        with self.lock:  # a request computes one call at a time
            (output,) = self.request.infer(inputs, share_inputs=True).values()
        return torch.from_numpy(output).to(x_t.dtype)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return MethodType(UNet.forward, memo[id(self.network)])

    def error(self) -> float:
        """How far the output is from torch's, rms over rms, for two images of noise whose sides differ."""
        network = self.network
        shape = 2, network.in_channels, 2 * network.stride, 3 * network.stride
        draws = generator(0, "backend")
        x_t, t = torch.randn(shape, generator=draws), torch.tensor([0.2, 0.8], dtype=torch.float64)
        channels = network.condition_channels
        condition = torch.randn((2, channels, *shape[2:]), generator=draws) if channels else None
        label = torch.tensor([-1, 0]) if network.classes else None
        with torch.inference_mode():
            wanted = UNet.forward(network, x_t, t, condition, label)
            off = self(x_t, t, condition, label) - wanted
        return float(off.norm() / wanted.norm().clamp(min=1e-12))


def _versions(network: nn.Module) -> list[tuple[int, int]]:
    """Address of each weight and torch's count of its changes; they differ once a weight was replaced or changed."""
    return [(value.data_ptr(), 0 if value.is_inference() else value._version) for value in network.parameters()]
