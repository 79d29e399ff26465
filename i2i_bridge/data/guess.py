"""The dataset table of the paths that a user registers: kind, root and sides, as given or guessed from the layout."""

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from i2i_bridge import registry
from i2i_bridge.data.layout import SOURCES, TARGETS, Layout, common_folder, first_is_target, layouts_of, split_base
from i2i_bridge.data.sources.folders import READERS
from i2i_bridge.data.sources.lists import COLUMNS, first_row
from i2i_bridge.errors import UserError
from i2i_bridge.images.folder import ARCHIVES, IMAGE_SUFFIXES

LISTS = {".csv", ".tsv", ".jsonl"}
Choose = Callable[[str, Sequence[Layout]], Layout | None]
"""Asks the user to choose: (evidence, possible layouts) -> the chosen layout, or None to register nothing."""


def guessed_table(
    name: str, paths: list[Path], options: dict[str, Any], kind: str | None, messages: list[str], choose: Choose | None
) -> dict[str, Any]:
    """The dataset table with kind and root, without the user's other options.

    Args:
        name: Name of the dataset, for the commands in messages.
        paths: A folder, the two folders of paired images, or a list file.
        options: The user's options as text; those that the table takes over are removed or replaced.
        kind: The dataset kind; None: guessed.
        messages: Gets a line for each guess.
        choose: Asks the user to confirm a guess; None: not interactive.

    Raises:
        UserError: The layout is ambiguous or none, or options contradict the paths.
    """
    if len(paths) == 2 and kind in (None, "paired_folders"):
        return _pair_table(name, paths[0], paths[1], options, messages)
    if len(paths) != 1:
        raise UserError("one folder, or the two folders of a pair, is registered at a time")
    (path,) = paths
    sides = None
    if kind in (None, "paired_folders") and path.is_dir() and not {"x_0", "x_1"} <= options.keys():
        sides = _two_sides(path)
    if sides and "direction" not in options and {"x_0", "x_1"} & options.keys():
        return _pair_table(name, *sides, options, messages, root=path)
    if kind is not None:
        known = registry.DATASETS.options(kind)
        if "root" not in known:
            raise UserError(f"dataset kind '{kind}' has no root, so a folder means nothing to it; copy a card instead")
        in_root = path.is_file() and "file" in known
        place = {"root": str(path.parent), "file": path.name} if in_root else {"root": str(path)}
        return {"name": kind} | place
    if path.is_file():
        return _list_table(name, path, options, messages)
    if "direction" in options:
        return {"name": "side_by_side", "root": str(path)}
    if {"x_0", "x_1"} & options.keys():
        return {"name": "paired_folders", "root": str(path)}
    return _folder_table(name, path, messages, choose)


def _folder_table(name: str, path: Path, messages: list[str], choose: Choose | None) -> dict[str, Any]:
    """The dataset table of the unambiguous layout of a folder, or of the one chosen by the user."""
    layouts = layouts_of(path)
    first = layouts.candidates[0]
    listed = _list_of_pairs(path) if first.table["name"] == "images" else None
    if listed is not None:
        command = shlex.join(["i2i-bridge", "data", "add", name, str(listed)])
        if choose is None:
            ways = [f"{command}   # the pairs of the list", f"{first.add_command(name)}   # {first.words}"]
            text = f"{path}: {listed.name} in it seems to list pairs; say what it is, by one of these commands"
            raise UserError(text, ways=ways)
        messages.append(f"{listed.name} seems to list pairs; they are registered by: {command}")
    if choose is not None:
        chosen = choose(f"{path}: {layouts.why}", layouts.candidates)
        if chosen is None:
            raise UserError(f"{path}: nothing is registered")
        first = chosen
    elif layouts.doubt:
        odd = f" ({first.odd_words()})" if first.odd else ""
        ways = [f"{layout.add_command(name)}   # {layout.words}" for layout in layouts.candidates]
        raise UserError(f"{path}: {layouts.why}{odd}; say what it is, by one of these commands", ways=ways)
    messages.append(f"guessed: kind {first.table['name']}, {first.words} ({layouts.why})")
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


def _list_table(name: str, path: Path, options: dict[str, Any], messages: list[str]) -> dict[str, Any]:
    """The dataset table of a list file; the columns of x_0 and x_1 are guessed from the header."""
    if path.suffix.lower() not in LISTS:
        raise _file_error(name, path)
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


def _file_error(name: str, path: Path) -> UserError:
    """The error for a file whose kind is not guessed, with the commands that read it."""
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


def _pair_table(
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
    decided = None if named else first_is_target(first.name, second.name)
    if decided is None:
        return None
    return (first, second) if decided else (second, first)


def _two_sides(root: Path) -> tuple[Path, Path] | None:
    """The two folders of a root, or of its split folder; None if there are not exactly two."""
    folders = sorted(path for path in split_base(root).iterdir() if path.is_dir() and not path.name.startswith("."))
    return (folders[0], folders[1]) if len(folders) == 2 else None
