"""Tables of TOML and JSON files: their models, their validation, and its errors in one line."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from i2i_bridge.errors import UserError, brief, did_you_mean, located


class Table(BaseModel):
    """A table of a file; unknown keys and numbers that are not finite are errors."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


Model = TypeVar("Model", bound=BaseModel)


def validated(model: type[Model], table: Mapping[str, Any], place: object) -> Model:
    """Validate a table by a model.

    Args:
        model: The keys of the table, with types, ranges and defaults.
        table: The table, as read from TOML or JSON.
        place: The file or part that the table is of, for messages.

    Raises:
        UserError: A key is unknown (the message names the nearest) or missing, or a value is wrong; one line that
            begins with the place.
    """
    with located(place):
        try:
            # JSON mode: strict about types, yet an array may become a tuple and a string a path.
            return model.model_validate_json(json.dumps(table, default=str))
        except ValidationError as error:
            raise UserError(invalid(error, table, model)) from error


def invalid(error: ValidationError, table: object, model: type[BaseModel] | None = None) -> str:
    """The first problem that pydantic found in a table, in one line: `key: should be ..., got ...`.

    Unknown keys come first: a misspelt key is missing under its right name, too.

    Args:
        error: The exception.
        table: The table that was validated.
        model: Its model, for the names that an unknown key may have meant.
    """
    problems = sorted(error.errors(include_url=False), key=lambda problem: problem["type"] != "extra_forbidden")
    first = problems[0]
    keys = _keys(first, table)
    place = ".".join(map(str, keys))
    if first["type"] == "extra_forbidden":
        inner = model_at(model, keys[:-1])
        return f"unknown key '{place}'{did_you_mean(str(keys[-1]), inner.model_fields if inner else ())}"
    if first["type"] == "missing":
        return f"{place}: the key is missing"
    # A union, such as a number or an array, gives a problem for each of its types.
    wanted = " or ".join(dict.fromkeys(_wanted(problem) for problem in problems if _keys(problem, table) == keys))
    is_rule = first["type"] == "value_error"  # its text says what is wrong; a table's values would hide it
    value = "" if is_rule and isinstance(first["input"], dict) else f", got {brief(repr(first['input']))}"
    given = first["input"]
    # An array that is no TOML, such as [input.*], is a text; most often a shell has taken the quotes out of it.
    quotes = isinstance(given, str) and given.startswith("[")
    hint = "; its texts need quotes, which a shell takes: 'KEY=[\"a\"]'" if quotes else ""
    return f"{f'{place}: ' if place else ''}{wanted}{value}{hint}"


def _keys(problem: Mapping[str, Any], table: Any) -> list[str | int]:
    """The keys and positions that lead to the problem, without pydantic's names of the types in a union."""
    keys: list[str | int] = []
    for part in problem["loc"]:
        inside = part in table if isinstance(table, Mapping) else isinstance(table, list | tuple) and type(part) is int
        if inside and (isinstance(table, Mapping) or part < len(table)):
            keys.append(part)
            table = table[part]
    if problem["type"] == "missing":
        keys.append(problem["loc"][-1])
    return keys


def model_at(model: type[BaseModel] | None, keys: Sequence[str | int]) -> type[BaseModel] | None:
    """The model of the table that these keys lead to; None where a value is no table, or one without a model."""
    for key in keys:
        if isinstance(key, str) and model is not None:
            field = model.model_fields.get(key)
            model = None if field is None else next(_models(field.annotation), None)
    return model


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models in an annotation such as `list[Download]` or `Advice | None`."""
    if isinstance(annotation, type) and not get_args(annotation) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models(inner)


def _wanted(problem: Mapping[str, Any]) -> str:
    if problem["type"] in ("dict_type", "model_type"):
        return 'should be a table, such as { name = "..." }'
    if problem["type"] in ("tuple_type", "list_type"):
        return "should be an array, such as [256, 256]"
    message = str(problem["msg"])
    if problem["type"] == "value_error":  # raised by a validator of this package
        return message.removeprefix("Value error, ")
    message = message.removeprefix("Input ")
    return f"{message[:1].lower()}{message[1:]}"
