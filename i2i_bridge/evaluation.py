"""STAND-IN."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Mapping
from i2i_bridge.errors import UserError
from i2i_bridge.metrics.base import Estimate

INPUT = "input"


@dataclass(frozen=True)
class ProtocolStamp:
    name: str
    version: int
    hash: str
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class DataStamp:
    digest: str
    items: int


@dataclass(frozen=True)
class Row:
    name: str
    nfe: int
    images: int
    metrics: dict[str, Estimate]
    seconds_per_image: float | None


@dataclass(frozen=True)
class Evaluation:
    recipe: str
    method: str
    step: int
    seed: int
    protocol: ProtocolStamp
    data: DataStamp
    rows: list[Row]
    skipped: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def read_evaluation(folder, protocol="held-out"):
    file = folder / "evaluation" / protocol / "evaluation.json"
    try:
        t = json.loads(file.read_text())
    except FileNotFoundError as e:
        raise UserError(f"{folder}: not evaluated yet; run `i2i-bridge evaluate {folder}`") from e
    rows = [
        Row(
            r["name"],
            r["nfe"],
            r["images"],
            {k: Estimate(**{a: float(b) if a != "note" else b for a, b in v.items()}) for k, v in r["metrics"].items()},
            r["seconds_per_image"],
        )
        for r in t.pop("rows")
    ]
    return Evaluation(rows=rows, protocol=ProtocolStamp(**t.pop("protocol")), data=DataStamp(**t.pop("data")), **t)
