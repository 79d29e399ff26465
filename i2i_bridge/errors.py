"""The one error class that a user sees."""

import re
import unicodedata
from collections.abc import Sequence

LONGEST = 300
"""Characters of a message; long paths come on top."""
TRY_AGAIN = 75
"""Exit code where the same command may go on later (EX_TEMPFAIL)."""


class UserError(Exception):
    """Something the user can mend, said in one line: which file, key or value, and what to do.

    The command line prints the text after `error:` and leaves with exit code 2; a traceback appears only
    with `--debug`. Anything else that escapes is a bug of ours.

    Args:
        text: The line.
        command: A command that does what the user wants, put after the line and never shortened.
        code: Another exit code: 74 where the disk let us down, 75 where the same command may go on later.
        ways: Commands of which one does what was meant; printed below, each on a line of its own.
    """

    def __init__(self, text: str, code: int = 2, *, command: str = "", ways: Sequence[str] = ()) -> None:
        super().__init__(one_line(str(text)) + (f": {printable(command)}" if command else ""))
        self.code = code
        self.ways = tuple(printable(way) for way in ways)


def printable(text: str, *, lines: bool = False) -> str:
    """Text that cannot steer a terminal: whatever is not a printable character or a blank is written as its escape.

    All text that is printed goes through here, since names, labels and messages may be a stranger's.

    Args:
        lines: Keep line ends and tabs, for a text of several lines; else they become blanks.
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
    """A value as a message may quote it: the beginning of its text, since a stranger's may be of any length."""
    text = str(value)
    return text if len(text) <= room else f"{text[: room - 3]}..."


def one_line(text: str) -> str:
    """Sanitise a message that may quote untrusted text: one line, control characters escaped, length capped."""
    words = [word if len(word) < 100 or "/" in word else f"{word[:60]}..." for word in text.split()]
    room = max(LONGEST, 150 + sum(len(word) for word in words if "/" in word and len(word) < 1000))
    line = printable(" ".join(words))
    return line if len(line) <= room else f"{line[: room - 85]} ... {line[-80:]}"
