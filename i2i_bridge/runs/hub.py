"""Shared runs on the Hugging Face Hub: their names, local copies, upload and download.

A local copy is pinned: hub.json in it holds the repository and the commit. `hub_files` checks what is downloaded.
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from i2i_bridge import __version__
from i2i_bridge.console import say_note
from i2i_bridge.data.store import store_folder
from i2i_bridge.errors import IO_ERROR, UserError, brief, located, plural, unwritable
from i2i_bridge.runs.hub_files import fetch_checked, is_pushed, wanted_files
from i2i_bridge.runs.hub_library import hub_library, hub_options
from i2i_bridge.storage import internet
from i2i_bridge.storage.archive import RESERVE
from i2i_bridge.storage.files import (
    TEMPORARY,
    TEMPORARY_BYTES,
    exchange_folder,
    free_bytes,
    remove,
    write_whole,
)
from i2i_bridge.storage.lock import LOCK_FILE, locked
from i2i_bridge.storage.names import expanded, extended_name
from i2i_bridge.storage.reader import read_json
from i2i_bridge.storage.shipped import CARD_FILE, LATENT_FOLDER, MEAN_FOLDER, RECIPE_FILE, TUNED_FILE, recipe_names

PART = r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?"
NAME = re.compile(rf"({PART}/{PART})(?:@({PART}))?")
"""owner/name, and after an @ a commit, tag or branch."""
OWN_FOLDERS = ("runs", "pretrained")
"""First parts of names that always mean a folder, beside those of the shipped recipes."""
COMMIT = re.compile(r"[0-9a-f]{40}")
ORIGIN = "hub.json"
"""File of the repository and commit that a local copy was fetched from."""


@dataclass(frozen=True)
class Origin:
    """The repository and commit of a local copy."""

    repository: str
    revision: str
    """The commit, 40 hexadecimal digits."""


def is_hub_name(run: Path) -> bool:
    """Whether a path names a run on the Hub: owner/name[@revision], unless the path or the folder `owner` exists, or
    the names of shipped recipes begin with `owner`."""
    if NAME.fullmatch(run.as_posix()) is None or run.exists() or run.parent.exists():
        return False
    return run.parts[0] not in {*OWN_FOLDERS, *(name.split("/")[0] for name in recipe_names())}


def hub_folder(run: Path, report: Callable[[str], None] | None = None) -> Path:
    """The folder of a run: the path itself, or the local copy of a run on the Hub, fetched at first use.

    Args:
        report: Receives a line on the commit; by default it is printed as a note.

    Raises:
        UserError: As `pull`.
    """
    if not is_hub_name(run):
        return run
    report = report or say_note
    copy = local_copy(run.as_posix())
    origin = read_origin(copy)
    if origin is None:
        internet.require(f"'{run.as_posix()}' on the Hub")
        report(f"there is no folder {run.as_posix()}; looking for it on the Hugging Face Hub")
        copy, origin = pull(run.as_posix(), report=report)
    report(f"{run.as_posix()} is the copy of commit {origin.revision} in {copy}")
    return copy


def own_copy(name: Path) -> Path:
    """The copy runs/NAME of a run on the Hub, for evaluations and reports; made from the local copy at first use.

    Raises:
        UserError: As `hub_folder`; or the folder holds something else, another commit for example, or cannot be
            written.
    """
    source, copy = hub_folder(name), Path("runs") / name
    origin = read_origin(source)
    if origin is not None and read_origin(copy) == origin:
        return copy
    if os.path.lexists(copy):
        raise UserError(f"{copy}: not a copy of {source}, which belongs there; rename it")
    fresh = copy.with_name(extended_name(copy.name, TEMPORARY, f"-{os.getpid()}", limit=TEMPORARY_BYTES))
    with _os_errors(copy):
        try:
            shutil.copytree(source, fresh)
            if read_origin(copy) != origin:  # otherwise another process made the same copy
                exchange_folder(fresh, copy)
        finally:
            remove(fresh)
    return copy


def local_copy(name: str) -> Path:
    """The default folder of a local copy."""
    return store_folder() / "hub" / name


def read_origin(folder: Path) -> Origin | None:
    """The origin of a local copy; None if the folder is none."""
    return _origin_in(folder) if (folder / RECIPE_FILE).is_file() else None


def _origin_in(folder: Path) -> Origin | None:
    """The origin in a folder's hub.json, also of an interrupted download; None without a valid file."""
    try:
        table = read_json(folder / ORIGIN)
        repository, revision = table["repository"], table["revision"]
        return Origin(repository, revision) if NAME.fullmatch(repository) and COMMIT.fullmatch(revision) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def push(folder: Path, name: str, *, private: bool = False) -> Origin:
    """Upload a shared run in one commit; files of an older shared run in the repository are replaced.

    Args:
        folder: What `write_shared` wrote.
        name: owner/name; the repository is created if missing.
        private: Whether a new repository is private.

    Returns:
        The repository and the commit.

    Raises:
        UserError: Offline mode, no package, not logged in, no permission, or no connection.
    """
    check_name(name)
    files = {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if is_pushed(path.relative_to(folder).as_posix())
    }
    with hub_library(name) as library:
        api = library.HfApi(**hub_options())
        api.create_repo(name, private=private or None, exist_ok=True)
        published = [entry.rfilename for entry in api.model_info(name).siblings or []]
        stale = [path for path in published if path not in files and is_pushed(path)]
        operations = [library.CommitOperationAdd(path, str(file)) for path, file in files.items()]
        operations += [library.CommitOperationDelete(path) for path in stale]
        commit = api.create_commit(name, operations, commit_message=f"A run of i2i-bridge {__version__}")
        return Origin(name, str(commit.oid))


def pull(
    name: str, out: Path | None = None, *, report: Callable[[str], None] = lambda line: None
) -> tuple[Path, Origin]:
    """Fetch a run from the Hub into a run folder, after checking names, sizes, recipe and hashes.

    A folder that holds the wanted commit already is left as it is; an older copy is replaced.

    Args:
        name: owner/name, or owner/name@REVISION with a commit, tag or branch.
        out: The folder; by default the local copy of this name.
        report: Receives a line on what is fetched.

    Returns:
        The folder and its origin.

    Raises:
        UserError: Offline mode, no package, no connection; no such repository or revision, or none that may be read;
            the repository is no shared run, a file is larger than it may be or damaged, or the recipe names files; or
            the folder holds something else.
    """
    repository, revision = _parsed(name)
    out = local_copy(name) if out is None else expanded(out)
    _check_out(out, repository)
    with hub_library(name) as library:
        api = library.HfApi(**hub_options())
        info = api.model_info(repository, revision=revision, files_metadata=True)
    commit = str(info.sha)
    if not COMMIT.fullmatch(commit):
        raise UserError(f"{name}: the Hub names no commit")
    origin = Origin(repository, commit)
    if read_origin(out) == origin:
        report(f"{name}: there already")
        return out, origin
    sizes, others = wanted_files(name, {entry.rfilename: entry.size for entry in info.siblings or []})
    report(f"fetching {name} at commit {commit}: {plural(len(sizes), 'file')}, {sum(sizes.values()) / 1e6:.1f} MB")
    if others:
        report(f"{plural(others, 'other file of the repository is', 'other files of the repository are')} not fetched")
    part = out.with_name(f".{out.name}.part")
    with _os_errors(out), locked(part, "the same run is being fetched; wait for it"):
        if _origin_in(part) != origin:
            for leftover in part.iterdir():  # of another commit
                if leftover.name != LOCK_FILE:
                    remove(leftover)
            write_whole(part / ORIGIN, json.dumps(vars(origin)).encode())

        def fetch(path: str) -> None:
            if sizes[path] > free_bytes(part) - RESERVE:
                left = f"{RESERVE >> 20} MB stay free"
                raise UserError(f"{out}: no room for the {sizes[path]} bytes of {path}; {left}", IO_ERROR)
            with hub_library(name) as library:
                library.hf_hub_download(repository, path, revision=commit, local_dir=part, **hub_options())
            if (part / path).is_symlink() or (part / path).stat().st_size != sizes[path]:
                remove(part / path)
                raise UserError(f"{name}: {path} is not the file of {sizes[path]} bytes that the Hub named")

        fetch_checked(name, part, sizes, fetch)
        for inner in (".cache", LOCK_FILE):
            remove(part / inner)
        exchange_folder(part, out)
    return out, origin


@contextmanager
def _os_errors(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise unwritable(out, error) from error


def _check_out(out: Path, repository: str) -> None:
    """Check that a folder is missing, empty, or a local copy of this repository alone.

    Raises:
        UserError: It holds something else, which would be lost.
    """
    with located(out, "cannot be read", OSError):
        if not os.path.lexists(out) or (out.is_dir() and not out.is_symlink() and not any(out.iterdir())):
            return
        origin = read_origin(out)
        if origin is None or origin.repository != repository or out.is_symlink():
            raise UserError("is there and no copy of this run; choose another folder")
        known = {ORIGIN, RECIPE_FILE, TUNED_FILE, CARD_FILE, "checkpoints", MEAN_FOLDER, LATENT_FOLDER}
        others = sorted(path.name for path in out.iterdir() if path.name not in known)
    if others:
        raise UserError(f"{out}: also holds {brief(others[0])}, which would be lost; choose another folder")


def check_name(name: str) -> None:
    """Check a name to push to, and that the internet may be used, before any work.

    Raises:
        UserError: It is not owner/name, or offline mode is on.
    """
    if _parsed(name)[1] is not None:
        raise UserError(f"{name}: give owner/name; a commit cannot be changed")
    internet.require(f"'{name}' on the Hub")


def _parsed(name: str) -> tuple[str, str | None]:
    found = NAME.fullmatch(name)
    if found is None or ".." in name or "--" in name:
        raise UserError(f"'{brief(name)}' is no name of the Hub: owner/name, or owner/name@REVISION")
    return found[1], found[2]
