"""Download the dataset of a card (`data fetch`) into a folder that is complete or absent.

A fetch in progress uses `FOLDER.part`, with the downloads in `files/` and the unpacked data in `unpacked/`. The
finished folder is renamed into place; a stamp file in it records its sources. If a fetch is interrupted, run the same
command again to resume.
"""

import contextlib
import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from i2i_bridge.data.cards import Card, card_file, load_card
from i2i_bridge.data.store import Place, place_file, read_place, remember_place
from i2i_bridge.errors import UserError, unwritable
from i2i_bridge.storage.archive import BadArchive, Report, unpack
from i2i_bridge.storage.download import BUSY, Download, download
from i2i_bridge.storage.files import refuse_links, remove, replace, write_whole
from i2i_bridge.storage.lock import locked
from i2i_bridge.storage.toml import read_toml

STAMP = ".i2i-bridge.toml"
"""Name of the stamp file in a fetched folder: the card, and the SHA-256 of each downloaded file."""

Progress = Callable[[str], AbstractContextManager[Report]]
"""Function that opens a progress display with a title."""


@dataclass(frozen=True)
class Plan:
    """A planned fetch."""

    name: str
    card: Card
    folder: Path
    fetched: bool
    """Whether the folder has been fetched already."""
    known: dict[str, str]
    """SHA-256 of the files of an earlier fetch, by name."""

    def lines(self) -> list[str]:
        """Lines about the dataset, its licence and its size, to be shown before the user agrees."""
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
    """Plan the fetch of a card's dataset, without internet access and without writing.

    Args:
        name: Name of a shipped card or of a user's card.
        folder: The destination; by default the folder of an earlier fetch, else `$I2I_DATA_DIR/NAME` or `./data/NAME`.

    Raises:
        UserError: There is no such card, it has no download, or the folder has other content.
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
    fetched = _made_by(folder, name, card, known)
    if not fetched and folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(f"{folder} is there already, with other content; choose another --to, or give it as data.root")
    return Plan(name, card, folder, fetched, known)


def fetch(plan: Plan, progress: Progress) -> dict[str, str]:
    """Download, verify and unpack a dataset, rename its folder into place, and record the folder for the card.

    Returns:
        The SHA-256 of each file that has no hash in the card or from an earlier fetch.

    Raises:
        UserError: A network, content or disk error; running the same command again resumes.
    """
    staging = plan.folder.with_name(plan.folder.name + ".part")
    if plan.fetched:
        remember_place(plan.name, Place(folder=plan.folder, sha256=_stamp(plan.folder)["sha256"]))
        with contextlib.suppress(OSError):
            remove(staging)
        return {}
    refuse_links(staging.parent, [f"{staging.name}{inside}" for inside in ("", "/files", "/unpacked")])
    try:
        (staging / "files").mkdir(parents=True, exist_ok=True)
        with locked(staging, BUSY):
            digests = {source.file: _get(source, staging, plan, progress) for source in plan.card.download}
            made = _unpacked(plan, staging, progress)
            table = Place(folder=plan.folder, sha256=digests)
            write_whole(made / STAMP, f'card = "{plan.name}"\n{table.to_toml()}'.encode())
            os.sync()  # otherwise the rename could reach the disk before the content
            replace(made, plan.folder)
            remember_place(plan.name, table)
            with contextlib.suppress(OSError):
                remove(staging)
    except OSError as error:
        raise unwritable(error.filename or plan.folder, error) from error
    published = {source.file for source in plan.card.download if source.sha256 or source.md5}
    return {file: digest for file, digest in digests.items() if file not in published | plan.known.keys()}


def _get(source: Download, staging: Path, plan: Plan, progress: Progress) -> str:
    expected = source.model_copy(update={"sha256": source.sha256 or plan.known.get(source.file)})
    with progress(source.file) as report:
        return download(expected, staging / "files" / source.file, report)


def _unpacked(plan: Plan, staging: Path, progress: Progress) -> Path:
    """Unpack the downloads and return the folder that becomes the dataset folder."""
    folder = staging / "unpacked"
    remove(folder, root=staging.parent)  # left by an interrupted fetch, and possibly incomplete
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
                remove(file)  # otherwise the next fetch would fail again
                raise
    made = folder / plan.card.top
    if not made.is_dir():
        names = ", ".join(sorted(path.name for path in folder.iterdir())[:5])
        raise UserError(f"{plan.card.download[0].url}: holds no folder '{plan.card.top}'; there is {names}")
    return made


def _stamp(folder: Path) -> dict[str, Any]:
    return read_toml(folder / STAMP)


def _made_by(folder: Path, name: str, card: Card, known: dict[str, str]) -> bool:
    """Whether a folder was made by fetching this card, from files with the known hashes."""
    try:
        stamp = _stamp(folder)
        made = {source.file: stamp["sha256"][source.file] for source in card.download}
    except (UserError, KeyError, TypeError):
        return False
    wanted = {source.file: source.sha256 or known.get(source.file) for source in card.download}
    return stamp.get("card") == name and all(wanted[file] in (None, digest) for file, digest in made.items())
