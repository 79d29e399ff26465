"""Parts of the documentation site that are made when it is built (mkdocs hooks; see mkdocs.yml).

- `<!-- recipes -->` becomes a table of all shipped recipes, `<!-- notebook -->` the cells of docs/notebook.ipynb, and
  `<!-- curves -->` a figure of rows of docs/results.md.
- A link to a file of the repository, `](../i2i_bridge/...)`, leads to a page of the site that shows the file. If the
  link's text is `Symbol` or `Symbol.member`, it leads to the line that defines the symbol.
- Formulas become MathML, which browsers draw without a script.
- A built page that would fetch a script, style, font or picture from a network ends the build.

Only what mkdocs calls (`on_...`) needs mkdocs.
"""

import ast
import html
import json
import re
from pathlib import Path
from typing import Any

from i2i_bridge.storage.shipped import recipe_names
from i2i_bridge.storage.toml import read_toml

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"\[(?P<text>[^\[\]]*)\]\(\.\./(?P<path>(?:i2i_bridge|recipes|tests)/[^)#\s]+)\)")
FOLDERS = {
    "demo": "Small, on real photos from installed packages: minutes on a CPU",
    "restoration": "The paper's restoration tasks",
    "translation": "Translation",
    "pretrained": "How the shipped weights were trained",
    "prior": "Unconditional denoisers to start bridges from",
}


TASKS = {
    "JPEG, quality 10": "JPEG-10",
    "4x super-resolution": "4x super-resolution, bicubic",
    "deblurring": "Deblurring, uniform kernel",
    "inpainting, centre": "Inpainting, centre",
}
"""Title of each figure's column: title of its table in docs/results.md."""


def recipe_rows(folder: str) -> list[dict[str, str]]:
    """The recipes of a folder as a table's rows: name, what, pixels, task, method, network, steps, nfe."""
    rows = []
    for name in recipe_names():
        if name.split("/")[0] == folder:
            table = read_toml(ROOT / "recipes" / f"{name}.toml")
            part = {key: str(table.get(key, {}).get("name", "")) for key in ("process", "degradation", "network")}
            method = table.get("method", {}).get("name", "bridge")
            rows.append(
                {
                    "recipe": f"[`{name}`](../recipes/{name}.toml)",
                    "what it is": str(table["summary"]),
                    "pixels": str(table["data"]["size"]),
                    "degradation": f"`{part['degradation']}`" if part["degradation"] else "pairs",
                    "method": f"`{part['process'] or 'i2sb'}`" if method == "bridge" else f"`{method}`",
                    "network": f"`{part['network']}`",
                    "steps × batch": f"{table['train']['steps']:,} × {table['train']['batch_size']}",
                    "NFE": str(table.get("sample", {}).get("nfe", "")),
                }
            )
    return rows


def recipe_tables() -> str:
    """All shipped recipes as Markdown, a table for each folder."""
    folders = list(dict.fromkeys(name.split("/")[0] for name in recipe_names()))
    parts = []
    for folder in sorted(folders, key=lambda name: ([*FOLDERS, name].index(name), name)):
        rows = recipe_rows(folder)
        lines = [" | ".join(rows[0]), " | ".join("---" for _ in rows[0]), *(" | ".join(row.values()) for row in rows)]
        table = "\n".join(f"| {line} |" for line in lines)
        parts.append(f"## {folder}\n\n{FOLDERS.get(folder, 'Further recipes')}.\n\n{table}\n")
    return "\n".join(parts)


def measured_curves() -> dict[str, dict[str, list[tuple[float, float, float]]]]:
    """(NFE, PSNR, KID) of the rows of the bridges and Palette: by task, then method, from docs/results.md."""
    text = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    curves: dict[str, dict[str, list[tuple[float, float, float]]]] = {}
    for task, title in TASKS.items():
        for line in text.split(f"\n{title}:\n\n")[1].split("\n\n")[0].splitlines():
            cells = [re.sub(r"<sub>.*?</sub>|\*", "", cell).strip() for cell in line.strip("|").split("|")]
            if "seeds" in cells[0]:
                row = (float(cells[1]), float(cells[2]), float(cells[4]))
                method = {"bridge": "bridge, SDE"}.get(found := cells[0].split(", 3 seeds")[0], found)
                curves.setdefault(task, {}).setdefault(method, []).append(row)
    return curves


def curves_figure() -> str:
    """The measured curves as an SVG."""
    import io

    from matplotlib import rc_context
    from matplotlib.figure import Figure

    curves = measured_curves()
    with rc_context(
        {"svg.hashsalt": "i2i_bridge", "font.size": 8, "svg.fonttype": "none", "font.family": "sans-serif"}
    ):
        figure = Figure(figsize=(9, 4.4), layout="constrained")
        axes = figure.subplots(2, len(curves), sharex=True)
        for column, (task, methods) in enumerate(curves.items()):
            for row, (place, label) in enumerate(
                [(1, "PSNR (dB), higher is better"), (2, "KID x1e3, lower is better")]
            ):
                for method, points in methods.items():
                    x, y = [point[0] for point in points], [point[place] for point in points]
                    colour, marker = {"bridge, SDE": ("C0", "o"), "palette": ("C7", "s")}.get(method, ("C1", "^"))
                    axes[row][column].plot(x, y, color=colour, marker=marker, label=method)
                axes[row][column].set_ylabel(label if column == 0 else "")
            axes[0][column].set_title(task)
            axes[1][column].set(xscale="log", xlabel="network calls", xticks=[1, 5, 20], xticklabels=["1", "5", "20"])
            axes[1][column].minorticks_off()
        figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
    svg = file.getvalue()
    # In one block: an empty line would end the HTML of a Markdown page.
    svg = re.sub(r"\n\s*", " ", svg[svg.index("<svg") :])
    return f'<div class="measured-curves" role="img" aria-label="PSNR and KID against network calls">{svg}</div>'


def notebook_cells(file: Path) -> list[tuple[str, str]]:
    """(kind, text) of each cell of a notebook; kind is "markdown" or "code"."""
    cells = json.loads(file.read_text(encoding="utf-8"))["cells"]
    return [(cell["cell_type"], "".join(cell["source"])) for cell in cells]


def notebook_text(file: Path) -> str:
    """A notebook as Markdown."""
    return "\n\n".join(text if kind == "markdown" else f"```python\n{text}\n```" for kind, text in notebook_cells(file))


def line_of(symbol: str, source: str) -> int | None:
    """The line that defines `Symbol` or `Symbol.member` in Python source; None where nothing does."""
    body: list[ast.stmt] = ast.parse(source).body
    line = None
    for name in symbol.split("."):
        found = next((node for node in body if name in _names(node)), None)
        if found is None:
            return None
        line, body = found.lineno, getattr(found, "body", [])
    return line


def _names(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]


def filled(markdown: str) -> str:
    """A page's text with its marks replaced."""
    if "<!-- recipes -->" in markdown:
        markdown = markdown.replace("<!-- recipes -->", recipe_tables())
    if "<!-- notebook -->" in markdown:
        markdown = markdown.replace("<!-- notebook -->", notebook_text(ROOT / "docs" / "notebook.ipynb"))
    if "<!-- curves -->" in markdown:
        markdown = markdown.replace("<!-- curves -->", curves_figure())
    return markdown


def on_files(files: Any, config: Any) -> Any:
    """Add a page for each file of the repository that a page links to."""
    from mkdocs.structure.files import File

    pages = [file.content_string for file in files if file.src_uri.endswith(".md")]
    for path in sorted({found["path"] for text in pages for found in LINK.finditer(filled(text))}):
        source = (ROOT / path).read_text(encoding="utf-8")
        language = "python" if path.endswith(".py") else "toml"
        text = f"---\nsearch: {{exclude: true}}\nhide: [toc]\n---\n\n# {path}\n\n"
        files.append(
            File.generated(
                config, f"source/{path}.md", content=f'{text}````{language} linenums="1"\n{source.rstrip()}\n````\n'
            )
        )
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Replace marks, and lead links to the repository to the pages of `on_files`."""

    def led(found: re.Match[str]) -> str:
        symbol, path = found["text"].strip("`"), found["path"]
        line = line_of(symbol, (ROOT / path).read_text(encoding="utf-8")) if path.endswith(".py") else None
        at = f'{{ data-line="{line}" }}' if line else ""
        return f"[{found['text']}](source/{path}.md){at}"

    return markdown if page.file.src_uri.startswith("source/") else LINK.sub(led, filled(markdown))


def on_page_content(content: str, **_: Any) -> str:
    """Formulas as MathML; the line of a link to source as its anchor."""
    from latex2mathml.converter import convert

    def mathml(found: re.Match[str]) -> str:
        formula = html.unescape(found["formula"])
        return convert(formula[2:-2].strip(), display="block" if formula.startswith(r"\[") else "inline")

    content = re.sub(
        r'<(?P<tag>span|div) class="arithmatex">(?P<formula>.*?)</(?P=tag)>', mathml, content, flags=re.DOTALL
    )
    return re.sub(
        r'<a data-line="(\d+)" href="([^"]+)"', r'<a href="\2#__codelineno-0-\1"',
        re.sub(r'<a href="([^"]+)" data-line="(\d+)"', r'<a data-line="\2" href="\1"', content),
    )  # fmt: skip


def on_post_build(config: Any, **_: Any) -> None:
    """Check that the built pages ask no network for anything.

    Raises:
        SystemExit: A page does; the message names file and address.
    """
    for file in sorted(Path(config.site_dir).rglob("*")):
        if file.suffix in (".html", ".css"):
            found = fetched(file.read_text(encoding="utf-8"))
            if found:
                raise SystemExit(f"{file.relative_to(config.site_dir)}: asks a network for {found[0]}")


def fetched(text: str) -> list[str]:
    """The addresses of a network that a browser fetches by itself when it shows this HTML or CSS."""
    named = r"""<(?:script|img|iframe|source|video|audio|embed)\b[^>]*?\bsrc=["']?((?:https?:)?//[^"'\s>]+)"""
    linked = r"""<link\b(?![^>]*\brel=["']?canonical)[^>]*?\bhref=["']?((?:https?:)?//[^"'\s>]+)"""
    return [
        address
        for pattern in (named, linked, r"""(?:url\(|@import )\s*["']?((?:https?:)?//[^"'\s)]+)""")
        for address in re.findall(pattern, text)
    ]
