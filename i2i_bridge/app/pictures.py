"""Pictures of the page: painted masks, views for the browser, examples."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from i2i_bridge.data.sources.packaged import PackagedImages
from i2i_bridge.errors import UserError, located
from i2i_bridge.images.files import image_size, read_picture, write_picture
from i2i_bridge.images.folder import find_images
from i2i_bridge.images.pixels import Picture, Range, opaque, shown, to_tensor, visible
from i2i_bridge.runs.run import Run
from i2i_bridge.storage.files import write_whole

EXAMPLES = (
    "skimage:data/chelsea.png",
    "skimage:data/coffee.png",
    "skimage:data/astronaut.png",
    "sklearn:datasets/images/flower.jpg",
    "sklearn:datasets/images/china.jpg",
)
"""Photos inside the packages of the extra `demo`, shown as examples where those are installed."""
SHOWN_SIDE, WALK_SIDE, ANIMATION_SIDE, EDITOR_SIDE = 1600, 3200, 640, 768
"""Longest side in pixels of pictures, of the walk and its animation, and of the mask editor on the page; downloads have
all pixels."""


def mask_file(layers: Sequence[np.ndarray], file: Path, scale: int, result: Path) -> Path | None:
    """Write the mask of painted layers, white = unknown, in the size of the restored picture.

    Args:
        layers: Arrays (H, W, 4) uint8; a pixel is unknown if any layer is more than half opaque there.
        file: The picture; (H, W) of the layers may differ from its size, and is scaled to it.
        scale: Ratio of the restored picture's size to the picture's.
        result: The file to write.

    Returns:
        `result`, or None if nothing was painted.
    """
    painted = [layer[..., 3] > 127 for layer in layers]
    if not any(layer.any() for layer in painted):
        return None
    height, width = (side * scale for side in image_size(file))
    unknown = np.zeros((height, width), bool)
    for layer in painted:
        scaled = Image.fromarray(layer).resize((width, height), Image.Resampling.NEAREST)
        unknown |= np.asarray(scaled)
    write_picture(result, Picture((unknown[..., None] * 255).astype(np.uint8)))
    return result


def needs_mask(run: Run) -> bool:
    """Whether the run's task is inpainting."""
    degradation = run.recipe.build_degradation()
    return degradation is not None and degradation.masked


def view(file: Path, result: Path, value_range: Range, side: int, size: tuple[int, int] | None = None) -> Path:
    """Write a picture for the browser, as an 8-bit PNG with its profile.

    Args:
        file: The picture.
        result: The PNG.
        value_range: Values of black and white of floats.
        side: Longest side in pixels; a larger picture is scaled down.
        size: (width, height) to scale to instead.

    Raises:
        UserError: The picture cannot be read, or its values have no known range.
    """
    picture = read_picture(file, metadata=True)
    with located(file):
        whole = picture.alpha is not None and picture.pixels.dtype.kind == "u"
        pixels = opaque(picture) if whole else visible(picture)
        image = Image.fromarray(shown(to_tensor(pixels, value_range)))
    if size is None:
        factor = min(side / max(image.size), 1)
        size = (max(round(image.width * factor), 1), max(round(image.height * factor), 1))
    if size != image.size:
        image = image.resize(size, Image.Resampling.BICUBIC)
    colour = picture.pixels.shape[2] == 3
    result.parent.mkdir(parents=True, exist_ok=True)
    image.save(result, icc_profile=picture.metadata.profile_for(3) if colour else None)
    return result


def example_files(folder: Path | None) -> dict[str, Path]:
    """Example pictures by name: those of a folder, or photos of installed packages."""
    if folder is not None:
        return {str(file.relative_to(folder)): file for file in find_images(folder)}
    found: dict[str, Path] = {}
    for name in EXAMPLES:
        try:
            file = PackagedImages([], [name], "val").files[0][1]
        except UserError:  # not installed
            continue
        found[file.stem] = file
    return found


def copied(file: Path, folder: Path) -> Path:
    """Copy an example to a folder of results; gradio serves no file of an installed package."""
    write_whole(folder / file.name, file.read_bytes())
    return folder / file.name
