"""Files that are whole or not there."""

import contextlib
import os
from pathlib import Path

from i2i_bridge.errors import UserError


def write_whole(path: Path, data: bytes) -> None:
    """Write a file through a temporary neighbour: whoever reads sees the old bytes or the new ones, never a half.

    Args:
        path: The file; its folder is made if missing.

    Raises:
        UserError: The folder cannot be written, or the disk is full. What was there before stays.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        flushed(partial, data)
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from error


def flushed(path: Path, data: bytes) -> None:
    """Write a file and wait until the disk has it.

    Raises:
        OSError: As the operating system says.
    """
    with path.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
