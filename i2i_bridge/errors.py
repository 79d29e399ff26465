"""`UserError`, the exception for errors that the user can correct; its place, hints, and sanitised text."""

import difflib
import errno
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

LONGEST = 300
"""Maximum length of a message in characters, not counting long paths."""
IO_ERROR = 74
"""Exit code for a disk error (EX_IOERR)."""
TRY_AGAIN = 75
"""Exit code for a temporary failure: running the same command again later may resume (EX_TEMPFAIL)."""
DISK_ERRORS = (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EMFILE, errno.ENFILE)
"""Errors of the system that are no mistake of the user's."""

Item = TypeVar("Item")
Errors = type[Exception] | tuple[type[Exception], ...]


class UserError(Exception):
    """An error that the user can correct, in one line: which file, key or value, and what to do.

    The command line prints the text after `error:` and exits with code 2, without a traceback (unless `--debug` is
    given). Any other exception that reaches the command line is a bug of the package.

    Args:
        text: The message; shortened to one line.
        command: A command that solves the problem, appended to the message and never shortened.
        code: Exit code: 74 for a disk error, 75 if running the same command again later may resume.
        ways: Alternative commands, printed below the message, one per line.

    Examples:
        >>> from i2i_bridge import UserError, load_recipe
        >>> try:
        ...     load_recipe("demo/deblur", ["train.stepz=5"])
        ... except UserError as error:
        ...     print(error.code, str(error).endswith("did you mean 'steps'?"))
        2 True
    """

    def __init__(self, text: str, code: int = 2, *, command: str = "", ways: Sequence[str] = ()) -> None:
        super().__init__(one_line(str(text)))
        self.code = code
        self.command = printable(command)
        self.ways = tuple(printable(way) for way in ways)

    def __str__(self) -> str:
        return f"{self.args[0]}: {self.command}" if self.command else str(self.args[0])


class NotFinite(UserError):
    """The network's result holds NaN or infinity: no image, and no score."""


def exit_code(error: BaseException) -> int:
    """Exit code for an exception: 74 where the disk is full or fails, or the system lacks memory or descriptors."""
    return IO_ERROR if isinstance(error, OSError) and error.errno in DISK_ERRORS else 2


def unwritable(place: object, error: OSError) -> UserError:
    """The message of a file or folder that cannot be written, with the reason that the system gives."""
    return UserError(f"{place}: cannot be written ({error.strerror or error})", exit_code(error))


def listed(name: str, values: Iterable[Item]) -> list[Item]:
    """The values of an argument that takes several.

    Raises:
        UserError: It is one text: its letters would be the values.
    """
    if isinstance(values, str | bytes):
        raise UserError(f"{name}={values!r}: give a list, [{values!r}]")
    return list(values)


def of_kind(name: str, value: object, kinds: type | tuple[type, ...], give: str) -> None:
    """Check the kind of an argument.

    Raises:
        UserError: It is of another kind; the message says what to give.
    """
    if not isinstance(value, kinds):
        shown = f"'{value}'" if isinstance(value, str) else f"an object of type {type(value).__name__}"
        raise UserError(f"{name}: {shown} is given; give {give}")


def _names(message: str, place: str) -> bool:
    """Whether a message names the place already: before a colon, or, for a path, anywhere.

    Not anywhere for a key: one such as '3' may be a number of the message.
    """
    return f" {place}: " in f" {message}" or ("/" in place and place in message)


@contextmanager
def located(place: object, problem: str = "", errors: Errors = ()) -> Iterator[None]:
    """Context that puts a place before the message of an error: `with located(file): ...`.

    A `UserError` is raised again as `PLACE: message`, with its exit code and commands; unchanged if its message names
    the place already.

    Args:
        place: The file, folder, key or item that the error is about.
        problem: What has failed, such as "cannot be read", for `errors`.
        errors: Other exceptions, raised as `UserError`: `PLACE: PROBLEM (reason)`, or `PLACE: reason` without a
            problem. The reason of an OSError is that of the system, without the path.

    Raises:
        UserError: As described.
    """
    try:
        yield
    except UserError as error:
        if not _names(str(error), str(place)):
            # Changed, not wrapped: otherwise the class, the exit code and the cause would be those of the wrapper.
            error.args = (one_line(f"{place}: {error.args[0]}"),)
        raise
    except errors as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{place}: {f'{problem} ({reason})' if problem else reason}", exit_code(error)) from error


@contextmanager
def readable(file: object, problem: str = "cannot be read", errors: Errors = OSError) -> Iterator[None]:
    """As `located`, for code that reads a file: a missing one is `FILE: no such file`."""
    with located(file, problem, errors):
        try:
            yield
        except FileNotFoundError as error:
            raise UserError("no such file") from error


def plural(count: int, noun: str, many: str = "") -> str:
    """A number and its noun: '1 image', '3 images'.

    Args:
        many: Words after any other number, such as "files do not fit" for "file does not fit"; by default noun + "s".
    """
    return f"{count} {noun if count == 1 else many or f'{noun}s'}"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The hint '; did you mean ...?' for a near miss, else a list of the known words."""
    known = sorted(known)
    return nearest(word, known) or (f"; known: {', '.join(known)}" if known else "")


def nearest(word: str, known: Iterable[str]) -> str:
    """The hint '; did you mean ...?' for a near miss, else an empty string: for words too many to be listed."""
    near = difflib.get_close_matches(word, sorted(known), n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else ""


def check_keys(keys: Iterable[str], known: Iterable[str]) -> None:
    """Refuse the keys of a table that are not known.

    Raises:
        UserError: A key is unknown; the message gives the nearest.
    """
    known = list(known)
    for key in keys:
        if key not in known:
            raise UserError(f"unknown key '{key}'{did_you_mean(key, known)}")


def printable(text: str, *, lines: bool = False) -> str:
    """Escape every character that is neither printable nor a space.

    All printed text passes through this function, since names, labels and messages may come from untrusted files;
    otherwise control characters in them would reach the terminal.

    Args:
        lines: Keep line ends and expand tabs, for a text of several lines; otherwise both become spaces.
    """
    if lines:
        return "\n".join(printable(line.replace("\t", "    ")) for line in re.split(r"\r\n|\n", text))
    if text.isprintable():
        return text
    flat = re.sub(r"[ \t]*[\r\n]\s*|\t", " ", text)
    return "".join(c if c.isprintable() or unicodedata.category(c) == "Zs" else _escape(c) for c in flat)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def brief(value: object, room: int = 100) -> str:
    """The text of a value, cut to `room` characters: a value from an untrusted file may be of any length."""
    text = str(value)
    return text if len(text) <= room else f"{text[: room - 3]}..."


def one_line(text: str) -> str:
    """Sanitise a message that may quote untrusted text: one line, control characters escaped, length capped."""
    words = [word if len(word) < 100 or "/" in word else f"{word[:60]}..." for word in text.split()]
    room = max(LONGEST, 150 + sum(len(word) for word in words if "/" in word and len(word) < 1000))
    line = printable(" ".join(words))
    return line if len(line) <= room else f"{line[: room - 85]} ... {line[-80:]}"
