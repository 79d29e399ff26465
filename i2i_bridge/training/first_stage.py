"""The first of two stages (`[mean]`): a trained run whose output a new run starts from, and its copy in that run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from i2i_bridge.errors import UserError, located
from i2i_bridge.methods.mean import Mean, check_mean
from i2i_bridge.randomness import generator
from i2i_bridge.recipe.recipe import Recipe
from i2i_bridge.runs.checkpoint import latest_checkpoint, save_checkpoint
from i2i_bridge.runs.run import MEAN_FOLDER, Run, load_run, place_of, weights_sha256
from i2i_bridge.storage.files import refuse_links, write_whole
from i2i_bridge.storage.shipped import RECIPE_FILE


@dataclass(frozen=True)
class MeanSource:
    """A trained run whose output is the start of a new run's process."""

    run: Run
    mean: Mean
    sha256: str
    lines: list[str]
    """Lines for the user."""

    def write(self, folder: Path) -> None:
        """Copy recipe and weights into a run folder, so that it does not depend on the folder of `mean.run`.

        Raises:
            UserError: The folder holds a copy of another run, or the copy cannot be written.
        """
        write_copy(self.run, self.sha256, folder, MEAN_FOLDER)


def write_copy(run: Run, sha256: str, folder: Path, name: str) -> None:
    """Copy recipe and weights of a run into a run folder, under a name.

    Args:
        sha256: SHA-256 of the run's weights.

    Raises:
        UserError: The folder holds a copy of another run, or the copy cannot be written.
    """
    home = folder / name
    refuse_links(folder, [name])
    if latest_checkpoint(home / "checkpoints")[0] is None:
        parts = {"ema": run.method.network.state_dict()}
        save_checkpoint(home / "checkpoints", run.step, parts, {"imported": run.folder.name}, keep=1)
    if not (home / RECIPE_FILE).exists():
        write_whole(home / RECIPE_FILE, run.recipe.to_toml().encode(), root=folder)
    copy = load_run(home, device="cpu")
    if weights_sha256(copy.method.network) != sha256 or copy.recipe != run.recipe:
        raise UserError(f"{home}: holds another run than {run.folder}; remove it, or choose another --out")


def start_of(mean: Mean | None, seed: int, item: dict[str, Any]) -> Tensor:
    """The start of the process for an item of a dataset: X_1, or the mean's output; (C, H, W), on the CPU."""
    if mean is None:
        x_1: Tensor = item["x_1"]
        return x_1
    device = next(mean.method.network.parameters()).device
    batch = {name: value[None].to(device) for name, value in item.items() if isinstance(value, Tensor)}
    if "label" in item:
        batch["label"] = torch.tensor([item["label"]], device=device)
    return mean(batch, [generator(seed, "moments", str(item["key"]))])[0].cpu()


def open_mean(recipe: Recipe, device: torch.device) -> tuple[Recipe, MeanSource | None]:
    """Open the run of `mean.run`; return the recipe with its path and SHA-256, and the run (None without [mean]).

    Raises:
        UserError: There is no such run, it has no whole checkpoint, does not fit the recipe's images, or its weights
            have another SHA-256 than `mean.sha256`.
    """
    if recipe.mean is None:
        return recipe, None
    place, notes = place_of(recipe.mean.run), list[str]()
    with located("mean.run"):
        run = load_run(place, device=device, report=lambda line: notes.append(f"note: {line}"))
    notes += check_mean(recipe, run.recipe, str(place))
    sha256 = weights_sha256(run.method.network)
    if recipe.mean.sha256 not in (None, sha256):
        raise UserError(f"mean.run: {place} holds other weights (SHA-256 {sha256}) than mean.sha256 says")
    notes.insert(0, f"starting from the answer of {place}, step {run.step} (SHA-256 of its weights {sha256})")
    settings = recipe.mean.model_copy(update={"run": str(place), "sha256": sha256})
    source = MeanSource(run, Mean(run.method, recipe.mean.nfe), sha256, notes)
    return recipe.model_copy(update={"mean": settings}), source
