"""Dataset kinds: where the images of an item lie.

A dataset kind is any class with a `split` argument, `__len__`, and `__getitem__(i)` that returns a dictionary: 'key' (a
string), 'x_0' (the clean or target image) and, for pairs, 'x_1' (the degraded or source image), 'mask' (white =
unknown) and 'condition' (what the network is to see beside X_t instead of X_1). Images are paths, PIL images or arrays
(H, W, C), of one size in an item. Its other constructor arguments are the options of a card or recipe.
"""

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Protocol

from i2i_bridge.errors import UserError
from i2i_bridge.images import find_images, read_picture
from i2i_bridge.randomness import key
from i2i_bridge.registry import register_dataset

SPLITS = {
    "train": ("train", "training", "trainset"),
    "val": ("val", "valid", "validation", "test", "testing"),
    "test": ("test", "testing", "val", "valid", "validation"),
}


class PairSource(Protocol):
    """What a dataset kind is."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]: ...


def split_folder(root: Path, split: str) -> Path | None:
    """The sub-folder of a split, by its name or a usual alias; None where the root has no split folders at all.

    Raises:
        UserError: The root is missing, or has split folders but not this one.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder")
    there = {path.name for path in root.iterdir() if path.is_dir()}
    for name in (split, *SPLITS.get(split, ())):
        if name in there:
            return root / name
    others = sorted(there & {name for names in SPLITS.values() for name in names})
    if others:
        raise UserError(f"{root}: no folder for the split '{split}'; there is {', '.join(others)}")
    return None


def held_out(name: str, share: float) -> bool:
    """Whether a key belongs to the held-out share: by its hash, so adding files moves none of the others."""
    return key(0, "holdout", name) / 2**64 < share


HOLD_OUT = "give the dataset a folder val/, or hold some out: holdout = 0.1"


def shared_files(train: PairSource, validation: PairSource) -> int | None:
    """How many of the validation items are the same files as training items; None for kinds that do not tell."""
    ours, theirs = getattr(train, "files", None), getattr(validation, "files", None)
    if ours is None or theirs is None:
        return None
    files = set(map(str, ours))
    return sum(str(file) in files for file in theirs)


class _Split:
    """The files of a split: its own folder, or a share of one folder."""

    def __init__(self, root: Path, split: str, holdout: float) -> None:
        if not 0 <= holdout < 1:
            raise UserError(f"holdout {holdout}: a share from 0 up to, not including, 1")
        self.root, self.split, self.holdout = root, split, holdout

    def keep(self, keys: list[str]) -> list[str]:
        """Without split folders: the held-out share for every split but 'train', the rest for 'train'."""
        if not self.holdout:
            return keys
        return [name for name in keys if held_out(name, self.holdout) != (self.split in SPLITS["train"])]


def _stem_keys(folder: Path) -> tuple[dict[str, Path], list[str]]:
    """Files by their relative path without suffix, and one line for each stem that two files share."""
    found: dict[str, Path] = {}
    problems = []
    for path in find_images(folder):
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in found:
            problems.append(f"{path}: the same name as {found[name].name}; a pair must be unique")
        else:
            found[name] = path
    return found, problems


@register_dataset("images")
class CleanImages:
    """Clean images in any folder tree, to be degraded.

    Args:
        root: The folder; its sub-folder of the split's name (train, val, test and usual aliases) where there is one.
        holdout: Where there are no split folders: this share of the images, by hash of the name, is held out of
            training.
    """

    def __init__(self, root: Path, split: str, holdout: float = 0.0) -> None:
        folder = split_folder(root, split)
        base = folder or root
        keys = {path.relative_to(base).as_posix(): path for path in find_images(base)}
        kept = _Split(root, split, holdout if folder is None else 0.0).keep(sorted(keys))
        self.files = [(name, keys[name]) for name in kept]
        if not self.files:
            raise UserError(f"{base}: no images for the split '{split}'; {HOLD_OUT}")

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, Any]:
        name, path = self.files[index]
        return {"key": name, "x_0": path}


@register_dataset("paired_folders")
class PairedFolders:
    """Two folders with files of the same stem: targets x_0 and sources x_1.

    Layouts: root/SPLIT/x_0/..., root/x_0/SPLIT/..., or root/x_0/... without splits.

    Args:
        root: The folder of both.
        x_0: Name of the folder of clean or target images.
        x_1: Name of the folder of degraded or source images.
        holdout: Where there are no split folders: this share of the pairs is held out of training.
        lenient: Leave unmatched files out instead of refusing them (`check` lists them).
    """

    def __init__(self, root: Path, x_0: str, x_1: str, split: str, holdout: float = 0.0, lenient: bool = False) -> None:
        targets, sources, split_there = self._folders(root, x_0, x_1, split)
        clean, problems = _stem_keys(targets)
        degraded, more = _stem_keys(sources)
        self.pairing_problems = [*problems, *more, *self._unmatched(clean, degraded, targets, sources)]
        if self.pairing_problems and not lenient:
            counts = f"{len(clean)} images in {targets} and {len(degraded)} in {sources} do not match one to one"
            shown = "; ".join(self.pairing_problems[:3])
            raise UserError(f"{counts}: {shown}; `i2i-bridge check` lists all {len(self.pairing_problems)}")
        both = sorted(clean.keys() & degraded.keys())
        kept = _Split(root, split, 0.0 if split_there else holdout).keep(both)
        self.files = [(name, clean[name], degraded[name]) for name in kept]
        if not self.files and not (lenient and self.pairing_problems):
            raise UserError(f"{targets} and {sources}: no pairs for the split '{split}'; {HOLD_OUT}")

    @staticmethod
    def _folders(root: Path, x_0: str, x_1: str, split: str) -> tuple[Path, Path, bool]:
        if not root.is_dir():
            raise UserError(f"{root}: no such folder")
        if (root / x_0).is_dir() and (root / x_1).is_dir():
            targets, sources = split_folder(root / x_0, split), split_folder(root / x_1, split)
            return targets or root / x_0, sources or root / x_1, targets is not None
        base = split_folder(root, split) or root
        for name in (x_0, x_1):
            if not (base / name).is_dir():
                there = sorted(path.name for path in base.iterdir() if path.is_dir())
                raise UserError(f"{base / name}: no such folder; {base} has {', '.join(there) or 'no folders'}")
        return base / x_0, base / x_1, base != root

    @staticmethod
    def _unmatched(clean: dict[str, Path], degraded: dict[str, Path], targets: Path, sources: Path) -> Iterator[str]:
        for here, there, folder in ((clean, degraded, sources), (degraded, clean, targets)):
            alone = sorted(here.keys() - there.keys())
            free = sorted(there.keys() - here.keys())
            for name in alone:
                near = difflib.get_close_matches(name, free, n=1) if len(free) < 2000 else []
                hint = f"; nearest: {there[near[0]].name}" if near else ""
                yield f"{here[name]}: no partner in {folder}{hint}"

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, Any]:
        name, clean, degraded = self.files[index]
        return {"key": name, "x_0": clean, "x_1": degraded}


@register_dataset("side_by_side")
class SideBySide:
    """One file per pair, A on the left and B on the right (the packing of Pix2pix).

    Args:
        root: The folder, with split folders or without.
        direction: 'AtoB': the left half is the source x_1 and the right half the target x_0; 'BtoA': the other way
            round.
        holdout: Where there are no split folders: this share of the files is held out of training.
    """

    def __init__(self, root: Path, direction: Literal["AtoB", "BtoA"], split: str, holdout: float = 0.0) -> None:
        self.images = CleanImages(root, split, holdout)
        self.files = self.images.files
        self.direction = direction

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = self.images[index]
        pixels = read_picture(item["x_0"]).pixels
        width = pixels.shape[1]
        if width % 2:
            raise UserError(f"{item['x_0']}: {width} pixels wide; a side-by-side pair needs an even width")
        left, right = pixels[:, : width // 2], pixels[:, width // 2 :]
        x_1, x_0 = (left, right) if self.direction == "AtoB" else (right, left)
        return {"key": item["key"], "x_0": x_0, "x_1": x_1, "file": item["x_0"]}
