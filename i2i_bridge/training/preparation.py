"""Preparation of a new or resumed run before its first step: recipe, state and data, checked before it writes."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import nn

from i2i_bridge.data.dataset import PairDataset, first_remarks
from i2i_bridge.data.loader import training_batches
from i2i_bridge.data.sources.folders import shared_files
from i2i_bridge.data.splits import HOLD_OUT
from i2i_bridge.device import PRECISIONS, compile_blocks, machine, resume_guarantee, training_precision
from i2i_bridge.distributed import Ranks
from i2i_bridge.errors import UserError, plural
from i2i_bridge.methods.base import Method
from i2i_bridge.methods.geometry import network_geometry
from i2i_bridge.methods.latent import Latent, LatentMethod
from i2i_bridge.methods.mean import Mean, check_mean
from i2i_bridge.recipe.recipe import Recipe
from i2i_bridge.recipe.schema import TrainSettings
from i2i_bridge.runs.checkpoint import Checkpoint, check_space, latest_checkpoint, passed_over, recovered_checkpoint
from i2i_bridge.runs.latent import load_latent
from i2i_bridge.runs.load import load_mean, load_teacher
from i2i_bridge.storage.files import refuse_links, sweep, write_whole
from i2i_bridge.storage.lock import locked
from i2i_bridge.storage.shipped import LATENT_FOLDER, MEAN_FOLDER, RECIPE_FILE, TEACHER_FOLDER
from i2i_bridge.training.cache import cache_folders
from i2i_bridge.training.first_stage import start_of, with_mean_cache
from i2i_bridge.training.guard import repaired
from i2i_bridge.training.identity import (
    changed_rate,
    falling_end,
    is_run_of,
    moved_end,
    rate_settings,
    refuse_files_of_others,
    resolved,
    run_identity,
    started_recipe,
)
from i2i_bridge.training.init import Loaded, absolute_init, open_init, with_init
from i2i_bridge.training.latents import LatentSource, open_latent, parts_of, with_cache
from i2i_bridge.training.noise_size import with_measured_noise
from i2i_bridge.training.other_run import OtherRun, open_other
from i2i_bridge.training.state import TrainState
from i2i_bridge.training.teacher import check_teacher
from i2i_bridge.training.validation import Best, Validation, read_best, write_best

Found = tuple[Checkpoint | None, list[str]]
"""The latest whole checkpoint of a folder, and a line for each newer one that is damaged."""
OWN_FOLDERS = ("checkpoints", "samples", MEAN_FOLDER, TEACHER_FOLDER, LATENT_FOLDER)
"""Folders of a run that training writes and cleans."""


def lock_and_recover(recipe: Recipe, folder: Path, stack: ExitStack) -> Found | None:
    """On rank 0: lock the run folder, delete leftovers of an interrupted save, return the latest checkpoint.

    None if there is no folder. Leftovers are deleted only if the folder holds this recipe's run: otherwise they could
    be a user's files.
    """
    if not folder.is_dir():
        return None
    refuse_files_of_others(folder)
    stack.enter_context(locked(folder))
    refuse_links(folder, OWN_FOLDERS)
    if not is_run_of(folder, recipe):
        return latest_checkpoint(folder / "checkpoints")
    found = recovered_checkpoint(folder / "checkpoints")
    sweep(folder)
    for inside in ("samples", MEAN_FOLDER, TEACHER_FOLDER, LATENT_FOLDER):
        sweep(folder / inside)
    for copied in (MEAN_FOLDER, TEACHER_FOLDER, LATENT_FOLDER):
        sweep(folder / copied / "checkpoints")
    for copied in (MEAN_FOLDER, LATENT_FOLDER):
        for cached in cache_folders(folder / copied):
            sweep(cached)
    return found


@dataclass
class Prepared:
    """A run that is ready for the first step of this call."""

    recipe: Recipe
    dataset: PairDataset
    validation: PairDataset
    score: Validation | None
    """Measures train.keep_best; None if the recipe has none."""
    state: TrainState
    saved_at: int | None
    """The step of the checkpoint that the run resumes from; None for a new run."""
    best: Best | None
    """The best validation of that checkpoint, which may be of another rule than `score`; None if it has none."""
    batches: Iterator[dict[str, Any]]
    """The batches from the state's step on; the first is loaded already."""
    dtype: torch.dtype
    """Autocast dtype of the networks."""
    machine: dict[str, str]
    """Facts about machine and data that the last bits of a result depend on, for the checkpoints."""
    notes: list[str]
    """Lines for the user."""

    def facts(self) -> dict[str, str]:
        """What must agree on all ranks, without paths: two machines may keep the images in different folders."""
        count = len(self.dataset)
        return {
            "settings": _digest(run_identity(self.recipe.without_places())),
            "images": f"{count} ({_digest([self.dataset.key_of(n) for n in range(min(count, 16))])})",
            "step": str(self.state.step),
            "learning rate": _digest(rate_settings(self.recipe.train)),
            "torch": self.machine["torch"],
            "processes": self.machine["processes"],
        }


def prepare(
    recipe: Recipe, folder: Path, device: torch.device, ranks: Ranks, stack: ExitStack, found: Found | None
) -> Prepared:
    """Make a run ready for its first step; the folder is written last, once nothing is left that could be refused.

    Args:
        stack: Receives what the run must close: the data workers, and the lock of a new folder.
        found: The result of `lock_and_recover`; None on other ranks and for a new folder.

    Raises:
        UserError: The recipe, the data, or the run that the folder holds cannot be used.
    """
    settings = recipe.train
    if settings.batch_size % ranks.count:
        raise UserError(f"train.batch_size {settings.batch_size} cannot be shared by {ranks.count} processes")
    recipe = absolute_init(recipe, folder)
    dataset, validation = recipe.build_dataset("train"), recipe.build_dataset("validation")
    checkpoint, damaged = found or latest_checkpoint(folder / "checkpoints")
    if checkpoint is None:
        start = _new_run(recipe, folder, dataset, device)
    else:
        start = _resumed_run(recipe, folder, dataset, device, checkpoint)
    recipe, state = start.recipe, start.state
    found_best = None if checkpoint is None else read_best(checkpoint.state.get("best"))
    score = None if settings.keep_best is None else Validation(recipe, validation, found_best)
    if settings.compile:
        compile_blocks(state.network, device)
    before = None if checkpoint is None else checkpoint.machine
    dtype = training_precision(settings.precision, device, recipe.network.get("channels"), before)
    environment = machine(device, ranks.count) | {"images": str(len(dataset)), "compile": str(settings.compile)}
    environment |= falling_end(recipe) | rate_settings(settings) | {"order of images": "by torch.randperm"}
    if settings.precision == "auto":
        environment["precision"] = next(name for name, known in PRECISIONS.items() if known == dtype)
    place = {"start_step": state.step, "rank": ranks.index, "world_size": ranks.count}
    batches = training_batches(dataset, settings.batch_size, workers=settings.workers, **place)
    stack.callback(batches.close)
    # Loaded before the folder is written: otherwise an unusable image would leave an empty run folder behind.
    first = [next(batches)] if state.step < settings.steps else []
    remarks = first_remarks(dataset) if checkpoint is None and ranks.is_first else []
    over = state.step >= settings.steps or (score is not None and score.is_over)
    if ranks.is_first:
        if checkpoint is None or not over:  # otherwise the recipe would not be that of the steps which were trained
            _write_folder(folder, start, stack if found is None else None)
        if found_best is not None:
            write_best(folder, found_best)  # a killed save may have left it at an earlier step
    notes = [_summary(recipe, dataset, state, environment["device"], ranks.count, folder), *start.notes, *remarks]
    notes += [
        *_notes_on_sampling(recipe, state.method),
        *_notes_on_data(recipe, dataset, validation),
        *map(passed_over, damaged),
    ]
    if before is not None:
        usable = repaired(folder, state.step * settings.batch_size, dataset) if ranks.is_first else 0
        notes += _notes_on_resume(folder, start, before, environment, usable)
    saved_at = None if checkpoint is None else checkpoint.step
    if found_best is not None and score is not None and score.best is None:
        also = f"step {found_best.step} is kept until there is a new best"
        notes.append(f"note: the best step so far was of {found_best.rule}; train.keep_best begins anew; {also}")
    data = chain(first, batches)
    return Prepared(recipe, dataset, validation, score, state, saved_at, found_best, data, dtype, environment, notes)


@dataclass
class _Start:
    """Recipe and state at the first step of this call, and what a new run writes into its folder."""

    recipe: Recipe
    state: TrainState
    before: TrainSettings | None = None
    """[train] of the resumed run as its recipe has it."""
    notes: list[str] = field(default_factory=list)
    init: Loaded | None = None
    mean: OtherRun | None = None
    teacher: OtherRun | None = None
    latent: LatentSource | None = None


def _new_run(recipe: Recipe, folder: Path, dataset: PairDataset, device: torch.device) -> _Start:
    """A new run: open its initial weights and its first stage, and fill in what is estimated from the images."""
    init = open_init(recipe)
    recipe, source = open_other(recipe, "mean", "starting from the answer of", check_mean, device)
    recipe, teacher = open_other(recipe, "teacher", "learning from", check_teacher, device)
    mean = None if source is None or recipe.mean is None else Mean(source.run.method, recipe.mean.nfe)
    if mean is not None:  # moments and noise are estimated from its outputs
        _check_size(recipe, "the network of mean.run", mean.method.network)
    recipe, latent = open_latent(recipe, dataset, device)
    if latent is not None:  # moments and noise are those of latents
        dataset = dataset.mapped(latent.latent.item)
    start, first_recipe = partial(start_of, mean, recipe.train.seed), None if init is None else init.recipe
    recipe = resolved(folder, recipe, dataset, started=None, init=first_recipe, start=start)
    if init is not None:
        recipe = with_init(recipe, init.source, sha256=init.sha256)
    recipe, noise = with_measured_noise(recipe, dataset, partial(start_of, mean, 0))
    cached = None if latent is None else with_cache(latent.latent, recipe, folder)
    mean = with_mean_cache(mean, recipe, folder)
    state = _state(recipe, device, mean, None if teacher is None else teacher.run.method.network, cached)
    loaded = None if init is None else init.load_into(state, recipe)
    notes = [line for part in (loaded, source, teacher, latent) if part is not None for line in part.lines]
    return _Start(recipe, state, notes=[*notes, *noise], init=loaded, mean=source, teacher=teacher, latent=latent)


def _resumed_run(
    recipe: Recipe, folder: Path, dataset: PairDataset, device: torch.device, checkpoint: Checkpoint
) -> _Start:
    """The run of a folder at its checkpoint."""
    started = started_recipe(folder)
    recipe = resolved(folder, recipe, dataset, started=started, init=None)
    mean = None if recipe.mean is None else load_mean(folder, recipe, device=device)
    mean = with_mean_cache(mean, recipe, folder)
    teacher = None if recipe.teacher is None else load_teacher(folder, recipe, device=device)
    latent = None if recipe.latent is None else with_cache(load_latent(folder, recipe, device=device), recipe, folder)
    state = _state(recipe, device, mean, teacher, latent)
    state.load(checkpoint)
    return _Start(recipe, state, started.train)


def _state(
    recipe: Recipe, device: torch.device, mean: Mean | None, teacher: nn.Module | None, latent: Latent | None
) -> TrainState:
    state = TrainState(recipe, device, mean, teacher, latent)
    factor = 1 if latent is None else latent.autoencoder.factor
    _check_size(recipe, "the network", state.network, factor)
    for name, companion in state.modules.items():
        least = int(getattr(companion, "smallest_side", 1)) * factor
        if companion is not state.network and min(recipe.data.sides) < least:
            raise UserError(
                f"data.size {recipe.data.size}: the {name} needs images of at least {least} pixels a side; raise "
                "data.size, or take fewer layers (method.discriminator.n_layers)"
            )
    return state


def _check_size(recipe: Recipe, name: str, network: nn.Module, factor: int = 1) -> None:
    height, width = recipe.data.sides
    stride, smallest = (side * factor for side in network_geometry(network))
    if height % stride or width % stride or (stride > 1 and min(height, width) < smallest):
        least = f", {smallest // stride} at least" if smallest > stride else ""
        raise UserError(
            f"data.size {recipe.data.size}: {name} halves its input {(stride // factor).bit_length() - 1} times"
            f"{f' and the encoder divides by {factor}' if factor > 1 else ''}, so both sides must be "
            f"multiples of {stride}{least}; change data.size, or the network's levels"
        )


def _write_folder(folder: Path, start: _Start, stack: ExitStack | None) -> None:
    """Write the recipe and, for a new run, its initial weights' record and the copies of other runs.

    Args:
        stack: Receives the lock of the folder; None if this process holds it.

    Raises:
        UserError: The disk lacks room for a checkpoint, another run has begun there, or a file cannot be written.
    """
    copies = [other for other in (start.mean, start.teacher) if other is not None]
    copied = {other.table: other.run.method.network.state_dict() for other in copies}
    check_space(folder / "checkpoints", start.state.parts() | copied | parts_of(start.latent))
    if stack is not None:
        stack.enter_context(locked(folder))
        if (folder / "checkpoints").exists():
            raise UserError(f"{folder}: another run has just begun there; choose another --out")
    write_whole(folder / RECIPE_FILE, start.recipe.to_toml().encode())
    for source in (start.init, start.mean, start.teacher, start.latent):
        if source is not None:
            source.write(folder)


def _summary(recipe: Recipe, dataset: PairDataset, state: TrainState, device: str, processes: int, folder: Path) -> str:
    """One line on the training: recipe, data, size of the network, batch and device."""
    height, width = recipe.data.sides
    count = sum(parameter.numel() for module in state.modules.values() for parameter in module.parameters())
    frozen = sum(state.network.get_parameter(name).numel() for name in state.frozen)
    fixed = f" ({frozen / 1e6:.3g} M of them frozen)" if frozen else ""
    several = f"{processes} processes, " if processes > 1 else ""
    return (
        f"training {recipe.name}: {plural(len(dataset), 'image')} at {width}x{height}, "
        f"{count / 1e6:.3g} M parameters{fixed}, "
        f"batch {recipe.train.batch_size}, {plural(recipe.train.steps, 'step')}, {several}on {device}, into {folder}"
    )


def _notes_on_sampling(recipe: Recipe, method: Method) -> list[str]:
    """A note where the sampler draws anew in each step what the process draws once."""
    inner = method.method if isinstance(method, LatentMethod) else method
    if not hasattr(inner, "sampler"):  # a method of one call
        return []
    if not recipe.any_process().drawn_once or recipe.sample.sampler["name"] != "ancestral":
        return []
    return [
        f"note: sampler 'ancestral' draws the noise of process '{recipe.process['name']}' anew in every step; "
        "sample.sampler.name=deterministic draws it once, at X_1"
    ]


def _notes_on_data(recipe: Recipe, dataset: PairDataset, validation: PairDataset) -> list[str]:
    """Notes on how images are changed, and on validation images that are trained on."""
    notes = [f"note: {line}" for line in recipe.notes_on(dataset)]
    notes += [f"note: validation: {line}" for line in recipe.notes_on(validation) if f"note: {line}" not in notes]
    shared = shared_files(dataset.source, validation.source)
    if shared:
        notes.append(f"note: {shared} of {len(validation)} validation images are trained on; {HOLD_OUT}")
    return notes


def _notes_on_resume(
    folder: Path, start: _Start, before: dict[str, str], now: dict[str, str], usable: int
) -> list[str]:
    """The step that a run resumes at and what is guaranteed, and what a changed number of steps moves.

    Args:
        before: Facts of the checkpoint's machine, some of which older checkpoints lack.
        now: Facts of this machine.
        usable: Number of images that were unusable and can be used now.
    """
    assert start.before is not None
    steps = str(before.get("train.steps", ""))
    steps_before = int(steps) if steps.isdecimal() else start.before.steps
    # Missing in older checkpoints. Without a precision it depended on the device only.
    missing = {"precision": now.get("precision", ""), "train.steps": str(steps_before)} | rate_settings(start.before)
    before = missing | {"order of images": "by an earlier version"} | before
    also = (
        [f"{plural(usable, 'image')} that {'was' if usable == 1 else 'were'} unusable can be used now"]
        if usable
        else []
    )
    step, settings = start.state.step, start.recipe.train
    if step >= settings.steps:
        done = f"{folder} has {plural(step, 'step')} and train.steps is {settings.steps}"
        return [f"{done}: nothing to train, the run stays as it is; train.steps={2 * step} trains on"]
    return [
        f"resuming {folder} at step {step} of {settings.steps}: {resume_guarantee(before, now, also)}",
        *moved_end(steps_before, start.recipe, step),
        *changed_rate(start.before, settings, step),
    ]


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]
