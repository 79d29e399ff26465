"""The verbs `i2i-bridge train` and `i2i-bridge run`, with progress display and stop signals."""

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

from i2i_bridge import UserError, console
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
from i2i_bridge.errors import TRY_AGAIN

if TYPE_CHECKING:
    from i2i_bridge import Recipe
    from i2i_bridge.console import Progress

_HANG_UP = getattr(signal, "SIGHUP", None)
RESUMES = "run the same command again to resume"
RunFolder = Annotated[
    Path | None,
    typer.Option("--out", metavar="DIR", help="The run folder. Default: runs/NAME, or runs/NAME-METHOD."),
]


def train(
    recipe: RecipeName,
    settings: Overrides = None,
    out: RunFolder = None,
    init: Init = None,
    init_strict: InitStrict = False,
    force: Force = False,
    method: MethodName = None,
    plugin: Plugins = None,
    device: Device = None,
) -> None:
    """Train a recipe. The same command in the same folder resumes; Ctrl-C or SIGTERM saves first (exit code 75)."""
    load_plugins(plugin)
    loaded = _load_recipe(recipe, settings, method, init, strict=init_strict)
    folder = out or run_folder(loaded, method)
    if not _checked_train("train", recipe, settings, loaded, folder, method, plugin, device, force=force):
        raise typer.Exit(TRY_AGAIN)


def run(
    recipe: RecipeName,
    settings: Overrides = None,
    out: RunFolder = None,
    init: Init = None,
    init_strict: InitStrict = False,
    force: Force = False,
    method: MethodName = None,
    plugin: Plugins = None,
    device: Device = None,
) -> None:
    """Train, evaluate and report in one go."""
    load_plugins(plugin)
    from i2i_bridge.evaluation.evaluate import open_evaluation

    loaded = _load_recipe(recipe, settings, method, init, strict=init_strict)
    open_evaluation(loaded)  # otherwise a protocol that cannot be used is reported only after the training
    folder = out or run_folder(loaded, method)
    if not _checked_train("run", recipe, settings, loaded, folder, method, plugin, device, force=force):
        raise typer.Exit(TRY_AGAIN)
    evaluate_run(folder, device=device)
    report_run(folder, device=device)


def _load_recipe(
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


def _checked_train(
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
    """Check the sides of the pairs and call `train_run`; errors name the full command that would work."""
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
    """Train or resume a run with progress display.

    The first SIGINT, SIGTERM, SIGUSR1 or SIGHUP saves a checkpoint and stops; the second ends the process at once.
    A broken output (terminal closed, reader of the pipe ended) also saves and stops.

    Returns:
        True if the run is finished, False if a signal stopped it.
    """
    from i2i_bridge import train
    from i2i_bridge.data.loader import STOP_SIGNALS
    from i2i_bridge.device import resolve_device

    chosen_device = None if device is None else resolve_device(device)
    stop_requested = lost_output = False
    training_process = os.getpid()

    def request_stop(number: int, frame: FrameType | None) -> None:
        # A forked worker has this handler until it sets its own: otherwise it would announce the stop as well.
        if os.getpid() != training_process:
            return
        # The interrupted code may be printing or hold a lock: only set a flag and call os.write, which takes no lock.
        nonlocal stop_requested
        if stop_requested:  # second signal: the last checkpoint stays
            os._exit(128 + number)
        stop_requested = True
        with contextlib.suppress(OSError):
            os.write(1, b"stopping after this step (once more to stop at once)\n")

    def show_event(event: "Progress | str") -> None:
        nonlocal lost_output
        try:
            show_progress(event)
        except OSError as error:
            # A full disk loses only these lines. A closed terminal or pipe stays closed: save and stop.
            lost_output = lost_output or error.errno != errno.ENOSPC

    signals = [getattr(signal, name) for name in STOP_SIGNALS if hasattr(signal, name)]
    # Under nohup SIGHUP is ignored: keep it so, otherwise closing the terminal stops the run.
    signals = [number for number in signals if number != _HANG_UP or signal.getsignal(number) != signal.SIG_IGN]
    previous_handlers = {number: signal.signal(number, request_stop) for number in signals}
    trained = None
    try:
        with console.training_display(recipe.train.steps) as show_progress:
            trained = train(
                recipe,
                folder,
                report=show_event,
                stop=lambda: stop_requested or lost_output,
                cpu=chosen_device is not None and chosen_device.type == "cpu",
            )
    except OSError:  # raised when the display closes, after the training has ended
        if trained is None:
            raise
        lost_output = True
    finally:
        for number, handler in previous_handlers.items():
            signal.signal(number, handler)
    where = f"{folder} at step {trained.step}"
    if lost_output and not trained.finished:
        raise UserError(f"the output cannot be written any more; saved {where}; {RESUMES}", TRY_AGAIN)
    if not lost_output:
        console.say(f"trained {folder}, step {trained.step}" if trained.finished else f"saved {where}; {RESUMES}")
    return trained.finished
