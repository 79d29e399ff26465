"""Register a user's dataset (`data add`): open it once, see to its splits, and write a card."""

import contextlib
import glob
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from i2i_bridge import registry
from i2i_bridge.data.cards import Card, Statistics, open_source, shipped_card_names
from i2i_bridge.data.guess import Choose, guessed_table
from i2i_bridge.data.items import decode_item
from i2i_bridge.data.layout import no_halves, sizes_of
from i2i_bridge.data.source import item_of
from i2i_bridge.data.splits import all_split_names, is_training
from i2i_bridge.data.statistics import facts_of, statistics_of
from i2i_bridge.data.store import own_card_file, own_card_names
from i2i_bridge.errors import UserError, plural
from i2i_bridge.storage.files import write_whole
from i2i_bridge.storage.names import NAME_LETTERS
from i2i_bridge.storage.shipped import is_recipe_name
from i2i_bridge.storage.toml import override_parts

HOLDOUT = (0.1, 0.2, 0.3, 0.5)
"""Default shares of held-out images; the first for which both splits have an image is used."""
MEASURED = 50
"""Number of pairs from which the card's statistics are measured."""


@dataclass
class Registered:
    """The result of `register`: the card, its file, and messages for the user."""

    card: Card
    file: Path
    messages: list[str] = field(default_factory=list)
    """Messages about guesses, the number of items and files left out, one line each."""


def register(
    name: str,
    paths: Sequence[Path],
    settings: Sequence[str],
    kind: str | None = None,
    *,
    replace: bool = False,
    choose: Choose | None = None,
) -> Registered:
    """Open a user's dataset and write a card for it.

    Args:
        name: Name of the dataset in recipes.
        paths: A folder, the two folders of paired images, or a list file.
        settings: Options of the dataset kind as `key=value`, with TOML values and dotted keys for tables.
        kind: The dataset kind; by default guessed.
        replace: Whether to overwrite an existing card of this name, after the new dataset has been opened.
        choose: Asks the user to confirm a guess. None: not interactive; an ambiguous layout is an error that lists a
            command for each possible layout.

    Raises:
        UserError: The name is taken, the layout is ambiguous, or the dataset cannot be opened. Nothing is written.
    """
    _check_name(name, replace)
    options = _options(settings)
    for path in paths:
        if not path.exists():
            raise UserError(f"{path}: no such file or folder")
    messages: list[str] = []
    table = guessed_table(name, [path.resolve() for path in paths], options, kind, messages, choose)
    known = registry.DATASETS.options(table["name"])
    table |= {key: registry.DATASETS.typed(table["name"], key, value) for key, value in options.items()}
    if table["name"] == "side_by_side":
        messages += _check_halves(name, table, explicit=kind is not None)
    if "holdout" in known:
        messages += _from_training_names(table)
        messages += _from_training_folder(table)
        if not _has_splits(table):
            if "holdout" not in table:
                share = table["holdout"] = _default_holdout(table)
                messages.append(f"no splits in it: a share of {share} is held out by name (holdout={share})")
        elif table.get("holdout"):
            messages.append(f"holdout={table['holdout']} has no effect, since the dataset has splits")
    messages.append(_count_items(table))
    messages += _left_out(table)
    where = " and ".join(str(path) for path in paths)
    summary = f"Your own: {where} ({table['name']})"
    card = Card(name=name, summary=summary, licence="your own", dataset=table, statistics=_statistics(table))
    file = own_card_file(name)
    write_whole(file, card.to_toml().encode())
    return Registered(card, file, messages)


def _statistics(table: dict[str, Any]) -> Statistics | None:
    """Statistics of the first pairs, by which `check` later detects exchanged sides; None without pairs."""
    try:
        source = open_source(table, "train")
    except UserError:  # a dataset may have no training split
        return None
    facts = []
    for i in range(min(len(source), MEASURED)):
        with contextlib.suppress(UserError):  # damaged files are reported by `check`
            facts.append(facts_of(item_of(source, i)))
    return statistics_of(facts)


def _check_name(name: str, replace: bool) -> None:
    if not re.fullmatch(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{NAME_LETTERS - 1}}}", name) or name.endswith(".toml"):
        raise UserError(
            f"'{name}': a dataset's name has letters, digits, '.', '_' and '-', at most {NAME_LETTERS}, and no .toml "
            "at its end"
        )
    if name in shipped_card_names() or is_recipe_name(name):
        raise UserError(f"'{name}' is a shipped card or recipe; choose another name")
    if name in own_card_names() and not replace:
        raise UserError(
            f"'{name}' is registered already; add --replace to overwrite its card, or first: "
            f"i2i-bridge data remove {name}"
        )


def _options(settings: Sequence[str]) -> dict[str, Any]:
    """Parse `key=value` settings into a table of texts; dotted keys give inner tables."""
    options: dict[str, Any] = {}
    for text in settings:
        parts, value = override_parts(text)
        if parts[0] in ("name", "kind", "split"):
            raise UserError(f"'{text}': not an option; the kind is given as --kind {value}")
        inner = options
        for part in parts[:-1]:
            inner = inner.setdefault(part, {})
            if not isinstance(inner, dict):
                raise UserError(f"'{text}': '{part}' is a value, not a table")
        inner[parts[-1]] = value
    return options


def _check_halves(name: str, table: dict[str, Any], explicit: bool) -> list[str]:
    """Check that the files of each split are side-by-side pairs; returns a message about unlikely files.

    Raises:
        UserError: More than half of the files of a split are unlikely, and the kind was not given by the user.
    """
    sizes = {}
    for split in ("train", "val"):
        with contextlib.suppress(UserError):  # reported by `_count_items`
            files = open_source(table, split).files  # type: ignore[attr-defined]
            sizes[split] = sizes_of([(str(path), path) for _, path in files])
    all_sizes = {file: size for of_split in sizes.values() for file, size in of_split.items()}
    odd, why = no_halves(all_sizes)
    if not odd:
        return []
    shown = ", ".join(f"{file} ({width}x{height})" for file in odd[:5] for height, width in [all_sizes[file]])
    unlikely = plural(len(odd), "file is hardly a pair of halves", "files are hardly pairs of halves")
    line = f"{unlikely}: {shown}{' ...' if len(odd) > 5 else ''}; {why}"
    for split, of_split in sizes.items():
        if not explicit and 2 * sum(file in set(odd) for file in of_split) > len(of_split):
            words = [f"{key}={value}" for key, value in table.items() if key not in ("name", "root")]
            ways = [["--kind", "side_by_side", *words], ["--kind", "images"]]
            commands = [shlex.join(["i2i-bridge", "data", "add", name, table["root"], *way]) for way in ways]
            raise UserError(f"{table['root']}: {split}: {line}. They would be cut in the middle", ways=commands)
    return [line]


def _split_folders(table: dict[str, Any]) -> list[Path]:
    """The split folders of a dataset, in its root or in the folder of targets."""
    root = Path(table["root"])
    side = root / str(table.get("x_0", ""))
    base = side if table["name"] == "paired_folders" and side.is_dir() else root
    return [base / name for name in all_split_names() if (base / name).is_dir()]


def _from_training_folder(table: dict[str, Any]) -> list[str]:
    """Turn a table whose only split folder is that of training into one of that folder; returns a message.

    Otherwise nothing could be held out of it, and no training takes a dataset without validation images.
    """
    folders = _split_folders(table)
    if not folders or not all(is_training(folder.name) for folder in folders) or "names" in table:
        return []
    with contextlib.suppress(UserError):
        open_source(table, "val")
        return []  # a list, for example, whose splits are no folders
    if folders[0].parent == Path(table["root"]):
        table["root"] = str(folders[0])
    else:
        table |= {side: f"{table[side]}/{folders[0].name}" for side in ("x_0", "x_1", "condition") if side in table}
    return [f"{folders[0]} is the only split folder: the validation images are held out of it"]


def _from_training_names(table: dict[str, Any]) -> list[str]:
    """As `_from_training_folder`, of a table whose options have `{split}` in names: {split}B becomes trainB."""
    texts = {key: value for key, value in table.items() if key != "root" and isinstance(value, str)}
    named = {key: value for key, value in texts.items() if "{split}" in value}
    patterns = [str(Path(glob.escape(table["root"]), value)) for value in named.values()]
    # Not Path.glob, which takes no absolute pattern.
    found = [
        name
        for name in all_split_names()
        if any(glob.glob(path.replace("{split}", name)) for path in patterns)  # noqa: PTH207
    ]
    if not found or not all(map(is_training, found)):
        return []
    table |= {key: value.replace("{split}", found[0]) for key, value in named.items()}
    return [f"{found[0]} is the only split of {', '.join(named.values())}: the validation images are held out of it"]


def _has_splits(table: dict[str, Any]) -> bool:
    """Whether the dataset has splits of its own, so that its items do not depend on `holdout`."""
    for split in ("train", "val"):
        try:
            count = len(open_source(table | {"holdout": 0.0}, split))
        except UserError:
            continue  # a split that is not there, or an error reported by `_count_items`
        try:
            return len(open_source(table | {"holdout": 1 - 1e-9}, split)) == count
        except UserError:
            return False
    return True


def _default_holdout(table: dict[str, Any]) -> float:
    for share in HOLDOUT:
        try:
            for split in ("train", "val"):
                open_source(table | {"holdout": share}, split)
        except UserError:
            continue  # too few images for this share, or an error reported by `_count_items`
        return share
    return HOLDOUT[0]


def _count_items(table: dict[str, Any]) -> str:
    """Open both splits and decode an item of each; returns a message with the numbers of items.

    Raises:
        UserError: A split cannot be opened, other than a training split of which there is no folder.
    """
    counts, problems = [], {}
    for split in ("train", "val"):
        try:
            source = open_source(table, split)
            decode_item(source[0], 3)
            counts.append(f"{split} {len(source)}")
        except UserError as error:
            problems[split] = error
    folders = _split_folders(table)
    evaluation_only = bool(folders) and not any(is_training(folder.name) for folder in folders)
    if "val" in problems or ("train" in problems and not evaluation_only):
        raise problems.get("train") or problems["val"]
    return "items: " + ", ".join(counts + [f"{split} none ({error})" for split, error in problems.items()])


def _left_out(table: dict[str, Any]) -> list[str]:
    """Messages about the files left out of the dataset."""
    lines: list[str] = []
    for split in ("train", "val"):
        with contextlib.suppress(UserError):
            lines += getattr(open_source(table, split), "left_out", [])
    return list(dict.fromkeys(lines))
