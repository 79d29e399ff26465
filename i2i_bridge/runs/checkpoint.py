"""Checkpoints: folders that are written atomically and verified on load.

    checkpoints/step-00001000/  network.safetensors  ema.safetensors  optimizer.safetensors  manifest.json
                                manifest.sha256

The manifest holds step, counters, and size and SHA-256 of every file; the SHA-256 of the manifest is written last
(`sha256sum --check manifest.sha256`). A checkpoint is published by a rename (files.py), and older ones are removed only
afterwards. Loading verifies every byte; it falls back to the newest whole checkpoint and reports that. No file of a
checkpoint can hold code.

A file is damaged if it is missing or of another size, hash or content. A read error (a network disk, say) is no damage:
it ends the command with exit code 74, and nothing is changed. Links are not followed.
"""

import contextlib
import errno
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from i2i_bridge.errors import IO_ERROR, UserError
from i2i_bridge.runs.checkpoint_files import MISSING, DamagedCheckpoint, compare, content, read_error
from i2i_bridge.storage.files import free_bytes, publish_folder, retire_folder, set_aside, sweep
from i2i_bridge.storage.tensors import all_finite, read_safetensors

Content = TypeVar("Content")

FORMAT = 2
UNSEALED = 1
"""Format of manifests without manifest.sha256; read, no longer written."""
MANIFEST, SEAL = "manifest.json", "manifest.sha256"
MANIFEST_BYTES = 16 << 20
"""Size limit of a manifest."""
HEADERS = 1 << 20
"""Room for the manifest of a checkpoint and the headers of its files, some 100 bytes a tensor."""
DAMAGED = "damaged-"
"""Prefix that a damaged checkpoint's folder is renamed with."""


class MissingCheckpoint(UserError):
    """There is no checkpoint of a step: it was not saved, or has been removed."""


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint folder: its step and its counters."""

    folder: Path
    step: int
    state: dict[str, Any]
    files: frozenset[str]
    """Names of the files that the manifest lists."""
    format: int = FORMAT

    @property
    def machine(self) -> dict[str, str]:
        """Facts about the machine that saved the checkpoint; imported weights have none."""
        facts = self.state.get("machine")
        return {name: str(value) for name, value in facts.items()} if isinstance(facts, dict) else {}

    @property
    def best_step(self) -> int | None:
        """The step of the best checkpoint when this one was saved; None if none was measured (train.keep_best)."""
        best = self.state.get("best")
        step = best.get("step") if isinstance(best, dict) else None
        return step if type(step) is int else None

    def tensors(self, part: str) -> dict[str, Tensor]:
        """The tensors of one part ('network', 'ema' or 'optimizer'), on the CPU.

        Raises:
            UserError: The checkpoint has no such part, or it is no safetensors file of finite numbers.
        """
        return read_safetensors(self.file(part))

    def file(self, part: str) -> Path:
        """The file of one part.

        Raises:
            UserError: The checkpoint has no such part.
        """
        file = self.folder / f"{part}.safetensors"
        if file.name not in self.files:  # a file that the manifest does not list was not verified
            raise UserError(f"{self.folder}: the checkpoint has no {part}.safetensors")
        return file


def save_checkpoint(
    folder: Path,
    step: int,
    parts: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, Any],
    keep: int,
    *,
    best: int | None = None,
) -> Path:
    """Publish a checkpoint and remove all but the newest `keep` and the best.

    Args:
        folder: The run's `checkpoints` folder; made if missing.
        step: Steps done so far.
        parts: Tensors by part and name.
        state: Counters, as JSON.
        best: Step of the best checkpoint, which is not removed; None if there is none.

    Raises:
        UserError: A tensor is not finite, the step is saved already, or the disk is full or not writable. Earlier
            checkpoints are untouched.
    """
    final = folder / f"step-{step:08d}"
    for part, tensors in parts.items():
        check_finite(part, tensors, f"checkpoint not saved: {final}")
    try:
        publish_folder(final, _files(step, parts, state))
    except OSError as error:
        space = ""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            with contextlib.suppress(OSError):
                space = f" (need {_megabytes(bytes_of(parts))}, {_megabytes(free_bytes(folder))} free)"
        raise UserError(f"checkpoint not saved: {final}: {error.strerror or error}{space}", IO_ERROR) from error
    for old in _folders(folder)[keep:]:
        if _step_of(old) == best:
            continue
        with contextlib.suppress(OSError):  # the next save removes it
            retire_folder(old)
    return final


def check_finite(part: str, tensors: Mapping[str, Tensor], where: str) -> None:
    """Check that all tensors are finite.

    Raises:
        UserError: A tensor holds NaN or infinity; the message names it.
    """
    floats = {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}
    if floats:
        finite = torch.stack([all_finite(tensor) for tensor in floats.values()]).tolist()
        bad = [name for name, good in zip(floats, finite, strict=True) if not good]
        if bad:
            raise UserError(f"{where}: {part}'s '{bad[0]}' is not finite")


def bytes_of(parts: Mapping[str, Mapping[str, Tensor]]) -> int:
    """Bytes of a checkpoint of these tensors, up to a few kB."""
    return sum(tensor.nbytes for tensors in parts.values() for tensor in tensors.values())


def check_space(folder: Path, parts: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Check that the disk has room for one checkpoint.

    Raises:
        UserError: It has not.
    """
    need, free = bytes_of(parts) + HEADERS, free_bytes(folder)
    if free < need:
        raise UserError(
            f"{folder}: a checkpoint needs {_megabytes(need)} and {_megabytes(free)} are free; make room, or choose "
            "another --out",
            IO_ERROR,
        )


def latest_checkpoint(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """Return the newest whole checkpoint, and one line for each newer one that is damaged or a link.

    Raises:
        UserError: There are checkpoints, but none is whole; or one cannot be read now, or is of a newer version.
    """
    newest, skipped = _latest(folder)
    return newest, list(skipped.values())


def recovered_checkpoint(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """As `latest_checkpoint`, for a run that resumes: also remove leftovers of an interrupted save, and rename damaged
    checkpoints to `damaged-step-N`. Otherwise they would block saving the same step and count as one to keep.

    Raises:
        UserError: As `latest_checkpoint`; nothing is removed or renamed then.
    """
    newest, skipped = _latest(folder)
    for old in skipped:
        if not old.is_symlink():
            with contextlib.suppress(OSError):  # not renamed: the next call skips it again
                skipped[old] += f", kept as {set_aside(old, f'{DAMAGED}{old.name}')}"
    sweep(folder)
    return newest, list(skipped.values())


def chosen_checkpoint(folder: Path, which: int | str = "last") -> tuple[Checkpoint | None, list[str]]:
    """Return the checkpoint of a step, verified; for `last` as `latest_checkpoint`.

    Args:
        which: A step, `last`, or `best` by the metric train.keep_best.

    Raises:
        MissingCheckpoint: No checkpoint of that step is kept; the message lists the steps that are.
        UserError: The checkpoint is not whole, no best one is known, or `which` is something else.
    """
    if which == "last":
        return latest_checkpoint(folder)
    kept = ", ".join(str(_step_of(path)) for path in reversed(_folders(folder))) or "none"
    if which == "best":
        newest, _ = latest_checkpoint(folder)
        if newest is None or newest.best_step is None:
            raise UserError(f"{folder}: no best checkpoint is kept; give a step ({kept}) or last (see train.keep_best)")
        which = newest.best_step
    match = re.fullmatch(r"(?:step-)?([0-9]{1,15})", str(which))
    if match is None:
        raise UserError(f"--checkpoint {which}: give a step ({kept}) or last, or best")
    step = int(match[1])
    chosen = next((path for path in _folders(folder) if _step_of(path) == step), None)
    if chosen is None:
        raise MissingCheckpoint(f"{folder}: no checkpoint of step {step}; kept: {kept}")
    try:
        return _verified(chosen), []
    except DamagedCheckpoint:
        if os.path.lexists(chosen):
            raise
        return chosen_checkpoint(folder, which)  # removed meanwhile


def read_checkpoint(
    run: Path, read: Callable[[Checkpoint], Content], which: int | str = "last"
) -> tuple[Checkpoint, list[str], Content]:
    """The checkpoint of a run folder as `chosen_checkpoint` returns it, and what `read` reads from it.

    Where a training removes that checkpoint before all is read, since it saved newer ones, choose and read again.

    Raises:
        UserError: As `chosen_checkpoint`, or there is no checkpoint, or it cannot be read.
    """
    while True:
        saved, skipped = chosen_checkpoint(run / "checkpoints", which)
        if saved is None:
            raise UserError(f"{run}: no checkpoint yet; train it first")
        try:
            return saved, skipped, read(saved)
        except (UserError, OSError):
            if os.path.lexists(saved.folder):
                raise


LINK = "is a link, which is not followed"


def passed_over(line: str) -> str:
    """The message on a newer checkpoint that was skipped; `line` comes from `latest_checkpoint`."""
    return f"passed over a {'checkpoint' if line.endswith(LINK) else 'damaged checkpoint'}: {line}"


def _latest(folder: Path) -> tuple[Checkpoint | None, dict[Path, str]]:
    skipped: dict[Path, str] = {}
    for candidate in _folders(folder, links=True):
        if candidate.is_symlink():
            skipped[candidate] = f"{candidate}: {LINK}"
            continue
        try:
            return _verified(candidate), skipped
        except DamagedCheckpoint as error:
            if not os.path.lexists(candidate):  # removed meanwhile, by a training that saved newer ones
                return _latest(folder)
            skipped[candidate] = str(error)
    if skipped:
        first = next(iter(skipped.values()))
        raise UserError(f"{first}; no other is there: restore its files from a copy, or train into a new folder")
    return None, skipped


def _files(
    step: int, parts: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]
) -> Iterator[tuple[str, bytes]]:
    from safetensors.torch import save

    files = {}
    for part, tensors in parts.items():
        data = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
        files[f"{part}.safetensors"] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        yield f"{part}.safetensors", data
    manifest = {"format": FORMAT, "step": step, "state": dict(state), "files": files}
    text = json.dumps(manifest, indent=1).encode()
    yield MANIFEST, text
    yield SEAL, _seal(text)


def _seal(manifest: bytes) -> bytes:
    return f"{hashlib.sha256(manifest).hexdigest()}  {MANIFEST}\n".encode()


def _folders(folder: Path, *, links: bool = False) -> list[Path]:
    """Checkpoint folders, the newest first.

    Args:
        links: Whether to list links of such names too.

    Raises:
        UserError: The folder exists and cannot be listed.
    """
    try:
        with os.scandir(folder) as entries:
            folders = [
                Path(entry.path)
                for entry in entries
                if re.fullmatch(r"step-\d{8,15}", entry.name)
                and (entry.is_dir(follow_symlinks=False) or (links and entry.is_symlink()))
            ]
    except OSError as error:
        if error.errno in MISSING:
            return []
        raise read_error(folder, error) from error
    return sorted(folders, key=_step_of, reverse=True)


def _step_of(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def _verified(folder: Path) -> Checkpoint:
    """Verify a checkpoint's files against its manifest and open it.

    Raises:
        DamagedCheckpoint: The checkpoint is not whole.
        UserError: A file cannot be read now, or the checkpoint is of a newer version.
    """
    try:
        text = content(folder / MANIFEST, MANIFEST_BYTES)
        manifest = json.loads(text)
        version = manifest["format"]
        if version != UNSEALED and content(folder / SEAL, MANIFEST_BYTES) != _seal(text):
            raise DamagedCheckpoint(f"{folder / MANIFEST}: damaged (its SHA-256 differs from {SEAL})")
        if version not in (UNSEALED, FORMAT):
            raise UserError(
                f"{folder}: checkpoint format {version!r:.20} is not known to this version; take a newer one"
            )
        step, state, files = manifest["step"], manifest["state"], manifest["files"]
        if type(step) is not int or step != _step_of(folder) or not isinstance(state, dict):
            raise DamagedCheckpoint(f"{folder / MANIFEST}: damaged (it is of another step)")
        for name, facts in files.items():
            if not re.fullmatch(r"[A-Za-z0-9_-]+\.safetensors", name):
                raise DamagedCheckpoint(
                    f"{folder / MANIFEST}: damaged (it names '{name[:80]}', not a file of a checkpoint)"
                )
            compare(folder / name, facts["bytes"], facts["sha256"])
        return Checkpoint(folder, step, state, frozenset(files), version)
    except (OSError, MemoryError) as error:
        raise read_error(folder, error) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedCheckpoint(
            f"{folder}: not a whole checkpoint ({type(error).__name__}: {str(error)[:120]})"
        ) from error


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.3g} MB" if size < 1e9 else f"{size / 1e9:.3g} GB"
