"""Page of a report or comparison: its contents from entries, and its files."""

import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from i2i_bridge import __version__
from i2i_bridge.data.dataset import PairDataset
from i2i_bridge.errors import UserError, brief, plural
from i2i_bridge.evaluation.results import Evaluation, calls_in_name
from i2i_bridge.images.files import write_picture
from i2i_bridge.images.montage import montage
from i2i_bridge.images.pixels import Picture
from i2i_bridge.methods.mean import network_calls
from i2i_bridge.report.differences import Differences
from i2i_bridge.report.entries import Entry, open_entries
from i2i_bridge.report.figures import quality_panels, training_curves
from i2i_bridge.report.folder import GENERATOR, check_out, fresh_folder
from i2i_bridge.report.formats import render, to_csv, to_latex, to_markdown
from i2i_bridge.report.gallery import INSIDE, gallery, glance
from i2i_bridge.report.notes import setting_differences, skipped_of, unavailable, warnings_of
from i2i_bridge.report.pictures import PagePicture, Pictures, safe_name
from i2i_bridge.report.samples import draw
from i2i_bridge.report.table import table_of
from i2i_bridge.runs.run import Run
from i2i_bridge.storage.files import real_folder, refuse_links, write_whole

if TYPE_CHECKING:
    from i2i_bridge.recipe.recipe import Recipe

PROTOCOL_MEANING = (
    "Name, version, and the first 12 digits of the SHA-256 of all rules of the evaluation. "
    "Numbers with another hash were measured by other rules and are not comparable. In full: {}"
)
"""Tooltip of the protocol's hash at the head of a page."""
DATA_MEANING = (
    "The first 12 digits of the SHA-256 of the pixels of all scored pairs. "
    "Numbers with another hash are of other images. In full: {}"
)
"""Tooltip of the data's hash."""


def write_page(
    entries: Sequence[Entry],
    out: Path,
    *,
    single_file: bool = False,
    title: str = "",
    paired: Differences | None = None,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """Write OUT/index.html, its pictures, comparison.png, trajectory.png, table.csv, table.md and table.tex.

    With `paired` also differences.csv.

    Args:
        entries: One entry for a report, several for a comparison. Their runs are opened one at a time.
        out: The page's folder, or the .html file of a single-file page. An older page stays until the new one is
            complete, and is then replaced.
        single_file: Embed everything into one HTML file.
        paired: Paired differences, for a second table.
        title: Heading; default: the name of the dataset, or of the recipe for a single entry.
        report: Called with (entries drawn, entries in all).

    Raises:
        UserError: `out` exists and is not a page, or cannot be written.
    """
    check_out(out, single_file)
    out = real_folder(out)  # `out` itself may be a link, to another disk for example
    if out.suffix == ".html":
        html = page_html(entries, Pictures(out.parent, True), title=title, paired=paired, report=report)
        write_whole(out, html.encode())
        return out
    with fresh_folder(out) as fresh:
        html = page_html(entries, Pictures(fresh, single_file), title=title, paired=paired, report=report)
        (fresh / "index.html").write_text(html, encoding="utf-8")
    return out / "index.html"


def page_html(
    entries: Sequence[Entry],
    pictures: Pictures,
    *,
    title: str,
    paired: Differences | None,
    report: Callable[[int, int], None],
) -> str:
    """The HTML of a page; its pictures are written through `pictures`."""
    if paired is not None and not paired.table.lines:
        paired = None
    first, table = entries[0].evaluation, table_of(entries)
    recipe = next((entry.recipe for entry in entries if entry.recipe is not None), None)
    images = max((line.images for line in table.lines), default=0)
    caption = f"{first.recipe}, {plural(images, 'image')}, protocol {first.protocol.id}, data {first.data.digest[:12]}."
    templates = files("i2i_bridge.report") / "templates"
    page: dict[str, Any] = {
        "title": title or (first.recipe if len(entries) == 1 else _data_name(recipe) or first.recipe),
        "kicker": "Report" if len(entries) == 1 else f"Comparison of {len(entries)} methods",
        "summary": _data_summary(recipe, first, images),
        "labels": [entry.label for entry in entries],
        "facts": [
            ("Task", "–" if recipe is None else recipe.task, ""),
            ("Images", str(images), ""),
            ("Protocol", first.protocol.id, PROTOCOL_MEANING.format(first.protocol.hash)),
            ("Data", first.data.digest[:12], DATA_MEANING.format(first.data.digest)),
            ("Seed", str(first.seed), ""),
            *_best_step(entries),
        ],
        "table": table,
        "csv": pictures.text("table.csv", to_csv(table), "text/csv"),
        "markdown": pictures.text("table.md", to_markdown(table, paired), "text/markdown"),
        "tex": pictures.text("table.tex", to_latex(table, caption), "application/x-tex"),
        "paired": paired,
        "paired_csv": paired and pictures.text("differences.csv", to_csv(paired.table), "text/csv"),
        "protocol": [("hash", first.protocol.hash), *((key, str(v)) for key, v in first.protocol.settings.items())],
        "skipped": skipped_of(entries),
        "unavailable": unavailable(entries),
        "reference": _reference(recipe),
        "panels": quality_panels(table),
        "gallery": gallery(entries, table, pictures),
        "curves": training_curves({i: entry.measurements[0].losses for i, entry in enumerate(entries)}),
        "differences": setting_differences(entries),
        "settings": [
            (entry.label, _step_note(entry), entry.recipe.without_places().to_toml())
            for entry in entries
            if entry.recipe is not None
        ],
        "environment": environment_facts(),
        "generator": GENERATOR,
        "css": (templates / "compare.css").read_text(encoding="utf-8"),
        "js": (templates / "compare.js").read_text(encoding="utf-8"),
    }
    page["glance"], tensors, words = glance(entries, pictures)
    if tensors and not pictures.inside:
        write_picture(pictures.folder / "comparison.png", Picture(montage(tensors, words)))
    page["gallery_note"] = f"Saved: {len(page['gallery'].get('images', ()))} of {plural(images, 'image')}" + (
        f"; a single file holds {INSIDE} at most, the worst of each row among them." if pictures.inside else "."
    )
    page["seeds_note"] = " ".join(
        f"{entry.label}: the mean of {', '.join(folder.name for folder in entry.seeds)}, which differ in train.seed "
        f"alone; the intervals span both images and seeds, the pictures and curves are those of {entry.folder.name}."
        for entry in entries
        if entry.seeds
    )
    page |= {"walks": [], "samples": [], "strips": [], "warnings": warnings_of(entries)}
    for i, entry in enumerate(entries):
        try:
            opened = None if entry.open_run is None else entry.open_run()
        except UserError as error:
            opened = None
            page["warnings"].append(f"{entry.label}: no walks and samples are drawn: {error}")
        if opened is not None:
            _add_drawn(page, i, entry, *opened, pictures)
        report(i + 1, len(entries))
    return render("compare.html", page=page)


def _add_drawn(page: dict[str, Any], i: int, entry: Entry, run: Run, dataset: PairDataset, pictures: Pictures) -> None:
    """Draw walks, samples and strips by a run, and add them to the page."""
    drawn = draw(run, dataset, calls=[calls_in_name(row.name) for row in entry.rows])

    def calls(nfe: int) -> str:
        count = network_calls(run.method, nfe)  # calls of a mean network count towards each label
        return plural(count, "network call")

    def rows(what: str, images: Sequence[Sequence[torch.Tensor]], words: Sequence[str] = ()) -> list[list[PagePicture]]:
        return [
            [
                pictures.tensor(safe_name("images", f"{i}-{what}", f"{r}-{c}.png"), image, words[c] if words else "")
                for c, image in enumerate(row)
            ]
            for r, row in enumerate(images)
        ]

    def add(kind: str, note: str, **groups: Any) -> None:
        page[kind].append({"entry": i, "label": entry.label, "note": note, **groups})

    if drawn.walk:
        add("walks", calls(drawn.nfe), rows=rows("walk", drawn.walk, drawn.words))
        if not pictures.inside and not (pictures.folder / "trajectory.png").exists():
            write_picture(pictures.folder / "trajectory.png", Picture(montage(drawn.walk, drawn.words)))
    found = drawn.samples
    if found is not None and found.largest:
        words = ["degraded", *(f"seed {seed}" for seed in range(len(found.restored))), "spread", "clean"]
        note = f"{calls(drawn.nfe_of_samples)}; spread at most {found.largest:.1f} of 255"
        add("samples", note, rows=rows("samples", [[found.x_1, *found.restored, found.spread, found.x_0]], words))
    elif found is not None:
        add("samples", f"{calls(drawn.nfe_of_samples)}; every seed gives the same image", rows=[])
    add(
        "strips",
        calls(drawn.nfe_of_strips),
        trained_on=rows("trained-on", drawn.trained_on),
        held_out=rows("held-out", drawn.held_out),
        overlap=drawn.overlap,
    )


def _best_step(entries: Sequence[Entry]) -> list[tuple[str, str, str]]:
    """The fact at the head of a report on the best step of train.keep_best, with its number as the tooltip."""
    best = entries[0].measurements[0].best
    if len(entries) > 1 or best is None:
        return []
    return [("Best step", str(best.step), f"{brief(best.rule)}: {best.value:.5g}")]


def _step_note(entry: Entry) -> str:
    """The evaluated step, the folder, and the best step of train.keep_best if one was measured."""
    note, best = f"step {entry.evaluation.step}, {entry.folder.name}", entry.measurements[0].best
    return note if best is None else f"{note}; best step {best.step}, {brief(best.rule)}: {best.value:.5g}"


def _data_name(recipe: "Recipe | None") -> str:
    """Name of the dataset: its card, else its folder, else its kind."""
    if recipe is None:
        return ""
    source = recipe.without_places().data
    return str(source.card or source.root or source.source.get("root") or source.source.get("name", ""))


def _data_summary(recipe: "Recipe | None", evaluation: Evaluation, images: int) -> str:
    """One sentence about the images: number, dataset, size and degradation."""
    settings, name = evaluation.protocol.settings, _data_name(recipe)
    size, split, degradation = settings.get("size"), settings.get("split"), settings.get("degradation")
    found = plural(images, "image")
    if split:
        found += f" of the split '{split}'"
    if name:
        found += f" of {name}"
    if isinstance(size, list | tuple) and len(size) == 2:
        found += f", {size[1]} x {size[0]} pixels"
    if isinstance(degradation, dict) and "name" in degradation:
        options = [f"{key} {value}" for key, value in degradation.items() if isinstance(value, int | float | str)]
        shown = [option for option in options if not option.startswith("name ")][:3]
        in_brackets = f" ({', '.join(shown)})" if shown else ""
        found += f"; degraded by {degradation['name']}{in_brackets}"
    elif "degradation" in settings:
        found += "; pairs"
    return f"{found}."


def _reference(recipe: "Recipe | None") -> dict[str, Any] | None:
    if recipe is None or recipe.reference is None:
        return None
    table: dict[str, Any] = recipe.reference.model_dump()
    return table | {"columns": list(dict.fromkeys(key for row in table["rows"] for key in row))}


def environment_facts() -> dict[str, str]:
    """Versions and machine with which the page was made."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    return {
        "i2i-bridge": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
        "device": f"{device}, {torch.get_num_threads()} threads",
    }


def write_report(run: Run, dataset: PairDataset, protocol: str = "held-out") -> Path:
    """Write `report/index.html` and its pictures from an evaluated run; see `write_page`.

    Args:
        run: An evaluated run.
        dataset: Its validation pairs, for the walks and samples.
        protocol: Protocol of the evaluation to report.

    Returns:
        The page.

    Raises:
        UserError: The run is not evaluated under the protocol, or its folder cannot be written.
    """
    refuse_links(run.folder, ["report"])
    if not os.access(run.folder, os.W_OK):
        raise UserError(f"{run.folder}: cannot be written; elsewhere: i2i-bridge compare {run.folder} --out DIR")
    (entry,) = open_entries([run.folder], protocol, opener=lambda folder, step: (run, dataset))
    warnings = [*entry.evaluation.warnings, *(line for line in run.warnings if line not in entry.evaluation.warnings)]
    if entry.evaluation.step != run.step:
        warnings.append(
            f"the numbers are of step {entry.evaluation.step}, the walks and samples of step {run.step}; evaluate again"
        )
    tuned = {row.name: run.tuned_line(calls_in_name(row.name)) for row in entry.evaluation.rows_of_method()}
    if {name: line for name, line in tuned.items() if line is not None} != entry.evaluation.tuned:
        warnings.append("the numbers are of other sampling (tuned.toml) than the walks and samples; evaluate again")
    entry = replace(entry, evaluation=replace(entry.evaluation, warnings=warnings))
    return write_page([entry], run.folder / "report")
