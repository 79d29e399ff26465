"""A user's picture as the batch that a method restores, and the restored image as a picture."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from i2i_bridge.degradations.base import prepared_by
from i2i_bridge.errors import UserError
from i2i_bridge.images.pixels import Picture, mask_of, to_mask, to_pixels, to_tensor, visible, with_channels
from i2i_bridge.randomness import Generator, generator

if TYPE_CHECKING:  # pydantic: `import i2i_bridge` stays light
    from i2i_bridge.recipe.recipe import Recipe
    from i2i_bridge.recipe.schema import Direction


def to_batch(
    recipe: "Recipe",
    picture: Picture,
    mask: Picture | None,
    condition: Picture | None,
    generator: Generator,
    direction: "Direction | None" = None,
    label: int | None = None,
) -> dict[str, Tensor]:
    """The batch of one degraded picture: x_1 (1, C, H, W) in [-1, 1], and mask, condition and label if there are any.

    Args:
        recipe: The recipe of the run that restores.
        picture: The degraded picture.
        mask: White = unknown, of the size of the restored image.
        condition: Further input of the network, of the size of the restored image.
        generator: Draws the noise of x_1, where the degradation has some.
        direction: As in `Recipe.is_reverse`. In reverse the picture is of the kind of X_0, and nothing is done to it.
        label: Class of the picture, for a network with classes.

    Raises:
        UserError: The recipe does not learn that direction; mask or condition are missing, not used by the task, or of
            another size than the restored image; or the label is missing, not used, or no class.
    """
    settings, reverse = recipe.data, recipe.is_reverse(direction)
    degradation = None if reverse else recipe.build_degradation()
    factor = 1 if reverse else settings.factor or 1
    # The restored image is larger than the input for pairs of two sizes and for super-resolution.
    scale = factor if degradation is None else factor * degradation.scale
    pixels = with_channels(visible(picture), settings.channels)
    if factor > 1:
        from i2i_bridge.data.transforms import enlarged

        pixels = enlarged(pixels, factor, settings.enlarge)
    batch = {"x_1": to_tensor(pixels, picture.value_range or settings.value_range)[None]}
    if mask is not None:
        _check_size("mask", mask, picture, scale)
        batch["mask"] = to_mask(mask_of(mask)[0])[None]
        if not batch["mask"].any():
            raise UserError("the mask marks no pixel: white (above half) means unknown, to be restored")
    if degradation is not None:
        batch = prepared_by(degradation, batch["x_1"], generator, batch.get("mask")).parts()
    _check_further_inputs(recipe, condition is not None, label)
    if label is not None:
        batch["label"] = torch.tensor([label])
    if condition is not None:
        _check_size("condition", condition, picture, scale)
        pixels = with_channels(visible(condition), recipe.condition_channels)
        batch["condition"] = to_tensor(pixels, condition.value_range or settings.value_range)[None]
    if settings.direction == "both":
        batch["direction"] = torch.full_like(batch["x_1"][:, :1], float(reverse))
    return batch


def check_inputs(
    recipe: "Recipe",
    *,
    mask: bool,
    condition: bool,
    label: int | None = None,
    direction: "Direction | None" = None,
) -> None:
    """Check that pictures come with what the recipe needs, before any of them is read.

    Args:
        mask: Whether there are masks.
        condition: Whether there are conditions.

    Raises:
        UserError: As `to_batch`, for what is missing or not used by the task.
    """
    _check_further_inputs(recipe, condition, label)
    degradation = None if recipe.is_reverse(direction) else recipe.build_degradation()
    if degradation is not None and degradation.masked and not mask:
        # Whether a degradation with masks can do without one is found by trying: a mixture can.
        black = torch.full((1, recipe.data.channels, 64, 64), -1.0)
        prepared_by(degradation, black, generator(0, "check inputs"))


def _check_further_inputs(recipe: "Recipe", condition: bool, label: int | None) -> None:
    recipe.check_label(label)
    if condition != recipe.data.own_condition:
        needs = "takes no" if condition else "needs a"
        raise UserError(f"recipe '{recipe.name}' {needs} condition image (data.own_condition)")


def to_picture(recipe: "Recipe", x_0_hat: Tensor, degraded: Picture) -> Picture:
    """The picture of a restored image (C, H, W) in [-1, 1], with dtype, alpha and metadata of the degraded picture.

    It is grey if the degraded picture is grey and the task a restoration.
    """
    pixels = to_pixels(x_0_hat, degraded.pixels.dtype, degraded.value_range or recipe.data.value_range)
    if recipe.task == "restoration" and degraded.pixels.shape[2] == 1:
        pixels = with_channels(pixels, 1)
    return replace(degraded, pixels=pixels, alpha=alpha_like(degraded.alpha, pixels))


def alpha_like(alpha: np.ndarray | None, pixels: np.ndarray) -> np.ndarray | None:
    """Resize opacity (H, W) to the size of pixels (H', W', C), bicubically; None stays None."""
    if alpha is not None and alpha.shape != pixels.shape[:2]:
        size = (pixels.shape[1], pixels.shape[0])
        floats = Image.fromarray(alpha.astype(np.float32)).resize(size, Image.Resampling.BICUBIC)
        alpha = np.rint(np.asarray(floats)).clip(0, np.iinfo(alpha.dtype).max).astype(alpha.dtype)
    return alpha


def _check_size(name: str, other: Picture, picture: Picture, scale: int) -> None:
    height, width = (side * scale for side in picture.pixels.shape[:2])
    other_height, other_width = other.pixels.shape[:2]
    if (height, width) != (other_height, other_width):
        image = "the image" if scale == 1 else "the restored image"
        raise UserError(
            f"the {name} is {other_width}x{other_height} pixels and {image} {width}x{height}; they must agree"
        )


def image_facts(recipe: "Recipe") -> dict[str, Any]:
    """How X_1 comes from the user's image, found by trying.

    `x_1` is "image" (X_1 is the image), "repeat" (each pixel is repeated `scale` times along both sides) or "other".
    `fill` is what a hole is filled with: a number, "noise" for N(0, 1), or None where there is no hole.
    """
    degradation, factor = recipe.build_degradation(), recipe.data.factor or 1
    if recipe.is_reverse():
        return {"scale": 1, "x_1": "image", "fill": None}
    if degradation is None:
        enlarged = "repeat" if recipe.data.enlarge == "nearest" else "other"
        return {"scale": factor, "x_1": "image" if factor == 1 else enlarged, "fill": None}
    if factor > 1:
        return {"scale": factor, "x_1": "other", "fill": None}
    draws, scale = generator(0, "image facts"), degradation.scale
    fill: float | str | None = None
    image = torch.rand(1, recipe.data.channels, 16, 16, generator=draws)
    whole = torch.ones(1, 1, 16 * scale, 16 * scale) if degradation.masked else None
    if whole is not None:
        filled = prepared_by(degradation, image, [draws], whole).x_1
        fill = float(filled[0, 0, 0, 0]) if bool((filled == filled[0, 0, 0, 0]).all()) else "noise"
    x_1 = prepared_by(degradation, image, [draws], None if whole is None else 0 * whole).x_1
    same = torch.equal(x_1, repeated(image, scale))
    return {"scale": scale, "x_1": ("image" if scale == 1 else "repeat") if same else "other", "fill": fill}


def repeated(small: Tensor, scale: int) -> Tensor:
    """An image (B, C, H, W) whose pixels are repeated scale x scale."""
    return small.repeat_interleave(scale, -1).repeat_interleave(scale, -2)
