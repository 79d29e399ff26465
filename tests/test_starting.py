"""A new run that starts from another run's weights."""

import hashlib
import json
import shlex
import shutil

import pytest
import torch
from killing import digest, photos, recipe_of

from i2i_bridge.checkpoint import latest_checkpoint
from i2i_bridge.cli import main
from i2i_bridge.errors import UserError
from i2i_bridge.recipe import load_recipe
from i2i_bridge.starting import with_init
from i2i_bridge.training import train


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return photos(tmp_path_factory.mktemp("pairs"))


@pytest.fixture(scope="module", params=["bridge", "pix2pix"])
def source(request, root, tmp_path_factory):
    """A finished run of each method, and its folder."""
    folder = tmp_path_factory.mktemp("runs") / request.param
    train(recipe_of(root, method=request.param, steps=2), folder, cpu=True)
    return request.param, folder


def newest(folder):
    return latest_checkpoint(folder / "checkpoints")[0]


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_the_first_state_is_the_average_of_the_source(root, source, tmp_path):
    """Network and average; a companion's weights as they were; moments and step from 0. All of it is written down.

    kills: init-from-raw-weights, init-leaves-the-companion
    """
    method, folder = source
    recipe, lines = recipe_of(root, method=method, lr=1e-3, keep=9), []
    train(with_init(recipe, folder), tmp_path / "run", cpu=True, report=lambda event: lines.append(str(event)))
    there = newest(folder)
    (tmp_path / "run" / "checkpoints" / "step-00000006").rename(tmp_path / "last")
    for step in range(1, 6):
        shutil.rmtree(tmp_path / "run" / "checkpoints" / f"step-{step:08d}")
    first = newest(tmp_path / "run")
    assert first.step == 0
    assert not same(there.tensors("ema"), there.tensors("network"))
    assert same(first.tensors("ema"), there.tensors("ema")) and same(first.tensors("network"), there.tensors("ema"))
    assert not any(value.any() for value in first.tensors("optimizer").values())
    if method == "pix2pix":
        assert same(first.tensors("discriminator"), there.tensors("discriminator"))
    sha256 = hashlib.sha256((there.folder / "ema.safetensors").read_bytes()).hexdigest()
    said = {"source": str(folder), "checkpoint": there.folder.name, "file": "ema.safetensors", "sha256": sha256}
    assert json.loads((tmp_path / "run" / "init.json").read_text()) == said
    assert any(f"{folder}, step 2" in line and sha256 in line for line in lines), lines
    assert load_recipe(tmp_path / "run" / "recipe.toml").train.init == str(folder)


def test_such_a_run_resumes_without_its_source(root, source, tmp_path):
    """Also where it was stopped before its first own save; and with the same bits."""
    method, folder = source
    moved = tmp_path / "moved"
    shutil.copytree(folder, moved)
    recipe = recipe_of(root, method=method, save_every=100)
    train(with_init(recipe, moved), tmp_path / "whole", cpu=True)
    for step in (0, 3):
        run = tmp_path / f"stopped-{step}"
        if step:
            asked = iter([False, False, True])
            train(with_init(recipe, moved), run, cpu=True, stop=lambda: next(asked))  # noqa: B023
        else:
            with pytest.raises(KeyboardInterrupt):
                train(with_init(recipe, moved), run, cpu=True, report=_interrupt)
        assert newest(run).step == step
    shutil.rmtree(moved)
    train(with_init(recipe, moved), tmp_path / "stopped-3", cpu=True)  # the same command
    train(recipe, tmp_path / "stopped-0", cpu=True)  # and without the source
    assert digest(tmp_path / "stopped-3") == digest(tmp_path / "stopped-0") == digest(tmp_path / "whole")
    assert load_recipe(tmp_path / "stopped-0" / "recipe.toml").train.init == str(moved)


def _interrupt(event):
    if not isinstance(event, str):
        raise KeyboardInterrupt


def test_what_cannot_be_started_from_is_refused_and_claims_no_folder(root, source, tmp_path):
    """kills: init-of-its-own-folder, other-init-on-resume"""
    method, folder = source
    recipe = recipe_of(root, method=method)
    wider = recipe.model_copy(update={"network": recipe.network | {"channels": 2 * recipe.network["channels"]}})
    (tmp_path / "empty").mkdir()
    shutil.copy(folder / "recipe.toml", tmp_path / "empty")
    for start, why in (
        (with_init(wider, folder), r"the recipe's network has .*; train.init takes a run of exactly the same network"),
        (with_init(recipe, tmp_path / "nowhere"), "nowhere is not a run folder"),
        (with_init(recipe, tmp_path / "empty"), "empty has no checkpoint yet"),
        (with_init(recipe, tmp_path / "run"), "a run cannot start from the weights of its own folder"),
    ):
        with pytest.raises(UserError, match=why):
            train(start, tmp_path / "run", cpu=True)
        assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match="started from no other weights; leave --init out"):
        train(with_init(recipe_of(root, method=method, steps=3), tmp_path / "empty"), folder, cpu=True)


def test_moments_that_the_weights_were_trained_for_stay_theirs(root, tmp_path):
    def preconditioned(source):
        recipe = recipe_of(source, steps=1)
        return recipe.model_copy(update={"target": {"name": "preconditioned"}})

    train(preconditioned(root), tmp_path / "a", cpu=True)
    other = photos(tmp_path / "other")
    for file in (other / "clean" / "train").glob("0*.png"):
        file.unlink()
    train(with_init(preconditioned(other), tmp_path / "a"), tmp_path / "b", cpu=True)
    train(preconditioned(other), tmp_path / "c", cpu=True)
    a, b, c = (load_recipe(tmp_path / name / "recipe.toml").target for name in "abc")
    assert a == b != c


def test_another_process_or_target_is_noted(root, tmp_path):
    train(recipe_of(root, steps=1), tmp_path / "a", cpu=True)
    recipe = recipe_of(root, steps=1).model_copy(update={"target": {"name": "x0"}})
    lines = []
    train(with_init(recipe, tmp_path / "a"), tmp_path / "b", cpu=True, report=lambda event: lines.append(str(event)))
    assert sum("the weights were trained with another target" in line for line in lines) == 1


def test_the_refusal_of_another_rate_is_a_command_that_works(root, tmp_path, capsys, monkeypatch):
    """kills: refusal-is-a-dead-end"""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a folder").mkdir()
    recipe = "a folder/tiny.toml"
    (tmp_path / recipe).write_text(recipe_of(root, steps=1).to_toml())

    def call(*words):
        with pytest.raises(SystemExit) as ended:
            main(list(words))
        return ended.value.code, capsys.readouterr()

    words = ("train", recipe, "train.steps=2", "--out", "my run", "--device", "cpu")
    assert call(*words)[0] == 0
    for change in ("train.lr=1e-4", "train.batch_size=2"):
        code, said = call(*words, change)
        assert code == 2 and said.err.count("\n") == 1
        start = said.err.index("i2i-bridge train")
        program, *again = shlex.split(said.err[start:])
        assert program == "i2i-bridge" and change in again
        code, said = call(*again)
        assert code == 0 and "starting from the weights of" in said.out
    assert [newest(tmp_path / name).step for name in ("my run", "my run-2", "my run-3")] == [2, 2, 2]
    # Another network does not fit these weights: no such way is shown.
    code, said = call(*words, "network.channels=16")
    assert code == 2 and "--init" not in said.err and "choose another --out" in said.err
