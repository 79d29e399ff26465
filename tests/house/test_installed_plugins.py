"""Parts of installed packages: found by their entry points, imported when a name may need them, never by a recipe."""

import os
import subprocess
import sys
from pathlib import Path

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
        done = subprocess.run(
            [sys.executable, *words], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr, done.returncode

    return run


def test_a_name_that_no_built_in_part_has_is_looked_for_in_installed_packages(install, python):
    # kills: installed-plugins-always-imported installed-plugins-not-in-results
    install("dark_parts", PART)
    code = """
from i2i_bridge import registry
before = registry.plugin_digests()
assert registry.DEGRADATIONS.get("jpeg") and "noise" in registry.DEGRADATIONS
print("built-in", before)
member = registry.DEGRADATIONS.get("darken")
again = registry.DEGRADATIONS.get("darken")
print(member.__module__, member is again, len(registry.plugin_digests()))
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
        (PART.replace("darken", "jpeg"), "degradation 'jpeg' is already registered by i2i_bridge.degradations.jpeg"),
        ("def", "SyntaxError: invalid syntax"),
    ],
)
def test_a_package_that_fails_is_named_in_one_line(install, python, code, words):
    # kills: broken-plugin-forgotten
    install("broken_parts", code)
    out, status = python("-m", "i2i_bridge.cli", "list", "degradations")
    assert status == 2 and words in out
    (line,) = [line for line in out.splitlines() if line.startswith("error:")]
    assert "the installed package broken_parts 1.5, plug-in 'parts': " in line
    twice = """
from i2i_bridge import UserError, registry
for name in ("jpeg", "noise", "darken", "darken"):
    try:
        registry.DEGRADATIONS.get(name)
        print("found", name)
    except UserError as error:
        print("broken_parts" in str(error))
"""
    assert python("-c", twice)[0].replace("imported\n", "") == "found jpeg\nfound noise\nTrue\nTrue\n"


def test_a_recipe_cannot_choose_what_is_imported(install, python, tmp_path):
    """A name with dots or a path is looked up as it is, and imports nothing by itself."""
    (tmp_path / "evil.py").write_text("print('evil')")
    install("dark_parts", PART)
    for name in ("evil", "evil:run", "i2i_bridge.plugins:evil", "./evil.py"):
        out, code = python("-m", "i2i_bridge.cli", "train", "demo/deblur", f"degradation.name={name}")
        assert code == 2 and "evil'" in out.replace(":run'", "'").replace(".py'", "'") and "evil\n" not in out, out
