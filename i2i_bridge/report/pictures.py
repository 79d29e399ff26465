"""Pictures and files of a page: written to its folder, or embedded as data URIs."""

import base64
import io
import shutil
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np
from PIL import Image
from torch import Tensor

from i2i_bridge.errors import located
from i2i_bridge.evaluation.records import slug
from i2i_bridge.images.pixels import shown
from i2i_bridge.storage.reader import open_regular


@dataclass(frozen=True)
class PagePicture:
    """A picture in the page."""

    src: str
    """URL relative to the page, or a data URI."""
    caption: str
    width: int
    height: int


@dataclass(frozen=True)
class Pictures:
    """Writer of a page's pictures and files; each method returns the URL, or a `PagePicture` that holds it.

    Args:
        folder: The page's folder.
        inside: Embed everything as data URIs instead of writing files.
    """

    folder: Path
    inside: bool

    def text(self, name: str, text: str, kind: str) -> str:
        """Add a text file of a media type such as 'text/csv'."""
        if self.inside:
            return _data(text.encode(), kind)
        self._place(name).write_text(text, encoding="utf-8")
        return quote(name)

    def tensor(self, name: str, image: Tensor, caption: str = "") -> PagePicture:
        """Add an image (C, H, W) in [-1, 1] as 8-bit PNG."""
        return self.pixels(name, shown(image), caption)

    def pixels(self, name: str, pixels: np.ndarray, caption: str = "") -> PagePicture:
        """Add pixels (H, W, 3) uint8 as PNG."""
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "PNG")
        if self.inside:
            src = _data(stream.getvalue(), "image/png")
        else:
            self._place(name).write_bytes(stream.getvalue())
            src = quote(name)
        return PagePicture(src, caption, pixels.shape[1], pixels.shape[0])

    def copy(self, file: Path, name: str) -> str:
        """Add a copy of a PNG file.

        Raises:
            UserError: The file cannot be read, or is not a regular file.
        """
        with located(file, "cannot be copied into the page", OSError), open_regular(file) as stream:
            if self.inside:
                return _data(stream.read(), "image/png")
            with self._place(name).open("wb") as out:
                shutil.copyfileobj(stream, out)
        return quote(name)

    def _place(self, name: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def safe_name(*parts: object) -> str:
    """Join parts to a relative path; each part is reduced to safe characters."""
    return "/".join(slug(str(part)) for part in parts)


def _data(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
