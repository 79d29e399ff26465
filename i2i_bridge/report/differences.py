"""How far the rows of a table are from one of them on the same images: paired differences with standard errors."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from i2i_bridge import registry
from i2i_bridge.errors import UserError
from i2i_bridge.evaluation.loop import DATA_FILE, INPUTS_FILE
from i2i_bridge.evaluation.records import CLEAN, Records, record_fingerprint
from i2i_bridge.evaluation.results import Evaluation, evaluation_folder, read_evaluation, read_hashes, read_item_scores
from i2i_bridge.evaluation.scores import feature_name
from i2i_bridge.metrics.base import Estimate, Extractor, SetMetric, build_metric
from i2i_bridge.recipe.protocol import pixels_hash
from i2i_bridge.report.entries import Entry, baselines
from i2i_bridge.report.seeds import difference_estimate
from i2i_bridge.report.table import UNKNOWN, Cell, Column, Line, Table, decimals, mark_difference

REGRESSION = "regression"


class _Unpaired(Exception):
    """Why a cell stays empty, in a few words."""


@dataclass(frozen=True)
class Differences:
    """Each row minus one row, `against`, on the images that both have."""

    against: str
    """The row's name, as `row_name` gives it."""
    table: Table
    """Differences with standard error and 95 % interval, marked by `mark_difference`."""
    notes: list[str]
    """Why cells are empty, and which are of some of the images only."""


def row_name(line: Line) -> str:
    """What a row is called, such as 'degraded input' or 'bridge, NFE 5'."""
    return f"{line.label}, {line.row.upper()}" if line.row.startswith("nfe ") else line.label


def choose_row(entries: Sequence[Entry], table: Table, wanted: str | None = None) -> int:
    """The index of the row that the others are compared with.

    Args:
        wanted: A row's name; the method's name is enough where the method has one row. None: the one row of a plain
            regression; where there is none, or several, the first row of a method.

    Raises:
        UserError: There is no such row, or several.
    """
    if wanted is None:
        of_regression = [
            i for i, line in enumerate(table.lines) if not line.is_baseline and _is_regression(entries[line.entry])
        ]
        if len(of_regression) == 1:
            return of_regression[0]
        return next((i for i, line in enumerate(table.lines) if not line.is_baseline), 0)
    names = [row_name(line) for line in table.lines]
    found = [i for i, name in enumerate(names) if name.lower() == wanted.lower()]
    found = found or [i for i, line in enumerate(table.lines) if line.label.lower() == wanted.lower()]
    if len(found) != 1:
        said = "no row of the table" if not found else "several rows of the table"
        raise UserError(f"--against '{wanted}': {said}; give one of: {'; '.join(names)}")
    return found[0]


def _is_regression(entry: Entry) -> bool:
    name = entry.evaluation.method if entry.recipe is None else entry.recipe.method.get("name")
    return bool(name == REGRESSION)


def paired_differences(entries: Sequence[Entry], table: Table, wanted: str | None = None) -> Differences:
    """The paired differences of all rows of a table from one of them.

    A metric of single images: mean and standard error s / sqrt(n) of the n differences of the images that both rows
    have, paired by key. A distance of sets: `SetMetric.difference_of_means` of the kept features, where the metric has
    it. Of several seeds the values are means over the seeds, and the error joins that of the images and that of the
    trainings (`pooling.difference_estimate`).

    Args:
        table: Of these entries, from `comparing.table_of`.
        wanted: As in `choose_row`.

    Raises:
        UserError: As `choose_row`; or a part of an evaluation is damaged, or cannot be read now.
    """
    chosen = choose_row(entries, table, wanted)
    pairing = _Pairing(entries, table)
    second = pairing.rows(table.lines[chosen])
    notes: list[str] = []
    found: list[tuple[Line, list[Estimate]]] = []
    for i, line in enumerate(table.lines):
        if i == chosen:
            continue
        first, estimates = pairing.rows(line), []
        for k, column in enumerate(table.columns):
            try:
                if any(math.isnan(there.cells[k].estimate.value) for there in (line, table.lines[chosen])):
                    raise _Unpaired("")
                estimate = pairing.difference(column.name, first, second)
                if estimate.note:
                    notes.append(f"{column.label}, {row_name(line)}: {estimate.note}.")
            except _Unpaired as reason:
                estimate = UNKNOWN
                notes += [f"{column.label}: {reason}."] if str(reason) else []
            estimates.append(estimate)
        found.append((line, estimates))
        pairing.forget(first, second)
    columns = [
        Column(
            column.name, column.label, column.higher_is_better,
            decimals([x for _, estimates in found for x in (estimates[k].value, estimates[k].standard_error)]),
        )
        for k, column in enumerate(table.columns)
    ]  # fmt: skip
    lines = [
        Line(
            line.entry, line.label, line.row, line.nfe, line.images, line.seconds,
            [Cell(e, mark_difference(column, e)) for column, e in zip(columns, estimates, strict=True)],
        )
        for line, estimates in found
    ]  # fmt: skip
    return Differences(row_name(table.lines[chosen]), Table(columns, lines), list(dict.fromkeys(notes)))


@dataclass(frozen=True)
class _Evaluated:
    """One folder's evaluation, and what it keeps of single images."""

    folder: Path
    evaluation: Evaluation
    scores: dict[tuple[str, str], list[float]]
    """A number for each column of the table, by (key, row)."""
    scored: frozenset[str]
    """Keys of the scored images."""
    inputs: dict[str, str]
    """What `measuring` keeps of each image in INPUTS_FILE, those too that are only a reference."""

    def fingerprint(self, row: str, key: str) -> str:
        """That of a record which belongs to this very evaluation."""
        if key not in self.inputs:
            raise _Unpaired(f"{self.folder.name} was evaluated by an earlier version; evaluate it again")
        inputs, _, own = self.inputs[key].partition(" ")
        fixed = row == CLEAN or row in [given.name for given in baselines(self.evaluation)]
        subject = [] if fixed else [self.evaluation.fingerprint, own]
        return record_fingerprint(pixels_hash(self.evaluation.protocol.settings), row, inputs, subject)


_Rows = list[tuple[_Evaluated, str]]
"""The evaluations, one or one of each seed, and the name of the row in each."""


class _Pairing:
    """Reads what single images have in common, each file once."""

    def __init__(self, entries: Sequence[Entry], table: Table) -> None:
        self.entries = entries
        self.names = [column.name for column in table.columns]
        self.opened: dict[Path, _Evaluated] = {}
        self.features: dict[tuple[Path, str, str], dict[str, np.ndarray]] = {}

    def rows(self, line: Line) -> _Rows:
        """Where a line of the table comes from."""
        if line.is_baseline:
            entry = next(e for e in self.entries if line.row in [row.name for row in baselines(e.evaluation)])
            return [(self._open(entry.folder, entry), line.row)]
        entry = self.entries[line.entry]
        return [(self._open(folder, entry), line.row) for folder in entry.seeds or (entry.folder,)]

    def _open(self, folder: Path, entry: Entry) -> _Evaluated:
        if folder not in self.opened:
            protocol = entry.evaluation.protocol.name
            home = evaluation_folder(folder, protocol)
            self.opened[folder] = _Evaluated(
                folder,
                read_evaluation(folder, protocol),
                read_item_scores(home / "per_image.csv", self.names),
                frozenset(read_hashes(home / DATA_FILE)),
                read_hashes(home / INPUTS_FILE),
            )
        return self.opened[folder]

    def forget(self, first: _Rows, second: _Rows) -> None:
        """Let go of a row's features; those of the row that all are compared with stay."""
        kept = [(evaluated.folder, row) for evaluated, row in second]
        for evaluated, row in first:
            for place in [place for place in self.features if place[:2] == (evaluated.folder, row)]:
                if place[:2] not in kept:
                    del self.features[place]

    def difference(self, name: str, first: _Rows, second: _Rows) -> Estimate:
        """The difference of one metric between two rows."""
        try:
            metric: Any = build_metric(name)[1]
        except UserError:  # of a plug-in that is not loaded
            metric = None
        difference = self._of_sets if isinstance(metric, SetMetric) else self._of_images
        estimate = difference(name, metric, first, second)
        values = [[self._value(name, *one) for one in rows] for rows in (first, second)]
        return difference_estimate(estimate, *values)

    @staticmethod
    def _value(name: str, evaluated: _Evaluated, row: str) -> float:
        return next(r.metrics[name].value for r in evaluated.evaluation.rows if r.name == row)

    def _of_images(self, name: str, metric: object, first: _Rows, second: _Rows) -> Estimate:
        k = self.names.index(name)
        tables = [[self._scores(k, name, *one) for one in rows] for rows in (first, second)]
        every = [set(table) for tables_of_row in tables for table in tables_of_row]
        keys = sorted(set.intersection(*every))
        means = [np.mean([[table[key] for key in keys] for table in part], axis=0) for part in tables]
        with np.errstate(invalid="ignore"):
            change = means[0] - means[1]
        kept = change[np.isfinite(change)].tolist()
        if not kept:
            raise _Unpaired("no image has a finite value in both rows")
        most = max(len(keys) for keys in every)
        note = f"of the {len(kept)} of {most} images that have a finite value in both rows" if len(kept) < most else ""
        error = statistics.stdev(kept) / math.sqrt(len(kept)) if len(kept) > 1 else math.nan
        return Estimate(statistics.fmean(kept), standard_error=error, note=note)

    def _scores(self, k: int, name: str, evaluated: _Evaluated, row: str) -> dict[str, float]:
        """The values of a row by key, checked against the table's mean."""
        values = {key: scores[k] for (key, of), scores in evaluated.scores.items() if of == row}
        finite = [value for value in values.values() if math.isfinite(value)]
        shown = self._value(name, evaluated, row)
        if not values or all(math.isnan(value) for value in values.values()):
            raise _Unpaired(f"{evaluated.folder.name} keeps no values of single images")
        if finite and not math.isclose(statistics.fmean(finite), shown, rel_tol=1e-6, abs_tol=1e-12):
            raise _Unpaired(f"per_image.csv of {evaluated.folder.name} is of another evaluation; evaluate it again")
        return values

    def _of_sets(self, name: str, metric: SetMetric, first: _Rows, second: _Rows) -> Estimate:
        if type(metric).difference_of_means is SetMetric.difference_of_means:
            raise _Unpaired("this metric has no paired standard error")
        with registry.errors_in_words():
            extractor: Extractor = registry.EXTRACTORS.get(metric.extractor)()
        feature = feature_name(metric.extractor, extractor)
        keys = sorted(frozenset.intersection(*(evaluated.scored for evaluated, _ in [*first, *second])))
        if not keys:
            raise _Unpaired("no image in common")
        clean, settings = second[0][0], second[0][0].evaluation.protocol.settings
        references = sorted(clean.inputs.keys() - clean.scored) if settings.get("fid_reference") == "split" else []
        rows = [[self._matrix(evaluated, row, feature, keys) for evaluated, row in part] for part in (first, second)]
        reference = self._matrix(clean, CLEAN, feature, [*keys, *references])
        with registry.errors_in_words():
            found = metric.difference_of_means(
                rows[0], rows[1], reference, np.arange(len(keys)), seed=int(settings.get("seed", 0))
            )
        if found is None:
            raise _Unpaired("this metric has no paired standard error")
        most = max(len(evaluated.scored) for evaluated, _ in [*first, *second])
        note = f"of the {len(keys)} of {most} images that both rows have" if len(keys) < most else found.note
        return Estimate(found.value, standard_error=found.standard_error, note=note)

    def _matrix(self, evaluated: _Evaluated, row: str, feature: str, keys: Sequence[str]) -> np.ndarray:
        """Features (n, d) of a row from its records."""
        held = self.features.setdefault((evaluated.folder, row, feature), {})
        home = evaluation_folder(evaluated.folder, evaluated.evaluation.protocol.name)
        records = Records(home / "records")
        for key in keys:
            if key in held:
                continue
            record = records.read(row, key, evaluated.fingerprint(row, key), [feature])
            if record is None or feature not in record.features:
                raise _Unpaired(f"the features of {evaluated.folder.name} are not kept; evaluate it again")
            held[key] = record.features[feature]
        sizes = {held[key].shape for key in keys}
        if len(sizes) > 1 or any(len(size) != 1 for size in sizes):
            raise _Unpaired(f"the features of {evaluated.folder.name} are damaged; evaluate it again")
        return np.stack([held[key] for key in keys])
