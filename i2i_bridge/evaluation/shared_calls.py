"""A network whose calls with equal inputs are made once."""

import hashlib

from torch import Tensor, nn

from i2i_bridge.methods.geometry import network_geometry
from i2i_bridge.networks.weights import tensor_bytes


class SharedCalls(nn.Module):
    """A network that answers calls with equal inputs from memory, until `forget`.

    Its answers are those of the network to the last bit. Calls that need a gradient are not shared.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.stride, _ = network_geometry(network)
        self.casts_inputs = getattr(network, "casts_inputs", False)
        self.shown_as = getattr(network, "shown_as", type(network).__name__)
        self.calls, self.asked = 0, 0
        self._answers: dict[bytes, Tensor] = {}

    def forward(self, x_t: Tensor, t: Tensor, condition: Tensor | None = None, label: Tensor | None = None) -> Tensor:
        self.asked += 1
        if x_t.requires_grad:
            self.calls += 1
            return self._answer(x_t, t, condition, label)
        digest = hashlib.blake2b(digest_size=16)
        for tensor in (x_t, t, condition, label):
            if tensor is not None:
                digest.update(tensor_bytes(tensor))
        inputs = digest.digest()
        if inputs not in self._answers:
            self.calls += 1
            self._answers[inputs] = self._answer(x_t, t, condition, label)
        return self._answers[inputs]

    def _answer(self, x_t: Tensor, t: Tensor, condition: Tensor | None, label: Tensor | None) -> Tensor:
        answer: Tensor = self.network(x_t, t, condition, *([] if label is None else [label]))
        return answer

    def forget(self) -> None:
        """Free the answers."""
        self._answers = {}
