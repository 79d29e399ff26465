"""What can be named, and what each name means: recipes, dataset cards and the members of every registry."""

import inspect
from typing import Any

from i2i_bridge.data.cards import card_names, load_card
from i2i_bridge.errors import UserError
from i2i_bridge.methods.presets import method_preset, preset_names, preset_summary
from i2i_bridge.protocols import load_protocol, protocol_file, protocol_names
from i2i_bridge.recipe import load_recipe, recipe_file, recipe_names
from i2i_bridge.registry import KINDS, did_you_mean


def listing(what: str) -> list[tuple[str, str]]:
    """Name and one line of each recipe, dataset card, or member of a kind.

    Raises:
        UserError: There is no such kind.
    """
    if what == "recipes":
        return [(name, load_recipe(name).summary) for name in recipe_names()]
    if what == "datasets":
        return [(name, _card_line(name)) for name in card_names()]
    if what == "protocols":
        return [(name, load_protocol(name).summary) for name in protocol_names()]
    if what == "methods":
        return [(name, preset_summary(name)) for name in preset_names()]
    if what in KINDS:
        return [(name, _documentation(KINDS[what].get(name)).split("\n")[0]) for name in KINDS[what].names()]
    raise UserError(f"'{what}' cannot be listed{did_you_mean(what, ['recipes', 'datasets', 'protocols', *KINDS])}")


def description(name: str, method: str | None = None) -> str:
    """A recipe or card as TOML, or a part's documentation and options.

    Args:
        method: Show the recipe of that name as this method makes it, every default written out.

    Raises:
        UserError: Nothing has this name; the message gives the nearest.
    """
    if method is not None:
        return load_recipe(name, preset=method_preset(method)).to_toml()
    recipes = recipe_names()
    if name.endswith(".toml"):
        load_recipe(name)
        return recipe_file(name).read_text(encoding="utf-8")
    found = [_shipped_recipe(known) for known in recipes if name in (known, known.split("/")[-1])]
    if name in card_names():
        found.append(f"# dataset card {name}\n{load_card(name).to_toml()}")
    if name in protocol_names():
        found.append(f"# protocol {name}\n{protocol_file(name).read_text(encoding='utf-8')}")
    found += [_part(kind, name) for kind, members in KINDS.items() if name in members.names()]
    if name in preset_names() and name not in KINDS["methods"].names():
        found.append(f"methods: {name}\n\n{preset_summary(name)}\n")
    if not found:
        members = [member for registered in KINDS.values() for member in registered.names()]
        short = [known.split("/")[-1] for known in recipes]
        known = [*recipes, *short, *card_names(), *protocol_names(), *members]
        raise UserError(f"nothing is called '{name}'{did_you_mean(name, known)}")
    return "\n".join(found)


def _card_line(name: str) -> str:
    try:
        return load_card(name).summary
    except UserError as error:  # one broken card of the user's must not hide the others
        return f"cannot be read: {error}"


def _shipped_recipe(name: str) -> str:
    return f"# recipe {name}\n{recipe_file(name).read_text(encoding='utf-8')}"


def _part(kind: str, name: str) -> str:
    lines = [f"{kind}: {name}", "", _documentation(KINDS[kind].get(name))]
    for key, parameter in KINDS[kind].options(name).items():
        if not _is_plumbing(kind, key, parameter):
            default = "" if parameter.default is parameter.empty else f" = {parameter.default!r}"
            lines.append(f"  {key}: {_type_name(parameter.annotation)}{default}")
    return "\n".join(lines) + "\n"


def _documentation(member: Any) -> str:
    return inspect.getdoc(member) or "(no description)"


def _is_plumbing(kind: str, key: str, parameter: Any) -> bool:
    """Arguments that the library fills in, not the recipe."""
    if kind == "samplers":
        return parameter.kind is not parameter.KEYWORD_ONLY or key == "start"
    if kind == "methods":
        return key in ("recipe", "network")
    return kind == "grids" or key == "split" or (kind == "discriminators" and key == "in_channels")


def _type_name(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) else str(annotation).replace("typing.", "")
