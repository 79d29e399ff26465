"""Training, evaluating and reporting as a person watches them: progress shown, stop signals heeded."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from i2i_bridge import console

if TYPE_CHECKING:
    from i2i_bridge.evaluation import Evaluation
    from i2i_bridge.recipe import Recipe


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


def _local(device: str | None) -> str | None:
    """The device of this process, where `accelerate launch` started one for each."""
    from torch import cuda

    rank = os.environ.get("LOCAL_RANK")
    return f"cuda:{rank}" if rank is not None and device in (None, "cuda") and cuda.is_available() else device


def evaluate_run(
    run: Path,
    *,
    nfe: list[int] | None = None,
    count: int | None = None,
    metrics: list[str] | None = None,
    protocol: str | None = None,
    list_file: Path | None = None,
    batch_size: int = 1,
    root: Path | None = None,
    device: str | None = None,
) -> None:
    """Evaluate a run folder, None meaning the recipe's or protocol's setting, and print the table."""
    from i2i_bridge.evaluation import dataset_of, resolve_for
    from i2i_bridge.evaluation import evaluate as measure
    from i2i_bridge.protocols import read_list
    from i2i_bridge.run import load_run

    loaded = load_run(run, device=_local(device))
    settings = loaded.recipe.evaluate
    names = [] if list_file is None else read_list(list_file)
    rules = resolve_for(loaded.recipe, protocol, count=count, names=names)
    with _counted() as done:
        result = measure(
            loaded,
            dataset_of(loaded.recipe, rules, root),
            nfe=nfe or settings.nfe,
            metrics=metrics or list(rules.protocol.metrics or settings.metrics),
            protocol=rules,
            batch_size=batch_size,
            report=done,
        )
    _show(result, run)


def evaluate_images(
    what: str,
    images: Path,
    name: str,
    out: Path,
    *,
    count: int | None = None,
    metrics: list[str] | None = None,
    protocol: str | None = None,
    list_file: Path | None = None,
    root: Path | None = None,
) -> list[str]:
    """Score a folder of images as a run's are scored, and print the table.

    Args:
        what: A run folder, or a recipe.

    Returns:
        What is wrong with the images, all in one pass; nothing is scored then.
    """
    from i2i_bridge.evaluation import dataset_of, folder_subject, resolve_for
    from i2i_bridge.measuring import measure
    from i2i_bridge.protocols import read_list
    from i2i_bridge.recipe import load_recipe
    from i2i_bridge.run import RECIPE_FILE

    own = Path(what) / RECIPE_FILE
    recipe = load_recipe(own if own.is_file() else what)
    names = [] if list_file is None else read_list(list_file)
    rules = resolve_for(recipe, protocol, count=count, names=names)
    dataset = dataset_of(recipe, rules, root)
    subject, problems = folder_subject(recipe, dataset, rules, images, name, out)
    for problem in problems:
        console.say_error(problem)
    if not problems:
        wanted = metrics or list(rules.protocol.metrics or recipe.evaluate.metrics)
        with _counted() as done:
            result = measure(subject, dataset, rules, wanted, out, report=done)
        _show(result, out)
    return problems


@contextmanager
def _counted() -> Iterator[Callable[[int, int], None]]:
    """The progress of the first process; the others keep silent."""
    from i2i_bridge.measuring import processes

    if processes().rank:
        yield lambda done, total: None
    else:
        with console.counting("evaluated") as done:
            yield done


def _show(result: "Evaluation", folder: Path) -> None:
    from i2i_bridge.measuring import processes
    from i2i_bridge.report import metrics_table
    from i2i_bridge.results import evaluation_folder

    if processes().rank:
        return
    header, rows = metrics_table(result)
    step = f", step {result.step}" if result.step else ""
    console.show_table(
        f"{result.recipe}, {result.method}{step}, {result.data.items} images, protocol {result.protocol.id}",
        header,
        [[text for text, _ in row] for row in rows],
        numbers=True,
    )
    for reason in result.skipped.values():
        console.say(f"not measured: {reason}")
    for warning in result.warnings:
        console.say(f"note: {warning}")
    notes = {
        f"{name} {estimate.note}" for row in result.rows for name, estimate in row.metrics.items() if estimate.note
    }
    for note in sorted(notes):
        console.say(f"note: {note}")
    console.say(f"wrote {evaluation_folder(folder, result.protocol.name) / 'evaluation.json'}")


def report_run(run: Path, *, root: Path | None = None, device: str | None = None) -> None:
    """Write the report of an evaluated run folder."""
    from i2i_bridge.evaluation import dataset_of, resolve_for
    from i2i_bridge.protocols import load_protocol
    from i2i_bridge.report import write_report
    from i2i_bridge.run import load_run

    loaded = load_run(run, device=device)
    recipe = loaded.recipe
    # Of the recipe's protocol; a list of images makes no difference to the pictures of the page.
    dataset = dataset_of(recipe, resolve_for(recipe, recipe.evaluate.protocol, names=["any"]), root)
    console.say(f"wrote {write_report(loaded, dataset, load_protocol(recipe.evaluate.protocol).name)}")
