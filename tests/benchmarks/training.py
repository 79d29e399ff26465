"""A training step beside diffusers' UNet2DModel of the same weights: `python tests/benchmarks/training.py`.

64 x 64, 4.474 M parameters, batch 4, one thread (--threads): our whole step (draw t and noise, forward, loss, backward,
AdamW, EMA) beside diffusers' network in a loop as its examples have it (torch's AdamW, diffusers' EMAModel), in fp32
and, where the CPU computes in it, by bf16 autocast; what our loop adds to bare forward, backward and optimizer; what a
shipped recipe waits for data; and cost against batch, pixels and processes. With --compile also what `train.compile`
costs at the start, without and with torch's cache on disk, and what it saves a step (ten minutes or more). Needs the
extra `bench`. Writes runs/bench/training.md and .json.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from timing import Row, Sheet, computes_bf16, interleaved, law, milliseconds, speed
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn
from twins import B64, TINY, ours, theirs

from i2i_bridge.device import compile_blocks
from i2i_bridge.randomness import generator
from i2i_bridge.recipe.load import load_recipe
from i2i_bridge.recipe.recipe import Recipe
from i2i_bridge.training.state import TrainState
from i2i_bridge.training.step import training_step


def recipe(config: dict[str, Any], batch: int, side: int = 64) -> Recipe:
    settings = [f"data.size={side}"] + [f"network.{key}={json.dumps(value)}" for key, value in config.items()]
    return load_recipe("demo/deblur", [*settings, "network.condition_channels=0", f"train.batch_size={batch}"])


def images(batch: int, side: int) -> dict[str, Tensor]:
    draws = generator(0, "benchmark")
    pair = (torch.randn(batch, 3, side, side, generator=draws) for _ in range(2))
    return {name: x.to(memory_format=torch.channels_last) for name, x in zip(("x_0", "x_1"), pair, strict=True)}


def our_step(config: dict[str, Any], batch: int, side: int, dtype: torch.dtype) -> Callable[[], Any]:
    """`training_step` as `train` calls it."""
    from accelerate import Accelerator

    state, accelerator = TrainState(recipe(config, batch), torch.device("cpu")), Accelerator(cpu=True)
    state.network.load_state_dict(ours(config).state_dict())
    return partial(training_step, state, images(batch, side), accelerator, dtype)


def their_step(config: dict[str, Any], batch: int, side: int, dtype: torch.dtype) -> Callable[[], None]:
    """As in diffusers' own training example: AdamW with its defaults, EMAModel."""
    from diffusers.training_utils import EMAModel

    network, data = theirs(config, side, ours(config)).train(), images(batch, side)
    x_0, x_1 = (value.contiguous() for value in data.values())
    optimizer, average = torch.optim.AdamW(network.parameters()), EMAModel(network.parameters(), decay=0.99)

    def step() -> None:
        t, noise = torch.rand(batch), torch.randn_like(x_0)
        x_t = torch.lerp(x_0, x_1, t[:, None, None, None]) + noise * 0.1
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            loss = (network(x_t, t).float() - (x_t - x_0)).square().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        average.step(network.parameters())

    return step


def bare_step(config: dict[str, Any], batch: int, side: int) -> Callable[[], None]:
    """Our network with nothing but forward, backward, fused AdamW and foreach EMA."""
    network, average = ours(config).train(), ours(config)
    (x_0, x_1), t = images(batch, side).values(), torch.rand(batch)
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    merge = get_ema_multi_avg_fn(0.99)  # type: ignore[no-untyped-call]

    def step() -> None:
        (network(x_1, t) - x_0).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            merge(list(average.parameters()), list(network.parameters()), 1)

    return step


def waiting() -> Row:
    """Share of its time that a shipped recipe waits for data, as its progress line says it."""
    from i2i_bridge.training.log import read_metrics
    from i2i_bridge.training.trainer import train

    with TemporaryDirectory() as folder:
        changes = ["train.steps=30", "train.log_every=10", "train.sample_every=1000", "train.save_every=1000"]
        train(load_recipe("demo/deblur", changes), folder, cpu=True)
        rows = read_metrics(Path(folder))
    return {"recipe": "demo/deblur", "waits, %": 100 * statistics.median(row["data_share"] for row in rows[1:])}


def compiling(tiny: bool, rounds: int, threads: int) -> list[Row]:
    """Seconds to the end of the first step and milliseconds of the others, eager and compiled, in two processes."""
    rows: list[Row] = []
    with TemporaryDirectory() as cache:
        for start in ("cold", "cache on disk"):
            command = [sys.executable, __file__, "--compiled", "--rounds", str(rounds), "--threads", str(threads)]
            environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": cache}
            command += ["--tiny"] if tiny else []
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
            rows.append({"start": start} | json.loads(done.stdout.splitlines()[-1]))
    return rows


def one_compiled(config: dict[str, Any], side: int, rounds: int) -> None:
    """What each process of `compiling` does."""
    from accelerate import Accelerator

    state, accelerator = TrainState(recipe(config, 4), torch.device("cpu")), Accelerator(cpu=True)
    began = time.perf_counter()
    compile_blocks(state.network, torch.device("cpu"))
    compiled = partial(training_step, state, images(4, side), accelerator, torch.float32)
    compiled()
    first = time.perf_counter() - began
    seconds = interleaved({"compiled": compiled, "eager": our_step(config, 4, side, torch.float32)}, rounds)
    saved = statistics.median(b - a for a, b in zip(seconds["compiled"], seconds["eager"], strict=True))
    row: Row = {
        "to the end of step 1, s": first,
        "compiled, ms": milliseconds(seconds["compiled"]),
        "eager, ms": milliseconds(seconds["eager"]),
        "faster": speed(seconds, "compiled", "eager"),
        "1,000 steps save, s": 1000 * saved - first,
    }
    print(json.dumps(row))


def ranks(counts: tuple[int, ...], tiny: bool, rounds: int) -> list[Row]:
    """Milliseconds of a step of 4 images a process, by number of processes, one thread each; median of three launches.

    Launches of each number take turns, as they can't within one process.
    """
    here = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[2])])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": here}
    found: dict[int, list[dict[str, float]]] = {count: [] for count in counts}
    for count in 3 * counts:
        command = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={count}", "--standalone"]
        command += [__file__, "--rank", "--rounds", str(rounds), *(["--tiny"] if tiny else [])]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        found[count].append(json.loads(done.stdout.splitlines()[-1]))
    rows: list[Row] = []
    for count, launches in found.items():
        wall, cpu = (statistics.median(launch[clock] for launch in launches) for clock in ("wall", "cpu"))
        rows.append({"processes": count, "images": 4 * count, "wall, ms": wall, "processor, ms": cpu})
    for row in rows:
        row["wall time, of one"] = float(row["wall, ms"]) / float(rows[0]["wall, ms"])
        row["waiting, %"] = 100 * (1 - float(row["processor, ms"]) / float(row["wall, ms"]))
    return rows


def one_rank(config: dict[str, Any], side: int, rounds: int) -> None:
    """What each process of `ranks` does."""
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    count = accelerator.num_processes
    state, batch = TrainState(recipe(config, 4 * count), torch.device("cpu")), images(4, side)
    wall, cpu = [], []
    for _ in range(rounds + 1):
        began, busy = time.perf_counter(), time.thread_time()
        training_step(state, batch, accelerator, torch.float32)
        wall.append(time.perf_counter() - began)
        cpu.append(time.thread_time() - busy)
    if accelerator.is_main_process:
        print(json.dumps({"wall": statistics.median(wall[1:]) * 1e3, "cpu": statistics.median(cpu[1:]) * 1e3}))
    accelerator.end_training()


def main(rounds: int, side: int, tiny: bool, compile: bool) -> None:
    sheet = Sheet("training")
    config = TINY if tiny else B64
    sides: dict[str, Callable[[], Any]] = {
        "ours": our_step(config, 4, side, torch.float32),
        "diffusers": their_step(config, 4, side, torch.float32),
        "bare": bare_step(config, 4, side),
    }
    seconds = interleaved(sides, rounds)
    rows: list[Row] = [
        {
            "precision": "fp32",
            "ours, ms": milliseconds(seconds["ours"]),
            "diffusers, ms": milliseconds(seconds["diffusers"]),
            "than fp32 diffusers": speed(seconds, "ours", "diffusers"),
        }
    ]
    added = {"bare, ms": milliseconds(seconds["bare"]), "our loop adds, %": 100 * (speed(seconds, "bare", "ours") - 1)}
    if computes_bf16():  # elsewhere it is emulated, ten times as slow, and `precision = "auto"` means fp32
        half = {
            "ours": our_step(config, 4, side, torch.bfloat16),
            "diffusers": their_step(config, 4, side, torch.bfloat16),
            "diffusers fp32": sides["diffusers"],
        }
        seconds = interleaved(half, rounds)
        rows.append(
            {
                "precision": "bf16 autocast",
                "ours, ms": milliseconds(seconds["ours"]),
                "diffusers, ms": milliseconds(seconds["diffusers"]),
                "than fp32 diffusers": speed(seconds, "ours", "diffusers fp32"),
            }
        )
    sheet.table("one step, batch 4", rows)
    sheet.table("the loop beside forward, backward, optimizer and average", [added])

    few = 3
    counts, edges = (2, 4, 8, 16), (side // 2, side, 3 * side // 2, 2 * side)
    step = partial(our_step, config, dtype=torch.float32)
    laws = [
        law("images in a batch", counts, [step(batch=count, side=side) for count in counts], few),
        law("pixels", [edge * edge for edge in edges], [step(batch=4, side=edge) for edge in edges], few),
        law(
            "pixels, attention in the middle alone",
            [edge * edge for edge in edges],
            [our_step(config | {"attention_factors": ()}, 4, edge, torch.float32) for edge in edges],
            few,
        ),
    ]
    sheet.table("laws", laws)
    sheet.table("processes, 4 images each", ranks((1, 2), tiny, few))
    sheet.table("waiting for data", [waiting()])
    if compile:
        sheet.table("train.compile", compiling(tiny, rounds, torch.get_num_threads()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--tiny", action="store_true", help="a small network, to see that it runs")
    parser.add_argument("--compile", action="store_true", help="measure train.compile as well")
    parser.add_argument("--compiled", action="store_true", help="one of its processes")
    parser.add_argument("--rank", action="store_true", help="one of the processes that are compared")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    chosen, edge = (TINY, 16) if options.tiny else (B64, 64)
    if options.rank:
        one_rank(chosen, edge, options.rounds)
    elif options.compiled:
        one_compiled(chosen, edge, options.rounds)
    else:
        main(options.rounds, edge, options.tiny, options.compile)
