"""A pool of worker processes that survives the loss of one; each takes one task at a time."""

import contextlib
import multiprocessing
import multiprocessing.connection
import signal
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

import torch

from i2i_bridge.data.loader import exit_text, exit_with_parent
from i2i_bridge.plugins import load_plugin, loaded_plugins, plugin_error
from i2i_bridge.storage import internet

Task = TypeVar("Task")
Result = TypeVar("Result")
Opener = Callable[[], Callable[[Task], Result]]
"""Opens in a worker process what the tasks need, such as a run; returns the function of a task. Must be picklable."""


@dataclass(frozen=True)
class Lost:
    """In place of a result: the worker process has ended."""

    how: str
    """How it ended, in words that follow "the worker process"."""


@dataclass(frozen=True)
class _Failure:
    """An exception of a task, which ends all tasks."""

    error: Exception


@dataclass
class _Worker:
    process: BaseProcess
    task: Any = None
    """The task in progress; None while the process starts."""


def imap_unordered(
    tasks: Sequence[Task],
    opener: "Opener[Task, Result]",
    *,
    workers: int,
    threads: int,
    clean: Callable[[Task, int], None],
) -> Generator[tuple[Task | None, Result | Lost], None, None]:
    """Run tasks in worker processes; yield each task with its result, in the order in which they end.

    As `multiprocessing.Pool.imap_unordered`, which hangs if a process is killed. Here only its task is lost, and
    the other processes take the rest; if all have ended, the rest of the tasks is not yielded. A process takes the
    next task when it has finished one. Closing the generator ends all processes at once.

    Args:
        tasks: Picklable, none of them None.
        opener: Called once in each process.
        workers: Number of processes, started afresh ("spawn") with the plug-ins of this one.
        threads: torch's threads in each.
        clean: Called with a task that was not finished and the id of its process, which has ended.

    Yields:
        Task and result; a `Lost` for one whose process has ended, with None for a process that ended while it started.

    Raises:
        Exception: As raised by `opener` or a task in its process.
    """
    left, pool = iter(tasks), dict[Connection, _Worker]()
    try:
        for _ in range(workers):
            connection, process = _started(opener, threads)
            pool[connection] = _Worker(process)
        while pool:
            ready = multiprocessing.connection.wait(list(pool))
            for connection in [each for each in pool if each in ready]:
                worker = pool[connection]
                task, answer = worker.task, _received(connection)
                if isinstance(answer, _Failure):
                    raise answer.error
                if isinstance(answer, Lost):
                    worker.process.join(5)  # the pipe closes before there is an exit code
                    answer = Lost(_end(pool.pop(connection), clean))
                else:
                    # Before the yield: otherwise the process would wait for what the caller does with the result.
                    worker.task = next(left, None)
                    if worker.task is None:
                        _end(pool.pop(connection), clean)
                    else:
                        with contextlib.suppress(OSError):  # it has ended, which the next wait reports
                            connection.send(worker.task)
                if task is not None or isinstance(answer, Lost):
                    yield task, answer
    finally:
        for worker in pool.values():
            _end(worker, clean)


def _started(opener: "Opener[Task, Result]", threads: int) -> tuple[Connection, BaseProcess]:
    """Start a worker process with SIGINT blocked: a terminal sends it to all processes; only this one handles it."""
    context = multiprocessing.get_context("spawn")
    connection, worker_end = context.Pipe()
    process = context.Process(target=_serve, args=(worker_end, opener, loaded_plugins(), threads), daemon=True)
    resource_tracker.ensure_running()  # before the signal is blocked, since it unblocks it
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()  # the mask is inherited
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    worker_end.close()  # otherwise the pipe would stay open when the process ends
    return connection, process


def _serve(connection: Connection, opener: "Opener[Task, Result]", plugins: Sequence[str], threads: int) -> None:
    """The loop of a worker process: open once, then answer one task at a time, until it is killed."""
    exit_with_parent()
    torch.set_num_threads(threads)
    if internet.is_offline():
        internet.go_offline()
    work: Callable[[Any], Any] | None = None
    task: Any = None
    answer: Any = None
    with contextlib.suppress(EOFError, OSError):  # the connection ends when the process that started this one has ended
        while not isinstance(answer, _Failure):
            try:
                if work is None:
                    for file in plugins:
                        load_plugin(file)
                    work = opener()
                else:
                    answer = work(task)
            except Exception as error:  # sent to the other process, which raises it
                answer = _Failure(_sendable(error))
            connection.send(answer)
            task = None if isinstance(answer, _Failure) else connection.recv()


def _sendable(error: Exception) -> Exception:
    """An exception that another process can unpickle; classes of plug-ins and libraries become RuntimeError."""
    known = plugin_error(error) or error
    plain = type(known).__module__.split(".")[0] in ("builtins", "i2i_bridge")
    return known if plain else RuntimeError(f"{type(known).__name__}: {known}")


def _received(connection: Connection) -> Any:
    """The answer of a process; `Lost` if it has ended."""
    try:
        return connection.recv()
    except (EOFError, OSError):
        return Lost("")


def _end(worker: _Worker, clean: Callable[[Any, int], None]) -> str:
    """Kill a process, if it still runs, and clean up after its task; return how it ended, in words (`Lost.how`)."""
    process = worker.process
    process.kill()
    process.join()
    if worker.task is not None:
        clean(worker.task, process.pid or 0)
    if process.exitcode == -signal.SIGKILL:
        return "was killed, as a system does that is out of memory; fewer --jobs or a --tile need less"
    return f"ended unexpectedly ({exit_text(process.exitcode or 0)}); --jobs 1 shows where"
