"""TOML from anybody: one way to read it, and every way that it can be wrong is one line."""

import stat
import tomllib
from pathlib import Path
from typing import Any

from i2i_bridge.errors import UserError

MAX_BYTES = 2**20


def read_toml(path: Path) -> dict[str, Any]:
    """The table of a TOML file.

    Raises:
        UserError: It is missing, no plain file, of more than 1 MB, not UTF-8, or not TOML.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would block, and /dev/zero never ends
            raise UserError(f"{path}: is not a file")
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise UserError(f"{path}: is larger than {MAX_BYTES} bytes, which no TOML file here is")
        return tomllib.loads(data.decode("utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except RecursionError as error:
        raise UserError(f"{path}: tables inside tables, too deep to be read") from error
    except ValueError as error:  # bad TOML, bad UTF-8, a number of 5000 digits, a NUL in the path
        raise UserError(f"{path}: {error}") from error
