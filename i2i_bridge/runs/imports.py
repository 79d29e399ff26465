"""Import of weights trained by other code into a run folder."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from i2i_bridge.bridge.processes import I2SB
from i2i_bridge.errors import UserError, located, plural
from i2i_bridge.networks.pix2pix import Pix2pixUNet, from_official
from i2i_bridge.networks.spandrel import described, network_table
from i2i_bridge.networks.weights import load_weights
from i2i_bridge.randomness import generator, rand
from i2i_bridge.recipe.presets import method_preset
from i2i_bridge.recipe.recipe import Recipe
from i2i_bridge.runs.batch import image_facts, repeated
from i2i_bridge.runs.checkpoint import save_checkpoint
from i2i_bridge.storage.files import write_whole
from i2i_bridge.storage.shipped import RECIPE_FILE
from i2i_bridge.storage.tensors import read_pt, read_safetensors
from i2i_bridge.storage.toml import toml_value

PREFIX = "diffusion_model."
"""Prefix of the network's tensor names in checkpoints of the official I2SB code."""
RELEASED = {"i2sb": "official-grid", "ot-ode": "official-grid-ode"}
"""Maps a process to the process with the discrete tables of the released code."""


def import_pix2pix(file: Path, recipe: Recipe, folder: Path) -> None:
    """Make a run folder of a Pix2pix generator from the authors' PyTorch code (`*_net_G.pth`).

    The folder restores and is evaluated like a trained one (step 0); training cannot resume from it, since the file
    holds neither discriminator nor optimizer.

    Args:
        recipe: A recipe whose network has the file's levels, width and channels (the defaults for 3 channels at 256
            pixels).

    Raises:
        UserError: The file is no such generator, holds code, or the recipe's network is another; or the folder holds a
            run already.
    """
    _check_free(folder)
    network = recipe.build_network()
    if not isinstance(network, Pix2pixUNet):
        raise UserError(f"recipe '{recipe.name}': its network is '{recipe.network['name']}', not 'pix2pix-unet'")
    stored = read_pt(file)
    with located(file):
        load_weights(network, from_official(network, stored), str(file))
    weights = network.state_dict()
    _write(folder, recipe, {"network": weights, "ema": weights}, file)


def import_i2sb(file: Path, recipe: Recipe, folder: Path) -> None:
    """Make a run folder of a checkpoint of the official I2SB code (`latest.pt`), which stores no settings.

    The checkpoint's EMA, which the official code samples with, becomes the run's EMA. The `options.pkl` beside the file
    is never opened: it is a pickle of arbitrary objects.

    Args:
        recipe: A recipe with the released code's process ('official-grid', or '-ode') and time grid; see `released`.

    Raises:
        UserError: The file is no such checkpoint, holds code, or has another network; or the recipe has another process
            or target; or the folder holds a run already.
    """
    _check_free(folder)
    if recipe.process["name"] not in RELEASED.values() or recipe.target["name"] != "i2sb":
        raise UserError(
            f"recipe '{recipe.name}': process '{recipe.process['name']}' with target '{recipe.target['name']}' is not "
            "how the official checkpoints were trained; take one with the process i2sb or ot-ode and the target i2sb"
        )
    network = recipe.build_network()
    stored = read_pt(file, "i2sb")
    parts: dict[str, dict[str, Tensor]] = {}
    for part, prefix in (("network", "net/"), ("ema", "ema/")):
        tensors = {name.removeprefix(prefix): value for name, value in stored.items() if name.startswith(prefix)}
        if not all(name.startswith(PREFIX) for name in tensors):
            raise UserError(f"{file}: its network's names do not begin with '{PREFIX}': not of the official I2SB code")
        parts[part] = {name.removeprefix(PREFIX): value for name, value in tensors.items()}
        load_weights(network, parts[part], str(file))
    _write(folder, recipe, parts, file)


@dataclass(frozen=True)
class SpandrelFile:
    """A restoration network that the library spandrel has read from a file."""

    file: Path
    found: Any
    """spandrel's description of the network, with the file's weights."""
    network: dict[str, Any]
    """The [network] of a recipe."""

    def preset(self, table: dict[str, Any], given: frozenset[str]) -> dict[str, Any]:
        """Change a recipe's table to the frozen regression that this network is; a preset for `load_recipe`."""
        changed = method_preset("regression")(table, given)
        parts = {"process": {"name": "i2sb"}, "target": {"name": "x0"}, "network": self.network}
        return changed | parts | {"method_label": str(self.found.architecture.name)}


def read_spandrel(file: Path) -> SpandrelFile:
    """Read a restoration network that spandrel knows, from a .safetensors, or a .pth without code.

    Raises:
        UserError: The file cannot be read or holds code, spandrel is not installed or does not know the network, or a
            regression cannot use it.
    """
    tensors = read_safetensors(file) if file.suffix == ".safetensors" else read_pt(file, "wrapped")
    with located(file):
        found = described(tensors)
        return SpandrelFile(file, found, network_table(found))


def import_spandrel(read: SpandrelFile, recipe: Recipe, folder: Path) -> None:
    """Make a run folder of a network that spandrel has read: a frozen regression, at step 0.

    Args:
        recipe: A recipe loaded with `read.preset`. A network that enlarges s times needs images x_1 whose pixels are
            repeated s x s: a degradation such as `sr4x` or `downsample`, or data.factor with data.enlarge "nearest".

    Raises:
        UserError: The recipe has other channels or another enlargement, or the folder holds a run already.
    """
    _check_free(folder)
    found, name = read.found, read.found.architecture.name
    if recipe.data.channels != found.input_channels:
        raise UserError(
            f"{read.file}: {name} takes {plural(found.input_channels, 'channel')} and recipe '{recipe.name}' has "
            f"{recipe.data.channels}; data.channels={found.input_channels}"
        )
    facts = image_facts(recipe)
    if found.scale > 1 and (facts["scale"], facts["x_1"]) != (found.scale, "repeat"):
        raise UserError(
            f"{read.file}: {name} enlarges {found.scale} times, and recipe '{recipe.name}' has no images x_1 whose "
            f"pixels are repeated {found.scale} x {found.scale}; take one of that super-resolution, such as "
            f"degradation.name=downsample degradation.factor={found.scale}, or for pairs data.factor={found.scale} "
            "data.enlarge=nearest"
        )
    network = recipe.build_network().eval()
    weights = {f"model.{key}": value.detach().clone() for key, value in found.model.state_dict().items()}
    load_weights(network, weights, str(read.file))
    x = rand((1, recipe.data.channels, 64, 64), generator(0, "import")).float() * 2 - 1
    with torch.no_grad():
        # The same arithmetic as in the network: otherwise rounding would make a difference.
        if not torch.equal(network(repeated(x, found.scale)), found((x + 1) / 2) * 2 - 1):
            raise UserError(f"{read.file}: {name} built from its options does not give spandrel's result; not imported")
    _write(folder, recipe, {"network": weights, "ema": weights}, read.file)


def released(table: dict[str, Any], given: frozenset[str]) -> dict[str, Any]:
    """Change a recipe's table to how the released checkpoints were trained: the official code's grid of 1000 indices.

    A preset for `load_recipe`, used with the settings of `released_settings`. A process that is neither i2sb nor ot-ode
    stays as it is, and `import_i2sb` refuses it; so does an option that is fixed in the released code.
    """
    process = table.get("process", {"name": "i2sb"})
    name = process.get("name") if isinstance(process, dict) else None
    if name not in (*RELEASED, *RELEASED.values()):
        return table
    if name in RELEASED:
        process = {"beta_max": 0.3 if name == "i2sb" else 1.0} | process | {"name": RELEASED[name]}
        if process.get("beta_min") == I2SB.beta_min:
            del process["beta_min"]
    sample, evaluate = ({**table[key]} if isinstance(table.get(key), dict) else {} for key in ("sample", "evaluate"))
    if isinstance(evaluate.get("nfe"), list):  # the official sampler has 999 steps
        evaluate["nfe"] = [min(nfe, 999) if isinstance(nfe, int) else nfe for nfe in evaluate["nfe"]]
    return table | {"process": process, "sample": sample | {"grid": "official"}, "evaluate": evaluate}


def released_settings(settings: Iterable[str]) -> list[str]:
    """Rename the process in settings `key=value` for `load_recipe`, as `released` renames it in the table.

    Otherwise `process.name=ot-ode` would undo the preset: settings override the preset's table.
    """
    exchanged = []
    for setting in settings:
        key, equals, value = setting.partition("=")
        process = RELEASED.get(str(toml_value(value))) if key == "process.name" else None
        exchanged.append(setting if process is None else f"{key}{equals}{process}")
    return exchanged


def _check_free(folder: Path) -> None:
    if (folder / RECIPE_FILE).exists() or (folder / "checkpoints").exists():
        raise UserError(f"{folder} holds a run already; choose another --out")


def _write(folder: Path, recipe: Recipe, parts: dict[str, dict[str, Tensor]], file: Path) -> None:
    save_checkpoint(folder / "checkpoints", 0, parts, {"imported": file.name}, recipe.train.keep)
    write_whole(folder / RECIPE_FILE, recipe.to_toml().encode())
