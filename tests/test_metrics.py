"""The values of the metrics, against numbers written out and an independent implementation."""

import math

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from i2i_bridge.metrics.fidelity import PSNR, SSIM


def pair(seed=0, size=32):
    rng = np.random.default_rng(seed)
    clean = rng.integers(0, 256, (size, size, 3)).astype(np.float64)
    noisy = (clean + rng.normal(0, 20, clean.shape)).round().clip(0, 255)
    return [torch.from_numpy(x / 127.5 - 1).float().permute(2, 0, 1)[None] for x in (clean, noisy)]


def test_psnr_of_one_grey_level():
    """An error of one code everywhere is 20 log10(255) dB, whatever the picture."""
    # kills: psnr-of-half-the-range
    clean = torch.full((2, 3, 16, 16), 0.2)
    values = PSNR()(clean + 2 / 255, clean)
    assert values.tolist() == pytest.approx([20 * math.log10(255)] * 2, abs=1e-3)
    assert PSNR()(clean, clean).tolist() == [math.inf] * 2


def test_psnr_is_per_image():
    clean, noisy = pair()
    both = PSNR()(torch.cat([noisy, clean]), torch.cat([clean, clean]))
    assert both[0].item() == pytest.approx(PSNR()(noisy, clean).item()) and both[1].item() == math.inf


def test_ssim_equals_scikit_image_on_the_codes():
    """As published numbers are computed: on 8-bit codes, where black is 0."""
    # kills: ssim-with-black-at-minus-one
    clean, noisy = pair(size=96)
    codes = [((x[0] + 1) * 127.5).round().numpy() for x in (clean, noisy)]
    theirs = structural_similarity(
        *codes, channel_axis=0, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert SSIM()(noisy, clean).item() == pytest.approx(float(theirs), abs=1e-3)
    assert SSIM()(clean, clean).item() == pytest.approx(1.0)
