"""The verbs `i2i-bridge weights ...`: the files that LPIPS, FID, KID and accuracy need."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from i2i_bridge import UserError, console
from i2i_bridge.metrics import weights
from i2i_bridge.storage import internet

app = typer.Typer(help="Get and check the weights that some metrics need.", no_args_is_help=True)

Names = Annotated[
    list[str] | None,
    typer.Argument(metavar="[NAME]...", help="Files or metrics, such as alexnet or fid. Default: all files."),
]
Folder = Annotated[
    Path | None, typer.Option("--folder", metavar="DIR", help=f"Where the files lie. Default: ${weights.VARIABLE}.")
]


@app.command("list")
def list_(folder: Folder = None) -> None:
    """List the known files: what each is for, its size, and whether it is present."""
    place = folder or weights.folder()
    rows = [
        [
            known.name,
            known.file,
            f"{known.megabytes} MB",
            ", ".join(known.metrics),
            "here" if place and (place / known.file).is_file() else "missing",
        ]
        for known in weights.KNOWN
    ]
    console.show_table(["name", "file", "size", "for the metrics", "state"], rows)
    console.say(f"folder: {place}" if place else f"no folder: give --folder DIR or set {weights.VARIABLE}")


@app.command()
def fetch(
    names: Names = None,
    folder: Folder = None,
    yes: Annotated[bool, typer.Option("--yes", help="Agree to the licences without being asked.")] = False,
) -> None:
    """Show licence and address of weights, download them and check the hash; after a stop the same command resumes."""
    place = _place(folder)
    chosen = [known for known in weights.known(names or []) if weights.state(known, place) != "ok"]
    if chosen:
        internet.require(f"fetching {', '.join(known.name for known in chosen)}")
        for known in chosen:
            for line in known.lines():
                console.say(line)
        if not yes:
            if not sys.stdin.isatty():
                raise UserError("no terminal to ask for agreement to the licences; read them above and add --yes")
            typer.confirm("Download on these terms?", abort=True)
        weights.fetch_all(chosen, place, console.transfer_display)
    named = weights.folder()
    use = "" if named and named.resolve() == place.resolve() else f"; now set {weights.VARIABLE}={place}"
    console.say(f"{'ready' if chosen else 'there already'}: {place}{use}")


@app.command()
def verify(names: Names = None, folder: Folder = None) -> None:
    """Check each file by its hash: ok, missing or wrong; exit code 2 unless all are ok."""
    place = _place(folder)
    states = {known.file: weights.state(known, place) for known in weights.known(names or [])}
    for file, state in states.items():
        word, _, rest = state.partition(": ")
        console.say(f"{word:8}{file}{f': {rest}' if rest else ''}")
    if set(states.values()) != {"ok"}:
        raise typer.Exit(2)


def _place(folder: Path | None) -> Path:
    place = folder or weights.folder()
    if place is None:
        raise UserError(f"no folder for the weights: give --folder DIR or set {weights.VARIABLE}")
    return place
