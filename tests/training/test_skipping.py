"""Non-finite losses and gradients: the step changes nothing, its samples are logged, and no checkpoint holds NaN."""

import json
import math

import pytest
import torch
from accelerate import Accelerator
from killing import digest, digest_of, photos, recipe_of

import i2i_bridge.training.trainer as training
from i2i_bridge.errors import IO_ERROR, UserError
from i2i_bridge.runs.checkpoint import latest_checkpoint
from i2i_bridge.training.guard import NonFiniteGuard
from i2i_bridge.training.state import TrainState
from i2i_bridge.training.step import Outcome, training_step


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return photos(tmp_path_factory.mktemp("pairs"))


def batch_of(data, step):
    items = [data.sample(step * 4 + n) for n in range(4)]
    return {name: torch.stack([item[name] for item in items]) for name in ("x_0", "x_1")}


def bad_pixel(state, batch, monkeypatch):
    batch["x_0"][2, 0, 3, 3] = math.nan


def bad_gradient(state, batch, monkeypatch):
    """Make one element of one gradient NaN, in the module that is updated last."""
    parameter = next(iter(state.network.parameters()))
    handle = parameter.register_hook(lambda gradient: gradient.index_fill(0, torch.tensor([0]), math.inf))
    batch["undo"] = handle.remove


def bad_loss(state, batch, monkeypatch):
    """An infinite loss with a finite gradient."""
    plain = state.method.losses

    def losses(part, draws):
        for name, loss in plain(part, draws):
            yield name, loss + math.inf

    state.method.__dict__["losses"] = losses
    batch["undo"] = lambda: state.method.__dict__.pop("losses")


@pytest.mark.parametrize("on_host", [True, False], ids=["host decides", "device decides"])
@pytest.mark.parametrize("method", ["bridge", "pix2pix"])
@pytest.mark.parametrize("damage", [bad_pixel, bad_gradient, bad_loss])
def test_a_bad_step_changes_nothing_but_the_count(root, method, damage, on_host, monkeypatch):
    """The state has the same bits as that of a run that skips the step.

    kills: bad-step-taken, bad-step-averaged, buffers-keep-the-bad-step, companion-keeps-the-bad-step, loss-not-shown
    """
    recipe = recipe_of(root, accumulation=4, method=method)
    accelerator, data = Accelerator(cpu=True), recipe.build_dataset("train")
    ended = []
    for told in (True, False):
        state = TrainState(recipe, torch.device("cpu"))
        state.on_host = on_host
        for step in range(4):
            batch = batch_of(data, step)
            if step not in (0, 2):  # the first of all too: before the moments have any value
                outcome = training_step(state, batch, accelerator, torch.float32)
                assert outcome.in_a_row == 0
            elif told:
                state.step += 1
            else:
                damage(state, batch, monkeypatch)
                undo = batch.pop("undo", lambda: None)
                outcome = training_step(state, batch, accelerator, torch.float32)
                undo()
                assert outcome.in_a_row == 1
        ended.append(digest_of(state.parts(), {"step": state.step}))
    assert ended[0] == ended[1]


@pytest.mark.parametrize("on_host", [True, False], ids=["host decides", "device decides"])
@pytest.mark.parametrize("spoiled_module", ["discriminator", "network"])
def test_one_bad_module_skips_the_step_of_all(root, spoiled_module, on_host):
    """A NaN in the loss of the first of two modules, and a good second one: no module moves, nor the average."""
    # kills: later-module-forgives-the-bad-one
    recipe = recipe_of(root, method="pix2pix")
    state = TrainState(recipe, torch.device("cpu"))
    state.on_host = on_host
    accelerator, data = Accelerator(cpu=True), recipe.build_dataset("train")
    training_step(state, batch_of(data, 0), accelerator, torch.float32)
    before = digest_of(state.parts(), {})
    plain = state.method.losses

    def losses(part, draws):
        for name, loss in plain(part, draws):
            yield name, loss * math.nan if name == spoiled_module else loss

    state.method.__dict__["losses"] = losses
    outcome = training_step(state, batch_of(data, 1), accelerator, torch.float32)
    assert outcome.in_a_row == 1 and outcome.step == state.step == 2
    assert state.counters() == {"skipped": 1, "in_a_row": 1}
    assert digest_of(state.parts(), {}) == before


def test_host_and_device_take_a_good_step_alike(root):
    recipe = recipe_of(root)
    accelerator, data = Accelerator(cpu=True), recipe.build_dataset("train")
    ended = []
    for on_host in (True, False):
        state = TrainState(recipe, torch.device("cpu"))
        state.on_host = on_host
        for step in range(3):
            training_step(state, batch_of(data, step), accelerator, torch.float32)
        ended.append([p.detach().clone() for p in (*state.network.parameters(), *state.ema.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*ended, strict=True))


def spoiled(monkeypatch, steps):
    """Batches of these steps, counted from 1, have a pixel that is not a number."""
    plain = training.training_step

    def step(state, batch, *rest):
        if state.step + 1 in steps:
            batch["x_0"][0, 0, 0, 0] = math.nan
        return plain(state, batch, *rest)

    monkeypatch.setattr(training, "training_step", step)


def test_a_skipped_step_is_said_and_written_down(root, tmp_path, monkeypatch):
    # kills: skips-not-counted
    spoiled(monkeypatch, {2, 3, 5})
    recipe, lines = recipe_of(root), []
    training.train(recipe, tmp_path, cpu=True, report=lambda event: lines.append(event))
    said = [line for line in lines if isinstance(line, str) and "skipped: " in line]
    assert said[0] == "step 2 skipped: its loss or gradient is not finite (4 samples, listed in nonfinite-step-2.json)"
    assert len(said) == 3
    written = json.loads((tmp_path / "nonfinite-step-2.json").read_text())
    data = recipe.build_dataset("train")
    assert written == {
        "step": 2,
        "samples": [{"number": n, "key": data.sample(n)["key"]} for n in range(4, 8)],
    }
    found, _ = latest_checkpoint(tmp_path / "checkpoints")
    assert found.state["skipped"] == 3 and found.state["in_a_row"] == 0
    rows = [line for line in lines if isinstance(line, training.Progress)]
    assert [math.isnan(row.loss) for row in rows] == [False, True, True, False, True, False]


def test_a_report_is_of_the_steps_that_were_taken(root, tmp_path, monkeypatch):
    spoiled(monkeypatch, {2})
    lines = []
    training.train(recipe_of(root, log_every=3), tmp_path, cpu=True, report=lambda event: lines.append(event))
    rows = [line for line in lines if isinstance(line, training.Progress)]
    assert len(rows) == 2 and all(math.isfinite(row.loss) and math.isfinite(row.grad_norm) for row in rows)


def test_skips_survive_a_restart_and_ten_in_a_row_end_the_run(root, tmp_path, monkeypatch):
    """kills: counters-not-restored, endless-skipping"""
    spoiled(monkeypatch, set(range(4, 40)))
    asked = iter([False] * 6 + [True])
    stopped = training.train(recipe_of(root, steps=40), tmp_path, cpu=True, stop=lambda: next(asked))
    assert stopped.step == 7
    with pytest.raises(UserError, match="not finite at step 13, the 10th in a row") as caught:
        training.train(recipe_of(root, steps=40), tmp_path, cpu=True)
    assert caught.value.code == 65
    found, _ = latest_checkpoint(tmp_path / "checkpoints")
    assert found.step == 12 and found.state["in_a_row"] == 9


def test_outcomes_are_read_in_time_where_they_lie_on_a_device(root, tmp_path):
    """On an accelerator the outcomes are read every ten steps, and before each report and save."""

    class Elsewhere(torch.Tensor):
        device = torch.device("meta")

    def outcome(step, in_a_row):
        return Outcome(step, 1e-3, {}, {}, torch.tensor(in_a_row))

    def guard(folder, writes=True):
        return NonFiniteGuard(folder, recipe_of(root).build_dataset("train"), 4, lines.append, writes)

    lines = []
    waiting = guard(tmp_path)
    for step in range(1, 11):
        assert lines == []
        count = torch.tensor(int(step == 4)).as_subclass(Elsewhere)
        waiting.add(Outcome(step, 1e-3, {}, {}, count))
    assert len(lines) == 1 and lines[0].startswith("step 4 skipped")
    (tmp_path / "other").write_text("")
    guard(tmp_path / "other").add(outcome(1, 1))
    assert "other" in lines[1] and "cannot be written" in lines[1]
    guard(tmp_path, writes=False).add(outcome(1, 1))
    assert len(lines) == 2
    with pytest.raises(UserError, match="not finite at step 13, the 10th in a row"):
        guard(tmp_path, writes=False).add(outcome(13, 10))


def test_weights_that_are_not_finite_are_never_published(root, tmp_path, monkeypatch):
    """A weight that became NaN outside of a step is found too; here the test sets it."""
    plain = training.training_step

    def ruin(state, batch, *rest):
        done = plain(state, batch, *rest)
        if state.step >= 3:
            next(iter(state.ema.parameters())).data.view(-1)[0] = math.nan
        return done

    monkeypatch.setattr(training, "training_step", ruin)
    lines = []
    with pytest.raises(UserError, match=r"ema's '.*' is not finite; 3 times in a row; last good step 2") as caught:
        training.train(recipe_of(root, steps=20), tmp_path, cpu=True, report=lambda event: lines.append(str(event)))
    assert caught.value.code == IO_ERROR
    assert sum("training continues, last good step 2" in line for line in lines) == 2
    assert latest_checkpoint(tmp_path / "checkpoints")[0].step == 2 and digest(tmp_path)
