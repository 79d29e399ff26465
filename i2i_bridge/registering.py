"""A dataset of one's own, registered from the command line: its kind is guessed where the layout leaves no doubt."""

import contextlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from i2i_bridge import registry
from i2i_bridge.data.card_store import own_card_file, own_card_names
from i2i_bridge.data.cards import Card, Statistics, open_source, shipped_card_names
from i2i_bridge.data.items import item_of
from i2i_bridge.data.loading import decode_item
from i2i_bridge.data.splits import SPLITS
from i2i_bridge.errors import UserError
from i2i_bridge.files import write_whole
from i2i_bridge.images import find_images
from i2i_bridge.inspecting import facts_of, statistics_of
from i2i_bridge.recipe import is_recipe_name
from i2i_bridge.toml_file import toml_value

TARGETS = {"b", "clean", "gt", "ground_truth", "groundtruth", "high", "hq", "hr", "original", "sharp", "target"}
TARGETS |= {"targets", "trg", "x0", "x_0"}
SOURCES = {"a", "blur", "blurred", "blurry", "corrupted", "degraded", "input", "inputs", "low", "lq", "lr", "noisy"}
SOURCES |= {"source", "sources", "src", "x1", "x_1"}
"""What the folder of targets x_0 and that of sources x_1 are usually called, in small letters."""

LISTS = {".csv", ".tsv", ".jsonl"}
HOLDOUT = (0.1, 0.2, 0.3, 0.5)
"""The share held out where nothing says it: the first that gives both splits an image."""
MEASURED = 50
"""So many pairs say how the sides look."""
LOOKED_AT = 20
"""So many images tell whether files are of two halves."""


@dataclass
class Registered:
    """A card that was written, and what there is to say about it."""

    card: Card
    file: Path
    said: list[str] = field(default_factory=list)


def register(name: str, paths: Sequence[Path], settings: Sequence[str], kind: str | None = None) -> Registered:
    """Write a card for the user's dataset, after opening it once.

    Args:
        name: How recipes shall call it.
        paths: A folder, or the two folders of a pair, or the list file of a kind that has one.
        settings: `key=value` options of the kind, TOML values.
        kind: The dataset kind; by default guessed.

    Raises:
        UserError: The name is taken, the layout leaves a doubt, or the dataset cannot be opened. Nothing is written.
    """
    _check_name(name)
    options = dict(_option(text) for text in settings)
    for path in paths:
        if not path.exists():
            raise UserError(f"{path}: no such file or folder")
    said: list[str] = []
    table = _table([path.resolve() for path in paths], options, kind, said) | options
    if "holdout" in registry.DATASETS.options(table["name"]) and "holdout" not in table and not _has_splits(table):
        share = table["holdout"] = _share(table)
        said.append(f"no folders for splits: a share of {share} is held out by name (holdout={share})")
    said.append(_look(table))
    where = " and ".join(str(path) for path in paths)
    summary = f"Your own: {where} ({table['name']})"
    card = Card(name=name, summary=summary, licence="your own", dataset=table, statistics=_statistics(table))
    file = own_card_file(name)
    write_whole(file, card.to_toml().encode())
    return Registered(card, file, said)


def _statistics(table: dict[str, Any]) -> Statistics | None:
    """How the sides of the first pairs look: by it `check` tells later when they are exchanged."""
    try:
        source = open_source(table, "train")
    except UserError:  # there may be images to score on only
        return None
    facts = []
    for i in range(min(len(source), MEASURED)):
        with contextlib.suppress(UserError):  # a damaged file is for `check` to name
            facts.append(facts_of(item_of(source, i)))
    return statistics_of(facts)


def _check_name(name: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) or name.endswith(".toml"):
        raise UserError(f"'{name}': a dataset's name has letters, digits, '.', '_' and '-', and no .toml at its end")
    if name in shipped_card_names() or is_recipe_name(name):
        raise UserError(f"'{name}' is a shipped card or recipe; choose another name")
    if name in own_card_names():
        raise UserError(f"'{name}' is registered already; first: i2i-bridge data remove {name}")


def _option(text: str) -> tuple[str, Any]:
    key, _, value = text.partition("=")
    if key in ("name", "kind", "split"):
        raise UserError(f"'{text}': not an option; the kind is given as --kind {value}")
    return key, toml_value(value)


def _table(paths: list[Path], options: dict[str, Any], kind: str | None, said: list[str]) -> dict[str, Any]:
    """The dataset table without the user's options: kind and place."""
    if len(paths) == 2 and kind in (None, "paired_folders"):
        return _pair(paths[0], paths[1], options, said)
    if len(paths) != 1:
        raise UserError("one folder, or the two folders of a pair, is registered at a time")
    (path,) = paths
    sides = None
    if kind in (None, "paired_folders") and path.is_dir() and not {"x_0", "x_1"} <= options.keys():
        sides = _two_sides(path)
    if sides and "direction" not in options:
        return _pair(*sides, options, said, root=path)
    if kind is not None:
        known = registry.DATASETS.options(kind)
        if "root" not in known:
            raise UserError(f"dataset kind '{kind}' has no root, so a folder means nothing to it; copy a card instead")
        place = {"root": str(path.parent), "file": path.name} if path.is_file() else {"root": str(path)}
        return {"name": kind} | place
    if path.is_file():
        if path.suffix.lower() not in LISTS:
            raise UserError(f"{path}: a file, not a folder; say with --kind what it is")
        said.append("guessed from the suffix: kind list")
        return {"name": "list", "root": str(path.parent), "file": path.name}
    if "direction" in options:
        return {"name": "side_by_side", "root": str(path)}
    if {"x_0", "x_1"} & options.keys():
        return {"name": "paired_folders", "root": str(path)}
    if _of_two_halves(path):
        raise UserError(
            f"{path}: the files are twice as wide as high, so each may hold a pair: add direction=AtoB (left is the "
            "source), direction=BtoA, or --kind images"
        )
    said.append("guessed: kind images, clean images for a recipe's degradation (no two folders of the same names)")
    return {"name": "images", "root": str(path)}


def _pair(
    first: Path, second: Path, options: dict[str, Any], said: list[str], root: Path | None = None
) -> dict[str, Any]:
    """Two folders as targets and sources: as the options say, or else as their names do."""
    if first.is_relative_to(second) or second.is_relative_to(first):
        raise UserError(f"{first} and {second}: one is inside the other")
    common = Path(os.path.commonpath([first, second]))
    # As in the options: x_0=clean names the side, wherever it lies.
    named: dict[str, str] = {key: Path(str(options.pop(key))).name for key in ("x_0", "x_1") if key in options}
    for key, name in named.items():
        if name not in (first.name, second.name):
            raise UserError(f"{key}={name}: neither {first.name} nor {second.name}")
    order = _order(first, second, named)
    if order is None:
        way_out = ", or --kind images where they are no pairs" if root else ""
        raise UserError(
            f"{first.name} and {second.name} look like the sides of pairs; add x_0=FOLDER for the clean or target one"
            f"{way_out}"
        )
    target, source = order
    if not named:
        said.append(
            f"guessed from the names: kind paired_folders, {target.name} the targets x_0, {source.name} the sources x_1"
        )
    base = root or common
    if root is not None and first.parent != root:  # root/SPLIT/SIDE
        return {"name": "paired_folders", "root": str(base), "x_0": target.name, "x_1": source.name}
    sides = {"x_0": target.relative_to(base).as_posix(), "x_1": source.relative_to(base).as_posix()}
    return {"name": "paired_folders", "root": str(base)} | sides


def _order(first: Path, second: Path, named: dict[str, str]) -> tuple[Path, Path] | None:
    """Target and source, or None where nothing tells them apart."""
    for target, source in ((first, second), (second, first)):
        wanted = {"x_0": target.name, "x_1": source.name}
        if named and all(wanted[key] == name for key, name in named.items()) and first.name != second.name:
            return target, source
    if named:
        return None
    votes = [(path.name.lower() in TARGETS) - (path.name.lower() in SOURCES) for path in (first, second)]
    if votes[0] == votes[1]:
        return None
    return (first, second) if votes[0] > votes[1] else (second, first)


def _split_base(root: Path) -> Path:
    """Where the layout of one split can be seen: the folder of a split, or the root."""
    names = [name for aliases in SPLITS.values() for name in aliases]
    return next((root / name for name in names if (root / name).is_dir()), root)


def _two_sides(root: Path) -> tuple[Path, Path] | None:
    """The only two folders, if most of their images go by the same names."""
    base = _split_base(root)
    folders = sorted(path for path in base.iterdir() if path.is_dir() and not path.name.startswith("."))
    if len(folders) != 2:
        return None
    names = [{path.relative_to(side).with_suffix("") for path in find_images(side)} for side in folders]
    if 2 * len(names[0] & names[1]) <= min(map(len, names)):
        return None
    return folders[0], folders[1]


def _of_two_halves(root: Path) -> bool:
    """Whether the images, as far as looked at, are exactly twice as wide as high."""
    files = find_images(_split_base(root))
    seen = []
    for path in files[:: max(len(files) // LOOKED_AT, 1)][:LOOKED_AT]:
        try:
            with Image.open(path) as image:
                seen.append(image.width == 2 * image.height)
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError):
            continue  # `check` names it
    return bool(seen) and all(seen)


def _has_splits(table: dict[str, Any]) -> bool:
    root = Path(table["root"])
    return any(_split_base(folder) != folder for folder in (root, root / str(table.get("x_0", ""))))


def _share(table: dict[str, Any]) -> float:
    for share in HOLDOUT:
        try:
            for split in ("train", "val"):
                open_source(table | {"holdout": share}, split)
        except UserError:
            continue  # one of few images, or something that the look at the end will say
        return share
    return HOLDOUT[0]


def _look(table: dict[str, Any]) -> str:
    """Opens both splits, decodes an item of each, and says how many there are.

    Raises:
        UserError: Neither opens, or the one for training does not although it is there.
    """
    counts, problems = [], {}
    for split in ("train", "val"):
        try:
            source = open_source(table, split)
            decode_item(source[0], 3)
            counts.append(f"{split} {len(source)}")
        except UserError as error:
            problems[split] = error
    evaluation_only = Path(table["root"], "val").is_dir() and not Path(table["root"], "train").is_dir()
    if not counts or ("train" in problems and not evaluation_only):
        raise problems["train"]
    return "items: " + ", ".join(counts + [f"{split} none ({error})" for split, error in problems.items()])
