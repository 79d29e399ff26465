"""Shapes of holes for inpainting. A mask is float32 in {0, 1}, 1 = hole."""

import math
import random
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from i2i_bridge.errors import UserError, located
from i2i_bridge.images.pixels import from_pil, mask_of, to_mask
from i2i_bridge.storage.reader import DAMAGED_ARRAYS, open_arrays

IMAGE_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}

PACKED_SIDE = 256
"""Rows and columns of a packed mask."""


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
            # Clamped to the border, not reflected: otherwise borders and corners are painted less than the middle.
            end_x = min(max(x + length * math.cos(heading), 0.0), width - 1.0)
            end_y = min(max(y + length * math.sin(heading), 0.0), height - 1.0)
            left -= _stroke(hole, (x, y), (end_x, end_y), brush, left)
            if left <= 0:
                break
            x, y = end_x, end_y
    # By NumPy: torch takes ten times as long from bool to float.
    return torch.from_numpy(hole.astype(np.float32))


def _stroke(
    hole: npt.NDArray[np.bool_],
    start: tuple[float, float],
    end: tuple[float, float],
    brush: float,
    limit: int,
) -> int:
    """Adds a straight, round-ended stroke to the hole, at most `limit` new pixels; returns their number."""
    height, width = hole.shape
    radius = max(brush, 1.5) / 2  # below that it could miss every pixel's centre
    # The stroke's own extent: the work does not grow with the image.
    columns = _within(start[0], end[0], radius, width)
    rows = _within(start[1], end[1], radius, height)
    x, y = np.arange(columns.start, columns.stop) - start[0], np.arange(rows.start, rows.stop)[:, None] - start[1]
    length = math.dist(start, end) or 1.0
    across, down = (end[0] - start[0]) / length, (end[1] - start[1]) / length
    # How far along the stroke a pixel lies, and whether the nearest point of the stroke is within the radius.
    way = x * across + y * down
    nearest = way.clip(0, length)
    apart = np.square(x - nearest * across)
    apart += np.square(y - nearest * down)
    view = hole[rows, columns]
    new = (apart <= radius**2) > view
    count = int(np.count_nonzero(new))
    if count <= limit:
        view |= new
        return count
    # Too much: the stroke ends early, cut across its direction.
    found = np.flatnonzero(new)
    kept = found[np.argsort(way.ravel()[found], kind="stable")[:limit]]
    view[np.unravel_index(kept, view.shape)] = True
    return limit


def _within(start: float, end: float, radius: float, size: int) -> slice:
    """The pixels of one axis that a stroke can reach."""
    low, high = sorted((start, end))
    return slice(max(0, math.ceil(low - radius)), min(size, math.floor(high + radius) + 1))


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
    with (
        located(file, "not a readable mask image", (OSError, ValueError, Image.DecompressionBombError)),
        Image.open(file) as image,
    ):
        hole = to_mask(mask_of(from_pil(image))[0])[0].numpy().astype(np.uint8)
    resized = Image.fromarray(hole).resize((width, height), Image.Resampling.NEAREST)
    return torch.from_numpy(np.array(resized)).float()


def packed_masks(file: Path, area: tuple[float, float]) -> npt.NDArray[np.uint8]:
    """The masks of one band of a file like Palette's `imagenet_freeform_masks.npz`, (N, 8192).

    Such a file has an array for each band, named '10-20% freeform': masks of 256 x 256 pixels one after another, a bit
    each, 1 = hole. 10,000 masks take 82 MB, packed as they stay.

    Args:
        area: The band, as shares of the image.

    Raises:
        UserError: The file cannot be read, or has no such band.
    """
    band = f"{round(100 * area[0])}-{round(100 * area[1])}% freeform"
    try:
        with open_arrays(file) as arrays:
            if band not in arrays.files:
                bands = ", ".join(f"'{name}'" for name in arrays.files)
                raise UserError(f"{file}: no masks '{band}'; there is {bands}: set area to one of these bands")
            bits = arrays[band]
    except FileNotFoundError as error:
        raise UserError(f"{file}: no such file of masks") from error
    except (OSError, *DAMAGED_ARRAYS) as error:
        raise UserError(f"{file}: not a readable .npz of packed masks ({type(error).__name__}: {error})") from error
    size = PACKED_SIDE**2 // 8
    if bits.dtype != np.uint8 or bits.size < size:
        raise UserError(f"{file}: '{band}' is {bits.size} x {bits.dtype}, not masks of {size} bytes each")
    packed: npt.NDArray[np.uint8] = bits.ravel()[: bits.size // size * size].reshape(-1, size)
    return packed


def packed_mask(packed: npt.NDArray[np.uint8], height: int, width: int, generator: torch.Generator) -> Tensor:
    """One of the masks, by the generator, resized to (height, width) by nearest pixels."""
    chosen = packed[int(torch.randint(len(packed), (), generator=generator, device=generator.device))]
    hole = np.unpackbits(chosen).reshape(PACKED_SIDE, PACKED_SIDE)
    # Nearest pixel: the source pixel that contains the centre of the result's pixel.
    rows, columns = (((np.arange(side) + 0.5) * PACKED_SIDE / side).astype(np.int64) for side in (height, width))
    return torch.from_numpy(hole[rows][:, columns]).float()
