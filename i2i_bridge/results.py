"""What an evaluation says, and the file that it says it in: `evaluation/PROTOCOL/evaluation.json`."""

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from i2i_bridge.errors import UserError
from i2i_bridge.files import write_whole
from i2i_bridge.metrics.base import Estimate
from i2i_bridge.protocols import protocol_id

INPUT = "input"
"""The row of the degraded images themselves, nothing restored."""


@dataclass(frozen=True)
class Row:
    """Scores of one way to restore, over all images."""

    name: str
    """'input', 'bicubic', 'nfe N', or the name of a folder of images."""
    nfe: int
    """Network calls per image, counted; 0 where there was no network, or nobody knows."""
    images: int
    metrics: dict[str, Estimate]
    seconds_per_image: float | None


@dataclass(frozen=True)
class Stamp:
    """Which protocol the numbers are measured under."""

    name: str
    version: int
    hash: str
    settings: dict[str, Any]

    @property
    def id(self) -> str:
        """Such as 'held-out@1 3f9c0a1b2c3d'; stands beside every number."""
        return protocol_id(self.name, self.version, self.hash)


@dataclass(frozen=True)
class Data:
    """Which images the numbers are of."""

    digest: str
    """SHA-256 over the hashes of the scored pixels of all x_0 and x_1, sorted by key."""
    items: int


@dataclass(frozen=True)
class Evaluation:
    """All that was measured of a run, or of a folder of images, under one protocol."""

    recipe: str
    method: str
    step: int
    seed: int
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


def evaluation_folder(folder: Path, protocol: str) -> Path:
    """Where the evaluation of a run folder, or of outside results, lies."""
    return folder / "evaluation" / protocol


def read_evaluation(folder: Path, protocol: str = "held-out") -> Evaluation:
    """The evaluation of a run folder, or of a folder of outside results, under a protocol.

    Raises:
        UserError: There is none, or it is damaged.
    """
    file = evaluation_folder(folder, protocol) / "evaluation.json"
    try:
        table = json.loads(file.read_text(encoding="utf-8"))
        rows = [_row(row) for row in table.pop("rows")]
        stamp, data = Stamp(**table.pop("protocol")), Data(**table.pop("data"))
        return Evaluation(protocol=stamp, data=data, rows=rows, **table)
    except FileNotFoundError as error:
        there = sorted(path.parent.name for path in (folder / "evaluation").glob("*/evaluation.json"))
        others = f" under {protocol} (but under {', '.join(there)})" if there else ""
        raise UserError(f"{folder}: not evaluated yet{others}; run `i2i-bridge evaluate {folder}`") from error
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{file}: damaged ({error}); evaluate again") from error


def _row(table: dict[str, Any]) -> Row:
    metrics = {
        name: Estimate(note=str(given.pop("note")), **{key: float(value) for key, value in given.items()})
        for name, given in table.pop("metrics").items()
    }
    return Row(metrics=metrics, **table)


def write_evaluation(file: Path, evaluation: Evaluation) -> None:
    """Write an evaluation.json, whole or not at all."""
    write_whole(file, json.dumps(_plain(asdict(evaluation)), indent=1).encode())


def _plain(value: Any) -> Any:
    # JSON has no infinity (PSNR of equal images) and no NaN: they become the strings "inf" and "nan".
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
