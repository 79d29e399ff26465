"""The gallery of a page: which saved pictures and per-image numbers can be looked at, as plain data."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from i2i_bridge.errors import UserError
from i2i_bridge.evaluation.records import CLEAN, slug
from i2i_bridge.evaluation.results import INPUT, evaluation_folder, read_item_scores
from i2i_bridge.evaluation.subjects import picture_name
from i2i_bridge.images.files import read_picture
from i2i_bridge.images.pixels import to_tensor
from i2i_bridge.report.entries import Entry, baseline_label, baselines, shown_rows
from i2i_bridge.report.pictures import Pictures, Shown, safe_name
from i2i_bridge.report.table import BEST, Column, Table
from i2i_bridge.storage.reader import open_regular

INSIDE = 24
"""How many images a single file holds."""

Scores = Mapping[tuple[str, str], list[float]]
"""A number for each column of the table, NaN where it has none per image, by (item's key, row)."""


@dataclass(frozen=True)
class Source:
    """A row that has pictures."""

    entry: int
    """Whose folder they lie in."""
    row: str
    label: str
    own: bool
    """Whether the entry's method made them."""
    folder: Path
    place: str
    """Their folder in the page."""


def gallery(entries: Sequence[Entry], table: Table, pictures: Pictures, nfe: Sequence[int] | None) -> dict[str, Any]:
    """What the page's script needs: sources, metrics, and for each image its files and numbers by source.

    Files are copied into `pictures`; of a single file only some images are taken, the worst of each row among them.
    Empty where no picture was saved.
    """
    sources = _sources(entries, nfe)
    names = sorted({file.name for source in sources for file in _pictures(source.folder)})
    own = [j for j, source in enumerate(sources) if source.own]
    if not names or not own:
        return {}
    scores = [_scores(entry, table.columns) for entry in entries]
    keys = _keys({key: None for found in scores for key, _ in found}, names)
    unknown = [math.nan] * len(table.columns)
    numbers = {
        name: [scores[source.entry].get((keys.get(name, ""), source.row), unknown) for source in sources]
        for name in names
    }
    kept = [k for k in range(len(table.columns)) if any(not math.isnan(v[k]) for n in names for v in numbers[n])]
    directed = [k for k in kept if table.columns[k].higher_is_better is not None]
    if pictures.inside and len(names) > INSIDE:
        worst = [name for k in directed for j in own for name in _worst(names, numbers, j, k, table.columns[k])]
        names = sorted(list(dict.fromkeys([*worst, *names]))[:INSIDE])
    images = []
    for name in names:
        there = [_is_picture(source.folder / name) for source in sources]
        width, height = _size(sources[there.index(True)].folder / name)
        images.append(
            {
                "key": keys.get(name, Path(name).stem),
                "width": width,
                "height": height,
                "files": [
                    pictures.copy(source.folder / name, safe_name("images", source.place, name)) if is_there else None
                    for source, is_there in zip(sources, there, strict=True)
                ],
                "numbers": [[_plain(values[k]) for k in kept] for values in numbers[name]],
            }
        )
    columns = [table.columns[k] for k in kept]
    return {
        "metrics": [{"label": c.label, "digits": c.digits, "higher": c.higher_is_better} for c in columns],
        "sources": [
            {"label": source.label, "own": source.own, "colour": source.entry % 8 if source.own else None}
            for source in sources
        ],
        "images": images,
        "start": {
            "left": 0,
            "right": _best(sources, table, own),
            "metric": kept.index(directed[0]) if directed else None,
        },
    }


def glance(
    entries: Sequence[Entry], pictures: Pictures, nfe: Sequence[int] | None, rows: int = 3
) -> tuple[list[list[Shown]], list[list[Tensor]], list[str]]:
    """The first saved images, restored by each method at its fewest and most calls: for the page, and as tensors."""
    chosen = [source for source in _sources(entries, nfe) if _is_outermost(entries, source, nfe)]
    chosen.sort(key=lambda source: source.row == CLEAN)  # clean is last
    shown: list[list[Shown]] = []
    tensors: list[list[Tensor]] = []
    for name in sorted(file.name for file in _pictures(chosen[0].folder)) if chosen else []:
        if len(shown) < rows and all(_is_picture(source.folder / name) for source in chosen):
            images = [to_tensor(read_picture(source.folder / name).pixels) for source in chosen]
            tensors.append(images)
            shown.append(
                [
                    pictures.tensor(safe_name("images", source.place, name), image, source.label)
                    for source, image in zip(chosen, images, strict=True)
                ]
            )
    return shown, tensors, [source.label for source in chosen]


def _pictures(folder: Path) -> list[Path]:
    return [file for file in folder.glob("*.png") if _is_picture(file)]


def _is_picture(file: Path) -> bool:
    # A link could lead to any file of the user's, which would become part of a page that is passed on.
    return file.is_file() and not file.is_symlink()


def _size(file: Path) -> tuple[int, int]:
    try:
        with open_regular(file) as stream, Image.open(stream, formats=("PNG",)) as image:
            return image.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{file}: not a readable PNG; evaluate again") from error


def _sources(entries: Sequence[Entry], nfe: Sequence[int] | None) -> list[Source]:
    """Everything that can be looked at: what was given, the clean image, then the methods by network calls."""
    found = []
    for row in dict.fromkeys([INPUT, CLEAN, *(row.name for e in entries for row in baselines(e.evaluation))]):
        holder = next((i for i, entry in enumerate(entries) if (entry.images / slug(row)).is_dir()), None)
        if holder is not None:
            label = CLEAN if row == CLEAN else baseline_label(row)
            found.append(Source(holder, row, label, False, entries[holder].images / slug(row), row))
    for i, entry in enumerate(entries):
        for row in (shown.name for shown in shown_rows(entry.evaluation, nfe)):
            label = f"{entry.label}, {row.upper()}" if row.startswith("nfe ") else entry.label
            found.append(Source(i, row, label, True, entry.images / slug(row), f"{i}-{entry.label[:40]}-{row}"))
    return found


def _best(sources: Sequence[Source], table: Table, own: Sequence[int]) -> int:
    """The source of the best row by the first metric that has one; of outside results all are equal."""
    for k in range(len(table.columns)):
        for line in table.lines:
            if line.cells[k].mark == BEST:
                best = (line.entry, line.row)
                return next((j for j in own if (sources[j].entry, sources[j].row) == best), own[-1])
    return own[-1]


def _is_outermost(entries: Sequence[Entry], source: Source, nfe: Sequence[int] | None) -> bool:
    """Whether it is the first or last row of its method; of a single entry all are shown."""
    rows = [row.name for row in shown_rows(entries[source.entry].evaluation, nfe)]
    return not source.own or len(entries) == 1 or source.row in (rows[0], rows[-1])


def _scores(entry: Entry, columns: Sequence[Column]) -> Scores:
    home = evaluation_folder(entry.folder, entry.evaluation.protocol.name)
    return read_item_scores(home / "per_image.csv", [column.name for column in columns])


def _keys(keys: Mapping[str, None], names: Sequence[str]) -> dict[str, str]:
    """The item's key of each saved file, by the letters of the key in its name, where these belong to one item only."""
    by_letters: dict[str, list[str]] = {}
    for key in keys:
        by_letters.setdefault(picture_name(0, key).partition("-")[2], []).append(key)
    found = {name: by_letters.get(Path(name).stem.partition("-")[2], []) for name in names}
    return {name: there[0] for name, there in found.items() if len(there) == 1}


def _worst(
    names: Sequence[str], numbers: Mapping[str, Sequence[Sequence[float]]], source: int, k: int, column: Column
) -> list[str]:
    """The two worst images of a source by a metric."""
    there = [name for name in names if not math.isnan(numbers[name][source][k])]
    return sorted(there, key=lambda name: numbers[name][source][k], reverse=not column.higher_is_better)[:2]


def _plain(value: float) -> float | str | None:
    """As JSON has it: no NaN, no infinity."""
    return None if math.isnan(value) else "inf" if math.isinf(value) else float(f"{value:.7g}")
