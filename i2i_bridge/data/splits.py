"""Splits: which items are trained on, by folder or by a held-out share."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from i2i_bridge.errors import UserError
from i2i_bridge.randomness import key
from i2i_bridge.storage.reader import LIST_LIMIT, read_text

SPLITS = {
    "train": ("train", "training", "trainset"),
    "val": ("val", "valid", "validation", "test", "testing"),
    "test": ("test", "testing", "val", "valid", "validation"),
}
"""The usual names of a split, best first."""
HOLD_OUT = "give the dataset a folder val/, or hold some out: holdout = 0.1"


def split_names(split: str) -> tuple[str, ...]:
    """What a split may be called, best first; each name in small letters, with a capital, and in capitals."""
    return _spellings((split, *SPLITS.get(split.lower(), ())))


def all_split_names() -> tuple[str, ...]:
    """What any split may be called."""
    return _spellings(name for names in SPLITS.values() for name in names)


def _spellings(words: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for word in words for name in (word, word.capitalize(), word.upper())))


def split_name(there: Iterable[str], split: str, where: Path | str) -> str | None:
    """The name among `there` that means the split; None where none of them is a split's name.

    Raises:
        UserError: There are names of splits, but none that means this one.
    """
    there = set(there)
    for name in split_names(split):
        if name in there:
            return name
    others = sorted(there.intersection(all_split_names()))
    if others:
        raise UserError(f"{where}: no folder for the split '{split}'; there is {', '.join(others)}")
    return None


def split_folder(root: Path, split: str) -> Path | None:
    """The sub-folder of a split, by its name or a usual alias; None where the root has no split folders at all.

    Raises:
        UserError: The root is missing, or has split folders but not this one.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder")
    name = split_name((path.name for path in root.iterdir() if path.is_dir()), split, root)
    return None if name is None else root / name


def is_training(split: str) -> bool:
    """Whether a split's name means the one that is trained on."""
    return split.lower() in SPLITS["train"]


def held_out(name: str, share: float) -> bool:
    """Whether a key belongs to the held-out share: by its hash, so adding files moves none of the others."""
    return key(0, "holdout", name) / 2**64 < share


def keep(keys: Sequence[str], split: str, holdout: float) -> np.ndarray:
    """Positions of the keys of a split where nothing else says it: the held-out share for every split but 'train'.

    Without a share every split has all keys.

    Raises:
        UserError: The share is not one.
    """
    if not 0 <= holdout < 1:
        raise UserError(f"holdout {holdout}: a share from 0 up to, not including, 1")
    if not holdout:
        return np.arange(len(keys))
    training = is_training(split)
    return np.array([i for i, name in enumerate(keys) if held_out(name, holdout) != training], dtype=np.int64)


def listed(names: Sequence[str], file: Path, where: Path | str) -> np.ndarray:
    """Positions of the names whose last part a text file has, a path a line, in the file's order.

    Whoever wrote the list had the files elsewhere: of its paths only the last part means anything here.

    Raises:
        UserError: The file cannot be read, or has a name that is not there.
    """
    try:
        lines = read_text(file, LIST_LIMIT).splitlines()
    except FileNotFoundError as error:
        raise UserError(f"{file}: no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: not a readable text file ({error})") from error
    places = {name.rpartition("/")[2]: i for i, name in enumerate(names)}
    chosen = {}
    for number, line in enumerate(lines, 1):
        name = line.strip().replace("\\", "/").rpartition("/")[2]
        if name and name not in places:
            raise UserError(f"{file}:{number}: '{name}' is not in {where}")
        if name:
            chosen[places[name]] = name
    return np.array(list(chosen), dtype=np.int64)


def counts(split: str, split_there: bool) -> bool:
    """Whether a list of names concerns a split: all but a training split with images of its own."""
    return not (split_there and is_training(split))
