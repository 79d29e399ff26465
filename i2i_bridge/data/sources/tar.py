"""Datasets in tar shards of the WebDataset layout, with random access: the members KEY.EXT of a KEY are an item."""

import contextlib
import itertools
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from i2i_bridge.data.index import SETTLED, WORTH_KEEPING, Names, recall, remember
from i2i_bridge.data.sources.folders import Files
from i2i_bridge.data.splits import split_folder, split_names, split_positions
from i2i_bridge.errors import UserError, brief, readable
from i2i_bridge.registry import register_dataset
from i2i_bridge.storage.archive import BROKEN, TOO_MUCH, open_tar
from i2i_bridge.storage.reader import open_regular

BLOCK = 512
"""Block size of a tar file in bytes; a block of zeros ends the file."""


@register_dataset("tar_shards")
class TarShards:
    """Items in uncompressed .tar files (WebDataset): members KEY.EXT, where KEY ends at the first dot of the file name.

    The offsets of all members are listed once; items can then be read in any order. Members that are not regular files
    are ignored, and compressed shards are rejected. The key of an item is SHARD/KEY.

    Args:
        root: The folder of the shards, or of the split folders.
        shards: Pattern of the shard names, with * for any text and {split} for the split's name: '{split}-*.tar'.
        x_0: Extensions of the clean or target image, in order of preference: ["clean.png", "jpg"].
        x_1: Extensions of the degraded or source image; without them the items are clean images, to be degraded.
        mask: Extensions of the mask.
        condition: Extensions of the condition.
        label: Extension of a text file with an integer label, such as 'cls'.
        holdout: Share of the items held out of training, without split folders and without {split} in the pattern.
    """

    def __init__(
        self,
        root: Path,
        split: str,
        shards: str = "*.tar",
        x_0: tuple[str, ...] = ("jpg", "jpeg", "png", "webp"),
        x_1: tuple[str, ...] = (),
        mask: tuple[str, ...] = (),
        condition: tuple[str, ...] = (),
        label: str | None = None,
        holdout: float = 0.0,
    ) -> None:
        self.shards, split_there = _shards(root, shards, split)
        self.members = _members(self.shards)
        wanted = {"x_0": x_0, "x_1": x_1, "mask": mask, "condition": condition, "label": (label,) if label else ()}
        keys, places = self._items({part: extensions for part, extensions in wanted.items() if extensions})
        kept = split_positions(keys, split, 0.0 if split_there else holdout)
        self.keys = keys.take(kept)
        self.places = {part: place[kept] for part, place in places.items()}
        self.files = Files(self.shards[0].parent, self.keys)
        if not self.keys:
            raise UserError(f"{root}: no items for the split '{split}'")

    def _items(self, wanted: dict[str, tuple[str, ...]]) -> tuple[Names, dict[str, np.ndarray]]:
        """The keys of all items, and the member numbers of each part."""
        members, keys = self.members, []
        places: dict[str, list[int]] = {part: [] for part in wanted}
        runs = itertools.groupby(range(len(members.keys)), lambda i: (int(members.shard[i]), members.keys[i]))
        seen: set[tuple[int, str]] = set()
        for (shard, key), run in runs:
            numbers = {members.extensions[i]: i for i in run}
            parts = {part: next((numbers[e] for e in names if e in numbers), None) for part, names in wanted.items()}
            if all(number is None for number in parts.values()):
                continue  # other files, such as notes
            where = f"{self.shards[shard]}: '{key}'"
            if (shard, key) in seen:
                raise UserError(f"{where}: comes twice; the files of one item must follow one another")
            seen.add((shard, key))
            for part, number in parts.items():
                if number is None:
                    raise UserError(
                        f"{where}: no {part} ({' or '.join(wanted[part])}); there is {', '.join(sorted(numbers))}"
                    )
                places[part].append(number)
            keys.append(f"{self.shards[shard].stem}/{key}")
        return Names(keys), {part: np.array(place, dtype=np.int64) for part, place in places.items()}

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item: dict[str, Any] = {"key": self.keys[index]}
        for part, places in self.places.items():
            shard = self.shards[self.members.shard[places[index]]]
            item["file"] = f"{shard}: {self.keys[index].partition('/')[2]}"
            data = self.members.read(shard, int(places[index]))
            item[part] = _integer(data, item["file"]) if part == "label" else data
        return item


def _integer(data: bytes, where: str) -> int:
    try:
        return int(data)
    except ValueError as error:
        raise UserError(f"{where}: the label {data[:40]!r} is no integer") from error


def _shards(root: Path, pattern: str, split: str) -> tuple[list[Path], bool]:
    """The shard files of a split, and whether they are files of that split only."""
    if "/" in pattern or not pattern.replace("{split}", "").endswith(".tar"):
        raise UserError(
            f"'{pattern}': shards are named like '*.tar' or '{{split}}-*.tar'; compressed ones are not read"
        )
    folder = split_folder(root, split)
    base = folder or root
    for name in split_names(split) if "{split}" in pattern else ("",):
        shards = sorted(base.glob(pattern.replace("{split}", name)))
        if shards:
            return shards, folder is not None or "{split}" in pattern
    others = ", ".join(path.name for path in sorted(base.glob("*.tar"))[:3])
    raise UserError(f"{base}: no shards '{pattern}' for the split '{split}'; there is {others or 'no .tar file'}")


@dataclass(frozen=True)
class Members:
    """Positions of the members of all shards, in the order of the shards.

    Args:
        shard: Number of the shard of each member.
        offset: Position of its first byte.
        size: Size in bytes.
        keys: Path up to the first dot of the file name.
        extensions: Text after that dot, in lower case.
    """

    shard: np.ndarray
    offset: np.ndarray
    size: np.ndarray
    keys: Names
    extensions: Names

    def read(self, shard: Path, number: int) -> bytes:
        """Read a member.

        Raises:
            UserError: The shard cannot be read, or has become shorter.
        """
        with readable(shard), open_regular(shard) as stream:
            stream.seek(int(self.offset[number]))
            data = stream.read(int(self.size[number]))
        if len(data) != self.size[number]:
            raise UserError(f"{shard}: shorter than when it was opened")
        return data


def _members(shards: list[Path]) -> Members:
    """List the members of all shards, or read the list from the cache if sizes and modification times are unchanged."""
    began = time.time_ns()
    stamp = np.array([(s.st_size, s.st_mtime_ns) for s in (shard.stat() for shard in shards)], dtype=np.int64)
    what = "tar shards " + " ".join(str(shard.resolve()) for shard in shards)
    known = recall(what)
    with contextlib.suppress(KeyError, ValueError):  # written by another version
        if known is not None and np.array_equal(known["stamp"], stamp):
            keys = Names.packed(known["keys"], known["key_ends"])
            extensions = Names.packed(known["extensions"], known["extension_ends"])
            return Members(known["shard"], known["offset"], known["size"], keys, extensions)
    rows = [(number, *row) for number, shard in enumerate(shards) for row in _listed(shard)]
    columns = np.array([(number, offset, size) for number, _, _, offset, size in rows], dtype=np.int64)
    shard_numbers, offsets, sizes = columns.reshape(-1, 3).T.copy()
    keys, extensions = Names(row[1] for row in rows), Names(row[2] for row in rows)
    if len(keys) >= WORTH_KEEPING and stamp[:, 1].max() < began - SETTLED:
        arrays: dict[str, np.ndarray] = {"stamp": stamp, "shard": shard_numbers, "offset": offsets, "size": sizes}
        arrays |= {"keys": keys.text, "key_ends": keys.ends}
        remember(what, arrays | {"extensions": extensions.text, "extension_ends": extensions.ends})
    return Members(shard_numbers, offsets, sizes, keys, extensions)


def _listed(shard: Path) -> list[tuple[str, str, int, int]]:
    """(key, extension, offset, size) of the regular files of a shard.

    Raises:
        UserError: The file is not an uncompressed tar file, is truncated or damaged.
    """
    rows = []

    def refuse(what: str) -> UserError:
        # A shard is not compressed: a member that reaches beyond its end was cut off.
        cut = f"ends in the middle of a member, at byte {length}; copy or download it again"
        return UserError(f"{shard}: {cut if what == TOO_MUCH else what}")

    try:
        length = shard.stat().st_size
        with open_regular(shard) as stream, open_tar(stream, length, refuse, compressed=False) as (members, tar, _):
            for member in members:
                folder, slash, file = member.name.removeprefix("./").rpartition("/")
                stem, dot, extension = file.partition(".")
                if member.isreg() and not member.issparse() and stem and dot:
                    rows.append((folder + slash + stem, extension.lower(), member.offset_data, member.size))
            end = tar.offset
    except (OSError, *BROKEN) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{shard}: not a whole, uncompressed tar file ({brief(reason)})") from error
    with open_regular(shard) as stream:
        stream.seek(end)
        last = stream.read(BLOCK)
    if last != bytes(BLOCK) or any(offset + size > length for _, _, offset, size in rows[-1:]):
        # tarfile treats a damaged header as the end of the file.
        raise UserError(f"{shard}: ends or is damaged at byte {end} of {length}; copy or download it again")
    return rows
