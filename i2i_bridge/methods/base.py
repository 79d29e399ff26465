"""What training and evaluation need to know of a method."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor, nn

from i2i_bridge.errors import UserError
from i2i_bridge.randomness import Generator

if TYPE_CHECKING:  # pydantic: `import i2i_bridge` stays light
    from i2i_bridge.recipe.recipe import Recipe

Batch = Mapping[str, Any]
"""x_0 (B, C, H, W), x_1 of the same shape, optional mask (B, 1, H, W) and condition (B, K, H, W), key.

In training also number (B,), each sample's number in the whole training: step * batch_size + position.
For `walk` also size, (height, width) of the images before they were padded at their right and lower edge."""


class Method(Protocol):
    """A way to learn X_1 -> X_0."""

    network: nn.Module
    """What restores: trained, averaged and saved."""

    def companions(self) -> dict[str, nn.Module]:
        """What is trained beside the network and of no use afterwards, by name; empty for most methods.

        Asked for at the start of a training, so that a method may also refuse here what training lacks (UserError).
        """
        ...

    def losses(self, batch: Batch, generator: Generator) -> Iterator[tuple[str, Tensor]]:
        """Scalar losses, means over the batch, each with the name of the module that it trains.

        The name is "network" or a companion's. After each yield the loss is brought down in that module alone, by that
        module's own optimizer; then the iteration goes on, and sees the new weights. A method without companions
        yields once.
        """
        ...

    def walk(self, batch: Batch, *, nfe: int, generator: Generator) -> Iterator[Tensor]:
        """The states on the way from X_1 to the restored image, which is the last; batch needs no x_0.

        A method that answers in one call yields one state, whatever nfe is.
        """
        ...

    def with_network(self, network: nn.Module) -> "Method":
        """The same method around another network (its moving average, say)."""
        ...


def refuse_guidance(recipe: "Recipe") -> None:
    """For methods that answer in one call.

    Raises:
        UserError: The recipe asks for a guidance.
    """
    if recipe.sample.guidance is not None:
        raise UserError(
            f"method '{recipe.method['name']}' answers in one call, which takes no guidance; leave sample.guidance out"
        )


def condition_of(batch: Batch, wanted: bool) -> Tensor | None:
    """What the network sees beside its first input: the pair's own condition, else X_1; None where not wanted."""
    if not wanted:
        return None
    given: Tensor | None = batch.get("condition")
    x_1: Tensor = batch["x_1"]
    return x_1 if given is None else given
