"""What further threads and worker processes gain: `python tests/benchmarks/parallel.py`, on an otherwise idle machine.

Threads: a network call and a training step, 64 x 64, 4.474 M parameters, batch 4, on 1 and on --cores threads by turns;
efficiency = t_1 / (n t_n).
Processes: `restore_files(jobs=n)` on a folder of photos of mixed sizes, one thread a process, by turns with `jobs=1`.
The start of the processes (Python, torch, the run) does not grow with the folder, so two folders are taken, and the
time of an image is the slope between them: efficiency = slope_1 / (n slope_n). With the start: the larger folder alone.
By the wall's clock. With more --cores than there are, the figures show what dealing costs, not what it gains. Writes
runs/bench/parallel.md and .json.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from timing import Row, Sheet, interleaved, milliseconds
from training import images, our_step
from twins import B64, TINY, ours

from i2i_bridge import load_run, restore_files

SIDES = ((256, 192), (96, 128), (160, 160), (64, 320), (224, 224), (128, 96))
"""Height and width of the photos, in turn."""


def on_threads(count: int, act: Callable[[], Any]) -> None:
    torch.set_num_threads(count)
    act()
    torch.set_num_threads(1)


def threads(cores: int, rounds: int, tiny: bool) -> list[Row]:
    config, side = (TINY, 16) if tiny else (B64, 64)
    network, (x, _), t = ours(config).eval(), images(4, side).values(), torch.rand(4)

    def call() -> None:
        with torch.inference_mode():
            network(x, t)

    rows: list[Row] = []
    for name, act in (("network call", call), ("training step", our_step(config, 4, side, torch.float32))):
        sides = {str(count): partial(on_threads, count, act) for count in (1, cores)}
        seconds = interleaved(sides, rounds, time.perf_counter)
        one, many = (seconds[str(count)] for count in (1, cores))
        rows.append(
            {
                "of": name,
                "1 thread, ms": milliseconds(one),
                f"{cores} threads, ms": milliseconds(many),
                "efficiency": statistics.median(a / (cores * b) for a, b in zip(one, many, strict=True)),
            }
        )
    return rows


def photos(folder: Path, count: int) -> Path:
    folder.mkdir()
    for i in range(count):
        pixels = np.random.default_rng(i).integers(0, 256, (*SIDES[i % len(SIDES)], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:03d}.png")
    return folder


def processes(name: str, cores: int, rounds: int, turns: int, nfe: int) -> Row:
    run = load_run(name, device="cpu")
    with tempfile.TemporaryDirectory() as place:
        few, many = (photos(Path(place) / str(n), n * len(SIDES)) for n in (turns, 3 * turns))
        restore = partial(restore_files, run, nfe=nfe, existing="overwrite")
        sides = {
            f"{folder.name} {jobs}": partial(restore, folder, Path(place) / f"out-{jobs}", jobs=jobs)
            for folder in (few, many)
            for jobs in (1, cores)
        }
        seconds = interleaved(sides, rounds, time.perf_counter)
    small, small_n, large, large_n = (seconds[side] for side in sides)
    slopes = [(b - a, d - c) for a, b, c, d in zip(small, large, small_n, large_n, strict=True)]
    return {
        "images": 3 * turns * len(SIDES),
        "jobs 1, s": statistics.median(large),
        f"jobs {cores}, s": statistics.median(large_n),
        "start, s": statistics.median(c - (d - c) / 2 for c, d in zip(small_n, large_n, strict=True)),
        "efficiency": statistics.median(one / (cores * of_n) for one, of_n in slopes),
        "efficiency with the start": statistics.median(a / (cores * b) for a, b in zip(large, large_n, strict=True)),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", nargs="?", default="pretrained/photos")
    parser.add_argument("--cores", type=int, default=max(os.cpu_count() or 2, 2))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--turns", type=int, default=4, help="photos of each size in the smaller folder")
    parser.add_argument("--nfe", type=int, default=5)
    parser.add_argument("--tiny", action="store_true", help="a small network, to see that it runs")
    given = parser.parse_args()
    torch.set_num_threads(1)
    sheet = Sheet("parallel")
    sheet.table("threads", threads(given.cores, given.rounds, given.tiny))
    sheet.table("worker processes", [processes(given.run, given.cores, given.rounds, given.turns, given.nfe)])
