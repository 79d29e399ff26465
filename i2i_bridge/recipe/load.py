"""Loading of recipes: a TOML file, its dataset card, a method's preset and the user's settings, in layers."""

import copy
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from i2i_bridge import registry
from i2i_bridge.errors import UserError, listed, located, nearest, plural
from i2i_bridge.recipe.checks import check_used
from i2i_bridge.recipe.recipe import Recipe
from i2i_bridge.storage.names import expanded
from i2i_bridge.storage.shipped import recipe_names, shipped_folder
from i2i_bridge.storage.table import model_at, validated
from i2i_bridge.storage.toml import override_parts, read_toml, toml_value

Preset = Callable[[dict[str, Any], frozenset[str]], dict[str, Any]]
"""Maps a recipe's table and the keys that the user set to a changed table; [data] stays the same."""
LONGEST_SETTINGS = 120
"""Characters of the user's settings that a message repeats; it gives the number of longer ones."""
Override = tuple[list[str], str]
"""A setting of the user: the parts of a dotted key, and the text of the value."""


def load_recipe(name: str | Path, overrides: Iterable[str] = (), preset: Preset | None = None) -> Recipe:
    """Read and check a recipe: defaults, then the file, its dataset card, the preset and the user's settings.

    Args:
        name: A TOML file, or the name of a shipped recipe.
        overrides: The user's `key.key=value` settings with TOML values, as on the command line: `train.lr=1e-4`.
        preset: Changes the method. It sees the user's settings, and does not change them.

    Raises:
        UserError: The file or a setting is wrong; one line with file, key and value.

    Examples:
        >>> from i2i_bridge import load_recipe
        >>> recipe = load_recipe("demo/jpeg", ["train.steps=100", "sample.nfe=3"])
        >>> recipe.train.steps, recipe.sample.nfe
        (100, 3)
    """
    path = recipe_file(str(name))
    user = sorted(map(override_parts, listed("overrides", overrides)), key=_order)
    # First the user's settings, since they may name the card, and a preset depends on the size of the images.
    table = _with_card(_overridden(read_toml(path), user), path)
    if preset is not None:
        table = preset(table, frozenset(".".join(keys) for keys, _ in user))
        table = _overridden(table, [override for override in user if override[0][0] != "data"])
    words = " ".join(f"{'.'.join(keys)}={value}" for keys, value in user)
    if len(words) > LONGEST_SETTINGS:  # otherwise the message would be cut where it names the key
        words = plural(len(user), "setting")
    place = f"{name} with {words}" if user else str(path)
    recipe = parse_recipe(table, place)
    with located(place):
        check_used(recipe, {".".join(keys) for keys, _ in user})
    return recipe


def parse_recipe(table: Mapping[str, Any], place: str) -> Recipe:
    """Build and check a recipe from a table; `place` names the table in errors."""
    return validated(Recipe, table, place)


def recipe_file(name: str) -> Path:
    """The file of a recipe: an existing path, a shipped name, or its last part if that is unambiguous.

    Raises:
        UserError: There is no such recipe; the message names the nearest.
    """
    path = expanded(name)
    if path.suffix == ".toml":
        if not path.is_file():
            raise UserError(f"{name}: no such recipe file")
        return path
    names = recipe_names()
    matches = [known for known in names if name in (known, known.split("/")[-1])]
    if len(matches) != 1:
        from i2i_bridge.data.cards import card_names

        if matches:
            raise UserError(f"'{name}' could be {' or '.join(matches)}; give the whole name")
        if name in card_names():
            raise UserError(f"'{name}' is a dataset card, not a recipe; name a recipe and give it data.card={name}")
        if path.exists():
            raise UserError(f"{name}: not a recipe; a recipe is a TOML file, or one of `i2i-bridge list recipes`")
        hint = nearest(name, names + [known.split("/")[-1] for known in names])
        raise UserError(f"no recipe '{name}'{hint}; `i2i-bridge list recipes` shows all")
    return shipped_folder("recipes") / f"{matches[0]}.toml"


def _with_card(table: dict[str, Any], path: Path) -> dict[str, Any]:
    """The table with the settings of its dataset card, which those of the table override.

    A user's card is copied into the table; otherwise a run folder would depend on a file elsewhere.
    """
    from i2i_bridge.data.cards import load_card
    from i2i_bridge.data.store import own_card_names

    data = table.get("data")
    name = str(data.get("card", "")) if isinstance(data, dict) else ""
    if not isinstance(data, dict) or not name:
        return table
    with located(path), located("data.card"):
        card = load_card(name)
    defaults: dict[str, Any] = {"channels": card.channels, "value_range": card.value_range and list(card.value_range)}
    data = {key: value for key, value in defaults.items() if value is not None} | data
    source = data.get("source", {})
    if isinstance(source, dict) and (name.endswith(".toml") or name in own_card_names()):
        del data["card"]
        data["source"] = card.dataset | source
    return table | {"data": data}


def _order(override: Override) -> tuple[bool, int, bool]:
    """Sort key of overrides: an override that clears a table comes before overrides of its keys."""
    keys, _ = override
    return keys != ["data", "card"], len(keys), keys[-1] != "name"


def _overridden(table: Mapping[str, Any], user: Iterable[Override]) -> dict[str, Any]:
    """A copy of the table with the user's settings."""
    changed: dict[str, Any] = copy.deepcopy(dict(table))  # a preset's tables are shared by all recipes
    for keys, text in user:
        value = _value(changed, keys, text)
        *parents, last = keys
        inner = changed
        for parent in parents:
            inner = inner.setdefault(parent, {})
            if not isinstance(inner, dict):
                raise UserError(f"'{'.'.join(keys)}={text}': '{parent}' is a value, not a table")
        # Another card or member: the options of the previous one are dropped, as they would not fit.
        if keys == ["data", "card"]:
            inner.pop("source", None)
            inner.pop("root", None)
        if last == "name" and parents and inner.get("name") != value:
            inner.clear()
        inner[last] = value
    return changed


def _value(table: Mapping[str, Any], keys: list[str], text: str) -> Any:
    """The value of a setting: TOML, or the text where the setting is a text, such as a folder called 2024."""
    # An option of a dataset kind, or an entry of an option that is a table; no option holds tables of tables.
    if keys[:2] == ["data", "source"] and len(keys) in (3, 4) and (kind := _dataset_kind(table)):
        option, *entry = keys[2:]
        value = registry.DATASETS.typed(kind, option, {entry[0]: text} if entry else text)
        return value[entry[0]] if entry else value
    value = toml_value(text)
    model = model_at(Recipe, keys[:-1])
    field = None if model is None else model.model_fields.get(keys[-1])
    if isinstance(value, str) or field is None or _fits(field.annotation, value):
        return value
    return text if _fits(field.annotation, text) else value


def _fits(annotation: Any, value: Any) -> bool:
    try:
        TypeAdapter(annotation).validate_python(value)
    except (ValidationError, UserError):
        return False
    return True


def _dataset_kind(table: Mapping[str, Any]) -> str | None:
    """The dataset kind of a recipe's table, if it names a known one."""
    from i2i_bridge.data.cards import load_card

    data = table.get("data")
    if not isinstance(data, dict):
        return None
    source = data.get("source")
    kind = source.get("name") if isinstance(source, dict) else None
    if kind is None and data.get("card"):
        kind = load_card(str(data["card"])).dataset.get("name")
    return kind if isinstance(kind, str) and kind in registry.DATASETS else None
