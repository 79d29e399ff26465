"""Register a user's dataset (`data add`): guess its kind from the layout, open it once, and write a card."""

import contextlib
import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from i2i_bridge import registry
from i2i_bridge.data.cards import Card, Statistics, open_source, shipped_card_names
from i2i_bridge.data.items import decode_item
from i2i_bridge.data.readings import (
    SOURCES,
    TARGETS,
    Reading,
    common_folder,
    no_halves,
    readings,
    sizes_of,
    split_base,
    telling,
)
from i2i_bridge.data.source import item_of
from i2i_bridge.data.sources.folders import READERS
from i2i_bridge.data.sources.lists import COLUMNS, first_row
from i2i_bridge.data.splits import all_split_names, is_training
from i2i_bridge.data.statistics import facts_of, statistics_of
from i2i_bridge.data.store import own_card_file, own_card_names
from i2i_bridge.errors import UserError
from i2i_bridge.images.folder import ARCHIVES, IMAGE_SUFFIXES
from i2i_bridge.storage.files import write_whole
from i2i_bridge.storage.names import NAME_LETTERS
from i2i_bridge.storage.shipped import is_recipe_name
from i2i_bridge.storage.toml import override_parts

LISTS = {".csv", ".tsv", ".jsonl"}
HOLDOUT = (0.1, 0.2, 0.3, 0.5)
"""Default shares of held-out images; the first for which both splits have an image is used."""
MEASURED = 50
"""Number of pairs from which the card's statistics are measured."""
Choose = Callable[[str, Sequence[Reading]], Reading | None]
"""Asks the user to choose: (evidence, possible layouts) -> the chosen layout, or None to register nothing."""


@dataclass
class Registered:
    """The result of `register`: the card, its file, and messages for the user."""

    card: Card
    file: Path
    messages: list[str] = field(default_factory=list)
    """Messages about guesses, the number of items and files left out, one line each."""


def register(
    name: str,
    paths: Sequence[Path],
    settings: Sequence[str],
    kind: str | None = None,
    *,
    replace: bool = False,
    choose: Choose | None = None,
) -> Registered:
    """Open a user's dataset and write a card for it.

    Args:
        name: Name of the dataset in recipes.
        paths: A folder, the two folders of paired images, or a list file.
        settings: Options of the dataset kind as `key=value`, with TOML values and dotted keys for tables.
        kind: The dataset kind; by default guessed.
        replace: Whether to overwrite an existing card of this name, after the new dataset has been opened.
        choose: Asks the user to confirm a guess. None: not interactive; an ambiguous layout is an error that lists a
            command for each possible layout.

    Raises:
        UserError: The name is taken, the layout is ambiguous, or the dataset cannot be opened. Nothing is written.
    """
    _check_name(name, replace)
    options = _options(settings)
    for path in paths:
        if not path.exists():
            raise UserError(f"{path}: no such file or folder")
    messages: list[str] = []
    table = _table(name, [path.resolve() for path in paths], options, kind, messages, choose)
    known = registry.DATASETS.options(table["name"])
    table |= {key: registry.DATASETS.typed(table["name"], key, value) for key, value in options.items()}
    if table["name"] == "side_by_side":
        messages += _check_halves(name, table, explicit=kind is not None)
    if "holdout" in known:
        messages += _from_training_folder(table)
        if not _has_splits(table):
            if "holdout" not in table:
                share = table["holdout"] = _share(table)
                messages.append(f"no splits in it: a share of {share} is held out by name (holdout={share})")
        elif table.get("holdout"):
            messages.append(f"holdout={table['holdout']} has no effect, since the dataset has splits")
    messages.append(_count_items(table))
    messages += _left_out(table)
    where = " and ".join(str(path) for path in paths)
    summary = f"Your own: {where} ({table['name']})"
    card = Card(name=name, summary=summary, licence="your own", dataset=table, statistics=_statistics(table))
    file = own_card_file(name)
    write_whole(file, card.to_toml().encode())
    return Registered(card, file, messages)


def _statistics(table: dict[str, Any]) -> Statistics | None:
    """Statistics of the first pairs, by which `check` later detects exchanged sides; None without pairs."""
    try:
        source = open_source(table, "train")
    except UserError:  # a dataset may have no training split
        return None
    facts = []
    for i in range(min(len(source), MEASURED)):
        with contextlib.suppress(UserError):  # damaged files are reported by `check`
            facts.append(facts_of(item_of(source, i)))
    return statistics_of(facts)


def _check_name(name: str, replace: bool) -> None:
    if not re.fullmatch(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{NAME_LETTERS - 1}}}", name) or name.endswith(".toml"):
        raise UserError(
            f"'{name}': a dataset's name has letters, digits, '.', '_' and '-', at most {NAME_LETTERS}, and no .toml "
            "at its end"
        )
    if name in shipped_card_names() or is_recipe_name(name):
        raise UserError(f"'{name}' is a shipped card or recipe; choose another name")
    if name in own_card_names() and not replace:
        raise UserError(
            f"'{name}' is registered already; add --replace to overwrite its card, or first: "
            f"i2i-bridge data remove {name}"
        )


def _options(settings: Sequence[str]) -> dict[str, Any]:
    """Parse `key=value` settings into a table of texts; dotted keys give inner tables."""
    options: dict[str, Any] = {}
    for text in settings:
        parts, value = override_parts(text)
        if parts[0] in ("name", "kind", "split"):
            raise UserError(f"'{text}': not an option; the kind is given as --kind {value}")
        inner = options
        for part in parts[:-1]:
            inner = inner.setdefault(part, {})
            if not isinstance(inner, dict):
                raise UserError(f"'{text}': '{part}' is a value, not a table")
        inner[parts[-1]] = value
    return options


def _table(
    name: str, paths: list[Path], options: dict[str, Any], kind: str | None, messages: list[str], choose: Choose | None
) -> dict[str, Any]:
    """The dataset table with kind and root, without the user's other options."""
    if len(paths) == 2 and kind in (None, "paired_folders"):
        return _pair(name, paths[0], paths[1], options, messages)
    if len(paths) != 1:
        raise UserError("one folder, or the two folders of a pair, is registered at a time")
    (path,) = paths
    sides = None
    if kind in (None, "paired_folders") and path.is_dir() and not {"x_0", "x_1"} <= options.keys():
        sides = _two_sides(path)
    if sides and "direction" not in options and {"x_0", "x_1"} & options.keys():
        return _pair(name, *sides, options, messages, root=path)
    if kind is not None:
        known = registry.DATASETS.options(kind)
        if "root" not in known:
            raise UserError(f"dataset kind '{kind}' has no root, so a folder means nothing to it; copy a card instead")
        in_root = path.is_file() and "file" in known
        place = {"root": str(path.parent), "file": path.name} if in_root else {"root": str(path)}
        return {"name": kind} | place
    if path.is_file():
        return _list(name, path, options, messages)
    if "direction" in options:
        return {"name": "side_by_side", "root": str(path)}
    if {"x_0", "x_1"} & options.keys():
        return {"name": "paired_folders", "root": str(path)}
    return _chosen(name, path, messages, choose)


def _chosen(name: str, path: Path, messages: list[str], choose: Choose | None) -> dict[str, Any]:
    """The dataset table of the unambiguous layout of a folder, or of the one chosen by the user."""
    seen = readings(path)
    first = seen.candidates[0]
    listed = _list_of_pairs(path) if first.table["name"] == "images" else None
    if listed is not None:
        command = shlex.join(["i2i-bridge", "data", "add", name, str(listed)])
        if choose is None:
            ways = [f"{command}   # the pairs of the list", f"{first.add_command(name)}   # {first.words}"]
            text = f"{path}: {listed.name} in it seems to list pairs; say what it is, by one of these commands"
            raise UserError(text, ways=ways)
        messages.append(f"{listed.name} seems to list pairs; they are registered by: {command}")
    if choose is not None:
        first = _asked(path, choose(f"{path}: {seen.why}", seen.candidates))
    elif seen.doubt:
        odd = f" ({first.odd_words()})" if first.odd else ""
        ways = [f"{reading.add_command(name)}   # {reading.words}" for reading in seen.candidates]
        raise UserError(f"{path}: {seen.why}{odd}; say what it is, by one of these commands", ways=ways)
    messages.append(f"guessed: kind {first.table['name']}, {first.words} ({seen.why})")
    if first.odd:
        messages.append(first.odd_words())
    return dict(first.table)


def _list_of_pairs(folder: Path) -> Path | None:
    """A list file in a folder with columns for both sides of a pair; None if there is none."""
    for file in sorted(folder.iterdir() if folder.is_dir() else []):
        if file.suffix.lower() not in LISTS or not file.is_file():
            continue
        try:
            columns = {column.lower() for column in first_row(file)}
        except UserError:  # not a list file
            continue
        if columns & {"x_0", *TARGETS} and columns & {"x_1", *SOURCES}:
            return file
    return None


def _asked(path: Path, reading: Reading | None) -> Reading:
    if reading is None:
        raise UserError(f"{path}: nothing is registered")
    return reading


def _list(name: str, path: Path, options: dict[str, Any], messages: list[str]) -> dict[str, Any]:
    """The dataset table of a list file; the columns of x_0 and x_1 are guessed from the header."""
    if path.suffix.lower() not in LISTS:
        raise _no_list(name, path)
    messages.append("guessed from the suffix: kind list")
    table: dict[str, Any] = {"name": "list", "root": str(path.parent), "file": path.name}
    row = first_row(path)
    columns = list(row)
    given = options.get("columns", {})
    if not isinstance(given, dict) or not all(isinstance(column, str) for column in given.values()):
        raise UserError("columns: should be a table of names, such as columns.x_0=COLUMN columns.x_1=COLUMN")
    guessed = {}
    for part, words in (("x_0", TARGETS), ("x_1", SOURCES)):
        fits = [column for column in columns if column.lower() in words and column not in given.values()]
        if len(fits) == 1 and part not in columns and part not in given:
            guessed[part] = fits[0]
    if "x_0" not in {*columns, *given, *guessed}:
        command = shlex.join(["i2i-bridge", "data", "add", name, str(path), "columns.x_0=COLUMN", "columns.x_1=COLUMN"])
        raise UserError(
            f"{path}: which of the columns {', '.join(columns)} is x_0, and x_1 if there is one?", ways=[command]
        )
    used = {*COLUMNS, *given.values(), *guessed.values()}
    others = [column for column in columns if column not in used and Path(row[column]).suffix.lower() in IMAGE_SUFFIXES]
    if others and "x_0" not in given and "x_1" not in {*columns, *guessed}:
        target = guessed.get("x_0", "x_0")
        base = ["i2i-bridge", "data", "add", name, str(path), f"columns.x_0={target}"]
        ways = [
            f"{shlex.join([*base, f'columns.x_1={column}'])}   # pairs, {column} the sources x_1" for column in others
        ]
        ways.append(f"{shlex.join(base)}   # clean images, for a recipe's degradation")
        raise UserError(
            f"{path}: {target} is x_0, and {' and '.join(others)} may be x_1; say what it is, by one of these commands",
            ways=ways,
        )
    if not guessed:
        return table
    messages.append("guessed from the header: " + ", ".join(f"{column} is {part}" for part, column in guessed.items()))
    options["columns"] = guessed | given
    return table


def _no_list(name: str, path: Path) -> UserError:
    """The error of a file that is not read unasked, with what can be read."""
    suffix = path.suffix.lower()
    command = ["i2i-bridge", "data", "add", name]
    if suffix == ".tar":
        shard = [*command, str(path.parent), "--kind", "tar_shards", f"shards={path.name}"]
        ways = [f"{shlex.join(shard)}   # a shard of WebDataset"]
        return UserError(
            f"{path}: an archive; unpack it and give the folder, or read it as it is by this command", ways=ways
        )
    if suffix in ARCHIVES:
        return UserError(f"{path}: an archive; unpack it first and give the folder")
    if suffix in READERS:
        ways = [shlex.join([*command, str(path), "--kind", READERS[suffix]])]
        return UserError(
            f"{path}: a file, not a folder; the kind {READERS[suffix]} reads it, with its options", ways=ways
        )
    if suffix == ".txt":
        listed = [*command, str(path), "--kind", "list"]
        ways = [
            f"{shlex.join(listed)}   # clean images",
            f"{shlex.join([*listed, 'folders.x_0=FOLDER', 'folders.x_1=FOLDER'])}   # pairs in two folders",
        ]
        text = "say with --kind what it is; a list of names as BasicSR's meta_info is read by one of these commands"
        return UserError(f"{path}: {text}", ways=ways)
    lists = f"a list is {', '.join(sorted(LISTS))}, or .txt as BasicSR's meta_info"
    return UserError(f"{path}: neither a folder nor a list; {lists}; a file for a plug-in's dataset takes its --kind")


def _check_halves(name: str, table: dict[str, Any], explicit: bool) -> list[str]:
    """Check that the files of each split are side-by-side pairs; returns a message about unlikely files.

    Raises:
        UserError: More than half of the files of a split are unlikely, and the kind was not given by the user.
    """
    sizes = {}
    for split in ("train", "val"):
        with contextlib.suppress(UserError):  # reported by `_count_items`
            files = open_source(table, split).files  # type: ignore[attr-defined]
            sizes[split] = sizes_of([(str(path), path) for _, path in files])
    all_sizes = {file: size for of_split in sizes.values() for file, size in of_split.items()}
    odd, why = no_halves(all_sizes)
    if not odd:
        return []
    shown = ", ".join(f"{file} ({width}x{height})" for file in odd[:5] for height, width in [all_sizes[file]])
    line = f"{len(odd)} files are hardly pairs of halves: {shown}{' ...' if len(odd) > 5 else ''}; {why}"
    for split, of_split in sizes.items():
        if not explicit and 2 * sum(file in set(odd) for file in of_split) > len(of_split):
            words = [f"{key}={value}" for key, value in table.items() if key not in ("name", "root")]
            ways = [["--kind", "side_by_side", *words], ["--kind", "images"]]
            commands = [shlex.join(["i2i-bridge", "data", "add", name, table["root"], *way]) for way in ways]
            raise UserError(f"{table['root']}: {split}: {line}. They would be cut in the middle", ways=commands)
    return [line]


def _pair(
    name: str, first: Path, second: Path, options: dict[str, Any], messages: list[str], root: Path | None = None
) -> dict[str, Any]:
    """The dataset table of two folders; the target folder is given by the options or guessed from the names."""
    if first.is_relative_to(second) or second.is_relative_to(first):
        raise UserError(f"{first} and {second}: one is inside the other")
    common = common_folder(first, second)
    # An option x_0=clean gives the name of the folder, not its path.
    named: dict[str, str] = {key: Path(str(options.pop(key))).name for key in ("x_0", "x_1") if key in options}
    for key, side in named.items():
        if side not in (first.name, second.name):
            raise UserError(f"{key}={side}: neither {first.name} nor {second.name}")
    order = _order(first, second, named)
    if order is None:
        ways = [
            shlex.join(["i2i-bridge", "data", "add", name, str(first), str(second), f"x_0={side.name}"])
            for side in (first, second)
        ]
        raise UserError(f"{first.name} and {second.name}: which one holds the targets x_0, the clean ones?", ways=ways)
    target, source = order
    if not named:
        messages.append(
            f"guessed from the names: kind paired_folders, {target.name} the targets x_0, {source.name} the sources x_1"
        )
    base = root or common
    if root is not None and first.parent != root:  # root/SPLIT/SIDE
        return {"name": "paired_folders", "root": str(base), "x_0": target.name, "x_1": source.name}
    sides = {"x_0": target.relative_to(base).as_posix(), "x_1": source.relative_to(base).as_posix()}
    return {"name": "paired_folders", "root": str(base)} | sides


def _order(first: Path, second: Path, named: dict[str, str]) -> tuple[Path, Path] | None:
    """The target and source folders; None if neither options nor names decide."""
    for target, source in ((first, second), (second, first)):
        wanted = {"x_0": target.name, "x_1": source.name}
        if named and all(wanted[key] == name for key, name in named.items()) and first.name != second.name:
            return target, source
    first_is_target = None if named else telling(first.name, second.name)
    if first_is_target is None:
        return None
    return (first, second) if first_is_target else (second, first)


def _two_sides(root: Path) -> tuple[Path, Path] | None:
    """The two folders of a root, or of its split folder; None if there are not exactly two."""
    folders = sorted(path for path in split_base(root).iterdir() if path.is_dir() and not path.name.startswith("."))
    return (folders[0], folders[1]) if len(folders) == 2 else None


def _split_folders(table: dict[str, Any]) -> list[Path]:
    """The split folders of a dataset, in its root or in the folder of targets."""
    root = Path(table["root"])
    side = root / str(table.get("x_0", ""))
    base = side if table["name"] == "paired_folders" and side.is_dir() else root
    return [base / name for name in all_split_names() if (base / name).is_dir()]


def _from_training_folder(table: dict[str, Any]) -> list[str]:
    """Turn a table whose only split folder is that of training into one of that folder; returns a message.

    Otherwise nothing could be held out of it, and no training takes a dataset without validation images.
    """
    folders = _split_folders(table)
    if not folders or not all(is_training(folder.name) for folder in folders) or "names" in table:
        return []
    with contextlib.suppress(UserError):
        open_source(table, "val")
        return []  # a list, for example, whose splits are no folders
    if folders[0].parent == Path(table["root"]):
        table["root"] = str(folders[0])
    else:
        table |= {side: f"{table[side]}/{folders[0].name}" for side in ("x_0", "x_1", "condition") if side in table}
    return [f"{folders[0]} is the only split folder: the validation images are held out of it"]


def _has_splits(table: dict[str, Any]) -> bool:
    """Whether the dataset has splits of its own, so that its items do not depend on `holdout`."""
    for split in ("train", "val"):
        try:
            count = len(open_source(table | {"holdout": 0.0}, split))
        except UserError:
            continue  # a split that is not there, or an error reported by `_count_items`
        try:
            return len(open_source(table | {"holdout": 1 - 1e-9}, split)) == count
        except UserError:
            return False
    return True


def _share(table: dict[str, Any]) -> float:
    for share in HOLDOUT:
        try:
            for split in ("train", "val"):
                open_source(table | {"holdout": share}, split)
        except UserError:
            continue  # too few images for this share, or an error reported by `_count_items`
        return share
    return HOLDOUT[0]


def _count_items(table: dict[str, Any]) -> str:
    """Open both splits and decode an item of each; returns a message with the numbers of items.

    Raises:
        UserError: A split cannot be opened, other than a training split of which there is no folder.
    """
    counts, problems = [], {}
    for split in ("train", "val"):
        try:
            source = open_source(table, split)
            decode_item(source[0], 3)
            counts.append(f"{split} {len(source)}")
        except UserError as error:
            problems[split] = error
    folders = _split_folders(table)
    evaluation_only = bool(folders) and not any(is_training(folder.name) for folder in folders)
    if "val" in problems or ("train" in problems and not evaluation_only):
        raise problems.get("train") or problems["val"]
    return "items: " + ", ".join(counts + [f"{split} none ({error})" for split, error in problems.items()])


def _left_out(table: dict[str, Any]) -> list[str]:
    """Messages about the files left out of the dataset."""
    lines: list[str] = []
    for split in ("train", "val"):
        with contextlib.suppress(UserError):
            lines += getattr(open_source(table, split), "left_out", [])
    return list(dict.fromkeys(lines))
