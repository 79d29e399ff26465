"""JPEG compression, 4:2:0."""

import io
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import ClassVar, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from i2i_bridge.degradations.base import Degradation, Degraded
from i2i_bridge.degradations.linear import at_once, cosine_transform, precise
from i2i_bridge.degradations.ranges import Draws, WholeRange
from i2i_bridge.randomness import Generator
from i2i_bridge.registry import register_degradation

# ITU-T T.81, Annex K, tables K.1 and K.2.
_LUMA = [
    [16, 11, 10, 16, 24, 40, 51, 61],
    [12, 12, 14, 19, 26, 58, 60, 55],
    [14, 13, 16, 24, 40, 57, 69, 56],
    [14, 17, 22, 29, 51, 87, 80, 62],
    [18, 22, 37, 56, 68, 109, 103, 77],
    [24, 35, 55, 64, 81, 104, 113, 92],
    [49, 64, 78, 87, 103, 121, 120, 101],
    [72, 92, 95, 98, 112, 100, 103, 99],
]
_CHROMA = [
    [17, 18, 24, 47, 99, 99, 99, 99],
    [18, 21, 26, 66, 99, 99, 99, 99],
    [24, 26, 56, 99, 99, 99, 99, 99],
    [47, 66, 99, 99, 99, 99, 99, 99],
    *[[99] * 8] * 4,
]
# JFIF's colour matrix to four digits, and its inverse; both as the released models saw them.
_TO_YCBCR = [[0.299, 0.587, 0.114], [-0.1687, -0.3313, 0.5], [0.5, -0.4187, -0.0813]]
_TO_RGB = [
    [1.0, -3.68199903e-05, 1.40198758],
    [1.0, -0.344113281, -0.714103821],
    [1.0, 1.77197812, -1.34583413e-04],
]


def quantisation_tables(quality: int) -> tuple[Tensor, Tensor]:
    """Luma and chroma tables, each (8, 8) float64 of whole numbers in 1..255.

    floor((s q + 50) / 100) with s = 5000 / quality below 50, else 200 - 2 quality, q the table of Annex K.
    libjpeg drops the fraction of s as well: where there is one, a few of its entries are one less.
    """
    scale = 5000 / quality if quality < 50 else 200 - 2 * quality
    base = torch.tensor([_LUMA, _CHROMA], dtype=torch.float64)
    luma, chroma = ((scale * base + 50) / 100).floor().clamp(1, 255)
    return luma, chroma


@lru_cache(maxsize=1)
def _matrices() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The cosine transform of 8 pixels, and what `_quantised` takes as `after` for luma, as `before` and as `after` for
    both chroma. From and to images in [-1, 1]; float64.
    """
    cosines = cosine_transform(8)
    to_ycbcr, to_rgb = (torch.tensor(matrix, dtype=torch.float64) for matrix in (_TO_YCBCR, _TO_RGB))
    to_chroma = torch.kron(127.5 * to_ycbcr[1:], cosines)
    from_chroma = torch.kron(to_rgb[:, 1:] / 127.5, cosines.T.contiguous())
    return cosines, cosines.T / 127.5, to_chroma, from_chroma


@lru_cache(maxsize=100)
def _steps(quality: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """For luma and chroma, what coefficients (column, ., row, .) are multiplied by before and after they are rounded.

    Flat 8-bit blocks land exactly half-way (white at quality 50: 63.5), where the last bit of a sum, and so the number
    of threads, would decide. So coefficients are first rounded to multiples of 2^-20.
    """
    luma, chroma = (table.T[:, None, :, None].contiguous() for table in quantisation_tables(quality))
    return (2**20 / luma, luma), (2**20 / chroma, chroma)


def _quantised(pixels: Tensor, cosines: Tensor, before: Tensor, steps: tuple[Tensor, Tensor], after: Tensor) -> Tensor:
    """Coefficients of 8x8 blocks rounded to multiples of the table's, and back.

    Args:
        pixels: (K, N W): the values of a block that lie in one column, for N rows of blocks, W pixels wide.
        before: (8 M, K), makes M planes and transforms their columns.
        after: (L, 8 M), transforms columns back.

    Returns:
        (L, N W).
    """
    divide, multiply = (step.to(pixels) for step in steps)
    # Long rows: the product takes half the time of one with rows of 8.
    coefficients = cosines @ (before @ pixels).view(-1, 8).T
    levels = coefficients.view(8, -1, 8, pixels.shape[1] // 8).mul_(divide).round_().mul_(2**-20).round_()
    return after @ (levels.mul_(multiply).view(8, -1).T @ cosines).view(len(before), -1)


@register_degradation("jpeg")
@dataclass(frozen=True)
class Jpeg(Degradation):
    """x_1 = decode(encode(x_0)), with chroma at half resolution. 1 or 3 channels.

    Args:
        quality: 1 to 100, or [low, high].
        backend: "ddrm": the operator of the paper's models, on any device: chroma decimated, not rounded to 8
            bits, not clamped (a few per cent of the values leave [-1, 1]); sides must be multiples of 16.
            "pillow": libjpeg, as in the files that users have. "kornia": kornia's differentiable codec.
    """

    quality: WholeRange
    backend: Literal["ddrm", "pillow", "kornia"] = "ddrm"
    limits: ClassVar = {"quality": (1, 100)}

    @property
    def multiple(self) -> int:
        return 16 if self.backend == "ddrm" else 1

    @property
    def why_not_linear(self) -> str:
        return "rounds its coefficients, so it is not linear in x_0"

    def __call__(self, x_0: Tensor, generator: Generator) -> Degraded:
        self.check_image(x_0, channels=(1, 3))
        codec = {"ddrm": _ddrm, "pillow": _pillow, "kornia": _kornia}[self.backend]
        draws = Draws(self, x_0, generator)
        return Degraded(
            codec(x_0, [int(quality) for quality in draws("quality", whole=True)]), parameters=draws.parameters
        )


def _ddrm(x_0: Tensor, qualities: list[int]) -> Tensor:
    x_0, x_1, first = x_0.detach(), x_0.new_empty(x_0.shape), 0
    for quality, equal in groupby(qualities):
        stop = first + len(list(equal))
        step = at_once(x_0[first:stop], 1)
        for start in range(first, stop, step):
            part = slice(start, min(start + step, stop))
            _ddrm_coded(x_0[part], quality, x_1[part])
        first = stop
    return x_1


def _ddrm_coded(images: Tensor, quality: int, out: Tensor) -> None:
    """Writes images (B, C, H, W), coded and decoded, to `out`."""
    batch, channels, _, width = images.shape
    luma_steps, chroma_steps = _steps(quality)
    blocks = _by_row(images)
    luma = _copied(blocks[0])
    cosines, from_luma, to_chroma, from_chroma = (matrix.to(luma) for matrix in _matrices())
    # A sum of planes: a matrix product with so small a matrix is limited by memory, and slower.
    weights = [127.5 * weight for weight in _TO_YCBCR[0]] if channels == 3 else [127.5]
    luma.mul_(weights[0])
    for weight, plane in zip(weights[1:], blocks[1:], strict=True):
        luma.add_(plane, alpha=weight)
    # Centred: -1 is 0 - 128.
    luma = _quantised(luma.sub_(0.5).view(8, -1), cosines, cosines, luma_steps, from_luma).add_(0.5 / 127.5).to(images)
    if channels == 1:
        _by_row(out)[0].copy_(luma.view(8, batch, -1, width))
        return
    # Chroma's offset of 128 and the centring of -128 cancel. It is decimated before it is computed, and repeated after
    # it has become RGB.
    few = _copied(_by_row(images[..., ::2, ::2]))
    tint = _quantised(few.view(24, -1), cosines, to_chroma, chroma_steps, from_chroma)
    wide = images.new_empty(*tint.shape, 2)
    wide[..., 0], wide[..., 1] = tint, tint
    # Row 16 n + 8 a + 2 b + c is that of luma's block 2 n + a, there 2 b + c, and of chroma's block n, there 4 a + b.
    torch.add(
        luma.view(1, 4, 2, batch, -1, 2, width).permute(3, 0, 4, 5, 1, 2, 6),
        wide.view(3, 2, 4, batch, -1, 1, width).permute(3, 0, 4, 1, 2, 5, 6),
        out=out.view(batch, 3, -1, 2, 4, 2, width),
    )


def _by_row(images: Tensor) -> Tensor:
    """(B, C, H, W) seen with the row within a block first, (C, 8, B, H / 8, W)."""
    batch, channels, height, width = images.shape
    return images.view(batch, channels, height // 8, 8, width).permute(1, 3, 0, 2, 4)


def _copied(x: Tensor) -> Tensor:
    """x as `precise` gives it, but always new and contiguous."""
    return precise(x[:0]).new_empty(x.shape).copy_(x)


def _pillow(x_0: Tensor, qualities: list[int]) -> Tensor:
    images = x_0.detach().cpu().numpy()
    decoded = np.empty(images.shape, images.dtype)
    # One image at a time, in place, so that the data stay in the processor's cache.
    pixels, codes = np.empty(images.shape[1:], images.dtype), np.empty(images.shape[1:], np.uint8)
    for image, quality, out in zip(images, qualities, decoded, strict=True):
        np.add(image, 1, out=pixels)
        pixels *= 127.5
        codes[:] = np.rint(pixels, out=pixels).clip(0, 255, out=pixels)
        bands = [Image.fromarray(plane) for plane in codes]
        # Grey images are two-dimensional to Pillow.
        picture, file = Image.merge("RGB", bands) if len(bands) > 1 else bands[0], io.BytesIO()
        picture.save(file, "JPEG", quality=quality, subsampling="4:2:0")
        for plane, band in zip(out, Image.open(file).split(), strict=True):
            plane[:] = band
            plane /= 127.5
            plane -= 1
    return torch.from_numpy(decoded).to(x_0)


def _kornia(x_0: Tensor, qualities: list[int]) -> Tensor:
    from kornia.enhance import jpeg_codec_differentiable

    channels = x_0.shape[1]
    pixels = ((x_0 + 1) / 2).clamp(0, 1).expand(-1, 3, -1, -1)
    decoded = jpeg_codec_differentiable(pixels, x_0.new_tensor(qualities)) * 2 - 1
    return decoded if channels == 3 else decoded.mean(1, keepdim=True)
