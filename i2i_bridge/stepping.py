"""One training step: each loss of a method trains its own module, averaged over micro-batches and processes.

A method's losses are taken phase by phase: the first loss of every micro-batch, then an optimizer step of the module
that it trains, then the second loss of every micro-batch, which sees the new weights, and so on.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from i2i_bridge.errors import UserError
from i2i_bridge.randomness import generator, global_seed, key
from i2i_bridge.train_state import TrainState


def training_step(
    state: TrainState, batch: Mapping[str, Any], accelerator: Any, dtype: torch.dtype
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """One step of every module; the losses and the gradients' norms by the modules' names.

    It is skipped, on every process, where a loss or gradient of any process is not finite; `state.was_skipped` says so.

    All draws are keyed by (seed, purpose, global sample index): neither micro-batch nor process count changes t or
    noise. (Dropout, and BatchNorm's statistics, are those of a micro-batch.)

    Args:
        batch: This process's share of the samples, on the device.
        accelerator: Of accelerate; shares gradients between processes.
        dtype: What the networks compute in, by autocast.
    """
    settings, method = state.settings, state.method
    share = settings.batch_size // accelerator.num_processes
    first = state.step * settings.batch_size + accelerator.process_index * share
    micro = settings.micro_batch or share
    starts = range(0, share, micro)
    state.begin_step()
    running = []
    for start in starts:
        stop = min(start + micro, share)
        part = {name: value[start:stop] for name, value in batch.items()}
        draws = [generator(settings.seed, "t and noise", first + i) for i in range(start, stop)]
        running.append(method.losses(part, draws))

    wrong = f"{type(method).__name__}.losses must yield one loss for each of {list(state.modules)}"
    losses: dict[str, Tensor] = {}
    norms: dict[str, Tensor] = {}
    for phase in range(len(state.modules)):
        name = ""
        for start, taken in zip(starts, running, strict=True):
            # Dropout draws from torch's global generator.
            dropout = key(settings.seed, "dropout", first + start, *([phase] if phase else []))
            with (
                global_seed(dropout, accelerator.device),
                torch.autocast(accelerator.device.type, dtype, enabled=dtype != torch.float32),
            ):
                name, loss = next(taken, ("", torch.zeros(())))
            if name not in state.modules or name in norms:
                raise UserError(wrong)
            weighted = loss * ((min(start + micro, share) - start) / share)
            # Into that module alone: a discriminator must not learn from the generator's loss.
            weighted.backward(inputs=list(state.modules[name].parameters()))
            losses[name] = losses.get(name, 0) + weighted.detach()
            # Ended before the next micro-batch begins: a method in wait holds its images and activations.
            if len(norms) == len(state.modules) - 1 and next(taken, None) is not None:
                raise UserError(wrong)
        _show(losses[name], state.modules[name])
        _share_gradients(accelerator, state.modules[name])
        norms[name] = state.update(settings.learning_rate(state.step), name)
    state.end_step()
    return losses, norms


def _show(loss: Tensor, module: nn.Module) -> None:
    """A loss that is not finite can have a finite gradient; made to show in it, all processes hear of it at once."""
    for parameter in module.parameters():
        if parameter.grad is not None:
            parameter.grad.add_(0 * loss)
            return


def _share_gradients(accelerator: Any, module: nn.Module) -> None:
    """The mean of the gradients over all processes.

    Not by DistributedDataParallel: it counts on one backward pass after each forward pass of a module, and with
    micro-batches in phases the passes interleave.
    """
    if accelerator.num_processes > 1:
        for parameter in module.parameters():
            if parameter.grad is not None:
                parameter.grad = accelerator.reduce(parameter.grad, reduction="mean")
