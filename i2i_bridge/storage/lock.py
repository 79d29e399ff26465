"""The exclusive lock of a folder that a process writes; the system releases it when the process ends.

A POSIX record lock, not flock: forked data workers inherit an flock and would hold it for some seconds after their
parent was killed, so that running the same command again would fail.
"""

import contextlib
import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path

from i2i_bridge.errors import IO_ERROR, UserError
from i2i_bridge.storage.files import opened_folder

LOCK_FILE = ".lock"


@contextlib.contextmanager
def locked(
    folder: Path,
    busy: str = "another run is writing there; wait for it, or choose another --out",
    *,
    root: Path | None = None,
    wait: float = 0,
) -> Iterator[None]:
    """Context that holds the exclusive lock of a folder.

    Args:
        folder: The folder; created if missing.
        busy: The message if another process holds the lock.
        root: As in `write_whole`.
        wait: Seconds in which another process may release the lock.

    Raises:
        UserError: Another process holds the lock, or the folder cannot be written.
    """
    import fcntl

    end = time.monotonic() + wait
    try:
        with opened_folder(folder, root, make=True) as parent:
            descriptor = os.open(LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666, dir_fd=parent)
    except (FileExistsError, NotADirectoryError) as error:
        raise UserError(f"{folder}: is a file, or below one, not a folder; choose another folder") from error
    except OSError as error:
        # Missing permissions and read-only file systems are user errors, not disk errors.
        code = 2 if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ELOOP) else IO_ERROR
        hint = "; choose another folder" if code == 2 else ""
        raise UserError(f"{folder}: cannot be written ({error.strerror or error}){hint}", code) from error
    try:
        while True:
            try:
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if error.errno not in (errno.EACCES, errno.EAGAIN):
                    break  # a file system without locks, on which runs must still be possible
                if time.monotonic() >= end:
                    raise UserError(f"{folder}: {busy}") from error
                time.sleep(0.05)
        yield
    finally:
        os.close(descriptor)
