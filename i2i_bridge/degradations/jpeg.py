"""JPEG compression, 4:2:0."""

import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor

from i2i_bridge.degradations.base import Degradation, Degraded
from i2i_bridge.degradations.linear import cosine_transform, precise
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
def block_transform() -> Tensor:
    """Orthonormal DCT-II of an 8x8 block as a matrix on the 64 pixels in row order, (64, 64) float64."""
    cosines = cosine_transform(8)
    return torch.kron(cosines, cosines)


def _quantised(plane: Tensor, table: Tensor) -> Tensor:
    """Each 8x8 block's coefficients rounded to multiples of the table's, and back.

    Args:
        plane: (B, C, H, W).
        table: (B or 1, 1, 8, 8).
    """
    transform, step = block_transform().to(plane), rearrange(table.to(plane), "b 1 i j -> b 1 (i j)")
    if len(step) == 1:  # one product for the whole batch
        step = step[0]
    blocks = rearrange(plane, "b c (h i) (w j) -> b (c h w) (i j)", i=8, j=8)
    levels = blocks @ (transform.T / step)
    # Flat 8-bit blocks land exactly half-way (white at quality 50: 63.5); without the snap, the last bit of a
    # sum, and so the batch size, would decide.
    levels = levels.mul_(2**20).round_().mul_(2**-20).round_()
    decoded = levels @ (step.mT * transform)
    height, width = (size // 8 for size in plane.shape[-2:])
    return rearrange(decoded, "b (c h w) (i j) -> b c (h i) (w j)", i=8, j=8, h=height, w=width)


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
    shown = qualities[:1] if len(set(qualities)) == 1 else qualities
    tables = torch.stack([torch.stack(quantisation_tables(quality)) for quality in shown])
    luma_table, chroma_table = tables[:, :1], tables[:, 1:]
    pixels = precise(x_0).add(1).mul_(127.5)
    if pixels.shape[1] == 1:
        decoded = _quantised(pixels - 128, luma_table).add_(128)
    else:
        # Chroma's offset of 128 and the centring of -128 cancel. It is decimated before it is computed, and enlarged
        # after it has become RGB: a quarter of the work.
        luma = _quantised(_mixed(_TO_YCBCR[:1], pixels).sub_(128), luma_table).add_(128)
        chroma = _quantised(_mixed(_TO_YCBCR[1:], pixels[..., ::2, ::2]), chroma_table)
        colour = _mixed([row[1:] for row in _TO_RGB], chroma)
        wide = rearrange(luma, "b c (h i) (w j) -> b c h i w j", i=2, j=2)
        decoded = rearrange(wide + colour[..., :, None, :, None], "b c h i w j -> b c (h i) (w j)")
    return decoded.div_(127.5).sub_(1).to(x_0.dtype)


def _mixed(matrix: list[list[float]], planes: Tensor) -> Tensor:
    """Each row's weighted sum of the planes (B, C, H, W): (B, rows, H, W)."""
    # As sums of planes: libraries multiply by so small a matrix no faster than they move memory, many times.
    sums = []
    for row in matrix:
        total = planes[:, 0] * row[0]
        for weight, plane in zip(row[1:], planes.unbind(1)[1:], strict=True):
            total.add_(plane, alpha=weight)
        sums.append(total)
    return torch.stack(sums, 1)


def _pillow(x_0: Tensor, qualities: list[int]) -> Tensor:
    images = x_0.detach().cpu().numpy()
    decoded = np.empty(images.shape, images.dtype)
    jobs = list(zip(images, qualities, decoded, strict=True))
    # Pillow and NumPy let other threads run meanwhile. A share stays in this one: with a single thread none is started.
    shares = min(torch.get_num_threads(), len(jobs))
    with ThreadPoolExecutor(shares) as threads:
        others = [threads.submit(_code, jobs[i::shares]) for i in range(1, shares)]
        _code(jobs[::shares])
        for other in others:
            other.result()
    return torch.from_numpy(decoded).to(x_0)


def _code(jobs: list[tuple[npt.NDArray[Any], int, npt.NDArray[Any]]]) -> None:
    """For each (image, quality, out), of shape (C, H, W): writes to `out` what a JPEG file keeps of the image."""
    for image, quality, out in jobs:
        # In place, and plane by plane where it can be: so the next step finds the pixels in the processor's cache.
        pixels = image + 1
        pixels *= 127.5
        codes = np.rint(pixels, out=pixels).clip(0, 255, out=pixels).astype(np.uint8)
        bands = [Image.fromarray(plane) for plane in codes]
        # Grey images are two-dimensional to Pillow.
        picture, file = Image.merge("RGB", bands) if len(bands) > 1 else bands[0], io.BytesIO()
        picture.save(file, "JPEG", quality=quality, subsampling="4:2:0")
        for plane, band in zip(out, Image.open(file).split(), strict=True):
            plane[:] = band
            plane /= 127.5
            plane -= 1


def _kornia(x_0: Tensor, qualities: list[int]) -> Tensor:
    from kornia.enhance import jpeg_codec_differentiable

    channels = x_0.shape[1]
    pixels = ((x_0 + 1) / 2).clamp(0, 1).expand(-1, 3, -1, -1)
    decoded = jpeg_codec_differentiable(pixels, x_0.new_tensor(qualities)) * 2 - 1
    return decoded if channels == 3 else decoded.mean(1, keepdim=True)
