"""A result with NaN or infinity is no image and has no score; weights of other kinds of numbers are refused."""

import math

import numpy as np
import pytest
import torch
from killing import photos, recipe_of
from PIL import Image
from torch import nn

from i2i_bridge.errors import UserError
from i2i_bridge.evaluation.evaluate import evaluate
from i2i_bridge.networks.weights import load_weights
from i2i_bridge.registry import register_sampler
from i2i_bridge.runs.load import load_run
from i2i_bridge.runs.restore import restore_files
from i2i_bridge.runs.tuned import with_sample
from i2i_bridge.runs.workload import probed
from i2i_bridge.training.log import read_metrics
from i2i_bridge.training.trainer import train


def bright(x_1):
    """Whether an image's first pixel is bright."""
    return bool(x_1[0, 0, 0, 0] > 0)


@pytest.fixture(params=[math.nan, math.inf])
def overflowing(request):
    """A sampler whose result is X_1; of a bright image, with one number that is not finite."""

    @register_sampler("overflowing")
    def sample(process, predict_x0, x_1, times, generator, *, start=None):
        for s in times[:-1].tolist():
            predict_x0(x_1, torch.full((len(x_1),), s, dtype=torch.float64))
            state = x_1.clone()
            if bright(x_1):
                state[0, 1, 2, 3] = request.param
            yield state


@pytest.fixture
def run(overflowing, tmp_path):
    recipe = recipe_of(photos(tmp_path / "pairs"), steps=1)
    train(recipe, tmp_path / "run", cpu=True)
    return load_run(tmp_path / "run", device="cpu", sample=["sample.sampler.name=overflowing"])


def test_nothing_is_written_for_it_and_the_other_images_are(run, tmp_path):
    (tmp_path / "in").mkdir()
    for name, value in (("bright", 200), ("dark", 50)):
        Image.new("RGB", (20, 18), (value,) * 3).save(tmp_path / "in" / f"{name}.png")
    outcome = restore_files(run, tmp_path / "in", tmp_path / "out")
    assert [file.name for file in sorted((tmp_path / "out").glob("*.png"))] == ["dark.png"]
    (problem,) = outcome.problems
    assert "bright.png" in problem and "NaN or infinity" in problem and "\n" not in problem
    with pytest.raises(UserError, match="NaN or infinity"):
        run.restore(np.full((20, 18, 3), 200, np.uint8))


def test_an_evaluation_names_the_image_in_place_of_a_number(run, tmp_path):
    with pytest.raises(UserError, match=r"nfe 1 of \S*0\d\.png.*NaN or infinity"):
        evaluate(run, nfe=[1], metrics=["psnr"], out=tmp_path / "evaluated")


def test_a_black_image_that_overflows_does_not_end_the_probe(run, monkeypatch):
    monkeypatch.setitem(globals(), "bright", lambda x_1: True)
    assert probed(run).seconds > 0


def test_a_step_that_overflows_on_one_image_has_no_validation_score(overflowing, tmp_path):
    recipe = recipe_of(photos(tmp_path / "pairs"), steps=1, keep_best="psnr", validate_every=1)
    train(with_sample(recipe, {"sampler": {"name": "overflowing"}}, "test"), tmp_path / "run", cpu=True)
    (row,) = read_metrics(tmp_path / "run")
    assert math.isnan(row["validation_psnr"]) and not (tmp_path / "run" / "best.json").exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda value: value.double() * 1e300, "not finite"),
        (lambda value: value.to(torch.int64), "torch.int64"),
        (lambda value: value.to(torch.complex64), "torch.complex64"),
        (lambda value: (value * math.nan).to(torch.float8_e4m3fn), "not finite"),
        (lambda value: value.to(torch.float8_e4m3fn), ""),
        (lambda value: value.to(torch.bfloat16), ""),
    ],
)
def test_weights_are_of_the_networks_kind_of_numbers_and_finite_in_it(change, says):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    with torch.no_grad():
        network[0].weight.fill_(0.5)
    stored = network.state_dict()
    stored["0.weight"] = change(stored["0.weight"].clone())
    if says:
        with pytest.raises(UserError, match=f"file: '0.weight' .*{says}"):
            load_weights(network, stored, "file")
    else:
        load_weights(network, stored, "file")
        assert torch.equal(network[0].weight, torch.full((4, 3, 3, 3), 0.5))
