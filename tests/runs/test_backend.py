"""Networks computed by OpenVINO give what torch gives, at any size, or torch computes and one line says why."""

import copy
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from i2i_bridge import UserError, load_run
from i2i_bridge import device as rules
from i2i_bridge.cli.command import main
from i2i_bridge.evaluation.subjects import fingerprint_of
from i2i_bridge.guidance.posterior import DPS
from i2i_bridge.guidance.projection import DDNM
from i2i_bridge.networks.unet import UNet
from i2i_bridge.runs import backend as backends
from i2i_bridge.runs.backend import resolve_backend, set_backend
from i2i_bridge.runs.restore import restore_files

CPU = torch.device("cpu")
SIZES = [(2, 16, 24), (1, 8, 8), (3, 40, 32)]


@pytest.fixture
def openvino():
    return pytest.importorskip("openvino", reason="extra openvino")


def network_of(seed=0, **options):
    """A U-Net with attention, resampling and a skip of other channels, and no branch silent."""
    draws = torch.Generator().manual_seed(seed)
    network = UNet(channels=16, channel_mult=(1, 2), blocks_per_level=1, attention_factors=(2,), **options)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=draws) / max(parameter[0].numel(), 4) ** 0.5)
    return network.to(memory_format=torch.channels_last).eval().requires_grad_(False)


def arguments(batch, height, width, network):
    draws = torch.Generator().manual_seed(1)
    x_t = torch.randn(batch, 3, height, width, generator=draws)
    channels = network.condition_channels
    condition = torch.randn(batch, channels, height, width, generator=draws) if channels else None
    label = torch.arange(batch) - 1 if network.classes else None
    return x_t, torch.linspace(0.1, 1, batch, dtype=torch.float64), condition, label


@pytest.mark.parametrize("options", [{}, {"condition_channels": 2, "classes": 3}])
def test_openvino_computes_the_same_at_any_size(openvino, options):
    # kills: graph-scale-without-one, graph-attends-over-channels, graph-skip-from-the-wrong-end
    # kills: graph-without-its-condition
    network = network_of(**options)
    wanted = [UNet.forward(network, *arguments(*size, network)) for size in SIZES]
    assert set_backend(network, "openvino") is None
    for size, right in zip(SIZES, wanted, strict=True):
        with torch.inference_mode():
            found = network(*arguments(*size, network))
        assert found.dtype == right.dtype and 0 < (found - right).abs().max() < 1e-4, size


def test_a_run_restores_the_same_by_openvino(openvino):
    """A shipped run, which cannot be written to; odd sides, tiles, and bfloat16 to 3 % rms."""
    eager, run = (load_run("pretrained/photos", device="cpu", backend=name) for name in ("eager", "openvino"))
    half = load_run("pretrained/photos", device="cpu", backend="openvino", precision="bf16")
    assert (eager.backend, run.backend, half.backend) == ("eager", "openvino", "openvino")
    for size in ((33, 50), (64, 64), (5, 7)):
        image = np.random.default_rng(0).random((*size, 3), dtype=np.float32)
        wanted = eager.restore(image, nfe=2, value_range=(0, 1))
        assert np.abs(run.restore(image, nfe=2, value_range=(0, 1)) - wanted).max() < 1e-4
        off = half.restore(image, nfe=2, value_range=(0, 1)) - wanted
        assert 0 < np.linalg.norm(off) < 0.03 * np.linalg.norm(wanted)
    image = np.random.default_rng(0).random((60, 70, 3), dtype=np.float32)
    results = [one.restore(image, nfe=1, value_range=(0, 1), tile=32) for one in (eager, run)]
    assert np.abs(results[0] - results[1]).max() < 1e-4


def test_changed_weights_are_computed_with_and_so_are_those_of_a_copy(openvino):
    # kills: stale-graph
    network, other = network_of(), network_of(seed=5)
    given = arguments(2, 16, 24, network)
    assert set_backend(network, "openvino") is None
    twin = copy.deepcopy(network)
    for changed in (twin, network):
        changed.load_state_dict(other.state_dict())
        assert torch.equal(changed(*given), other(*given))
    assert list(network.state_dict()) == list(other.state_dict())


def test_a_gradient_goes_through_torch(openvino):
    # kills: graph-without-a-gradient
    network = network_of()
    assert set_backend(network, "openvino") is None
    x_t, *others = arguments(1, 8, 8, network)
    network(x_t.requires_grad_(), *others).sum().backward()
    assert x_t.grad.abs().max() > 0


def test_a_graph_that_computes_something_else_is_not_used(openvino, monkeypatch):
    # kills: graph-unchecked
    made = backends.unet_model
    monkeypatch.setattr(backends, "unet_model", lambda network: made(network_of(seed=5)))
    network = network_of()
    assert "its output is off by" in set_backend(network, "openvino")
    assert network.forward.__func__ is UNet.forward


def test_where_openvino_cannot_one_line_says_why_and_torch_computes(monkeypatch):
    notes = []

    def load(*sample):
        notes.clear()
        return load_run("pretrained/photos", device="cpu", backend="openvino", sample=sample, report=notes.append)

    monkeypatch.setitem(sys.modules, "openvino", None)
    run = load()
    assert run.backend == "eager" and not run.warnings
    assert notes == [
        "backend openvino: it is not installed (pip install 'i2i-bridge[openvino]'); torch computes the network"
    ]
    assert "U-Nets alone (unet, adm256), not Linear" in set_backend(torch.nn.Linear(2, 2), "openvino")
    with pytest.raises(UserError, match="backend 'openvno' is unknown; did you mean 'openvino'"):
        load_run("pretrained/photos", backend="openvno")


def test_a_guidance_through_the_network_says_so(openvino):
    # kills: graph-under-a-gradient
    network = network_of()
    assert set_backend(network, "openvino", DPS()) == (
        "guidance DPS differentiates through the network, which a graph cannot"
    )
    assert set_backend(network, "openvino", DDNM()) is None


def test_torch_compile_without_a_compiler_is_one_line():
    torch._dynamo.reset()
    with torch._inductor.config.patch({"cpp.cxx": ("no-such-compiler",)}):
        reason = set_backend(network_of(), "compile")
    assert reason and "\n" not in reason and "train.compile" not in reason


def test_auto_is_openvino_where_it_was_measured_to_pay(openvino, monkeypatch):
    # kills: auto-in-float32
    monkeypatch.setattr(rules, "_cpu_computes_bf16", lambda: True)
    assert resolve_backend("auto", CPU, torch.bfloat16) == "openvino"
    assert resolve_backend("auto", CPU, torch.float32) == "eager"
    assert resolve_backend("auto", torch.device("cuda"), torch.bfloat16) == "eager"
    monkeypatch.setattr(rules, "_cpu_computes_bf16", lambda: False)
    assert resolve_backend("auto", CPU, torch.bfloat16) == "eager"
    monkeypatch.setattr(rules, "_cpu_computes_bf16", lambda: True)
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert resolve_backend("auto", CPU, torch.bfloat16) == "eager"


def test_results_of_another_backend_are_not_taken_for_ones_own(openvino, tmp_path):
    # kills: backend-forgotten-by-results
    (tmp_path / "in").mkdir()
    Image.new("RGB", (16, 24), (90, 120, 150)).save(tmp_path / "in/a.png")
    written = []
    for backend in ("eager", "openvino", "openvino"):
        run = load_run("pretrained/photos", device="cpu", backend=backend)
        written.append(restore_files(run, tmp_path / "in", tmp_path / "out", nfe=1).written)
    assert written == [1, 1, 0]


def test_an_evaluation_knows_the_backend_where_its_numbers_differ(openvino):
    # kills: backend-forgotten-by-evaluations
    def fingerprint(backend, precision):
        return fingerprint_of(load_run("pretrained/photos", device="cpu", backend=backend, precision=precision))

    assert fingerprint("openvino", "fp32") == fingerprint("eager", "fp32")
    assert fingerprint("openvino", "bf16") != fingerprint("eager", "bf16")


def test_the_command(openvino, tmp_path, capsys):
    Image.new("RGB", (17, 24), (90, 120, 150)).save(tmp_path / "a.png")
    command = ["restore", "pretrained/photos", str(tmp_path / "a.png"), "--nfe", "1", "--device", "cpu"]

    def code(out, backend):
        with pytest.raises(SystemExit) as ended:
            main([*command[:3], str(tmp_path / out), *command[3:], "--backend", backend])
        return ended.value.code

    assert code("eager.png", "eager") == code("openvino.png", "openvino") == 0
    eager, other = (np.array(Image.open(tmp_path / f"{name}.png"), int) for name in ("eager", "openvino"))
    assert np.abs(eager - other).max() <= 1
    assert code("b.png", "tensorrt") == 2
    assert "backend 'tensorrt' is unknown" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="OpenVINO sets a signal stack on Linux")
def test_a_signal_after_compiling_ends_nothing(openvino):
    # kills: signal-stack-of-openvino
    script = (
        "import ctypes, signal, torch\n"
        "from i2i_bridge.networks.unet import UNet\n"
        "from i2i_bridge.runs.backend import set_backend\n"
        "def stack():\n"
        "    words = (ctypes.c_size_t * 3)()\n"
        "    ctypes.CDLL(None).sigaltstack(None, words)\n"
        "    return list(words)\n"
        "before, seen = stack(), []\n"
        "signal.signal(signal.SIGUSR1, lambda *_: seen.append(1))\n"
        "network = UNet(channels=8, channel_mult=(1, 2)).eval().requires_grad_(False)\n"
        "assert set_backend(network, 'openvino') is None\n"
        "signal.raise_signal(signal.SIGUSR1)\n"
        "assert seen and stack() == before, (before, stack())\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=300)
