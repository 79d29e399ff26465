"""JPEG: tables, transform and codec against closed forms and against Pillow's libjpeg."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from i2i_bridge.degradations.jpeg import Jpeg, quantisation_tables
from i2i_bridge.degradations.linear import cosine_transform
from i2i_bridge.errors import UserError
from i2i_bridge.randomness import generator, rand

ANY = generator(0, "not used")


def degrade(x_0: Tensor, quality: int, backend: str = "ddrm") -> Tensor:
    return Jpeg(quality, backend)(x_0, ANY).x_1  # type: ignore[arg-type]


def smooth(height: int = 128, width: int = 128) -> Tensor:
    """Coloured waves with some detail, (1, 3, H, W)."""
    rows, columns = torch.arange(height)[:, None] / 128, torch.arange(width) / 128
    waves = [torch.sin(a * rows + b * columns) for a, b in ((9, 4), (3, 11), (-7, 8))]
    detail = 0.15 * torch.sin(60 * rows * columns)
    return torch.stack([(wave + detail).clamp(-1.2, 1.2) / 1.3 for wave in waves])[None]


def level(pixel: float) -> float:
    """A value of 0..255 as one of [-1, 1]."""
    return pixel / 127.5 - 1


def psnr(a: Tensor, b: Tensor) -> float:
    return (10 * torch.log10(4 / (a - b).square().mean())).item()


def test_tables_have_the_known_rows() -> None:
    # kills: jpeg-round-instead-of-floor;
    # round instead of floor; quality 50 taken as the lower branch's scale; no clip at 255
    luma, chroma = quantisation_tables(5)
    assert luma[0].tolist() == [160, 110, 100, 160, 240, 255, 255, 255]
    assert chroma[0].tolist() == [170, 180, 240, 255, 255, 255, 255, 255]
    luma, chroma = quantisation_tables(10)
    assert luma[0].tolist() == [80, 55, 50, 80, 120, 200, 255, 255]
    assert chroma[0].tolist() == [85, 90, 120, 235, 255, 255, 255, 255]
    assert quantisation_tables(100)[0].eq(1).all()


@pytest.mark.parametrize("quality", [1, 4, 5, 10, 20, 25, 49, 50, 51, 60, 75, 95, 99, 100])
def test_tables_are_libjpeg_s(quality: int) -> None:
    # kills: any wrong digit of Annex K, transposed tables, luma and chroma exchanged
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "JPEG", quality=quality)
    tables = Image.open(file).quantization  # type: ignore[attr-defined]
    for ours, theirs in zip(quantisation_tables(quality), (tables[0], tables[1]), strict=True):
        assert ours.flatten().tolist() == list(theirs)


def by_whole_blocks(x_0: Tensor, quality: int) -> Tensor:
    """The codec step by step for a batch in colour, each block as one vector of 64, in float64."""
    to_ycbcr = [[0.299, 0.587, 0.114], [-0.1687, -0.3313, 0.5], [0.5, -0.4187, -0.0813]]
    to_rgb = [[1, -3.68199903e-05, 1.40198758], [1, -0.344113281, -0.714103821], [1, 1.77197812, -1.34583413e-04]]
    there, back = (torch.tensor(matrix, dtype=torch.float64) for matrix in (to_ycbcr, to_rgb))
    transform = torch.kron(cosine_transform(8), cosine_transform(8))
    planes = torch.einsum("ij,bjhw->ibhw", there, (x_0.double() + 1) * 127.5)
    decoded = []
    for i, plane in enumerate((planes[0] - 128, planes[1, :, ::2, ::2], planes[2, :, ::2, ::2])):
        table = quantisation_tables(quality)[i > 0].flatten()
        batch, height, width = plane.shape
        blocks = plane.reshape(batch, height // 8, 8, width // 8, 8).transpose(2, 3).reshape(-1, 64)
        levels = (blocks @ transform.T / table * 2**20).round().div(2**20).round()
        blocks = (levels * table @ transform).view(batch, height // 8, width // 8, 8, 8)
        decoded.append(blocks.transpose(2, 3).reshape(batch, height, width))
    chroma = [plane.repeat_interleave(2, 1).repeat_interleave(2, 2) for plane in decoded[1:]]
    rgb = torch.einsum("ij,jbhw->bihw", back, torch.stack([decoded[0] + 128, *chroma]))
    return (rgb / 127.5 - 1).float()


@pytest.mark.parametrize("quality", [1, 5, 10, 30, 50, 75, 92, 100])
def test_levels_are_those_of_whole_blocks(quality: int) -> None:
    # kills: another order of sums that moves a level (by 1 / 255 at least), also where blocks land half-way
    grey = torch.arange(256).view(1, 1, 16, 16).expand(-1, 3, -1, -1) / 127.5 - 1
    coloured = rand((2, 3, 8, 12), generator(0, "test")).mul(256).floor().float() / 127.5 - 1
    flat = [grey.repeat_interleave(8, -2).repeat_interleave(8, -1), coloured.repeat_interleave(16, -2)]
    flat[1] = flat[1].repeat_interleave(16, -1)
    for x_0 in (*flat, smooth(64, 96), rand((2, 3, 64, 96), generator(1, "test")).float() * 2 - 1):
        assert (degrade(x_0, quality) - by_whole_blocks(x_0, quality)).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("quality", "pixel", "expected"),
    # 128 + round(8 (pixel - 128) / table) table / 8; half-way cases go to the even level.
    [
        (5, 200, 208),
        (5, 100, 108),
        (10, 200, 198),
        (10, 131, 128),
        (50, 200, 200),
        (50, 255, 256),
        (50, 253, 252),
    ],
)
def test_a_flat_image_moves_to_the_nearest_level(quality: int, pixel: int, expected: int) -> None:
    # kills: no -128; rounding half up, or by floating-point accident; result clamped to 255
    x_1 = degrade(torch.full((2, 3, 16, 32), level(pixel)), quality)
    assert torch.allclose(x_1, torch.full_like(x_1, level(expected)), atol=1e-5)


def test_colour_has_the_chroma_table() -> None:
    # kills: luma's table for chroma (60 then stays 60); Cb and Cr exchanged
    colour = torch.tensor([1.40198758, -0.714103821, -1.34583413e-04]).view(1, 3, 1, 1)
    x_1 = degrade(((128 + 60 * colour) / 127.5 - 1).expand(1, 3, 16, 16), 5)
    # Cr: 8 x 60 / 170 rounds to 3 levels of 170 / 8.
    assert torch.allclose(x_1, ((128 + 63.75 * colour) / 127.5 - 1).expand_as(x_1), atol=1e-3)


def test_each_frequency_has_its_own_step() -> None:
    # kills: transposed luma table (11 across, 12 down); division without multiplication
    wave = torch.cos(torch.pi / 8 * (torch.arange(8) + 0.5)).repeat(2) / 2 / 8**0.5
    across = (wave.expand(1, 1, 16, 16) * 5.7 + 0.5) / 127.5
    assert torch.allclose(degrade(across, 50), ((wave * 11 + 0.5) / 127.5).expand(1, 1, 16, 16), atol=1e-6)
    down = degrade(across.mT.contiguous(), 50)
    assert torch.allclose(down, torch.full_like(down, 0.5 / 127.5), atol=1e-6)


def test_chroma_is_taken_at_even_pixels_and_repeated() -> None:
    # kills: jpeg-chroma-averaged;
    # averaged chroma; decimation at odd pixels; chroma kept at full resolution
    red = torch.tensor([1.402, -0.714, 0]).view(1, 3, 1, 1) * 60
    for odd_only, expected in ((True, 0.0), (False, 60.0)):
        where = torch.zeros(1, 1, 16, 16)
        where[..., ::2, ::2] = 0 if odd_only else 1
        where[..., 1::2, :], where[..., :, 1::2] = float(odd_only), float(odd_only)
        x_1 = degrade((128 + red * where) / 127.5 - 1, 95)
        shown = ((x_1[:, 0] - x_1[:, 1]) * 127.5 / (1.402 + 0.714)).mean().item()
        assert shown == pytest.approx(expected, abs=2)


def test_values_are_neither_clamped_nor_rounded_to_8_bits() -> None:
    # kills: clamp(-1, 1); uint8 in the tensor codec
    x_1 = degrade(torch.where(smooth() > 0, 1.0, -1.0), 5)
    assert x_1.max() > 1.1
    assert x_1.min() < -1.1
    pixels = (x_1 + 1) * 127.5
    assert (pixels - pixels.round()).abs().mean() > 0.1


def test_blocks_do_not_touch_each_other() -> None:
    # kills: blocks cut at the wrong place in images that are not square; height and width exchanged
    x_0 = smooth(64, 96)
    parts = [degrade(x_0[..., :64], 10), degrade(x_0[..., 64:], 10)]
    assert torch.allclose(degrade(x_0, 10), torch.cat(parts, -1), atol=1e-6)


def test_a_grey_image_is_the_luma_of_the_same_image_in_colour() -> None:
    # kills: grey treated with the chroma table, or centred twice
    x_0 = smooth()[:, :1]
    colour = degrade(x_0.expand(-1, 3, -1, -1), 10)
    assert torch.allclose(colour, degrade(x_0, 10).expand(-1, 3, -1, -1), atol=1e-5)
    with pytest.raises(UserError, match="4 channels"):
        degrade(torch.zeros(1, 4, 16, 16), 10)


@pytest.mark.parametrize("quality", [5, 10, 50])
def test_a_second_pass_changes_next_to_nothing(quality: int) -> None:
    # kills: inverse that is not the inverse (colour matrix, offset, transform, chroma position)
    once = degrade(smooth(), quality)
    assert (once - smooth()).abs().mean() > 0.01
    assert (degrade(once, quality) - once).abs().max() < 0.002


@pytest.mark.parametrize("backend", ["ddrm", "pillow", "kornia"])
def test_lower_quality_is_worse(backend: str) -> None:
    # kills: quality ignored; scale inverted
    quality = [psnr(degrade(smooth(), q, backend), smooth()) for q in (95, 50, 25, 10, 5)]
    assert quality == sorted(quality, reverse=True)
    assert quality[0] > quality[-1] + 8


@pytest.mark.parametrize("quality", [5, 10, 50])
def test_backends_agree_as_far_as_they_can(quality: int) -> None:
    # kills: a wrong colour matrix, range or table in any one of the three
    # Channels that go together, as in photographs. Measured: 34 to 44 dB.
    waves = smooth()
    x_0 = torch.stack([0.8 * waves[:, 0], 0.7 * waves[:, 0] + 0.1, 0.6 * waves[:, 0] + 0.1 * waves[:, 1]], 1)
    reference = degrade(x_0, quality, "pillow")
    assert psnr(degrade(x_0, quality).clamp(-1, 1), reference) > 33
    assert psnr(degrade(x_0, quality, "kornia"), reference) > 33


@pytest.mark.parametrize("channels", [1, 3])
def test_pillow_s_result_is_the_file_s(channels: int) -> None:
    # kills: truncation to 8 bits; 4:4:4; transposed or BGR images
    pixels = rand((20, 36, channels), generator(0, "pixels")).mul(256).to(torch.uint8)
    file = io.BytesIO()
    picture = Image.fromarray(pixels.numpy() if channels == 3 else pixels[..., 0].numpy())
    picture.save(file, "JPEG", quality=20, subsampling=2)
    expected = np.asarray(Image.open(file)).reshape(20, 36, channels)
    x_0 = (pixels.permute(2, 0, 1)[None] - 0.4) / 127.5 - 1
    x_1 = degrade(x_0, 20, "pillow")
    assert (((x_1 + 1) * 127.5)[0].permute(1, 2, 0) - torch.tensor(expected)).abs().max() < 1e-3


def test_a_batch_by_pillow_is_its_images() -> None:
    # kills: an image overwritten by the next one in the same memory; another image's quality
    x_0 = torch.cat([smooth(), -smooth(), smooth() / 2])
    jpeg, seeds = Jpeg((5, 50), "pillow"), [generator(0, "test", i) for i in range(3)]
    alone = [jpeg(x_0[i : i + 1], [generator(0, "test", i)]).x_1 for i in range(3)]
    assert torch.equal(jpeg(x_0, seeds).x_1, torch.cat(alone))


def test_sides_that_do_not_fit_are_refused() -> None:
    # kills: the green strip of chroma blocks cut short; refusal by the codecs that pad
    with pytest.raises(UserError, match=r"Jpeg: the image is 96 x 100.*multiples of 16"):
        degrade(torch.zeros(1, 3, 96, 100), 5)
    for backend in ("pillow", "kornia"):
        assert degrade(torch.zeros(1, 3, 19, 35), 50, backend).shape == (1, 3, 19, 35)


def test_autocast_and_batch_size_do_not_reach_the_roundings() -> None:
    # kills: matrix products in a type that autocast lowers; ties decided by the order of a sum
    x_0 = torch.cat([smooth(), torch.ones(2, 3, 128, 128), torch.zeros(1, 3, 128, 128)])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(degrade(x_0, 50), degrade(x_0.clone(), 50))
        lowered = degrade(x_0, 75)
    assert torch.equal(lowered, degrade(x_0, 75))
    for quality in (50, 75):
        alone = torch.cat([degrade(one[None], quality) for one in x_0])
        assert torch.equal(degrade(x_0, quality), alone)
