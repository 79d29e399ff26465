"""Guess the layout of a folder of images: pairs in two folders, pairs in one folder, side-by-side files, or images."""

import contextlib
import os
import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from i2i_bridge.data.alignment import shift_between
from i2i_bridge.data.sources.folders import Files
from i2i_bridge.data.splits import all_split_names
from i2i_bridge.errors import UserError, plural
from i2i_bridge.images.files import image_size, read_picture
from i2i_bridge.images.folder import list_images
from i2i_bridge.storage.names import normal_form

TARGETS = {"b", "clean", "gt", "ground_truth", "groundtruth", "high", "hq", "hr", "original", "sharp", "target"}
TARGETS |= {"targets", "trg", "x0", "x_0"}
SOURCES = {"a", "blur", "blurred", "blurry", "corrupted", "degraded", "input", "inputs", "low", "lq", "lr", "noisy"}
SOURCES |= {"damaged", "hazy", "rainy", "source", "sources", "src", "x1", "x_1"}
"""Usual names of the folders of targets x_0 and of sources x_1, in lower case."""

MEASURED = 5000
"""Number of images whose headers are read to detect side-by-side files."""
COMPARED = 16
"""Number of images that are read to compare their halves."""
NAMED = 5
"""Maximum number of unmatched files that a message names."""
ENDING = re.compile(r"[_. -][^_. -]*$")
BEGINNING = re.compile(r"^[^_. -]*[_. -]")


@dataclass(frozen=True)
class Layout:
    """A possible layout of a folder."""

    table: dict[str, Any]
    """The dataset kind and its options."""
    words: str
    """Description for messages."""
    odd: list[str] = field(default_factory=list)
    """Files that do not fit this layout, by their names and sizes."""

    def odd_words(self) -> str:
        """The number of files that do not fit, and the first names."""
        more = f" and {len(self.odd) - NAMED} more" if len(self.odd) > NAMED else ""
        odd = plural(len(self.odd), "file does not fit", "files do not fit")
        return f"{odd}: {', '.join(self.odd[:NAMED])}{more}"

    def settings(self) -> list[str]:
        """The options other than kind and root, as `key=value` on the command line."""
        return [f"{key}={value}" for key, value in self.table.items() if key not in ("name", "root")]

    def add_command(self, name: str) -> str:
        """The command that registers the folder with this layout."""
        kind = [] if self.settings() else ["--kind", str(self.table["name"])]
        return shlex.join(["i2i-bridge", "data", "add", name, str(self.table["root"]), *self.settings(), *kind])

    def check_command(self) -> str:
        """The command that checks the folder with this layout."""
        return shlex.join(
            ["i2i-bridge", "check", str(self.table["root"]), f"kind={self.table['name']}", *self.settings()]
        )


@dataclass(frozen=True)
class Layouts:
    """The possible layouts of a folder, the likeliest first."""

    candidates: list[Layout]
    why: str
    """The evidence, for messages."""
    doubt: bool
    """Whether the user has to choose."""


def layouts_of(root: Path) -> Layouts:
    """The possible layouts of a folder of images.

    Raises:
        UserError: The folder cannot be listed.
    """
    plain = Layout({"name": "images", "root": str(root)}, "clean images, for a recipe's degradation")
    base = split_base(root)
    for pairs in (_split_sides(root), _two_folders(root, base), _one_folder(root, base), _halves(root)):
        if pairs is not None:
            return Layouts([*pairs.candidates, plain], pairs.why, pairs.doubt)
    return Layouts([plain], "no two folders or names of pairs, and no files of two halves", False)


def split_base(root: Path) -> Path:
    """The folder whose layout is examined: the folder of a split if there is one, else the root."""
    return next((root / name for name in all_split_names() if (root / name).is_dir()), root)


def first_is_target(first: str, second: str) -> bool | None:
    """Whether of two folder names the first is that of the targets, by TARGETS and SOURCES; None if undecided."""
    votes = [(name.lower() in TARGETS) - (name.lower() in SOURCES) for name in (first, second)]
    return None if votes[0] == votes[1] else votes[0] > votes[1]


def _both_orders(root: Path, sides: Sequence[str], templates: Sequence[str], odd: list[str]) -> list[Layout]:
    """Two layouts of pairs: the first side as the target, and the second side as the target."""
    orders = []
    for target, source in ((0, 1), (1, 0)):
        table: dict[str, Any] = {
            "name": "paired_folders",
            "root": str(root),
            "x_0": sides[target],
            "x_1": sides[source],
        }
        names = [sides[target], sides[source]]
        if templates[0] != templates[1]:
            names = [f"{sides[side]}/{templates[side]}".removeprefix("./") for side in (target, source)]
        for key, template in (("x_0_name", templates[target]), ("x_1_name", templates[source])):
            if template != "{}":
                table[key] = template
        orders.append(Layout(table, f"pairs, {names[0]} the targets x_0, {names[1]} the sources x_1", odd))
    return orders


def _split_sides(root: Path) -> Layouts | None:
    """The layout of folders such as trainA and trainB, testA and testB."""
    names = {path.name for path in root.iterdir() if path.is_dir()}
    for split in all_split_names():
        ends = sorted(name[len(split) :] for name in names if name.startswith(split) and name != split)
        if len(ends) == 2 and (first := first_is_target(*(end.strip("_- ") for end in ends))) is not None:
            sides = [f"{{split}}{end}" for end in (ends if first else ends[::-1])]
            stems = [set(_stems(root / side.replace("{split}", split))) for side in sides]
            matched = len(stems[0] & stems[1])
            why = f"folders {split}{ends[0]} and {split}{ends[1]}"
            odd = [f"{split}*/{name}" for name in sorted(stems[0] ^ stems[1])]
            orders = _both_orders(root, sides, ["{}", "{}"], odd)
            return Layouts(orders[:1], why, 2 * matched <= min(map(len, stems)))
    return None


def _stems(folder: Path) -> dict[str, str]:
    """Relative paths of the images below a folder, keyed by the path without suffix in Unicode form NFC."""
    return {normal_form(str(PurePosixPath(name).with_suffix(""))): name for name in list_images(folder).images}


def _two_folders(root: Path, base: Path) -> Layouts | None:
    """The layout of two folders, one per side, detected by the folders' names or by mostly equal file names.

    Of more than two folders, those with usual names are used: clean, noisy1 and noisy2 may be two sets of pairs.
    """
    folders = sorted(path for path in base.iterdir() if path.is_dir() and not path.name.startswith("."))
    targets = [path for path in folders if path.name.lower() in TARGETS]
    sources = [path for path in folders if path.name.lower() in SOURCES]
    if len(targets) == len(sources) == 1:
        pairs = _sides(root, targets[0], sources[0])
        others = sorted({path.name for path in folders} - {targets[0].name, sources[0].name})
        if pairs is not None and others:
            return Layouts(pairs.candidates, f"{pairs.why}; not used: {', '.join(others)}", pairs.doubt)
        return pairs
    if len(folders) == 2:
        return _sides(root, *folders)
    targets = [path for path in folders if _word(path) in TARGETS]
    sources = [path for path in folders if _word(path) in SOURCES]
    if not targets and not sources:
        return None
    orders = []
    for target in targets or folders:
        for source in sources or folders:
            pairs = _sides(root, target, source) if target != source else None
            if pairs is not None:
                orders.append(pairs.candidates[0])
    if not orders:
        return None
    return Layouts(orders, f"{len(folders)} folders, {', '.join(path.name for path in folders)}", True)


def _word(folder: Path) -> str:
    """The name of a folder in lower case without a trailing number: noisy_2 gives noisy."""
    return re.sub(r"[_. -]*\d+$", "", folder.name.lower())


def _sides(root: Path, one: Path, two: Path) -> Layouts | None:
    """The layouts with two given folders as sides, in the order of their names or in both orders; None for no pairs."""
    folders = [one, two]
    first = first_is_target(one.name, two.name)
    if first is None:
        first = first_is_target(_word(one), _word(two))
    stems = [_stems(folder) for folder in folders]
    fewest = min(map(len, stems))
    if not fewest:
        return None
    templates, matched = ["{}", "{}"], len(stems[0].keys() & stems[1].keys())
    if 2 * matched <= fewest:
        better = _affix(set(stems[0]), set(stems[1])) or _endings(set(stems[0]), set(stems[1]))
        if better is not None:
            *templates, matched = better
    alike = 2 * matched > fewest
    if not alike and first is None:
        return None
    names = [folder.name for folder in folders]
    odd = [
        f"{folder.name}/{path}"
        for folder, images, template, partners, partner_template in (
            (folders[0], stems[0], templates[0], stems[1], templates[1]),
            (folders[1], stems[1], templates[1], stems[0], templates[0]),
        )
        for stem, path in images.items()
        if _partner(stem, template, partner_template) not in partners
    ]
    orders = _both_orders(root, names, templates, odd)
    if first is not None:
        orders = [orders[0 if first else 1]]
    why = f"two folders, {names[0]} and {names[1]}, in which {matched} of {fewest} images have a partner"
    # No doubt only if the folders have usual names and the images have equal names.
    return Layouts(orders, why, first is None or not alike or templates != ["{}", "{}"])


def _partner(stem: str, template: str, partner_template: str) -> str | None:
    """The stem of the partner of an image, by the name templates of both sides; None if the stem has another form."""
    folder, slash, name = stem.rpartition("/")
    before, after = template.split("{}")
    if not (name.startswith(before) and name.endswith(after) and len(name) > len(before) + len(after)):
        return None
    return folder + slash + partner_template.replace("{}", name[len(before) : len(name) - len(after)])


def _affix(first: set[str], second: set[str]) -> tuple[str, str, int] | None:
    """Name templates if most names of one side are those of the other with a common prefix or suffix."""
    for shorter, longer, order in ((first, second, 1), (second, first, -1)):
        affixes: Counter[tuple[str, str]] = Counter()
        for stem in sorted(shorter)[:20]:
            name = stem.rpartition("/")[2]
            for other in longer:
                before, hit, after = other.rpartition("/")[2].partition(name)
                # 1 is contained in 10 and 11: a number must not be continued by further digits.
                if hit and not (after[:1].isdigit() and name[-1:].isdigit()) and not before[-1:].isdigit():
                    affixes[before, after] += 1
        if affixes:
            (before, after), _ = affixes.most_common(1)[0]
            template = f"{before}{{}}{after}"
            matched = sum(_partner(stem, "{}", template) in longer for stem in shorter)
            if 2 * matched > min(len(first), len(second)):
                return ("{}", template, matched) if order == 1 else (template, "{}", matched)
    return None


def _endings(first: set[str], second: set[str]) -> tuple[str, str, int] | None:
    """Name templates if each side has a common suffix or a common prefix, such as 1_GT and 1_hazy."""
    for pattern, ending in ((ENDING, True), (BEGINNING, False)):
        templates = []
        for stems in (first, second):
            matches = (pattern.search(stem.rpartition("/")[2]) for stem in stems)
            parts = Counter(part[0] for part in matches if part and re.search(r"[^\W\d_]", part[0]))
            part = parts.most_common(1)[0][0] if parts else ""
            templates.append(f"{{}}{part}" if ending else f"{part}{{}}")
        matched = sum(_partner(stem, templates[0], templates[1]) in second for stem in first)
        if 2 * matched > min(len(first), len(second)):
            return templates[0], templates[1], matched
    return None


def _one_folder(root: Path, base: Path) -> Layouts | None:
    """The layout of pairs in one folder, by suffixes or prefixes of names: 1_clean.png beside 1_noisy.png."""
    stems = _stems(base)
    best: tuple[int, list[str]] = (0, [])
    for pattern, after in ((ENDING, True), (BEGINNING, False)):
        parts: Counter[str] = Counter()
        for stem in stems:
            match = pattern.search(stem.rpartition("/")[2])
            # Numbers enumerate images: 1_1 and 1_2 are not two sides of a pair.
            if match and re.search(r"[^\W\d_]", match[0]):
                parts[match[0]] += 1
        common = [part for part, count in parts.most_common(6) if count >= max(2, len(stems) / 5)]
        templates = ["{}", *(f"{{}}{part}" if after else f"{part}{{}}" for part in common)]
        for i, one in enumerate(templates):
            for two in templates[i + 1 :]:
                matched = sum(_partner(stem, two, one) in stems for stem in stems)
                if matched > best[0]:
                    best = matched, [one, two]
    matched, pair = best
    if matched < 2 or 4 * matched < len(stems):
        return None
    first = first_is_target(*(re.sub(r"[{}_. -]", "", template) for template in pair))
    odd = []
    for stem, path in stems.items():
        partners = [_partner(stem, pair[i], pair[1 - i]) for i in (0, 1)]
        if not any(partner in stems for partner in partners if partner != stem):
            odd.append(path)
    orders = _both_orders(root, [".", "."], pair, odd)
    if first is not None:
        orders = [orders[0 if first else 1]]
    why = f"{matched} names come twice, as {pair[0]} and as {pair[1]}"
    return Layouts(orders, why, first is None or bool(odd))


def _halves(root: Path) -> Layouts | None:
    """The layout of side-by-side files, of at least 80 % of the files: see `_wide`."""
    listing = list_images(root).images
    sizes = sizes_of(Files(root, listing)[:: max(len(listing) // MEASURED, 1)])  # type: ignore[arg-type]
    fits, why = _wide(root, sizes)
    if not fits:
        return None
    odd = [f"{name} ({width}x{height})" for name, (height, width) in sizes.items() if name not in fits]
    orders = [
        Layout({"name": "side_by_side", "root": str(root), "direction": direction}, words, odd)
        for direction, words in (
            ("AtoB", "files of two halves (side_by_side), the left one the source x_1"),
            ("BtoA", "files of two halves (side_by_side), the right one the source x_1"),
        )
    ]
    return Layouts(orders, f"{len(fits)} of {len(sizes)} files are {why}", True)


def _wide(root: Path, sizes: Mapping[str, tuple[int, int]]) -> tuple[set[str], str]:
    """The files that may be side-by-side pairs by their size (height, width), and what they have in common.

    Of files less than twice as wide as high, as most photos are, the two halves have to look alike.
    """
    double = {name for name, (height, width) in sizes.items() if width == 2 * height}
    wider = {name for name, (height, width) in sizes.items() if width % 2 == 0 and width >= 2 * height}
    wide = {name for name, (height, width) in sizes.items() if width % 2 == 0 and width >= 1.2 * height}
    for fits, why in (
        (double, "twice as wide as high"),
        (wider, "at least twice as wide as high, with an even width"),
        (wide, "wider than high, and their left and right halves look alike"),
    ):
        if fits and 5 * len(fits) >= 4 * len(sizes) and (fits is not wide or _alike_halves(root, sorted(wide))):
            return fits, why
    return set(), ""


def _alike_halves(root: Path, names: Sequence[str]) -> bool:
    """Whether the halves of at least a quarter of the files are aligned, by files spread over the list.

    A quarter: a photo and its label map align in about half of the pairs; of single photos, only those of repeated
    patterns do.
    """
    found = []
    for name in names[:: -(-len(names) // COMPARED)]:
        with contextlib.suppress(UserError):  # reported by `check`
            pixels = read_picture(root / name).pixels
            half = pixels.shape[1] // 2
            shift = shift_between(pixels[:, :half], pixels[:, half : 2 * half])
            found.append(shift is not None and max(map(abs, shift)) <= 2)
    return 4 * sum(found) >= len(found) > 0


def sizes_of(files: Sequence[tuple[str, Path]]) -> dict[str, tuple[int, int]]:
    """(height, width) of the readable files, by name."""
    sizes = {}
    for name, path in files:
        try:
            sizes[name] = image_size(path)
        except UserError:  # reported by `check`
            continue
    return sizes


def no_halves(sizes: Mapping[str, tuple[int, int]]) -> tuple[list[str], str]:
    """Names of files whose size (height, width) is unlikely for a side-by-side pair, and the reason.

    If at least half of the files have the same aspect ratio, those are the other files; otherwise the files with a
    width below 1.2 times the height.
    """
    shapes = {name: round(width / height, 2) for name, (height, width) in sizes.items()}
    shape, count = Counter(shapes.values()).most_common(1)[0] if shapes else (0.0, 0)
    if 2 * count >= len(shapes) and shape >= 1.2:
        height, width = next(sizes[name] for name, ratio in shapes.items() if ratio == shape)
        return [name for name, ratio in shapes.items() if abs(ratio - shape) > 0.05], f"most are {width}x{height}"
    return [name for name, ratio in shapes.items() if ratio < 1.2], "two halves side by side are wider than high"


def common_folder(first: Path, second: Path) -> Path:
    """The deepest folder that contains both paths."""
    return Path(os.path.commonpath([first, second]))
