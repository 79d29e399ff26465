"""The gallery of a page: which saved pictures and per-image numbers can be looked at, as plain data."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from i2i_bridge.comparing import BASELINES, Entry, shown_rows
from i2i_bridge.images import read_picture, to_tensor
from i2i_bridge.pictures import Pictures, Shown, safe_name
from i2i_bridge.records import slug
from i2i_bridge.results import INPUT, evaluation_folder
from i2i_bridge.tabulating import BEST, Table

CLEAN = "clean"
INSIDE = 24
"""How many images a single file holds."""


def gallery(entries: Sequence[Entry], table: Table, pictures: Pictures, nfe: Sequence[int] | None) -> dict[str, Any]:
    """What the page's script needs: sources, metrics, and for each image its files and numbers by source.

    Files are copied into `pictures`; of a single file only some images are taken, the worst of each row first. Empty
    where no picture was saved.
    """
    sources = _sources(entries, nfe)
    scores = [_scores(entry, table) for entry in entries]
    names = sorted({file.name for i, row, _ in sources for file in _folder(entries[i], row).glob("*.png")})
    keys = {name: key for entry in reversed(entries) for name, key in _keys(entry).items()}
    numbers = {
        name: [
            [_plain(value) for value in scores[i].get((keys.get(name, ""), row), [math.nan] * len(table.columns))]
            for i, row, _ in sources
        ]
        for name in names
    }
    kept = [k for k in range(len(table.columns)) if any(row[k] is not None for n in names for row in numbers[n])]
    if pictures.inside:
        names = _worst_first(names, numbers, table, kept)[:INSIDE]
    judged = [j for j, (_, row, _) in enumerate(sources) if row not in (INPUT, CLEAN)]
    if not names or not judged:
        return {}
    images = []
    for name in names:
        files = [_copied(entries, source, name, pictures) for source in sources]
        there = next((_folder(entries[i], row) / name for (i, row, _), src in zip(sources, files, strict=True) if src))
        with Image.open(there) as image:
            width, height = image.size
        images.append(
            {
                "key": keys.get(name, Path(name).stem), "width": width, "height": height, "files": files,
                "numbers": [[row[k] for k in kept] for row in numbers[name]],
            }
        )  # fmt: skip
    directed = [j for j, k in enumerate(kept) if table.columns[k].higher_is_better is not None]
    return {
        "metrics": [
            {"label": c.label, "digits": c.digits, "higher": c.higher_is_better}
            for c in (table.columns[k] for k in kept)
        ],
        "sources": [
            {"label": label, "judged": own, "colour": i % 8 if own else None}
            for i, row, label in sources
            for own in [row not in (*BASELINES, CLEAN)]
        ],
        "images": images,
        "start": {"left": 0, "right": _best(sources, table, judged), "metric": directed[0] if directed else None},
    }  # fmt: skip


def glance(
    entries: Sequence[Entry], pictures: Pictures, nfe: Sequence[int] | None, rows: int = 3
) -> tuple[list[list[Shown]], list[list[Tensor]], list[str]]:
    """The first saved images, restored by each method at its fewest and most calls: for the page, and as tensors."""
    chosen = [source for source in _sources(entries, nfe) if _first_or_last(entries, source, nfe)]
    chosen.sort(key=lambda source: source[1] == CLEAN)  # clean is last
    names = sorted(file.name for file in _folder(entries[0], INPUT).glob("*.png"))
    shown: list[list[Shown]] = []
    tensors: list[list[Tensor]] = []
    for name in names:
        files = [_folder(entries[i], row) / name for i, row, _ in chosen]
        if len(shown) < rows and all(file.is_file() for file in files):
            images = [to_tensor(read_picture(file).pixels) for file in files]
            tensors.append(images)
            shown.append(
                [
                    pictures.tensor(safe_name("images", _place(entries, i, row), name), image, label)
                    for (i, row, label), image in zip(chosen, images, strict=True)
                ]
            )
    return shown, tensors, [label for _, _, label in chosen]


def _sources(entries: Sequence[Entry], nfe: Sequence[int] | None) -> list[tuple[int, str, str]]:
    """(entry, row, label) of everything that can be looked at: input, clean, then the methods by network calls."""
    first = [(0, INPUT, BASELINES[INPUT]), (0, CLEAN, CLEAN)]
    if any(row.name == "bicubic" for row in entries[0].evaluation.rows):
        first.append((0, "bicubic", "bicubic"))
    own = [
        (i, row.name, f"{entry.label}, {row.name.upper()}" if row.name.startswith("nfe ") else entry.label)
        for i, entry in enumerate(entries)
        for row in shown_rows(entry.evaluation, nfe)
    ]
    return first + own


def _best(sources: Sequence[tuple[int, str, str]], table: Table, judged: Sequence[int]) -> int:
    """The source of the best row by the first metric that has one."""
    for k in range(len(table.columns)):
        for line in table.lines:
            if line.cells[k].mark == BEST:
                return next((j for j in judged if sources[j][:2] == (line.entry, line.row)), judged[-1])
    return judged[-1]


def _first_or_last(entries: Sequence[Entry], source: tuple[int, str, str], nfe: Sequence[int] | None) -> bool:
    i, row, _ = source
    rows = [r.name for r in shown_rows(entries[i].evaluation, nfe)]
    return row in (*BASELINES, CLEAN) or len(entries) == 1 or row in (rows[0], rows[-1])


def _folder(entry: Entry, row: str) -> Path:
    return entry.images / slug(row)


def _place(entries: Sequence[Entry], i: int, row: str) -> str:
    return row if row in (*BASELINES, CLEAN) else f"{i}-{entries[i].label}-{row}"


def _copied(entries: Sequence[Entry], source: tuple[int, str, str], name: str, pictures: Pictures) -> str | None:
    i, row, _ = source
    file = _folder(entries[i], row) / name
    return pictures.copy(file, safe_name("images", _place(entries, i, row), name)) if file.is_file() else None


def _table(entry: Entry) -> list[dict[str, str]]:
    file = evaluation_folder(entry.folder, entry.evaluation.protocol.name) / "per_image.csv"
    if not file.is_file():
        return []
    with file.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def _scores(entry: Entry, table: Table) -> dict[tuple[str, str], list[float]]:
    """The numbers of (key, row), NaN where a metric has none per image."""
    return {
        (line["key"], line["row"]): [_number(line.get(column.name)) for column in table.columns]
        for line in _table(entry)
    }


def _keys(entry: Entry) -> dict[str, str]:
    """The item's key of each saved file: files are numbered in the order of the items."""
    keys = list(dict.fromkeys(line["key"] for line in _table(entry)))
    files = {file.name for folder in entry.images.glob("*") for file in folder.glob("*.png")}
    numbered = {name: int(name.split("-", 1)[0]) for name in files if name.split("-", 1)[0].isdigit()}
    return {name: keys[number] for name, number in numbered.items() if number < len(keys)}


def _worst_first(names: list[str], numbers: dict[str, list[list[Any]]], table: Table, kept: Sequence[int]) -> list[str]:
    worst: list[str] = []
    for k in kept:
        if table.columns[k].higher_is_better is None:
            continue
        for j in range(len(numbers[names[0]])):
            there = [name for name in names if isinstance(numbers[name][j][k], float)]
            there.sort(key=lambda name: numbers[name][j][k], reverse=not table.columns[k].higher_is_better)
            worst += there[:2]
    return sorted(list(dict.fromkeys([*worst, *names]))[:INSIDE])


def _number(text: str | None) -> float:
    try:
        return float(text) if text else math.nan
    except ValueError:
        return math.nan


def _plain(value: float) -> float | str | None:
    """As JSON has it: no NaN, no infinity."""
    return None if math.isnan(value) else "inf" if math.isinf(value) else float(f"{value:.7g}")
