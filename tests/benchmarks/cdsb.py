"""A training step of CDSB's halves beside the bridge's: `python tests/benchmarks/cdsb.py`.

The network of demo/deblur with X_1 as its condition, 64 x 64, batch 8, one thread: processor time of a whole step
(median of rounds in which all take turns), and the most memory above that of a process with everything imported. Writes
runs/bench/cdsb.md and .json.
"""

import argparse
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import torch
from timing import Row, Sheet, interleaved, milliseconds, peak_mb

from i2i_bridge.randomness import generator
from i2i_bridge.recipe.load import load_recipe
from i2i_bridge.recipe.presets import method_preset
from i2i_bridge.training.state import TrainState
from i2i_bridge.training.step import training_step

SIDES = {"bridge": 0, "half 0": 0, "forward half": 1, "backward half": 2}
"""Rows, and the step that each repeats: halves of CDSB are of one step here."""


def step(side: str, tiny: bool) -> Callable[[], Any]:
    """`training_step` as `train` calls it, again and again at the same step."""
    from accelerate import Accelerator

    batch, size = (2, 16) if tiny else (8, 64)
    settings = ["process.name=i2sb", "target.name=i2sb", "network.condition_channels=3", f"train.batch_size={batch}"]
    settings += ["network.channels=8", "network.channel_mult=[1,2]"] if tiny else []
    if side == "bridge":
        recipe = load_recipe("demo/deblur", settings, method_preset("bridge"))
    else:
        settings += ["method.first_steps=1", "method.half_steps=1"]
        recipe = load_recipe("demo/deblur", settings, method_preset("cdsb"))
    state, accelerator = TrainState(recipe, torch.device("cpu")), Accelerator(cpu=True)
    draws = generator(0, "benchmark")
    pair = {name: torch.randn(batch, 3, size, size, generator=draws) for name in ("x_0", "x_1")}

    def act() -> None:
        state.step = SIDES[side]
        training_step(state, pair, accelerator, torch.float32)

    return act


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tiny", action="store_true", help="a tiny network, to try the script")
    parser.add_argument("--peak", choices=SIDES, help="print the memory of three steps of one row, in MB")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.peak:
        from accelerate import Accelerator

        Accelerator(cpu=True)  # imported before what is counted
        before = peak_mb()
        act = step(options.peak, options.tiny)
        for _ in range(3):
            act()
        print(peak_mb() - before)
        return
    taken = interleaved({side: step(side, options.tiny) for side in SIDES}, options.rounds)
    batch = 2 if options.tiny else 8
    rows: list[Row] = []
    for side, seconds in taken.items():
        command = [sys.executable, __file__, "--peak", side, *(["--tiny"] if options.tiny else [])]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        cost = milliseconds(seconds)
        ratio = cost / milliseconds(taken["bridge"])
        memory = float(done.stdout.splitlines()[-1])
        rows.append({"step": side, "ms": cost, "images/s": 1e3 * batch / cost, "times the bridge": ratio, "MB": memory})
    Sheet("cdsb").table("a training step", rows)


if __name__ == "__main__":
    main()
