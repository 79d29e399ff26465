"""Training batches: a resumable stream of samples, and the worker processes that load them."""

import contextlib
import multiprocessing.connection
import os
import signal
import threading
import warnings
from collections.abc import Generator, Iterator, Mapping, Sequence
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from i2i_bridge.data.dataset import PairDataset
from i2i_bridge.errors import TRY_AGAIN, UserError
from i2i_bridge.plugins import load_plugin, loaded_plugins

STOP_SIGNALS = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP")
"""Signals by which a terminal or a scheduler stops a run; SIGHUP: the terminal was closed."""


LESS_MEMORY = "lower train.workers or data.load_size, or give the job more memory"


class _TrainingSamples(Dataset[Any]):
    """Map-style dataset of training samples. Errors are returned, not raised: a DataLoader would wrap an exception."""

    def __init__(self, dataset: PairDataset) -> None:
        self.dataset = dataset

    def __getitem__(self, number: int) -> dict[str, Any] | UserError:
        try:
            return self.dataset.sample(number)
        except UserError as error:
            return error
        except MemoryError:
            return UserError(f"not enough memory to read a training image; {LESS_MEMORY}", TRY_AGAIN)


class WithPlugins(Dataset[Any]):
    """Wrapper of a dataset whose classes may come from plug-ins, for spawned workers.

    When it is unpickled, the plug-in modules are imported before the dataset; otherwise the worker could not unpickle
    the dataset's classes.
    """

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Any:
        return self.dataset[index]

    def __reduce__(self) -> tuple[Any, ...]:
        return _with_plugins, (_Plugins(), self.dataset)  # unpickled in this order


class _Plugins:
    """Placeholder whose unpickling imports the plug-ins."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _load_plugins, (loaded_plugins(),)


def _load_plugins(files: list[str]) -> None:
    for file in files:
        load_plugin(file)


def _with_plugins(plugins: None, dataset: Dataset[Any]) -> WithPlugins:
    return WithPlugins(dataset)


class _BatchSampler(Sampler[list[int]]):
    """Endless batch sampler: the global sample numbers of one process for each step."""

    def __init__(self, batch_size: int, start_step: int, rank: int, world_size: int) -> None:
        self.batch_size, self.start_step = batch_size, start_step
        self.share = batch_size // world_size
        self.offset = rank * self.share

    def __iter__(self) -> Iterator[list[int]]:
        step = self.start_step
        while True:
            first = step * self.batch_size + self.offset
            yield list(range(first, first + self.share))
            step += 1


def collate(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The batch of items of one size: tensors stacked, keys as a list."""
    batch: dict[str, Any] = default_collate([{k: v for k, v in item.items() if k != "unusable"} for item in items])
    # Not by default_collate, which accepts no lists of different lengths.
    return batch | {"unusable": [item.get("unusable", []) for item in items]}


def _collate(items: list[dict[str, Any] | UserError]) -> dict[str, Any] | UserError:
    usable = []
    for item in items:
        if isinstance(item, UserError):
            return item
        usable.append(item)
    return collate(usable)


def _init_worker(worker: int) -> None:
    """Initialise a worker process: ignore stop signals, and exit when the training process has ended."""
    # Terminals and schedulers signal all processes of a job. Only the training process handles the signal: it saves
    # before it stops, and needs its workers until then.
    for name in STOP_SIGNALS:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    # torch's own watchdog checks between two batches only, and fails if the parent ends while the worker starts.
    exit_with_parent()


def exit_with_parent() -> None:
    """Let this process exit as soon as the process that started it has ended."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_exit_with, args=(parent.sentinel,), daemon=True).start()


def _exit_with(sentinel: int) -> None:
    """Wait until the parent process has ended, then exit."""
    multiprocessing.connection.wait([sentinel])
    os._exit(1)


class _WorkerWatch:
    """Reports workers that have ended, only while the training process waits for a batch.

    torch's SIGCHLD handler raises an exception at any point, also within an optimizer step or a save; the run's state
    could then not be saved.

    Args:
        workers: The worker processes of the loader, already started.
    """

    def __init__(self, workers: list[BaseProcess]) -> None:
        self._workers, self._is_waiting = workers, False
        main = threading.current_thread() is threading.main_thread() and hasattr(signal, "SIGCHLD")
        self._torch_handler = signal.getsignal(signal.SIGCHLD) if main else None
        if callable(self._torch_handler):
            signal.signal(signal.SIGCHLD, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._is_waiting and callable(self._torch_handler):
            self._torch_handler(number, frame)

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Context around the wait for a batch.

        Raises:
            UserError: A worker has ended, or memory is exhausted.
        """
        self._is_waiting = True
        try:
            if self._ended():
                raise RuntimeError("DataLoader worker exited unexpectedly")
            yield
        except (RuntimeError, MemoryError, OSError, EOFError) as error:
            self._is_waiting = False
            if isinstance(error, OSError | EOFError):  # the connections of a worker close before the process has ended
                self._join_ended()
            problem = worker_problem(error, self._ended())
            if problem is None:
                raise
            raise problem from error
        finally:
            self._is_waiting = False

    def _join_ended(self) -> None:
        """Wait until a worker has ended, at most 5 seconds, and join it."""
        sentinels = {worker.sentinel: worker for worker in self._workers}
        for ready in multiprocessing.connection.wait(list(sentinels), timeout=5) if sentinels else []:
            sentinels[ready].join(5)  # type: ignore[index]

    def _ended(self) -> list[int]:
        return [worker.exitcode for worker in self._workers if worker.exitcode is not None]

    def close(self) -> None:
        """Restore torch's signal handler."""
        if callable(self._torch_handler):
            with contextlib.suppress(ValueError):  # called in another thread
                signal.signal(signal.SIGCHLD, self._torch_handler)


def worker_problem(error: Exception, codes: list[int], less: str = LESS_MEMORY) -> UserError | None:
    """Convert an error caused by a lost data worker or by lack of memory to a UserError; None for other errors.

    Args:
        error: The exception.
        codes: Exit codes of the workers that have ended, as in `multiprocessing`.
        less: Advice on how to use less memory, for the message.
    """
    text = str(error)
    shared = ("shared memory", "bus error", "unable to write to file </torch", "unable to mmap")
    if -signal.SIGBUS in codes or any(word in text.lower() for word in shared):
        return UserError(
            "a data worker found no room in shared memory (/dev/shm); give the container more "
            "(docker run --shm-size=8g), or set train.workers=0",
            TRY_AGAIN,
        )
    if -signal.SIGKILL in codes or "killed by signal: Killed" in text:
        return UserError(f"a data worker was killed, as a system does that is out of memory; {less}", TRY_AGAIN)
    if isinstance(error, MemoryError):
        return UserError(f"not enough memory to read the images; {less}", TRY_AGAIN)
    if codes or "DataLoader worker (pid" in text:
        how = exit_text(codes[0]) if codes else " ".join(text.split())
        return UserError(f"a data worker ended unexpectedly ({how}); train.workers=0 shows where", TRY_AGAIN)
    return None


def exit_text(code: int) -> str:
    """How a process ended, by its exit code as in `multiprocessing`: 'exit code 1', 'SIGKILL'."""
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name


def training_batches(
    dataset: PairDataset, batch_size: int, *, start_step: int = 0, rank: int = 0, world_size: int = 1, workers: int = 0
) -> Generator[dict[str, Any], None, None]:
    """An endless stream of training batches from any step, the same for every number of workers.

    Step s of a run of W processes takes the sample numbers s B ... (s + 1) B - 1; process r the r-th of W equal parts.
    Closing the generator ends its workers.

    Args:
        dataset: The dataset.
        batch_size: Batch size B over all processes.
        start_step: Number of the first step.
        rank: Rank of this process.
        world_size: Number of processes W.
        workers: Number of worker processes; 0 loads in this process.

    Raises:
        UserError: An item is unusable, raised when its batch is reached; or a worker was killed or lacks memory.
    """
    with warnings.catch_warnings():
        # Otherwise torch warns of more workers than processors; the number of workers is the recipe's.
        warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)
        loader: DataLoader[Any] = DataLoader(
            WithPlugins(_TrainingSamples(dataset)),
            batch_sampler=_BatchSampler(batch_size, start_step, rank, world_size),
            num_workers=workers,
            collate_fn=_collate,
            worker_init_fn=_init_worker,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=workers > 0,
            # Otherwise the loader draws the workers' base seed from the global generator. No sample uses that seed.
            generator=torch.Generator().manual_seed(0),
        )
        before = {child.pid for child in multiprocessing.active_children()}
        batches = iter(loader)
    processes = [child for child in multiprocessing.active_children() if child.pid not in before]
    watch = _WorkerWatch(processes)
    try:
        while True:
            with watch.waiting():
                batch = next(batches)
            if isinstance(batch, UserError):
                raise batch
            yield batch
    finally:
        if processes:
            batches._shutdown_workers()  # type: ignore[attr-defined]
        for process in processes:  # a worker blocked in a read does not exit by itself, and ignores SIGTERM
            process.kill()
            process.join()
        watch.close()
