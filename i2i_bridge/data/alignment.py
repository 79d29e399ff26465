"""Alignment of pairs: detect an x_1 that is rotated, mirrored or shifted against x_0, by the edges of thumbnails."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

SIDE = 96
"""Pixels of a thumbnail's longer side."""
LEAST = 24
"""Minimum side of an image in pixels; smaller images have no alignment."""
TURNS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "as it is": lambda x: x,
    "turned upside down": lambda x: x[::-1, ::-1],
    "mirrored left to right": lambda x: x[:, ::-1],
    "mirrored top to bottom": lambda x: x[::-1],
}
QUARTERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "turned by 90 degrees": lambda x: np.rot90(x),
    "turned by 270 degrees": lambda x: np.rot90(x, 3),
    "mirrored along a diagonal": lambda x: x.T,
}
"""Transforms that keep the shape of square images only."""
WAYS = [*TURNS, *QUARTERS]
FEW = 4
"""Minimum number of pairs for `misalignments`."""


@dataclass(frozen=True)
class Alignment:
    """Correlations in [-1, 1] between the edges of the thumbnails of x_0 and of a transformed x_1."""

    turns: dict[str, float]
    """Correlation by transform of x_1, including 'as it is'."""
    shift: tuple[float, float]
    """Shift (rows, columns) of x_1 with the largest correlation, in pixels of the image."""
    step: float
    """Pixels of the image per pixel of the thumbnail."""
    shifted: float
    """Correlation after `shift`."""
    pixels: tuple[int, int] | None = None
    """`shift_between` of the images themselves."""


def alignment_of(x_0: np.ndarray, x_1: np.ndarray) -> Alignment | None:
    """The alignment of two images (H, W, C) of the same shape, or of an x_1 that is smaller by an integer factor.

    None for images with a side of less than 24 pixels.
    """
    height, width = x_0.shape[:2]
    if min(height, width, *x_1.shape[:2]) < LEAST:
        return None
    step = max(max(height, width) / SIDE, 1.0)
    size = (max(round(width / step), 1), max(round(height / step), 1))
    first, second = (_edges(image, size) for image in (x_0, x_1))
    ways = TURNS | (QUARTERS if first.shape[0] == first.shape[1] else {})
    turns = {name: _correlation(first, turn(second)) for name, turn in ways.items()}
    # Circular cross-correlation: wrapping lowers the correlation a little and does not move its maximum.
    spectrum = np.fft.rfft2(first) * np.conj(np.fft.rfft2(second))
    surface = np.fft.irfft2(spectrum, first.shape) / max(first.size * first.std() * second.std(), 1e-12)
    row, column = _peak(surface)
    return Alignment(turns, (row * step, column * step), step, float(surface.max()), shift_between(x_0, x_1))


def _edges(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Gradient magnitude of a thumbnail, with mean 0."""
    grey = image.astype(np.float32).mean(axis=2)
    small = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), 1.0)
    strength = np.hypot(cv2.Sobel(small, cv2.CV_32F, 1, 0), cv2.Sobel(small, cv2.CV_32F, 0, 1))
    centred: np.ndarray = strength - strength.mean()
    return centred


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    return float((first * second).mean() / max(first.std() * second.std(), 1e-12))


def misalignments(alignments: Sequence[Alignment | None]) -> dict[int, str]:
    """Descriptions of misaligned pairs, by position.

    A pair is reported as turned if a transform raises its correlation by more than 0.2, to above 0.4, provided that the
    best median correlation over all pairs is at least 0.3; otherwise edges are no evidence. A pair is reported as
    shifted if a shift of at least one pixel of the thumbnail raises its correlation by more than 0.03, provided that
    the median after shifting is above 0.8, as for clean and degraded photos but not for photos and label maps; or if
    `shift_between` finds a shift of more than one pixel.
    """
    known = {i: one for i, one in enumerate(alignments) if one is not None}
    found = {i: _shifted(*one.pixels) for i, one in known.items() if one.pixels and max(map(abs, one.pixels)) > 1}
    if len(known) < FEW:
        return found
    usual = max(float(np.median([one.turns.get(way, 0.0) for one in known.values()])) for way in WAYS)
    if usual < 0.3:
        return found
    well = float(np.median([one.shifted for one in known.values()])) > 0.8
    for i, one in known.items():
        turn = max(one.turns, key=lambda name: one.turns[name])
        straight = one.turns["as it is"]
        if one.turns[turn] > 0.4 and one.turns[turn] - straight > 0.2:
            found[i] = f"x_1 looks {turn} against x_0"
        elif well and one.shifted - straight > 0.03 and max(map(abs, one.shift)) >= one.step:
            found[i] = _shifted(*(one.pixels or one.shift))
    return found


def _shifted(rows: float, columns: float) -> str:
    return f"x_1 looks shifted against x_0, by about {0 - columns:.0f} pixels across and {0 - rows:.0f} down"


WINDOW = 512
"""Pixels of a side of the window in the middle of the images from which `shift_between` is estimated."""
SURE = 9.0
"""Minimum height of the correlation's peak, in standard deviations; below it no shift is returned."""


def _peak(surface: np.ndarray) -> tuple[int, int]:
    """The shift (rows, columns) of the largest value of a circular correlation; the second half are negative shifts."""
    place = np.unravel_index(int(surface.argmax()), surface.shape)
    row, column = (int(at) - side * (at > side // 2) for at, side in zip(place, surface.shape, strict=True))
    return row, column


def shift_between(x_0: np.ndarray, x_1: np.ndarray) -> tuple[int, int] | None:
    """The shift (rows, columns) of x_1 that aligns it with x_0, in pixels; None if the correlation has no clear peak.

    Phase correlation of gradient magnitudes, so that sides of other colours, noise or drawn edges are comparable:

        c = F^-1[ G_0 conj(G_1) / sqrt(|G_0| |G_1|) ],   G = F[window |gradient|],   shift = argmax c

    Args:
        x_0: Pixels (H, W, C).
        x_1: Pixels of the same height and width.
    """
    height, width = x_0.shape[:2]
    if min(height, width) < LEAST or x_1.shape[:2] != (height, width):
        return None
    rows, columns = (
        slice((side - min(side, WINDOW)) // 2, (side + min(side, WINDOW)) // 2) for side in (height, width)
    )
    first, second = (_steepness(image[rows, columns]) for image in (x_0, x_1))
    spectra = [np.fft.rfft2(image) for image in (first, second)]
    product = spectra[0] * np.conj(spectra[1])
    surface = np.fft.irfft2(product / np.sqrt(np.abs(product) + 1e-12), first.shape)
    row, column = _peak(surface)
    # At most a quarter: with a larger shift too little of the window overlaps.
    if surface.max() <= SURE * surface.std() or abs(row) > first.shape[0] // 4 or abs(column) > first.shape[1] // 4:
        return None
    return row, column


def _steepness(image: np.ndarray) -> np.ndarray:
    """Gradient magnitude of the smoothed grey image, with mean 0, fading to the borders."""
    grey = cv2.GaussianBlur(image.astype(np.float32).mean(axis=2), (0, 0), 1.0)
    slopes = np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))
    # Otherwise a drawn line would have two ridges, and an edge of the photo one.
    strength = cv2.GaussianBlur(slopes, (0, 0), 1.5).astype(np.float64)
    fading: np.ndarray = np.outer(np.hanning(strength.shape[0]), np.hanning(strength.shape[1]))
    faded: np.ndarray = (strength - strength.mean()) * fading
    return faded


def overlap_of(
    x_0: np.ndarray, x_1: np.ndarray, shift: tuple[int, int], grid: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """The overlap of x_0 and x_1, given the shift that aligns x_1 with x_0.

    Args:
        x_0: Pixels (H, W, C).
        x_1: Pixels of the same height and width.
        shift: (rows, columns), as of `shift_between`.
        grid: The part of x_1 starts at multiples of `grid`; the factor by which x_1 was enlarged. Otherwise the pixels
            of the small image would start elsewhere in every pair.
    """
    (height, width), (row, column) = x_0.shape[:2], shift
    top, left = (-(min(by, 0) // grid * grid) for by in shift)  # in x_1
    return (
        x_0[top + row : height + min(row, 0), left + column : width + min(column, 0)],
        x_1[top : height - max(row, 0), left : width - max(column, 0)],
    )
