"""Training and evaluation in several processes: ranks, collective operations, and errors that concern all ranks."""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch

from i2i_bridge.errors import UserError, plural

TIMEOUT = 1800
"""Timeout of a collective operation of an evaluation, in seconds."""


@dataclass(frozen=True)
class Processes:
    """Rank of this process and number of processes that share an evaluation."""

    rank: int
    count: int

    def gather(self, values: list[Any]) -> list[Any]:
        """The concatenated lists of all processes, in rank order. A collective operation."""
        if self.count == 1:
            return values
        from accelerate.utils import gather_object

        return list(gather_object(values))


def processes(*, cpu: bool = False) -> Processes:
    """Initialise the process group of `accelerate launch` or torchrun and return this process's rank.

    Args:
        cpu: Whether the processes compute on the CPU. Only the first call has an effect.

    Raises:
        UserError: The processes are not connected; each would otherwise do all the work.
    """
    wanted = int(os.environ.get("WORLD_SIZE", "1"))
    if wanted == 1:
        return Processes(0, 1)
    from accelerate import PartialState

    # Without a GPU and without cpu=True, accelerate initialises no process group: each process would have rank 0 of 1.
    state = PartialState(cpu=cpu or not torch.cuda.is_available(), timeout=timedelta(seconds=TIMEOUT))
    if int(state.num_processes) != wanted:
        raise UserError(
            f"{plural(wanted, 'process was', 'processes were')} started, but accelerate sees {state.num_processes}"
        )
    return Processes(int(state.process_index), wanted)


PATIENCE = 3.0
"""Seconds that a process waits, after a failed collective operation, for the others to report that they are alive."""


class Ranks:
    """Collective operations of the training processes.

    Args:
        accelerator: An `accelerate.Accelerator`.
    """

    def __init__(self, accelerator: Any) -> None:
        self._accelerator = accelerator
        self.index, self.count = int(accelerator.process_index), int(accelerator.num_processes)
        self.is_first = self.index == 0

    def any(self, flag: bool) -> bool:
        """Whether a flag is set on any rank. A collective operation."""
        return self.any_of(flag)[0]

    def any_of(self, *flags: bool) -> list[bool]:
        """Whether each flag is set on any rank; one all-reduce for all flags."""
        if self.count == 1:
            return list(flags)
        # Every rank must leave the training loop at the same step, otherwise the others wait until the timeout.
        values = torch.tensor([float(flag) for flag in flags], device=self._accelerator.device)
        return [value > 0 for value in self._accelerator.reduce(values, reduction="sum").tolist()]

    def gathered(self, value: Any) -> list[Any]:
        """The values of all ranks, in rank order. A collective operation."""
        if self.count == 1:
            return [value]
        from accelerate.utils import gather_object

        return list(gather_object([value]))

    def check_all_here(self) -> None:
        """Check that all started processes belong to the process group.

        Raises:
            UserError: The launcher started more processes than the group has; each would train alone.
        """
        started = os.environ.get("WORLD_SIZE", "1")
        if started.isdecimal() and int(started) != self.count:
            raise UserError(
                f"{started} processes were started, but they do not see each other on this device; start them with "
                "torchrun on CUDA devices or with --device cpu, or start one"
            )

    def check_alike(self, facts: Mapping[str, str]) -> None:
        """Check that facts which must agree on all ranks are equal, before the first step.

        Raises:
            UserError: On every rank; the message names the rank and the fact that differs.
        """
        first, *others = self.gathered(dict(facts))
        for index, other in enumerate(others, 1):
            for name, value in first.items():
                if other[name] != value:
                    raise UserError(f"process {index} differs from process 0: {name} {other[name]}, not {value}")

    def share_problem(self, problem: Exception | None) -> None:
        """Raise an error of one rank on all ranks. A collective operation.

        Args:
            problem: The exception of this rank, raised unchanged; None if it has none.

        Raises:
            UserError: Another rank has an exception; the message names the rank.
        """
        lines = self.gathered(None if problem is None else str(problem))
        if problem is not None:
            raise problem
        for index, line in enumerate(lines):
            if line is not None:
                raise UserError(f"process {index}: {line}")

    @contextmanager
    def together(self) -> Iterator[None]:
        """Context that converts a failed collective operation to a UserError that names the missing ranks.

        Raises:
            UserError: A process ended or did not answer in time.
        """
        try:
            yield
        except RuntimeError as error:
            if self.count == 1 or not _is_collective_error(error):
                raise
            gone = self._missing()
            who = f"process {', '.join(map(str, gone))}" if gone else "another process"
            raise UserError(
                f"{who} ended, or did not answer in time (train.rank_timeout); see its own message. Run the same "
                "command again to resume from the last checkpoint"
            ) from error

    def _missing(self) -> list[int]:
        """The ranks that have ended or hang: those that do not write an entry to the store within PATIENCE seconds."""
        from torch.distributed import distributed_c10d

        try:
            store = distributed_c10d._get_default_store()
            store.set(f"lost-others/{self.index}", "1")
            time.sleep(PATIENCE)
            return [index for index in range(self.count) if not store.check([f"lost-others/{index}"])]
        except (RuntimeError, ValueError):  # the process that served the store has ended
            return []


def check_devices() -> None:
    """Check that there is a CUDA device for each process that a launcher started on this machine.

    Raises:
        UserError: There are more processes than CUDA devices.
    """
    started = os.environ.get("LOCAL_WORLD_SIZE", "1")
    if torch.cuda.is_available() and started.isdecimal() and int(started) > torch.cuda.device_count():
        raise UserError(
            f"{started} processes for {plural(torch.cuda.device_count(), 'CUDA device')}: start one for each "
            f"(torchrun --nproc_per_node={torch.cuda.device_count()}), or add --device cpu"
        )


def check_launcher() -> None:
    """Check that the launcher asks for nothing that training does not do.

    Raises:
        UserError: `accelerate launch` was told to shard the state.
    """
    for variable, option in (("ACCELERATE_USE_FSDP", "--use_fsdp"), ("ACCELERATE_USE_DEEPSPEED", "--use_deepspeed")):
        if os.environ.get(variable, "").lower() in ("1", "true"):
            raise UserError(
                f"accelerate launch {option}: training shards nothing, each process holds the whole state; launch it "
                "with --multi_gpu, and where memory is short set train.micro_batch=1 network.checkpointing=true"
            )


def leave_group() -> None:
    """Leave the process group of torchrun, if this process is in one.

    Otherwise its threads still run while the interpreter ends, and may end the process by a signal.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        from accelerate.state import AcceleratorState

        torch.distributed.destroy_process_group()
        AcceleratorState._reset_state(reset_partial_state=True)  # it holds rank and count of the group that has ended


def process_group(timeout: int) -> list[Any]:
    """The handlers for `Accelerator` that set the timeout of collective operations, in seconds."""
    from accelerate.utils import InitProcessGroupKwargs

    # accelerate passes no timeout of exactly 10 minutes, its default; torch's default for gloo is 30 minutes.
    return [InitProcessGroupKwargs(timeout=timedelta(seconds=timeout, microseconds=1))]


def _is_collective_error(error: RuntimeError) -> bool:
    text = str(error).lower()
    return isinstance(error, torch.distributed.DistError) or any(word in text for word in ("gloo", "nccl", "c10d"))
