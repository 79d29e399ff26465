"""Several seeds of one recipe as one row: the numbers, and who belongs together."""

import json
import math
import statistics
from dataclasses import replace

import pytest
from evaluated import write_evaluated

from i2i_bridge.evaluation.results import evaluation_folder, read_evaluation
from i2i_bridge.metrics.base import Estimate
from i2i_bridge.report.entries import open_entries
from i2i_bridge.report.page import write_page
from i2i_bridge.report.seeds import pool, pool_estimates
from i2i_bridge.report.table import table_of


def test_the_interval_spans_the_chance_of_images_and_that_of_seeds():
    # kills: seeds-shrink-the-images, seeds-normal-quantile, seeds-population-variance
    values, half = [20.0, 21.0, 23.0], 0.5
    pooled = pool_estimates([Estimate(v, v - half, v + 2 * half, 0.3) for v in values])
    of_seeds = 4.302653 * statistics.stdev(values) / math.sqrt(3)
    assert pooled.value == pytest.approx(64 / 3)
    assert pooled.value - pooled.low == pytest.approx(math.hypot(0.5, of_seeds), rel=1e-6)
    assert pooled.high - pooled.value == pytest.approx(math.hypot(1.0, of_seeds), rel=1e-6)
    assert pooled.standard_error == pytest.approx(math.sqrt(0.09 + statistics.variance(values) / 3))
    close = pool_estimates([Estimate(v, v - half, v + half) for v in (20.0, 20.0, 20.0 + 1e-9)])
    assert close.high - close.value == pytest.approx(half, rel=1e-6), "more seeds do not make more images"
    assert math.isnan(close.standard_error)


def test_ninety_five_percent_of_the_intervals_hold_the_truth():
    # kills: seeds-shrink-the-images and seeds-normal-quantile, by what an interval is for
    import numpy as np

    rng, hits, trials = np.random.default_rng(0), 0, 4000
    for _ in range(trials):
        images = rng.normal(0, 0.2)  # the same for all seeds
        values = images + rng.normal(0, 0.3, 3)
        pooled = pool_estimates([Estimate(v, v - 1.96 * 0.2, v + 1.96 * 0.2) for v in values])
        hits += pooled.low <= 0 <= pooled.high
    assert 0.945 < hits / trials < 0.995, hits / trials


@pytest.mark.parametrize("seconds", [[1.0, 3.0], [1.0, None, 3.0], [2.0, 2.0, 2.0]])
def test_seconds_of_pooled_runs_are_their_mean(tmp_path, seconds):
    """1.0 and 3.0 seconds per image are 2.0; a run that nobody timed does not count. Counts stay the first run's."""
    # kills: pooled-seconds-summed
    evaluations = []
    for seed, value in enumerate(seconds):
        folder = write_evaluated(tmp_path / str(seed), images=2, nfe=(1,), quality=(0.5,), seed=seed)
        evaluation = read_evaluation(folder)
        rows = [replace(row, seconds_per_image=value) for row in evaluation.rows]
        evaluations.append(replace(evaluation, rows=rows))
    pooled = pool(evaluations)
    assert [row.seconds_per_image for row in pooled.rows] == [2.0, 2.0]
    assert [(row.name, row.nfe, row.images) for row in pooled.rows] == [("input", 0, 2), ("nfe 1", 1, 2)]


def test_notes_of_single_trainings_are_called_so():
    # kills: note-of-the-first-seed
    estimates = [Estimate(1.0, 0.0, 2.0, 0.1, note) for note in ("a", "a", "b")]
    assert pool_estimates(estimates[:2]).note == "a"
    changed = [replace(estimate, value=float(i)) for i, estimate in enumerate(estimates)]
    assert pool_estimates(changed[:2]).note == "a"
    assert pool_estimates(changed).note == "of single trainings: a | b"


def test_what_is_no_number_stays_so():
    same = Estimate(18.0, 17.0, 19.0, 0.2, "a note")
    assert pool_estimates([same, same]) is same, "the degraded input: no training touched it"
    assert pool_estimates([Estimate(math.inf, 30.0, math.inf), Estimate(40.0, 39.0, 41.0)]) == Estimate(math.inf)
    unknown = pool_estimates([Estimate(1.0), Estimate(2.0)])
    assert unknown.value == 1.5 and math.isnan(unknown.low)


def test_runs_of_one_recipe_become_one_row(tmp_path):
    # kills: seeds-of-any-recipe, seeds-counted-twice; a pooled row that stands for one run
    def run(name, **options):
        return write_evaluated(tmp_path / name, images=2, nfe=(1, 5), **options)

    runs = [
        run("a0", quality=(0.5, 0.7)),
        run("b0", quality=(0.2, 0.6), method="palette"),
        run("a1", quality=(0.6, 0.7), seed=1),
        run("a2", quality=(0.7, 0.7), seed=2),
        run("c0", quality=(0.5, 0.7), overrides=["train.lr=2e-3"]),
    ]
    entries = open_entries(runs, "held-out")
    assert [entry.label for entry in entries] == ["bridge, 3 seeds", "palette", "bridge"]
    assert [folder.name for folder in entries[0].seeds] == ["a0", "a1", "a2"] and entries[0].folder == runs[0]
    own = [open_entries([runs[i]], "held-out")[0].evaluation.rows[1].metrics["psnr"].value for i in (0, 2, 3)]
    line = next(line for line in table_of(entries).lines if line.label == "bridge, 3 seeds")
    assert line.cells[0].estimate.value == pytest.approx(sum(own) / 3)
    assert len(open_entries(runs, "held-out", each_seed=True)) == 5
    again = run("a3", quality=(0.5, 0.7), seed=1)
    assert [entry.label for entry in open_entries([*runs, again], "held-out")] == [
        "bridge, 3 seeds",
        "palette",
        "bridge (c0)",
        "bridge (a3)",
    ], "the same seed twice is no second draw"

    text = write_page(entries, tmp_path / "page").read_text()
    assert "bridge, 3 seeds: the mean of a0, a1, a2, which differ in train.seed alone" in text


def test_another_step_stays_apart_and_rows_that_not_all_have_are_left_out(tmp_path):
    # kills: seeds-of-any-step; a mean over fewer seeds than the label says
    runs = [write_evaluated(tmp_path / f"{i}", images=2, nfe=(1, 5), quality=(0.5, 0.6), seed=i) for i in range(2)]
    file = evaluation_folder(runs[1], "held-out") / "evaluation.json"
    stored = json.loads(file.read_text())
    file.write_text(json.dumps(stored | {"step": stored["step"] + 1}))
    assert len(open_entries(runs, "held-out")) == 2
    file.write_text(json.dumps(stored | {"rows": stored["rows"][:-1]}))
    (entry,) = open_entries(runs, "held-out")
    assert [row.name for row in entry.evaluation.rows] == ["input", "nfe 1"]
    for row in stored["rows"]:
        del row["metrics"]["ssim"]
    file.write_text(json.dumps(stored))
    (entry,) = open_entries(runs, "held-out")
    assert [list(row.metrics) for row in entry.evaluation.rows] == [["psnr"]] * 3


def test_moments_of_the_seeds_own_crops_do_not_keep_seeds_apart(tmp_path):
    # kills: seeds-apart-by-moments
    runs = [
        write_evaluated(
            tmp_path / f"{i}", images=2, nfe=(1,), quality=(0.5,), seed=i,
            overrides=["target.name=preconditioned", f"target.var_0=0.2{i}", "target.var_1=0.1", "target.cov_01=0.1"],
        )
        for i in range(2)
    ]  # fmt: skip
    assert len(open_entries(runs, "held-out")) == 1
