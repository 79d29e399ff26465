"""The verb `i2i-bridge evaluate`."""

from pathlib import Path
from typing import Annotated

import typer

from i2i_bridge.cli.jobs import evaluate_images, evaluate_run, own_run
from i2i_bridge.cli.options import Checkpoint, Device, Plugins, SampleSettings, load_plugins
from i2i_bridge.errors import UserError
from i2i_bridge.metrics.weights import use_folder
from i2i_bridge.storage.shipped import folder_of_run, recipe_of_run


def evaluate(
    what: Annotated[
        str,
        typer.Argument(
            metavar="RUN", help="A run folder that `train` wrote, or a shipped run; with --images also a recipe."
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
        Path | None,
        typer.Option("--list", metavar="FILE", help="Only the images that this file names, one a line."),
    ] = None,
    metric: Annotated[
        list[str] | None, typer.Option(help="A metric instead of the protocol's or recipe's; repeatable.")
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where metrics find their weights. Default: $I2I_WEIGHTS_DIR."),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Score this folder of images instead, named as the dataset's, of any origin."),
    ] = None,
    setting: SampleSettings = None,
    name: Annotated[
        str | None, typer.Option(help="With --images, --set or --out: what tables call these results.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Where the result is written, for `compare`. Default: the run folder; --images and --set need it.",
        ),
    ] = None,
    batch: Annotated[
        int,
        typer.Option(
            min=1, max=2**20, help="Images restored together: quicker on a GPU; seconds are then shares of a batch."
        ),
    ] = 1,
    root: Annotated[Path | None, typer.Option(help="Where the dataset lies now, if not where it was trained.")] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Give up the evaluation that is there, where it is of other images.")
    ] = False,
    checkpoint: Checkpoint = None,
    plugin: Plugins = None,
    device: Device = None,
) -> None:
    """Score a run on its held-out images at several NFE, beside the degraded input's own numbers.

    What an earlier call measured is kept: stopped, the same command goes on; other NFE are added.
    """
    load_plugins(plugin)
    if weights is not None:
        use_folder(weights)
    if images is None:
        if name is not None and out is None and not setting:
            raise UserError("--name goes with --images DIR, --set or --out FOLDER; a run is called by its method")
        for option, given in (("--name NAME", name), ("--out FOLDER", out)):
            if given is None and setting:
                raise UserError(f"--set {setting[0]} needs {option}: the run's own evaluation stays as it is")
        run = own_run(Path(what)) if out is None else folder_of_run(Path(what))
        recipe_of_run(run)  # a wrong folder is refused before torch is imported
        evaluate_run(
            run,
            nfe=nfe,
            count=count,
            metrics=metric,
            protocol=protocol,
            list_file=list_file,
            batch_size=batch,
            root=root,
            device=device,
            sample=setting,
            name=name,
            out=out,
            checkpoint=checkpoint,
            replace=replace,
        )
        return
    if name is None or out is None:
        raise UserError("--images DIR needs --name NAME, the row's name, and --out FOLDER, where the result is written")
    if checkpoint is not None:
        raise UserError("--checkpoint is for runs: outside images (--images) come from none")
    if setting:
        raise UserError("--set is for runs: outside images (--images) are scored as they are")
    if nfe is not None:
        raise UserError("--nfe is for runs: of outside images (--images) nobody counts the network calls")
    problems = evaluate_images(
        what,
        images,
        name,
        out,
        count=count,
        metrics=metric,
        protocol=protocol,
        list_file=list_file,
        root=root,
        replace=replace,
    )
    if problems:
        raise typer.Exit(2)
