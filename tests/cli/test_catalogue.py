"""What `list` and `show` say: settings with their meaning, names of several meanings, lists that fit the terminal."""

import tomllib

import pytest

from i2i_bridge.cli.catalogue import description, listing
from i2i_bridge.cli.command import main
from i2i_bridge.console import show_list, show_table
from i2i_bridge.errors import UserError
from i2i_bridge.recipe.listing import PARTS, TABLES, argument_texts, is_setting, recipe_settings, toml_text
from i2i_bridge.recipe.load import load_recipe, parse_recipe, recipe_file
from i2i_bridge.recipe.presets import method_preset
from i2i_bridge.recipe.recipe import Recipe
from i2i_bridge.registry import KINDS
from i2i_bridge.storage.shipped import recipe_names


@pytest.fixture
def call(capsys):
    def run(*words):
        with pytest.raises(SystemExit) as ended:
            main(list(words))
        out = capsys.readouterr()
        return ended.value.code, out.out, out.err

    return run


@pytest.mark.parametrize("model", [*TABLES.values(), Recipe])
def test_every_setting_has_a_meaning(model):
    # kills: a new key without a line about it
    bare = [name for name, field in model.model_fields.items() if not field.description]
    assert set(bare) <= ({*TABLES, *PARTS, "reference"} if model is Recipe else set()), bare


@pytest.mark.parametrize("table", TABLES)
def test_a_table_of_settings_shows_each_key_at_its_default(table):
    # kills: a key, default, type or range left out or misread
    text = description(table)
    uncommented = "\n".join(
        line.removeprefix("# ") if " = " in line and line.split()[1] in TABLES[table].model_fields else line
        for line in text.splitlines()
        if not line.endswith(" =")
    )
    shown = tomllib.loads(uncommented)[table]
    fields = TABLES[table].model_fields
    for name, field in fields.items():
        if field.is_required() or field.default is None:
            assert f"\n# {name} =\n" in text
        else:
            default = list(field.default) if isinstance(field.default, tuple) else field.default
            assert shown[name] == default
    assert description(f"settings:{table}") == text


def test_settings_say_type_range_and_default():
    words = " ".join(description("train").replace("\n#", "").split())
    assert "Largest learning rate. (number above 0 to 1000; default 5e-05)" in words
    assert 'default "constant")' in words and '"constant" or "linear" or "cosine" or "step"' in words
    assert "([number from 0 below 1, number from 0 below 1]; default [0.9, 0.999])" in words
    assert "Optimizer steps. (whole number above 0 to 1000000000; must be given)" in words
    assert "(true or false; default false)" in words


@pytest.mark.parametrize("name", recipe_names())
def test_every_setting_of_a_recipe_loads_as_that_recipe(name):
    # kills: a value of the recipe lost or changed; a default written out where the data decide
    text = description(name, all_settings=True)
    table = tomllib.loads(text)
    assert parse_recipe(table, name) == load_recipe(name)
    assert recipe_settings(table) == text
    for kind, members in PARTS.items():
        if kind in table:
            for option in members.option_texts(table[kind]["name"]):
                assert not is_setting(members, option) or f"{option.name} =" in text


def test_every_setting_of_a_recipe_by_another_method_and_of_a_file(tmp_path):
    text = description("demo/deblur", "pix2pix", all_settings=True)
    assert parse_recipe(tomllib.loads(text), "x") == load_recipe("demo/deblur", preset=method_preset("pix2pix"))
    (tmp_path / "mine.toml").write_text(recipe_file("demo/deblur").read_text().replace("size = 64", "sice = 64"))
    with pytest.raises(UserError, match=r"unknown key 'data\.sice'"):
        description(str(tmp_path / "mine.toml"), all_settings=True)
    with pytest.raises(UserError, match="for recipes"):
        description("part:jpeg", all_settings=True)


def test_values_as_toml():
    values = {"a": [1, 2.5, True], "b": {"c d": 'say "x"\n\x7f', "e": [{"f": -1e-9}]}, "g": float("inf"), "h": {}}
    text = "\n".join(f"{key} = {toml_text(value)}" for key, value in values.items())
    assert tomllib.loads(text) == values


def test_arguments_of_a_docstring():
    said = argument_texts("What.\n\nArgs:\n    a: One\n        and more.\n    b_2: Two: three.\n\nRaises:\n    c: No.")
    assert said == {"a": "One and more.", "b_2": "Two: three."}


def test_a_name_of_several_meanings_says_so(call):
    # kills: two things under one name shown as one; a prefix that is not heard
    both = description("facades")
    assert both.splitlines()[0].endswith("i2i-bridge show recipe:facades or card:facades")
    recipe, card = description("recipe:facades"), description("card:facades")
    assert both == "\n".join([both.split("\n")[0] + "\n", recipe, card])
    assert tomllib.loads(recipe)["task"] == "translation" and "dataset" in tomllib.loads(card)
    assert description("processes:ot-ode") == description("process:ot-ode") != description("sampler:ot-ode")
    assert description("part:i2sb").count("means 2 things") == 1
    assert description("crop-out").startswith("degradations: crop-out\n")
    assert description("part:crop-out") == description("crop-out")
    for name in ("part:facades", "card:jpeg", "recipe:psnr", "protocol:train", "nonsense:jpeg"):
        code, _, said = call("show", name)
        assert code == 2 and said.count("\n") == 1, said


def test_the_cost_of_a_run_is_that_of_its_recipe(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe("demo/jpeg", ["network.channels=8", "network.channel_mult=[1,2]", "data.size=32"])
    (tmp_path / "runs/mine").mkdir(parents=True)
    for file in ("recipe.toml", "runs/mine/recipe.toml"):
        (tmp_path / file).write_text(recipe.to_toml())
    code, said, _ = call("show", "recipe.toml", "--cost")
    assert code == 0 and said.startswith("# demo-jpeg: computed from shapes")
    assert [call("show", name, "--cost") for name in ("runs/mine", "run:runs/mine")] == [(0, said, "")] * 2
    for name in ("runs/mine", "run:runs/mine"):
        assert "show runs/mine/recipe.toml" in call("show", name)[2]
    shipped = call("show", "pretrained/photos", "--cost")
    assert shipped[0] == 0 and shipped == call("show", "run:pretrained/photos", "--cost")
    code, said, _ = call("show", "runs/mine", "--cost", "method.perceptual=0.5", "process.sigma_1=auto")
    assert code == 0 and [line.split()[1] for line in said.splitlines()[-2:]] == [
        "process.sigma_1",
        "method.perceptual",
    ]
    for name, words in (
        ("run:runs", "not a run folder"),
        ("runs", "not a recipe"),
        ("run:demo/jpeg", "to train first"),
    ):
        code, _, said = call("show", name, "--cost")
        assert code == 2 and said.count("\n") == 1 and words in said, said


def test_version(call):
    import i2i_bridge

    assert call("--version") == (0, f"i2i-bridge {i2i_bridge.__version__}\n", "")


@pytest.mark.parametrize("columns", ["80", "40", "12"])
@pytest.mark.parametrize("what", ["recipes", "datasets", "protocols", *KINDS])
def test_lists_fit_the_columns_and_cut_no_name(call, monkeypatch, what, columns):
    # kills: a name cut; a line wider than the terminal; the width of something else
    monkeypatch.setenv("COLUMNS", columns)
    code, out, _ = call("list", what)
    assert code == 0
    rows = listing(what)
    longest = max(len(name) for name, _ in rows)
    for (name, line), shown in zip(rows, out.splitlines()[1:], strict=True):
        assert shown.split()[0] == name
        assert len(shown) <= max(int(columns), longest + 2)
        if longest + 2 + len(line) <= int(columns):
            assert shown.endswith(line)


def test_lists_are_80_columns_wide_without_a_terminal(monkeypatch, capsys):
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr("sys.__stdout__", None)
    show_list(["name", "what it is"], [("long-name", "word " * 40), ("b", "[red] text")])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80 and lines[1].startswith("long-name  word word") and lines[1].endswith("...")
    assert lines[2] == "b          [red] text"


def test_tables_are_as_wide_as_they_must(monkeypatch, capsys):
    # kills: a name, hash or number cut to fit a narrow terminal
    monkeypatch.setenv("COLUMNS", "20")
    show_table(["name", "value"], [["a-name-of-some-length", "0.123456789"], ["b", "[x]"]], numbers=True)
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["name", "value"], ["a-name-of-some-length", "0.123456789"], ["b", "[x]"],
    ]  # fmt: skip
