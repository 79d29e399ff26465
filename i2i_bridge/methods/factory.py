"""Methods as a recipe describes them, with its [mean] and [latent]."""

from dataclasses import replace
from typing import TYPE_CHECKING

from torch import nn

from i2i_bridge import registry
from i2i_bridge.methods.base import Method
from i2i_bridge.methods.latent import Latent, LatentMethod, latent_of
from i2i_bridge.methods.mean import Mean, mean_of, starting_from

if TYPE_CHECKING:  # pydantic: `import i2i_bridge` stays light
    from i2i_bridge.recipe.recipe import Recipe


def build_method(
    recipe: "Recipe", network: nn.Module, mean: Mean | None = None, latent: Latent | None = None
) -> Method:
    """Build the recipe's method around a network.

    With [mean], the method starts from the mean's output; with [latent], it works on latents.
    """
    method: Method = registry.METHODS.build(recipe.method, recipe=recipe.in_latents(), network=network)
    method = starting_from(method, mean)
    return method if latent is None else LatentMethod(method, latent)


def resampled(method: Method, recipe: "Recipe") -> Method:
    """The method with the sampler, grid and clipping of another recipe, which differs in nothing else.

    A method that has `with_sampling` is copied by it and shares its companions (a critic); others are built anew.
    """
    inner = method.method if isinstance(method, LatentMethod) else method
    copied = getattr(inner, "with_sampling", None)
    if copied is None:
        return build_method(recipe, method.network, mean_of(method), latent_of(method))
    made: Method = copied(recipe)
    return replace(method, method=made) if isinstance(method, LatentMethod) else made
