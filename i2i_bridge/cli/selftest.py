"""Self-test: check the guarantees about runs that depend on this machine's disk, devices and installed versions.

The checks write, lock, kill and resume in a folder of the user's choice, through the public command and functions.
What does not depend on the machine is checked by the package's tests.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from i2i_bridge import UserError
from i2i_bridge.cli.toy_runs import SAVE_EVERY, STEPS, Bench, Failed, gradient_difference, largest_difference
from i2i_bridge.device import resolve_device
from i2i_bridge.errors import located, plural
from i2i_bridge.randomness import generator
from i2i_bridge.storage.files import write_whole
from i2i_bridge.storage.lock import locked

Level = Literal["quick", "full"]
ENDLESS = 1_000_000
"""Steps of a run that is killed long before its end."""
PATIENCE = 300.0
"""Seconds that a started process may take."""


@dataclass(frozen=True)
class Finding:
    """Result of one check."""

    name: str
    passed: bool
    seconds: float
    detail: str

    def row(self) -> dict[str, Any]:
        """The fields as a dict, for JSON."""
        return asdict(self)


def _compare(left: dict[str, Tensor], right: dict[str, Tensor], what: str) -> str:
    difference = largest_difference(left, right)
    if difference:
        raise Failed(f"{what}: tensors differ by up to {difference:.1e}")
    return f"{what}: {plural(len(left), 'tensor')} equal to the bit"


def check_flush(bench: Bench) -> str:
    """Write, flush and rename files over one another with `write_whole`, which writes the files of runs."""
    final = bench.home / "flush" / "file"
    times = []
    for i in range(200 if bench.full else 30):
        data = str(i).encode() * 1000
        start = time.perf_counter()
        write_whole(final, data)
        times.append(time.perf_counter() - start)
        if final.read_bytes() != data or len(list(final.parent.iterdir())) > 1:
            raise Failed("a rename did not replace the old file by the new one")
    times.sort()
    return f"a flushed file takes {times[len(times) // 2] * 1000:.1f} ms, at most {times[-1] * 1000:.0f} ms"


LOCKER = """
import sys, time
from pathlib import Path
from i2i_bridge.storage.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def check_lock(bench: Bench) -> str:
    """The lock on a run folder excludes other processes, and is released when its process is killed."""
    folder = bench.home / "lock"
    holder = subprocess.Popen([sys.executable, "-c", LOCKER, str(folder)], stdout=subprocess.PIPE, text=True)
    try:
        line = holder.stdout.readline() if holder.stdout else ""
        if line.strip() != "held":
            raise Failed("a run folder cannot be locked here")
        if _can_lock(folder):
            raise Failed(
                "two processes hold the same lock (a file system without locks): never train twice in a folder"
            )
        holder.kill()
        holder.wait()
        deadline = time.monotonic() + PATIENCE
        while not _can_lock(folder):
            if time.monotonic() > deadline:
                raise Failed("a killed process keeps its lock")
            time.sleep(0.1)
        return "a second process is refused; a killed process releases the lock"
    finally:
        holder.kill()
        holder.wait()
        if holder.stdout:
            holder.stdout.close()


def _can_lock(folder: Path) -> bool:
    try:
        with locked(folder):
            return True
    except UserError:
        return False


def check_resume(bench: Bench) -> str:
    """Kill a run with SIGKILL after a checkpoint and resume it: equal bits to an uninterrupted run."""
    rounds = 8 if bench.full else 1
    draw = np.random.default_rng(1)
    for i in range(rounds):
        name = f"killed-{i}"
        # Endless, so that the run does not end before the kill on a fast machine. With a constant rate its first steps
        # are those of a short run.
        process = bench.start(name, save_every=1, keep=2, steps=ENDLESS)
        wanted = int(draw.integers(1, STEPS - 2))
        _wait_until(process, lambda name=name, wanted=wanted: _last_step(bench.home / name) >= wanted)  # type: ignore[misc]
        time.sleep(float(draw.random()) * 0.05)
        _kill(process)
        output, _ = process.communicate()
        stopped = _last_step(bench.home / name)
        if stopped < wanted:
            raise Failed(f"the run to be killed ended after step {stopped}: {_cause(output)}")
        steps = max(STEPS, stopped + 2)
        whole = bench.trained(f"reference-{steps}", steps=steps)
        resumed = bench.trained(name, save_every=1, keep=2, steps=steps)
        outcome = _compare(whole, resumed, f"killed after step {stopped}")
    return outcome if rounds == 1 else f"killed {rounds} times at random moments, each time equal to the bit"


def _last_step(folder: Path) -> int:
    names = [path.name for path in (folder / "checkpoints").glob("step-*")] if folder.is_dir() else []
    return max((int(name.removeprefix("step-")) for name in names), default=0)


def _wait_until(process: "subprocess.Popen[str]", reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None and not reached():
        if time.monotonic() > deadline:
            _kill(process)
            raise Failed(f"a run did not reach its checkpoint in {PATIENCE:.0f} s")
        time.sleep(0.005)


def _kill(process: "subprocess.Popen[str]") -> None:
    """Kill a process and the processes of its session; one that has ended by itself stays as it ended."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL) if hasattr(os, "killpg") else process.kill()


def check_ranks(bench: Bench) -> str:
    """Two ranks compute the same gradients as one process.

    If they fail, what they and torchrun have written goes to the standard error output.
    """
    # By address: the name of a machine without a network may not resolve.
    launcher = ("-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", "--local_addr=127.0.0.1")
    process = bench.start("ranks", *launcher, steps=SAVE_EVERY)
    try:
        output, _ = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        _kill(process)
        raise Failed(f"two processes did not end in {PATIENCE:.0f} s") from None
    if process.returncode:
        sys.stderr.write(output)
        raise Failed(f"two processes: exit code {process.returncode}: {_cause(output)}")
    return _compare_gradients(bench.trained("one", steps=SAVE_EVERY), bench.state("ranks"), "1 and 2 processes")


def _cause(output: str) -> str:
    """The first line that names an error in the output of several processes; torchrun's own summary comes after it."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    named = [line for line in lines if re.match(r"(error\b|\w+(\.\w+)*(Error|Exception)\b|terminate called)", line)]
    return (named or lines or ["no output"])[0][:150]


def _compare_gradients(left: dict[str, Tensor], right: dict[str, Tensor], what: str) -> str:
    difference = gradient_difference(left, right)
    if not difference < 1e-3:
        raise Failed(f"{what}: gradients differ by {difference:.1e} of their norm")
    return f"{what}: gradients of {SAVE_EVERY} steps differ by {difference:.1e} of their norm"


def check_device(bench: Bench) -> str:
    """The network gives the same output on this machine's device as on the CPU, and a run on the device resumes."""
    device = resolve_device(None)
    network = bench.recipe().build_network().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(
                torch.empty_like(parameter).normal_(0, 0.1, generator=generator(0, "selftest", str(parameter.shape)))
            )
    x, t = torch.rand(2, 3, 32, 32, generator=generator(0, "selftest")) * 2 - 1, torch.tensor([0.3, 0.9])
    with torch.inference_mode():
        on_cpu = network(x, t)
        on_device = network.to(device)(x.to(device), t.to(device)).cpu()
    difference = float((on_cpu - on_device).abs().max() / on_cpu.abs().max())
    if not difference < 1e-2:
        raise Failed(f"{device} and cpu: outputs differ by {difference:.1e} of the largest")
    if device.type == "cpu":
        return "this machine has only a cpu"
    resumed = bench.trained("device-half", cpu=False, steps=STEPS // 2) and bench.trained("device-half", cpu=False)
    whole = bench.trained("device", cpu=False)
    distance = gradient_difference(whole, resumed)
    if not distance < 1e-3:
        raise Failed(f"{device}: the gradients of a resumed run differ by {distance:.1e} of their norm")
    exact = f"but for {distance:.1e} of its gradients" if largest_difference(whole, resumed) else "to the bit"
    return f"{device} and cpu differ by {difference:.1e}; a resumed run is as an uninterrupted one {exact}"


CHECKS: dict[str, Callable[[Bench], str]] = {
    "flush and rename": check_flush,
    "lock": check_lock,
    "kill and resume": check_resume,
    "device": check_device,
    "two processes": check_ranks,
}


def run_checks(level: Level, folder: Path) -> Iterator[Finding]:
    """Run every check of a level, in a temporary folder below `folder`.

    Raises:
        UserError: The folder cannot be written.
    """
    with located(folder, "cannot be written", OSError):
        folder.mkdir(parents=True, exist_ok=True)
        home = tempfile.TemporaryDirectory(prefix="selftest-", dir=folder, ignore_cleanup_errors=True)
    threads = torch.get_num_threads()
    # Toy runs are fastest with one thread, above all on a busy machine.
    torch.set_num_threads(1)
    with home as name:
        bench = Bench(Path(name), full=level == "full")
        for check, function in CHECKS.items():
            start = time.perf_counter()
            try:
                passed, detail = True, function(bench)
            except (Failed, UserError, OSError, RuntimeError) as error:
                passed, detail = False, " ".join(str(error).split())[:200]
            yield Finding(check, passed, time.perf_counter() - start, detail)
    torch.set_num_threads(threads)
