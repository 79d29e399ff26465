"""The training state: the tensors and counters that a step changes and a checkpoint stores."""

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from i2i_bridge.errors import UserError, did_you_mean
from i2i_bridge.methods.base import trained_at
from i2i_bridge.methods.distillation import Student
from i2i_bridge.methods.factory import build_method
from i2i_bridge.methods.latent import Latent
from i2i_bridge.methods.mean import Mean
from i2i_bridge.networks.weights import load_weights
from i2i_bridge.randomness import global_seed, key
from i2i_bridge.recipe.recipe import Recipe
from i2i_bridge.runs.checkpoint import UNSEALED, Checkpoint
from i2i_bridge.runs.run import Run
from i2i_bridge.training.schedule import ema_decay

NETWORK = "network"
"""Key of the network in `TrainState.modules`; the other keys are its companions' names."""


class TrainState:
    """Network, EMA, companions, optimizer moments, step and counters of a run."""

    def __init__(
        self,
        recipe: Recipe,
        device: torch.device,
        mean: Mean | None = None,
        teacher: nn.Module | None = None,
        latent: Latent | None = None,
    ) -> None:
        cpu, seed = torch.device("cpu"), recipe.train.seed
        with global_seed(key(seed, "initial weights"), cpu):
            self.network = recipe.build_network()
        if next(self.network.parameters(), None) is None:
            raise UserError(f"network {type(self.network).__name__}: has no weights to train")
        if not any(parameter.requires_grad for parameter in self.network.parameters()):
            raise UserError(
                f"network '{recipe.network['name']}' is frozen; train another network, or a bridge that starts from "
                "its output ([mean])"
            )
        self.network.to(device).to(memory_format=torch.channels_last)
        self.ema = copy.deepcopy(self.network).eval().requires_grad_(False)
        with global_seed(key(seed, "initial weights of companions"), cpu):
            self.method = build_method(recipe, self.network, mean, latent)
        if teacher is not None and isinstance(self.method, Student):
            self.method = self.method.taught(teacher, self.ema)
        self.modules: dict[str, nn.Module] = {NETWORK: self.network, **self.method.companions()}
        for module in self.modules.values():
            module.to(device).to(memory_format=torch.channels_last)
        self.trained = list(self.modules)
        """Names of the modules that take an optimizer step in the current step."""
        self.frozen = freeze(self.network, recipe.train.freeze)
        """Names of the network's parameters that are not trained. Their moments stay 0."""
        self.settings = recipe.train
        self.micro_batch = recipe.train.micro_batch
        """Samples per forward pass, None for all; `training_step` halves it when out of memory."""
        fused = device.type in ("cpu", "cuda")
        self.on_host = device.type != "cuda"
        """Whether the finite flag is read in every step: on CPU, and where the optimizer has no fused kernel. Otherwise
        it stays on the device, so that no step forces a sync."""
        lr, betas, decay = recipe.train.lr, recipe.train.betas, recipe.train.weight_decay
        self.optimizers = {
            name: torch.optim.AdamW(module.parameters(), lr=lr, betas=betas, weight_decay=decay, fused=fused)
            for name, module in self.modules.items()
        }
        for optimizer in self.optimizers.values():
            _start_moments(optimizer)
        self.step = 0
        self.skipped = torch.zeros((), dtype=torch.int64, device=device)
        """Number of skipped steps (non-finite loss or gradient)."""
        self.in_a_row = torch.zeros_like(self.skipped)
        """Number of steps skipped in a row up to now, 0 if the last step was taken; the same on every rank."""
        self._bad = torch.zeros((), device=device)
        self._undo: list[tuple[Tensor, Tensor]] = []
        self._buffers: list[tuple[Tensor, Tensor]] = []
        self._updates = 0

    def begin_step(self) -> None:
        """Choose the modules of the step, and copy the buffers: a step with a non-finite number can be undone."""
        self.trained = trained_at(self.method, self.step, list(self.modules))
        self._bad = torch.zeros_like(self._bad)
        self._undo, self._updates = [], 0
        for module in self.modules.values():
            self._remember(module.buffers())
        self._buffers = list(self._undo)

    def undo_pass(self) -> None:
        """Drop all gradients and restore the buffers (running statistics) of the step's start, after out of memory.

        Otherwise the repeated pass would count the micro-batches of the failed one twice.
        """
        for module in self.modules.values():
            module.zero_grad(set_to_none=True)
        with torch.no_grad():
            for tensor, old in self._buffers:
                tensor.copy_(old)

    def _remember(self, tensors: Iterable[Tensor]) -> None:
        self._undo += [(tensor, tensor.detach().clone()) for tensor in tensors]

    def update(self, lr: float, name: str = NETWORK) -> Tensor:
        """Take one optimizer step of one module from its averaged gradients; return their norm.

        The module stays unchanged if a gradient of this step is not finite.
        """
        optimizer = self.optimizers[name]
        self._updates += 1
        if self._updates < len(self.trained):  # a later module's non-finite gradient must undo this update too
            self._remember(self.modules[name].parameters())
            self._remember(value for moments in optimizer.state.values() for value in moments.values())
        limit = self.settings.clip_norm or math.inf
        norm = torch.nn.utils.clip_grad_norm_(self.modules[name].parameters(), limit)
        for group in optimizer.param_groups:
            group["lr"] = lr
        self._bad = torch.maximum(self._bad, (~norm.detach().isfinite()).to(self._bad.dtype))
        if not self.on_host:
            # As torch's GradScaler: where found_inf is 1, the fused kernel leaves weights, moments and step unchanged.
            optimizer.found_inf = self._bad  # type: ignore[attr-defined]
        if not (self.on_host and self._bad):
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return norm.detach()

    def end_step(self) -> None:
        """Count the step and update the EMA (with ema_decay 0 it equals the network).

        A step with a non-finite number changes only the counts, and one in which the network takes no step leaves the
        EMA as it is. On an accelerator this forces no sync.
        """
        self.step += 1
        skipped = self._bad > 0
        self.skipped = self.skipped + skipped
        self.in_a_row = (self.in_a_row + 1) * skipped
        average: list[Tensor] = list(self.ema.parameters())
        new: list[Tensor] = list(self.network.parameters())
        with torch.no_grad():
            if not self.on_host or skipped:
                for tensor, old in self._undo:
                    tensor.copy_(torch.where(skipped.to(tensor.device), old, tensor))
                # The average of equal numbers is that number: a skipped step leaves the EMA as it is.
                new = [torch.where(skipped, old, value) for old, value in zip(average, new, strict=True)]
            if NETWORK in self.trained:
                # As torch's AveragedModel, without its module, whose names and counter a checkpoint would hold.
                get_ema_multi_avg_fn(ema_decay(self.settings, self.step))(average, new, self.step)  # type: ignore[no-untyped-call]
                for kept, buffer in zip(self.ema.buffers(), self.network.buffers(), strict=True):
                    kept.copy_(buffer)
        self._undo, self._buffers = [], []

    def ema_run(self, recipe: Recipe, folder: Path) -> Run:
        """The run at this step with the weights of the EMA, to restore images during the training."""
        return Run(folder, recipe, self.method.with_network(self.ema), self.step, self.in_a_row.device)

    def counters(self) -> dict[str, int]:
        """The counters of a checkpoint, without its step. Reading them waits for the device."""
        return {"skipped": int(self.skipped), "in_a_row": int(self.in_a_row)}

    def parts(self) -> dict[str, Mapping[str, Tensor]]:
        """The tensors of a checkpoint, by file name without suffix."""
        parts: dict[str, Mapping[str, Tensor]] = {"ema": self.ema.state_dict()}
        for name, module in self.modules.items():
            moments = self.optimizers[name].state_dict()["state"]
            names = [parameter for parameter, _ in module.named_parameters()]
            parts[name] = module.state_dict()
            parts[_optimizer_part(name)] = {
                f"{names[i]}/{slot}": torch.as_tensor(value)
                for i, kept in moments.items()
                for slot, value in kept.items()
            }
        return parts

    def load(self, checkpoint: Checkpoint) -> None:
        """Load a checkpoint.

        Raises:
            UserError: A part or tensor is missing or of another shape, or the weights were imported.
        """
        where = str(checkpoint.folder)
        if "imported" in checkpoint.state:
            raise UserError(
                f"{where}: imported weights, without the state of a training; start a new run from them by train --from"
            )
        load_weights(self.ema, checkpoint.tensors("ema"), where)
        for name, module in self.modules.items():
            load_weights(module, checkpoint.tensors(name), where)
            self._load_moments(name, checkpoint)
        self.step = checkpoint.step
        for name in self.counters():
            value = checkpoint.state.get(name, 0 if checkpoint.format == UNSEALED else None)
            if type(value) is not int or not 0 <= value < 2**63:
                raise UserError(f"{where}: the checkpoint's counter '{name}' is missing or no number")
            setattr(self, name, torch.full_like(self.skipped, value))

    def _load_moments(self, module: str, checkpoint: Checkpoint) -> None:
        optimizer, part = self.optimizers[module], _optimizer_part(module)
        stored = checkpoint.tensors(part)
        state: dict[int, dict[str, Tensor]] = {}
        for i, (name, parameter) in enumerate(self.modules[module].named_parameters()):
            state[i] = {}
            for slot in ("step", "exp_avg", "exp_avg_sq"):
                value = stored.pop(f"{name}/{slot}", None)
                if value is None or (slot != "step" and value.shape != parameter.shape):
                    raise UserError(f"{checkpoint.folder}: {part}'s '{name}/{slot}' is missing or of another shape")
                # Moments take their parameter's memory layout (channels_last): the fused kernel indexes raw memory.
                state[i][slot] = value if slot == "step" else torch.empty_like(parameter).copy_(value)
        for name in stored:
            raise UserError(f"{checkpoint.folder}: {part}'s '{name}' belongs to no weight of the recipe's network")
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def freeze(network: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Exclude the parameters whose names match a pattern from training; return their names.

    They get no gradient, so that AdamW neither updates nor shrinks them. Buffers (running statistics) are not excluded.

    Args:
        patterns: Shell patterns, in which * also matches dots: "input_blocks.*", "*.bias".

    Raises:
        UserError: A pattern matches no parameter, or no parameter is left.
    """
    names = dict(network.named_parameters())
    parts = {f"{name.split('.')[0]}.*" for name in names}
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UserError(f"train.freeze: '{pattern}' matches no parameter{did_you_mean(pattern, parts)}")
    frozen = [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]
    if len(frozen) == len(names):
        raise UserError(f"train.freeze: {', '.join(patterns)}: no parameter is left to train")
    for name in frozen:
        names[name].requires_grad_(False)
    return frozen


def _start_moments(optimizer: torch.optim.Optimizer) -> None:
    """Create the moments that AdamW creates at its first step, so that a checkpoint of step 0 has all its parts."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            optimizer.state[parameter] = {
                "step": torch.zeros((), device=parameter.device if group["fused"] else "cpu"),
                "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
                "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
            }


def _optimizer_part(name: str) -> str:
    return "optimizer" if name == NETWORK else f"{name}-optimizer"
