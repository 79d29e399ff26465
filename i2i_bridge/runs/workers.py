"""Worker processes that take tasks one at a time, each with one copy of what the tasks need."""

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
Opened = Callable[[], Callable[[Task], Result]]
"""Opens, in a worker process, what the tasks need, and returns the function of a task. Must be picklable."""


@dataclass(frozen=True)
class Lost:
    """Stands for a result whose worker process has ended."""

    how: str
    """In words, to follow "the worker process"."""


@dataclass(frozen=True)
class _Failure:
    """An exception that ends the whole work."""

    error: Exception


@dataclass
class _Worker:
    process: BaseProcess
    task: Any = None
    """What it works on; None while it starts."""


def dealt(
    tasks: Sequence[Task],
    opened: "Opened[Task, Result]",
    *,
    workers: int,
    threads: int,
    clean: Callable[[Task, int], None],
) -> Generator[tuple[Task | None, Result | Lost], None, None]:
    """Deal tasks to worker processes; yield each task with its result, in the order in which they end.

    A process takes the next task when it has finished one, so that tasks may be of any size. One that is killed loses
    its task alone: the others take the rest. Where all have ended, the rest of the tasks is not yielded. Closing the
    generator, as an exception at its place does, ends all processes at once.

    Args:
        tasks: Picklable, none of them None.
        opened: Called once in each process.
        workers: Number of processes, started afresh ("spawn") with the plug-ins of this one.
        threads: torch's threads in each.
        clean: Called with a task that was not finished and the id of its process, which has ended.

    Yields:
        Task and result; a `Lost` for one whose process has ended, with None for a process that ended while it started.

    Raises:
        Exception: What `opened` or a task raised in its process.
    """
    left, pool = iter(tasks), dict[Connection, _Worker]()
    try:
        for _ in range(workers):
            connection, process = _started(opened, threads)
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


def _started(opened: "Opened[Task, Result]", threads: int) -> tuple[Connection, BaseProcess]:
    """Start a worker process that Ctrl-C does not reach: the terminal sends it to all, and this process answers it."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, opened, loaded_plugins(), threads), daemon=True)
    resource_tracker.ensure_running()  # before the signal is blocked, since it unblocks it
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()  # the mask is inherited
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    theirs.close()  # otherwise the pipe would stay open when the process ends
    return ours, process


def _serve(connection: Connection, opened: "Opened[Task, Result]", plugins: Sequence[str], threads: int) -> None:
    """What a worker process does: open once, then answer one task at a time, until it is killed."""
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
                    work = opened()
                else:
                    answer = work(task)
            except Exception as error:  # sent to the other process, which raises it
                answer = _Failure(_sendable(error))
            connection.send(answer)
            task = None if isinstance(answer, _Failure) else connection.recv()


def _sendable(error: Exception) -> Exception:
    """An exception that another process can unpickle: a class of a plug-in or a library may need other arguments."""
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
    """Kill a process, if it still runs, and clean up after its task; how it ended, in words."""
    process = worker.process
    process.kill()
    process.join()
    if worker.task is not None:
        clean(worker.task, process.pid or 0)
    if process.exitcode == -signal.SIGKILL:
        return "was killed, as a system does that is out of memory; fewer --jobs or a --tile need less"
    return f"ended unexpectedly ({exit_text(process.exitcode or 0)}); --jobs 1 shows where"
