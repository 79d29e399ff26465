"""Resizing, kernel blurs, sensor and weather: each against its formula or another library."""

import math
from typing import Any, Literal

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from i2i_bridge.degradations import jpeg, linear
from i2i_bridge.degradations.base import Degradation
from i2i_bridge.degradations.downsample import Downsample, Resize, SuperResolution4x
from i2i_bridge.degradations.inpaint import CropOut
from i2i_bridge.degradations.kernel_blur import Defocus, GaussianBlur, MotionBlur
from i2i_bridge.degradations.linear import Resampling, resize_matrix, resized
from i2i_bridge.degradations.quantise import Quantise
from i2i_bridge.degradations.sensor import LowLight, ShotNoise
from i2i_bridge.degradations.weather import Haze, Rain
from i2i_bridge.images.pixels import to_pixels
from i2i_bridge.randomness import generator, rand
from i2i_bridge.registry import DEGRADATIONS

ANY = generator(0, "not used")


def images(batch: int = 2, height: int = 48, width: int = 72) -> Tensor:
    return rand((batch, 3, height, width), generator(0, "test")).float() * 2 - 1


def generators(batch: int) -> list[torch.Generator]:
    return [generator(0, "test", i) for i in range(batch)]


def point(side: int = 41) -> Tensor:
    """Black but for one white pixel in the middle; (x + 1) / 2 of its blur is the kernel."""
    x = torch.full((1, 1, side, side), -1.0)
    x[..., side // 2, side // 2] = 1
    return x


def kernel_of(degradation: Degradation, side: int = 41) -> Tensor:
    return (degradation(point(side), [generator(0, "test")]).x_1[0, 0] + 1) / 2


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("jpeg", {"quality": 10}),
        ("jpeg", {"quality": [9, 11]}),
        ("sr4x", {"filter": "bicubic"}),
        ("downsample", {}),
        ("blur", {}),
        ("defocus", {"radius": [2, 6]}),
    ],
)
def test_an_accelerator_s_whole_batch_gives_what_a_cpu_gives_image_by_image(
    name: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # kills: ddrm-batch-mixed-up; one quality or kernel for all; a channel dropped
    degradation = DEGRADATIONS.build({"name": name} | options)
    x_0 = images(5, 48, 64)
    one_by_one = degradation(x_0, generators(5)).x_1
    for module in (jpeg, linear):
        monkeypatch.setattr(module, "at_once", lambda x, few: len(x))
    together = degradation(x_0, generators(5)).x_1
    torch.testing.assert_close(together, one_by_one, rtol=0, atol=1e-6)
    assert (together[1:] - together[:-1]).abs().mean((1, 2, 3)).min() > 0.05


# ------------------------------------------------------------------------------------------------- resizing


@pytest.mark.parametrize(
    ("kernel", "theirs"),
    [
        ("area", Image.Resampling.BOX),
        ("bilinear", Image.Resampling.BILINEAR),
        ("bicubic", Image.Resampling.BICUBIC),
        ("lanczos", Image.Resampling.LANCZOS),
        ("nearest", Image.Resampling.NEAREST),
    ],
)
@pytest.mark.parametrize("size", [(24, 36), (16, 24), (96, 144), (6, 9), (37, 50)])
def test_resizing_is_pillow_s(kernel: Resampling, theirs: Image.Resampling, size: tuple[int, int]) -> None:
    # kills: bicubic-without-widening; a = -0.75; lanczos of 2 lobes; corners aligned; height and width exchanged
    if kernel == "area" and 48 % size[0]:
        pytest.skip("Pillow's box takes whole pixels only")
    if kernel == "nearest" and size[0] == 37:
        pytest.skip("a centre exactly between two pixels may go to either")
    x = images(1)[0, 0]
    expected = np.asarray(Image.fromarray(x.numpy()).resize(size[::-1], theirs))
    assert np.allclose(resized(x, size, kernel).numpy(), expected, atol=2e-6)


def test_area_gives_each_pixel_its_share() -> None:
    # kills: a box of whole pixels; rows that do not sum to 1
    third = 1 / 3
    expected = torch.tensor([[2 * third, third, 0], [0, third, 2 * third]], dtype=torch.float64)
    assert torch.allclose(resize_matrix(3, 2, "area"), expected)


@pytest.mark.parametrize("factor", [2, 3, 4, 8])
@pytest.mark.parametrize("enlarge", ["nearest", "bicubic"])
def test_downsample_enlarges_what_a_user_brings(
    factor: Literal[2, 3, 4, 8], enlarge: Literal["nearest", "bicubic"]
) -> None:
    # kills: pixels of a bicubic enlargement taken for the small image; another enlargement in prepare
    degradation = Downsample(factor, "lanczos", enlarge)
    x_0 = images()
    small = resized(x_0, (48 // factor, 72 // factor), "lanczos")
    x_1 = degradation(x_0, ANY).x_1
    assert torch.allclose(degradation.prepare(small, ANY).x_1, x_1, atol=1e-6)
    assert torch.allclose(degradation.reduced(x_1), small, atol=1e-5)
    assert degradation.scale == degradation.multiple == factor


def test_downsample_by_four_agrees_with_sr4x() -> None:
    # kills: another phase than the paper's operator
    x_0 = images()
    pool = SuperResolution4x()(x_0, ANY).x_1
    assert torch.allclose(Downsample(4, "area")(x_0, ANY).x_1, pool, atol=1e-6)
    bicubic, ours = SuperResolution4x("bicubic")(x_0, ANY).x_1, Downsample(4, "bicubic")(x_0, ANY).x_1
    assert torch.allclose(bicubic[..., 8:-8, 8:-8], ours[..., 8:-8, 8:-8], atol=1e-5)  # borders differ


def test_resize_takes_detail_and_comes_back() -> None:
    # kills: the factor inverted; a constant image that changes; factor or filter of another sample
    x_0 = images(12)
    degraded = Resize((0.2, 0.9))(x_0, generators(12))
    assert set(degraded.parameters["filter"].tolist()) == {0, 1, 2}
    for i in (3, 7):
        factor, kernel = (float(degraded.parameters[name][i]) for name in ("factor", "filter"))
        names: list[Resampling] = ["area", "bilinear", "bicubic"]
        small = resized(x_0[i], (round(48 * factor), round(72 * factor)), names[int(kernel)])
        assert torch.allclose(degraded.x_1[i], resized(small, (48, 72), "bicubic"), atol=1e-5)
        stage = Resize((0.2, 0.9)).stage(x_0[i : i + 1], generators(12)[i : i + 1])
        assert stage.x_1.shape[-2:] == small.shape[-2:]


# ----------------------------------------------------------------------------------------------------- blurs


def test_defocus_is_a_disk() -> None:
    # kills: a square or Gaussian; diameter for radius; not normalised
    kernel = kernel_of(Defocus(6.0))
    assert kernel.sum() == pytest.approx(1, abs=1e-4)
    rows, columns = torch.meshgrid(torch.arange(-20, 21), torch.arange(-20, 21), indexing="ij")
    away = torch.hypot(rows.double(), columns.double())
    assert kernel[away < 5.4].allclose(torch.tensor(1 / (math.pi * 36)), rtol=0.02)
    assert kernel[away > 6.6].abs().max() < 1e-6


def test_motion_is_a_line_that_turns_counter_clockwise() -> None:
    # kills: degrees as radians; clockwise; length of the last sample for all; direction ignored
    level = kernel_of(MotionBlur(length=9, angle=0.0))
    assert torch.allclose(level[20, 16:25], torch.full((9,), 1 / 9), atol=1e-5)
    assert level.sum() == pytest.approx(1, abs=1e-4)
    steep = kernel_of(MotionBlur(length=15, angle=60.0))
    rows, columns = torch.meshgrid(torch.arange(-20, 21), torch.arange(-20, 21), indexing="ij")
    # Rows count downwards: a line that rises to the right has rows and columns of opposite signs.
    slant = torch.atan2(-(steep * rows * columns).sum(), (steep * columns**2).sum())
    assert math.degrees(float(slant)) == pytest.approx(60, abs=4)
    heavy = kernel_of(MotionBlur(length=9, angle=0.0, direction=1.0))[20, 16:25]
    assert (heavy[0] - heavy[-1]).abs() > 0.15
    lengths = MotionBlur(length=(1.0, 20.0))(images(16), generators(16)).parameters["length"]
    assert (lengths % 2 == 1).all()
    assert lengths.min() < 6
    assert lengths.max() > 15


def test_gaussian_has_its_widths_and_angle() -> None:
    # kills: variance for sigma; axes exchanged; cut too early; turned clockwise
    kernel = kernel_of(GaussianBlur(sigma=4.0, ratio=0.5, angle=30.0), 61).double()
    offsets = torch.arange(-30, 31, dtype=torch.float64)
    rows, columns = -offsets[:, None], offsets[None, :]
    moments = torch.stack(
        [(kernel * a * b).sum() for a, b in ((columns, columns), (columns, rows), (rows, columns), (rows, rows))]
    )
    turn = torch.tensor([[math.cos(math.pi / 6), -0.5], [0.5, math.cos(math.pi / 6)]], dtype=torch.float64)
    expected = turn @ torch.diag(torch.tensor([16.0, 4.0], dtype=torch.float64)) @ turn.T
    assert torch.allclose(moments.view(2, 2), expected, rtol=0.02)


# ---------------------------------------------------------------------------------------- sensor and weather


def test_shot_noise_has_poisson_moments() -> None:
    # kills: noise-without-signal (Gaussian of one std); counts not scaled back; read noise as a variance
    x_0 = torch.full((1, 1, 200, 200), 0.5)
    for read in (0.0, 3.0):
        x_1 = ShotNoise(photons=20.0, read=read)(x_0, [generator(0, "test")]).x_1
        values = (x_1 + 1) / 2
        assert values.mean().item() == pytest.approx(0.75, abs=0.004)
        assert values.var().item() == pytest.approx(0.75 / 20 + (read / 20) ** 2, rel=0.04)
    counts = ((ShotNoise(photons=20.0)(x_0, [generator(0, "test")]).x_1 + 1) / 2 * 20).double()
    assert torch.allclose(counts, counts.round(), atol=1e-4)
    black = torch.full((1, 1, 20, 20), -1.0)
    assert torch.equal(ShotNoise(photons=20.0)(black, [generator(0, "test")]).x_1, black)


def test_low_light_darkens_by_its_formula() -> None:
    # kills: 1 / gamma; exposure before the power; noise in units of [0, 1]
    x_0 = images()
    x_1 = LowLight(exposure=0.3, gamma=2.0, noise=0.0)(x_0, ANY).x_1
    assert torch.allclose((x_1 + 1) / 2, 0.3 * ((x_0 + 1) / 2) ** 2, atol=1e-6)
    noisy = LowLight(exposure=0.3, gamma=2.0, noise=0.1)(x_0, generators(2)).x_1
    assert (noisy - x_1).std().item() == pytest.approx(0.1, rel=0.03)


def test_quantised_values_are_the_codes_of_a_file() -> None:
    # kills: quantised-without-a-cut, quantised-to-the-code-below, quantised-to-8-bits-at-most
    x_0 = torch.linspace(-1.5, 1.5, 30_000).view(1, 3, 100, 100)
    codes = (Quantise()(x_0, ANY).x_1 + 1) / 2 * 255
    expected = torch.from_numpy(to_pixels(x_0[0])).permute(2, 0, 1)[None].float()
    assert torch.equal(codes.round(), expected)
    assert (codes - codes.round()).abs().max() < 1e-4
    deep = (Quantise(bits=16)(x_0.double(), ANY).x_1 + 1) / 2 * 65535
    assert torch.allclose(deep, torch.from_numpy(to_pixels(x_0[0], np.uint16)).permute(2, 0, 1)[None].double())
    assert torch.equal(Quantise(bits=1)(x_0, ANY).x_1, torch.where(x_0 < 0, -1.0, 1.0))


def test_haze_blends_towards_its_airlight() -> None:
    # kills: transmission and its complement exchanged; airlight in [-1, 1]; the same depth for all; a rough depth
    grey = torch.zeros(4, 1, 64, 64)
    x_1 = Haze(beta=2.0, airlight=0.9)(grey, generators(4)).x_1
    t = 1 - x_1 / 0.8
    depth = -t.log() / 2
    assert depth.min() >= -1e-6
    assert depth.max() <= 1 + 1e-5
    assert (depth.flatten(1).std(1) > 0.1).all()
    assert (depth.diff(dim=-1).abs().max()) < 0.1
    assert (depth[0] - depth[1]).abs().mean() > 0.1
    other = Haze(beta=2.0, airlight=0.9)(grey - 0.5, generators(4)).x_1
    assert torch.allclose(other, -0.5 * t + 0.8 * (1 - t), atol=1e-5)


def test_rain_is_bright_steep_and_as_dense_as_said() -> None:
    # kills: dark streaks; a haze instead of streaks; level streaks; density ignored
    x_0 = torch.full((2, 3, 96, 96), -0.4)
    rain = Rain(density=0.002, length=15, angle=90.0, brightness=0.5)
    x_1 = rain(x_0, generators(2)).x_1
    added = (x_1 - x_0) / (1 - x_0)
    assert added.min() >= -1e-6
    assert added.max().item() == pytest.approx(0.5, abs=1e-4)
    assert torch.allclose(added[:, 0], added[:, 2], atol=1e-6)
    wet = (added[:, 0] > 0.25).float().mean().item()
    assert wet == pytest.approx(0.002 * 15, rel=0.3)
    assert added.diff(dim=-2).abs().mean() < 0.3 * added.diff(dim=-1).abs().mean()


@pytest.mark.parametrize("angle", [60.0, 120.0])
def test_rain_leans_as_its_angle_says(angle: float) -> None:
    """Less than 90 degrees leans to the right at the top: with rows counted downwards both slopes have one sign."""
    # kills: rain-leans-the-other-way
    x_0 = torch.full((1, 1, 64, 64), -1.0)
    x_1 = Rain(density=0.003, length=15, angle=angle, brightness=0.5)(x_0, generators(1)).x_1
    down = x_1[..., 2:, 1:-1] - x_1[..., :-2, 1:-1]
    across = x_1[..., 1:-1, 2:] - x_1[..., 1:-1, :-2]
    lean = (down * across).sum() / (down.square().sum() * across.square().sum()).sqrt()
    assert float(lean) * (90 - angle) / 30 > 0.3


def test_the_lengths_of_rain_are_those_that_are_drawn() -> None:
    """The odd number of pixels that a streak has, not the number before it was rounded up."""
    # kills: rain-length-not-recorded
    x_0 = torch.full((24, 1, 48, 24), -1.0)
    rain = Rain(density=1e-3, length=(2.0, 12.0), angle=90.0, brightness=1.0)(x_0, generators(24))
    whole = []
    for image, length in zip(rain.x_1[:, 0] > -1 + 1e-3, rain.parameters["length"].tolist(), strict=True):
        streaks = image[:, image.any(0)]
        if streaks.shape[1] == 1 and not streaks[0] and not streaks[-1]:
            whole.append((int(streaks.sum()), length))
    assert len(whole) > 4
    assert all(pixels == length for pixels, length in whole)


def test_light_below_black_is_none_and_above_white_is_more() -> None:
    """As a noise before them in a chain leaves it: no counts below 0, no power of a negative number."""
    # kills: low-light-of-negative-light, shot-noise-of-negative-light, low-light-clamped-at-white
    x_0 = torch.tensor([-1.5, -1.0, 1.6]).view(1, 1, 1, 3).expand(1, 1, 4000, 3)
    dark = LowLight(exposure=0.5, gamma=2.0, noise=0.0)(x_0, ANY).x_1
    assert torch.allclose(dark[0, 0, 0], torch.tensor([-1.0, -1.0, 2 * 0.5 * 1.3**2 - 1]), atol=1e-6)
    shot = ShotNoise(photons=50.0)(x_0, generators(1)).x_1
    assert bool((shot[..., :2] == -1).all())
    assert shot[..., 2].mean().item() == pytest.approx(1.6, abs=0.02)


def test_crop_outs_are_rectangles_of_their_size() -> None:
    # kills: rectangles cut off at the border; height drawn from the width; one rectangle for the batch
    degraded = CropOut(count=1, size=(0.2, 0.5), fill="white")(images(64), generators(64))
    assert degraded.mask is not None
    seen = set()
    for mask in degraded.mask[:, 0]:
        rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
        height, width = len(rows), len(columns)
        assert mask.sum() == height * width == (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)
        assert round(0.2 * 48) <= height <= round(0.5 * 48)
        assert round(0.2 * 72) <= width <= round(0.5 * 72)
        seen.add((int(rows[0]), int(columns[0]), height, width))
    assert len(seen) > 60
    assert min(top for top, *_ in seen) < 5
    assert max(top + height for top, _, height, _ in seen) > 43
    many = CropOut(count=(1, 5), size=0.1)(images(64), generators(64))
    assert set(many.parameters["count"].tolist()) == {1, 2, 3, 4, 5}


# --------------------------------------------------------------------------------------------------- compose


def test_compose_goes_in_order() -> None:
    # kills: compose-backwards; each member applied to x_0
    tables: list[dict[str, Any]] = [{"name": "gaussian-blur"}, {"name": "low-light", "exposure": 0.3, "gamma": 2.0}]
    tables[1]["noise"] = 0.0
    x_0 = images()
    x_1 = DEGRADATIONS.build({"name": "compose", "degradations": tables})(x_0, generators(2)).x_1
    expected = DEGRADATIONS.build(tables[1])(DEGRADATIONS.build(tables[0])(x_0, ANY).x_1, ANY).x_1
    assert torch.equal(x_1, expected)
    turned = DEGRADATIONS.build({"name": "compose", "degradations": tables[::-1]})(x_0, generators(2)).x_1
    assert not torch.allclose(turned, x_1, atol=1e-3)


def test_compose_knows_what_is_known() -> None:
    # kills: the last mask alone; pixels called known that a member without a mask has changed
    holes: list[dict[str, Any]] = [{"name": "inpaint", "mask": "center"}, {"name": "crop-out", "size": 0.3}]
    compose = DEGRADATIONS.build({"name": "compose", "degradations": holes})
    x_0 = images()
    degraded = compose(x_0, generators(2))
    assert degraded.mask[..., 12:36, 18:54].eq(1).all()
    assert degraded.mask.sum() > 2 * 24 * 36
    known = degraded.mask.expand_as(x_0) == 0
    assert torch.equal(degraded.x_1[known], x_0[known])
    noisy = DEGRADATIONS.build({"name": "compose", "degradations": [*holes, {"name": "noise", "std": 0.1}]})
    assert noisy(x_0, generators(2)).mask.eq(1).all()
    # A user's hole is filled, and the rest is not known exactly either.
    mask = torch.zeros(1, 1, 48, 72)
    mask[..., :20] = 1
    prepared = noisy.prepare(x_0, generators(2), mask)
    assert torch.equal(prepared.x_1[..., 20:], x_0[..., 20:])
    assert not torch.equal(prepared.x_1[..., :20], x_0[..., :20])
    assert prepared.mask.eq(1).all()


def test_compose_enlarges_and_conditions_as_its_member_does() -> None:
    # kills: a full-size image asked of super-resolution; the condition lost
    up = DEGRADATIONS.build(
        {"name": "compose", "degradations": [{"name": "blur"}, {"name": "downsample", "factor": 3}]}
    )
    assert (up.scale, up.multiple) == (3, 3)
    assert up.prepare(images(2, 16, 24), ANY).x_1.shape[-2:] == (48, 72)
    colour = DEGRADATIONS.build(
        {"name": "compose", "degradations": [{"name": "colorization"}, {"name": "noise", "std": 0.2}]}
    )
    assert colour.condition_channels == 3
    assert colour(images(), generators(2)).condition.std(1).max() < 1e-6
    assert colour.prepare(images()[:, :1], generators(2)).condition.shape[1] == 3
    back = DEGRADATIONS.build({"name": "compose", "degradations": [{"name": "downsample"}, {"name": "blur"}]})
    assert back.scale == 1


@pytest.mark.parametrize("name", ["compose", "mixture"])
def test_several_are_measured_and_reduced_as_their_member_is(name: str) -> None:
    """The measurement is the condition where one is given; an enlarged image is brought back to the size it had."""
    # kills: measurement-of-a-chain-with-its-noise, measurement-of-a-mixture-with-its-noise
    # kills: chain-not-reduced, mixture-not-reduced
    grey = [{"name": "colorization", "noise_std": 0.5}] * 2 if name == "mixture" else [{"name": "colorization"}]
    grey += [{"name": "noise", "std": 0.5}] if name == "compose" else []
    degradation = DEGRADATIONS.build({"name": name, "degradations": grey})
    x_0 = images()
    degraded = degradation(x_0, generators(2))
    assert torch.equal(degradation.measurement(degraded), DEGRADATIONS.build({"name": "colorization"})(x_0, ANY).x_1)
    assert not torch.allclose(degraded.x_1, degraded.condition, atol=0.1)
    small = [{"name": "downsample", "factor": 3}] * 2
    enlarged = DEGRADATIONS.build({"name": name, "degradations": small})
    x_1 = enlarged(x_0, generators(2)).x_1
    assert torch.equal(enlarged.reduced(x_1), DEGRADATIONS.build(small[0]).reduced(x_1))
    assert enlarged.reduced(x_1).shape[-2:] == (16, 24)


@pytest.mark.parametrize(
    "degradation",
    [
        MotionBlur(length=(3.0, 21.0), direction=(-1.0, 1.0)),
        ShotNoise(photons=(10.0, 200.0), read=(0.0, 20.0)),
        LowLight(noise=(0.0, 0.2)),
        Haze(),
        Defocus(radius=(1.0, 9.0)),
        GaussianBlur(sigma=(0.5, 6.0), ratio=(0.3, 1.0), angle=(0.0, 180.0)),
        Rain(length=(3.0, 21.0)),
        DEGRADATIONS.build({"name": "jpeg", "quality": [5, 95], "backend": "kornia"}),
        DEGRADATIONS.build({"name": "jpeg", "quality": [5, 95], "backend": "pillow"}),
    ],
    ids=lambda degradation: f"{type(degradation).__name__} {getattr(degradation, 'backend', '')}",
)
def test_what_one_image_draws_is_nothing_to_the_others(degradation: Degradation) -> None:
    """Kernels of several sizes in a batch, and several qualities: each image comes out as it does alone."""
    # kills: small-kernels-off-centre, reach-of-the-first-radius, kornia-quality-of-the-first,
    # kills: read-noise-of-the-first, motion-direction-of-the-first
    x_0 = images(5)
    for order in ([0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [2, 0, 4, 1, 3]):  # whichever draws the largest comes first once
        together = degradation(x_0[order], [generator(0, "test", i) for i in order]).x_1
        for place, i in enumerate(order):
            alone = degradation(x_0[i : i + 1], [generator(0, "test", i)]).x_1
            assert (together[place : place + 1] - alone).abs().max() < 1e-5, i


def test_sizes_are_rounded_as_documented() -> None:
    """A resize to whole pixels, to the nearest; the length of a motion up to an odd number."""
    # kills: resize-rounds-down, motion-rounds-down
    for side, factor, wanted in ((8, 0.6, 5), (8, 0.55, 4), (9, 0.5, 4), (100, 0.999, 100), (3, 0.1, 1)):
        small = Resize(factor=factor, filter="area").stage(images(1, side, side), generator(0, "test")).x_1
        assert small.shape[-2:] == (wanted, wanted), (side, factor)
    for length, wanted in ((1.0, 1), (2.0, 3), (3.0, 3), (3.2, 5), (4.0, 5), (15.5, 17)):
        row = kernel_of(MotionBlur(length=length, angle=0.0))[20]
        assert int((row > 1e-4).sum()) == wanted, length


def test_a_chain_asks_for_sides_that_suit_all_its_members() -> None:
    """The least common multiple, not the largest: 48 for a JPEG of 16 and a reduction by 3."""
    # kills: multiple-of-the-largest-member
    tables = [{"name": "jpeg", "quality": 50}, {"name": "downsample", "factor": 3}]
    for name in ("compose", "mixture"):
        degradation = DEGRADATIONS.build({"name": name, "degradations": tables})
        assert degradation.multiple == 48
        assert degradation(images(1, 48, 96), generators(1)).x_1.shape[-2:] == (48, 96)
