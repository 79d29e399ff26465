"""Limits of what a visitor may request."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from i2i_bridge.errors import UserError
from i2i_bridge.images.files import image_size


@dataclass(frozen=True)
class Limits:
    """Limits of one request."""

    pixels: int = 4_000_000
    """Pixels of a picture, and of the restored one if the task enlarges."""
    megabytes: int = 32
    """Size of an uploaded file."""
    nfe: int = 100
    samples: int = 4
    waiting: int = 16
    """Requests in the queue; one is computed at a time."""
    operators: bool = True
    """Whether visitors may apply degradations of their own."""


DEFAULT_LIMITS = Limits()


def check_size(file: Path, limits: Limits, scale: int = 1) -> None:
    """Refuse a picture with more pixels than the page takes, by the file's header where it has one.

    Raises:
        UserError: It has more, or is not a readable picture.
    """
    height, width = image_size(file)
    if height * width * scale**2 > limits.pixels:
        enlarged = f" ({width * scale}x{height * scale} when restored)" if scale > 1 else ""
        raise UserError(
            f"{file}: {width}x{height} pixels{enlarged}; this page takes {limits.pixels / 1e6:.3g} million, and "
            "`i2i-bridge restore` takes more"
        )


@contextmanager
def decoded_pixels(limit: int) -> Iterator[None]:
    """Inside the block, Pillow refuses to decode pictures of more than twice `limit` pixels.

    Otherwise gradio would decode a mask of any size.
    """
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, limit
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before
