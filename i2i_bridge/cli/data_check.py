"""`i2i-bridge data check`: all problems of a recipe's, card's or folder's images in one pass."""

import contextlib
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from i2i_bridge import registry
from i2i_bridge.data.cards import Card, card_names, is_card, load_card, open_source
from i2i_bridge.data.check import Checked, _halves_problems, _looked, _Looking, _of_splits, _other_readings
from i2i_bridge.data.source import item_of
from i2i_bridge.data.sources.folders import shared_files
from i2i_bridge.data.splits import HOLD_OUT
from i2i_bridge.data.statistics import Facts, exchanged_sides, facts_of, verdicts
from i2i_bridge.errors import UserError
from i2i_bridge.recipe.recipe import Recipe, load_recipe, recipe_file
from i2i_bridge.recipe.schema import DataSettings
from i2i_bridge.storage.shipped import is_recipe_name, recipe_names
from i2i_bridge.storage.toml import read_toml, toml_value


def check_data(
    what: str, settings: list[str], *, report: Callable[[int, int], None] = lambda done, total: None
) -> Checked:
    """Read every item of a dataset and say what is wrong with it.

    A recipe's items are decoded, paired, cut and degraded as training would; those of a card or folder are decoded
    and paired. Then they are compared with each other (`inspecting.verdicts`).

    Args:
        what: A recipe, a dataset card (shipped, or a TOML file), or a folder.
        settings: `key=value`: recipe settings, or for a card or folder the options of the dataset kind
            (`kind=paired_folders x_0=clean x_1=noisy`; a folder is 'images' by default).
        report: Called with (items done, items in all).

    Raises:
        UserError: There is no such thing, or none of its splits can be opened.
    """
    opened: dict[str, _Looking] = {}
    problems: list[str] = []
    plain = _is_folder(what) or what in card_names() or is_card(Path(what))
    if not plain and not what.endswith(".toml") and not is_recipe_name(what):
        hint = registry.nearest(what, [*card_names(), *recipe_names()])
        raise UserError(f"{what}: no such folder, dataset card or recipe{hint}")
    for split in ("train", "val"):
        try:
            opened[split] = (
                _open_table(what, settings, split) if plain else _open_recipe(load_recipe(what, settings), split)
            )
        except UserError as error:
            problems.append(f"{split}: {error}")
    if not opened:
        raise UserError(problems[0].split(": ", 1)[1])
    total = sum(len(looking) for looking in opened.values())
    done = 0
    found: dict[str, list[str]] = {}
    facts: dict[str, list[Facts]] = {}
    for split, looking in opened.items():
        lines = list(getattr(looking.source, "pairing_problems", []))
        facts[split] = []
        for seen in _looked(looking):
            (lines if isinstance(seen, str) else facts[split]).append(seen)  # type: ignore[arg-type]
            done += 1
            report(done, total)
        for line in lines:
            found.setdefault(line, []).append(split)
    problems += [f"{', '.join(splits)}: {line}" for line, splits in found.items()]
    problems += _halves_problems(opened)
    card = _card(what, settings, plain)
    more, notes = verdicts(facts, card.statistics if card else None)
    problems += more
    if card and not plain:
        notes += _against_advice(card, load_recipe(what, settings).data)
    if _is_folder(what) and not settings:
        notes += _other_readings(what)
    notes += _of_splits({split: _known(looking, what, settings) for split, looking in opened.items()})
    shared = shared_files(opened["train"].source, opened["val"].source) if len(opened) == 2 else None
    if shared:
        notes.append(f"{shared} of the val items are train items too; {HOLD_OUT}")
    counts = ", ".join(f"{split} {len(looking)}" for split, looking in opened.items())
    plural = "" if len(problems) == 1 else "s"
    hint = ""
    if plain and not _is_folder(what):
        hint = f"whether a recipe resizes these images: i2i-bridge check RECIPE data.card={shlex.quote(what)}"
    return Checked(f"{what}: {counts} items; {len(problems) or 'no'} problem{plural}", problems, notes, hint)


def _known(looking: "_Looking", what: str, settings: list[str]) -> list[str]:
    """What the files of a split, and what becomes of them, tell before they are read."""
    if looking.dataset is None:
        return list(getattr(looking.source, "left_out", []))
    return load_recipe(what, settings).notes_on(looking.dataset)


FIRST = 32
"""So many pairs, spread over the training images, are looked at before a training starts."""


def check_sides(what: str, settings: list[str], recipe: Recipe, folder: Path) -> None:
    """Refuse to start a training on pairs whose sides look exchanged by the card's statistics.

    Where the folder holds a run already, nothing is looked at.

    Args:
        what: The recipe, as the user named it.
        settings: `key=value` of the recipe.
        recipe: The same, loaded.
        folder: The run folder.

    Raises:
        UserError: They look exchanged.
    """
    if any(path.name.startswith("step-") for path in (folder / "checkpoints").glob("*")):
        return
    card = _card(what, settings, plain=False)
    if card is None or card.statistics is None:
        return
    source = open_source(recipe.data_table(), recipe.data.train_split)
    count = min(len(source), FIRST)
    facts = []
    for i in range(count):
        with contextlib.suppress(UserError):  # the training itself says what is wrong with an image
            facts.append(facts_of(item_of(source, i * len(source) // count)))
    problem = exchanged_sides(facts, card.statistics)
    if problem is not None:
        raise UserError(f"{problem} (first {len(facts)} pairs looked at); --force trains on them as they are")


def _card(what: str, settings: list[str], plain: bool) -> Card | None:
    if plain:
        return None if _is_folder(what) else load_card(what)
    # As written: a loaded recipe has taken a user's own card in.
    written = read_toml(recipe_file(what)).get("data", {}).get("card")
    given = [text.removeprefix("data.card=") for text in settings if text.startswith("data.card=")]
    name = toml_value(given[-1]) if given else written
    return load_card(str(name)) if name else None


def _against_advice(card: Card, data: DataSettings) -> Iterator[str]:
    """Where a recipe mirrors or jitters what the dataset's authors did not: edge drawings, say."""
    advice = card.advice
    if advice is None:
        return
    if data.flip and not advice.flip:
        yield f"the card {card.name} advises data.flip=false; the recipe mirrors half of the images"
    if data.load_size and advice.load_size is None and advice.crop == "center":
        yield f"the card {card.name} advises no jitter; the recipe resizes to data.load_size={data.load_size} first"


def _is_folder(what: str) -> bool:
    # A card that knows its images is meant rather than a folder that happens to have its name; ./NAME is the folder.
    return Path(what).is_dir() and not (what in card_names() and "root" in load_card(what).dataset)


def _lenient(table: dict[str, Any]) -> dict[str, Any]:
    # Unmatched files are problems to list here, not a reason to stop.
    knows = "lenient" in registry.DATASETS.options(str(table.get("name")))
    return table | {"lenient": True} if knows else table


def _open_table(what: str, settings: list[str], split: str) -> _Looking:
    table: dict[str, Any] = {"name": "images", "root": what} if _is_folder(what) else dict(load_card(what).dataset)
    given: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise UserError(f"'{setting}': an option reads key=value, such as kind=paired_folders")
        # A recipe's words serve as well: data.root=FOLDER is what messages about cards ask for.
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
    return _Looking(open_source(_lenient(table), split))


def _open_recipe(recipe: Recipe, split: str) -> _Looking:
    table = _lenient(recipe.data_table())
    name: Literal["train", "validation"] = "train" if split == "train" else "validation"
    data = recipe.data.model_copy(update={"card": None, "root": None, "source": table})
    dataset = recipe.model_copy(update={"data": data}).build_dataset(name)
    return _Looking(dataset.source, dataset=dataset)
