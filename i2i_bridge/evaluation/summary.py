"""The summary of an evaluation: evaluation.json, per_image.csv and the lists of images, computed from the records."""

import dataclasses
import io
import itertools
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

from i2i_bridge.errors import UserError
from i2i_bridge.evaluation.items import ItemFacts, data_digest
from i2i_bridge.evaluation.plan import Plan
from i2i_bridge.evaluation.records import CLEAN
from i2i_bridge.evaluation.results import (
    DATA_FILE,
    INPUTS_FILE,
    LIST_FILE,
    Data,
    Evaluation,
    Row,
    Stamp,
    write_evaluation,
    write_hashes,
)
from i2i_bridge.evaluation.scores import equal_pairs, mean, warnings_of
from i2i_bridge.metrics import weights
from i2i_bridge.metrics.base import Estimate
from i2i_bridge.metrics.distribution import FrechetDistance, PairedKernelDistance
from i2i_bridge.storage.csv_file import Writer
from i2i_bridge.storage.files import remove, write_whole


def summarise(plan: Plan, facts: Sequence[ItemFacts]) -> None:
    """Write the results of an evaluation from its records, and remove stale pictures.

    Raises:
        UserError: Two items have one key, or a record is gone.
        OSError: The folder cannot be written.
    """
    facts = sorted(facts, key=lambda fact: fact.key)
    for before, after in itertools.pairwise(facts):
        if before.key == after.key:
            raise UserError(f"two items have the key '{after.key}'; keys must tell the items of a dataset apart")
    items = [fact for fact in facts if fact.position >= 0]
    references = facts if plan.references else items
    rows: list[Row] = []
    lines: list[list[Any]] = [["key", "row", "nfe", "seconds", *plan.scorer.images]]
    for name in plan.rows:
        found = _row(plan, name, items, references, rows[-1].name if rows else None)
        if found is not None:
            rows.append(found[0])
            lines += found[1]
    rules, subject = plan.protocol, plan.subject
    tuned = {row.name: subject.tuned[row.name] for row in rows if row.name in subject.tuned}
    hashes = {fact.key: fact.pixels_hash for fact in items}
    evaluation = Evaluation(
        recipe=subject.recipe,
        method=subject.method,
        step=subject.step,
        seed=plan.seed,
        protocol=Stamp(rules.name, rules.protocol.version, rules.hash, dict(rules.settings)),
        data=Data(data_digest(hashes), len(items)),
        rows=rows,
        skipped=plan.scorer.skipped,
        warnings=[
            *subject.warnings,
            *tuned.values(),
            *rules.protocol.warnings,
            *warnings_of(plan.scorer, len(items)),
            *equal_pairs([fact.key for fact in items if fact.equal], len(items)),
            *weights.warnings(plan.metrics),
            *plan.dataset.notes(plan.indices.tolist()),
        ],
        fingerprint=subject.fingerprint,
        capped=subject.capped,
        tuned=tuned,
    )
    inputs = {fact.key: f"{fact.inputs_hash} {fact.subject_fingerprint}".strip() for fact in facts}
    table = io.StringIO(newline="")
    Writer(table).writerows(lines)
    write_whole(plan.home / "per_image.csv", table.getvalue().encode("utf-8", "surrogateescape"), root=plan.root)
    plan.pictures.remove_stale(items, [row.name for row in rows])
    if rules.names:
        names = "".join(f"{name}\n" for name in rules.names)
        write_whole(plan.home / LIST_FILE, names.encode(), root=plan.root)
    write_hashes(plan.home / DATA_FILE, hashes, root=plan.root)
    write_hashes(plan.home / INPUTS_FILE, inputs, root=plan.root)
    write_evaluation(plan.home / "evaluation.json", evaluation, root=plan.root)


def _row(
    plan: Plan, name: str, items: Sequence[ItemFacts], references: Sequence[ItemFacts], earlier: str | None
) -> tuple[Row, list[list[Any]]] | None:
    """Summarise a row: its scores, and its lines of per_image.csv; None for a kept row with missing records.

    Args:
        earlier: The row before this one, which a paired metric compares it with.
    """
    values = {metric: np.empty(len(items)) for metric in plan.scorer.images}
    seconds, lines, calls = [], [], 0
    for i, fact in enumerate(items):
        record = plan.records.read(name, fact.key, plan.fingerprint(name, fact))
        if record is None or plan.scorer.lacks(record, name):
            if name in plan.kept_rows:
                return None
            raise UserError(f"{plan.records.file(name, fact.key)}: removed during the evaluation; evaluate again")
        for metric in values:
            values[metric][i] = record.scores[metric][0]
        calls = max(calls, record.calls)
        if record.seconds is not None:
            seconds.append(record.seconds)
        scores = [record.scores[metric][0] for metric in values]
        lines.append([fact.key, name, record.calls, "" if record.seconds is None else record.seconds, *scores])
    keys = [fact.key for fact in items]
    estimates = {metric: mean(scores, plan.seed, keys) for metric, scores in values.items()}
    for metric in plan.scorer.sets:
        estimates[metric] = _set_estimate(plan, metric, name, items, references, earlier)
    ordered = {metric: estimates[metric] for metric in [*plan.metrics, *estimates] if metric in estimates}
    # Median: the mean would include the warm-up of the first image.
    return Row(name, calls, len(items), ordered, statistics.median(seconds) if seconds else None), lines


def _set_estimate(
    plan: Plan, metric: str, row: str, items: Sequence[ItemFacts], references: Sequence[ItemFacts], earlier: str | None
) -> Estimate:
    """Estimate a distance between sets, from features that are memory-mapped; arguments as in `_row`."""
    distance = plan.scorer.sets[metric]
    feature = plan.scorer.features[distance.extractor]
    files = {side: plan.home / "records" / f"features-{side}.npy" for side in ("restored", "reference", "earlier")}

    def matrix(side: str, of: str, facts: Sequence[ItemFacts]) -> np.ndarray:
        keyed = [(fact.key, plan.fingerprint(of, fact)) for fact in facts]
        return plan.records.matrix(of, feature, keyed, files[side])

    restored = matrix("restored", row, items)
    if isinstance(distance, PairedKernelDistance):
        reference = matrix("reference", CLEAN, items)
        estimate = distance.estimate(restored, reference, seed=plan.seed)
        if earlier is not None:
            change = distance.difference(restored, matrix("earlier", earlier, items), reference, seed=plan.seed)
            numbers = f"{change.value:+.3g} [{change.low:+.3g}, {change.high:+.3g}]"
            estimate = dataclasses.replace(estimate, note=f"{row} minus {earlier}: {numbers}")
    elif plan.statistics is not None and isinstance(distance, FrechetDistance):
        estimate = distance.estimate(restored, plan.statistics, seed=plan.seed)
    else:
        reference = matrix("reference", CLEAN, references)
        places = {fact.key: i for i, fact in enumerate(references)}
        partners = np.array([places[fact.key] for fact in items])
        estimate = distance.estimate_matched(restored, reference, partners, seed=plan.seed)
    for file in files.values():
        remove(file, root=plan.root)
    if not isinstance(estimate, Estimate):
        raise UserError(f"metric '{metric}': estimate() gave {type(estimate).__name__}; an Estimate is needed")
    return estimate
