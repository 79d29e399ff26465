"""Times taken side by side, and what they are printed and kept as.

Sides take turns round by round, so that a busy machine slows all of them; a ratio is the median of the rounds'. On
one thread the clock is the processor's: on a shared machine the wall's counts the others' work too.
"""

import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

FOLDER = Path("runs") / "bench"
Row = dict[str, str | float]


def clock() -> Callable[[], float]:
    """Seconds of this process's processor time on one thread, else of the wall."""
    return time.process_time if torch.get_num_threads() == 1 else time.perf_counter


def interleaved(
    sides: Mapping[str, Callable[[], Any]], rounds: int, now: Callable[[], float] | None = None
) -> dict[str, list[float]]:
    """Seconds of each side in each round by a clock, by default `clock`, after one round unmeasured."""
    now = now or clock()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(rounds + 1):
        for name, act in sides.items():
            began = now()
            act()
            if turn:
                seconds[name].append(now() - began)
    return seconds


def speed(seconds: Mapping[str, Sequence[float]], side: str, beside: str) -> float:
    """How many times faster `side` is than `beside`: the median over rounds."""
    return statistics.median(b / a for a, b in zip(seconds[side], seconds[beside], strict=True))


def milliseconds(seconds: Sequence[float]) -> float:
    """The median."""
    return statistics.median(seconds) * 1e3


def law(name: str, sizes: Sequence[float], acts: Sequence[Callable[[], Any]], rounds: int) -> Row:
    """Cost against size: c = floor + slope * size by least squares, and p of (c - floor) ~ size^p.

    The row holds the floor, the exponent above it, and the largest deviation from the line, relative to it.
    """
    taken = interleaved({str(size): act for size, act in zip(sizes, acts, strict=True)}, rounds)
    # The least of the rounds: noise only adds. Relative errors: else the largest size decides alone.
    cost = [min(taken[str(size)]) for size in sizes]
    weights = [1 / c**2 for c in cost]
    total = sum(weights)
    x, y = (sum(w * v for w, v in zip(weights, values, strict=True)) / total for values in (sizes, cost))
    across = sum(w * (s - x) * (c - y) for w, s, c in zip(weights, sizes, cost, strict=True))
    slope = across / sum(w * (s - x) ** 2 for w, s in zip(weights, sizes, strict=True))
    floor = max(y - slope * x, 0.0)
    logs = [(math.log(s), math.log(c - floor)) for s, c in zip(sizes, cost, strict=True) if c > floor]
    u, v = (statistics.mean(values) for values in zip(*logs, strict=True))
    power = sum((a - u) * (b - v) for a, b in logs) / sum((a - u) ** 2 for a, _ in logs)
    off = max(abs(c / (floor + slope * s) - 1) for s, c in zip(sizes, cost, strict=True))
    return {
        "cost against": name,
        "sizes": " ".join(f"{size:g}" for size in sizes),
        "ms": " ".join(f"{c * 1e3:.0f}" for c in cost),
        "floor, ms": floor * 1e3,
        "exponent above it": power,
        "off the line, %": off * 100,
    }


def peak_mb() -> float:
    """The most memory that this process has held so far, in MB."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def computes_bf16() -> bool:
    """Whether `precision = "auto"` is bf16 on this CPU."""
    from i2i_bridge.device import resolve_precision

    return resolve_precision("auto", torch.device("cpu")) == torch.bfloat16


def machine() -> Row:
    """What the figures were taken on."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return {
        "cpu": next(names, platform.processor()),
        "cores": str(os.cpu_count()),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "bf16 in hardware": str(computes_bf16()),
        "threads": str(torch.get_num_threads()),
        "load": f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "?",
        "torch": torch.__version__,
    }


class Sheet:
    """The tables of one benchmark: shown as they come, kept as NAME.md and NAME.json in runs/bench."""

    def __init__(self, name: str) -> None:
        self.name, self.text = name, f"# {name}\n"
        self.tables: dict[str, list[dict[str, str | float]]] = {}
        self.table("machine", [machine()])

    def table(self, title: str, rows: Sequence[Mapping[str, str | float]]) -> None:
        """Add a table, show it, and write all so far."""
        self.tables[title] = [dict(row) for row in rows]
        columns = list(rows[0])
        lines = [f"\n## {title}\n", "| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
        for row in rows:
            cells = (f"{row[c]:.4g}" if isinstance(row[c], float) else str(row[c]) for c in columns)
            lines.append("| " + " | ".join(cells) + " |")
        added = "\n".join(lines) + "\n"
        self.text += added
        print(added, flush=True)
        FOLDER.mkdir(parents=True, exist_ok=True)
        (FOLDER / f"{self.name}.md").write_text(self.text)
        (FOLDER / f"{self.name}.json").write_text(json.dumps(self.tables, indent=1))
