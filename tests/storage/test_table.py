"""Validation of tables out of files: the first problem, in one line that names file, key and value."""

import datetime
from typing import Annotated, Literal

import pytest
from pydantic import Field, model_validator

from i2i_bridge.errors import UserError
from i2i_bridge.storage.table import Table, model_at, validated
from i2i_bridge.storage.toml import toml_value


class Part(Table):
    url: str
    number: Annotated[int, Field(gt=0)] = 1


class Whole(Table):
    size: tuple[int, int] | int
    kind: Literal["a", "b"] = "a"
    rate: float = 0.0
    inner: Part | None = None
    parts: list[Part] = Field(default_factory=list)

    @model_validator(mode="after")
    def _rule(self) -> "Whole":
        if self.kind == "b" and self.rate:
            raise ValueError("kind = 'b' has No rate")
        return self


@pytest.mark.parametrize(
    ("table", "line"),
    [
        ({}, "f.toml: size: the key is missing"),
        # A misspelt key is missing, too; kills: missing-before-misspelt
        ({"sise": 3}, "f.toml: unknown key 'sise'; did you mean 'size'?"),
        ({"size": 1, "inner": {"ulr": "x"}}, "f.toml: unknown key 'inner.ulr'; did you mean 'url'?"),
        ({"size": 1, "parts": [{"url": "x"}, {"url": "x", "numbr": 2}]},
         "f.toml: unknown key 'parts.1.numbr'; did you mean 'number'?"),
        ({"size": 1, "parts": [{"url": "x", "number": 0}]},
         "f.toml: parts.0.number: should be greater than 0, got 0"),
        ({"size": "x"}, "f.toml: size: should be an array, such as [256, 256] or should be a valid integer, unable to "
         "parse string as an integer, got 'x'"),
        ({"size": [1, 2.5]}, "f.toml: size.1: should be a valid integer, got a number with a fractional part, got 2.5"),
        ({"size": 1, "kind": "C"}, "f.toml: kind: should be 'a' or 'b', got 'C'"),
        ({"size": 1, "inner": 3}, 'f.toml: inner: should be a table, such as { name = "..." }, got 3'),
        ({"size": 1, "rate": float("inf")}, "f.toml: rate: should be a finite number, got inf"),
        # A rule's own words; the values of the whole table would hide them.
        ({"size": 1, "kind": "b", "rate": 1.0}, "f.toml: kind = 'b' has No rate"),
    ],
)  # fmt: skip
def test_the_first_problem_is_one_line(table, line):
    with pytest.raises(UserError) as caught:
        validated(Whole, table, "f.toml")
    assert str(caught.value) == line


def test_an_array_may_be_a_tuple_and_defaults_are_filled_in():
    whole = validated(Whole, {"size": [3, 4], "parts": [{"url": "x"}]}, "f.toml")
    assert whole.size == (3, 4) and whole.parts == [Part(url="x", number=1)] and whole.kind == "a"


def test_the_model_of_an_inner_table_is_found():
    assert model_at(Whole, []) is Whole and model_at(Whole, ["inner"]) is Part is model_at(Whole, ["parts", 3])
    assert model_at(Whole, ["size"]) is None is model_at(Whole, ["none", "x"])


def test_a_date_is_a_text():
    """No setting is a date; a folder may be called 2024-01-01."""
    for text in ("2024-01-01", "07:32:00", "1979-05-27T07:32:00Z"):
        assert toml_value(text) == text
    assert toml_value("[2024-01-01]") == [datetime.date(2024, 1, 1)] and toml_value("2024") == 2024
