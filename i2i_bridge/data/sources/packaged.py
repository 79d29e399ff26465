"""Datasets of photos inside installed packages, such as those of `make demo`, which need no download."""

import importlib.util
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from i2i_bridge.errors import UserError
from i2i_bridge.images.files import read_picture
from i2i_bridge.registry import register_dataset


@register_dataset("packaged_images")
class PackagedImages:
    """Clean images named 'package:path/inside.png'. The package is located, not imported.

    Args:
        train: Images of the split 'train'.
        val: Images of every other split.
        tiles: Cut held-out images into squares with sides of 1 / tiles of the short side, as many as fit. All images
            are then decoded once and kept in memory. Default: whole files.

    Raises:
        UserError: `tiles` is not 1 to 64, a split has no images, or an image is in both splits or missing.
    """

    def __init__(self, train: list[str], val: list[str], split: str, tiles: int | None = None) -> None:
        if tiles is not None and not 1 <= tiles <= 64:
            raise UserError(f"tiles = {tiles}: must be 1 to 64")
        both = set(train) & set(val)
        if both:
            raise UserError(f"{sorted(both)[0]}: in both train and val; held-out images must not be trained on")
        self.tiles, self.whole = tiles, split == "train"
        self.files = [(name.replace(":", "/"), _locate(name)) for name in (train if self.whole else val)]
        if not self.files:
            raise UserError(f"no images for the split '{split}'")

    def __len__(self) -> int:
        return len(self.files) if self.tiles is None else len(self._decoded)

    def __getitem__(self, index: int) -> dict[str, Any]:
        name, x_0 = (self.files if self.tiles is None else self._decoded)[index]
        return {"key": name, "x_0": x_0}

    @cached_property
    def _decoded(self) -> list[tuple[str, np.ndarray]]:
        photos = []
        for name, path in self.files:
            pixels = read_picture(path).pixels
            photos.append([(name, pixels)] if self.whole else _tiles(name, pixels, self.tiles or 1))
        # The first tile of each photo, then the second, ...; otherwise the first items would be tiles of one photo.
        return [tile for tiles in zip_longest(*photos) for tile in tiles if tile is not None]


def _tiles(name: str, pixels: np.ndarray, parts: int) -> list[tuple[str, np.ndarray]]:
    """Cut an image into squares of 1 / parts of the short side, in reading order, centred; the rest is discarded."""
    height, width = pixels.shape[:2]
    side = min(height, width) // parts
    rows, columns = height // side, width // side
    top, left = (height - rows * side) // 2, (width - columns * side) // 2
    return [
        (f"{name}/{row + 1}-{column + 1}", pixels[y : y + side, x : x + side])
        for row, y in enumerate(range(top, top + rows * side, side))
        for column, x in enumerate(range(left, left + columns * side, side))
    ]


def _locate(name: str) -> Path:
    package, colon, inside = name.partition(":")
    if not colon or not package.isidentifier() or ".." in Path(inside).parts or Path(inside).is_absolute():
        raise UserError(f"'{name}': a packaged image reads package:path/inside.png")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"'{name}': the package {package} is not installed; run: pip install 'i2i-bridge[demo]'")
    home = Path(next(iter(spec.submodule_search_locations)))
    path = home / inside
    if not path.is_file() or not path.resolve().is_relative_to(home.resolve()):  # a link may lead out of the package
        raise UserError(f"'{name}': {package} is installed, but holds no {inside}")
    return path
