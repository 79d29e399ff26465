"""The state of a run in training, all of it: what a checkpoint holds and a step changes."""

import copy
import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from i2i_bridge.errors import UserError
from i2i_bridge.methods.mean import Mean
from i2i_bridge.randomness import global_seed, key
from i2i_bridge.recipe.recipe import Recipe
from i2i_bridge.runs.checkpoint import UNSEALED, Checkpoint
from i2i_bridge.runs.run import build_method, load_weights

NETWORK = "network"
"""The name of the network among the modules; its companions have their own."""


class TrainState:
    """Everything a run must not lose: network, moving average, companions, optimizer moments and the step."""

    def __init__(self, recipe: Recipe, device: torch.device, mean: Mean | None = None) -> None:
        cpu, seed = torch.device("cpu"), recipe.train.seed
        with global_seed(key(seed, "initial weights"), cpu):
            self.network = recipe.build_network()
        if next(self.network.parameters(), None) is None:
            raise UserError(f"network {type(self.network).__name__}: has no weights to train")
        with global_seed(key(seed, "initial weights of companions"), cpu):
            self.method = build_method(recipe, self.network, mean)
        self.modules: dict[str, nn.Module] = {NETWORK: self.network, **self.method.companions()}
        for module in self.modules.values():
            module.to(device).to(memory_format=torch.channels_last)
        self.ema = copy.deepcopy(self.network).eval().requires_grad_(False)
        self.settings = recipe.train
        self.micro_batch = recipe.train.micro_batch
        """Samples of a forward pass, None for all; `training_step` halves it where they do not fit into memory."""
        fused = device.type in ("cpu", "cuda")
        self.on_host = device.type == "cpu" or not fused
        """Whether the host looks at each step's numbers; else decisions are left to the device, which it need not wait
        for."""
        self.optimizers = {
            name: torch.optim.AdamW(
                module.parameters(),
                lr=recipe.train.lr,
                betas=recipe.train.betas,
                weight_decay=recipe.train.weight_decay,
                fused=fused,
            )
            for name, module in self.modules.items()
        }
        for optimizer in self.optimizers.values():
            _start_moments(optimizer)
        self.step = 0
        self.skipped, self.in_a_row = 0, 0
        """Steps whose numbers were not finite: all of them, and the last ones without a good one between."""
        self.was_skipped = torch.zeros((), device=device)
        """1 where the last step was, since a number of it was not finite, else 0; the same on every process."""
        self._bad = torch.zeros_like(self.was_skipped)
        self._before: list[tuple[Tensor, Tensor]] = []
        self._statistics: list[tuple[Tensor, Tensor]] = []
        self._updates = 0

    def begin_step(self) -> None:
        """Remember what the step changes before it is known whether its numbers are finite."""
        for module in self.modules.values():
            self._remember(module.buffers())
        self._statistics = list(self._before)

    def undo_pass(self) -> None:
        """Drop all gradients, and put back the buffers (running statistics) of the step's start: a pass did not fit.

        A repeated pass goes through all micro-batches again, and would count them twice.
        """
        for module in self.modules.values():
            module.zero_grad(set_to_none=True)
        with torch.no_grad():
            for tensor, old in self._statistics:
                tensor.copy_(old)

    def _remember(self, tensors: Iterable[Tensor]) -> None:
        self._before += [(tensor, tensor.detach().clone()) for tensor in tensors]

    def update(self, lr: float, name: str = NETWORK) -> Tensor:
        """One optimizer step of one module, from its gathered gradients; returns their norm.

        It does nothing where a gradient of this step is not finite.
        """
        optimizer = self.optimizers[name]
        self._updates += 1
        if self._updates < len(self.modules):  # another module's gradient may yet undo this
            self._remember(self.modules[name].parameters())
            self._remember(value for kept in optimizer.state.values() for value in kept.values())
        limit = self.settings.clip_norm or math.inf
        norm = torch.nn.utils.clip_grad_norm_(self.modules[name].parameters(), limit)
        for group in optimizer.param_groups:
            group["lr"] = lr
        self._bad = torch.maximum(self._bad, (~norm.detach().isfinite()).to(self._bad.dtype))
        if not self.on_host:
            # As torch's gradient scaler does: the fused kernel leaves weights, moments and their count alone at 1.
            optimizer.found_inf = self._bad  # type: ignore[attr-defined]
        if not (self.on_host and self._bad):
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return norm.detach()

    def end_step(self) -> None:
        """Count the step, and take the network's new weights into the moving average (ema_decay 0: they are it).

        A step with a number that is not finite leaves all as it was but the count; on an accelerator nothing waits.
        """
        self.step += 1
        bad, before = self._bad, self._before
        self.was_skipped, self._bad, self._before, self._updates = bad, torch.zeros_like(bad), [], 0
        if self.on_host and not bad:
            self._average()
            return
        with torch.no_grad():
            for tensor, old in before:
                tensor.copy_(torch.where(bad.to(tensor.device) > 0, old, tensor))
        if not self.on_host:
            self._average_unless(bad)

    def _decay(self) -> float:
        return min(self.settings.ema_decay, (1 + self.step) / (10 + self.step))

    def _average(self) -> None:
        average = get_ema_multi_avg_fn(self._decay())  # type: ignore[no-untyped-call]
        with torch.no_grad():
            average(list(self.ema.parameters()), list(self.network.parameters()), self.step)
        self._take_buffers()

    def _average_unless(self, bad: Tensor) -> None:
        """The same with a weight of 0 for a skipped step, decided on the device."""
        with torch.no_grad():
            kept: list[Tensor] = list(self.ema.parameters())
            new: list[Tensor] = list(self.network.parameters())
            change = torch._foreach_sub(new, kept)
            torch._foreach_mul_(change, (1 - self._decay()) * (1 - bad))
            torch._foreach_add_(kept, change)
        self._take_buffers()

    def _take_buffers(self) -> None:
        with torch.no_grad():
            for kept, buffer in zip(self.ema.buffers(), self.network.buffers(), strict=True):
                kept.copy_(buffer)

    def counters(self) -> dict[str, int]:
        """The numbers of a checkpoint, beside its step."""
        return {"skipped": self.skipped, "in_a_row": self.in_a_row}

    def parts(self) -> dict[str, Mapping[str, Tensor]]:
        """The tensors of a checkpoint, by its files' names."""
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
        """Take over a checkpoint.

        Raises:
            UserError: A part or tensor is missing or of another shape, or the weights were imported.
        """
        where = str(checkpoint.folder)
        if "imported" in checkpoint.state:
            raise UserError(
                f"{where}: imported weights, without the state of a training; start a new run from them by --init"
            )
        load_weights(self.ema, checkpoint.tensors("ema"), where)
        for name, module in self.modules.items():
            load_weights(module, checkpoint.tensors(name), where)
            self._load_moments(name, checkpoint)
        self.step = checkpoint.step
        for name in self.counters():
            value = checkpoint.state.get(name, 0 if checkpoint.format == UNSEALED else None)
            if type(value) is not int or value < 0:
                raise UserError(f"{where}: the checkpoint's counter '{name}' is missing or no number")
            setattr(self, name, value)

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
                # The fused update walks raw memory: moments must lie as their (channels_last) parameter does.
                state[i][slot] = value if slot == "step" else torch.empty_like(parameter).copy_(value)
        for name in stored:
            raise UserError(f"{checkpoint.folder}: {part}'s '{name}' belongs to no weight of the recipe's network")
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _start_moments(optimizer: torch.optim.Optimizer) -> None:
    """The moments that AdamW would make at its first step, so that a state has all its parts from the start."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            optimizer.state[parameter] = {
                "step": torch.zeros((), device=parameter.device if group["fused"] else "cpu"),
                "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
                "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
            }


def _optimizer_part(name: str) -> str:
    return "optimizer" if name == NETWORK else f"{name}-optimizer"
