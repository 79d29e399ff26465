"""The values of the metrics, against numbers written out and an independent implementation."""

import math

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from i2i_bridge.images import to_pixels, to_tensor
from i2i_bridge.metrics.extractors import codes
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


def test_psnr_and_ssim_equal_scikit_image_on_the_codes():
    """As published numbers are computed: on 8-bit codes, where black is 0, over whole windows."""
    # kills: psnr-of-half-the-range, ssim-with-black-at-minus-one, ssim-of-the-mirrored-border
    for size in (48, 96):
        clean, noisy = pair(size, size)
        there, here = (((x[0] + 1) * 127.5).round().numpy().astype(np.uint8) for x in (clean, noisy))
        theirs = structural_similarity(
            there, here, channel_axis=0, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        assert SSIM()(noisy, clean).item() == pytest.approx(float(theirs), abs=1e-5)
        assert PSNR()(noisy, clean).item() == pytest.approx(float(peak_signal_noise_ratio(there, here)), abs=1e-5)
    assert SSIM()(clean, clean).item() == pytest.approx(1.0)


def test_batch_and_order_change_no_digit():
    # kills: a mean over the batch
    pairs = [pair(seed, 40) for seed in range(5)]
    clean, noisy = (torch.cat(side) for side in zip(*pairs, strict=True))
    for metric in (PSNR(), SSIM()):
        alone = [metric(n, c).item() for c, n in pairs]
        assert metric(noisy, clean).tolist() == alone
        assert metric(noisy.flip(0), clean.flip(0)).tolist() == alone[::-1]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_files_round_trip_exactly(dtype):
    """All codes, as tensors and as pixels again; and what the feature networks see is what the PNG would hold."""
    # kills: codes-truncated
    every = np.arange(np.iinfo(dtype).max + 1, dtype=dtype).reshape(-1, 16, 1)
    x = to_tensor(every)
    assert np.array_equal(to_pixels(x, dtype), every)
    if dtype is np.uint8:
        assert np.array_equal(codes(x).numpy()[0], every[..., 0])
    between = torch.rand(1, 64, 64, generator=torch.Generator().manual_seed(0)) * 2.4 - 1.2
    assert np.array_equal(codes(between).numpy()[0], to_pixels(between)[..., 0])
