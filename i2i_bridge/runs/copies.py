"""Copies of runs inside other runs' folders: recipe and weights (EMA)."""

from pathlib import Path

from i2i_bridge.errors import UserError
from i2i_bridge.networks.weights import weights_sha256
from i2i_bridge.runs.checkpoint import latest_checkpoint, save_checkpoint
from i2i_bridge.runs.load import load_run
from i2i_bridge.runs.run import Run
from i2i_bridge.storage.files import refuse_links, write_whole
from i2i_bridge.storage.shipped import RECIPE_FILE


def write_copy(run: Run, folder: Path, name: str) -> None:
    """Copy a run into a subfolder of a run folder, unless the copy is there.

    Raises:
        UserError: The subfolder holds a copy of another run, is a link, or cannot be written.
    """
    home = folder / name
    refuse_links(folder, [name])
    if latest_checkpoint(home / "checkpoints")[0] is None:
        parts = {"ema": run.method.network.state_dict()}
        save_checkpoint(home / "checkpoints", run.step, parts, {"imported": run.folder.name}, keep=1)
    if not (home / RECIPE_FILE).exists():
        write_whole(home / RECIPE_FILE, run.recipe.to_toml().encode(), root=folder)
    copy = load_run(home, device="cpu")
    if weights_sha256(copy.method.network) != weights_sha256(run.method.network) or copy.recipe != run.recipe:
        raise UserError(f"{home}: holds another run than {run.folder}; remove it, or choose another --out")
