"""What a training says of itself: loss, rates, time left."""

import math
import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from i2i_bridge.train_state import NETWORK


@dataclass(frozen=True)
class Progress:
    """What a logged step says; loss, rates and shares are over the steps since the last one."""

    step: int
    steps: int
    loss: float
    """The network's."""
    lr: float
    grad_norm: float
    """The network's, before clipping."""
    steps_per_second: float
    data_share: float
    """Share of the time spent waiting for data, 0 to 1."""
    memory_gb: float
    """Peak so far: of the device, or of this process on a CPU."""
    seconds_left: float
    companions: dict[str, float] = field(default_factory=dict)
    """Losses of what is trained beside the network, by name."""

    def row(self) -> dict[str, float]:
        """All numbers by name, for a table: a companion's loss is `loss_NAME`."""
        row = {name: value for name, value in vars(self).items() if name != "companions"}
        return row | {f"loss_{name}": value for name, value in self.companions.items()}


class Window:
    """Sums since the last report; nothing here waits for the device."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self.steps, self.wait, self.busy = 0, 0.0, 0.0
        self.losses: list[dict[str, Tensor]] = []
        self.norms: list[dict[str, Tensor]] = []
        self.skipped: list[Tensor] = []
        self.mark = time.perf_counter()

    def waiting(self) -> None:
        now = time.perf_counter()
        self.busy += now - self.mark
        self.mark = now

    def working(self) -> None:
        now = time.perf_counter()
        self.wait += now - self.mark
        self.mark = now

    def add(self, losses: dict[str, Tensor], norms: dict[str, Tensor], skipped: Tensor) -> None:
        self.steps += 1
        self.losses.append(losses)
        self.norms.append(norms)
        self.skipped.append(skipped)

    def _mean(self, table: list[dict[str, Tensor]], name: str) -> Tensor:
        """Over the steps that were not skipped; NaN where all were."""
        values = torch.stack([step[name] for step in table])
        return values.where(torch.stack(self.skipped) == 0, math.nan).nanmean()

    def progress(self, step: int, steps: int, lr: float, accelerator: Any) -> Progress:
        losses = {
            name: accelerator.reduce(self._mean(self.losses, name), reduction="mean").item() for name in self.losses[0]
        }
        loss = losses.pop(NETWORK)
        norm = self._mean(self.norms, NETWORK).item()
        self.waiting()
        seconds = max(self.busy + self.wait, 1e-9)
        rate = self.steps / seconds
        shown = Progress(
            step,
            steps,
            loss,
            lr,
            norm,
            rate,
            self.wait / seconds,
            _peak_memory(accelerator.device),
            (steps - step) / rate,
            losses,
        )
        self.restart()
        return shown


def _peak_memory(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    try:
        import resource
    except ImportError:  # not on Windows
        return math.nan
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
