"""The interface of a method, as training and evaluation use it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
from torch import Tensor, nn

from i2i_bridge.bridge.predictor import absent
from i2i_bridge.errors import UserError
from i2i_bridge.randomness import Generator, generator, rand

if TYPE_CHECKING:  # pydantic: `import i2i_bridge` stays light
    from i2i_bridge.recipe.recipe import Recipe

Batch = Mapping[str, Any]
"""x_0 (B, C, H, W), x_1 of the same shape, optional mask (B, 1, H, W), condition (B, K, H, W) and label (B,), key.

Where one network learns both directions (data.direction = "both") also direction (B, 1, H, W): 0 for X_1 -> X_0, and 1
for samples whose two sides were exchanged. x_0 is always the side that is sampled, x_1 the side that it comes from.

In training also number (B,), each sample's number in the whole training: step * batch_size + position.
For `trajectory` also size, (height, width) of the images before they were padded at their right and lower edge."""

INPUTS = ("x_1", "mask", "condition", "direction")
"""The images of a batch that restoring reads, x_1 and those that the batch has."""


class Method(Protocol):
    """A method that learns X_1 -> X_0."""

    network: nn.Module
    """The network that restores; it is trained, averaged (EMA) and saved."""

    def companions(self) -> dict[str, nn.Module]:
        """Modules that are trained beside the network and not used afterwards, by name; empty for most methods.

        Training calls this first, so a method may also raise UserError if a file or package for training is missing.
        """
        ...

    def losses(self, batch: Batch, generator: Generator) -> Iterator[tuple[str, Tensor]]:
        """Yield scalar losses, means over the batch, each with the name of the module that it trains.

        The name is "network" or a companion's. After each yield only that module takes an optimizer step; the next loss
        is computed with its updated weights. A method without companions yields once.

        A method that trains its modules by turns also has `trained_at(step)`, the names of those that take a step in
        training step number `step` (counted from 0), and yields the losses of these.
        """
        ...

    def trajectory(self, batch: Batch, *, nfe: int, generator: Generator) -> Iterator[Tensor]:
        """Yield the states from X_1 to the restored image, which is the last; batch needs no x_0.

        A method of one network call yields one state, for any nfe.
        """
        ...

    def with_network(self, network: nn.Module) -> "Method":
        """A copy of the method with another network, such as the EMA."""
        ...


def states_of(method: Method, batch: Batch, *, nfe: int, generator: Generator) -> Iterator[Tensor]:
    """`method.trajectory(...)`, or `method.walk(...)` of a plug-in written for an earlier version of the interface."""
    trajectory = getattr(method, "trajectory", None) or cast(Any, method).walk
    states: Iterator[Tensor] = trajectory(batch, nfe=nfe, generator=generator)
    return states


def trained_at(method: Method, step: int, modules: Sequence[str]) -> list[str]:
    """Names of the modules that take an optimizer step in a training step: the method's choice, by default all."""
    choice = getattr(method, "trained_at", None)
    return list(modules if choice is None else choice(step))


@contextmanager
def in_mode(network: nn.Module, *, training: bool) -> Iterator[None]:
    """Context that sets all modules of a network to training or evaluation; afterwards each has its mode of before."""
    before = [(module, module.training) for module in network.modules()]
    network.train(training)
    try:
        yield
    finally:
        for module, flag in before:
            module.training = flag


def refuse_guidance(recipe: "Recipe", why: str = "answers in one call, which takes no guidance") -> None:
    """Refuse a guidance and the dropout and scale of a condition, for methods that are no bridges.

    Args:
        why: What the method does instead.

    Raises:
        UserError: The recipe has one of them.
    """
    for key, value in (
        ("network.condition_dropout", recipe.network.get("condition_dropout")),
        ("sample.condition_scale", recipe.sample.condition_scale),
    ):
        if value:
            raise UserError(f"{key} is for bridges, not for method '{recipe.method['name']}'; leave it out")
    if recipe.sample.guidance is not None:
        raise UserError(f"method '{recipe.method['name']}' {why}; leave sample.guidance out")


def condition_of(batch: Batch, wanted: bool) -> Tensor | None:
    """The network's further input: the batch's condition if it has one, else X_1; None if not `wanted`.

    Where the batch has a direction, it follows as the last channel.
    """
    given: Tensor | None = batch.get("condition")
    condition: Tensor | None = (batch["x_1"] if given is None else given) if wanted else None
    direction: Tensor | None = batch.get("direction")
    if direction is None:
        return condition
    return direction if condition is None else torch.cat([condition, direction.to(condition.dtype)], dim=1)


def label_of(batch: Batch, wanted: bool) -> Tensor | None:
    """The batch's class labels, (B,); None if not `wanted`."""
    return batch["label"] if wanted else None


def with_dropout(
    condition: Tensor | None, label: Tensor | None, *, share: float, seed: int, numbers: Tensor
) -> tuple[Tensor | None, Tensor | None]:
    """Condition and label, both absent for a share of the samples (`bridge.predictor.absent`).

    Args:
        share: Probability that a sample has none, in [0, 1].
        seed: Seed of the draws.
        numbers: Each sample's number in the whole training, (B,). Its draw depends on seed and number alone.
    """
    draws = [float(rand((), generator(seed, "condition dropout", number))) for number in numbers.tolist()]
    gone = torch.tensor([draw < share for draw in draws])
    no_condition, no_label = absent(condition, label)
    if condition is not None and no_condition is not None:
        condition = torch.where(gone.to(condition.device)[:, None, None, None], no_condition, condition)
    if label is not None and no_label is not None:
        label = torch.where(gone.to(label.device), no_label, label)
    return condition, label
