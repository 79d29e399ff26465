"""Edges, sketch, posterise and halftone: each against its formula or another library."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from i2i_bridge.degradations.drawing import Edges, Halftone, Posterise, Sketch
from i2i_bridge.errors import UserError
from i2i_bridge.randomness import generator, rand

ANY = generator(0, "not used")
LUMA = np.array([0.299, 0.587, 0.114])


def photo(side: int = 64) -> Tensor:
    """Smooth colours with steep places, in [-1, 1]."""
    coarse = rand((1, 3, 8, 8), generator(0, "test"))
    return (torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic").clamp(0, 1) * 2 - 1).float()


def luma(x: Tensor) -> np.ndarray:
    values: np.ndarray = ((x[0].double().numpy() + 1) / 2 * LUMA[:, None, None]).sum(0)
    return values


def ramp(slope: float, side: int = 40) -> Tensor:
    """Grey that rises by `slope` of [0, 1] per column."""
    values = torch.arange(side, dtype=torch.float64) * slope
    return (values.expand(1, 3, side, side) * 2 - 1).clone()


@pytest.mark.parametrize("sigma", [0.0, 1.0, 2.5])
def test_soft_edges_are_the_slope_of_the_smoothed_luma(sigma: float) -> None:
    # kills: edges-slope-of-eight-pixels, edges-of-the-rough-photo, sketch-over-another-blur
    x_0 = photo()
    smooth = ndimage.gaussian_filter(luma(x_0), sigma, mode="reflect", truncate=4) if sigma else luma(x_0)
    down, across = (ndimage.sobel(smooth, axis, mode="nearest") / 8 for axis in (0, 1))
    expected = 1 - 2 * np.minimum(np.hypot(down, across) / 0.04, 1)
    drawn = Edges("soft", sigma=sigma, threshold=0.04)(x_0, ANY).x_1
    assert np.allclose(drawn[0].numpy(), expected, atol=1e-5)
    assert (drawn < 1).float().mean() > 0.05
    binary = Edges("sobel", sigma=sigma, threshold=0.04)(x_0, ANY).x_1
    assert torch.equal(binary == -1, drawn == -1)
    assert set(binary.unique().tolist()) == {-1.0, 1.0}


@pytest.mark.parametrize("detector", ["canny", "sobel"])
def test_a_line_is_drawn_where_the_slope_exceeds_the_threshold(detector: str) -> None:
    """A step of 0.4 smoothed by sigma 2: its steepest slope is near 0.4 / (2 sqrt(2 pi)) = 0.0798."""
    # kills: canny-in-units-of-its-own, edges-slope-of-eight-pixels, edges-in-the-other-ink
    x_0 = torch.full((1, 3, 40, 40), -0.4)
    x_0[..., 20:] = 0.4
    for threshold, seen in ((0.07, True), (0.09, False)):
        drawn = Edges(detector, sigma=2.0, threshold=threshold)(x_0, ANY).x_1  # type: ignore[arg-type]
        dark = (drawn[0, 0, 20] == -1).nonzero().flatten().tolist()
        assert bool(dark) is seen
        assert set(dark) <= {18, 19, 20, 21}
    white = Edges(detector, sigma=2.0, threshold=0.07, ink="white")(x_0, ANY).x_1  # type: ignore[arg-type]
    black = Edges(detector, sigma=2.0, threshold=0.07)(x_0, ANY).x_1  # type: ignore[arg-type]
    assert torch.equal(white, -black)


def test_canny_draws_thin_lines_as_wide_as_told_and_follows_them_into_the_faint() -> None:
    # kills: canny-without-weak-edges; a line of two pixels; width as a radius
    x_0 = torch.full((1, 1, 40, 80), -0.5)
    contrast = torch.linspace(0.9, 0, 80)
    x_0[..., 20:, :] += contrast
    for width in (1, 2, 5):
        drawn = Edges(sigma=1.0, threshold=0.1, width=width)(x_0, ANY).x_1[0, 0]
        assert (drawn[:, 10] == -1).sum() == width
    alone = Edges("sobel", sigma=1.0, threshold=0.1)(x_0, ANY).x_1[0, 0]
    thin = Edges(sigma=1.0, threshold=0.1)(x_0, ANY).x_1[0, 0]
    reach = [int((drawn == -1).any(0).nonzero().max()) for drawn in (alone, thin)]
    # The contrast at which the slope is the threshold, and 0.4 of it.
    assert contrast[reach[1]] == pytest.approx(0.4 * float(contrast[reach[0]]), abs=0.03)


def test_what_is_flat_has_no_lines_and_what_rises_is_measured_per_pixel() -> None:
    # kills: edges-slope-of-eight-pixels; lines along the border; the slope in units of [-1, 1]
    assert Edges()(torch.zeros(1, 3, 32, 32), ANY).x_1.eq(1).all()
    assert Edges("sobel", sigma=0.0, threshold=0.02)(ramp(0.025), ANY).x_1[..., 4:-4].eq(-1).all()
    assert Edges("sobel", sigma=0.0, threshold=0.03)(ramp(0.025), ANY).x_1.eq(1).all()


def test_a_sketch_is_the_luma_over_its_blur() -> None:
    # kills: sketch-over-another-blur; the exponent on the blur alone
    x_0 = photo()
    tone = luma(x_0)
    blurred = ndimage.gaussian_filter(tone, 3.0, mode="reflect", truncate=4)
    expected = np.minimum((tone + 1 / 255) / (blurred + 1 / 255), 1) ** 1.5 * 2 - 1
    assert np.allclose(Sketch(sigma=3.0, darkness=1.5)(x_0, ANY).x_1[0].numpy(), expected, atol=1e-5)
    for level in (-1.0, 0.3):
        flat = Sketch()(torch.full((1, 3, 32, 32), level), ANY).x_1
        assert torch.allclose(flat, torch.ones_like(flat), atol=1e-6)


def test_tones_are_even_and_equally_wide() -> None:
    # kills: posterise-rounds; levels as bits
    x_0 = torch.linspace(-1.2, 1.2, 24_000).view(1, 1, 100, 240)
    x_1 = Posterise(levels=5)(x_0, ANY).x_1
    inside = x_1[x_0.abs() < 1]
    assert np.allclose(inside.unique(), [-1, -0.5, 0, 0.5, 1], atol=1e-6)
    shares = [(inside == tone).float().mean().item() for tone in inside.unique()]
    assert shares == pytest.approx([0.2] * 5, abs=1e-3)
    assert x_1.min() == -1
    assert x_1.max() == 1


@pytest.mark.parametrize("tone", [0.1, 0.3, 0.5, 0.85])
def test_a_halftone_keeps_the_tone(tone: float) -> None:
    # kills: halftone-loses-the-tone; black and white exchanged
    flat = torch.full((1, 3, 300, 300), tone * 2 - 1)
    for ink in ("black", "colour"):
        x_1 = Halftone(period=6.7, angle=23.0, ink=ink)(flat, ANY).x_1  # type: ignore[arg-type]
        assert set(x_1.unique().tolist()) == {-1.0, 1.0}
        assert ((x_1 + 1) / 2).mean((0, 2, 3)).tolist() == pytest.approx([tone] * 3, abs=0.01)


def test_dots_have_their_period_and_angle() -> None:
    # kills: halftone-one-angle-for-all; period in another unit; angle ignored
    flat = torch.full((1, 3, 60, 60), -0.3)
    straight = Halftone(period=6.0, angle=0.0)(flat, ANY).x_1
    assert torch.equal(straight.roll(6, -1), straight)
    assert torch.equal(straight.roll(6, -2), straight)
    assert not torch.equal(straight.roll(3, -1), straight)
    slanted = Halftone(period=6.0 * 0.5**0.5, angle=45.0)(flat, ANY).x_1  # diagonal neighbours are (3, 3) apart
    assert (slanted.roll((3, 3), (-2, -1)) != slanted).float().mean() < 0.02
    assert (slanted.roll(3, -1) != slanted).float().mean() > 0.2
    colour = Halftone(ink="colour")(flat, ANY).x_1[0]
    assert not torch.equal(colour[0], colour[1])
    black = Halftone()(flat, ANY).x_1[0]
    assert torch.equal(black[0], black[2])


def test_other_numbers_of_channels_are_refused() -> None:
    # kills: an index error instead of a line
    for drawing in (Edges(), Sketch(), Halftone()):
        with pytest.raises(UserError, match="2 channels"):
            drawing(torch.zeros(1, 2, 16, 16), ANY)
