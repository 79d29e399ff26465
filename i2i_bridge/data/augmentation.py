"""Augmentation of training pairs by transforms of albumentations that a recipe names; every draw is keyed by sample."""

import inspect
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from i2i_bridge.errors import UserError
from i2i_bridge.images.pixels import Range, to_mask
from i2i_bridge.libraries import class_named, constructed, reason
from i2i_bridge.randomness import key

SIDES = ("both", "x_0", "x_1")
SIZES = "it changes the size of the image; data.size, data.resize and data.crop do that"
IMAGES = "it needs other images"
TYPES = "it changes the type, range or channels of the image"
UNUSABLE = {
    **dict.fromkeys(
        (
            "AtLeastOneBBoxRandomCrop", "BBoxSafeRandomCrop", "CenterCrop", "Crop", "CropNonEmptyMaskIfExists",
            "LongestMaxSize", "Pad", "PadIfNeeded", "RandomCrop", "RandomCropFromBorders", "RandomCropNearBBox",
            "RandomResizedCrop", "RandomScale", "RandomSizedBBoxSafeCrop", "RandomSizedCrop", "Resize",
            "SmallestMaxSize",
        ),
        SIZES,
    ),
    **dict.fromkeys(("FDA", "HistogramMatching", "Mosaic", "OverlayElements", "PixelDistributionAdaptation"), IMAGES),
    **dict.fromkeys(("FromFloat", "Normalize", "ToFloat", "ToRGB"), TYPES),
    **dict.fromkeys(("FrequencyMasking", "TimeMasking", "TimeReverse"), "it is for spectrograms"),
    **dict.fromkeys(("ConstrainedCoarseDropout", "MaskDropout"), "it needs marked objects"),
    "Lambda": "a recipe runs no code",
    "TemplateTransform": IMAGES,
    "TextImage": "it reads a file of its own",
}  # fmt: skip
LIMITS = {
    "p": (0, 1), "blur_limit": (0, 201), "kernel_size": (1, 201), "max_delta": (1, 100), "iterations": (1, 100),
    "tile_grid_size": (1, 64), "grid": (1, 64), "num_grid_xy": (1, 64), "num_steps": (1, 64), "n_segments": (1, 1000),
    "num_control_points": (2, 16), "num_holes_range": (1, 1000), "holes_number_xy": (1, 1000), "nb_rows": (2, 32),
    "nb_cols": (2, 32), "quality_range": (1, 100), "num_bits": (0, 8), "radius": (1, 100), "scale_range": (0, 100),
    "max_factor": (1, 4), "step_factor": (0.002, 4), "number_of_patches": (1, 1000), "src_radius": (1, 4000),
    "num_flare_circles_range": (0, 1000), "num_shadows_limit": (0, 100), "shadow_dimension": (3, 100),
}  # fmt: skip
"""Bounds beyond which an option has no meaning, or takes any time and memory."""


@cache
def albumentations_module() -> Any:
    """The albumentations module. Imported only where it is used, since the import takes a second."""
    # Otherwise albumentations connects to the internet at import to look for a newer version.
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    import albumentations

    return albumentations


@dataclass(frozen=True)
class _Step:
    name: str
    transform: Any
    side: str
    number: int
    """Position in the list, part of the key of its draws."""
    unfilled: Any = None
    """For a geometric transform with a `fill`: the same with fill 0, for the hole."""


class Augmentation:
    """Transforms of training images.

    Geometric ones change x_0, x_1, condition and mask alike, before the crop. Pixel-wise ones, which move no pixel,
    change the images that `on` names, after the crop: both by the same draw, or one side. Each keeps the order of the
    list.

    Args:
        tables: A table for each: `name` is that of a class of albumentations, `on` is "both" (default), "x_0" or "x_1",
            the other keys are the class's own options.
        pairs: Whether x_1 is stored. Otherwise x_1 is made from the augmented x_0, and cannot be named.
        value_range: As in `PairDataset`: the values of float images that are black and white.

    Raises:
        UserError: Unknown transform or option; the message gives the nearest.
    """

    def __init__(self, tables: Sequence[Mapping[str, Any]], *, pairs: bool = True, value_range: Range = None) -> None:
        self.value_range = value_range
        self._geometric: list[_Step] = []
        self._pixelwise: list[_Step] = []
        for number, table in enumerate(tables):
            options = dict(table)
            name, side = str(options.pop("name", "")), options.pop("on", "both")
            where = f"data.augment {name}"
            if not name:
                raise UserError(
                    "data.augment: the key 'name' is missing, such as { name = 'Affine', rotate = [-5, 5] }"
                )
            member = class_named("transform of albumentations", name, _members(), UNUSABLE)
            if side not in SIDES:
                raise UserError(f"{where}: on = {side!r} is unknown; known: {', '.join(SIDES)}")
            geometric = is_geometric(member)
            if geometric and side != "both":
                raise UserError(f"{where}: a geometric transform of one side would part the pair; leave 'on' out")
            if side == "x_1" and not pairs:
                raise UserError(f"{where}: on = 'x_1', but x_1 is made from x_0; put it into [degradation] instead")
            step = _Step(name, constructed(where, member, options, LIMITS), side, number)
            step.transform.add_targets(dict.fromkeys(("x_1", "condition", "hole"), "image"))
            if geometric and "fill" in options:
                step = replace(step, unfilled=constructed(where, member, options | {"fill": 0}, LIMITS))
            (self._geometric if geometric else self._pixelwise).append(step)

    def moved(self, images: dict[str, np.ndarray], seed: int) -> dict[str, np.ndarray]:
        """The images after the geometric transforms.

        Args:
            images: Pixels (H, W, C) by part: 'x_0' and optionally 'x_1', 'mask', 'condition'.
            seed: Seed of the draws; equal seeds give equal transforms.

        Raises:
            UserError: A transform does not suit the images.
        """
        for step in self._geometric:
            inputs = {part: self._unit(pixels) for part, pixels in images.items() if part != "mask"}
            # As an image: a mask would be interpolated otherwise, and pixels that a hole reaches taken for known.
            hole = {"hole": _hole(images["mask"])} if "mask" in images else {}
            apart = step.unfilled is not None and "mask" in images
            done = self._apply(step, {"image": inputs.pop("x_0"), **inputs, **({} if apart else hole)}, seed)
            done["x_0"] = done.pop("image")
            if apart:  # Otherwise the fill of the images would mark corners as unknown, or as known.
                unfilled = replace(step, transform=step.unfilled)
                done["mask"] = self._apply(unfilled, {"image": hole["hole"]}, seed)["image"]
            elif "mask" in images:
                done["mask"] = done.pop("hole")
            before, after = images["x_0"].shape[:2], done["x_0"].shape[:2]
            if sorted(before) != sorted(after):
                raise UserError(f"data.augment {step.name}: {SIZES}")
            mask = {"mask": _hole(done.pop("mask"), 0)} if "mask" in done else {}
            images = {part: self._like(pixels, images[part]) for part, pixels in done.items()} | mask
        return self._masked(images) if self._geometric else images

    def painted(self, images: dict[str, np.ndarray], seed: int) -> dict[str, np.ndarray]:
        """The images after the pixel-wise transforms; arguments and errors as `moved`."""
        for step in self._pixelwise:
            parts = [part for part in ("x_0", "x_1") if part in images and step.side in ("both", part)]
            names = dict(zip(["image", "x_1"], parts, strict=False))
            done = self._apply(step, {name: self._unit(images[part]) for name, part in names.items()}, seed)
            results = {part: self._like(done[name], images[part]) for name, part in names.items()}
            if any(result.shape != images[part].shape for part, result in results.items()):
                raise UserError(f"data.augment {step.name}: {TYPES}")
            images = images | results
        return self._masked(images) if self._pixelwise else images

    def _apply(self, step: _Step, inputs: dict[str, np.ndarray], seed: int) -> dict[str, np.ndarray]:
        step.transform.set_random_seed(key(seed, "augment", step.number))
        try:
            done: dict[str, np.ndarray] = step.transform(**inputs)
        except MemoryError:
            raise
        except Exception as error:  # grey images for a transform of colours, say: the library raises anything
            raise UserError(f"data.augment {step.name}: {reason(error)}") from error
        return {part: pixels if pixels.ndim == 3 else pixels[..., None] for part, pixels in done.items()}

    def _unit(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 as it is; other pixels as float32 in [0, 1], which is all that albumentations knows besides."""
        if pixels.dtype == np.uint8:
            return pixels
        low, high = self._ends(pixels)
        unit: np.ndarray = ((pixels.astype(np.float32) - low) / (high - low)).astype(np.float32)
        return unit

    def _like(self, pixels: np.ndarray, before: np.ndarray) -> np.ndarray:
        """The inverse of `_unit`, of the dtype of `before`."""
        if before.dtype == np.uint8:
            return pixels
        low, high = self._ends(before)
        values = pixels.astype(np.float64) * (high - low) + low
        if before.dtype.kind == "u":
            values = np.rint(values).clip(0, np.iinfo(before.dtype).max)
        result: np.ndarray = values.astype(before.dtype)
        return result

    def _ends(self, pixels: np.ndarray) -> tuple[float, float]:
        if pixels.dtype.kind == "u":
            return 0.0, float(np.iinfo(pixels.dtype).max)
        return self.value_range or (0.0, 1.0)

    @staticmethod
    def _masked(images: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The images with the mask set wherever x_1 is no longer x_0."""
        if "mask" not in images or "x_1" not in images:
            return images
        changed = (images["x_0"] != images["x_1"]).any(-1, keepdims=True)
        return images | {"mask": np.where(changed, 255, _hole(images["mask"])).astype(np.uint8)}


def _hole(mask: np.ndarray, above: float | None = None) -> np.ndarray:
    """A mask (H, W, 1) as 255 where it is above a value, by default half of its range, and 0 elsewhere, uint8."""
    hole = to_mask(mask)[0, ..., None].numpy() > 0 if above is None else mask > above
    return np.where(hole, 255, 0).astype(np.uint8)


def transform_names() -> list[str]:
    """The names that `data.augment` may have."""
    return sorted(_members())


def is_geometric(member: Any) -> bool:
    """Whether a class of albumentations moves pixels; dropouts and morphology change them where they are."""
    pixelwise = ".dropout." in member.__module__ or member.__name__ == "Morphological"
    return issubclass(member, albumentations_module().DualTransform) and not pixelwise


@cache
def _members() -> dict[str, Any]:
    """albumentations' public transforms of single images, by name."""
    return dict(_public())


def _public() -> Iterator[tuple[str, Any]]:
    library = albumentations_module()
    for name in dir(library):
        member = getattr(library, name)
        if (
            not name.startswith("_")
            and name not in UNUSABLE
            and inspect.isclass(member)
            and issubclass(member, library.BasicTransform)
            and not issubclass(member, library.Transform3D)
            and member.__module__.startswith("albumentations.augmentations.")  # not its base classes
        ):
            yield name, member
