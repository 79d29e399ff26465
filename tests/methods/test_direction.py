"""data.direction: sides exchanged, and one network for both directions."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from killing import photos, recipe_of
from PIL import Image
from torch import nn

from i2i_bridge.bridge.processes import I2SB, BrownianBridge, SourceNoise
from i2i_bridge.bridge.samplers import second_order_multistep
from i2i_bridge.bridge.targets import X0Target
from i2i_bridge.cli.command import main
from i2i_bridge.errors import UserError
from i2i_bridge.evaluation.evaluate import evaluate, open_evaluation
from i2i_bridge.images.pixels import Picture
from i2i_bridge.methods.bridge import Bridge
from i2i_bridge.recipe.load import parse_recipe
from i2i_bridge.runs.batch import to_batch
from i2i_bridge.runs.export import export
from i2i_bridge.runs.load import load_run
from i2i_bridge.runs.restore import restore_files
from i2i_bridge.training.init import recipe_from
from i2i_bridge.training.noise_size import unknown_rms
from i2i_bridge.training.trainer import train


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return photos(tmp_path_factory.mktemp("photos"))


def directed(recipe, direction, **tables):
    """The recipe with another direction, and changed keys of its tables."""
    table = recipe.model_dump(mode="json", exclude_none=True)
    table["data"]["direction"] = direction
    for name, changes in tables.items():
        table[name] = changes if "name" in changes else table.get(name, {}) | changes
    return parse_recipe(table, "tiny")


@pytest.fixture(scope="module")
def both(root, tmp_path_factory):
    """A run of one network for both directions, which sees X_1."""
    recipe = directed(recipe_of(root, data="paired", steps=2), "both", network={"condition_channels": 3})
    folder = tmp_path_factory.mktemp("both") / "run"
    train(recipe, folder)
    return load_run(folder)


def test_each_sample_draws_its_own_direction_and_only_that(root):
    """Half of the samples, by (seed, number) alone; crops, degradations and noise are those of the forward run."""
    # kills: one-direction-for-all, directions-uneven, direction-without-seed, directions-not-exchanged
    forward = recipe_of(root)
    data = directed(forward, "both").build_dataset("train")
    wanted = forward.build_dataset("train")
    drawn = []
    for number in range(400):
        sample, same = data.sample(number), wanted.sample(number)
        reverse = bool(sample["direction"][0, 0, 0])
        ends = ("x_1", "x_0") if reverse else ("x_0", "x_1")
        assert bool((sample["direction"] == float(reverse)).all()) and sample["direction"].shape == (1, 16, 16)
        assert torch.equal(sample["x_0"], same[ends[0]]) and torch.equal(sample["x_1"], same[ends[1]])
        drawn.append(reverse)
    assert abs(sum(drawn) - 200) < 50  # 5 standard deviations
    again = [bool(data.sample(number)["direction"].any()) for number in (399, 7, 0)]
    assert again == [drawn[399], drawn[7], drawn[0]]
    other = directed(recipe_of(root, seed=1), "both").build_dataset("train")
    assert [bool(other.sample(number)["direction"].any()) for number in range(64)] != drawn[:64]


def test_reverse_is_the_same_pairs_with_their_sides_exchanged(root):
    # kills: directions-not-exchanged
    for data in ("degradation", "paired"):
        forward = recipe_of(root, data=data)
        for split in ("train", "validation"):
            there, back = (directed(forward, way).build_dataset(split) for way in ("forward", "reverse"))
            for one, other in ((there[1], back[1]), (there.sample(5), back.sample(5))):
                assert torch.equal(one["x_0"], other["x_1"]) and torch.equal(one["x_1"], other["x_0"])
                assert "direction" not in one and "direction" not in other
    assert back.operator is None and there.operator is None  # pairs
    assert directed(recipe_of(root), "reverse").build_dataset("validation").operator is None
    assert recipe_of(root).build_dataset("validation").operator is not None


def test_in_reverse_the_network_is_not_shown_what_it_must_find(root):
    """The grey image that colorization gives as a condition is what its reverse looks for."""
    # kills: reverse-shows-the-answer
    recipe = directed(
        recipe_of(root), "reverse", degradation={"name": "colorization"}, network={"condition_channels": 3}
    )
    item = recipe.build_dataset("validation")[0]
    assert "condition" not in item
    forward = directed(recipe, "forward").build_dataset("validation")[0]
    assert "condition" in forward and torch.equal(forward["x_0"], item["x_1"])


class Gaussians(nn.Module):
    """E[target | X_t, source] of a Gaussian pair, in the direction that the last channel says; it keeps the states.

    X_0 ~ N(0.3, 0.5^2),  X_1 = 0.6 X_0 - 0.2 + 0.3 z.
    """

    def __init__(self, process):
        super().__init__()
        self.process, self.seen = process, []
        self.register_buffer("none", torch.zeros(1, dtype=torch.float64))

    @staticmethod
    def posterior(source, reverse):
        """Mean and variance of the target given the source."""
        var_0, gain, var_z = 0.25, 0.6, 0.09
        var_1 = gain**2 * var_0 + var_z
        if reverse:
            return gain * source - 0.2, var_z
        back = gain * var_0 / var_1
        return 0.3 + back * (source - (gain * 0.3 - 0.2)), var_0 - back * gain * var_0

    def forward(self, x_t, t, condition):
        self.seen.append((float(t[0]), x_t.clone()))
        source, direction = condition[:, :1], condition[:, 1:]
        a, b, c = (value.reshape(-1, 1, 1, 1) for value in self.process.coefficients(t))
        answers = []
        for reverse in (False, True):
            mean, variance = self.posterior(source, reverse)
            gain = b * variance / (b**2 * variance + c**2).clamp(min=1e-30)
            answers.append(mean + gain * (x_t - a * source - b * mean))
        return torch.where(direction > 0.5, answers[1], answers[0])


@pytest.mark.parametrize("process", [I2SB(1.0), BrownianBridge(0.6), SourceNoise(0.4)])
def test_from_either_end_the_walk_ends_at_the_conditional_law(process):
    """A forward and a reverse image in one batch, by the exact network; a source's noise is at the start of each."""
    # kills: direction-not-shown, direction-inverted
    draws = torch.Generator().manual_seed(0)
    pixels = 20_000
    x_0 = 0.3 + 0.5 * torch.randn(1, 1, 100, pixels // 100, generator=draws, dtype=torch.float64)
    x_1 = 0.6 * x_0 - 0.2 + 0.3 * torch.randn(x_0.shape, generator=draws, dtype=torch.float64)
    source = torch.cat([x_1, x_0])
    direction = torch.cat([torch.zeros_like(x_0), torch.ones_like(x_0)])
    network = Gaussians(process)
    bridge = Bridge(network, process, X0Target(), condition=True, sampler=second_order_multistep)
    batch = {"x_1": source, "direction": direction}
    *_, last = bridge.trajectory(batch, nfe=256, generator=[torch.Generator().manual_seed(i) for i in (1, 2)])
    for row, reverse in enumerate((False, True)):
        mean, variance = Gaussians.posterior(source[row], reverse)
        rest = last[row] - mean
        assert rest.mean().item() == pytest.approx(0, abs=5 * math.sqrt(variance / pixels))
        assert rest.var().item() == pytest.approx(variance, rel=0.05)
    if not isinstance(process, SourceNoise):
        # These processes are symmetric: a(1 - t) = b(t), c(1 - t) = c(t). So both walks are one path of states.
        states = dict(network.seen)
        for t in (0.25, 0.5, 0.75):
            there, back = states[t][0], states[1 - t][1]
            assert back.mean().item() == pytest.approx(there.mean().item(), abs=0.02)
            assert back.var().item() == pytest.approx(there.var().item(), rel=0.05)


def test_noise_and_moments_are_of_both_directions(root):
    # kills: noise-of-one-direction
    paired = recipe_of(root, data="paired")
    rms = {way: unknown_rms(directed(paired, way).build_dataset("train"))[0] for way in ("forward", "reverse", "both")}
    assert abs(rms["forward"] - rms["reverse"]) > 0.001
    assert rms["both"] == pytest.approx(math.sqrt((rms["forward"] ** 2 + rms["reverse"] ** 2) / 2), rel=1e-9)


def test_moments_of_both_directions_are_alike(root, tmp_path):
    # kills: moments-of-one-direction
    recipe = directed(recipe_of(root, data="paired", steps=1), "both", target={"name": "preconditioned"})
    train(recipe, tmp_path / "run")
    target = load_run(tmp_path / "run").recipe.target
    assert target["var_0"] == pytest.approx(target["var_1"], rel=1e-9)


def test_a_forward_run_can_become_one_of_both(root, tmp_path):
    """The direction's channel starts as zeros: at first both directions are what the source does."""
    # kills: direction-without-its-channel
    train(recipe_of(root, data="paired", steps=2, lr=0.05), tmp_path / "forward")
    source = load_run(tmp_path / "forward")
    train(
        recipe_from(tmp_path / "forward", ["data.direction=both", "train.steps=1", "train.lr=1e-12"]), tmp_path / "both"
    )
    run = load_run(tmp_path / "both")
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    wanted = source.restore(image, nfe=1).astype(int)
    for direction in ("forward", "reverse"):
        assert abs(run.restore(image, nfe=1, direction=direction).astype(int) - wanted).max() <= 1


def test_restoring_in_reverse_takes_a_clean_image_as_it_is(root):
    """No enlargement, no degradation: the picture is of the kind of X_0."""
    # kills: reverse-prepares-its-input, restored-forward-only
    recipe = directed(recipe_of(root), "both", degradation={"name": "downsample", "factor": 4})
    picture = Picture(np.full((8, 8, 3), 255, np.uint8))
    draws = [torch.Generator().manual_seed(0)]
    back = to_batch(recipe, picture, None, None, draws, "reverse")
    assert back["x_1"].shape == (1, 3, 8, 8) and bool((back["x_1"] == 1).all())
    assert bool((back["direction"] == 1).all()) and back["direction"].shape == (1, 1, 8, 8)
    forward = to_batch(recipe, picture, None, None, draws)
    assert forward["x_1"].shape == (1, 3, 32, 32) and not forward["direction"].any()


def test_files_arrays_and_the_command_go_the_same_way(both, root, tmp_path, capsys):
    # kills: restored-forward-only, files-restored-forward-only, directions-share-results
    file = root / "clean" / "val" / "00.png"
    array = np.asarray(Image.open(file))
    there, back = (both.restore(array, nfe=2, direction=way) for way in ("forward", "reverse"))
    assert not np.array_equal(there, back) and np.array_equal(both.restore(array, nfe=2), there)
    restore_files(both, file, tmp_path / "a.png", nfe=2, direction="reverse")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png")), back)
    command = ["restore", str(both.folder), str(file), str(tmp_path / "b.png"), "--nfe", "2", "--direction", "reverse"]
    with pytest.raises(SystemExit) as ended:
        main(command)
    assert not ended.value.code
    assert np.array_equal(np.asarray(Image.open(tmp_path / "b.png")), back)
    # A folder's results of one direction are not taken for those of the other.
    for way in ("forward", "reverse"):
        assert restore_files(both, file.parent, tmp_path / "c", nfe=1, direction=way).written == 3
    capsys.readouterr()


def test_an_evaluation_is_of_one_direction_and_says_so(both, tmp_path):
    # kills: protocol-silent-about-the-direction, evaluates-forward-only
    there = open_evaluation(both.recipe)
    back = open_evaluation(both.recipe, direction="reverse")
    assert "direction" not in there.rules.settings and there.rules.hash != back.rules.hash
    assert back.rules.settings["direction"] == "reverse"
    one, other = there.dataset[0], back.dataset[0]
    assert torch.equal(one["x_0"], other["x_1"]) and not one["direction"].any() and bool(other["direction"].all())
    scored = evaluate(
        both, nfe=[1], metrics=["psnr"], direction="reverse", out=tmp_path / "back", report=lambda *_: None
    )
    assert scored.protocol.settings["direction"] == "reverse"
    forward = evaluate(both, nfe=[1], metrics=["psnr"], out=tmp_path / "there", report=lambda *_: None)
    values = [[row.metrics["psnr"].value for row in result.rows] for result in (forward, scored)]
    assert values[0][0] == pytest.approx(values[1][0])  # the input's PSNR is the same from both sides
    assert values[0][1] != values[1][1]


def test_what_has_one_direction_refuses_the_other_in_one_line(both, root, tmp_path, capsys):
    forward = recipe_of(root)
    run = replace(both, recipe=forward)
    image = np.zeros((16, 16, 3), np.uint8)
    with pytest.raises(UserError, match="direction 'reverse': recipe 'tiny' learns 'forward' only; train it with data"):
        run.restore(image, direction="reverse")
    with pytest.raises(UserError, match="learns 'reverse' only"):
        directed(forward, "reverse").is_reverse("forward")
    with pytest.raises(UserError, match="direction 'back': give 'forward' or 'reverse'"):
        both.restore(image, direction="back")
    with pytest.raises(UserError, match="--degrade makes X_1"):
        restore_files(both, root / "clean", tmp_path / "out", degrade=True, direction="reverse")
    with pytest.raises(UserError, match="direction 'reverse' needs --out FOLDER"):
        evaluate(both, direction="reverse", report=lambda *_: None)
    with pytest.raises(UserError, match="learns both directions; only runs of one direction can be exported"):
        export(both, tmp_path / "exported")
    for way in ("reverse", "both"):
        with pytest.raises(UserError, match=r"sample\.guidance .* is for data\.direction = 'forward'"):
            directed(forward, way, sample={"guidance": {"name": "ddnm"}}, degradation={"name": "downsample"})
    with pytest.raises(UserError, match="network 'spandrel' has no condition_channels"):
        directed(forward, "both", network={"name": "spandrel", "architecture": "SwinIR"})
    with pytest.raises(SystemExit) as ended:
        main(["restore", str(both.folder), "a.png", "b.png", "--direction", "sideways"])
    assert ended.value.code == 2
    assert capsys.readouterr().err.strip().endswith("--direction sideways: give forward or reverse")


@pytest.mark.parametrize("method", ["regression", "pix2pix", "palette"])
def test_every_method_learns_both(root, tmp_path, method):
    """Their networks have the channel, and what they give depends on it once it has learned."""
    recipe = recipe_of(root, data="paired", method="pix2pix" if method == "pix2pix" else "bridge", steps=2, lr=0.05)
    if method == "palette":
        palette = {
            "process": {"name": "gaussian-prior"},
            "target": {"name": "eps"},
            "network": {"condition_channels": 3},
        }
        recipe = directed(recipe, "both", **palette)
    else:
        recipe = directed(recipe, "both", method=recipe.method | {"name": method})
    train(recipe, tmp_path / "run")
    run = load_run(tmp_path / "run")
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    there, back = (run.restore(image, nfe=2, direction=way) for way in ("forward", "reverse"))
    assert not np.array_equal(there, back)
    assert json.loads(run.recipe.model_dump_json())["data"]["direction"] == "both"
