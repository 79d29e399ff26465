"""Resume after a kill: the run ends with the same bits, and every part of its state is needed for that."""

import hashlib
import multiprocessing
import os
import random
import shutil
from dataclasses import dataclass, replace

import pytest
import torch
from accelerate import Accelerator
from durability import reseal
from killing import VARIANTS, digest, digest_of, kill_and_resume, photos, recipe_of

from i2i_bridge.data.loader import training_batches
from i2i_bridge.device import resume_guarantee
from i2i_bridge.errors import UserError
from i2i_bridge.runs.checkpoint import Checkpoint, latest_checkpoint
from i2i_bridge.training.identity import is_same_run, resolved
from i2i_bridge.training.state import TrainState
from i2i_bridge.training.step import training_step
from i2i_bridge.training.trainer import train


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return photos(tmp_path_factory.mktemp("pairs"))


# Each value of each choice, every two of them together (an orthogonal array); `make soak` takes all sixteen.
@pytest.mark.parametrize("variant", [VARIANTS[i] for i in (0, 7, 13, 10)], ids=str)
def test_killed_anywhere_a_run_ends_with_the_same_bits(root, tmp_path, variant):
    """kills: ema-not-restored, optimizer-not-restored, resume-replays-the-first-batches"""
    recipe = recipe_of(root, *variant)
    train(recipe, tmp_path / "whole", cpu=True)
    done, _ = kill_and_resume(recipe, tmp_path / "killed", 6, random.Random(str(variant)))
    assert done >= 2
    assert digest(tmp_path / "killed") == digest(tmp_path / "whole")
    rows = [line.split(",")[0] for line in (tmp_path / "killed" / "metrics.csv").read_text().splitlines()]
    assert rows == ["step", "1", "2", "3", "4", "5", "6"]


def stream(root, workers, start, steps=4):
    """SHA-256 of the batches that a training reads."""
    data, total = recipe_of(root).build_dataset("train"), hashlib.sha256()
    batches = training_batches(data, 4, start_step=start, workers=workers)
    for _ in range(steps):
        for name, value in sorted(next(batches).items()):
            total.update(f"{name}".encode())
            total.update(value.numpy().tobytes() if isinstance(value, torch.Tensor) else repr(value).encode())
    batches.close()
    return total.hexdigest()


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"] if os.environ.get("I2I_SOAK") else ["fork"])
def test_the_stream_is_the_same_for_any_workers_however_they_start(root, method):
    """Ids, cuts, mirrors and degradations; `make soak` starts workers in all three ways."""
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method(method, force=True)
    try:
        assert len({stream(root, workers, 3) for workers in (0, 1, 2, 4)}) == 1
    finally:
        multiprocessing.set_start_method(before, force=True)
    assert stream(root, 0, 3) != stream(root, 0, 4)


def test_saving_at_every_step_changes_nothing(root, tmp_path):
    """kills: nothing planted; a save that touches the state would."""
    train(recipe_of(root), tmp_path / "often", cpu=True)
    train(recipe_of(root, save_every=100), tmp_path / "once", cpu=True)
    assert digest(tmp_path / "often") == digest(tmp_path / "once")


def every_leaf():
    """In `make soak` all of them."""
    return 1 if os.environ.get("I2I_SOAK") else 23


@dataclass(frozen=True)
class Changed(Checkpoint):
    """A checkpoint in which one tensor is missing or changed."""

    part: str = ""
    name: str = ""
    lost: bool = True

    def tensors(self, part):
        tensors = super().tensors(part)
        if part == self.part:
            if self.lost:
                del tensors[self.name]
            else:
                tensors[self.name] = tensors[self.name] + 1
        return tensors


@pytest.mark.parametrize("method", ["bridge", "pix2pix"])
def test_every_part_of_the_state_is_needed(root, tmp_path, method):
    """Lost, it is missed in one line; changed, the next checkpoint is another.

    kills: counters-not-restored, moments-not-missed, ema-not-restored, companion-not-restored
    """
    recipe = recipe_of(root, method=method, steps=3)
    train(recipe, tmp_path, cpu=True)
    found, _ = latest_checkpoint(tmp_path / "checkpoints")
    accelerator, data = Accelerator(cpu=True), recipe.build_dataset("train")
    items = [data.sample(n) for n in range(4)]
    batch = {name: torch.stack([item[name] for item in items]) for name in ("x_0", "x_1")}
    state = TrainState(recipe, torch.device("cpu"))

    def after(checkpoint, steps=1):
        state.load(checkpoint)
        for _ in range(steps):
            training_step(state, batch, accelerator, torch.float32)
        return digest_of(state.parts(), state.counters() | {"step": state.step})

    same = (found.folder, found.step, found.state, found.files, found.format)
    whole = after(found)
    assert after(found) == whole and after(found, 0) == digest(tmp_path)
    leaves = [(part, name) for part in state.parts() for name in found.tensors(part)]
    assert len(leaves) > 100
    buffers = {name for name, _ in state.network.named_buffers()}
    for part, name in [*leaves[:: every_leaf()], *[leaf for leaf in leaves if leaf[1].endswith("running_mean")][:2]]:
        with pytest.raises(UserError, match="missing") as caught:
            state.load(Changed(*same, part, name))
        assert name in str(caught.value)
        # The average takes over buffers at each step; they are of use to whoever restores with this checkpoint.
        steps = 0 if part == "ema" and name in buffers else 1
        assert after(Changed(*same, part, name, lost=False), steps) != (whole if steps else after(found, 0)), (
            part,
            name,
        )
    for name in state.counters():
        less = {key: value for key, value in found.state.items() if key != name}
        with pytest.raises(UserError, match=f"counter '{name}' is missing"):
            state.load(replace(found, state=less))
        state.load(replace(found, state=found.state | {name: 3}))
        assert state.counters()[name] == 3
        state.load(replace(found, state=less, format=1))  # the first format had none
        assert state.counters()[name] == 0
    assert after(replace(found, step=found.step + 1)) != whole
    with pytest.raises(UserError, match="belongs to no weight"):
        state.load(Extra(*same))


class Extra(Checkpoint):
    """A checkpoint with the moments of another network."""

    def tensors(self, part):
        more = {"other/step": torch.zeros(())} if part == "optimizer" else {}
        return super().tensors(part) | more


def test_a_damaged_newest_checkpoint_is_passed_over_and_said(root, tmp_path):
    train(recipe_of(root), tmp_path / "whole", cpu=True)
    shutil.copytree(tmp_path / "whole", tmp_path / "rotten")
    file = tmp_path / "rotten" / "checkpoints" / "step-00000006" / "optimizer.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    lines = []
    train(recipe_of(root), tmp_path / "rotten", cpu=True, report=lambda event: lines.append(str(event)))
    assert "passed over a damaged checkpoint" in lines[1] and "optimizer.safetensors: damaged" in lines[1]
    assert "at step 5 of 6: bit for bit as if it had never stopped" in lines[2]
    assert digest(tmp_path / "rotten") == digest(tmp_path / "whole")
    assert (tmp_path / "rotten" / "checkpoints" / "damaged-step-00000006").is_dir()


def test_what_is_promised_depends_on_the_machine():
    here = {"torch": "2", "threads": "1", "device": "cpu"}
    assert resume_guarantee(here, here) == "bit for bit as if it had never stopped"
    assert resume_guarantee(here | {"threads": "2"}, here) == "bitwise resume not guaranteed: threads 2 -> 1"
    assert resume_guarantee({}, here).startswith(
        "bitwise resume not guaranteed: torch unknown -> 2, threads unknown -> 1"
    )
    there = here | {"device": "a GPU"}
    assert (
        resume_guarantee(there, there) == "same samples, times and noise; sums on a GPU may differ in their last bits"
    )


def test_changed_data_are_said(root, tmp_path):
    own = photos(tmp_path / "own")
    train(recipe_of(own, steps=1), tmp_path / "run", cpu=True)
    (own / "clean" / "train" / "00.png").unlink()
    lines = []
    train(recipe_of(own, steps=2), tmp_path / "run", cpu=True, report=lambda event: lines.append(str(event)))
    assert "not guaranteed: images 12 -> 11" in lines[1]


def test_a_run_of_an_earlier_version_is_said_to_have_another_order(root, tmp_path):
    # kills: other-order-not-said
    train(recipe_of(root, steps=1, schedule="constant"), tmp_path, cpu=True)
    found, _ = latest_checkpoint(tmp_path / "checkpoints")
    reseal(found.folder, lambda manifest: manifest["state"]["machine"].pop("order of images"))
    line = told(recipe_of(root, steps=2, schedule="constant"), tmp_path)[1]
    assert line.endswith("not guaranteed: order of images by an earlier version -> by torch.randperm")


def told(recipe, folder):
    """The lines of a training."""
    lines = []
    train(recipe, folder, cpu=True, report=lambda event: lines.append(str(event)))
    return lines


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant", "regression share"])
def test_a_moved_end_of_a_falling_schedule_is_not_called_the_same_run(root, tmp_path, schedule):
    """With a constant rate the bits are those of all steps in one run, unless a share of the steps is a regression.

    kills: moved-end-is-the-same-run
    """
    settings = {"schedule": schedule, "save_every": 100}
    moved = f"moves the end of the {schedule} schedule: the next learning rate is "
    if schedule == "regression share":
        settings |= {"schedule": "constant", "regression_share": 0.5}
        moved = "moves the end of the regression share: it is step 3, not 2"
    train(recipe_of(root, steps=4, **settings), tmp_path / "longer", cpu=True)
    lines = told(recipe_of(root, steps=6, **settings), tmp_path / "longer")
    train(recipe_of(root, steps=6, **settings), tmp_path / "at-once", cpu=True)
    same = digest(tmp_path / "longer") == digest(tmp_path / "at-once")
    assert same == (schedule == "constant") == ("bit for bit as if it had never stopped" in lines[1]), lines
    assert same != ("not guaranteed: train.steps 4 -> 6" in lines[1])
    assert same != (moved in lines[2])


def test_a_moved_end_names_a_rate_only_where_the_next_one_differs(root, tmp_path):
    """Within the warm-up the next rate is the same whatever the end, and the share of 2 and of 3 steps is one step.

    kills: next-rate-not-itself, share-moved-to-itself
    """
    settings = {"schedule": "cosine", "save_every": 100, "warmup_steps": 20, "regression_share": 0.4}
    train(recipe_of(root, steps=2, **settings), tmp_path, cpu=True)
    lines = told(recipe_of(root, steps=3, **settings), tmp_path)
    assert "moves the end of the cosine schedule. The result is not that of 3 steps in one run" in lines[2], lines


def test_a_changed_rate_is_said_and_resumes_with_the_same_bits(root, tmp_path):
    """The rate of a run may change where it resumes; stopped again after that, it ends with the same bits.

    kills: changed-rate-is-the-same-run, changed-rate-unsaid
    """
    settings = {"steps": 6, "save_every": 100, "warmup_steps": 0, "schedule": "constant"}
    for name in ("once", "twice"):
        stops = iter([False, True])
        train(recipe_of(root, **settings), tmp_path / name, cpu=True, stop=lambda: next(stops))  # noqa: B023
    changed = recipe_of(root, **settings | {"lr": 1e-4, "schedule": "cosine", "decay_from": 4})
    lines = told(changed, tmp_path / "once")
    assert "not guaranteed: train.lr 0.002 -> 0.0001, train.schedule constant -> cosine" in lines[1], lines
    assert lines[2].startswith("note: train.lr 0.002 -> 0.0001") and "rate is 0.0001, not 0.002." in lines[2]
    stops = iter([False, True])
    train(changed, tmp_path / "twice", cpu=True, stop=lambda: next(stops))
    lines = told(changed, tmp_path / "twice")
    assert lines[1].endswith("bit for bit as if it had never stopped") and not any("train.lr" in line for line in lines)
    assert digest(tmp_path / "once") == digest(tmp_path / "twice")
    train(recipe_of(root, **settings), tmp_path / "same", cpu=True)
    assert digest(tmp_path / "same") != digest(tmp_path / "once")


def test_a_moved_end_is_seen_by_the_checkpoint(root, tmp_path):
    """The recipe does not tell: a start that was killed before its first save has rewritten it."""
    train(recipe_of(root, steps=2), tmp_path, cpu=True)
    (tmp_path / "recipe.toml").write_text(recipe_of(root, steps=3).to_toml())
    assert "not guaranteed: train.steps 2 -> 3" in told(recipe_of(root, steps=3), tmp_path)[1]


@pytest.mark.parametrize("given", [{"var_0": 0.37}, {"cov_01": 0.01}, {"var_0": 0.3, "var_1": 0.4}])
def test_moments_that_the_user_gave_are_not_estimated(root, tmp_path, given):
    """`preconditioned` takes the given moments as they are, and estimates only those that the recipe leaves out."""
    # kills: estimate-over-the-users-moments
    recipe = recipe_of(root)
    data = recipe.build_dataset("train")
    bare, partial = (
        recipe.model_copy(update={"target": {"name": "preconditioned"} | moments}) for moments in ({}, given)
    )
    estimated = resolved(tmp_path, bare, data, started=None, init=None).target
    assert set(estimated) == {"name", "var_0", "var_1", "cov_01"} and estimated["var_1"] > estimated["var_0"]
    assert resolved(tmp_path, partial, data, started=None, init=None).target == estimated | given


def test_a_run_whose_images_were_moved_is_the_same_run(root, tmp_path):
    """kills: moved-images-another-run"""
    started, moved = recipe_of(tmp_path / "gone"), recipe_of(root)
    assert is_same_run(started, moved)
    assert not is_same_run(moved, recipe_of(tmp_path / "other")), "the images that it trained on are still there"
