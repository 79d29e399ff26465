"""The verbs `i2i-bridge data ...`: getting datasets, and telling us about one's own."""

import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from i2i_bridge import console, registry
from i2i_bridge.errors import UserError

app = typer.Typer(help="Fetch datasets, and register your own.", no_args_is_help=True)

CardName = Annotated[str, typer.Argument(metavar="NAME", help="A dataset card (see `list datasets`).")]


@app.command()
def fetch(
    name: CardName,
    to: Annotated[
        Path | None,
        typer.Option("--to", metavar="DIR", help="The dataset's folder. Default: $I2I_DATA_DIR/NAME or data/NAME."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Agree to the licence without being asked.")] = False,
) -> None:
    """Download a dataset, licence and size first; the same command goes on. No other verb uses the net."""
    from i2i_bridge.fetching import fetch as fetch_dataset
    from i2i_bridge.fetching import plan_fetch

    plan = plan_fetch(name, to)
    if not plan.there:
        for line in plan.lines():
            console.say(line)
        if not yes:
            if not sys.stdin.isatty():
                raise UserError("nobody is here to agree to the licence; read it above and add --yes")
            typer.confirm("Download it on these terms?", abort=True)
    unverified = fetch_dataset(plan, console.transferring)
    for file, digest in unverified.items():
        console.say(f"{file}: no hash is published; its sha256 is {digest}, which the next fetch will demand")
    console.say(
        f"{name} is {'there already' if plan.there else 'ready'}: {plan.folder}; recipes find it by the card's name"
    )


@app.command()
def add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="How recipes shall call it.")],
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH... [KEY=VALUE]...",
            help="A folder, or the two folders of a pair; then options of the kind, such as holdout=0.2.",
        ),
    ],
    kind: Annotated[
        str | None, typer.Option("--kind", help="The dataset kind (see `list dataset-kinds`). Default: guessed.")
    ] = None,
    plugin: Annotated[
        list[Path] | None,
        typer.Option("--plugin", metavar="FILE.py", help="Import this file first. Repeatable."),
    ] = None,
) -> None:
    """Register images of your own under a name, which every recipe then knows as data.card=NAME."""
    for file in plugin or []:
        registry.load_plugin(file)
    from i2i_bridge.registering import register

    settings = [word for word in words if re.match(r"\w+=", word) and not Path(word).exists()]
    paths = [Path(word) for word in words if word not in settings]
    registered = register(name, paths, settings, kind)
    for line in registered.said:
        console.say(line)
    console.say(f"wrote {registered.file}; now: i2i-bridge check {name}, or train RECIPE data.card={name}")


@app.command()
def remove(name: CardName) -> None:
    """Forget a dataset that `data add` registered, or where `data fetch` put one. No image is touched."""
    from i2i_bridge.data.card_store import forget

    for file in forget(name):
        console.say(f"deleted {file}; the images stay")
