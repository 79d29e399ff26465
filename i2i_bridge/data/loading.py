"""From items to batches: decode, cut, degrade, collate; every draw keyed by (seed, purpose, sample)."""

import contextlib
import errno
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Generator, Iterator, Sequence
from functools import cached_property
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from i2i_bridge.data.items import item_of
from i2i_bridge.data.order import shuffled
from i2i_bridge.data.pairs import PairSource
from i2i_bridge.data.transforms import Enlargement, Geometry, enlarged, factor_between
from i2i_bridge.degradations.base import Degradation, Degraded
from i2i_bridge.degradations.inpaint import Holed
from i2i_bridge.errors import TRY_AGAIN, UserError
from i2i_bridge.files import IO_ERROR
from i2i_bridge.images import (
    Picture,
    Range,
    from_pil,
    image_size,
    mask_of,
    opaque,
    read_picture,
    to_mask,
    to_pixels,
    to_tensor,
    with_channels,
)
from i2i_bridge.randomness import generator, key
from i2i_bridge.registry import errors_in_words, load_plugin, loaded_plugins

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
LOOKED_AT = 32
"""So many images tell what becomes of all."""
STOP_SIGNALS = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP")
"""What a terminal (SIGHUP: it was closed) or a scheduler sends to stop a run."""
TRIES = 20
"""So many images in a row that cannot be used end a run with data.on_error = "skip"."""
LASTING = (None, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG)
"""Errors of the system that say something about a file. Any other may pass, and is no reason to train on another image:
the same run would then end with other weights."""


class PairDataset(Dataset[dict[str, Any]]):
    """Items as tensors: x_0, x_1 (C, H, W) in [-1, 1], key, the file's dtype, and where there are some mask (1, H, W),
    condition and label (an integer).

    What a degradation drew is in "parameters", a number for each of its names; the item has none if it draws nothing.

    `dataset[i]` is item i, its draws keyed by the item's key alone: the same for every method and NFE that is compared.
    `dataset.sample(n)` is training sample n of an endless stream: in epoch e = n // len, item permutation_e(n % len),
    its draws keyed by n. Both are pure functions of their argument and the seed.

    Args:
        source: A dataset kind.
        geometry: Resize, crop and flip.
        degradation: Makes x_1 (and mask, condition) where the source has no pairs; where an item brings a mask, its
            hole is filled.
        channels: Of the images.
        seed: Of every draw.
        purpose: Keeps the draws of training and validation apart.
        condition_channels: What the network takes as its condition; 0 for none.
        own_condition: Whether the source's items bring the condition; else it is the degradation's, or X_1.
        value_range: Pixel values that mean -1 and 1.
        enlarge: How an x_1 that is a whole number of times smaller than x_0 is brought to its size.
        factor: That number; by default the first readable item's.
        on_error: What `sample` does with an item that cannot be used: "stop" raises, "skip" takes another item.

    Raises:
        UserError: From items: the source has neither pairs nor a degradation, or both, a file is unusable, or the
            condition is not what the network takes.
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
    ) -> None:
        self.value_range, self.on_error = value_range, on_error
        self.enlarge, self._factor = enlarge, factor
        self.source, self.geometry, self.degradation = source, geometry, degradation
        self.channels, self.seed, self.purpose = channels, seed, purpose
        self.condition_channels, self.own_condition = condition_channels, own_condition

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._item(item_of(self.source, index), ())

    def sample(self, number: int) -> dict[str, Any]:
        """Training sample `number` of the endless stream, counted from 0 over all epochs.

        With `on_error="skip"` an item that cannot be used is replaced by the next one of an order keyed by (seed,
        number), so the replacement is the same for any number of workers and after any interruption, as long as the
        files are the same. The sample's "unusable" then lists (index, key, reason) of each item that was passed over.

        Raises:
            UserError: The item is unusable; with "skip", TRIES items (or all) are, or an error of the system that may
                pass kept a file from being read.
        """
        unusable: list[tuple[int, str, str]] = []
        for index in self._candidates(number):
            try:
                sample = self._item(item_of(self.source, index), (number,))
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
        first, length = self._index(number), len(self.source)
        yield first
        seed, others = key(self.seed, "replacement", number), 1
        for turn in range(length if self.on_error == "skip" else 0):
            index = shuffled(turn, length, seed, 0)
            if index != first and others < TRIES:
                others += 1
                yield index

    def is_usable(self, index: int) -> bool:
        """Whether item `index` can be read and degraded now."""
        try:
            self._item(item_of(self.source, index), (0,))
        except UserError:
            return False
        return True

    def _name(self, index: int) -> str:
        try:
            return str(item_of(self.source, index)["key"])
        except UserError:
            return f"item {index}"

    def key_of(self, number: int) -> str:
        """The key of the item that training sample `number` is of."""
        if self.on_error == "skip":
            return str(self.sample(number)["key"])
        return str(item_of(self.source, self._index(number))["key"])

    @cached_property
    def factor(self) -> int:
        """How many times smaller the sources x_1 come than the targets x_0."""
        if self._factor is not None:
            return self._factor
        for index in range(min(len(self.source), LOOKED_AT)):
            try:
                item = item_of(self.source, index)
                return factor_between(size_of(item["x_0"], place(item)), size_of(item["x_1"], place(item))) or 1
            except KeyError:  # there is no x_1
                break
            except UserError:  # said where the item is used; the next one may be readable
                continue
        return 1

    def changes(self, indices: Sequence[int] | None = None) -> list[str]:
        """What becomes of the files before training or scoring sees them, a line each: resized, padded, enlarged.

        As far as the headers of some of the images tell.

        Args:
            indices: Of the items that matter; by default all.
        """
        known = range(len(self.source)) if indices is None else indices
        sizes = []
        for i in known[:: max(len(known) // LOOKED_AT, 1)][:LOOKED_AT]:
            with contextlib.suppress(UserError):  # said where the item is used
                item = item_of(self.source, int(i))
                sizes.append(size_of(item["x_0"], place(item)))
        lines = self.geometry.changes(sizes)
        if self.factor > 1:
            lines.append(f"x_1 is enlarged {self.factor} times ({self.enlarge})")
        return lines

    def notes(self, indices: Sequence[int] | None = None) -> list[str]:
        """What a user should know of the images before they are used, a line each: files left out, and `changes`."""
        return [*getattr(self.source, "left_out", ()), *self.changes(indices)]

    def _index(self, number: int) -> int:
        epoch, position = divmod(number, len(self.source))
        return shuffled(position, len(self.source), self.seed, epoch)

    def _item(self, item: dict[str, Any], draw: tuple[int, ...]) -> dict[str, Any]:
        name = str(item["key"])
        keyed = draw or (name,)
        where = place(item)
        if "x_1" in item and self.degradation is not None:
            raise UserError(f"{where}: this dataset has pairs; leave [degradation] out of the recipe")
        if self.own_condition != ("condition" in item):
            brings = "no condition" if self.own_condition else "a condition of its own"
            raise UserError(f"{where}: this item brings {brings}, but data.own_condition is {self.own_condition}")
        if self.value_range is not None and any(
            isinstance(item.get(part), Tensor) and item[part].is_floating_point()
            for part in ("x_0", "x_1", "condition")
        ):
            raise UserError(f"{where}: float tensors are in [-1, 1] already; leave data.value_range out")
        images = decode_item(item, self.channels, self.condition_channels, self.enlarge, self.factor)
        try:
            cut = self.geometry(images, key(self.seed, f"{self.purpose} geometry", *keyed), self.factor)
        except UserError as error:
            raise UserError(f"{where}: {error}") from error
        mask = cut.pop("mask", None)
        try:
            out: dict[str, Any] = {part: to_tensor(pixels, self.value_range) for part, pixels in cut.items()}
        except UserError as error:
            raise UserError(f"{where}: {error}") from error
        if mask is not None:
            out["mask"] = to_mask(mask)
        if "x_1" not in out:
            out |= self._degraded(out["x_0"], out.get("mask"), keyed, where) | out
        there = len(out.get("condition", out["x_1"]))
        if self.condition_channels not in (0, there):
            raise UserError(
                f"{where}: the condition has {there} channels, but network.condition_channels is "
                f"{self.condition_channels}"
            )
        label = {"label": item["label"]} if "label" in item else {}
        return out | label | {"key": name, "dtype": images["x_0"].dtype.name}

    def _degraded(self, x_0: Tensor, mask: Tensor | None, keyed: tuple[int | str, ...], where: Any) -> dict[str, Any]:
        if self.degradation is None:
            raise UserError(f"{where}: no x_1; the recipe needs a [degradation], or a dataset of pairs")
        if mask is not None and not isinstance(self.degradation, Holed):
            raise UserError(
                f"{where}: this item brings a mask, and {type(self.degradation).__name__} would change what it says is "
                "known; that takes pairs, or a [degradation] that fills holes, such as inpaint"
            )
        draws = [generator(self.seed, f"{self.purpose} degradation", *keyed)]
        try:
            with errors_in_words():
                # The item's own hole is filled, and none is drawn beside it: x_1 must equal x_0 where its mask is 0.
                degraded = (
                    self.degradation(x_0[None], draws)
                    if mask is None
                    else self.degradation.prepare(x_0[None], draws, mask[None])
                )
        except UserError as error:
            raise UserError(f"{where}: {error}") from error
        if not isinstance(degraded, Degraded):
            given = type(degraded).__name__
            raise UserError(f"{type(self.degradation).__name__}: a degradation must return Degraded(x_1), not {given}")
        if not isinstance(degraded.x_1, Tensor) or degraded.x_1.shape != x_0[None].shape:
            given = tuple(degraded.x_1.shape) if isinstance(degraded.x_1, Tensor) else type(degraded.x_1).__name__
            name = type(self.degradation).__name__
            raise UserError(f"{name}: x_1 is {given} for x_0 of shape {tuple(x_0[None].shape)}; the shapes must agree")
        fields = {"x_1": degraded.x_1, "mask": degraded.mask, "condition": degraded.condition}
        out: dict[str, Any] = {part: value[0] for part, value in fields.items() if value is not None}
        parameters = {name: values[0] for name, values in degraded.parameters.items()}
        return out | ({"parameters": parameters} if parameters else {})


def _may_pass(error: BaseException | None) -> bool:
    """Whether an error comes from a state of the system (a lost network drive, no descriptors), not from a file."""
    while error is not None:
        if isinstance(error, OSError) and error.errno not in LASTING:
            return True
        error = error.__cause__
    return False


def place(item: dict[str, Any]) -> str:
    """Where an item comes from, for messages: its files, else its key."""
    files = [str(item[part]) for part in ("file", "x_0", "x_1", "condition") if isinstance(item.get(part), Path | str)]
    return " and ".join(files) or str(item["key"])


def decode_item(
    item: dict[str, Any],
    channels: int,
    condition_channels: int = 0,
    enlarge: Enlargement = "bicubic",
    factor: int | None = None,
) -> dict[str, np.ndarray]:
    """The pixels (H, W, C) of an item's x_0, x_1, mask and condition, those that are there, of one size.

    Args:
        channels: What the images are brought to.
        condition_channels: What the condition is brought to; 0 leaves it as it is.
        enlarge: How a smaller x_1 is brought to the size of x_0.
        factor: How many times smaller it must be; by default any whole number.

    Raises:
        UserError: A file is unreadable, the images differ in size, or cannot have that many channels.
    """
    where, images = place(item), raw_pixels(item)
    if "x_1" in images:
        images["x_1"] = _of_one_size(images, where, enlarge, factor)
    try:
        wanted = {"mask": 1, "condition": condition_channels}
        return {
            part: with_channels(pixels, wanted.get(part, channels) or pixels.shape[2])
            for part, pixels in images.items()
        }
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def raw_pixels(item: dict[str, Any]) -> dict[str, np.ndarray]:
    """The pixels (H, W, C) of an item's images, with the channels that they have, transparent parts over white.

    Raises:
        UserError: A file is unreadable, the images differ in size, or the mask is none (`mask_of`).
    """
    return {
        part: _mask_pixels(item, picture)[0] if part == "mask" else opaque(picture)
        for part, picture in pictures_of(item).items()
    }


def pictures_of(item: dict[str, Any]) -> dict[str, Picture]:
    """An item's images x_0, x_1, mask and condition, those that are there, as they were stored.

    All are of one size, but for an x_1 that is a whole number of times smaller.

    Raises:
        UserError: A file is unreadable, or the images differ in size otherwise.
    """
    where = place(item)
    parts = [part for part in ("x_0", "x_1", "mask", "condition") if part in item]
    pictures: dict[str, Picture] = {part: _picture(item[part], where, part == "mask") for part in parts}
    sizes = {part: picture.pixels.shape[:2] for part, picture in pictures.items()}
    others = {size for part, size in sizes.items() if part != "x_1"}
    if len(others) > 1 or ("x_1" in sizes and not factor_between(sizes["x_0"], sizes["x_1"])):
        shown = ", ".join(f"{part} {width}x{height}" for part, (height, width) in sizes.items())
        raise UserError(f"{where}: the images of a pair differ in size ({shown})")
    return pictures


def _of_one_size(images: dict[str, np.ndarray], where: str, enlarge: Enlargement, factor: int | None) -> np.ndarray:
    """x_1 at the size of x_0."""
    (height, width), (low, narrow) = images["x_0"].shape[:2], images["x_1"].shape[:2]
    times = height // low
    if factor is not None and times != factor:
        raise UserError(
            f"{where}: x_0 is {width}x{height} and x_1 {narrow}x{low} pixels, {times} to 1; in this dataset or run it "
            f"is {factor} to 1 (data.factor)"
        )
    return enlarged(images["x_1"], times, enlarge)


def size_of(image: Any, where: str) -> tuple[int, int]:
    """(height, width) of an item's image, of a file from its header alone.

    Raises:
        UserError: It is no image.
    """
    if isinstance(image, Path | str | bytes):
        return image_size(where if isinstance(image, bytes) else image, image if isinstance(image, bytes) else None)
    if isinstance(image, Image.Image):
        return image.height, image.width
    shape = getattr(image, "shape", ())
    if len(shape) not in (2, 3):
        raise UserError(f"{where}: the dataset gave {type(image).__name__}, which is no image")
    height, width = map(int, shape[-2:] if isinstance(image, Tensor) else shape[:2])
    return height, width


def remarks(item: dict[str, Any], pictures: dict[str, Picture]) -> list[str]:
    """What is worth knowing of an item's transparency and of its mask; a phrase for each, the same for all items.

    Raises:
        UserError: The mask is none (`mask_of`).
    """
    found = []
    if any(opaque(picture) is not picture.pixels for part, picture in pictures.items() if part != "mask"):
        found.append("with transparent parts, which are shown on white")
    if "mask" in pictures:
        pixels, remark = _mask_pixels(item, pictures["mask"])
        mask = to_mask(pixels)
        found += [f"with a mask {remark}"] if remark else []
        found += [] if mask.any() else [EMPTY_MASK]
        found += ["with a mask that marks every pixel as unknown"] if mask.all() else []
    return found


EMPTY_MASK = "with a mask that marks no pixel (white means unknown), which teaches nothing"


def first_remarks(dataset: "PairDataset", count: int = 8) -> list[str]:
    """The remarks on a few readable items of a dataset, evenly spread, one line for each.

    Raises:
        UserError: The masks of all of them are empty.
    """
    found: dict[str, list[str]] = {}
    seen = 0
    for index in sorted({len(dataset) * i // count for i in range(count)}):
        try:
            item = item_of(dataset.source, index)
            said = remarks(item, pictures_of(item))
        except UserError:  # said where training meets the item
            continue
        seen += 1
        for remark in said:
            found.setdefault(remark, []).append(place(item))
    if seen and len(found.get(EMPTY_MASK, [])) == seen:
        raise UserError(f"{found[EMPTY_MASK][0]}: all of {seen} images that were looked at are {EMPTY_MASK}")
    return [
        f"note: of {seen} images that were looked at, {len(where)} {remark} (first: {where[0]})"
        for remark, where in found.items()
    ]


def _mask_pixels(item: dict[str, Any], picture: Picture) -> tuple[np.ndarray, str]:
    try:
        return mask_of(picture)
    except UserError as error:
        mask = item["mask"]
        raise UserError(f"{mask if isinstance(mask, Path | str) else place(item)}: {error}") from error


def _picture(
    image: Path | str | bytes | Image.Image | np.ndarray | Tensor, where: str, is_mask: bool = False
) -> Picture:
    if isinstance(image, Path | str):
        return read_picture(image)
    if isinstance(image, bytes):
        return read_picture(where, image)
    if isinstance(image, Tensor):
        if is_mask and image.dtype in (torch.bool, *FLOATS) and bool((image >= 0).all()):
            image = image * 2.0 - 1  # a mask of 0 and 1, of which the 0 would be half of [-1, 1]
        return Picture(_tensor_pixels(image, where))
    if isinstance(image, Image.Image):
        return from_pil(image)
    if isinstance(image, np.ndarray) and image.dtype in (np.uint8, np.uint16, np.float32):
        return Picture(image if image.ndim == 3 else image[..., None])
    raise UserError(
        f"{where}: the dataset gave {type(image).__name__}; images are paths, bytes of a file, PIL images, "
        "uint8, uint16 or float32 arrays (H, W, C), or tensors (C, H, W) of uint8 or of floats in [-1, 1]"
    )


def _tensor_pixels(image: Tensor, where: str) -> np.ndarray:
    if image.ndim != 3:
        raise UserError(f"{where}: a tensor of shape {tuple(image.shape)}; an image is (C, H, W)")
    if image.dtype == torch.uint8:
        return np.ascontiguousarray(image.cpu().permute(1, 2, 0).numpy())
    if not image.is_floating_point():
        raise UserError(f"{where}: a tensor of {image.dtype}; images are uint8, or floats in [-1, 1]")
    # Half a 16-bit code of slack for arithmetic; [0, 255] and unnormalised values are far beyond it.
    if not (image.abs() <= 1 + 1e-5).all():
        raise UserError(f"{where}: a float tensor must lie in [-1, 1]; from {image.min():.4g} to {image.max():.4g}")
    return to_pixels(image, np.uint16)


LESS_MEMORY = "lower train.workers or data.load_size, or give the job more memory"


class _Stream(Dataset[Any]):
    """`sample` as a map-style dataset for the loader; a mistake travels as a value, since workers would wrap it."""

    def __init__(self, dataset: PairDataset) -> None:
        self.dataset = dataset

    def __getitem__(self, number: int) -> dict[str, Any] | UserError:
        try:
            return self.dataset.sample(number)
        except UserError as error:
            return error
        except MemoryError:
            return UserError(f"not enough memory to read a training image; {LESS_MEMORY}", TRY_AGAIN)


class Afresh(Dataset[Any]):
    """A dataset whose classes may come from plug-ins, for workers that start without them (spawn).

    Pickled, it is rebuilt with its arguments in their order: first the plug-ins' modules are loaded, then the dataset.
    """

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Any:
        return self.dataset[index]

    def __reduce__(self) -> tuple[Any, ...]:
        return _revived, (_Plugins(), self.dataset)


class _Plugins:
    def __reduce__(self) -> tuple[Any, ...]:
        return _load_plugins, (loaded_plugins(),)


def _load_plugins(files: list[str]) -> None:
    for file in files:
        load_plugin(file)


def _revived(plugins: None, dataset: Dataset[Any]) -> Afresh:
    return Afresh(dataset)


class _Batches(Sampler[list[int]]):
    """The global sample numbers of one process, batch after batch, without end."""

    def __init__(self, batch_size: int, start_step: int, rank: int, world_size: int) -> None:
        self.batch_size, self.start_step = batch_size, start_step
        self.share = batch_size // world_size
        self.offset = rank * self.share

    def __iter__(self) -> Iterator[list[int]]:
        step = self.start_step
        while True:
            first = step * self.batch_size + self.offset
            yield list(range(first, first + self.share))
            step += 1


def _collate(items: list[dict[str, Any] | UserError]) -> dict[str, Any] | UserError:
    for item in items:
        if isinstance(item, UserError):
            return item
    plain = [{name: value for name, value in item.items() if name != "unusable"} for item in items]  # type: ignore[union-attr]
    batch: dict[str, Any] = default_collate(plain)
    # One list for each sample, empty for most, which default_collate does not take.
    return batch | {"unusable": [item.get("unusable", []) for item in items]}  # type: ignore[union-attr]


def _bind(worker: int) -> None:
    """Begins a worker: deaf to stop signals, and gone when the training process is, however that ended."""
    # Terminals signal a whole process group, schedulers every process of a job: the training process alone decides
    # when to stop, and saves first.
    for name in STOP_SIGNALS:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    # torch's own watch looks between two batches only, and is deceived if the parent dies while the worker starts.
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_follow, args=(parent.sentinel,), daemon=True).start()


def _follow(sentinel: int) -> None:
    multiprocessing.connection.wait([sentinel])
    os._exit(1)


class _Watch:
    """Notices workers that died, but only while a batch is waited for.

    torch's own handler of SIGCHLD raises wherever the program is, also within an optimizer step or a save; the state
    of that moment could then not be saved.

    Args:
        workers: The loader's processes, started already.
    """

    def __init__(self, workers: list[BaseProcess]) -> None:
        self._workers, self._is_waiting = workers, False
        main = threading.current_thread() is threading.main_thread() and hasattr(signal, "SIGCHLD")
        self._theirs = signal.getsignal(signal.SIGCHLD) if main else None
        if callable(self._theirs):
            signal.signal(signal.SIGCHLD, self._heed)

    def _heed(self, number: int, frame: FrameType | None) -> None:
        if self._is_waiting and callable(self._theirs):
            self._theirs(number, frame)

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """While a batch is fetched.

        Raises:
            UserError: A worker died, or memory does not suffice.
        """
        self._is_waiting = True
        try:
            if self._ended():
                raise RuntimeError("DataLoader worker exited unexpectedly")
            yield
        except (RuntimeError, MemoryError, OSError, EOFError) as error:
            self._is_waiting = False
            if isinstance(error, OSError | EOFError):  # a dying worker's connections close before it has ended
                self._wait_for_an_end()
            problem = worker_problem(error, self._ended())
            if problem is None:
                raise
            raise problem from error
        finally:
            self._is_waiting = False

    def _wait_for_an_end(self, seconds: float = 5) -> None:
        sentinels = {worker.sentinel: worker for worker in self._workers}
        for ready in multiprocessing.connection.wait(list(sentinels), timeout=seconds) if sentinels else []:
            sentinels[ready].join(seconds)  # type: ignore[index]

    def _ended(self) -> list[int]:
        return [worker.exitcode for worker in self._workers if worker.exitcode is not None]

    def close(self) -> None:
        """Put torch's handler back."""
        if callable(self._theirs):
            with contextlib.suppress(ValueError):  # closed from another thread
                signal.signal(signal.SIGCHLD, self._theirs)


def worker_problem(error: Exception, codes: list[int], less: str = LESS_MEMORY) -> UserError | None:
    """What the loss of a data worker, or its lack of memory, means; None for another error.

    Args:
        codes: Exit codes of the workers that ended, as `multiprocessing` gives them.
        less: What to do where memory does not suffice.
    """
    text = str(error)
    shared = ("shared memory", "bus error", "unable to write to file </torch", "unable to mmap")
    if -signal.SIGBUS in codes or any(word in text.lower() for word in shared):
        return UserError(
            "a data worker found no room in shared memory (/dev/shm); give the container more "
            "(docker run --shm-size=8g), or set train.workers=0",
            TRY_AGAIN,
        )
    if -signal.SIGKILL in codes or "killed by signal: Killed" in text:
        return UserError(f"a data worker was killed, as a system does that is out of memory; {less}", TRY_AGAIN)
    if isinstance(error, MemoryError):
        return UserError(f"not enough memory to read the images; {less}", TRY_AGAIN)
    if codes or "DataLoader worker (pid" in text:
        how = _how(codes[0]) if codes else " ".join(text.split())
        return UserError(f"a data worker ended unexpectedly ({how}); train.workers=0 shows where", TRY_AGAIN)
    return None


def _how(code: int) -> str:
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name


def training_batches(
    dataset: PairDataset,
    batch_size: int,
    *,
    start_step: int = 0,
    rank: int = 0,
    world_size: int = 1,
    workers: int = 0,
) -> Generator[dict[str, Any], None, None]:
    """An endless stream of training batches from any step on, the same for every number of workers.

    When it is closed its workers are gone.

    Step s of a run of W processes takes the sample numbers s B ... (s + 1) B - 1; process r the r-th of W equal parts.

    Args:
        batch_size: B, over all processes.

    Raises:
        UserError: An item is unusable, raised when its batch is reached; or a worker was killed or lacks memory.
    """
    loader: DataLoader[Any] = DataLoader(
        Afresh(_Stream(dataset)),
        batch_sampler=_Batches(batch_size, start_step, rank, world_size),
        num_workers=workers,
        collate_fn=_collate,
        worker_init_fn=_bind,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=workers > 0,
        # The loader draws its workers' base seed from somewhere; no sample uses it.
        generator=torch.Generator().manual_seed(0),
    )
    before = {child.pid for child in multiprocessing.active_children()}
    batches = iter(loader)
    mine = [child for child in multiprocessing.active_children() if child.pid not in before]
    watch = _Watch(mine)
    try:
        while True:
            with watch.waiting():
                batch = next(batches)
            if isinstance(batch, UserError):
                raise batch
            yield batch
    finally:
        if mine:
            batches._shutdown_workers()  # type: ignore[attr-defined]  # they are asked to go
        for child in mine:  # whoever is stuck in a file, and deaf to the signal that torch sends next
            child.kill()
            child.join()
        watch.close()
