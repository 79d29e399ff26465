"""The images of a folder restored in worker processes, each with a copy of the run."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from i2i_bridge.bridge.tiles import TiledNetwork
from i2i_bridge.errors import UserError, located
from i2i_bridge.images.outputs import Job
from i2i_bridge.methods.tiles import whole_network
from i2i_bridge.networks.weights import weights_sha256
from i2i_bridge.runs.load import load_run
from i2i_bridge.runs.restorer import Outcome, Restorer, RestoreSettings, result_facts
from i2i_bridge.runs.run import Run
from i2i_bridge.runs.workers import Lost, imap_unordered
from i2i_bridge.runs.workload import pixel_count
from i2i_bridge.storage.files import remove_partial

Task = tuple[Job, int | None]
"""An image, and the side of automatically chosen tiles; None without them."""
Part = tuple[Outcome, UserError | None]
"""The outcome of one image, and the error if it could not be restored."""


def check_jobs(run: Run, jobs: int) -> None:
    """Check that worker processes can restore as this run does.

    Raises:
        UserError: The run computes elsewhere than on the CPU, or `load_run` did not open it.
    """
    if jobs < 1:
        raise UserError(f"jobs {jobs}: give 1 or more")
    if jobs > 1 and run.device.type != "cpu":
        raise UserError(
            f"jobs {jobs}: worker processes compute on the CPU, and this run on {run.device}; leave it out, or choose "
            "the device cpu"
        )
    if jobs > 1 and run.options is None:
        raise UserError(
            f"jobs {jobs}: each process opens the run's folder, and this run is not one that load_run opened"
        )


def restored_by_workers(
    run: Run,
    settings: RestoreSettings,
    tasks: Sequence[Task],
    *,
    workers: int,
    record: Callable[[Job], None],
    notes: list[str],
    report: Callable[[int], None],
) -> dict[str, Part]:
    """Restore images in worker processes, largest first.

    Args:
        record: Called with each image that is restored.
        notes: Gets a line for each process that ended while it started.
        report: Called with the number of images so far.

    Returns:
        The outcome of each image, by name; images are missing if all processes have ended before them.
    """
    parts = dict[str, Part]()

    def clean(task: Task, process: int) -> None:
        for output in task[0].outputs.values():
            remove_partial(output, process, root=settings.root)

    # Otherwise the last one to be dealt could be a large one, which the other processes would wait for.
    largest_first = sorted(tasks, key=lambda task: -pixel_count(task[0].source))
    threads = max(torch.get_num_threads() // workers, 1)
    answers = imap_unordered(largest_first, _RunOpener.of(run, settings), workers=workers, threads=threads, clean=clean)
    with closing(answers):
        for task, answer in answers:
            if task is None:
                notes += [f"a worker process {answer.how} while it started"] if isinstance(answer, Lost) else []
                continue
            job, _ = task
            if isinstance(answer, Lost):
                answer = Outcome(), UserError(f"{job.source}: the worker process {answer.how}")
            elif answer[1] is None:
                answer = answer[0], _problem(record, job)
            parts[job.name] = answer
            report(len(parts))
    return parts


def _problem(work: Callable[[Job], None], job: Job) -> UserError | None:
    """The error, if any, that work on an image raises."""
    try:
        with located(job.source):
            work(job)
    except UserError as error:
        return error
    return None


@dataclass(frozen=True)
class _RunOpener:
    """Opens the same run in a worker process (`workers.Opener`)."""

    folder: Path
    step: int
    options: Mapping[str, Any]
    tiles: tuple[int, int, int] | None
    facts: Sequence[Any]
    settings: RestoreSettings

    @classmethod
    def of(cls, run: Run, settings: RestoreSettings) -> "_RunOpener":
        network = run.method.network
        tiles = (network.side, network.overlap, network.batch) if isinstance(network, TiledNetwork) else None
        return cls(run.folder, run.step, run.options or {}, tiles, _facts(run, settings), settings)

    def __call__(self) -> Callable[[Task], Part]:
        """Open the run; return a function that restores an image and returns its outcome."""
        run = load_run(self.folder, device="cpu", checkpoint=self.step, report=lambda line: None, **self.options)
        if self.tiles is not None:
            side, overlap, batch = self.tiles
            run = run.tiled(side, overlap, batch=batch)
        if _facts(run, self.settings) != self.facts:
            raise UserError(
                f"{self.folder}: holds other weights or settings than the run that was opened before; leave jobs out"
            )
        restorer = Restorer(run, self.settings)

        def restore(task: Task) -> Part:
            (job, tile), outcome = task, Outcome()
            return outcome, _problem(lambda job: restorer.restore(job, tile, outcome), job)

        return restore


def _facts(run: Run, settings: RestoreSettings) -> list[Any]:
    """The facts in which the run of a worker process must equal this one: those of results, and the weights."""
    return [*result_facts(run, settings.nfe), weights_sha256(whole_network(run.method))]
