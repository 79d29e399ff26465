"""What is done to x_0_hat inside a sampling step, and the one place where network, clip, guide and mask meet."""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from i2i_bridge.bridge.base import Process
from i2i_bridge.bridge.samplers import PredictX0
from i2i_bridge.bridge.targets import Target
from i2i_bridge.errors import UserError
from i2i_bridge.plugins import plugin_errors

Network = Callable[..., Tensor]
"""(x_t (B, C, H, W), t (B,) in [0, 1], condition or None[, label (B,)]) -> output (B, C, H, W)."""

NO_LABEL = -1
"""The label of a sample without one."""


class Guide(Protocol):
    """Moves x_0_hat towards what a measurement says (guidances/)."""

    @property
    def through_network(self) -> bool:
        """Whether it differentiates x_0_hat with respect to x_t."""
        ...

    def __call__(self, x_0_hat: Tensor, x_t: Tensor, t: Tensor) -> Tensor: ...


def absent(condition: Tensor | None, label: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """Condition and label of samples that have none: zeros, and NO_LABEL; None where there was none before.

    Plain zeros, mid-grey, without a further channel that says so: every network and its weights stay as they are.
    """
    return (
        None if condition is None else torch.zeros_like(condition),
        None if label is None else torch.full_like(label, NO_LABEL),
    )


def call_network(
    network: Network, x_t: Tensor, t: Tensor, condition: Tensor | None, label: Tensor | None = None
) -> Tensor:
    """A network's output, (B, C, H, W); every call of a network by the library is this one.

    A network without class labels is called without `label`.

    A network that says `casts_inputs = True`, as the built-in ones do, is given t in float64 and casts by itself. Any
    other is given x_t, t and condition in the dtype of its weights, or of x_t where it has none.

    Raises:
        UserError: The output is no tensor of x_t's shape, or the network is in a user's file and raised an exception.
    """
    if not getattr(network, "casts_inputs", False):
        weights = network.parameters() if isinstance(network, torch.nn.Module) else iter(())
        dtype = next((weight.dtype for weight in weights if weight.is_floating_point()), x_t.dtype)
        # A float64 t would meet the weights in another dtype: autocast leaves float64 as it is.
        x_t, t = x_t.to(dtype), t.to(dtype)
        condition = None if condition is None else condition.to(dtype)
    with plugin_errors():
        output: Any = network(x_t, t, condition) if label is None else network(x_t, t, condition, label)
    if not isinstance(output, Tensor) or output.shape != x_t.shape:
        name = getattr(network, "shown_as", type(network).__name__)
        given = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise UserError(
            f"network {name}: gave {given} for x_t of shape {tuple(x_t.shape)}; a tensor of that shape is needed"
        )
    return output


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
    label: Tensor | None = None,
    condition_scale: float = 1.0,
    mask: Tensor | None = None,
    clip: bool = False,
    guide: Guide | None = None,
    time_offset: int = 0,
) -> PredictX0:
    """(x_t, t) -> x_0_hat of a network: clipped, then guided, then with known pixels put back.

    With a condition_scale w other than 1, the network's output is that without condition and label, moved by w times
    what these change (classifier-free guidance, Ho and Salimans 2022); two calls, and one for w = 0:

        F = F(none) + w (F(condition, label) - F(none))

    x_0_hat is linear in F, so the same holds for it, before it is clipped.

    Args:
        network: Called as network(c_in x_t, t, condition[, label]).
        x_1: Degraded images, (B, C, H, W).
        condition: Further input of the network, (B, K, H, W).
        label: Class of each sample, (B,).
        condition_scale: w.
        mask: Where given, known pixels of X_1 are put back (`keep_known`).
        clip: Limit x_0_hat to [-1, 1].
        guide: Applied to x_0_hat (a guided one may leave [-1, 1]). Where it looks through the network, gradients are
            on inside the call, also under `torch.inference_mode`.
        time_offset: Added to the network's time (`Shortcut`).
    """

    nothing = absent(condition, label)

    def outputs(noisy: Tensor, t: Tensor) -> Tensor:
        if condition_scale == 1:
            return call_network(network, noisy, t, condition, label)
        without = call_network(network, noisy, t, *nothing)
        if condition_scale == 0:
            return without
        return without + condition_scale * (call_network(network, noisy, t, condition, label) - without)

    def look(x_t: Tensor, t: Tensor) -> Tensor:
        network_time = (process.network_time(t) + time_offset).to(x_t.device)
        noisy = target.network_input(process, x_t, t)
        output = outputs(noisy, network_time)
        x_0_hat = target.x_0_hat(process, output.to(x_t.dtype), x_t, x_1, t)
        return x_0_hat.clamp(-1, 1) if clip else x_0_hat

    def predict_x0(x_t: Tensor, t: Tensor) -> Tensor:
        if guide is None:
            x_0_hat = look(x_t, t)
        elif not guide.through_network:
            x_0_hat = guide(look(x_t, t), x_t, t)
        else:
            with torch.inference_mode(False), torch.enable_grad():
                # A copy: a state made in inference mode can take no part in a gradient.
                leaf = x_t.detach().clone().requires_grad_()
                x_0_hat = guide(look(leaf, t), leaf, t).detach()
        return x_0_hat if mask is None else keep_known(x_0_hat, x_1, mask)

    return predict_x0
