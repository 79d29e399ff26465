"""Parts of installed packages: found by their entry points, imported when a name may need them, never by a recipe."""

import os
import tomllib
from pathlib import Path

import interpreter
import pytest

ROOT = Path(__file__).parents[2]
PART = """
print("imported")
from i2i_bridge import Degradation, Degraded, register_degradation


@register_degradation("darken")
class Darken(Degradation):
    \"\"\"Half as bright.\"\"\"

    def __call__(self, x_0, generator):
        return Degraded((x_0 - 1) / 2)
"""


@pytest.fixture
def install(tmp_path):
    """Puts a package beside a dist-info folder with an entry point, as an installer does."""

    def installed(name, code):
        (tmp_path / f"{name}.py").write_text(code)
        facts = tmp_path / f"{name}-1.5.dist-info"
        facts.mkdir()
        (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\n")
        (facts / "entry_points.txt").write_text(f"[i2i_bridge.plugins]\nparts = {name}\n")

    return installed


@pytest.fixture
def python(tmp_path):
    """Runs Python with that folder among the installed packages; its output, and exit code."""

    def run(*words):
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}", "COLUMNS": "200"}
        done = interpreter.python(*words, env=environment, cwd=tmp_path)
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr, done.returncode

    return run


def test_a_name_that_no_built_in_part_has_is_looked_for_in_installed_packages(install, python):
    # kills: installed-plugins-always-imported installed-plugins-not-in-results
    install("dark_parts", PART)
    code = """
from i2i_bridge import registry
from i2i_bridge.plugins import plugin_digests
before = plugin_digests()
assert registry.DEGRADATIONS.get("jpeg") and "noise" in registry.DEGRADATIONS
print("built-in", before)
member = registry.DEGRADATIONS.get("darken")
again = registry.DEGRADATIONS.get("darken")
print(member.__module__, member is again, len(plugin_digests()))
"""
    assert python("-c", code) == ("built-in []\nimported\ndark_parts True 1\n", 0)


def test_the_command_lists_shows_and_names_them(install, python):
    install("dark_parts", PART)
    listed, code = python("-m", "i2i_bridge.cli", "list", "degradations")
    assert code == 0 and "darken" in listed and "Half as bright." in listed
    shown, code = python("-m", "i2i_bridge.cli", "show", "part:darken")
    assert code == 0 and "degradations: darken" in shown
    for line in (
        ["list", "datasets"],
        ["show", "demo/deblur", "--method", "regression"],
        ["copy", "demo/pairs", "a.toml"],
    ):
        out, code = python("-m", "i2i_bridge.cli", *line)
        assert code == 0 and "imported" not in out, line


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import nothing_like_it", "ModuleNotFoundError: No module named 'nothing_like_it'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        (PART.replace("darken", "jpeg"), "degradation 'jpeg' is already registered by i2i_bridge.degradations.jpeg"),
        ("def", "SyntaxError: invalid syntax"),
    ],
)
def test_a_package_that_fails_is_a_note_and_the_rest_works(install, python, code, words):
    # kills: broken-plugin-forgotten broken-plugin-stops-the-others
    install("broken_parts", code)
    install("dark_parts", PART)
    for verb, shown in ((["list", "degradations"], ["darken", "jpeg"]), (["show", "part:darken"], ["Half as bright"])):
        out, status = python("-m", "i2i_bridge.cli", *verb)
        assert status == 0 and all(word in out for word in shown), out
        (line,) = [line for line in out.splitlines() if line.startswith("note:")]
        assert "the installed package broken_parts 1.5, plug-in 'parts': not loaded: " in line and words in line
    # The verb that needs a part which the package may have says so; a misspelt name keeps its hint.
    for name, hint in (("brighten", ""), ("darkn", "did you mean 'darken'?")):
        out, status = python("-m", "i2i_bridge.cli", "train", "demo/deblur", f"degradation.name={name}")
        (line,) = [line for line in out.splitlines() if line.startswith("error:")]
        assert status == 2 and f"unknown degradation '{name}'" in line and hint in line
        assert "the installed package broken_parts 1.5, plug-in 'parts': not loaded: " in line and words in line


def test_a_note_on_a_broken_package_stays_out_of_what_is_shown(install, tmp_path):
    """`show RECIPE > FILE` writes a recipe, whatever is installed."""
    install("broken_parts", "1 / 0")
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
    done = interpreter.python("-m", "i2i_bridge.cli", "show", "demo/deblur", env=environment, cwd=tmp_path)
    assert tomllib.loads(done.stdout)["name"] and done.stderr.startswith("note: the installed package broken_parts")


def test_a_recipe_cannot_choose_what_is_imported(install, python, tmp_path):
    """A name with dots or a path is looked up as it is, and imports nothing by itself."""
    (tmp_path / "evil.py").write_text("print('evil')")
    install("dark_parts", PART)
    for name in ("evil", "evil:run", "i2i_bridge.plugins:evil", "./evil.py"):
        out, code = python("-m", "i2i_bridge.cli", "train", "demo/deblur", f"degradation.name={name}")
        assert code == 2 and "evil'" in out.replace(":run'", "'").replace(".py'", "'") and "evil\n" not in out, out
