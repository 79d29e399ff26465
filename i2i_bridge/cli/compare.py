"""The verb `i2i-bridge compare`."""

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from i2i_bridge import console
from i2i_bridge.cli.evaluate import counted
from i2i_bridge.cli.options import Checkpoint, Device, Plugins, load_plugins, note_on, own_run


def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...",
            help="Run folders, OWNER/NAME of the Hugging Face Hub, and scored folders of outside results.",
        ),
    ],
    nfe: Annotated[
        list[int] | None,
        typer.Option(
            "--nfe", min=1, max=1000, metavar="N...",
            help="Network calls per image: --nfe 1,5,20; missing rows are evaluated. Default: those already evaluated.",
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
        bool, typer.Option("--each-seed", help="Keep separate rows for runs that differ only in train.seed.")
    ] = False,
    title: Annotated[
        str, typer.Option(help="The page's heading. Default: the name of the images.", show_default=False)
    ] = "",
    label: Annotated[
        list[str] | None, typer.Option(metavar="RUN=NAME", help="Label of a run's method on the page; repeatable.")
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="ROW", show_default=False,
            help="The row from which paired differences are taken, such as 'bridge, NFE 1'. Default: that of the plain "
            "regression if there is one, else the first row of a method.",
        ),
    ] = None,
    checkpoint: Checkpoint = None,
    plugin: Plugins = None,
    device: Device = None,
) -> None:  # fmt: skip
    """Set runs side by side on one page: table, curves, gallery with a slider, walks, samples, settings."""
    load_plugins(plugin)
    from i2i_bridge.distributed import processes
    from i2i_bridge.report import comparison
    from i2i_bridge.report.formats import to_words
    from i2i_bridge.report.labels import parse_labels

    with ExitStack() as stack:
        folders = [stack.enter_context(own_run(run, plugin)) for run in runs]
        done = comparison.compare(
            folders, out, nfe=nfe, count=count, protocol=protocol, single_file=single_file, root=root,
            each_seed=each_seed, device=device, checkpoint=checkpoint or "last", title=title,
            labels=parse_labels(label or [], folders, runs), against=against, progress=counted,
            note=note_on(processes().rank),
        )  # fmt: skip
    console.show_table(*to_words(done.table), numbers=True)
    if done.paired.table.lines:
        console.say(f"Difference to {done.paired.against}, on the same images; ± standard error")
        console.show_table(*to_words(done.paired.table), numbers=True)
    for note in done.notes:
        console.say(f"note: {note}")
    console.say(f"wrote {done.page}")
