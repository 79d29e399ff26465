"""The values of the metrics, against numbers written out and an independent implementation."""

import math
import re

import numpy as np
import pytest
import torch
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from i2i_bridge.errors import UserError
from i2i_bridge.images.pixels import to_pixels, to_tensor
from i2i_bridge.metrics.base import build_metric
from i2i_bridge.metrics.extractors import codes
from i2i_bridge.metrics.fidelity import PSNR, PSNRY, SSIM, SSIMY, luma


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


def test_luma_is_matlabs():
    """MATLAB's documented values: black 16, white 235, red 81.481 (of 255), and scikit-image's on random codes."""
    # kills: luma-in-full-range, luma-of-bgr, luma-without-offset
    colours = torch.tensor([[0, 0, 0], [1, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1]], dtype=torch.float64)
    found = luma(colours[:, :, None, None] * 2 - 1).flatten() * 255
    assert found.tolist() == pytest.approx([16, 235, 81.481, 144.553, 40.966], abs=1e-9)
    clean, _ = pair(3)
    codes_of = ((clean[0] + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).numpy()
    theirs = rgb2ycbcr(codes_of)[..., 0]
    assert np.abs(luma(clean.double())[0, 0].numpy() * 255 - theirs).max() < 1e-4


@pytest.mark.parametrize("border", [0, 4])
def test_luma_psnr_and_ssim_equal_those_of_the_y_planes(border):
    """As super-resolution reports them: Y of 255 codes, `border` pixels cut off at each side, then scikit-image."""
    # kills: border-at-one-side, luma-without-offset
    clean, noisy = pair(5, 48)
    noisy[..., :border] = noisy[..., -border or 48 :] = 1.0  # spoilt where nobody looks
    noisy[..., :border, :] = noisy[..., -border or 48 :, :] = -1.0
    planes = []
    for x in (clean, noisy):
        y = rgb2ycbcr(((x[0].double() + 1) / 2).permute(1, 2, 0).numpy())[..., 0]
        planes.append(y[border : 48 - border, border : 48 - border])
    there, here = planes
    mse = np.square(there - here).mean()
    assert PSNRY(border)(noisy, clean).item() == pytest.approx(10 * math.log10(255**2 / mse), abs=1e-5)
    theirs = structural_similarity(
        there, here, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert SSIMY(border)(noisy, clean).item() == pytest.approx(float(theirs), abs=1e-6)
    inner = (x[..., border : 48 - border, border : 48 - border] for x in (noisy, clean))
    assert PSNR(border)(noisy, clean).item() == PSNR()(*inner).item()


def test_options_are_part_of_a_metrics_name():
    # kills: border-not-in-the-label
    for given, name, label in (
        ("psnr-y", "psnr-y", "PSNR-Y (dB)"),
        ("psnr-y:border=4", "psnr-y:border=4", "PSNR-Y (dB, border 4)"),
        (" ssim-y : border = 3 ", "ssim-y:border=3", "SSIM-Y (border 3)"),
        ("psnr:border=0", "psnr", "PSNR (dB)"),
    ):
        spelled, metric = build_metric(given)
        assert (spelled, metric.label) == (name, label)
    assert build_metric("ssim:border=2")[1].smallest == 15 and build_metric("psnr:border=2")[1].smallest == 5
    for wrong, said in (
        ("psnr-y:bord=4", "unknown key 'bord'"),
        ("psnr-y:border=four", "border"),
        ("psnr-y:border=-1", "border is -1"),
        ("psnr-y:4", "NAME:KEY=VALUE"),
        ("psnr-y:border=1,border=2", "NAME:KEY=VALUE"),
        ("psnry", "did you mean 'psnr-y'"),
        ("kid:border=2", "unknown key 'border'"),
    ):
        with pytest.raises(UserError, match=re.escape(said)):
            build_metric(wrong)
    assert "take psnr" in PSNRY().missing(1) and PSNRY().missing(3) is None
    with pytest.raises(UserError, match="at least 19x19 pixels, got 16x16"):
        SSIMY(4)(*pair(0, 16))


def test_batch_and_order_change_no_digit():
    # kills: a mean over the batch
    pairs = [pair(seed, 40) for seed in range(5)]
    clean, noisy = (torch.cat(side) for side in zip(*pairs, strict=True))
    for metric in (PSNR(), SSIM(), PSNRY(2), SSIMY(2)):
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
