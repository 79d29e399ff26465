"""The verbs `i2i-bridge evaluate` and `i2i-bridge report`."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from i2i_bridge import UserError, console
from i2i_bridge.cli.options import (
    Backend,
    Checkpoint,
    Device,
    DirectionOption,
    Overlap,
    Plugins,
    RunFolder,
    SampleSettings,
    Tile,
    checked_direction,
    fetched_run,
    load_plugins,
    note_on,
    open_run,
    own_run,
)
from i2i_bridge.errors import plural
from i2i_bridge.metrics.weights import use_folder
from i2i_bridge.storage.shipped import recipe_of_run

if TYPE_CHECKING:
    from i2i_bridge.evaluation.results import Evaluation
    from i2i_bridge.recipe.schema import Direction


def evaluate(
    what: Annotated[
        str,
        typer.Argument(
            metavar="RUN",
            help="A run folder that `train` wrote, a shipped run, or OWNER/NAME of the Hugging Face Hub; with --images "
            "also a recipe.",
        ),
    ],
    nfe: Annotated[
        list[int] | None,
        typer.Option(
            "--nfe",
            min=1,
            max=1000,
            metavar="N...",
            help="Network calls per image: --nfe 1 2 5 or --nfe 1,2,5. Default: the recipe's.",
        ),
    ] = None,
    count: Annotated[
        int | None, typer.Option("-n", "--count", min=1, max=10**9, help="Only the first so many images.")
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(metavar="NAME|FILE.toml", help="The rules (see `list protocols`). Default: the recipe's."),
    ] = None,
    list_file: Annotated[
        Path | None, typer.Option("--list", metavar="FILE", help="Only the images that this file names, one a line.")
    ] = None,
    metric: Annotated[
        list[str] | None, typer.Option(help="A metric instead of the protocol's or recipe's; repeatable.")
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where metrics find their weights. Default: $I2I_WEIGHTS_DIR.")
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Score the images in this folder instead, from any program, named as the dataset's."
        ),
    ] = None,
    setting: SampleSettings = None,
    tile: Tile = None,
    overlap: Overlap = None,
    name: Annotated[
        str | None, typer.Option(help="With --images, --set, --tile or --out: the name of these results in tables.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Where the result goes, for `compare`. Default: the run folder; --images, --set and --tile need it.",
        ),
    ] = None,
    batch: Annotated[
        int,
        typer.Option(
            min=1, max=2**20, help="Images restored together: quicker on a GPU; seconds are then shares of a batch."
        ),
    ] = 1,
    root: Annotated[Path | None, typer.Option(help="Where the dataset lies now, if not where it was trained.")] = None,
    direction: DirectionOption = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace an existing evaluation of other images.")] = False,
    backend: Backend = "eager",
    checkpoint: Checkpoint = None,
    plugin: Plugins = None,
    device: Device = None,
) -> None:
    """Score a run on its held-out images at several NFE, beside the degraded input.

    Earlier results are kept: after a stop the same command resumes, and other NFE are added.
    """
    load_plugins(plugin)
    way = checked_direction(direction)
    if weights is not None:
        use_folder(weights)
    if images is not None:
        if name is None or out is None:
            raise UserError(
                "--images DIR needs --name NAME, the row's name, and --out FOLDER, where the result is written"
            )
        run_options = {
            "--checkpoint": checkpoint is not None, "--set": bool(setting), "--tile": bool(tile),
            "--overlap": overlap is not None, "--backend": backend != "eager", "--nfe": nfe is not None,
        }  # fmt: skip
        for option, given in run_options.items():
            if given:
                raise UserError(f"{option} is for runs: outside images (--images) are scored as they are")
        run = fetched_run(Path(what), plugin)
        _evaluate_images(
            run if run.is_dir() else what, images, name, out, count=count, metrics=metric, protocol=protocol,
            list_file=list_file, root=root, replace=replace, direction=way,
        )  # fmt: skip
        return
    changed = f"--set {setting[0]}" if setting else f"--tile {tile}" if tile else ""
    if name is not None and out is None and not changed:
        raise UserError("--name goes with --images DIR, --set, --tile or --out FOLDER; a run is called by its method")
    for option, value in (("--name NAME", name), ("--out FOLDER", out)):
        if value is None and changed:
            raise UserError(f"{changed} needs {option}: the run's own evaluation stays as it is")
    named = Path(what)
    with own_run(named, plugin) if out is None else nullcontext(fetched_run(named, plugin)) as run:
        recipe_of_run(run)  # a wrong folder is refused before torch is imported
        from i2i_bridge import evaluate as measure
        from i2i_bridge.distributed import processes
        from i2i_bridge.evaluation.evaluate import open_evaluation

        processes(cpu=device == "cpu")
        loaded = open_run(
            run, device=_local_device(device), sample=setting or [], checkpoint=checkpoint, backend=backend
        ).in_tiles(tile, overlap)
        setup = open_evaluation(loaded.recipe, protocol, count=count, list_file=list_file, root=root, direction=way)
        with counted() as done:
            result = measure(
                loaded, setup.dataset, nfe=nfe or None, metrics=metric or None, protocol=setup.rules, batch_size=batch,
                name=name, out=out, replace=replace, report=done,
            )  # fmt: skip
        _print_evaluation(result, out or run)


def _evaluate_images(
    source: str | Path,
    images: Path,
    name: str,
    out: Path,
    *,
    count: int | None,
    metrics: list[str] | None,
    protocol: str | None,
    list_file: Path | None,
    root: Path | None,
    replace: bool,
    direction: "Direction | None",
) -> None:
    """Score a folder of images by the rules of a run folder or recipe, and print the table."""
    from i2i_bridge.evaluation.evaluate import folder_subject, open_evaluation
    from i2i_bridge.evaluation.loop import measure

    setup = open_evaluation(source, protocol, count=count, list_file=list_file, root=root, direction=direction)
    subject, problems = folder_subject(setup, images, name, out)
    for problem in problems:
        console.say_error(problem)
    if problems:
        raise typer.Exit(2)
    with counted() as done:
        result = measure(
            subject, setup.dataset, setup.rules, metrics or setup.metrics, out, replace=replace, report=done
        )
    _print_evaluation(result, out)


def report(
    run: RunFolder,
    root: Annotated[Path | None, typer.Option(help="Where the dataset lies now.")] = None,
    checkpoint: Checkpoint = None,
    plugin: Plugins = None,
    device: Device = None,
) -> None:
    """Write report/index.html of an evaluated run: pictures, trajectory, curves, table."""
    with own_run(run, plugin) as folder:
        recipe_of_run(folder)  # a wrong folder is refused before torch is imported
        load_plugins(plugin)
        from i2i_bridge.evaluation.evaluate import load_evaluated_run, open_evaluation
        from i2i_bridge.evaluation.results import read_evaluation
        from i2i_bridge.report.page import write_report

        setup = open_evaluation(folder, root=root, resume=True)
        earlier = setup.earlier or read_evaluation(folder, setup.rules.name)
        if checkpoint is None:
            loaded = load_evaluated_run(folder, earlier.step, device=device, note=note_on())
        else:
            loaded = open_run(folder, device=device, checkpoint=checkpoint)
            if earlier.step != loaded.step:
                raise UserError(
                    f"{folder}: evaluated at step {earlier.step}, not {loaded.step}; first: i2i-bridge evaluate "
                    f"{folder} --checkpoint {loaded.step}"
                )
        console.say(f"wrote {write_report(loaded, setup.dataset, setup.rules.name)}")


def _print_evaluation(result: "Evaluation", folder: Path) -> None:
    from i2i_bridge.distributed import processes
    from i2i_bridge.evaluation.results import evaluation_folder
    from i2i_bridge.report.formats import to_words
    from i2i_bridge.report.table import single_table

    if processes().rank:
        return
    header, rows = to_words(single_table(result))
    step = f", step {result.step}" if result.step else ""
    console.say(
        f"{result.recipe}, {result.method}{step}, {plural(result.data.items, 'image')}, protocol {result.protocol.id}"
    )
    console.show_table(header, rows, numbers=True)
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


@contextmanager
def counted(what: str = "evaluated") -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar on rank 0 and nothing on other ranks."""
    from i2i_bridge.distributed import processes

    if processes().rank:
        yield lambda done, total: None
    else:
        with console.count_display(what) as done:
            yield done


def _local_device(device: str | None) -> str | None:
    """The CUDA device of this rank under `accelerate launch`; otherwise the device as given."""
    from torch import cuda

    rank = os.environ.get("LOCAL_RANK")
    return f"cuda:{rank}" if rank is not None and device in (None, "cuda") and cuda.is_available() else device
