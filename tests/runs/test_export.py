"""Exported graphs give what the run itself gives, and the page that runs them runs.

Parity is 1e-4 at the most, in float32, on sides that are multiples of the stride, on odd ones and on tiny ones.
"""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from exported import (
    PAGE,
    SCRIPTS,
    Small,
    batches,
    by_onnxruntime,
    by_openvino,
    by_torch,
    check_bare,
    check_parity,
    need_onnx,
    page_function,
    plans,
    randomised,
    recipe,
    run_of,
)
from PIL import Image
from torch import nn

from i2i_bridge import UserError, export, load_run
from i2i_bridge.bridge.processes import I2SB
from i2i_bridge.bridge.targets import I2SBTarget
from i2i_bridge.cli.command import main
from i2i_bridge.methods.mean import Mean
from i2i_bridge.methods.pix2pix import Pix2pix
from i2i_bridge.methods.regression import Regression
from i2i_bridge.randomness import generator
from i2i_bridge.recipe.load import parse_recipe
from i2i_bridge.runs import export as exports
from i2i_bridge.runs.batch import image_facts
from i2i_bridge.runs.checkpoint import save_checkpoint
from i2i_bridge.storage.files import write_whole


@pytest.fixture
def written():
    need_onnx()


def test_a_bridge_from_a_mean_with_mask_and_condition(written, tmp_path):
    """All inputs and both networks at once: graphs, and the page's walk over the networks."""
    # kills: exported-mask-inverted, exported-time-of-the-first-call, exported-noise-repeated
    mean = Mean(Regression(randomised(Small(3)), I2SB(), I2SBTarget(), condition=True))
    run = run_of(
        mean=mean,
        data={"source": {"name": "paired_folders"}, "size": 16, "own_condition": True},
        degradation={"name": "inpaint", "mask": "center"},
        network={"name": "unet", "channels": 8, "channel_mult": [1], "blocks_per_level": 1, "condition_channels": 3},
        sample={"nfe": 3, "sampler": {"name": "2m-sde"}, "clip": True},
    )
    files = export(run, tmp_path / "out")
    names = ["export.json", "mean.onnx", "network.onnx", "restore-1.onnx", "restore-3.onnx", "weights.bin"]
    assert sorted(file.name for file in files) == sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    one, three = plans(tmp_path / "out")
    for batch in batches(run, masked=True, conditioned=True):
        check_parity(run, tmp_path / "out", by_onnxruntime, batch, one)
        inputs, wanted = check_parity(run, tmp_path / "out", by_onnxruntime, batch, three)
        height, width = batch["x_1"].shape[-2:]
        found = page_function("walk")(tmp_path / "out", **inputs)[..., :height, :width]
        assert np.abs(found - wanted).max() < 1e-4
    check_bare(tmp_path / "out")


@pytest.mark.parametrize("two_stages", [False, True])
def test_x_1_as_the_condition_is_another_input_than_x_t(written, tmp_path, two_stages):
    """Of several calls, and of a network alone: after the first call x_t is no longer X_1."""
    # kills: condition-is-the-state
    mean = Mean(Regression(randomised(Small(3)), I2SB(), I2SBTarget(), condition=True)) if two_stages else None
    network = {"name": "unet", "channels": 8, "channel_mult": [1], "blocks_per_level": 1, "condition_channels": 3}
    run = run_of(mean=mean, network=network, sample={"nfe": 3})
    export(run, tmp_path / "out")
    one, three = plans(tmp_path / "out")
    for batch in batches(run):
        check_parity(run, tmp_path / "out", by_onnxruntime, batch, one)
        inputs, wanted = check_parity(run, tmp_path / "out", by_onnxruntime, batch, three)
        height, width = batch["x_1"].shape[-2:]
        assert np.abs(page_function("walk")(tmp_path / "out", **inputs)[..., :height, :width] - wanted).max() < 1e-4
    export(run, tmp_path / "torch", format="torch", nfe=1)
    x_t, condition = (torch.rand(2, 3, 16, 20, generator=generator(i, "export")) for i in range(2))
    t = torch.full((2,), 0.7, dtype=torch.float64)
    program = torch.export.load(tmp_path / "torch" / "network.pt2").module()
    with torch.no_grad():
        wanted = run.method.network(x_t, t, condition)
        assert float((program(x_t=x_t, t=t, condition=condition) - wanted).abs().max()) < 1e-4


def test_the_unet_with_attention_on_three_sizes(written, tmp_path):
    # kills: a normalisation, attention or resampling of the network that the graph computes otherwise
    network = {"name": "unet", "channels": 8, "channel_mult": [1, 2], "blocks_per_level": 1, "attention_factors": [2]}
    run = run_of(network=network)
    export(run, tmp_path / "out")
    for batch in batches(run):
        for plan in plans(tmp_path / "out"):
            check_parity(run, tmp_path / "out", by_onnxruntime, batch, plan)


def test_pix2pix_with_running_statistics(written, tmp_path):
    network = {"name": "pix2pix-unet", "levels": 2, "channels": 4}
    run = run_of(method={"name": "pix2pix", "inference": "eval"}, network=network)
    assert isinstance(run.method, Pix2pix)
    with pytest.raises(UserError, match="nfe 5: method 'pix2pix' answers in one call"):
        export(run, tmp_path / "out", nfe=5)
    export(run, tmp_path / "out")
    (plan,) = plans(tmp_path / "out")
    for batch in batches(run):
        check_parity(run, tmp_path / "out", by_onnxruntime, batch, plan)


def test_torch_programs_are_loaded_without_the_package(tmp_path):
    run = run_of(Small())
    export(run, tmp_path / "out", format="torch")

    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "export.json", "network.pt2", "restore-1.pt2", "restore-2.pt2",
    ]  # fmt: skip
    for batch in batches(run):
        check_parity(run, tmp_path / "out", by_torch, batch, plans(tmp_path / "out")[1])


def test_openvino(written, tmp_path):
    pytest.importorskip("openvino")
    run = run_of(Small())
    export(run, tmp_path / "out", format="openvino")

    for batch in batches(run):
        check_parity(run, tmp_path / "out", by_openvino, batch, plans(tmp_path / "out")[1])


def test_the_page_as_it_stands(written, tmp_path, monkeypatch, capsys):
    """Its commands and its program, without torch, on a photo of odd size."""
    # kills: a page that fell behind: a verb, option, file, key or input that changed
    monkeypatch.chdir(tmp_path)
    made = recipe(process={"name": "flow"}, target={"name": "velocity"}, degradation={"name": "sr4x"})
    weights = randomised(made.build_network()).state_dict()
    save_checkpoint(Path("runs/mine/checkpoints"), 1, {"network": weights, "ema": weights}, {}, 1)
    write_whole(Path("runs/mine/recipe.toml"), made.to_toml().encode())
    pixels = np.random.default_rng(0).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    np.save("photo.npy", pixels)
    lines = [
        line for text in re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL) for line in text.splitlines()
    ]
    for name, text in SCRIPTS.items():
        assert len(text.splitlines()) <= 40
        assert set(re.findall(r"^(?:import|from) (\w+)", text, re.MULTILINE)) <= {
            "json",
            "sys",
            "pathlib",
            "numpy",
            "onnxruntime",
        }
        Path(name).write_text(text)
    for line in lines:
        words = line.partition("#")[0].split()
        if words[0] == "i2i-bridge":
            with pytest.raises(SystemExit) as ended:
                main(words[1:])
            assert ended.value.code == 0 and "restore-5.onnx" in capsys.readouterr().out
        elif words[0] == "python":
            code = "import sys, runpy; sys.modules['torch'] = None; sys.argv = sys.argv[1:]; "
            code += "runpy.run_path(sys.argv[0], run_name='__main__')"
            subprocess.run([sys.executable, "-c", code, *words[1:]], check=True)
    wanted = np.asarray(load_run("runs/mine").restore(Image.fromarray(pixels), nfe=5))
    found = np.load("restored.npy")
    assert found.shape == wanted.shape == (28, 36, 3)
    assert np.abs(found.astype(int) - wanted.astype(int)).max() <= 1 and (found == wanted).mean() > 0.99


def test_image_facts_are_those_of_the_degradation():
    # kills: fill-of-a-hole-guessed
    facts = {
        ("sr4x", None): (4, "repeat", None), ("colorization", None): (1, "other", None),
        ("inpaint", "noise"): (1, "image", "noise"), ("inpaint", "white"): (1, "image", 1.0),
        ("inpaint", "grey"): (1, "image", 0.0),
    }  # fmt: skip
    for (name, fill), wanted in facts.items():
        options = {"condition_channels": 3} if name == "colorization" else {}
        network = {"name": "unet", "channels": 8, "channel_mult": [1], "blocks_per_level": 1} | options
        made = recipe(degradation={"name": name} | ({} if fill is None else {"fill": fill}), network=network)
        assert tuple(image_facts(made).values()) == wanted
    # Pairs of two sizes: the loader repeats pixels or interpolates.
    pairs = {"source": {"name": "paired_folders"}, "size": 16, "factor": 4}
    for enlarge, x_1 in (("nearest", "repeat"), ("bicubic", "other")):
        table = recipe().model_dump(exclude_none=True, exclude={"degradation"})
        made = parse_recipe(table | {"data": pairs | {"enlarge": enlarge}}, "pairs")
        assert tuple(image_facts(made).values()) == (4, x_1, None)


def test_another_folder_is_not_overwritten_and_an_export_is(tmp_path):
    # kills: export-over-other-files
    members = [
        {"name": "jpeg", "quality": 50},
        {"name": "inpaint", "mask": "folder", "folder": "/home/me/masks"},
        {"name": "inpaint", "mask": "folder", "folder": "../secret/masks"},
    ]
    run, out = run_of(Small(), degradation={"name": "compose", "degradations": members}), tmp_path / "out"
    out.mkdir()
    export(run, out, format="torch", nfe=1)
    assert not re.search("home|secret", (out / "export.json").read_text())
    assert sorted(path.name for path in out.iterdir()) == ["export.json", "network.pt2", "restore-1.pt2"]
    said = []
    export(run, out, format="torch", nfe=9, say=said.append)
    assert any("no graph of 9 calls" in line for line in said)
    assert [plan["graph"] for plan in plans(out)] == ["restore-1.pt2", None]
    before = sorted((path.name, path.read_bytes()) for path in out.iterdir())
    (out / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds other files than an export \(mine.txt\); give another folder"):
        export(run, out, format="torch", nfe=1)
    (out / "mine.txt").unlink()
    assert sorted((path.name, path.read_bytes()) for path in out.iterdir()) == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file; give a folder"):
        export(run, tmp_path / "file", format="torch")


def test_refusals_are_one_line(tmp_path, monkeypatch):
    run = run_of(Small())
    for options, says in (
        ({"format": "onx"}, "format 'onx' is unknown; did you mean 'onnx'"),
        ({"nfe": 0}, "nfe 0: give a number from 1 to 1000"),
        ({"nfe": 1001}, "nfe 1001: give a number from 1 to 1000"),
    ):
        with pytest.raises(UserError, match=says):
            export(run, tmp_path / "out", **({"format": "torch"} | options))
    monkeypatch.setattr(exports, "find_spec", lambda name: None)
    for format, says in (
        ("onnx", r"onnx needs onnx and onnxscript: pip install 'i2i-bridge\[export\]'"),
        ("openvino", r"openvino needs onnx and onnxscript and openvino: pip install 'i2i-bridge\[openvino\]'"),
    ):
        with pytest.raises(UserError, match=says):
            export(run, tmp_path / "out", format=format)
    assert not (tmp_path / "out").exists()


class Stubborn(nn.Module):
    """A network whose operations depend on the values of its input."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x_t, t, condition):
        return x_t * self.scale if x_t.mean() > 0 else x_t


def test_a_network_that_cannot_be_traced_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"network: torch\.export cannot trace it"):
        export(run_of(Stubborn()), tmp_path / "out", format="torch")
    assert not (tmp_path / "out").exists()
