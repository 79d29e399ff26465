"""One training step: each loss of a method trains one module, averaged over micro-batches and ranks.

The losses are computed in phases: the first loss of every micro-batch, then an optimizer step of the module that it
trains, then the second loss of every micro-batch with the updated weights, and so on.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from i2i_bridge.errors import UserError
from i2i_bridge.plugins import plugin_errors
from i2i_bridge.randomness import generator, global_seed, key
from i2i_bridge.training.schedule import learning_rate
from i2i_bridge.training.state import TrainState

BUCKET = 2**22
"""Gradient values per all-reduce (16 MB): smaller buckets cost round trips, larger ones memory for the copy."""


@dataclass(frozen=True)
class Outcome:
    """The result of one step. Its tensors stay on the device; reading one waits for the step."""

    step: int
    """Number of the step, counted from 1."""
    lr: float
    losses: dict[str, Tensor]
    """Mean loss of this rank's samples, by module; NaN for a module that took no step."""
    norms: dict[str, Tensor]
    """Norm of the averaged gradient before clipping, by module; NaN likewise."""
    in_a_row: Tensor
    """0 if the step was taken; n if it was skipped as the n-th in a row. The same on every rank."""


def training_step(state: TrainState, batch: Mapping[str, Any], accelerator: Any, dtype: torch.dtype) -> Outcome:
    """Take one step of every module, or of those that the method trains by turns (`trained_at`); or skip it.

    If a loss or gradient of any rank is not finite, every rank skips the step: only the step's number changes.

    All draws are keyed by (seed, purpose, global sample index): neither micro-batch nor number of ranks changes t or
    noise. (Dropout and BatchNorm's statistics depend on the micro-batch.) When out of memory, the micro-batch
    (`state.micro_batch`) is halved and the pass repeated; the batch stays the same.

    Args:
        batch: This rank's share of the samples, on the device.
        accelerator: The `accelerate.Accelerator` that averages gradients over ranks.
        dtype: Autocast dtype of the networks.
    """
    settings = state.settings
    share = settings.batch_size // accelerator.num_processes
    first = state.step * settings.batch_size + accelerator.process_index * share
    lr = learning_rate(settings, state.step)
    losses: dict[str, Tensor] = {}
    norms: dict[str, Tensor] = {}
    state.begin_step()
    parts = _parts(state, batch, first, share)
    while len(norms) < len(state.trained):
        try:
            name, loss = _accumulate(state, parts, norms, dtype)
            fits = True
        except RuntimeError as error:
            # On a CPU with limited memory (ulimit) torch raises a plain RuntimeError; only its text tells.
            if not isinstance(error, torch.OutOfMemoryError) and "DefaultCPUAllocator" not in str(error):
                raise
            fits = False
        if not fits:  # outside the `except`: its traceback kept the failed pass's activations alive
            parts = []
            _halve(state, share)
            parts = _parts(state, batch, first, share)
            continue
        losses[name] = loss
        _poison_gradient(loss, state.modules[name])
        _average_gradients(accelerator, state.modules[name])
        norms[name] = state.update(lr, name)
    state.end_step()
    idle = {
        name: torch.full((), torch.nan, device=state.in_a_row.device) for name in state.modules if name not in norms
    }
    return Outcome(state.step, lr, losses | idle, norms | idle, state.in_a_row)


def _poison_gradient(loss: Tensor, module: nn.Module) -> None:
    """Add `0 * loss` to one gradient: a NaN loss turns it NaN, and the all-reduce carries that to every rank."""
    for parameter in module.parameters():
        if parameter.grad is not None:
            parameter.grad.add_(0 * loss)
            return


@dataclass
class _Part:
    """A micro-batch: its first sample's number, its share of the batch, and its losses, of which `taken` are taken."""

    first: int
    weight: float
    losses: Iterator[tuple[str, Tensor]]
    taken: int = 0


def _parts(state: TrainState, batch: Mapping[str, Any], first: int, share: int) -> list[_Part]:
    """The micro-batches of this rank's `share` samples, the first of which is sample number `first`."""
    micro = state.micro_batch or share
    parts = []
    for start in range(0, share, micro):
        stop = min(start + micro, share)
        part = {name: value[start:stop] for name, value in batch.items()}
        part["number"] = torch.arange(first + start, first + stop)
        draws = [generator(state.settings.seed, "t and noise", first + i) for i in range(start, stop)]
        parts.append(_Part(first + start, (stop - start) / share, state.method.losses(part, draws)))
    return parts


def _accumulate(
    state: TrainState, parts: Sequence[_Part], done: Mapping[str, Tensor], dtype: torch.dtype
) -> tuple[str, Tensor]:
    """Accumulate the gradients of the next module, not in `done`, over all parts; return its name and the loss."""
    device, phase, last = state.in_a_row.device, len(done), len(done) == len(state.trained) - 1
    wrong = f"{type(state.method).__name__}.losses must yield one loss for each of {state.trained}"
    name, total = "", torch.zeros((), device=device)
    for part in parts:
        # More than one loss is taken if the parts were rebuilt in the middle of a step (out of memory): the losses of
        # modules that are already updated are computed again and dropped.
        while part.taken <= phase:
            # Dropout draws from torch's global generator.
            dropout = key(state.settings.seed, "dropout", part.first, *([part.taken] if part.taken else []))
            with (
                global_seed(dropout, device),
                torch.autocast(device.type, dtype, enabled=dtype != torch.float32),
                plugin_errors(),
            ):
                name, loss = next(part.losses, ("", torch.zeros(())))
            part.taken += 1
        if name not in state.trained or name in done:
            raise UserError(wrong)
        weighted = loss * part.weight
        # Gradients of this module only: otherwise a discriminator would learn from the generator's loss.
        trained = [parameter for parameter in state.modules[name].parameters() if parameter.requires_grad]
        weighted.backward(inputs=trained)  # type: ignore[no-untyped-call]
        total = total + weighted.detach()
        # Exhaust the generator before the next micro-batch: otherwise it keeps its images and activations alive.
        if last and next(part.losses, None) is not None:
            raise UserError(wrong)
    return name, total


def _halve(state: TrainState, share: int) -> None:
    """Halve the micro-batch after out of memory, and undo the failed pass.

    Raises:
        UserError: The micro-batch is 1 already.
    """
    micro = state.micro_batch or share
    if micro == 1:
        raise UserError(
            "out of memory with one image at a time; set network.checkpointing=true or a smaller data.size or network"
        )
    state.micro_batch = (micro + 1) // 2
    state.undo_pass()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _average_gradients(accelerator: Any, module: nn.Module) -> None:
    """Average the gradients of a module over all ranks, in place, after its last micro-batch.

    DistributedDataParallel, which exchanges them during the backward pass, does not fit: a rank that is out of memory
    repeats its pass when a part of the failed one's gradients is exchanged already. It also regroups its buckets after
    a first pass, so that three or more ranks add in another order after a resume.
    """
    if accelerator.num_processes == 1:
        return
    for bucket in _buckets([parameter.grad for parameter in module.parameters() if parameter.grad is not None]):
        values = torch.cat([gradient.flatten() for gradient in bucket])
        means = accelerator.reduce(values, reduction="mean").split([gradient.numel() for gradient in bucket])
        for gradient, mean in zip(bucket, means, strict=True):
            gradient.copy_(mean.view_as(gradient))


def _buckets(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Group the gradients, in order, into buckets of at most BUCKET values; a larger gradient is a bucket alone."""
    bucket: list[Tensor] = []
    values = 0
    for gradient in gradients:
        values += gradient.numel()
        if bucket and values > BUCKET:
            yield bucket
            bucket, values = [], gradient.numel()
        bucket.append(gradient)
    if bucket:
        yield bucket
