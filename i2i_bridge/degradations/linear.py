"""Linear operators on images: separable filters, resizing, two-dimensional kernels; their adjoint and inverse."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from i2i_bridge.errors import UserError


def precise(x: Tensor) -> Tensor:
    """x in float64, or float32 on devices without it (MPS).

    Matrix products of float32 may run in TF32, or in bfloat16 under autocast: enough to flip roundings.
    """
    return x.to(torch.float32 if x.device.type == "mps" else torch.float64)


def at_once(x: Tensor, few: int) -> int:
    """Number of entries of the first axis to process at a time: on a CPU `few`, which fit its cache, elsewhere all."""
    return few if x.device.type == "cpu" else max(len(x), 1)


def mirrored(size: int, before: int, after: int, border: Literal["reflect", "symmetric"]) -> Tensor:
    """Indices into 0..size-1 that continue it by mirroring, (before + size + after,).

    "reflect" mirrors about the outermost pixel (c b | a b c | b a), "symmetric" about its outer edge
    (b a | a b c | c b). Any size >= 1.
    """
    index = torch.arange(-before, size + after)
    if border == "symmetric":
        index = index % (2 * size)
        return torch.minimum(index, 2 * size - 1 - index)
    index = index % max(1, 2 * size - 2)
    return torch.minimum(index, 2 * size - 2 - index)


def separable_filter(
    x: Tensor, taps: Sequence[float], before: int, stride: int, border: Literal["reflect", "symmetric"]
) -> Tensor:
    """Correlation of both axes with the same taps.

        y[i] = sum_k taps[k] x[stride * i + k - before]

    Args:
        x: (..., H, W); beyond its border it continues mirrored (see `mirrored`).
        before: Taps that lie before the output's own first pixel.

    Returns:
        (..., H // stride, W // stride).
    """
    # Shifted sums, not a convolution: exact to float32 whatever TF32 and autocast say, and one image's result
    # cannot depend on how a library splits the batch.
    height, width = x.shape[-2:]
    rows, columns = (_windows(side, len(taps), before, stride, border).to(x.device) for side in (height, width))
    filtered = x.new_empty(*x.shape[:-2], height // stride, width // stride)
    planes, results = (images.reshape(-1, *images.shape[-2:]) for images in (x, filtered))
    step = at_once(planes, 3)  # an image in colour
    buffer = x.new_empty(step, height // stride, len(columns))
    for first in range(0, len(planes), step):
        part, result = planes[first : first + step], results[first : first + step]
        wide = buffer[: len(part)]
        inner = wide[..., before : before + width]
        _add_up(part.index_select(-2, rows), -2, taps, stride, inner)
        # Whole rows are looked up as fast as they are copied, single pixels not.
        wide[..., :before] = inner.index_select(-1, columns[:before])
        wide[..., before + width :] = inner.index_select(-1, columns[before + width :])
        _add_up(wide, -1, taps, stride, result)
    return filtered


def _windows(size: int, taps: int, before: int, stride: int, border: Literal["reflect", "symmetric"]) -> Tensor:
    """What an axis of this size is continued to for `_add_up`: indices into it, a multiple of the stride."""
    length = (size // stride - 1 - (-taps // stride)) * stride
    return mirrored(size, before, max(0, length - before - size), border)


def _add_up(x: Tensor, axis: int, taps: Sequence[float], stride: int, out: Tensor) -> None:
    """out[i] = sum_k taps[k] x[stride * i + k] along one of the last two axes."""
    phases = x.unfold(axis, stride, stride).movedim(-1, 0)
    if axis == -1:
        phases = phases.contiguous()  # single pixels that lie apart are read slowly
    out.zero_()
    for k, tap in enumerate(taps):
        out.add_(phases[k % stride].narrow(axis, k // stride, out.shape[axis]), alpha=tap)


def filter_matrix(
    size: int, taps: Sequence[float], before: int, stride: int, border: Literal["reflect", "symmetric"]
) -> Tensor:
    """`separable_filter` of one axis as a matrix, (size // stride, size) float64."""
    matrix = torch.empty(size // stride, size, dtype=torch.float64)
    pixels = torch.eye(size, dtype=torch.float64)[_windows(size, len(taps), before, stride, border)]
    _add_up(pixels, -2, taps, stride, matrix)
    return matrix


@lru_cache(maxsize=1)
def cubic_taps() -> tuple[float, ...]:
    """The 16 taps of a 4x bicubic reduction: the cubic kernel with a = -1/2 at (k - 7.5) / 4, summing to 1.

    w(d) = 1.5 d^3 - 2.5 d^2 + 1 for d <= 1, and -0.5 d^3 + 2.5 d^2 - 4 d + 2 for 1 < d < 2 (Keys, 1981).
    """
    distances = [abs(k - 7.5) / 4 for k in range(16)]
    taps = [1.5 * d**3 - 2.5 * d**2 + 1 if d <= 1 else -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2 for d in distances]
    return tuple(tap / sum(taps) for tap in taps)


Resampling = Literal["nearest", "area", "bilinear", "bicubic", "lanczos"]


@lru_cache(maxsize=64)
def resize_matrix(size: int, new: int, kernel: Resampling) -> Tensor:
    """Resizing of one axis as a matrix, (new, size) float64; rows sum to 1.

    Antialiased as in image libraries: where the image gets smaller, the kernel is widened by size / new. Pixels are
    areas (centres at half), and beyond the border there is nothing.

    Args:
        kernel: "area": the share that each pixel has in the new one, also for fractions. "bilinear": the triangle.
            "bicubic": Keys' cubic, a = -1/2. "lanczos": sinc(d) sinc(d / 3). "nearest": one pixel, no widening.
    """
    ratio = size / new
    centres = (torch.arange(new, dtype=torch.float64)[:, None] + 0.5) * ratio
    pixels = torch.arange(size, dtype=torch.float64)
    if kernel == "nearest":
        return (pixels == centres.floor().clamp(max=size - 1)).double()
    if kernel == "area":
        weights = torch.minimum(centres + ratio / 2, pixels + 1) - torch.maximum(centres - ratio / 2, pixels)
        weights = weights.clamp(min=0)
    else:
        d = (pixels + 0.5 - centres).abs() / max(1.0, ratio)
        if kernel == "bilinear":
            weights = (1 - d).clamp(min=0)
        elif kernel == "bicubic":
            near, far = 1.5 * d**3 - 2.5 * d**2 + 1, -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2
            weights = torch.where(d <= 1, near, torch.where(d < 2, far, 0.0))
        else:
            weights = torch.where(d < 3, torch.sinc(d) * torch.sinc(d / 3), 0.0)
    return weights / weights.sum(1, keepdim=True)


def resized(x: Tensor, size: Sequence[int], kernel: Resampling) -> Tensor:
    """x (..., H, W) at another size (height, width); see `resize_matrix`. In float64 and back, as `two_sided`."""
    rows, columns = (_bands(x.shape[axis], size[axis], kernel) for axis in (-2, -1))
    new = x.new_empty(*x.shape[:-2], *size)
    planes, results = (images.reshape(-1, *images.shape[-2:]) for images in (x, new))
    step = at_once(planes, 3)
    for first in range(0, len(planes), step):
        exact = precise(planes[first : first + step])
        # From the left both times: products with long rows are faster.
        results[first : first + step] = _banded(columns, _banded(rows, exact).mT).mT
    return new


_Bands = list[tuple[int, int, Tensor]]


@lru_cache(maxsize=64)
def _bands(size: int, new: int, kernel: Resampling) -> _Bands:
    """`resize_matrix` as pieces of 32 rows: the columns from ... to that are not 0 throughout, and what is in them."""
    bands = []
    matrix = resize_matrix(size, new, kernel)
    for first in range(0, new, 32):
        part = matrix[first : first + 32]
        used = part.any(0).nonzero()
        start, stop = int(used[0]), int(used[-1]) + 1
        bands.append((start, stop, part[:, start:stop].contiguous()))
    return bands


def _banded(bands: _Bands, x: Tensor) -> Tensor:
    """The product of a matrix in bands and each x (B, H, W)."""
    parts = [part.to(x).expand(len(x), -1, -1) @ x[:, start:stop] for start, stop, part in bands]
    return torch.cat(parts, -2)


def two_sided(rows: Tensor, x: Tensor, columns: Tensor) -> Tensor:
    """rows x columns^T for images x (..., H, W), in float64 and back."""
    exact = precise(x)
    return (rows.to(exact) @ exact @ columns.to(exact).mT).to(x.dtype)


def convolved(x: Tensor, kernels: Tensor) -> Tensor:
    """Convolution of each image with its own kernel; the image is mirrored about its edges.

        y[i, j] = sum_kl kernels[k, l] x[i - k + K // 2, j - l + K // 2]

    Args:
        x: (B, C, H, W).
        kernels: (B or 1, K, K), K odd.
    """
    # In float64, though float32 would be faster: its last bit depends on the number of threads, and a sample must be
    # the same in any worker.
    result, kernels = x.new_empty(x.shape), kernels.expand(len(x), -1, -1)
    images = at_once(x, 1)
    for i in range(0, len(x), images):
        part = slice(i, i + images)
        taps = _taps(kernels[i]) if images == 1 else None
        if taps is None:
            _convolve_by_spectrum(x[part], kernels[part], result[part])
        else:
            _convolve_by_axes(x[i], *taps, result[i])
    return result


def _convolve_by_spectrum(x: Tensor, kernels: Tensor, out: Tensor) -> None:
    """`convolved` by Fourier transform: large kernels cost no more."""
    from scipy.fft import next_fast_len  # scipy takes tenths of a second to import

    height, width = x.shape[-2:]
    reach = kernels.shape[-1] // 2
    rows, columns = (mirrored(side, reach, reach, "symmetric").to(x.device) for side in (height, width))
    size = [next_fast_len(side + 2 * reach, real=True) for side in (height, width)]
    spectrum = torch.fft.rfft2(kernels.to(precise(x[:0])), s=size)[:, None]
    channels = at_once(x[0], 1)
    # On a CPU, in its cache and in memory that is used again, it takes a quarter of the time.
    for c in range(0, x.shape[1], channels):
        padded = precise(x[:, c : c + channels].index_select(-2, rows).index_select(-1, columns))
        spread = torch.fft.irfft2(torch.fft.rfft2(padded, s=size).mul_(spectrum), s=size)
        out[:, c : c + channels] = spread[..., 2 * reach :, 2 * reach :][..., :height, :width]


def _taps(kernel: Tensor) -> tuple[Tensor, Tensor] | None:
    """Taps along rows and columns whose outer product is the kernel (K, K), to float64's last bits; None for others."""
    centre = len(kernel) // 2
    rows, columns = kernel[:, centre], kernel[centre] / kernel[centre, centre]
    # NaN where the centre is 0: no such taps.
    return (rows, columns) if (torch.outer(rows, columns) - kernel).abs().max() <= 1e-15 * kernel.abs().max() else None


PIECE = 16
"""Rows of a result that one product gives: products of more rows have more zeros, those of fewer are slow."""


def _convolve_by_axes(image: Tensor, rows: Tensor, columns: Tensor, out: Tensor) -> None:
    """`convolved` of one image (C, H, W) with a kernel that is the outer product of taps along rows and columns."""
    height, width = image.shape[-2:]
    reach = len(rows) // 2
    down, across = (
        mirrored(side, reach, reach + -side % PIECE, "symmetric").to(image.device) for side in (height, width)
    )
    bands = [
        # Row i holds the taps from column i on; flipped, as a convolution goes backwards.
        F.pad(taps.flip(0).to(precise(image[:0])), (0, PIECE)).repeat(PIECE)[:-PIECE].view(PIECE, -1)
        for taps in (rows, columns)
    ]
    for c, plane in enumerate(image):
        # Both times along the first axis: products with long rows are faster.
        turned = _correlated(precise(plane.T.contiguous().index_select(0, across)), bands[1])[:width]
        out[c] = _correlated(turned.T.contiguous().index_select(0, down), bands[0])[:height]


def _correlated(x: Tensor, band: Tensor) -> Tensor:
    """The product of a band (PIECE, PIECE + K - 1) and each piece of x (N PIECE + K - 1, W): (N PIECE, W)."""
    pieces = x.unfold(0, band.shape[1], PIECE).mT
    return (band.expand(len(pieces), -1, -1) @ pieces).flatten(0, 1)


@dataclass(frozen=True, eq=False)
class LinearOperator:
    """The operator A of x_1 = A x_0 + offset + noise, with adjoint and inverses for guidance.

    All functions map images (B, C, H, W) on any device, float32 or float64, to images; they compute in float64.

    Args:
        forward: x -> A x.
        adjoint: y -> A^T y, so that <A x, y> = <x, A^T y>.
        pinv: y -> A^+ y, so that A A^+ A = A: the smallest x whose A x is nearest to y.
        offset: x -> offset, of the shape of x, whose values are not used. A hole's fill and noise are not part of it.
        damped: (y, delta) -> A^T (A A^T + delta I)^-1 y for delta > 0; None without a closed form.

    Examples:
        >>> import torch
        >>> from i2i_bridge.registry import DEGRADATIONS
        >>> operator = DEGRADATIONS.build({"name": "downsample", "factor": 2}).linear(8, 8, None)
        >>> x = torch.rand(1, 3, 8, 8, dtype=torch.float64)
        >>> y = operator.forward(x)
        >>> torch.allclose(operator.forward(operator.pinv(y)), y)
        True
    """

    forward: Callable[[Tensor], Tensor]
    adjoint: Callable[[Tensor], Tensor]
    pinv: Callable[[Tensor], Tensor]
    offset: Callable[[Tensor], Tensor] = torch.zeros_like
    damped: Callable[[Tensor, float], Tensor] | None = None

    def inverse(self, y: Tensor, damping: float = 0.0) -> Tensor:
        """A^+ y, or A^T (A A^T + damping I)^-1 y: the most likely x of N(0, I) where y = A x + sqrt(damping) z.

        Raises:
            UserError: damping > 0, and the operator has no `damped`.
        """
        if damping == 0:
            return self.pinv(y)
        if self.damped is None:
            raise UserError("this degradation's linear operator has no `damped` inverse; set noise_std = 0")
        return self.damped(y, damping)


def diagonal(mask: Tensor | None) -> LinearOperator:
    """A x = (1 - mask) x for a mask of zeros and ones; the identity for None."""
    if mask is None:
        return LinearOperator(torch.clone, torch.clone, torch.clone, damped=lambda y, delta: y / (1 + delta))

    def known(x: Tensor) -> Tensor:
        # Not by a product: the pixels in the hole may be NaN.
        return torch.where(mask.to(x.device) > 0, 0.0, x)

    return LinearOperator(known, known, known, damped=lambda y, delta: known(y) / (1 + delta))


def separable(rows: Tensor, columns: Tensor) -> LinearOperator:
    """A x = rows x columns^T, for rows (H', H) and columns (W', W)."""
    # Applied factor by factor: the product V S^-1 U^T as one matrix would carry errors of 1 / smallest value.
    factors = [_factors(matrix) for matrix in (rows, columns)]

    def inverse(y: Tensor, delta: float) -> Tensor:
        (u, s, v), (p, q, r) = factors
        # 1 / g for delta = 0, else g / (g^2 + delta), of g = 1 / (s q): 0 stays 0.
        inverses = torch.outer(s, q)
        middle = two_sided(u.mT, precise(y), p.mT) * (inverses / (1 + delta * inverses.square())).to(precise(y))
        return two_sided(v, middle, r).to(y.dtype)

    return LinearOperator(
        lambda x: two_sided(rows, x, columns),
        lambda y: two_sided(rows.mT, y, columns.mT),
        lambda y: inverse(y, 0.0),
        damped=inverse,
    )


def _factors(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """U, 1 / s (0 for s below 1e-10 of the largest) and V of matrix = U diag(s) V^T."""
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    return u, torch.where(s > 1e-10 * s[0], 1 / s, 0.0), vh.mT


def convolution(kernel: Tensor, height: int, width: int) -> LinearOperator | None:
    """A x = `convolved` with one kernel (K, K), or None if it is not symmetric about both axes.

    A symmetric kernel on an image that is mirrored about its edges is diagonal in the cosine transform (DCT-II),
    which is orthonormal: A is its own adjoint. For others there is no such form, and step-by-step inverses of blurs
    take thousands of steps.
    """
    if not (torch.allclose(kernel, kernel.flip(0), atol=1e-9) and torch.allclose(kernel, kernel.flip(1), atol=1e-9)):
        return None
    rows, columns = cosine_transform(height), cosine_transform(width)
    reach = torch.arange(len(kernel), dtype=torch.float64) - len(kernel) // 2
    waves = [
        torch.cos(torch.pi / side * torch.arange(side, dtype=torch.float64)[:, None] * reach)
        for side in (height, width)
    ]
    gains = waves[0] @ kernel @ waves[1].T
    inverse = torch.where(gains.abs() > 1e-10 * gains.abs().max(), 1 / gains, 0.0)

    def scaled(x: Tensor, by: Tensor) -> Tensor:
        exact = two_sided(rows, precise(x), columns) * by.to(precise(x))
        return two_sided(rows.mT, exact, columns.mT).to(x.dtype)

    return LinearOperator(
        lambda x: scaled(x, gains),
        lambda y: scaled(y, gains),
        lambda y: scaled(y, inverse),
        damped=lambda y, delta: scaled(y, gains / (gains.square() + delta)),
    )


def cropped(operator: LinearOperator, size: tuple[int, int], padded: tuple[int, int]) -> LinearOperator:
    """A P for images of the larger size `padded`, where P cuts out the upper left corner of `size`.

    P P^T = I, so (A P)^+ = P^T A^+, and likewise for the damped inverse.
    """
    height, width = size

    def back(x: Tensor) -> Tensor:
        return F.pad(x, (0, padded[1] - width, 0, padded[0] - height))

    damped = operator.damped
    return LinearOperator(
        lambda x: operator.forward(x[..., :height, :width]),
        lambda y: back(operator.adjoint(y)),
        lambda y: back(operator.pinv(y)),
        lambda x: operator.offset(x[..., :height, :width]),
        None if damped is None else lambda y, delta: back(damped(y, delta)),
    )


def cosine_transform(size: int) -> Tensor:
    """The orthonormal DCT-II as a matrix, (size, size) float64: scipy's is of NumPy, without devices and gradients."""
    k = torch.arange(size, dtype=torch.float64)
    cosines: Tensor = torch.cos(torch.pi / size * (k + 0.5) * k[:, None]) * (2 / size) ** 0.5
    cosines[0] /= 2**0.5
    return cosines
