"""The command `i2i-bridge`: verbs around the library, one line for a mistake, nothing else."""

import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

from i2i_bridge import console, registry
from i2i_bridge.errors import UserError

app = typer.Typer(
    name="i2i-bridge",
    help="Paired image-to-image restoration and translation with diffusion bridges.",
    epilog="Mistakes end with one line and exit code 2; add --debug to see the traceback.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

INTERRUPTED = 75
"""Exit code of a run that was stopped, saved, and goes on with the same command (EX_TEMPFAIL)."""

RecipeName = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A shipped recipe (see `list recipes`) or a TOML file.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Settings to change, such as train.lr=1e-4 data.root=photos."),
]
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

KINDS = {
    "processes": registry.PROCESSES,
    "targets": registry.TARGETS,
    "proposals": registry.PROPOSALS,
    "samplers": registry.SAMPLERS,
    "grids": registry.TIME_GRIDS,
    "degradations": registry.DEGRADATIONS,
    "dataset-kinds": registry.DATASETS,
    "networks": registry.NETWORKS,
    "metrics": registry.METRICS,
}


@app.command("list")
def list_(
    what: Annotated[
        str, typer.Argument(help="recipes, datasets, or a kind of part: " + ", ".join(KINDS) + ".")
    ] = "recipes",
    plugin: Plugins = None,
) -> None:
    """List recipes, dataset cards, or the parts that a recipe can name."""
    _load(plugin)
    if what == "recipes":
        from i2i_bridge.recipe import load_recipe, recipe_names

        console.show_table("", ["recipe", "summary"], [[name, load_recipe(name).summary] for name in recipe_names()])
    elif what == "datasets":
        from i2i_bridge.data.cards import card_names, load_card

        console.show_table("", ["dataset", "summary"], [[name, load_card(name).summary] for name in card_names()])
    elif what in KINDS:
        rows = [[name, _first_line(KINDS[what].get(name))] for name in KINDS[what].names()]
        console.show_table("", ["name", "what it is"], rows)
    else:
        raise UserError(f"'{what}' cannot be listed{registry.did_you_mean(what, ['recipes', 'datasets', *KINDS])}")


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A recipe, a dataset card, or a part such as 'jpeg' or '2m-sde'.")],
    plugin: Plugins = None,
) -> None:
    """Show one thing whole: a recipe or card as TOML, or a part with its options."""
    _load(plugin)
    from i2i_bridge.data.cards import card_names, load_card
    from i2i_bridge.recipe import load_recipe, recipe_file, recipe_names

    shipped = recipe_names()
    if name.endswith(".toml") or name in shipped or name in [known.split("/")[-1] for known in shipped]:
        load_recipe(name)
        typer.echo(recipe_file(name).read_text(encoding="utf-8"), nl=False)
        return
    if name in card_names():
        typer.echo(load_card(name).to_toml(), nl=False)
        return
    parts = [(kind, members) for kind, members in KINDS.items() if name in members.names()]
    for kind, members in parts:
        member = members.get(name)
        console.say(f"{kind}: {name}\n")
        console.say(_documentation(member))
        options = {key: p for key, p in members.options(name).items() if not _is_plumbing(kind, key, p)}
        for key, parameter in options.items():
            default = "" if parameter.default is parameter.empty else f" = {parameter.default!r}"
            console.say(f"  {key}: {_type_name(parameter.annotation)}{default}")
    if not parts:
        everything = [
            *shipped,
            *card_names(),
            *(member for members in KINDS.values() for member in members.names()),
        ]
        raise UserError(f"nothing is called '{name}'{registry.did_you_mean(name, everything)}")


@app.command()
def copy(
    recipe: RecipeName,
    file: Annotated[Path, typer.Argument(help="The new TOML file.")],
) -> None:
    """Copy a recipe into a file of your own, to edit and train."""
    from i2i_bridge.recipe import load_recipe, recipe_file

    load_recipe(recipe)
    if file.suffix != ".toml":
        raise UserError(f"{file}: a recipe file ends in .toml")
    if file.exists():
        raise UserError(f"{file} exists already; choose another name")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(recipe_file(recipe).read_text(encoding="utf-8"), encoding="utf-8")
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}") from error
    console.say(f"wrote {file}; train it with: i2i-bridge train {file}")


@app.command()
def train(
    recipe: RecipeName,
    settings: Overrides = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="The run folder. Default: runs/NAME.")
    ] = None,
    plugin: Plugins = None,
    device: Device = None,
) -> None:
    """Train a recipe. The same command in the same folder resumes; Ctrl-C saves first (exit code 75)."""
    _load(plugin)
    from i2i_bridge.recipe import load_recipe

    loaded = load_recipe(recipe, settings or [])
    if not _train(loaded, out or Path("runs") / loaded.name, device):
        raise typer.Exit(INTERRUPTED)


@app.command()
def evaluate(
    run: RunFolder,
    nfe: Annotated[
        list[int] | None,
        typer.Option("--nfe", metavar="N...", help="Network calls per image: --nfe 1 2 5 20. Default: the recipe's."),
    ] = None,
    images: Annotated[int | None, typer.Option(min=1, help="Only the first so many held-out images.")] = None,
    metric: Annotated[list[str] | None, typer.Option(help="A metric instead of the recipe's; repeatable.")] = None,
    root: Annotated[Path | None, typer.Option(help="Where the dataset lies now, if not where it was trained.")] = None,
    plugin: Plugins = None,
    device: Device = None,
) -> None:
    """Score a run on its held-out images at several NFE, beside the degraded input's own numbers."""
    _load(plugin)
    _evaluate(run, nfe, images, metric, root, device)


@app.command()
def report(
    run: RunFolder,
    root: Annotated[Path | None, typer.Option(help="Where the dataset lies now.")] = None,
    plugin: Plugins = None,
    device: Device = None,
) -> None:
    """Write report/index.html of an evaluated run: pictures, trajectory, curves, table."""
    _load(plugin)
    _report(run, root, device)


@app.command("run")
def run_(
    recipe: RecipeName,
    settings: Overrides = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="The run folder. Default: runs/NAME.")
    ] = None,
    plugin: Plugins = None,
    device: Device = None,
) -> None:
    """Train, evaluate and report in one go."""
    _load(plugin)
    from i2i_bridge.recipe import load_recipe

    loaded = load_recipe(recipe, settings or [])
    folder = out or Path("runs") / loaded.name
    if not _train(loaded, folder, device):
        raise typer.Exit(INTERRUPTED)
    _evaluate(folder, None, None, None, None, device)
    _report(folder, None, device)


@app.command()
def restore(
    run: RunFolder,
    source: Annotated[Path, typer.Argument(metavar="IN", help="A degraded image, or a folder of them.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="The restored file, or folder; names stay the same.")],
    nfe: Annotated[
        int | None,
        typer.Option(metavar="N", help="Network calls per image, 1 to 1000. Default: the recipe's."),
    ] = None,
    samples: Annotated[
        int, typer.Option(metavar="K", help="Restorations per image; files get -1, -2, ... after their name.")
    ] = 1,
    seed: Annotated[int, typer.Option(help="Seed of the first sample; sample k uses seed + k - 1.")] = 0,
    mask: Annotated[
        Path | None,
        typer.Option(help="For inpainting: an image, or folder of images of the same names; white = unknown."),
    ] = None,
    degrade: Annotated[
        bool,
        typer.Option(
            "--degrade",
            help="IN is clean: apply the recipe's degradation first (and save it beside, as NAME-degraded).",
        ),
    ] = False,
    plugin: Plugins = None,
    device: Device = None,
) -> None:
    """Restore an image or a folder of images, of any size, with a trained run."""
    _load(plugin)
    from i2i_bridge.restoring import restore_files
    from i2i_bridge.run import load_run

    _check_nfe(nfe)
    if samples < 1:
        raise UserError(f"--samples {samples}: at least 1")
    loaded = load_run(run, device=device)
    with console.counting("restored") as done:
        outcome = restore_files(
            loaded,
            source,
            target,
            nfe=nfe,
            samples=samples,
            seed=seed,
            mask=mask,
            degrade=degrade,
            report=done,
        )
    for line in outcome.problems:
        console.say_error(line)
    images = "1 image" if outcome.written == 1 else f"{outcome.written} images"
    console.say(f"wrote {images} to {target} ({outcome.nfe} network calls each)")
    if outcome.problems:
        raise typer.Exit(2)


@app.command()
def preview(
    recipe: RecipeName,
    file: Annotated[Path, typer.Argument(metavar="OUT.png", help="The contact sheet.")],
    settings: Overrides = None,
    images: Annotated[int, typer.Option("-n", "--images", min=1, max=100, help="Rows.")] = 6,
    validation: Annotated[
        bool, typer.Option("--validation", help="The validation split instead of training's.")
    ] = False,
    plugin: Plugins = None,
) -> None:
    """Draw what training sees, after all transforms: clean | X_1 | mask | condition."""
    _load(plugin)
    from i2i_bridge.recipe import load_recipe
    from i2i_bridge.restoring import contact_sheet

    shown = contact_sheet(
        load_recipe(recipe, settings or []), file, rows=images, split="validation" if validation else "train"
    )
    console.say(f"wrote {file}: {shown}")


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
    """Look at every image of a dataset and list all problems in one pass; exit code 2 if there are any."""
    _load(plugin)
    from i2i_bridge.checking import check_data

    with console.counting("checked") as done:
        summary, problems = check_data(what, settings or [], report=done)
    for problem in problems:
        console.say(problem)
    console.say(summary)
    if problems:
        raise typer.Exit(2)


@app.command()
def doctor() -> None:
    """Show versions, devices, weights and disk, and name what is wrong with the installation."""
    from i2i_bridge.doctor import examine

    facts, problems = examine()
    console.show_table("", ["", ""], [[name, value] for name, value in facts.items()])
    for problem in problems:
        console.say_error(problem)
    if problems:
        raise typer.Exit(2)
    console.say("no problem found")


def main(arguments: list[str] | None = None) -> None:
    """Entry point: runs a verb and turns a mistake into one line and exit code 2."""
    import click

    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = _spread_nfe([word for word in words if word != "--debug"])
    try:
        code = app(words, standalone_mode=False)
    except UserError as error:
        if debug:
            raise
        console.say_error(str(error))
        code = 2
    except (click.ClickException, typer.BadParameter) as error:
        console.say_error(" ".join(error.format_message().split()) + "; see i2i-bridge --help")
        code = 2
    except (click.exceptions.Abort, KeyboardInterrupt):
        console.say_error("interrupted")
        code = 130
    except Exception as error:
        if debug:
            raise
        console.say_error(
            f"unexpected {type(error).__name__}: {' '.join(str(error).split())} "
            "(a bug of ours: add --debug and report it)"
        )
        code = 1
    sys.exit(code if isinstance(code, int) else 0)


def _spread_nfe(words: list[str]) -> list[str]:
    """`--nfe 1 2 5` as `--nfe 1 --nfe 2 --nfe 5`: click's options take one value each."""
    spread: list[str] = []
    after = False
    for word in words:
        number = word.lstrip("-").isdigit()
        if after and number and spread[-1] != "--nfe":
            spread.append("--nfe")
        spread.append(word)
        after = word == "--nfe" or (after and number)
    return spread


def _load(plugins: list[Path] | None) -> None:
    for file in plugins or []:
        registry.load_plugin(file)


def _check_nfe(nfe: int | None) -> None:
    if nfe is not None and not 1 <= nfe <= 1000:
        raise UserError(f"--nfe {nfe}: a number from 1 to 1000")


def _train(recipe: Any, folder: Path, device: str | None) -> bool:
    from i2i_bridge.training import train

    asked = False

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:  # the second time: at once, the last checkpoint stays
            os._exit(128 + number)
        asked = True
        console.say("stopping after this step (once more to stop at once)")

    signals = [signal.SIGINT, signal.SIGTERM]
    before = {number: signal.signal(number, ask) for number in signals}
    try:
        with console.training_display(recipe.train.steps) as show_progress:
            trained = train(recipe, folder, report=show_progress, stop=lambda: asked, cpu=device == "cpu")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if not trained.finished:
        console.say(f"saved {folder} at step {trained.step}; the same command goes on")
    else:
        console.say(f"trained {folder}, step {trained.step}")
    return trained.finished


def _opened(run: Path, root: Path | None, device: str | None) -> tuple[Any, Any]:
    from i2i_bridge.run import load_run

    loaded = load_run(run, device=device)
    recipe = loaded.recipe
    if root is not None:
        recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"root": str(root)})})
    return loaded, recipe.build_dataset("validation")


def _evaluate(
    run: Path,
    nfe: list[int] | None,
    images: int | None,
    metrics: list[str] | None,
    root: Path | None,
    device: str | None,
) -> None:
    from i2i_bridge.evaluation import evaluate as measure
    from i2i_bridge.report import metrics_table

    for count in nfe or []:
        _check_nfe(count)
    loaded, dataset = _opened(run, root, device)
    settings = loaded.recipe.evaluate
    with console.counting("evaluated") as done:
        result = measure(
            loaded,
            dataset,
            nfe=nfe or settings.nfe,
            metrics=metrics or settings.metrics,
            images=images or settings.images,
            report=done,
        )
    header, rows = metrics_table(result)
    console.show_table(
        f"{result.recipe}, step {result.step}, {result.rows[0].images} images",
        header,
        [[text for text, _ in row] for row in rows],
        numbers=True,
    )
    for reason in result.skipped.values():
        console.say(f"not measured: {reason}")
    console.say(f"wrote {run / 'evaluation' / 'evaluation.json'}")


def _report(run: Path, root: Path | None, device: str | None) -> None:
    from i2i_bridge.report import write_report

    console.say(f"wrote {write_report(*_opened(run, root, device))}")


def _first_line(member: Any) -> str:
    return _documentation(member).split("\n")[0]


def _documentation(member: Any) -> str:
    import inspect

    return inspect.getdoc(member) or "(no description)"


def _is_plumbing(kind: str, key: str, parameter: Any) -> bool:
    """Arguments that the library fills in, not the recipe."""
    if kind == "samplers":
        return parameter.kind is not parameter.KEYWORD_ONLY or key == "start"
    return kind == "grids" or key == "split"


def _type_name(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) else str(annotation).replace("typing.", "")


if __name__ == "__main__":
    main()
