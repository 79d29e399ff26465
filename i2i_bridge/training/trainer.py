"""The one optimisation loop.

All randomness is keyed by (seed, purpose, sample index), and the learning rate and the EMA decay are functions of the
step, so a run's state is its tensors and three numbers. The same command in the same folder resumes from the last
checkpoint and ends with the same bits as a run that was never stopped (same machine, versions, threads;
docs/reliability.md).
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from i2i_bridge import console
from i2i_bridge.console import Progress
from i2i_bridge.data.dataset import PairDataset
from i2i_bridge.data.loader import collate
from i2i_bridge.distributed import Ranks, check_devices, check_launcher, process_group
from i2i_bridge.errors import TRY_AGAIN, UserError, of_kind
from i2i_bridge.images.files import write_picture
from i2i_bridge.images.montage import montage
from i2i_bridge.images.pixels import Picture
from i2i_bridge.randomness import evaluation_noise
from i2i_bridge.recipe.recipe import Recipe
from i2i_bridge.runs.workload import free_memory
from i2i_bridge.storage.files import real_folder
from i2i_bridge.training.checkpointer import Checkpointer
from i2i_bridge.training.cost import memory_note
from i2i_bridge.training.guard import NonFiniteGuard, UnusableImages
from i2i_bridge.training.log import MetricsLog, Window
from i2i_bridge.training.preparation import Prepared, lock_and_recover, prepare
from i2i_bridge.training.state import TrainState
from i2i_bridge.training.step import training_step
from i2i_bridge.training.trackers import Trackers, check_trackers

Report = Callable[[Progress | str], None]
NOT_TRAINED_ON = ("parameters", "unusable")
"""Fields of a batch that no method uses; they are for logs and pictures."""


@dataclass(frozen=True)
class Trained:
    """The result of `train`."""

    folder: Path
    step: int
    finished: bool
    """False if `stop` returned True before the last step; the same call resumes. True after early stopping, too."""


def train(
    recipe: Recipe,
    folder: str | Path,
    *,
    report: Report | None = None,
    stop: Callable[[], bool] = lambda: False,
    cpu: bool = False,
) -> Trained:
    """Train a recipe, or resume if the folder already holds its run.

    Args:
        recipe: The recipe to train.
        folder: The run folder; made if missing.
        report: Receives a Progress every `log_every` steps, and lines of text. None: in an interactive session
            (`console.is_watched`) a bar in a terminal, lines in a notebook or at the Python prompt, else nothing.
            `lambda event: None` is always silent.
        stop: Called after each step; True saves and returns.
        cpu: Use the CPU even if there is an accelerator.

    Raises:
        UserError: The folder holds another recipe's run or is being written by one, the data are unusable, saving
            fails PATIENCE times in a row, too many losses in a row are not finite, or another process is gone.

    Examples:
        >>> from i2i_bridge import load_recipe, load_run, train
        >>> small = ["train.steps=2", "train.batch_size=2", "train.workers=0", "network.channels=8"]
        >>> train(load_recipe("demo/deblur", small), "runs/example").step
        2
        >>> load_run("runs/example").step
        2
    """
    from accelerate import Accelerator

    of_kind("recipe", recipe, Recipe, "a recipe, load_recipe(NAME or FILE)")
    # Without an accelerator and without cpu=True, accelerate treats each process of torchrun as a single process.
    cpu = cpu or not torch.accelerator.is_available()
    check_launcher()
    if not cpu:
        check_devices()
    accelerator = Accelerator(cpu=cpu, kwargs_handlers=process_group(recipe.train.rank_timeout))
    ranks = Ranks(accelerator)
    ranks.check_all_here()
    with ExitStack() as stack, ranks.together():
        if not ranks.is_first:
            report = _silent
        elif report is None:
            watched = console.is_watched()
            report = stack.enter_context(console.training_display(recipe.train.steps)) if watched else _silent
        problem = None
        try:
            run_folder = real_folder(Path(folder))
            check_trackers(recipe.train.track)
            found = lock_and_recover(recipe, run_folder, stack) if ranks.is_first else None
        except UserError as error:
            problem = error
        ranks.share_problem(problem)
        # Before the first batch is loaded. A GPU halves what does not fit; a CPU's process is killed without a word.
        note = memory_note(recipe, ranks.count, free_memory(accelerator.device)) if cpu and ranks.is_first else None
        if note is not None:
            report(note)
        try:
            prepared = prepare(recipe, run_folder, accelerator.device, ranks, stack, found)
        except UserError as error:
            problem = error
        ranks.share_problem(problem)
        ranks.check_alike(prepared.facts())
        return _run_steps(prepared, run_folder, accelerator, ranks, report, stop, stack)


def _run_steps(
    prepared: Prepared,
    folder: Path,
    accelerator: Any,
    ranks: Ranks,
    report: Report,
    stop: Callable[[], bool],
    stack: ExitStack,
) -> Trained:
    """The loop: load, step, log, save, draw, until the last step, a stop, or data that cannot be used."""
    state, steps = prepared.state, prepared.recipe.train.steps
    for line in prepared.notes:
        report(line)
    loop = _Loop(prepared, folder, accelerator, ranks, report, stack)
    problem, stopped, failed = None, False, False
    while state.step < steps and not loop.is_over:
        batch, problem = ({}, None) if stopped else _next(prepared.batches)
        stopped, failed = ranks.any_of(stopped, problem is not None)
        if stopped or failed:
            break
        loop.step(batch)
        loop.record()
        stopped = state.step < steps and stop()
    if loop.checkpointer.saved_at != state.step:
        loop.read_guards()
        loop.save(last=True)
    if failed:
        ranks.share_problem(_with_advice(problem, state.step))
    return loop.result()


class _Loop:
    """Takes the steps; logs, validates, saves checkpoints and draws samples, each at its own interval."""

    def __init__(
        self, prepared: Prepared, folder: Path, accelerator: Any, ranks: Ranks, report: Report, stack: ExitStack
    ) -> None:
        self.prepared, self.folder, self.accelerator = prepared, folder, accelerator
        self.ranks, self.report = ranks, report
        recipe, state, settings, self.score = prepared.recipe, prepared.state, prepared.recipe.train, prepared.score
        self.columns = [] if self.score is None else [self.score.column]
        self.log = MetricsLog(folder, after_step=state.step, columns=self.columns, writes=ranks.is_first)
        if settings.track and ranks.is_first:
            table = recipe.without_places().model_dump(mode="json", exclude_none=True)
            steps = {"after_step": state.step, "logged": self.log.last_step}
            self.log.trackers = Trackers(settings.track, folder, table, **steps, report=report)
            stack.callback(self.log.trackers.finish)
        self.checkpointer = Checkpointer(
            folder, recipe, ranks, prepared.machine, report, prepared.saved_at, prepared.best
        )
        self.guard = NonFiniteGuard(folder, prepared.dataset, settings.batch_size, report, ranks.is_first)
        self.unusable = UnusableImages(folder, state.step * settings.batch_size, report, ranks)
        self.window = Window()
        if settings.init is not None and prepared.saved_at is None:
            # Otherwise a resume before the first checkpoint would need the source of the weights again.
            self.checkpointer.save(state, last=False)

    @property
    def is_over(self) -> bool:
        """Whether validation ends the training early."""
        return self.score is not None and self.score.is_over

    def step(self, batch: dict[str, Any]) -> None:
        """Train on a batch."""
        state, settings = self.prepared.state, self.prepared.recipe.train
        self.unusable.add(state.step, settings.batch_size, batch)
        self.window.working()
        micro_batch = state.micro_batch
        moved = _on_device(batch, self.accelerator.device)
        outcome = training_step(state, moved, self.accelerator, self.prepared.dtype)
        if state.micro_batch != micro_batch:
            self.report(
                f"note: out of memory; from here on in micro-batches of {state.micro_batch}, same batch and result"
            )
        self.window.add(outcome)
        self.guard.add(outcome)

    def record(self) -> None:
        """Log, validate, save and draw after a step, each if it is due."""
        state, settings, score = self.prepared.state, self.prepared.recipe.train, self.score
        last = state.step == settings.steps
        logs, saves, draws = (
            last or state.step % every == 0
            for every in (settings.log_every, settings.save_every, settings.sample_every)
        )
        validates = score is not None and (last or state.step % settings.validate_every == 0)
        if logs or saves or validates:
            self.read_guards()
        progress = self.window.progress(settings.steps, self.accelerator) if logs or validates else None
        measured: dict[str, float | None] = dict.fromkeys(self.columns)
        if score is not None and validates:
            measured[score.column] = score.measure(state, self.folder, self.ranks, self.checkpointer.best)
            saves = saves or score.is_over or (score.best is not None and score.best.step == state.step)
            self.window.restart()
        if progress is not None:
            _write_optional(self.report, "metrics.jsonl", partial(self.log.write, progress.row() | measured))
            self.report(progress)
        if saves:
            self.save(last=last)
        if draws and self.ranks.is_first:
            file = self.folder / "samples" / f"step-{state.step:08d}.png"
            validation, trackers = self.prepared.validation, self.log.trackers
            draw = partial(_write_samples, file, self.prepared.recipe, state, validation, trackers)
            _write_optional(self.report, str(file), draw)
            self.window.restart()
        self.window.waiting()

    def read_guards(self) -> None:
        """Report skipped steps and replaced images."""
        self.guard.read()
        self.unusable.write()

    def save(self, *, last: bool) -> None:
        """Save a checkpoint."""
        self.checkpointer.save(self.prepared.state, None if self.score is None else self.score.best, last=last)

    def result(self) -> Trained:
        """The result of this call; if the training has ended, a line reports the best step."""
        state, steps, score = self.prepared.state, self.prepared.recipe.train.steps, self.score
        early = self.is_over and state.step < steps
        if score is not None and score.best is not None and (early or state.step >= steps):
            best = score.best
            why = f"stopped early: {best.failures} validations without a better one; " if early else ""
            self.report(f"{why}best step {best.step}: {best.value:.6g}, {best.rule} (--checkpoint best)")
        return Trained(self.folder, state.step, early or state.step >= steps)


def _next(batches: Iterator[dict[str, Any]]) -> tuple[dict[str, Any], Exception | None]:
    """The next batch, or the error of loading it: the caller saves the steps so far before it raises the error."""
    try:
        return next(batches), None
    except Exception as error:
        return {}, error


def _with_advice(problem: Exception | None, step: int) -> Exception | None:
    """An error of the data loader during training, extended by the step that was saved and how to resume."""
    if not isinstance(problem, UserError):
        return problem
    if problem.code == TRY_AGAIN:
        then = "run the same command again to resume"
    else:
        then = "repair it, or pass over such images by data.on_error=skip; the same command resumes"
    late = UserError(f"{problem}; saved at step {step}: {then}", problem.code)
    late.__cause__ = problem
    return late


def _write_optional(report: Report, what: str, write: Callable[[], object]) -> None:
    """Write a file that training does not depend on; report a failure and continue."""
    try:
        write()
    except (OSError, UserError) as error:
        reason = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
        report(f"{what} not written ({reason}); training continues")


def _silent(event: Any) -> None:
    """Discard a report; used on all ranks but 0, and in sessions that are not interactive."""


def _on_device(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """The fields of a batch that methods use, their tensors on the device."""
    moved = {name: value for name, value in batch.items() if name not in NOT_TRAINED_ON}
    for name, value in moved.items():
        if isinstance(value, Tensor):
            layout = torch.channels_last if value.ndim == 4 else torch.preserve_format
            moved[name] = value.to(device, non_blocking=True, memory_format=layout)
    return moved


SAMPLE_ROWS = 4
"""Number of validation images in a picture of samples."""


def _write_samples(
    file: Path, recipe: Recipe, state: TrainState, validation: PairDataset, trackers: Trackers | None
) -> None:
    """Write a picture of the first validation images, X_1 | NFE 1 | NFE of the recipe | X_0; send it to the trackers.

    Raises:
        UserError: A validation image cannot be used, or the file cannot be written.
    """
    run = state.ema_run(recipe, file.parents[1])
    table: list[list[Tensor]] = []
    counts = sorted({1, recipe.sample.nfe})
    header = ["degraded", *(f"NFE {nfe}" for nfe in counts), "clean"]
    for i in range(min(SAMPLE_ROWS, len(validation))):
        item = validation[i]
        batch = collate([item])
        restored = [
            run.restore_batch(batch, nfe=nfe, generator=[evaluation_noise(recipe.evaluate.seed, item["key"])])[0]
            for nfe in counts
        ]
        table.append([item["x_1"], *restored, item["x_0"]])
    sheet = montage(table, header)
    write_picture(file, Picture(sheet), root=run.folder)
    if trackers is not None:
        trackers.picture(file, sheet, state.step)
