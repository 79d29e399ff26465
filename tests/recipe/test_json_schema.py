"""The JSON schemas of recipes and cards: every shipped file fits, and mistakes that an editor should mark do not."""

import copy
import json
import tomllib

import pytest

from i2i_bridge.cli.command import main
from i2i_bridge.data.cards import shipped_card_names
from i2i_bridge.recipe.json_schema import card_schema, recipe_schema, type_schema
from i2i_bridge.recipe.load import recipe_file
from i2i_bridge.registry import KINDS
from i2i_bridge.storage.shipped import recipe_names, shipped_folder

TYPES = {
    "object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "boolean": bool,
    "null": type(None),
}  # fmt: skip


@pytest.fixture(scope="module")
def schema():
    return recipe_schema()


def fits(value, schema, root):
    """Whether a value fits a schema, of the words that ours consist of."""
    if "$ref" in schema:
        return fits(value, root["$defs"][schema["$ref"].split("/")[-1]], root)
    if "type" in schema:
        kind = TYPES[schema["type"]]
        if not isinstance(value, kind) or (isinstance(value, bool) and schema["type"] in ("integer", "number")):
            return False
    if "const" in schema and value != schema["const"]:
        return False
    if "enum" in schema and value not in schema["enum"]:
        return False
    if any(not fits(value, one, root) for one in schema.get("allOf", [])):
        return False
    if "anyOf" in schema and not any(fits(value, one, root) for one in schema["anyOf"]):
        return False
    if isinstance(value, int | float):
        if value < schema.get("minimum", value) or value > schema.get("maximum", value):
            return False
        if value <= schema.get("exclusiveMinimum", value - 1) or value >= schema.get("exclusiveMaximum", value + 1):
            return False
    if isinstance(value, list):
        if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
            return False
        return all(fits(one, schema.get("items", {}), root) for one in value)
    if isinstance(value, dict):
        known = schema.get("properties", {})
        if any(key not in value for key in schema.get("required", [])):
            return False
        if schema.get("additionalProperties") is False and set(value) - set(known):
            return False
        return all(fits(inner, known.get(key, {}), root) for key, inner in value.items())
    return True


@pytest.mark.parametrize("name", recipe_names())
def test_every_shipped_recipe_fits(name, schema):
    # kills: schema-of-one-member-only; an option of a member left out
    table = tomllib.loads(recipe_file(name).read_text(encoding="utf-8"))
    assert fits(table, schema, schema)


def test_every_shipped_card_fits():
    # kills: a key of cards that the schema does not know
    found = card_schema()
    for name in shipped_card_names():
        table = tomllib.loads((shipped_folder("datasets") / f"{name}.toml").read_text(encoding="utf-8"))
        assert fits(table, found, found), name
    assert not fits(table | {"sumary": ""}, found, found)


@pytest.mark.parametrize(
    ("path", "value", "good"),
    [
        (("train", "lr"), 1e-4, True),
        (("train", "lr"), "fast", False),
        (("train", "lr"), -1.0, False),
        (("train", "stepz"), 5, False),
        (("degradation",), {"name": "jpeg", "quality": 5}, True),
        (("degradation",), {"name": "jpeg", "quality": [5, 30], "backend": "pillow"}, True),
        (("degradation",), {"name": "jpeg", "quality": [5, 30, 50]}, False),
        (("degradation",), {"name": "jpeg", "quality": "low"}, False),
        (("degradation",), {"name": "jpeg", "qualty": 5}, False),
        (("degradation",), {"name": "jpg", "quality": 5}, False),
        (("degradation",), {"name": "blur", "kernel": "box"}, False),
        (("degradation",), {"name": "compose", "degradations": [{"name": "noise", "std": 0.1}]}, True),
        (("degradation",), {"name": "compose", "degradations": [{"name": "noize", "std": 0.1}]}, False),
        (("degradation",), {"name": "kornia", "op": "RandomRain", "number_of_drops": [1, 2]}, True),
        (("degradation",), {"name": "kornia", "op": "RandomRein"}, False),
        (("process",), {"name": "brownian", "sigma_1": "auto"}, True),
        (("process",), {"name": "brownian", "sigma": 1.0}, False),
        (("sample", "sampler"), {"name": "eta", "eta": 0.3}, True),
        (("sample", "sampler"), {"name": "eta", "start": 0.3}, False),
        (("data", "load_size"), "none", True),
        (("data", "augment"), [{"name": "Affine", "rotate": 5}], True),
        (("data", "augment"), [{"name": "Afine", "rotate": 5}], False),
        (("data", "augment"), [{"name": "GaussNoise", "on": "x_2"}], False),
    ],
)
def test_an_editor_marks_what_is_wrong(path, value, good, schema):
    # kills: schema-takes-any-key, schema-of-one-member-only
    table = tomllib.loads(recipe_file("demo/deblur").read_text(encoding="utf-8"))
    changed = copy.deepcopy(table)
    place = changed
    for key in path[:-1]:
        place = place.setdefault(key, {})
    place[path[-1]] = value
    assert fits(changed, schema, schema) is good


def test_all_members_are_completed_with_what_they_mean(schema):
    # kills: schema-of-one-member-only; descriptions lost
    for kind in ("degradations", "processes", "networks", "samplers", "dataset-kinds"):
        members = schema["$defs"][kind]["anyOf"]
        assert [member["title"] for member in members] == KINDS[kind].names()
        assert all(member["description"] for member in members)
    jpeg = next(one for one in schema["$defs"]["degradations"]["anyOf"] if one["title"] == "jpeg")
    assert jpeg["properties"]["quality"]["description"]
    assert schema["$defs"]["TrainSettings"]["properties"]["lr"]["description"]


def test_types_are_read_without_running_them():
    # kills: eval of an annotation
    assert type_schema("Literal['a', 2] | None") == {"anyOf": [{"enum": ["a", 2]}, {"type": "null"}]}
    assert type_schema("tuple[float, float]")["maxItems"] == 2
    assert "maxItems" not in type_schema("tuple[float, ...]")
    for nothing in ("<class 'x'>", "Callable[[int], str]", "__import__('os').getcwd()", "a.b[c]"):
        assert type_schema(nothing) == {}


def call(capsys, *words):
    with pytest.raises(SystemExit) as left:
        main(list(words))
    shown = capsys.readouterr()
    return left.value.code, shown.out, shown.err


def test_show_writes_them(capsys):
    # kills: a schema that is no JSON
    for what in ("recipe", "card"):
        code, out, _ = call(capsys, "show", "--schema", what)
        assert code == 0 and json.loads(out)["title"].startswith("i2i_bridge")
    code, _, err = call(capsys, "show", "--schema", "recipes")
    assert code == 2 and "did you mean 'recipe'" in err and err.count("\n") == 1
    code, _, err = call(capsys, "show")
    assert code == 2 and err.count("\n") == 1


def test_a_shell_completes_verbs_and_recipes(capsys, monkeypatch):
    # kills: completion switched off
    for words, wanted in (("i2i-bridge sho", ["show"]), ("i2i-bridge train demo/deb", ["demo/deblur"])):
        monkeypatch.setenv("_I2I_BRIDGE_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
        code, out, _ = call(capsys)
        assert code == 0 and out.split() == wanted
