"""Toy data and toy runs of the self-test, all below one folder."""

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from i2i_bridge import Recipe, train
from i2i_bridge.images.files import write_picture
from i2i_bridge.images.pixels import Picture
from i2i_bridge.recipe.load import parse_recipe
from i2i_bridge.runs.checkpoint import latest_checkpoint

STEPS, SAVE_EVERY = 12, 3
"""Settings of a toy run."""


class Failed(Exception):
    """A check of the self-test failed."""


class Bench:
    """Toy data and runs below the folder `home`."""

    def __init__(self, home: Path, *, full: bool) -> None:
        self.home, self.full = home, full
        draw = np.random.default_rng(0)
        for split, count in (("train", 12), ("val", 2)):
            for i in range(count):
                flat = draw.integers(0, 256, (4, 4, 3), dtype=np.uint8)
                write_picture(
                    home / "photos" / split / f"{i}.png", Picture(np.kron(flat, np.ones((8, 8, 1), np.uint8)))
                )

    def recipe(self, **settings: Any) -> Recipe:
        """A recipe that trains in seconds."""
        return parse_recipe(
            {
                "name": "selftest",
                "summary": "a toy",
                "task": "restoration",
                "data": {
                    "root": str(self.home.resolve() / "photos"),
                    "source": {"name": "images"},
                    "size": 16,
                    "resize": "none",
                    "crop": "random",
                    "validation_size": 16,
                },
                "degradation": {"name": "noise", "std": 0.3},
                "network": {"name": "unet", "channels": 8, "channel_mult": [1, 2], "blocks_per_level": 1},
                "train": {
                    "steps": STEPS,
                    "batch_size": 4,
                    "lr": 1e-3,
                    "workers": 0,
                    "save_every": SAVE_EVERY,
                    "sample_every": 1000,
                    "log_every": SAVE_EVERY,
                    "precision": "fp32",
                }
                | settings,
            },
            "selftest",
        )

    def trained(self, name: str, *, cpu: bool = True, **settings: Any) -> dict[str, Tensor]:
        """Train or resume the run of that name in this process; return its tensors."""
        train(self.recipe(**settings), self.home / name, cpu=cpu, report=lambda event: None)
        return self.state(name)

    def state(self, name: str) -> dict[str, Tensor]:
        """All tensors of a run's newest checkpoint: weights, EMA, optimizer."""
        checkpoint, _ = latest_checkpoint(self.home / name / "checkpoints")
        if checkpoint is None:
            raise Failed("the run left no checkpoint")
        parts = ("network", "ema", "optimizer")
        return {f"{part}/{key}": value for part in parts for key, value in checkpoint.tensors(part).items()}

    def start(self, name: str, *launcher: str, **settings: Any) -> "subprocess.Popen[str]":
        """Start `i2i-bridge train` in a new process."""
        file = self.home / f"{name}.toml"
        file.write_text(self.recipe(**settings).to_toml(), encoding="utf-8")
        options = ["--out", str(self.home / name), "--device", "cpu"]
        return subprocess.Popen(
            [sys.executable, *launcher, "-m", "i2i_bridge.cli", "train", str(file), *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )


def largest_difference(left: dict[str, Tensor], right: dict[str, Tensor]) -> float:
    """Largest absolute difference of two states; 0 only if they are equal bit for bit."""
    if left.keys() != right.keys():
        raise Failed("the checkpoints hold different tensors")
    largest = 0.0
    for key, value in left.items():
        if not torch.equal(value, right[key]):
            largest = max(largest, float((value.double() - right[key].double()).abs().max()), 1e-45)
    return largest


def gradient_difference(left: dict[str, Tensor], right: dict[str, Tensor]) -> float:
    """Norm of the difference of the optimizer's first moments, relative to their norm.

    Weights are not compared: where a gradient is zero up to rounding, Adam divides by its size and takes a full step.
    """
    moments = [key for key in left if key.endswith("/exp_avg")]
    distance = math.sqrt(sum(float((left[key].double() - right[key].double()).square().sum()) for key in moments))
    return distance / math.sqrt(sum(float(left[key].double().square().sum()) for key in moments))
