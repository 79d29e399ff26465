"""Triton's kernels of the norm against torch's operations in float64, in Triton's interpreter and on a GPU."""

import copy
import json
import os
import subprocess
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from i2i_bridge.networks import normalisation
from i2i_bridge.networks.unet import UNet

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="no Triton here; torch for Linux brings it")

# Shape, groups, modulated, SiLU, mean of the input. More pixels than a tile; a last tile that is not full; channels
# that fill no tile, or several; groups of one channel and of a number that is no power of two; one pixel.
CASES = {
    "plain": ((2, 32, 8, 8), 32, True, True, 0.0),
    "no power of two": ((3, 96, 5, 7), 32, True, True, 5.0),
    "no modulation": ((1, 48, 16, 16), 16, False, True, 0.0),
    "no activation, large mean": ((2, 6, 9, 9), 2, False, False, 100.0),
    "many parts": ((1, 160, 40, 40), 32, True, True, 1.0),
    "one pixel": ((2, 16, 1, 1), 2, True, True, 0.0),
}


def torchs(
    x: Tensor, weight: Tensor, bias: Tensor, scale: Any, shift: Any, groups: int, eps: float, silu: bool
) -> Tensor:
    y = F.group_norm(x, groups, weight, bias, eps)
    if scale is not None:
        y = y * (1 + scale[..., None, None]) + shift[..., None, None]
    return F.silu(y) if silu else y


def results(function: Any, case: str, dtype: torch.dtype, device: str = "cpu") -> dict[str, Tensor]:
    """Output and gradients of a case, float64 on the CPU."""
    shape, groups, modulated, silu, mean = CASES[case]
    draws = torch.Generator().manual_seed(0)

    def drawn(*size: int) -> Tensor:
        return torch.randn(size, generator=draws, dtype=torch.float64)

    values = {"x": drawn(*shape) + mean, "weight": drawn(shape[1]), "bias": drawn(shape[1])}
    values["modulation"], gradient = drawn(shape[0], 2 * shape[1]), drawn(*shape).to(device, dtype)
    inputs = {
        name: value.to(device, dtype, memory_format=torch.channels_last if value.ndim == 4 else torch.preserve_format)
        for name, value in values.items()
        if modulated or name != "modulation"
    }
    for value in inputs.values():
        value.requires_grad_()
    scale, shift = inputs["modulation"].chunk(2, dim=1) if modulated else (None, None)
    y = function(inputs["x"], inputs["weight"], inputs["bias"], scale, shift, groups, 1e-5, silu)
    assert y.dtype == dtype
    gradients = torch.autograd.grad(y, list(inputs.values()), gradient)
    found = {"y": y, **dict(zip(inputs, gradients, strict=True))}
    return {name: value.detach().double().cpu() for name, value in found.items()}


def errors(case: str, dtype: torch.dtype, device: str = "cpu") -> dict[str, float]:
    """rms of the kernels' errors, over that of torch's results in float64."""
    from i2i_bridge.networks.triton import FusedNorm

    wanted, found = results(torchs, case, torch.float64), results(FusedNorm.apply, case, dtype, device)
    return {name: float((found[name] - wanted[name]).norm() / wanted[name].norm()) for name in wanted}


@pytest.fixture(scope="module")
def interpreted() -> dict[str, dict[str, float]]:
    """Errors of every case, and what `triton_kernels` measures and answers, in a process of Triton's interpreter."""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    # Not a forked interpreter: Triton reads the variable at import.
    done = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True, check=False)
    if "only 0-dimensional arrays can be converted to Python scalars" in done.stderr:
        pytest.skip("this Triton's interpreter runs no loop with this NumPy (3.6 with 2.4, for example)")
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, dict[str, float]] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("case", CASES)
def test_kernels_are_the_formula(interpreted: dict[str, dict[str, float]], case: str) -> None:
    # kills: triton-statistics-about-zero, triton-gradient-without-mean, triton-gradient-without-silu
    # kills: triton-shift-scaled, triton-scale-without-one, triton-last-part-lost, triton-spread-of-means-lost
    # kills: triton-padded-pixels-counted, triton-gain-left-out
    assert max(interpreted[case].values()) < 2e-5, interpreted[case]


def test_kernels_are_tried_before_they_are_used(interpreted: dict[str, dict[str, float]]) -> None:
    # kills: triton-unchecked
    tried = interpreted["tried"]
    assert tried["right"] < 1e-5
    assert tried["wrong"] > 0.1
    assert (tried["taken"], tried["refused"], tried["warnings"]) == (1, 1, 1)


def tried() -> dict[str, float]:
    from i2i_bridge.networks.triton import FusedNorm

    device = torch.device("cpu")
    found = {"right": normalisation._deviation(FusedNorm, device)}
    with torch.inference_mode():
        found["taken"] = normalisation.triton_kernels(device) is FusedNorm
    normalisation.triton_kernels.cache_clear()
    forward = FusedNorm.forward
    FusedNorm.forward = staticmethod(lambda ctx, *inputs: forward(ctx, *inputs) * 1.5)  # type: ignore[method-assign]
    found["wrong"] = normalisation._deviation(FusedNorm, device)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found["refused"] = normalisation.triton_kernels(device) is None
    found["warnings"] = sum("Triton fails (its output is off by" in str(line.message) for line in said)
    return {name: float(value) for name, value in found.items()}


def test_other_inputs_are_not_given_to_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    # kills: triton-for-any-layout, triton-for-any-dtype, triton-inside-compiled-code
    monkeypatch.setattr(normalisation, "triton_kernels", lambda device: "kernels")
    norm = normalisation.GroupNormSiLU(8)
    x = torch.zeros(2, 8, 4, 4).contiguous(memory_format=torch.channels_last)
    assert norm._kernels(x) == norm._kernels(x.bfloat16()) == "kernels"
    assert norm._kernels(x.contiguous()) is None
    assert norm._kernels(x.double()) is None
    assert norm._kernels(x[:0]) is None
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert norm._kernels(x) is None


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")


@needs_gpu
@pytest.mark.parametrize("case", CASES)
def test_kernels_are_the_formula_on_a_gpu(case: str) -> None:
    assert normalisation.triton_kernels(torch.device("cuda")) is not None
    assert max(errors(case, torch.float32, "cuda").values()) < 2e-5
    if CASES[case][-1] < 100:  # otherwise bfloat16 holds no more than the mean
        assert max(errors(case, torch.bfloat16, "cuda").values()) < 0.05


@needs_gpu
def test_a_gpu_computes_the_network_of_the_cpu() -> None:
    draws = torch.Generator().manual_seed(0)
    network = UNet(channels=32, channel_mult=(1, 2), blocks_per_level=1, attention_factors=(2,), head_channels=32)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=draws), alpha=0.3 / parameter[0].numel() ** 0.5)
    x, t = torch.randn(2, 3, 32, 48, generator=draws), torch.tensor([0.2, 0.9])
    found: dict[str, list[Tensor]] = {}
    for device in ("cpu", "cuda"):
        there = copy.deepcopy(network).to(device).to(memory_format=torch.channels_last)
        y = there(x.to(device), t.to(device))
        y.square().mean().backward()
        found[device] = [y.detach().cpu(), *(parameter.grad.cpu() for parameter in there.parameters())]
    for a, b in zip(found["cpu"], found["cuda"], strict=True):
        assert (a - b).norm() < 5e-3 * a.norm() + 1e-6  # convolutions in TF32


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "tests"))
    print(json.dumps({case: errors(case, torch.float32) for case in CASES} | {"tried": tried()}))
