"""The autoencoders that [latent] can name: registered classes, each opened from its source and saved into a run folder.

A class takes its options, of which `source` is a path, and has `encode`, `decode`, `channels` and `factor`
(`methods.latent.Autoencoder`); `image_channels`, if it has it, is compared with the recipe's `data.channels`. If it has
a `source`, `save(folder)` writes what it needs to be opened from that folder.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from i2i_bridge.errors import UserError, located
from i2i_bridge.libraries import constructed
from i2i_bridge.networks.size import check_count
from i2i_bridge.networks.weights import load_weights
from i2i_bridge.registry import register_autoencoder
from i2i_bridge.runs.copies import write_copy
from i2i_bridge.runs.load import load_run
from i2i_bridge.storage.files import write_whole
from i2i_bridge.storage.reader import MEGABYTE, read_json
from i2i_bridge.storage.shipped import place_of
from i2i_bridge.storage.tensors import read_safetensors

CONFIG_FILE, WEIGHT_FILE = "config.json", "diffusion_pytorch_model.safetensors"
"""The files of an AutoencoderKL, as diffusers names them."""
LIMITS = {
    "in_channels": (1, 64),
    "out_channels": (1, 64),
    "latent_channels": (1, 256),
    "block_out_channels": (1, 2048),
    "layers_per_block": (1, 8),
    "norm_num_groups": (1, 256),
}
"""Lowest and highest number by option of AutoencoderKL, beyond which a file could fill the memory."""


@register_autoencoder("run")
class RunAutoencoder(nn.Module):
    """The network of a trained run of method `autoencoder`.

    Args:
        source: The run's folder; its newest checkpoint (EMA) is used.

    Raises:
        UserError: There is no such run, or its method is another.
    """

    def __init__(self, source: str) -> None:
        super().__init__()
        self._run = load_run(place_of(source), device="cpu")
        method = self._run.recipe.method["name"]
        if method != "autoencoder":
            raise UserError(f"{source}: a run of method '{method}', not of 'autoencoder', which [latent] needs")
        self.network: Any = self._run.method.network
        self.channels, self.factor = self.network.latent_channels, self.network.stride
        self.image_channels = self._run.recipe.data.channels

    def encode(self, x: Tensor) -> Tensor:
        """E(x)."""
        latents: Tensor = self.network.encode(x)
        return latents

    def decode(self, latents: Tensor) -> Tensor:
        """D(latents)."""
        images: Tensor = self.network.decode(latents)
        return images

    def save(self, folder: Path) -> None:
        """Copy the run's recipe and weights."""
        write_copy(self._run, folder.parent, folder.name)


@register_autoencoder("autoencoder-kl")
class DiffusersAutoencoder(nn.Module):
    """AutoencoderKL of the library diffusers, from a local folder; E(x) is the posterior's mean.

    Args:
        source: Folder with `config.json` and `diffusion_pytorch_model.safetensors`; nothing is downloaded.

    Raises:
        UserError: diffusers is not installed, or a file is missing, damaged, or not of an AutoencoderKL.
    """

    def __init__(self, source: str) -> None:
        super().__init__()
        try:
            from diffusers import AutoencoderKL
        except ImportError as error:
            raise UserError("autoencoder 'autoencoder-kl' needs diffusers: pip install 'i2i-bridge[latent]'") from error
        folder = Path(source)
        with located(folder / CONFIG_FILE, "cannot be read", (OSError, ValueError)):
            table = read_json(folder / CONFIG_FILE, MEGABYTE)
        if not isinstance(table, dict) or table.get("_class_name", "AutoencoderKL") != "AutoencoderKL":
            raise UserError(f"{folder / CONFIG_FILE}: not the configuration of an AutoencoderKL")
        self._config = {key: value for key, value in table.items() if key[:1] != "_" and value is not None}
        where = f"{folder / CONFIG_FILE}: AutoencoderKL"
        with torch.device("meta"):  # counted before memory is allocated: an untrusted file may name any size
            trial = constructed(where, AutoencoderKL, self._config, LIMITS)
        check_count(sum(parameter.numel() for parameter in trial.parameters()), where)
        config = trial.config
        blocks = len(config.block_out_channels)
        levels = {len(config.down_block_types), len(config.up_block_types), blocks}
        if config.in_channels != config.out_channels or len(levels) > 1:
            raise UserError(f"{where}: does not decode to images of the channels and sides that it encodes")
        self.model: Any = constructed(where, AutoencoderKL, self._config, LIMITS)
        load_weights(self.model, read_safetensors(folder / WEIGHT_FILE), str(folder / WEIGHT_FILE))
        self.channels = int(self.model.config.latent_channels)
        self.factor = 2 ** (blocks - 1)
        self.image_channels = int(config.in_channels)

    def encode(self, x: Tensor) -> Tensor:
        """The mean of q(latents | x)."""
        latents: Tensor = self.model.encode(x).latent_dist.mode()
        return latents

    def decode(self, latents: Tensor) -> Tensor:
        """D(latents)."""
        images: Tensor = self.model.decode(latents).sample
        return images

    def save(self, folder: Path) -> None:
        """Write the two files."""
        from safetensors.torch import save

        tensors = {name: value.contiguous() for name, value in self.model.state_dict().items()}
        write_whole(folder / WEIGHT_FILE, save(tensors))
        write_whole(folder / CONFIG_FILE, (json.dumps(self._config, indent=1) + "\n").encode())
