"""Colour correction: the low band is the input's, the details are the restored image's."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from i2i_bridge import UserError
from i2i_bridge.images.colour import check_colour_fix, colour_fixed, low_band


def pair(height, width):
    draws = torch.Generator().manual_seed(height * 1000 + width)
    return (torch.randn(3, height, width, generator=draws, dtype=torch.float64) for _ in range(2))


@given(st.integers(1, 100), st.integers(1, 100))
def test_the_low_band_is_the_inputs(height, width):
    """L(result) = L(X_1), for any sides; the same again changes nothing; what is added has no details of its own."""
    # kills: colour-low-band-left, colour-synthesis-by-steps
    x_0_hat, x_1 = pair(height, width)
    fixed = colour_fixed(x_0_hat, x_1, "wavelet")
    assert torch.allclose(low_band(fixed), low_band(x_1), rtol=0, atol=1e-12)
    assert torch.allclose(colour_fixed(fixed, x_1, "wavelet"), fixed, rtol=0, atol=1e-12)
    added = fixed - x_0_hat
    assert torch.allclose(colour_fixed(torch.zeros_like(added), added, "wavelet"), added, rtol=0, atol=1e-12)


def test_a_shift_of_colour_is_undone_and_details_stay():
    """A smooth cast over the image goes; what is finer than 32 pixels comes from the restored image alone."""
    # kills: colour-low-band-left, colour-from-the-restored-image
    y, x = torch.meshgrid(torch.arange(256.0), torch.arange(224.0), indexing="ij")
    scene = torch.rand(3, 256, 224, generator=torch.Generator().manual_seed(0)) - 0.5
    cast = torch.stack([0.2 + 0 * x, 0.002 * x, -0.001 * y])
    fixed = colour_fixed(scene + cast, scene, "wavelet")
    # Away from the border, where it is mirrored, a linear function is of the low band.
    assert (fixed - scene)[:, 64:-96, 64:-96].abs().max() < 1e-5
    checkers = 0.3 * (1 - 2 * ((x + y) % 2))
    assert (colour_fixed(scene + checkers, scene, "wavelet") - scene - checkers).abs().max() < 1e-6
    assert torch.equal(low_band(torch.full((1, 77, 130), 0.25)), torch.full((1, 3, 5), 0.25))


def test_mean_and_none():
    # kills: colour-mean-of-all-channels
    x_0_hat, x_1 = pair(20, 30)
    x_1 = x_1 + torch.tensor([0.5, -0.25, 0.0])[:, None, None]
    fixed = colour_fixed(x_0_hat, x_1, "mean")
    assert torch.allclose(fixed.mean((1, 2)), x_1.mean((1, 2)), rtol=0, atol=1e-12)
    assert torch.allclose(fixed - fixed.mean((1, 2), True), x_0_hat - x_0_hat.mean((1, 2), True), atol=1e-12)
    assert colour_fixed(x_0_hat, x_1, "none") is x_0_hat


def test_what_is_refused():
    check_colour_fix("none", masked=True)
    check_colour_fix("wavelet", masked=False)
    with pytest.raises(UserError, match="colour_fix 'wavlet'; did you mean 'wavelet'"):
        check_colour_fix("wavlet", masked=False)
    with pytest.raises(UserError, match=r"colour_fix 'mean' takes the colours .* has a hole") as caught:
        check_colour_fix("mean", masked=True)
    assert "\n" not in str(caught.value)
