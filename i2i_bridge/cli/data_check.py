"""`i2i-bridge check`: list all problems of the images of a recipe, dataset card or folder in one pass."""

import contextlib
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from i2i_bridge import Recipe, UserError, load_recipe, registry
from i2i_bridge.data.cards import Card, card_names, is_card, load_card, open_source
from i2i_bridge.data.check import Checked, ItemFacts, halves_problems, merged_lines, other_layouts, read_facts
from i2i_bridge.data.source import item_of
from i2i_bridge.data.sources.folders import shared_files
from i2i_bridge.data.splits import HOLD_OUT
from i2i_bridge.data.statistics import Facts, exchanged_sides, facts_of, verdicts
from i2i_bridge.errors import nearest, plural
from i2i_bridge.recipe.load import recipe_file
from i2i_bridge.recipe.schema import DataSettings
from i2i_bridge.storage.shipped import is_recipe_name, recipe_names
from i2i_bridge.storage.toml import read_toml, toml_value


def check_data(
    what: str, settings: list[str], *, report: Callable[[int, int], None] = lambda done, total: None
) -> Checked:
    """Read every item of a dataset and list all problems.

    Items of a recipe are decoded, paired, cropped and degraded as in training; those of a card or folder are decoded
    and paired. Then they are compared with each other (`data.statistics.verdicts`).

    Args:
        what: A recipe, a dataset card (shipped, or a TOML file), or a folder.
        settings: `key=value`: recipe settings, or for a card or folder the options of the dataset kind
            (`kind=paired_folders x_0=clean x_1=noisy`; a folder is 'images' by default).
        report: Called with (items done, items in all).

    Raises:
        UserError: No recipe, card or folder has this name, or none of its splits can be opened.
    """
    opened: dict[str, ItemFacts] = {}
    problems: list[str] = []
    is_recipe = not (_is_folder(what) or what in card_names() or is_card(Path(what)))
    if is_recipe and not what.endswith(".toml") and not is_recipe_name(what):
        if Path(what).is_file():
            raise UserError(f"{what}: a file; a list is checked by its card", command="i2i-bridge data add NAME FILE")
        hint = nearest(what, [*card_names(), *recipe_names()])
        raise UserError(f"{what}: no such folder, dataset card or recipe{hint}")
    for split in ("train", "val"):
        try:
            opened[split] = _open_recipe(what, settings, split) if is_recipe else _open_table(what, settings, split)
        except UserError as error:
            problems.append(f"{split}: {error}")
    if not opened:
        raise UserError(problems[0].split(": ", 1)[1])
    total = sum(len(items) for items in opened.values())
    done = 0
    found: dict[str, list[str]] = {}
    facts: dict[str, list[Facts]] = {}
    for split, items in opened.items():
        lines = list(getattr(items.source, "pairing_problems", []))
        facts[split] = []
        for result in read_facts(items):
            if isinstance(result, str):
                lines.append(result)
            else:
                facts[split].append(result)
            done += 1
            report(done, total)
        for line in lines:
            found.setdefault(line, []).append(split)
    problems += [f"{', '.join(splits)}: {line}" for line, splits in found.items()]
    problems += halves_problems(opened)
    card = _card(what, settings, is_recipe)
    more, notes = verdicts(facts, card.statistics if card else None)
    problems += more
    if card and is_recipe:
        notes += _advice_notes(card, load_recipe(what, settings).data)
    if _is_folder(what) and not settings:
        notes += other_layouts(what)
    notes += merged_lines({split: _source_notes(items, what, settings) for split, items in opened.items()})
    shared = shared_files(opened["train"].source, opened["val"].source) if len(opened) == 2 else None
    if shared:
        notes.append(f"{shared} of the val items are train items too; {HOLD_OUT}")
    counts = ", ".join(f"{split} {len(items)}" for split, items in opened.items())
    outcome = plural(len(problems), "problem") if problems else "no problems"
    hint = ""
    if not is_recipe and not _is_folder(what):
        hint = f"whether a recipe resizes these images: i2i-bridge check RECIPE data.card={shlex.quote(what)}"
    return Checked(f"{what}: {counts} items; {outcome}", problems, notes, hint)


def _source_notes(items: ItemFacts, what: str, settings: list[str]) -> list[str]:
    """Notes about the files of a split, and for a recipe about their use, that need no image to be read."""
    if items.dataset is None:
        return list(getattr(items.source, "left_out", []))
    return load_recipe(what, settings).notes_on(items.dataset)


FIRST = 32
"""Number of pairs, spread over the training images, that are checked before a training starts."""


def check_sides(what: str, settings: list[str], recipe: Recipe, folder: Path) -> None:
    """Refuse to train on pairs whose sides look exchanged, by the card's statistics.

    If the folder already holds a checkpoint, nothing is checked.

    Args:
        what: The recipe, as the user named it.
        settings: `key=value` of the recipe.
        recipe: The loaded recipe.
        folder: The run folder.

    Raises:
        UserError: The sides look exchanged.
    """
    if any(path.name.startswith("step-") for path in (folder / "checkpoints").glob("*")):
        return
    card = _card(what, settings, is_recipe=True)
    if card is None or card.statistics is None:
        return
    source = open_source(recipe.data_table(), recipe.data.train_split)
    count = min(len(source), FIRST)
    facts = []
    for i in range(count):
        with contextlib.suppress(UserError):  # the training reports damaged images
            facts.append(facts_of(item_of(source, i * len(source) // count)))
    problem = exchanged_sides(facts, card.statistics)
    if problem is not None:
        raise UserError(f"{problem} (first {len(facts)} pairs were checked); --force trains on them as they are")


def _card(what: str, settings: list[str], is_recipe: bool) -> Card | None:
    """The dataset card that is checked, or that the recipe names; None if there is none."""
    if not is_recipe:
        return None if _is_folder(what) else load_card(what)
    # From the file: in a loaded recipe a card of the user is replaced by its contents.
    written = read_toml(recipe_file(what)).get("data", {}).get("card")
    given = [text.removeprefix("data.card=") for text in settings if text.startswith("data.card=")]
    name = toml_value(given[-1]) if given else written
    return load_card(str(name)) if name else None


def _advice_notes(card: Card, data: DataSettings) -> Iterator[str]:
    """Notes where a recipe mirrors or jitters images against the advice of the card, such as edge drawings."""
    advice = card.advice
    if advice is None:
        return
    if data.flip and not advice.flip:
        yield f"the card {card.name} advises data.flip=false; the recipe mirrors half of the images"
    if data.load_size and advice.load_size is None and advice.crop == "center":
        yield f"the card {card.name} advises no jitter; the recipe resizes to data.load_size={data.load_size} first"


def _is_folder(what: str) -> bool:
    # A card with a root takes precedence over a folder of the same name; ./NAME selects the folder.
    return Path(what).is_dir() and not (what in card_names() and "root" in load_card(what).dataset)


def _lenient(table: dict[str, Any]) -> dict[str, Any]:
    # Otherwise the first unmatched file ends the check instead of being listed.
    has_option = "lenient" in registry.DATASETS.options(str(table.get("name")))
    return table | {"lenient": True} if has_option else table


def _open_table(what: str, settings: list[str], split: str) -> ItemFacts:
    table: dict[str, Any] = {"name": "images", "root": what} if _is_folder(what) else dict(load_card(what).dataset)
    given: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise UserError(f"'{setting}': an option reads key=value, such as kind=paired_folders")
        # Keys of a recipe are accepted too: messages about cards ask for data.root=FOLDER.
        key, _, inner = key.removeprefix("data.").removeprefix("source.").partition(".")
        if key == "kind":
            table["name"] = value
        elif inner:
            given.setdefault(key, {})[inner] = value
        else:
            given[key] = value
    for key, option in given.items():
        typed = registry.DATASETS.typed(str(table["name"]), key, option)
        both = isinstance(option, dict) and isinstance(table.get(key), dict)
        table[key] = {**table[key], **typed} if both else typed
    return ItemFacts(open_source(_lenient(table), split))


def _open_recipe(what: str, settings: list[str], split: str) -> ItemFacts:
    recipe = load_recipe(what, settings)
    data = recipe.data.model_copy(update={"card": None, "root": None, "source": _lenient(recipe.data_table())})
    dataset = recipe.model_copy(update={"data": data}).build_dataset("train" if split == "train" else "validation")
    return ItemFacts(dataset.source, dataset=dataset)
