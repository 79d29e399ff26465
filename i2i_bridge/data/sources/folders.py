"""Datasets in folders: `images`, `class_folders` (ImageNet's layout), `paired_folders` and `side_by_side`."""

import difflib
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np

from i2i_bridge.data.index import ImageNames, Names, image_names
from i2i_bridge.data.source import PairSource
from i2i_bridge.data.splits import (
    HOLD_OUT,
    all_split_names,
    list_applies,
    listed_positions,
    split_folder,
    split_name,
    split_positions,
)
from i2i_bridge.errors import UserError, plural
from i2i_bridge.images.files import read_picture
from i2i_bridge.images.folder import ARCHIVES, left_out_notes
from i2i_bridge.registry import register_dataset
from i2i_bridge.storage.names import normal_form


@register_dataset("class_folders")
class ClassFolders:
    """Clean images below root/[SPLIT/]CLASS/, to be degraded; each item has its class as 'label'.

    Labels are positions in the sorted class names of all split folders together, so that they are equal in all splits.

    Args:
        root: The folder of the classes, or of the split folders.
        holdout: Share of the images held out of training, if there are no split folders.
        names: A list of the images to use, as in `images`.
    """

    def __init__(self, root: Path, split: str, holdout: float = 0.0, names: str | None = None) -> None:
        folder = split_folder(root, split)
        base = folder or root
        bases = [base] if folder is None else [root / name for name in all_split_names()]
        self.classes = sorted(
            {path.name for folder in bases if folder.is_dir() for path in folder.iterdir() if _is_class(path)}
        )
        images, self.left_out = names_in_split(root, base, split, names)
        self.files = Files(base, images.take(split_positions(images, split, holdout if folder is None else 0.0)))
        if not self.files:
            raise _no_images(base, split, self.left_out)
        self._label = {name: number for number, name in enumerate(self.classes)}
        loose = next((name for name in images if "/" not in name), None)
        if loose is not None:
            raise UserError(f"{base / loose}: lies in no class folder; expected {base}/CLASS/{loose}")

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, Any]:
        name, path = self.files[index]
        return {"key": name, "x_0": path, "label": self._label[name.partition("/")[0]]}


def _is_class(path: Path) -> bool:
    return path.is_dir() and not path.name.startswith(".")


Stems = dict[str, tuple[str, str]]
"""(key, relative path) of files, by the part of the name that both files of a pair share."""


class Files(Sequence[tuple[str, Path]]):
    """(key, path) of the images below a folder; the key is the relative path.

    Args:
        folder: The folder.
        names: Paths relative to the folder.
    """

    def __init__(self, folder: Path, names: Names) -> None:
        self.folder, self.names = folder, names

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        if isinstance(index, slice):
            return [(name, self.folder / name) for name in self.names[index]]
        name = self.names[index]
        return name, self.folder / name


def shared_files(train: PairSource, validation: PairSource) -> int | None:
    """Number of files that are in both splits; None for dataset kinds without a list of files."""
    trained, validated = getattr(train, "files", None), getattr(validation, "files", None)
    if trained is None or validated is None:
        return None
    if isinstance(trained, Files) and isinstance(validated, Files):
        return len(set(validated.names).intersection(trained.names)) if trained.folder == validated.folder else 0
    return len({str(file) for file in validated}.intersection(str(file) for file in trained))


def names_in_split(root: Path, base: Path, split: str, names: str | None) -> tuple[Names, list[str]]:
    """The names of the images of a split, and messages about files that are left out.

    Args:
        root: The root of the dataset.
        base: The folder of the split; the root if there are no split folders.
        split: Name of the split.
        names: A file below root that lists the images to use, where it applies to the split (`list_applies`).

    Raises:
        UserError: As `listed_positions`.
    """
    images = image_names(base)
    left_out = left_out_notes(base, images.left_out)
    if names is None or not list_applies(split, base != root):
        return images, left_out
    return images.take(np.sort(listed_positions(images, root / names, base))), left_out


READERS = {".tar": "tar_shards", ".lmdb": "lmdb", ".mdb": "lmdb", ".parquet": "huggingface", ".arrow": "huggingface"}
"""Dataset kinds that read other files than images, by suffix."""


def _no_images(base: Path, split: str, left_out: Sequence[str]) -> UserError:
    """The error of a split without images, with the reason."""
    if left_out or image_names(base):
        return UserError("; ".join([f"{base}: no images for the split '{split}'", *(left_out or [HOLD_OUT])]))
    return UserError(f"{base}: no images in it; {_contents(base)}")


def _contents(folder: Path) -> str:
    """What is in a folder without images: the dataset kind that reads it, the first names, or nothing."""
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    for name in names:
        suffix = PurePosixPath(name).suffix.lower()
        if suffix in READERS:
            return f"{suffix} files, such as {name}, are read by the kind {READERS[suffix]}"
        if suffix in ARCHIVES:
            return f"{name} is an archive; unpack it first"
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return f"there is {shown}" if names else "the folder is empty"


@register_dataset("images")
class CleanImages:
    """Clean images in any folder tree, to be degraded.

    Args:
        root: The folder of the images, or of the split folders (train, val, test and usual aliases).
        holdout: Share of the images held out of training, by a hash of the name, if there are no split folders.
        names: A text file, relative to root, that lists the images to use, one path per line, of which the last part is
            compared (such as ImageNet's 10k list). It does not apply to a training split that has its own folder.
    """

    def __init__(self, root: Path, split: str, holdout: float = 0.0, names: str | None = None) -> None:
        folder = split_folder(root, split)
        base = folder or root
        images, self.left_out = names_in_split(root, base, split, names)
        self.files = Files(base, images.take(split_positions(images, split, holdout if folder is None else 0.0)))
        if not self.files:
            raise _no_images(base, split, self.left_out)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, Any]:
        name, path = self.files[index]
        return {"key": name, "x_0": path}


@register_dataset("paired_folders")
class PairedFolders:
    """Pairs in two folders, targets x_0 and sources x_1, with equal names up to the suffix, or names by templates.

    Layouts: root/SPLIT/x_0/..., root/x_0/SPLIT/..., root/x_0/... without splits, and any other with '{split}' in x_0
    and x_1, such as root/trainB/... for '{split}B'.

    Args:
        root: The folder that contains both folders.
        x_0: Folder of clean or target images.
        x_1: Folder of degraded or source images; may be the same folder if the name templates differ.
        holdout: Share of the pairs held out of training, if there are no split folders.
        lenient: Leave out unmatched files instead of raising an error (`check` lists them).
        x_0_name: Template of the name of a target without suffix; {} is the part that both names of a pair share.
        x_1_name: Template of the name of a source, such as '{}_x4'.
        condition: Folder of condition images, one for each pair, named by the part that both names share; it lies where
            those of x_0 and x_1 lie, and takes data.own_condition and network.condition_channels.
    """

    def __init__(
        self,
        root: Path,
        x_0: str,
        x_1: str,
        split: str,
        holdout: float = 0.0,
        lenient: bool = False,
        x_0_name: str = "{}",
        x_1_name: str = "{}",
        condition: str | None = None,
    ) -> None:
        targets, sources, split_there = side_folders(root, x_0, x_1, split)
        shared = targets == sources
        if shared and x_0_name == x_1_name:
            raise UserError(
                f"{targets}: one folder for x_0 and x_1 needs an x_0_name and an x_1_name that tell them apart"
            )
        images = {folder: image_names(folder) for folder in (targets, sources)}
        self.left_out = [line for folder in images for line in left_out_notes(folder, images[folder].left_out)]
        clean, problems = _stems(targets, images[targets], x_0_name, shared)
        degraded, more = _stems(sources, images[sources], x_1_name, shared)
        if shared:
            _tell_sides_apart(clean, degraded, x_0_name, x_1_name)
            matched = {path for side in (clean, degraded) for _, path in side.values()}
            others = [str(targets / path) for path in images[targets] if path not in matched]
            if others:
                shown = ", ".join(others[:3]) + (f" and {len(others) - 3} more" if len(others) > 3 else "")
                self.left_out.append(f"{shown}: left out: neither '{x_0_name}' nor '{x_1_name}'")
        self.pairing_problems = [*problems, *more, *self._unmatched(clean, degraded, targets, sources)]
        if self.pairing_problems and not lenient:
            totals = (
                f"{plural(len(clean), 'image')} in {targets} and {len(degraded)} in {sources} do not match one to one"
            )
            shown = "; ".join(self.pairing_problems[:3])
            words = {"x_0": x_0, "x_1": x_1, "x_0_name": x_0_name, "x_1_name": x_1_name}
            given = [f"{key}={word}" for key, word in words.items() if word != "{}"]
            command = shlex.join(["i2i-bridge", "check", str(root), "kind=paired_folders", *given])
            count = len(self.pairing_problems)
            raise UserError(
                f"{totals}: {shown}; lenient=true leaves out all {count}, and this lists them", ways=[command]
            )
        both = sorted(clean.keys() & degraded.keys(), key=lambda name: clean[name][0])
        # The key is the target's name in its own Unicode form, not normalised: held-out shares and draws depend on it.
        keys = [clean[name][0] for name in both]
        chosen = split_positions(keys, split, 0.0 if split_there else holdout)
        kept = [both[i] for i in chosen]
        self.keys = Names(keys[i] for i in chosen)
        self.files = Files(targets, Names(clean[name][1] for name in kept))
        self.sources = Files(sources, Names(degraded[name][1] for name in kept))
        self.conditions: Files | None = None
        if condition is not None:
            self.conditions = _conditions(side_folders(root, x_0, condition, split)[1], kept)
        if not kept and not (lenient and self.pairing_problems):
            if not any(map(len, images.values())) and not self.left_out:
                raise UserError(f"{targets}: no images in it, and none in {sources}; {_contents(targets)}")
            why = "; ".join(self.left_out or [HOLD_OUT])
            raise UserError(f"{targets} and {sources}: no pairs for the split '{split}'; {why}")

    @staticmethod
    def _unmatched(clean: Stems, degraded: Stems, targets: Path, sources: Path) -> Iterator[str]:
        for side, other_side, folder, other_folder in (
            (clean, degraded, targets, sources),
            (degraded, clean, sources, targets),
        ):
            free = sorted(other_side.keys() - side.keys())
            for name in sorted(side.keys() - other_side.keys()):
                near = _nearest(name, free) if len(free) < 2000 else None
                hint = f"; nearest: {PurePosixPath(other_side[near][1]).name}" if near else ""
                yield f"{folder / side[name][1]}: no partner in {other_folder}{hint}"

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = {"key": self.keys[index], "x_0": self.files[index][1], "x_1": self.sources[index][1]}
        return item if self.conditions is None else item | {"condition": self.conditions[index][1]}


def _tell_sides_apart(clean: Stems, degraded: Stems, x_0_name: str, x_1_name: str) -> None:
    """Remove files that match both templates from the side of the shorter one, such as 1_noisy.png from '{}'."""
    general, special = (clean, degraded) if len(x_0_name) < len(x_1_name) else (degraded, clean)
    matched = {path for _, path in special.values()}
    for name in [name for name, (_, path) in general.items() if path in matched]:
        del general[name]


def _conditions(folder: Path, pairs: Sequence[str]) -> Files:
    """The condition image of each pair, by the part of the name that the pair shares.

    Raises:
        UserError: A pair has none.
    """
    stems, _ = _stems(folder, image_names(folder), "{}", False)
    missing = [name for name in pairs if name not in stems]
    if missing:
        shown = ", ".join(missing[:3]) + (" ..." if len(missing) > 3 else "")
        raise UserError(f"{folder}: no condition image for {len(missing)} of {plural(len(pairs), 'pair')}: {shown}")
    return Files(folder, Names(stems[name][1] for name in pairs))


def _nearest(name: str, others: Sequence[str]) -> str | None:
    """The most similar name, for a hint: one that begins with `name` or the reverse (102_labels), else by spelling."""
    longer = [other for other in others if other.startswith(name) or name.startswith(other)]
    return min(longer, key=len) if longer else next(iter(difflib.get_close_matches(name, others, n=1)), None)


def side_folders(root: Path, x_0: str, x_1: str, split: str) -> tuple[Path, Path, bool]:
    """The folders of targets and sources of a split, and whether they are folders of that split only.

    Raises:
        UserError: A folder is missing, or there are folders of other splits only.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder")
    if "{split}" in x_0 or "{split}" in x_1:
        return _templated(root, x_0, x_1, split)
    if (root / x_0).is_dir() and (root / x_1).is_dir():
        targets, sources = split_folder(root / x_0, split), split_folder(root / x_1, split)
        if (targets is None) != (sources is None):
            with_splits, without = (x_0, x_1) if sources is None else (x_1, x_0)
            raise UserError(f"{root}: {with_splits} has split folders, {without} has none")
        return targets or root / x_0, sources or root / x_1, targets is not None
    base = split_folder(root, split) or root
    for name in (x_0, x_1):
        if not (base / name).is_dir():
            folders = sorted(path.name for path in base.iterdir() if path.is_dir())
            raise UserError(f"{base / name}: no such folder; {base} has {', '.join(folders) or 'no folders'}")
    return base / x_0, base / x_1, base != root


def _templated(root: Path, x_0: str, x_1: str, split: str) -> tuple[Path, Path, bool]:
    for side in (x_0, x_1):
        if "{split}" not in side:
            raise UserError(f"'{side}': where x_0 or x_1 says {{split}}, the other must too")
    known = {*all_split_names(), split}
    existing = [name for name in known if (root / x_0.replace("{split}", name)).is_dir()]
    name = split_name(existing, split, root / x_0)
    if name is None:
        raise UserError(f"{root / x_0}: no such folder for any split")
    targets, sources = root / x_0.replace("{split}", name), root / x_1.replace("{split}", name)
    if not sources.is_dir():
        raise UserError(f"{sources}: no such folder")
    return targets, sources, True


def _stems(folder: Path, names: ImageNames, template: str, shared: bool) -> tuple[Stems, list[str]]:
    """The images of a side by the part {} of their names, and problem lines about other and duplicate names.

    Names are compared in Unicode form NFC, since archives made on a Mac have decomposed accents.
    """
    before, hole, after = normal_form(template).partition("{}")
    if not hole or "{}" in after or "/" in template:
        raise UserError(f"'{template}': a name template has one {{}}, such as '{{}}_x4'; the suffix is not part of it")
    stems: Stems = {}
    problems = []
    for path in names:
        inside, slash, file = path.rpartition("/")
        spelt = file[: file.rfind(".")]
        stem = normal_form(spelt)
        if not (stem.startswith(before) and stem.endswith(after) and len(stem) > len(before) + len(after)):
            if not shared:
                problems.append(f"{folder / path}: the name is not of the form '{template}'")
            continue
        name = normal_form(inside) + slash + stem[len(before) : len(stem) - len(after)]
        if name in stems:
            twin = PurePosixPath(stems[name][1]).name
            problems.append(f"{folder / path}: the same name as {twin}; a pair must be unique")
            continue
        middle = spelt[len(before) : len(spelt) - len(after)] if template.isascii() else stem
        stems[name] = inside + slash + middle, path
    return stems, problems


@register_dataset("side_by_side")
class SideBySide:
    """Side-by-side files, one per pair: A on the left and B on the right (the layout of Pix2pix).

    Args:
        root: The folder of the files, or of the split folders.
        direction: 'AtoB': the left half is the source x_1 and the right half the target x_0; 'BtoA': the reverse.
        holdout: Share of the files held out of training, if there are no split folders.
    """

    def __init__(self, root: Path, direction: Literal["AtoB", "BtoA"], split: str, holdout: float = 0.0) -> None:
        self.images = CleanImages(root, split, holdout)
        self.files, self.left_out = self.images.files, self.images.left_out
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
