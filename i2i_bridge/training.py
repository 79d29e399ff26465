"""The only optimisation loop.

All randomness is keyed by (seed, purpose, sample index), and the learning rate and the averaging decay are functions
of the step, so a run's state is its tensors and one number. The same command in the same folder goes on where the
last checkpoint was, and ends with the same bits as a run that was never stopped (same machine, versions, threads).
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from i2i_bridge.checkpoint import latest_checkpoint, save_checkpoint
from i2i_bridge.data.loading import PairDataset, training_batches
from i2i_bridge.data.pairs import shared_files
from i2i_bridge.data.splits import HOLD_OUT
from i2i_bridge.errors import UserError
from i2i_bridge.files import write_whole
from i2i_bridge.images import Picture, write_picture
from i2i_bridge.metrics_log import MetricsLog
from i2i_bridge.montage import montage
from i2i_bridge.precision import resolve_precision
from i2i_bridge.randomness import generator
from i2i_bridge.recipe import Recipe, load_recipe
from i2i_bridge.run import RECIPE_FILE, Run, network_geometry
from i2i_bridge.stepping import training_step
from i2i_bridge.targets import estimate_moments
from i2i_bridge.train_state import NETWORK, TrainState


@dataclass(frozen=True)
class Progress:
    """What a logged step says; loss, rates and shares are over the steps since the last one."""

    step: int
    steps: int
    loss: float
    """The network's."""
    lr: float
    grad_norm: float
    """The network's, before clipping."""
    steps_per_second: float
    data_share: float
    """Share of the time spent waiting for data, 0 to 1."""
    memory_gb: float
    """Peak so far: of the device, or of this process on a CPU."""
    seconds_left: float
    companions: dict[str, float] = field(default_factory=dict)
    """Losses of what is trained beside the network, by name."""

    def row(self) -> dict[str, float]:
        """All numbers by name, for a table: a companion's loss is `loss_NAME`."""
        row = {name: value for name, value in vars(self).items() if name != "companions"}
        return row | {f"loss_{name}": value for name, value in self.companions.items()}


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
    report: Callable[[Progress | str], None] = lambda event: None,
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
        UserError: The folder holds another recipe's run, the data are unusable, the disk is full, or the loss is not
            finite.
    """
    from accelerate import Accelerator

    folder = Path(folder)
    accelerator = Accelerator(cpu=cpu)
    settings = recipe.train
    ranks, rank = accelerator.num_processes, accelerator.process_index
    if settings.batch_size % ranks:
        raise UserError(f"train.batch_size {settings.batch_size} cannot be shared by {ranks} processes")
    dataset, validation = recipe.build_dataset("train"), recipe.build_dataset("validation")
    checkpoint, damaged = latest_checkpoint(folder / "checkpoints")
    recipe = _resolved(folder, recipe, dataset, started=checkpoint is not None)
    state = TrainState(recipe, accelerator.device)
    _check_size(recipe, state)
    if checkpoint is not None:
        state.load(checkpoint)
    batches = training_batches(
        dataset,
        settings.batch_size,
        start_step=state.step,
        rank=rank,
        world_size=ranks,
        workers=settings.workers,
    )
    # A folder is claimed only now that nothing is wrong with the recipe and the first images.
    ahead = [next(batches)] if state.step < settings.steps else []
    if accelerator.is_main_process:
        write_whole(folder / RECIPE_FILE, recipe.to_toml().encode())
    else:
        report = _say_nothing
    accelerator.wait_for_everyone()
    shared = shared_files(dataset.source, validation.source)
    if shared:
        report(f"note: {shared} of {len(validation)} validation images are trained on; {HOLD_OUT}")

    for line in damaged:
        report(f"passed over a damaged checkpoint: {line}")
    if checkpoint is not None:
        report(f"resuming {folder} at step {state.step} of {settings.steps}")
    log = MetricsLog(folder, after_step=state.step, writes=accelerator.is_main_process)
    dtype = resolve_precision(settings.precision, accelerator.device)

    def save() -> None:
        if accelerator.is_main_process:
            save_checkpoint(folder / "checkpoints", state.step, state.parts(), {"seed": settings.seed}, settings.keep)
        accelerator.wait_for_everyone()

    window = _Window()
    saved_at = state.step if checkpoint is not None else -1
    stopped = False
    while state.step < settings.steps and not stopped:
        window.waiting()
        batch = ahead.pop() if ahead else next(batches)
        # What a degradation drew is for people to read; no method does.
        batch = {name: _to(value, accelerator.device) for name, value in batch.items() if name != "parameters"}
        window.working()
        micro_batch = state.micro_batch
        window.add(*training_step(state, batch, accelerator, dtype))
        if state.micro_batch != micro_batch:
            report(f"note: out of memory; from here on in micro-batches of {state.micro_batch}, same batch and result")

        stopped = _any(accelerator, stop())
        last_step = state.step == settings.steps
        logs, saves = (last_step or state.step % every == 0 for every in (settings.log_every, settings.save_every))
        saves = saves or stopped
        if (logs or saves) and not window.is_finite(accelerator):
            raise UserError(
                f"the loss or its gradient is not finite at step {state.step}; the last checkpoint is kept. "
                "Lower train.lr, set train.clip_norm, or use train.precision=fp32"
            )
        if logs:
            progress = window.progress(state.step, settings.steps, settings.learning_rate(state.step - 1), accelerator)
            log.write(progress.row())
            report(progress)
        if saves:
            save()
            saved_at = state.step
        if accelerator.is_main_process and (last_step or state.step % settings.sample_every == 0):
            _draw_samples(folder, recipe, state, validation, accelerator.device)
            window.restart()
    if saved_at != state.step:  # nothing left to do, and nothing on disk yet
        save()
    return Trained(folder, state.step, state.step >= settings.steps)


def _say_nothing(event: Any) -> None:
    """The report of all processes but the first."""


class _Window:
    """Sums since the last report; nothing here waits for the device."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self.steps, self.wait, self.busy = 0, 0.0, 0.0
        self.losses: list[dict[str, Tensor]] = []
        self.norms: list[dict[str, Tensor]] = []
        self.mark = time.perf_counter()

    def waiting(self) -> None:
        now = time.perf_counter()
        self.busy += now - self.mark
        self.mark = now

    def working(self) -> None:
        now = time.perf_counter()
        self.wait += now - self.mark
        self.mark = now

    def add(self, losses: dict[str, Tensor], norms: dict[str, Tensor]) -> None:
        self.steps += 1
        self.losses.append(losses)
        self.norms.append(norms)

    def is_finite(self, accelerator: Any) -> bool:
        """Whether all losses and gradients since the last report are numbers, on every process."""
        seen = torch.stack([value for step in self.losses + self.norms for value in step.values()])
        return not _any(accelerator, not bool(seen.isfinite().all()))

    def progress(self, step: int, steps: int, lr: float, accelerator: Any) -> Progress:
        losses = {
            name: accelerator.reduce(torch.stack([step[name] for step in self.losses]).mean(), reduction="mean").item()
            for name in self.losses[0]
        }
        loss = losses.pop(NETWORK)
        norm = torch.stack([step[NETWORK] for step in self.norms]).mean().item()
        self.waiting()
        seconds = max(self.busy + self.wait, 1e-9)
        rate = self.steps / seconds
        shown = Progress(
            step,
            steps,
            loss,
            lr,
            norm,
            rate,
            self.wait / seconds,
            _peak_memory(accelerator.device),
            (steps - step) / rate,
            losses,
        )
        self.restart()
        return shown


def _peak_memory(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    try:
        import resource
    except ImportError:  # not on Windows
        return math.nan
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def _to(value: Any, device: torch.device) -> Any:
    if not isinstance(value, Tensor):
        return value
    layout = torch.channels_last if value.ndim == 4 else torch.preserve_format
    return value.to(device, non_blocking=True, memory_format=layout)


def _any(accelerator: Any, flag: bool) -> bool:
    if accelerator.num_processes == 1:
        return flag
    # Every process must leave the loop at the same step, or the others wait for ever.
    return bool(accelerator.reduce(torch.tensor(float(flag), device=accelerator.device), reduction="sum").item())


FREE_TO_CHANGE = ("steps", "workers", "save_every", "keep", "sample_every", "log_every", "micro_batch")
"""Settings of [train] that a resumed run may change: they leave the data, times and noise of every step as they were.
`steps` moves the end of a falling learning rate, and `micro_batch` draws other dropout."""


def _resolved(folder: Path, recipe: Recipe, dataset: PairDataset, *, started: bool) -> Recipe:
    """The recipe with what is estimated from data; where the folder holds a started run, seen to be the same one."""
    if started:
        there = load_recipe(folder / RECIPE_FILE)
        if recipe.target["name"] == "preconditioned":
            recipe = recipe.model_copy(update={"target": there.target | recipe.target})
        difference = _first_difference(_essence(there), _essence(recipe))
        if difference:
            raise UserError(f"{folder} holds a run of other settings ({difference}); choose another --out")
    elif recipe.target["name"] == "preconditioned" and not {"var_0", "var_1", "cov_01"} <= set(recipe.target):
        count = min(len(dataset), 256)
        moments = estimate_moments((item["x_0"], item["x_1"]) for item in map(dataset.__getitem__, range(count)))
        recipe = recipe.model_copy(update={"target": moments | recipe.target})
    return recipe


def _check_size(recipe: Recipe, state: TrainState) -> None:
    size, (stride, smallest) = recipe.data.size, network_geometry(state.network)
    height, width = (size, size) if isinstance(size, int) else size
    if height % stride or width % stride or (stride > 1 and min(height, width) < smallest):
        least = f", {smallest // stride} at least" if smallest > stride else ""
        raise UserError(
            f"data.size {size}: the network halves its input {stride.bit_length() - 1} times, so both sides must be "
            f"multiples of {stride}{least}; change data.size, or the network's levels"
        )


def _essence(recipe: Recipe) -> dict[str, Any]:
    table = recipe.model_dump(mode="json", exclude={"summary", "reference", "sample", "evaluate", "method_label"})
    table["train"] = {key: value for key, value in table["train"].items() if key not in FREE_TO_CHANGE}
    return table


def _first_difference(there: Any, here: Any, path: str = "") -> str:
    if isinstance(there, dict) and isinstance(here, dict):
        for key in [*there, *(key for key in here if key not in there)]:
            found = _first_difference(there.get(key), here.get(key), f"{path}.{key}".lstrip("."))
            if found:
                return found
        return ""
    return "" if there == here else f"{path}: {there!r} there, {here!r} here"


def _draw_samples(
    folder: Path, recipe: Recipe, state: TrainState, validation: PairDataset, device: torch.device, rows: int = 4
) -> None:
    """samples/step-N.png: X_1 | NFE 1 | NFE of the recipe | X_0, of the first validation images."""
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
    samples = folder / "samples"
    samples.mkdir(exist_ok=True)
    write_picture(samples / f"step-{state.step:08d}.png", Picture(montage(table, header), None))
