"""The state of a run in training, all of it: what a checkpoint holds and a step changes."""

import copy
import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from i2i_bridge.checkpoint import Checkpoint
from i2i_bridge.errors import UserError
from i2i_bridge.randomness import global_seed, key
from i2i_bridge.recipe import Recipe
from i2i_bridge.run import build_method, load_weights

NETWORK = "network"
"""The name of the network among the modules; its companions have their own."""


class TrainState:
    """Everything a run must not lose: network, moving average, companions, optimizer moments and the step."""

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        cpu, seed = torch.device("cpu"), recipe.train.seed
        with global_seed(key(seed, "initial weights"), cpu):
            self.network = recipe.build_network()
        with global_seed(key(seed, "initial weights of companions"), cpu):
            self.method = build_method(recipe, self.network)
        self.modules: dict[str, nn.Module] = {NETWORK: self.network, **self.method.companions()}
        for module in self.modules.values():
            module.to(device).to(memory_format=torch.channels_last)
        self.ema = copy.deepcopy(self.network).eval().requires_grad_(False)
        self.settings = recipe.train
        self.micro_batch = recipe.train.micro_batch
        """Samples of a forward pass, None for all; `training_step` halves it where they do not fit into memory."""
        self.optimizers = {
            name: torch.optim.AdamW(
                module.parameters(),
                lr=recipe.train.lr,
                betas=recipe.train.betas,
                weight_decay=recipe.train.weight_decay,
                fused=device.type in ("cpu", "cuda"),
            )
            for name, module in self.modules.items()
        }
        self.step = 0

    def update(self, lr: float, name: str = NETWORK) -> Tensor:
        """One optimizer step of one module, from its gathered gradients; returns their norm."""
        optimizer = self.optimizers[name]
        limit = self.settings.clip_norm or math.inf
        norm = torch.nn.utils.clip_grad_norm_(self.modules[name].parameters(), limit)
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return norm.detach()

    def end_step(self) -> None:
        """Count the step, and take the network's new weights into the moving average (ema_decay 0: they are it)."""
        self.step += 1
        decay = min(self.settings.ema_decay, (1 + self.step) / (10 + self.step))
        average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        with torch.no_grad():
            average(list(self.ema.parameters()), list(self.network.parameters()), self.step)
            for kept, buffer in zip(self.ema.buffers(), self.network.buffers(), strict=True):
                kept.copy_(buffer)

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
            raise UserError(f"{where}: imported weights, without the state of a training: train into another --out")
        load_weights(self.ema, checkpoint.tensors("ema"), where)
        for name, module in self.modules.items():
            load_weights(module, checkpoint.tensors(name), where)
            self._load_moments(name, checkpoint)
        self.step = checkpoint.step

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
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _optimizer_part(name: str) -> str:
    return "optimizer" if name == NETWORK else f"{name}-optimizer"
