"""Trackers get what metrics.jsonl gets, once, and can neither change nor end a training."""

import json
import os
import sys
import types

import numpy as np
import pytest
from killing import digest, photos, recipe_of

from i2i_bridge.errors import UserError
from i2i_bridge.storage import internet
from i2i_bridge.training.log import read_metrics
from i2i_bridge.training.trackers import TRACKERS_FILE, Trackers
from i2i_bridge.training.trainer import train

FAKE = """
import json, os
class Image:
    def __init__(self, pixels):
        self.shape = list(pixels.shape)
class Run:
    def log(self, values, step):
        if os.environ.get("FAKE_FAILS") == str(step):
            raise ConnectionError("no route\\nto host")
        values = {name: value if isinstance(value, float) else "image" for name, value in values.items()}
        say({"step": step} | values)
    def finish(self):
        say({"finish": True})
def say(event):
    with open(os.environ["FAKE_LOG"], "a") as stream:
        stream.write(json.dumps(event) + "\\n")
def init(**given):
    kept = {name: given[name] for name in ("project", "id", "resume", "mode")}
    say({"init": kept, "recipe": given["config"]["name"]})
    return Run()
"""


MLFLOW = """
import os
from types import SimpleNamespace
uris = []
def set_tracking_uri(uri):
    uris.append(uri)
    os.environ["MLFLOW_TRACKING_URI"] = uri  # as the real one does
def search_experiments(filter_string):
    return []
def create_experiment(**given):
    return "1"
def start_run(**given):
    return SimpleNamespace(info=SimpleNamespace(run_id="a1"))
def end_run():
    pass
utils = SimpleNamespace(validation=SimpleNamespace(MAX_PARAM_VAL_LENGTH=500, MAX_PARAMS_TAGS_PER_BATCH=100))
parameters = []
def log_params(values):
    parameters.append(values)
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return photos(tmp_path_factory.mktemp("pairs"))


@pytest.fixture
def wandb(tmp_path, monkeypatch):
    """A package wandb that writes down what it is told; returns a function that reads and clears that."""
    (tmp_path / "site" / "wandb").mkdir(parents=True)
    (tmp_path / "site" / "wandb" / "__init__.py").write_text(FAKE)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    log = tmp_path / "log"
    monkeypatch.setenv("FAKE_LOG", str(log))
    pytest.importorskip("accelerate.tracking").LOGGER_TYPE_TO_CLASS["wandb"]

    def told():
        events = [json.loads(line) for line in log.read_text().splitlines()]
        log.unlink()
        return events

    yield told
    sys.modules.pop("wandb", None)


def stop_after(steps):
    """A `stop` that ends a training after so many steps of this call."""
    left = iter([False] * (steps - 1))
    return lambda: next(left, True)


def test_tensorboard_holds_what_the_files_hold_once(root, tmp_path):
    """An event file read back, of a run that was stopped after two steps and killed back to an earlier checkpoint."""
    # kills: tracker-not-purged
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    settings = {"sample_every": 3, "save_every": 2, "steps": 6}
    settings |= {"keep_best": "psnr", "validate_every": 3, "validate_images": 1}
    recipe = recipe_of(root, method="pix2pix", track=["tensorboard"], **settings)
    folder = tmp_path / "run"
    train(recipe, folder, cpu=True, stop=stop_after(5))
    for checkpoint in sorted((folder / "checkpoints").glob("step-*"))[1:]:  # the last saves are lost
        for file in checkpoint.iterdir():
            file.unlink()
        checkpoint.rmdir()
    train(recipe, folder, cpu=True)
    events = accumulator.EventAccumulator(str(folder / "tensorboard"), size_guidance={"images": 0})
    events.Reload()
    rows = read_metrics(folder)
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    names = set(rows[0]) - {"step", "steps", "seconds_left", "validation_psnr"}
    assert set(events.Tags()["scalars"]) == names | {"validation_psnr"} and {"loss", "lr", "grad_norm"} < names
    assert any(name.startswith("loss_") for name in names), "the discriminator's"
    for name in names:
        scalars = events.Scalars(name)
        assert [scalar.step for scalar in scalars] == [1, 2, 3, 4, 5, 6]
        np.testing.assert_allclose([scalar.value for scalar in scalars], [row[name] for row in rows], rtol=1e-6)
    measured = [(row["step"], pytest.approx(row["validation_psnr"])) for row in rows if row.get("validation_psnr")]
    assert [(scalar.step, scalar.value) for scalar in events.Scalars("validation_psnr")] == measured
    assert [step for step, _ in measured] == [3, 6]
    assert [picture.step for picture in events.Images("samples")] == [3, 6]
    train(recipe_of(root, method="pix2pix", **settings), tmp_path / "without", cpu=True)
    assert digest(folder) == digest(tmp_path / "without"), "a tracker changes no bit"


def test_a_resumed_training_continues_the_run_and_sends_no_step_twice(root, tmp_path, wandb, monkeypatch):
    # kills: tracker-written-twice, tracker-starts-a-new-run, tracker-goes-online
    recipe = recipe_of(root, track=["wandb"], save_every=2, sample_every=3)
    train(recipe, tmp_path / "run", cpu=True, stop=stop_after(3))
    first = wandb()
    assert first[0]["recipe"] == "tiny" and first[0]["init"]["mode"] == "offline", "no network unless it is asked for"
    assert [event["step"] for event in first[1:-1]] == [1, 2, 3, 3] and first[-1] == {"finish": True}
    assert first[4] == {"step": 3, "samples": "image"}
    rows = read_metrics(tmp_path / "run")
    assert first[1]["loss"] == rows[0]["loss"] and "seconds_left" not in first[1]
    last = max((tmp_path / "run" / "checkpoints").iterdir())
    for file in last.iterdir():
        file.unlink()
    last.rmdir()
    monkeypatch.setenv("WANDB_MODE", "online")
    train(recipe, tmp_path / "run", cpu=True, stop=stop_after(2))  # from step 2
    again = wandb()
    assert again[0]["init"] == first[0]["init"] | {"mode": "online"}
    assert [event["step"] for event in again[1:-1]] == [4]
    monkeypatch.setenv(internet.VARIABLE, "1")
    (tmp_path / "run" / TRACKERS_FILE).write_text('{"wandb": {"run": "../x", "step": 1}}')
    train(recipe, tmp_path / "run", cpu=True)
    other = wandb()
    assert other[0]["init"]["id"] not in ("../x", first[0]["init"]["id"]), "an identifier out of a file is checked"
    assert other[0]["init"]["mode"] == "offline", "--offline overrides WANDB_MODE"


def test_a_tracker_that_fails_ends_nothing_but_itself(root, tmp_path, wandb, monkeypatch):
    # kills: tracker-ends-the-training
    monkeypatch.setenv("FAKE_FAILS", "3")
    lines = []
    trained = train(recipe_of(root, track=["wandb"]), tmp_path / "run", cpu=True, report=lines.append)
    assert trained.finished and len(read_metrics(tmp_path / "run")) == 6
    notes = [line for line in lines if "wandb" in str(line)]
    assert notes == [
        "note: tracker wandb failed and gets nothing more (ConnectionError: no route to host); training continues"
    ]
    assert [event["step"] for event in wandb()[1:]] == [1, 2]


def test_trackers_whose_record_cannot_be_written_go_on(root, tmp_path, wandb):
    (tmp_path / "run" / TRACKERS_FILE).mkdir(parents=True)
    lines = []
    recipe = recipe_of(root, track=["wandb"], steps=2)
    assert train(recipe, tmp_path / "run", cpu=True, report=lambda event: lines.append(str(event))).finished
    assert {event["step"] for event in wandb()[1:-1]} == {1, 2}
    note = f"{TRACKERS_FILE}: cannot be written (Is a directory); training continues"
    assert [note in line for line in lines].count(True) == 1


@pytest.fixture
def mlflow(monkeypatch):
    pytest.importorskip("accelerate.tracking")
    module = types.ModuleType("mlflow")
    exec(MLFLOW, module.__dict__)
    monkeypatch.setitem(sys.modules, "mlflow", module)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    del os.environ["MLFLOW_TRACKING_URI"]
    return module


def test_each_run_has_its_own_mlflow_store_unless_the_user_names_one(tmp_path, mlflow, monkeypatch):
    """Two runs of one process. MLflow puts the store into the environment, where the second run would find it."""
    notes = []

    def start(name):
        steps = {"after_step": 0, "logged": 0}
        Trackers(["mlflow"], tmp_path / name, {"name": name}, **steps, report=notes.append).finish()

    start("first")
    start("second")
    assert mlflow.uris == [f"sqlite:///{tmp_path / name / 'mlflow.db'}" for name in ("first", "second")]
    assert "MLFLOW_TRACKING_URI" not in os.environ
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://store")
    start("third")
    assert mlflow.uris[2] == os.environ["MLFLOW_TRACKING_URI"] == "http://store" and notes == []


def test_mlflow_gets_the_settings_by_dotted_key_once(tmp_path, mlflow):
    # kills: mlflow-without-settings, mlflow-settings-again
    settings = {
        "name": "a",
        "train": {"steps": 4, "track": ["mlflow"]},
        "mean": None,
        "data": {"source": {"root": "b"}},
    }
    notes = []
    for step in (0, 2):  # the second one is resumed
        train = settings["train"] | {"steps": 4 + step}  # which the real MLflow would refuse to change
        start = Trackers(
            ["mlflow"], tmp_path, settings | {"train": train}, after_step=step, logged=0, report=notes.append
        )
        start.finish()
    expected = {"name": "a", "train.steps": 4, "train.track": ["mlflow"], "data.source.root": "b"}
    assert mlflow.parameters == [expected] and notes == []


def test_a_package_that_is_missing_and_a_name_that_is_unknown(root, tmp_path, monkeypatch):
    # kills: missing-tracker-starts
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'^train.track: mlflow is not installed: pip install "i2i-bridge\[mlflow\]"$'):
        train(recipe_of(root, track=["mlflow"]), tmp_path / "run", cpu=True)
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match=r"train.track.0: should be .tensorboard., .*, got .tensorbord.$") as error:
        recipe_of(root, track=["tensorbord"])
    assert "\n" not in str(error.value)
