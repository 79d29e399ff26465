"""What can be named, and what each name means: recipes, dataset cards and the members of every registry."""

from i2i_bridge.data.cards import card_names, load_card
from i2i_bridge.errors import UserError
from i2i_bridge.file_reader import read_text
from i2i_bridge.members import Option
from i2i_bridge.methods.presets import method_preset, preset_names, preset_summary
from i2i_bridge.protocols import load_protocol, protocol_file, protocol_names
from i2i_bridge.recipe import load_recipe, recipe_file, recipe_names
from i2i_bridge.registry import KINDS, Registry, did_you_mean
from i2i_bridge.toml_file import read_toml


def listing(what: str) -> list[tuple[str, str]]:
    """Name and one line of each recipe, dataset card, or member of a kind.

    Raises:
        UserError: There is no such kind.
    """
    if what == "recipes":
        # Not loaded whole: building its parts would import torch, and the tests load every shipped recipe.
        return [(name, str(read_toml(recipe_file(name)).get("summary", ""))) for name in recipe_names()]
    if what == "datasets":
        return [(name, _card_line(name)) for name in card_names()]
    if what == "protocols":
        return [(name, load_protocol(name).summary) for name in protocol_names()]
    if what == "methods":
        return [(name, preset_summary(name)) for name in preset_names()]
    if what in KINDS:
        return [(name, _documentation(KINDS[what], name).split("\n")[0]) for name in KINDS[what].names()]
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
        return read_text(recipe_file(name))
    found = [_shipped_recipe(known) for known in recipes if name in (known, known.split("/")[-1])]
    if name in card_names():
        found.append(f"# dataset card {name}\n{load_card(name).to_toml()}")
    if name in protocol_names():
        found.append(f"# protocol {name}\n{read_text(protocol_file(name))}")
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
    return f"# recipe {name}\n{read_text(recipe_file(name))}"


def _part(kind: str, name: str) -> str:
    lines = [f"{kind}: {name}", "", _documentation(KINDS[kind], name)]
    for option in KINDS[kind].option_texts(name):
        if not _is_plumbing(kind, option):
            default = "" if option.default is None else f" = {option.default}"
            lines.append(f"  {option.name}: {option.type}{default}")
    return "\n".join(lines) + "\n"


def _documentation(members: Registry, name: str) -> str:
    return members.documentation(name) or "(no description)"


def _is_plumbing(kind: str, option: Option) -> bool:
    """Arguments that the library fills in, not the recipe."""
    if kind == "samplers":
        return not option.keyword_only or option.name == "start"
    if kind == "methods":
        return option.name in ("recipe", "network")
    return kind == "grids" or option.name == "split" or (kind == "discriminators" and option.name == "in_channels")
