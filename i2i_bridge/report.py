"""The report of a run: one HTML page with its figures, readable offline."""

import math
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from i2i_bridge import __version__
from i2i_bridge.data.loading import PairDataset
from i2i_bridge.data.pairs import shared_files
from i2i_bridge.errors import UserError
from i2i_bridge.evaluation import INPUT, Evaluation, Row, read_evaluation
from i2i_bridge.images import Picture, read_picture, to_tensor, write_picture
from i2i_bridge.metrics_log import read_metrics
from i2i_bridge.montage import montage, states_shown
from i2i_bridge.randomness import generator
from i2i_bridge.records import slug
from i2i_bridge.registry import METRICS
from i2i_bridge.results import evaluation_folder
from i2i_bridge.run import Run


@dataclass(frozen=True)
class Figure:
    """A picture of the page, with the text under it."""

    file: str
    title: str
    caption: str
    width: int
    height: int
    pixelated: bool = False


def write_report(run: Run, dataset: PairDataset, protocol: str = "held-out") -> Path:
    """Write `report/index.html` and its PNGs from an evaluated run.

    The page shows the metrics table beside the input's own numbers, restored held-out images at each NFE, a trajectory
    X_1 -> X_0, the loss curve, quality against NFE, the settings and the environment.

    Args:
        run: The trained run; `evaluate` must have been called.
        dataset: Its validation pairs, for the trajectory.
        protocol: Under which it was evaluated.

    Returns:
        The page.

    Raises:
        UserError: The run is not evaluated yet.
    """
    from jinja2 import Environment, PackageLoader

    evaluation = read_evaluation(run.folder, protocol)
    folder = run.folder / "report"
    fresh = run.folder / ".report-new"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    figures = [
        _comparison(run, evaluation, dataset, fresh),
        _trajectory(run, dataset, fresh, nfe=max(row.nfe for row in evaluation.rows)),
        _quality(evaluation, fresh),
        _loss(run, fresh),
    ]
    environment = Environment(loader=PackageLoader("i2i_bridge"), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page = environment.get_template("report.html").render(
        recipe=run.recipe,
        step=run.step,
        evaluation=evaluation,
        table=metrics_table(evaluation),
        figures=[figure for figure in figures if figure is not None],
        settings=run.recipe.to_toml(),
        environment=environment_facts(),
    )
    (fresh / "index.html").write_text(page, encoding="utf-8")
    # The old page stays until the new one is complete.
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)
    return folder / "index.html"


def metrics_table(evaluation: Evaluation) -> tuple[list[str], list[list[tuple[str, bool]]]]:
    """Header and rows of the metrics table; each cell is its text and whether it is the best restored value."""
    metrics = list(evaluation.rows[0].metrics)
    parts = {name: METRICS.get(name) for name in metrics}
    header = ["", "NFE", *(str(parts[name].label) for name in metrics), "seconds per image"]  # type: ignore[attr-defined]
    # A number that is not there (nan) is never the best.
    best = {
        name: (max if parts[name].higher_is_better else min)(  # type: ignore[attr-defined]
            (row.metrics[name].value for row in evaluation.rows if not _is_baseline(row) and not _is_nan(row, name)),
            default=None,
        )
        for name in metrics
    }
    rows = []
    for row in evaluation.rows:
        cells: list[tuple[str, bool]] = [
            ({INPUT: "degraded input", f"nfe {row.nfe}": "restored"}.get(row.name, row.name), False),
            (str(row.nfe), False),
        ]
        for name in metrics:
            cells.append((estimate_text(name, row), not _is_baseline(row) and row.metrics[name].value == best[name]))
        cells.append(("" if row.seconds_per_image is None else f"{row.seconds_per_image:.3f}", False))
        rows.append(cells)
    return header, rows


def estimate_text(metric: str, row: Row) -> str:
    """A number with its 95 % interval, where there is one."""
    estimate, digits = row.metrics[metric], 2 if metric in ("psnr", "fid") else 4
    if _is_nan(row, metric):
        return "–"
    interval = f" [{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]" if estimate.low == estimate.low else ""
    return f"{estimate.value:.{digits}f}{interval}"


def _is_baseline(row: Row) -> bool:
    """Whether nothing learned made the row."""
    return row.seconds_per_image is None


def _is_nan(row: Row, metric: str) -> bool:
    return math.isnan(row.metrics[metric].value)


def environment_facts() -> dict[str, str]:
    """Versions and machine that the numbers come from."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    return {
        "i2i-bridge": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
        "device": f"{device}, {torch.get_num_threads()} threads",
    }


def _save(folder: Path, name: str, pixels: np.ndarray, title: str, caption: str) -> Figure:
    write_picture(folder / name, Picture(pixels, None))
    small = pixels.shape[1] < 600
    return Figure(name, title, caption, pixels.shape[1], pixels.shape[0], pixelated=small)


def _comparison(run: Run, evaluation: Evaluation, dataset: PairDataset, folder: Path) -> Figure | None:
    columns = [*(slug(row.name) for row in evaluation.rows), "clean"]
    images = evaluation_folder(run.folder, evaluation.protocol.name) / "images"
    rows = []
    for item in sorted((images / "clean").glob("*.png"))[:4]:
        files = [images / column / item.name for column in columns]
        if all(file.is_file() for file in files):
            rows.append([_read(file) for file in files])
    if not rows:
        return None
    names = [column.replace("input", "degraded").replace("nfe-", "NFE ") for column in columns]
    return _save(
        folder,
        "comparison.png",
        montage(rows, names),
        "Restored images",
        f"From left to right: {' | '.join(names)}.{_held_out(run, dataset)}",
    )


def _held_out(run: Run, dataset: PairDataset) -> str:
    """Whether the images were trained on, where the training data are here to tell."""
    try:
        shared = shared_files(run.recipe.build_dataset("train").source, dataset.source)
    except UserError:
        return ""
    if shared is None:
        return ""
    return " None was trained on." if shared == 0 else f" {shared} of {len(dataset)} were TRAINED ON: not held out."


def _read(file: Path) -> Tensor:
    return to_tensor(read_picture(file).pixels)


def _trajectory(run: Run, dataset: PairDataset, folder: Path, nfe: int, columns: int = 8) -> Figure:
    rows: list[list[Tensor]] = []
    header: list[str] = []
    for i in range(min(2, len(dataset))):
        item = dataset[i]
        batch = {name: value[None] for name, value in item.items() if isinstance(value, Tensor)}
        draws = [generator(run.recipe.evaluate.seed, "evaluate", item["key"])]
        states, header = states_shown(
            item["x_1"], (state[0] for state in run.walk(batch, nfe=nfe, generator=draws)), columns
        )
        rows.append(states)
    return _save(
        folder,
        "trajectory.png",
        montage(rows, header),
        "The walk from X_1 to X_0",
        f"States X_t of a sampling of {nfe} network calls, from the degraded image (left) to the restored one.",
    )


def _axes(title_x: str, title_y: str) -> tuple[Any, Any]:
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(7, 3.6), dpi=130, layout="constrained")
    axes = canvas.subplots()
    axes.set_xlabel(title_x)
    axes.set_ylabel(title_y)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return canvas, axes


def _finish(canvas: Any, folder: Path, name: str, title: str, caption: str) -> Figure:
    canvas.savefig(folder / name)
    with Image.open(folder / name) as image:
        return Figure(name, title, caption, image.width, image.height)


def _loss(run: Run, folder: Path) -> Figure | None:
    rows = read_metrics(run.folder)
    if not rows:
        return None
    canvas, axes = _axes("step", "loss")
    steps, losses = [row["step"] for row in rows], [row["loss"] for row in rows]
    axes.plot(steps, losses, color="#2a6fdb")
    if min(losses) > 0 and max(losses) / min(losses) > 10:
        axes.set_yscale("log")
    return _finish(canvas, folder, "loss.png", "Training loss", "Mean over the logged steps.")


def _quality(evaluation: Evaluation, folder: Path) -> Figure | None:
    restored = [row for row in evaluation.rows if not _is_baseline(row)]
    if "psnr" not in evaluation.rows[0].metrics:
        return None
    canvas, axes = _axes("network calls per image (NFE)", "PSNR (dB)")
    psnr = [row.metrics["psnr"] for row in restored]
    values = [estimate.value for estimate in psnr]
    # Lengths of the bars below and above; 0 where there is no interval, or an infinite one.
    ends = [(estimate.value - estimate.low, estimate.high - estimate.value) for estimate in psnr]
    axes.errorbar(
        [row.nfe for row in restored],
        values,
        yerr=np.nan_to_num(np.array(ends).T, posinf=0, neginf=0),
        marker="o",
        capsize=3,
        color="#2a6fdb",
        label="restored",
    )
    axes.axhline(evaluation.rows[0].metrics["psnr"].value, ls="--", color="#b4532a", label="degraded input")
    axes.set_xscale("log")
    axes.set_xticks([row.nfe for row in restored], [str(row.nfe) for row in restored])
    axes.minorticks_off()
    axes.legend(frameon=False)
    return _finish(
        canvas,
        folder,
        "quality.png",
        "Fidelity against cost",
        "Mean over the images, with its 95 % interval. One call answers with the average of all that fits, which PSNR "
        "likes best; further calls trade fidelity for detail.",
    )
