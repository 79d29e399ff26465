"""Read untrusted TOML with limits on size, key length and depth; every error is a one-line message."""

import re
import tomllib
from collections.abc import Iterator, Mapping
from datetime import date, time
from pathlib import Path
from typing import Any

from i2i_bridge.errors import UserError, located, readable
from i2i_bridge.storage.reader import NotRegular, read_text

MAX_BYTES = 2**20
MAX_PARTS, MAX_KEY, MAX_DEPTH = 20, 200, 32
"""Limits: parts of a dotted key, characters of a part, and nesting depth of tables and arrays."""

# Strings and comments, terminated or not. The quantifiers are possessive; otherwise the scan could be quadratic.
_STRING = (
    r'"""(?:\\.|(?!""")[^\\])*+(?:"{3,5})?|\'\'\'(?:(?!\'\'\').)*+(?:\'{3,5})?|"(?:\\[^\n]|[^"\\\n])*+"?|\'[^\'\n]*+\'?'
)
_OPAQUE = re.compile(rf"#[^\n]*+|{_STRING}", re.DOTALL)
_LONG_KEY = re.compile(rf"(?<![\w-])[\w-]++(?:[ \t]*+\.[ \t]*+[\w-]++){{{MAX_PARTS}}}", re.ASCII)


class TooManyParts(ValueError):
    """A dotted key has more than MAX_PARTS parts."""


def parse_toml(text: str) -> dict[str, Any]:
    """Parse a TOML text.

    Raises:
        ValueError: The text is not TOML (tomllib.TOMLDecodeError), a key has more than 20 parts or 200 characters,
            tables are nested too deeply, or a number has thousands of digits.
    """
    # tomllib stores every prefix of a dotted key: a key of 80 kB would take gigabytes.
    if _LONG_KEY.search(_OPAQUE.sub(lambda found: "" if found[0][0] == "#" else "s", text)):
        raise TooManyParts(f"a dotted key of more than {MAX_PARTS} parts")
    try:
        table = tomllib.loads(text)
    except RecursionError as error:
        raise ValueError("tables inside tables, too deep to be read") from error
    waiting: list[tuple[Any, int]] = [(table, 0)]
    while waiting:
        value, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise ValueError("tables inside tables, too deep to be read")
        if isinstance(value, dict):
            check_key(value)
        if isinstance(value, dict | list):
            waiting += [(inner, depth + 1) for inner in (value.values() if isinstance(value, dict) else value)]
    return table


def check_key(parts: Any) -> None:
    """Check the length of the parts of a dotted key, or of the keys of a table.

    Raises:
        ValueError: A part has more than 200 characters.
    """
    longest = max(parts, key=len, default="")
    if len(longest) > MAX_KEY:
        raise ValueError(f"the key '{longest[:20]}...' has more than {MAX_KEY} characters")


def read_toml(path: Path) -> dict[str, Any]:
    """Parse a TOML file.

    Raises:
        UserError: The file is missing, not a regular file, larger than 1 MB, not UTF-8, or not TOML; see `parse_toml`.
    """
    # ValueError: bad TOML, bad UTF-8, a number of 5000 digits, a NUL in the path.
    with readable(path), located(path, errors=ValueError):
        try:
            # Some editors on Windows write a byte order mark.
            return parse_toml(read_text(path, MAX_BYTES, "utf-8-sig"))
        except UnicodeDecodeError as error:
            raise UserError(f"not UTF-8 (at byte {error.start + 1}), which TOML is; save it as UTF-8") from error
        except NotRegular as error:  # a pipe would block, and /dev/zero has no end
            raise UserError("is not a file") from error


def toml_value(text: str) -> Any:
    """Parse a TOML value; a text that is not valid TOML, or is a date or time, is returned as a string.

    Raises:
        UserError: The value is TOML beyond the limits of `parse_toml`.
    """
    try:
        table = parse_toml(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    except ValueError as error:
        if isinstance(error, TooManyParts) and not {"{", "\n"} & set(text):
            return text  # without an inline table there is no key: a word with many dots
        raise UserError(f"'{text}': {error}") from error
    # A line end in the text could add another key. No setting is a date: a folder may be called 2024-01-01.
    return text if table.keys() != {"value"} or isinstance(table["value"], date | time) else table["value"]


def override_parts(text: str) -> tuple[list[str], str]:
    """Split a setting `key.key=value` into the parts of the key and the value.

    Raises:
        UserError: The setting has no key, no '=' or no value, or the key exceeds the limits of `parse_toml`.
    """
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UserError(f"'{text}': an override reads key.key=value, for example train.lr=1e-4")
    if not value:  # otherwise `data.root=$FOLDER` with an unset variable would be the current folder
        raise UserError(f"'{text}': no value; is a variable of the shell unset? An empty text is '{key}=\"\"'")
    parts = key.split(".")
    with located(f"'{text}'", errors=ValueError):
        check_key(parts)
    if len(parts) > MAX_PARTS:
        raise UserError(f"'{text}': a dotted key of more than {MAX_PARTS} parts")
    return parts, value


def dotted(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of a table and of the tables in it, by dotted key; an empty table is a value."""
    for key, value in table.items():
        if isinstance(value, Mapping) and value:
            yield from dotted(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
