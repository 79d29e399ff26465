"""The verbs `i2i-bridge share ...`: a run for others, on the Hugging Face Hub or in a folder."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from i2i_bridge import UserError, console
from i2i_bridge.cli.options import Checkpoint, Plugins, RunFolder, checked_run, load_plugins, open_run

if TYPE_CHECKING:
    from i2i_bridge import Run

Result = TypeVar("Result")

app = typer.Typer(help="Give a run to others, and fetch theirs, by the Hugging Face Hub.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="OWNER/NAME", help="The name on the Hub.")]
Licence = Annotated[
    str | None,
    typer.Option(
        "--licence",
        metavar="ID",
        help="The licence that others get the weights under, as the Hub calls it: apache-2.0, cc-by-4.0, other, ...",
    ),
]
CardFile = Annotated[
    Path | None,
    typer.Option(
        "--card", metavar="FILE.md", help="Your own model card, with license: in its header; see `share card`."
    ),
]
Pictures = Annotated[
    bool, typer.Option("--pictures", help="Add training's picture of restored validation images: it shows the dataset.")
]


@app.command()
def push(
    run: RunFolder,
    name: Name,
    licence: Licence = None,
    card: CardFile = None,
    pictures: Pictures = False,
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    checkpoint: Checkpoint = None,
    plugin: Plugins = None,
) -> None:
    """Upload weights, recipe and model card of a run to the Hub; log in first (hf auth login, or HF_TOKEN)."""
    from i2i_bridge.runs.hub import check_name

    check_name(name)
    origin = _with_run(
        run,
        plugin,
        checkpoint,
        lambda loaded: loaded.push_to_hub(name, licence=licence, card=card, pictures=pictures, private=private),
    )
    console.say(f"pushed {run} to {name}, commit {origin.revision}; others type: i2i-bridge restore {name} IN OUT")


@app.command()
def pull(
    name: Annotated[
        str, typer.Argument(metavar="OWNER/NAME[@REVISION]", help="The name on the Hub, and a commit, tag or branch.")
    ],
    folder: Annotated[
        Path | None,
        typer.Argument(metavar="[FOLDER]", help="The run folder to write. Default: the copy that OWNER/NAME opens."),
    ] = None,
    plugin: Plugins = None,
) -> None:
    """Fetch a run from the Hub, checked like any untrusted file, and pinned: hub.json holds the commit."""
    load_plugins(plugin)
    from i2i_bridge.runs import hub

    place, origin = hub.pull(name, folder, report=console.say)
    opens = f"i2i-bridge restore {name if folder is None else place} IN OUT"
    console.say(f"{place} holds {origin.repository} at commit {origin.revision}; restore with: {opens}")


@app.command()
def save(
    run: RunFolder,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder that does not exist, or is empty.")],
    licence: Licence = None,
    card: CardFile = None,
    pictures: Pictures = False,
    checkpoint: Checkpoint = None,
    plugin: Plugins = None,
) -> None:
    """Write what `push` uploads into a folder, which every verb opens as a run."""
    _with_run(
        run,
        plugin,
        checkpoint,
        lambda loaded: loaded.save_pretrained(folder, licence=licence, card=card, pictures=pictures),
    )
    console.say(f"wrote {folder}; restore with: i2i-bridge restore {folder} IN OUT")


@app.command()
def card(
    run: RunFolder,
    file: Annotated[Path, typer.Argument(metavar="FILE.md", help="The new file.")],
    licence: Licence = None,
    name: Annotated[
        str, typer.Option("--name", metavar="OWNER/NAME", help="What users will type to open the run.")
    ] = "path/to/this/folder",
    pictures: Pictures = False,
    checkpoint: Checkpoint = None,
    plugin: Plugins = None,
) -> None:
    """Write the model card to edit, for `--card` of push and save."""
    if file.exists():
        raise UserError(f"{file} exists already; choose another name")
    from i2i_bridge.report.card import model_card
    from i2i_bridge.storage.files import write_whole

    text = _with_run(run, plugin, checkpoint, lambda loaded: model_card(loaded, licence, place=name, pictures=pictures))
    write_whole(file, text.encode())
    console.say(f"wrote {file}; edit it, then: i2i-bridge share push {run} OWNER/NAME --card {file}")


def _with_run(run: Path, plugin: list[Path] | None, checkpoint: str | None, use: Callable[["Run"], Result]) -> Result:
    """Open a run and use it; again, where a training that saves newer checkpoints has removed this one meanwhile."""
    folder = checked_run(run, plugin)
    load_plugins(plugin)
    from i2i_bridge.runs.checkpoint import MissingCheckpoint

    while True:
        loaded = open_run(folder, device="cpu", checkpoint=checkpoint)
        with contextlib.suppress(MissingCheckpoint):  # a step that was named is missed above
            return use(loaded)
