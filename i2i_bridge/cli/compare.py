"""The verb `i2i-bridge compare`."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from i2i_bridge import console
from i2i_bridge.cli.evaluate import counted, evaluated_pairs, open_evaluated
from i2i_bridge.cli.options import Checkpoint, Device, Plugins, load_plugins, note_on, open_run, own_run
from i2i_bridge.errors import UserError


def compare(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Run folders, and scored folders of outside results.")
    ],
    nfe: Annotated[
        list[int] | None,
        typer.Option(
            "--nfe", min=1, max=1000, metavar="N...",
            help="Network calls per image: --nfe 1,5,20; what is missing is evaluated. Default: what there is.",
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="The page's folder; with --single-file also a FILE.html.")
    ] = Path("runs/compare"),
    single_file: Annotated[
        bool, typer.Option("--single-file", help="Put everything into one HTML file, to send or to archive.")
    ] = False,
    protocol: Annotated[
        str | None, typer.Option(metavar="NAME|FILE", help="The evaluation protocol. Default: the first run's.")
    ] = None,
    count: Annotated[
        int | None,
        typer.Option("-n", "--count", min=1, max=10**9, help="Evaluate only the first so many held-out images."),
    ] = None,
    root: Annotated[Path | None, typer.Option(help="Where the dataset lies now, if not where it was trained.")] = None,
    each_seed: Annotated[
        bool, typer.Option("--each-seed", help="A row for each run, also of runs that differ in train.seed alone.")
    ] = False,
    title: Annotated[
        str, typer.Option(help="The page's heading. Default: the name of the images.", show_default=False)
    ] = "",
    label: Annotated[
        list[str] | None, typer.Option(metavar="RUN=NAME", help="What the page calls a run's method; repeatable.")
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="ROW", show_default=False,
            help="The row whose paired differences are shown, such as 'bridge, NFE 1'. Default: the plain regression's "
            "where there is one, else a method's first.",
        ),
    ] = None,
    checkpoint: Checkpoint = None,
    plugin: Plugins = None,
    device: Device = None,
) -> None:  # fmt: skip
    """Set runs side by side on one page: table, curves, gallery with a slider, walks, samples, settings."""
    load_plugins(plugin)
    compare_runs(
        [own_run(run) for run in runs], out, nfe=nfe, single_file=single_file, protocol=protocol, count=count,
        root=root, each_seed=each_seed, device=device, checkpoint=checkpoint, title=title, labels=label or [],
        against=against,
    )  # fmt: skip


def compare_runs(
    folders: list[Path],
    out: Path,
    *,
    nfe: list[int] | None = None,
    count: int | None = None,
    protocol: str | None = None,
    single_file: bool = False,
    root: Path | None = None,
    each_seed: bool = False,
    device: str | None = None,
    checkpoint: str | None = None,
    title: str = "",
    labels: Sequence[str] = (),
    against: str | None = None,
) -> None:
    """Write the page of several evaluated folders and print its tables; rows that are missing are measured first.

    None means what there is: the first run's own protocol, the NFE that were evaluated, the images too.
    """
    from i2i_bridge.data.dataset import PairDataset
    from i2i_bridge.recipe.protocol import load_protocol
    from i2i_bridge.recipe.recipe import load_recipe
    from i2i_bridge.report.differences import paired_differences
    from i2i_bridge.report.entries import Entry, open_entries, parse_labels, table_of, warnings_of
    from i2i_bridge.report.folder import check_out
    from i2i_bridge.report.page import write_page
    from i2i_bridge.report.table import differences_to_words, to_words
    from i2i_bridge.runs.run import Run
    from i2i_bridge.storage.shipped import RECIPE_FILE

    check_out(out, single_file)
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder; give run folders, or scored folders of outside results")
    called = parse_labels(labels, folders)
    recipes = [load_recipe(folder / RECIPE_FILE) for folder in folders if (folder / RECIPE_FILE).is_file()]
    chosen = protocol or next((recipe.evaluate.protocol for recipe in recipes), "held-out")
    for folder in folders:
        with counted() as done:
            _complete(folder, chosen, nfe, count, root, device, done, checkpoint or "last")

    def opened(entry: Entry) -> tuple[Run, PairDataset] | None:
        if entry.recipe is None:
            return None
        run = open_evaluated(entry.folder, entry.evaluation.step, device=device)
        return run, evaluated_pairs(run.recipe, chosen, root)

    entries = open_entries(folders, load_protocol(chosen).name, each_seed=each_seed, labels=called)
    table = table_of(entries, nfe)
    paired = paired_differences(entries, table, against)
    with console.counting("drawn") as done:
        page = write_page(
            entries, out, opened, nfe=nfe, single_file=single_file, title=title, paired=paired, report=done
        )
    console.show_table("", *to_words(table), numbers=True)
    if paired.table.lines:
        console.say(f"Difference to {paired.against}, on the same images; ± standard error")
        console.show_table("", *differences_to_words(paired.table), numbers=True)
    for note in [*paired.notes, *warnings_of(entries)]:
        console.say(f"note: {note}")
    console.say(f"wrote {page}")


def _complete(
    folder: Path,
    protocol: str,
    nfe: list[int] | None,
    count: int | None,
    root: Path | None,
    device: str | None,
    report: Callable[[int, int], None],
    checkpoint: str,
) -> None:
    """Measure what is asked for and not there; outside results have what they have."""
    from i2i_bridge.distributed import processes
    from i2i_bridge.evaluation.evaluate import dataset_of, ensure_rows, evaluate, resolve_for
    from i2i_bridge.evaluation.results import evaluation_folder, read_evaluation
    from i2i_bridge.recipe.protocol import load_protocol
    from i2i_bridge.recipe.recipe import load_recipe
    from i2i_bridge.storage.shipped import RECIPE_FILE

    if not (folder / RECIPE_FILE).is_file():
        return
    recipe = load_recipe(folder / RECIPE_FILE)
    name = load_protocol(protocol).name
    there: list[int] = []
    if (evaluation_folder(folder, name) / "evaluation.json").is_file():
        rows = read_evaluation(folder, name).rows
        there = [int(row.name.removeprefix("nfe ")) for row in rows if row.name.startswith("nfe ")]
    wanted = nfe or there or recipe.evaluate.nfe
    if count is None:
        note = note_on(processes().rank)
        ensure_rows(folder, wanted, protocol, report, root=root, device=device, checkpoint=checkpoint, note=note)
        return
    run, rules = open_run(folder, device=device, checkpoint=checkpoint), resolve_for(recipe, protocol, count=count)
    metrics = list(rules.protocol.metrics or recipe.evaluate.metrics)
    evaluate(run, dataset_of(recipe, rules, root), nfe=wanted, metrics=metrics, protocol=rules, report=report)
