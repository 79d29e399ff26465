"""Runs restored in bfloat16, and words that mean no precision."""

import numpy as np
import pytest
import torch
from test_stepping import PIX2PIX
from test_training import photos, recipe_for  # noqa: F401 - photos is a fixture

from i2i_bridge import UserError, load_run
from i2i_bridge import device as rules
from i2i_bridge.device import resolve_device, resolve_precision, training_precision
from i2i_bridge.training.trainer import train


@pytest.mark.parametrize("changes", [{}, PIX2PIX])
def test_a_run_restores_in_bfloat16(photos, tmp_path, changes):  # noqa: F811
    # kills: precision-ignored; a network that takes only the dtype of its weights
    train(recipe_for(photos, **{**changes, "train": {**changes.get("train", {}), "steps": 2}}), tmp_path, cpu=True)
    image = np.random.default_rng(0).random((48, 40, 3), dtype=np.float32)
    plain, half = (
        load_run(tmp_path, device="cpu", sample=["sample.nfe=2"], precision=precision) for precision in ("fp32", "bf16")
    )
    assert {p.dtype for p in plain.method.network.parameters()} == {torch.float32}
    assert {p.dtype for p in half.method.network.parameters()} == {torch.bfloat16}
    one, two = (
        plain.restore_batch(batch(image), nfe=2, generator=draws()),
        half.restore_batch(batch(image), nfe=2, generator=draws()),
    )
    assert one.dtype == two.dtype == torch.float32
    assert 0 < (one - two).norm() < 0.03 * one.norm()


def batch(image):
    return {"x_1": torch.from_numpy(image).permute(2, 0, 1)[None] * 2 - 1}


def draws():
    return [torch.Generator().manual_seed(0)]


def test_an_unknown_precision_is_one_line():
    with pytest.raises(UserError, match="precision 'half' is unknown; give one of: auto, fp32, bf16"):
        resolve_precision("half", torch.device("cpu"))


def test_auto_trains_narrow_networks_in_float32_and_a_resumed_run_keeps_what_it_began_with(monkeypatch):
    # kills: bf16-for-narrow-networks, precision-flips-on-resume
    cpu, fp32, bf16 = torch.device("cpu"), torch.float32, torch.bfloat16
    monkeypatch.setattr(rules, "_cpu_computes_bf16", lambda: True)
    for channels, dtype in ((16, fp32), (31, fp32), (32, bf16), (64, bf16), (None, bf16)):
        assert training_precision("auto", cpu, channels, None) == dtype
    assert training_precision("bf16", cpu, 16, None) == bf16 and training_precision("fp32", cpu, 64, None) == fp32
    for name, dtype in (("fp32", fp32), ("bf16", bf16)):
        assert {training_precision("auto", cpu, channels, {"precision": name}) for channels in (16, 64)} == {dtype}
    assert training_precision("auto", cpu, 16, {}) == bf16  # older checkpoints went by the device alone
    monkeypatch.setattr(rules, "_cpu_computes_bf16", lambda: False)
    for before in (None, {}, {"precision": "bf16"}):
        assert training_precision("auto", cpu, 64, before) == fp32


def test_a_checkpoint_says_what_auto_became(photos, tmp_path, monkeypatch):  # noqa: F811
    from i2i_bridge.runs.checkpoint import latest_checkpoint

    monkeypatch.setattr(rules, "_cpu_computes_bf16", lambda: True)
    lines = []
    for steps in (1, 2):
        recipe = recipe_for(photos, train={"precision": "auto", "steps": steps})
        train(recipe, tmp_path, cpu=True, report=lambda event: lines.append(str(event)))
        checkpoint, _ = latest_checkpoint(tmp_path / "checkpoints")
        assert checkpoint.state["machine"]["precision"] == "fp32"  # of 16 channels
    assert any("bit for bit as if it had never stopped" in line for line in lines)


@pytest.mark.parametrize(
    ("flags", "fast"),
    [(None, False), ("flags: sse2 avx2", False), ("flags: avx512_bf16", True), ("flags: amx_bf16 amx_tile", True)],
)
def test_a_cpu_computes_in_bfloat16_if_it_says_so(tmp_path, monkeypatch, flags, fast):
    """None: a system without /proc/cpuinfo."""
    if flags is not None:
        (tmp_path / "cpuinfo").write_text(flags)
    monkeypatch.setattr(rules, "Path", lambda name: tmp_path / "cpuinfo")
    assert resolve_precision("auto", torch.device("cpu")) == (torch.bfloat16 if fast else torch.float32)


def test_a_gpu_that_emulates_bfloat16_computes_in_float32(monkeypatch):
    # kills: emulated-bf16
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert resolve_precision("auto", torch.device("cuda")) == torch.float32
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    assert resolve_precision("auto", torch.device("cuda")) == torch.bfloat16


def test_a_device_is_one_of_those_that_are_here(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device(None).type == "cuda" and resolve_device("cuda:1").index == 1
    with pytest.raises(UserError, match="device 'cuda:2' is not here; here are: cpu, cuda"):
        resolve_device("cuda:2")
    with pytest.raises(UserError, match="device 'gpu' is unknown; here are: cpu, cuda"):
        resolve_device("gpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device(None).type == "cpu"
    with pytest.raises(UserError, match="device 'cuda' is not here; here are: cpu"):
        resolve_device("cuda")
