"""The verbs `i2i-bridge import ...`: make a run folder from weights of other code."""

from pathlib import Path
from typing import Annotated

import typer

from i2i_bridge import console
from i2i_bridge.cli.options import Overrides, Plugins, RecipeName, chosen_recipe, load_plugins

app = typer.Typer(help="Make a run folder of weights that others trained.", no_args_is_help=True)


@app.command()
def pix2pix(
    file: Annotated[Path, typer.Argument(metavar="FILE.pth", help="A generator of the authors' code, *_net_G.pth.")],
    recipe: RecipeName,
    settings: Overrides = None,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The run folder.")] = ...,  # type: ignore[assignment]
    plugin: Plugins = None,
) -> None:
    """Pix2pix's official PyTorch generator; RECIPE says what it was trained on, such as edges2shoes-pix2pix.

    A recipe of another method is taken as --method pix2pix makes it. The run restores and is evaluated like a trained
    one. It cannot be resumed; `train --from` starts a new run from it.
    """
    load_plugins(plugin)
    from i2i_bridge.runs.imports import import_pix2pix

    is_one = chosen_recipe(recipe, None, None).method["name"] == "pix2pix"
    import_pix2pix(file, chosen_recipe(recipe, settings, None if is_one else "pix2pix"), out)
    console.say(f"wrote {out}; restore with: i2i-bridge restore {out} IN OUT")


@app.command()
def i2sb(
    file: Annotated[Path, typer.Argument(metavar="FILE.pt", help="A checkpoint of the official code, latest.pt.")],
    settings: Overrides = None,
    recipe: Annotated[
        str, typer.Option("--recipe", metavar="RECIPE", help="What it was trained on, such as jpeg-5.")
    ] = ...,  # type: ignore[assignment]
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The run folder.")] = ...,  # type: ignore[assignment]
    plugin: Plugins = None,
) -> None:
    """A checkpoint of the official I2SB code, with the schedule that it was trained with (process official-grid).

    The file is read in a separate process and cannot run code; options.pkl beside it is never opened. The run
    restores and is evaluated like a trained one, but cannot be resumed; `train --from` starts a new run from it.
    """
    load_plugins(plugin)
    from i2i_bridge import load_recipe
    from i2i_bridge.runs.imports import import_i2sb, released, released_settings

    import_i2sb(file, load_recipe(recipe, released_settings(settings or []), released), out)
    console.say(f"wrote {out}; restore with: i2i-bridge restore {out} IN OUT")


@app.command()
def spandrel(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .safetensors or .pth of weights.")],
    settings: Overrides = None,
    recipe: Annotated[str, typer.Option("--recipe", metavar="RECIPE", help="What it restores, such as jpeg-5.")] = ...,  # type: ignore[assignment]
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The run folder.")] = ...,  # type: ignore[assignment]
    plugin: Plugins = None,
) -> None:
    """A restoration network that spandrel reads (SwinIR, NAFNet, ESRGAN, SPAN, ...), as a frozen regression.

    The file is read without running code from it. The run restores, is a row of `compare`, and can be the mean of a
    bridge: `train RECIPE mean.run=DIR`.
    """
    load_plugins(plugin)
    from i2i_bridge import load_recipe
    from i2i_bridge.runs.imports import import_spandrel, read_spandrel

    read = read_spandrel(file)
    import_spandrel(read, load_recipe(recipe, settings or [], read.preset), out)
    console.say(f"wrote {out}; restore with: i2i-bridge restore {out} IN OUT")
