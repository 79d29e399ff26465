"""Splits of a dataset (train, val, test), by folders or by a held-out share of the items."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from i2i_bridge.errors import UserError
from i2i_bridge.randomness import key
from i2i_bridge.storage.reader import read_lines

SPLITS = {
    "train": ("train", "training", "trainset"),
    "val": ("val", "valid", "validation", "test", "testing"),
    "test": ("test", "testing", "val", "valid", "validation"),
}
"""The usual names of each split, in order of preference."""
HOLD_OUT = "give the dataset a folder val/, or hold some out: holdout = 0.1"


def split_names(split: str) -> tuple[str, ...]:
    """Accepted names of a split in order of preference, each in lower case, capitalised and in upper case."""
    return _spellings((split, *SPLITS.get(split.lower(), ())))


def all_split_names() -> tuple[str, ...]:
    """Accepted names of all splits."""
    return _spellings(name for names in SPLITS.values() for name in names)


def _spellings(words: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for word in words for name in (word, word.capitalize(), word.upper())))


def split_name(names: Iterable[str], split: str, where: Path | str) -> str | None:
    """The name of a split among names of folders; None if no name is that of a split.

    Raises:
        UserError: There are names of other splits, but none of this one.
    """
    folders = set(names)
    for name in split_names(split):
        if name in folders:
            return name
    others = sorted(folders.intersection(all_split_names()))
    if others:
        hint = ""
        # Not for a pattern such as {split}A, below which there is no folder.
        if "{split}" not in str(where) and not is_training(split) and all(map(is_training, others)):
            hint = f"; make one, or give the folder {Path(where) / others[0]}, and hold some out of it: holdout = 0.1"
        raise UserError(f"{where}: no folder for the split '{split}'; there is {', '.join(others)}{hint}")
    return None


def split_folder(root: Path, split: str) -> Path | None:
    """The folder of a split inside a root, by any of its names; None if the root has no split folders.

    Raises:
        UserError: The root is missing, or has folders of other splits only.
    """
    if not root.is_dir():
        raise UserError(f"{root}: {'a file, not a folder' if root.exists() else 'no such folder'}")
    name = split_name((path.name for path in root.iterdir() if path.is_dir()), split, root)
    return None if name is None else root / name


def is_training(split: str) -> bool:
    """Whether a name is that of the training split."""
    return split.lower() in SPLITS["train"]


def held_out(name: str, share: float) -> bool:
    """Whether a key belongs to the held-out share. By a hash of the key, so that added files do not move others."""
    return key(0, "holdout", name) / 2**64 < share


def split_positions(keys: Sequence[str], split: str, holdout: float) -> np.ndarray:
    """Positions of the keys that belong to a split, in a dataset without split folders.

    The training split has the keys that are not held out, every other split has the held-out keys. If `holdout` is 0,
    every split has all keys.

    Args:
        keys: The keys of all items.
        split: Name of the split.
        holdout: Held-out share in [0, 1).

    Raises:
        UserError: `holdout` is out of range.
    """
    if not 0 <= holdout < 1:
        raise UserError(f"holdout {holdout}: a share from 0 up to, not including, 1")
    if not holdout:
        return np.arange(len(keys))
    training = is_training(split)
    return np.array([i for i, name in enumerate(keys) if held_out(name, holdout) != training], dtype=np.int64)


def listed_positions(names: Sequence[str], file: Path, where: Path | str) -> np.ndarray:
    """Positions of the names that a text file lists, one path per line, in the order of the file.

    Only the last part of a path is compared, since the list may have been written on another machine.

    Raises:
        UserError: The file cannot be read, or lists a name that does not exist.
    """
    places = {name.rpartition("/")[2]: i for i, name in enumerate(names)}
    chosen = {}
    for number, line in enumerate(read_lines(file), 1):
        name = line.strip().replace("\\", "/").rpartition("/")[2]
        if name and name not in places:
            raise UserError(f"{file}:{number}: '{name}' is not in {where}")
        if name:
            chosen[places[name]] = name
    return np.array(list(chosen), dtype=np.int64)


def list_applies(split: str, split_there: bool) -> bool:
    """Whether a list of names restricts a split: it does not restrict a training split that has its own folder."""
    return not (split_there and is_training(split))
