"""Putting a page where it belongs: whole, and never in place of something that is not a page of ours."""

import contextlib
import glob
import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from i2i_bridge.errors import UserError
from i2i_bridge.storage.files import (
    LOCK_FILE,
    TEMPORARY,
    TEMPORARY_BYTES,
    dead_name,
    exchange_folder,
    extended_name,
    locked,
    remove,
)
from i2i_bridge.storage.reader import LIST_LIMIT, open_regular, read_bytes

GENERATOR = "i2i-bridge"
"""What a page of ours names as its generator."""
UNNAMED = ("index.html", "comparison.png", "trajectory.png", LOCK_FILE)
"""Files of a page that the page does not name."""
OF_DESKTOPS = (".DS_Store", "Thumbs.db", "desktop.ini")
"""Files that desktops leave in every folder."""


def check_out(out: Path, single_file: bool) -> None:
    """Before any work is done: whether a page may be written there.

    Raises:
        UserError: There is something else.
    """
    if out.suffix == ".html" and not single_file:
        raise UserError(f"{out}: a page with its pictures is a folder; give one, or add --single-file")
    if out.exists() and not _is_page(out):
        raise UserError(f"{out}: exists and is not a page of ours; give --out another name")
    _refuse_other_files(out)


def _refuse_other_files(out: Path) -> None:
    """
    Raises:
        UserError: A page's folder holds something that the page does not name: it would go with the old page.
    """
    if not out.is_dir() or not (out / "index.html").is_file():
        return
    try:
        named = read_bytes(out / "index.html", LIST_LIMIT).decode("utf-8", "replace")
        for folder, _, names in os.walk(out):
            for name in names:
                place = (Path(folder) / name).relative_to(out).as_posix()
                if place not in UNNAMED and name not in OF_DESKTOPS and quote(place, errors="replace") not in named:
                    raise UserError(
                        f"{out / place}: is no part of the page in that folder, and would be lost with the old page; "
                        "move the file elsewhere"
                    )
    except OSError as error:
        raise UserError(f"{out}: cannot be read ({error.strerror or error})") from error


def _is_page(out: Path) -> bool:
    """Whether something may be replaced: an empty folder, or a page that we wrote."""
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
    """A new folder beside `out` for a page to be made in, which is then put in its place; nothing is left where the
    page is not finished, and what a killed one left is removed by the next.

    Raises:
        UserError: The same page is being written by another process, or cannot be written.
    """
    fresh = out.with_name(extended_name(out.name, TEMPORARY, limit=TEMPORARY_BYTES))
    try:
        if fresh.is_symlink():
            remove(fresh)
        elif fresh.is_dir() and any(fresh.iterdir()) and not (fresh / LOCK_FILE).is_file():
            raise UserError(f"{fresh}: is in the way and not a page in progress; remove it")
        with locked(fresh, "the same page is being written by another process; wait for it"):
            try:
                for left in fresh.iterdir():
                    if left.name != LOCK_FILE:
                        remove(left)
                for dead in out.parent.glob(f"{glob.escape(dead_name(out.name))}-*"):
                    if not dead.is_symlink() and _is_page(dead):
                        remove(dead)
                yield fresh
                _refuse_other_files(out)  # drawing takes minutes
                exchange_folder(fresh, out)
                remove(out / LOCK_FILE)
            finally:
                with contextlib.suppress(OSError):
                    remove(fresh)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror or error})") from error
