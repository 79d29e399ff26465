"""The verb `i2i-bridge tune`."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from i2i_bridge import console
from i2i_bridge.cli.evaluate import counted
from i2i_bridge.cli.options import Checkpoint, Device, Plugins, RunFolder, load_plugins, open_run, own_run
from i2i_bridge.errors import plural
from i2i_bridge.metrics.weights import use_folder
from i2i_bridge.storage.shipped import recipe_of_run

if TYPE_CHECKING:
    from i2i_bridge.evaluation.search import Choice


def tune(
    run: RunFolder,
    nfe: Annotated[
        list[int],
        typer.Option(
            "--nfe", min=1, max=1000, metavar="N...", help="Network calls per image to tune for: --nfe 1 2 5 or 1,2,5."
        ),
    ],
    metric: Annotated[
        str, typer.Option(metavar="NAME", help="The metric that decides, such as psnr or kid-inception.")
    ],
    count: Annotated[
        int,
        typer.Option(
            "-n", "--count", min=4, max=10**6, help="Number of validation images: one half chooses, the other reports."
        ),
    ] = 64,
    protocol: Annotated[
        str | None,
        typer.Option(metavar="NAME|FILE.toml", help="The rules (see `list protocols`). Default: the recipe's."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the halves.")] = 0,
    weights: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where metrics find their weights. Default: $I2I_WEIGHTS_DIR.")
    ] = None,
    list_file: Annotated[
        Path | None, typer.Option("--list", metavar="FILE", help="Only the images that this file names, one a line.")
    ] = None,
    root: Annotated[Path | None, typer.Option(help="Where the dataset lies now, if not where it was trained.")] = None,
    checkpoint: Checkpoint = None,
    plugin: Plugins = None,
    device: Device = None,
) -> None:
    """Choose sampler, noise, grid and clipping of a run for few network calls; all verbs then use them at these NFE."""
    with own_run(run, plugin) as folder:
        recipe_of_run(folder)  # a wrong folder is refused before torch is imported
        load_plugins(plugin)
        if weights is not None:
            use_folder(weights)
        _tune(folder, nfe, metric, count, protocol, seed, list_file, root, checkpoint, device)


def _tune(
    run: Path,
    nfe: list[int],
    metric: str,
    count: int,
    protocol: str | None,
    seed: int,
    list_file: Path | None,
    root: Path | None,
    checkpoint: str | None,
    device: str | None,
) -> None:
    """Tune a run folder and print what was found."""
    from i2i_bridge import tune as search
    from i2i_bridge.evaluation.evaluate import open_evaluation
    from i2i_bridge.runs.tuned import words_of

    loaded = open_run(run, device=device, checkpoint=checkpoint, tuned=False)
    setup = open_evaluation(loaded.recipe, protocol, count=count, list_file=list_file, root=root)
    start = time.monotonic()
    with counted("tuned") as done:
        found = search(
            loaded, setup.dataset, nfe=nfe, metric=metric, count=count, protocol=setup.rules, seed=seed, report=done
        )
    header = ["NFE", f"{found.label}, recipe", "tuned", "difference", "settings"]
    rows = [[*_numbers(choice), words_of(choice.settings)] for choice in found.choices]
    console.say(
        f"{loaded.recipe.name}, step {loaded.step}: {plural(found.images[0], 'image')} chose, {found.images[1]} report"
    )
    console.show_table(header, rows)
    tried = ", ".join(f"{choice.candidates} at NFE {choice.nfe}" for choice in found.choices)
    console.say(
        f"candidates with different images: {tried}; {plural(found.calls, 'network call')} of {found.asked} asked "
        f"for, in {time.monotonic() - start:.0f} s"
    )
    for choice in found.choices:
        if choice.is_own:
            console.say(f"note: nfe {choice.nfe}: nothing is better beyond chance; the recipe's settings stay")
    if found.file is None:
        console.say(f"no tuned settings in {run}")
    else:
        console.say(f"wrote {found.file}; restore, evaluate, export and the app use it at its NFE")


def _numbers(choice: "Choice") -> list[str]:
    change = choice.difference
    difference = "0" if choice.is_own else f"{change.value:+.4g} ± {change.standard_error:.2g}"
    return [
        str(choice.nfe),
        f"{choice.own:.5g}",
        "the recipe's" if choice.is_own else f"{choice.tuned:.5g}",
        difference,
    ]
