"""Degradation: the operator that turns a clean image X_0 into the degraded image X_1.

A member is a frozen dataclass whose fields are the recipe's options:

    @register_degradation("invert")
    @dataclass(frozen=True)
    class Invert(Degradation):
        strength: float = 1.0

        def __call__(self, x_0: Tensor, generator: Generator) -> Degraded:
            return Degraded(x_0 * (1 - 2 * self.strength))

`check_degradation` (contract.py) checks that a plug-in keeps the contract of this class.
"""

import dataclasses
import typing
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from i2i_bridge.degradations.linear import LinearOperator
from i2i_bridge.degradations.ranges import check_range, is_range
from i2i_bridge.errors import UserError, did_you_mean, plural
from i2i_bridge.plugins import plugin_errors
from i2i_bridge.randomness import Generator


@dataclass(frozen=True, eq=False)
class Degraded:
    """A degraded image, with its mask, condition and drawn parameters.

    Args:
        x_1: Degraded image, (B, C, H, W) of x_0's dtype and device, nominally in [-1, 1] (noise and ringing may
            leave it).
        mask: (B, 1, H, W) likewise, in {0, 1}, 1 = unknown; where it is 0, x_1 equals x_0 exactly. None:
            nothing is known exactly.
        condition: Further input of the network, (B, K, H, W) likewise, or None.
        parameters: Drawn values by name: (B,) float32 on x_0's device, such as {"quality": ...}. The names are the
            degradation's `parameter_names`; NaN for samples that do not use a parameter.

    Examples:
        >>> import torch
        >>> from i2i_bridge import Degraded
        >>> Degraded(torch.zeros(1, 3, 8, 8), mask=torch.ones(1, 1, 8, 8)).parts().keys()
        dict_keys(['x_1', 'mask'])
    """

    x_1: Tensor
    mask: Tensor | None = None
    condition: Tensor | None = None
    parameters: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)

    def parts(self) -> dict[str, Tensor]:
        """x_1, mask and condition by name, without those that are None."""
        images = {"x_1": self.x_1, "mask": self.mask, "condition": self.condition}
        return {name: image for name, image in images.items() if image is not None}


class Degradation(ABC):
    """x_1 = A(x_0): deterministic, or random by the given generator alone."""

    limits: ClassVar[Mapping[str, tuple[float, float]]] = {}
    """Lowest and highest value of each option that is a `Range`: a number, or a pair to draw from."""

    def __post_init__(self) -> None:
        """Checks the options that are a Range or a Literal (a recipe's types are already checked by the registry).

        Raises:
            UserError: An option has a value that is not among its choices, or outside its limits.
        """
        for name, limits in self.limits.items():
            check_range(type(self).__name__, name, getattr(self, name), limits)
        for field in dataclasses.fields(typing.cast(typing.Any, self)):
            if typing.get_origin(field.type) is not typing.Literal:
                continue
            choices, value = typing.get_args(field.type), getattr(self, field.name)
            if value not in choices:
                hint = did_you_mean(str(value), choices)
                raise UserError(f"{type(self).__name__}: {field.name} = {value!r} is unknown{hint}")

    @abstractmethod
    def __call__(self, x_0: Tensor, generator: Generator) -> Degraded:
        """Degrades clean images.

        Args:
            x_0: Clean images, (B, C, H, W) float32 or float64 in [-1, 1]; not changed.
            generator: One for the batch or one for each sample; sample i's result then depends on x_0[i] and
                generator i only, never on the rest of the batch.

        Raises:
            UserError: The images' sides or channels do not suit the operator (see `check_image`).
        """

    @property
    def scale(self) -> int:
        """Ratio of the size of x_1 to the size of a user's input image, such as 4 for super-resolution."""
        return 1

    @property
    def multiple(self) -> int:
        """The sides of x_0 must be multiples of this."""
        return 1

    @property
    def masked(self) -> bool:
        """Whether the results have a mask."""
        return False

    @property
    def condition_channels(self) -> int:
        """K of the condition, or 0 for none."""
        return 0

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """Names in `Degraded.parameters`, the same for every batch: the options that are ranges."""
        return tuple(name for name in self.limits if is_range(getattr(self, name)))

    def linear(self, height: int, width: int, mask: Tensor | None = None) -> LinearOperator | None:
        """A of x_1 = A x_0 + b where b (noise, a hole's fill, an offset) does not depend on x_0, or None.

        Guidance uses it, with adjoint and pseudo-inverse. None: the operator is not linear, or differs between samples.

        Args:
            mask: The mask of `Degraded`, if A depends on it: (B, 1, height, width).
        """
        return None

    @property
    def why_not_linear(self) -> str:
        """The reason why `linear` returns None, as words that follow the degradation's name."""
        return "has no linear operator here"

    def measurement(self, degraded: Degraded) -> Tensor:
        """The measurement A x_0 + offset (see `linear`), without added noise if it can be left out; (B, C, H, W)."""
        return degraded.x_1

    @property
    def measurement_std(self) -> float:
        """Standard deviation of the noise in `measurement`; the largest where it is drawn."""
        return 0.0

    def stage(self, x: Tensor, generator: Generator) -> Degraded:
        """As `__call__`, inside `compose`, where a result may have another size than x."""
        return self(x, generator)

    def reduced(self, x_1: Tensor) -> Tensor:
        """The input image of `prepare` that gives x_1, (B, C, H / scale, W / scale)."""
        return x_1[..., :: self.scale, :: self.scale]

    def simple_restorations(self, x_1: Tensor) -> dict[str, Tensor]:
        """Restorations of x_1 (B, C, H, W) without a network, by name: baseline rows of an evaluation.

        Empty by default; the degraded image is always a row.
        """
        return {}

    def prepare(self, image: Tensor, generator: Generator, mask: Tensor | None = None) -> Degraded:
        """Converts a user's degraded image to x_1, in the form that `__call__` returns.

        Args:
            image: (B, C, H / scale, W / scale) float32 in [-1, 1].
            generator: As in `__call__`; used if x_1 contains noise.
            mask: (B or 1, 1, H, W), above 0.5 = unknown; known pixels are kept in the result.

        Raises:
            UserError: The mask is missing where one is needed, or its size is not the image's.
        """
        return Degraded(image, None if mask is None else binary_mask(mask, image))

    def check_image(self, x_0: Tensor, channels: tuple[int, ...] = ()) -> None:
        """Checks size and channels of x_0; members with requirements call it first.

        Raises:
            UserError: A side of x_0 is not a multiple of `multiple`, or its number of channels is not among
                `channels` (empty: any).
        """
        height, width = x_0.shape[-2:]
        if height % self.multiple or width % self.multiple:
            raise UserError(
                f"{type(self).__name__}: the image is {height} x {width}, but both sides must be multiples of"
                f" {self.multiple}; crop or resize it"
            )
        if channels and x_0.shape[1] not in channels:
            raise UserError(
                f"{type(self).__name__}: the image has {plural(x_0.shape[1], 'channel')}, but only"
                f" {' or '.join(map(str, channels))} can be degraded"
            )


def degraded_by(degradation: Degradation, x_0: Tensor, generator: Generator, mask: Tensor | None = None) -> Degraded:
    """Degrade images by a degradation that may be a user's, and check what it returns.

    Args:
        x_0: As in `Degradation.__call__`.
        generator: Likewise.
        mask: Fill the hole of this mask (see `Degradation.prepare`) instead of drawing one.

    Raises:
        UserError: A user's file raised an exception, or the result is no `Degraded` with finite images of x_0's size.
    """
    with plugin_errors():
        degraded = degradation(x_0, generator) if mask is None else degradation.prepare(x_0, generator, mask)
    shape = tuple(x_0.shape)
    return _checked(degraded, type(degradation).__name__, shape, f"x_0 of shape {shape}")


def prepared_by(degradation: Degradation, image: Tensor, generator: Generator, mask: Tensor | None = None) -> Degraded:
    """Convert a user's degraded image by a degradation that may be a user's, and check what it returns.

    The arguments are as in `Degradation.prepare`.

    Raises:
        UserError: As `degraded_by`, for images of `scale` times the image's size.
    """
    with plugin_errors():
        prepared, scale = degradation.prepare(image, generator, mask), degradation.scale
    batch, channels, height, width = image.shape
    given = f"an image of shape {tuple(image.shape)} and scale {scale}"
    name = f"{type(degradation).__name__}.prepare"
    return _checked(prepared, name, (batch, channels, scale * height, scale * width), given)


def _checked(degraded: Degraded, name: str, size: tuple[int, ...], given: str) -> Degraded:
    if not isinstance(degraded, Degraded):
        raise UserError(f"{name}: a degradation must return Degraded(x_1), not {type(degraded).__name__}")
    for part, image in {"x_1": degraded.x_1, **degraded.parts()}.items():
        like = (size[0], size[1] if part == "x_1" else None, *size[2:])
        if not isinstance(image, Tensor):
            raise UserError(f"{name}: {part} is a {type(image).__name__}; it must be a tensor like x_0")
        shape = tuple(image.shape)
        if len(shape) != len(like) or any(wanted not in (None, side) for side, wanted in zip(shape, like, strict=True)):
            raise UserError(f"{name}: {part} is {shape} for {given}; the shapes must agree")
        if not image.is_floating_point() or not bool(image.isfinite().all()):
            raise UserError(f"{name}: {part} has values that are no finite floats")
    return degraded


def binary_mask(mask: Tensor, image: Tensor) -> Tensor:
    """A user's mask as (B, 1, H, W) float32 in {0, 1} for an image (B, C, H, W); above 0.5 becomes 1.

    Raises:
        UserError: The sizes differ.
    """
    if mask.ndim != 4 or mask.shape[1] != 1 or mask.shape[0] not in (1, len(image)):
        raise UserError(f"the mask's shape is {tuple(mask.shape)}, but it must be (batch, 1, height, width)")
    if mask.shape[-2:] != image.shape[-2:]:
        sizes = [" x ".join(map(str, x.shape[-2:])) for x in (mask, image)]
        raise UserError(f"the mask is {sizes[0]} and the image {sizes[1]}; give both the same size")
    return (mask > 0.5).to(image).expand(len(image), -1, -1, -1)
