"""The one error class that a user sees."""

LONGEST = 300
"""Characters of a message; long paths come on top."""


class UserError(Exception):
    """Something the user can mend, said in one line: which file, key or value, and what to do.

    The command line prints the text after `error:` and leaves with exit code 2; a traceback appears only
    with `--debug`. Anything else that escapes is a bug of ours.

    Args:
        text: The line.
        code: Another exit code: 74 where the disk let us down.
    """

    def __init__(self, text: str, code: int = 2) -> None:
        super().__init__(one_line(str(text)))
        self.code = code


def one_line(text: str) -> str:
    """A message that may quote a stranger's file, as a line that cannot play tricks with a terminal, nor fill it."""
    words = [word if len(word) < 100 or "/" in word else f"{word[:60]}..." for word in text.split()]
    room = max(LONGEST, 150 + sum(len(word) for word in words if "/" in word and len(word) < 1000))
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in " ".join(words))
    return line if len(line) <= room else f"{line[: room - 85]} ... {line[-80:]}"
