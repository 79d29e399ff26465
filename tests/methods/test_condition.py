"""Condition and class label: their dropout in training, their scale in sampling, and their way from data to network."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from i2i_bridge import load_recipe, load_run, method_preset, restore_files
from i2i_bridge.bridge.predictor import NO_LABEL, absent, predictor
from i2i_bridge.bridge.processes import I2SB
from i2i_bridge.bridge.targets import I2SBTarget
from i2i_bridge.cli.command import main
from i2i_bridge.data.loader import collate
from i2i_bridge.data.sources.folders import PairedFolders
from i2i_bridge.errors import UserError
from i2i_bridge.evaluation.evaluate import evaluate
from i2i_bridge.methods.base import with_dropout
from i2i_bridge.methods.factory import build_method
from i2i_bridge.methods.mean import network_calls
from i2i_bridge.networks.unet import UNet
from i2i_bridge.randomness import generator
from i2i_bridge.recipe.load import parse_recipe
from i2i_bridge.runs.plan import plan_of
from i2i_bridge.training.trainer import train

SMALL = {"name": "unet", "channels": 8, "channel_mult": [1], "blocks_per_level": 1}


def recipe_of(root, network, **changes):
    table = {
        "name": "small",
        "summary": "a small one",
        "task": "restoration",
        "data": {"root": str(root), "source": {"name": "class_folders"}, "size": 8, "resize": "none", "flip": False},
        "degradation": {"name": "noise", "std": 0.3},
        "network": SMALL | network,
        "train": {"steps": 2, "batch_size": 4, "lr": 0.05, "workers": 0, "precision": "fp32"},
        "sample": {"nfe": 2},
        "evaluate": {"metrics": ["psnr"], "nfe": [2]},
    }
    return parse_recipe(table | changes, "small")


@pytest.fixture
def root(tmp_path):
    """Class folders of grey squares: 'dark' is 0, 'light' is 1."""
    for split in ("train", "val"):
        for number, name in enumerate(("dark", "light")):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for i in range(2):
                Image.new("RGB", (8, 8), (60 + 120 * number + i,) * 3).save(folder / f"{i}.png")
    return tmp_path / "photos"


class Recorded(torch.nn.Module):
    """F = 2 t + condition + label, and its calls."""

    casts_inputs = True

    def __init__(self):
        super().__init__()
        self.calls = []

    def forward(self, x_t, t, condition=None, label=None):
        self.calls.append((condition, label))
        output = (2 * t)[:, None, None, None].float() + torch.zeros_like(x_t)
        output = output if condition is None else output + condition.mean(1, keepdim=True)
        return output if label is None else output + label[:, None, None, None]


def test_the_share_of_samples_without_condition_is_keyed_by_their_numbers(rng):
    """kills: dropout-of-all-or-none, dropout-not-keyed, dropout-keeps-the-label"""
    condition, label = torch.randn(4000, 1, 2, 2, generator=rng), torch.arange(4000) % 7
    numbers = torch.arange(100, 4100)
    images, classes = with_dropout(condition, label, share=0.2, seed=3, numbers=numbers)
    gone = (images == 0).all((1, 2, 3))
    assert abs(int(gone.sum()) - 800) < 4 * (4000 * 0.2 * 0.8) ** 0.5
    assert torch.equal(gone, classes == NO_LABEL), "a sample loses both or neither"
    assert torch.equal(images[~gone], condition[~gone]) and torch.equal(classes[~gone], label[~gone])
    part = slice(1000, 1010)
    again, _ = with_dropout(condition[part], label[part], share=0.2, seed=3, numbers=numbers[part])
    assert torch.equal(again, images[part]), "by number, whatever else is in the batch"
    other, _ = with_dropout(condition, label, share=0.2, seed=4, numbers=numbers)
    assert not torch.equal((other == 0).all((1, 2, 3)), gone)
    assert with_dropout(None, None, share=0.5, seed=0, numbers=numbers) == (None, None)


def test_training_drops_in_losses_and_sampling_never(root, rng):
    """kills: dropout-forgotten-in-training"""
    recipe = recipe_of(root, {"condition_channels": 3, "condition_dropout": 0.5})
    network = Recorded()
    method = build_method(recipe, network)
    x = torch.rand(64, 3, 8, 8, generator=rng) + 0.5
    batch = {"x_0": x, "x_1": x, "number": torch.arange(64)}
    draws = [generator(0, "test", i) for i in range(64)]
    list(method.losses(batch, draws))
    list(method.trajectory(batch, nfe=2, generator=draws))
    (seen, _), *sampled = network.calls
    kept = (seen != 0).all((1, 2, 3))
    assert 16 < int(kept.sum()) < 48 and torch.equal(seen[kept], x[kept]) and not seen[~kept].any()
    assert all(torch.equal(condition, x) for condition, _ in sampled) and len(sampled) == 2


def test_the_scale_combines_two_calls_linearly(rng):
    """kills: scale-around-the-condition, scale-without-the-null, scale-one-in-two-calls"""
    x, condition = torch.randn(2, 2, 3, 4, 4, generator=rng, dtype=torch.float64)
    label, t = torch.tensor([0, 5]), torch.full((2,), 0.5, dtype=torch.float64)
    process, target = I2SB(), I2SBTarget()

    def predicted(scale, **inputs):
        network = Recorded()
        predict_x0 = predictor(network, process, target, x, condition_scale=scale, **inputs)
        return predict_x0(x, t), network.calls

    both = {"condition": condition, "label": label}
    with_both, calls = predicted(1.0, **both)
    assert len(calls) == 1 and calls[0][0] is condition and calls[0][1] is label
    without, calls = predicted(0.0, **both)
    assert len(calls) == 1 and not calls[0][0].any() and calls[0][1].tolist() == [NO_LABEL] * 2
    assert torch.equal(without, predicted(1.0, condition=absent(condition, label)[0], label=absent(None, label)[1])[0])
    for scale in (0.5, 1.5, 3.0):
        found, calls = predicted(scale, **both)
        assert len(calls) == 2
        torch.testing.assert_close(found, without + scale * (with_both - without), rtol=1e-12, atol=1e-12)


def test_network_calls_count_both(root, tmp_path):
    """kills: scale-counted-once"""
    recipe = recipe_of(root, {"classes": 2, "condition_dropout": 0.3}, sample={"nfe": 2, "condition_scale": 1.5})
    method = build_method(recipe, recipe.build_network())
    assert network_calls(method, 3) == 6
    once = build_method(recipe_of(root, {"classes": 2}), recipe.build_network())
    assert network_calls(once, 3) == 3
    train(recipe, tmp_path / "run", cpu=True)
    run = load_run(tmp_path / "run", device="cpu")
    counts = []
    run.restore(Image.new("RGB", (8, 8)), label=1, report=lambda done, total: counts.append((done, total)))
    assert counts[-1] == (4, 4)
    row = evaluate(run, nfe=[2], metrics=["psnr"]).rows[-1]
    assert (row.name, row.nfe) == ("nfe 2", 4)


def test_a_label_changes_the_output_and_none_is_none(rng):
    """kills: label-without-effect, no-label-is-the-first"""
    network = UNet(channels=8, channel_mult=(1,), blocks_per_level=1, classes=3)
    for parameter in network.parameters():  # the last layer starts at 0
        torch.nn.init.normal_(parameter, std=0.3, generator=rng)
    x, t = torch.randn(1, 3, 8, 8, generator=rng), torch.ones(1)
    plain = UNet(channels=8, channel_mult=(1,), blocks_per_level=1)
    plain.load_state_dict({name: value for name, value in network.state_dict().items() if "label" not in name})
    outputs = [network(x, t, None, torch.tensor([label])) for label in (0, 1, 2, NO_LABEL)]
    assert all(not torch.allclose(a, b) for i, a in enumerate(outputs) for b in outputs[:i])
    torch.testing.assert_close(outputs[-1], plain(x, t))
    both = network(x.repeat(2, 1, 1, 1), t.repeat(2), None, torch.tensor([2, NO_LABEL]))
    torch.testing.assert_close(both, torch.cat([outputs[2], outputs[3]]))
    for label in (None, torch.zeros(2, dtype=torch.long)):
        with pytest.raises(ValueError, match="label has shape"):
            network(x, t, None, label)


def test_labels_go_from_folders_to_restored_images(root, tmp_path, capsys, monkeypatch):
    """kills: label-lost-in-restoring"""
    recipe = recipe_of(root, {"classes": 2, "condition_dropout": 0.2}, train={"steps": 20, "batch_size": 4, "lr": 0.05,
                       "workers": 0, "precision": "fp32"})  # fmt: skip
    train(recipe, tmp_path / "run", cpu=True)
    run = load_run(tmp_path / "run", device="cpu")
    grey = Image.new("RGB", (10, 9), (120,) * 3)
    dark, light = (np.asarray(run.restore(grey, label=label)) for label in (0, 1))
    assert dark.shape == (9, 10, 3) and not np.array_equal(dark, light)
    (tmp_path / "grey").mkdir()
    grey.save(tmp_path / "grey" / "a.png")
    for label, expected in ((0, dark), (1, light)):  # also another label is another setting of the same folder
        restore_files(run, tmp_path / "grey", tmp_path / "out", label=label)
        assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / "a.png")), expected)
    monkeypatch.chdir(tmp_path)
    for words, wrong in (
        ([], "recipe 'small' needs a label, 0 to 1 (network.classes)"),
        (["--label", "2"], "label 2: network.classes is 2, so labels are 0 to 1"),
        (["--label", "-1"], "'--label'"),
        (["--label", "1", "--set", "sample.condition_scale=101"], "sample.condition_scale"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["restore", "run", "grey/a.png", "b.png", "--device", "cpu", *words])
        err = capsys.readouterr().err
        assert ended.value.code == 2 and wrong in err and err.count("\n") == 1, err
    with pytest.raises(UserError, match=r"network\.classes: export knows no class labels"):
        plan_of(run.method, 2)
    plain = load_run(tmp_path / "run", device="cpu", sample=["sample.condition_scale=1"])
    assert np.array_equal(np.asarray(plain.restore(grey, label=1)), light), "1 is as without it, to the last bit"
    with pytest.raises(UserError, match="takes no label"):
        recipe_of(root, {}).check_label(0)


def test_a_label_out_of_range_is_one_line(root):
    """kills: label-out-of-range-trained"""
    dataset = recipe_of(root, {"classes": 1}).build_dataset("train")
    with pytest.raises(UserError, match=r"light/0.png: its label is 1, but network.classes is 1, so labels are 0 to 0"):
        [dataset[i] for i in range(len(dataset))]
    unlabelled = recipe_of(root, {"classes": 2}, data={"root": str(root), "source": {"name": "images"}, "size": 8})
    with pytest.raises(UserError, match=r"it has no label, but network\.classes is 2"):
        unlabelled.build_dataset("train")[0]
    assert "label" in recipe_of(root, {}).build_dataset("train")[0], "without classes a label is for metrics"


REFUSED = [
    ({"condition_dropout": 0.1}, {}, "there is nothing to drop"),
    ({"condition_channels": 3, "condition_dropout": 1.0}, {}, "outside [0, 1)"),
    ({"classes": -1}, {}, "classes -1"),
    ({"condition_channels": 3}, {"sample": {"condition_scale": 2.0}}, "network.condition_dropout is 0"),
    (
        {"condition_channels": 3, "condition_dropout": 0.1},
        {"method": {"name": "regression"}},
        "condition_dropout is for bridges",
    ),
    ({"classes": 3}, {"method": {"name": "pix2pix"}}, "method 'pix2pix' gives its network no label"),
]


@pytest.mark.parametrize("network,changes,words", REFUSED)
def test_what_does_not_fit_is_one_line(root, network, changes, words):
    with pytest.raises(UserError) as caught:
        recipe = recipe_of(root, network, **changes)
        build_method(recipe, recipe.build_network())
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_presets_of_other_methods_leave_the_dropout_out(tmp_path):
    words = ["network.condition_channels=3", "network.condition_dropout=0.1", "sample.condition_scale=1.5"]
    file = tmp_path / "mine.toml"
    file.write_text(load_recipe("demo/deblur", words).to_toml())
    for name in ("palette", "flow"):
        recipe = load_recipe(file, preset=method_preset(name))
        assert recipe.network["condition_dropout"] == 0.1 and recipe.sample.condition_scale == 1.5
    for name in ("regression", "pix2pix", "ddnm"):
        recipe = load_recipe(file, preset=method_preset(name))
        assert "condition_dropout" not in recipe.network and recipe.sample.condition_scale is None


@pytest.mark.parametrize("channels,mode", [(1, "L"), (5, None)])
def test_a_third_folder_of_conditions_of_any_channels(tmp_path, channels, mode):
    """kills: conditions-of-other-pairs, own-condition-lost-in-reverse"""
    for side in ("x_0", "x_1", "map"):
        (tmp_path / "pairs" / side).mkdir(parents=True)
    for i in range(3):
        for side in ("x_0", "x_1"):
            Image.new("RGB", (8, 8), (40 * i,) * 3).save(tmp_path / "pairs" / side / f"{i}.png")
        if mode is not None:
            Image.new(mode, (8, 8), 50 + i).save(tmp_path / "pairs" / "map" / f"{i}.png")
        else:
            tifffile = pytest.importorskip("tifffile")

            five = np.full((8, 8, 5), 50 + i, np.uint8)
            layout = {"photometric": "minisblack", "planarconfig": "contig"}
            tifffile.imwrite(tmp_path / "pairs" / "map" / f"{i}.tif", five, **layout)
    source = {"name": "paired_folders", "root": str(tmp_path / "pairs"), "x_0": "x_0", "x_1": "x_1", "condition": "map"}
    data = {"source": source, "size": 8, "resize": "none", "own_condition": True}
    recipe = recipe_of(tmp_path, {"condition_channels": channels}, data=data, degradation=None)
    dataset = recipe.build_dataset("train")
    for i in range(3):
        item = dataset[i]
        assert item["condition"].shape == (channels, 8, 8)
        assert torch.allclose(item["condition"], torch.tensor((50 + i) / 127.5 - 1))
    back = recipe_of(tmp_path, {"condition_channels": channels}, data=data | {"direction": "reverse"}, degradation=None)
    assert torch.equal(back.build_dataset("train")[1]["condition"], dataset[1]["condition"])
    method = build_method(recipe, recipe.build_network())
    batch = collate([dataset[0], dataset[1]])
    ((name, loss),) = method.losses(batch, [generator(0, "a"), generator(0, "b")])
    assert name == "network" and bool(loss.isfinite())
    next((tmp_path / "pairs" / "map").glob("1.*")).unlink()
    with pytest.raises(UserError, match="map: no condition image for 1 of 3 pairs: 1"):
        PairedFolders(tmp_path / "pairs", "x_0", "x_1", "train", condition="map")
    with pytest.raises(UserError, match="none: no such folder"):
        PairedFolders(tmp_path / "pairs", "x_0", "x_1", "train", condition="none")


def test_old_recipes_and_fingerprints_stay(root):
    recipe = recipe_of(root, {})
    assert "condition_scale" not in recipe.to_toml()
    assert json.loads(json.dumps(recipe.model_dump(mode="json")))["sample"]["condition_scale"] is None
