"""The one error class that a user sees."""


class UserError(Exception):
    """Something the user can mend, said in one line: which file, key or value, and what to do.

    The command line prints the text after `error:` and leaves with exit code 2; a traceback appears only
    with `--debug`. Anything else that escapes is a bug of ours.

    Args:
        text: The line.
        code: Another exit code: 74 where the disk let us down.
    """

    def __init__(self, text: str, code: int = 2) -> None:
        # A value quoted from a file may hold a newline; the promise is one line.
        super().__init__(" ".join(str(text).split()))
        self.code = code
