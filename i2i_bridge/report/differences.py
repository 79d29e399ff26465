"""Paired differences: each row of a table minus one of its rows, on the same images, with standard errors."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from i2i_bridge import registry
from i2i_bridge.errors import UserError
from i2i_bridge.evaluation.records import CLEAN, Records, record_fingerprint
from i2i_bridge.evaluation.scores import feature_name
from i2i_bridge.metrics.base import Estimate, Extractor, SetMetric, build_metric
from i2i_bridge.plugins import plugin_errors
from i2i_bridge.recipe.protocol import pixels_hash
from i2i_bridge.report.entries import Entry
from i2i_bridge.report.measurements import Measurements
from i2i_bridge.report.seeds import difference_estimate
from i2i_bridge.report.table import UNKNOWN, Cell, Column, Line, Table, decimals, mark_difference

REGRESSION = "regression"


class _NoDifference(Exception):
    """The difference of a cell cannot be computed; the message says why, or is empty for no note."""


@dataclass(frozen=True)
class Differences:
    """Each row minus the row `against`, on the images of both."""

    against: str
    """The row's name, as in `Line.name`."""
    table: Table
    """Differences with standard error and 95 % interval, marked by `mark_difference`."""
    notes: list[str]
    """Why cells are empty, and which cells cover only a part of the images."""


def choose_row(entries: Sequence[Entry], table: Table, wanted: str | None = None) -> int:
    """The index of the row from which the differences are taken.

    Args:
        wanted: The name of a row, or of a method with one row. None: the row of the plain regression if there is
            exactly one, else the first row of a method.

    Raises:
        UserError: No row, or more than one, has this name.
    """
    if wanted is None:
        of_regression = [
            i for i, line in enumerate(table.lines) if not line.is_baseline and _is_regression(entries[line.entry])
        ]
        if len(of_regression) == 1:
            return of_regression[0]
        return next((i for i, line in enumerate(table.lines) if not line.is_baseline), 0)
    names = [line.name for line in table.lines]
    found = [i for i, name in enumerate(names) if name.lower() == wanted.lower()]
    found = found or [i for i, line in enumerate(table.lines) if line.label.lower() == wanted.lower()]
    if len(found) != 1:
        problem = "no row of the table" if not found else "several rows of the table"
        raise UserError(f"--against '{wanted}': {problem}; give one of: {'; '.join(names)}")
    return found[0]


def _is_regression(entry: Entry) -> bool:
    name = entry.evaluation.method if entry.recipe is None else entry.recipe.method.get("name")
    return bool(name == REGRESSION)


def paired_differences(entries: Sequence[Entry], table: Table, wanted: str | None = None) -> Differences:
    """The paired differences of all rows of a table from one of them.

    Metrics of single images: mean and standard error s / sqrt(n) of the n differences on the images of both rows,
    paired by key. Distances of sets: `SetMetric.difference_of_means` of the stored features, if the metric defines it.
    With several seeds the values are means over the seeds, and the error includes images and trainings
    (`seeds.difference_estimate`).

    Args:
        table: The table of these entries, from `entries.table_of`.
        wanted: As in `choose_row`.

    Raises:
        UserError: As `choose_row`; or a file of an evaluation is damaged or cannot be read.
    """
    chosen = choose_row(entries, table, wanted)
    second = _measured_rows(entries, table.lines[chosen])
    notes: list[str] = []
    found: list[tuple[Line, list[Estimate]]] = []
    kept: _Features = {}  # of the row of all comparisons and of the clean images
    for line in (line for i, line in enumerate(table.lines) if i != chosen):
        first, features = _measured_rows(entries, line), _FeatureReader(kept)
        estimates = []
        for k, column in enumerate(table.columns):
            try:
                if any(math.isnan(compared.cells[k].estimate.value) for compared in (line, table.lines[chosen])):
                    raise _NoDifference("")
                estimate = _difference(column.name, first, second, features)
                if estimate.note:
                    notes.append(f"{column.label}, {line.name}: {estimate.note}.")
            except _NoDifference as reason:
                estimate = UNKNOWN
                notes += [f"{column.label}: {reason}."] if str(reason) else []
            estimates.append(estimate)
        found.append((line, estimates))
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
    return Differences(table.lines[chosen].name, Table(columns, lines, of_differences=True), list(dict.fromkeys(notes)))


_Rows = list[tuple[Measurements, str]]
"""(measurements, name of the row in them) of a table row: one pair, or one for each seed."""


def _measured_rows(entries: Sequence[Entry], line: Line) -> _Rows:
    """The measurements from which a line of the table comes."""
    if line.is_baseline:
        entry = next(e for e in entries if line.row in [row.name for row in e.evaluation.baselines])
        return [(entry.measurements[0], line.row)]
    return [(measured, line.row) for measured in entries[line.entry].measurements]


def _difference(name: str, first: _Rows, second: _Rows, features: "_FeatureReader") -> Estimate:
    """The difference `first` - `second` of one metric."""
    try:
        metric: Any = build_metric(name)[1]
    except UserError:  # a metric of a plug-in that is not loaded
        metric = None
    if isinstance(metric, SetMetric):
        estimate = _set_difference(metric, first, second, features)
    else:
        estimate = _image_difference(name, first, second)
    values = [[measured.value(name, row) for measured, row in rows] for rows in (first, second)]
    return difference_estimate(estimate, *values)


def _image_difference(name: str, first: _Rows, second: _Rows) -> Estimate:
    tables = [[_row_scores(name, *row) for row in rows] for rows in (first, second)]
    every = [set(table) for tables_of_row in tables for table in tables_of_row]
    keys = sorted(set.intersection(*every))
    means = [np.mean([[table[key] for key in keys] for table in part], axis=0) for part in tables]
    with np.errstate(invalid="ignore"):
        change = means[0] - means[1]
    kept = change[np.isfinite(change)].tolist()
    if not kept:
        raise _NoDifference("no image has a finite value in both rows")
    most = max(len(keys) for keys in every)
    note = f"of the {len(kept)} of {most} images that have a finite value in both rows" if len(kept) < most else ""
    error = statistics.stdev(kept) / math.sqrt(len(kept)) if len(kept) > 1 else math.nan
    return Estimate(statistics.fmean(kept), standard_error=error, note=note)


def _row_scores(name: str, measured: Measurements, row: str) -> dict[str, float]:
    """The values of a row by key; their mean must be the value in the table."""
    values = {key: scores[name] for (key, of), scores in measured.scores.items() if of == row}
    finite = [value for value in values.values() if math.isfinite(value)]
    if all(math.isnan(value) for value in values.values()):
        raise _NoDifference(f"{measured.folder.name} keeps no values of single images")
    if finite and not math.isclose(statistics.fmean(finite), measured.value(name, row), rel_tol=1e-6, abs_tol=1e-12):
        raise _NoDifference(f"per_image.csv of {measured.folder.name} is of another evaluation; evaluate it again")
    return values


def _set_difference(metric: SetMetric, first: _Rows, second: _Rows, features: "_FeatureReader") -> Estimate:
    if type(metric).difference_of_means is SetMetric.difference_of_means:
        raise _NoDifference("this metric has no paired standard error")
    with plugin_errors():
        extractor: Extractor = registry.EXTRACTORS.get(metric.extractor)()
    feature = feature_name(metric.extractor, extractor)
    keys = sorted(frozenset.intersection(*(measured.scored for measured, _ in [*first, *second])))
    if not keys:
        raise _NoDifference("no image in common")
    clean, settings = second[0][0], second[0][0].evaluation.protocol.settings
    references = sorted(clean.inputs.keys() - clean.scored) if settings.get("fid_reference") == "split" else []
    rows = [
        [features.matrix(measured, row, feature, keys, keep=part is second) for measured, row in part]
        for part in (first, second)
    ]
    reference = features.matrix(clean, CLEAN, feature, [*keys, *references], keep=True)
    with plugin_errors():
        found = metric.difference_of_means(
            rows[0], rows[1], reference, np.arange(len(keys)), seed=int(settings.get("seed", 0))
        )
    if found is None:
        raise _NoDifference("this metric has no paired standard error")
    most = max(len(measured.scored) for measured, _ in [*first, *second])
    note = f"of the {len(keys)} of {most} images that both rows have" if len(keys) < most else found.note
    return Estimate(found.value, standard_error=found.standard_error, note=note)


_Features = dict[tuple[Path, str, str], dict[str, np.ndarray]]
"""Features by (folder, row, name of the features) and key."""


class _FeatureReader:
    """Reads features, each record once; memory holds those of one row beside the kept ones."""

    def __init__(self, kept: _Features) -> None:
        self.kept, self.current = kept, _Features()

    def matrix(self, measured: Measurements, row: str, feature: str, keys: Sequence[str], *, keep: bool) -> np.ndarray:
        """The stored features of a row, (n, d)."""
        place = (measured.folder, row, feature)
        features = (self.kept if keep or place in self.kept else self.current).setdefault(place, {})
        records = Records(measured.home / "records")
        for key in keys:
            if key in features:
                continue
            record = records.read(row, key, _record_fingerprint(measured, row, key), [feature])
            if record is None or feature not in record.features:
                raise _NoDifference(f"the features of {measured.folder.name} are not kept; evaluate it again")
            features[key] = record.features[feature]
        sizes = {features[key].shape for key in keys}
        if len(sizes) > 1 or any(len(size) != 1 for size in sizes):
            raise _NoDifference(f"the features of {measured.folder.name} are damaged; evaluate it again")
        return np.stack([features[key] for key in keys])


def _record_fingerprint(measured: Measurements, row: str, key: str) -> str:
    """The fingerprint that a record of the evaluation must have."""
    if key not in measured.inputs:
        raise _NoDifference(f"{measured.folder.name} was evaluated by an earlier version; evaluate it again")
    evaluation = measured.evaluation
    inputs, _, extra = measured.inputs[key].partition(" ")
    fixed = row == CLEAN or row in [given.name for given in evaluation.baselines]
    subject = [] if fixed else [evaluation.fingerprint, extra]
    return record_fingerprint(pixels_hash(evaluation.protocol.settings), row, inputs, subject)
