"""Differences of the rows of a table on the same images: errors, marks, what is refused, and where they stand."""

import csv
import json
import math
import statistics
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluated import write_evaluated
from PIL import Image
from scipy.stats import t as student

from i2i_bridge.errors import UserError
from i2i_bridge.evaluation.evaluate import evaluate, open_evaluation
from i2i_bridge.evaluation.results import evaluation_folder
from i2i_bridge.images.pixels import to_tensor
from i2i_bridge.methods.factory import build_method
from i2i_bridge.metrics.base import Estimate, Extractor
from i2i_bridge.recipe.load import parse_recipe
from i2i_bridge.registry import register_extractor
from i2i_bridge.report.differences import choose_row, paired_differences
from i2i_bridge.report.entries import open_entries
from i2i_bridge.report.page import write_page
from i2i_bridge.report.seeds import difference_estimate
from i2i_bridge.report.table import Column, mark_difference, table_of
from i2i_bridge.runs.run import Run


@pytest.fixture(autouse=True)
def means_of_channels():
    @register_extractor("means")
    class Means(Extractor):
        dimension = 6

        def __call__(self, images):
            return torch.cat([images.mean((2, 3)), images.std((2, 3))], 1)


class Pointwise(torch.nn.Module):
    """A network that treats every pixel alone."""

    stride = 1

    def __init__(self, gain):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.tensor(gain))

    def forward(self, x_t, t, condition=None):
        return torch.tanh(self.gain * x_t) * (1 + t[:, None, None, None])


def write_values(folder, rows, metric="psnr", protocol="held-out"):
    """Per-image values of a metric, {row: {key: value}}, in this order, and their means in the table."""
    home = evaluation_folder(folder, protocol)
    with (home / "per_image.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["key", "row", "nfe", "seconds", metric])
        writer.writerows([key, row, 1, 0.1, value] for row, values in rows.items() for key, value in values.items())
    stored = json.loads((home / "evaluation.json").read_text())
    stored["rows"] = [row for row in stored["rows"] if row["name"] in rows]
    for row in stored["rows"]:
        values = [value for value in rows[row["name"]].values() if math.isfinite(value)]
        row["metrics"] = {metric: {"value": statistics.fmean(values), "low": 0.0, "high": 100.0}}
        row["images"] = len(rows[row["name"]])
    (home / "evaluation.json").write_text(json.dumps(stored))


def folder_of(place, **options):
    return write_evaluated(place, images=2, nfe=(1,), quality=(0.5,), **options)


def differences_of(folders, against=None, **options):
    entries = open_entries(folders, "held-out", **options)
    return paired_differences(entries, table_of(entries), against)


def test_error_is_that_of_the_differences_of_single_images(tmp_path):
    """Correlated values: s.e.^2 = (var a + var b - 2 cov) / n, far below that of two rows apart; paired by key."""
    # kills: paired-error-unpaired, images-paired-by-position
    rng = np.random.default_rng(0)
    images = rng.normal(25, 3, 40)
    a, b = images + rng.normal(0, 0.3, 40), images + 0.6 + rng.normal(0, 0.3, 40)
    keys = [f"photo {i}" for i in range(40)]
    folders = [folder_of(tmp_path / name, method=name) for name in ("bridge", "palette")]
    write_values(folders[0], {"nfe 1": dict(zip(keys, a, strict=True))})
    order = rng.permutation(40)
    write_values(folders[1], {"nfe 1": {keys[i]: b[i] for i in order}})
    found = differences_of(folders)
    assert found.against == "bridge, NFE 1" and not found.notes
    ((line,), cov) = found.table.lines, np.cov(a, b)
    estimate = line.cells[0].estimate
    assert estimate.value == pytest.approx(b.mean() - a.mean(), rel=1e-9)
    assert estimate.standard_error == pytest.approx(math.sqrt((cov[0, 0] + cov[1, 1] - 2 * cov[0, 1]) / 40), rel=1e-9)
    assert estimate.standard_error < 0.2 * math.sqrt((cov[0, 0] + cov[1, 1]) / 40)
    assert estimate.high - estimate.value == pytest.approx(1.96 * estimate.standard_error)
    other = differences_of(folders, "Palette").table.lines[0].cells[0]
    assert other.estimate.value == pytest.approx(-estimate.value)
    assert (line.cells[0].mark, other.mark) == ("better", "worse")


def test_only_images_that_both_rows_have_take_part(tmp_path):
    """Images that one row lacks, or whose value is infinite, are left out of both, and a note says so."""
    # kills: images-paired-by-position
    folders = [folder_of(tmp_path / name, method=name) for name in ("bridge", "palette")]
    first = {"a": 1.0, "b": 2.0, "c": 4.0, "d": math.inf, "e": 7.0}
    write_values(folders[0], {"nfe 1": first})
    write_values(folders[1], {"nfe 1": {"e": 9.0, "d": 3.0, "c": 4.5, "b": 3.0}})
    found = differences_of(folders)
    estimate = found.table.lines[0].cells[0].estimate
    assert estimate.value == pytest.approx(np.mean([1.0, 0.5, 2.0]))
    assert estimate.standard_error == pytest.approx(statistics.stdev([1.0, 0.5, 2.0]) / math.sqrt(3))
    assert found.notes == ["PSNR (dB), palette, NFE 1: of the 3 of 5 images that have a finite value in both rows."]
    write_values(folders[1], {"nfe 1": {"x": 9.0, "y": 3.0}})
    found = differences_of(folders)
    assert math.isnan(found.table.lines[0].cells[0].estimate.value)
    assert found.notes == ["PSNR (dB): no image has a finite value in both rows."]


def test_values_of_another_evaluation_are_not_used(tmp_path):
    # kills: any-per-image-values
    folders = [folder_of(tmp_path / name, method=name) for name in ("bridge", "palette")]
    for folder in folders:
        write_values(folder, {"nfe 1": {"a": 1.0, "b": 2.0}})
    file = evaluation_folder(folders[1], "held-out") / "per_image.csv"
    file.write_text(file.read_text().replace("2.0", "2.5"))
    assert differences_of(folders).notes == [
        "PSNR (dB): per_image.csv of palette is of another evaluation; evaluate it again."
    ]
    file.unlink()
    assert differences_of(folders).notes == ["PSNR (dB): palette keeps no values of single images."]


@pytest.mark.parametrize(
    ("higher", "value", "mark"),
    [(True, 2.1, "better"), (True, -2.1, "worse"), (False, 2.1, "worse"), (False, -2.1, "better"),
     (None, -2.1, "differs"), (True, 1.99, ""), (False, -1.99, ""), (True, math.nan, "")],
)  # fmt: skip
def test_marks_by_the_metrics_direction_beyond_two_errors(higher, value, mark):
    # kills: mark-against-the-direction, mark-beyond-one-error, mark-within-the-interval
    column = Column("m", "M", higher, 2)
    assert mark_difference(column, Estimate(value, value - 1.96, value + 1.96, 1.0)) == mark
    assert mark_difference(column, Estimate(value, value - 4.3, value + 4.3, 1.0)) == "", "few seeds: a wide interval"
    assert mark_difference(column, Estimate(value)) == ""


def test_seeds_join_the_error_of_images_and_that_of_trainings(tmp_path):
    """Three seeds against two: each image's means over seeds are paired; the seeds' own spread is added, by Welch."""
    # kills: difference-without-seeds, difference-of-the-first-seed, seeds-of-one-row
    rng = np.random.default_rng(1)
    images = rng.normal(25, 3, 30)
    a = [images + shift + rng.normal(0, 0.2, 30) for shift in (0.0, 0.3, 0.1)]
    b = [images + shift + rng.normal(0, 0.2, 30) for shift in (1.0, 1.2)]
    folders = []
    for method, values in (("bridge", a), ("palette", b)):
        for seed, scores in enumerate(values):
            more = [] if method == "bridge" else ["train.lr=2e-3"]
            folder = folder_of(tmp_path / f"{method}-{seed}", method=method, seed=seed, overrides=more)
            write_values(folder, {"nfe 1": {f"photo {i}": value for i, value in enumerate(scores)}})
            folders.append(folder)
    (line,) = differences_of(folders).table.lines
    found, change = line.cells[0].estimate, np.mean(b, 0) - np.mean(a, 0)
    parts = [np.var(np.mean(values, 1), ddof=1) / len(values) for values in (a, b)]
    of_images = change.std(ddof=1) / math.sqrt(30)
    freedom = sum(parts) ** 2 / (parts[0] ** 2 / 2 + parts[1] ** 2 / 1)
    assert found.value == pytest.approx(change.mean()) and line.label.endswith("2 seeds")
    assert found.standard_error == pytest.approx(math.sqrt(of_images**2 + sum(parts)))
    half = math.hypot(1.96 * of_images, student.ppf(0.975, freedom) * math.sqrt(sum(parts)))
    assert found.high - found.value == pytest.approx(half) and found.value - found.low == pytest.approx(half)
    alone = difference_estimate(Estimate(1.0, standard_error=0.2), [3.0], [2.0])
    assert (alone.low, alone.high, alone.standard_error) == pytest.approx((1 - 0.392, 1 + 0.392, 0.2))


def test_the_row_to_compare_with(tmp_path):
    # kills: any-row-of-a-method
    folders = [
        write_evaluated(tmp_path / "a", images=2),
        write_evaluated(tmp_path / "r", method="regression", images=2, nfe=(1,), quality=(0.5,),
                        overrides=["method.name=regression"]),
    ]  # fmt: skip
    entries = open_entries(folders, "held-out")
    table = table_of(entries)
    assert choose_row(entries, table) == 4 and paired_differences(entries, table).against == "regression, NFE 1"
    assert choose_row(entries[:1], table_of(entries[:1])) == 1, "no regression: the first row of a method"
    assert choose_row(entries, table, "degraded input") == 0 and choose_row(entries, table, "Bridge, nfe 20") == 3
    assert choose_row(entries, table, "regression") == 4
    for wanted, said in (("bridge", "several rows"), ("palette", "no row of the table")):
        with pytest.raises(
            UserError, match=f"--against '{wanted}': {said}.*; give one of: degraded input; bridge, NFE"
        ):
            choose_row(entries, table, wanted)


@pytest.fixture
def measured(tmp_path):
    """Two runs scored on 6 of 8 images against all 8: KID of both kinds, FD and PSNR."""
    for split, count in (("train", 2), ("val", 8)):
        (tmp_path / "photos" / split).mkdir(parents=True)
        for i in range(count):
            pixels = np.random.default_rng(i).integers(0, 256, (4, 4, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((16, 16)).save(tmp_path / "photos" / split / f"p{i}.png")
    rules = tmp_path / "mine.toml"
    rules.write_text('name = "mine"\nversion = 1\nsummary = "six"\nn = 6\nfid_reference = "split"\n')
    folders = []
    for name, gain in (("one", 0.4), ("other", 0.9)):
        recipe = parse_recipe(
            {
                "name": "small", "summary": "a small one", "task": "restoration",
                "data": {"root": str(tmp_path / "photos"), "source": {"name": "images"}, "size": 16, "resize": "none"},
                "degradation": {"name": "noise", "std": 0.3},
                "network": {"name": "unet", "channels": 8, "channel_mult": [1], "blocks_per_level": 1},
                "train": {"steps": 1, "batch_size": 2, "workers": 0, "precision": "fp32"},
                "evaluate": {"metrics": ["psnr"]},
            },
            "small",
        )  # fmt: skip
        run = Run(tmp_path / name, recipe, build_method(recipe, Pointwise(gain)), 7, torch.device("cpu"))
        protocol = open_evaluation(recipe, rules).rules
        wanted = ["psnr", "fd-means", "kid-means", "kid-paired-means"]
        evaluate(run, open_evaluation(recipe, protocol).dataset, nfe=[1], metrics=wanted, protocol=protocol)
        (run.folder / "recipe.toml").write_text(recipe.to_toml())
        folders.append(run.folder)
    return folders


def features_of(folder):
    images = [to_tensor(np.asarray(Image.open(file)))[None] for file in sorted(Path(folder).glob("*.png"))]
    return np.concatenate([torch.cat([x.mean((2, 3)), x.std((2, 3))], 1).numpy() for x in images]).astype(np.float64)


def kid(x, y, partners):
    """1000 x KID by its definition, partners not compared with each other."""
    k = lambda a, b: (a @ b / len(a) + 1) ** 3  # noqa: E731
    own = [np.mean([k(a, b) for i, a in enumerate(z) for j, b in enumerate(z) if i != j]) for z in (x, y)]
    cross = np.mean([k(a, b) for i, a in enumerate(x) for j, b in enumerate(y) if partners[i] != j])
    return 1000 * (sum(own) - 2 * cross)


def change_of_kid(first, second, y, items, others):
    """The difference of KID with these items, and these clean images without a restoration."""
    at = [*items, *others]
    return np.subtract(*(kid(x[items], y[at], range(len(items))) for x in (first, second)))


def test_difference_of_kid_is_the_jackknife_over_the_kept_features(measured, tmp_path):
    """From the records of two runs: PNGs, this test's own features, and the difference again without each item."""
    # kills: kid-difference-of-partners-alone
    entries = open_entries(measured, "mine")
    found = paired_differences(entries, table_of(entries))
    (line,) = [line for line in found.table.lines if not line.is_baseline]
    cells = {column.name: cell for column, cell in zip(found.table.columns, line.cells, strict=True)}
    images = [evaluation_folder(folder, "mine") / "images" for folder in measured]
    first, second = features_of(images[1] / "nfe-1"), features_of(images[0] / "nfe-1")
    y = features_of(tmp_path / "photos" / "val")
    items, others = list(range(6)), [6, 7]
    strata = [
        [change_of_kid(first, second, y, [j for j in items if j != i], others) for i in items],
        [change_of_kid(first, second, y, items, [j for j in others if j != i]) for i in others],
    ]
    variance = sum((len(v) - 1) / len(v) * np.square(np.array(v) - np.mean(v)).sum() for v in strata)
    estimate = cells["kid-means"].estimate
    assert estimate.value == pytest.approx(change_of_kid(first, second, y, items, others), rel=1e-4)
    assert estimate.standard_error == pytest.approx(math.sqrt(variance), rel=1e-4)
    shown = [row.cells[2].estimate.value for row in table_of(entries).lines if not row.is_baseline]
    assert estimate.value == pytest.approx(shown[1] - shown[0], rel=1e-6)
    pairs = np.array([change_of_kid(first, second, y, [j for j in items if j != i], []) for i in items])
    error = math.sqrt(5 / 6 * np.square(pairs - pairs.mean()).sum())
    assert cells["kid-paired-means"].estimate.standard_error == pytest.approx(error, rel=1e-4)
    assert math.isnan(cells["fd-means"].estimate.value)
    assert found.notes == ["FD-means: this metric has no paired standard error."]


def test_features_are_paired_by_key_and_only_those_of_this_evaluation_are_used(measured, tmp_path):
    # kills: features-of-any-images
    homes = [evaluation_folder(folder, "mine") for folder in measured]
    table = json.loads((homes[0] / "data.json").read_text())
    gone = sorted(table)[2]
    (homes[0] / "data.json").write_text(json.dumps({key: value for key, value in table.items() if key != gone}))
    entries = open_entries(measured, "mine")
    found = paired_differences(entries, table_of(entries), "degraded input")
    label = found.table.lines[-1].label
    assert f"KID-paired-means x1e3, {label}, NFE 1: of the 5 of 6 images that both rows have." in found.notes
    images = homes[1] / "images"
    kept = [i for i in range(6) if i != 2]
    first, second = features_of(images / "nfe-1"), features_of(images / "input")
    cell = next(line for line in found.table.lines if line.entry == 1).cells[3]
    y = features_of(tmp_path / "photos" / "val")
    assert cell.estimate.value == pytest.approx(change_of_kid(first, second, y, kept, []), rel=1e-4)

    (homes[0] / "data.json").write_text(json.dumps(table))
    evaluation = json.loads((homes[1] / "evaluation.json").read_text())
    (homes[1] / "evaluation.json").write_text(json.dumps(evaluation | {"fingerprint": "0" * 64}))
    entries = open_entries(measured, "mine")
    reason = "the features of other are not kept; evaluate it again."
    assert f"KID-means x1e3: {reason}" in paired_differences(entries, table_of(entries)).notes
    (homes[1] / "inputs.json").unlink()
    entries = open_entries(measured, "mine")
    notes = paired_differences(entries, table_of(entries)).notes
    assert "KID-means x1e3: other was evaluated by an earlier version; evaluate it again." in notes


def test_the_page_its_files_and_its_marks(tmp_path):
    # kills: page-without-differences
    folders = [folder_of(tmp_path / name, method=name) for name in ("bridge", "palette")]
    for folder, shift in zip(folders, (0.0, 1.5), strict=True):
        values = {"a": 20.0, "b": 25.0, "c": 22.0 + shift / 5}
        write_values(folder, {"nfe 1": {key: value + shift for key, value in values.items()}})
    entries = open_entries(folders, "held-out")
    found = paired_differences(entries, table_of(entries))
    page = write_page(entries, tmp_path / "page", paired=found)
    text = page.read_text(encoding="utf-8")
    assert "Difference to bridge, NFE 1" in text and "+1.600" in text and "± 0.100 better" in text
    markdown = (page.parent / "table.md").read_text(encoding="utf-8")
    assert "| palette | 1 | **+1.600** <sub>± 0.100 better</sub> |" in markdown
    rows = list(csv.DictReader((page.parent / "differences.csv").open()))
    assert len(rows) == 1 and float(rows[0]["psnr"]) == pytest.approx(1.6)
    assert float(rows[0]["psnr_standard_error"]) == pytest.approx(0.1)
    alone = write_page(entries, tmp_path / "page")
    assert "Difference to" not in alone.read_text(encoding="utf-8")
