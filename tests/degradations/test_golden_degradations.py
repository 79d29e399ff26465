"""Parity with arrays computed by the original code (a local cross-check; skipped where they are not)."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from i2i_bridge.degradations.jpeg import quantisation_tables
from i2i_bridge.randomness import generator
from i2i_bridge.registry import DEGRADATIONS

GOLDEN = Path(os.environ.get("I2I_SHARED", Path(__file__).parents[3] / "shared")) / "golden"
pytestmark = pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"no golden arrays in {GOLDEN} (set I2I_SHARED)")


def differences(table: dict[str, Any], key: str) -> torch.Tensor:
    with np.load(GOLDEN / "corruptions_64.npz") as arrays:
        x_0 = torch.from_numpy(arrays["input_u8"]).float() / 255 * 2 - 1
        expected = torch.from_numpy(arrays[key])
    x_1: torch.Tensor = DEGRADATIONS.build(table)(x_0, generator(0, "golden")).x_1
    return (x_1 - expected).abs()


@pytest.mark.parametrize(
    ("key", "table", "tolerance"),
    [
        ("jpeg-5", {"name": "jpeg", "quality": 5}, 1e-5),
        ("jpeg-10", {"name": "jpeg", "quality": 10}, 1e-5),
        ("sr4x-pool", {"name": "sr4x", "filter": "pool"}, 1e-6),
        ("sr4x-bicubic", {"name": "sr4x", "filter": "bicubic"}, 1e-5),
        ("inpaint-center", {"name": "inpaint", "fill": "white"}, 0.0),
    ],
)
def test_closed_forms(key: str, table: dict[str, Any], tolerance: float) -> None:
    # kills: any departure from the released models' operators
    far = differences(table, key) > tolerance
    # A coefficient may fall on the other side of a rounding.
    assert far.float().mean() <= (1e-4 if key.startswith("jpeg") else 0)


@pytest.mark.parametrize(("key", "kernel"), [("blur-uni", "uniform"), ("blur-gauss", "gaussian")])
def test_compat_blur(key: str, kernel: str) -> None:
    # kills: any of the three inherited defects put right. Ties are as torch's sort leaves them on this CPU.
    difference = differences({"name": "blur", "kernel": kernel, "backend": "ddrm-compat"}, key)
    assert 10 * torch.log10(4 / difference.square().mean()) > 60
    assert difference.max() < 1e-2


def test_tables() -> None:
    # kills: any wrong entry
    with np.load(GOLDEN / "jpeg_tables.npz") as tables:
        for quality in (1, 5, 10, 25, 49, 50, 75, 95, 100):
            luma, chroma = quantisation_tables(quality)
            assert (luma.numpy() == tables[f"qf{quality}_luma"]).all()
            assert (chroma.numpy() == tables[f"qf{quality}_chroma"]).all()


def test_center_mask() -> None:
    # kills: another rectangle
    with np.load(GOLDEN / "corruptions_64.npz") as arrays:
        expected = torch.from_numpy(arrays["inpaint-center__mask"]).float()
    mask = DEGRADATIONS.build({"name": "inpaint"})(torch.zeros(1, 3, 64, 64), generator(0, "golden")).mask
    assert torch.equal(mask, expected)
