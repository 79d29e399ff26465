"""Memory of a training step: `python tests/benchmarks/memory.py`. Writes runs/bench/memory.md and .json.

Computed, on shapes alone, for the paper's 256 x 256 network: what its state takes, and what autograd keeps of one image
for the backward pass. Measured, on the CPU, for a small one: the peak of a process beside what is computed. With
--adm256 also one step of the 256 x 256 network on the CPU, which takes minutes and 20 GB.
"""

import argparse
import os
import subprocess
import sys
import time
from typing import Any

import torch
from accelerate import Accelerator
from timing import Row, Sheet, peak_mb
from training import recipe
from twins import ADM256, B64

from i2i_bridge.networks.unet import UNet
from i2i_bridge.training.cost import kept_bytes
from i2i_bridge.training.state import TrainState
from i2i_bridge.training.step import training_step

EXACT = {"MALLOC_MMAP_THRESHOLD_": "16384", "MALLOC_TRIM_THRESHOLD_": "0"}
"""Of glibc: memory goes back when it is freed. Otherwise the peak holds a third more, which later maps could reuse."""


def kept(config: dict[str, Any], side: int, dtype: torch.dtype, checkpointing: bool, device: str = "meta") -> float:
    """MB that autograd keeps of one image between forward and backward; on the meta device what a GPU keeps."""
    settings = recipe(config | {"checkpointing": checkpointing}, 1, side)
    with torch.device(device):
        network = settings.build_network().to(dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return (kept_bytes(network, settings, 2) - kept_bytes(network, settings, 1)) / 1e6


def state(config: dict[str, Any]) -> float:
    """MB of weights, gradients, both moments of AdamW and the moving average, all in float32."""
    with torch.device("meta"):
        return 5 * 4 * sum(parameter.numel() for parameter in UNet(**config).parameters()) / 1e6


def measured(batch: int, checkpointing: bool) -> None:
    """In a process of its own: the peak above what the libraries take."""
    from training import our_step

    torch.set_num_threads(1)
    config = B64 | {"checkpointing": checkpointing}
    step = our_step(config, 1, 8, torch.float32)
    step()
    before = peak_mb()
    step = our_step(config, batch, 64, torch.float32)
    for _ in range(2):
        step()
    print(peak_mb() - before)


def measured_adm256(batch: int, checkpointing: bool) -> None:
    """In a process of its own: its peak over one step of the 256 x 256 network, libraries and all, and the seconds."""
    from training import images

    state = TrainState(recipe(ADM256 | {"checkpointing": checkpointing}, batch), torch.device("cpu"))
    began = time.perf_counter()
    training_step(state, images(batch, 256), Accelerator(cpu=True), torch.float32)
    print(peak_mb() / 1e3, time.perf_counter() - began)


def apart(*words: str, **variables: str) -> list[float]:
    """The numbers that a process of its own prints last."""
    environment = {**os.environ, **variables}
    done = subprocess.run(
        [sys.executable, __file__, *words], env=environment, capture_output=True, text=True, check=True
    )
    return [float(word) for word in done.stdout.splitlines()[-1].split()]


def main(adm256: bool) -> None:
    sheet = Sheet("memory")
    rows: list[Row] = []
    for dtype in (torch.float32, torch.bfloat16):
        for checkpointing in (False, True):
            rows.append(
                {
                    "network": "adm256",
                    "maps in": str(dtype).removeprefix("torch."),
                    "checkpointing": str(checkpointing),
                    "state, GB": state(ADM256) / 1e3,
                    "each image adds, GB": kept(ADM256, 256, dtype, checkpointing) / 1e3,
                }
            )
    sheet.table("computed", rows)
    rows = []
    for checkpointing in (False, True):
        words = ["--checkpointing"] * checkpointing
        peaks = [apart("--batch", str(batch), *words, **EXACT)[0] for batch in (4, 16)]
        rows.append(
            {
                "network": "B64, 64 x 64, float32",
                "checkpointing": str(checkpointing),
                "batch 4, MB": peaks[0],
                "batch 16, MB": peaks[1],
                "each image adds, MB": (peaks[1] - peaks[0]) / 12,
                "computed for a CPU, MB": kept(B64, 64, torch.float32, checkpointing, "cpu"),
                "computed for a GPU, MB": kept(B64, 64, torch.float32, checkpointing),
            }
        )
    sheet.table("measured on the CPU", rows)
    if adm256:
        rows = []
        for batch, checkpointing in ((1, False), (1, True), (2, True)):
            peak, seconds = apart("--adm256", "--batch", str(batch), *(["--checkpointing"] * checkpointing))
            rows.append({"batch": batch, "checkpointing": str(checkpointing), "peak, GB": peak, "step, s": seconds})
        sheet.table("measured on the CPU, adm256 in float32", rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--adm256", action="store_true", help="one step of the 256 x 256 network as well")
    parser.add_argument("--batch", type=int, help="one of the processes that are measured")
    parser.add_argument("--checkpointing", action="store_true", help="of that process")
    options = parser.parse_args()
    if options.batch is None:
        main(options.adm256)
    else:
        (measured_adm256 if options.adm256 else measured)(options.batch, options.checkpointing)
