"""Entries of a page or table: comparable evaluated folders, with all that the page shows of them."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from i2i_bridge.errors import UserError, plural
from i2i_bridge.evaluation.results import Evaluation, Row
from i2i_bridge.report.labels import name_entries
from i2i_bridge.report.measurements import Measurements, read_measurements
from i2i_bridge.report.seeds import pool, same_but_seed

if TYPE_CHECKING:
    from i2i_bridge.data.dataset import PairDataset
    from i2i_bridge.recipe.recipe import Recipe
    from i2i_bridge.runs.run import Run

Opener = Callable[[Path, int], "tuple[Run, PairDataset]"]
"""Loads the run of a folder at the evaluated step, and its validation pairs, to draw from."""


@dataclass(frozen=True)
class Entry:
    """One method of a page: an evaluated run, several that differ only in their seed, or results of other code."""

    label: str
    evaluation: Evaluation
    """Pooled over the seeds."""
    rows: list[Row]
    """The rows of the method that are shown, by network calls."""
    measurements: tuple[Measurements, ...]
    """One for each seed."""
    open_run: "Callable[[], tuple[Run, PairDataset]] | None" = None
    """Loads the run and its validation pairs, to draw from; None for results of other code."""

    @property
    def folder(self) -> Path:
        """The folder, of several seeds that of the first."""
        return self.measurements[0].folder

    @property
    def recipe(self) -> "Recipe | None":
        """None for results of other code."""
        return self.measurements[0].recipe

    @property
    def images(self) -> Path:
        """Folder of the saved pictures, with a subfolder for each row."""
        return self.measurements[0].home / "images"

    @property
    def seeds(self) -> list[Path]:
        """Run folders of which this is the mean; empty for a single run."""
        return [part.folder for part in self.measurements] if len(self.measurements) > 1 else []


def open_entries(
    folders: Sequence[Path],
    protocol: str,
    *,
    nfe: Sequence[int] | None = None,
    each_seed: bool = False,
    labels: Mapping[Path, str] | None = None,
    opener: Opener | None = None,
) -> list[Entry]:
    """Open the evaluations of folders as entries; runs that differ only in `train.seed` become one entry.

    Args:
        nfe: Show only these NFE of methods that can be evaluated at several; None shows all.
        each_seed: Keep an entry for each run.
        labels: Labels given by the user, by folder; several runs of one entry take the first one's.
        opener: Loads a run; None: nothing is drawn.

    Raises:
        UserError: A folder is not evaluated under the protocol, is given twice, or was evaluated by other rules or on
            other data than the first; or a file of an evaluation is damaged.
    """
    twice = [folder for folder, n in Counter(folder.resolve() for folder in folders).items() if n > 1]
    if twice:
        raise UserError(f"{twice[0].name}: the same folder is given twice")
    measured = [read_measurements(folder, protocol) for folder in folders]
    refuse_unequal([(part.folder, part.evaluation) for part in measured])
    groups = [(part,) for part in measured] if each_seed else _group_by_seed(measured)
    evaluations = [pool([part.evaluation for part in group]) if group[1:] else group[0].evaluation for group in groups]
    names = []
    for group, evaluation in zip(groups, evaluations, strict=True):
        given = [labels[part.folder] for part in group if labels is not None and part.folder in labels]
        several = f", {len(group)} seeds" if len(group) > 1 else ""
        names.append(given[0] if given else f"{evaluation.method}{several}")
    names = name_entries([(name, group[0].folder) for name, group in zip(names, groups, strict=True)])
    return [
        Entry(
            name,
            evaluation,
            evaluation.rows_of_method(nfe),
            group,
            None if opener is None or group[0].recipe is None else partial(opener, group[0].folder, evaluation.step),
        )
        for name, evaluation, group in zip(names, evaluations, groups, strict=True)
    ]


def _group_by_seed(measured: Sequence[Measurements]) -> list[tuple[Measurements, ...]]:
    """Group runs of one recipe with several training seeds, at the place of the first."""
    groups: list[tuple[object, list[Measurements]]] = []
    for part in measured:
        common = None if part.recipe is None else same_but_seed(part.recipe, part.evaluation)
        for other, group in groups:
            # Runs of one seed are not independent: they stay separate entries.
            if common is not None and common == other and part.seed not in [run.seed for run in group]:
                group.append(part)
                break
        else:
            groups.append((common, [part]))
    return [tuple(group) for _, group in groups]


def refuse_unequal(evaluated: Sequence[tuple[Path, Evaluation]]) -> None:
    """Refuse to compare evaluations of different protocols or data.

    Raises:
        UserError: The protocols or data differ; the message names two folders and the difference.
    """
    first, reference = evaluated[0]
    for folder, evaluation in evaluated[1:]:
        rules, other = reference.protocol, evaluation.protocol
        if rules.hash != other.hash:
            changed = [
                f"{'the number of images (-n)' if key == 'n' else key} is {_setting_text(key, rules.settings)} and "
                f"{_setting_text(key, other.settings)}"
                for key in sorted({*rules.settings, *other.settings})
                if rules.settings.get(key) != other.settings.get(key)
            ]
            raise UserError(
                f"{first} and {folder} are not comparable: protocol {rules.id} and {other.id}"
                f"{': ' if changed else ''}{'; '.join(changed)}; evaluate both by one protocol"
            )
        if reference.data.digest != evaluation.data.digest:
            raise UserError(
                f"{first} and {folder} are not comparable: they were measured on different data "
                f"({plural(reference.data.items, 'item')}, digest {reference.data.digest[:12]}, "
                f"and {evaluation.data.items}, "
                f"{evaluation.data.digest[:12]}); evaluate both on the same images"
            )


def _setting_text(key: str, settings: Mapping[str, object]) -> object:
    value = settings.get(key, "not set")
    return "all" if key == "n" and value is None else value
