"""The contract over all degradations, and the formulas of colorization and noise."""

import pickle
from typing import Any

import pytest
import torch
from torch import Tensor

from i2i_bridge.degradations.base import binary_mask
from i2i_bridge.degradations.colour import Colorization, grey
from i2i_bridge.degradations.contract import check_degradation
from i2i_bridge.degradations.noise import Noise
from i2i_bridge.errors import UserError
from i2i_bridge.randomness import generator, rand
from i2i_bridge.registry import DEGRADATIONS

NINE: list[dict[str, Any]] = [
    {"name": "jpeg", "quality": 5},
    {"name": "jpeg", "quality": 10},
    {"name": "blur", "kernel": "uniform"},
    {"name": "blur", "kernel": "gaussian"},
    {"name": "sr4x", "filter": "pool"},
    {"name": "sr4x", "filter": "bicubic"},
    {"name": "inpaint", "mask": "center"},
    {"name": "inpaint", "mask": "freeform", "area": [0.1, 0.2]},
    {"name": "inpaint", "mask": "freeform", "area": [0.2, 0.3]},
]
BLURS = [{"name": "defocus", "radius": [1, 3]}, {"name": "gaussian-blur", "sigma": [0.2, 3], "angle": [0, 180]}]
NOISES = [{"name": "noise", "std": [0.01, 0.2]}, {"name": "shot-noise", "photons": [20, 500]}]
STAGE: list[dict[str, Any]] = [
    {"name": "mixture", "degradations": BLURS},
    {"name": "resize", "factor": [0.3, 1.5]},
    {"name": "mixture", "degradations": NOISES, "weights": [1, 2]},
    {"name": "jpeg", "quality": [30, 95], "backend": "pillow"},
]
SECOND_ORDER = [*STAGE, *STAGE]
TABLES: list[dict[str, Any]] = [
    *NINE,
    {"name": "jpeg", "quality": 10, "backend": "pillow"},
    {"name": "jpeg", "quality": 10, "backend": "kornia"},
    {"name": "blur", "kernel": "uniform", "backend": "ddrm-compat"},
    {"name": "blur", "kernel": "gaussian", "backend": "ddrm-compat"},
    {"name": "inpaint", "fill": "white"},
    {"name": "inpaint", "fill": "grey", "mask": "freeform"},
    {"name": "colorization"},
    {"name": "colorization", "noise_std": 1.0},
    {"name": "noise", "std": 1.0},
    {"name": "noise", "std": [0.01, 0.3]},
    {"name": "jpeg", "quality": [5, 30]},
    {"name": "jpeg", "quality": [5, 30], "backend": "pillow"},
    {"name": "jpeg", "quality": [5, 30], "backend": "kornia"},
    {"name": "motion-blur"},
    {"name": "motion-blur", "length": 8, "angle": 90.0},
    {"name": "motion-blur", "length": [1, 15], "direction": [-1, 1]},
    {"name": "defocus"},
    {"name": "defocus", "radius": [0.5, 6]},
    {"name": "gaussian-blur"},
    {"name": "gaussian-blur", "sigma": [0.2, 3], "ratio": [0.3, 1], "angle": [0, 180]},
    {"name": "shot-noise"},
    {"name": "shot-noise", "photons": [10, 100], "read": [0, 5]},
    {"name": "low-light"},
    {"name": "low-light", "exposure": 0.3, "gamma": 2.0, "noise": 0.0},
    {"name": "quantise"},
    {"name": "quantise", "bits": 3},
    {"name": "haze"},
    {"name": "haze", "beta": 1.0, "airlight": 0.9},
    {"name": "rain"},
    {"name": "rain", "density": 0.01, "length": 9, "angle": 80, "brightness": 0.5},
    {"name": "edges"},
    {"name": "edges", "sigma": [0.5, 2], "threshold": [0.02, 0.1], "width": [1, 4], "ink": "white"},
    {"name": "edges", "detector": "sobel"},
    {"name": "edges", "detector": "soft", "sigma": 0, "width": 2},
    {"name": "sketch"},
    {"name": "sketch", "sigma": [1, 6], "darkness": [1, 4]},
    {"name": "posterise"},
    {"name": "posterise", "levels": [2, 8]},
    {"name": "halftone"},
    {"name": "halftone", "period": [3, 9], "angle": [0, 90], "ink": "colour"},
    {"name": "kornia", "op": "RandomMotionBlur", "kernel_size": 7, "angle": [0, 180], "direction": 0},
    {"name": "kornia", "op": "RandomPlasmaShadow"},
    {"name": "downsample"},
    {"name": "downsample", "factor": 3, "kernel": "lanczos", "enlarge": "bicubic"},
    {"name": "crop-out"},
    {"name": "crop-out", "count": 2, "size": 0.3, "fill": "white"},
    {"name": "resize"},
    {"name": "resize", "factor": 0.5, "filter": "lanczos"},
    {"name": "compose", "degradations": SECOND_ORDER[:4]},
    {"name": "compose", "degradations": SECOND_ORDER},
    {"name": "compose", "degradations": [{"name": "inpaint"}, {"name": "crop-out"}]},
    {"name": "compose", "degradations": [{"name": "colorization"}, {"name": "crop-out"}]},
    {"name": "compose", "degradations": [{"name": "blur"}, {"name": "sr4x"}]},
    {"name": "mixture", "degradations": SECOND_ORDER},
    {"name": "mixture", "degradations": NINE},
    {"name": "mixture", "degradations": [{"name": "noise", "std": 0.1}, {"name": "sr4x"}], "weights": [1, 3]},
]


def label(table: dict[str, Any]) -> str:
    return "-".join(str(value) for value in table.values() if not isinstance(value, list))


def reads_values(table: dict[str, Any]) -> bool:
    """Meta tensors have none: not for encoders, Canny, kornia, nor what torch draws on the generator's device alone."""
    inner = any(reads_values(member) for member in table.get("degradations", ()))
    canny = table["name"] == "edges" and "detector" not in table
    return inner or canny or table["name"] in ("shot-noise", "kornia") or table.get("backend") in ("pillow", "kornia")


def images(batch: int = 2, channels: int = 3, height: int = 32, width: int = 32) -> Tensor:
    return rand((batch, channels, height, width), generator(0, "test")).float() * 2 - 1


def generators(batch: int) -> list[torch.Generator]:
    return [generator(0, "test", i) for i in range(batch)]


@pytest.mark.parametrize("table", TABLES, ids=label)
def test_every_member_keeps_the_contract(table: dict[str, Any]) -> None:
    # kills: any draw from a global generator, in-place change, NaN, batch dependence, changed known pixels
    assert check_degradation(DEGRADATIONS.build(table)) == []


def test_the_contract_is_tried_on_all_members() -> None:
    # kills: a member that is registered but not in TABLES
    ours = {name for name in DEGRADATIONS.names() if DEGRADATIONS.get(name).__module__.startswith("i2i_bridge.")}
    assert ours == {table["name"] for table in TABLES}


@pytest.mark.parametrize("table", TABLES, ids=label)
def test_members_travel_to_worker_processes(table: dict[str, Any]) -> None:
    # kills: a lambda or an open file among the fields
    degradation = DEGRADATIONS.build(table)
    copy = pickle.loads(pickle.dumps(degradation))
    x_0 = images(height=48, width=48)
    assert torch.equal(copy(x_0, generators(2)).x_1, degradation(x_0, generators(2)).x_1)


@pytest.mark.parametrize("table", TABLES, ids=label)
def test_a_worker_with_one_thread_gets_the_same_bits(table: dict[str, Any]) -> None:
    # kills: transforms in float32, whose last bit depends on the number of threads
    degradation, x_0 = DEGRADATIONS.build(table), images(1, height=240, width=240)
    threads, results = torch.get_num_threads(), []
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            results.append(degradation(x_0, generators(1)).x_1)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*results)


@pytest.mark.parametrize("table", [t for t in TABLES if not reads_values(t)], ids=label)
def test_the_work_is_done_where_the_images_are(table: dict[str, Any]) -> None:
    # kills: a table, matrix, mask or index left on the CPU (mixing it with a "meta" tensor raises)
    x_0 = torch.empty(2, 3, 48, 48, device="meta")
    degraded = DEGRADATIONS.build(table)(x_0, generators(2))
    for part in (degraded.x_1, degraded.mask, degraded.condition, *degraded.parameters.values()):
        assert part is None or part.device.type == "meta"


def test_prepare_takes_the_image_as_it_is_and_hands_a_mask_on() -> None:
    # kills: degrading an image twice; a soft mask left soft; one mask not repeated for the batch
    image = images(2)
    soft = torch.zeros(1, 1, 32, 32)
    soft[..., :5], soft[..., 5:9] = 0.51, 0.5
    for table in (NINE[0], NINE[2], {"name": "noise", "std": 1.0}):
        assert torch.equal(DEGRADATIONS.build(table).prepare(image, generator(0, "a")).x_1, image)
    mask = Noise(1.0).prepare(image, generator(0, "a"), soft).mask
    assert mask is not None
    assert mask.shape == (2, 1, 32, 32)
    assert mask[..., :5].eq(1).all()
    assert mask[..., 5:].eq(0).all()


@pytest.mark.parametrize("shape", [(1, 1, 32, 31), (3, 1, 32, 32), (1, 3, 32, 32), (32, 32)])
def test_a_mask_of_another_size_is_refused(shape: tuple[int, ...]) -> None:
    # kills: broadcasting or resizing a mask in silence
    with pytest.raises(UserError, match="mask"):
        binary_mask(torch.ones(shape), images(2))


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"name": "jpeg"}, "quality"),
        ({"name": "jpeg", "quality": 0}, "1..100"),
        ({"name": "jpeg", "quality": 101}, "1..100"),
        ({"name": "jpeg", "quality": [30, 5]}, "falls"),
        ({"name": "jpeg", "quality": [5, 101]}, "1..100"),
        ({"name": "jpeg", "quality": [5]}, "quality"),
        ({"name": "motion-blur", "length": 0}, "1..201"),
        ({"name": "motion-blur", "direction": [-2, 0]}, "direction"),
        ({"name": "defocus", "radius": 0}, "radius"),
        ({"name": "shot-noise", "photons": 0}, "photons"),
        ({"name": "low-light", "exposure": [0.5, 1.5]}, "exposure"),
        ({"name": "quantise", "bits": 0}, "1..16"),
        ({"name": "quantise", "bits": 17}, "1..16"),
        ({"name": "haze", "airlight": 2}, "airlight"),
        ({"name": "rain", "density": -0.1}, "density"),
        ({"name": "edges", "threshold": 0}, "0.001..1"),
        ({"name": "edges", "sigma": 21}, "0..20"),
        ({"name": "edges", "width": [0, 3]}, "1..32"),
        ({"name": "edges", "detector": "cany"}, "canny"),
        ({"name": "sketch", "sigma": 0}, "0.5..50"),
        ({"name": "posterise", "levels": 1}, "2..256"),
        ({"name": "halftone", "period": 1}, "2..64"),
        ({"name": "downsample", "factor": 5}, "factor"),
        ({"name": "crop-out", "count": 0}, "count"),
        ({"name": "crop-out", "size": 1.5}, "size"),
        ({"name": "resize", "factor": 0}, "factor"),
        ({"name": "compose", "degradations": []}, "empty"),
        ({"name": "compose", "degradations": [{"name": "colorization"}] * 2}, "condition"),
        ({"name": "compose", "degradations": [{"name": "resize"}, NINE[0]]}, "multiples of 16.*pillow"),
        ({"name": "compose", "degradations": [{"name": "resize"}, NINE[6]]}, "'inpaint' has masks"),
        ({"name": "jpeg", "quality": 5, "backend": "pilow"}, "pilow"),
        ({"name": "sr4x", "filter": "nearest"}, "bicubic"),
        ({"name": "blur", "kernel": "box"}, "uniform"),
        ({"name": "noise", "std": -0.1}, "std"),
        ({"name": "colorization", "noise_std": -1.0}, "noise_std"),
        ({"name": "colourization"}, "did you mean 'colorization'"),
        ({"name": "mixture", "degradations": []}, "empty"),
        ({"name": "mixture", "degradations": [{"name": "jpg", "quality": 5}]}, "jpeg"),
        ({"name": "mixture", "degradations": NINE, "weights": [1.0]}, "1 weight for 9"),
        ({"name": "mixture", "degradations": NINE[:2], "weights": [0.0, 0.0]}, "weights"),
        ({"name": "mixture", "degradations": NINE[:2], "weights": [2.0, -1.0]}, "weights"),
        ({"name": "mixture", "degradations": [NINE[0], {"name": "colorization"}]}, "condition"),
    ],
)
def test_wrong_options_are_told_in_one_line(table: dict[str, Any], words: str) -> None:
    # kills: an unchecked range; a traceback instead of a UserError
    with pytest.raises(UserError, match=words) as caught:
        DEGRADATIONS.build(table)
    assert "\n" not in str(caught.value)


def test_literals_are_checked_without_the_registry_too() -> None:
    # kills: the check of choices left to pydantic alone
    from i2i_bridge.degradations.blur import Blur

    with pytest.raises(UserError, match="did you mean 'gaussian'"):
        Blur("gausian")  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------------- colorization


def test_grey_is_rec_601_luma() -> None:
    # kills: mean of the channels, Rec. 709 weights, BGR order
    primaries = torch.eye(3).view(3, 3, 1, 1) * 2 - 1
    expected = torch.tensor([2 * 0.299 - 1, 2 * 0.587 - 1, 2 * 0.114 - 1])
    assert torch.allclose(grey(primaries)[:, 0, 0, 0], expected, atol=1e-6)
    neutral = torch.linspace(-1, 1, 9).view(1, 1, 3, 3)
    assert torch.allclose(grey(neutral.expand(-1, 3, -1, -1)), neutral.expand(-1, 3, -1, -1), atol=1e-6)


def test_colorization_puts_noise_on_x_1_alone() -> None:
    # kills: noise-on-the-condition; noise on the condition; noise_std ignored or squared; condition missing
    x_0 = images(2, height=64, width=64)
    degraded = Colorization(noise_std=0.5)(x_0, generators(2))
    assert degraded.condition is not None
    assert torch.equal(degraded.condition, grey(x_0))
    noise = degraded.x_1 - grey(x_0)
    assert noise.std().item() == pytest.approx(0.5, rel=0.03)
    assert not torch.equal(noise[:, 0], noise[:, 1])
    assert torch.equal(Colorization()(x_0, generators(2)).x_1, grey(x_0))


def test_colorization_prepares_grey_and_colour_images_alike() -> None:
    # kills: a colour left in x_1; a grey file refused; two channels taken
    image = images(2)
    colour = Colorization(0.3).prepare(image, generators(2))
    plain = Colorization(0.3).prepare(grey(image)[:, :1], generators(2))
    assert torch.allclose(colour.x_1, plain.x_1, atol=1e-6)
    assert colour.condition is not None
    assert plain.condition is not None
    assert torch.allclose(colour.condition, plain.condition, atol=1e-6)
    with pytest.raises(UserError, match="2 channels"):
        Colorization().prepare(images(1, channels=2), generators(1))
    with pytest.raises(UserError, match="only 3"):
        Colorization()(images(1, channels=1), generators(1))


# ----------------------------------------------------------------------------------------------------- noise


def test_noise_has_its_std_and_is_not_clamped() -> None:
    # kills: std in grey levels or as a variance; clamp to [-1, 1]; noise scaled by the image
    x_0 = torch.ones(4, 3, 64, 64)
    difference = Noise(0.2)(x_0, generators(4)).x_1 - x_0
    assert difference.mean().item() == pytest.approx(0, abs=0.004)
    assert difference.std().item() == pytest.approx(0.2, rel=0.02)
    assert (difference > 0).float().mean().item() == pytest.approx(0.5, abs=0.01)
    assert torch.equal(Noise(0.0)(x_0, generators(4)).x_1, x_0)
