"""The names that recipes and commands can use, and what each means."""

import json
import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from i2i_bridge import UserError, load_recipe, method_preset
from i2i_bridge.data.cards import card_names, load_card
from i2i_bridge.errors import did_you_mean, nearest, plural
from i2i_bridge.recipe.listing import TABLES, is_setting, recipe_settings, table_settings
from i2i_bridge.recipe.load import recipe_file
from i2i_bridge.recipe.presets import preset_names, preset_summary
from i2i_bridge.recipe.protocol import load_protocol, protocol_file, protocol_names
from i2i_bridge.registry import KINDS, Registry
from i2i_bridge.storage.reader import read_text
from i2i_bridge.storage.shipped import (
    CARD_FILE,
    RECIPE_FILE,
    folder_of_run,
    pretrained_names,
    recipe_names,
    recipe_of_run,
)
from i2i_bridge.storage.toml import read_toml

if TYPE_CHECKING:
    from i2i_bridge import Recipe

SORTS = ("recipe", "card", "protocol", "run", "settings", "part")
"""Prefixes of `show PREFIX:NAME`, beside the kinds of parts; `part` stands for any kind."""


def listing(what: str) -> list[tuple[str, str]]:
    """Name and one line of each recipe, dataset card, or member of a kind.

    Raises:
        UserError: There is no such kind.
    """
    if what == "recipes":
        # Only the summary is read: loading a recipe would build its parts and import torch.
        return [(name, str(read_toml(recipe_file(name)).get("summary", ""))) for name in recipe_names()]
    if what == "datasets":
        return [(name, _card_line(name)) for name in card_names()]
    if what == "protocols":
        return [(name, load_protocol(name).summary) for name in protocol_names()]
    if what == "pretrained":
        recipes = [recipe_of_run(folder_of_run(Path(name))) for name in pretrained_names()]
        return list(zip(pretrained_names(), [str(read_toml(file).get("summary", "")) for file in recipes], strict=True))
    if what == "methods":
        return [(name, preset_summary(name)) for name in preset_names()]
    if what in KINDS:
        return [(name, _documentation(KINDS[what], name).split("\n")[0]) for name in KINDS[what].names()]
    raise UserError(
        f"'{what}' cannot be listed{did_you_mean(what, ['recipes', 'datasets', 'protocols', 'pretrained', *KINDS])}"
    )


def description(name: str, method: str | None = None, *, all_settings: bool = False) -> str:
    """A recipe or card as TOML, a table of settings, or a part's documentation and options.

    Args:
        name: A name that `listing` returns, a table of settings (`train`), or either with a prefix of `SORTS`, such as
            `recipe:facades`, `card:facades`, `part:jpeg`, `processes:ot-ode`.
        method: Show the recipe with this method's preset applied and every default written out.
        all_settings: Show every setting of a recipe with its type, range, default and meaning.

    Raises:
        UserError: Nothing has this name; the message gives the nearest.
    """
    sort, colon, rest = name.partition(":")
    sort = {members.kind: kind for kind, members in KINDS.items()}.get(sort, sort)
    if not colon or sort not in (*SORTS, *KINDS):
        sort, rest = "", name
    if rest in TABLES and all_settings and method is None:
        return table_settings(rest)
    if method is not None or all_settings:
        if sort not in ("", "recipe"):
            raise UserError(f"{name}: --method and --all are for recipes; give a recipe")
        preset = None if method is None else method_preset(method)
        if all_settings and preset is None and not rest.endswith(".toml"):
            # A shipped recipe is valid: skip the check, which builds its parts and imports torch.
            return recipe_settings(read_toml(recipe_file(rest)))
        loaded = load_recipe(rest, preset=preset)
        return recipe_settings(loaded.model_dump(mode="json", exclude_none=True)) if all_settings else loaded.to_toml()
    if rest.endswith(".toml"):
        load_recipe(rest)
        return read_text(recipe_file(rest), encoding="utf-8-sig")
    meanings = {at: text for at, text in _meanings(rest) if sort in ("", at) or (sort == "part" and at in KINDS)}
    if not meanings:
        if (recipe := Path(rest) / RECIPE_FILE).is_file():
            raise UserError(
                f"{rest}: a run folder; its settings: i2i-bridge show {recipe}, its cost: show {rest} --cost"
            )
        kinds = "; `i2i-bridge list` shows recipes, `list KIND` parts"
        raise UserError(f"nothing is called '{name}'{nearest(rest, _all_names()) or kinds}")
    texts = [text() for text in meanings.values()]
    if len(meanings) > 1:
        words = [f"{at}:{rest}" for at in meanings]
        texts.insert(
            0, f"# '{rest}' means {len(meanings)} things, all below; one alone: i2i-bridge show {' or '.join(words)}\n"
        )
    return "\n".join(texts)


def schema_text(what: str) -> str:
    """The JSON schema of recipes or of cards, indented.

    Raises:
        UserError: `what` is neither.
    """
    from i2i_bridge.recipe.json_schema import SCHEMAS

    if what not in SCHEMAS:
        raise UserError(f"no schema of '{what}'{did_you_mean(what, SCHEMAS)}")
    return json.dumps(SCHEMAS[what](), indent=2) + "\n"


def check_table(name: str | None) -> str:
    """Numbers of I2SB's schedule for the paper's two values of beta_max.

    Raises:
        UserError: The name is of something else.
    """
    if name not in ("i2sb", "official-grid"):
        raise UserError("--check is for the schedule of I2SB: i2i-bridge show i2sb --check")
    from i2i_bridge.bridge.released import check_text

    return "\n".join(check_text(beta_max) for beta_max in (0.3, 1.0))


PROCESSES = (1, 8, 64)


def cost_table(recipe: "Recipe", tflops: float | None, bandwidth: float | None) -> str:
    """The cost of a recipe's training, and its hours on 1, 8 and 64 processes where `tflops` is given.

    Args:
        tflops: 10^12 FLOPs a second that each process reaches.
        bandwidth: 10^9 bytes a second between processes; None to leave the exchange out.

    Raises:
        UserError: As `training_cost`.
    """
    from i2i_bridge.training.cost import training_cost

    cost, train = training_cost(recipe), recipe.train
    modules = ", ".join(f"{name} {count / 1e6:.4g} M" for name, count in cost.parameters.items())
    maps = ", ".join(f"{_bytes(size)} in {str(kind).removeprefix('torch.')}" for kind, size in cost.maps.items())
    lines = [
        f"# {recipe.name}: computed from shapes, nothing is measured",
        f"parameters      {modules}",
        f"network call    {cost.call / 1e9:.4g} GFLOP an image; sample.nfe = {recipe.sample.nfe} restores one",
        f"training        {plural(train.steps, 'step')} of {plural(train.batch_size, 'sample')}, "
        f"{cost.step / 1e9:.4g} GFLOP a sample",
        f"state           {_bytes(cost.state)}: weights, gradients, moments, moving average",
        f"maps            {maps}, for each image of a micro-batch",
        f"checkpoint      {_bytes(cost.checkpoint)}",
        *(f"note            {note}" for note in cost.notes),
    ]
    for count in PROCESSES if tflops is not None else ():
        if train.batch_size % count:
            line = f"train.batch_size = {train.batch_size} cannot be shared out"
        else:
            flops, speed = 1e12 * (tflops or 0), 1e9 * (bandwidth or math.inf)
            line = f"{cost.hours(train.batch_size, train.steps, count, flops, speed):.4g} hours"
            line += f", each sends {_bytes(cost.sent(count))} a step" if count > 1 else ""
        lines.append(f"{f'{count} process' + 'es' * (count > 1):16}{line}")
    return "\n".join(lines) + "\n"


def _bytes(count: float) -> str:
    return f"{count / 1e9:.3g} GB" if count >= 1e9 else f"{count / 1e6:.3g} MB"


def _meanings(name: str) -> Iterator[tuple[str, Callable[[], str]]]:
    """Yield (prefix, function that returns the description) for each meaning of a name."""
    if name in TABLES:
        yield "settings", partial(table_settings, name)
    for known in recipe_names():
        if name in (known, known.split("/")[-1]):
            yield "recipe", partial(_shipped_recipe, known)
    if name in card_names():
        yield "card", lambda: f"# dataset card {name}\n{load_card(name).to_toml()}"
    if name in protocol_names():
        yield "protocol", lambda: f"# protocol {name}\n{read_text(protocol_file(name))}"
    if name in pretrained_names():
        yield "run", lambda: read_text(folder_of_run(Path(name)) / CARD_FILE)
    for kind, members in KINDS.items():
        if name in members.names():
            yield kind, partial(_part, kind, name)
    if name in preset_names() and name not in KINDS["methods"].names():
        yield "methods", lambda: f"methods: {name}\n\n{preset_summary(name)}\n"


def _all_names() -> list[str]:
    recipes = recipe_names()
    members = [member for registered in KINDS.values() for member in registered.names()]
    short = [known.split("/")[-1] for known in recipes]
    return [*TABLES, *recipes, *short, *card_names(), *protocol_names(), *preset_names(), *members]


def _card_line(name: str) -> str:
    try:
        return load_card(name).summary
    except UserError as error:  # otherwise one broken card of the user's would hide all others
        return f"cannot be read: {error}"


def _shipped_recipe(name: str) -> str:
    return f"# recipe {name}\n{read_text(recipe_file(name))}"


def _part(kind: str, name: str) -> str:
    lines = [f"{kind}: {name}", "", _documentation(KINDS[kind], name)]
    for option in KINDS[kind].option_texts(name):
        if is_setting(KINDS[kind], option):
            default = "" if option.default is None else f" = {option.default}"
            lines.append(f"  {option.name}: {option.type}{default}")
    return "\n".join(lines) + "\n"


def _documentation(members: Registry, name: str) -> str:
    return members.documentation(name) or "(no description)"
