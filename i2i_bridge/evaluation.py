"""The only metric loop: restore the held-out images at several NFE and score them beside the degraded input."""

import csv
import json
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from i2i_bridge import registry
from i2i_bridge.data.loading import PairDataset
from i2i_bridge.errors import UserError
from i2i_bridge.files import write_whole
from i2i_bridge.images import Picture, Range, shown, to_pixels, to_tensor, write_picture
from i2i_bridge.metrics.base import Metric
from i2i_bridge.randomness import generator
from i2i_bridge.run import Run

INPUT = "input"
"""The row of the degraded images themselves, nothing restored."""


@dataclass(frozen=True)
class Row:
    """Scores of one NFE over all images."""

    name: str
    """'input', or 'nfe N'."""
    nfe: int
    """Network calls per image, counted."""
    images: int
    metrics: dict[str, float]
    """Mean of each metric."""
    standard_errors: dict[str, float]
    seconds_per_image: float | None


@dataclass(frozen=True)
class Evaluation:
    """Everything one call of `evaluate` measured."""

    recipe: str
    step: int
    split: str
    seed: int
    rows: list[Row]
    skipped: dict[str, str] = field(default_factory=dict)
    """Metrics that could not be computed, with the reason."""


class CountedNetwork(torch.nn.Module):
    """A network that counts its calls, per image."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network
        self.stride = getattr(network, "stride", 1)
        self.calls = 0

    def forward(self, *args: Any) -> Tensor:
        """The network's own output."""
        self.calls += 1
        output: Tensor = self.network(*args)
        return output


def evaluate(
    run: Run,
    dataset: PairDataset,
    *,
    nfe: Sequence[int],
    metrics: Sequence[str],
    images: int | None = None,
    save_images: int = 8,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """Score a run on held-out pairs, one image at a time, with flat memory.

    Every NFE sees the same degraded image and the same noise of each item, whatever the order. Images are rounded
    first, to 8 or 16 bits as in the dataset's files. Writes into `evaluation/` of the run folder: evaluation.json,
    per_image.csv, and PNGs of the first `save_images` items.

    Args:
        run: The trained run.
        dataset: Its validation pairs.
        nfe: Network calls per image, each 1 to 1000.
        metrics: Names of registered metrics; one whose weights are absent is skipped and named.
        images: Only the first so many.
        report: Called with (images done, images in all).

    Raises:
        UserError: There is no image, or nothing to measure.
    """
    counts = sorted(set(nfe))
    if not counts or not all(1 <= count <= 1000 for count in counts):
        raise UserError(f"--nfe {' '.join(map(str, nfe))}: give one or more numbers from 1 to 1000")
    total = len(dataset) if images is None else min(images, len(dataset))
    if total == 0:
        raise UserError("no image to evaluate")
    chosen: dict[str, Metric] = {name: registry.METRICS.get(name)() for name in metrics}
    channels = run.recipe.data.channels
    skipped = {name: reason for name, metric in chosen.items() if (reason := metric.missing(channels))}
    chosen = {name: metric for name, metric in chosen.items() if name not in skipped}
    if not chosen:
        raise UserError(f"nothing to measure: {'; '.join(skipped.values()) or 'no metric is named'}")
    folder = run.folder / "evaluation"
    folder.mkdir(parents=True, exist_ok=True)
    names = [INPUT, *(f"nfe {count}" for count in counts)]
    scores: dict[str, dict[str, list[float]]] = {name: {metric: [] for metric in chosen} for name in names}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    calls = dict.fromkeys(names, 0)

    counted = CountedNetwork(run.method.network)
    restorer = Run(run.folder, run.recipe, run.method.with_network(counted), run.step, run.device)
    partial = folder / "per_image.csv.part"
    with partial.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["key", "nfe", *chosen])
        for i in range(total):
            item = dataset[i]
            written = _written(item["dtype"], run.recipe.data.value_range)
            clean = written(item["x_0"])
            batch = {name: value[None] for name, value in item.items() if isinstance(value, Tensor)}
            outputs = {INPUT: written(item["x_1"])}
            for count, name in zip(counts, names[1:], strict=True):
                draws = [generator(run.recipe.evaluate.seed, "evaluate", item["key"])]
                counted.calls, began = 0, time.perf_counter()
                restored = restorer.restore_batch(batch, nfe=count, generator=draws)[0]
                seconds[name].append(time.perf_counter() - began)
                calls[name] = max(calls[name], counted.calls)
                outputs[name] = written(restored)
            for name, output in outputs.items():
                values = {key: float(metric(output[None], clean[None])[0]) for key, metric in chosen.items()}
                writer.writerow([item["key"], calls[name], *values.values()])
                for key, value in values.items():
                    scores[name][key].append(value)
            if i < save_images:
                _save_images(folder / "images" / f"{i:04d}", {**outputs, "clean": clean})
            report(i + 1, total)
    partial.replace(folder / "per_image.csv")
    rows = [
        Row(
            name,
            calls[name],
            total,
            {key: statistics.fmean(values) for key, values in scores[name].items()},
            {key: _standard_error(values) for key, values in scores[name].items()},
            # The first image pays for warming up.
            statistics.median(seconds[name]) if seconds[name] else None,
        )
        for name in names
    ]
    result = Evaluation(
        run.recipe.name, run.step, run.recipe.data.validation_split, run.recipe.evaluate.seed, rows, skipped
    )
    _write_json(folder / "evaluation.json", result)
    return result


def read_evaluation(folder: Path) -> Evaluation:
    """The evaluation.json of a run folder.

    Raises:
        UserError: There is none, or it is damaged.
    """
    file = folder / "evaluation" / "evaluation.json"
    try:
        table = json.loads(file.read_text(encoding="utf-8"))
        rows = [
            Row(
                **{
                    **row,
                    "metrics": {k: float(v) for k, v in row["metrics"].items()},
                    "standard_errors": {k: float(v) for k, v in row["standard_errors"].items()},
                }
            )
            for row in table.pop("rows")
        ]
        return Evaluation(rows=rows, **table)
    except FileNotFoundError as error:
        raise UserError(f"{folder}: not evaluated yet; run `i2i-bridge evaluate {folder}`") from error
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{file}: damaged ({error}); evaluate again") from error


def _written(dtype: str, value_range: Range) -> Callable[[Tensor], Tensor]:
    """An image as a file of that dtype would hold it."""
    return lambda x: to_tensor(to_pixels(x, np.dtype(dtype), value_range), value_range)


def _standard_error(values: list[float]) -> float:
    if len(values) < 2 or not all(map(math.isfinite, values)):
        return math.nan
    return statistics.stdev(values) / math.sqrt(len(values))


def _save_images(folder: Path, pictures: dict[str, Tensor]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in pictures.items():
        write_picture(folder / f"{name.replace(' ', '-')}.png", Picture(shown(picture)))


def _write_json(file: Path, result: Evaluation) -> None:
    from dataclasses import asdict

    def plain(value: Any) -> Any:
        # JSON has no infinity (PSNR of equal images) and no NaN: they become the strings "inf" and "nan".
        if isinstance(value, dict):
            return {key: plain(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [plain(inner) for inner in value]
        return str(value) if isinstance(value, float) and not math.isfinite(value) else value

    write_whole(file, json.dumps(plain(asdict(result)), indent=1).encode())
