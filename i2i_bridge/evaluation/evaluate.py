"""Evaluation of runs and image folders: choose protocol and pairs, then run the metric loop (loop.py)."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from i2i_bridge import console
from i2i_bridge.data.dataset import PairDataset
from i2i_bridge.data.source import item_of
from i2i_bridge.distributed import processes
from i2i_bridge.errors import UserError
from i2i_bridge.evaluation.loop import LIST_FILE, Report, measure, positions
from i2i_bridge.evaluation.results import (
    Evaluation,
    calls_in_name,
    evaluation_folder,
    is_outdated,
    read_evaluation,
)
from i2i_bridge.evaluation.subjects import FolderSubject, RunSubject, match_images
from i2i_bridge.metrics import weights
from i2i_bridge.recipe.protocol import Resolved, load_protocol, read_list, resolve
from i2i_bridge.recipe.recipe import Recipe, load_recipe
from i2i_bridge.runs.run import Run, load_run
from i2i_bridge.storage.shipped import RECIPE_FILE

RESERVED = ("input", "bicubic", "clean", "mask")
"""Names of picture folders that an evaluation writes; not allowed as --name."""


def resolve_for(
    recipe: Recipe, protocol: str | Path | None = None, *, count: int | None = None, names: Sequence[str] = ()
) -> Resolved:
    """Load a protocol, by default the recipe's, and fill in the settings that it leaves to the recipe.

    Args:
        protocol: Name of a shipped protocol, or a TOML file.
        count: Number of images; the first ones are taken.
        names: The list of images, for a protocol with a list.

    Raises:
        UserError: There is no such protocol, it has a mistake, or its list is not given.
    """
    wanted = recipe.evaluate.protocol if protocol is None else protocol
    folders = [place for place in (weights.folder(),) if place is not None]
    if str(wanted).endswith(".toml"):
        folders.append(Path(wanted).parent)
    rules = load_protocol(wanted)
    return resolve(rules, recipe.data, recipe.degradation, recipe.evaluate, count=count, names=names, folders=folders)


def dataset_of(recipe: Recipe, protocol: Resolved, root: Path | None = None) -> PairDataset:
    """The dataset that a protocol scores, before its list or number of images is applied.

    Args:
        root: Folder of the dataset; by default the recipe's.
    """
    data = protocol.applied(recipe.data)
    if root is not None:
        data = data.model_copy(update={"root": str(root)})
    return recipe.model_copy(update={"data": data}).build_dataset("validation")


def evaluate(
    run: Run,
    dataset: PairDataset | None = None,
    *,
    nfe: Sequence[int] | None = None,
    metrics: Sequence[str] | None = None,
    count: int | None = None,
    protocol: Resolved | str | Path | None = None,
    batch_size: int = 1,
    name: str | None = None,
    out: Path | None = None,
    replace: bool = False,
    report: Report | None = None,
) -> Evaluation:
    """Score a run under a protocol.

    Every NFE gets the same degraded image and the same noise of each item. Results of the same weights, sampler,
    protocol and images are read from the records, not computed again. Under `accelerate launch` the ranks share the
    images.

    Args:
        run: The trained run.
        dataset: The run's pairs, from `dataset_of`; by default the protocol's, in the recipe's folder.
        nfe: Network calls per image, each 1 to 1000; by default the recipe's. A method that always makes one call has
            one row.
        metrics: Names of registered metrics, by default the protocol's, else the recipe's; a metric whose weights are
            missing is skipped, with a note.
        count: Number of images; the first ones are taken.
        protocol: A name, a TOML file, or a result of `resolve_for`, whose `count` then applies; by default the
            recipe's.
        batch_size: Number of images restored together. Noise does not depend on it; seconds are shares of a batch.
        name: Name in tables; by default the run's method.
        out: Folder of the result; by default the run folder.
        replace: Replace an evaluation of other images in the folder; otherwise that is an error.
        report: Called with (images done, images in all) of this process. None: in an interactive session a bar in a
            terminal, lines in a notebook or at the Python prompt, else nothing.

    Returns:
        The evaluation, as `read_evaluation` returns it.

    Raises:
        UserError: There is no image, or nothing to measure.
    """
    rules = protocol if isinstance(protocol, Resolved) else resolve_for(run.recipe, protocol, count=count)
    settings = run.recipe.evaluate
    dataset = dataset_of(run.recipe, rules) if dataset is None else dataset
    nfe = settings.nfe if nfe is None else nfe
    metrics = list(rules.protocol.metrics or settings.metrics) if metrics is None else metrics
    if out is not None:
        _check_out(out)
    subject = RunSubject(run, nfe, name)
    with ExitStack() as stack:
        if report is None:
            watched = console.is_watched() and processes().rank == 0
            report = stack.enter_context(console.counting("evaluated")) if watched else lambda done, total: None
        return measure(
            subject, dataset, rules, metrics, out or run.folder, batch_size=batch_size, replace=replace, report=report
        )


def folder_subject(
    recipe: Recipe, dataset: PairDataset, protocol: Resolved, images: Path, name: str, out: Path
) -> tuple[FolderSubject, list[str]]:
    """A folder of images as a subject for `measure`, and a line for each image that is missing, surplus or mis-sized.

    Args:
        dataset: From `dataset_of`.
        name: Name of the row.
        out: Folder of the result.

    Raises:
        UserError: The folder has no image, or the name or `out` cannot be used.
    """
    if name in RESERVED or name.startswith("nfe ") or not any(letter.isalnum() for letter in name):
        raise UserError(
            f"--name '{name}': choose a name with a letter in it, other than {', '.join(RESERVED)} or 'nfe N'"
        )
    _check_out(out)
    keys = [str(item_of(dataset.source, int(index))["key"]) for index in positions(dataset, protocol)]
    height, width = dataset.geometry.size
    files, problems = match_images(images, keys, (height, width))
    return FolderSubject(recipe.name, name, files, dataset.channels, dataset.value_range), problems


def _check_out(out: Path) -> None:
    if (out / RECIPE_FILE).is_file():
        raise UserError(f"--out {out}: is a run folder; these results need a folder of their own")
    if out.is_file():
        raise UserError(f"--out {out}: is a file, not a folder")


def ensure_rows(
    run_folder: Path,
    nfe: Sequence[int],
    protocol: str | Path | None = None,
    report: Report = lambda done, total: None,
    *,
    root: Path | None = None,
    device: str | None = None,
    checkpoint: int | str = "last",
    note: Callable[[str], None] | None = None,
) -> Evaluation:
    """Return the evaluation of a run folder; compute the rows of these NFE that are missing.

    An earlier evaluation under the protocol is continued, with its number or list of images. To a folder of outside
    results no row can be added.

    Args:
        protocol: By default the recipe's.
        checkpoint: As in `load_run`.
        note: Receives the lines of `load_run`.

    Raises:
        UserError: The folder is neither a run nor evaluated.
    """
    if not (run_folder / RECIPE_FILE).is_file():
        return read_evaluation(run_folder, load_protocol(protocol or "held-out").name)
    recipe = load_recipe(run_folder / RECIPE_FILE)
    name = load_protocol(protocol or recipe.evaluate.protocol).name
    kept = evaluation_folder(run_folder, name)
    before = read_evaluation(run_folder, name) if (kept / "evaluation.json").is_file() else None
    rules = resolve_for(
        recipe,
        protocol,
        count=None if before is None else before.protocol.settings.get("n"),
        names=read_list(kept / LIST_FILE) if before is not None and "list" in before.protocol.settings else (),
    )
    run = load_run(run_folder, device=device, checkpoint=checkpoint, report=note)
    subject = RunSubject(run, nfe)
    if before is not None and before.protocol.hash == rules.hash and before.fingerprint == subject.fingerprint:
        rows_present = {row.name for row in before.rows}
        if is_outdated(before):
            subject = RunSubject(
                run, sorted({*nfe, *(calls_in_name(row.name) for row in before.rows if row.name.startswith("nfe "))})
            )
        elif before.capped or rows_present.issuperset(f"nfe {calls}" for calls in subject.counts):
            return before
    metrics = list(rules.protocol.metrics or recipe.evaluate.metrics)
    return measure(subject, dataset_of(recipe, rules, root), rules, metrics, run_folder, report=report)
