"""Shapes of holes for inpainting. A mask is float32 in {0, 1}, 1 = hole."""

import math
import random
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from i2i_bridge.errors import UserError

IMAGE_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}


def center_mask(height: int, width: int) -> Tensor:
    """A hole over the middle half of each side, (height, width)."""
    mask = torch.zeros(height, width)
    mask[height // 4 : 3 * height // 4, width // 4 : 3 * width // 4] = 1
    return mask


def brush_mask(height: int, width: int, area: tuple[float, float], generator: torch.Generator) -> Tensor:
    """Thick brush strokes that wander over the image, (height, width).

    The hole's area is drawn evenly from the band, and the last stroke ends where it is reached: the band is
    always met.

    Args:
        area: Lowest and highest share of hole pixels, 0 < low <= high <= 0.9.

    Raises:
        UserError: The image is so small that no whole number of pixels lies in the band.
    """
    # Exact: a product rounded in floating point may leave the band by one pixel.
    low, high = (Fraction(share) * height * width for share in area)
    least, most = math.ceil(low), math.floor(high)
    if least > most:
        raise UserError(f"no mask of {height} x {width} pixels has an area of {area[0]} to {area[1]}; widen the band")
    # One draw from the generator seeds all others: hundreds of one-number tensors would take most time.
    seed = torch.randint(2**62, (), generator=generator, device=generator.device)
    draw = random.Random(int(seed))
    left = draw.randint(least, most)
    hole: npt.NDArray[np.bool_] = np.zeros((height, width), dtype=bool)
    side = min(height, width)
    while left > 0:
        x, y = draw.uniform(0, width - 1), draw.uniform(0, height - 1)
        heading, brush = draw.uniform(0, 2 * math.pi), side * draw.uniform(0.04, 0.14)
        for _ in range(draw.randint(4, 12)):
            heading += draw.gauss(0, 0.7)
            length = side * draw.uniform(0.05, 0.25)
            # Held at the border, not turned back: borders and corners are then painted as often as the middle.
            end_x = min(max(x + length * math.cos(heading), 0.0), width - 1.0)
            end_y = min(max(y + length * math.sin(heading), 0.0), height - 1.0)
            left -= _stroke(hole, (x, y), (end_x, end_y), brush, left)
            if left <= 0:
                break
            x, y = end_x, end_y
    return torch.from_numpy(hole).float()


def _stroke(
    hole: npt.NDArray[np.bool_],
    start: tuple[float, float],
    end: tuple[float, float],
    brush: float,
    limit: int,
) -> int:
    """Adds a straight, round-ended stroke to the hole, at most `limit` new pixels; returns their number."""
    height, width = hole.shape
    radius = brush / 2
    # A canvas of the stroke's own extent: the work does not grow with the image.
    x, y = (
        max(0, math.floor(min(start[0], end[0]) - radius)),
        max(0, math.floor(min(start[1], end[1]) - radius)),
    )
    far_x = min(width, math.ceil(max(start[0], end[0]) + radius) + 1)
    far_y = min(height, math.ceil(max(start[1], end[1]) + radius) + 1)
    canvas = Image.new("L", (far_x - x, far_y - y))
    pen = ImageDraw.Draw(canvas)
    points = [(start[0] - x, start[1] - y), (end[0] - x, end[1] - y)]
    pen.line(points, fill=1, width=max(1, round(brush)))
    for a, b in points:
        pen.ellipse((a - radius, b - radius, a + radius, b + radius), fill=1)
    view = hole[y:far_y, x:far_x]
    new = np.asarray(canvas, dtype=bool) & ~view
    count = int(new.sum())
    if count <= limit:
        view |= new
        return count
    # Too much: the stroke ends early, cut across its direction.
    rows, columns = np.nonzero(new)
    way = (columns - points[0][0]) * (end[0] - start[0]) + (rows - points[0][1]) * (end[1] - start[1])
    kept = np.argsort(way, kind="stable")[:limit]
    view[rows[kept], columns[kept]] = True
    return limit


def mask_files(folder: Path) -> list[Path]:
    """The images of a folder, sorted by name.

    Raises:
        UserError: There is no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise UserError(f"inpaint: {folder} is not a folder of mask images")
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise UserError(f"inpaint: no mask images in {folder} ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return files


def folder_mask(files: Sequence[Path], height: int, width: int, generator: torch.Generator) -> Tensor:
    """One of the files, by the generator, resized to (height, width) by nearest pixels; white is the hole.

    Raises:
        UserError: The file is not a readable image.
    """
    file = files[int(torch.randint(len(files), (), generator=generator, device=generator.device))]
    try:
        with Image.open(file) as image:
            pixels = image.convert("L").resize((width, height), Image.Resampling.NEAREST)
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{file}: not a readable mask image ({error})") from error
    return torch.from_numpy(np.asarray(pixels) >= 128).float()
