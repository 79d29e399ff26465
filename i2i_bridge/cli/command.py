"""The command `i2i-bridge`: verbs around the library, one line for a mistake, nothing else."""

import contextlib
import errno
import io
import os
import re
import signal
import sys
from typing import Annotated, Any

import typer

from i2i_bridge import console, registry
from i2i_bridge.cli import catalogue, compare, data, doctor, evaluate, imports, restore, train, weights
from i2i_bridge.errors import UserError
from i2i_bridge.storage import internet
from i2i_bridge.storage.files import IO_ERROR, expanded
from i2i_bridge.storage.reader import may_pass

app = typer.Typer(
    name="i2i-bridge",
    help="Paired image-to-image restoration and translation with diffusion bridges.",
    epilog="Mistakes end with one line and exit code 2; add --debug to see the traceback. --offline, anywhere, forbids "
    "the internet, which only `data fetch`, `weights fetch` and datasets with `download = true` use.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

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


# In the order of --help.
app.command("list")(catalogue.list_)
app.command()(catalogue.show)
app.command()(catalogue.copy)
app.command()(train.train)
app.command()(evaluate.evaluate)
app.command()(compare.compare)
app.command()(evaluate.report)
app.command()(train.run)
app.command()(restore.restore)
app.command()(restore.degrade)
# Also verbs of `data`, where users look for what concerns data.
app.command()(data.preview)
app.command()(data.check)
app.command()(doctor.doctor)
app.command()(doctor.selftest)
app.add_typer(data.app, name="data")
app.add_typer(imports.app, name="import")
app.add_typer(weights.app, name="weights")


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
