"""Geometry: resize, crop and flip, the same for all images of an item. The only file that knows albumentations."""

import os
import random
from collections.abc import Sequence
from functools import cache
from typing import Any, Literal

import cv2
import numpy as np
import torch

from i2i_bridge.degradations.linear import resized
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
        pad: 'reflect' continues an image that is smaller than `size` by reflection at its right and lower edge, 'none'
            refuses it.
    """

    def __init__(
        self,
        size: tuple[int, int] | int,
        *,
        resize: Literal["short_side", "stretch", "none"] = "short_side",
        load_size: int | None = None,
        crop: Literal["random", "center"] = "center",
        flip: bool = False,
        pad: Literal["none", "reflect"] = "none",
    ) -> None:
        self.pad = pad
        self.size: tuple[int, int] = (size, size) if isinstance(size, int) else (size[0], size[1])
        self.resize, self.load_size, self.crop, self.flip = resize, load_size, crop, flip
        if load_size is not None and load_size < max(self.size):
            raise UserError(f"data.load_size {load_size} is smaller than data.size {self.size}")
        if resize != "none" or load_size is not None:
            _library()  # before workers are forked, which then have it

    def __call__(self, images: dict[str, np.ndarray], seed: int, grid: int = 1) -> dict[str, np.ndarray]:
        """The images 'x_0', 'x_1', 'mask', 'condition' (those that are there, one size) after the same transform.

        Args:
            images: Pixels (H, W, C).
            seed: All randomness; equal seeds give equal transforms.
            grid: Where nothing is resized, crops begin at multiples of this: x_1 is an image enlarged so many times.

        Raises:
            UserError: The images are smaller than the crop, and are not to be padded.
        """
        before = next(iter(images.values())).shape[:2]
        resized = {name: self._resized(pixels, name == "mask") for name, pixels in images.items()}
        height, width = next(iter(resized.values())).shape[:2]
        if (height, width) != before:
            grid = 1
        missing = [max(wanted - have, 0) for wanted, have in zip(self.size, (height, width), strict=True)]
        if any(missing) and self.pad == "reflect":
            sides = ((0, missing[0]), (0, missing[1]), (0, 0))
            resized = {name: np.pad(pixels, sides, mode="reflect") for name, pixels in resized.items()}
            height, width = height + missing[0], width + missing[1]
        elif any(missing):
            raise UserError(
                f"the image is {width}x{height} pixels, smaller than the crop {self.size[1]}x{self.size[0]}; "
                "set data.pad = 'reflect', data.resize = 'short_side' or a smaller data.size"
            )
        # Drawn here: albumentations' own crop and mirror start from the same number, so that crops at the top would be
        # mirrored and those at the bottom not, and they repeat their draws in workers unless seeded for every image,
        # which takes longer than cutting.
        draw = random.Random(seed)
        top, left = (
            grid * (draw.randint(0, (have - wanted) // grid) if self.crop == "random" else (have - wanted) // 2 // grid)
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

    def resized_to(self, height: int, width: int) -> tuple[int, int]:
        """The size (height, width) of an image before it is cut."""
        if self.resize == "none" and self.load_size is None:
            return height, width
        target = (self.load_size, self.load_size) if self.load_size else self.size
        if self.resize == "stretch":
            return target
        scale = max(target[0] / height, target[1] / width)
        return max(round(height * scale), target[0]), max(round(width * scale), target[1])

    def changes(self, sizes: Sequence[tuple[int, int]]) -> list[str]:
        """What happens to images of these sizes (height, width) before they are cut, a line each; nothing if nothing.

        Lengths are those of the short side; stretching, both are named.
        """
        lines = []
        now = [self.resized_to(*size) for size in sizes]
        for word, sign in (("reduced", -1), ("enlarged", 1)):
            found = [(old, new) for old, new in zip(sizes, now, strict=True) if sign * (min(new) - min(old)) > 0]
            if found:
                some = "images are" if len(found) == len(sizes) else f"{len(found)} of {len(sizes)} images are"
                old, new = (_lengths([pair[side] for pair in found], self.resize == "stretch") for side in (0, 1))
                lines.append(f"{some} {word} from {old} to {new} pixels")
        small = [size for size in now if size[0] < self.size[0] or size[1] < self.size[1]]
        if small and self.pad == "reflect":
            some = f"{len(small)} of {len(sizes)} images are"
            lines.append(f"{some} smaller than {self.size[1]}x{self.size[0]} pixels and are padded by reflection")
        return lines

    def _resized(self, pixels: np.ndarray, is_mask: bool) -> np.ndarray:
        height, width = pixels.shape[:2]
        wanted = self.resized_to(height, width)
        if wanted == (height, width):
            return pixels
        # Area averaging is the antialiased choice of this library for shrinking; its other filters alias.
        method = cv2.INTER_AREA if wanted[0] < height else cv2.INTER_CUBIC
        if is_mask:
            return _largest(pixels, wanted, area=method == cv2.INTER_AREA)
        done: np.ndarray = _library().Resize(*wanted, interpolation=method)(image=pixels)["image"]
        return done if done.ndim == 3 else done[..., None]


def _largest(pixels: np.ndarray, size: tuple[int, int], area: bool) -> np.ndarray:
    """A mask (H, W, 1) at another size: each pixel the largest of those of which the images' filter makes that pixel.

    So a pixel into which unknown ones were mixed is unknown: x_1 equals x_0 wherever the mask is 0, as before.

    Args:
        area: Whether the images are reduced by area averaging; else their filter reads four pixels of a row or column.
    """
    for axis, new in enumerate(size):
        have = pixels.shape[axis]
        if new == have:
            continue
        ratio, index = have / new, np.arange(new)
        if area and ratio >= 1:  # a hair off whole numbers, or rounding would add a pixel
            first, stop = np.floor(index * ratio + 1e-6), np.ceil((index + 1) * ratio - 1e-6)
        else:
            first = np.floor((index + 0.5) * ratio - 0.5) - 1
            stop = first + 4
        first, stop = first.clip(0, have - 1).astype(int), stop.clip(1, have).astype(int)
        # `reduceat` ends a window where the next one begins: every second result is between two windows. The pixel that
        # is added at the end closes the last ones.
        closed = np.concatenate([pixels, pixels.take([-1], axis)], axis)
        pixels = np.maximum.reduceat(closed, np.stack([first, stop], 1).ravel(), axis).take(2 * index, axis)
    return pixels


def _lengths(sizes: Sequence[tuple[int, int]], both: bool) -> str:
    """The short sides of sizes (height, width), '512' or '300-512'; or both sides, where they are alike."""
    if both and len(set(sizes)) == 1:
        return f"{sizes[0][1]}x{sizes[0][0]}"
    least, most = (end(map(min, sizes)) for end in (min, max))
    return str(least) if least == most else f"{least}-{most}"


Enlargement = Literal["bicubic", "nearest"]


def factor_between(large: tuple[int, int], small: tuple[int, int]) -> int | None:
    """How many times a size (height, width) is another one; None where it is no whole number, the same for both."""
    factor = large[0] // small[0]
    return factor if (small[0] * factor, small[1] * factor) == tuple(large) and factor > 0 else None


def enlarged(pixels: np.ndarray, factor: int, kernel: Enlargement) -> np.ndarray:
    """Pixels (H, W, C) at `factor` times their size, of the same dtype.

    'nearest' repeats each pixel; 'bicubic' is Keys' cubic with a = -1/2, pixel centres kept in place, rounded to codes.
    """
    if factor == 1:
        return pixels
    if kernel == "nearest":
        return pixels.repeat(factor, 0).repeat(factor, 1)
    size = (pixels.shape[0] * factor, pixels.shape[1] * factor)
    planes = torch.from_numpy(pixels.transpose(2, 0, 1).astype(np.float32))
    values = resized(planes, size, "bicubic").numpy().transpose(1, 2, 0)
    if pixels.dtype.kind == "u":
        values = np.rint(values).clip(0, np.iinfo(pixels.dtype).max)
    return np.ascontiguousarray(values.astype(pixels.dtype))
