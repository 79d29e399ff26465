"""What each method reaches in equal time on one GPU: `python tests/benchmarks/gpu_evidence.py --data FOLDER`.

Regression, Pix2pix, Palette, the shipped I2SB and a bridge with the curriculum (alone, with the perceptual and with the
adversarial loss) learn a restoration and a translation of 64 x 64 photos. Every row has the same seconds of training
and, but for Pix2pix, the same network, batch and schedule; processes, targets, losses, optimizer, moving average,
samplers and metrics are the toolkit's own. The photos are on the device from the start, degraded there, and random
numbers are drawn there: one generator a step, keyed by the step, where `i2i-bridge train` has one for each sample.

Validation photos are split in two halves: the number of calls is chosen on one, figures are of the other. --out gets
results.json (written after each row), table.md, sheet.png and the moving averages of the best bridges as bf16.
A row that fails is written down and the rest go on; SIGTERM ends the run with what there is. `--dry-run` takes a tiny
network, 16 photos and two steps a row, on the CPU. docs/performance.md says how to take it to another machine.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Estimates run side by side; with threads in each of them they would wait for one another.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional

from i2i_bridge import registry
from i2i_bridge.bridge.targets import estimate_moments
from i2i_bridge.degradations.base import Degradation, Degraded
from i2i_bridge.degradations.colour import grey
from i2i_bridge.errors import UserError
from i2i_bridge.images.files import write_picture
from i2i_bridge.images.montage import montage
from i2i_bridge.images.pixels import Picture
from i2i_bridge.methods.base import Method, trained_at
from i2i_bridge.methods.factory import build_method
from i2i_bridge.methods.mean import Mean
from i2i_bridge.metrics.distribution import PairedKernelDistance
from i2i_bridge.metrics.packaged import EFFICIENTNET_LITE0, ST_LPIPS_ALEX, EfficientNetLite0, shift_tolerant_lpips
from i2i_bridge.randomness import Generator, global_seed, key
from i2i_bridge.recipe.load import parse_recipe
from i2i_bridge.recipe.presets import method_preset
from i2i_bridge.recipe.recipe import Recipe
from i2i_bridge.recipe.schema import STUDENTS
from i2i_bridge.registry import register_degradation
from i2i_bridge.storage.files import write_whole
from i2i_bridge.storage.tensors import read_safetensors
from i2i_bridge.training.init import open_init
from i2i_bridge.training.schedule import learning_rate
from i2i_bridge.training.state import TrainState

Table = dict[str, Any]

SCHEDULE = 100_000
"""Steps of the recipes' schedules: a row that has used a share of its time is at that share of them."""
CHUNK = 200
"""Validation photos that are degraded at a time, and that a GPU takes in a call of a network."""
FEW_PHOTOS = 8
"""Those that a CPU takes: the maps of 200 do not fit into its cache, and features take four times as long."""
CURVE_NFE = (1, 5, 20)
MILESTONES = (10_000, 30_000, 100_000, 300_000, 1_000_000)
"""Images seen, at which a row of --curve is measured."""
FEW = 5
"""The most calls among which a row's number of calls is chosen."""
SHOWN = 10
"""Photos on the contact sheet."""
SIDE = 64
"""Pixels of the squares cut out of pairs."""
LARGEST = 16_000_000
"""Bytes of all checkpoints together."""
RESERVE = 10.0
"""Seconds kept for the last estimates and the files at the end."""


@register_degradation("evidence-edges")
@dataclass(frozen=True)
class Edges(Degradation):
    """x_1: black lines on white where the Sobel gradient of the smoothed luma, in [-1, 1], exceeds `threshold`."""

    threshold: float = 1.0

    def __call__(self, x_0: Tensor, generator: Generator) -> Degraded:
        luma = functional.avg_pool2d(functional.pad(grey(x_0)[:, :1], (1, 1, 1, 1), mode="reflect"), 3, 1)
        across = x_0.new_tensor([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
        kernels = torch.stack([across, across.T])[:, None]
        slopes = functional.conv2d(functional.pad(luma, (1, 1, 1, 1), mode="reflect"), kernels)
        lines = (slopes.square().sum(1, keepdim=True).sqrt() > self.threshold).to(x_0)
        return Degraded((1 - 2 * lines).repeat(1, x_0.shape[1], 1, 1))


@dataclass(frozen=True)
class Task:
    """A task, and what its bridges have of their own.

    Args:
        degradation: None: --data holds pairs.
        beta_max: Of the shipped recipe's I2SB.
        sigma_s: Noise at the source of the rows with the curriculum; 0: 'flow'. Not tuned.
        translation: The shipped recipe's network sees X_1 beside X_t.
    """

    degradation: Table | None
    beta_max: float
    sigma_s: float
    translation: bool = False


TASKS = {
    "inpaint": Task({"name": "inpaint", "mask": "center"}, 1.0, 0.0),
    "jpeg10": Task({"name": "jpeg", "quality": 10}, 0.3, 0.1),
    "sr4x": Task({"name": "sr4x", "filter": "bicubic"}, 0.3, 0.2),
    "edges": Task({"name": "evidence-edges"}, 0.3, 0.5, translation=True),
    "colorize": Task({"name": "colorization"}, 0.3, 0.2, translation=True),
    "pairs": Task(None, 0.3, 0.5, translation=True),
}
ROWS = ("regression", "pix2pix", "palette", "i2sb", "curriculum", "curriculum-perceptual", "curriculum-adversarial")
FURTHER = ("cdsb", "teacher", "two-stages")
"""Rows that run only where --rows names them."""


class Clock:
    """The time of the whole run; SIGTERM and Ctrl-C end it early, the second time at once."""

    def __init__(self, seconds: float) -> None:
        self.end, self.stopped = time.monotonic() + seconds - age(), False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)

    def _stop(self, number: int, frame: Any) -> None:
        self.stopped = True
        signal.signal(number, signal.SIG_DFL)

    def left(self) -> float:
        """Seconds; 0 once it was stopped."""
        return 0.0 if self.stopped else max(self.end - time.monotonic(), 0.0)


def age() -> float:
    """Seconds since this process began, where Linux tells: a busy machine imports torch for a quarter of a minute."""
    stat = Path("/proc/self/stat")
    if not stat.is_file():
        return 0.0
    ticks = int(stat.read_text().rpartition(")")[2].split()[19])
    return float(Path("/proc/uptime").read_text().split()[0]) - ticks / os.sysconf("SC_CLK_TCK")


class Budget:
    """A row's time of training: seconds that do not run while it is measured, or steps.

    Seconds of a GPU are by the clock. Those of a CPU are the processor's, as other programs may run beside this one.
    """

    def __init__(self, seconds: float, steps: int | None, synchronise: Callable[[], None], *, cuda: bool) -> None:
        self.seconds, self.steps, self._synchronise = seconds, steps, synchronise
        self._now = time.perf_counter if cuda else time.process_time
        self.begin()

    def begin(self) -> None:
        """Count from now on."""
        self._synchronise()
        self._spent, self._began = 0.0, self._now()

    def share(self, step: int) -> float:
        """What is used up of it, 1 for all."""
        if step % 10 == 0:  # otherwise the host could be many steps ahead of the device
            self._synchronise()
        return self.spent() / self.seconds if self.steps is None else step / self.steps

    def spent(self) -> float:
        return self._spent + self._now() - self._began

    @contextmanager
    def paused(self) -> Iterator[None]:
        self._synchronise()
        self._spent = self.spent()
        yield
        self._synchronise()
        self._began = self._now()


@dataclass
class Marks:
    """What was measured of a set of images; None where the weights' package is missing."""

    features: np.ndarray | None
    distances: np.ndarray | None
    psnr: np.ndarray


def in_a_call(images: Tensor) -> int:
    """Number of photos in a call of a network."""
    return CHUNK if images.is_cuda else FEW_PHOTOS


class Judge:
    """Measures restorations of the validation photos, by halves."""

    def __init__(self, truth: Tensor, seed: int, selection: int | None = None) -> None:
        """`selection`: as many of the first choose and the rest report; None: halves drawn at random."""
        self.truth, self.seed = truth, seed
        order = np.random.default_rng(key(seed, "halves")).permutation(len(truth))
        chosen, left = (order[::2], order[1::2]) if selection is None else np.split(np.arange(len(truth)), [selection])
        self.halves = {"selection": np.sort(chosen), "report": np.sort(left)}
        self.extractor = None if EFFICIENTNET_LITE0.file() is None else EfficientNetLite0()
        if self.extractor is not None:
            self.extractor._network.to(truth.device, memory_format=torch.channels_last)
        self.lpips = None if ST_LPIPS_ALEX.file() is None else shift_tolerant_lpips().to(truth.device)
        self.pool = ThreadPoolExecutor(max((os.cpu_count() or 1) // 2, 1))
        self.reference = self.features(truth)

    def features(self, images: Tensor) -> np.ndarray | None:
        """As the extractor's, but many images at a time: one by one they take a GPU minutes."""
        if self.extractor is None:
            return None
        network = self.extractor._network
        parts = [
            network(functional.interpolate(part, (224, 224), mode="bicubic", antialias=True).clamp(-1, 1))
            for part in images.split(in_a_call(images))
        ]
        return torch.cat(parts).float().cpu().numpy()

    @torch.inference_mode()
    def marks(self, images: Tensor, truth: Tensor | None = None) -> Marks:
        """Of images (n, 3, H, W), of the photos `truth` or of all; rounded to 8 bits first, as files are."""
        truth = self.truth if truth is None else truth
        rounded = images.float().clamp(-1, 1).add(1).mul(127.5).round().div(127.5).sub(1)
        distances = None
        if self.lpips is not None:
            pairs = zip(rounded.split(in_a_call(rounded)), truth.split(in_a_call(rounded)), strict=True)
            distances = torch.cat([self.lpips(x, y) for x, y in pairs]).cpu().numpy()
        error = (rounded - truth).square().mean((1, 2, 3)).clamp(min=1e-10)
        return Marks(self.features(rounded), distances, (10 * torch.log10(4 / error)).cpu().numpy())

    def table(self, marks: Marks, others: Mapping[str, Marks], halves: Iterable[str]) -> Table:
        """Means with standard errors for each half, and on the half "report" paired differences to the others.

        They are computed beside what comes next; `settled` waits for them.
        """
        jobs = {}
        for half in halves:
            rows = self.halves[half]
            jobs[half] = self._values(marks, None, rows)
            if half == "report":
                for name, other in others.items():
                    jobs[f"{half} minus {name}"] = self._values(marks, other, rows)
        return jobs

    def curve_table(self, marks: Marks) -> Table:
        """Means of a set that holds the half "report" alone."""
        return self._values(marks, None, np.arange(len(marks.psnr)), self.halves["report"])

    def _values(self, marks: Marks, other: Marks | None, rows: np.ndarray, partners: np.ndarray | None = None) -> Table:
        jobs: Table = {}
        partners = rows if partners is None else partners
        if marks.features is not None and self.reference is not None:
            second = None if other is None or other.features is None else other.features[rows]
            jobs["kid"] = self.pool.submit(
                _kernel_distance, marks.features[rows], second, self.reference[partners], self.seed
            )
        for name in ("distances", "psnr"):
            values = getattr(marks, name)
            if values is not None:
                apart = values[rows] - (0 if other is None else getattr(other, name)[rows])
                jobs["st_lpips" if name == "distances" else name] = self.pool.submit(_mean, apart)
        return jobs


def settled(record: Any) -> Any:
    """A record with its estimates in the place of the jobs that compute them."""
    if isinstance(record, Future):
        return record.result()
    if isinstance(record, dict):
        return {name: settled(value) for name, value in record.items()}
    return [settled(value) for value in record] if isinstance(record, list) else record


def _kernel_distance(first: np.ndarray, second: np.ndarray | None, reference: np.ndarray, seed: int) -> list[float]:
    """KID x1e3 of EfficientNet-Lite0's features, or the difference of two, and its standard error."""
    distance = PairedKernelDistance()
    if second is None:
        estimate = distance.estimate(first, reference, seed=seed)
    else:
        estimate = distance.difference(first, second, reference, seed=seed)
    return [estimate.value, estimate.standard_error]


def _mean(values: np.ndarray) -> list[float]:
    return [float(values.mean()), float(values.std(ddof=1) / len(values) ** 0.5)]


@dataclass
class Result:
    """A row of the table."""

    task: str
    row: str
    record: Table
    marks: dict[int, Marks] = field(default_factory=dict)
    pictures: dict[int, Tensor] = field(default_factory=dict)
    weights: dict[str, Tensor] = field(default_factory=dict)


class Evidence:
    """A run of the script: the device, the photos, the time and the results so far."""

    def __init__(self, options: argparse.Namespace, clock: Clock) -> None:
        self.options, self.clock = options, clock
        self.device = torch.device(options.device)
        self.cuda = self.device.type == "cuda"
        if self.cuda:
            self.device = torch.device("cuda", torch.cuda.current_device())
        self.bf16 = self.cuda and options.precision == "bf16"
        torch.backends.cudnn.benchmark = True
        train, validation, selection = photos(options)
        self.photos = train.to(self.device)
        self.held_out = pixels(validation.to(self.device))
        self.judge = Judge(self.held_out[:, :3], options.seed, selection)
        self.results: list[Result] = []
        self.inputs: dict[str, Tensor] = {}
        self.seconds = options.seconds or 0.0
        self.about = {
            "command": " ".join(["python", *sys.argv]),
            "commit": options.commit or commit(),
            "device": torch.cuda.get_device_name() if self.cuda else f"cpu ({platform.machine()})",
            "torch": torch.__version__,
            "python": platform.python_version(),
            "training": "bf16 autocast" if self.bf16 else "fp32",
            "sampling and metrics": "fp32, convolutions in TF32" if self.cuda else "fp32",
            "photos": {"train": len(train), "validation": len(validation), "side": train.shape[-1]},
            "seed": options.seed,
            "nfe chosen from": [nfe for nfe in options.nfe if nfe <= FEW],
            "dry run": options.dry_run,
        }

    def synchronise(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    def budget(self, seconds: float, steps: int | None) -> Budget:
        return Budget(seconds, steps, self.synchronise, cuda=self.cuda)

    def draws(self, *purpose: str | int) -> torch.Generator:
        """A generator on the device."""
        name, *index = purpose
        return torch.Generator(self.device).manual_seed(key(self.options.seed, str(name), *index))

    # What is trained

    def tables(self, task: Task, moments: Table) -> dict[str, Table]:
        """The rows' recipes: presets and options over one base."""
        options = self.options
        sigma_s = task.sigma_s if options.sigma_s is None else options.sigma_s
        network = {
            "name": "unet",
            "channels": options.channels,
            "channel_mult": options.channel_mult,
            "blocks_per_level": options.blocks,
            "attention_factors": options.attention_factors,
            "head_channels": options.channels,
        }
        train = {
            "steps": SCHEDULE,
            "batch_size": options.batch,
            "lr": options.lr,
            "warmup_steps": SCHEDULE // 50,
            "schedule": "cosine",
            "clip_norm": 1.0,
            "ema_decay": options.ema,
            "seed": options.seed,
        }
        base = {
            "name": "evidence",
            "summary": "gpu_evidence.py",
            "task": "translation" if task.translation else "restoration",
            "data": {"source": {"name": "images"}, "size": self.photos.shape[-1]},
            "process": {"name": "source-noise", "sigma_s": sigma_s} if sigma_s else {"name": "flow"},
            "target": {"name": "preconditioned"} | moments,
            "network": network,
            "train": train,
            "sample": {"sampler": {"name": "deterministic"}},
        }
        if task.degradation is None:
            base["data"]["source"] = {"name": "side_by_side", "root": str(options.data or "drawn"), "direction": "BtoA"}
        else:
            base["degradation"] = task.degradation
        small = base | {"train": train | {"batch_size": options.pix2pix_batch}}
        seen = {"condition_channels": 3} if task.translation else {}
        curriculum = base | {"train": train | {"regression_share": 0.3, "at_source": 0.2}}
        rows = {
            "regression": method_preset("regression")(base | {"process": {"name": "flow"}}, frozenset()),
            "pix2pix": method_preset("pix2pix")(small, frozenset({"train.batch_size", "train.steps"})),
            "palette": method_preset("palette")(base, frozenset()),
            "i2sb": base
            | {"process": {"name": "i2sb", "beta_max": task.beta_max}, "target": {"name": "i2sb"}, "sample": {}}
            | {"network": network | seen},
            "curriculum": curriculum,
            "teacher": curriculum,
            "two-stages": base | {"mean": {"run": "the row's first stage"}, "train": train | {"at_source": 0.2}},
            "curriculum-perceptual": curriculum | {"method": {"name": "bridge", "perceptual": options.perceptual}},
            "curriculum-adversarial": curriculum
            | {
                "method": {
                    "name": "bridge",
                    "adversarial": options.adversarial,
                    "discriminator": {"channels": options.channels},
                }
            },
        }
        rows["cdsb"] = method_preset("cdsb")(rows["i2sb"], frozenset())
        for name, changes in options.more_rows.items():
            rows[name] = base | {
                part: base[part] | value if part in ("network", "train") else value for part, value in changes.items()
            }
            if changes.get("method", {}).get("name") in STUDENTS:
                rows[name]["teacher"] = {"run": str(options.teacher)}
        return rows

    def batch(self, degradation: Degradation | None, size: int, step: int) -> tuple[Table, torch.Generator]:
        """Photos drawn with replacement, mirrored at random and degraded; and the generator of the step's noise."""
        draws = self.draws("step", step)
        index = torch.randint(len(self.photos), (size,), generator=draws, device=self.device)
        mirrored = torch.rand(size, 1, 1, 1, generator=draws, device=self.device) < 0.5
        images = pixels(self.photos[index])
        return paired(torch.where(mirrored, images.flip(-1), images), degradation, draws), draws

    def step(self, state: TrainState, degradation: Degradation | None, share: float) -> None:
        """One step at a share of the schedule."""
        size, place = state.settings.batch_size, min(int(share * SCHEDULE), SCHEDULE - 1)
        batch, draws = self.batch(degradation, size, state.step)
        batch["number"] = torch.arange(place * size, (place + 1) * size)
        losses = state.method.losses(batch, draws)
        state.begin_step()
        state.trained = trained_at(state.method, place, list(state.modules))  # by the share of the time, as the rate
        for _ in state.trained:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                name, loss = next(losses)
            loss.backward(inputs=list(state.modules[name].parameters()))
            state.update(learning_rate(state.settings, place), name)
        state.end_step()

    def train(
        self,
        recipe: Recipe,
        degradation: Degradation | None,
        budget: Budget,
        curve: Callable[[TrainState], None] | None,
        mean: Mean | None = None,
    ) -> tuple[TrainState, float]:
        """A trained state, and how many of its steps were skipped as not finite."""
        teacher = None if recipe.teacher is None else self.teacher(recipe)
        state = TrainState(recipe, self.device, mean, teacher)
        if teacher is not None:
            for network in (state.network, state.ema):
                network.load_state_dict(teacher.state_dict())
        init = open_init(recipe)
        if init is not None:
            init.load_into(state, recipe)
        state.network.train()
        size = recipe.train.batch_size
        milestones = [count for count in self.milestones() if curve]
        budget.begin()
        with global_seed(key(self.options.seed, "dropout"), self.device):
            while (share := budget.share(state.step)) < 1 and self.clock.left():
                self.step(state, degradation, share)
                if milestones and curve and state.step * size >= milestones[0]:
                    milestones = [count for count in milestones if count > state.step * size]
                    with budget.paused():
                        curve(state)
        self.synchronise()
        return state, float(state.skipped)

    def teacher(self, recipe: Recipe) -> torch.nn.Module:
        """The network of --teacher: a moving average that an earlier run kept, frozen."""
        network = recipe.build_network()
        network.load_state_dict(read_safetensors(self.options.teacher))
        return network.to(self.device).to(memory_format=torch.channels_last).eval().requires_grad_(False)

    def milestones(self) -> Sequence[int]:
        return MILESTONES if not self.options.dry_run else (self.options.batch,)

    # What is measured

    def restored(self, method: Method, validation: Table, nfe: int) -> Tensor | None:
        """Restorations of the validation photos; None where the time is over."""
        parts = []
        size = in_a_call(validation["x_1"])
        for start in range(0, len(validation["x_1"]), size):
            if not self.clock.left():
                return None
            batch = {name: value[start : start + size] for name, value in validation.items()}
            with torch.inference_mode():
                *_, x_0_hat = method.trajectory(batch, nfe=nfe, generator=self.draws("sampling", start))
            parts.append(x_0_hat.float())
        return torch.cat(parts)

    def measure(self, result: Result, method: Method, validation: Table) -> None:
        """All numbers of calls of a trained row."""
        calls = self.calls(method)
        for nfe in calls:
            images = self.restored(method, validation, nfe)
            if images is None:
                result.record["cut short"] = True
                return
            marks = self.judge.marks(images)
            others = {
                f"{other.row}": other.marks[1]
                for other in self.results
                if other.task == result.task and other.row in ("regression", "pix2pix") and 1 in other.marks
            }
            for other in self.results:
                if other.row == "teacher" != result.row and other.task == result.task:
                    others |= {f"teacher, NFE {calls}": marks for calls, marks in other.marks.items()}
            if nfe > 1 and 1 in result.marks:
                others["NFE 1"] = result.marks[1]
            result.marks[nfe] = marks
            result.pictures[nfe] = images[self.judge.halves["report"][:SHOWN]].cpu()
            result.record["nfe"][str(nfe)] = self.judge.table(marks, others, self.judge.halves)

    def calls(self, method: Method) -> list[int]:
        """The numbers of calls that a method is asked at; one, for those that answer in one."""
        return list(self.options.nfe) if hasattr(method, "sampler") else [1]

    def curve(self, result: Result, validation: Table) -> Callable[[TrainState], None]:
        """Measures the moving average in the midst of the training, on the half "report"."""
        rows = torch.from_numpy(self.judge.halves["report"]).to(self.device)
        half = {name: value[rows] for name, value in validation.items()}

        def measure(state: TrainState) -> None:
            point: Table = {"images": state.step * state.settings.batch_size, "nfe": {}}
            method = state.method.with_network(state.ema)
            for nfe in [nfe for nfe in CURVE_NFE if nfe in self.calls(method)]:
                images = self.restored(method, half, nfe)
                if images is None:
                    return
                marks = self.judge.marks(images, self.judge.truth[rows])
                point["nfe"][str(nfe)] = self.judge.curve_table(marks)
            result.record["curve"].append(point)

        return measure

    # The table

    def run(self) -> None:
        """Every row of every task, as far as the time goes."""
        for task in self.options.tasks:
            settings = TASKS[task].degradation
            degradation = None if settings is None else registry.DEGRADATIONS.build(settings)
            validation = self.validation(degradation)
            tables = self.tables(TASKS[task], self.moments(degradation))
            if not self.options.dry_run and not self.seconds:
                self.seconds = self.share_time(tables, degradation, validation)
            self.about["seconds of training for each row"] = self.seconds
            given = Result(task, "input", {"nfe": {"1": None}})
            given.marks[1] = self.judge.marks(validation["x_1"])
            given.record["nfe"]["1"] = self.judge.table(given.marks[1], {}, self.judge.halves)
            self.inputs[task] = validation["x_1"][self.judge.halves["report"][:SHOWN]].cpu()
            self.results.append(given)
            for row in self.options.rows:
                if not self.clock.left():
                    return
                self.results.append(result := Result(task, row, {"nfe": {}, "curve": []}))
                print(f"{task} {row} begins", flush=True)
                try:
                    self.row(result, tables, degradation, validation)
                except Exception as error:
                    if not isinstance(error, UserError):
                        traceback.print_exc()
                    result.record["failed"] = f"{type(error).__name__}: {error}"
                print(f"{task} {row}: {self.summary(result)}; {self.clock.left():.0f} s left", flush=True)
                self.write(self.results[:-1])  # the last row's estimates are still being computed
                if self.cuda:
                    torch.cuda.empty_cache()

    def row(
        self, result: Result, tables: Mapping[str, Table], degradation: Degradation | None, validation: Table
    ) -> None:
        """Train and measure one row."""
        options, table, seconds, mean = self.options, tables[result.row], self.seconds, None
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
        if "mean" in table:
            mean, spent = self.first_stage(result, tables["regression"], degradation)
            table = table | {"target": {"name": "preconditioned"} | self.moments(degradation, mean)}
            seconds = max(seconds - spent, 1.0)
        recipe = parse_recipe(table, f"{result.task} {result.row}")
        result.record["recipe"] = recipe.model_dump(mode="json", exclude_none=True)
        if result.row == "teacher":
            self.measure(result, build_method(recipe, self.teacher(recipe)), validation)
            return
        if not options.dry_run:
            # The first steps choose kernels: on a state of their own, so that no row's seconds pay for it.
            self.train(recipe, degradation, self.budget(1.0, 2), None, mean)
        curve = self.curve(result, validation) if result.row in options.curve else None
        budget = self.budget(seconds, options.steps if options.dry_run else None)
        state, skipped = self.train(recipe, degradation, budget, curve, mean)
        images, seconds = state.step * recipe.train.batch_size, budget.spent()
        result.record |= {
            "seconds": seconds,
            "steps": state.step,
            "images": images,
            "images/s": images / seconds,
            "skipped": skipped,
            "parameters": sum(parameter.numel() for parameter in state.network.parameters()),
            "device memory, GB": torch.cuda.max_memory_allocated() / 1e9 if self.cuda else None,
        }
        result.weights = {
            name: value.to("cpu", torch.bfloat16 if value.is_floating_point() else None).contiguous()
            for name, value in state.ema.state_dict().items()
        }
        self.measure(result, state.method.with_network(state.ema), validation)
        if not self.cuda:  # otherwise the estimates would take processor time from the next row's training
            result.record = settled(result.record)

    def first_stage(self, result: Result, table: Table, degradation: Degradation | None) -> tuple[Mean, float]:
        """A regression, trained for a share of the row's time, and the seconds that it took."""
        options = self.options
        budget = self.budget(options.first_share * self.seconds, options.steps if options.dry_run else None)
        state, _ = self.train(parse_recipe(table, f"{result.task} first stage"), degradation, budget, None)
        spent = budget.spent()
        result.record["first stage"] = {"seconds": spent, "images": state.step * state.settings.batch_size}
        return Mean(state.method.with_network(state.ema)), spent

    def validation(self, degradation: Degradation | None) -> Table:
        """The degraded validation photos."""
        parts = [
            paired(part, degradation, self.draws("validation", i)) for i, part in enumerate(self.held_out.split(CHUNK))
        ]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0] if name != "x_0"}

    def moments(self, degradation: Degradation | None, mean: Mean | None = None) -> Table:
        """Of the target 'preconditioned', from 1,000 training photos."""
        draws = self.draws("moments")
        found = paired(pixels(self.photos[:1000]), degradation, draws)
        start = found["x_1"] if mean is None else self.started(mean, found, draws)
        return estimate_moments([(found["x_0"].cpu(), start.cpu())])

    def started(self, mean: Mean, batch: Table, draws: torch.Generator) -> Tensor:
        """A first stage's answers to a large batch."""
        size = in_a_call(batch["x_1"])
        parts = zip(*(value.split(size) for value in batch.values()), strict=True)
        return torch.cat([mean(dict(zip(batch, part, strict=True)), draws) for part in parts])

    def share_time(self, tables: Mapping[str, Table], degradation: Degradation | None, validation: Table) -> float:
        """Seconds of training that every row can have, by a short try of what measuring costs.

        Raises:
            UserError: There is no time for so many rows.
        """
        rows = [row for _ in self.options.tasks for row in self.options.rows]
        self.judge.marks(self.judge.truth)
        marking = self.timed(lambda: self.judge.marks(self.judge.truth))
        count, cost = len(self.judge.truth), 0.0
        calls: dict[str, float] = {}
        rate = 1.0
        for row in ("regression", "pix2pix"):
            recipe = parse_recipe(tables[row], row)
            self.train(recipe, degradation, self.budget(1.0, 3), None)
            budget = self.budget(1.0, 5)
            state, _ = self.train(recipe, degradation, budget, None)
            rate = max(rate, 5 * recipe.train.batch_size / budget.spent())
            few = {name: value[: CHUNK if row == "regression" else 8] for name, value in validation.items()}
            walk = lambda: self.restored(state.method.with_network(state.ema), few, 1)  # noqa: B023, E731
            walk()
            calls[row] = self.timed(walk) / len(few["x_1"])
        seen = self.clock.left() * rate / len(rows)
        points = sum(milestone <= seen for milestone in MILESTONES)
        for row in rows:
            if row == "pix2pix":
                cost += count * calls["pix2pix"] + marking
                continue
            nfe = [1] if row == "regression" else self.options.nfe
            cost += count * calls["regression"] * sum(nfe) + marking * len(nfe)
            if row in self.options.curve:
                asked = [number for number in nfe if number in CURVE_NFE]
                cost += points * (count / 2 * calls["regression"] * sum(asked) + marking / 2 * len(asked))
        seconds = (self.clock.left() - 1.2 * cost - 2 * len(rows)) / len(rows)
        print(f"measuring takes about {cost:.0f} s of {self.clock.left():.0f}: {seconds:.1f} s of training a row")
        if seconds < 1:
            raise UserError(f"--minutes: no time to train {len(rows)} rows; take fewer --rows, --tasks or --nfe")
        return seconds

    def timed(self, act: Callable[[], Any]) -> float:
        self.synchronise()
        began = time.perf_counter()
        act()
        self.synchronise()
        return time.perf_counter() - began

    # What is left of it

    def write(self, results: Sequence[Result]) -> None:
        """results.json and table.md of these rows."""
        for result in results:
            result.record = settled(result.record)
        about = self.about | {"stopped": self.clock.stopped}
        rows = [{"task": result.task, "row": result.row} | result.record for result in results]
        data = json.dumps({"about": about, "rows": rows}, indent=1)
        write_whole(self.options.out / "results.json", data.encode())
        write_whole(self.options.out / "table.md", self.table(results).encode())

    def finish(self) -> None:
        """All files; the table is printed last."""
        self.write(self.results)
        if self.inputs:
            write_picture(self.options.out / "sheet.png", Picture(self.sheet()))
        self.keep()
        print("\n" + self.table(self.results), end="", flush=True)

    def best(self, result: Result) -> int | None:
        """The number of calls, at most FEW, that is best on the half "selection": by KID, else ST-LPIPS, else PSNR."""
        found = {int(nfe): halves["selection"] for nfe, halves in result.record["nfe"].items() if int(nfe) <= FEW}
        if not found:
            return None
        metric = next(name for name in ("kid", "st_lpips", "psnr") if name in next(iter(found.values())))
        sign = -1 if metric == "psnr" else 1
        return min(found, key=lambda nfe: sign * found[nfe][metric][0])

    def summary(self, result: Result) -> str:
        if "failed" in result.record:
            return f"failed: {result.record['failed']}"
        if "images" not in result.record:
            return "measured" if result.row == "teacher" and "cut short" not in result.record else "cut short"
        return f"{result.record['images']} images in {result.record['seconds']:.1f} s"

    def table(self, results: Sequence[Result]) -> str:
        """A line for each row, of the half "report"; differences are paired, with standard errors."""
        columns = ["task", "row", "images", *(f"KID {nfe}" for nfe in self.options.nfe), "NFE", "KID - regression"]
        columns += ["ST-LPIPS", "ST-LPIPS - regression", "PSNR", "PSNR - regression"]
        lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
        for result in results:
            nfe, found = self.best(result), result.record["nfe"]
            if nfe is None:
                lines.append(f"| {result.task} | {result.row} | {self.summary(result)} |" + " |" * (len(columns) - 3))
                continue
            report = found[str(nfe)]["report"]
            minus = found[str(nfe)].get("report minus regression", {})
            cells = [result.task, result.row, str(result.record.get("images", ""))]
            cells += [number(found.get(str(asked), {}).get("report", {}), "kid", 0) for asked in self.options.nfe]
            cells += [str(nfe) if result.row != "input" else "", number(minus, "kid", 0, error=True)]
            for metric, digits in (("st_lpips", 3), ("psnr", 2)):
                cells += [number(report, metric, digits), number(minus, metric, digits, error=True)]
            lines.append("| " + " | ".join(cells) + " |")
        head = f"{self.about['device']}, torch {self.about['torch']}, commit {self.about['commit']}"
        if self.options.dry_run:
            head += ", dry run: the figures mean nothing"
        return f"{head}\n\n" + "\n".join(lines) + "\n"

    def sheet(self) -> np.ndarray:
        """Rows: X_1, each method at one call and at the most calls up to FEW, X_0. Columns: photos of the half."""
        truth = self.judge.truth[self.judge.halves["report"][:SHOWN]].cpu()
        rows: list[list[Tensor]] = []
        for task, x_1 in self.inputs.items():
            rows.append([label(f"{task}: X_1"), *map(doubled, x_1)])
            for result in self.results:
                shown = sorted(nfe for nfe in result.pictures if nfe <= FEW)
                for nfe in dict.fromkeys([*shown[:1], *shown[-1:]]) if result.task == task else ():
                    rows.append([label(f"{result.row}, NFE {nfe}"), *map(doubled, result.pictures[nfe])])
            rows.append([label("X_0"), *map(doubled, truth)])
        return montage(rows)

    def keep(self) -> None:
        """The moving averages of the best bridges that fit into LARGEST: each task's best first, then its second."""
        ranked = []
        for task in self.options.tasks:
            bridges = [r for r in self.results if r.task == task and len(r.marks) > 1 and r.weights]
            metric = "kid" if self.judge.reference is not None else "psnr"
            sign = -1 if metric == "psnr" else 1
            value = lambda r: sign * r.record["nfe"][str(self.best(r))]["selection"][metric][0]  # noqa: B023, E731
            ranked += [(rank, r) for rank, r in enumerate(sorted(bridges, key=value))]
        left = LARGEST
        for _, result in sorted(ranked, key=lambda pair: pair[0])[:4]:
            data = save(result.weights, metadata={"task": result.task, "row": result.row, "part": "ema"})
            if len(data) <= left:
                write_whole(self.options.out / f"{result.task}-{result.row}.safetensors", data)
                left -= len(data)


def number(values: Mapping[str, Any], metric: str, digits: int, *, error: bool = False) -> str:
    """A value as a table shows it."""
    if metric not in values:
        return ""
    value, standard_error = values[metric]
    return f"{value:{'+' if error else ''}.{digits}f}" + (f" ± {standard_error:.{digits}f}" if error else "")


def pixels(codes: Tensor) -> Tensor:
    """8-bit codes as float32 in [-1, 1]."""
    return codes.float().div_(127.5).sub_(1)


def paired(images: Tensor, degradation: Degradation | None, draws: Generator) -> Table:
    """What a method is given of images (n, 3, H, W), or of pairs (n, 6, H, W) without a degradation; channels last."""
    x_0, x_1 = images[:, :3], images[:, 3:]
    degraded = Degraded(x_1) if degradation is None else degradation(x_0, draws)
    found = {"x_0": x_0, "x_1": degraded.x_1, "mask": degraded.mask, "condition": degraded.condition}
    return {
        name: value.contiguous(memory_format=torch.channels_last) for name, value in found.items() if value is not None
    }


def doubled(image: Tensor) -> Tensor:
    return image.repeat_interleave(2, -1).repeat_interleave(2, -2)


def label(text: str) -> Tensor:
    """A name as an image of the contact sheet."""
    image = Image.new("RGB", (210, 40), "white")
    ImageDraw.Draw(image).text((2, 20), text, fill="black", font=ImageFont.load_default(14), anchor="lm")
    return pixels(torch.from_numpy(np.array(image)).permute(2, 0, 1))


def photos(options: argparse.Namespace) -> tuple[Tensor, Tensor, int | None]:
    """Images to train on and to measure on, uint8 (n, 3, H, W), and how many of the latter choose (None: half).

    They are FOLDER/train and FOLDER/val, or drawn ones without --data. With the task "pairs" (n, 6, H, W): X_0 and X_1;
    FOLDER/val chooses and FOLDER/test reports.

    Raises:
        UserError: A folder holds no photos, or photos of several sizes.
    """
    together = "pairs" in options.tasks
    if options.data is None:
        draw = np.random.default_rng(options.seed)
        count = options.images + options.validation_images
        coarse = draw.integers(0, 256, (count, 6 if together else 3, 8, 8), dtype=np.uint8)
        drawn = torch.from_numpy(coarse.repeat(8, 2).repeat(8, 3))
        return drawn[: options.images], drawn[options.images :], None
    train = read(options.data / "train", options.images, squares if together else whole)
    validation = read(options.data / "val", options.validation_images, middle if together else whole)
    if not together:
        return train, validation, None
    return train, torch.cat([validation, read(options.data / "test", None, middle)]), len(validation)


def read(folder: Path, limit: int | None, open_: Callable[[Path], list[np.ndarray]]) -> Tensor:
    """The images below a folder, in the order of their names; with a limit, evenly spread over its files."""
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in (".jpeg", ".jpg", ".png"))
    if not files:
        raise UserError(f"--data: no photos in {folder}")
    files = files[:: max(len(files) // limit, 1)][:limit] if limit else files
    with ThreadPoolExecutor() as pool:
        arrays = [array for found in pool.map(open_, files) for array in found]
    if len({array.shape for array in arrays}) > 1:
        raise UserError(f"--data: the photos in {folder} differ in size")
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()


def whole(file: Path) -> list[np.ndarray]:
    """A photo as it is."""
    return [np.asarray(Image.open(file).convert("RGB"))]


def squares(file: Path, places: Sequence[float] = (0.0, 0.5, 1.0)) -> list[np.ndarray]:
    """Squares of a photo and of the labels at its right, SIDE wide: (SIDE, SIDE, 6), cut at shares of the rest."""
    image = Image.open(file).convert("RGB")
    width, side = image.width // 2, min(image.width // 2, image.height)
    cuts = []
    for place in places:
        left = round(place * (width - side))
        boxes = [(start + left, 0, start + left + side, side) for start in (0, width)]
        sides = [image.resize((SIDE, SIDE), Image.Resampling.BOX, box) for box in boxes]
        cuts.append(np.concatenate([np.asarray(part) for part in sides], axis=2))
    return cuts


def middle(file: Path) -> list[np.ndarray]:
    """The square in the middle."""
    return squares(file, (0.5,))


def commit() -> str:
    """That of the checkout, or "unknown"."""
    done = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"


def pack(folder: Path) -> None:
    """The two weights files with what Python finds their packages by, for PYTHONPATH: 29 MB instead of 83."""
    for weights in (EFFICIENTNET_LITE0, ST_LPIPS_ALEX):
        file = weights.file()
        if file is None:
            raise UserError(str(weights.missing("--pack")))
        package = importlib.metadata.distribution(weights.package)
        name = f"{weights.package.replace('-', '_')}-{package.version}.dist-info"
        write_whole(folder / weights.path, file.read_bytes())
        write_whole(folder / name / "METADATA", str(package.read_text("METADATA")).encode())


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="What each method reaches in equal time on one GPU.")
    add = parser.add_argument
    add(
        "--data",
        type=Path,
        help="folder with train and val, photos of one size below each; for the task 'pairs' train, val and test, a "
        "photo and its labels side by side in each file",
    )
    add("--out", type=Path, default=Path("runs") / "evidence")
    add("--minutes", type=float, default=8.0, help="of the whole run, measuring and files included")
    add(
        "--seconds",
        type=float,
        help="of training for each row, the processor's on a CPU; by default what --minutes leaves",
    )
    add("--tasks", nargs="+", choices=TASKS, default=["inpaint", "edges"])
    add("--rows", nargs="+", default=list(ROWS), help=f"of {', '.join(ROWS)}; {', '.join(FURTHER)}; --more-rows")
    add("--more-rows", type=json.loads, default={}, help="JSON: {NAME: {part of a recipe: settings}}")
    add(
        "--teacher",
        type=Path,
        help="weights of a 'curriculum' that an earlier run kept: the row 'teacher', and what "
        "rows of --more-rows with a student's method learn from",
    )
    add("--curve", nargs="*", default=["regression", "i2sb", "curriculum"], help="rows measured while they train")
    add("--nfe", type=int, nargs="+", default=[1, 2, 5, 10, 20])
    add("--channels", type=int, default=32)
    add("--channel-mult", type=float, nargs="+", default=[1, 2, 3, 3])
    add("--blocks", type=int, default=1)
    add("--attention-factors", type=int, nargs="*", default=[8])
    add("--batch", type=int, default=256)
    add("--pix2pix-batch", type=int, default=16, help="the paper has 1 to 10; many more photos in the same time")
    add("--lr", type=float, default=1e-3, help="but of Pix2pix, which has the paper's")
    add("--ema", type=float, default=0.998)
    add("--sigma-s", type=float, help="noise at the source of the rows with the curriculum; 0: none")
    add("--first-share", type=float, default=0.5, help="of the seconds of a row with a first stage, for that")
    add("--perceptual", type=float, default=0.5)
    add("--adversarial", type=float, default=0.5)
    add("--precision", choices=["bf16", "fp32"], default="bf16", help="of training on a GPU; a CPU has fp32")
    add("--images", type=int, help="training photos; all by default")
    add("--validation-images", type=int)
    add("--seed", type=int, default=0)
    add("--commit", help="where there is no git")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--dry-run", action="store_true", help="a tiny network on the CPU, to see that it runs")
    add("--steps", type=int, default=2, help="of each row in a dry run")
    add("--pack", type=Path, metavar="FOLDER", help="write the metrics' weights for another machine, and do no more")
    options = parser.parse_args()
    if options.dry_run:
        options.device, options.channels, options.channel_mult, options.attention_factors = "cpu", 8, [1, 2], []
        options.batch, options.pix2pix_batch, options.nfe = 4, 2, [1, 2]
        options.images, options.validation_images = 16, 4
    elif options.data is None and options.pack is None:
        parser.error("--data is missing; --dry-run does without")
    if not 0 < options.first_share < 1:
        parser.error("--first-share: a share of the time, above 0 and below 1")
    students = [row for row, parts in options.more_rows.items() if parts.get("method", {}).get("name") in STUDENTS]
    if "pairs" in options.tasks and len(options.tasks) > 1:
        parser.error("--tasks: pairs come alone, the other tasks make X_1 themselves")
    if options.teacher is None and (students or "teacher" in options.rows):
        parser.error("--teacher is missing")
    unknown = sorted({*options.rows, *options.curve} - {*ROWS, *FURTHER, *options.more_rows})
    if unknown:
        parser.error(f"no row {', '.join(unknown)}; known: {', '.join([*ROWS, *FURTHER, *options.more_rows])}")
    missing = [found for found in (EFFICIENTNET_LITE0.missing("KID"), ST_LPIPS_ALEX.missing("st-lpips")) if found]
    if missing and not options.dry_run:
        parser.error(missing[0])
    # Differences are to the answers of these: they come first.
    first = ["regression", "pix2pix", "teacher"]
    options.rows.sort(key=lambda row: first.index(row) if row in first else len(first))
    return options


def main() -> int:
    options = arguments()
    clock = Clock(60 * options.minutes - RESERVE)
    try:
        if options.pack is not None:
            pack(options.pack)
            return 0
        evidence = Evidence(options, clock)
        try:
            evidence.run()
        finally:
            evidence.finish()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    failed = any("failed" in result.record for result in evidence.results)
    return int(failed or clock.stopped)


if __name__ == "__main__":
    sys.exit(main())
