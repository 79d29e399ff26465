"""Notes beside the numbers of a page: warnings, metrics and methods that are missing, settings that differ."""

from collections.abc import Sequence

from i2i_bridge.evaluation.results import INPUT
from i2i_bridge.evaluation.scores import kid_warnings
from i2i_bridge.recipe.presets import preset_names
from i2i_bridge.report.entries import Entry
from i2i_bridge.storage.toml import dotted


def warnings_of(entries: Sequence[Entry]) -> list[str]:
    """Warnings of the evaluations, with the entry if not all have it, and degraded inputs whose scores differ."""
    found = [
        text if all(text in other.evaluation.warnings for other in entries) else f"{entry.label}: {text}"
        for entry in entries
        for text in entry.evaluation.warnings
    ]
    # Computed here because evaluations of earlier versions do not store this warning.
    rows = [row for entry in entries for row in entry.evaluation.rows]
    found += [text for row in rows for text in kid_warnings(row.metrics, row.images)]
    found = list(dict.fromkeys(found))
    inputs = [(entry.label, row) for entry in entries for row in entry.evaluation.rows if row.name == INPUT]
    for label, row in inputs[1:]:
        for name, estimate in row.metrics.items():
            other = inputs[0][1].metrics.get(name)
            if other is not None and abs(other.value - estimate.value) > 1e-3 * max(abs(other.value), 1e-6):
                found.append(f"The degraded inputs of {inputs[0][0]} and {label} differ in {name}.")
    return found


def skipped_of(entries: Sequence[Entry]) -> dict[str, str]:
    """Metrics that were skipped, with the reason."""
    return {name: reason for entry in entries for name, reason in entry.evaluation.skipped.items()}


def setting_differences(entries: Sequence[Entry]) -> list[tuple[str, list[str]]]:
    """Settings in which the recipes differ: dotted key, and the value in each recipe ('–' if it has none)."""
    recipes = [entry.recipe for entry in entries]
    flat = [
        {} if recipe is None else dict(dotted(recipe.without_places().model_dump(mode="json"))) for recipe in recipes
    ]
    known = [table for table in flat if table]
    keys = dict.fromkeys(key for table in known for key in table)
    return [
        (key, ["–" if table.get(key) is None else str(table[key]) for table in flat])
        for key in keys
        if any(table.get(key) != known[0].get(key) for table in known[1:])
    ]


def unavailable(entries: Sequence[Entry]) -> list[tuple[str, str]]:
    """Methods of the published table that are not among the entries, grouped by reason: (methods, reason)."""
    recipe = next((entry.recipe for entry in entries if entry.recipe is not None), None)
    if recipe is None or recipe.reference is None:
        return []
    have = {entry.evaluation.method.lower() for entry in entries} | {entry.label.lower() for entry in entries}
    if any(entry.recipe is not None and entry.recipe.method.get("name") == "bridge" for entry in entries):
        have.add("i2sb")
    known = set(preset_names())
    reasons: dict[str, list[str]] = {}
    for row in recipe.reference.rows:
        method = str(row.get("method", ""))
        if method and method.lower() not in have:
            reason = (
                f"no run of it is compared here; train one with --method {method.lower()} and add it"
                if method.lower() in known
                else "not implemented here; score a folder of its outputs with evaluate --images, and add that folder"
            )
            reasons.setdefault(reason, []).append(method)
    return [(", ".join(dict.fromkeys(methods)), reason) for reason, methods in reasons.items()]
