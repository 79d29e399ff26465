"""Evaluation of runs and image folders: open it (recipe, protocol, images), then run the metric loop (loop.py)."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from i2i_bridge import console
from i2i_bridge.data.dataset import PairDataset
from i2i_bridge.data.source import item_of
from i2i_bridge.distributed import processes
from i2i_bridge.errors import IO_ERROR, UserError, listed, of_kind
from i2i_bridge.evaluation.items import positions
from i2i_bridge.evaluation.loop import Report, measure
from i2i_bridge.evaluation.results import LIST_FILE, Evaluation, evaluation_folder, read_evaluation
from i2i_bridge.evaluation.subjects import FolderSubject, RunSubject, match_images
from i2i_bridge.metrics import weights
from i2i_bridge.recipe.load import load_recipe
from i2i_bridge.recipe.protocol import Resolved, load_protocol, read_list, resolve
from i2i_bridge.recipe.recipe import Recipe
from i2i_bridge.recipe.schema import Direction
from i2i_bridge.runs.load import load_run
from i2i_bridge.runs.run import Run
from i2i_bridge.storage.shipped import RECIPE_FILE

RESERVED = ("input", "bicubic", "clean", "mask")
"""Names of picture folders that an evaluation writes; not allowed as --name."""


@dataclass(frozen=True)
class EvaluationSetup:
    """An evaluation that is opened and not yet computed: its recipe, rules and images."""

    recipe: Recipe
    rules: Resolved
    """The protocol with every default filled in."""
    root: Path | None = None
    """Folder of the dataset; None: the recipe's."""
    earlier: Evaluation | None = None
    """The evaluation in the folder, if it is resumed."""

    @property
    def metrics(self) -> list[str]:
        """Names of the protocol's metrics, else of the recipe's."""
        return list(self.rules.protocol.metrics or self.recipe.evaluate.metrics)

    @cached_property
    def dataset(self) -> PairDataset:
        """The dataset that the protocol scores, before its list or number of images is applied."""
        data = self.rules.applied(self.recipe.data)
        if self.root is not None:
            data = data.model_copy(update={"root": str(self.root)})
        direction = self.rules.settings.get("direction", "forward")
        return self.recipe.model_copy(update={"data": data}).build_dataset("validation", direction)


def open_evaluation(
    source: Recipe | str | Path,
    protocol: Resolved | str | Path | None = None,
    *,
    count: int | None = None,
    list_file: Path | None = None,
    root: Path | None = None,
    resume: bool = False,
    direction: Direction | None = None,
) -> EvaluationSetup:
    """Open an evaluation: find its recipe, rules, images and what was evaluated earlier. No image is read.

    Args:
        source: A recipe, its name or file, or a run folder.
        protocol: Name of a shipped protocol, a TOML file, or the rules of another setup, whose `count` then applies; by
            default the recipe's.
        count: Number of images; the first ones are taken.
        list_file: The list of images, for a protocol with a list or to choose images.
        root: Folder of the dataset, if not the recipe's.
        resume: Continue the evaluation in the run folder: without `count`, its number and list of images apply.
        direction: From X_1 to X_0 ("forward") or back ("reverse"), for a recipe that learns both; by default forward.

    Raises:
        UserError: There is no such recipe or protocol, one has a mistake, its list is not given, or the earlier
            evaluation is damaged.
    """
    if isinstance(source, Recipe):
        recipe = source
    else:
        file = Path(source) / RECIPE_FILE
        recipe = load_recipe(file if file.is_file() else source)
    if isinstance(protocol, Resolved):
        return EvaluationSetup(recipe, protocol, root)
    wanted = recipe.evaluate.protocol if protocol is None else protocol
    rules = load_protocol(wanted)
    earlier = None
    if resume and not isinstance(source, Recipe):
        home = evaluation_folder(Path(source), rules.name)
        if (home / "evaluation.json").is_file():
            earlier = read_evaluation(Path(source), rules.name)
            if count is None:
                count = earlier.protocol.settings.get("n")
                list_file = home / LIST_FILE if "list" in earlier.protocol.settings else None
    folders = [place for place in (weights.folder(),) if place is not None]
    if str(wanted).endswith(".toml"):
        folders.append(Path(wanted).parent)
    names = [] if list_file is None else read_list(list_file)
    filled = resolve(
        rules, recipe.data, recipe.degradation, recipe.evaluate, count=count, names=names, folders=folders,
        reverse=recipe.is_reverse(direction),
    )  # fmt: skip
    return EvaluationSetup(recipe, filled, root, earlier)


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
    out: str | Path | None = None,
    replace: bool = False,
    direction: Direction | None = None,
    report: Report | None = None,
) -> Evaluation:
    """Score a run under a protocol.

    Every NFE gets the same degraded image and the same noise of each item. Results of the same weights, sampler,
    protocol and images are read from the records, not computed again. Under `accelerate launch` the ranks share the
    images.

    Args:
        run: The trained run.
        dataset: The run's pairs, from `EvaluationSetup.dataset`; by default the protocol's, in the recipe's folder.
        nfe: Network calls per image, each 1 to 1000; by default the recipe's. A method that always makes one call has
            one row.
        metrics: Names of registered metrics, by default the protocol's, else the recipe's; a metric whose weights are
            missing is skipped, with a note.
        count: Number of images; the first ones are taken.
        protocol: A name, a TOML file, or `EvaluationSetup.rules`, whose `count` then applies; by default the recipe's.
        batch_size: Number of images restored together. Noise does not depend on it; seconds are shares of a batch.
        name: Name in tables; by default the run's method.
        out: Folder of the result; by default the run folder.
        replace: Replace an evaluation of other images in the folder; otherwise that is an error.
        direction: "forward" or "reverse" for a run of both directions, by default forward; "reverse" needs `out`.
        report: Called with (images done, images in all) of this process. None: in an interactive session a bar in a
            terminal, lines in a notebook or at the Python prompt, else nothing.

    Returns:
        The evaluation, as `read_evaluation` returns it.

    Raises:
        UserError: There is no image, or nothing to measure.

    Examples:
        >>> from i2i_bridge import evaluate, load_run
        >>> run = load_run("pretrained/photos")
        >>> scored = evaluate(run, nfe=[1], metrics=["psnr"], count=1, out="results")
        >>> [row.name for row in scored.rows]
        ['input', 'nfe 1']
    """
    of_kind("run", run, Run, "a run, load_run(FOLDER)")
    for argument, number in (("count", count), ("batch_size", batch_size)):
        if number is not None and (type(number) is not int or number < 1):
            raise UserError(f"{argument}={number!r}: give a whole number from 1 on")
    metrics = None if metrics is None else listed("metrics", metrics)
    setup = open_evaluation(run.recipe, protocol, count=count, direction=direction)
    dataset = setup.dataset if dataset is None else dataset
    if out is None and run.recipe.data.direction == "both" and "direction" in setup.rules.settings:
        raise UserError("direction 'reverse' needs --out FOLDER (out=): the run's own evaluation is the forward one")
    if out is not None:
        _check_out(out := Path(out))
    subject = RunSubject(run, run.recipe.evaluate.nfe if nfe is None else nfe, name)
    with ExitStack() as stack:
        if report is None:
            watched = console.is_watched() and processes().rank == 0
            report = stack.enter_context(console.count_display("evaluated")) if watched else lambda done, total: None
        return measure(
            subject,
            dataset,
            setup.rules,
            setup.metrics if metrics is None else metrics,
            out or run.folder,
            batch_size=batch_size,
            replace=replace,
            report=report,
        )


def folder_subject(setup: EvaluationSetup, images: Path, name: str, out: Path) -> tuple[FolderSubject, list[str]]:
    """A folder of images as a subject for `measure`, and a line for each image that is missing, surplus or mis-sized.

    Args:
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
    dataset = setup.dataset
    keys = [str(item_of(dataset.source, int(index))["key"]) for index in positions(dataset, setup.rules)]
    height, width = dataset.geometry.size
    files, problems = match_images(images, keys, (height, width))
    return FolderSubject(setup.recipe.name, name, files, dataset.channels, dataset.value_range), problems


def _check_out(out: Path) -> None:
    if (out / RECIPE_FILE).is_file():
        raise UserError(f"--out {out}: is a run folder; these results need a folder of their own")
    if out.is_file():
        raise UserError(f"--out {out}: is a file, not a folder")


def ensure_rows(
    folder: Path,
    nfe: Sequence[int] | None = None,
    protocol: str | Path | None = None,
    report: Report = lambda done, total: None,
    *,
    count: int | None = None,
    root: Path | None = None,
    device: str | None = None,
    checkpoint: int | str = "last",
    note: Callable[[str], None] | None = None,
) -> Evaluation:
    """Return the evaluation of a run folder; compute the rows of these NFE that are missing.

    An earlier evaluation under the protocol is continued. To a folder of outside results no row can be added.

    Args:
        nfe: None: those already evaluated, else the recipe's.
        protocol: By default the recipe's.
        count: Number of images, the first ones; None: the number or list already evaluated, else the protocol's.
        checkpoint: As in `load_run`.
        note: Receives the lines of `load_run`.

    Raises:
        UserError: The folder is neither a run nor evaluated.
    """
    if not (folder / RECIPE_FILE).is_file():
        return read_evaluation(folder, load_protocol(protocol or "held-out").name)
    setup = open_evaluation(folder, protocol, count=count, root=root, resume=True)
    earlier = setup.earlier
    wanted = nfe or (earlier.evaluated_nfe if earlier is not None else []) or setup.recipe.evaluate.nfe
    run = load_run(folder, device=device, checkpoint=checkpoint, report=note)
    subject = RunSubject(run, wanted)
    if earlier is not None and earlier.protocol.hash == setup.rules.hash and earlier.fingerprint == subject.fingerprint:
        if earlier.is_outdated:
            subject = RunSubject(run, [*wanted, *earlier.evaluated_nfe])
        elif earlier.capped or {row.name for row in earlier.rows}.issuperset(f"nfe {calls}" for calls in wanted):
            return earlier
    return measure(subject, setup.dataset, setup.rules, setup.metrics, folder, report=report)


def load_evaluated_run(
    folder: Path, step: int, *, device: str | None = None, note: Callable[[str], None] | None = None
) -> Run:
    """Load the checkpoint of a step that was evaluated; if it is missing or damaged, the last one.

    Raises:
        UserError: The run has no valid checkpoint, or the disk fails.
    """
    try:
        return load_run(folder, checkpoint=step, device=device, report=note)
    except UserError as error:
        if error.code == IO_ERROR:
            raise
        return load_run(folder, device=device, report=note)
