"""Several processes that train or evaluate together."""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch

from i2i_bridge.errors import UserError

LOST_AFTER = 1800
"""Seconds that processes wait for the slowest of them."""


@dataclass(frozen=True)
class Processes:
    """This process among those that share the work."""

    rank: int
    count: int

    def gather(self, values: list[Any]) -> list[Any]:
        """The lists of all processes, one after the other; waits for all."""
        if self.count == 1:
            return values
        from accelerate.utils import gather_object

        return list(gather_object(values))


def processes(*, cpu: bool = False) -> Processes:
    """This process among those that `accelerate launch` or torchrun started.

    Args:
        cpu: Whether they compute on the CPU; decided by the first call.

    Raises:
        UserError: They do not see each other: each would do all the work.
    """
    wanted = int(os.environ.get("WORLD_SIZE", "1"))
    if wanted == 1:
        return Processes(0, 1)
    import torch
    from accelerate import PartialState

    # Without a GPU and without being told, accelerate takes each process for the only one.
    patience = timedelta(seconds=LOST_AFTER)
    state = PartialState(cpu=cpu or not torch.cuda.is_available(), timeout=patience)
    if int(state.num_processes) != wanted:
        raise UserError(f"{wanted} processes were started, but accelerate sees {state.num_processes}")
    return Processes(int(state.process_index), wanted)


PATIENCE = 3.0
"""Seconds that a process which lost another waits for the others' word."""


class Ranks:
    """This process among those of an accelerator.

    Args:
        accelerator: Of accelerate.
    """

    def __init__(self, accelerator: Any) -> None:
        self._accelerator = accelerator
        self.index, self.count = int(accelerator.process_index), int(accelerator.num_processes)
        self.is_first = self.index == 0

    def any(self, flag: bool) -> bool:
        """Whether a flag is set in any process; all wait for all."""
        return self.any_of(flag)[0]

    def any_of(self, *flags: bool) -> list[bool]:
        """Of each flag, whether it is set in any process; one exchange for all of them."""
        if self.count == 1:
            return list(flags)
        # Every process must leave the loop at the same step, or the others wait for ever.
        values = torch.tensor([float(flag) for flag in flags], device=self._accelerator.device)
        return [value > 0 for value in self._accelerator.reduce(values, reduction="sum").tolist()]

    def gathered(self, value: Any) -> list[Any]:
        """The values of all processes, in their order; all wait for all."""
        if self.count == 1:
            return [value]
        from accelerate.utils import gather_object

        return list(gather_object([value]))

    def check_all_here(self) -> None:
        """
        Raises:
            UserError: The launcher started more processes than see each other: each would train alone.
        """
        started = os.environ.get("WORLD_SIZE", "1")
        if started.isdecimal() and int(started) != self.count:
            raise UserError(
                f"{started} processes were started, but they do not see each other on this device; start them with "
                "torchrun on CUDA devices or with --device cpu, or start one"
            )

    def check_alike(self, facts: Mapping[str, str]) -> None:
        """Compare what must be the same in every process before the first step.

        Raises:
            UserError: In all of them: which process differs in what.
        """
        first, *others = self.gathered(dict(facts))
        for index, other in enumerate(others, 1):
            for name, value in first.items():
                if other[name] != value:
                    raise UserError(f"process {index} differs from process 0: {name} {other[name]}, not {value}")

    def share_problem(self, problem: Exception | None) -> None:
        """One process's mistake ends them all, with its line.

        Raises:
            UserError: Any of the other processes has one; this process's own is raised as it is.
        """
        lines = self.gathered(None if problem is None else str(problem))
        if problem is not None:
            raise problem
        for index, line in enumerate(lines):
            if line is not None:
                raise UserError(f"process {index}: {line}")

    @contextmanager
    def together(self) -> Iterator[None]:
        """Turns a failed exchange with other processes into one line that names who is gone.

        Raises:
            UserError: A process ended or did not answer in time.
        """
        try:
            yield
        except RuntimeError as error:
            if self.count == 1 or not _is_exchange(error):
                raise
            gone = self._missing()
            who = f"process {', '.join(map(str, gone))}" if gone else "another process"
            raise UserError(
                f"{who} ended, or did not answer in time (train.rank_timeout); see its own message. The same command "
                "goes on from the last checkpoint"
            ) from error

    def _missing(self) -> list[int]:
        """Who does not say that it lost the others: those that ended or hang."""
        from torch.distributed import distributed_c10d

        try:
            store = distributed_c10d._get_default_store()
            store.set(f"lost-others/{self.index}", "1")
            time.sleep(PATIENCE)
            return [index for index in range(self.count) if not store.check([f"lost-others/{index}"])]
        except (RuntimeError, ValueError):  # the store went with the process that kept it
            return []


def check_devices() -> None:
    """
    Raises:
        UserError: A launcher started more processes on this machine than it has CUDA devices.
    """
    started = os.environ.get("LOCAL_WORLD_SIZE", "1")
    if torch.cuda.is_available() and started.isdecimal() and int(started) > torch.cuda.device_count():
        raise UserError(
            f"{started} processes for {torch.cuda.device_count()} CUDA device(s): start one for each "
            f"(torchrun --nproc_per_node={torch.cuda.device_count()}), or add --device cpu"
        )


def process_group(timeout: int) -> list[Any]:
    """For accelerate: processes that do not answer within so many seconds are given up."""
    from accelerate.utils import InitProcessGroupKwargs

    return [InitProcessGroupKwargs(timeout=timedelta(seconds=timeout))]


def _is_exchange(error: RuntimeError) -> bool:
    text = str(error).lower()
    return isinstance(error, torch.distributed.DistError) or any(word in text for word in ("gloo", "nccl", "c10d"))
