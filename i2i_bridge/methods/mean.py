"""[mean], the first of two stages: the output of a frozen run as the start of a bridge."""

import dataclasses
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from i2i_bridge.bridge.predictor import keep_known
from i2i_bridge.errors import UserError, plural
from i2i_bridge.methods.base import INPUTS, Batch, Method, states_of
from i2i_bridge.randomness import Generator

if TYPE_CHECKING:  # pydantic: `import i2i_bridge` stays light
    from i2i_bridge.recipe.recipe import Recipe


Cache = Callable[[Sequence[Tensor], Callable[[], Tensor]], Tensor]
"""(inputs of m for one image, function that computes its output) -> the output, read from the cache or computed."""


@dataclass(frozen=True)
class Mean:
    """A frozen method m whose output replaces X_1 as the start of the process, clipped to [-1, 1].

        x_1 <- mask clip(m(x_1)) + (1 - mask) x_1

    With a regression for m, the bridge starts from an estimate of E[X_0 | X_1] and adds the detail that the average
    lacks (PMRF, Ohayon et al., 2025). m is not trained: its weights are a copy of another run's EMA.

    Args:
        method: m, in evaluation mode.
        nfe: Network calls of m per image.
        cache: Where outputs for training images are looked up first; None for none. m must draw no noise.
    """

    method: Method
    nfe: int = 1
    cache: Cache | None = field(default=None, compare=False)

    def __call__(self, batch: Batch, generator: Generator) -> Tensor:
        """The start of the bridge, (B, C, H, W), in [-1, 1] where the mask is 1; without gradients."""
        x_1, mask = batch["x_1"], batch.get("mask")
        given = {name: batch[name] for name in (*INPUTS, "label", "size") if name in batch}
        if self.cache is None or "x_0" not in batch:
            answer = self._answer(given, generator)
        else:
            # Image by image: an output of a batch may differ in the last bits from that of its images alone, so that a
            # resumed run would otherwise depend on what the cache holds.
            answers = []
            for i in range(len(x_1)):
                one = {name: value[i : i + 1] for name, value in given.items() if isinstance(value, Tensor)}
                answers.append(self.cache(list(one.values()), partial(self._answer, one, generator)))
            answer = torch.cat(answers)
        answer = answer.to(x_1.dtype).clamp(-1, 1)
        return answer if mask is None else keep_known(answer, x_1, mask)

    def _answer(self, given: Batch, generator: Generator) -> Tensor:
        # Without autocast: otherwise training and restoring would start from different values.
        with torch.no_grad(), torch.autocast(given["x_1"].device.type, enabled=False):
            (answer,) = deque(states_of(self.method, given, nfe=self.nfe, generator=generator), maxlen=1)
        return answer


def mean_of(method: Method) -> Mean | None:
    """The `Mean` that a method starts from; None if it starts from X_1."""
    mean: Mean | None = getattr(method, "mean", None)
    return mean


def starting_from(method: Method, mean: Mean | None) -> Method:
    """A copy of the method that starts from a mean's output; the method itself for None."""
    return method if mean is None else cast(Method, dataclasses.replace(cast(Any, method), mean=mean))


def network_calls(method: Method, nfe: int) -> int:
    """Network calls per image of a method with `nfe` predictions of x_0_hat, those of its `Mean` included.

    A prediction takes one call, or two with a condition_scale other than 0 and 1.
    """
    mean, scale = mean_of(method), getattr(method, "condition_scale", 1.0)
    calls = nfe if scale in (0, 1) else 2 * nfe
    return calls + (0 if mean is None else network_calls(mean.method, mean.nfe))


def check_mean(recipe: "Recipe", other: "Recipe", where: str) -> list[str]:
    """Check that a run of the recipe `other` can be the mean of a run of `recipe`.

    Returns:
        Lines for the user: differences between the degradations.

    Raises:
        UserError: The recipes differ in their images, or `other` has a [mean] too.
    """
    if other.mean is not None:
        raise UserError(f"mean.run: {where} starts from another run's answer itself; take a run without [mean]")
    if other.latent is not None:
        raise UserError(f"mean.run: {where} works on latents; take a run without [latent]")
    if other.classes not in (0, recipe.classes):
        raise UserError(f"mean.run: {where} has network.classes {other.classes}, this recipe {recipe.classes}")
    for key in ("channels", "own_condition", "value_range", "direction"):
        required, actual = getattr(other.data, key), getattr(recipe.data, key)
        if required != actual:
            raise UserError(f"mean.run: {where} was trained with data.{key} {required}, this recipe has {actual}")
    if recipe.data.own_condition and other.condition_channels != recipe.condition_channels:
        raise UserError(
            f"mean.run: {where} sees a condition of {plural(other.condition_channels, 'channel')}, this recipe has "
            f"{recipe.condition_channels}"
        )
    if other.degradation != recipe.degradation:
        return [
            f"note: {where} was trained with another degradation: {other.degradation} there, {recipe.degradation} here"
        ]
    return []
