"""A file of a checkpoint: opened without following a link, and compared with what the manifest says of it."""

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path

from i2i_bridge.errors import IO_ERROR, UserError

MISSING = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
"""Error codes that mean that there is no such file; all other codes may be temporary."""


class DamagedCheckpoint(UserError):
    """A checkpoint is not whole; the message names the file."""


def read_error(folder: Path, error: OSError | MemoryError) -> UserError:
    """The error to raise where a file of a checkpoint is there and cannot be read."""
    reason = (error.strerror or str(error)) if isinstance(error, OSError) else "out of memory"
    file = getattr(error, "filename", None) or folder
    return UserError(
        f"{file}: cannot be read ({reason}), which is no damage; nothing was changed: give the same command again, or "
        f"rename {folder.name} to go on without it",
        IO_ERROR,
    )


@contextlib.contextmanager
def opened(file: Path) -> Iterator[BufferedReader]:
    """Open a regular file of a checkpoint for reading.

    Raises:
        DamagedCheckpoint: There is no such regular file.
        OSError: The file cannot be opened now.
    """
    try:
        # A link could lead out of the folder, and opening a pipe would block.
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in MISSING:
            raise DamagedCheckpoint(f"{file}: damaged (no such file)") from error
        raise
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise DamagedCheckpoint(f"{file}: damaged (no such file)")
        with open(descriptor, "rb", closefd=False) as stream:
            yield stream
    finally:
        os.close(descriptor)


def content(file: Path, most: int) -> bytes:
    """The first bytes of a file, `most` of them; raises as `opened`."""
    with opened(file) as stream:
        return stream.read(most)


def compare(file: Path, size: int, digest: str) -> None:
    """Check that a file has the size and the SHA-256 of the manifest.

    Raises:
        DamagedCheckpoint: It has not; or as `opened`.
    """
    with opened(file) as stream:
        actual = os.fstat(stream.fileno()).st_size
        if actual != size:
            raise DamagedCheckpoint(f"{file}: damaged ({actual} bytes, the manifest says {size})")
        if hashlib.file_digest(stream, "sha256").hexdigest() != digest:
            raise DamagedCheckpoint(f"{file}: damaged (its SHA-256 differs from the manifest)")
