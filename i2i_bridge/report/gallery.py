"""Gallery of a page: saved pictures and scores of single images, as data for the page's script."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from i2i_bridge.errors import UserError
from i2i_bridge.evaluation.records import CLEAN, slug
from i2i_bridge.evaluation.results import INPUT
from i2i_bridge.evaluation.subjects import picture_name
from i2i_bridge.images.files import read_picture
from i2i_bridge.images.pixels import to_tensor
from i2i_bridge.report.entries import Entry
from i2i_bridge.report.pictures import PagePicture, Pictures, safe_name
from i2i_bridge.report.table import BEST, Column, Table, baseline_label, row_name
from i2i_bridge.storage.reader import open_regular

INSIDE = 24
"""Largest number of images in a single-file page."""
GLANCE = 3
"""Number of images at the head of a page."""


@dataclass(frozen=True)
class Source:
    """A row with saved pictures."""

    entry: int
    """Index of the entry whose folder holds the pictures."""
    row: str
    label: str
    is_restored: bool
    """True for restorations of the entry, False for the clean image and baselines."""
    folder: Path
    place: str
    """Folder of the pictures in the page."""


def gallery(entries: Sequence[Entry], table: Table, pictures: Pictures) -> dict[str, Any]:
    """Data for the page's script: sources, metrics, and for each image its files and numbers by source.

    Files are copied into `pictures`. A single-file page takes INSIDE images at most, first the worst of each row.
    Empty if no picture was saved.
    """
    sources = _sources(entries)
    names = sorted({file.name for source in sources for file in _saved_pictures(source.folder)})
    restored = [j for j, source in enumerate(sources) if source.is_restored]
    if not names or not restored:
        return {}
    scores = [entry.measurements[0].scores for entry in entries]
    keys = _keys_by_file({key: None for part in scores for key, _ in part}, names)
    numbers: dict[str, list[list[float]]] = {name: [] for name in names}
    for name, values in numbers.items():
        for source in sources:
            found = scores[source.entry].get((keys.get(name, ""), source.row), {})
            values.append([found.get(column.name, math.nan) for column in table.columns])
    kept = [k for k in range(len(table.columns)) if any(not math.isnan(v[k]) for n in names for v in numbers[n])]
    directed = [k for k in kept if table.columns[k].higher_is_better is not None]
    if pictures.inside and len(names) > INSIDE:
        worst = [
            name for k in directed for j in restored for name in _worst_images(names, numbers, j, k, table.columns[k])
        ]
        names = sorted(list(dict.fromkeys([*worst, *names]))[:INSIDE])
    images = []
    for name in names:
        exists = [_is_picture(source.folder / name) for source in sources]
        width, height = _size(sources[exists.index(True)].folder / name)
        images.append(
            {
                "key": keys.get(name, Path(name).stem),
                "width": width,
                "height": height,
                "files": [
                    pictures.copy(source.folder / name, safe_name("images", source.place, name)) if present else None
                    for source, present in zip(sources, exists, strict=True)
                ],
                "numbers": [[_json_number(values[k]) for k in kept] for values in numbers[name]],
            }
        )
    columns = [table.columns[k] for k in kept]
    return {
        "metrics": [{"label": c.label, "digits": c.digits, "higher": c.higher_is_better} for c in columns],
        "sources": [
            {
                "label": source.label,
                "own": source.is_restored,
                "colour": source.entry % 8 if source.is_restored else None,
            }
            for source in sources
        ],
        "images": images,
        "start": {
            "left": 0,
            "right": _best_source(sources, table, restored),
            "metric": kept.index(directed[0]) if directed else None,
        },
    }


def glance(
    entries: Sequence[Entry], pictures: Pictures
) -> tuple[list[list[PagePicture]], list[list[Tensor]], list[str]]:
    """The first saved images, restored by each method at its fewest and most NFE: (for the page, tensors, labels)."""
    chosen = [source for source in _sources(entries) if _is_outermost(entries, source)]
    chosen.sort(key=lambda source: source.row == CLEAN)  # puts the clean image last
    shown: list[list[PagePicture]] = []
    tensors: list[list[Tensor]] = []
    for name in sorted(file.name for file in _saved_pictures(chosen[0].folder)) if chosen else []:
        if len(shown) < GLANCE and all(_is_picture(source.folder / name) for source in chosen):
            images = [to_tensor(read_picture(source.folder / name).pixels) for source in chosen]
            tensors.append(images)
            shown.append(
                [
                    pictures.tensor(safe_name("images", source.place, name), image, source.label)
                    for source, image in zip(chosen, images, strict=True)
                ]
            )
    return shown, tensors, [source.label for source in chosen]


def _saved_pictures(folder: Path) -> list[Path]:
    return [file for file in folder.glob("*.png") if _is_picture(file)]


def _is_picture(file: Path) -> bool:
    # Links are ignored: otherwise any file of the user could become part of a page that is shared.
    return file.is_file() and not file.is_symlink()


def _size(file: Path) -> tuple[int, int]:
    try:
        with open_regular(file) as stream, Image.open(stream, formats=("PNG",)) as image:
            return image.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{file}: not a readable PNG; evaluate again") from error


def _sources(entries: Sequence[Entry]) -> list[Source]:
    """All sources of pictures: degraded input and baselines, clean image, then the methods by network calls."""
    found = []
    for row in dict.fromkeys([INPUT, CLEAN, *(row.name for e in entries for row in e.evaluation.baselines)]):
        holder = next((i for i, entry in enumerate(entries) if (entry.images / slug(row)).is_dir()), None)
        if holder is not None:
            label = CLEAN if row == CLEAN else baseline_label(row)
            found.append(Source(holder, row, label, False, entries[holder].images / slug(row), row))
    for i, entry in enumerate(entries):
        for row in (shown.name for shown in entry.rows):
            place = f"{i}-{entry.label[:40]}-{row}"
            found.append(Source(i, row, row_name(entry.label, row), True, entry.images / slug(row), place))
    return found


def _best_source(sources: Sequence[Source], table: Table, restored: Sequence[int]) -> int:
    """Index of the source marked best by the first metric with a mark; the last method's source if none has one."""
    for k in range(len(table.columns)):
        for line in table.lines:
            if line.cells[k].mark == BEST:
                best = (line.entry, line.row)
                return next((j for j in restored if (sources[j].entry, sources[j].row) == best), restored[-1])
    return restored[-1]


def _is_outermost(entries: Sequence[Entry], source: Source) -> bool:
    """True for baselines and for the first and last row of a method; for all rows if there is one entry."""
    rows = [row.name for row in entries[source.entry].rows]
    return not source.is_restored or len(entries) == 1 or source.row in (rows[0], rows[-1])


def _keys_by_file(keys: Mapping[str, None], names: Sequence[str]) -> dict[str, str]:
    """Map saved files to keys by the part of the key in the file name, where only one key has it."""
    by_letters: dict[str, list[str]] = {}
    for key in keys:
        by_letters.setdefault(picture_name(0, key).partition("-")[2], []).append(key)
    found = {name: by_letters.get(Path(name).stem.partition("-")[2], []) for name in names}
    return {name: matches[0] for name, matches in found.items() if len(matches) == 1}


def _worst_images(
    names: Sequence[str], numbers: Mapping[str, Sequence[Sequence[float]]], source: int, k: int, column: Column
) -> list[str]:
    """The two worst images of a source by a metric."""
    scored = [name for name in names if not math.isnan(numbers[name][source][k])]
    return sorted(scored, key=lambda name: numbers[name][source][k], reverse=not column.higher_is_better)[:2]


def _json_number(value: float) -> float | str | None:
    """Convert to JSON, which has no NaN and no infinity."""
    return None if math.isnan(value) else "inf" if math.isinf(value) else float(f"{value:.7g}")
