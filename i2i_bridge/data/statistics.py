"""What the images of a dataset look like, one by one and together: copies between splits, exchanged sides, odd ones.

Each item is reduced to a few numbers (`Facts`) as it is read, so any number of items fits into memory; what they mean
together is told afterwards (`verdicts`).
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
from i2i_bridge.data.dataset import pictures_of, place, remarks
from i2i_bridge.images.files import count_frames
from i2i_bridge.images.metadata import is_srgb, profile_name
from i2i_bridge.images.pixels import opaque

LOOKS = ("brightness", "contrast", "detail", "colour")
"""What `looks` measures, in this order."""
FEW = 8
"""So many pairs are needed before their sides can be told apart."""
PARTS = ("x_0", "x_1")
CODES = {f"{channels} x {depth}" for channels in (1, 3) for depth in ("uint8", "uint16")}
MODES = {mode: mode for mode in ("CMYK", "LAB", "YCbCr", "HSV")}
MODES |= {"P": "with a palette", "PA": "with a palette", "1": "black and white"}
"""What Pillow calls the pixels of a file, where they become others when read."""
PROFILE = "with the colour profile"
T = TypeVar("T")


@dataclass(frozen=True)
class Facts:
    """One item: where it is, what its files are, a digest of its pixels, and how its sides look."""

    where: str
    formats: dict[str, str]
    """By part: channels and depth, such as '3 x uint8'."""
    size: str
    """WIDTHxHEIGHT."""
    oddities: tuple[str, ...]
    """What the file's header shows: 'CMYK', 'a PNG named .jpg', ..."""
    digest: bytes
    sides: np.ndarray
    """`looks` of x_0 and, for pairs, of x_1: (1 or 2, 4)."""
    equal: bool = False
    """Whether both sides of a pair are the same pixels."""
    factor: int = 1
    """How many times smaller x_1 is."""
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
    headers = [_header(Path(file)) for file in files if isinstance(file, Path | str)]
    odd = tuple(line for header in headers for line in header)
    if len({tuple(line for line in header if line.startswith(PROFILE)) for header in headers}) > 1:
        odd += ("whose two sides have different colour profiles",)
    odd += tuple(remarked)
    sides = np.stack([looks(images[part]) for part in PARTS if part in images])
    height, width = images["x_0"].shape[:2]
    seen = Facts(place(dict(item)), formats, f"{width}x{height}", odd, digest.digest(), sides)
    if "x_1" not in images:
        return seen
    x_0, x_1 = images["x_0"], images["x_1"]
    return replace(
        seen, equal=np.array_equal(x_0, x_1), factor=height // x_1.shape[0], alignment=alignment_of(x_0, x_1)
    )


def looks(pixels: np.ndarray) -> np.ndarray:
    """Brightness, contrast, detail and colour of pixels (H, W, C), each in [0, 1].

    Mean and std of the luma, mean step between neighbours, mean spread between the channels; of at most 128 x 128
    pixels.
    """
    step = max(1, *(side // 128 for side in pixels.shape[:2]))
    top = np.iinfo(pixels.dtype).max if pixels.dtype.kind == "u" else max(float(np.abs(pixels).max()), 1e-12)
    small = pixels[::step, ::step].astype(np.float32) / top
    luma = small.mean(axis=2)
    detail = np.abs(np.diff(luma, axis=1)).mean() if luma.shape[1] > 1 else 0.0
    return np.array([luma.mean(), luma.std(), detail, np.ptp(small, axis=2).mean()])


def statistics_of(facts: Sequence[Facts]) -> Statistics | None:
    """How the sides of pairs look in the middle, for a card; None where there are no pairs, or few."""
    pairs = [fact.sides for fact in facts if len(fact.sides) == 2]
    if len(pairs) < FEW:
        return None
    x_0, x_1 = np.median(np.stack(pairs).astype(np.float64), axis=0).round(4).tolist()
    return Statistics(x_0=x_0, x_1=x_1)


def verdicts(splits: Mapping[str, Sequence[Facts]], expected: Statistics | None) -> tuple[list[str], list[str]]:
    """Problems, and notes of what is only worth knowing, one line each.

    Args:
        splits: The facts of each split's readable items.
        expected: How the card says that the sides look.
    """
    everything = [fact for facts in splits.values() for fact in facts]
    unique = list({fact.where: fact for fact in everything}.values())
    problems = [*_copies(splits), *_odd_formats(unique), *_exchanged(unique, expected)]
    problems += _equal(unique) + _misaligned(unique) + _odd_factors(unique)
    notes = []
    for name, found in _counted(unique).items():
        notes.append(f"{len(found)} {name} (first: {found[0]})")
    profiled = [found for name, found in _counted(unique).items() if name.startswith(PROFILE)]
    if len(profiled) > 1 or any(len(found) < len(unique) for found in profiled):
        notes.append(
            "the colour profiles are mixed: one number is several colours; convert all images to one, say sRGB"
        )
    return problems, notes


MANY = 10
"""More lines of one kind become one."""


def _equal(facts: Sequence[Facts]) -> list[str]:
    """Pairs of which both sides are the same: nothing is to be learnt of them, and their PSNR is infinite."""
    found = [fact.where for fact in facts if fact.equal]
    if len(found) > MANY:
        return [f"{len(found)} pairs have the same pixels on both sides (first: {found[0]})"]
    return [f"{where}: the same pixels on both sides" for where in found]


def _misaligned(facts: Sequence[Facts]) -> list[str]:
    """Pairs whose partners look turned, mirrored or shifted."""
    pairs = [fact for fact in facts if len(fact.sides) == 2]
    found = misalignments([fact.alignment for fact in pairs])
    kinds: dict[str, list[int]] = {}
    for i, words in found.items():
        kinds.setdefault(words.partition(", by")[0], []).append(i)
    lines = []
    for words, those in kinds.items():
        if len(those) > MANY:
            lines.append(f"{len(those)} pairs: {words} (first: {pairs[those[0]].where})")
        else:
            lines += [f"{pairs[i].where}: {found[i]}" for i in those]
    return lines


def _odd_factors(facts: Sequence[Facts]) -> list[str]:
    """Pairs whose sides differ in size otherwise than those of most others."""
    pairs = [fact for fact in facts if len(fact.sides) == 2]
    if not pairs:
        return []
    usual, _ = Counter(fact.factor for fact in pairs).most_common(1)[0]
    return [
        f"{fact.where}: x_0 is {fact.factor} times as large as x_1, and {usual} times in most others"
        for fact in pairs
        if fact.factor != usual
    ]


def _header(file: Path) -> list[str]:
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
    """Pictures of one split that another holds too, under another name: what is scored was trained on."""
    first: dict[bytes, tuple[str, str]] = {}
    problems = []
    for split, facts in splits.items():
        for fact in facts:
            there, where = first.setdefault(fact.digest, (split, fact.where))
            if there != split and where != fact.where:
                problems.append(f"{split}: {fact.where}: the same pixels as {where} in {there}")
    return problems


def _odd_formats(facts: Sequence[Facts]) -> list[str]:
    """Items whose sides have other numbers of channels or depths than most others (8 in 10)."""
    usual = _usual([_telling(fact.formats) for fact in facts])
    if usual is None:
        return []
    like = next(fact.formats for fact in facts if _telling(fact.formats) == usual)
    return [
        f"{fact.where}: {_words(fact.formats)}, while most others are {_words(like)}"
        for fact in facts
        if _telling(fact.formats) != usual
    ]


def _telling(formats: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """The formats, or nothing where they cannot matter: grey or colour codes of one kind on all sides.

    Grey among colour becomes colour, and 16 bits keep their own range, as long as the other side does the same.
    """
    alike = len(set(formats.values())) == 1 and next(iter(formats.values())) in CODES
    return () if alike else tuple(formats.items())


def _usual(values: Sequence[T]) -> T | None:
    """What at least 8 in 10 are."""
    value, count = Counter(values).most_common(1)[0] if values else (None, 0)
    return value if count and count >= 0.8 * len(values) else None


def _words(formats: Mapping[str, str]) -> str:
    return " and ".join(f"{part} {kind}" for part, kind in formats.items())


def exchanged_sides(facts: Sequence[Facts], expected: Statistics) -> str | None:
    """One line where the sides of all pairs look exchanged against the card, else None; None for fewer than FEW pairs.

    m, the median of looks(x_0) - looks(x_1), then points away from the difference that the card says (cosine below
    -1/2).
    """
    pairs = [fact for fact in facts if len(fact.sides) == 2]
    if len(pairs) < FEW:
        return None
    _, m, _, telling = _differences(pairs)
    card = np.subtract(expected.x_0, expected.x_1)
    known = telling & (np.abs(card) > 0.02)
    turned = known & (np.sign(card) == -np.sign(m))
    # As vectors, so that what tells little does not outvote what tells much.
    if card[known] @ m[known] < -0.5 * np.linalg.norm(card[known]) * np.linalg.norm(m[known]):
        names = ", ".join(np.array(LOOKS)[turned])
        return (
            f"the sides are probably exchanged: by {names} the targets x_0 look as the card says of the sources "
            "x_1; turn `direction` round, or exchange x_0 and x_1"
        )
    return None


def _differences(pairs: Sequence[Facts]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """d = looks(x_0) - looks(x_1) of each pair, its median m and spread s (1.48 median |d - m|), and in which looks the
    sides differ at all (|m| > 1.5 s)."""
    d = np.stack([fact.sides[0] - fact.sides[1] for fact in pairs])
    m = np.median(d, axis=0)
    s = 1.48 * np.median(np.abs(d - m), axis=0) + 1e-3
    return d, m, s, np.abs(m) > 1.5 * s


def _exchanged(facts: Sequence[Facts], expected: Statistics | None) -> list[str]:
    """Pairs whose sides look exchanged: all of them against the card (`exchanged_sides`), or a few against the others.

    A few against the others: a pair is exchanged where d is nearer to -m than to m by far, in the looks by which the
    sides differ at all (`_differences`).
    """
    pairs = [fact for fact in facts if len(fact.sides) == 2]
    if len(pairs) < FEW:
        return []
    d, m, s, telling = _differences(pairs)
    all_of_them = None if expected is None else exchanged_sides(facts, expected)
    problems = [] if all_of_them is None else [all_of_them]
    if telling.any():
        kept = np.square((d - m) / s)[:, telling].mean(axis=1)
        mirrored = np.square((d + m) / s)[:, telling].mean(axis=1)
        # Far from the others, and four times nearer to their mirror image.
        for i in np.flatnonzero((mirrored < kept / 16) & (kept > 9)):
            problems.append(f"{pairs[i].where}: its sides look exchanged, compared with the other pairs")
    return problems


def _counted(facts: Sequence[Facts]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    grey = [fact for fact in facts if fact.formats.get("x_0", "").startswith("1 x")]
    if 0 < len(grey) < len(facts):
        found["grey among colour"] = [fact.where for fact in grey]
    size = _usual([fact.size for fact in facts])
    for fact in facts:
        if size is not None and fact.size != size:
            found.setdefault(f"of another size than most, {size}", []).append(fact.where)
        for depth in {kind.split(" x ")[1] for kind in fact.formats.values()} - {"uint8"}:
            found.setdefault({"uint16": "of 16 bits"}.get(depth, f"of {depth}"), []).append(fact.where)
        for oddity in dict.fromkeys(fact.oddities):
            found.setdefault(oddity, []).append(fact.where)
    return found
