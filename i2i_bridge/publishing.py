"""Putting a page where it belongs: whole, and never in place of something that is not a page of ours."""

import contextlib
import os
import shutil
from pathlib import Path

from i2i_bridge.errors import UserError
from i2i_bridge.file_reader import open_regular

GENERATOR = "i2i-bridge"
"""What a page of ours names as its generator."""


def check_out(out: Path, single_file: bool) -> None:
    """Before any work is done: whether a page may be written there.

    Raises:
        UserError: There is something else.
    """
    if out.suffix == ".html" and not single_file:
        raise UserError(f"{out}: a page with its pictures is a folder; give one, or add --single-file")
    if out.exists() and not _is_page(out):
        raise UserError(f"{out}: exists and is not a page of ours; give --out another name")


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


def publish(fresh: Path, out: Path) -> None:
    """Put a whole folder in another's place; if that fails, the old one is back."""
    old = out.with_name(f".{out.name}.{os.getpid()}.old")
    if out.exists():
        out.rename(old)
    try:
        fresh.rename(out)
    except OSError:
        with contextlib.suppress(OSError):
            old.rename(out)
        raise
    shutil.rmtree(old, ignore_errors=True)
