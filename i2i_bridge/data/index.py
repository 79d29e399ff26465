"""Compact lists of file names, and a cache of long listings.

Long listings are cached in a folder (`I2I_CACHE_DIR`, by default `i2i-bridge` in the user's cache folder), never beside
the images. If the cache is lost or damaged, the files are listed again.
"""

import contextlib
import hashlib
import io
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Self

import numpy as np

from i2i_bridge.errors import UserError
from i2i_bridge.images.folder import IMAGE_SUFFIXES, list_images
from i2i_bridge.storage.files import write_whole
from i2i_bridge.storage.reader import DAMAGED_ARRAYS, open_arrays

WORTH_KEEPING = 20_000
"""Minimum length of a cached list; a shorter one is made as fast as it is read."""
SETTLED = 2 * 10**9
"""Coarsest resolution of modification times on common file systems, in nanoseconds."""


class Names(Sequence[str]):
    """Immutable sequence of strings, stored in two arrays.

    A million paths take 40 MB, instead of 150 MB as a list. Forked data workers share the arrays; the pages of a list
    of strings would be copied into each worker by reference counting.

    Args:
        names: The strings; may contain the surrogates of undecodable file names.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        encoded = [name.encode("utf-8", "surrogateescape") for name in names]
        self.text = np.frombuffer(b"".join(encoded), np.uint8)
        self.ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)

    @classmethod
    def packed(cls, text: np.ndarray, ends: np.ndarray) -> Self:
        """Create the sequence from its two arrays.

        Raises:
            ValueError: The arrays are inconsistent.
        """
        if len(ends) == 0 or ends[0] != 0 or ends[-1] != len(text) or (np.diff(ends) < 0).any():
            raise ValueError("not the arrays of a list of names")
        made = cls()
        made.text, made.ends = text, ends
        return made

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index = int(index) % len(self)
        return self.text[self.ends[index] : self.ends[index + 1]].tobytes().decode("utf-8", "surrogateescape")

    def take(self, positions: np.ndarray) -> "Names":
        """The names at the given positions."""
        return self if len(positions) == len(self) else Names(self[i] for i in positions)


class ImageNames(Names):
    """Relative paths of the images below a folder."""

    left_out: Sequence[str] = ()
    """Relative paths of files and links that are not used; see `Listing.left_out`."""


def image_names(folder: Path) -> ImageNames:
    """Relative paths of all images below a folder, sorted; from the cache if no folder has changed.

    A folder's modification time changes whenever a file in it is created, deleted or renamed; so only the times of the
    folders are compared, not those of the files.

    Raises:
        UserError: A folder cannot be listed.
    """
    what = f"images {_kinds()} {folder.resolve()}"
    known = recall(what)
    with contextlib.suppress(KeyError, ValueError, OSError):
        if known is not None:
            folders = Names.packed(known["folders"], known["folder_ends"])
            if np.array_equal(_times(folder, folders), known["times"]):
                names = ImageNames.packed(known["names"], known["name_ends"])
                names.left_out = Names.packed(known["left_out"], known["left_out_ends"])
                return names
    began = time.time_ns()
    listing = list_images(folder)
    names = ImageNames(listing.images)
    names.left_out = listing.left_out
    if len(names) >= WORTH_KEEPING:
        folders, left_out = Names(listing.folders), Names(listing.left_out)
        times = _times(folder, folders)
        if times.max() < began - SETTLED:  # otherwise a change within the clock's resolution could go unnoticed
            arrays: dict[str, np.ndarray] = {"names": names.text, "name_ends": names.ends, "folders": folders.text}
            arrays |= {"folder_ends": folders.ends, "times": times}
            remember(what, arrays | {"left_out": left_out.text, "left_out_ends": left_out.ends})
    return names


def _kinds() -> str:
    """Digest of the supported suffixes; otherwise a list cached by a version with fewer suffixes would be used."""
    return hashlib.blake2b(" ".join(sorted(IMAGE_SUFFIXES)).encode(), digest_size=4).hexdigest()


def _times(folder: Path, inside: Names) -> np.ndarray:
    return np.array([(folder / name).stat().st_mtime_ns for name in inside], dtype=np.int64)


def recall(what: str) -> dict[str, np.ndarray] | None:
    """Read arrays from the cache; None if there are none of this name, or they cannot be read."""
    file = _file(what)
    if file is None:
        return None
    try:
        with open_arrays(file) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except (OSError, *DAMAGED_ARRAYS):
        return None
    # The file name is a hash of the name; the full name in the file rules out a collision.
    return arrays if str(arrays.pop("what", "")) == what else None


def remember(what: str, arrays: dict[str, np.ndarray]) -> None:
    """Write arrays to the cache under a name; does nothing if the cache folder cannot be written."""
    file = _file(what)
    if file is None:
        return
    data = io.BytesIO()
    np.savez(data, what=np.array(what.encode("utf-8", "backslashreplace").decode()), **arrays)  # type: ignore[arg-type]
    with contextlib.suppress(UserError):
        write_whole(file, data.getvalue())


def cache_folder() -> Path | None:
    """The cache folder: `$I2I_CACHE_DIR`, else `i2i-bridge` in the user's cache folder; None without a home folder.

    Not by platformdirs: the folders are the same on every system, as the documentation names them.
    """
    if given := os.environ.get("I2I_CACHE_DIR"):
        return Path(given)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "i2i-bridge"
    except RuntimeError:  # a user without a home folder, as in a container
        return None


def _file(what: str) -> Path | None:
    name = hashlib.blake2b(what.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
    folder = cache_folder()
    return None if folder is None else folder / "listings" / f"{name}.npz"
