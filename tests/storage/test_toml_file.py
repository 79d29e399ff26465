"""Untrusted TOML: texts that would exhaust memory, time or the stack are rejected in one line before parsing."""

import tracemalloc

import pytest

from i2i_bridge.degradations.files import parse_op
from i2i_bridge.errors import UserError
from i2i_bridge.recipe.load import load_recipe
from i2i_bridge.storage.toml import MAX_DEPTH, MAX_KEY, MAX_PARTS, parse_toml, read_toml, toml_value

LONG = ".".join(["a"] * 40_000)
"""A key of 80 kB: tomllib would take 6 GB."""


@pytest.mark.parametrize(
    "text",
    [
        f"{LONG} = 1",
        f"[{LONG}]",
        f"[[{LONG}]]",
        f"x = {{ {LONG} = 1 }}",
        f"x = [1, {{ y = {{ {LONG} = 1 }} }}]",
        '"b" . ' + LONG.replace(".", " .\t") + " = 1",
        ".".join(['"a b"', "'c'", "d"] * 8) + " = 1",
        f"x = '#' # it's\n{LONG} = 1",
        f"x = \"\\\"#\" # '''\n{LONG} = 1",
        f'x = """#\\""" a""""\n{LONG} = 1',
        f"x = '''#'\n'' a'''\n{LONG} = 1",
    ],
)
def test_a_long_dotted_key_is_refused_before_it_is_parsed(text, tmp_path):
    # kills: dotted-keys-unlimited
    file = tmp_path / "bomb.toml"
    file.write_text(text)
    tracemalloc.start()
    with pytest.raises(UserError, match=f"bomb.toml: a dotted key of more than {MAX_PARTS} parts"):
        read_toml(file)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * 2**20


@pytest.mark.parametrize(
    "text",
    [
        f'x = "{LONG}"',
        f"x = '''\n{LONG}\n'''",
        f'x = """\\" {LONG} ""\n"""',
        f"# {LONG}\nx = 1.5",
        f"x = '# {LONG}' # \"",
        ".".join(["a"] * MAX_PARTS) + " = 1",
        "x = [" + "1.5, " * 1000 + "]\ny = 1979-05-27T07:32:00.999",
        'x = ""\ny = "a"\nz = """"""\nw = \'\'\'\'\'\'',
    ],
)
def test_strings_comments_and_short_keys_are_not_taken_for_one(text):
    assert parse_toml(text)


@pytest.mark.parametrize("half", ['"""' + '\\"""' * 250_000, '"' + '\\"' * 500_000, "'''" + "a" * 10**6, "a" * 10**6,
                                  "a." * 19 + "a " * 400_000, "a" + " " * 10**6 + "=", '"' * 10**6])  # fmt: skip
def test_the_search_for_long_keys_is_linear(half):
    """A megabyte that is no TOML is refused; with a quadratic search this test would not end."""
    with pytest.raises(ValueError):
        parse_toml(half)


def test_a_byte_order_mark_is_none_of_the_text(tmp_path):
    # kills: toml-with-a-mark-refused
    (tmp_path / "a.toml").write_bytes(b"\xef\xbb\xbfname = 1\r\n")
    assert read_toml(tmp_path / "a.toml") == {"name": 1}


@pytest.mark.parametrize(("encoding", "byte"), [("utf-16", 1), ("latin-1", 9)])
def test_another_encoding_is_called_so(tmp_path, encoding, byte):
    (tmp_path / "a.toml").write_bytes('name = "ä"\n'.encode(encoding))
    with pytest.raises(UserError, match=rf"a\.toml: not UTF-8 \(at byte {byte}\), which TOML is; save it as UTF-8"):
        read_toml(tmp_path / "a.toml")


def test_deep_tables_and_long_keys(tmp_path):
    depth = MAX_DEPTH - 1
    assert parse_toml(f"x = {'[' * depth}{']' * depth}")
    for text in (f"x = {'[' * 40}{']' * 40}", "x = " + "{a=" * 40 + "1" + "}" * 40, "x = " + "[" * 5000):
        with pytest.raises(ValueError, match="too deep"):
            parse_toml(text)
    assert parse_toml("a" * MAX_KEY + " = 1")
    with pytest.raises(ValueError, match="more than 200 characters"):
        parse_toml("x = {'" + "a" * (MAX_KEY + 1) + "' = 1}")


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        (f"{LONG}=1", "more than 20 parts"),
        ("train." + "a" * 201 + "=1", "more than 200 characters"),
        (f"data.source={{{LONG}=1}}", "more than 20 parts"),
        (f"data.root=1\n{LONG}=1", "more than 20 parts"),
        ("data.root=" + "[" * 5000, "too deep"),
        ("train.seed=" + "1" * 5000, "digits"),
        ("train.seed", "an override reads key.key=value"),
        ("=3", "an override reads key.key=value"),
    ],
)
def test_overrides_have_the_same_limits(setting, says):
    # kills: dotted-keys-unlimited
    with pytest.raises(UserError, match=says):
        load_recipe("jpeg-5", [setting])


def test_options_of_op_have_the_same_limits():
    with pytest.raises(UserError, match="more than 20 parts"):
        parse_op(f"jpeg:quality={{{LONG}=1}}")


def test_values_of_settings():
    assert toml_value("1e-4") == 1e-4 and toml_value("[1, 2]") == [1, 2] and toml_value("a word") == "a word"
    assert toml_value(LONG) == LONG, "a file name of many dots is a word"
    assert toml_value("1\nroot = 2") == "1\nroot = 2", "a line end begins no second key"
