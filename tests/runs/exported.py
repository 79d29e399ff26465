"""Runs for the tests of export, and what their graphs must give."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from i2i_bridge.methods.factory import build_method
from i2i_bridge.methods.geometry import method_geometry, pad_to_stride
from i2i_bridge.methods.latent import latent_of
from i2i_bridge.networks.openvino import signal_stack_kept
from i2i_bridge.randomness import generator
from i2i_bridge.recipe.load import parse_recipe
from i2i_bridge.runs.run import Run

PAGE = (Path(__file__).parents[2] / "docs/export.md").read_text(encoding="utf-8")
SCRIPTS = dict(re.findall(r"^```python\n# (\w+\.py)\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL))
SIZES = [(16, 24), (13, 17), (3, 5)]


class Small(nn.Module):
    """One convolution: graphs of a few operations, written in a second."""

    stride = 4

    def __init__(self, condition_channels=0, channels=3):
        super().__init__()
        self.conv = nn.Conv2d(channels + condition_channels, channels, 3, padding=1)

    def forward(self, x_t, t, condition):
        seen = x_t if condition is None else torch.cat([x_t, condition], dim=1)
        return torch.tanh(self.conv(seen)) + torch.sin(t)[:, None, None, None]


def recipe(**changes):
    table = {
        "name": "small", "summary": "a test", "task": "restoration", "data": {"source": {"name": "images"}, "size": 16},
        "degradation": {"name": "noise", "std": 0.3}, "train": {"steps": 1}, "sample": {"nfe": 2},
        "network": {"name": "unet", "channels": 8, "channel_mult": [1, 2], "blocks_per_level": 1},
    }  # fmt: skip
    return parse_recipe(table | changes, "small")


def randomised(network):
    for name, value in network.state_dict().items():
        if value.is_floating_point():
            value.copy_(torch.randn(value.shape, generator=generator(0, "weights", name)) * 0.15)
            if "var" in name:
                value.abs_().add_(0.5)
    return network.eval().requires_grad_(False)


def run_of(module=None, mean=None, coder=None, **changes):
    """A run that was not trained; a trained one differs in its numbers only."""
    made = recipe(**changes)
    network = randomised(made.build_network() if module is None else module)
    method = build_method(made, network.to(memory_format=torch.channels_last), mean, coder)
    return Run(Path("run"), made, method, 0, torch.device("cpu"))


def batches(run, masked=False, conditioned=False):
    """Batches of two images of each size, in [-1, 1]."""
    for height, width in SIZES:
        draws = generator(height, "image")
        batch = {"x_1": torch.rand(2, 3, height, width, generator=draws) * 2 - 1}
        if masked:
            batch["mask"] = (torch.rand(2, 1, height, width, generator=draws) > 0.5).float()
        if conditioned:
            batch["condition"] = torch.rand(2, 3, height, width, generator=draws) * 2 - 1
        yield batch


def inputs_of(run, batch, draws):
    """A graph's inputs for a batch, with the noise of seed 5 as `Run.trajectory` draws it, of latents with [latent]."""
    stride, smallest = method_geometry(run.method)
    inputs = {name: pad_to_stride(value, stride, smallest) for name, value in batch.items()}
    if draws:
        source, x_1, latent = generator(5, "noise"), inputs["x_1"], latent_of(run.method)
        shape = x_1.shape if latent is None else latent.encode(x_1).shape
        inputs["noise"] = torch.stack([torch.randn(shape, generator=source) for _ in range(draws)])
    return {name: value.numpy() for name, value in inputs.items()}


def check_parity(run, folder, execute, batch, plan):
    (height, width), about = batch["x_1"].shape[-2:], json.loads((folder / "export.json").read_text())
    inputs = inputs_of(run, batch, plan["draws"])
    wanted = run.restore_batch(batch, nfe=plan["nfe"], generator=generator(5, "noise")).numpy()
    found = execute(folder / plan["graph"], inputs)[..., :height, :width]
    assert set(inputs) - {"noise"} == set(about["inputs"])
    assert np.abs(found - wanted).max() < 1e-4 and np.abs(wanted).std() > 0.05
    return inputs, wanted


def by_onnxruntime(file, inputs):
    onnxruntime = pytest.importorskip("onnxruntime")
    (x_0,) = onnxruntime.InferenceSession(file).run(None, inputs)
    return x_0


def by_torch(file, inputs):
    program = torch.export.load(file).module(check_guards=False)
    return program(**{name: torch.from_numpy(value) for name, value in inputs.items()}).numpy()


def by_openvino(file, inputs):
    openvino = pytest.importorskip("openvino")
    with signal_stack_kept():  # without the hint, newer processors compute in bfloat16
        model = openvino.Core().compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return model(inputs)["x_0"]


def plans(folder):
    return json.loads((folder / "export.json").read_text())["restorations"]


def page_function(name):
    """`restore` or `walk` of the page."""
    scope = {"__name__": name}
    exec(compile(SCRIPTS[f"{name}.py"], f"{name}.py", "exec"), scope)
    return scope[name]


def check_bare(folder):
    """No path of this machine, each weight once, and models that the checker of ONNX accepts."""
    import onnx

    for file in folder.glob("*.onnx"):
        onnx.checker.check_model(file, full_check=True)
        assert b"File " not in file.read_bytes() and b".py" not in file.read_bytes()
    networks = [onnx.load(file, load_external_data=False).graph for file in folder.glob("[!r]*.onnx")]
    external = [tensor for graph in networks for tensor in graph.initializer if tensor.external_data]
    lengths = [int(entry.value) for tensor in external for entry in tensor.external_data if entry.key == "length"]
    assert 0 <= (folder / "weights.bin").stat().st_size - sum(lengths) < 4096 * len(lengths)


def need_onnx():
    """Skip a test where what writes and runs ONNX is not installed."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
