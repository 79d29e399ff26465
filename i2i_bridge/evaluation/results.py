"""Results of an evaluation, and their file `evaluation/PROTOCOL/evaluation.json`."""

import json
import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError

from i2i_bridge.errors import IO_ERROR, UserError, brief, printable
from i2i_bridge.metrics.base import Estimate
from i2i_bridge.recipe.protocol import protocol_id
from i2i_bridge.storage.csv_file import read_rows
from i2i_bridge.storage.files import write_whole
from i2i_bridge.storage.reader import LIST_LIMIT, may_pass, read_json
from i2i_bridge.storage.table import invalid

CLOSED = ConfigDict(extra="forbid")
INPUT = "input"
"""Name of the row of the degraded images."""


DATA_FILE = "data.json"
"""File of the key and the SHA-256 of the pixels of each scored pair."""
INPUTS_FILE = "inputs.json"
"""File of the key and the `inputs_hash` of each item, clean references too; for outside results followed by a blank and
the fingerprint of the item's file. It tells which records belong to the results."""
LIST_FILE = "list.txt"
"""File of the user's list of images."""
LARGEST = 10**12
"""Largest count accepted from a file."""


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
"""Beginning of the note on a KID computed before 26 Nov 2026, which was biased; see `KernelDistance`."""
OUTDATED = "measured by an earlier version, with a bias; evaluate again"


def _without_bias(estimate: Estimate) -> Estimate:
    """The estimate; NaN with the note OUTDATED if it was computed with the earlier, biased statistic."""
    return Estimate(math.nan, note=OUTDATED) if estimate.note.startswith(THINNED) else estimate


# These types bound what is accepted from a file: an evaluation may come from an untrusted source.
Count = Annotated[int, Field(ge=0, le=LARGEST)]
Name = Annotated[str, Field(max_length=300), AfterValidator(printable)]
Line = Annotated[str, Field(max_length=4000), AfterValidator(printable)]
RowName = Annotated[str, Field(max_length=300), AfterValidator(_check_row_name)]
MetricName = Annotated[str, Field(max_length=300)]
Seconds = Annotated[float, Field(ge=0, le=LARGEST)]


def calls_in_name(row: str) -> int:
    """N of a row 'nfe N': the requested network calls, without those of [mean]."""
    return int(row.removeprefix("nfe "))


@dataclass(frozen=True)
class Row:
    """Scores over all images, of one NFE or one folder of images."""

    __pydantic_config__ = CLOSED
    name: RowName
    """'input', 'bicubic', 'nfe N', or the name of a folder of images."""
    nfe: Count
    """Network calls per image, counted; 0 without a network, or if unknown."""
    images: Count
    metrics: dict[MetricName, Annotated[Estimate, AfterValidator(_without_bias)]]
    seconds_per_image: Seconds | None


@dataclass(frozen=True)
class Stamp:
    """The protocol that the numbers were measured under."""

    __pydantic_config__ = CLOSED
    name: Name
    version: Count
    hash: Name
    settings: Annotated[dict[str, Any], AfterValidator(_check_settings)]

    @property
    def id(self) -> str:
        """Identifier shown beside every number, such as 'held-out@1 3f9c0a1b2c3d'."""
        return protocol_id(self.name, self.version, self.hash)


@dataclass(frozen=True)
class Data:
    """The images that the numbers were measured on."""

    __pydantic_config__ = CLOSED
    digest: Name
    """SHA-256 over the hashes of the scored pixels of all x_0 and x_1, sorted by key."""
    items: Count


@dataclass(frozen=True)
class Evaluation:
    """Results of a run, or of a folder of images, under one protocol."""

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
    """SHA-256 of the weights and settings of the restorations."""
    capped: bool = False
    """Whether the method makes fewer calls than requested, so that its one row stands for every NFE."""
    tuned: dict[RowName, Line] = field(default_factory=dict)
    """A line on the tuned sampling of each row that has one; the others have the recipe's."""

    @property
    def baselines(self) -> list[Row]:
        """Rows without a network: the degraded input, and other rows of a run's evaluation that are not 'nfe N'."""
        if not any(row.name == INPUT for row in self.rows):
            return []
        return [row for row in self.rows if not row.name.startswith("nfe ")]

    def rows_of_method(self, nfe: Iterable[int] | None = None) -> list[Row]:
        """Rows that are not baselines, by network calls; of a method with several NFE only those in `nfe`."""
        baselines = [row.name for row in self.baselines]
        rows = sorted((row for row in self.rows if row.name not in baselines), key=lambda row: row.nfe)
        # A method of one call, or a folder of images, has one row whatever NFE is requested.
        if nfe is None or self.capped or not all(row.name.startswith("nfe ") for row in rows):
            return rows
        wanted = {f"nfe {calls}" for calls in nfe}
        return [row for row in rows if row.name in wanted]

    @property
    def evaluated_nfe(self) -> list[int]:
        """The NFE of the rows 'nfe N', in their order."""
        return [calls_in_name(row.name) for row in self.rows if row.name.startswith("nfe ")]

    @property
    def is_outdated(self) -> bool:
        """Whether a number is of a metric that is computed differently today."""
        return any(estimate.note == OUTDATED for row in self.rows for estimate in row.metrics.values())


_EVALUATION = TypeAdapter(Evaluation)


def evaluation_folder(folder: Path, protocol: str) -> Path:
    """Folder of the evaluation in a run folder, or in a folder of outside results."""
    return folder / "evaluation" / protocol


def read_evaluation(folder: Path, protocol: str = "held-out") -> Evaluation:
    """Read the evaluation of a run folder, or of a folder of outside results, under a protocol.

    Raises:
        UserError: There is none, or it is damaged; with the code IO_ERROR if it cannot be read now.
    """
    file = evaluation_folder(folder, protocol) / "evaluation.json"
    try:
        table = read_json(file)
        if not isinstance(table, dict):
            raise ValueError("not a JSON object")
        found = _EVALUATION.validate_python(table)
        if found.protocol.name != protocol:  # the name becomes part of paths
            raise ValueError("of another protocol than its folder")
        return found
    except FileNotFoundError as error:
        evaluated = sorted(path.parent.name for path in (folder / "evaluation").glob("*/evaluation.json"))
        others = f" under {protocol} (but under {', '.join(evaluated)})" if evaluated else ""
        raise UserError(f"{folder}: not evaluated yet{others}; run `i2i-bridge evaluate {folder}`") from error
    except ValidationError as error:
        raise UserError(f"{file}: damaged ({brief(invalid(error, table), 120)}); evaluate again") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        if isinstance(error, OSError) and may_pass(error):
            raise read_error(file, error) from error
        raise UserError(f"{file}: damaged ({reason}); evaluate again") from error


def read_error(file: Path, error: OSError) -> UserError:
    """The error for a file of an evaluation that cannot be read now. It may be whole, so it is not recomputed."""
    reason = error.strerror or error
    return UserError(f"{file}: cannot be read ({reason}), which is no damage; give the same command again", IO_ERROR)


def write_hashes(file: Path, hashes: Mapping[str, str], *, root: Path | None = None) -> None:
    """Write a string for each key, such as the SHA-256 of a pair's pixels, as JSON; `root` as in `write_whole`."""
    write_whole(file, json.dumps(dict(sorted(hashes.items())), indent=0).encode(), root=root)


def read_hashes(file: Path) -> dict[str, str]:
    """Read a file of `write_hashes`; empty if it is missing or damaged.

    Raises:
        UserError: The file cannot be read now.
    """
    try:
        table = read_json(file, LIST_LIMIT)
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and may_pass(error):
            raise read_error(file, error) from error
        return {}
    return {key: str(value) for key, value in table.items()} if isinstance(table, dict) else {}


def read_item_scores(file: Path, names: Collection[str]) -> dict[tuple[str, str], dict[str, float]]:
    """Read a per_image.csv: by (item's key, row) the value of each metric in `names`, NaN for a missing number.

    Empty if there is no such file.

    Raises:
        UserError: The file is damaged, or cannot be read now.
    """
    if not file.exists():
        return {}
    try:
        rows = read_rows(file)
        return {(row["key"], row["row"]): {name: _number(row.get(name)) for name in names} for row in rows}
    except (OSError, ValueError, KeyError) as error:
        if isinstance(error, OSError) and may_pass(error):
            raise read_error(file, error) from error
        reason = f"no column {error}" if isinstance(error, KeyError) else str(error)
        raise UserError(f"{file}: damaged ({reason}); evaluate again") from error


def _number(text: str | None) -> float:
    try:
        return float(text) if text else math.nan
    except ValueError:
        return math.nan


def write_evaluation(file: Path, evaluation: Evaluation, *, root: Path | None = None) -> None:
    """Write an evaluation.json atomically; `root` as in `write_whole`."""
    table = asdict(evaluation)
    if not evaluation.tuned:  # otherwise versions from before `tune` could not read the file
        del table["tuned"]
    write_whole(file, json.dumps(_plain(table), indent=1).encode(), root=root)


def _plain(value: Any) -> Any:
    # JSON has no infinity (PSNR of equal images) and no NaN: they become the strings "inf" and "nan".
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
