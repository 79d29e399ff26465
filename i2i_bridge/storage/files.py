"""Files and folders that are whole or not there, whatever ends the process or the power: all durable writes.

The order is always the same: write under another name, flush each file, flush the folder, rename, flush the folder
above; what is in the way is removed last, and renamed first. A file whose flush failed is thrown away and never
flushed again, since the system may have dropped its pages and would then report success.

Everything that the package renames or deletes is renamed or deleted here, by names inside an open folder: a link is
removed or renamed itself, and never followed. Below `root` no folder may be a link; `root` itself, and what lies above
it, may be reached by links.
"""

import contextlib
import errno
import hashlib
import itertools
import os
import re
import stat
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from i2i_bridge.errors import UserError

TEMPORARY, DEAD, PART = ".tmp-", ".dead-", ".part"
"""What a write in progress, a removal in progress, and a file in progress are called."""
LOCK_FILE = ".lock"
IO_ERROR = 74
"""Exit code where the disk let us down (EX_IOERR)."""
NAME_BYTES = 255
"""The longest file name of common file systems."""
NAME_LETTERS = 200
"""The longest name of a recipe, a card or a part, in bytes: something is added to it."""
TEMPORARY_BYTES = 100
"""The longest name of a temporary file or folder, so that a long name of the user's needs no longer one."""


def write_whole(path: Path, data: bytes, *, root: Path | None = None) -> None:
    """Write a file through a temporary neighbour: whoever reads sees the old bytes or the new ones, never a half.

    Args:
        path: The file; its folder is made if missing. A link of this name is replaced, not followed.
        root: No folder from here down to the file may be a link; None: the folders are the user's own choice.

    Raises:
        UserError: The folder cannot be written, or the disk is full. What was there before stays.
    """
    partial = extended_name(path.name, ".", f".{os.getpid()}{PART}", limit=TEMPORARY_BYTES)
    try:
        with _opened(path.parent, root, make=True) as folder:
            try:
                _write(partial, data, folder)
                os.replace(partial, path.name, src_dir_fd=folder, dst_dir_fd=folder)
            except BaseException:  # Ctrl-C too
                with contextlib.suppress(OSError):
                    os.unlink(partial, dir_fd=folder)
                raise
            _flush(folder)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from error


def append(path: Path, data: bytes, *, flush: bool = False) -> None:
    """Add bytes to a file, which is made if missing; a link of this name is not followed.

    Args:
        flush: Whether to wait until the disk has them.

    Raises:
        OSError: As the operating system says.
    """
    with open(path, "ab", opener=no_link) as stream:
        stream.write(data)
        if flush:
            stream.flush()
            os.fsync(stream.fileno())


def no_link(path: str, flags: int) -> int:
    """An opener for `open` that follows no link of the file's own name, and does not wait for a pipe's reader.

    Raises:
        OSError: It is a link, or as the operating system says.
    """
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)


def extended_name(name: str, before: str = "", after: str = "", *, limit: int = NAME_BYTES) -> str:
    """A file name with something before and after it; where that is too long, a part of `name` becomes its hash.

    Args:
        limit: The most bytes.
    """
    room = limit - len(os.fsencode(before + after))
    encoded = os.fsencode(name)
    if len(encoded) > room:
        digest = hashlib.sha256(encoded).hexdigest()[:12]
        name = f"{encoded[: room - 13].decode('utf-8', 'ignore')}-{digest}"
    return f"{before}{name}{after}"


def file_name(name: str) -> str:
    """A name out of a file or from a user, seen to be fit for a file or folder: no path, and nothing that hides.

    Raises:
        ValueError: It is not.
    """
    if not re.fullmatch(r"\w[\w .+()-]*(?<! )", name) or len(name.encode("utf-8", "replace")) > NAME_LETTERS:
        raise ValueError(
            "should be letters, digits, '.', '_', '-', '+', '(', ')' and spaces, a letter or digit first, at most "
            f"{NAME_LETTERS} bytes: it is used as a file name"
        )
    return name


def _write(name: str, data: bytes, folder: int) -> None:
    """Write a file of an open folder and wait until the disk has it."""
    descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o666, dir_fd=folder)
    try:
        rest = memoryview(data)
        while rest:  # the system may take less than it is given
            rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _opened(folder: Path, root: Path | None, *, make: bool = False) -> Iterator[int]:
    """A descriptor of a folder, whose entries are then named relative to it.

    Args:
        root: No component below it may be a link; None: links are followed.
        make: Whether missing folders are made, each flushed into the one above.

    Raises:
        OSError: A component is a link, or as the operating system says.
    """
    start = folder if root is None else root
    if make:
        make_folder(start)
    here = _open_folder(start)
    try:
        for name in () if root is None else folder.relative_to(root).parts:
            if make and not _is_there(name, here):
                with contextlib.suppress(FileExistsError):  # another process was quicker
                    os.mkdir(name, dir_fd=here)
                _flush(here)
            inner = _open_folder(name, here)
            here, outer = inner, here
            os.close(outer)
        yield here
    finally:
        os.close(here)


def _open_folder(path: Path | str, folder: int | None = None) -> int:
    """A descriptor of a folder; of a name in an open folder only if that is no link."""
    flags = os.O_DIRECTORY | (0 if folder is None else os.O_NOFOLLOW)
    try:
        return os.open(path, os.O_RDONLY | flags, dir_fd=folder)
    except PermissionError:  # one may be allowed to write and not to list
        return os.open(path, getattr(os, "O_PATH", os.O_RDONLY) | flags, dir_fd=folder)
    except OSError:
        if folder is not None and _is_there(path, folder, stat.S_ISLNK):
            raise OSError(errno.ELOOP, f"'{path}' is a link, which is not followed here") from None
        raise


def _is_there(name: Path | str, folder: int, kind: Callable[[int], bool] = lambda mode: True) -> bool:
    """Whether an open folder has an entry of this name, and of this kind; a link is an entry of its own."""
    try:
        return kind(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def _flush(folder: int) -> None:
    """Wait until the disk has a folder's list of names; a file system that cannot flush folders says nothing."""
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):  # EBADF: it was opened without being listed
            raise


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, each flushed into the one above.

    Raises:
        OSError: As the operating system says.
    """
    if folder.is_dir():
        return
    make_folder(folder.parent)
    with _opened(folder.parent, None) as above:
        with contextlib.suppress(FileExistsError):  # another process was quicker
            os.mkdir(folder.name, dir_fd=above)
        _flush(above)


def publish_folder(final: Path, files: Iterable[tuple[str, bytes]]) -> None:
    """Make a folder of files in one go. Files are taken one after the other, so only one must fit into memory.

    Args:
        final: The folder; never overwritten. The folder above it is made if missing, and must not be a link.
        files: Name and bytes, in the order in which they are written.

    Raises:
        OSError: There is one already, or as the operating system says. No half of it is left.
    """
    temporary = extended_name(final.name, TEMPORARY, f"-{os.getpid()}", limit=TEMPORARY_BYTES)
    with _opened(final.parent, final.parent.parent, make=True) as above:
        try:
            os.mkdir(temporary, dir_fd=above)
            inside = _open_folder(temporary, above)
            try:
                for name, data in files:
                    _write(name, data, inside)
                _flush(inside)
            finally:
                os.close(inside)
            if _is_there(final.name, above):
                raise FileExistsError(errno.EEXIST, "it is there already")
            os.rename(temporary, final.name, src_dir_fd=above, dst_dir_fd=above)
        except BaseException:  # Ctrl-C too
            with contextlib.suppress(OSError):
                _remove(temporary, above)
            raise
        _flush(above)


def retire_folder(folder: Path) -> None:
    """Remove a folder so that no half of it is ever taken for the whole; the folder above it must not be a link.

    Raises:
        OSError: As the operating system says; `sweep` removes what is left.
    """
    dead = extended_name(folder.name, DEAD, f"-{os.getpid()}", limit=TEMPORARY_BYTES)
    with _opened(folder.parent, folder.parent.parent) as above:
        os.rename(folder.name, dead, src_dir_fd=above, dst_dir_fd=above)
        _flush(above)
        _remove(dead, above)


def set_aside(folder: Path, name: str) -> str:
    """Give a folder another name beside it, or that name and a number where there is one; nothing is replaced.

    Returns:
        The name.

    Raises:
        OSError: As the operating system says, or the folder above it is a link.
    """
    with _opened(folder.parent, folder.parent.parent) as above:
        for free in itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2))):
            try:
                os.rename(folder.name, free, src_dir_fd=above, dst_dir_fd=above)  # an empty folder gives way
                break
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                    raise
        _flush(above)
    return free


def dead_name(name: str) -> str:
    """What `exchange_folder` calls a folder that it removes, but for the number of its process."""
    return extended_name(name, DEAD, limit=TEMPORARY_BYTES - 10)


def exchange_folder(fresh: Path, out: Path) -> None:
    """Put a whole folder in the place of another beside it; if that fails, the old one is back.

    Raises:
        OSError: As the operating system says.
    """
    dead = f"{dead_name(out.name)}-{os.getpid()}"
    with _opened(out.parent, None) as above:
        replaces = _is_there(out.name, above)
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
    """Remove a file, a link, or a folder with all that is in it; a link is not followed. Nothing there: nothing done.

    Args:
        root: No folder from here down to the path may be a link; None: the folders above it are the user's own choice.

    Raises:
        OSError: As the operating system says.
    """
    with contextlib.suppress(FileNotFoundError), _opened(path.parent, root) as folder:
        _remove(path.name, folder)


def replace(path: Path, to: Path) -> None:
    """Move a file or folder to another name of the same file system; a file or link of that name is replaced.

    Raises:
        OSError: As the operating system says.
    """
    with _opened(path.parent, None) as here, _opened(to.parent, None) as there:
        os.replace(path.name, to.name, src_dir_fd=here, dst_dir_fd=there)


def _remove(name: str, folder: int) -> None:
    """Remove an entry of an open folder: a link itself, and a folder with all that is in it."""
    if not _is_there(name, folder, stat.S_ISDIR):
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


def real_folder(folder: Path) -> Path:
    """The folder that a user's own link leads to; any other as it is. So a link is followed once, here, and said.

    Raises:
        UserError: The link leads to itself.
    """
    try:
        return folder.resolve() if folder.is_symlink() else folder
    except (OSError, RuntimeError) as error:  # RuntimeError: Python 3.11 and 3.12
        raise UserError(f"{folder}: a link that leads nowhere") from error


def refuse_links(folder: Path, names: Iterable[str]) -> None:
    """
    Raises:
        UserError: One of the folders inside is a link: what it leads to may be anybody's, and would be cleaned up.
    """
    for name in names:
        if (folder / name).is_symlink():
            raise UserError(
                f"{folder / name}: is a link, and only folders of its own are written and cleaned up; to use another "
                f"disk, move the whole of {folder} there and let a link lead to it"
            )


def sweep(folder: Path) -> None:
    """Remove what writers that were killed have left in a folder; for whoever alone writes there (see `locked`).

    A folder that is a link is left alone, since what it leads to may be anybody's.
    """
    with contextlib.suppress(OSError), _opened(folder, folder.parent) as here:
        with os.scandir(here) as entries:
            there = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
        for name, is_folder in there:
            file_in_progress = name.startswith(".") and name.endswith(PART) and not is_folder
            if file_in_progress or name.startswith((TEMPORARY, DEAD)):
                with contextlib.suppress(OSError):  # it is tried again at the next start
                    _remove(name, here)


@contextlib.contextmanager
def locked(
    folder: Path,
    busy: str = "another run is writing there; wait for it, or choose another --out",
    *,
    root: Path | None = None,
) -> Iterator[None]:
    """Hold a folder for this process alone; the lock goes with the process, however that ends.

    A POSIX record lock, not flock's: data workers, which are forks, would keep the latter for some seconds after
    their parent was killed, and the same command could not go on.

    Args:
        folder: Made if missing.
        busy: What is said where another process holds it.
        root: As in `write_whole`.

    Raises:
        UserError: Another process holds it, or it cannot be written.
    """
    import fcntl

    try:
        with _opened(folder, root, make=True) as here:
            descriptor = os.open(LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666, dir_fd=here)
    except (FileExistsError, NotADirectoryError) as error:
        raise UserError(f"{folder}: is a file, or below one, not a folder; choose another --out") from error
    except OSError as error:
        # A folder that one may only read is no failure of the disk.
        code = 2 if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ELOOP) else IO_ERROR
        hint = "; choose another --out" if code == 2 else ""
        raise UserError(f"{folder}: cannot be written ({error.strerror or error}){hint}", code) from error
    try:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            # A file system without locks must not keep anybody from training.
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise UserError(f"{folder}: {busy}") from error
        yield
    finally:
        os.close(descriptor)


def expanded(path: Path | str) -> Path:
    """A path with the home folder in place of a leading ~; as it is where nobody has a home."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def free_bytes(folder: Path) -> int:
    """Free space for this user where a folder is, or will be."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.is_dir())
    facts = os.statvfs(there)
    return facts.f_bavail * facts.f_frsize


def normal_form(name: str) -> str:
    """A file name in Unicode's form NFC: a Mac's archives spell an accent as a character of its own, others do not."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)
