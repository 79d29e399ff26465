"""kornia's random augmentations of single images as degradations."""

import inspect
from dataclasses import dataclass
from functools import cache, cached_property, partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from i2i_bridge.degradations.base import Degradation, Degraded
from i2i_bridge.degradations.linear import precise
from i2i_bridge.errors import UserError, brief
from i2i_bridge.libraries import arguments, called, class_named, reason
from i2i_bridge.randomness import Generator, global_seed, per_sample
from i2i_bridge.registry import register_degradation

SIZES = "it changes the size of the image"
UNUSABLE = {
    **dict.fromkeys(("CenterCrop", "LongestMaxSize", "PadTo", "RandomCrop", "RandomResizedCrop", "Resize"), SIZES),
    "SmallestMaxSize": SIZES,
    "Normalize": "it changes the range of the values",
    "Denormalize": "it changes the range of the values",
    "RandomDissolving": "it downloads a network",
}
LIMITS = {
    "p": (0, 1), "kernel_size": (1, 201), "grid_size": (1, 64), "number_of_drops": (1, 100_000),
    "drop_height": (1, 999), "drop_width": (-999, 999), "jpeg_quality": (1, 100), "bits": (0, 8),
    "num_drop_channels": (1, 64),
}  # fmt: skip
"""Bounds beyond which an option has no meaning, or takes any memory."""
ARRAYS, ARRAY = ("tuple", "list", "sequence", "tensor"), "a number or an array of numbers"
"""Words of types that take an array, and what they take in words."""


@register_degradation("kornia")
@dataclass(frozen=True)
class Augmentation(Degradation):
    """Any of kornia's random augmentations of single images, such as op = "RandomMotionBlur", applied to every image.

    v_1 = op(v_0), v being x brought to [0, 1]. kornia draws from global generators: they are seeded by each sample's
    own generator and put back afterwards, and images are processed one by one.

    Args:
        op: Name of a class of kornia.augmentation.
        library_options: The other keys of the table are the class's own options. `p`, the share of images that it
            changes, is 1 unless it is given.
    """

    op: str
    library_options: dict[str, Any] | None = None
    limits: ClassVar = {}

    def __post_init__(self) -> None:
        super().__post_init__()
        self._build()

    def __call__(self, x_0: Tensor, generator: Generator) -> Degraded:
        augmentation = self._build()  # anew: it holds what it drew last
        results = []
        with torch.no_grad():
            # In float64: the last bit of float32 depends on the number of threads, and a sample must be the same in any
            # worker.
            for image, one in zip((precise(x_0) + 1) / 2, per_sample(generator, len(x_0)), strict=True):
                seed = int(torch.randint(2**62, (), generator=one, device=one.device))
                with global_seed(seed, x_0.device):
                    results.append(self._applied(augmentation, image[None]))
        return Degraded((torch.cat(results) * 2 - 1).to(x_0))

    @property
    def why_not_linear(self) -> str:
        return "is kornia's, which tells no linear operator"

    def _build(self) -> Any:
        member, checked = self._checked
        return called(f"kornia {self.op}", member, checked)

    @cached_property
    def _checked(self) -> tuple[Any, dict[str, Any]]:
        """The class and its arguments, checked once and not for each image."""
        member = class_named("augmentation of kornia", self.op, _members(), UNUSABLE)
        sure = {"p": 1.0} if "p" in inspect.signature(member).parameters else {}
        reserved = ("same_on_batch", "keepdim", "p_batch")
        # A median holds all pixels of its window for every pixel of the image.
        limits = LIMITS | ({"kernel_size": (1, 15)} if self.op == "RandomMedianBlur" else {})
        options = sure | (self.library_options or {})
        where = f"kornia {self.op}"
        return member, arguments(where, member, options, limits, reserved, partial(_argument, where))

    def _applied(self, augmentation: Any, image: Tensor) -> Tensor:
        try:
            result: Tensor = augmentation(image)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # a kernel larger than the image, say: kornia raises anything
            raise UserError(f"kornia {self.op}: {reason(error)}") from error
        return result


def operator_names() -> list[str]:
    """The names that `op` may have."""
    return sorted(_members())


@cache
def _members() -> dict[str, Any]:
    """kornia's public augmentations of single images, by name."""
    from kornia import augmentation

    public = {name: getattr(augmentation, name) for name in augmentation.__all__}
    single = augmentation.AugmentationBase2D
    return {
        name: member
        for name, member in public.items()
        if inspect.isclass(member)
        and issubclass(member, single)
        and "Base" not in name
        and name not in UNUSABLE
        # They mix the images of a batch.
        and not issubclass(member, augmentation.MixAugmentationBaseV2)
    }


def _argument(where: str, parameter: inspect.Parameter, value: Any) -> Any:
    """The value as the augmentation takes it: arrays as tensors where it takes nothing else.

    Raises:
        UserError: A text or an array where the parameter's type has none. kornia would accept it, and end at each image
            with a message that names no option.
    """
    annotation = str(parameter.annotation).lower()
    if _has_text(value) and "str" not in annotation:
        raise UserError(f"{where}: {parameter.name}: should be {_wanted(annotation)}, got {brief(repr(value))}")
    if isinstance(value, tuple) and not any(word in annotation for word in ARRAYS):
        raise UserError(f"{where}: {parameter.name}: should be {_wanted(annotation)}, got an array")
    only = "tensor" in annotation and not any(word in annotation for word in ("float", "int", "tuple", "list"))
    return torch.tensor(value) if only and isinstance(value, tuple) else value


def _wanted(annotation: str) -> str:
    """What a type takes, for error messages."""
    for word, wanted in (("str", "a text"), ("bool", "true or false"), *((word, ARRAY) for word in ARRAYS)):
        if word in annotation:
            return wanted
    return "a number"


def _has_text(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, tuple) and any(map(_has_text, value)))
