"""The verbs `i2i-bridge data ...`: fetch public datasets, register and check images of the user."""

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from i2i_bridge import UserError, console
from i2i_bridge.cli.options import MethodName, Overrides, Plugins, RecipeName, chosen_recipe, load_plugins
from i2i_bridge.storage import internet

if TYPE_CHECKING:
    from i2i_bridge.data.layout import Layout

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
    """Show licence and size of a dataset, then download it; after a stop the same command resumes.

    The internet is used only by this verb, `weights fetch`, `share` and runs named OWNER/NAME, and datasets with
    `download = true`; --offline forbids it.
    """
    from i2i_bridge.data.fetch import fetch as fetch_dataset
    from i2i_bridge.data.fetch import plan_fetch

    plan = plan_fetch(name, to)
    if not plan.fetched:
        internet.require(f"fetching {name}")
        for line in plan.lines():
            console.say(line)
        if not yes:
            if not sys.stdin.isatty():
                raise UserError("no terminal to ask for agreement to the licence; read it above and add --yes")
            typer.confirm("Download it on these terms?", abort=True)
    unverified = fetch_dataset(plan, console.transfer_display)
    for file, digest in unverified.items():
        console.say(f"{file}: no hash is published; its sha256 is {digest}, which the next fetch will demand")
    console.say(
        f"{name} is {'there already' if plan.fetched else 'ready'}: {plan.folder}; recipes find it by the card's name"
    )


@app.command()
def add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The name for recipes: data.card=NAME.")],
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
    replace: Annotated[bool, typer.Option("--replace", help="Overwrite the card of this name.")] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="Take the guess where the layout leaves no doubt, unasked.")
    ] = False,
    plugin: Plugins = None,
) -> None:
    """Register images of your own under a name; any recipe takes them with data.card=NAME."""
    load_plugins(plugin)
    from i2i_bridge.data.registration import register

    settings = [word for word in words if re.match(r"[\w.]+=", word) and not Path(word).exists()]
    paths = [Path(word) for word in words if word not in settings]
    choose = _choose if sys.stdin.isatty() and not yes else None
    registered = register(name, paths, settings, kind, replace=replace, choose=choose)
    for line in registered.messages:
        console.say(line)
    console.say(f"wrote {registered.file}; now: i2i-bridge check {name}, or train RECIPE data.card={name}")


def _choose(evidence: str, layouts: "Sequence[Layout]") -> "Layout | None":
    """Print the possible layouts of a folder and ask the user for one; None if no layout is chosen."""
    console.say(evidence)
    for number, layout in enumerate(layouts, 1):
        console.say(f"  {number}  {layout.words}")
        if layout.odd:
            console.say(f"     {layout.odd_words()}")
    answer = typer.prompt("Which is it (0: none)", default=1, type=int)
    return layouts[answer - 1] if 1 <= answer <= len(layouts) else None


@app.command()
def remove(name: CardName) -> None:
    """Remove the card of `data add`, or the record of where `data fetch` put a dataset. No image is deleted."""
    from i2i_bridge.data.store import forget

    for file in forget(name):
        console.say(f"deleted {file}; the images stay")


@app.command()
def preview(
    recipe: RecipeName,
    file: Annotated[Path, typer.Argument(metavar="OUT.png", help="The contact sheet.")],
    settings: Overrides = None,
    images: Annotated[int, typer.Option("-n", "--images", min=1, max=100, help="Rows.")] = 6,
    validation: Annotated[
        bool, typer.Option("--validation", help="The validation split instead of training's.")
    ] = False,
    vary: Annotated[
        str | None,
        typer.Option(
            metavar="KEY=V,V,...",
            help="Instead: clean beside X_1 at each value of a setting, such as degradation.quality=5,10,20.",
        ),
    ] = None,
    method: MethodName = None,
    plugin: Plugins = None,
) -> None:
    """Draw what training sees, after all transforms: clean | X_1 | mask | condition.

    For a bridge, print how its noise compares with what X_1 leaves unknown.
    """
    load_plugins(plugin)
    from i2i_bridge.cli.preview import contact_sheet, preview_strengths

    split: Literal["train", "validation"] = "validation" if validation else "train"
    if vary is not None:
        shown = preview_strengths(recipe, settings or [], vary, file, rows=images, split=split)
    else:
        chosen = chosen_recipe(recipe, settings, method)
        shown = contact_sheet(chosen, file, rows=images, split=split)
    console.say(f"wrote {file}: {shown}")
    if vary is None:
        from i2i_bridge.training.noise_size import curve

        for line in curve(chosen, chosen.build_dataset("train")):
            console.say(line)


@app.command()
def check(
    what: Annotated[str, typer.Argument(metavar="FOLDER|CARD|RECIPE", help="What to check.")],
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...",
            help="Options of the dataset kind (kind=paired_folders x_0=clean x_1=noisy), or recipe settings.",
        ),
    ] = None,
    plugin: Plugins = None,
) -> None:
    """Read every image of a dataset and list all problems in one pass; exit code 2 if there are any.

    Unmatched, damaged and unequal files, odd channels, the same picture in two splits, sides probably exchanged.
    """
    load_plugins(plugin)
    from i2i_bridge.cli.data_check import check_data

    with console.count_display("checked") as done:
        checked = check_data(what, settings or [], report=done)
    for problem in checked.problems:
        console.say(problem)
    for note in checked.notes:
        console.say(f"note: {note}")
    console.say(checked.summary)
    if checked.hint:
        console.say(checked.hint)
    if checked.problems:
        raise typer.Exit(2)
