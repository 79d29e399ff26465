"""JSON schemas of recipes and dataset cards, by which editors complete keys and mark mistakes."""

import ast
from collections.abc import Iterator, Mapping
from typing import Any

from i2i_bridge import registry
from i2i_bridge.recipe.listing import argument_texts, is_setting
from i2i_bridge.registry import LIBRARY_OPTIONS, Registry

Schema = dict[str, Any]
WORDS = {"int": "integer", "float": "number", "str": "string", "Path": "string", "bool": "boolean", "None": "null"}
INNER = {"degradations": ("array", "degradations"), "discriminator": ("object", "discriminators")}
"""Options that hold tables of parts: by their name, the type and the kind."""


def recipe_schema() -> Schema:
    """The schema of a recipe: its settings, and for each part the options of every registered member."""
    from i2i_bridge.data.augmentation import transform_names
    from i2i_bridge.data.cards import card_names
    from i2i_bridge.recipe.protocol import protocol_names
    from i2i_bridge.recipe.recipe import Recipe

    schema = Recipe.model_json_schema()
    tables = schema["$defs"]
    parts = schema["properties"]
    kinds = {"degradation": "degradations", "method": "methods", "process": "processes", "target": "targets",
             "proposal": "proposals", "network": "networks"}  # fmt: skip
    for key, kind in kinds.items():
        _replace(parts[key], _part(kind))
    sample, data, scores = (tables[f"{name}Settings"]["properties"] for name in ("Sample", "Data", "Evaluate"))
    _replace(sample["sampler"], _part("samplers"))
    _replace(sample["guidance"], _part("guidances"))
    _replace(sample["grid"], _names(registry.TIME_GRIDS.names()))
    _replace(data["source"], _part("dataset-kinds"))
    _replace(tables["LatentSettings"]["properties"]["encoder"], _part("autoencoders"))
    _replace(data["card"], _names(card_names()))
    _replace(data["load_size"], {"anyOf": [*data["load_size"]["anyOf"], {"const": "none"}]})
    names = {"name": {"enum": transform_names()}, "on": {"enum": ["both", "x_0", "x_1"]}}
    data["augment"]["items"] = {"type": "object", "properties": names, "required": ["name"]}
    scores["metrics"]["items"] = _names(registry.METRICS.names())
    _replace(scores["protocol"], _names(protocol_names()))
    return _whole(schema, "recipe", {kind: _kind(kind) for kind in registry.KINDS})


def card_schema() -> Schema:
    """The schema of a dataset card."""
    from i2i_bridge.data.cards import Card

    schema = Card.model_json_schema()
    _replace(schema["properties"]["dataset"], _part("dataset-kinds"))
    return _whole(schema, "dataset card", {"dataset-kinds": _kind("dataset-kinds")})


def _whole(schema: Schema, title: str, kinds: Mapping[str, Schema]) -> Schema:
    schema["$defs"] = {**schema.get("$defs", {}), **kinds}
    return {"$schema": "http://json-schema.org/draft-07/schema#"} | schema | {"title": f"i2i_bridge {title}"}


def _replace(place: Schema, schema: Schema) -> None:
    """Replace the schema of a property; its description and default stay."""
    kept = {key: place[key] for key in ("description", "default") if key in place}
    place.clear()
    place |= kept | schema


def _part(kind: str) -> Schema:
    return {"allOf": [{"$ref": f"#/$defs/{kind}"}]}  # alone, a $ref hides the description beside it


def _names(names: list[str]) -> Schema:
    """Known names, and any other text: a file, or a name that a plug-in brings."""
    return {"anyOf": [{"enum": names}, {"type": "string"}]}


def _kind(kind: str) -> Schema:
    """Any member of a kind: a table with its name and options."""
    members = registry.KINDS[kind]
    return {"anyOf": [_member(kind, members, name) for name in members.names()]}


def _member(kind: str, members: Registry, name: str) -> Schema:
    documentation = members.documentation(name)
    meanings = argument_texts(documentation)
    options = [option for option in members.option_texts(name) if is_setting(members, option)]
    properties: Schema = {"name": {"const": name}}
    for option in options:
        if option.name in INNER:
            type_, inner = INNER[option.name]
            schema: Schema = {"type": "array", "items": _part(inner)} if type_ == "array" else _part(inner)
        elif name == "kornia" and option.name == "op":
            from i2i_bridge.degradations.augmentation import operator_names

            schema = {"enum": operator_names()}
        else:
            schema = type_schema(option.type)
        if kind == "processes":  # training may measure the option
            schema = {"anyOf": [schema, {"const": "auto"}]}
        if option.name in meanings:
            schema["description"] = meanings[option.name]
        properties[option.name] = schema
    # No name is needed where a recipe's table may add to that of its card or to a default.
    needed = [] if kind in ("dataset-kinds", "methods", "discriminators") else ["name"]
    return {
        "type": "object",
        "title": name,
        "description": documentation.split("\n")[0],
        "properties": properties,
        "required": needed,
        "additionalProperties": any(option.name == LIBRARY_OPTIONS for option in options),
    }


def type_schema(annotation: str) -> Schema:
    """The schema of a type in Python's notation; {}, which accepts anything, for a type without a JSON schema."""
    try:
        return _typed(ast.parse(annotation, mode="eval").body)
    except (SyntaxError, ValueError):
        return {}


def _typed(node: ast.expr) -> Schema:
    if isinstance(node, ast.BinOp):
        return {"anyOf": list(_alternatives(node))}
    if isinstance(node, ast.Name | ast.Constant):
        word = node.id if isinstance(node, ast.Name) else str(node.value)
        return {"type": WORDS[word]} if word in WORDS else {}
    if not isinstance(node, ast.Subscript) or not isinstance(node.value, ast.Name):
        return {}
    inner = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    if node.value.id == "Literal":
        return {"enum": [ast.literal_eval(value) for value in inner]}
    if node.value.id == "dict":
        return {"type": "object"}
    if node.value.id not in ("list", "tuple", "Sequence"):
        return {}
    schema: Schema = {"type": "array", "items": _typed(inner[0])}
    if node.value.id == "tuple" and not (len(inner) == 2 and ast.unparse(inner[1]) == "..."):
        schema |= {"minItems": len(inner), "maxItems": len(inner)}
    return schema


def _alternatives(node: ast.expr) -> Iterator[Schema]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        yield from _alternatives(node.left)
        yield from _alternatives(node.right)
    else:
        yield _typed(node)


SCHEMAS = {"recipe": recipe_schema, "card": card_schema}
