"""The verbs `i2i-bridge train` and `i2i-bridge run`, with progress display and stop signals."""

import contextlib
import errno
import json
import os
import shlex
import signal
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from i2i_bridge import UserError, console
from i2i_bridge.cli.evaluate import evaluate, report
from i2i_bridge.cli.options import (
    Device,
    Force,
    Freeze,
    Init,
    InitStrict,
    MethodName,
    Overrides,
    Plugins,
    RecipeOrSetting,
    Source,
    checked_run,
    chosen_recipe,
    fetched_run,
    load_plugins,
    run_folder,
)
from i2i_bridge.errors import TRY_AGAIN
from i2i_bridge.storage.shipped import recipe_of_run

if TYPE_CHECKING:
    from i2i_bridge import Recipe
    from i2i_bridge.console import Progress

_HANG_UP = getattr(signal, "SIGHUP", None)
RESUMES = "run the same command again to resume"
RunFolder = Annotated[
    Path | None,
    typer.Option(
        "--out", metavar="DIR", help="The run folder. Default: runs/NAME, or runs/NAME-METHOD, or runs/NAME-from-RUN."
    ),
]


def train(
    recipe: RecipeOrSetting = None,
    settings: Overrides = None,
    out: RunFolder = None,
    source: Source = None,
    init: Init = None,
    init_strict: InitStrict = False,
    freeze: Freeze = None,
    force: Force = False,
    method: MethodName = None,
    plugin: Plugins = None,
    device: Device = None,
) -> None:
    """Train a recipe. The same command in the same folder resumes; Ctrl-C or SIGTERM saves first (exit code 75)."""
    load_plugins(plugin)
    request = _request("train", recipe, settings, source, freeze, method, plugin, device)
    loaded = request.load(init, strict=init_strict)
    if not request.train(loaded, out or request.folder(loaded), force=force):
        raise typer.Exit(TRY_AGAIN)


def run(
    recipe: RecipeOrSetting = None,
    settings: Overrides = None,
    out: RunFolder = None,
    source: Source = None,
    init: Init = None,
    init_strict: InitStrict = False,
    freeze: Freeze = None,
    force: Force = False,
    method: MethodName = None,
    plugin: Plugins = None,
    device: Device = None,
) -> None:
    """Train, evaluate and report in one go."""
    load_plugins(plugin)
    from i2i_bridge.evaluation.evaluate import open_evaluation

    request = _request("run", recipe, settings, source, freeze, method, plugin, device)
    loaded = request.load(init, strict=init_strict)
    open_evaluation(loaded)  # otherwise a protocol that cannot be used is reported only after the training
    folder = out or request.folder(loaded)
    if not request.train(loaded, folder, force=force):
        raise typer.Exit(TRY_AGAIN)
    evaluate(str(folder), device=device)
    report(folder, device=device)


@dataclass(frozen=True)
class _Request:
    """What the command line asks for: a recipe or, with --from, a run, and what is changed."""

    verb: str
    recipe: str
    """The recipe's name or file; with --from the recipe file of the run."""
    settings: list[str]
    source: Path | None
    """The run of --from."""
    method: str | None
    plugin: list[Path]
    device: str | None

    def load(self, init: Path | None, *, strict: bool) -> "Recipe":
        """The recipe, with the source of its weights.

        Raises:
            UserError: A setting is wrong, or two options exclude each other.
        """
        if self.source is not None:
            for option, value in (("--init", init), ("--method", self.method)):
                if value is not None:
                    raise UserError(
                        f"--from and {option}: give one of them; --from RUN takes the run's own recipe, "
                        "RECIPE --init RUN another one"
                    )
            from i2i_bridge.training.init import recipe_from

            loaded = recipe_from(self.source, self.settings)
        else:
            loaded = chosen_recipe(self.recipe, self.settings, self.method)
        from i2i_bridge.training.init import WEIGHTS, with_init

        chosen = init or loaded.train.init
        if chosen is None and strict:
            raise UserError("--init-strict: nothing to start from; give --init SOURCE")
        if chosen is None or not (init or strict):
            return loaded
        if init is not None and init.suffix not in WEIGHTS:
            fetched_run(init, self.plugin)
        return with_init(loaded, chosen, strict=strict, sha256=None if init else loaded.train.init_sha256)

    def folder(self, recipe: "Recipe") -> Path:
        """The default run folder; with --from runs/NAME-from-RUN."""
        if self.source is None:
            return run_folder(recipe, self.method)
        return Path("runs") / f"{recipe.name}-from-{self.source.resolve().name}"

    def train(self, recipe: "Recipe", folder: Path, *, force: bool) -> bool:
        """Check the sides of the pairs and call `train_run`; errors name the full command that would work."""
        from i2i_bridge.cli.data_check import check_sides
        from i2i_bridge.training.identity import OtherSettings

        if not force:
            check_sides(self.recipe, self.settings, recipe, folder)
        try:
            return train_run(recipe, folder, device=self.device)
        except OtherSettings as error:
            if not error.fits:
                raise
            raise UserError(str(error), command=self._fine_tuning(recipe, folder)) from error

    def _fine_tuning(self, recipe: "Recipe", folder: Path) -> str:
        """The command that trains the recipe from the weights of the run in a folder, into a new one."""
        other = next(path for n in count(2) if not (path := folder.with_name(f"{folder.name}-{n}")).exists())
        settings = [text for text in self.settings if not text.startswith("train.init=")]
        if self.method is None and _is_reached(recipe, folder, settings):
            words = ["i2i-bridge", self.verb, "--from", str(folder), *settings]
        else:
            words = ["i2i-bridge", self.verb, self.recipe, *settings, "--init", str(folder)]
            words += [] if self.method is None else ["--method", self.method]
        words += ["--out", str(other)]
        words += [word for file in self.plugin for word in ("--plugin", str(file))]
        words += [] if self.device is None else ["--device", self.device]
        return shlex.join(words)


def _is_reached(recipe: "Recipe", folder: Path, settings: list[str]) -> bool:
    """Whether the recipe of the run in a folder, changed by settings, is this recipe."""
    from i2i_bridge.training.identity import is_same_run
    from i2i_bridge.training.init import recipe_from

    try:
        return is_same_run(recipe_from(folder, settings), recipe)
    except UserError:
        return False


def _request(
    verb: str,
    recipe: str | None,
    settings: list[str] | None,
    source: Path | None,
    freeze: list[str] | None,
    method: str | None,
    plugin: list[Path] | None,
    device: str | None,
) -> _Request:
    """The request of a command line: with --from its first word is a setting, not a recipe.

    Raises:
        UserError: There is neither or both of recipe and --from.
    """
    changes = list(settings or [])
    if source is not None:
        if recipe is not None and "=" not in recipe:
            raise UserError(f"--from {source}: the recipe is that of the run; leave {recipe} out, or give --init")
        changes = ([] if recipe is None else [recipe]) + changes
        recipe = str(recipe_of_run(checked_run(source, plugin)))
    elif recipe is None:
        raise UserError(f"Missing argument 'RECIPE', or --from RUN; see i2i-bridge {verb} --help")
    changes += [f"train.freeze={json.dumps(freeze)}"] if freeze else []
    return _Request(verb, recipe, changes, source, method, plugin or [], device)


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
