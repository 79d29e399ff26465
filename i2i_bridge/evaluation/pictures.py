"""The pictures of an evaluation: images/ROW/NAME.png beside its results."""

import re
from collections.abc import Collection, Mapping
from pathlib import Path

from torch import Tensor

from i2i_bridge.evaluation.items import EvaluatedItem, ItemFacts
from i2i_bridge.evaluation.records import CLEAN, slug
from i2i_bridge.evaluation.results import INPUT
from i2i_bridge.evaluation.subjects import picture_name
from i2i_bridge.images.files import write_picture
from i2i_bridge.images.pixels import Picture, shown
from i2i_bridge.storage.files import remove

ALL_PICTURES, SOME_PICTURES = 256, 64
"""All images are written as PNG if there are at most ALL_PICTURES, else the first SOME_PICTURES."""


class SavedPictures:
    """The PNGs of an evaluation.

    Args:
        folder: `images/` of the evaluation.
        root: No folder from here down may be a link.
        count: Number of evaluated items.
    """

    def __init__(self, folder: Path, root: Path, count: int) -> None:
        self.folder, self.root = folder, root
        self.saved = count if count <= ALL_PICTURES else SOME_PICTURES

    def file(self, row: str, item: EvaluatedItem | ItemFacts) -> Path:
        """The file of an item's picture."""
        return self.folder / slug(row) / f"{picture_name(item.position, item.key)}.png"

    def include(self, row: str, item: EvaluatedItem | ItemFacts) -> bool:
        """Whether the item's picture of a row is saved; that of a clean image is saved with the first row."""
        return row != CLEAN and 0 <= item.position < self.saved

    def lacks(self, row: str, item: EvaluatedItem | ItemFacts) -> bool:
        """Whether a picture that belongs to the evaluation is missing."""
        return self.include(row, item) and not self.file(row, item).is_file()

    def write(self, item: EvaluatedItem, pictures: Mapping[str, Tensor]) -> None:
        """Write pictures of an item, by row."""
        for row, picture in pictures.items():
            write_picture(self.file(row, item), Picture(shown(picture)), root=self.root)

    def remove_stale(self, items: Collection[ItemFacts], rows: Collection[str]) -> None:
        """Remove pictures that do not belong to the evaluation."""
        names = {f"{picture_name(item.position, item.key)}.png" for item in items if item.position < self.saved}
        folders = {slug(row) for row in (*rows, CLEAN, "mask", INPUT)}
        for file in self.folder.glob("*/*.png"):
            generated = re.match(r"\d{4,}-", file.name) is not None  # a name from `picture_name`, not a user's file
            if generated and (file.parent.name not in folders or file.name not in names):
                remove(file, root=self.root)
