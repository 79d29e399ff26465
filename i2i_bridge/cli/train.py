"""The verbs `i2i-bridge train` and `i2i-bridge run`: progress shown, stop signals saved."""

import contextlib
import errno
import os
import shlex
import signal
from itertools import count
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from i2i_bridge import console
from i2i_bridge.cli.evaluate import evaluate_run, report_run
from i2i_bridge.cli.options import (
    Device,
    Force,
    Init,
    InitStrict,
    MethodName,
    Overrides,
    Plugins,
    RecipeName,
    chosen_recipe,
    load_plugins,
    run_folder,
)
from i2i_bridge.errors import TRY_AGAIN, UserError

if TYPE_CHECKING:
    from i2i_bridge.console import Progress
    from i2i_bridge.recipe.recipe import Recipe

_HANG_UP = getattr(signal, "SIGHUP", None)
RESUMES = "the same command goes on"


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


def run(
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


def train_run(recipe: "Recipe", folder: Path, *, device: str | None = None) -> bool:
    """Train, or resume; the first SIGINT, SIGTERM, SIGUSR1 or SIGHUP saves and stops, the second stops at once.

    Where the output cannot be written any more (the terminal was closed, the program at the other end of the pipe has
    ended) the run is saved and stopped as well.

    Returns:
        Whether the run is finished.
    """
    from i2i_bridge.data.loader import STOP_SIGNALS
    from i2i_bridge.device import resolve_device
    from i2i_bridge.training.trainer import train

    chosen = None if device is None else resolve_device(device)
    asked = lost_output = False

    def ask(number: int, frame: FrameType | None) -> None:
        # Whatever was interrupted here may be printing, or hold a lock: a flag, and one bare call of the system.
        nonlocal asked
        if asked:  # the second time: at once, the last checkpoint stays
            os._exit(128 + number)
        asked = True
        with contextlib.suppress(OSError):
            os.write(1, b"stopping after this step (once more to stop at once)\n")

    def heard(event: "Progress | str") -> None:
        nonlocal lost_output
        try:
            show_progress(event)
        except OSError as error:
            # A full disk below a redirected output takes the lines only; a reader that is gone will not come back.
            lost_output = lost_output or error.errno != errno.ENOSPC

    signals = [getattr(signal, name) for name in STOP_SIGNALS if hasattr(signal, name)]
    # nohup ignores SIGHUP so that the run outlives its terminal.
    signals = [number for number in signals if number != _HANG_UP or signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, ask) for number in signals}
    trained = None
    try:
        with console.training_display(recipe.train.steps) as show_progress:
            trained = train(
                recipe,
                folder,
                report=heard,
                stop=lambda: asked or lost_output,
                cpu=chosen is not None and chosen.type == "cpu",
            )
    except OSError:  # the display could not be ended: the training has
        if trained is None:
            raise
        lost_output = True
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    where = f"{folder} at step {trained.step}"
    if lost_output and not trained.finished:
        raise UserError(f"the output cannot be written any more; saved {where}; {RESUMES}", TRY_AGAIN)
    if not lost_output:
        console.say(f"trained {folder}, step {trained.step}" if trained.finished else f"saved {where}; {RESUMES}")
    return trained.finished
