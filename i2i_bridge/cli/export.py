"""The verb `i2i-bridge export`: a run as graphs for other programs."""

from pathlib import Path
from typing import Annotated

import typer

from i2i_bridge import console
from i2i_bridge.cli.options import Checkpoint, Plugins, RunFolder, SampleSettings, checked_run, load_plugins, open_run


def export(
    run: RunFolder,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A folder; an older export in it is replaced.")],
    format: Annotated[
        str, typer.Option("--format", metavar="onnx|torch|openvino", help="Format of the graphs.")
    ] = "onnx",
    nfe: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=1000,
            metavar="N",
            help="Network calls per image, 1 to 1000; up to 8 there is a graph of the whole restoration. Default: the "
            "recipe's.",
        ),
    ] = None,
    setting: SampleSettings = None,
    checkpoint: Checkpoint = None,
    plugin: Plugins = None,
) -> None:
    """Write a run as graphs that other programs execute, with the numbers of its steps; docs/export.md runs them."""
    run = checked_run(run, plugin)
    load_plugins(plugin)
    from i2i_bridge import export as write

    loaded = open_run(run, device="cpu", sample=setting or [], checkpoint=checkpoint)
    files = write(loaded, out, format=format, nfe=nfe, say=console.say)
    size = sum(file.stat().st_size for file in files) / 1e6
    console.say(f"wrote {', '.join(file.name for file in files)} to {out} ({size:.1f} MB)")
    if format == "torch":
        console.say("note: torch.export.load unpickles: load .pt2 files of people that you trust; onnx holds no code")
