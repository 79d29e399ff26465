"""Datasets from the net, only when asked: by a card, into one folder that is whole or not there.

While it works, everything lies in `FOLDER.part`: the downloads in `files/`, what comes out of them in `unpacked/`. The
finished folder is renamed into place, and a stamp in it says what it was made of. Whenever a fetch is killed, the same
command goes on.
"""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from i2i_bridge.data.cards import Card, card_file, load_card
from i2i_bridge.data.store import Place, place_file, read_place, remember_place
from i2i_bridge.errors import UserError
from i2i_bridge.storage.archive import BadArchive, unpack
from i2i_bridge.storage.download import Download, Report, download
from i2i_bridge.storage.files import no_link, refuse_links, remove, replace, write_whole
from i2i_bridge.storage.toml import read_toml

STAMP = ".i2i-bridge.toml"
"""In a fetched folder: which card made it, from files of which SHA-256."""

Progress = Callable[[str], AbstractContextManager[Report]]
"""Opens a progress display of that title."""


@dataclass(frozen=True)
class Plan:
    """What a fetch would do."""

    name: str
    card: Card
    folder: Path
    there: bool
    """Whether it was done already."""
    known: dict[str, str]
    """SHA-256 of the files of an earlier fetch."""

    def lines(self) -> list[str]:
        """What one should know before one agrees."""
        card = self.card
        urls = [source.url for source in card.download]
        sizes = [source.bytes for source in card.download]
        size = f"{sum(filter(None, sizes)):,} bytes" if all(sizes) else card.size or "size not known"
        published = any(source.sha256 or source.md5 for source in card.download)
        rows = {
            "dataset": f"{self.name}: {card.summary}",
            "licence": card.licence or "not stated",
            "terms": card.terms,
            "cite": card.citation,
            "homepage": card.homepage,
            "download": f"{size} from {urls[0]}" + (f" and {len(urls) - 1} more" if len(urls) > 1 else ""),
            "checksum": card.checksum or ("published" if published else "unpublished"),
            "into": str(self.folder),
        }
        return [f"{key + ':':10}{value}" for key, value in rows.items() if value]


def plan_fetch(name: str, folder: Path | None = None) -> Plan:
    """What fetching a card's dataset means; asks no server and writes nothing.

    Args:
        name: A dataset card, shipped or the user's own.
        folder: Where it shall lie; by default where it lies already, else `$I2I_DATA_DIR/NAME` or `./data/NAME`.

    Raises:
        UserError: There is no such card, it names no download, or the folder holds something else.
    """
    card_file(name)
    card = load_card(name)
    if not card.download:
        hint = f"; get it from {card.homepage}, then give data.root=FOLDER" if card.homepage else ""
        raise UserError(f"the card '{name}' names nothing to download{hint}")
    place = read_place(place_file(name))
    known = place.sha256 if place else {}
    if folder is None and place and _made_by(place.folder, name, card, known):
        folder = place.folder
    folder = (folder or Path(os.environ.get("I2I_DATA_DIR") or "data") / name).absolute()
    there = _made_by(folder, name, card, known)
    if not there and folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(f"{folder} is there already, with other content; choose another --to, or give it as data.root")
    return Plan(name, card, folder, there, known)


def fetch(plan: Plan, progress: Progress) -> dict[str, str]:
    """Download, verify, unpack, put into place, and remember where it lies.

    Returns:
        The SHA-256 of each file for which neither the card nor an earlier fetch has one.

    Raises:
        UserError: Something is wrong with the net, the content or the disk; the same command may go on.
    """
    staging = plan.folder.with_name(plan.folder.name + ".part")
    if plan.there:
        remember_place(plan.name, Place(folder=plan.folder, sha256=_stamp(plan.folder)["sha256"]))
        with contextlib.suppress(OSError):
            remove(staging)
        return {}
    refuse_links(staging.parent, [f"{staging.name}{inside}" for inside in ("", "/files", "/unpacked")])
    try:
        (staging / "files").mkdir(parents=True, exist_ok=True)
        with alone(staging):
            digests = {source.file: _get(source, staging, plan, progress) for source in plan.card.download}
            made = _unpacked(plan, staging, progress)
            table = Place(folder=plan.folder, sha256=digests)
            write_whole(made / STAMP, f'card = "{plan.name}"\n{table.to_toml()}'.encode())
            os.sync()  # the name must not reach the disk before the content
            replace(made, plan.folder)
            remember_place(plan.name, table)
            with contextlib.suppress(OSError):
                remove(staging)
    except OSError as error:
        raise UserError(f"{error.filename or plan.folder}: cannot be written ({error.strerror or error})") from error
    published = {source.file for source in plan.card.download if source.sha256 or source.md5}
    return {file: digest for file, digest in digests.items() if file not in published | plan.known.keys()}


def _get(source: Download, staging: Path, plan: Plan, progress: Progress) -> str:
    expected = source.model_copy(update={"sha256": source.sha256 or plan.known.get(source.file)})
    with progress(source.file) as report:
        return download(expected, staging / "files" / source.file, report)


def _unpacked(plan: Plan, staging: Path, progress: Progress) -> Path:
    """The folder that shall become the dataset's."""
    folder = staging / "unpacked"
    remove(folder, root=staging.parent)  # of a fetch that was killed: who knows what is missing
    folder.mkdir()
    for source in plan.card.download:
        file = staging / "files" / source.file
        if source.unpack == "none":
            shutil.copyfile(file, folder / source.file)
        else:
            try:
                with progress(f"unpacking {source.file}") as report:
                    unpack(file, source.unpack, folder, report)
            except BadArchive:
                remove(file)  # the next fetch must not stumble over it again
                raise
    made = folder / plan.card.top
    if not made.is_dir():
        there = ", ".join(sorted(path.name for path in folder.iterdir())[:5])
        raise UserError(f"{plan.card.download[0].url}: holds no folder '{plan.card.top}'; there is {there}")
    return made


def _stamp(folder: Path) -> dict[str, Any]:
    return read_toml(folder / STAMP)


def _made_by(folder: Path, name: str, card: Card, known: dict[str, str]) -> bool:
    """Whether a folder is what fetching this card made, of the same files as ever."""
    try:
        stamp = _stamp(folder)
        made = {source.file: stamp["sha256"][source.file] for source in card.download}
    except (UserError, KeyError, TypeError):
        return False
    wanted = {source.file: source.sha256 or known.get(source.file) for source in card.download}
    return stamp.get("card") == name and all(wanted[file] in (None, digest) for file, digest in made.items())


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keeps a second fetch of the same folder out; a killed one leaves no lock."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with open(folder / ".lock", "w", opener=no_link) as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(f"{folder}: another fetch is at work there") from error
        yield
