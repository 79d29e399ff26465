"""`PairDataset`: decodes, crops and degrades the items of a dataset; every draw is keyed by (seed, purpose, sample)."""

import contextlib
import copy
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from i2i_bridge.data.alignment import overlap_of, shift_between
from i2i_bridge.data.items import EMPTY_MASK, decode_item, location, pictures_of, remarks, size_of
from i2i_bridge.data.order import shuffled
from i2i_bridge.data.source import PairSource, item_of
from i2i_bridge.data.transforms import Enlargement, Geometry, factor_between
from i2i_bridge.degradations.base import Degradation, degraded_by
from i2i_bridge.degradations.inpaint import Holed
from i2i_bridge.errors import IO_ERROR, UserError, located, plural
from i2i_bridge.images.pixels import Range, to_mask, to_tensor
from i2i_bridge.randomness import generator, key, rand
from i2i_bridge.storage.reader import may_pass

LOOKED_AT = 32
"""Number of images from whose headers `changes` and `factor` are determined."""
UNKNOWN = np.iinfo(np.int16).min
"""Marks pairs whose shift was not estimated yet."""
TRIES = 20
"""Number of unusable images in a row that end a run with data.on_error = "skip"."""


class PairDataset(Dataset[dict[str, Any]]):
    """Items as dictionaries of tensors.

    An item has x_0 and x_1 (C, H, W) in [-1, 1], `key`, the file's `dtype`, and optionally mask (1, H, W), condition
    (K, H, W), direction (1, H, W), an integer `label`, and `parameters`: the numbers drawn by the degradation, by name.

    `dataset[i]` is item i, its draws keyed by the item's key alone: the same for every method and NFE that is compared.
    `dataset.sample(n)` is training sample n of an endless stream: in epoch e = n // len, item permutation_e(n % len),
    its draws keyed by n. Both are pure functions of their argument and the seed.

    Args:
        source: A dataset kind.
        geometry: Resize, crop and flip.
        degradation: Computes x_1 (and mask, condition) if the source has no pairs. For an item with a mask, the
            degradation fills the hole of that mask.
        channels: Number of channels of x_0 and x_1.
        seed: Seed of all draws.
        purpose: Part of the key of the draws, such as 'train'; training and validation draws differ by it.
        condition_channels: Number of channels of the network's condition; 0 for none.
        classes: Number of class labels of the network; 0 for none.
        own_condition: Whether the items of the source have the condition; otherwise it comes from the degradation, or
            is x_1.
        value_range: Pixel values that map to -1 and 1.
        enlarge: Interpolation by which an x_1 smaller than x_0 by an integer factor is enlarged.
        factor: That factor; by default the one of the first readable item.
        align: Crop pairs whose sides are shifted by more than one pixel to their overlap; pairs with a mask stay.
        reverse: Exchange x_0 and x_1 of `dataset[i]`. A condition that came from the degradation is left out then: it
            would show the target.
        both: Items have a direction, 1 where the sides are exchanged, and `sample` draws it evenly for each number.
        on_error: What `sample` does with an unusable item: "stop" raises an error, "skip" takes another item.

    Raises:
        UserError: Raised by item access: there are neither pairs nor a degradation, or both, a file is unusable, or the
            condition does not fit the network.
    """

    def __init__(
        self,
        source: PairSource,
        geometry: Geometry,
        degradation: Degradation | None,
        channels: int,
        seed: int,
        purpose: str,
        condition_channels: int = 0,
        own_condition: bool = False,
        value_range: Range = None,
        enlarge: Enlargement = "bicubic",
        factor: int | None = None,
        on_error: str = "stop",
        align: bool = False,
        reverse: bool = False,
        both: bool = False,
        classes: int = 0,
    ) -> None:
        self.reverse, self.both = reverse, both
        self._change: Callable[[dict[str, Any]], dict[str, Any]] | None = None
        self.align = align
        self._shifts = np.full((len(source) if align else 0, 2), UNKNOWN, np.int16)
        self.value_range, self.on_error = value_range, on_error
        self.enlarge, self._factor = enlarge, factor
        self.source, self.geometry, self.degradation = source, geometry, degradation
        self.channels, self.seed, self.purpose = channels, seed, purpose
        self.condition_channels, self.own_condition = condition_channels, own_condition
        self.classes = classes

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = self._item(index, ())
        return item if self._change is None else self._change(item)

    def mapped(self, change: Callable[[dict[str, Any]], dict[str, Any]]) -> "PairDataset":
        """A copy whose `dataset[i]` is `change(item)`, such as the item's latents."""
        other = copy.copy(self)
        other._change = change
        return other

    def directions(self) -> "list[PairDataset]":
        """This dataset, or forward and reverse copies of it if items have a direction."""
        if not self.both:
            return [self]
        forward, reverse = copy.copy(self), copy.copy(self)
        forward.reverse, reverse.reverse = False, True
        return [forward, reverse]

    @property
    def operator(self) -> Degradation | None:
        """The degradation that x_1 of `dataset[i]` is a measurement by; None for pairs and for exchanged sides."""
        return None if self.reverse else self.degradation

    def sample(self, number: int) -> dict[str, Any]:
        """Training sample `number` of the endless stream, counted from 0 over all epochs.

        With `on_error="skip"` an unusable item is replaced by the next usable one of an order keyed by (seed, number).
        The replacement is therefore the same for any number of workers and after any interruption, as long as the files
        are the same. The sample's "unusable" then lists (index, key, reason) of each skipped item.

        Raises:
            UserError: The item is unusable; with "skip": TRIES items (or all) are unusable, or a file could not be read
                because of a system error that may be temporary.
        """
        unusable: list[tuple[int, str, str]] = []
        for index in self._candidates(number):
            try:
                sample = self._item(index, (number,))
            except UserError as error:
                if self.on_error != "skip":
                    raise
                if _may_pass(error):
                    raise UserError(str(error), IO_ERROR) from error
                unusable.append((index, self._name(index), str(error)))
                continue
            return sample | ({"unusable": unusable} if unusable else {})
        raise UserError(f"{len(unusable)} images in a row cannot be used; the last: {unusable[-1][2]}")

    def _candidates(self, number: int) -> Iterator[int]:
        """The item of a sample, then up to TRIES - 1 others to replace it, drawn by (seed, number)."""
        first, length = self._index(number), len(self.source)
        yield first
        drawn = random.Random(key(self.seed, "replacement", number)).sample(range(length), min(length, TRIES))
        yield from [index for index in drawn if index != first][: TRIES - 1]

    def is_usable(self, index: int) -> bool:
        """Whether item `index` can be read and degraded now."""
        try:
            self._item(index, (0,))
        except UserError:
            return False
        return True

    def _name(self, index: int) -> str:
        try:
            return str(item_of(self.source, index)["key"])
        except UserError:
            return f"item {index}"

    def key_of(self, number: int) -> str:
        """The key of the item of training sample `number`."""
        if self.on_error == "skip":
            return str(self.sample(number)["key"])
        return str(item_of(self.source, self._index(number))["key"])

    @cached_property
    def factor(self) -> int:
        """Integer factor by which the stored x_1 are smaller than x_0; 1 if they have the same size."""
        if self._factor is not None:
            return self._factor
        for index in range(min(len(self.source), LOOKED_AT)):
            try:
                item = item_of(self.source, index)
                return factor_between(size_of(item["x_0"], location(item)), size_of(item["x_1"], location(item))) or 1
            except KeyError:  # there is no x_1
                break
            except UserError:  # reported when the item is used; the next one may be readable
                continue
        return 1

    def changes(self, indices: Sequence[int] | None = None) -> list[str]:
        """Notes on how images are resized, padded, enlarged or not aligned, one line each, from LOOKED_AT headers.

        Args:
            indices: Indices of the items in use; by default all.
        """
        known = range(len(self.source)) if indices is None else indices
        sizes, masked = [], False
        for i in known[:: max(len(known) // LOOKED_AT, 1)][:LOOKED_AT]:
            with contextlib.suppress(UserError):  # reported when the item is used
                item = item_of(self.source, int(i))
                masked |= "mask" in item
                sizes.append(size_of(item["x_0"], location(item)))
        lines = self.geometry.changes(sizes)
        if self.factor > 1:
            lines.append(f"x_1 is enlarged {self.factor} times ({self.enlarge})")
        if self.align and masked:
            lines.append("data.align = 'crop' leaves pairs with a mask as they are")
        return lines

    def notes(self, indices: Sequence[int] | None = None) -> list[str]:
        """Notes to print before the images are used, one line each: files left out, and `changes`."""
        return [*getattr(self.source, "left_out", ()), *self.changes(indices)]

    def _index(self, number: int) -> int:
        epoch, position = divmod(number, len(self.source))
        return shuffled(position, len(self.source), self.seed, epoch)

    def _item(self, index: int, draw: tuple[int, ...]) -> dict[str, Any]:
        item = item_of(self.source, index)
        name = str(item["key"])
        keyed = draw or (name,)
        with located(location(item)):
            self._check_parts(item)
        images = decode_item(item, self.channels, self.condition_channels, self.enlarge, self.factor)
        if self.align and "x_1" in images and "mask" not in images:
            images = self._aligned(index, images)
        with located(location(item)):
            cut = self.geometry(images, key(self.seed, f"{self.purpose} geometry", *keyed), self.factor)
            if self.geometry.augmentation is not None:
                cut = self.geometry.augmentation.painted(cut, key(self.seed, f"{self.purpose} colours", *keyed))
            mask = cut.pop("mask", None)
            out: dict[str, Any] = {part: to_tensor(pixels, self.value_range) for part, pixels in cut.items()}
            if mask is not None:
                out["mask"] = to_mask(mask)
            if "x_1" not in out:
                out |= self._degraded(out["x_0"], out.get("mask"), keyed) | out
            out = self._directed(out, draw)
            channels = len(out.get("condition", out["x_1"]))
            if (wanted := self.condition_channels) not in (0, channels):
                raise UserError(
                    f"the condition has {plural(channels, 'channel')}, but network.condition_channels is {wanted}"
                )
        label = {"label": item["label"]} if "label" in item else {}
        if self.classes and not 0 <= label.get("label", -1) < self.classes:
            given = f"its label is {label['label']}" if label else "it has no label"
            wanted_labels = f"network.classes is {self.classes}, so labels are 0 to {self.classes - 1}"
            raise UserError(f"{location(item)}: {given}, but {wanted_labels}")
        return out | label | {"key": name, "dtype": images["x_0"].dtype.name}

    def _directed(self, out: dict[str, Any], draw: tuple[int, ...]) -> dict[str, Any]:
        """Exchange x_0 and x_1 where the item goes in reverse, and add the direction if the network learns both."""
        reverse = self.reverse
        if self.both and draw:
            reverse = bool(rand((1,), generator(self.seed, "direction", *draw)) < 0.5)
        if reverse:
            out = out | {"x_0": out["x_1"], "x_1": out["x_0"]}
            if not self.own_condition:
                out.pop("condition", None)
        return out | ({"direction": torch.full_like(out["x_0"][:1], float(reverse))} if self.both else {})

    def _check_parts(self, item: dict[str, Any]) -> None:
        """Refuse an item with a part that the recipe's [data] or [degradation] has no use for."""
        if "x_1" in item and self.degradation is not None:
            raise UserError("this dataset has pairs; leave [degradation] out of the recipe")
        if self.own_condition != ("condition" in item):
            brings = "no condition" if self.own_condition else "a condition of its own"
            raise UserError(f"this item brings {brings}, but data.own_condition is {self.own_condition}")
        if self.value_range is not None and any(
            isinstance(item.get(part), Tensor) and item[part].is_floating_point()
            for part in ("x_0", "x_1", "condition")
        ):
            raise UserError("float tensors are in [-1, 1] already; leave data.value_range out")

    def _aligned(self, index: int, images: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        if self._shifts[index, 0] == UNKNOWN:  # estimated once for each pair and worker: it takes longer than a crop
            self._shifts[index] = shift_between(images["x_0"], images["x_1"]) or (0, 0)
        row, column = self._shifts[index].tolist()
        if max(abs(row), abs(column)) <= 1:
            return images
        # A condition lies where the source lies.
        cut = {
            part: overlap_of(images["x_0"], pixels, (row, column), self.factor)
            for part, pixels in images.items()
            if part != "x_0"
        }
        return {"x_0": cut["x_1"][0]} | {part: second for part, (_, second) in cut.items()}

    def _degraded(self, x_0: Tensor, mask: Tensor | None, keyed: tuple[int | str, ...]) -> dict[str, Any]:
        name = type(self.degradation).__name__
        if self.degradation is None:
            raise UserError("no x_1; the recipe needs a [degradation], or a dataset of pairs")
        if mask is not None and not isinstance(self.degradation, Holed):
            raise UserError(
                f"this item brings a mask, and {name} would change what it says is "
                "known; that takes pairs, or a [degradation] that fills holes, such as inpaint"
            )
        draws = [generator(self.seed, f"{self.purpose} degradation", *keyed)]
        # For an item with a mask no other mask is drawn: x_1 must equal x_0 where the item's mask is 0.
        degraded = degraded_by(self.degradation, x_0[None], draws, None if mask is None else mask[None])
        out: dict[str, Any] = {part: value[0] for part, value in degraded.parts().items()}
        parameters = {name: values[0] for name, values in degraded.parameters.items()}
        return out | ({"parameters": parameters} if parameters else {})


def _may_pass(error: BaseException | None) -> bool:
    """Whether an error has a system cause that may be temporary, such as a lost network drive or no descriptors.

    Such an error does not skip the image; otherwise a repeated run could use other images and end with other weights.
    """
    while error is not None:
        if isinstance(error, OSError) and may_pass(error):
            return True
        error = error.__cause__
    return False


def evenly_spread(length: int, count: int) -> list[int]:
    """Indices of `count` items of `length`, evenly spread; all of them if there are no more than `count`."""
    count = min(length, count)
    return [length * i // count for i in range(count)]


def usable_items(dataset: PairDataset, indices: Iterable[int]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Index and item of each index; with `on_error="skip"` the unusable ones are left out.

    Raises:
        UserError: An item is unusable, and `on_error` is "stop".
    """
    for index in indices:
        try:
            item = dataset[index]
        except UserError:
            if dataset.on_error != "skip":
                raise
            continue
        yield index, item


def first_remarks(dataset: PairDataset) -> list[str]:
    """The remarks on 8 evenly spaced items of a dataset, one line for each remark.

    Raises:
        UserError: All masks of these items are empty.
    """
    items: dict[str, list[str]] = {}
    seen = 0
    for index in evenly_spread(len(dataset), 8):
        try:
            item = item_of(dataset.source, index)
            phrases = remarks(item, pictures_of(item))
        except UserError:  # reported when training uses the item
            continue
        seen += 1
        for remark in phrases:
            items.setdefault(remark, []).append(location(item))
    checked = plural(seen, "image that was checked", "images that were checked")
    if seen and len(items.get(EMPTY_MASK, [])) == seen:
        raise UserError(f"{items[EMPTY_MASK][0]}: all of {checked} are {EMPTY_MASK}")
    return [f"note: of {checked}, {len(where)} {remark} (first: {where[0]})" for remark, where in items.items()]
