"""Protocols: named rules of an evaluation (images, size, metrics), and their fingerprint.

A protocol is one TOML file; `resolve` fills in the settings that it leaves to the recipe. The SHA-256 of the result is
the fingerprint, shown beside every number: `held-out@1 3f9c0a1b2c3d`. Numbers of different fingerprints are not
compared.
"""

import hashlib
import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from i2i_bridge import registry
from i2i_bridge.errors import UserError, did_you_mean, located, plural
from i2i_bridge.metrics.names import require_metric
from i2i_bridge.recipe.schema import DataSettings, EvaluateSettings, Part, Positive, Settings, Side
from i2i_bridge.storage.names import normal_form
from i2i_bridge.storage.reader import file_sha256, read_lines
from i2i_bridge.storage.table import validated
from i2i_bridge.storage.toml import read_toml

if TYPE_CHECKING:
    import numpy as np

FOLDER = Path(__file__).parent / "protocols"

Words = list[str]  # in the class below, `list` is a key


class Protocol(Settings):
    """The keys of a protocol's TOML file. Keys that are left out are taken from the recipe."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=100)]
    version: Positive
    summary: str
    source: str = ""
    """Source of the rules, such as a paper."""
    split: str | None = None
    size: tuple[Side, Side] | Side | None = None
    """Height and width of the scored images."""
    resize: Literal["short_side", "stretch", "none"] | None = None
    n: Positive | None = None
    """Number of images, the first ones; by default `evaluate.images` of the recipe, else all."""
    list: str | None = None
    """Name of a list of images, which the user gives by `--list FILE`, one path per line."""
    file_format: Literal["png", "jpeg"] = "png"
    """How outputs are stored before they are scored: `png` rounds to integer codes, `jpeg` also compresses."""
    jpeg_quality: Annotated[int, Field(ge=1, le=100)] | None = None
    metrics: Words | None = None
    """Names of metrics. A name fixes every detail, such as how the network resizes images: `fid` and
    `fid-legacy-pytorch` differ."""
    fid_reference: Annotated[str, Field(pattern=r"^(paired|split|.+\.npz)$")] = "paired"
    """The reference of set metrics: the clean images of the scored pairs (`paired`), all clean images of the split
    (`split`), or statistics in an .npz file beside the protocol or in the folder of weights."""
    warnings: Words = Field(default=[])

    @model_validator(mode="after")
    def _fits(self) -> "Protocol":
        if (self.file_format == "jpeg") != (self.jpeg_quality is not None):
            raise ValueError("file_format = 'jpeg' and jpeg_quality go together")
        return self


@dataclass(frozen=True)
class Resolved:
    """A protocol with every default filled in."""

    protocol: Protocol
    settings: Mapping[str, Any]
    """All settings that scored images and scores depend on, as JSON; without metrics and without absolute paths."""
    names: tuple[str, ...] = ()
    """Entries of the list; empty without a list."""
    reference_file: Path | None = field(default=None, compare=False)
    """The statistics file if the protocol names one and it was found."""

    @property
    def name(self) -> str:
        return self.protocol.name

    @property
    def hash(self) -> str:
        """SHA-256 of the settings as canonical JSON."""
        return digest(self.settings)

    @property
    def id(self) -> str:
        """Identifier shown beside numbers, such as 'held-out@1 3f9c0a1b2c3d'."""
        return protocol_id(self.name, self.protocol.version, self.hash)

    @property
    def pixels_hash(self) -> str:
        """As the function `pixels_hash`, of the settings."""
        return pixels_hash(self.settings)

    def applied(self, data: DataSettings) -> DataSettings:
        """The recipe's data settings with the protocol's split, size and resize rule."""
        changes = {
            "validation_split": self.settings["split"],
            "validation_size": tuple(self.settings["size"]),
            "resize": self.settings["resize"],
        }
        return data.model_copy(update=changes)


def pixels_hash(settings: Mapping[str, Any]) -> str:
    """SHA-256 of the settings that the scores of a single image depend on, without the choice of images."""
    others = ("name", "version", "n", "list", "fid_reference", "fid_reference_sha256", "split")
    return digest({key: value for key, value in settings.items() if key not in others})


def protocol_id(name: str, version: int, full_hash: str) -> str:
    """Name, version and the first 12 hexadecimal digits of the fingerprint."""
    return f"{name}@{version} {full_hash[:12]}"


def digest(value: Any) -> str:
    """SHA-256 of a value as canonical JSON: sorted keys, no blanks."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def protocol_names() -> list[str]:
    """Names of the shipped protocols."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def protocol_file(name: str | Path) -> Path:
    """The file of a protocol, by its shipped name or as a path that ends in .toml.

    Raises:
        UserError: There is no such protocol; the message names the nearest.
    """
    path = Path(name)
    if path.suffix == ".toml":
        if not path.is_file():
            raise UserError(f"{name}: no such protocol file")
        return path
    if str(name) not in protocol_names():
        raise UserError(
            f"no protocol '{name}'{did_you_mean(str(name), protocol_names())}; one of your own is a path: mine.toml"
        )
    return FOLDER / f"{name}.toml"


def load_protocol(name: str | Path) -> Protocol:
    """Read and check a protocol, by its shipped name or from a TOML file.

    Raises:
        UserError: No such protocol, or a wrong key or value; one line.
    """
    path = protocol_file(name)
    protocol = validated(Protocol, read_toml(path), path)
    if protocol.name in protocol_names() and path.parent != FOLDER:
        raise UserError(f"{path}: name = '{protocol.name}' is a shipped protocol's; give yours a name of its own")
    with located(path), located("metrics"):
        for metric in protocol.metrics or ():
            require_metric(metric)
    return protocol


def resolve(
    protocol: Protocol,
    data: DataSettings,
    degradation: Part | None,
    settings: EvaluateSettings,
    *,
    count: int | None = None,
    names: Sequence[str] = (),
    folders: Sequence[Path] = (),
    reverse: bool = False,
) -> Resolved:
    """Fill in the settings that a protocol leaves to the recipe.

    Args:
        protocol: The protocol.
        data: `[data]` of the recipe.
        degradation: `[degradation]` of the recipe.
        settings: `[evaluate]` of the recipe.
        count: Number of images, in place of the protocol's.
        names: Entries of the user's list of images.
        folders: Folders to search for a statistics file.
        reverse: Whether the two sides of each pair are exchanged (data.direction).

    Raises:
        UserError: The protocol needs a list, and none is given; or `count` is not a number of images.
    """
    if count is not None:
        if isinstance(count, bool) or not isinstance(count, Integral) or count < 1:  # -1 would be all but the last
            raise UserError(f"count {count!r}: give a number of images, 1 or more")
        count = int(count)
    if protocol.list is not None and not names:
        raise UserError(
            f"protocol {protocol.name} scores the images of {protocol.list}; give it to evaluate or tune: --list FILE"
        )
    size = protocol.size or data.validation_size or data.size
    filled: dict[str, Any] = {
        "name": protocol.name,
        "version": protocol.version,
        "split": protocol.split or data.validation_split,
        "size": [size, size] if isinstance(size, int) else list(size),
        "resize": protocol.resize or data.resize,
        "n": (protocol.n or settings.images) if count is None else count,
        "file_format": protocol.file_format,
        "fid_reference": protocol.fid_reference,
        "seed": settings.seed,
        "degradation": None if degradation is None else with_defaults(degradation),
        "channels": data.channels,
        "value_range": None if data.value_range is None else list(data.value_range),
    }
    # Defaults are left out: otherwise the fingerprints of evaluations older than these settings would change.
    if reverse:
        filled["direction"] = "reverse"
    if data.pad != "none":
        filled["pad"] = data.pad
    if data.factor not in (None, 1):
        filled["enlarge"] = {"factor": data.factor, "kernel": data.enlarge}
    if protocol.jpeg_quality is not None:
        filled["jpeg_quality"] = protocol.jpeg_quality
    if names:
        filled["list"] = {"items": len(names), "sha256": digest(sorted(short_names(names)))}
    file = None
    if protocol.fid_reference.endswith(".npz"):
        file = next((path for folder in folders if (path := folder / protocol.fid_reference).is_file()), None)
        if file is not None:
            filled["fid_reference_sha256"] = file_sha256(file)
    return Resolved(protocol, filled, tuple(names), file)


def with_defaults(table: Part) -> Part:
    """A degradation's table with all default options written out; paths are reduced to their file name."""
    options = registry.DEGRADATIONS.options(str(table["name"]))
    table = registry.DEGRADATIONS.gathered(table)
    filled: Part = {"name": table["name"]}
    for key, parameter in options.items():
        value = table.get(key, parameter.default)
        if isinstance(value, list | tuple):
            tables = [isinstance(part, dict) and "name" in part for part in value]
            value = [with_defaults(part) if is_table else part for part, is_table in zip(value, tables, strict=True)]
        if value is not None and "Path" in str(parameter.annotation):
            value = PurePosixPath(str(value)).name
        if isinstance(value, float) and value.is_integer():
            value = int(value)  # 1 and 1.0 are the same setting
        filled[key] = None if value is inspect.Parameter.empty else value
    plain: Part = json.loads(json.dumps(filled, default=str))
    return plain


def short_names(names: Sequence[str]) -> list[str]:
    """The file names of paths, since a list may come from another machine; the paths if two files share a name."""
    paths = [name.replace("\\", "/").strip("/") for name in names]
    last = [PurePosixPath(path).name for path in paths]
    return last if len(set(last)) == len(last) else paths


def read_list(file: Path) -> list[str]:
    """Read a list of images: a path per line, relative or of another machine; empty lines are skipped.

    Raises:
        UserError: The file cannot be read, is empty, or names an image twice.
    """
    try:
        names = [name for line in read_lines(file) if (name := line.strip())]
    except UserError as error:
        raise UserError(f"--list {error}") from error
    if not names:
        raise UserError(f"--list {file}: it names no image")
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise UserError(f"--list {file}: '{name}' is there twice")
        seen.add(name)
    return names


def chosen(keys: Sequence[str], names: Sequence[str]) -> "np.ndarray":
    """Positions in `keys` of the images that a list names, in the list's order.

    A name matches the item of the same key, else the item whose key has the same file name, with or without suffix.

    Raises:
        UserError: A name matches no item, or more than one.
    """
    import numpy as np

    places: dict[str, list[int]] = {}
    for position, key in enumerate(keys):
        key = normal_form(key)
        path = PurePosixPath(key.replace("\\", "/"))
        for word in {key, path.name, str(path.with_suffix("")) if path.name else key, path.stem}:
            places.setdefault(word, []).append(position)
    positions: list[int] = []
    missing: list[str] = []
    for name in names:
        path = PurePosixPath(normal_form(name).replace("\\", "/"))
        matches = next((places[word] for word in (normal_form(name), path.name, path.stem) if word in places), [])
        if len(matches) != 1:
            missing.append(name)
        else:
            positions.append(matches[0])
    if missing:
        shown = ", ".join(missing[:3])
        raise UserError(
            f"--list: {len(missing)} of {plural(len(names), 'image is', 'images are')} not (or not once) among the "
            f"{plural(len(keys), 'item')} of the split: {shown}{' ...' if len(missing) > 3 else ''}"
        )
    return np.array(positions, dtype=np.int64)
