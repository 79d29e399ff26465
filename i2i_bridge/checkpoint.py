"""Checkpoints: folders that are either whole or not there.

    checkpoints/step-00001000/  network.safetensors  ema.safetensors  optimizer.safetensors  manifest.json

A checkpoint is written into a temporary folder, every file is flushed to disk, the manifest with sizes and SHA-256
sums comes last, and a rename publishes it; older ones are removed only afterwards. Loading verifies the manifest and
falls back, saying so, to the newest checkpoint that is whole. No file here can hold code.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from i2i_bridge.errors import UserError
from i2i_bridge.files import flushed

FORMAT = 1


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint folder: its step and its counters."""

    folder: Path
    step: int
    state: dict[str, Any]

    def tensors(self, part: str) -> dict[str, Tensor]:
        """The tensors of one part ('network', 'ema' or 'optimizer'), on the CPU.

        Raises:
            UserError: The checkpoint has no such part.
        """
        from safetensors.torch import load_file

        file = self.folder / f"{part}.safetensors"
        if not file.is_file():
            raise UserError(f"{self.folder}: the checkpoint has no {part}.safetensors")
        return load_file(file)


def save_checkpoint(
    folder: Path, step: int, parts: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any], keep: int
) -> Path:
    """Publish a checkpoint and remove all but the newest `keep`.

    Args:
        folder: The run's `checkpoints` folder; made if missing.
        step: Steps done so far.
        parts: Tensors by part and name.
        state: Counters, as JSON.

    Raises:
        UserError: The disk is full or not writable. Earlier checkpoints are untouched.
    """
    from safetensors.torch import save

    final = folder / f"step-{step:08d}"
    temporary = folder / f".tmp-{step:08d}-{os.getpid()}"
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        files = {}
        for part, tensors in parts.items():
            data = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
            flushed(temporary / f"{part}.safetensors", data)
            files[f"{part}.safetensors"] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        manifest = {"format": FORMAT, "step": step, "state": dict(state), "files": files}
        flushed(temporary / "manifest.json", json.dumps(manifest, indent=1).encode())
        _flush(temporary)
        if final.exists():  # the same step saved again, after a resume
            shutil.rmtree(final)
        temporary.rename(final)
        _flush(folder)
        for old in _folders(folder)[keep:]:
            shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise UserError(f"checkpoint not saved: {final}: {error.strerror or error}") from error
    return final


def latest_checkpoint(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest whole checkpoint, and one line for each damaged one that was passed over.

    Raises:
        UserError: There are checkpoints, but none is whole.
    """
    damaged: list[str] = []
    folders = _folders(folder)
    for candidate in folders:
        try:
            return _verified(candidate), damaged
        except UserError as error:
            damaged.append(str(error))
    if folders:
        raise UserError(f"{damaged[0]}; no other is there: restore its files from a copy, or train into a new folder")
    return None, damaged


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if path.is_dir() and path.name.startswith("step-")), reverse=True)


def _verified(folder: Path) -> Checkpoint:
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        if manifest["format"] != FORMAT:
            raise UserError(f"{folder}: checkpoint format {manifest['format']} is not known to this version")
        for name, facts in manifest["files"].items():
            file = folder / Path(name).name
            with file.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            if digest != facts["sha256"]:
                raise UserError(f"{file}: damaged (its SHA-256 differs from the manifest)")
        return Checkpoint(folder, int(manifest["step"]), dict(manifest["state"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{folder}: not a whole checkpoint ({type(error).__name__}: {error})") from error


def _flush(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
