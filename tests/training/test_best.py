"""The best checkpoint by a metric, and early stopping: train.keep_best, validate_every, patience."""

import json
import math
import shutil

import pytest
from faults import Full, disk
from killing import digest, photos, recipe_of

from i2i_bridge.cli.command import main
from i2i_bridge.errors import UserError
from i2i_bridge.evaluation.evaluate import evaluate
from i2i_bridge.metrics.base import Metric
from i2i_bridge.registry import METRICS, register_metric
from i2i_bridge.report.comparison import compare
from i2i_bridge.report.page import write_report
from i2i_bridge.runs.checkpoint import latest_checkpoint
from i2i_bridge.runs.load import load_run
from i2i_bridge.training.log import read_metrics
from i2i_bridge.training.trainer import train


class Lottery(Metric):
    """A number that follows from the bits of the restored image and from nothing else: any step may be the best."""

    label = "lottery"
    higher_is_better = True

    def __call__(self, restored, clean):
        return (restored.double().abs().sum((1, 2, 3)) * 997) % 1


class Listed(Metric):
    """The numbers of a list, one for each image."""

    label = "listed"
    higher_is_better = True
    numbers = iter(())

    def __call__(self, restored, clean):
        return restored.new_tensor([next(self.numbers)])


@pytest.fixture(scope="module", autouse=True)
def metrics():
    """Metrics of this module's tests alone: otherwise the lists of members that other tests see would have them."""
    register_metric("test-lottery")(Lottery)
    register_metric("test-listed")(Listed)
    yield
    del METRICS._members["test-lottery"], METRICS._members["test-listed"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return photos(tmp_path_factory.mktemp("pairs"))


SETTINGS = {"steps": 10, "keep": 1, "save_every": 3, "log_every": 4, "validate_every": 1, "keep_best": "test-lottery"}


@pytest.fixture(scope="module")
def whole(root, tmp_path_factory):
    """A run that was never stopped, with a measurement at each step."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    train(recipe_of(root, **SETTINGS), folder, cpu=True)
    return folder


def measured(folder, name="test-lottery"):
    rows = {row["step"]: row[f"validation_{name}"] for row in read_metrics(folder)}
    return {step: value for step, value in rows.items() if value is not None}


def steps_kept(folder):
    return [int(path.name.removeprefix("step-")) for path in sorted((folder / "checkpoints").glob("step-*"))]


def test_the_best_checkpoint_is_kept_and_named(whole):
    """Beside the newest, which alone train.keep keeps. kills: best-is-pruned, best-is-the-worst"""
    values = measured(whole)
    assert sorted(values) == list(range(1, 11))
    best = max(values, key=values.get)
    assert steps_kept(whole) == sorted({best, 10})
    named = json.loads((whole / "best.json").read_text())
    assert (named["step"], named["value"]) == (best, values[best]) and named["checkpoint"] == f"step-{best:08d}"
    assert named["metric"] == "test-lottery of 3 validation images at 1 network calls"
    assert load_run(whole, checkpoint="best").step == best and load_run(whole).step == 10


def test_a_stopped_run_has_the_same_best(root, whole, tmp_path):
    """kills: best-forgotten-on-resume"""
    for step in (1, 4, 7):
        stops = iter([False] * (step - 1) + [True])
        train(recipe_of(root, **SETTINGS), tmp_path / "run", cpu=True, stop=lambda: next(stops))  # noqa: B023
        (tmp_path / "run" / "best.json").unlink()  # as if killed before it was written
        train(recipe_of(root, **SETTINGS), tmp_path / "run", cpu=True)
        assert measured(tmp_path / "run") == measured(whole)
        assert digest(tmp_path / "run") == digest(whole) and steps_kept(tmp_path / "run") == steps_kept(whole)
        assert (tmp_path / "run" / "best.json").read_bytes() == (whole / "best.json").read_bytes()
        newest = [latest_checkpoint(folder / "checkpoints")[0].state["best"] for folder in (whole, tmp_path / "run")]
        assert newest[0] == newest[1]
        shutil.rmtree(tmp_path / "run")


def test_the_number_is_that_of_evaluate(root, tmp_path):
    """PSNR of the moving average, as `evaluate` measures it. kills: best-of-the-raw-weights"""
    recipe = recipe_of(root, **SETTINGS | {"steps": 2, "validate_every": 2, "keep_best": "psnr"})
    train(recipe, tmp_path / "run", cpu=True)
    evaluation = evaluate(load_run(tmp_path / "run", checkpoint="best"))
    row = next(row for row in evaluation.rows if row.name == "nfe 1")
    assert math.isclose(measured(tmp_path / "run", "psnr")[2], row.metrics["psnr"].value, rel_tol=1e-9)


def test_the_page_names_the_best_step(root, tmp_path):
    """kills: page-forgets-the-best"""
    recipe = recipe_of(root, **SETTINGS | {"steps": 3, "keep": 9, "keep_best": "psnr"})
    train(recipe, tmp_path / "run", cpu=True)
    values = measured(tmp_path / "run", "psnr")
    best = max(values, key=values.get)
    run = load_run(tmp_path / "run")
    evaluate(run)
    rule = f"psnr of 3 validation images at 1 network calls: {values[best]:.5g}"
    page = write_report(run, recipe.build_dataset("validation")).read_text()
    assert f'<dt>Best step</dt><dd title="{rule}">{best}</dd>' in page and f"best step {best}, {rule}" in page
    for text in ("[1]", "{", '{"step": 2}'):
        (tmp_path / "run" / "best.json").write_text(text)
        page = write_report(run, recipe.build_dataset("validation")).read_text()
        assert "Best step" not in page and "best step" not in page


def test_patience_ends_the_training(root, whole, tmp_path):
    """After so many measurements without a better one; more patience goes on, and ends as the run without it.

    kills: patience-is-endless
    """
    values, best, since, ends = measured(whole), -math.inf, 0, None
    for step, value in values.items():
        best, since = (value, 0) if value > best else (best, since + 1)
        if since == 2:
            ends = step
            break
    if ends is None or ends == 10:
        pytest.skip("ten numbers that rise almost always")
    lines = []
    for _ in range(2):  # the same command again does nothing more
        result = train(recipe_of(root, patience=2, **SETTINGS), tmp_path / "run", cpu=True, report=lines.append)
        assert result.finished and result.step == ends
        assert "stopped early: 2 validations without a better one; best step " in lines[-1]
    train(recipe_of(root, patience=100, **SETTINGS), tmp_path / "run", cpu=True)
    assert digest(tmp_path / "run") == digest(whole) and steps_kept(tmp_path / "run") == steps_kept(whole)


def test_another_rule_begins_anew(root, whole, tmp_path):
    """kills: best-of-another-rule"""
    shutil.copytree(whole, tmp_path / "run")
    lines = []
    other = recipe_of(root, **SETTINGS | {"keep_best": "psnr", "steps": 11, "keep": 2})
    train(other, tmp_path / "run", cpu=True, report=lambda event: lines.append(str(event)))
    assert any("train.keep_best begins anew" in line for line in lines)
    assert (
        load_run(tmp_path / "run", checkpoint="best").step
        == 11
        == json.loads((tmp_path / "run" / "best.json").read_text())["step"]
    )


def test_a_run_without_a_best_checkpoint_is_refused_before_others_are_evaluated(root, whole, tmp_path):
    # kills: compare-evaluates-before-it-refuses
    shutil.copytree(whole, tmp_path / "first")
    train(recipe_of(root, steps=1), tmp_path / "second", cpu=True)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=r"second.*: no best checkpoint is kept"):
        compare([tmp_path / "first", tmp_path / "second"], tmp_path / "page", checkpoint="best")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(("higher", "numbers", "best"), [(True, [1, 5, 5, 2], 2), (False, [3, 2, 4, 2], 2)])
def test_the_first_of_equals_is_the_best_whichever_end_is_better(root, tmp_path, monkeypatch, higher, numbers, best):
    """A metric that stays where it is runs out of patience; a distance is better where it is smaller.

    kills: best-of-equals-is-the-later, smallest-distance-is-the-worst
    """
    monkeypatch.setattr(Listed, "numbers", iter(numbers))
    monkeypatch.setattr(Listed, "higher_is_better", higher)
    settings = SETTINGS | {"steps": 4, "save_every": 9, "keep_best": "test-listed", "validate_images": 1}
    assert train(recipe_of(root, patience=2, **settings), tmp_path / "run", cpu=True).step == 4
    assert json.loads((tmp_path / "run" / "best.json").read_text())["step"] == best


@pytest.mark.parametrize(("numbers", "best"), [([1, 5, 9, 2, 3, 4], 2), ([1, 5, 9, 2, 7, 3], 5)])
def test_a_better_step_that_could_not_be_saved_costs_no_older_one(root, tmp_path, monkeypatch, numbers, best):
    """The disk is full at step 3, the best of all; a later step is compared with the best that was saved.

    kills: unsaved-best-is-compared
    """
    monkeypatch.setattr(Listed, "numbers", iter(numbers))
    settings = SETTINGS | {"steps": 6, "save_every": 1, "keep_best": "test-listed", "validate_images": 1}
    lines = []
    with disk(Full({3})):
        train(recipe_of(root, **settings), tmp_path / "run", cpu=True, report=lambda event: lines.append(str(event)))
    assert steps_kept(tmp_path / "run") == [best, 6] and lines[-1].startswith(f"best step {best}: ")
    assert json.loads((tmp_path / "run" / "best.json").read_text())["step"] == best
    assert load_run(tmp_path / "run", checkpoint="best").step == best


def test_a_save_between_measurements_keeps_the_best_that_was_saved(root, tmp_path, monkeypatch):
    """kills: unsaved-best-is-kept"""
    monkeypatch.setattr(Listed, "numbers", iter([5, 9]))
    settings = SETTINGS | {"save_every": 1, "keep_best": "test-listed", "validate_images": 1, "validate_every": 2}
    stops = iter([False] * 4 + [True])
    with disk(Full({4})):
        train(recipe_of(root, **settings), tmp_path / "run", cpu=True, stop=lambda: next(stops))
    assert steps_kept(tmp_path / "run") == [2, 5] and load_run(tmp_path / "run", checkpoint="best").step == 2


def test_the_best_of_an_earlier_rule_is_kept_until_there_is_a_new_one(root, whole, tmp_path):
    """Also where train.keep_best is left out. kills: best-of-an-earlier-rule-is-lost"""
    shutil.copytree(whole, tmp_path / "run")
    best, without = load_run(whole, checkpoint="best").step, {k: v for k, v in SETTINGS.items() if k != "keep_best"}
    rule = {"validate_images": 2, "validate_every": 100}
    for settings, step in ((SETTINGS | rule, 11), (without, 12)):
        recipe = recipe_of(root, **settings | {"steps": 14})
        train(recipe, tmp_path / "run", cpu=True, stop=lambda: True)
        assert steps_kept(tmp_path / "run") == [best, step]
        assert (tmp_path / "run" / "best.json").read_bytes() == (whole / "best.json").read_bytes()
        assert load_run(tmp_path / "run", checkpoint="best").step == best
    train(recipe_of(root, **SETTINGS | rule | {"steps": 13}), tmp_path / "run", cpu=True)
    assert steps_kept(tmp_path / "run") == [13] and load_run(tmp_path / "run", checkpoint="best").step == 13


def test_a_name_of_the_best_that_cannot_be_written_stops_nothing(root, tmp_path):
    """Here a folder of its name is in the way. The next start writes it."""
    # kills: folder-in-the-way-of-a-run
    named, lines = tmp_path / "run" / "best.json", []
    named.mkdir(parents=True)
    recipe = recipe_of(root, **SETTINGS | {"steps": 2})
    assert train(recipe, tmp_path / "run", cpu=True, report=lines.append).finished
    notes = [line for line in lines if isinstance(line, str) and "the next start writes it" in line]
    assert notes and all(str(named) in line for line in notes)
    named.rmdir()
    train(recipe, tmp_path / "run", cpu=True)
    assert json.loads(named.read_text())["step"] == latest_checkpoint(tmp_path / "run" / "checkpoints")[0].best_step


def test_the_verbs_take_the_best(root, whole, tmp_path, capsys):
    photo = next((root / "clean" / "val").iterdir())
    step = load_run(whole, checkpoint="best").step
    for which in ("best", str(step)):
        with pytest.raises(SystemExit) as ended:
            main(["restore", str(whole), str(photo), str(tmp_path / f"{which}.png"), "--checkpoint", which])
        assert ended.value.code == 0, capsys.readouterr()
    assert (tmp_path / "best.png").read_bytes() == (tmp_path / f"{step}.png").read_bytes()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"keep_best": "fid"}, "train.keep_best: 'fid' needs a set of images"),
        ({"keep_best": "psnrr"}, "train.keep_best: .*psnr"),
        ({"patience": 3}, "train.patience needs train.keep_best"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_the_folder_is_made(root, tmp_path, settings, says):
    with pytest.raises(UserError, match=says):
        train(recipe_of(root, **settings), tmp_path / "run", cpu=True)
    assert not (tmp_path / "run").exists()
