"""Opening of [latent]: the autoencoder of a new run, its copy in the run folder, and the cache of latents."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from i2i_bridge import registry
from i2i_bridge.data.dataset import PairDataset, evenly_spread, usable_items
from i2i_bridge.errors import UserError, located, plural
from i2i_bridge.libraries import reason
from i2i_bridge.methods.latent import Autoencoder, Latent, frozen
from i2i_bridge.networks.weights import weights_sha256
from i2i_bridge.plugins import plugin_errors
from i2i_bridge.recipe.recipe import Recipe
from i2i_bridge.runs.latent import load_latent
from i2i_bridge.storage.files import refuse_links
from i2i_bridge.storage.shipped import CACHE_FOLDER, LATENT_FOLDER, place_of
from i2i_bridge.training.cache import TensorCache

PAIRS = 64
"""Number of training pairs whose latents are measured."""
CACHE = f"{LATENT_FOLDER}/{CACHE_FOLDER}"
"""Folder of cached latents in a run folder."""


@dataclass(frozen=True)
class LatentSource:
    """The autoencoder of a new run."""

    latent: Latent
    recipe: Recipe
    lines: list[str]

    def write(self, folder: Path) -> None:
        """Write the autoencoder into a run folder, so that the run does not depend on `latent.encoder.source`.

        Raises:
            UserError: The folder holds another autoencoder, or cannot be written.
        """
        refuse_links(folder, [LATENT_FOLDER])
        save = getattr(self.latent.autoencoder, "save", None)
        if save is not None:
            with plugin_errors():
                save(folder / LATENT_FOLDER)
        load_latent(folder, self.recipe, device=torch.device("cpu"))


def open_latent(recipe: Recipe, dataset: PairDataset, device: torch.device) -> tuple[Recipe, LatentSource | None]:
    """Open the autoencoder of `latent.encoder`; return the recipe with its measured settings, and the autoencoder.

    `channels`, `factor` and `sha256` of [latent] are the autoencoder's; `shift` and `scale` are measured on training
    pairs unless the recipe gives them.

    Raises:
        UserError: There is no such autoencoder, it does not fit the images, or its channels, factor or SHA-256 are not
            those of the recipe.
    """
    if recipe.latent is None:
        return recipe, None
    table = dict(recipe.latent.encoder)
    if isinstance(table.get("source"), str):
        table["source"] = str(place_of(table["source"]))
    with located("latent.encoder"):
        autoencoder: Autoencoder = frozen(registry.AUTOENCODERS.build(table), device)
        channels, factor, sha256 = autoencoder.channels, autoencoder.factor, weights_sha256(autoencoder)
    found = {"channels": channels, "factor": factor, "sha256": sha256}
    for key, value in found.items():
        if getattr(recipe.latent, key) not in (None, value):
            raise UserError(f"latent.{key}: the encoder's is {value}, the recipe says {getattr(recipe.latent, key)}")
    if any(side % factor for side in recipe.data.sides):
        raise UserError(
            f"data.size {recipe.data.size}: the encoder divides both sides by {factor}; give multiples of it"
        )
    shift, scale, note = _measured(autoencoder, dataset, str(table["name"]), device)
    measured = {"shift": shift, "scale": scale}
    kept = {key: value for key, value in measured.items() if getattr(recipe.latent, key) is None}
    settings = recipe.latent.model_copy(update={"encoder": table} | found | kept)
    recipe = recipe.model_copy(update={"latent": settings})
    latent = Latent(autoencoder, tuple(settings.shift or ()), tuple(settings.scale or ()))
    return recipe, LatentSource(latent, recipe, [note])


def _measured(
    autoencoder: Autoencoder, dataset: PairDataset, name: str, device: torch.device
) -> tuple[list[float], list[float], str]:
    """Mean and standard deviation of each channel of E(x), and a note on the PSNR of decoded images."""
    latents: list[Tensor] = []
    errors: dict[str, list[float]] = {"x_0": [], "x_1": []}
    indices = evenly_spread(len(dataset), PAIRS)
    for _, item in usable_items(dataset, indices):
        for side, of_side in errors.items():
            x = item[side][None].to(device)
            try:
                with torch.no_grad(), plugin_errors():
                    z = autoencoder.encode(x).float()
                    _check(name, autoencoder, x, z)
                    answer = autoencoder.decode(z)
            except (RuntimeError, ValueError) as error:
                raise UserError(
                    f"latent.encoder: autoencoder '{name}' does not take images of {plural(x.shape[1], 'channel')} at "
                    f"{x.shape[-1]}x{x.shape[-2]} ({reason(error)})"
                ) from error
            if answer.shape != x.shape:
                shapes = f"{tuple(answer.shape)} for images of {tuple(x.shape)}"
                raise UserError(f"latent.encoder: autoencoder '{name}': decodes to {shapes}")
            latents.append(z[0].flatten(1).double().cpu())
            of_side.append(float((answer - x).square().mean()))
    if not latents:
        raise UserError("latent.encoder: no training image could be encoded")
    values = torch.cat(latents, dim=1)
    shift, scale = values.mean(1), values.std(1)
    if not bool((scale > 1e-8).all() and scale.isfinite().all()):
        raise UserError(f"latent.encoder: autoencoder '{name}': a channel of its latents is the same for all images")
    height, width = item["x_0"].shape[-2:]
    factor = autoencoder.factor
    psnr = {side: 10 * math.log10(4 / max(sum(of_side) / len(of_side), 1e-10)) for side, of_side in errors.items()}
    note = (
        f"latents of {plural(autoencoder.channels, 'channel')} at {width // factor}x{height // factor} for images of "
        f"{width}x{height}; decoded, the PSNR of {plural(len(indices), 'pair')} is {psnr['x_0']:.2f} dB (x_0) and "
        f"{psnr['x_1']:.2f} dB (x_1), which no method can exceed by much"
    )
    return shift.tolist(), scale.tolist(), note


def _check(name: str, autoencoder: Autoencoder, x: Tensor, latents: Tensor) -> None:
    height, width = (side // autoencoder.factor for side in x.shape[-2:])
    wanted = (len(x), autoencoder.channels, height, width)
    if tuple(latents.shape) != wanted:
        raise UserError(
            f"latent.encoder: autoencoder '{name}': encodes {tuple(x.shape)} to {tuple(latents.shape)}; its channels "
            f"and factor say {wanted}"
        )


def with_cache(latent: Latent, recipe: Recipe, folder: Path) -> Latent:
    """The latent with a cache in the run folder, for images that are the same in every epoch; see `cached_fields`."""
    names = cached_fields(recipe)
    if not names or recipe.latent is None or not recipe.latent.cache:
        return latent
    autoencoder = latent.autoencoder
    cache = LatentCache(folder, str(recipe.latent.sha256), autoencoder.channels, autoencoder.factor)
    return replace(latent, cache=cache, cached=names)


def cached_fields(recipe: Recipe) -> tuple[str, ...]:
    """The fields of an item that are the same in every epoch, or one of two mirror images.

    None with random crops or augmentations; with a degradation, which may be random, only the clean image.
    """
    data = recipe.data
    if data.augment or data.crop == "random":
        return ()
    if recipe.degradation is None:
        return ("x_0", "x_1", "condition")
    return {"forward": ("x_0",), "reverse": ("x_1",), "both": ()}[data.direction]


class LatentCache:
    """The latents of images, kept on disk.

    Args:
        folder: The run folder.
        sha256: SHA-256 of the autoencoder.
        channels: Channels of its latents.
        factor: Side of an image divided by the side of its latents.
    """

    def __init__(self, folder: Path, sha256: str, channels: int, factor: int) -> None:
        self.channels, self.factor, self.tensors = channels, factor, TensorCache(folder, CACHE, sha256, "latents")

    def __call__(self, x: Tensor, encode: Callable[[Tensor], Tensor]) -> Tensor:
        """The latents of an image (1, C, H, W)."""
        height, width = (side // self.factor for side in x.shape[-2:])
        return self.tensors([x], (1, self.channels, height, width), partial(encode, x))


def parts_of(source: LatentSource | None) -> dict[str, dict[str, Any]]:
    """The tensors that `LatentSource.write` stores, for the check of free space."""
    if source is None or not isinstance(source.latent.autoencoder, nn.Module):
        return {}
    return {LATENT_FOLDER: source.latent.autoencoder.state_dict()}
