"""The verbs `i2i-bridge list`, `show` and `copy`: recipes, dataset cards and the members of every registry."""

from pathlib import Path
from typing import Annotated

import typer

from i2i_bridge import UserError, console, plugins
from i2i_bridge.cli.options import MethodName, Overrides, Plugins, chosen_recipe, fetched_run, load_plugins
from i2i_bridge.errors import nearest
from i2i_bridge.registry import KINDS
from i2i_bridge.storage.shipped import RECIPE_FILE, folder_of_run, is_recipe_name, recipe_names, recipe_of_run


def list_(
    what: Annotated[
        str,
        typer.Argument(help="recipes, datasets, protocols, pretrained, or a kind of part: " + ", ".join(KINDS) + "."),
    ] = "recipes",
    plugin: Plugins = None,
) -> None:
    """List recipes, dataset cards, or the parts that a recipe can name."""
    from i2i_bridge.cli.catalogue import listing

    load_plugins(plugin)
    console.show_list(["name", "what it is"], listing(what))
    _note_broken_plugins()


def show(
    name: Annotated[
        str | None,
        typer.Argument(
            help="A recipe, a dataset card, a protocol, a part such as 'jpeg' or '2m-sde', or the settings of train, "
            "data, sample or evaluate. Where a name has several meanings: recipe:NAME, card:NAME, part:NAME.",
            autocompletion=recipe_names,
        ),
    ] = None,
    settings: Overrides = None,
    all_settings: Annotated[
        bool, typer.Option("--all", help="Of a recipe: every setting, with its meaning, type, range and default.")
    ] = False,
    schema: Annotated[
        str | None,
        typer.Option("--schema", metavar="recipe|card", help="The JSON schema of recipes or cards, for editors."),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Of i2sb: numbers to compare with; docs/is-my-i2sb-right.md.")
    ] = False,
    cost: Annotated[
        bool,
        typer.Option("--cost", help="Of a recipe or a run: parameters, memory, FLOPs, checkpoint; docs/scaling.md."),
    ] = False,
    tflops: Annotated[
        float | None,
        typer.Option(
            "--tflops", metavar="N", min=1e-6, help="With --cost: what each process reaches a second; gives hours."
        ),
    ] = None,
    bandwidth: Annotated[
        float | None,
        typer.Option("--bandwidth", metavar="GB/S", min=1e-6, help="With --tflops: between the processes."),
    ] = None,
    method: MethodName = None,
    plugin: Plugins = None,
) -> None:
    """Show a recipe or card as TOML, settings with their defaults, or a part with its options."""
    from i2i_bridge.cli.catalogue import check_table, cost_table, description, schema_text

    load_plugins(plugin)
    if not cost and (settings or tflops is not None or bandwidth is not None):
        given = settings[0] if settings else "--tflops" if tflops is not None else "--bandwidth"
        raise UserError(f"{given}: only with --cost; to change settings of a recipe, give them to train or preview")
    if cost:
        if name is None or check or schema is not None or all_settings:
            raise UserError("--cost: give a recipe or a run, and none of --all, --check, --schema")
        if bandwidth is not None and tflops is None:
            raise UserError("--bandwidth: only with --tflops")
        recipe = chosen_recipe(_recipe_or_run(name, plugin), settings, method)
        console.write(cost_table(recipe, tflops, bandwidth))
    elif schema is not None:
        console.write(schema_text(schema))
    elif check:
        console.write(check_table(name))
    elif name is None:
        raise UserError("show what? Give a name; `i2i-bridge list` shows recipes, `list KIND` parts")
    else:
        console.write(description(name, method, all_settings=all_settings))
    _note_broken_plugins()


def _recipe_or_run(name: str, plugin: list[Path] | None) -> str:
    """The recipe that --cost names: a recipe, or the file of the run RUN or run:RUN.

    Raises:
        UserError: run:RUN is no run.
    """
    if name.startswith("run:"):
        return str(recipe_of_run(fetched_run(Path(name.removeprefix("run:")), plugin)))
    file = folder_of_run(Path(name)) / RECIPE_FILE
    return str(file) if file.is_file() and not is_recipe_name(name) else name.removeprefix("recipe:")


def _note_broken_plugins() -> None:
    """A note on standard error for each broken plug-in of an installed package: the output may go to a file."""
    for line in plugins.broken_plugins():
        console.say_note(line)


def copy(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A recipe, or a dataset card such as my-pairs.")],
    file: Annotated[Path, typer.Argument(help="The new TOML file.")],
) -> None:
    """Copy a recipe or a dataset card into a file of your own, to edit and use."""
    from i2i_bridge.data.cards import card_file, card_names
    from i2i_bridge.recipe.load import recipe_file
    from i2i_bridge.storage.files import write_whole
    from i2i_bridge.storage.reader import read_bytes

    is_card = name in card_names() and not is_recipe_name(name)
    if not is_card and not is_recipe_name(name) and not name.endswith(".toml"):
        hint = nearest(name, [*recipe_names(), *card_names()])
        raise UserError(
            f"no recipe or dataset card '{name}'{hint}; see `i2i-bridge list` and `i2i-bridge list datasets`"
        )
    source = card_file(name) if is_card else recipe_file(name)
    if file.suffix != ".toml":
        raise UserError(f"{file}: a recipe or card ends in .toml")
    if file.exists():
        raise UserError(f"{file} exists already; choose another name")
    write_whole(file, read_bytes(source))
    then = f"name it in a recipe: data.card={file}" if is_card else f"train it with: i2i-bridge train {file}"
    console.say(f"wrote {file}; {then}")
