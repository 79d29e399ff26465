"""Super-resolution and blur: linear operators against NumPy's padding and torch's resizing."""

from typing import Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from i2i_bridge.degradations.blur import Blur, blur_taps, compat_operator
from i2i_bridge.degradations.downsample import SuperResolution4x
from i2i_bridge.degradations.linear import cubic_taps, mirrored, separable_filter
from i2i_bridge.errors import UserError
from i2i_bridge.randomness import generator, rand

ANY = generator(0, "not used")
Border = Literal["reflect", "symmetric"]


def noise(height: int, width: int, batch: int = 2) -> Tensor:
    return rand((batch, 3, height, width), generator(0, "test")).float() * 2 - 1


@pytest.mark.parametrize("border", ["reflect", "symmetric"])
@pytest.mark.parametrize("size", [1, 2, 3, 5, 8])
def test_mirrored_is_numpy_s_padding(size: int, border: Border) -> None:
    # kills: reflect and symmetric exchanged; wrong period beyond one mirror image
    for before, after in ((0, 0), (1, 2), (6, 9)):
        expected = np.pad(np.arange(size), (before, after), mode=border)
        assert mirrored(size, before, after, border).tolist() == expected.tolist()


@pytest.mark.parametrize("border", ["reflect", "symmetric"])
@pytest.mark.parametrize(("size", "stride"), [((5, 9), 1), ((12, 8), 4), ((4, 20), 4)])
def test_separable_filter_is_its_formula(size: tuple[int, int], stride: int, border: Border) -> None:
    # kills: convolution for correlation (flipped taps); axes exchanged; stride's phase; wrong `before`
    taps, before = [0.5, -0.25, 1.0, 0.125], 1
    x = noise(*size)
    padded = np.pad(x.numpy(), ((0, 0), (0, 0), (before, 9), (before, 9)), mode=border)
    expected = np.zeros((2, 3, size[0] // stride, size[1] // stride), dtype=np.float32)
    for i in range(expected.shape[2]):
        for j in range(expected.shape[3]):
            window = padded[:, :, stride * i : stride * i + 4, stride * j : stride * j + 4]
            expected[:, :, i, j] = np.einsum("bcij,i,j->bc", window, taps, taps)
    assert torch.allclose(separable_filter(x, taps, before, stride, border), torch.tensor(expected), atol=1e-5)


# ------------------------------------------------------------------------------------------ super-resolution


def test_pool_is_the_mean_of_blocks_repeated() -> None:
    # kills: nearest or bilinear reduction; bilinear enlargement; a shifted block grid
    x_0 = noise(32, 48)
    x_1 = SuperResolution4x()(x_0, ANY).x_1
    for i, j in ((0, 0), (3, 5), (31, 47), (16, 20)):
        block = x_0[..., i // 4 * 4 : i // 4 * 4 + 4, j // 4 * 4 : j // 4 * 4 + 4]
        assert torch.allclose(x_1[..., i, j], block.mean((-2, -1)), atol=1e-6)
    assert torch.equal(SuperResolution4x().reduce(x_0), F.avg_pool2d(x_0, 4))


def test_cubic_taps_are_the_known_ones() -> None:
    # kills: bicubic-off-centre;
    # a = -0.75 (OpenCV, torch without antialiasing); not normalised; centre off by half a pixel
    half = [-0.00170898, -0.01098633, -0.01831055, -0.01196289, 0.02270508, 0.09741211, 0.18188477, 0.2409668]
    assert cubic_taps() == pytest.approx([*half, *reversed(half)], abs=1e-8)
    assert sum(cubic_taps()) == pytest.approx(1, abs=1e-12)


def test_bicubic_is_torch_s_antialiased_one_inside() -> None:
    # kills: an offset of the window; axes exchanged
    x_0 = noise(48, 64)
    ours = SuperResolution4x("bicubic").reduce(x_0)
    theirs = F.interpolate(x_0, scale_factor=0.25, mode="bicubic", antialias=True)
    assert torch.allclose(ours[..., 2:-2, 2:-2], theirs[..., 2:-2, 2:-2], atol=1e-5)
    # At the border torch leaves taps out instead of mirroring.
    assert not torch.allclose(ours, theirs, atol=1e-2)


def test_bicubic_borders_are_symmetric() -> None:
    # kills: reflected or zero borders; padding of another width
    x_0 = noise(16, 24)
    padded = np.pad(x_0.numpy(), ((0, 0), (0, 0), (6, 6), (6, 6)), mode="symmetric")
    taps = torch.tensor(cubic_taps(), dtype=torch.float32)
    window = torch.outer(taps, taps).expand(3, 1, 16, 16)
    expected = F.conv2d(torch.tensor(padded), window, stride=4, groups=3)
    assert torch.allclose(SuperResolution4x("bicubic").reduce(x_0), expected, atol=1e-5)


@pytest.mark.parametrize("degradation", [SuperResolution4x(), SuperResolution4x("bicubic"), Blur(), Blur("gaussian")])
def test_a_constant_image_stays_as_it_is(degradation: Blur | SuperResolution4x) -> None:
    # kills: blur-not-normalised;
    # zero padding; taps that do not sum to 1
    for value in (-1.0, 0.3, 1.0):
        x_0 = torch.full((1, 3, 32, 32), value)
        assert torch.allclose(degradation(x_0, ANY).x_1, x_0, atol=1e-6)


def test_super_resolution_enlarges_the_image_that_a_user_brings() -> None:
    # kills: prepare that expects an image of full size; interpolation between its pixels
    small = noise(5, 7)
    x_1 = SuperResolution4x().prepare(small, ANY).x_1
    assert x_1.shape == (2, 3, 20, 28)
    assert torch.equal(x_1[..., 2::4, 3::4], small)
    # What was degraded by us and what a user brings agree.
    x_0 = noise(32, 32)
    for degradation in (SuperResolution4x(), SuperResolution4x("bicubic")):
        assert torch.equal(degradation.prepare(degradation.reduce(x_0), ANY).x_1, degradation(x_0, ANY).x_1)


@pytest.mark.parametrize("size", [(30, 32), (32, 30)])
def test_sides_that_are_no_multiple_of_four_are_refused(size: tuple[int, int]) -> None:
    # kills: the last rows dropped in silence
    with pytest.raises(UserError, match=f"{size[0]} x {size[1]}.*multiples of 4"):
        SuperResolution4x()(noise(*size), ANY)


# ------------------------------------------------------------------------------------------------------ blur


def test_taps_are_the_paper_s() -> None:
    # kills: 8 or 10 taps; sigma 1; not normalised
    assert blur_taps("uniform") == pytest.approx([1 / 9] * 9)
    assert blur_taps("gaussian") == pytest.approx([0.198003, 0.200995, 0.202003, 0.200995, 0.198003], abs=1e-6)


@pytest.mark.parametrize(("kernel", "reach"), [("uniform", 4), ("gaussian", 2)])
def test_a_point_becomes_the_kernel(kernel: Literal["uniform", "gaussian"], reach: int) -> None:
    # kills: one axis only; off-centre kernel; last tap dropped; the kernels exchanged
    x_0 = torch.zeros(1, 3, 21, 31)
    x_0[..., 10, 20] = 1
    taps = torch.tensor(blur_taps(kernel))
    expected = torch.zeros_like(x_0)
    expected[..., 10 - reach : 11 + reach, 20 - reach : 21 + reach] = torch.outer(taps, taps)
    assert torch.allclose(Blur(kernel)(x_0, ANY).x_1, expected, atol=1e-7)


def test_borders_of_an_honest_blur_are_reflected() -> None:
    # kills: symmetric or zero borders
    x_0 = noise(20, 24)
    box = torch.full((3, 1, 9, 9), 1 / 81)
    expected = F.conv2d(F.pad(x_0, (4, 4, 4, 4), mode="reflect"), box, groups=3)
    assert torch.allclose(Blur()(x_0, ANY).x_1, expected, atol=1e-6)


@pytest.mark.parametrize(("kernel", "kept"), [("uniform", 8), ("gaussian", 4)])
def test_compat_operator_is_the_thresholded_band_matrix(kernel: str, kept: int) -> None:
    # kills: last tap kept; no threshold; borders mirrored
    size = 32
    taps = blur_taps(kernel)
    matrix = np.array(
        [
            [taps[j - i + len(taps) // 2] if -len(taps) // 2 < j - i < len(taps) // 2 else 0.0 for j in range(size)]
            for i in range(size)
        ]
    )
    offsets = {j - i for i, j in zip(*np.nonzero(matrix), strict=True)}
    assert (min(offsets), max(offsets)) == (-(len(taps) // 2), len(taps) // 2 - 1)
    assert len(offsets) == kept
    left, values, right = np.linalg.svd(matrix)
    values[values < 0.03] = 0
    ours_left, ours_right, gains = compat_operator(kernel, size, 1)
    # With one channel ranks and gains pair rightly: the operator is A x A^T.
    x = noise(size, size)[0, 0].double()
    ours = ours_left @ (gains[0] * (ours_right @ x @ ours_right.T)) @ ours_left.T
    dense = left @ np.diag(values) @ right
    assert torch.allclose(ours, torch.tensor(dense @ x.numpy() @ dense.T), atol=1e-9)


def test_compat_gains_meet_the_wrong_coefficients_as_they_did() -> None:
    # kills: the pairing put right; channels exchanged; gains ascending
    size = 16
    _, _, gains = compat_operator("uniform", size, 3)
    right_pairing = compat_operator("uniform", size, 1)[2].flatten()
    ranked = right_pairing.sort(descending=True).values
    rounded = (right_pairing * 1e9).round()
    for product in set(rounded.tolist()):
        # Ties share ranks; which of them has which is left open.
        tied = rounded == product
        first = int((rounded > product).sum())
        ranks = torch.arange(first, first + int(tied.sum()))
        for channel in range(3):
            expected = ranked[(3 * ranks + channel) % size**2].sort().values
            assert torch.allclose(gains[channel].flatten()[tied].sort().values, expected, atol=1e-9)


def test_compat_works_on_0_to_1_images_and_darkens() -> None:
    # kills: applied to [-1, 1] values; not brought back to [-1, 1]
    black, white = torch.full((1, 3, 64, 64), -1.0), torch.ones(1, 3, 64, 64)
    blur = Blur("uniform", "ddrm-compat")
    assert torch.allclose(blur(black, ANY).x_1, black, atol=1e-6)
    assert blur(white, ANY).x_1.mean() < 0.5
    # Affine on [-1, 1]: half-way between black and white comes half-way between their results.
    middle = blur(torch.zeros(1, 3, 64, 64), ANY).x_1
    assert torch.allclose(middle, (blur(black, ANY).x_1 + blur(white, ANY).x_1) / 2, atol=1e-5)


def test_compat_is_for_square_images_and_factored_once() -> None:
    # kills: a wrong result for oblong images; a decomposition for each batch
    with pytest.raises(UserError, match=r"32 x 48.*honest"):
        Blur("uniform", "ddrm-compat")(noise(32, 48), ANY)
    Blur("gaussian", "ddrm-compat")(noise(24, 24), ANY)
    misses = compat_operator.cache_info().misses
    Blur("gaussian", "ddrm-compat")(noise(24, 24, batch=3), ANY)
    assert compat_operator.cache_info().misses == misses
