"""The reader of small files from anybody: regular files only, never more than a limit, JSON without surprises.

Everything that is read back (results, logs, cards, lists, pages) goes through here, since a folder may be a stranger's:
a pipe in it would block for ever, a device never ends, and a file of 100,000 brackets exhausts the stack.
"""

import contextlib
import errno
import json
import os
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any

MEGABYTE = 2**20
LIMIT = 16 * MEGABYTE
"""Bytes of a file that holds settings, results or a page."""
LIST_LIMIT = 1024 * MEGABYTE
"""Bytes of a file with a line for each image."""
ARRAYS_LIMIT = 4096 * MEGABYTE
"""Bytes that the arrays of an .npz may have, unpacked."""

DAMAGED_ARRAYS = (
    ValueError, TypeError, KeyError, AttributeError, EOFError, RuntimeError, MemoryError,
    zipfile.BadZipFile, zlib.error,
)  # fmt: skip
"""What reading a damaged .npz raises, beside OSError."""


LASTING = (
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL, errno.EFBIG, errno.ENXIO,
)  # fmt: skip
"""Errors that say that there is no such file, or something else in its place; all others may pass."""


def may_pass(error: OSError) -> bool:
    """Whether a file that cannot be read now may be whole: its disk or its permission failed, not the file."""
    return error.errno is not None and error.errno not in LASTING


class NotRegular(OSError):
    """A folder, pipe, socket or device where a file should be."""


def open_regular(path: Path | str) -> BufferedReader:
    """A regular file, opened for reading without waiting; links to one are followed.

    Raises:
        OSError: As the operating system says; NotRegular for anything but a regular file.
    """
    # Looked at before it is opened, since opening a device may do something; and after, since the name may mean
    # another file by then.
    _check(os.stat(path).st_mode, path)
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        _check(os.fstat(descriptor).st_mode, path)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def _check(mode: int, path: Path | str) -> None:
    if not stat.S_ISREG(mode):
        raise NotRegular(errno.EINVAL, "not a regular file", str(path))


def read_bytes(path: Path | str, limit: int = LIMIT) -> bytes:
    """The bytes of a regular file.

    Raises:
        OSError: As `open_regular`; EFBIG where there are more than `limit` bytes.
    """
    with open_regular(path) as stream:
        if os.fstat(stream.fileno()).st_size > limit:  # otherwise a gigabyte is read to be refused
            raise _too_large(path, limit)
        data = stream.read(limit + 1)
    if len(data) > limit:  # it has grown since, or does not know its size
        raise _too_large(path, limit)
    return data


def _too_large(path: Path | str, limit: int) -> OSError:
    return OSError(errno.EFBIG, f"larger than {limit} bytes", str(path))


def read_text(path: Path | str, limit: int = LIMIT, encoding: str = "utf-8") -> str:
    """The text of a regular file, line ends as they are in it.

    Raises:
        OSError: As `read_bytes`.
        ValueError: Not text of this encoding.
    """
    return read_bytes(path, limit).decode(encoding)


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text; NaN and Infinity, which Python's writer writes, are numbers.

    Raises:
        ValueError: Not JSON, nested too deeply, or a number of thousands of digits.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def read_json(path: Path | str, limit: int = LIMIT) -> Any:
    """The value of a JSON file.

    Raises:
        OSError: As `read_bytes`.
        ValueError: As `parse_json`.
    """
    return parse_json(read_bytes(path, limit))


@contextmanager
def open_arrays(path: Path | str) -> Iterator[Any]:
    """The arrays of an .npz by name, as numpy gives them; each is read when it is asked for. Nothing is unpickled.

    Raises:
        OSError: As `open_regular`.
        ValueError: No .npz, or one that unpacks to more than 4 GB. A damaged one raises any of DAMAGED_ARRAYS.
    """
    import numpy as np

    with open_regular(path) as stream:
        if stream.read(2) != b"PK":
            raise ValueError("not an .npz file")
        stream.seek(0)
        with np.load(stream, allow_pickle=False) as stored:
            if sum(member.file_size for member in stored.zip.infolist()) > ARRAYS_LIMIT:
                raise ValueError(f"unpacks to more than {ARRAYS_LIMIT} bytes")
            yield stored


def read_json_lines(path: Path | str, limit: int = LIST_LIMIT) -> list[Any]:
    """The values of a file of JSON lines, in order; a line that is no JSON, such as one cut off, is left out.

    Raises:
        OSError: As `read_bytes`, but for a file that is missing: that holds no line.
    """
    try:
        data = read_bytes(path, limit)
    except FileNotFoundError:
        return []
    values = []
    for line in data.decode("utf-8", "replace").splitlines():
        with contextlib.suppress(ValueError):
            values.append(parse_json(line))
    return values
