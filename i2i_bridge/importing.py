"""Weights that others trained, taken into a run folder."""

from pathlib import Path

import torch
from torch import Tensor

from i2i_bridge.checkpoint import save_checkpoint
from i2i_bridge.errors import UserError
from i2i_bridge.files import write_whole
from i2i_bridge.networks.pix2pix import Pix2pixUNet, from_official
from i2i_bridge.recipe import Recipe
from i2i_bridge.run import RECIPE_FILE, load_weights


def import_pix2pix(file: Path, recipe: Recipe, folder: Path) -> None:
    """Make a run folder of a Pix2pix generator from the authors' PyTorch code (`*_net_G.pth`).

    The folder restores and is evaluated like a trained one (step 0); it cannot be trained on, since the file holds
    neither discriminator nor optimizer.

    Args:
        recipe: Whose network has the file's levels, width and channels, for 3 channels at 256 pixels the defaults.

    Raises:
        UserError: The file is no such generator, holds code, or the recipe's network is another; or the folder holds a
            run already.
    """
    if (folder / RECIPE_FILE).exists() or (folder / "checkpoints").exists():
        raise UserError(f"{folder} holds a run already; choose another --out")
    network = recipe.build_network()
    if not isinstance(network, Pix2pixUNet):
        raise UserError(f"recipe '{recipe.name}': its network is '{recipe.network['name']}', not 'pix2pix-unet'")
    stored = _stored(file)
    try:
        load_weights(network, from_official(network, stored), str(file))
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
    weights = network.state_dict()
    state = {"imported": file.name}
    save_checkpoint(folder / "checkpoints", 0, {"network": weights, "ema": weights}, state, recipe.train.keep)
    write_whole(folder / RECIPE_FILE, recipe.to_toml().encode())


def _stored(file: Path) -> dict[str, Tensor]:
    """The tensors of a PyTorch file, by name; nothing in the file is run."""
    if not file.is_file():
        raise UserError(f"{file}: no such file")
    try:
        stored = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises ten different types here
        reason = "holds more than tensors, which is refused" if "weights_only" in str(error) else "is damaged"
        raise UserError(f"{file}: not a file of plain weights: it {reason} ({type(error).__name__})") from error
    if not (isinstance(stored, dict) and stored and all(isinstance(value, Tensor) for value in stored.values())):
        raise UserError(f"{file}: not a state dict, which holds tensors by name")
    return dict(stored)
