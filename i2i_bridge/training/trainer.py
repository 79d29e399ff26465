"""The one optimisation loop.

All randomness is keyed by (seed, purpose, sample index), and the learning rate and the EMA decay are functions of the
step, so a run's state is its tensors and three numbers. The same command in the same folder resumes from the last
checkpoint and ends with the same bits as a run that was never stopped (same machine, versions, threads;
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
from torch import Tensor, nn

from i2i_bridge import console
from i2i_bridge.console import Progress
from i2i_bridge.data.dataset import PairDataset, first_remarks
from i2i_bridge.data.loader import collate, training_batches
from i2i_bridge.data.sources.folders import shared_files
from i2i_bridge.data.splits import HOLD_OUT
from i2i_bridge.device import PRECISIONS, compile_blocks, machine, resume_guarantee, training_precision
from i2i_bridge.distributed import Ranks, check_devices, process_group
from i2i_bridge.errors import TRY_AGAIN, UserError
from i2i_bridge.images.files import write_picture
from i2i_bridge.images.montage import montage
from i2i_bridge.images.pixels import Picture
from i2i_bridge.randomness import generator
from i2i_bridge.recipe.recipe import Recipe
from i2i_bridge.runs.checkpoint import Checkpoint, check_space, latest_checkpoint, passed_over, recovered_checkpoint
from i2i_bridge.runs.run import MEAN_FOLDER, Run, load_mean, network_geometry
from i2i_bridge.storage.files import locked, real_folder, refuse_links, sweep, write_whole
from i2i_bridge.storage.shipped import RECIPE_FILE
from i2i_bridge.training.checkpointer import Checkpointer
from i2i_bridge.training.first_stage import open_mean, start_of
from i2i_bridge.training.guard import NonFiniteGuard, UnusableImages, repaired
from i2i_bridge.training.identity import falling_end, is_run_of, moved_end, resolved, run_identity, started_recipe
from i2i_bridge.training.init import absolute_init, open_init, with_init
from i2i_bridge.training.log import MetricsLog, Window
from i2i_bridge.training.noise_size import sized
from i2i_bridge.training.state import TrainState
from i2i_bridge.training.step import training_step

Report = Callable[[Progress | str], None]
NOT_TRAINED_ON = ("parameters", "unusable")
"""Fields of a batch that no method uses; they are for logs and sheets."""


@dataclass(frozen=True)
class Trained:
    """The result of `train`."""

    folder: Path
    step: int
    finished: bool
    """False if `stop` returned True before the last step; the same call resumes."""


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
    """
    from accelerate import Accelerator

    # Without an accelerator and without cpu=True, accelerate treats each process of torchrun as a single process.
    cpu = cpu or not torch.accelerator.is_available()
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
            found = _lock_and_recover(recipe, run_folder, stack) if ranks.is_first else None
        except UserError as error:
            problem = error
        ranks.share_problem(problem)
        try:
            prepared = _prepare(recipe, run_folder, accelerator.device, ranks, stack, found)
        except UserError as error:
            problem = error
        ranks.share_problem(problem)
        ranks.check_alike(prepared.facts)
        return _run_steps(prepared, accelerator, ranks, report, stop)


@dataclass
class _Prepared:
    """A run that is ready for the first step of this call."""

    folder: Path
    recipe: Recipe
    dataset: PairDataset
    validation: PairDataset
    state: TrainState
    checkpoint: Checkpoint | None
    from_init: bool
    """Whether the weights come from `train.init` and are not saved in this folder yet."""
    notes: list[str]
    batches: Generator[dict[str, Any], None, None]
    first: dict[str, Any] | None
    """The first batch, loaded before the folder is written; None if no step is left."""
    facts: dict[str, str]
    dtype: torch.dtype
    machine: dict[str, str]


Found = tuple[Checkpoint | None, list[str]]


OWN_FOLDERS = ("checkpoints", "samples", MEAN_FOLDER)
"""Folders of a run that training writes and cleans."""


def _lock_and_recover(recipe: Recipe, folder: Path, stack: ExitStack) -> Found | None:
    """On rank 0: lock the run folder, delete leftovers of an interrupted save, return the latest checkpoint.

    None if there is no folder. Leftovers are deleted only if the folder holds this recipe's run: otherwise they could
    be a user's files.
    """
    if not folder.is_dir():
        return None
    stack.enter_context(locked(folder))
    refuse_links(folder, OWN_FOLDERS)
    if not is_run_of(folder, recipe):
        return latest_checkpoint(folder / "checkpoints")
    found = recovered_checkpoint(folder / "checkpoints")
    sweep(folder)
    for inside in ("samples", MEAN_FOLDER, f"{MEAN_FOLDER}/checkpoints"):
        sweep(folder / inside)
    return found


def _prepare(
    recipe: Recipe, folder: Path, device: torch.device, ranks: Ranks, stack: ExitStack, found: Found | None
) -> _Prepared:
    settings = recipe.train
    if settings.batch_size % ranks.count:
        raise UserError(f"train.batch_size {settings.batch_size} cannot be shared by {ranks.count} processes")
    recipe = absolute_init(recipe, folder)
    dataset, validation = recipe.build_dataset("train"), recipe.build_dataset("validation")
    checkpoint, damaged = found or latest_checkpoint(folder / "checkpoints")
    started = None if checkpoint is None else started_recipe(folder)
    init = open_init(recipe) if checkpoint is None else None
    recipe, source = open_mean(recipe, device) if checkpoint is None else (recipe, None)
    mean = None if source is None else source.mean
    if mean is not None:  # the target's moments and the noise are estimated from its outputs
        _check_size(recipe, "the network of mean.run", mean.method.network)
    recipe = resolved(
        folder,
        recipe,
        dataset,
        started=started,
        init=None if init is None else init.recipe,
        start=partial(start_of, mean, recipe.train.seed),
    )
    if recipe.mean is not None and mean is None:
        mean = load_mean(folder, recipe, device=device)
    if init is not None:
        recipe = with_init(recipe, init.source, sha256=init.sha256)
    noise: list[str] = []
    if checkpoint is None:
        recipe, noise = sized(recipe, dataset, partial(start_of, mean, 0))
    state = TrainState(recipe, device, mean)
    _check_size(recipe, "the network", state.network)
    if checkpoint is not None:
        state.load(checkpoint)
    loaded = None if init is None else init.load_into(state, recipe)
    if settings.compile:
        compile_blocks(state.network, device)
    environment = machine(device, ranks.count) | {"images": str(len(dataset)), "compile": str(settings.compile)}
    environment |= falling_end(recipe)
    earlier = None if checkpoint is None else checkpoint.state.get("machine", {})
    dtype = training_precision(settings.precision, device, recipe.network.get("channels"), earlier)
    if settings.precision == "auto":
        environment["precision"] = next(name for name, known in PRECISIONS.items() if known == dtype)
    facts = {
        # Without paths: two machines may keep the images in different folders.
        "settings": _digest(run_identity(recipe.without_places())),
        "images": f"{len(dataset)} ({_digest([dataset.key_of(n) for n in range(min(len(dataset), 16))])})",
        "step": str(state.step),
        "init": "" if init is None else init.sha256,
        "mean": "" if recipe.mean is None else str(recipe.mean.sha256),
        "torch": environment["torch"],
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
    stack.callback(batches.close)
    # The folder is written only after the recipe and the first batch were found usable: otherwise an error in them
    # would leave an empty run folder behind.
    first = next(batches) if state.step < settings.steps else None
    notes = first_remarks(dataset) if checkpoint is None and ranks.is_first else []
    if ranks.is_first:
        copied = {} if source is None else {MEAN_FOLDER: source.run.method.network.state_dict()}
        check_space(folder / "checkpoints", state.parts() | copied)
        if found is None:
            stack.enter_context(locked(folder))
            if (folder / "checkpoints").exists():
                raise UserError(f"{folder}: another run has just begun there; choose another --out")
        write_whole(folder / RECIPE_FILE, recipe.to_toml().encode())
        if loaded is not None:
            loaded.write(folder)
        if source is not None:
            source.write(folder)
    notes = [
        _summary(recipe, dataset, state, environment["device"], ranks.count, folder),
        *([] if loaded is None else loaded.lines),
        *([] if source is None else source.notes),
        *noise,
        *notes,
    ]
    notes += [f"note: {line}" for line in recipe.notes_on(dataset)]
    notes += [f"note: validation: {line}" for line in recipe.notes_on(validation) if f"note: {line}" not in notes]
    shared = shared_files(dataset.source, validation.source)
    if shared:
        notes.append(f"note: {shared} of {len(validation)} validation images are trained on; {HOLD_OUT}")
    notes += [passed_over(line) for line in damaged]
    if checkpoint is not None and started is not None:
        before = checkpoint.state.get("machine", {})
        steps = str(before.get("train.steps", ""))  # missing in older checkpoints
        steps_before = int(steps) if steps.isdecimal() else started.train.steps
        # Older checkpoints have no precision: it depended on the device only.
        if "precision" in environment and "precision" not in before:
            before = before | {"precision": environment["precision"]}
        if "train.steps" in environment:
            before = before | {"train.steps": str(steps_before)}
        repaired_count = repaired(folder, state.step * settings.batch_size, dataset) if ranks.is_first else 0
        also = [f"{repaired_count} images that were unusable can be used now"] if repaired_count else []
        notes.append(
            f"resuming {folder} at step {state.step} of {settings.steps}: {resume_guarantee(before, environment, also)}"
        )
        notes += moved_end(steps_before, recipe, state.step)
    return _Prepared(
        folder,
        recipe,
        dataset,
        validation,
        state,
        checkpoint,
        init is not None,
        notes,
        batches,
        first,
        facts,
        dtype,
        environment,
    )


def _summary(recipe: Recipe, dataset: PairDataset, state: TrainState, device: str, processes: int, folder: Path) -> str:
    """One line on the training: recipe, data, size of the network, batch and device."""
    size = recipe.data.size if isinstance(recipe.data.size, tuple) else (recipe.data.size, recipe.data.size)
    count = sum(parameter.numel() for module in state.modules.values() for parameter in module.parameters())
    several = f"{processes} processes, " if processes > 1 else ""
    return (
        f"training {recipe.name}: {len(dataset)} images at {size[1]}x{size[0]}, {count / 1e6:.3g} M parameters, batch "
        f"{recipe.train.batch_size}, {recipe.train.steps} steps, {several}on {device}, into {folder}"
    )


def _run_steps(
    prepared: _Prepared, accelerator: Any, ranks: Ranks, report: Report, stop: Callable[[], bool]
) -> Trained:
    folder, recipe, state, settings = prepared.folder, prepared.recipe, prepared.state, prepared.recipe.train
    for line in prepared.notes:
        report(line)
    log = MetricsLog(folder, after_step=state.step, writes=ranks.is_first)
    dtype = prepared.dtype
    done = None if prepared.checkpoint is None else state.step
    checkpointer = Checkpointer(folder, recipe, ranks, prepared.machine, report, done)
    guard = NonFiniteGuard(state, folder, prepared.dataset, report, ranks.is_first)
    unusable = UnusableImages(folder, state.step * settings.batch_size, report, ranks)
    window = Window()
    if prepared.from_init:  # otherwise a resume before the first checkpoint would need the other run's folder again
        checkpointer.save(state, last=False)
    batch = prepared.first
    problem: Exception | None = None
    stopped = failed = False
    while batch is not None and not (stopped or failed):
        unusable.add(state.step, settings.batch_size, batch)
        # Methods do not use these fields; tensors among them need not go to the device.
        batch = {name: _to(value, accelerator.device) for name, value in batch.items() if name not in NOT_TRAINED_ON}
        window.working()
        micro_batch = state.micro_batch
        window.add(*training_step(state, batch, accelerator, dtype), state.was_skipped)
        if state.micro_batch != micro_batch:
            report(f"note: out of memory; from here on in micro-batches of {state.micro_batch}, same batch and result")
        guard.add(state.was_skipped)

        last_step = state.step == settings.steps
        logs, saves = (last_step or state.step % every == 0 for every in (settings.log_every, settings.save_every))
        if logs or saves:
            guard.read()
            unusable.write()
        if logs:
            progress = window.progress(state.step, settings.steps, settings.learning_rate(state.step - 1), accelerator)
            _write_optional(report, "metrics.jsonl", partial(log.write, progress.row()))
            report(progress)
        if saves:
            checkpointer.save(state, last=last_step)
        if ranks.is_first and (last_step or state.step % settings.sample_every == 0):
            file = folder / "samples" / f"step-{state.step:08d}.png"
            _write_optional(
                report, str(file), partial(_write_samples, file, recipe, state, prepared.validation, accelerator.device)
            )
            window.restart()
        if last_step:
            break
        window.waiting()
        stopped = stop()
        if not stopped:
            try:
                batch = next(prepared.batches)
            except Exception as error:  # raised after the steps up to here are saved
                problem = error
        stopped, failed = ranks.any_of(stopped, problem is not None)
    if checkpointer.saved_at != state.step:
        guard.read()
        unusable.write()
        checkpointer.save(state, last=True)
    if failed:
        ranks.share_problem(_with_advice(problem, state.step))
    return Trained(folder, state.step, state.step >= settings.steps)


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


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def _silent(event: Any) -> None:
    """Discard a report; used on all ranks but 0, and in sessions that are not interactive."""


def _to(value: Any, device: torch.device) -> Any:
    if not isinstance(value, Tensor):
        return value
    layout = torch.channels_last if value.ndim == 4 else torch.preserve_format
    return value.to(device, non_blocking=True, memory_format=layout)


def _check_size(recipe: Recipe, name: str, network: nn.Module) -> None:
    size = recipe.data.size
    height, width = (size, size) if isinstance(size, int) else size
    stride, smallest = network_geometry(network)
    if height % stride or width % stride or (stride > 1 and min(height, width) < smallest):
        least = f", {smallest // stride} at least" if smallest > stride else ""
        raise UserError(
            f"data.size {size}: {name} halves its input {stride.bit_length() - 1} times, so both sides must be "
            f"multiples of {stride}{least}; change data.size, or the network's levels"
        )


def _write_samples(
    file: Path, recipe: Recipe, state: TrainState, validation: PairDataset, device: torch.device, rows: int = 4
) -> None:
    """Write a sheet of the first validation images: X_1 | NFE 1 | NFE of the recipe | X_0.

    Raises:
        UserError: A validation image cannot be used, or the file cannot be written.
    """
    run = Run(file.parents[1], recipe, state.method.with_network(state.ema), state.step, device)
    table: list[list[Tensor]] = []
    counts = sorted({1, recipe.sample.nfe})
    header = ["degraded", *(f"NFE {nfe}" for nfe in counts), "clean"]
    for i in range(min(rows, len(validation))):
        item = validation[i]
        batch = collate([item])
        restored = [
            run.restore_batch(batch, nfe=nfe, generator=[generator(recipe.evaluate.seed, "evaluate", item["key"])])[0]
            for nfe in counts
        ]
        table.append([item["x_1"], *restored, item["x_0"]])
    write_picture(file, Picture(montage(table, header), None), root=run.folder)
