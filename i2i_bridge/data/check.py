"""Check every item of a dataset: read it, collect facts about it, and report problems, one line each."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader, Dataset

from i2i_bridge.data.dataset import PairDataset
from i2i_bridge.data.items import decode_item
from i2i_bridge.data.layout import layouts_of, no_halves, sizes_of
from i2i_bridge.data.loader import WithPlugins, worker_problem
from i2i_bridge.data.source import PairSource, item_of
from i2i_bridge.data.sources.folders import SideBySide
from i2i_bridge.data.statistics import Facts, facts_of
from i2i_bridge.errors import UserError


@dataclass(frozen=True)
class Checked:
    """The result of `check_data`: a summary line, problems, and notes that are no problems, one line each."""

    summary: str
    problems: list[str]
    notes: list[str]
    hint: str = ""
    """A line about what this check could not test."""


def other_layouts(what: str) -> list[str]:
    """Notes on other ways to read a folder of clean images, each with the command that checks it that way."""
    layouts = layouts_of(Path(what))
    return [
        f"read as clean images; {layouts.why}: as {layout.words}: {layout.check_command()}"
        for layout in layouts.candidates
        if layout.table["name"] != "images"
    ]


def halves_problems(opened: Mapping[str, "ItemFacts"]) -> list[str]:
    """Problems of side-by-side files whose size is unlikely for a pair, by split."""
    sizes = {
        split: sizes_of([(str(path), path) for _, path in items.source.files])
        for split, items in opened.items()
        if isinstance(items.source, SideBySide)
    }
    odd, why = no_halves({file: size for of_split in sizes.values() for file, size in of_split.items()})
    problems = []
    for split, of_split in sizes.items():
        files = [file for file in odd if file in of_split]
        shown = [f"{file} ({of_split[file][1]}x{of_split[file][0]} pixels)" for file in files]
        if len(shown) > 10:
            problems.append(
                f"{split}: {len(shown)} of {len(of_split)} files are hardly pairs of halves, such as {shown[0]}; {why}"
            )
        else:
            problems += [f"{split}: {words}: hardly a pair of halves; {why}" for words in shown]
    return problems


def merged_lines(lines: Mapping[str, Sequence[str]]) -> list[str]:
    """Merge the lines of all splits: equal lines once, with the names of their splits."""
    where: dict[str, list[str]] = {}
    for split, of_split in lines.items():
        for line in of_split:
            where.setdefault(line, []).append(split)
    return [line if len(splits) == len(lines) else f"{', '.join(splits)}: {line}" for line, splits in where.items()]


class ItemFacts(Dataset[Any]):
    """Map-style dataset of the facts of each item, or a line about what is wrong with the item."""

    def __init__(self, source: PairSource, channels: int | None = None, dataset: PairDataset | None = None) -> None:
        self.source, self.channels, self.dataset = source, channels, dataset

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, i: int) -> Facts | str:
        try:
            item = item_of(self.source, i)
            facts = facts_of(item)
            if self.dataset is not None:
                self.dataset[i]
            elif self.channels is not None:
                decode_item(item, self.channels)
            return facts
        except UserError as error:
            return str(error)


def read_facts(items: ItemFacts) -> Iterator[Facts | str]:
    """The facts or the problem of every item, in order, read by worker processes for more than 400 items.

    Raises:
        UserError: A worker was killed or lacks memory.
    """
    # Starting workers takes as long as reading some hundred files.
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = min(processors, 8) if len(items) > 400 else 0
    # Otherwise spawned workers could not unpickle classes of plug-ins.
    try:
        yield from DataLoader(WithPlugins(items), batch_size=None, num_workers=workers)
    except (RuntimeError, MemoryError) as error:
        problem = worker_problem(error, [], "check smaller images, or give the job more memory")
        if problem is None:
            raise
        raise problem from error
