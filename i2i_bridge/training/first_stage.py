"""The start of the process of a run with [mean]: the output of its first stage."""

from typing import Any

import torch
from torch import Tensor

from i2i_bridge.methods.mean import Mean
from i2i_bridge.randomness import generator


def start_of(mean: Mean | None, seed: int, item: dict[str, Any]) -> Tensor:
    """The start of the process for an item of a dataset: X_1, or the mean's output; (C, H, W), on the CPU."""
    if mean is None:
        x_1: Tensor = item["x_1"]
        return x_1
    device = next(mean.method.network.parameters()).device
    batch = {name: value[None].to(device) for name, value in item.items() if isinstance(value, Tensor)}
    if "label" in item:
        batch["label"] = torch.tensor([item["label"]], device=device)
    return mean(batch, [generator(seed, "moments", str(item["key"]))])[0].cpu()
