"""Statistics of the images of a dataset, and the problems found by them: copies, exchanged sides, odd formats.

Each item is reduced to a few numbers (`Facts`) when it is read, so that any number of items fits into memory;
`verdicts` then compares the facts of all items.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError

from i2i_bridge.data.alignment import Alignment, alignment_of, misalignments
from i2i_bridge.data.cards import Statistics
from i2i_bridge.data.items import location, pictures_of, remarks
from i2i_bridge.images.files import count_frames
from i2i_bridge.images.metadata import is_srgb, profile_name
from i2i_bridge.images.pixels import opaque

LOOKS = ("brightness", "contrast", "detail", "colour")
"""Names of the values of `looks`."""
FEW = 8
"""Minimum number of pairs for detecting exchanged sides."""
PARTS = ("x_0", "x_1")
CODES = {f"{channels} x {depth}" for channels in (1, 3) for depth in ("uint8", "uint16")}
MODES = {mode: mode for mode in ("CMYK", "LAB", "YCbCr", "HSV")}
MODES |= {"P": "with a palette", "PA": "with a palette", "1": "black and white"}
"""Descriptions of Pillow's modes that are converted when an image is read."""
PROFILE = "with the colour profile"
T = TypeVar("T")


@dataclass(frozen=True)
class Facts:
    """Facts about an item."""

    where: str
    """The files of the item, for messages."""
    formats: dict[str, str]
    """Channels and dtype by part, such as '3 x uint8'."""
    size: str
    """WIDTHxHEIGHT of x_0."""
    oddities: tuple[str, ...]
    """Unusual properties of the files, such as 'CMYK' or 'PNG named .jpg'."""
    digest: bytes
    """Hash of the pixels."""
    sides: np.ndarray
    """`looks` of x_0 and, for pairs, of x_1: shape (1 or 2, 4)."""
    equal: bool = False
    """Whether x_0 and x_1 have equal pixels."""
    factor: int = 1
    """Integer factor by which x_1 is smaller than x_0."""
    alignment: Alignment | None = None


def facts_of(item: Mapping[str, Any]) -> Facts:
    """The facts of an item.

    Raises:
        UserError: A file is unreadable, or the images differ in size.
    """
    pictures = pictures_of(dict(item))
    remarked = remarks(dict(item), pictures)
    images = {part: opaque(picture) for part, picture in pictures.items() if part in PARTS}
    digest = hashlib.blake2b(digest_size=16)
    for part in PARTS:
        if part in images:
            digest.update(repr(images[part].shape).encode())
            digest.update(np.ascontiguousarray(images[part]).data)
    formats = {part: f"{pixels.shape[2]} x {pixels.dtype}" for part, pixels in images.items() if part in PARTS}
    files = [item.get("file"), *(item.get(part) for part in PARTS)]
    headers = [_file_oddities(Path(file)) for file in files if isinstance(file, Path | str)]
    odd = tuple(line for header in headers for line in header)
    if len({tuple(line for line in header if line.startswith(PROFILE)) for header in headers}) > 1:
        odd += ("whose two sides have different colour profiles",)
    odd += tuple(remarked)
    sides = np.stack([looks(images[part]) for part in PARTS if part in images])
    height, width = images["x_0"].shape[:2]
    seen = Facts(location(dict(item)), formats, f"{width}x{height}", odd, digest.digest(), sides)
    if "x_1" not in images:
        return seen
    x_0, x_1 = images["x_0"], images["x_1"]
    aligned = None if "mask" in pictures else alignment_of(x_0, x_1)  # the edges of a hole are not those of x_0
    return replace(seen, equal=np.array_equal(x_0, x_1), factor=height // x_1.shape[0], alignment=aligned)


def looks(pixels: np.ndarray) -> np.ndarray:
    """Brightness, contrast, detail and colour of pixels (H, W, C), each in [0, 1].

    These are the mean and standard deviation of the mean over channels, the mean absolute difference of horizontal
    neighbours, and the mean range over channels; of about 128 x 128 subsampled pixels.
    """
    step = max(1, *(side // 128 for side in pixels.shape[:2]))
    top = np.iinfo(pixels.dtype).max if pixels.dtype.kind == "u" else max(float(np.abs(pixels).max()), 1e-12)
    small = pixels[::step, ::step].astype(np.float32) / top
    luma = small.mean(axis=2)
    detail = np.abs(np.diff(luma, axis=1)).mean() if luma.shape[1] > 1 else 0.0
    return np.array([luma.mean(), luma.std(), detail, np.ptp(small, axis=2).mean()])


def statistics_of(facts: Sequence[Facts]) -> Statistics | None:
    """Median `looks` of both sides of pairs, for a card; None for fewer than FEW pairs."""
    pairs = [fact.sides for fact in facts if len(fact.sides) == 2]
    if len(pairs) < FEW:
        return None
    x_0, x_1 = np.median(np.stack(pairs).astype(np.float64), axis=0).round(4).tolist()
    return Statistics(x_0=x_0, x_1=x_1)


def verdicts(splits: Mapping[str, Sequence[Facts]], expected: Statistics | None) -> tuple[list[str], list[str]]:
    """Problems of a dataset and notes that are no problems, one line each.

    Args:
        splits: The facts of the readable items, by split.
        expected: The card's statistics of the sides.
    """
    everything = [fact for facts in splits.values() for fact in facts]
    unique = list({fact.where: fact for fact in everything}.values())
    problems = [*_copies(splits), *_odd_formats(unique), *_exchanged(unique, expected)]
    problems += _equal(unique) + _misaligned(unique) + _odd_factors(unique)
    notes = []
    counted = _oddities(unique)
    for name, items in counted.items():
        notes.append(f"{len(items)} {name} (first: {items[0]})")
    profiled = [items for name, items in counted.items() if name.startswith(PROFILE)]
    if len(profiled) > 1 or any(len(items) < len(unique) for items in profiled):
        notes.append(
            "the colour profiles are mixed: one number is several colours; convert all images to one, say sRGB"
        )
    return problems, notes


MANY = 10
"""Maximum number of lines of a kind; more are summarised in one line."""


def _equal(facts: Sequence[Facts]) -> list[str]:
    """Report pairs with equal sides: they teach nothing, and their PSNR is infinite."""
    equal = [fact.where for fact in facts if fact.equal]
    if len(equal) > MANY:
        return [f"{len(equal)} pairs have the same pixels on both sides (first: {equal[0]})"]
    return [f"{where}: the same pixels on both sides" for where in equal]


def _misaligned(facts: Sequence[Facts]) -> list[str]:
    """Report pairs that look rotated, mirrored or shifted."""
    pairs = [fact for fact in facts if len(fact.sides) == 2]
    descriptions = misalignments([fact.alignment for fact in pairs])
    kinds: dict[str, list[int]] = {}
    for i, words in descriptions.items():
        kinds.setdefault(words.partition(", by")[0], []).append(i)
    lines = []
    for words, indices in kinds.items():
        if len(indices) > MANY:
            lines.append(f"{len(indices)} pairs: {words} (first: {pairs[indices[0]].where})")
        else:
            lines += [f"{pairs[i].where}: {descriptions[i]}" for i in indices]
    return lines


def _odd_factors(facts: Sequence[Facts]) -> list[str]:
    """Report pairs with another factor between the sizes of x_0 and x_1 than most."""
    pairs = [fact for fact in facts if len(fact.sides) == 2]
    if not pairs:
        return []
    usual, _ = Counter(fact.factor for fact in pairs).most_common(1)[0]
    return [
        f"{fact.where}: x_0 is {fact.factor} times as large as x_1, and {usual} times in most others"
        for fact in pairs
        if fact.factor != usual
    ]


def _file_oddities(file: Path) -> list[str]:
    """Unusual properties of a file, from its header; none if it cannot be read."""
    if file.suffix.lower() == ".npy":
        return []
    try:
        with Image.open(file) as image:
            mode, kind = image.mode, str(image.format)
            frames = count_frames(image)
            profile = image.info.get("icc_profile")
    except (OSError, ValueError, SyntaxError, UnidentifiedImageError):
        return []
    odd = [MODES[mode]] if mode in MODES else []
    wanted = Image.registered_extensions().get(file.suffix.lower())
    if wanted is not None and wanted != kind:
        odd.append(f"{kind} named {file.suffix}")
    if isinstance(profile, bytes) and not is_srgb(profile):
        odd.append(f"{PROFILE} '{profile_name(profile)}', whose numbers are taken as they are")
    return [*odd, *(["with several frames, of which the first is taken"] if frames > 1 else [])]


def _copies(splits: Mapping[str, Sequence[Facts]]) -> list[str]:
    """Report images that occur in two splits under different names: test images would be trained on."""
    first: dict[bytes, tuple[str, str]] = {}
    problems = []
    for split, facts in splits.items():
        for fact in facts:
            other, where = first.setdefault(fact.digest, (split, fact.where))
            if other != split and where != fact.where:
                problems.append(f"{split}: {fact.where}: the same pixels as {where} in {other}")
    return problems


def _odd_formats(facts: Sequence[Facts]) -> list[str]:
    """Report items with other numbers of channels or depths than at least 80 % of the items."""
    usual = _usual([_unequal_formats(fact.formats) for fact in facts])
    if usual is None:
        return []
    like = next(fact.formats for fact in facts if _unequal_formats(fact.formats) == usual)
    return [
        f"{fact.where}: {_words(fact.formats)}, while most others are {_words(like)}"
        for fact in facts
        if _unequal_formats(fact.formats) != usual
    ]


def _unequal_formats(formats: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """The formats of an item, or () if all sides have the same integer format, which needs no report.

    Grey is converted to colour, and 16 bits are scaled by their range; neither matters if both sides are alike.
    """
    alike = len(set(formats.values())) == 1 and next(iter(formats.values())) in CODES
    return () if alike else tuple(formats.items())


def _usual(values: Sequence[T]) -> T | None:
    """The value of at least 80 % of the values; None if there is none."""
    value, count = Counter(values).most_common(1)[0] if values else (None, 0)
    return value if count and count >= 0.8 * len(values) else None


def _words(formats: Mapping[str, str]) -> str:
    return " and ".join(f"{part} {kind}" for part, kind in formats.items())


def exchanged_sides(facts: Sequence[Facts], expected: Statistics) -> str | None:
    """A problem line if the sides of all pairs look exchanged compared with the card, else None.

    They do if m, the median of looks(x_0) - looks(x_1), and the same difference in the card have a cosine below -1/2.
    None for fewer than FEW pairs.
    """
    pairs = [fact for fact in facts if len(fact.sides) == 2]
    if len(pairs) < FEW:
        return None
    _, m, _, differ = _differences(pairs)
    card = np.subtract(expected.x_0, expected.x_1)
    known = differ & (np.abs(card) > 0.02)
    turned = known & (np.sign(card) == -np.sign(m))
    # A cosine, not a count of signs; otherwise several small differences would outvote a large one.
    if card[known] @ m[known] < -0.5 * np.linalg.norm(card[known]) * np.linalg.norm(m[known]):
        names = ", ".join(np.array(LOOKS)[turned])
        return (
            f"the sides are probably exchanged: by {names} the targets x_0 look as the card says of the sources "
            "x_1; reverse `direction`, or exchange x_0 and x_1"
        )
    return None


def _differences(pairs: Sequence[Facts]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Differences d = looks(x_0) - looks(x_1) of all pairs, and their statistics over the pairs.

    Returns:
        d, its median m, its spread s = 1.48 median |d - m|, and for each of the looks whether the sides differ
        (|m| > 1.5 s).
    """
    d = np.stack([fact.sides[0] - fact.sides[1] for fact in pairs])
    m = np.median(d, axis=0)
    s = 1.48 * np.median(np.abs(d - m), axis=0) + 1e-3
    return d, m, s, np.abs(m) > 1.5 * s


def _exchanged(facts: Sequence[Facts], expected: Statistics | None) -> list[str]:
    """Report exchanged sides: of all pairs compared with the card (`exchanged_sides`), or of single pairs.

    A single pair is exchanged if its d is far from m and much nearer to -m, in the looks in which the sides differ
    (`_differences`).
    """
    pairs = [fact for fact in facts if len(fact.sides) == 2]
    if len(pairs) < FEW:
        return []
    d, m, s, differ = _differences(pairs)
    exchanged = None if expected is None else exchanged_sides(facts, expected)
    problems = [] if exchanged is None else [exchanged]
    if differ.any():
        kept = np.square((d - m) / s)[:, differ].mean(axis=1)
        mirrored = np.square((d + m) / s)[:, differ].mean(axis=1)
        # More than 3 s from m (root mean square), and four times nearer to -m.
        for i in np.flatnonzero((mirrored < kept / 16) & (kept > 9)):
            problems.append(f"{pairs[i].where}: its sides look exchanged, compared with the other pairs")
    return problems


def _oddities(facts: Sequence[Facts]) -> dict[str, list[str]]:
    """The items with each unusual property, such as 'of 16 bits'."""
    items: dict[str, list[str]] = {}
    grey = [fact for fact in facts if fact.formats.get("x_0", "").startswith("1 x")]
    if 0 < len(grey) < len(facts):
        items["grey among colour"] = [fact.where for fact in grey]
    size = _usual([fact.size for fact in facts])
    for fact in facts:
        if size is not None and fact.size != size:
            items.setdefault(f"of another size than most, {size}", []).append(fact.where)
        for depth in {kind.split(" x ")[1] for kind in fact.formats.values()} - {"uint8"}:
            items.setdefault({"uint16": "of 16 bits"}.get(depth, f"of {depth}"), []).append(fact.where)
        for oddity in dict.fromkeys(fact.oddities):
            items.setdefault(oddity, []).append(fact.where)
    return items
