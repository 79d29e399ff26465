"""Which checkpoint a verb takes, and that it says so where it is not the newest."""

import json
import shutil

import pytest
import torch
from killing import photos, recipe_of

from i2i_bridge.cli.command import main
from i2i_bridge.errors import UserError
from i2i_bridge.evaluation.results import read_evaluation
from i2i_bridge.runs.checkpoint import Checkpoint
from i2i_bridge.runs.load import load_run
from i2i_bridge.training.init import open_init, with_init
from i2i_bridge.training.trainer import train


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return photos(tmp_path_factory.mktemp("pairs"))


@pytest.fixture(scope="module")
def trained(root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "run"
    train(recipe_of(root, steps=6, save_every=2, keep=3), folder, cpu=True)
    return folder


@pytest.fixture
def run(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


def call(capsys, *words):
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    said = capsys.readouterr()
    return ended.value.code, " ".join((said.out + said.err).split())


def weights_of(run):
    return next(iter(run.method.network.parameters())).sum().item()


def remove_at(call, run, monkeypatch):
    """Let a training save step 6 and remove older checkpoints when a part of one is read for the `call`-th time."""
    read, calls = Checkpoint.file, iter(range(1, 100))

    def late(checkpoint, part):
        if next(calls) == call:  # between the verification of its files and the reading of its weights
            newer.rename(run / "checkpoints" / newer.name)
            shutil.rmtree(checkpoint.folder)
        return read(checkpoint, part)

    newer = (run / "checkpoints" / "step-00000006").rename(run / "step-00000006")
    monkeypatch.setattr(Checkpoint, "file", late)


def test_a_checkpoint_that_a_training_removes_while_a_run_is_opened_gives_way_to_the_newest(run, monkeypatch):
    """kills: removed-checkpoint-ends-a-restore"""
    remove_at(1, run, monkeypatch)
    assert load_run(run).step == 6


def test_a_checkpoint_that_a_training_removes_while_another_starts_from_it(root, run, monkeypatch):
    """kills: removed-checkpoint-ends-a-restore"""
    remove_at(1, run, monkeypatch)
    init = open_init(with_init(recipe_of(root), run))
    assert init.checkpoint.step == 6 and torch.equal(*first_of(init.tensors, load_run(run).method.network.state_dict()))


def first_of(*states):
    name = next(iter(states[0]))
    return [state[name] for state in states]


def test_a_checkpoint_that_a_training_removes_while_it_is_shared(run, tmp_path, monkeypatch, capsys):
    """kills: removed-checkpoint-ends-a-share"""
    remove_at(2, run, monkeypatch)  # the run is open already
    code, said = call(capsys, "share", "save", run, tmp_path / "shared", "--licence", "mit")
    assert code in (0, None), said
    assert load_run(tmp_path / "shared").step == 6 and "after step 6 of" in (tmp_path / "shared/README.md").read_text()


def test_any_kept_checkpoint_can_be_loaded(run):
    """kills: checkpoint-choice-ignored"""
    found = {step: load_run(run, checkpoint=step) for step in (2, 4, 6)}
    assert {step: there.step for step, there in found.items()} == {2: 2, 4: 4, 6: 6}
    assert len({weights_of(there) for there in found.values()}) == 3
    assert load_run(run).step == load_run(run, checkpoint="last").step == load_run(run, checkpoint="6").step == 6
    assert load_run(run, checkpoint="step-00000004").step == 4
    for which, line in (
        (3, r"no checkpoint of step 3; kept: 2, 4, 6"),
        ("best", r"no best checkpoint is kept; give a step \(2, 4, 6\) or last"),
        ("newest", r"give a step \(2, 4, 6\) or last"),
        ("../x", r"give a step"),
    ):
        with pytest.raises(UserError, match=line):
            load_run(run, checkpoint=which)
    (run / "checkpoints" / "step-00000004" / "manifest.json").write_text("{")
    with pytest.raises(UserError, match="not a whole checkpoint"):  # what was asked for by name is not replaced
        load_run(run, checkpoint=4)


def test_the_verbs_take_a_checkpoint(run, root, tmp_path, capsys):
    photo = next((root / "clean" / "val").iterdir())
    for step in (2, 6):
        assert call(capsys, "restore", run, photo, tmp_path / f"{step}.png", "--checkpoint", step)[0] == 0
    assert (tmp_path / "2.png").read_bytes() != (tmp_path / "6.png").read_bytes()
    assert call(capsys, "restore", run, photo, tmp_path / "x.png", "--checkpoint", "3")[0] == 2
    code, said = call(capsys, "evaluate", run, "--checkpoint", 2)
    assert code == 0 and "step 2," in said and read_evaluation(run).step == 2
    # The report is drawn by the checkpoint that was evaluated, whatever came later.
    assert call(capsys, "report", run)[0] == 0
    assert "the numbers are of step" not in (run / "report" / "index.html").read_text()
    code, said = call(capsys, "report", run, "--checkpoint", "last")
    assert code == 2 and "evaluated at step 2, not 6; first: i2i-bridge evaluate" in said
    assert call(capsys, "compare", run, "--checkpoint", 4, "--out", tmp_path / "page")[0] == 0
    assert read_evaluation(run).step == 4
    shutil.rmtree(run / "checkpoints" / "step-00000004")
    assert call(capsys, "report", run)[0] == 0
    assert "the numbers are of step 4, the walks and samples of step 6" in (run / "report" / "index.html").read_text()


def test_a_fall_back_is_said_and_written_down(run, root, tmp_path, capsys):
    """kills: fall-back-unsaid"""
    (run / "checkpoints" / "step-00000006" / "ema.safetensors").write_bytes(b"rot")
    line = "passed over a damaged checkpoint: "
    with pytest.warns(UserWarning, match=line):
        loaded = load_run(run)
    assert loaded.step == 4 and len(loaded.warnings) == 1 and loaded.warnings[0].endswith("step 4 is taken")
    photo = next((root / "clean" / "val").iterdir())
    for words in (("restore", run, photo, tmp_path / "a.png"), ("evaluate", run), ("report", run)):
        code, said = call(capsys, *words)
        assert code == 0 and ("note: " + line in said or words[0] == "report"), said
    (written,) = [text for text in read_evaluation(run).warnings if line in text]
    assert "ema.safetensors: damaged" in written and written in load_run(run, report=lambda line: None).warnings
    assert "ema.safetensors: damaged" in (run / "report" / "index.html").read_text()
    shutil.rmtree(run / "evaluation")
    code, said = call(capsys, "compare", run, "--out", tmp_path / "page")
    assert code == 0 and "note: " + line in said


def test_an_evaluation_can_be_written_elsewhere(run, tmp_path, capsys):
    assert call(capsys, "evaluate", run, "--out", tmp_path / "scores")[0] == 0
    assert not (run / "evaluation").exists() and read_evaluation(tmp_path / "scores").method == "bridge"
    assert call(capsys, "compare", tmp_path / "scores", "--out", tmp_path / "page")[0] == 0
    table = json.loads((tmp_path / "scores" / "evaluation" / "held-out" / "evaluation.json").read_text())
    assert table["step"] == 6
