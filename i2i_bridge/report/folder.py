"""Output folder of a page: written to a temporary folder, then renamed; only an older page is ever replaced."""

import contextlib
import glob
import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from i2i_bridge.errors import UserError, unwritable
from i2i_bridge.storage.files import TEMPORARY, TEMPORARY_BYTES, dead_name, exchange_folder, remove
from i2i_bridge.storage.lock import LOCK_FILE, locked
from i2i_bridge.storage.names import extended_name
from i2i_bridge.storage.reader import LIST_LIMIT, open_regular, read_bytes

GENERATOR = "i2i-bridge"
"""Value of <meta name="generator"> by which a page is recognised."""
UNREFERENCED = ("index.html", "comparison.png", "trajectory.png", LOCK_FILE)
"""Files in a page's folder to which index.html has no reference."""
DESKTOP_FILES = (".DS_Store", "Thumbs.db", "desktop.ini")
"""Files that file managers create in any folder."""


def check_out(out: Path, single_file: bool) -> None:
    """Check before any work that a page can be written to `out`.

    Raises:
        UserError: `out` exists and is not a page.
    """
    if out.suffix == ".html" and not single_file:
        raise UserError(f"{out}: a page with its pictures is a folder; give one, or add --single-file")
    if out.exists() and not _is_page(out):
        raise UserError(
            f"{out}: exists and is not a page of i2i-bridge; rename it, or: i2i-bridge compare RUN --out DIR"
        )
    _refuse_other_files(out)


def _refuse_other_files(out: Path) -> None:
    """Check that the page in a folder names all its other files, which would be lost with the old page.

    Raises:
        UserError: It does not name one, or the folder cannot be read.
    """
    if not out.is_dir() or not (out / "index.html").is_file():
        return
    try:
        named = read_bytes(out / "index.html", LIST_LIMIT).decode("utf-8", "replace")
        for folder, _, names in os.walk(out):
            for name in names:
                place = (Path(folder) / name).relative_to(out).as_posix()
                if (
                    place not in UNREFERENCED
                    and name not in DESKTOP_FILES
                    and quote(place, errors="replace") not in named
                ):
                    raise UserError(
                        f"{out / place}: is no part of the page in that folder, and would be lost with the old page; "
                        "move the file elsewhere"
                    )
    except OSError as error:
        raise UserError(f"{out}: cannot be read ({error.strerror or error})") from error


def _is_page(out: Path) -> bool:
    """True for an empty folder or a page written by this toolkit: both may be replaced."""
    if out.is_dir() and not any(out.iterdir()):
        return True
    page = out if out.suffix == ".html" else out / "index.html"
    try:
        with open_regular(page) as stream:
            return f'content="{GENERATOR}"'.encode() in stream.read(2000)
    except OSError:
        return False


@contextlib.contextmanager
def fresh_folder(out: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `out`, and exchange it with `out` at the end.

    If the block raises, the temporary folder is deleted; leftovers of a killed process are deleted by the next call.

    Raises:
        UserError: Another process is writing the same page, or it cannot be written.
    """
    fresh = out.with_name(extended_name(out.name, TEMPORARY, limit=TEMPORARY_BYTES))
    try:
        if fresh.is_symlink():
            remove(fresh)
        elif fresh.is_dir() and any(fresh.iterdir()) and not (fresh / LOCK_FILE).is_file():
            raise UserError(f"{fresh}: is in the way and not a page in progress; remove it")
        with locked(fresh, "the same page is being written by another process; wait for it"):
            try:
                for leftover in fresh.iterdir():
                    if leftover.name != LOCK_FILE:
                        remove(leftover)
                for old in out.parent.glob(f"{glob.escape(dead_name(out.name))}-*"):
                    if not old.is_symlink() and _is_page(old):
                        remove(old)
                yield fresh
                _refuse_other_files(out)  # again: drawing takes minutes
                exchange_folder(fresh, out)
                remove(out / LOCK_FILE)
            finally:
                with contextlib.suppress(OSError):
                    remove(fresh)
    except OSError as error:
        raise unwritable(out, error) from error
