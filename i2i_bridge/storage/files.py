"""Atomic and durable writes, renames and deletions: after a crash or power loss a file is complete or absent.

Every write follows one order: write under a temporary name, fsync each file, fsync the folder, rename, fsync the parent
folder. An existing folder is first renamed out of the way and removed last. A file whose fsync failed is deleted and
never synced again: the system may have dropped its pages and would report success the second time.

All renames and deletions of the package are made in this module, by names relative to an open folder, so that a
symbolic link is itself renamed or removed and never followed. No folder below `root` may be a link; `root` and the
folders above it may be links.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from i2i_bridge.errors import UserError, located, unwritable
from i2i_bridge.storage.names import extended_name

TEMPORARY, DEAD, PART = ".tmp-", ".dead-", ".part"
"""Name prefixes of a folder being written and of one being removed, and name suffix of a file being written."""
TEMPORARY_BYTES = 100
"""Maximum length in bytes of a temporary name; otherwise the temporary name of a long file name would be too long."""


def write_whole(path: Path, data: bytes, *, root: Path | None = None) -> None:
    """Write a file atomically, through a temporary file beside it: a reader sees the old bytes or the new bytes.

    Args:
        path: The file; its folder is created if missing. A link of this name is replaced, not followed.
        data: The content.
        root: No folder from `root` down to the file may be a link. None: links are allowed, since the user chose the
            folder.

    Raises:
        UserError: The folder cannot be written, or the disk is full. An existing file is unchanged.
    """
    partial = _partial_name(path, os.getpid())
    try:
        with opened_folder(path.parent, root, make=True) as folder:
            try:
                _write(partial, data, folder)
                os.replace(partial, path.name, src_dir_fd=folder, dst_dir_fd=folder)
            except BaseException:  # Ctrl-C too
                with contextlib.suppress(OSError):
                    os.unlink(partial, dir_fd=folder)
                raise
            _flush(folder)
    except OSError as error:
        raise unwritable(path, error) from error


def _partial_name(path: Path, process: int) -> str:
    """The temporary name under which a process writes a file."""
    return extended_name(path.name, ".", f".{process}{PART}", limit=TEMPORARY_BYTES)


def remove_partial(path: Path, process: int, *, root: Path | None = None) -> None:
    """Remove what a process that has ended left of an unfinished `write_whole` of this file, if anything.

    Args:
        path: The file.
        process: The process id.
        root: As in `write_whole`.
    """
    with contextlib.suppress(OSError):
        remove(path.with_name(_partial_name(path, process)), root=root)


def append(path: Path, data: bytes, *, flush: bool = False) -> None:
    """Append bytes to a file, which is created if missing; a link of this name is not followed.

    Args:
        path: The file.
        data: The bytes.
        flush: Whether to fsync the file.

    Raises:
        OSError: From the operating system.
    """
    with open(path, "ab", opener=no_link) as stream:
        stream.write(data)
        if flush:
            stream.flush()
            os.fsync(stream.fileno())


def no_link(path: str, flags: int) -> int:
    """Opener for `open` that does not follow a link at the last component and does not block on a pipe.

    Raises:
        OSError: The path is a link, or from the operating system.
    """
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)


def _write(name: str, data: bytes, folder: int) -> None:
    """Write and fsync a file in an open folder."""
    descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o666, dir_fd=folder)
    try:
        rest = memoryview(data)
        while rest:  # os.write may write fewer bytes than requested
            rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def opened_folder(folder: Path, root: Path | None, *, make: bool = False) -> Iterator[int]:
    """Context with a file descriptor of a folder, for operations on names relative to the folder.

    Args:
        folder: The folder.
        root: No component below `root` may be a link. None: links are followed.
        make: Whether missing folders are created, with an fsync of each parent.

    Raises:
        OSError: A component is a link, or from the operating system.
    """
    start = folder if root is None else root
    if make:
        make_folder(start)
    current = _open_folder(start)
    try:
        for name in () if root is None else folder.relative_to(root).parts:
            if make and not _has_entry(name, current):
                with contextlib.suppress(FileExistsError):  # another process was quicker
                    os.mkdir(name, dir_fd=current)
                _flush(current)
            inner = _open_folder(name, current)
            current, outer = inner, current
            os.close(outer)
        yield current
    finally:
        os.close(current)


def _open_folder(path: Path | str, folder: int | None = None) -> int:
    """A file descriptor of a folder; a name relative to an open folder must not be a link."""
    flags = os.O_DIRECTORY | (0 if folder is None else os.O_NOFOLLOW)
    try:
        return os.open(path, os.O_RDONLY | flags, dir_fd=folder)
    except PermissionError:  # a folder may be writable but not readable
        return os.open(path, getattr(os, "O_PATH", os.O_RDONLY) | flags, dir_fd=folder)
    except OSError:
        if folder is not None and _has_entry(path, folder, stat.S_ISLNK):
            raise OSError(errno.ELOOP, f"'{path}' is a link, which is not followed here") from None
        raise


def _has_entry(name: Path | str, folder: int, kind: Callable[[int], bool] = lambda mode: True) -> bool:
    """Whether an open folder has an entry of this name and kind; links are not followed."""
    try:
        return kind(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def _flush(folder: int) -> None:
    """Fsync a folder; errors of file systems that cannot sync folders are ignored."""
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):  # EBADF: opened with O_PATH
            raise


def make_folder(folder: Path) -> None:
    """Create a folder and its missing parents, with an fsync of each parent.

    Raises:
        OSError: From the operating system.
    """
    if folder.is_dir():
        return
    make_folder(folder.parent)
    with opened_folder(folder.parent, None) as above:
        with contextlib.suppress(FileExistsError):  # another process was quicker
            os.mkdir(folder.name, dir_fd=above)
        _flush(above)


def publish_folder(final: Path, files: Iterable[tuple[str, bytes]]) -> None:
    """Create a folder with files atomically. Files are written one at a time, so only one must fit into memory.

    Args:
        final: The folder, which must not exist. Its parent is created if missing and must not be a link.
        files: Names and contents, in the order of writing.

    Raises:
        OSError: The folder exists already, or from the operating system. No incomplete folder is left.
    """
    temporary = extended_name(final.name, TEMPORARY, f"-{os.getpid()}", limit=TEMPORARY_BYTES)
    with opened_folder(final.parent, final.parent.parent, make=True) as above:
        try:
            os.mkdir(temporary, dir_fd=above)
            inside = _open_folder(temporary, above)
            try:
                for name, data in files:
                    _write(name, data, inside)
                _flush(inside)
            finally:
                os.close(inside)
            if _has_entry(final.name, above):
                raise FileExistsError(errno.EEXIST, "it is there already")
            os.rename(temporary, final.name, src_dir_fd=above, dst_dir_fd=above)
        except BaseException:  # Ctrl-C too
            with contextlib.suppress(OSError):
                _remove(temporary, above)
            raise
        _flush(above)


def retire_folder(folder: Path) -> None:
    """Remove a folder: it is renamed first, so that an interruption leaves no incomplete folder of its name.

    The parent folder must not be a link.

    Raises:
        OSError: From the operating system; `sweep` removes a leftover.
    """
    dead = extended_name(folder.name, DEAD, f"-{os.getpid()}", limit=TEMPORARY_BYTES)
    with opened_folder(folder.parent, folder.parent.parent) as above:
        os.rename(folder.name, dead, src_dir_fd=above, dst_dir_fd=above)
        _flush(above)
        _remove(dead, above)


def set_aside(folder: Path, name: str) -> str:
    """Rename a folder within its parent; if the name exists, a number is appended. Nothing is replaced.

    Returns:
        The new name.

    Raises:
        OSError: The parent folder is a link, or from the operating system.
    """
    with opened_folder(folder.parent, folder.parent.parent) as above:
        free, number = name, 1
        while True:
            try:
                os.rename(folder.name, free, src_dir_fd=above, dst_dir_fd=above)  # replaces an empty folder
                break
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                    raise
            number += 1
            free = f"{name}-{number}"
        _flush(above)
    return free


def dead_name(name: str) -> str:
    """The temporary name of a folder that `exchange_folder` removes, without the process id."""
    return extended_name(name, DEAD, limit=TEMPORARY_BYTES - 10)


def exchange_folder(fresh: Path, out: Path) -> None:
    """Replace the folder `out` by `fresh`, both in the same parent; if that fails, the old folder is restored.

    Raises:
        OSError: From the operating system.
    """
    dead = f"{dead_name(out.name)}-{os.getpid()}"
    with opened_folder(out.parent, None) as above:
        replaces = _has_entry(out.name, above)
        if replaces:
            os.rename(out.name, dead, src_dir_fd=above, dst_dir_fd=above)
        try:
            os.rename(fresh.name, out.name, src_dir_fd=above, dst_dir_fd=above)
        except OSError:
            with contextlib.suppress(OSError):
                os.rename(dead, out.name, src_dir_fd=above, dst_dir_fd=above)
            raise
        _flush(above)
        if replaces:
            with contextlib.suppress(OSError):
                _remove(dead, above)


def remove(path: Path, *, root: Path | None = None) -> None:
    """Remove a file, a link, or a folder with its contents. Links are not followed, and a missing path is no error.

    Args:
        path: The path.
        root: No folder from `root` down to the path may be a link. None: links are allowed, since the user chose the
            folder.

    Raises:
        OSError: From the operating system.
    """
    with contextlib.suppress(FileNotFoundError), opened_folder(path.parent, root) as folder:
        _remove(path.name, folder)


def replace(path: Path, to: Path) -> None:
    """Rename a file or folder within a file system; a file or link of the new name is replaced.

    Raises:
        OSError: From the operating system.
    """
    with opened_folder(path.parent, None) as source, opened_folder(to.parent, None) as target:
        os.replace(path.name, to.name, src_dir_fd=source, dst_dir_fd=target)


def _remove(name: str, folder: int) -> None:
    """Remove an entry of an open folder: a file, a link itself, or a folder with its contents."""
    if not _has_entry(name, folder, stat.S_ISDIR):
        os.unlink(name, dir_fd=folder)
        return
    inside = _open_folder(name, folder)
    try:
        with os.scandir(inside) as entries:
            names = [entry.name for entry in entries]
        for inner in names:
            _remove(inner, inside)
    finally:
        os.close(inside)
    os.rmdir(name, dir_fd=folder)


def real_folder(folder: Path, *, above: bool = False) -> Path:
    """Resolve a folder given by the user if it is a link; afterwards no link needs to be followed.

    Args:
        folder: The folder; may be missing.
        above: Also resolve links among the folders above it.

    Raises:
        UserError: The link is circular, or the system refuses the path, such as a name that is too long.
    """
    with located(folder, errors=OSError):
        try:
            return folder.resolve() if above or folder.is_symlink() else folder
        except RuntimeError as error:  # Python 3.11 and 3.12: a circular link
            raise UserError(f"{folder}: a link that leads nowhere") from error


def refuse_links(folder: Path, names: Iterable[str]) -> None:
    """Check that none of the named folders inside a folder is a link; files in the link's target would be deleted.

    Raises:
        UserError: One of them is a link.
    """
    for name in names:
        if (folder / name).is_symlink():
            raise UserError(
                f"{folder / name}: is a link, and only folders of its own are written and cleaned up; to use another "
                f"disk, move the whole of {folder} there and let a link lead to it"
            )


def sweep(folder: Path) -> None:
    """Remove the leftovers of interrupted writes in a folder. The caller must hold the folder's lock (`locked`).

    A folder that is a link is not touched.
    """
    with contextlib.suppress(OSError), opened_folder(folder, folder.parent) as parent:
        with os.scandir(parent) as entries:
            listing = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
        for name, is_folder in listing:
            file_in_progress = name.startswith(".") and name.endswith(PART) and not is_folder
            if file_in_progress or name.startswith((TEMPORARY, DEAD)):
                with contextlib.suppress(OSError):  # removed at the next start instead
                    _remove(name, parent)


def check_writable(folder: Path) -> None:
    """Check that files can be written into a folder, which need not exist yet: before the work, not after it.

    Raises:
        UserError: The folder, or the one that it would be created in, is read-only or a file.
    """
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not (existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)):
        reason = "no permission to write" if existing.is_dir() else f"{existing} is a file"
        raise UserError(f"{folder}: cannot be written ({reason}); choose another folder")


def free_bytes(folder: Path) -> int:
    """Free disk space in bytes for this user at a folder, which need not exist yet."""
    facts = os.statvfs(next(path for path in (folder, *folder.absolute().parents) if path.is_dir()))
    return facts.f_bavail * facts.f_frsize
