"""Tensors of training images that are computed once and kept in the run folder: latents, and outputs of a mean."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from i2i_bridge.errors import UserError
from i2i_bridge.storage.files import write_whole
from i2i_bridge.storage.shipped import CACHE_FOLDER
from i2i_bridge.storage.tensors import read_safetensors


def cache_folders(home: Path) -> list[Path]:
    """The folders of a cache that hold its files. None if the cache is a link, since no file is written through one."""
    cache = home / CACHE_FOLDER
    return [] if cache.is_symlink() or not cache.is_dir() else sorted(path for path in cache.iterdir() if path.is_dir())


class TensorCache:
    """Float32 tensors on disk, by SHA-256 of the weights that compute them and of their inputs.

    A file appears whole or not at all, and one that is damaged or of another shape is made anew. Where nothing can be
    written, tensors are computed each time.

    Args:
        folder: The run folder.
        place: Folder of the cache below it.
        sha256: SHA-256 of the weights.
        field: Name of the tensor in its file.
    """

    def __init__(self, folder: Path, place: str, sha256: str, field: str) -> None:
        self.folder, self.place, self.sha256, self.field = folder, place, sha256, field
        self.writes = True

    def __call__(self, inputs: Sequence[Tensor], shape: tuple[int, ...], compute: Callable[[], Tensor]) -> Tensor:
        """The tensor of `shape` that `compute` makes of `inputs`, on the device of the first input."""
        total = hashlib.sha256()
        for i, tensor in enumerate(inputs):
            values = tensor.detach().to("cpu", torch.float32).contiguous()
            total.update(f"{'' if i else self.sha256} {tuple(values.shape)}".encode())
            total.update(values.numpy().tobytes())
        name = total.hexdigest()
        file = self.folder / self.place / name[:2] / f"{name}.safetensors"
        found = self._read(file)
        if found is not None and found.shape == shape:
            return found.to(inputs[0].device)
        computed = compute()
        self._write(file, computed)
        return computed

    def _read(self, file: Path) -> Tensor | None:
        if file.is_symlink() or not file.is_file():
            return None
        try:
            found = read_safetensors(file).get(self.field)
        except UserError:
            return None
        return found if found is not None and found.dtype == torch.float32 else None

    def _write(self, file: Path, tensor: Tensor) -> None:
        from safetensors.torch import save

        if not self.writes:
            return
        try:
            write_whole(file, save({self.field: tensor.cpu().contiguous()}), root=self.folder)
        except UserError:
            self.writes = False
