"""Order of the training images: for each epoch a random permutation keyed by (seed, epoch)."""

from functools import lru_cache

import numpy as np
import torch

from i2i_bridge.randomness import generator

PART = 2**22
"""Most items of one permutation: 17 MB."""


def shuffled(position: int, length: int, seed: int, epoch: int, most: int = PART) -> int:
    """Index of the item at a position of an epoch; a permutation of range(length) for each (seed, epoch).

    Up to `most` items it is `torch.randperm`. A longer epoch is k = ceil(length / most) parts, one after the other,
    otherwise each process would hold a list of all items: part j takes every k-th item, j, j + k, j + 2 k, ..., in a
    random order of its own.

    Args:
        position: Place in the epoch, in [0, length).
        length: Number of items.
        most: Most items of one part.
    """
    parts = -(-length // most)
    size, longer = divmod(length, parts)  # the first `longer` parts have one item more
    part, place = divmod(position, size + 1)
    if part >= longer:
        part, place = divmod(position - longer, size)
    return part + parts * int(_permutation(size + (part < longer), seed, epoch, part)[place])


@lru_cache(maxsize=1)  # samples are read in order, so that one permutation is in use at a time
def _permutation(length: int, seed: int, epoch: int, part: int) -> np.ndarray:
    draws = generator(seed, "order", epoch, part)
    return torch.randperm(length, generator=draws, dtype=torch.int32).numpy()
