"""The verb `i2i-bridge app`: trained runs as a web page."""

from pathlib import Path
from typing import Annotated

import typer

from i2i_bridge import console
from i2i_bridge.cli.options import Backend, Device, Plugins, checked_run, load_plugins


def app(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...",
            help="Run folders that `train` wrote, shipped runs (`list pretrained`), or OWNER/NAME of the Hugging Face "
            "Hub.",
        ),
    ],
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Where to listen; 0.0.0.0 lets other machines connect.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, metavar="N", help="Default: the first free one from 7860.")
    ] = None,
    max_pixels: Annotated[
        int, typer.Option(min=1024, max=64_000_000, metavar="N", help="Most pixels of a picture.")
    ] = 4_000_000,
    max_megabytes: Annotated[int, typer.Option(min=1, max=1000, metavar="N", help="Largest file to upload.")] = 32,
    max_nfe: Annotated[int, typer.Option(min=1, max=1000, metavar="N", help="Most network calls per sample.")] = 100,
    max_samples: Annotated[int, typer.Option(min=2, max=100, metavar="N", help="Most samples of a picture.")] = 4,
    queue: Annotated[
        int, typer.Option(min=1, max=1000, metavar="N", help="Most requests that wait; one runs at a time.")
    ] = 16,
    no_operators: Annotated[
        bool, typer.Option("--no-operators", help="Visitors cannot apply degradations of their own.")
    ] = False,
    examples: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Example pictures. Default: photos of the extra `demo`, if it is installed."
        ),
    ] = None,
    backend: Backend = "eager",
    plugin: Plugins = None,
    device: Device = None,
) -> None:
    """Serve a web page that restores pictures with trained runs; without --host, to this machine alone."""
    folders = [str(checked_run(Path(run), plugin)) for run in runs]  # refused before torch is imported
    load_plugins(plugin)
    from i2i_bridge.app.limits import Limits
    from i2i_bridge.app.server import LOOPBACK, serve

    if host.strip("[]") not in LOOPBACK:
        console.say(f"warning: --host {host}: whoever reaches this address can use the page; it has no password")
    limits = Limits(max_pixels, max_megabytes, max_nfe, max_samples, queue, not no_operators)
    serve(
        folders, host=host, port=port, limits=limits, examples=examples, device=device, backend=backend, say=console.say
    )
