"""Classes of other libraries that a recipe names, such as an augmentation: allow-list, options, construction.

Nothing is imported by a name out of a file: the callers build the list of classes from a library's public names.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from i2i_bridge.errors import UserError, brief, did_you_mean, nearest

LARGEST = 10_000.0
"""Largest magnitude of a number, where no other bound is known."""
LONGEST, MOST, DEEPEST = 64, 64, 4
"""Most characters of a text, entries of an array, arrays within one another."""


def class_named(kind: str, name: str, members: Mapping[str, Any], unusable: Mapping[str, str]) -> Any:
    """The class of a name in `members`.

    Args:
        kind: Of the class in error messages.
        unusable: Reasons why public classes are not among the members, by name.

    Raises:
        UserError: No member has the name; the message gives the nearest, or the reason.
    """
    if name in unusable:
        raise UserError(f"{kind} '{brief(name)}' cannot be used: {unusable[name]}")
    if name not in members:
        raise UserError(f"unknown {kind} '{brief(name)}'{nearest(name, members)}")
    return members[name]


def constructed(
    where: str, member: Callable[..., Any], options: Mapping[str, Any], limits: Mapping[str, tuple[float, float]]
) -> Any:
    """`member(**options)` of options that `arguments` checks; arguments and errors as `arguments` and `called`."""
    return called(where, member, arguments(where, member, options, limits))


def arguments(
    where: str,
    member: Callable[..., Any],
    options: Mapping[str, Any],
    limits: Mapping[str, tuple[float, float]],
    reserved: tuple[str, ...] = (),
    convert: Callable[[inspect.Parameter, Any], Any] = lambda parameter, value: value,
) -> dict[str, Any]:
    """The options as arguments of `member`, each checked against the signature and its bounds; arrays become tuples.

    Args:
        where: Start of error messages.
        limits: Lowest and highest number by option, also inside arrays; elsewhere numbers reach LARGEST.
        reserved: Parameters that a recipe may not set.
        convert: Makes a checked value what the parameter takes.

    Raises:
        UserError: Unknown or missing option, or a value that is no number, text or array of these or that is out of
            bounds.
    """
    parameters = {
        key: parameter
        for key, parameter in inspect.signature(member).parameters.items()
        if key not in reserved and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    }
    for key in sorted(set(options) - set(parameters)):
        raise UserError(f"{where}: unknown key '{brief(key)}'{did_you_mean(key, parameters)}")
    for key, parameter in parameters.items():
        if parameter.default is parameter.empty and key not in options:
            raise UserError(f"{where}: the key '{key}' is missing")
    return {
        key: convert(parameters[key], _checked(f"{where}: {key}", value, limits.get(key, (-LARGEST, LARGEST))))
        for key, value in options.items()
    }


def called(where: str, member: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    """`member(**arguments)`.

    Raises:
        UserError: The constructor raises.
    """
    try:
        return member(**arguments)
    except Exception as error:  # the library's own checks raise anything
        raise UserError(f"{where}: {reason(error)}") from error


def reason(error: BaseException) -> str:
    """What an exception of another library says, in one line."""
    for one in (error, error.__cause__, error.__context__):
        errors = getattr(one, "errors", None)
        if callable(errors) and (found := errors()):  # of pydantic, whose text has a line for each place
            return f"{found[0]['loc'][0] if found[0]['loc'] else 'options'}: {found[0]['msg']}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _checked(where: str, value: Any, limits: tuple[float, float], depth: int = 0) -> Any:
    low, high = limits
    if isinstance(value, bool) or (isinstance(value, str) and len(value) <= LONGEST):
        return value
    if isinstance(value, int | float):
        if not low <= value <= high:
            raise UserError(f"{where} = {value} is outside {low:g}..{high:g}")
        return value
    if isinstance(value, list | tuple | Mapping) and len(value) <= MOST and depth < DEEPEST:
        if isinstance(value, Mapping):
            return {str(key): _checked(where, inner, limits, depth + 1) for key, inner in value.items()}
        return tuple(_checked(where, inner, limits, depth + 1) for inner in value)
    raise UserError(f"{where}: should be a number, a text of at most {LONGEST} characters or a short array of these")
