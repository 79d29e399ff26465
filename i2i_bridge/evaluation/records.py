"""Records of an evaluation: one small file per item and row, written atomically.

    records/nfe-5/3b1c....safetensors    metadata: scores, seconds, network calls; tensors: pixels, features of networks

With them a stopped evaluation resumes at the next image, rows of other NFE and further metrics are added without
restoring images again, and memory does not grow with the number of images.
"""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from i2i_bridge.evaluation.results import read_error
from i2i_bridge.recipe.protocol import digest
from i2i_bridge.storage.files import remove, write_whole
from i2i_bridge.storage.names import extended_name
from i2i_bridge.storage.reader import may_pass, open_regular, parse_json

FORMAT = 1
CLEAN = "clean"
"""Name of the row that holds the features of the clean images."""


@dataclass
class Record:
    """Scores, pixels and features of one item in one row."""

    key: str
    fingerprint: str
    """Fingerprint of the item and of what restored it; a record of another fingerprint counts as missing."""
    scores: dict[str, tuple[float, str]] = field(default_factory=dict)
    """Value of each per-image metric, and the fingerprint of the metric's code."""
    seconds: float | None = None
    """Seconds of one restoration."""
    calls: int = 0
    """Network calls of one restoration, counted."""
    pixels: np.ndarray | None = None
    """(K, H, W, C): the restorations, rounded as in a file; None for rows that are read from the dataset."""
    features: dict[str, np.ndarray] = field(default_factory=dict)
    """(d,) float32 of the first restoration, by the name of the network and the fingerprint of its code."""
    stored: frozenset[str] = frozenset()
    """Names of the tensors in the file: 'pixels' and names of features."""


def record_fingerprint(pixels: str, row: str, inputs: str, subject: Sequence[str] = ()) -> str:
    """The fingerprint of an item's record.

    Args:
        pixels: `protocol.pixels_hash` of the protocol's settings.
        inputs: SHA-256 of the item's fields that methods and metrics read.
        subject: For a row of a subject: the subject's fingerprint, and its fingerprint for the item.
    """
    return digest([pixels, row, inputs, *subject])


def slug(row: str) -> str:
    """A row's name as a folder name: letters, digits, '.', '_' and '-', no leading dot, limited in length."""
    letters = "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in row)
    return extended_name(f"-{letters[1:]}" if letters[:1] in ("", ".") else letters, limit=200)


class Records:
    """The records of one evaluation.

    Args:
        folder: `records/` of the evaluation; made when the first record is written.
        root: No folder from here down may be a link; by default the folder of the records itself.
    """

    def __init__(self, folder: Path, root: Path | None = None) -> None:
        self.folder, self.root = folder, root or folder

    def file(self, row: str, key: str) -> Path:
        """The file of a record; its name is a hash, since keys are arbitrary text."""
        name = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()[:40]
        return self.folder / slug(row) / f"{name}.safetensors"

    def read(self, row: str, key: str, fingerprint: str, tensors: Collection[str] | None = ()) -> Record | None:
        """Read the record of an item; None if it is missing, damaged or of another fingerprint.

        Args:
            tensors: Names of the tensors to read; None for all.

        Raises:
            UserError: The record cannot be read now.
        """
        from safetensors import SafetensorError, safe_open

        try:
            path = self.file(row, key)
            open_regular(path).close()  # a pipe would block
            with safe_open(path, framework="numpy") as file:
                table = parse_json(file.metadata()["record"])
                if table["format"] != FORMAT or table["key"] != key or table["fingerprint"] != fingerprint:
                    return None
                scores = {name: (float(value), str(code)) for name, (value, code) in table["scores"].items()}
                names = frozenset(file.keys())
                wanted = names if tensors is None else names.intersection(tensors)
                values = {name: file.get_tensor(name) for name in wanted}
                pixels = values.pop("pixels", None)
                return Record(key, fingerprint, scores, table["seconds"], int(table["calls"]), pixels, values, names)
        except OSError as error:
            if may_pass(error):  # otherwise rows that took hours would be dropped
                raise read_error(self.file(row, key), error) from error
            return None
        except (SafetensorError, ValueError, KeyError, TypeError):
            return None

    def write(self, row: str, record: Record) -> None:
        """Write a record atomically, replacing an earlier one.

        Raises:
            UserError: The folder cannot be written, or the disk is full.
        """
        from safetensors.numpy import save

        tensors = {name: np.ascontiguousarray(value) for name, value in record.features.items()}
        if record.pixels is not None:
            tensors["pixels"] = np.ascontiguousarray(record.pixels)
        table: Mapping[str, Any] = {
            "format": FORMAT,
            "key": record.key,
            "fingerprint": record.fingerprint,
            "scores": record.scores,
            "seconds": record.seconds,
            "calls": record.calls,
        }
        write_whole(self.file(row, record.key), save(tensors, metadata={"record": json.dumps(table)}), root=self.root)

    def matrix(self, row: str, name: str, items: Sequence[tuple[str, str]], file: Path) -> np.ndarray:
        """The features of many items as one array (n, d), memory-mapped so that memory does not grow with n.

        Args:
            name: Name of the features.
            items: (key, fingerprint) of each item.
            file: File of the array, to be written; its folder exists.
        """
        mapped: np.memmap | None = None
        for i, (key, fingerprint) in enumerate(items):
            record = self.read(row, key, fingerprint, [name])
            if record is None or name not in record.features:
                raise LookupError(f"{key}: the record of row {row} was removed during the evaluation")
            values = record.features[name]
            if mapped is None:
                remove(file, root=self.root)  # a leftover of an interrupted evaluation, or a link
                mapped = np.lib.format.open_memmap(file, "w+", np.float32, (len(items), len(values)))
            mapped[i] = values
        assert mapped is not None
        mapped.flush()
        array: np.ndarray = np.load(file, mmap_mode="r", allow_pickle=False)
        return array
