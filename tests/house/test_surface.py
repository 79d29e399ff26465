"""The public names of `i2i_bridge`: their list is frozen, and what was documented elsewhere still imports."""

import ast
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import i2i_bridge
from i2i_bridge.errors import UserError

ROOT = Path(__file__).parents[2]
NAMES = """
Coefficients Degradation Degraded Estimate Extractor Gaussian Guidance ItemMetric LinearOperator Method Metric PredictX0
Process Recipe Run Sampler SetMetric Target UserError __version__ check_dataset check_degradation check_metric
check_network check_process check_sampler compare evaluate export load_plugin load_recipe load_run method_preset
push_to_hub register_autoencoder register_dataset register_degradation register_discriminator register_extractor
register_guidance register_method register_metric register_network register_process register_proposal register_sampler
register_target register_time_grid restore_files save_pretrained train tune
"""
PUBLIC = NAMES.split()
PAGES = ["README.md", "CONTRIBUTING.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))]


def test_the_list_is_frozen():
    # A name that goes breaks programs; one that comes is a promise: both are decided here, not by the way.
    assert i2i_bridge.__all__ == sorted(i2i_bridge.__all__) == PUBLIC
    assert set(PUBLIC) <= set(dir(i2i_bridge))


@pytest.mark.parametrize("name", PUBLIC)
def test_each_name_resolves_and_is_documented(name):
    member = getattr(i2i_bridge, name)
    if name == "__version__":
        assert re.fullmatch(r"\d+\.\d+\.\d+", member)
    elif name == "PredictX0":  # an alias: its text stands below it
        module = ast.parse((ROOT / "i2i_bridge/bridge/samplers.py").read_text(encoding="utf-8")).body
        (place,) = (i for i, node in enumerate(module) if isinstance(node, ast.Assign) and node.targets[0].id == name)
        assert "x_0_hat" in module[place + 1].value.value
    else:
        text = inspect.getdoc(member) if not inspect.isclass(member) else member.__doc__
        assert text and not text.startswith(f"{name}("), name


def test_the_type_checker_sees_the_same_names():
    """The imports under TYPE_CHECKING are the names and modules that are resolved at first use."""
    tree = ast.parse((ROOT / "i2i_bridge/__init__.py").read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name: node.module.removeprefix("i2i_bridge.") for node in block.body for alias in node.names}
    assert seen == i2i_bridge._HOMES


def test_registering_covers_every_kind():
    from i2i_bridge import registry

    decorators = {members._decorator for members in registry.KINDS.values()}
    assert decorators == {name for name in PUBLIC if name.startswith("register_")}


def test_another_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'i2i_bridge' has no attribute 'trian'"):
        i2i_bridge.trian  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'trian'"):
        from i2i_bridge import trian  # noqa: F401


def test_public_functions_take_paths_as_text():
    """A path given as text was an AttributeError in restore_files, degrade_files and evaluate(out=)."""
    members = [getattr(i2i_bridge, name) for name in dir(i2i_bridge)]
    functions = [member for member in members if inspect.isfunction(member)]
    for owner in filter(inspect.isclass, members):
        functions += [value for name, value in vars(owner).items() if inspect.isfunction(value) and name[0] != "_"]
    wanted = [
        (function.__qualname__, parameter.name)
        for function in functions
        for parameter in inspect.signature(function).parameters.values()
        if "Path" in (words := str(parameter.annotation)) and "str" not in words
    ]
    assert wanted == [], "annotate str | Path, and convert"


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("images", "read_picture"), ("images", "to_tensor"), ("recipe", "load_recipe"), ("recipe", "Recipe"),
        ("training", "train"), ("cli", "main"), ("app", "Limits"), ("app", "open_page"), ("app", "serve"),
    ],
)  # fmt: skip
def test_documented_deep_imports_keep_working(path, name):
    module = importlib.import_module(f"i2i_bridge.{path}")
    assert callable(getattr(module, name))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        module.nothing  # noqa: B018


@pytest.mark.parametrize("module", ["i2i_bridge", "i2i_bridge.cli"])
def test_the_package_and_its_command_line_run_as_modules(module):
    done = subprocess.run(
        [sys.executable, "-m", module, "--version"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout == f"i2i-bridge {i2i_bridge.__version__}\n"


@pytest.mark.parametrize("page", PAGES)
def test_pages_import_public_names_from_the_package(page):
    """Where a name is public, no page imports it from a module below."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for module, names in re.findall(r"from i2i_bridge\.([\w.]+) import ([\w, ]+)", text):
        deep = [name for name in re.split(r", ", names) if name in PUBLIC]
        assert not deep, f"{page}: from i2i_bridge import {', '.join(deep)} (not from i2i_bridge.{module})"


@pytest.mark.parametrize("file", sorted((ROOT / "i2i_bridge/cli").glob("*.py")), ids=lambda file: file.name)
def test_the_command_line_uses_the_public_names(file):
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and not node.module.startswith("i2i_bridge.cli"):
            deep = [alias.name for alias in node.names if alias.name in PUBLIC and "." in node.module]
            assert not deep, f"{file.name}: from i2i_bridge import {', '.join(deep)} (not from {node.module})"


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda p, run: p.load_recipe("demo/jpeg", "train.steps=2"), "overrides='train.steps=2': give a list, ['train"),
        (
            lambda p, run: p.load_run("pretrained/photos", sample="sample.clip=true"),
            "sample='sample.clip=true': give a",
        ),
        (lambda p, run: p.compare("runs/mine", "page"), "runs='runs/mine': give a list, ['runs/mine']"),
        (lambda p, run: p.evaluate(run, metrics="psnr"), "metrics='psnr': give a list, ['psnr']"),
        (lambda p, run: p.evaluate(run, nfe="1"), "nfe='1': give a list, ['1']"),
        (lambda p, run: p.evaluate(run, nfe=5), "nfe 5: give a list of numbers from 1 to 1000"),
        (lambda p, run: p.evaluate(run, nfe=[]), "nfe []: give a list of numbers from 1 to 1000"),
        (lambda p, run: p.evaluate(run, nfe=["1"]), "nfe '1': give a number from 1 to 1000"),
        (lambda p, run: p.evaluate(run, count=0), "count=0: give a whole number from 1 on"),
        (lambda p, run: p.evaluate(run, batch_size=0), "batch_size=0: give a whole number from 1 on"),
        (lambda p, run: run.restore(Image.new("RGB", (8, 8)), nfe="3"), "nfe '3': give a number from 1 to 1000"),
        (lambda p, run: run.restore(Image.new("RGB", (8, 8)), nfe=True), "nfe True: give a number from 1 to 1000"),
        (lambda p, run: p.restore_files(run, "in", "out", samples=0), "samples=0: give a whole number from 1 on"),
        (lambda p, run: p.restore_files(run, "in", "out", existing="overwite"), "existing='overwite': give 'resume', "),
    ],
)
def test_a_wrong_argument_is_refused_by_name(call, words):
    """Otherwise a text is taken letter by letter, and 0 for the default."""
    # kills: text-taken-by-letters, count-zero-is-all
    with pytest.raises(UserError) as refused:
        call(i2i_bridge, i2i_bridge.load_run("pretrained/photos", device="cpu"))
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda run: i2i_bridge.train("demo/deblur", "out"),
            "recipe: 'demo/deblur' is given; give a recipe, load_recipe(",
        ),
        (
            lambda run: i2i_bridge.evaluate("pretrained/photos"),
            "run: 'pretrained/photos' is given; give a run, load_run(",
        ),
        (lambda run: i2i_bridge.tune("a", nfe=[1], metric="psnr"), "give a run, load_run("),
        (lambda run: i2i_bridge.export("a", "out"), "give a run, load_run("),
        (lambda run: i2i_bridge.save_pretrained("a", "out"), "give a run, load_run("),
        (lambda run: i2i_bridge.push_to_hub("a", "me/it", licence="mit"), "give a run, load_run("),
        (lambda run: i2i_bridge.restore_files("a", "in", "out"), "give a run, load_run("),
        (
            lambda run: i2i_bridge.restore_files(run, ["a.png"], "out"),
            "source: an object of type list is given; give one",
        ),
        (lambda run: i2i_bridge.compare([run], "out"), "runs: an object of type Run is given; give run folders"),
    ],
)
def test_a_name_for_what_it_names_is_refused(call, message, tmp_path, monkeypatch):
    # kills: kinds-unchecked
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=re.escape(message)):
        call(i2i_bridge.load_run("pretrained/photos"))
    assert not list(tmp_path.iterdir())
