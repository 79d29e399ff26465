"""The state of a run in training, all of it: what a checkpoint holds and a step changes."""

import copy
import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from i2i_bridge.checkpoint import Checkpoint
from i2i_bridge.errors import UserError
from i2i_bridge.randomness import global_seed, key
from i2i_bridge.recipe import Recipe
from i2i_bridge.run import load_weights


class TrainState:
    """Everything a run must not lose: network, moving average, optimizer moments and the step."""

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        with global_seed(key(recipe.train.seed, "initial weights"), torch.device("cpu")):
            self.network = recipe.build_network()
        self.network.to(device).to(memory_format=torch.channels_last)
        self.ema = copy.deepcopy(self.network).eval().requires_grad_(False)
        self.settings = recipe.train
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(),
            lr=recipe.train.lr,
            betas=recipe.train.betas,
            weight_decay=recipe.train.weight_decay,
            fused=device.type in ("cpu", "cuda"),
        )
        self.step = 0

    def update(self, lr: float) -> Tensor:
        """One optimizer step from the gathered gradients, and one of the moving average; returns the gradient norm."""
        limit = self.settings.clip_norm or math.inf
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), limit)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        decay = min(self.settings.ema_decay, (1 + self.step) / (10 + self.step))
        average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        with torch.no_grad():
            average(list(self.ema.parameters()), list(self.network.parameters()), self.step)
            for kept, buffer in zip(self.ema.buffers(), self.network.buffers(), strict=True):
                kept.copy_(buffer)
        return norm.detach()

    def parts(self) -> dict[str, Mapping[str, Tensor]]:
        """The tensors of a checkpoint."""
        moments = self.optimizer.state_dict()["state"]
        names = [name for name, _ in self.network.named_parameters()]
        optimizer = {
            f"{names[i]}/{slot}": torch.as_tensor(value) for i, kept in moments.items() for slot, value in kept.items()
        }
        return {"network": self.network.state_dict(), "ema": self.ema.state_dict(), "optimizer": optimizer}

    def load(self, checkpoint: Checkpoint) -> None:
        """Take over a checkpoint.

        Raises:
            UserError: A tensor is missing or of another shape.
        """
        load_weights(self.network, checkpoint.tensors("network"), str(checkpoint.folder))
        load_weights(self.ema, checkpoint.tensors("ema"), str(checkpoint.folder))
        stored = checkpoint.tensors("optimizer")
        state: dict[int, dict[str, Tensor]] = {}
        for i, (name, parameter) in enumerate(self.network.named_parameters()):
            state[i] = {}
            for slot in ("step", "exp_avg", "exp_avg_sq"):
                value = stored.pop(f"{name}/{slot}", None)
                if value is None or (slot != "step" and value.shape != parameter.shape):
                    raise UserError(
                        f"{checkpoint.folder}: the optimizer's '{name}/{slot}' is missing or of another shape"
                    )
                # The fused update walks raw memory: moments must lie as their (channels_last) parameter does.
                state[i][slot] = value if slot == "step" else torch.empty_like(parameter).copy_(value)
        self.optimizer.load_state_dict({"state": state, "param_groups": self.optimizer.state_dict()["param_groups"]})
        self.step = checkpoint.step
