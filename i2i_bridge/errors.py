"""`UserError`, the exception for errors that the user can correct, and functions that sanitise printed text."""

import re
import unicodedata
from collections.abc import Sequence

LONGEST = 300
"""Maximum length of a message in characters, not counting long paths."""
TRY_AGAIN = 75
"""Exit code for a temporary failure: running the same command again later may resume (EX_TEMPFAIL)."""


class UserError(Exception):
    """An error that the user can correct, in one line: which file, key or value, and what to do.

    The command line prints the text after `error:` and exits with code 2, without a traceback (unless `--debug` is
    given). Any other exception that reaches the command line is a bug of the package.

    Args:
        text: The message; shortened to one line.
        command: A command that solves the problem, appended to the message and never shortened.
        code: Exit code: 74 for a disk error, 75 if running the same command again later may resume.
        ways: Alternative commands, printed below the message, one per line.
    """

    def __init__(self, text: str, code: int = 2, *, command: str = "", ways: Sequence[str] = ()) -> None:
        super().__init__(one_line(str(text)) + (f": {printable(command)}" if command else ""))
        self.code = code
        self.ways = tuple(printable(way) for way in ways)


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
