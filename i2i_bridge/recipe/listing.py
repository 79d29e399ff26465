"""Listing of a recipe's settings with type, range, default and meaning, as TOML that can be copied.

The texts come from the models in `schema` (pydantic's description of each field) and from the docstrings of the parts,
which are neither imported nor built.
"""

import ast
import json
import math
import re
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from i2i_bridge.members import Option
from i2i_bridge.recipe.recipe import Recipe
from i2i_bridge.recipe.schema import (
    DataSettings,
    EvaluateSettings,
    LatentSettings,
    MeanSettings,
    SampleSettings,
    Settings,
    TeacherSettings,
    TrainSettings,
)
from i2i_bridge.registry import (
    DEGRADATIONS,
    GUIDANCES,
    LIBRARY_OPTIONS,
    METHODS,
    NETWORKS,
    PROCESSES,
    PROPOSALS,
    SAMPLERS,
    TARGETS,
    Registry,
)

TABLES: dict[str, type[Settings]] = {
    "data": DataSettings,
    "mean": MeanSettings,
    "teacher": TeacherSettings,
    "latent": LatentSettings,
    "train": TrainSettings,
    "sample": SampleSettings,
    "evaluate": EvaluateSettings,
}
"""The tables of a recipe with fixed keys."""

PARTS: dict[str, Registry] = {
    "degradation": DEGRADATIONS,
    "method": METHODS,
    "process": PROCESSES,
    "target": TARGETS,
    "proposal": PROPOSALS,
    "network": NETWORKS,
}
"""The tables that name a part; the other keys are the part's options."""

INNER = {"sampler": SAMPLERS, "guidance": GUIDANCES}
"""The tables inside [sample] that name a part; the other keys are the part's options."""

WIDTH = 118


def table_settings(name: str) -> str:
    """Every key of a recipe's table at its default, as TOML, with meaning, type and range in a comment above."""
    return "\n".join([f"# {_summary(TABLES[name])}", f"[{name}]", *_keys(TABLES[name], {})]) + "\n"


def recipe_settings(table: Mapping[str, Any]) -> str:
    """A recipe's table with every setting written out, as TOML that loads as the same recipe.

    Args:
        table: The recipe's table as read from TOML.
    """
    defaults = Recipe.model_json_schema()["properties"]
    settings: dict[str, Any] = {name: defaults[name]["default"] for name in PARTS if defaults[name].get("default")}
    settings |= table
    lines = list(_keys(Recipe, settings, leave_out=(*TABLES, *PARTS, "reference")))
    for name, model in TABLES.items():
        values = settings.get(name, {})
        inner = {key: part for key, part in values.items() if key in INNER and isinstance(part, dict)}
        if name == "sample":
            inner = {"sampler": {"name": "ancestral"}} | inner
        # A table without values is written as a comment: otherwise loading the text would fail.
        left_out = name in ("mean", "teacher", "latent") and name not in settings
        head = f"# [{name}]" if left_out else f"[{name}]"
        lines += ["", f"# {_summary(model)}", head, *_keys(model, values, leave_out=tuple(inner))]
        for key, part in inner.items():
            lines += ["", *_part(f"{name}.{key}", INNER[key], part)]
    for name, members in PARTS.items():
        if isinstance(settings.get(name), dict):
            lines += ["", *_part(name, members, settings[name])]
    if "reference" in settings:
        values = settings["reference"]
        lines += ["", "[reference]", *(f"{key} = {toml_text(value)}" for key, value in values.items())]
    return "\n".join(lines) + "\n"


def _keys(model: type[Settings], values: Mapping[str, Any], leave_out: tuple[str, ...] = ()) -> Iterator[str]:
    schema = model.model_json_schema()
    for key, described in schema["properties"].items():
        if key in leave_out:
            continue
        default = described.get("default")
        required = key in schema.get("required", ())
        meaning = " ".join(str(described.get("description", "")).split())
        must = "must be given" if required else f"default {'none' if default is None else toml_text(default)}"
        yield from _comment(f"{meaning} ({_type(described, schema.get('$defs', {}))}; {must})")
        yield _assignment(key, values.get(key), default)


def _part(place: str, members: Registry, table: Mapping[str, Any]) -> Iterator[str]:
    """The table of a part: its name and every option."""
    name = str(table.get("name"))
    yield from _comment(members.documentation(name).split("\n")[0])
    yield f"[{place}]"
    yield f"name = {toml_text(name)}"
    meanings = argument_texts(members.documentation(name))
    options = members.option_texts(name)
    for option in options:
        if is_setting(members, option) and option.name != LIBRARY_OPTIONS:
            default = None if option.default is None else _python_value(option.default)
            must = "must be given" if option.default is None else f"default {_shown(option.default)}"
            yield from _comment(f"{meanings.get(option.name, '')} ({_python_type(option.type)}; {must})")
            yield _assignment(option.name, table.get(option.name), default)
    if any(option.name == LIBRARY_OPTIONS for option in options):
        yield from _comment(meanings.get(LIBRARY_OPTIONS, ""))
        known = {"name", *(option.name for option in options)} - {LIBRARY_OPTIONS}
        yield from (_assignment(key, value, None) for key, value in table.items() if key not in known)


def _assignment(key: str, value: Any, default: Any) -> str:
    """A line `key = value`; a comment if the key is not given, since its default may depend on the data or the card."""
    if value is not None:
        return f"{key} = {toml_text(value)}"
    return f"# {key} ={'' if default is None else f' {toml_text(default)}'}"


def is_setting(members: Registry, option: Option) -> bool:
    """Whether an option is set in the recipe, and not by the library."""
    if members is SAMPLERS:
        return option.keyword_only and option.name != "start"
    if members is METHODS:
        return option.name not in ("recipe", "network")
    return (
        members.kind != "time grid"
        and option.name != "split"
        and (members.kind != "discriminator" or option.name != "in_channels")
    )


def argument_texts(documentation: str) -> dict[str, str]:
    """The text of each argument under `Args:` in a docstring."""
    texts: dict[str, str] = {}
    _, _, rest = documentation.partition("\nArgs:\n")
    name = ""
    for line in rest.splitlines():
        if line and not line.startswith(" "):
            break
        begins = re.match(r" {4}(\w+): (.*)", line)
        if begins:
            name, texts[begins[1]] = begins[1], begins[2]
        elif name and line.strip():
            texts[name] += f" {line.strip()}"
    return texts


def _summary(model: type[Settings]) -> str:
    return str(model.__doc__).split("\n")[0]


def _comment(text: str) -> Iterator[str]:
    """Wrap a text to comment lines of at most WIDTH characters."""
    options: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False}
    yield from textwrap.wrap(" ".join(text.split()), WIDTH, initial_indent="# ", subsequent_indent="# ", **options) or [
        "#"
    ]


def _type(described: Mapping[str, Any], known: Mapping[str, Any]) -> str:
    """The type and range of a JSON schema, in words."""
    if "$ref" in described:
        return _type(known[described["$ref"].split("/")[-1]], known)
    if "enum" in described or "const" in described:
        return " or ".join(toml_text(value) for value in described.get("enum", [described.get("const")]))
    if "anyOf" in described:
        kinds = [_type(other, known) for other in described["anyOf"] if other.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    kind = described.get("type")
    if kind == "array":
        inner = [_type(other, known) for other in described.get("prefixItems", [])]
        return f"[{', '.join(inner)}]" if inner else f"list of {_type(described.get('items', {}), known)}"
    words = {"integer": "whole number", "number": "number", "string": "text", "boolean": "true or false"}
    return words.get(str(kind), "table") + _range(described)


def _range(described: Mapping[str, Any]) -> str:
    signs = {"exclusiveMinimum": "above", "minimum": "from", "exclusiveMaximum": "below", "maximum": "to"}
    # Bounds of 64 bits are left out: they are the random generator's and say nothing about sensible values.
    bounds = {key: described[key] for key in signs if key in described and abs(described[key]) < 2**62}
    return "".join(f" {signs[key]} {int(value) if value == int(value) else value}" for key, value in bounds.items())


def _python_type(text: str) -> str:
    """An annotation in words."""
    text = re.sub(r"Literal\[(.*?)\]", lambda match: match[1].replace("'", '"').replace(", ", " or "), text)
    text = re.sub(r"tuple\[(\w+), \.\.\.\]", r"list of \1", text)
    text = re.sub(r"tuple\[(.*?)\]", r"[\1]", text)
    text = re.sub(r"dict\[str, \w+\]", "table", text)
    text = re.sub(r"list\[(\w+)\]", r"list of \1", text)
    text = text.replace(" | None", "").replace(" | ", " or ")
    words = {"int": "whole number", "float": "number", "str": "text", "bool": "true or false", "Path": "path"}
    return re.sub(r"\b(int|float|str|bool|Path)\b", lambda match: words[match[1]], text)


def _python_value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return None


def _shown(text: str) -> str:
    value = _python_value(text)
    return ("none" if text == "None" else text) if value is None else toml_text(value)


def toml_text(value: Any) -> str:
    """A value as TOML writes it in one line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return str(value) if math.isfinite(value) else "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    if isinstance(value, Mapping):
        inner = ", ".join(f"{_key(key)} = {toml_text(part)}" for key, part in value.items())
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml_text, value))}]"
    return (
        str(value) if isinstance(value, int) else json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
    )


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key)
