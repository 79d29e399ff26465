"""Runs restored in bfloat16, and words that mean no precision."""

import numpy as np
import pytest
import torch
from test_stepping import PIX2PIX
from test_training import photos, recipe_for  # noqa: F401 - photos is a fixture

from i2i_bridge import UserError, load_run
from i2i_bridge.precision import resolve_precision
from i2i_bridge.training import train


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
