"""`compare`: evaluate missing rows of runs, then write one page about all of them."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from i2i_bridge.data.dataset import PairDataset
from i2i_bridge.errors import UserError, listed, of_kind
from i2i_bridge.evaluation.evaluate import ensure_rows, load_evaluated_run, open_evaluation
from i2i_bridge.recipe.load import load_recipe
from i2i_bridge.recipe.protocol import load_protocol
from i2i_bridge.report.differences import Differences, paired_differences
from i2i_bridge.report.entries import open_entries
from i2i_bridge.report.folder import check_out
from i2i_bridge.report.notes import warnings_of
from i2i_bridge.report.page import write_page
from i2i_bridge.report.table import Table, table_of
from i2i_bridge.runs.checkpoint import chosen_checkpoint
from i2i_bridge.runs.run import Run
from i2i_bridge.storage.names import expanded
from i2i_bridge.storage.shipped import RECIPE_FILE

Report = Callable[[int, int], None]
Progress = Callable[[str], AbstractContextManager[Report]]
"""`with progress("evaluated") as report`: a display of one stage, updated by report(done, total)."""


@dataclass(frozen=True)
class Comparison:
    """Result of `compare`."""

    page: Path
    """The HTML file."""
    table: Table
    """A row for each method and NFE."""
    paired: Differences
    """Paired differences of the rows from one of them."""
    notes: list[str]
    """Warnings about the numbers, one line each."""


@contextmanager
def _silent(stage: str) -> Iterator[Report]:
    yield lambda done, total: None


def compare(
    runs: Sequence[str | Path],
    out: str | Path,
    *,
    nfe: Sequence[int] | None = None,
    count: int | None = None,
    protocol: str | Path | None = None,
    single_file: bool = False,
    root: str | Path | None = None,
    each_seed: bool = False,
    device: str | None = None,
    checkpoint: int | str = "last",
    title: str = "",
    labels: Mapping[str, str] | Mapping[Path, str] | None = None,
    against: str | None = None,
    progress: Progress = _silent,
    note: Callable[[str], None] | None = None,
) -> Comparison:
    """Write the page of several evaluated folders: table, paired differences, curves, gallery, samples, settings.

    Missing rows are evaluated first, which writes into the run folders.

    Args:
        runs: Run folders, and folders of outside results that were scored.
        out: The page's folder; with `single_file` also an .html file.
        nfe: Network calls per image, each 1 to 1000. None: those already evaluated, else the recipe's.
        count: Number of held-out images, the first ones. None: those already evaluated, else the protocol's.
        protocol: Name or TOML file; by default the first run's.
        single_file: Embed everything into one HTML file.
        root: Folder of the dataset, if it was moved after the training.
        each_seed: Keep separate rows for runs that differ only in `train.seed`.
        device: As in `load_run`.
        checkpoint: As in `load_run`, for missing rows.
        title: Heading; default: the name of the dataset.
        labels: Labels of the methods on the page, by folder as in `runs`.
        against: The row from which paired differences are taken, such as 'bridge, NFE 1'.
        progress: Opens the display of a stage, 'evaluated' (for each run) or 'drawn'; default: no display.
        note: Receives the lines of `load_run`; by default Python warnings.

    Raises:
        UserError: A folder is missing or not evaluated, was evaluated by other rules or on other images than the
            first, or `out` exists and is not a page.

    Examples:
        >>> from pathlib import Path
        >>> from i2i_bridge import compare, evaluate, load_run
        >>> scored = evaluate(load_run("pretrained/photos"), nfe=[1], metrics=["psnr"], count=2, out=Path("results"))
        >>> compare(["results"], "page").page.name
        'index.html'
    """
    runs = listed("runs", runs)
    for run in runs:
        of_kind("runs", run, (str, os.PathLike), "run folders")
    folders, out = [expanded(run) for run in runs], expanded(out)
    root = None if root is None else expanded(root)
    check_out(out, single_file)
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder; give run folders, or scored folders of outside results")
    if not folders:
        raise UserError("nothing to compare: give one run folder or more")
    names = {expanded(folder): name for folder, name in (labels or {}).items()}
    for folder in names:
        if folder not in folders:
            raise UserError(
                f"labels: {folder} is none of the folders that are compared: {', '.join(map(str, folders))}"
            )
    recipes = [load_recipe(folder / RECIPE_FILE) for folder in folders if (folder / RECIPE_FILE).is_file()]
    for folder in folders:
        if checkpoint != "last" and (folder / "checkpoints").is_dir():
            chosen_checkpoint(folder / "checkpoints", checkpoint)  # before the others are evaluated, which takes long
    wanted = protocol or next((recipe.evaluate.protocol for recipe in recipes), "held-out")
    for folder in folders:
        with progress("evaluated") as report:
            ensure_rows(
                folder, nfe, wanted, report, count=count, root=root, device=device, checkpoint=checkpoint, note=note
            )

    def opened(folder: Path, step: int) -> tuple[Run, PairDataset]:
        run = load_evaluated_run(folder, step, device=device, note=note)
        return run, open_evaluation(folder, wanted, root=root, resume=True).dataset

    name = load_protocol(wanted).name
    entries = open_entries(folders, name, nfe=nfe, each_seed=each_seed, labels=names, opener=opened)
    table = table_of(entries)
    paired = paired_differences(entries, table, against)
    with progress("drawn") as report:
        page = write_page(entries, out, single_file=single_file, title=title, paired=paired, report=report)
    return Comparison(page, table, paired, [*paired.notes, *warnings_of(entries)])
