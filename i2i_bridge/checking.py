"""Looking at every image of a dataset before training does: all problems in one pass."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from i2i_bridge import registry
from i2i_bridge.data.cards import card_names, is_card, load_card, open_source
from i2i_bridge.data.items import item_of
from i2i_bridge.data.loading import decode_item
from i2i_bridge.data.pairs import PairSource, shared_files
from i2i_bridge.data.splits import HOLD_OUT
from i2i_bridge.errors import UserError
from i2i_bridge.recipe import Recipe, load_recipe, toml_value

Look = Callable[[int], Any]
"""Reads item i; raises UserError where it is unusable."""


def check_data(
    what: str, settings: list[str], *, report: Callable[[int, int], None] = lambda done, total: None
) -> tuple[str, list[str]]:
    """A summary line, and one line for each problem of a dataset.

    A recipe's items are decoded, paired, cut and degraded as training would; those of a card or folder are decoded
    and paired.

    Args:
        what: A recipe, a dataset card (shipped, or a TOML file), or a folder.
        settings: `key=value`: recipe settings, or for a card or folder the options of the dataset kind
            (`kind=paired_folders x_0=clean x_1=noisy`; a folder is 'images' by default).
        report: Called with (items done, items in all).

    Raises:
        UserError: No split can be opened at all.
    """
    opened: dict[str, tuple[PairSource, Look]] = {}
    problems: list[str] = []
    plain = _is_folder(what) or what in card_names() or is_card(Path(what))
    for split in ("train", "val"):
        try:
            opened[split] = (
                _open_table(what, settings, split) if plain else _open_recipe(load_recipe(what, settings), split)
            )
        except UserError as error:
            problems.append(f"{split}: {error}")
    if not opened:
        raise UserError(problems[0].split(": ", 1)[1])
    total = sum(len(source) for source, _ in opened.values())
    done = 0
    found: dict[str, list[str]] = {}
    for split, (source, look) in opened.items():
        lines = list(getattr(source, "pairing_problems", []))
        for i in range(len(source)):
            try:
                look(i)
            except UserError as error:
                lines.append(str(error))
            done += 1
            report(done, total)
        for line in lines:
            found.setdefault(line, []).append(split)
    problems += [f"{', '.join(splits)}: {line}" for line, splits in found.items()]
    summary = f"{what}: " + ", ".join(f"{split} {len(source)}" for split, (source, _) in opened.items())
    summary += f" items; {len(problems) or 'no'} problem{'' if len(problems) == 1 else 's'}"
    shared = shared_files(opened["train"][0], opened["val"][0]) if len(opened) == 2 else None
    if shared:
        summary += f"; note: {shared} of the val items are train items too; {HOLD_OUT}"
    return summary, problems


def _is_folder(what: str) -> bool:
    # A card that knows its images is meant rather than a folder that happens to have its name; ./NAME is the folder.
    return Path(what).is_dir() and not (what in card_names() and "root" in load_card(what).dataset)


def _lenient(table: dict[str, Any]) -> dict[str, Any]:
    # Unmatched files are problems to list here, not a reason to stop.
    knows = "lenient" in registry.DATASETS.options(str(table.get("name")))
    return table | {"lenient": True} if knows else table


def _open_table(what: str, settings: list[str], split: str) -> tuple[PairSource, Look]:
    options: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise UserError(f"'{setting}': an option reads key=value, such as kind=paired_folders")
        options["name" if key == "kind" else key] = toml_value(value)
    table = {"name": "images", "root": what} if _is_folder(what) else dict(load_card(what).dataset)
    source = open_source(_lenient(table | options), split)
    return source, lambda i: decode_item(item_of(source, i), 3)


def _open_recipe(recipe: Recipe, split: str) -> tuple[PairSource, Look]:
    table = _lenient(recipe.data_table())
    name: Literal["train", "validation"] = "train" if split == "train" else "validation"
    data = recipe.data.model_copy(update={"card": None, "root": None, "source": table})
    dataset = recipe.model_copy(update={"data": data}).build_dataset(name)
    return dataset.source, dataset.__getitem__
