"""`PairSource`, the protocol of dataset kinds, and the conversion of their items to dictionaries."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from i2i_bridge.errors import UserError
from i2i_bridge.plugins import plugin_errors

IMAGES = ("x_0", "x_1", "mask", "condition")
"""The parts of an item that are images."""


class PairSource(Protocol):
    """Protocol of dataset kinds: a sequence of items; see `item_of` for the forms of an item."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]: ...


def item_of(source: PairSource, index: int) -> dict[str, Any]:
    """An item of a dataset as a dictionary with 'key' and 'x_0'.

    A dataset may return a dictionary with 'x_0', a pair (x_0, x_1) of images, a pair (x_0, label) of an image and an
    integer, or x_0 alone. Without a 'key' the index is the key.

    Raises:
        UserError: The item has another form, no x_0, or a label that is not an integer; or a dataset in a user's file
            raised an exception.
    """
    with plugin_errors():
        given: Any = source[index]
    if isinstance(given, Mapping):
        item = dict(given)
    elif isinstance(given, tuple | list):
        if len(given) != 2:
            raise UserError(f"item {index}: a tuple of {len(given)}; return (x_0, x_1), (x_0, label) or a dictionary")
        item = {"x_0": given[0], "label" if is_integer(given[1]) else "x_1": given[1]}
    else:
        item = {"x_0": given}
    item.setdefault("key", str(index))
    if "x_0" not in item:
        raise UserError(f"item '{item['key']}': no x_0; the dataset gave {', '.join(map(str, given))}")
    if "label" in item:
        if not is_integer(item["label"]):
            raise UserError(f"item '{item['key']}': a label is an integer, got {item['label']!r}")
        item["label"] = int(item["label"])
    return item


def is_integer(value: Any) -> bool:
    """Whether a value is an integer of Python, NumPy or torch; a boolean is not an integer."""
    if isinstance(value, Tensor | np.ndarray) and value.ndim == 0:
        value = value.item()
    return isinstance(value, int | np.integer) and not isinstance(value, bool)
