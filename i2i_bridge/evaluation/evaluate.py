"""Evaluating runs: which protocol and pairs, then the one loop (measuring.py)."""

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
"""Folders of pictures that an evaluation makes itself."""


def resolve_for(
    recipe: Recipe, protocol: str | Path | None = None, *, count: int | None = None, names: Sequence[str] = ()
) -> Resolved:
    """A protocol, by default the recipe's own, with all that it leaves to the recipe filled in.

    Args:
        protocol: Name of a shipped one, or a TOML file.
        count: The first so many images.
        names: The list of images that the protocol goes by, or any.

    Raises:
        UserError: No such protocol, a mistake in it, or its list is not given.
    """
    wanted = recipe.evaluate.protocol if protocol is None else protocol
    folders = [place for place in (weights.folder(),) if place is not None]
    if str(wanted).endswith(".toml"):
        folders.append(Path(wanted).parent)
    rules = load_protocol(wanted)
    return resolve(rules, recipe.data, recipe.degradation, recipe.evaluate, count=count, names=names, folders=folders)


def dataset_of(recipe: Recipe, protocol: Resolved, root: Path | None = None) -> PairDataset:
    """The pairs that a protocol scores, before its list or number is applied.

    Args:
        root: Where the dataset lies now.
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

    Every NFE sees the same degraded image and the same noise of each item. What is known already, of the same weights,
    sampler, protocol and images, is not computed again. Under `accelerate launch` the processes share the images.

    Args:
        run: The trained run.
        dataset: Its pairs, from `dataset_of`; by default the protocol's, where the recipe says that they lie.
        nfe: Network calls per image, each 1 to 1000; by default the recipe's. A method that makes one call whatever it
            is asked has one row.
        metrics: Names of registered metrics, by default the protocol's, else the recipe's; one whose weights are absent
            is skipped and named.
        count: Only the first so many images.
        protocol: A name, a TOML file, or what `resolve_for` returned (`count` is then its own); by default the
            recipe's.
        batch_size: Images that are restored together. Each keeps its own noise; seconds are then shares of a batch.
        name: What tables call it; by default the run's method.
        out: Where the result is written; by default the run folder.
        replace: Give up an evaluation there that is of other images; else it is refused.
        report: Called with (images done, images in all) of this process. None: shown where somebody looks on, as a bar
            in a terminal, as lines in a notebook or at the prompt of Python, and not at all elsewhere.

    Returns:
        What `read_evaluation` reads.

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
    with ExitStack() as held:
        if report is None:
            watched = console.is_watched() and processes().rank == 0
            report = held.enter_context(console.counting("evaluated")) if watched else lambda done, total: None
        return measure(
            subject, dataset, rules, metrics, out or run.folder, batch_size=batch_size, replace=replace, report=report
        )


def folder_subject(
    recipe: Recipe, dataset: PairDataset, protocol: Resolved, images: Path, name: str, out: Path
) -> tuple[FolderSubject, list[str]]:
    """A folder of images of any origin, for `measure`, and a line for each that is missing, too many or mis-sized.

    Args:
        dataset: From `dataset_of`.
        name: The row's name.
        out: Where the result is to be written.

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
    """The evaluation of a run folder, with rows of these NFE computed where they are missing.

    An earlier evaluation under the protocol is continued, on its number or list of images. A folder of outside results
    has the rows that it has.

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
        there = {row.name for row in before.rows}
        if is_outdated(before):
            subject = RunSubject(
                run, sorted({*nfe, *(calls_in_name(row.name) for row in before.rows if row.name.startswith("nfe "))})
            )
        elif before.capped or there.issuperset(f"nfe {calls}" for calls in subject.counts):
            return before
    metrics = list(rules.protocol.metrics or recipe.evaluate.metrics)
    return measure(subject, dataset_of(recipe, rules, root), rules, metrics, run_folder, report=report)
