"""Geometry: resize, crop and flip, the same for all images of an item. The only file that knows albumentations."""

import os
import random
from functools import cache
from typing import Any, Literal

import cv2
import numpy as np

from i2i_bridge.errors import UserError


@cache
def _library() -> Any:
    """albumentations, whose import takes a second: only where something is resized."""
    # At import it asks the net for a newer version of itself, unless told not to.
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    import albumentations

    return albumentations


class Geometry:
    """Brings images to one size, on uint8 or uint16 pixels, with one draw for all images of an item.

    Args:
        size: (height, width) that comes out, or one number for both.
        resize: 'short_side' keeps the shape and covers `size`, 'stretch' does not keep it, 'none' leaves the scale.
        load_size: Resize the short side (or, stretching, both) to this instead, so that the crop can wander
            (Pix2pix's jitter).
        crop: 'random' or 'center'.
        flip: Mirror left and right, half of the time.
    """

    def __init__(
        self,
        size: tuple[int, int] | int,
        *,
        resize: Literal["short_side", "stretch", "none"] = "short_side",
        load_size: int | None = None,
        crop: Literal["random", "center"] = "center",
        flip: bool = False,
    ) -> None:
        self.size = (size, size) if isinstance(size, int) else tuple(size)
        self.resize, self.load_size, self.crop, self.flip = resize, load_size, crop, flip
        if load_size is not None and load_size < max(self.size):
            raise UserError(f"data.load_size {load_size} is smaller than data.size {self.size}")
        if resize != "none" or load_size is not None:
            _library()  # before workers are forked, which then have it

    def __call__(self, images: dict[str, np.ndarray], seed: int) -> dict[str, np.ndarray]:
        """The images 'x_0', 'x_1', 'mask', 'condition' (those that are there, one size) after the same transform.

        Args:
            images: Pixels (H, W, C).
            seed: All randomness; equal seeds give equal transforms.

        Raises:
            UserError: The images are smaller than the crop.
        """
        resized = {name: self._resized(pixels, name == "mask") for name, pixels in images.items()}
        height, width = next(iter(resized.values())).shape[:2]
        if height < self.size[0] or width < self.size[1]:
            raise UserError(
                f"the image is {width}x{height} pixels, smaller than the crop {self.size[1]}x{self.size[0]}; "
                "set data.resize = 'short_side' or a smaller data.size"
            )
        # Drawn here: albumentations' own crop and mirror start from the same number, so that crops at the top would be
        # mirrored and those at the bottom not, and they repeat their draws in workers unless seeded for every image,
        # which takes longer than cutting.
        draw = random.Random(seed)
        top, left = (
            draw.randint(0, have - wanted) if self.crop == "random" else (have - wanted) // 2
            for have, wanted in ((height, self.size[0]), (width, self.size[1]))
        )
        mirrored = self.flip and draw.random() < 0.5
        return {name: self._cut(pixels, top, left, mirrored) for name, pixels in resized.items()}

    def _cut(self, pixels: np.ndarray, top: int, left: int, mirrored: bool) -> np.ndarray:
        cut = pixels[top : top + self.size[0], left : left + self.size[1]]
        if not mirrored:
            return np.ascontiguousarray(cut)
        done: np.ndarray = cv2.flip(cut, 1)
        return done if done.ndim == 3 else done[..., None]

    def _resized(self, pixels: np.ndarray, is_mask: bool) -> np.ndarray:
        height, width = pixels.shape[:2]
        if self.resize == "none" and self.load_size is None:
            return pixels
        target = (self.load_size, self.load_size) if self.load_size else self.size
        if self.resize == "stretch":
            wanted = target
        else:
            scale = max(target[0] / height, target[1] / width)
            wanted = (max(round(height * scale), target[0]), max(round(width * scale), target[1]))
        if wanted == (height, width):
            return pixels
        # Area averaging is the antialiased choice of this library for shrinking; its other filters alias.
        method = cv2.INTER_NEAREST if is_mask else cv2.INTER_AREA if wanted[0] < height else cv2.INTER_CUBIC
        done: np.ndarray = _library().Resize(*wanted, interpolation=method)(image=pixels)["image"]
        return done if done.ndim == 3 else done[..., None]
