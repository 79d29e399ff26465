"""What an evaluation says, and the file that it says it in: `evaluation/PROTOCOL/evaluation.json`."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError

from i2i_bridge.errors import UserError, printable
from i2i_bridge.metrics.base import Estimate
from i2i_bridge.recipe.protocol import protocol_id
from i2i_bridge.storage.csv_file import read_rows
from i2i_bridge.storage.files import IO_ERROR, write_whole
from i2i_bridge.storage.reader import LIST_LIMIT, may_pass, read_json

CLOSED = ConfigDict(extra="forbid")
INPUT = "input"
"""The row of the degraded images themselves, nothing restored."""


LARGEST = 10**12
"""Of counts in an evaluation."""


def _check_row_name(name: str) -> str:
    if name.startswith("nfe ") and not re.fullmatch(r"nfe [1-9][0-9]{0,3}", name):
        raise ValueError("a row of network calls is called 'nfe N'")
    return name


def _check_settings(settings: dict[str, Any]) -> dict[str, Any]:
    count = settings.get("n")
    if count is not None and (type(count) is not int or not 0 < count <= LARGEST):
        raise ValueError("n is a number of images")
    return settings


THINNED = "the larger set was thinned to n ="
"""How the note of a KID began that versions before 26 Nov 2026 computed with a bias; see `KernelDistance`."""
OUTDATED = "measured by an earlier version, with a bias; evaluate again"


def _without_bias(estimate: Estimate) -> Estimate:
    """The estimate; without a value where the statistic of that name is another one today."""
    return Estimate(math.nan, note=OUTDATED) if estimate.note.startswith(THINNED) else estimate


# The types say what is accepted from a file: an evaluation may be a stranger's.
Count = Annotated[int, Field(ge=0, le=LARGEST)]
Name = Annotated[str, Field(max_length=300), AfterValidator(printable)]
RowName = Annotated[str, Field(max_length=300), AfterValidator(_check_row_name)]
MetricName = Annotated[str, Field(max_length=300)]
Seconds = Annotated[float, Field(ge=0, le=LARGEST)]


def calls_in_name(row: str) -> int:
    """N of a row 'nfe N': the calls that were asked for, without those of a mean."""
    return int(row.removeprefix("nfe "))


@dataclass(frozen=True)
class Row:
    """Scores of one way to restore, over all images."""

    __pydantic_config__ = CLOSED
    name: RowName
    """'input', 'bicubic', 'nfe N', or the name of a folder of images."""
    nfe: Count
    """Network calls per image, counted; 0 where there was no network, or nobody knows."""
    images: Count
    metrics: dict[MetricName, Annotated[Estimate, AfterValidator(_without_bias)]]
    seconds_per_image: Seconds | None


@dataclass(frozen=True)
class Stamp:
    """Which protocol the numbers are measured under."""

    __pydantic_config__ = CLOSED
    name: Name
    version: Count
    hash: Name
    settings: Annotated[dict[str, Any], AfterValidator(_check_settings)]

    @property
    def id(self) -> str:
        """Such as 'held-out@1 3f9c0a1b2c3d'; stands beside every number."""
        return protocol_id(self.name, self.version, self.hash)


@dataclass(frozen=True)
class Data:
    """Which images the numbers are of."""

    __pydantic_config__ = CLOSED
    digest: Name
    """SHA-256 over the hashes of the scored pixels of all x_0 and x_1, sorted by key."""
    items: Count


@dataclass(frozen=True)
class Evaluation:
    """All that was measured of a run, or of a folder of images, under one protocol."""

    __pydantic_config__ = CLOSED
    recipe: Name
    method: Name
    step: Count
    seed: Annotated[int, Field(ge=-(2**63), lt=2**64)]
    protocol: Stamp
    data: Data
    rows: list[Row]
    skipped: dict[str, str] = field(default_factory=dict)
    """Metrics that could not be computed, with the reason."""
    warnings: list[str] = field(default_factory=list)
    fingerprint: str = ""
    """SHA-256 of the weights and settings that the rows were made with."""
    capped: bool = False
    """Whether the method makes fewer calls than it is asked for, so that its one row stands for every NFE."""


_EVALUATION = TypeAdapter(Evaluation)


def evaluation_folder(folder: Path, protocol: str) -> Path:
    """Where the evaluation of a run folder, or of outside results, lies."""
    return folder / "evaluation" / protocol


def read_evaluation(folder: Path, protocol: str = "held-out") -> Evaluation:
    """The evaluation of a run folder, or of a folder of outside results, under a protocol.

    Raises:
        UserError: There is none, or it is damaged; with the code IO_ERROR where it only cannot be read now.
    """
    file = evaluation_folder(folder, protocol) / "evaluation.json"
    try:
        table = read_json(file)
        if not isinstance(table, dict):
            raise ValueError("not a JSON object")
        found = _EVALUATION.validate_python(table)
        if found.protocol.name != protocol:  # it becomes a part of paths
            raise ValueError("of another protocol than its folder")
        return found
    except FileNotFoundError as error:
        there = sorted(path.parent.name for path in (folder / "evaluation").glob("*/evaluation.json"))
        others = f" under {protocol} (but under {', '.join(there)})" if there else ""
        raise UserError(f"{folder}: not evaluated yet{others}; run `i2i-bridge evaluate {folder}`") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        said = first["msg"].removeprefix("Value error, ").lower()
        raise UserError(f"{file}: damaged ({f'{place}: ' if place else ''}{said}); evaluate again") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        if isinstance(error, OSError) and may_pass(error):
            raise not_now(file, error) from error
        raise UserError(f"{file}: damaged ({reason}); evaluate again") from error


def not_now(file: Path, error: OSError) -> UserError:
    """What is said where a part of an evaluation cannot be read, but may be whole: it is not made anew."""
    reason = error.strerror or error
    return UserError(f"{file}: cannot be read ({reason}), which is no damage; give the same command again", IO_ERROR)


def is_outdated(evaluation: Evaluation) -> bool:
    """Whether a number of it was computed in a way that is not that name's any more."""
    return any(estimate.note == OUTDATED for row in evaluation.rows for estimate in row.metrics.values())


def write_hashes(file: Path, hashes: Mapping[str, str], *, root: Path | None = None) -> None:
    """Write a text for each key, such as the SHA-256 of a scored pair's pixels; `root` as in `write_whole`."""
    write_whole(file, json.dumps(dict(sorted(hashes.items())), indent=0).encode(), root=root)


def read_hashes(file: Path) -> dict[str, str]:
    """What was written by key, one text each; empty where there is no such file or it is damaged.

    Raises:
        UserError: It cannot be read now.
    """
    try:
        table = read_json(file, LIST_LIMIT)
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and may_pass(error):
            raise not_now(file, error) from error
        return {}
    return {key: str(value) for key, value in table.items()} if isinstance(table, dict) else {}


def read_item_scores(file: Path, names: Sequence[str]) -> dict[tuple[str, str], list[float]]:
    """The numbers of a per_image.csv: one for each name, NaN where there is none, by (item's key, row).

    Empty where there is no such file.

    Raises:
        UserError: It is damaged, or cannot be read now.
    """
    if not file.exists():
        return {}
    try:
        return {(line["key"], line["row"]): [_number(line.get(name)) for name in names] for line in read_rows(file)}
    except (OSError, ValueError, KeyError) as error:
        if isinstance(error, OSError) and may_pass(error):
            raise not_now(file, error) from error
        reason = f"no column {error}" if isinstance(error, KeyError) else str(error)
        raise UserError(f"{file}: damaged ({reason}); evaluate again") from error


def _number(text: str | None) -> float:
    try:
        return float(text) if text else math.nan
    except ValueError:
        return math.nan


def write_evaluation(file: Path, evaluation: Evaluation, *, root: Path | None = None) -> None:
    """Write an evaluation.json, whole or not at all; `root` as in `write_whole`."""
    write_whole(file, json.dumps(_plain(asdict(evaluation)), indent=1).encode(), root=root)


def _plain(value: Any) -> Any:
    # JSON has no infinity (PSNR of equal images) and no NaN: they become the strings "inf" and "nan".
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
