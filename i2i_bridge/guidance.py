"""What is done to x_0_hat inside a sampling step, and the one place where network, mask and clip meet."""

from collections.abc import Callable

import torch
from torch import Tensor

from i2i_bridge.processes import Process
from i2i_bridge.samplers import PredictX0
from i2i_bridge.targets import Target

Network = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""(x_t (B, C, H, W), t (B,) in [0, 1], condition or None) -> output (B, C, H, W)."""


def keep_known(x_0_hat: Tensor, x_1: Tensor, mask: Tensor) -> Tensor:
    """x_0_hat in the hole (mask = 1), X_1 elsewhere, to the last bit.

    x_0_hat <- mask x_0_hat + (1 - mask) X_1

    Args:
        mask: (B, 1, H, W) in {0, 1}; 1 = unknown.
    """
    return torch.where(mask > 0.5, x_0_hat, x_1)


def predictor(
    network: Network,
    process: Process,
    target: Target,
    x_1: Tensor,
    *,
    condition: Tensor | None = None,
    mask: Tensor | None = None,
    clip: bool = False,
) -> PredictX0:
    """(x_t, t) -> x_0_hat of a network.

    Args:
        network: Called as network(c_in x_t, t, condition).
        x_1: Degraded images, (B, C, H, W).
        condition: Further input of the network, (B, K, H, W).
        mask: Where given, known pixels of X_1 are put back (`keep_known`).
        clip: Limit x_0_hat to [-1, 1].
    """

    def predict_x0(x_t: Tensor, t: Tensor) -> Tensor:
        network_time = process.network_time(t).to(x_t.device)
        output = network(target.network_input(process, x_t, t), network_time, condition)
        x_0_hat = target.x_0_hat(process, output.to(x_t.dtype), x_t, x_1, t)
        if clip:
            x_0_hat = x_0_hat.clamp(-1, 1)
        return x_0_hat if mask is None else keep_known(x_0_hat, x_1, mask)

    return predict_x0
