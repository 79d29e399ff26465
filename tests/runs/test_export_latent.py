"""Exported graphs of runs with [latent]: encoder, walk between latents, decoder."""

import json
import threading

import numpy as np
import pytest
import torch
from exported import (
    Small,
    batches,
    by_onnxruntime,
    by_openvino,
    by_torch,
    check_bare,
    check_parity,
    inputs_of,
    need_onnx,
    page_function,
    plans,
    randomised,
    recipe,
    run_of,
)
from torch import nn
from torch.nn import functional

from i2i_bridge import UserError, export, load_run
from i2i_bridge.cli.command import main
from i2i_bridge.methods.latent import Latent
from i2i_bridge.networks.weights import weights_sha256
from i2i_bridge.randomness import generator
from i2i_bridge.registry import AUTOENCODERS
from i2i_bridge.runs.checkpoint import save_checkpoint
from i2i_bridge.storage.files import write_whole

SHIFT, SCALE = (0.3, -0.2, 0.1, 0.5), (0.5, 1.5, 0.8, 0.3)
"""Of each channel other ones, far from 0 and from the scale that changes nothing."""


class Coder(nn.Module):
    """Half the sides; the pixel shuffle of its decoder and the pooling of its encoder are no convolutions."""

    channels, factor = 4, 2

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 12, 3, padding=1)

    def encode(self, x):
        return functional.avg_pool2d(torch.tanh(self.encoder(x)), 2)

    def decode(self, latents):
        return torch.tanh(functional.pixel_shuffle(self.decoder(latents), 2))


def settings(encoder):
    return {"encoder": encoder, "channels": 4, "factor": 2, "shift": list(SHIFT), "scale": list(SCALE)}


def latent_run(coder=None, nfe=3, **changes):
    coder = randomised(Coder()) if coder is None else coder
    table = {"sample": {"nfe": nfe}, "latent": settings({"name": "run", "source": "/home/me/coder"})} | changes
    network = Small(4 if table.get("network", {}).get("condition_channels") else 0, 4)
    return run_of(network, coder=Latent(coder, SHIFT, SCALE), **table)


NOISE, INPAINT = {"name": "noise", "std": 0.3}, {"name": "inpaint", "mask": "center"}
CONDITIONED = {"name": "unet", "channels": 8, "channel_mult": [1], "blocks_per_level": 1, "condition_channels": 3}
INPAINTING = {
    "data": {"source": {"name": "paired_folders"}, "size": 16, "own_condition": True},
    "degradation": {"name": "inpaint", "mask": "center", "fill": "noise"},
    "network": CONDITIONED,
    "sample": {"nfe": 3, "sampler": {"name": "2m-sde"}, "clip": True},
}
"""All inputs at once. `clip` is of pixels, so that no latent is clipped."""


@pytest.fixture
def written():
    need_onnx()


def check_known_pixels(batch, x_0):
    known = (batch["mask"] < 0.5).expand_as(batch["x_1"]).numpy()
    assert np.array_equal(x_0[known], batch["x_1"].numpy()[known])


def test_mask_condition_and_noise(written, tmp_path):
    """All inputs at once, of graphs and of the page's walk; X_1 holds noise in its hole."""
    # kills: exported-latents-not-scaled, exported-latents-decoded-as-scaled, exported-latents-over-known-pixels
    # kills: exported-latents-not-decoded, exported-latents-forget-the-condition
    run = latent_run(**INPAINTING)
    files = export(run, tmp_path / "out")
    assert sorted(file.name for file in files) == [
        "decoder.onnx", "encoder.onnx", "export.json", "network.onnx", "restore-1.onnx", "restore-3.onnx",
        "weights.bin",
    ]  # fmt: skip
    about = json.loads((tmp_path / "out" / "export.json").read_text())
    assert about["state"] == {"channels": 4, "factor": 2} and about["stride"] == 8 and about["inputs"]["mask"] == 1
    assert about["latent"] == {"std": 0.5, "shift": list(SHIFT), "scale": list(SCALE)}
    assert "/home/me" not in json.dumps(about)
    one, three = plans(tmp_path / "out")
    assert three["draws"] > 0
    for batch in batches(run, masked=True, conditioned=True):
        holes = torch.randn(batch["x_1"].shape, generator=generator(1, "hole"))
        batch["x_1"] = torch.where(batch["mask"] > 0.5, holes, batch["x_1"])
        check_parity(run, tmp_path / "out", by_onnxruntime, batch, one)
        inputs, wanted = check_parity(run, tmp_path / "out", by_onnxruntime, batch, three)
        check_known_pixels(batch, wanted)
        height, width = batch["x_1"].shape[-2:]
        found = page_function("walk")(tmp_path / "out", **inputs)[..., :height, :width]
        assert np.abs(found - wanted).max() < 1e-4
        check_known_pixels(batch, found)
    check_bare(tmp_path / "out")


def test_latents_of_x_1_are_the_condition_and_noise_is_at_the_start(tmp_path):
    """As programs of torch; `source-noise` adds noise to the latents of X_1."""
    # kills: exported-noise-of-images
    process = {"process": {"name": "source-noise", "sigma_s": 0.4}, "target": {"name": "velocity"}}
    run = latent_run(nfe=2, network=CONDITIONED, **process)
    export(run, tmp_path / "out", format="torch")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "decoder.pt2", "encoder.pt2", "export.json", "network.pt2", "restore-1.pt2", "restore-2.pt2",
    ]  # fmt: skip
    two = plans(tmp_path / "out")[1]
    assert two["stages"][0]["start"]["noise"] == 0.4
    for batch in batches(run):
        check_parity(run, tmp_path / "out", by_torch, batch, two)


@pytest.fixture
def folder(tmp_path):
    """A run folder, with a run of method `autoencoder` as its copy."""
    first = recipe(
        method={"name": "autoencoder"}, network={"name": "autoencoder", "halvings": 1, "channels": 4}, degradation=NOISE
    )
    save(tmp_path / "mine" / "latent", first)
    encoder = {"name": "run", "source": str(tmp_path / "mine" / "latent")}
    sha256 = weights_sha256(AUTOENCODERS.build(encoder))
    network = {"name": "unet", "channels": 8, "channel_mult": [1], "blocks_per_level": 1}
    save(tmp_path / "mine", recipe(latent=settings(encoder) | {"sha256": sha256}, network=network, degradation=INPAINT))
    return tmp_path / "mine"


def save(folder, made):
    weights = randomised(made.build_network()).state_dict()
    save_checkpoint(folder / "checkpoints", 1, {"network": weights, "ema": weights}, {}, 1)
    write_whole(folder / "recipe.toml", made.to_toml().encode())


@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_the_command_on_a_run_folder(written, folder, format, capsys):
    """The package's autoencoder, whose weights are channels_last once they are loaded."""
    if format == "openvino":
        pytest.importorskip("openvino")
    out = folder.parent / "out"
    with pytest.raises(SystemExit) as ended:
        main(["export", str(folder), str(out), "--format", format, "--nfe", "2"])
    assert ended.value.code == 0 and "decoder" in capsys.readouterr().out
    run = load_run(folder, device="cpu")
    for batch in batches(run, masked=True):
        execute = by_onnxruntime if format == "onnx" else by_openvino
        check_parity(run, out, execute, batch, plans(out)[1])


def test_openvino_as_a_backend_computes_the_network_between_latents(folder):
    """And torch the autoencoder."""
    pytest.importorskip("openvino", reason="extra openvino")
    eager, run = (load_run(folder, device="cpu", backend=name) for name in ("eager", "openvino"))
    assert run.backend == "openvino"
    for batch in batches(run, masked=True):
        wanted, found = (one.restore_batch(batch, nfe=2, generator=generator(5, "noise")) for one in (eager, run))
        assert 0 < (found - wanted).abs().max() < 1e-4
        check_known_pixels(batch, found.numpy())


def test_regression_between_latents_is_one_call(written, tmp_path):
    run = latent_run(method={"name": "regression"})
    export(run, tmp_path / "out")
    (plan,) = plans(tmp_path / "out")
    for batch in batches(run):
        check_parity(run, tmp_path / "out", by_onnxruntime, batch, plan)


def test_the_pages_program_restores_and_draws_noise_of_latents(written, tmp_path):
    """(H, W, C) in and out, of odd sides; known pixels are the image's own."""
    # kills: the noise of the page's program in the shape of images
    changes = {
        "degradation": {"name": "inpaint", "mask": "center", "fill": "grey"},
        "sample": {"nfe": 3, "sampler": {"name": "ancestral"}},
    }
    run = latent_run(**changes)
    export(run, tmp_path / "out")
    (batch,) = [batch for batch in batches(run, masked=True) if batch["x_1"].shape[-1] == 17]
    one = {name: value[:1] for name, value in batch.items()}
    one["x_1"] = torch.where(one["mask"] > 0.5, 0.0, one["x_1"])
    plan = plans(tmp_path / "out")[-1]
    inputs = inputs_of(run, one, plan["draws"])
    inputs["noise"] = np.random.default_rng(3).standard_normal(inputs["noise"].shape, dtype=np.float32)
    wanted = by_onnxruntime(tmp_path / "out" / plan["graph"], inputs)[0, :, :13, :17].transpose(1, 2, 0)
    image, mask = batch["x_1"][0].numpy().transpose(1, 2, 0), one["mask"][0, 0].numpy()
    found = page_function("restore")(tmp_path / "out", image, mask, seed=3)
    assert np.abs(found - wanted).max() < 1e-6 and np.array_equal(found[mask < 0.5], image[mask < 0.5])


class Branching(Coder):
    def encode(self, x):
        return super().encode(x) if x.mean() > 0 else super().encode(-x)


class Locked(Coder):
    def __init__(self):
        super().__init__()
        self.session = threading.Lock()


@pytest.mark.parametrize(
    ("coder", "says"),
    [
        (Branching, r"encoder: torch\.export cannot trace it"),
        (Locked, r"autoencoder: Locked cannot be copied, and so not exported"),
    ],
)
def test_an_autoencoder_that_no_graph_can_be_of_is_one_line(tmp_path, coder, says):
    # kills: uncopied-autoencoder-is-a-traceback
    with pytest.raises(UserError, match=says) as error:
        export(latent_run(randomised(coder())), tmp_path / "out", format="torch")
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()
