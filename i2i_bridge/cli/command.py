"""The command `i2i-bridge`: verbs around the library, one line for a mistake, nothing else."""

import contextlib
import errno
import io
import os
import re
import shlex
import signal
import sys
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from i2i_bridge import console, registry
from i2i_bridge.cli import (
    compare as cli_compare,
)
from i2i_bridge.cli import (
    data as cli_data,
)
from i2i_bridge.cli import (
    evaluate as cli_evaluate,
)
from i2i_bridge.cli import (
    imports as cli_import,
)
from i2i_bridge.cli import (
    weights as cli_weights,
)
from i2i_bridge.cli.jobs import evaluate_run, open_run, own_run, report_run, train_run
from i2i_bridge.cli.options import (
    Checkpoint,
    Device,
    Force,
    Format,
    Init,
    InitStrict,
    MethodName,
    Overrides,
    Overwrite,
    Plugins,
    Quality,
    RecipeName,
    RunFolder,
    SampleSettings,
    SkipExisting,
    chosen_recipe,
    existing_results,
    load_plugins,
    run_folder,
)
from i2i_bridge.errors import TRY_AGAIN, UserError
from i2i_bridge.storage import internet
from i2i_bridge.storage.files import IO_ERROR, expanded, write_whole
from i2i_bridge.storage.reader import may_pass, read_bytes
from i2i_bridge.storage.shipped import folder_of_run, recipe_of_run

if TYPE_CHECKING:
    from i2i_bridge.recipe.recipe import Recipe

app = typer.Typer(
    name="i2i-bridge",
    help="Paired image-to-image restoration and translation with diffusion bridges.",
    epilog="Mistakes end with one line and exit code 2; add --debug to see the traceback. --offline, anywhere, forbids "
    "the internet, which only `data fetch`, `weights fetch` and datasets with `download = true` use.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

app.add_typer(cli_data.app, name="data")
app.add_typer(cli_import.app, name="import")
app.add_typer(cli_weights.app, name="weights")


USAGE_ERRORS: tuple[Any, ...] = tuple(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "UsageError")
"""Click's class, or the copy of click that newer versions of typer carry."""


def _show_version(wanted: bool) -> None:
    if wanted:
        from i2i_bridge import __version__

        console.say(f"i2i-bridge {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version and exit.")
    ] = False,
) -> None:
    """What may stand before any verb."""


@app.command("list")
def list_(
    what: Annotated[
        str,
        typer.Argument(
            help="recipes, datasets, protocols, pretrained, or a kind of part: " + ", ".join(registry.KINDS) + "."
        ),
    ] = "recipes",
    plugin: Plugins = None,
) -> None:
    """List recipes, dataset cards, or the parts that a recipe can name."""
    load_plugins(plugin)
    from i2i_bridge.cli.catalogue import listing

    console.show_list(["name", "what it is"], listing(what))


@app.command()
def show(
    name: Annotated[
        str,
        typer.Argument(
            help="A recipe, a dataset card, a protocol, a part such as 'jpeg' or '2m-sde', or the settings of train, "
            "data, sample or evaluate. Where a name has several meanings: recipe:NAME, card:NAME, part:NAME."
        ),
    ],
    all_settings: Annotated[
        bool,
        typer.Option("--all", help="Of a recipe: every setting, with its meaning, type, range and default."),
    ] = False,
    method: MethodName = None,
    plugin: Plugins = None,
) -> None:
    """Show one thing whole: a recipe or card as TOML, settings with their defaults, or a part with its options."""
    load_plugins(plugin)
    from i2i_bridge.cli.catalogue import description

    console.write(description(name, method, all_settings=all_settings))


@app.command()
def copy(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A recipe, or a dataset card such as my-pairs.")],
    file: Annotated[Path, typer.Argument(help="The new TOML file.")],
) -> None:
    """Copy a recipe or a dataset card into a file of your own, to edit and use."""
    from i2i_bridge.data.cards import card_file, card_names
    from i2i_bridge.recipe.recipe import recipe_file
    from i2i_bridge.storage.shipped import is_recipe_name, recipe_names

    is_card = name in card_names() and not is_recipe_name(name)
    if not is_card and not is_recipe_name(name) and not name.endswith(".toml"):
        hint = registry.nearest(name, [*recipe_names(), *card_names()])
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


@app.command()
def train(
    recipe: RecipeName,
    settings: Overrides = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="The run folder. Default: runs/NAME, or runs/NAME-METHOD."),
    ] = None,
    init: Init = None,
    init_strict: InitStrict = False,
    force: Force = False,
    method: MethodName = None,
    plugin: Plugins = None,
    device: Device = None,
) -> None:
    """Train a recipe. The same command in the same folder resumes; Ctrl-C or SIGTERM saves first (exit code 75)."""
    load_plugins(plugin)
    loaded = _recipe_to_train(recipe, settings, method, init, strict=init_strict)
    folder = out or run_folder(loaded, method)
    if not _train("train", recipe, settings, loaded, folder, method, plugin, device, force=force):
        raise typer.Exit(TRY_AGAIN)


def _recipe_to_train(
    name: str, settings: list[str] | None, method: str | None, init: Path | None, *, strict: bool
) -> "Recipe":
    loaded = chosen_recipe(name, settings, method)
    source = init or loaded.train.init
    if source is None and strict:
        raise UserError("--init-strict: nothing to start from; give --init SOURCE")
    if source is None or not (init or strict):
        return loaded
    from i2i_bridge.training.init import with_init

    return with_init(loaded, source, strict=strict, sha256=None if init else loaded.train.init_sha256)


def _train(
    verb: str,
    name: str,
    settings: list[str] | None,
    recipe: "Recipe",
    folder: Path,
    method: str | None,
    plugin: list[Path] | None,
    device: str | None,
    *,
    force: bool,
) -> bool:
    """`train_run`, with the checks and the full commands in refusals that need the words of the command line."""
    from i2i_bridge.cli.data_check import check_sides
    from i2i_bridge.training.identity import OtherSettings

    if not force:
        check_sides(name, settings or [], recipe, folder)
    try:
        return train_run(recipe, folder, device=device)
    except OtherSettings as error:
        if not error.fits:
            raise
        other = next(path for n in count(2) if not (path := folder.with_name(f"{folder.name}-{n}")).exists())
        words = ["i2i-bridge", verb, name, *(text for text in settings or [] if not text.startswith("train.init="))]
        words += ["--init", str(folder), "--out", str(other)]
        words += [] if method is None else ["--method", method]
        words += [word for file in plugin or [] for word in ("--plugin", str(file))]
        words += [] if device is None else ["--device", device]
        raise UserError(str(error), command=shlex.join(words)) from error


app.command()(cli_evaluate.evaluate)
app.command()(cli_compare.compare)


@app.command()
def report(
    run: RunFolder,
    root: Annotated[Path | None, typer.Option(help="Where the dataset lies now.")] = None,
    checkpoint: Checkpoint = None,
    plugin: Plugins = None,
    device: Device = None,
) -> None:
    """Write report/index.html of an evaluated run: pictures, trajectory, curves, table."""
    recipe_of_run(run := own_run(run))  # a wrong folder is refused before torch is imported
    load_plugins(plugin)
    report_run(run, root=root, device=device, checkpoint=checkpoint)


@app.command("run")
def run_(
    recipe: RecipeName,
    settings: Overrides = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="The run folder. Default: runs/NAME, or runs/NAME-METHOD."),
    ] = None,
    init: Init = None,
    init_strict: InitStrict = False,
    force: Force = False,
    method: MethodName = None,
    plugin: Plugins = None,
    device: Device = None,
) -> None:
    """Train, evaluate and report in one go."""
    load_plugins(plugin)
    from i2i_bridge.evaluation.evaluate import resolve_for

    loaded = _recipe_to_train(recipe, settings, method, init, strict=init_strict)
    resolve_for(loaded)  # a protocol that lacks something shows before the training, not after it
    folder = out or run_folder(loaded, method)
    if not _train("run", recipe, settings, loaded, folder, method, plugin, device, force=force):
        raise typer.Exit(TRY_AGAIN)
    evaluate_run(folder, device=device)
    report_run(folder, device=device)


@app.command()
def restore(
    run: RunFolder,
    source: Annotated[Path, typer.Argument(metavar="IN", help="A degraded image, or a folder of them.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="The restored file, or folder; names stay the same.")],
    nfe: Annotated[
        int | None,
        typer.Option(min=1, max=1000, metavar="N", help="Network calls per image, 1 to 1000. Default: the recipe's."),
    ] = None,
    samples: Annotated[
        int,
        typer.Option(
            min=1, max=10_000, metavar="K", help="Restorations per image; files get -1, -2, ... after their name."
        ),
    ] = 1,
    seed: Annotated[int, typer.Option(help="Seed of the first sample; sample k uses seed + k - 1.")] = 0,
    mask: Annotated[
        Path | None,
        typer.Option(
            help="White = unknown: only there is restored. An image, or a folder of images of the same names. "
            "Inpainting needs it; other tasks take it."
        ),
    ] = None,
    condition: Annotated[
        Path | None,
        typer.Option(help="The network's own condition, where the dataset brought one: an image, or folder likewise."),
    ] = None,
    trajectory: Annotated[
        bool, typer.Option("--trajectory", help="Also write the walk from X_1 to X_0, as NAME-trajectory.png.")
    ] = False,
    degrade: Annotated[
        bool,
        typer.Option(
            "--degrade",
            help="IN is clean: apply the recipe's degradation first (and save it beside, as NAME-degraded).",
        ),
    ] = False,
    format: Format = None,
    quality: Quality = None,
    skip_existing: SkipExisting = False,
    overwrite: Overwrite = False,
    setting: SampleSettings = None,
    precision: Annotated[
        str, typer.Option(metavar="fp32|bf16|auto", help="Of the network; bf16 is quicker where the device has it.")
    ] = "fp32",
    checkpoint: Checkpoint = None,
    plugin: Plugins = None,
    device: Device = None,
) -> None:
    """Restore an image or a folder of images, of any size, with a trained run."""
    recipe_of_run(run := folder_of_run(run))  # a wrong folder is refused before torch is imported
    load_plugins(plugin)
    from i2i_bridge.runs.restore import restore_files

    existing = existing_results(skip_existing, overwrite)
    loaded = open_run(run, device=device, sample=setting or [], precision=precision, checkpoint=checkpoint)
    # Of one image the network's calls are counted, of many the images.
    single = source.is_file()
    with console.counting("network calls" if single else "restored") as done:
        outcome = restore_files(
            loaded,
            source,
            target,
            nfe=nfe,
            samples=samples,
            seed=seed,
            mask=mask,
            condition=condition,
            degrade=degrade,
            trajectory=trajectory,
            format=format,
            quality=quality,
            existing=existing,
            say=lambda line: console.say(f"note: {line}"),
            **{"report_calls" if single else "report": done},
        )
    for line in outcome.notes:
        console.say(f"note: {line}")
    for line in outcome.problems:
        console.say_error(line)
    calls = f" ({outcome.nfe} network calls each)" if outcome.written else ""
    console.say(f"wrote {_images(outcome.written)} to {target}{calls}{_skipped(outcome.skipped, skip_existing)}")
    if outcome.problems:
        raise typer.Exit(2)


@app.command()
def degrade(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A clean image, or a folder of them.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="The degraded file, or folder; names stay the same.")],
    op: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME:KEY=VALUE,...",
            help="A degradation, such as jpeg:quality=5 or jpeg:quality=[5,30]. Repeatable: one after the other.",
        ),
    ] = None,
    vary: Annotated[
        str | None,
        typer.Option(
            metavar="KEY=V,V,...",
            help="Draw OUT.png instead: clean beside the last --op at each value, such as quality=5,10,20.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of all draws; each file has its own.")] = 0,
    format: Format = None,
    quality: Quality = None,
    skip_existing: SkipExisting = False,
    overwrite: Overwrite = False,
    plugin: Plugins = None,
) -> None:
    """Apply any degradation to an image or a folder; masks come beside as NAME-mask.png, draws as parameters.csv."""
    load_plugins(plugin)
    from i2i_bridge.cli.preview import strengths_sheet
    from i2i_bridge.degradations.files import degrade_files, parse_op

    tables = [parse_op(text) for text in op or []]
    if vary is not None:
        console.say(f"wrote {target}: {strengths_sheet(tables, vary, source, target, seed=seed)}")
        return
    existing = existing_results(skip_existing, overwrite)
    with console.counting("degraded") as done:
        outcome = degrade_files(
            tables, source, target, seed=seed, format=format, quality=quality, existing=existing, report=done
        )
    for line in outcome.notes:
        console.say(f"note: {line}")
    for line in outcome.problems:
        console.say_error(line)
    if source.is_file():
        for name, value in next(iter(outcome.parameters.values()), {}).items():
            console.say(f"{name} = {value:.6g}")
    console.say(f"wrote {_images(outcome.written)} to {target}{_skipped(outcome.skipped, skip_existing)}")
    if outcome.problems:
        raise typer.Exit(2)


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"


def _skipped(count: int, all_there: bool) -> str:
    why = "that were there" if all_there else "that the same settings had made already; --overwrite makes them again"
    return f"; skipped {_images(count)} {why}" if count else ""


# The same verbs stand where one looks for them, and where one looks for what concerns data.
app.command("preview")(cli_data.preview)
app.command("check")(cli_data.check)


@app.command()
def doctor() -> None:
    """Show versions, devices, weights and disk, and name what is wrong with the installation."""
    from i2i_bridge.cli.doctor import examine

    facts, problems = examine()
    console.show_table("", ["", ""], [[name, value] for name, value in facts.items()])
    for problem in problems:
        console.say_error(problem)
    if problems:
        raise typer.Exit(2)
    console.say("no problem found")


@app.command()
def selftest(
    level: Annotated[
        Literal["quick", "full"],
        typer.Option("--level", help="quick: under a minute. full: more kills, a few minutes."),
    ] = "quick",
    folder: Annotated[
        Path, typer.Option("--dir", metavar="PATH", help="Where runs would lie: that disk is tested.")
    ] = Path(),
    file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the findings here, too.")] = None,
) -> None:
    """Try the promises on this machine: resume after a kill, flush and lock on this disk, same bits, two processes."""
    import json

    from i2i_bridge.cli.doctor import examine
    from i2i_bridge.cli.selftest import run_checks

    findings = []
    for finding in run_checks(level, folder):
        findings.append(finding)
        console.say(
            f"{'ok' if finding.passed else 'FAILED':7}{finding.name:20}{finding.seconds:6.1f} s  {finding.detail}"
        )
    failed = [finding.name for finding in findings if not finding.passed]
    if file is not None:
        facts, problems = examine()
        said = {"level": level, "passed": not failed, "checks": [finding.row() for finding in findings]}
        write_whole(file, (json.dumps(said | {"machine": facts, "problems": problems}, indent=1) + "\n").encode())
    console.say(
        f"{len(findings) - len(failed)} of {len(findings)} hold" + (f"; not: {', '.join(failed)}" if failed else "")
    )
    if failed:
        raise typer.Exit(1)


def main(arguments: list[str] | None = None) -> None:
    """Entry point: runs a verb and turns a mistake into one line and exit code 2."""
    _open_closed_streams()
    _print_whatever_comes()
    words = [_with_home(word) for word in (sys.argv[1:] if arguments is None else arguments)]
    # A notebook passes its own backend on to the commands started in it. Where that is not installed, the import of
    # matplotlib would fail, in torchmetrics too; figures are drawn without any window.
    os.environ["MPLBACKEND"] = "agg"
    debug = "--debug" in words
    if "--offline" in words or internet.is_offline():
        internet.go_offline()
    words = _spread_nfe([word for word in words if word not in ("--debug", "--offline")])
    try:
        code = app(words, standalone_mode=False, prog_name="i2i-bridge")
        sys.stdout.flush()
    except UserError as error:
        if debug:
            raise
        _say_error(error)
        code = error.code
    except USAGE_ERRORS as error:
        message = " ".join(error.format_message().split()).rstrip(".")
        if message:  # nothing typed at all: the help is printed already
            verb = error.ctx.command_path if error.ctx else "i2i-bridge"
            _say_error(f"{message}; see {verb} --help")
        code = 2
    except (typer.Abort, KeyboardInterrupt):
        _say_error("interrupted")
        code = 130
    except (BrokenPipeError, SystemExit) as error:
        # Click turns a BrokenPipeError into SystemExit(1). As of any program that nobody reads: quiet.
        if not isinstance(error, BrokenPipeError) and not isinstance(error.__context__, BrokenPipeError):
            raise
        code = 128 + signal.SIGPIPE
    except Exception as error:
        if debug:
            raise
        worded = registry.in_words(error)  # a part of the user's: not our bug
        if worded is None and isinstance(error, OSError):
            worded = _system_error(error)
        if worded is None:
            _say_error(
                f"unexpected {type(error).__name__}: {' '.join(str(error).split())} "
                "(a bug of ours: add --debug and report it)"
            )
        else:
            _say_error(worded)
        code = 1 if worded is None else worded.code
    _end_output()
    sys.exit(code if isinstance(code, int) else 0)


def _system_error(error: OSError) -> UserError | None:
    """What is said where the operating system refused a file, or the output; None for what it cannot be blamed for."""
    if error.filename is not None:
        lasts = not may_pass(error) or error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
        return UserError(f"{error.filename}: {error.strerror or error}", 2 if lasts else IO_ERROR)
    if error.errno in (errno.EBADF, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
        return UserError(f"the output cannot be written ({error.strerror})", IO_ERROR)
    return None


def _say_error(text: str | UserError) -> None:
    with contextlib.suppress(OSError):  # nobody reads it: the exit code is all that is left to say
        console.say_error(text)


def _end_output() -> None:
    """Flush what is printed; where that fails, drop it, since Python would try again at its end and complain."""
    for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream.fileno())  # type: ignore[union-attr]
                os.close(nowhere)


def _open_closed_streams() -> None:
    """Let closed streams, as after `>&-`, lead nowhere: else the next file that is opened takes a stream's number."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            with contextlib.suppress(OSError):
                nowhere = os.open(os.devnull, os.O_RDWR)
                if nowhere != number:
                    os.dup2(nowhere, number)
                    os.close(nowhere)
                setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115 - as long as the process


def _print_whatever_comes() -> None:
    """Write letters that an output cannot hold as \\xe9 or \\u2500: an ASCII terminal must not end a run."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _with_home(word: str) -> str:
    """A word with the home folder in place of ~, at its start or after an equals sign, where a shell leaves it."""
    found = re.search(r"(?:^|(?<==)|(?<==['\"]))~(?=/|$)", word)
    return word if found is None else f"{word[: found.start()]}{expanded('~')}{word[found.end() :]}"


def _spread_nfe(words: list[str]) -> list[str]:
    """`--nfe 1 2 5`, `--nfe 1,2,5` and `--nfe=1,2,5` as `--nfe 1 --nfe 2 --nfe 5`: click's options take one value each.

    Only of the verbs that take several numbers; `restore --nfe 5 2024 out` names a folder.
    """
    if words[:1] not in (["evaluate"], ["compare"]):
        return words
    spread: list[str] = []
    after = False
    for word in words:
        option, equals, values = word.partition("=")
        numbers = re.fullmatch(r"-?\d+(,-?\d+)*,?", values if equals else word) is not None
        if numbers and (after or (option == "--nfe" and equals)):
            if spread[-1] == "--nfe":
                spread.pop()
            listed = (values if equals else word).rstrip(",").split(",")
            spread += [part for number in listed for part in ("--nfe", number)]
            after = True
        else:
            spread.append(word)
            after = word == "--nfe"
    return spread
