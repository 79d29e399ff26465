"""Geometry: resize, crop and flip, the same for all images of an item. The only file that knows albumentations."""

import os
import random
from functools import cached_property
from typing import Any, Literal

# At import albumentations asks the net for a newer version of itself, unless told not to.
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"

import albumentations as A
import cv2
import numpy as np

from i2i_bridge.errors import UserError

UNUSED = np.random.default_rng(0)
"""Of the two streams that albumentations wants, the one from which neither crop nor mirror draws."""


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

    @cached_property
    def _compose(self) -> A.Compose:
        height, width = self.size
        crop = A.RandomCrop if self.crop == "random" else A.CenterCrop
        steps: list[Any] = [crop(height=height, width=width)]
        if self.flip:
            steps.append(A.HorizontalFlip(p=0.5))
        targets = {"x_1": "image", "condition": "image", "hole": "mask"}
        # The caller vouches for equal sizes; comparing them takes as long as cutting.
        return A.Compose(steps, additional_targets=targets, is_check_shapes=False)

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
        # albumentations 2.0.8 repeats its draws in data-loader workers and epochs unless it is seeded for every call.
        # One stream for both steps: its `set_random_seed` starts each from the same number, so that crops at the top
        # would be mirrored and those at the bottom not. Neither draws from NumPy's, which takes longest to seed.
        self._compose.set_random_state(UNUSED, random.Random(seed))
        targets = {name: "hole" if name == "mask" else name for name in resized}
        # albumentations insists on one target of this name.
        targets[next(iter(resized))] = "image"
        done = self._compose(**{targets[name]: pixels for name, pixels in resized.items()})
        out = {name: done[target] for name, target in targets.items()}
        return {name: pixels if pixels.ndim == 3 else pixels[..., None] for name, pixels in out.items()}

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
        done: np.ndarray = A.Resize(*wanted, interpolation=method)(image=pixels)["image"]
        return done if done.ndim == 3 else done[..., None]
