"""Montages: rows of images in one picture, with a heading above each column."""

from collections.abc import Iterable, Sequence
from io import BytesIO

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional

from i2i_bridge.images.pixels import shown

HEADER_HEIGHT = 22
"""Height in pixels of the headings if each has one line."""
FONT_SIZES = (14, 12, 10, 9)
"""Font sizes of headings; the first at which every word fits into its column is used, else the last."""
FIRST_MS, STEP_MS, LAST_MS = 900, 450, 2000
"""Milliseconds that an animation shows X_1, each state between, and the restored image."""
MARGIN = 3
"""White pixels at the right of a heading; otherwise adjacent headings would touch."""


def montage(rows: Sequence[Sequence[Tensor]], header: Sequence[str] = (), gap: int = 2) -> np.ndarray:
    """Arrange rows of images (C, H, W) in [-1, 1] in one picture (H, W, 3) uint8.

    The images are aligned at the top left of their cells, on white.

    Args:
        rows: The images.
        header: A heading for each column, wrapped at the width of the column.
        gap: Pixels between the images.

    Raises:
        ValueError: There is no image.
    """
    cells = [[shown(x) for x in row] for row in rows]
    if not any(cells):
        raise ValueError("no images to lay out")
    columns = max(len(row) for row in cells)
    heights = [max(cell.shape[0] for cell in row) for row in cells]
    widths = [max(row[i].shape[1] for row in cells if i < len(row)) for i in range(columns)]
    heads = [_head(text, width) for text, width in zip(header, widths, strict=False)]
    band = max((head.shape[0] for head in heads), default=0)
    size = (band + sum(heights) + gap * (len(cells) - 1), sum(widths) + gap * (columns - 1), 3)
    sheet = np.full(size, 255, np.uint8)
    left = 0
    for head, width in zip(heads, widths, strict=False):
        sheet[band - head.shape[0] : band, left : left + width] = head
        left += width + gap
    top = band
    for row, height in zip(cells, heights, strict=True):
        left = 0
        for cell, width in zip(row, widths, strict=False):
            sheet[top : top + cell.shape[0], left : left + cell.shape[1]] = cell
            left += width + gap
        top += height + gap
    return sheet


def states_shown(x_1: Tensor, states: Iterable[Tensor], columns: int = 8) -> tuple[list[Tensor], list[str]]:
    """At most `columns` states of a trajectory, evenly spaced from x_1 to the last, and a heading for each.

    Memory use does not grow with the number of states: when many are stored, every second one is dropped.

    Args:
        x_1: The first state, (C, H, W).
        states: The states yielded by a sampler, at least one; the last is the restored image.
        columns: Maximum number of states.
    """
    kept, spacing, last = [(0, x_1)], 1, (0, x_1)
    for i, state in enumerate(states, 1):
        last = (i, state)
        if i % spacing == 0:
            kept.append(last)
        if len(kept) > 4 * columns:
            kept, spacing = kept[::2], 2 * spacing
    if kept[-1][0] != last[0]:
        kept.append(last)
    chosen = np.linspace(0, len(kept) - 1, min(columns, len(kept))).round().astype(int)
    numbers = [kept[k][0] for k in chosen]
    return [kept[k][1] for k in chosen], ["X_1", *(f"step {number}" for number in numbers[1:])]


def animation(states: Sequence[Tensor], headings: Sequence[str]) -> bytes:
    """An animated WebP of states (C, H, W) in [-1, 1] of one size, each below its heading, repeated without end."""
    sheets = [montage([[state]], [heading]) for state, heading in zip(states, headings, strict=True)]
    height = max(sheet.shape[0] for sheet in sheets)  # a heading may have more lines than another
    frames = [
        Image.fromarray(np.pad(sheet, ((height - len(sheet), 0), (0, 0), (0, 0)), constant_values=255))
        for sheet in sheets
    ]
    stream = BytesIO()
    times = [FIRST_MS, *[STEP_MS] * (len(frames) - 2), LAST_MS]
    frames[0].save(stream, "WEBP", save_all=True, append_images=frames[1:], duration=times, loop=0, quality=90)
    return stream.getvalue()


def scaled_down(row: Sequence[Tensor], side: int) -> list[Tensor]:
    """Scale images (C, H, W) of one size down, to a row at most `side` pixels wide and high, without gaps and headings.

    Images that fit already are returned as they are.
    """
    height, width = row[0].shape[-2:]
    factor = min(side / (len(row) * width), side / height)
    if factor >= 1:
        return list(row)
    size = (max(int(height * factor), 1), max(int(width * factor), 1))
    return [functional.interpolate(x[None], size, mode="bicubic", antialias=True)[0] for x in row]


def _head(text: str, width: int) -> np.ndarray:
    """Draw the heading of a column, (H, width, 3), wrapped; a word wider than the column is cut with an ellipsis."""
    for size in FONT_SIZES:
        font = ImageFont.load_default(size)
        if all(font.getlength(word) <= width - MARGIN for word in text.split()):
            break
    lines = [""]
    for word in text.split():
        while font.getlength(word) > width - MARGIN and len(word) > 1:
            word = word.removesuffix("…")[:-1] + "…" if len(word) > 2 else word[0]
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width - MARGIN:
            lines[-1] = longer
        else:
            lines.append(word)
    lines = [line for line in lines if line] or [""]
    height = HEADER_HEIGHT + (len(lines) - 1) * (size + 2)
    image = Image.new("RGB", (width, height), "white")
    drawing = ImageDraw.Draw(image)
    for i, line in enumerate(lines):
        drawing.text((1, HEADER_HEIGHT // 2 + i * (size + 2)), line, fill="black", font=font, anchor="lm")
    return np.asarray(image)
