"""The only optimisation loop.

All randomness is keyed by (seed, purpose, sample index), and the learning rate and the averaging decay are functions
of the step, so a run's state is its tensors and three numbers. The same command in the same folder goes on where the
last checkpoint was, and ends with the same bits as a run that was never stopped (same machine, versions, threads;
docs/reliability.md).
"""

import hashlib
import json
from collections.abc import Callable, Generator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from i2i_bridge.checkpoint import Checkpoint, check_space, latest_checkpoint, passed_over, recovered_checkpoint
from i2i_bridge.compiling import compile_blocks
from i2i_bridge.data.loading import PairDataset, first_remarks, training_batches
from i2i_bridge.data.pairs import shared_files
from i2i_bridge.data.splits import HOLD_OUT
from i2i_bridge.errors import UserError
from i2i_bridge.files import locked, real_folder, refuse_links, sweep, write_whole
from i2i_bridge.images import Picture, write_picture
from i2i_bridge.machine import machine, promise
from i2i_bridge.metrics_log import MetricsLog
from i2i_bridge.montage import montage
from i2i_bridge.precision import resolve_precision
from i2i_bridge.progress import Progress as Progress
from i2i_bridge.progress import Window
from i2i_bridge.randomness import generator
from i2i_bridge.ranks import Ranks, process_group
from i2i_bridge.recipe import Recipe
from i2i_bridge.resuming import essence, is_run_of, resolved
from i2i_bridge.run import Run, network_geometry
from i2i_bridge.saving import Saver
from i2i_bridge.shipped import RECIPE_FILE
from i2i_bridge.skipping import Skips
from i2i_bridge.stepping import training_step
from i2i_bridge.train_state import TrainState

Report = Callable[[Progress | str], None]


@dataclass(frozen=True)
class Trained:
    """How a call of `train` ended."""

    folder: Path
    step: int
    finished: bool
    """False where `stop` said so; the same call goes on."""


def train(
    recipe: Recipe,
    folder: str | Path,
    *,
    report: Report = lambda event: None,
    stop: Callable[[], bool] = lambda: False,
    cpu: bool = False,
) -> Trained:
    """Train a recipe, or go on with it where the folder already holds its run.

    Args:
        recipe: What to train.
        folder: The run folder; made if missing.
        report: Receives a Progress every `log_every` steps, and lines of text.
        stop: Asked after each step; True saves and returns.
        cpu: Stay on the CPU even where there is an accelerator.

    Raises:
        UserError: The folder holds another recipe's run or is being written by one, the data are unusable, the disk
            fails again and again, too many losses in a row are not finite, or another process is gone.
    """
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=cpu, kwargs_handlers=process_group(recipe.train.rank_timeout))
    ranks = Ranks(accelerator)
    if not ranks.is_first:
        report = _say_nothing
    with ExitStack() as held, ranks.together():
        problem = None
        try:
            here = real_folder(Path(folder))
            found = _recovered(recipe, here, held) if ranks.is_first else None
        except UserError as error:
            problem = error
        ranks.share_problem(problem)
        try:
            begun = _begin(recipe, here, accelerator.device, ranks, held, found)
        except UserError as error:
            problem = error
        ranks.share_problem(problem)
        ranks.check_alike(begun.facts)
        return _go_on(begun, accelerator, ranks, report, stop)


@dataclass
class _Begun:
    """A run before its first step of this call."""

    folder: Path
    recipe: Recipe
    dataset: PairDataset
    validation: PairDataset
    state: TrainState
    checkpoint: Checkpoint | None
    notes: list[str]
    batches: Generator[dict[str, Any], None, None]
    ahead: list[dict[str, Any]]
    """The first batch, where one is needed: it is taken before the folder is claimed."""
    facts: dict[str, str]
    machine: dict[str, str]


Found = tuple[Checkpoint | None, list[str]]


OWN_FOLDERS = ("checkpoints", "samples")
"""Folders of a run that training writes and cleans."""


def _recovered(recipe: Recipe, folder: Path, held: ExitStack) -> Found | None:
    """On the first process: lock the run folder and find the newest checkpoint; None if there is no folder.

    Leftovers of a killed run are removed only where the folder is known to be this recipe's run: otherwise they could
    be anybody's files.
    """
    if not folder.is_dir():
        return None
    held.enter_context(locked(folder))
    refuse_links(folder, OWN_FOLDERS)
    if not is_run_of(folder, recipe):
        return latest_checkpoint(folder / "checkpoints")
    found = recovered_checkpoint(folder / "checkpoints")
    sweep(folder)
    sweep(folder / "samples")
    return found


def _begin(
    recipe: Recipe, folder: Path, device: torch.device, ranks: Ranks, held: ExitStack, found: Found | None
) -> _Begun:
    settings = recipe.train
    if settings.batch_size % ranks.count:
        raise UserError(f"train.batch_size {settings.batch_size} cannot be shared by {ranks.count} processes")
    dataset, validation = recipe.build_dataset("train"), recipe.build_dataset("validation")
    checkpoint, damaged = found or latest_checkpoint(folder / "checkpoints")
    recipe = resolved(folder, recipe, dataset, started=checkpoint is not None)
    state = TrainState(recipe, device)
    _check_size(recipe, state)
    if checkpoint is not None:
        state.load(checkpoint)
    if settings.compile:
        compile_blocks(state.network, device)
    here = machine(device, ranks.count) | {"images": str(len(dataset)), "compile": str(settings.compile)}
    facts = {
        "settings": _digest(essence(recipe)),
        "images": f"{len(dataset)} ({_digest([dataset.key_of(n) for n in range(min(len(dataset), 16))])})",
        "step": str(state.step),
        "torch": here["torch"],
        "processes": str(ranks.count),
    }
    batches = training_batches(
        dataset,
        settings.batch_size,
        start_step=state.step,
        rank=ranks.index,
        world_size=ranks.count,
        workers=settings.workers,
    )
    held.callback(batches.close)
    # A folder is claimed only now that nothing is wrong with the recipe and the first images.
    ahead = [next(batches)] if state.step < settings.steps else []
    notes = first_remarks(dataset) if checkpoint is None and ranks.is_first else []
    if ranks.is_first:
        check_space(folder / "checkpoints", state.parts())
        if found is None:
            held.enter_context(locked(folder))
            if (folder / "checkpoints").exists():
                raise UserError(f"{folder}: another run has just begun there; choose another --out")
        write_whole(folder / RECIPE_FILE, recipe.to_toml().encode())
    notes += [f"note: {line}" for line in recipe.notes_on(dataset)]
    notes += [f"note: validation: {line}" for line in recipe.notes_on(validation) if f"note: {line}" not in notes]
    shared = shared_files(dataset.source, validation.source)
    if shared:
        notes.append(f"note: {shared} of {len(validation)} validation images are trained on; {HOLD_OUT}")
    notes += [passed_over(line) for line in damaged]
    if checkpoint is not None:
        before = checkpoint.state.get("machine", {})
        notes.append(f"resuming {folder} at step {state.step} of {settings.steps}: {promise(before, here)}")
    return _Begun(folder, recipe, dataset, validation, state, checkpoint, notes, batches, ahead, facts, here)


def _go_on(begun: _Begun, accelerator: Any, ranks: Ranks, report: Report, stop: Callable[[], bool]) -> Trained:
    folder, recipe, state, settings = begun.folder, begun.recipe, begun.state, begun.recipe.train
    for line in begun.notes:
        report(line)
    log = MetricsLog(folder, after_step=state.step, writes=ranks.is_first)
    dtype = resolve_precision(settings.precision, accelerator.device)
    done = None if begun.checkpoint is None else state.step
    saver = Saver(folder, recipe, ranks, begun.machine, report, done)
    skips = Skips(state, folder, begun.dataset, report, ranks.is_first)
    window = Window()
    stopped = False
    while state.step < settings.steps and not stopped:
        window.waiting()
        batch = begun.ahead.pop() if begun.ahead else next(begun.batches)
        # What a degradation drew is for people to read; no method does.
        batch = {name: _to(value, accelerator.device) for name, value in batch.items() if name != "parameters"}
        window.working()
        micro_batch = state.micro_batch
        window.add(*training_step(state, batch, accelerator, dtype), state.was_skipped)
        if state.micro_batch != micro_batch:
            report(f"note: out of memory; from here on in micro-batches of {state.micro_batch}, same batch and result")
        skips.add(state.was_skipped)

        stopped = ranks.any(stop())
        last_step = state.step == settings.steps
        logs, saves = (last_step or state.step % every == 0 for every in (settings.log_every, settings.save_every))
        if logs or saves or stopped:
            skips.read()
        if logs:
            progress = window.progress(state.step, settings.steps, settings.learning_rate(state.step - 1), accelerator)
            _try(report, "metrics.jsonl", partial(log.write, progress.row()))
            report(progress)
        if saves or stopped:
            saver.save(state, last=last_step or stopped)
        if ranks.is_first and (last_step or state.step % settings.sample_every == 0):
            samples = _samples(folder, recipe, state, begun.validation, accelerator.device)
            file = folder / "samples" / f"step-{state.step:08d}.png"
            _try(report, str(file), partial(write_picture, file, samples, root=folder))
            window.restart()
    if saver.saved_at != state.step:  # nothing left to do, and nothing on disk yet
        saver.save(state, last=True)
    return Trained(folder, state.step, state.step >= settings.steps)


def _try(report: Report, what: str, write: Callable[[], object]) -> None:
    """Write something that a training can do without."""
    try:
        write()
    except (OSError, UserError) as error:
        reason = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
        report(f"{what} not written ({reason}); training continues")


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def _say_nothing(event: Any) -> None:
    """The report of all processes but the first."""


def _to(value: Any, device: torch.device) -> Any:
    if not isinstance(value, Tensor):
        return value
    layout = torch.channels_last if value.ndim == 4 else torch.preserve_format
    return value.to(device, non_blocking=True, memory_format=layout)


def _check_size(recipe: Recipe, state: TrainState) -> None:
    size, (stride, smallest) = recipe.data.size, network_geometry(state.network)
    height, width = (size, size) if isinstance(size, int) else size
    if height % stride or width % stride or (stride > 1 and min(height, width) < smallest):
        least = f", {smallest // stride} at least" if smallest > stride else ""
        raise UserError(
            f"data.size {size}: the network halves its input {stride.bit_length() - 1} times, so both sides must be "
            f"multiples of {stride}{least}; change data.size, or the network's levels"
        )


def _samples(
    folder: Path, recipe: Recipe, state: TrainState, validation: PairDataset, device: torch.device, rows: int = 4
) -> Picture:
    """X_1 | NFE 1 | NFE of the recipe | X_0, of the first validation images."""
    run = Run(folder, recipe, state.method.with_network(state.ema), state.step, device)
    table: list[list[Tensor]] = []
    counts = sorted({1, recipe.sample.nfe})
    header = ["degraded", *(f"NFE {nfe}" for nfe in counts), "clean"]
    for i in range(min(rows, len(validation))):
        item = validation[i]
        batch = {name: value[None] for name, value in item.items() if isinstance(value, Tensor)}
        restored = [
            run.restore_batch(batch, nfe=nfe, generator=[generator(recipe.evaluate.seed, "evaluate", item["key"])])[0]
            for nfe in counts
        ]
        table.append([item["x_1"], *restored, item["x_0"]])
    return Picture(montage(table, header), None)
