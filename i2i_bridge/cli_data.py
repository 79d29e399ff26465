"""The verbs `i2i-bridge data ...`: getting datasets, and telling us about one's own."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from i2i_bridge import console
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
