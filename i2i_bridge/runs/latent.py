"""The autoencoder of [latent] in a run folder: opened, and compared with what the recipe says of it."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from i2i_bridge import registry
from i2i_bridge.errors import UserError
from i2i_bridge.methods.latent import Autoencoder, Latent, frozen
from i2i_bridge.networks.weights import weights_sha256
from i2i_bridge.storage.files import refuse_links
from i2i_bridge.storage.shipped import LATENT_FOLDER

if TYPE_CHECKING:  # pydantic: `import i2i_bridge` stays light
    from i2i_bridge.recipe.recipe import Recipe


def load_latent(folder: Path, recipe: "Recipe", *, device: torch.device) -> Latent:
    """Load a run folder's copy of the autoencoder of [latent], in float32; its source is not read.

    Raises:
        UserError: The copy is missing, damaged, a link, not what the run was trained with, or of other channels or
            sides than the recipe says.
    """
    stored = recipe.latent
    if stored is None or stored.shift is None or stored.scale is None:
        raise UserError(f"{folder}: its recipe has no [latent] with shift and scale, as training writes them")
    table, copy = dict(stored.encoder), folder / LATENT_FOLDER
    refuse_links(folder, [LATENT_FOLDER])
    if "source" in table:
        if not copy.is_dir():
            raise UserError(
                f"{copy}: the copy of {table['source']}, which this run encodes by, is missing; put it back"
            )
        table["source"] = str(copy.absolute())
    autoencoder: Autoencoder = frozen(registry.AUTOENCODERS.build(table), device)
    check_sha256(autoencoder, stored.sha256, copy)
    channels = recipe.data.channels
    for key, given, actual in (
        ("latent.channels", stored.channels, autoencoder.channels),
        ("latent.factor", stored.factor, autoencoder.factor),
        ("data.channels", channels, getattr(autoencoder, "image_channels", channels)),
    ):
        if given != actual:  # otherwise the shapes would first differ in the middle of a restoration
            raise UserError(f"{copy}: {key} is {given}, and that of the autoencoder there {actual}")
    return Latent(autoencoder, tuple(stored.shift), tuple(stored.scale))


def check_sha256(network: object, wanted: str | None, copy: Path) -> None:
    """Check that a copy has the weights whose SHA-256 the recipe of the run holds.

    Raises:
        UserError: It has other weights.
    """
    sha256 = weights_sha256(network)
    if sha256 != wanted:
        raise UserError(
            f"{copy}: other weights than the run was trained with (SHA-256 {sha256[:12]} there, {copy.name}.sha256 "
            f"{str(wanted)[:12]}); put the right ones back"
        )
