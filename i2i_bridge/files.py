"""Files and folders that are whole or not there, whatever ends the process or the power: all durable writes.

The order is always the same: write under another name, flush each file, flush the folder, rename, flush the folder
above; what is in the way is removed last, and renamed first. A file whose flush failed is thrown away and never
flushed again, since the system may have dropped its pages and would then report success.
"""

import contextlib
import errno
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from i2i_bridge.errors import UserError

TEMPORARY, DEAD, PART = ".tmp-", ".dead-", ".part"
"""What a write in progress, a removal in progress, and a file in progress are called."""
LOCK_FILE = ".lock"
IO_ERROR = 74
"""Exit code where the disk let us down (EX_IOERR)."""


def write_whole(path: Path, data: bytes) -> None:
    """Write a file through a temporary neighbour: whoever reads sees the old bytes or the new ones, never a half.

    Args:
        path: The file; its folder is made if missing.

    Raises:
        UserError: The folder cannot be written, or the disk is full. What was there before stays.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}{PART}")
    try:
        make_folder(path.parent)
        try:
            flushed(partial, data)
            os.replace(partial, path)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(partial)
            raise
        flush_folder(path.parent)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from error


def flushed(path: Path, data: bytes) -> None:
    """Write a file and wait until the disk has it.

    Raises:
        OSError: As the operating system says.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        rest = memoryview(data)
        while rest:  # the system may take less than it is given
            rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flush_folder(folder: Path) -> None:
    """Wait until the disk has a folder's list of names.

    Raises:
        OSError: As the operating system says; a file system that cannot flush folders says nothing.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:  # one may be allowed to write and not to list
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, each flushed into the one above.

    Raises:
        OSError: As the operating system says.
    """
    if folder.is_dir():
        return
    make_folder(folder.parent)
    with contextlib.suppress(FileExistsError):  # another process was quicker
        os.mkdir(folder)
    flush_folder(folder.parent)


def publish_folder(final: Path, files: Iterable[tuple[str, bytes]]) -> None:
    """Make a folder of files in one go. Files are taken one after the other, so only one must fit into memory.

    Args:
        final: The folder; never overwritten.
        files: Name and bytes, in the order in which they are written.

    Raises:
        OSError: There is one already, or as the operating system says. No half of it is left.
    """
    temporary = final.with_name(f"{TEMPORARY}{final.name}-{os.getpid()}")
    make_folder(final.parent)
    try:
        os.mkdir(temporary)
        for name, data in files:
            flushed(temporary / name, data)
        flush_folder(temporary)
        if final.exists():
            raise FileExistsError(errno.EEXIST, "it is there already")
        os.rename(temporary, final)
    except BaseException:  # Ctrl-C too
        with contextlib.suppress(OSError):
            remove_folder(temporary)
        raise
    flush_folder(final.parent)


def retire_folder(folder: Path) -> None:
    """Remove a folder so that no half of it is ever taken for the whole.

    Raises:
        OSError: As the operating system says; `sweep` removes what is left.
    """
    dead = folder.with_name(f"{DEAD}{folder.name}-{os.getpid()}")
    os.rename(folder, dead)
    flush_folder(folder.parent)
    remove_folder(dead)


def move_folder(folder: Path, to: Path) -> None:
    """Give a folder another name beside it, in place of a folder of that name.

    Raises:
        OSError: As the operating system says.
    """
    if to.exists():
        retire_folder(to)
    os.rename(folder, to)
    flush_folder(to.parent)


def remove_folder(folder: Path) -> None:
    """Remove a folder and what is in it; links are not followed.

    Raises:
        OSError: As the operating system says.
    """
    with os.scandir(folder) as entries:
        there = list(entries)
    for entry in there:
        if entry.is_dir(follow_symlinks=False):
            remove_folder(Path(entry.path))
        else:
            os.unlink(entry.path)
    os.rmdir(folder)


def sweep(folder: Path) -> None:
    """Remove what writers that were killed have left in a folder; for whoever alone writes there (see `locked`)."""
    there: list[os.DirEntry[str]] = []
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        there = list(entries)
    for entry in there:
        with contextlib.suppress(OSError):  # it is tried again at the next start
            if entry.name.startswith((TEMPORARY, DEAD)):
                remove_folder(Path(entry.path))
            elif entry.name.startswith(".") and entry.name.endswith(PART):
                os.unlink(entry.path)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder for this process alone; the lock goes with the process, however that ends.

    A POSIX record lock, not flock's: data workers, which are forks, would keep the latter for some seconds after
    their parent was killed, and the same command could not go on.

    Args:
        folder: Made if missing.

    Raises:
        UserError: Another process holds it, or it cannot be written.
    """
    import fcntl

    try:
        make_folder(folder)
        descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o666)
    except (FileExistsError, NotADirectoryError) as error:
        raise UserError(f"{folder}: is a file, or below one, not a folder; choose another --out") from error
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror or error})", IO_ERROR) from error
    try:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            # A file system without locks must not keep anybody from training.
            if error.errno in (errno.EACCES, errno.EAGAIN):
                text = f"{folder}: another run is writing there; wait for it, or choose another --out"
                raise UserError(text) from error
        yield
    finally:
        os.close(descriptor)


def free_bytes(folder: Path) -> int:
    """Free space for this user where a folder is, or will be."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.is_dir())
    facts = os.statvfs(there)
    return facts.f_bavail * facts.f_frsize
