"""Datasets given by a list file with a row for each item: CSV, JSON lines, or BasicSR's meta_info."""

import csv
import posixpath
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from i2i_bridge.data.index import Names
from i2i_bridge.data.source import IMAGES
from i2i_bridge.data.sources.folders import Files
from i2i_bridge.data.splits import is_training, split_names, split_positions
from i2i_bridge.errors import UserError, check_keys, did_you_mean, located, plural
from i2i_bridge.registry import register_dataset
from i2i_bridge.storage.names import normal_form
from i2i_bridge.storage.reader import parse_json, read_lines

COLUMNS = (*IMAGES, "label", "split", "key")


@register_dataset("list")
class ListFile:
    """Items of a list file: .csv or .tsv with a header, .jsonl, or .txt in BasicSR's form 'NAME (H,W,C)'.

    The columns are x_0 and optionally x_1, mask, condition, label, split and key; other columns are ignored. The
    default key is the path of x_0, with a number if rows share it. Relative paths must stay below root; absolute paths
    are allowed.

    Args:
        root: The folder to which paths are relative, including those of the list files.
        file: A list for all splits, divided by its column 'split' or by `holdout`.
        train: The list of the split 'train', instead of `file`.
        val: The list of the split 'val'.
        test: The list of the split 'test'; by default that of 'val'.
        columns: Other column names, such as {x_0 = "clean", x_1 = "noisy"}. Only x_0 and the columns named here are
            required.
        folders: Folders prepended to the paths of a column, such as {x_0 = "gt", x_1 = "lq"}. A .txt has x_0 and the
            parts named here.
        x_1_name: For a .txt: template of the source's name without suffix, with {} for the target's name, such as
            '{}x4'.
        holdout: Share of the items held out of training, without lists for the splits and without a column 'split', or
            where that column says 'train' only.
    """

    def __init__(
        self,
        root: Path,
        split: str,
        file: str | None = None,
        train: str | None = None,
        val: str | None = None,
        test: str | None = None,
        columns: dict[str, str] | None = None,
        folders: dict[str, str] | None = None,
        x_1_name: str = "{}",
        holdout: float = 0.0,
    ) -> None:
        self.root, self.folders = root, folders or {}
        lists = {name: given for name, given in (("train", train), ("val", val), ("test", test)) if given is not None}
        if (file is None) == (not lists):
            raise UserError("a list needs `file` for all splits, or `train` and `val` for each")
        if lists:
            file = next((lists[name] for name in split_names(split) if name in lists), None)
            if file is None:
                raise UserError(f"no list for the split '{split}'; there is {', '.join(lists)}")
        with located("columns"):
            check_keys(columns or {}, COLUMNS)
        with located("folders"):
            check_keys(self.folders, IMAGES)
        self.file = root / str(file)
        rows = list(self._rows(columns or {}, x_1_name))
        if not rows:
            raise UserError(f"{self.file}: an empty list")
        told_apart = "split" in rows[0][1] and not (holdout and all(is_training(row["split"]) for _, row in rows))
        if told_apart and not lists:
            rows = _of_split(rows, split, self.file)
        self.keys = Names(_keys(rows))
        shared = not lists and not told_apart
        chosen = split_positions(self.keys, split, holdout if shared else 0.0)
        self.keys = self.keys.take(chosen)
        self.paths = {part: Names(rows[i][1].get(part, "") for i in chosen) for part in IMAGES if part in rows[0][1]}
        self.files = Files(root, self.paths["x_0"])
        self.labels = self._labels([rows[i] for i in chosen]) if "label" in rows[0][1] else None
        if not self.keys:
            raise UserError(f"{self.file}: no items for the split '{split}'")

    def _rows(self, columns: dict[str, str], x_1_name: str) -> Iterator[tuple[int, dict[str, str]]]:
        """(line number, row) of every row, checked, with the column names of COLUMNS."""
        readers = {".csv": _csv, ".tsv": _csv, ".jsonl": _jsonl, ".txt": self._meta_info}
        reader = readers.get(self.file.suffix.lower())
        if reader is None:
            raise UserError(f"{self.file}: not a list file; known: {', '.join(readers)}")
        header = {part: columns.get(part, part) for part in COLUMNS}
        first: dict[str, str] | None = None
        for line, given in reader(read_lines(self.file), self.file, x_1_name):
            if first is None:
                first = {part: name for part, name in header.items() if name in given}
                missing = [name for part, name in header.items() if part not in first and part in ("x_0", *columns)]
                if missing:
                    raise UserError(f"{self.file}: no column '{missing[0]}'{did_you_mean(missing[0], given)}")
            row = {part: given[name] for part, name in first.items() if given.get(name)}
            empty = [name for part, name in first.items() if part not in row]
            if empty:
                raise UserError(f"{self.file}:{line}: nothing in the column '{empty[0]}'")
            for part in IMAGES:
                if part in row:
                    row[part] = self._path(row[part], part, line)
            yield line, row

    def _path(self, name: str, part: str, line: int) -> str:
        path = posixpath.normpath(PurePosixPath(self.folders.get(part, "")) / name.replace("\\", "/"))
        if PurePosixPath(path).parts[:1] == ("..",):
            raise UserError(f"{self.file}:{line}: '{name}' leads out of {self.root}; write an absolute path instead")
        return path

    def _labels(self, rows: list[tuple[int, dict[str, str]]]) -> np.ndarray:
        labels = []
        for line, row in rows:
            try:
                labels.append(int(row["label"]))
            except ValueError as error:
                raise UserError(f"{self.file}:{line}: the label '{row['label']}' is no integer") from error
        return np.array(labels, dtype=np.int64)

    def _meta_info(self, lines: list[str], file: Path, x_1_name: str) -> Iterator[tuple[int, dict[str, str]]]:
        before, hole, after = x_1_name.partition("{}")
        if not hole or "{}" in after:
            raise UserError(f"'{x_1_name}': a name template has one {{}}, such as '{{}}x4'")
        for line, words in enumerate(lines, 1):
            # 'NAME (480,480,3)', optionally followed by a compression level, or NAME alone; names may contain spaces.
            name = words.partition(" (")[0].strip()
            if not name:
                continue
            row = {"x_0": name}
            for part in self.folders:
                row[part] = name
            if "x_1" in row:
                path = PurePosixPath(name)
                row["x_1"] = str(path.with_name(before + path.stem + after + path.suffix))
            yield line, row

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item: dict[str, Any] = {"key": self.keys[index]}
        item |= {part: _existing_spelling(self.root / names[index]) for part, names in self.paths.items()}
        return item if self.labels is None else item | {"label": int(self.labels[index])}


def _existing_spelling(path: Path) -> Path:
    """The path, or the existing file whose name is equal in Unicode form NFC."""
    if str(path).isascii() or path.exists() or not path.parent.is_dir():
        return path
    name = normal_form(path.name)
    return next((other for other in path.parent.iterdir() if normal_form(other.name) == name), path)


def first_row(file: Path) -> dict[str, str]:
    """The first row of a .csv, .tsv or .jsonl, by column.

    Raises:
        UserError: The file cannot be read, or has no rows.
    """
    reader = _jsonl if file.suffix.lower() == ".jsonl" else _csv
    for _, row in reader(read_lines(file), file, ""):
        return row
    raise UserError(f"{file}: an empty list")


def _csv(lines: list[str], file: Path, _: str) -> Iterator[tuple[int, dict[str, str]]]:
    # Spreadsheets separate cells by semicolons in languages with a decimal comma.
    comma = ";" if ";" in lines[0] and "," not in lines[0] else ","
    delimiter = "\t" if file.suffix.lower() == ".tsv" else comma
    reader = csv.reader((f"{line}\n" for line in lines), delimiter=delimiter, strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(header):
                raise UserError(
                    f"{file}:{reader.line_num}: {plural(len(cells), 'cell')}, but the header has {len(header)}"
                )
            yield reader.line_num, dict(zip(header, (cell.strip() for cell in cells), strict=True))
    except csv.Error as error:
        raise UserError(f"{file}:{reader.line_num}: {error}") from error


def _jsonl(lines: list[str], file: Path, _: str) -> Iterator[tuple[int, dict[str, str]]]:
    for line, words in enumerate(lines, 1):
        if not words.strip():
            continue
        with located(f"{file}:{line}", "not JSON", ValueError):
            row = parse_json(words)
        if not isinstance(row, dict):
            raise UserError(f'{file}:{line}: a row is a JSON object, such as {{"x_0": "a.png"}}')
        yield line, {name: str(value) for name, value in row.items() if value is not None}


def _of_split(rows: list[tuple[int, dict[str, str]]], split: str, file: Path) -> list[tuple[int, dict[str, str]]]:
    splits = {row["split"] for _, row in rows}
    names = [name for name in split_names(split) if name in splits]
    if not names:
        others = ", ".join(sorted(splits))
        hint = "; holdout=0.1 holds out a tenth of them" if all(map(is_training, splits)) else ""
        raise UserError(f"{file}: no rows of the split '{split}'; there is {others}{hint}")
    return [(line, row) for line, row in rows if row["split"] == names[0]]


def _keys(rows: list[tuple[int, dict[str, str]]]) -> Iterator[str]:
    seen: Counter[str] = Counter()
    for _, row in rows:
        name = row.get("key", row["x_0"])
        seen[name] += 1
        yield name if seen[name] == 1 else f"{name}#{seen[name]}"
