"""Parameters that are not trained: `train.freeze`."""

import pytest
import torch
from killing import digest, photos, recipe_of

from i2i_bridge.cli.command import main
from i2i_bridge.errors import UserError
from i2i_bridge.recipe.load import load_recipe
from i2i_bridge.runs.checkpoint import latest_checkpoint
from i2i_bridge.training.trainer import train


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return photos(tmp_path_factory.mktemp("pairs"))


def weights(folder, step=None):
    found = latest_checkpoint(folder / "checkpoints")[0]
    assert step in (None, found.step)
    return found.tensors("network"), found.tensors("ema")


def untrained(recipe):
    from i2i_bridge.training.state import TrainState

    return TrainState(recipe, torch.device("cpu")).network.state_dict()


@pytest.mark.parametrize("method", ["bridge", "pix2pix"])
def test_frozen_parameters_are_bit_equal_and_all_others_move(root, tmp_path, method):
    """Weight decay does not touch them either, and the EMA equals them; a stopped run resumes with the same bits.

    kills: frozen-get-a-gradient
    """
    pattern = {"bridge": "input_blocks.*", "pix2pix": "down*"}[method]
    names = [name for name in untrained(recipe_of(root, method=method)) if name.startswith(pattern.rstrip("*"))]
    settings = {"method": method, "freeze": [pattern], "weight_decay": 0.1, "save_every": 100}
    recipe = recipe_of(root, steps=3, **settings)
    before, lines = untrained(recipe), []
    train(recipe, tmp_path / "whole", cpu=True, report=lambda event: lines.append(str(event)))
    assert "M of them frozen)" in lines[0]
    network, ema = weights(tmp_path / "whole", step=3)
    parameters = {name for name in network if name.endswith(("weight", "bias")) and "running" not in name}
    frozen = {name for name in parameters if name in names}
    assert 0 < len(frozen) < len(parameters)
    for name in parameters:
        assert torch.equal(network[name], before[name]) == (name in frozen), name
        assert name not in frozen or torch.equal(ema[name], before[name])
    stops = iter([True])
    train(recipe, tmp_path / "stopped", cpu=True, stop=lambda: next(stops))
    train(recipe, tmp_path / "stopped", cpu=True)
    assert digest(tmp_path / "stopped") == digest(tmp_path / "whole")


def test_patterns_that_match_nothing_or_all_are_one_line(root, tmp_path):
    """kills: frozen-by-any-pattern-unmatched, nothing-left-to-train"""
    for patterns, says in (
        (["input_block.*"], r"'input_block.\*' matches no parameter; did you mean 'input_blocks.\*'"),
        (["*.bias", "decoder.*"], r"'decoder.\*' matches no parameter; .*'?output_blocks.\*"),
        (["*"], "no parameter is left to train"),
    ):
        with pytest.raises(UserError, match=says):
            train(recipe_of(root, freeze=patterns), tmp_path / "run", cpu=True)
        assert not (tmp_path / "run").exists()


def test_the_option_stands_for_the_setting(root, tmp_path, capsys):
    (tmp_path / "tiny.toml").write_text(recipe_of(root, steps=1, freeze=["*.bias"]).to_toml())
    words = ["train", str(tmp_path / "tiny.toml"), "--out", str(tmp_path / "run"), "--device", "cpu"]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--freeze", "out.*", "--freeze", "time_embed.*"])
    assert ended.value.code == 0, capsys.readouterr()
    assert load_recipe(tmp_path / "run" / "recipe.toml").train.freeze == ["out.*", "time_embed.*"]
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(words)
    said = capsys.readouterr().err
    assert ended.value.code == 2 and "(train.freeze: " in said and "choose another --out" in said, said
