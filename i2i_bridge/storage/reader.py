"""Read untrusted files safely: regular files only, limited size, JSON of limited depth, no pickle in .npz.

Results, logs, cards, lists and pages are read by these functions, since a folder may be untrusted: otherwise a pipe
blocks, a device has no end, and a JSON text of 100,000 brackets exhausts the stack.
"""

import contextlib
import errno
import hashlib
import json
import os
import re
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any

from i2i_bridge.errors import readable

MEGABYTE = 2**20
LIMIT = 16 * MEGABYTE
"""Maximum bytes of a file of settings or results, or a page."""
LIST_LIMIT = 1024 * MEGABYTE
"""Maximum bytes of a file with a line for each image."""
ARRAYS_LIMIT = 4096 * MEGABYTE
"""Maximum bytes of the arrays of an .npz, unpacked."""

DAMAGED_ARRAYS = (
    ValueError, TypeError, KeyError, AttributeError, EOFError, RuntimeError, MemoryError,
    zipfile.BadZipFile, zlib.error,
)  # fmt: skip
"""Exceptions raised by reading a damaged .npz, besides OSError."""


LASTING = (
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL, errno.EFBIG, errno.ENXIO,
)  # fmt: skip
"""Errors of a missing file, or of a path that is not a file; every other error may be temporary."""


def may_pass(error: OSError) -> bool:
    """Whether an error may be temporary (disk, network, permission), so that the file may be undamaged."""
    return error.errno is not None and error.errno not in LASTING


class NotRegular(OSError):
    """The path is a folder, pipe, socket or device, not a regular file."""


def open_regular(path: Path | str) -> BufferedReader:
    """Open a regular file for reading, without blocking; links are followed.

    Raises:
        OSError: From the operating system; NotRegular for anything but a regular file.
    """
    # Checked before opening, since opening a device can have side effects, and afterwards, since the path may have been
    # replaced in between.
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
        OSError: As `open_regular`; EFBIG for a file of more than `limit` bytes.
    """
    with open_regular(path) as stream:
        if os.fstat(stream.fileno()).st_size > limit:  # otherwise a gigabyte is read before it is rejected
            raise _too_large(path, limit)
        data = stream.read(limit + 1)
    if len(data) > limit:  # the file has grown since fstat, or reports no size (/proc)
        raise _too_large(path, limit)
    return data


def _too_large(path: Path | str, limit: int) -> OSError:
    return OSError(errno.EFBIG, f"larger than {limit} bytes", str(path))


def file_sha256(path: Path | str) -> str:
    """The SHA-256 of a regular file, as 64 hexadecimal digits.

    Raises:
        OSError: As `open_regular`.
    """
    with open_regular(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_text(path: Path | str, limit: int = LIMIT, encoding: str = "utf-8") -> str:
    """The text of a regular file, with unchanged line ends.

    Raises:
        OSError: As `read_bytes`.
        ValueError: The file is not valid in the encoding.
    """
    return read_bytes(path, limit).decode(encoding)


def read_lines(path: Path | str) -> list[str]:
    """The lines of a list file, without line ends (LF, CR LF or CR) and byte order mark.

    Raises:
        UserError: The file is missing, not a regular file, larger than LIST_LIMIT, or not UTF-8.
    """
    with readable(path, "not a readable text file", (OSError, UnicodeDecodeError)):
        return re.split(r"\r\n?|\n", read_text(path, LIST_LIMIT, "utf-8-sig"))


def parse_json(text: str | bytes) -> Any:
    """Parse a JSON text; NaN and Infinity, which Python's json module writes, are accepted.

    Raises:
        ValueError: The text is not JSON, is nested too deeply, or has a number of thousands of digits.
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
    """Context with the arrays of an .npz by name, each read at its first access. Nothing is unpickled.

    Raises:
        OSError: As `open_regular`.
        ValueError: The file is not an .npz, or unpacks to more than 4 GB. A damaged file raises any of DAMAGED_ARRAYS.
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


def read_json_lines(path: Path | str) -> list[Any]:
    """The values of a file of JSON lines, in order; invalid lines, such as an incomplete last one, are skipped.

    A missing file has no lines.

    Raises:
        OSError: As `read_bytes`, except for a missing file.
    """
    try:
        data = read_bytes(path, LIST_LIMIT)
    except FileNotFoundError:
        return []
    values = []
    for line in data.decode("utf-8", "replace").splitlines():
        with contextlib.suppress(ValueError):
            values.append(parse_json(line))
    return values
