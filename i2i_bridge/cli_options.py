"""Arguments that many verbs share."""

from pathlib import Path
from typing import Annotated

import typer

from i2i_bridge import registry

RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder that `train` wrote.")]
Plugins = Annotated[
    list[Path] | None,
    typer.Option(
        "--plugin",
        metavar="FILE.py",
        help="Import this file first; what it registers can be named. Repeatable.",
    ),
]
Device = Annotated[
    str | None, typer.Option(metavar="cpu|cuda", help="Where to compute. Default: CUDA where there is one.")
]


def load_plugins(plugins: list[Path] | None) -> None:
    """Import the files of --plugin."""
    for file in plugins or []:
        registry.load_plugin(file)
