"""`check_dataset`: what every dataset must do, checked on its items."""

import hashlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from i2i_bridge.bridge.contract import collect_faults, error_line
from i2i_bridge.data.items import pictures_of, raw_pixels
from i2i_bridge.data.source import IMAGES, PairSource, item_of
from i2i_bridge.degradations.contract import global_states

OTHERS = ("key", "label", "file")


def check_dataset(source: PairSource, count: int = 64) -> list[str]:
    """What is wrong with a dataset, one line each; empty when it keeps the contract.

    source[i], 0 <= i < len(source), is an item as `item_of` takes it: a dictionary with x_0 and, where there are some,
    x_1, mask, condition, label and key; or (x_0, x_1), (x_0, label), or x_0 alone. Checked on items that are evenly
    spread, the first and the last among them: images can be read, are finite and of one size (an x_1 may be a whole
    number of times smaller), a mask is black and white, keys are strings and tell the items apart, all items have the
    same parts, an item read twice is the same, and the global random generators are not used.

    Args:
        source: The dataset, such as `Mine(split="train")`.
        count: Maximum number of items to read, each twice.

    Examples:
        >>> from PIL import Image
        >>> from i2i_bridge import check_dataset
        >>> greys = [{"key": str(i), "x_0": Image.new("L", (8, 8), 60 * i)} for i in range(4)]
        >>> check_dataset(greys)
        []
    """
    return collect_faults(lambda: _dataset_faults(source, count))


class _Item(NamedTuple):
    key: str
    parts: tuple[str, ...]
    digest: str
    """Of the key, the label and all pixels."""


def _dataset_faults(source: Any, count: int) -> Iterator[str]:
    for method in ("__len__", "__getitem__"):
        if not hasattr(type(source), method):
            yield f"{type(source).__name__} has no {method}"
            return
    length = len(source)
    if length == 0:
        yield "it has no items"
        return
    count = max(1, min(count, length))
    indices = sorted({0, *(i * (length - 1) // max(count - 1, 1) for i in range(count))})
    before = global_states()
    items: dict[int, _Item] = {}
    for index in indices:
        item = _read(source, index)
        if isinstance(item, _Item):
            items[index] = item
        else:
            yield item
    # Backwards: a source that counts its calls would give the same items again in the same order.
    for index in reversed(items):
        if _read(source, index) != items[index]:
            yield f"item {index}: read twice, it is not the same; draw nothing here and keep no state"
            break
    if global_states() != before:
        yield "a global random generator is used; the recipe's crops, flips and degradation draw what is random"
    yield from _differences(items)


def _differences(items: dict[int, _Item]) -> Iterator[str]:
    """Faults of items against each other: equal keys, and other parts."""
    index_of: dict[str, int] = {}
    for index, item in items.items():
        if index_of.setdefault(item.key, index) != index:
            yield f"items {index_of[item.key]} and {index} have the same key '{item.key}'; keys must tell items apart"
            break
    for index, item in items.items():
        first = next(iter(items))
        if item.parts != items[first].parts:
            yield (
                f"item {first} has {', '.join(items[first].parts)} and item {index} has {', '.join(item.parts)}; "
                "a batch needs the same of each"
            )
            break


def _read(source: PairSource, index: int) -> _Item | str:
    """An item, or what is wrong with it."""
    try:
        item = item_of(source, index)
        unknown = [str(name) for name in item if name not in IMAGES + OTHERS]
        if unknown:
            return f"item {index}: '{unknown[0]}' is no part of an item; the parts are {', '.join(IMAGES + OTHERS)}"
        key = item["key"]
        if not isinstance(key, str) or not key:
            return f"item {index}: the key is {key!r}; a string that is not empty is needed"
        pictures = pictures_of(item)
        raw_pixels(item)  # refuses a mask that is none
    except Exception as error:  # the user's code: any exception is a fault
        return f"item {index}: {error_line(error)}"
    for name, picture in pictures.items():
        if not np.isfinite(picture.pixels).all():
            return f"item {index}: {name} has NaN or infinite values"
    digest = hashlib.sha256(repr((key, item.get("label"))).encode())
    for name, picture in pictures.items():
        digest.update(f"{name} {picture.pixels.dtype} {picture.pixels.shape}".encode())
        digest.update(np.ascontiguousarray(picture.pixels).tobytes())
    return _Item(key, tuple(sorted({*pictures, *({"label"} & item.keys())})), digest.hexdigest())
