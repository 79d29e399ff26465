"""Batches of a training: a resumable stream of samples, and the workers that read them."""

import contextlib
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Generator, Iterator
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from i2i_bridge.data.dataset import PairDataset
from i2i_bridge.errors import TRY_AGAIN, UserError
from i2i_bridge.registry import load_plugin, loaded_plugins

STOP_SIGNALS = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP")
"""What a terminal (SIGHUP: it was closed) or a scheduler sends to stop a run."""


LESS_MEMORY = "lower train.workers or data.load_size, or give the job more memory"


class _Stream(Dataset[Any]):
    """`sample` as a map-style dataset for the loader; a mistake travels as a value, since workers would wrap it."""

    def __init__(self, dataset: PairDataset) -> None:
        self.dataset = dataset

    def __getitem__(self, number: int) -> dict[str, Any] | UserError:
        try:
            return self.dataset.sample(number)
        except UserError as error:
            return error
        except MemoryError:
            return UserError(f"not enough memory to read a training image; {LESS_MEMORY}", TRY_AGAIN)


class Afresh(Dataset[Any]):
    """A dataset whose classes may come from plug-ins, for workers that start without them (spawn).

    Pickled, it is rebuilt with its arguments in their order: first the plug-ins' modules are loaded, then the dataset.
    """

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Any:
        return self.dataset[index]

    def __reduce__(self) -> tuple[Any, ...]:
        return _revived, (_Plugins(), self.dataset)


class _Plugins:
    def __reduce__(self) -> tuple[Any, ...]:
        return _load_plugins, (loaded_plugins(),)


def _load_plugins(files: list[str]) -> None:
    for file in files:
        load_plugin(file)


def _revived(plugins: None, dataset: Dataset[Any]) -> Afresh:
    return Afresh(dataset)


class _Batches(Sampler[list[int]]):
    """The global sample numbers of one process, batch after batch, without end."""

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


def _collate(items: list[dict[str, Any] | UserError]) -> dict[str, Any] | UserError:
    for item in items:
        if isinstance(item, UserError):
            return item
    plain = [{name: value for name, value in item.items() if name != "unusable"} for item in items]  # type: ignore[union-attr]
    batch: dict[str, Any] = default_collate(plain)
    # One list for each sample, empty for most, which default_collate does not take.
    return batch | {"unusable": [item.get("unusable", []) for item in items]}  # type: ignore[union-attr]


def _bind(worker: int) -> None:
    """Begins a worker: deaf to stop signals, and gone when the training process is, however that ended."""
    # Terminals signal a whole process group, schedulers every process of a job: the training process alone decides
    # when to stop, and saves first.
    for name in STOP_SIGNALS:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    # torch's own watch looks between two batches only, and is deceived if the parent dies while the worker starts.
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_follow, args=(parent.sentinel,), daemon=True).start()


def _follow(sentinel: int) -> None:
    multiprocessing.connection.wait([sentinel])
    os._exit(1)


class _Watch:
    """Notices workers that died, but only while a batch is waited for.

    torch's own handler of SIGCHLD raises wherever the program is, also within an optimizer step or a save; the state
    of that moment could then not be saved.

    Args:
        workers: The loader's processes, started already.
    """

    def __init__(self, workers: list[BaseProcess]) -> None:
        self._workers, self._is_waiting = workers, False
        main = threading.current_thread() is threading.main_thread() and hasattr(signal, "SIGCHLD")
        self._theirs = signal.getsignal(signal.SIGCHLD) if main else None
        if callable(self._theirs):
            signal.signal(signal.SIGCHLD, self._heed)

    def _heed(self, number: int, frame: FrameType | None) -> None:
        if self._is_waiting and callable(self._theirs):
            self._theirs(number, frame)

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """While a batch is fetched.

        Raises:
            UserError: A worker died, or memory does not suffice.
        """
        self._is_waiting = True
        try:
            if self._ended():
                raise RuntimeError("DataLoader worker exited unexpectedly")
            yield
        except (RuntimeError, MemoryError, OSError, EOFError) as error:
            self._is_waiting = False
            if isinstance(error, OSError | EOFError):  # a dying worker's connections close before it has ended
                self._wait_for_an_end()
            problem = worker_problem(error, self._ended())
            if problem is None:
                raise
            raise problem from error
        finally:
            self._is_waiting = False

    def _wait_for_an_end(self, seconds: float = 5) -> None:
        sentinels = {worker.sentinel: worker for worker in self._workers}
        for ready in multiprocessing.connection.wait(list(sentinels), timeout=seconds) if sentinels else []:
            sentinels[ready].join(seconds)  # type: ignore[index]

    def _ended(self) -> list[int]:
        return [worker.exitcode for worker in self._workers if worker.exitcode is not None]

    def close(self) -> None:
        """Put torch's handler back."""
        if callable(self._theirs):
            with contextlib.suppress(ValueError):  # closed from another thread
                signal.signal(signal.SIGCHLD, self._theirs)


def worker_problem(error: Exception, codes: list[int], less: str = LESS_MEMORY) -> UserError | None:
    """What the loss of a data worker, or its lack of memory, means; None for another error.

    Args:
        codes: Exit codes of the workers that ended, as `multiprocessing` gives them.
        less: What to do where memory does not suffice.
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
        how = _how(codes[0]) if codes else " ".join(text.split())
        return UserError(f"a data worker ended unexpectedly ({how}); train.workers=0 shows where", TRY_AGAIN)
    return None


def _how(code: int) -> str:
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name


def training_batches(
    dataset: PairDataset,
    batch_size: int,
    *,
    start_step: int = 0,
    rank: int = 0,
    world_size: int = 1,
    workers: int = 0,
) -> Generator[dict[str, Any], None, None]:
    """An endless stream of training batches from any step on, the same for every number of workers.

    When it is closed its workers are gone.

    Step s of a run of W processes takes the sample numbers s B ... (s + 1) B - 1; process r the r-th of W equal parts.

    Args:
        batch_size: B, over all processes.

    Raises:
        UserError: An item is unusable, raised when its batch is reached; or a worker was killed or lacks memory.
    """
    loader: DataLoader[Any] = DataLoader(
        Afresh(_Stream(dataset)),
        batch_sampler=_Batches(batch_size, start_step, rank, world_size),
        num_workers=workers,
        collate_fn=_collate,
        worker_init_fn=_bind,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=workers > 0,
        # The loader draws its workers' base seed from somewhere; no sample uses it.
        generator=torch.Generator().manual_seed(0),
    )
    before = {child.pid for child in multiprocessing.active_children()}
    batches = iter(loader)
    mine = [child for child in multiprocessing.active_children() if child.pid not in before]
    watch = _Watch(mine)
    try:
        while True:
            with watch.waiting():
                batch = next(batches)
            if isinstance(batch, UserError):
                raise batch
            yield batch
    finally:
        if mine:
            batches._shutdown_workers()  # type: ignore[attr-defined]  # they are asked to go
        for child in mine:  # whoever is stuck in a file, and deaf to the signal that torch sends next
            child.kill()
            child.join()
        watch.close()
