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
    place = np.unravel_index(int(surface.argmax()), surface.shape)
    row, column = (int(at) - side * (at > side // 2) for at, side in zip(place, surface.shape, strict=True))
    return Alignment(turns, (row * step, column * step), step, float(surface.max()))


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
    the median after shifting is above 0.8, as for clean and degraded photos but not for photos and label maps.
    """
    found: dict[int, str] = {}
    known = {i: one for i, one in enumerate(alignments) if one is not None}
    if len(known) < FEW:
        return {}
    usual = max(float(np.median([one.turns.get(way, 0.0) for one in known.values()])) for way in WAYS)
    if usual < 0.3:
        return {}
    well = float(np.median([one.shifted for one in known.values()])) > 0.8
    for i, one in known.items():
        turn = max(one.turns, key=lambda name: one.turns[name])
        straight = one.turns["as it is"]
        if one.turns[turn] > 0.4 and one.turns[turn] - straight > 0.2:
            found[i] = f"x_1 looks {turn} against x_0"
        elif well and one.shifted - straight > 0.03 and max(map(abs, one.shift)) >= one.step:
            rows, columns = one.shift
            found[i] = (
                f"x_1 looks shifted against x_0, by about {0 - columns:.0f} pixels across and {0 - rows:.0f} down"
            )
    return found
