"""Entries of a page or table: evaluated folders that are comparable, with their labels."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from i2i_bridge.errors import UserError
from i2i_bridge.evaluation.results import INPUT, Evaluation, Row, evaluation_folder, read_evaluation
from i2i_bridge.evaluation.scores import kid_warnings
from i2i_bridge.report.seeds import pool, same_but_seed
from i2i_bridge.report.table import Table, build_table
from i2i_bridge.storage.shipped import RECIPE_FILE

if TYPE_CHECKING:  # pydantic
    from i2i_bridge.recipe.recipe import Recipe


@dataclass(frozen=True)
class Entry:
    """One evaluated folder: a run, or scored results of other code."""

    folder: Path
    label: str
    evaluation: Evaluation
    recipe: "Recipe | None"
    """None for outside results."""
    seeds: tuple[Path, ...] = ()
    """Run folders of which this is the mean, `folder` first; empty for a single run."""

    @property
    def images(self) -> Path:
        """Folder of the saved pictures, with a subfolder for each row."""
        return evaluation_folder(self.folder, self.evaluation.protocol.name) / "images"


def open_entries(
    folders: Sequence[Path], protocol: str, *, each_seed: bool = False, labels: Mapping[Path, str] | None = None
) -> list[Entry]:
    """Read and label the evaluations of folders; runs that differ only in `train.seed` become one entry.

    Args:
        each_seed: Keep an entry for each run.
        labels: Labels given by the user, by folder; several runs of one entry take the first one's.

    Raises:
        UserError: A folder is not evaluated under the protocol, is given twice, or was evaluated by other rules or on
            other data than the first.
    """
    from i2i_bridge.recipe.recipe import load_recipe

    twice = [folder for folder, n in Counter(folder.resolve() for folder in folders).items() if n > 1]
    if twice:
        raise UserError(f"{twice[0].name}: the same folder is given twice")
    evaluations = [read_evaluation(folder, protocol) for folder in folders]
    refuse_unequal(list(zip(folders, evaluations, strict=True)))
    recipes = [load_recipe(folder / RECIPE_FILE) if (folder / RECIPE_FILE).is_file() else None for folder in folders]
    entries = [
        Entry(folder, evaluation.method, evaluation, recipe)
        for folder, evaluation, recipe in zip(folders, evaluations, recipes, strict=True)
    ]
    if not each_seed:
        entries = pool_entries(entries)
    given = labels or {}
    own = [
        next((given[folder] for folder in entry.seeds or (entry.folder,) if folder in given), entry.label)
        for entry in entries
    ]
    names = name_entries([(label, entry.folder) for label, entry in zip(own, entries, strict=True)])
    return [replace(entry, label=name) for entry, name in zip(entries, names, strict=True)]


def parse_labels(texts: Sequence[str], folders: Sequence[Path]) -> dict[Path, str]:
    """Parse `--label RUN=NAME` into labels by folder, with the folder as in `folders`.

    Raises:
        UserError: A text has no name, its run is not among the folders, or a run has two labels.
    """
    found: dict[Path, str] = {}
    for text in texts:
        places = [i for i, letter in enumerate(text) if letter == "="]
        folder = next(
            (folder for i in places for folder in folders if Path(text[:i]).resolve() == folder.resolve()), None
        )
        if folder is None:
            known = ", ".join(map(str, folders))
            raise UserError(f"--label '{text}': reads RUN=NAME, with one of the runs that are compared: {known}")
        name = next(text[i + 1 :] for i in places if Path(text[:i]).resolve() == folder.resolve()).strip()
        if not name or len(name) > 100:
            raise UserError(f"--label '{text}': a name of 1 to 100 letters is needed")
        if folder in found:
            raise UserError(f"--label '{text}': {folder} has a name already, '{found[folder]}'")
        found[folder] = name
    return found


def pool_entries(entries: Sequence[Entry]) -> list[Entry]:
    """Merge entries of one recipe with several training seeds into one, at the place of the first."""
    groups: list[tuple[Any, list[Entry]]] = []
    for entry in entries:
        common = None if entry.recipe is None else same_but_seed(entry.recipe, entry.evaluation)
        for other, group in groups:
            # Runs of one seed are not independent: they stay separate entries.
            if common is not None and common == other and _seed(entry) not in map(_seed, group):
                group.append(entry)
                break
        else:
            groups.append((common, [entry]))
    return [
        group[0]
        if len(group) == 1
        else replace(
            group[0],
            label=f"{group[0].label}, {len(group)} seeds",
            evaluation=pool([entry.evaluation for entry in group]),
            seeds=tuple(entry.folder for entry in group),
        )
        for _, group in groups
    ]


def _seed(entry: Entry) -> int | None:
    return None if entry.recipe is None else entry.recipe.train.seed


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
                f"{key} is {rules.settings.get(key, 'not set')} and {other.settings.get(key, 'not set')}"
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
                f"({reference.data.items} items, digest {reference.data.digest[:12]}, and {evaluation.data.items}, "
                f"{evaluation.data.digest[:12]}); evaluate both on the same images"
            )


def name_entries(found: Sequence[tuple[str, Path]]) -> list[str]:
    """Label each (method label, folder): the method label, adding the folder's name or path if labels are equal."""
    methods = Counter(method for method, _ in found)
    short = [method if methods[method] == 1 else f"{method} ({folder.name})" for method, folder in found]
    counts = Counter(short)
    return [
        label if counts[label] == 1 else f"{method} ({folder})"
        for label, (method, folder) in zip(short, found, strict=True)
    ]


def table_of(entries: Sequence[Entry], nfe: Iterable[int] | None = None) -> Table:
    """Build the table of entries: baselines, then the rows of each entry by network calls.

    Args:
        nfe: Show only these NFE of methods that can be evaluated at several; None shows all.
    """
    rows: list[tuple[int, str, Row]] = []
    given = {row.name: row for entry in reversed(entries) for row in baselines(entry.evaluation)}
    rows += [(-1, baseline_label(name), row) for name, row in given.items()]
    for i, entry in enumerate(entries):
        rows += [(i, entry.label, row) for row in shown_rows(entry.evaluation, nfe)]
    return build_table(rows)


def baselines(evaluation: Evaluation) -> list[Row]:
    """Rows without a network: the degraded input, and other rows of a run's evaluation that are not 'nfe N'."""
    if not any(row.name == INPUT for row in evaluation.rows):
        return []
    return [row for row in evaluation.rows if not row.name.startswith("nfe ")]


def baseline_label(name: str) -> str:
    """The label of a baseline row in the table."""
    return "degraded input" if name == INPUT else name


def shown_rows(evaluation: Evaluation, nfe: Iterable[int] | None) -> list[Row]:
    """Rows of an evaluation that are not baselines, by network calls, restricted to the NFE in `nfe`."""
    wanted = None if nfe is None else {f"nfe {calls}" for calls in nfe}
    given = [row.name for row in baselines(evaluation)]
    own = sorted((row for row in evaluation.rows if row.name not in given), key=lambda row: row.nfe)
    # A one-step method has one row whatever NFE is requested, and so have scored results of other code.
    fixed = evaluation.capped or not all(row.name.startswith("nfe ") for row in own)
    return [row for row in own if wanted is None or fixed or row.name in wanted]


def warnings_of(entries: Sequence[Entry]) -> list[str]:
    """Warnings of the evaluations without duplicates, and degraded inputs whose scores differ between entries."""
    found = [text for entry in entries for text in entry.evaluation.warnings]
    # Computed here because evaluations of earlier versions do not store this warning.
    rows = [row for entry in entries for row in entry.evaluation.rows]
    found += [text for row in rows for text in kid_warnings(row.metrics, row.images)]
    found = list(dict.fromkeys(found))
    given = [{r.name: r for r in entry.evaluation.rows}.get(INPUT) for entry in entries]
    there = [(entry, row) for entry, row in zip(entries, given, strict=True) if row is not None]
    for entry, row in there[1:]:
        for name, estimate in row.metrics.items():
            other = there[0][1].metrics.get(name)
            if other is not None and abs(other.value - estimate.value) > 1e-3 * max(abs(other.value), 1e-6):
                found.append(f"The degraded inputs of {there[0][0].label} and {entry.label} differ in {name}.")
    return found


def single_table(evaluation: Evaluation) -> Table:
    """The table of one evaluation."""
    rows = [(-1, baseline_label(row.name), row) for row in baselines(evaluation)]
    return build_table([*rows, *((0, evaluation.method, row) for row in shown_rows(evaluation, None))])


def skipped_of(entries: Sequence[Entry]) -> dict[str, str]:
    """Metrics that were skipped, with the reason."""
    return {name: reason for entry in entries for name, reason in entry.evaluation.skipped.items()}


def differences(recipes: Sequence["Recipe | None"]) -> list[tuple[str, list[str]]]:
    """Settings in which the recipes differ: dotted key, and the value in each recipe ('–' if it has none)."""
    flat = [
        {} if recipe is None else dict(_flat(recipe.without_places().model_dump(mode="json"))) for recipe in recipes
    ]
    there = [table for table in flat if table]
    keys = dict.fromkeys(key for table in there for key in table)
    return [
        (key, ["–" if table.get(key) is None else str(table[key]) for table in flat])
        for key in keys
        if any(table.get(key) != there[0].get(key) for table in there[1:])
    ]


def _flat(table: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def unavailable(entries: Sequence[Entry]) -> list[tuple[str, str]]:
    """Methods of the published table that are not among the entries, grouped by reason: (methods, reason)."""
    from i2i_bridge.recipe.presets import preset_names

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
