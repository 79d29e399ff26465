"""The command `i2i-bridge`: the app with its verbs, and `main`, which prints each error as one line."""

import contextlib
import errno
import io
import os
import re
import signal
import sys
from typing import Annotated, Any

import typer

from i2i_bridge import UserError, console
from i2i_bridge.cli import app as web
from i2i_bridge.cli import (
    compare,
    data,
    distill,
    doctor,
    evaluate,
    export,
    imports,
    restore,
    share,
    show,
    train,
    tune,
    weights,
)
from i2i_bridge.errors import IO_ERROR, exit_code
from i2i_bridge.plugins import plugin_error
from i2i_bridge.storage import internet
from i2i_bridge.storage.names import expanded

app = typer.Typer(
    name="i2i-bridge",
    help="Paired image-to-image restoration and translation with diffusion bridges.",
    epilog="Mistakes end with one line and exit code 2; add --debug to see the traceback. --offline, anywhere, forbids "
    "the internet, which only `data fetch`, `weights fetch`, `share`, runs named OWNER/NAME and datasets with "
    "`download = true` use.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

USAGE_ERRORS: tuple[Any, ...] = tuple(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "UsageError")
"""UsageError of click, or of the copy of click inside newer versions of typer."""


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


# In the order of --help.
app.command("list")(show.list_)
app.command()(show.show)
app.command()(show.copy)
app.command()(train.train)
app.command()(distill.distill)
app.command()(evaluate.evaluate)
app.command()(compare.compare)
app.command()(evaluate.report)
app.command()(tune.tune)
app.command()(train.run)
app.command()(restore.restore)
app.command()(restore.degrade)
app.command()(export.export)
app.command()(web.app)
# Also verbs of `data`, where users look for what concerns data.
app.command()(data.preview)
app.command()(data.check)
app.command()(doctor.doctor)
app.command()(doctor.selftest)
app.add_typer(data.app, name="data")
app.add_typer(imports.app, name="import")
app.add_typer(weights.app, name="weights")
app.add_typer(share.app, name="share")


INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 and the number of the signal."""


def main(arguments: list[str] | None = None) -> None:
    """Entry point: run a verb; print an error as one line and exit with its code (2 for a mistake of the user)."""
    _open_closed_streams()
    _escape_unencodable()
    words = [_expand_home(word) for word in (sys.argv[1:] if arguments is None else arguments)]
    # A notebook sets MPLBACKEND for the commands started in it. Importing matplotlib (torchmetrics does) fails where
    # that backend is not installed; figures here are drawn without a window.
    os.environ["MPLBACKEND"] = "agg"
    debug = "--debug" in words
    if "--offline" in words or internet.is_offline():
        internet.go_offline()
    words = _split_nfe([word for word in words if word not in ("--debug", "--offline")])
    try:
        _refuse_empty(words)
        code = app(words, standalone_mode=False, prog_name="i2i-bridge")
        if (ranks := sys.modules.get("i2i_bridge.distributed")) is not None:
            ranks.leave_group()
        if code == INTERRUPTED:  # what typer makes of KeyboardInterrupt
            _say_error("interrupted")
        sys.stdout.flush()
    except UserError as error:
        if debug:
            raise
        _say_error(error)
        code = error.code
    except USAGE_ERRORS as error:
        message = " ".join(error.format_message().split()).rstrip(".").replace("Value error, ", "")
        if message:  # empty when no verb was typed: typer has printed the help
            verb = error.ctx.command_path if error.ctx else "i2i-bridge"
            _say_error(f"{message}; see {verb} --help")
        code = 2
    except (typer.Abort, KeyboardInterrupt):
        _say_error("interrupted")
        code = INTERRUPTED
    except (BrokenPipeError, SystemExit) as error:
        # The reader of the output has ended, as in `| head`: exit quietly (click makes SystemExit(1) of it). Or a
        # plug-in has called sys.exit.
        known = plugin_error(error)
        if known is not None and not debug:
            _say_error(known)
            code = known.code
        elif isinstance(error, BrokenPipeError) or isinstance(error.__context__, BrokenPipeError):
            code = 128 + signal.SIGPIPE
        else:
            raise
    except Exception as error:
        if debug:
            raise
        known = plugin_error(error)  # raised inside a plug-in
        if known is None and isinstance(error, OSError):
            known = _system_error(error)
        if known is None:
            _say_error(
                f"unexpected {type(error).__name__}: {' '.join(str(error).split())} "
                "(a bug of ours: add --debug and report it)"
            )
        else:
            _say_error(known)
        code = 1 if known is None else known.code
    _flush_output()
    sys.exit(code if isinstance(code, int) else 0)


def _system_error(error: OSError) -> UserError | None:
    """The message for an OSError about a file or about the output; None for any other OSError."""
    if error.filename is not None:
        return UserError(f"{error.filename}: {error.strerror or error}", exit_code(error))
    if error.errno in (errno.EBADF, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
        return UserError(f"the output cannot be written ({error.strerror})", IO_ERROR)
    return None


def _say_error(text: str | UserError) -> None:
    with contextlib.suppress(OSError):  # stderr is closed: only the exit code is left
        console.say_error(text)


def _flush_output() -> None:
    """Flush the output. Where that fails, point it to /dev/null: otherwise Python prints a traceback at exit."""
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
    """Open closed standard streams (`>&-`) on /dev/null: otherwise the next opened file gets descriptor 0, 1 or 2."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            with contextlib.suppress(OSError):
                nowhere = os.open(os.devnull, os.O_RDWR)
                if nowhere != number:
                    os.dup2(nowhere, number)
                    os.close(nowhere)
                setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115 - open until the process ends


def _escape_unencodable() -> None:
    """Print characters that the output cannot encode as \\xe9 or \\u2500: otherwise an ASCII terminal ends a run."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _refuse_empty(words: list[str]) -> None:
    """Refuse an empty argument, which as a path is the current folder: `--out "$OUT"` with an unset variable.

    Raises:
        UserError: There is one.
    """
    for before, word in zip(["", *words], words, strict=False):
        if not word or re.fullmatch("--[a-z-]+=", word):
            after = word or before
            raise UserError(f"an empty argument{f' after {after}' * bool(after)}; is a variable of the shell unset?")


def _expand_home(word: str) -> str:
    """Expand ~ at the start of an argument or after an equals sign, where the shell does not."""
    found = re.search(r"(?:^|(?<==)|(?<==['\"]))~(?=/|$)", word)
    return word if found is None else f"{word[: found.start()]}{expanded('~')}{word[found.end() :]}"


def _split_nfe(words: list[str]) -> list[str]:
    """`--nfe 1 2 5`, `--nfe 1,2,5` and `--nfe=1,2,5` as `--nfe 1 --nfe 2 --nfe 5`: click takes one value an option.

    Only for verbs that take several numbers: in `restore --nfe 5 2024 out`, 2024 is a folder.
    """
    if words[:1] not in (["evaluate"], ["compare"], ["tune"]):
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
