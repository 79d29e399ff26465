"""Items of an evaluation: which ones a protocol scores, their rounded pixels, and what identifies them."""

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from i2i_bridge.data.dataset import PairDataset
from i2i_bridge.data.source import item_of
from i2i_bridge.errors import UserError
from i2i_bridge.images.pixels import Range, to_pixels, to_tensor
from i2i_bridge.recipe.protocol import Resolved, chosen


@dataclass(frozen=True)
class Codec:
    """Rounding of images to a file's pixels; scores are computed on rounded images.

    Args:
        dtype: Dtype of the file's pixels.
        value_range: Pixel values that mean -1 and 1.
        quality: Quality of JPEG compression; None for a lossless file.
    """

    dtype: np.dtype
    value_range: Range
    quality: int | None = None

    def pixels(self, x: Tensor, *, output: bool = True) -> np.ndarray:
        """Pixels (H, W, C) of an image (C, H, W).

        Args:
            output: True for a result, which JPEG compresses; False for a reference.

        Raises:
            UserError: JPEG cannot hold such pixels.
        """
        pixels = to_pixels(x, self.dtype, self.value_range)
        return pixels if self.quality is None or not output else _jpeg(pixels, self.quality)

    def image(self, pixels: np.ndarray) -> Tensor:
        """The image (C, H, W) in [-1, 1] of pixels (H, W, C)."""
        return to_tensor(pixels, self.value_range)


def _jpeg(pixels: np.ndarray, quality: int) -> np.ndarray:
    from PIL import Image

    from i2i_bridge.images.files import read_picture

    if pixels.dtype != np.uint8 or pixels.shape[2] not in (1, 3):
        raise UserError(f"the protocol stores outputs as JPEG, which cannot hold {pixels.dtype} x {pixels.shape[2]}")
    encoded = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(encoded, "JPEG", quality=quality)
    return read_picture("the protocol's JPEG", encoded.getvalue()).pixels


@dataclass(frozen=True)
class ItemFacts:
    """The facts of an item that the summary needs beside its records."""

    position: int
    """As `EvaluatedItem.position`."""
    key: str
    pixels_hash: str
    """SHA-256 of the scored pixels of x_0 and x_1."""
    inputs_hash: str
    """SHA-256 of the item's fields that methods and metrics read: pixels, mask, condition and label."""
    subject_fingerprint: str
    """`Subject.of_item` of the item; empty for a reference."""
    equal: bool
    """Whether x_0 and x_1 have the same pixels."""


@dataclass(frozen=True)
class EvaluatedItem:
    """An item of the dataset with its rounded pixels."""

    position: int
    """Position among the evaluated items; -1 for an item that is only a reference."""
    fields: dict[str, Any]
    """The item as the dataset gives it."""
    codec: Codec
    clean: np.ndarray
    degraded: np.ndarray
    """Pixels (H, W, C) of x_0 and x_1."""

    @property
    def key(self) -> str:
        """The item's key in the dataset."""
        return str(self.fields["key"])

    def facts(self, subject_fingerprint: str) -> ItemFacts:
        """What the summary needs of the item."""
        conditions = [self.fields[name].numpy() for name in ("mask", "condition") if name in self.fields]
        return ItemFacts(
            self.position,
            self.key,
            array_hash(self.clean, self.degraded),
            array_hash(self.clean, self.degraded, *conditions, np.array(self.fields.get("label", -1))),
            subject_fingerprint,
            np.array_equal(self.clean, self.degraded),
        )


def round_item(position: int, fields: dict[str, Any], value_range: Range, quality: int | None) -> EvaluatedItem:
    """Round an item's images as its files are, with the protocol's JPEG quality for x_1."""
    codec = Codec(np.dtype(fields["dtype"]), value_range, quality)
    x_0, x_1 = codec.pixels(fields["x_0"], output=False), codec.pixels(fields["x_1"])
    return EvaluatedItem(position, fields, codec, x_0, x_1)


def array_hash(*arrays: np.ndarray) -> str:
    """SHA-256 of types, shapes and bytes."""
    total = hashlib.sha256()
    for array in arrays:
        total.update(f"{array.dtype.str}{array.shape}".encode())
        total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()


def data_digest(hashes: Mapping[str, str]) -> str:
    """SHA-256 over the hashes of the items' pixels, sorted by key."""
    return hashlib.sha256("".join(hashes[key] for key in sorted(hashes)).encode()).hexdigest()


def positions(dataset: PairDataset, protocol: Resolved) -> np.ndarray:
    """Indices of the items of a dataset that a protocol scores, in order.

    Raises:
        UserError: The protocol's list names an image that the dataset does not have.
    """
    limit = protocol.settings["n"]
    if protocol.names:
        keys = [str(item_of(dataset.source, i)["key"]) for i in range(len(dataset))]
        return chosen(keys, protocol.names)[:limit]
    return np.arange(len(dataset))[:limit]
