"""The documentation site: its pages, links, generated parts, commands and examples. mkdocs itself is not needed."""

import ast
import doctest
import functools
import importlib.util
import json
import operator
import re
import runpy
import shlex
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import yaml
from chromium import Chromium, browser_file
from PIL import Image

import i2i_bridge
from i2i_bridge import load_recipe, method_preset
from i2i_bridge.cli.command import app, main
from i2i_bridge.registry import GUIDANCES, PROCESSES, SAMPLERS, TARGETS, TIME_GRIDS
from i2i_bridge.storage.shipped import recipe_names
from i2i_bridge.storage.toml import read_toml

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
SITE = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
PAGES = sorted(path.name for path in DOCS.glob("*.md"))
LINKED = [*(f"docs/{name}" for name in PAGES), "README.md", "CONTRIBUTING.md"]
SMALL = [
    *("train.steps=2", "train.batch_size=2", "train.workers=0", "network.channels=8", "network.channel_mult=[1,1]"),
    *("data.size=32", "data.validation_size=32", "data.load_size=40", "evaluate.images=3"),
]


def hooks():
    spec = importlib.util.spec_from_file_location("generated_pages", DOCS / "generated_pages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def text_of(name):
    """A page as the site has it."""
    return hooks().filled((DOCS / name).read_text(encoding="utf-8"))


def prose(text):
    """Without blocks of code, whose brackets are no links."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(file):
    """The anchors of a page's headings: those of Python-Markdown, as far as GitHub makes the same."""
    text = file.read_text(encoding="utf-8")
    text = hooks().filled(text) if file.parent == DOCS else text
    found = set()
    for heading in re.findall(r"^#+ (.+)$", prose(text), re.MULTILINE):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)|[`*]", r"\1", heading).strip().lower()
        ascii_only = unicodedata.normalize("NFKD", words).encode("ascii", "ignore").decode()
        markdown = re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", ascii_only).strip())
        github = re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", words))
        found |= {markdown} & {github}
    return found


def navigation(part):
    if isinstance(part, str):
        return [part]
    parts = part.values() if isinstance(part, dict) else part
    return [page for inner in parts for page in navigation(inner)]


def table_rows(text):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


def test_the_navigation_has_every_page_once():
    # kills: a page that nobody finds; one that was renamed
    assert sorted(navigation(SITE["nav"])) == PAGES, "add the page to `nav` in mkdocs.yml"


@pytest.mark.parametrize("page", PAGES)
def test_lists_are_nested_as_both_renderers_read_them(page):
    # kills: a nested list that GitHub shows and the site flattens
    text = prose((DOCS / page).read_text(encoding="utf-8"))
    assert not re.findall(r"^ {1,3}(?:[-*]|\d+\.) .*", text, re.MULTILINE), "indent nested lists by four spaces"


@pytest.mark.parametrize("page", LINKED)
def test_links_lead_somewhere(page):
    # kills: a page, heading, file or symbol that was renamed while others link to it
    file = ROOT / page
    text = prose(text_of(file.name) if file.parent == DOCS else file.read_text(encoding="utf-8"))
    for words, target in re.findall(r"\[([^\[\]]*)\]\(([^)\s]+)\)", text):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        other = file if not path else (file.parent / path)
        assert other.exists(), f"{page}: {target}"
        if anchor:
            assert anchor in anchors(other), f"{page}: {target}"
        if path.endswith(".py") and words.startswith("`") and "/" not in words:
            line = hooks().line_of(words.strip("`"), other.read_text(encoding="utf-8"))
            assert line, f"{page}: {words} is not defined in {path}"
        if file.parent == DOCS and path.startswith("../"):
            assert hooks().LINK.search(f"[{words}]({target})"), f"{page}: the site cannot show {target}"


def test_symbols_are_found_by_their_definition():
    # kills: a link to source that leads to another line
    source = "x = 1\nclass A:\n    b: int = 2\n    def f(self): ...\ndef f(): ...\n"
    lines = {name: hooks().line_of(name, source) for name in ("x", "A", "A.b", "A.f", "f", "A.g", "b")}
    assert lines == {"x": 1, "A": 2, "A.b": 3, "A.f": 4, "f": 5, "A.g": None, "b": None}


def test_the_table_of_recipes_is_that_of_the_files():
    # kills: a recipe without a row; a column of another recipe
    text = text_of("recipes.md")
    rows = {re.search(r"`([^`]+)`", row[0])[1]: row for row in table_rows(text) if row[0].startswith("[`")}
    assert sorted(rows) == sorted(recipe_names())
    for name, row in rows.items():
        recipe = read_toml(ROOT / "recipes" / f"{name}.toml")
        assert row[1] == recipe["summary"] and row[2] == str(recipe["data"]["size"]), name
        assert row[3] == (f"`{recipe['degradation']['name']}`" if "degradation" in recipe else "pairs")
        assert row[6] == f"{recipe['train']['steps']:,} × {recipe['train']['batch_size']}"
    for folder in {name.split("/")[0] for name in rows}:
        assert f"\n## {folder}\n" in text


@pytest.mark.parametrize("page", ["which-method.md", "samplers.md"])
def test_measured_rows_are_those_of_the_results(page):
    # kills: a figure that nobody measured, and one that was measured anew on one page alone
    measured = [
        set(re.findall(r"-?[\d,]*\.?\d+", re.sub(r"<sub>.*?</sub>|\*\*", "", line)))
        for line in (DOCS / "results.md").read_text(encoding="utf-8").splitlines()
        if line.startswith("|")
    ]
    shown = 0
    for row in table_rows(text_of(page)):
        numbers = {cell for cell in row[1:] if re.fullmatch(r"\d+(\.\d+)?", cell)}
        if len(numbers) >= 3 or (row[1] == "–" and len(numbers) >= 2):
            shown += 1
            assert any(numbers <= line for line in measured), row
    assert shown >= 12


def test_the_curves_are_those_of_the_results():
    # kills: a curve of another table, or of another column
    curves = hooks().measured_curves()
    assert len(curves) == 4 and all(len(points) == 3 for task in curves.values() for points in task.values())
    assert curves["JPEG, quality 10"]["bridge, OT-ODE"] == [(1, 21.05, 624.9), (5, 20.41, 466.7), (20, 19.68, 353.4)]
    assert curves["inpainting, centre"]["palette"][1] == (5, 16.42, 1941.3)
    figure = hooks().curves_figure()
    assert figure == hooks().curves_figure() and "\n" not in figure and figure.count("<svg") == 1


def test_the_papers_figures_are_those_of_the_recipes():
    # kills: a number of the paper that was typed wrong
    rows = {(row[0], row[1]): row[2:] for row in table_rows(text_of("pix2pix.md")) if row[1].isdigit()}
    for column, name in enumerate(("edges2shoes", "day2night")):
        for row in read_toml(ROOT / "recipes" / "translation" / f"{name}.toml")["reference"]["rows"]:
            label = row["method"].replace("I2SB", "I²SB")
            assert rows[label, str(row["nfe"])][column] == str(row["fid"])
    assert len(rows) == 4


def test_the_mathematics_has_a_row_for_every_member():
    # kills: a process, target, sampler, grid or guidance without its equation
    text = (DOCS / "mathematics.md").read_text(encoding="utf-8")
    first = " ".join(row[0] for row in table_rows(text))
    for members in (PROCESSES, TARGETS, SAMPLERS, TIME_GRIDS, GUIDANCES):
        for name in members.names():
            if members.get(name).__module__.startswith("i2i_bridge."):
                assert f"`{name}`" in first, name
    assert text.count("$") % 2 == 0


def test_the_api_page_has_every_public_name():
    # kills: a public name that the page forgets
    names = re.findall(r"^::: i2i_bridge\.(\w+)$", (DOCS / "api.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(names) == sorted(set(i2i_bridge.__all__) - {"__version__"})


def examples():
    """(public name, doctest) of each public docstring with an example."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    for name in i2i_bridge.__all__:
        member = getattr(i2i_bridge, name)
        if getattr(member, "__module__", "").startswith("i2i_bridge."):
            for test in finder.find(member, name, module=False, globs={}):
                owner = operator.attrgetter(test.name)(i2i_bridge)  # a default of a field may be torch's own function
                if test.examples and str(getattr(owner, "__module__", "")).startswith("i2i_bridge."):
                    yield test


EXAMPLES = {test.name: test for test in examples()}


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_of_docstrings_run(name, tmp_path, monkeypatch):
    # kills: an example of the API page that fell behind
    if name == "train":
        pytest.importorskip("skimage")
        pytest.importorskip("sklearn")
    if name in ("evaluate", "compare"):
        pytest.importorskip("skimage")
    monkeypatch.chdir(tmp_path)
    output = []
    result = doctest.DocTestRunner(optionflags=doctest.REPORT_NDIFF).run(EXAMPLES[name], out=output.append)
    assert result.failed == 0 and result.attempted, "".join(output)


def test_there_are_examples_for_what_users_call_first():
    assert {"load_recipe", "train", "evaluate", "compare", "Run.restore", "restore_files"} <= set(EXAMPLES)


def test_the_notebook_runs(tmp_path, monkeypatch):
    # kills: a cell that fell behind
    pytest.importorskip("skimage")
    pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    notebook = json.loads((DOCS / "notebook.ipynb").read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4 and all(not cell.get("outputs") for cell in notebook["cells"])
    cells = [text for kind, text in hooks().notebook_cells(DOCS / "notebook.ipynb") if kind == "code"]
    names = {}
    small = ", ".join(f'"{setting}"' for setting in SMALL)
    for text in cells:
        exec(compile(text.replace('"train.steps=200"', small), "cell", "exec"), names)
    assert names["psnr"](names["denoised"]) > names["psnr"](names["noisy"]) + 5
    assert Path(names["page"]).is_file() and names["restored"].shape == names["photo"].shape
    shown = text_of("notebook.md")
    assert all(f"```python\n{text}\n```" in shown for text in cells)


def test_the_pages_first_steps_samplers_and_pix2pix_run(tmp_path, monkeypatch, capsys):
    # kills: a verb, option, recipe or setting of these pages that is renamed
    pytest.importorskip("skimage")
    pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    draw = np.random.default_rng(0)
    for i in range(20):
        pixels = draw.integers(0, 256, (4, 5, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((50, 44)).save(f"photos/{i}.png")
    Path("photo.png").write_bytes(Path("photos/0.png").read_bytes())
    ran = []
    for page in ("start.md", "samplers.md", "pix2pix.md"):
        for kind, text in re.findall(r"^```(\w+)\n(.*?)^```$", text_of(page), re.MULTILINE | re.DOTALL):
            if kind == "python":
                small = ", ".join(f'"{setting}"' for setting in SMALL)
                Path("block.py").write_text(text.replace('"train.steps=200"', small))
                runpy.run_path("block.py")
            for line in text.splitlines() if kind == "sh" else ():
                program, *words = shlex.split(line, comments=True)
                if program != "i2i-bridge":
                    continue
                if words[0] in ("train", "run"):
                    words += [setting for setting in SMALL if "pix2pix" not in words or "channel_mult" not in setting]
                with pytest.raises(SystemExit) as ended:
                    main(words)
                out, err = capsys.readouterr()
                assert ended.value.code == 0, (line, out, err)
                ran.append(words[0])
    assert {"restore", "train", "evaluate", "report", "run", "compare", "preview", "list", "show"} <= set(ran)
    for page in ("runs/page", "runs/samplers", "runs/compare", "runs/mine/report"):
        assert Path(page, "index.html").is_file(), page
    assert Image.open("restored.png").size == (50, 44) and len(list(Path("denoised").glob("[!.]*"))) == 20


COMMANDS = [
    (page, line)
    for page in LINKED
    for block in re.findall(r"^```(?:sh|bash)\n(.*?)^```$", (ROOT / page).read_text(encoding="utf-8"), re.M | re.S)
    for line in re.sub(r"\\\n\s*", "", block).splitlines()
    if re.search(r"\bi2i-bridge |i2i_bridge\.cli ", line)
]


@pytest.mark.parametrize(("page", "line"), COMMANDS, ids=[f"{page}: {line[:60]}" for page, line in COMMANDS])
def test_every_command_of_every_page_is_understood(page, line, monkeypatch):
    """A verb's own code does not run: what needs days, a GPU or files of others is parsed at least.

    A shipped recipe is loaded with the line's settings.
    """
    # kills: a verb, option, recipe or setting that was renamed, on a page whose commands are too long to run
    called = []
    for command in commands(app):
        monkeypatch.setattr(command, "callback", noting(called, command.callback))
    line = re.sub(r" [|>&] .*", "", line.replace("$", ""))
    words = shlex.split(re.sub(r"^.*?(?:i2i-bridge|i2i_bridge\.cli) ", "", line), comments=True)
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 0 and len(called) == 1, line
    shipped = words[0] in ("train", "run", "preview", "show") and set(words[1:2]) <= set(recipe_names())
    if shipped and not {"--plugin", "--vary"} & set(words):
        method = words[words.index("--method") + 1] if "--method" in words else None
        # Cards of one's own and what plug-ins bring are not here.
        settings = [word for word in words[2:] if re.match(r"(?!data\.card|data\.root)\w+(\.\w+)+=", word)]
        assert load_recipe(words[1], settings, preset=None if method is None else method_preset(method)), line


def commands(program):
    yield from program.registered_commands
    for group in program.registered_groups:
        yield from commands(group.typer_instance)


def noting(called, callback):
    """A function of the callback's signature that only notes the call."""

    @functools.wraps(callback)
    def note(*args, **options):
        called.append(callback.__name__)

    return note


def test_the_site_asks_no_network():
    # kills: a font, script or picture of a network in the site's settings
    assert SITE["theme"]["font"] is False and "offline" in SITE["plugins"]
    named = [*SITE["extra"]["polyfills"], *SITE["extra_css"]]
    assert all((DOCS / name).is_file() for name in named)
    assert any("iframe-worker" in name for name in SITE["extra"]["polyfills"])
    for page in PAGES:
        text = (DOCS / page).read_text(encoding="utf-8")
        assert not re.search(r"!\[[^\]]*\]\(http|<(?:script|img|link|iframe)\b", text), page
    tree = ast.parse((DOCS / "generated_pages.py").read_text(encoding="utf-8"))
    top = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert "mkdocs" not in ast.dump(ast.Module(top, [])), "the tests use these functions without mkdocs"


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ('<script async src="https://a.b/c.js">', "https://a.b/c.js"),
        ("<img alt=x src=//a.b/c.png>", "//a.b/c.png"),
        ('<link rel="stylesheet" href="https://a.b/c.css">', "https://a.b/c.css"),
        ("@font-face { src: url('https://a.b/f.woff2') }", "https://a.b/f.woff2"),
        ('@import "//a.b/c.css";', "//a.b/c.css"),
        ('<a href="https://a.b">', None),
        ('<link rel="canonical" href="https://a.b/">', None),
        ("<img src=a.png>", None),
    ],
)
def test_a_page_that_asks_a_network_ends_the_build(text, address):
    # kills: a script of a network that a newer theme brings
    assert hooks().fetched(text) == ([address] if address else [])


@pytest.mark.skipif(browser_file() is None, reason="no Chromium is here")
def test_the_search_works_in_a_page_that_is_opened_as_a_file(tmp_path):
    # kills: a worker that a browser refuses; a message that is sent before the worker listens; an answer that is lost
    (tmp_path / "worker.js").write_text(
        "let sum = 0; importScripts('more.js');\n"
        "addEventListener('message', (event) => { sum += event.data; postMessage(sum); });"
    )
    (tmp_path / "more.js").write_text("self.more = true;")
    script = (DOCS / "assets" / "iframe-worker.js").read_text(encoding="utf-8")
    (tmp_path / "page.html").write_text(f"<!doctype html><body><script>{script}</script>")
    use = """new Promise((resolve) => {
        const worker = new Worker(new URL("worker.js", location)), answers = [];
        worker.addEventListener("message", (event) => {
          answers.push(event.data);
          if (answers.length == 2) resolve(answers);
        });
        worker.postMessage(2); worker.postMessage(3);
    })"""
    with Chromium() as browser:
        browser.open(tmp_path / "page.html")
        assert browser.run(use) == [2, 5]
