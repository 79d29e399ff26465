"""The benchmarks run; what they measure is for `make bench`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(folder, script, *options):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "tests" / "benchmarks" / script), *options]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_the_gpu_script_runs_dry(tmp_path):
    # kills: a case that breaks only where a GPU is lent; a training that counts no FLOPs
    pytest.importorskip("diffusers", reason="of the extra `bench`")
    done = run(tmp_path, "gpu.py", "--dry-run")
    assert done.returncode == 0, done.stderr[-2000:]
    tables = json.loads((tmp_path / "runs" / "bench" / "gpu.json").read_text())
    assert {row["case"] for row in tables["training"]} == {"ours", "ours, checkpointing", "diffusers"}
    assert all(row["images/s"] > 0 and row["MFU, %"] > 0 for row in tables["sampling, ms per NFE of a batch"])
    assert tables["network"][0]["parameters, M"] == pytest.approx(0.827491)


def test_the_twins_are_one_network():
    """diffusers' UNet2DModel with our weights answers what ours answers: an independent implementation of ADM."""
    # kills: heads-inside-qkv, doubled-kernel-mirrored, scale-without-one
    pytest.importorskip("diffusers", reason="of the extra `bench`")
    code = (
        "import torch, twins\n"
        "mine = twins.ours(twins.TINY).eval(); yours = twins.theirs(twins.TINY, 16, mine).eval()\n"
        "x, t = torch.randn(2, 3, 16, 16), torch.tensor([0.3, 0.9])\n"
        "with torch.inference_mode(): a, b = mine(x, t), yours(x, t)\n"
        "print((a - b).abs().max().item(), a.std().item())"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "benchmarks")])}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )  # fmt: skip
    apart, spread = map(float, done.stdout.split())
    assert apart < 1e-4 < 0.1 < spread
