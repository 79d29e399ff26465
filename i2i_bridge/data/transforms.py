"""Geometric transforms: resize, crop and flip, the same for all images of an item. Resizing is by albumentations."""

import random
from collections.abc import Sequence
from typing import Literal

import cv2
import numpy as np
import torch

from i2i_bridge.data.augmentation import Augmentation, albumentations_module
from i2i_bridge.degradations.linear import resized
from i2i_bridge.errors import UserError, plural


class Geometry:
    """Resizes, crops and flips uint8 or uint16 images to one size, with the same draw for all images of an item.

    Args:
        size: (height, width) of the result, or one number for both.
        resize: 'short_side' keeps the aspect ratio and covers `size`, 'stretch' does not keep it, 'none' keeps the
            scale.
        load_size: Resize the short side (both sides for 'stretch') to this size instead, larger than `size`, so that
            the position of the crop varies (the jitter of Pix2pix).
        crop: 'random' or 'center'.
        flip: Flip left to right with probability 1/2.
        pad: 'reflect' extends an image smaller than `size` by reflection at its right and lower edges; 'none' raises an
            error.
        augmentation: Moves the pixels of the resized images before the crop.
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
        augmentation: Augmentation | None = None,
    ) -> None:
        self.augmentation = augmentation
        self.pad = pad
        self.size: tuple[int, int] = (size, size) if isinstance(size, int) else (size[0], size[1])
        self.resize, self.load_size, self.crop, self.flip = resize, load_size, crop, flip
        if load_size is not None and load_size < max(self.size):
            raise UserError(f"data.load_size {load_size} is smaller than data.size {self.size}")
        if resize != "none" or load_size is not None:
            albumentations_module()  # before workers are forked; otherwise each would import it

    def __call__(self, images: dict[str, np.ndarray], seed: int, grid: int = 1) -> dict[str, np.ndarray]:
        """Apply the same transform to images of one size.

        Args:
            images: Pixels (H, W, C) by part: 'x_0' and optionally 'x_1', 'mask', 'condition'.
            seed: Seed of the draw; equal seeds give equal transforms.
            grid: If nothing is resized, crops start at multiples of `grid`; the factor by which x_1 was enlarged.

        Raises:
            UserError: The images are smaller than the crop, and `pad` is 'none'.
        """
        before = next(iter(images.values())).shape[:2]
        resized = {name: self._resized(pixels, name == "mask") for name, pixels in images.items()}
        height, width = next(iter(resized.values())).shape[:2]
        if (height, width) != before:
            grid = 1
        if self.augmentation is not None:
            resized = self.augmentation.moved(resized, seed)
            height, width = next(iter(resized.values())).shape[:2]
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
        # Not by albumentations, whose crop and flip use the same random number, so that the two would be correlated;
        # and which repeats its draws in workers unless it is seeded for every image, which takes longer than the crop.
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
        """The size (height, width) of an image after resizing, before the crop."""
        if self.resize == "none" and self.load_size is None:
            return height, width
        target = (self.load_size, self.load_size) if self.load_size else self.size
        if self.resize == "stretch":
            return target
        scale = max(target[0] / height, target[1] / width)
        return max(round(height * scale), target[0]), max(round(width * scale), target[1])

    def changes(self, sizes: Sequence[tuple[int, int]]) -> list[str]:
        """Notes on how images of these sizes (height, width) are resized or padded before the crop, one line each.

        Lengths are those of the short side, or of both sides for 'stretch'.
        """
        lines = []
        these = plural(len(sizes), "image is", "images are")
        now = [self.resized_to(*size) for size in sizes]
        for word, sign in (("reduced", -1), ("enlarged", 1)):
            found = [(old, new) for old, new in zip(sizes, now, strict=True) if sign * (min(new) - min(old)) > 0]
            if found:
                some = "images are" if len(found) == len(sizes) else f"{len(found)} of {these}"
                old, new = (_lengths([pair[side] for pair in found], self.resize == "stretch") for side in (0, 1))
                lines.append(f"{some} {word} from {old} to {new} pixels")
        small = [size for size in now if size[0] < self.size[0] or size[1] < self.size[1]]
        if small and self.pad == "reflect":
            lines.append(
                f"{len(small)} of {these} smaller than {self.size[1]}x{self.size[0]} pixels and padded by reflection"
            )
        return lines

    def _resized(self, pixels: np.ndarray, is_mask: bool) -> np.ndarray:
        height, width = pixels.shape[:2]
        wanted = self.resized_to(height, width)
        if wanted == (height, width):
            return pixels
        # For reduction, area averaging is OpenCV's only antialiased interpolation.
        method = cv2.INTER_AREA if wanted[0] < height else cv2.INTER_CUBIC
        if is_mask:
            return _largest(pixels, wanted, area=method == cv2.INTER_AREA)
        done: np.ndarray = albumentations_module().Resize(*wanted, interpolation=method)(image=pixels)["image"]
        return done if done.ndim == 3 else done[..., None]


def _largest(pixels: np.ndarray, size: tuple[int, int], area: bool) -> np.ndarray:
    """Resize a mask (H, W, 1): each pixel is the maximum over the support of the interpolation used for the images.

    A resized pixel is therefore unknown if any pixel that contributes to it is unknown, and x_1 equals x_0 wherever the
    mask is 0, as before resizing.

    Args:
        pixels: The mask.
        size: (height, width) of the result.
        area: Whether the images are reduced by area averaging; otherwise their filter has four taps per axis.
    """
    for axis, new in enumerate(size):
        have = pixels.shape[axis]
        if new == have:
            continue
        ratio, index = have / new, np.arange(new)
        if area and ratio >= 1:  # 1e-6: otherwise rounding errors could add a pixel
            first, stop = np.floor(index * ratio + 1e-6), np.ceil((index + 1) * ratio - 1e-6)
        else:
            first = np.floor((index + 0.5) * ratio - 0.5) - 1
            stop = first + 4
        first, stop = first.clip(0, have - 1).astype(int), stop.clip(1, have).astype(int)
        # `reduceat` takes alternating starts and stops; every second result lies between two windows and is dropped. A
        # stop must be a valid index, so a pixel is appended.
        closed = np.concatenate([pixels, pixels.take([-1], axis)], axis)
        pixels = np.maximum.reduceat(closed, np.stack([first, stop], 1).ravel(), axis).take(2 * index, axis)
    return pixels


def _lengths(sizes: Sequence[tuple[int, int]], both: bool) -> str:
    """Range of the short sides of sizes (height, width) as text, '512' or '300-512'; 'WxH' if `both` and all equal."""
    if both and len(set(sizes)) == 1:
        return f"{sizes[0][1]}x{sizes[0][0]}"
    least, most = (end(map(min, sizes)) for end in (min, max))
    return str(least) if least == most else f"{least}-{most}"


Enlargement = Literal["bicubic", "nearest"]


def factor_between(large: tuple[int, int], small: tuple[int, int]) -> int | None:
    """The integer factor between two sizes (height, width); None unless it is the same integer for both sides."""
    factor = large[0] // small[0]
    return factor if (small[0] * factor, small[1] * factor) == tuple(large) and factor > 0 else None


def enlarged(pixels: np.ndarray, factor: int, kernel: Enlargement) -> np.ndarray:
    """Enlarge pixels (H, W, C) by an integer factor, keeping the dtype.

    'nearest' repeats each pixel. 'bicubic' is Keys' cubic with a = -1/2 and aligned pixel centres, rounded to integers.
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
