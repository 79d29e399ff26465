"""Training, evaluating and reporting as a person watches them: progress shown, stop signals heeded."""

import os
import signal
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from i2i_bridge import console

if TYPE_CHECKING:
    from i2i_bridge.data.loading import PairDataset
    from i2i_bridge.recipe import Recipe
    from i2i_bridge.run import Run


def train_run(recipe: "Recipe", folder: Path, *, device: str | None = None) -> bool:
    """Train, or go on; the first SIGINT or SIGTERM saves and stops, the second stops at once.

    Returns:
        Whether the run is finished.
    """
    from i2i_bridge.run import resolve_device
    from i2i_bridge.training import train

    chosen = None if device is None else resolve_device(device)
    asked = False

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:  # the second time: at once, the last checkpoint stays
            os._exit(128 + number)
        asked = True
        console.say("stopping after this step (once more to stop at once)")

    signals = [signal.SIGINT, signal.SIGTERM]
    before = {number: signal.signal(number, ask) for number in signals}
    try:
        with console.training_display(recipe.train.steps) as show_progress:
            trained = train(
                recipe,
                folder,
                report=show_progress,
                stop=lambda: asked,
                cpu=chosen is not None and chosen.type == "cpu",
            )
    except RuntimeError:
        if not asked:
            raise
        # Whoever stopped us stopped a data worker too, in the middle of a step: nothing whole to save.
        console.say(f"stopped; {folder} keeps its last checkpoint, and the same command goes on from there")
        return False
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if not trained.finished:
        console.say(f"saved {folder} at step {trained.step}; the same command goes on")
    else:
        console.say(f"trained {folder}, step {trained.step}")
    return trained.finished


def _opened(run: Path, root: Path | None, device: str | None) -> tuple["Run", "PairDataset"]:
    from i2i_bridge.run import load_run

    loaded = load_run(run, device=device)
    recipe = loaded.recipe
    if root is not None:
        recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"root": str(root)})})
    return loaded, recipe.build_dataset("validation")


def evaluate_run(
    run: Path,
    *,
    nfe: list[int] | None = None,
    images: int | None = None,
    metrics: list[str] | None = None,
    root: Path | None = None,
    device: str | None = None,
) -> None:
    """Evaluate a run folder, None meaning the recipe's setting, and print the table."""
    from i2i_bridge.evaluation import evaluate as measure
    from i2i_bridge.report import metrics_table

    loaded, dataset = _opened(run, root, device)
    settings = loaded.recipe.evaluate
    with console.counting("evaluated") as done:
        result = measure(
            loaded,
            dataset,
            nfe=nfe or settings.nfe,
            metrics=metrics or settings.metrics,
            images=images or settings.images,
            report=done,
        )
    header, rows = metrics_table(result)
    console.show_table(
        f"{result.recipe}, step {result.step}, {result.rows[0].images} images",
        header,
        [[text for text, _ in row] for row in rows],
        numbers=True,
    )
    for reason in result.skipped.values():
        console.say(f"not measured: {reason}")
    console.say(f"wrote {run / 'evaluation' / 'evaluation.json'}")


def report_run(run: Path, *, root: Path | None = None, device: str | None = None) -> None:
    """Write the report of an evaluated run folder."""
    from i2i_bridge.report import write_report

    console.say(f"wrote {write_report(*_opened(run, root, device))}")
