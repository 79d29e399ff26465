"""Processes that train or evaluate together, as forks of this one: a tenth of the price of `accelerate launch`."""

import os
import signal
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Ended:
    """How a process ended."""

    code: int | None
    """None for one that hung until it was killed from here; negative for a signal."""
    seconds: float
    said: str


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def together(count: int, work, folder: Path, timeout: float = 1800, hangs: int = -1) -> list[Ended]:
    """Run `work(rank)` in `count` forks that find each other; what they print is in `said`.

    Args:
        hangs: A process that is killed once it is the only one left.
    """
    port = free_port()
    folder.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    began, pids = time.monotonic(), {}
    for rank in range(count):
        pid = os.fork()
        if pid == 0:
            _child(rank, count, port, work, folder / f"rank-{rank}.txt")
        pids[pid] = rank
    ended: dict[int, Ended] = {}
    while pids:
        pid, status = _any_of(pids)
        seconds = time.monotonic() - began
        if pid:
            ended[pids.pop(pid)] = Ended(os.waitstatus_to_exitcode(status), seconds, "")
        elif seconds > timeout or list(pids.values()) == [hangs]:
            for pid, rank in pids.items():
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                ended[rank] = Ended(None, seconds, "")
            pids = {}
        else:
            time.sleep(0.05)
    for rank, one in ended.items():
        one.said = (folder / f"rank-{rank}.txt").read_text(errors="replace")
    return [ended[rank] for rank in range(count)]


def _any_of(pids):
    for pid in pids:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return found, status
    return 0, 0


def _child(rank, count, port, work, log):
    code = 1
    try:
        from accelerate.state import AcceleratorState

        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1)
        os.dup2(out, 2)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
        AcceleratorState._reset_state(reset_partial_state=True)
        if count > 1:
            os.environ |= {
                "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count),
                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
            }  # fmt: skip
        code = work(rank) or 0
    except BaseException as error:
        code = getattr(error, "code", 1) or 0  # a command ends by SystemExit
        print(f"{type(error).__name__}: {error}", flush=True)
    finally:
        sys.stdout.flush()
        os._exit(code if isinstance(code, int) else 1)
