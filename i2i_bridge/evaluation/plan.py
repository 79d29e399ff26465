"""The plan of an evaluation: its items, rows, metrics and records, settled before an image is restored."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from i2i_bridge import registry
from i2i_bridge.data.dataset import PairDataset
from i2i_bridge.errors import IO_ERROR, UserError
from i2i_bridge.evaluation.items import EvaluatedItem, ItemFacts, data_digest, positions, round_item
from i2i_bridge.evaluation.pictures import SavedPictures
from i2i_bridge.evaluation.records import Records, record_fingerprint
from i2i_bridge.evaluation.results import (
    DATA_FILE,
    INPUT,
    Evaluation,
    calls_in_name,
    evaluation_folder,
    read_evaluation,
    read_hashes,
)
from i2i_bridge.evaluation.scores import build_scorer
from i2i_bridge.evaluation.subjects import Subject
from i2i_bridge.metrics.base import build_metric
from i2i_bridge.metrics.frechet import read_moments
from i2i_bridge.recipe.protocol import Resolved, pixels_hash


class Plan:
    """What is restored, scored and written.

    Args:
        root: Folder of the run, or of outside results; no file below it is written through a link.

    Raises:
        UserError: There is no image, or nothing to measure.
    """

    def __init__(
        self, subject: Subject, dataset: PairDataset, protocol: Resolved, metrics: Sequence[str], root: Path
    ) -> None:
        self.subject, self.dataset, self.protocol, self.root = subject, dataset, protocol, root
        self.home = evaluation_folder(root, protocol.name)
        self.indices = positions(dataset, protocol)
        if not len(self.indices):
            raise UserError("no image to evaluate")
        self.seed = int(protocol.settings["seed"])
        self.records = Records(self.home / "records", root)
        self.pictures = SavedPictures(self.home / "images", root, len(self.indices))
        self.earlier = _earlier_evaluation(root, protocol.name)
        resumed = self._resumed()
        earlier = [] if resumed is None else list(resumed.rows[0].metrics)
        registered = {name for name in earlier if name.partition(":")[0] in registry.METRICS}
        self.metrics = [build_metric(name)[0] for name in metrics]
        first = dataset[int(self.indices[0])]
        names = [*self.metrics, *(name for name in earlier if name in registered)]
        height, width = first["x_0"].shape[-2:]
        self.scorer = build_scorer(names, dataset.channels, len(self.indices), protocol, (height, width))
        for name in set(earlier) - registered:
            self.scorer.skipped[name] = f"{name}: not registered; load its plug-in with --plugin FILE.py"
        stored = protocol.reference_file
        self.statistics = None if stored is None or not self.scorer.sets else read_moments(stored)
        self.fixed_rows = [INPUT, *self.simple_restorations(first)] if subject.baselines else []
        self.subject_rows = subject.rows(first)
        self.kept_rows: set[str] = set()
        """Rows of an earlier evaluation that stay in the results while their records are complete."""
        if resumed is not None and not subject.capped:
            self.kept_rows = {row.name for row in resumed.rows} - {*self.fixed_rows, *self.subject_rows}
            if self.kept_rows:
                self.subject_rows = sorted([*self.subject_rows, *self.kept_rows], key=calls_in_name)
        self.references: list[int] = []
        """Indices of items that are not scored but whose clean images are part of the reference set."""
        if self.scorer.sets and protocol.protocol.fid_reference == "split":
            evaluated = set(self.indices.tolist())
            self.references = [i for i in range(len(dataset)) if i not in evaluated]

    def _resumed(self) -> Evaluation | None:
        """The earlier evaluation if this one continues it: of the same protocol, weights and settings."""
        earlier = self.earlier
        if earlier is None or not earlier.rows or earlier.protocol.hash != self.protocol.hash:
            return None
        return earlier if earlier.fingerprint == self.subject.fingerprint else None

    @property
    def rows(self) -> list[str]:
        """Names of all rows, in order."""
        return [*self.fixed_rows, *self.subject_rows]

    @property
    def work(self) -> list[tuple[int, int]]:
        """Position among the evaluated items (-1 for a reference) and index of each item."""
        evaluated = [(position, int(index)) for position, index in enumerate(self.indices)]
        return evaluated + [(-1, index) for index in self.references]

    def item(self, position: int, index: int) -> tuple[EvaluatedItem, ItemFacts]:
        """Read an item of `work`."""
        quality = self.protocol.settings.get("jpeg_quality")
        item = round_item(position, self.dataset[index], self.dataset.value_range, quality)
        return item, item.facts(self.subject.of_item(item.key) if position >= 0 else "")

    def simple_restorations(self, fields: Mapping[str, Any]) -> dict[str, Tensor]:
        """Restorations (C, H, W) of an item without a network, by row, such as 'bicubic'."""
        degradation = self.dataset.operator
        if degradation is None:
            return {}
        return {name: images[0] for name, images in degradation.simple_restorations(fields["x_1"][None]).items()}

    def fingerprint(self, row: str, facts: ItemFacts) -> str:
        """The fingerprint that an item's record must have."""
        subject_part = [self.subject.fingerprint, facts.subject_fingerprint] if row in self.subject_rows else []
        return record_fingerprint(self.protocol.pixels_hash, row, facts.inputs_hash, subject_part)

    @property
    def may_replace(self) -> bool:
        """Whether the folder holds an evaluation whose items have the same pixels if their keys are the same."""
        if self.earlier is None:
            return False
        settings, other = self.earlier.protocol.settings, self.protocol.settings
        return pixels_hash(settings) == pixels_hash(other) and settings.get("split") == other.get("split")

    def refuse_other_images(self, facts: Sequence[ItemFacts]) -> None:
        """Refuse to replace an evaluation of other images, for example of another folder of the same name.

        Raises:
            UserError: An image has other pixels than in the evaluation in the folder, or under the same protocol an
                image is missing or new.
        """
        hashes = {fact.key: fact.pixels_hash for fact in facts if fact.position >= 0}
        if self.earlier is None or not hashes:
            return
        stored_hashes = read_hashes(self.home / DATA_FILE)
        differ = [f"'{key}'" for key in sorted(hashes) if stored_hashes.get(key, hashes[key]) != hashes[key]]
        same_protocol = self.earlier.protocol.hash == self.protocol.hash
        if differ or (same_protocol and self.earlier.data.digest != data_digest(hashes)):
            named = f": {', '.join(differ[:3])}{' ...' if differ[3:] else ''}" if differ else ""
            raise UserError(
                f"{self.home}: holds an evaluation of other images ({self.earlier.data.items} then, {len(hashes)} now"
                f"{f', {len(differ)} with other pixels' if differ else ''}{named}); say where its images lie"
                " (--root FOLDER), or give it up (--replace)"
            )


def _earlier_evaluation(root: Path, protocol: str) -> Evaluation | None:
    """The evaluation in the folder; None if it is missing or damaged."""
    try:
        return read_evaluation(root, protocol)
    except UserError as error:
        if error.code == IO_ERROR:
            raise
        return None
