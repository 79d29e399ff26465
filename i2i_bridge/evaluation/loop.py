"""The one metric loop: restore the images of a protocol at several NFE and score them beside the degraded input.

    FOLDER/evaluation/PROTOCOL/  evaluation.json  per_image.csv  images/ROW/NAME.png  records/

Every image is scored on its own and its record is kept, so the loop can be stopped anywhere, distributed over
processes, and extended by more rows later. The summary is computed from the records only, sorted by key.
"""

import dataclasses
import hashlib
import io
import itertools
import re
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from i2i_bridge import registry
from i2i_bridge.data.dataset import PairDataset
from i2i_bridge.data.source import item_of
from i2i_bridge.distributed import processes
from i2i_bridge.errors import UserError
from i2i_bridge.evaluation.records import CLEAN, Record, Records, record_fingerprint, slug
from i2i_bridge.evaluation.results import (
    INPUT,
    Data,
    Evaluation,
    Row,
    Stamp,
    calls_in_name,
    evaluation_folder,
    read_evaluation,
    read_hashes,
    write_evaluation,
    write_hashes,
)
from i2i_bridge.evaluation.scores import Scored, choose, equal_pairs, mean, scored, warnings_of
from i2i_bridge.evaluation.subjects import Subject, picture_name
from i2i_bridge.images.files import write_picture
from i2i_bridge.images.pixels import Picture, shown
from i2i_bridge.metrics import weights
from i2i_bridge.metrics.base import Estimate, build_metric
from i2i_bridge.metrics.distribution import FrechetDistance, PairedKernelDistance
from i2i_bridge.metrics.frechet import read_moments
from i2i_bridge.recipe.protocol import Resolved, chosen, pixels_hash
from i2i_bridge.storage.csv_file import Writer
from i2i_bridge.storage.files import IO_ERROR, locked, real_folder, refuse_links, remove, sweep, write_whole

ALL_PICTURES, SOME_PICTURES = 256, 64
"""All images are written as PNG if there are at most ALL_PICTURES, else the first SOME_PICTURES."""


DATA_FILE = "data.json"
"""File of the key and the SHA-256 of the pixels of each scored pair."""


INPUTS_FILE = "inputs.json"
"""File of the key and the `inputs_hash` of each item, clean references too; for outside results followed by a blank and
the fingerprint of the item's file. It tells which records belong to the results."""


LIST_FILE = "list.txt"
"""File of the user's list of images."""


Report = Callable[[int, int], None]


def measure(
    subject: Subject,
    dataset: PairDataset,
    protocol: Resolved,
    metrics: Sequence[str],
    folder: Path,
    *,
    batch_size: int = 1,
    replace: bool = False,
    report: Report = lambda done, total: None,
) -> Evaluation:
    """Score a subject under a protocol and write the results below `folder`; see `evaluate`."""
    group = processes()
    facts: list[_Fact] = []
    problem: str | None = None
    cause: UserError | None = None
    with ExitStack() as stack:
        try:
            folder = real_folder(folder)
            if group.rank == 0:
                _lock_and_clean(folder, evaluation_folder(folder, protocol.name), stack)
            loop = _Loop(subject, dataset, protocol, metrics, folder, batch_size)
            seen = [] if replace else loop.read_facts(group.rank, group.count)
        except UserError as error:
            problem, cause = str(error), error
        problems = [line for line in group.gather([problem]) if line is not None]
        if problems:
            raise UserError(problems[0], 2 if cause is None else cause.code) from cause
        loop.refuse_other_images(group.gather(seen))
        try:
            facts = loop.share(group.rank, group.count, report)
        except UserError as error:
            problem, cause = str(error), error
        # An error of one rank ends all ranks: otherwise the others would wait for it.
        problems = [line for line in group.gather([problem]) if line is not None]
        facts = group.gather(facts)
        if not problems and group.rank == 0:
            try:
                loop.summarise(facts)
            except UserError as error:
                problem, cause = str(error), error
            except OSError as error:
                problem = f"{loop.home}: cannot be written ({error.strerror or error})"
        problems = [line for line in group.gather([problem]) if line is not None]
    if problems:
        raise UserError(problems[0], 2 if cause is None else cause.code) from cause
    return read_evaluation(folder, protocol.name)


def _lock_and_clean(folder: Path, home: Path, stack: ExitStack) -> None:
    """Lock an evaluation's folder, and remove leftovers of interrupted evaluations from it.

    Raises:
        UserError: Another process is evaluating there, a folder inside is a link, or the folder cannot be written.
    """
    refuse_links(folder, [str(place.relative_to(folder)) for place in (home.parent, home)])
    busy = "another evaluation is being written there; wait for it, or choose another --out"
    stack.enter_context(locked(home, busy, root=folder))
    inside = [home / name for name in ("images", "records")]
    refuse_links(home, [place.name for place in inside])
    for place in (home, *inside):
        sweep(place)
    rows = [place for parent in inside if parent.is_dir() for place in parent.iterdir() if place.is_dir()]
    refuse_links(home, [str(place.relative_to(home)) for place in rows])
    for place in rows:
        sweep(place)


def positions(dataset: PairDataset, protocol: Resolved) -> np.ndarray:
    """Indices of the items of a dataset that a protocol scores, in order.

    Raises:
        UserError: The protocol's list names an image that the dataset does not have.
    """
    limit = protocol.settings["n"]
    if protocol.names:
        keys = [str(item_of(dataset.source, i)["key"]) for i in range(len(dataset))]
        return chosen(keys, protocol.names)[:limit]
    return np.arange(len(dataset))[:limit]


@dataclass(frozen=True)
class _Fact:
    """The facts of an item that the summary needs beside its records."""

    position: int
    key: str
    pixels_hash: str
    inputs_hash: str
    subject_fingerprint: str
    """`Subject.of_item` of the item."""
    equal: bool
    """Whether x_0 and x_1 have the same pixels."""


@dataclass
class _Loop:
    subject: Subject
    dataset: PairDataset
    protocol: Resolved
    metrics: Sequence[str]
    root: Path
    """Folder of the run, or of outside results; no file below it is written through a link."""
    batch_size: int
    kept_rows: set[str] = field(default_factory=set)
    """Rows of an earlier evaluation that stay in the results while their records are complete."""
    facts_by_place: dict[tuple[int, int], _Fact] = field(default_factory=dict)
    """Facts that `read_facts` collected, by position and index."""

    def __post_init__(self) -> None:
        self.home = evaluation_folder(self.root, self.protocol.name)
        self.indices = positions(self.dataset, self.protocol)
        if not len(self.indices):
            raise UserError("no image to evaluate")
        self.seed = int(self.protocol.settings["seed"])
        self.records = Records(self.home / "records", self.root)
        self.earlier = self._earlier()
        before = self._before()
        earlier = [] if before is None else list(before.rows[0].metrics)
        registered = {name for name in earlier if name.partition(":")[0] in registry.METRICS}
        self.metrics = [build_metric(name)[0] for name in self.metrics]
        first = self.dataset[int(self.indices[0])]
        self.scorer = choose(
            [*self.metrics, *(name for name in earlier if name in registered)],
            self.dataset.channels,
            len(self.indices),
            self.protocol,
            tuple(first["x_0"].shape[-2:]),
        )
        stored = self.protocol.reference_file
        self.statistics = None if stored is None or not self.scorer.sets else read_moments(stored)
        for name in set(earlier) - registered:
            self.scorer.skipped[name] = f"{name}: not known here any more; load it with --plugin FILE.py"
        self.fixed_rows = [INPUT, *self._simple(first)] if self.subject.baselines else []
        self.subject_rows = self.subject.rows(first)
        if before is not None and not self.subject.capped:
            self.kept_rows = {row.name for row in before.rows} - {*self.fixed_rows, *self.subject_rows}
            if self.kept_rows:
                self.subject_rows = sorted([*self.subject_rows, *self.kept_rows], key=calls_in_name)
        self.shown = len(self.indices) if len(self.indices) <= ALL_PICTURES else SOME_PICTURES
        self.quality = self.protocol.settings.get("jpeg_quality")

    def _earlier(self) -> Evaluation | None:
        """The evaluation in the folder; None if it is missing or damaged."""
        try:
            return read_evaluation(self.root, self.protocol.name)
        except UserError as error:
            if error.code == IO_ERROR:
                raise
            return None

    def _before(self) -> Evaluation | None:
        """The earlier evaluation if this one continues it: of the same protocol, weights and settings."""
        before = self.earlier
        if before is None:
            return None
        same = before.protocol.hash == self.protocol.hash and before.fingerprint == self.subject.fingerprint
        return before if same and before.rows else None

    def _references(self) -> list[int]:
        """Items that are not scored but whose clean images are part of the reference set."""
        if not self.scorer.sets or self.protocol.protocol.fid_reference != "split":
            return []
        inside = set(self.indices.tolist())
        return [i for i in range(len(self.dataset)) if i not in inside]

    def _simple(self, item: dict[str, Any]) -> dict[str, Tensor]:
        degradation = self.dataset.degradation
        if degradation is None:
            return {}
        return {name: images[0] for name, images in degradation.simple_restorations(item["x_1"][None]).items()}

    def _fingerprint(self, row: str, fact: _Fact) -> str:
        subject_part = [self.subject.fingerprint, fact.subject_fingerprint] if row in self.subject_rows else []
        return record_fingerprint(self.protocol.pixels_hash, row, fact.inputs_hash, subject_part)

    # Restoring and scoring

    def share(self, rank: int, count: int, report: Report) -> list[_Fact]:
        """Bring the records of items rank, rank + count, ... up to date; return their facts."""
        share_of_work = self._work()[rank::count]
        facts = []
        for part in _parts(share_of_work, self.batch_size):
            found = [self.facts_by_place.get(place) for place in part]
            finished = [fact for fact in found if fact is not None and self._is_finished(fact)]
            if len(finished) == len(part):
                facts += finished
                report(len(facts), len(share_of_work))
                continue
            batch = []
            for position, index in part:
                batch.append(self._item(position, index))
                facts.append(batch[-1][1])
            if self.scorer.extractors:
                self._up_to_date(CLEAN, batch)
            evaluated = [(one, fact) for one, fact in batch if one.position >= 0]
            for row in [*self.fixed_rows, *self.subject_rows] if evaluated else []:
                self._up_to_date(row, evaluated)
            report(len(facts), len(share_of_work))
        return facts

    def _work(self) -> list[tuple[int, int]]:
        """Position among the evaluated items (-1 for a reference) and index of each item."""
        work = [(position, int(index)) for position, index in enumerate(self.indices)]
        return work + [(-1, index) for index in self._references()]

    def _item(self, position: int, index: int) -> tuple[Scored, _Fact]:
        one = scored(position, self.dataset[index], self.dataset.value_range, self.quality)
        subject_fingerprint = self.subject.of_item(one.key) if position >= 0 else ""
        equal = np.array_equal(one.clean, one.degraded)
        return one, _Fact(position, one.key, one.pixels_hash, one.inputs_hash, subject_fingerprint, equal)

    def _is_finished(self, fact: _Fact) -> bool:
        """Whether all records and pictures of an item are complete."""
        rows = [CLEAN] if self.scorer.extractors else []
        rows += [*self.fixed_rows, *self.subject_rows] if fact.position >= 0 else []
        for row in rows:
            record = self.records.read(row, fact.key, self._fingerprint(row, fact))
            if record is None or self.scorer.lacks(record, row) or not self._picture_is_there(row, fact):
                return False
        return True

    # The images of the evaluation that lies in the folder

    def read_facts(self, rank: int, count: int) -> list[_Fact]:
        """Facts of this rank's items if the folder holds an evaluation to compare them with, else []."""
        if self.earlier is None or not _same_pixels(self.earlier.protocol.settings, self.protocol.settings):
            return []
        self.facts_by_place = {place: self._item(*place)[1] for place in self._work()[rank::count]}
        return list(self.facts_by_place.values())

    def refuse_other_images(self, facts: Sequence[_Fact]) -> None:
        """Refuse to replace an evaluation of other images, for example of another folder of the same name.

        Raises:
            UserError: An image has other pixels than in the evaluation in the folder, or under the same protocol an
                image is missing or new.
        """
        items = {fact.key: fact.pixels_hash for fact in facts if fact.position >= 0}
        if self.earlier is None or not items:
            return
        stored_hashes = read_hashes(self.home / DATA_FILE)
        differ = [f"'{key}'" for key in sorted(items) if stored_hashes.get(key, items[key]) != items[key]]
        same_protocol = self.earlier.protocol.hash == self.protocol.hash
        if differ or (same_protocol and self.earlier.data.digest != _digest_of(items)):
            named = f": {', '.join(differ[:3])}{' ...' if differ[3:] else ''}" if differ else ""
            raise UserError(
                f"{self.home}: holds an evaluation of other images ({self.earlier.data.items} then, {len(items)} now"
                f"{f', {len(differ)} with other pixels' if differ else ''}{named}); say where its images lie"
                " (--root FOLDER), or give it up (--replace)"
            )

    def _up_to_date(self, row: str, batch: list[tuple[Scored, _Fact]]) -> None:
        """Compute the missing parts of the records of a row, and write its PNGs."""
        todo: list[tuple[Scored, Record]] = []
        for one, fact in batch:
            fingerprint = self._fingerprint(row, fact)
            record = self.records.read(row, one.key, fingerprint)
            if record is None or self.scorer.lacks(record, row) or not self._picture_is_there(row, one):
                record = self.records.read(row, one.key, fingerprint, None)
                todo.append((one, record or Record(one.key, fingerprint)))
        if row in self.kept_rows and any(self._draws_left(record) for _, record in todo):
            # The row was not requested in this call: drop it instead of restoring images for it.
            self.kept_rows.discard(row)
            self.subject_rows.remove(row)
            return
        if row in self.subject_rows:
            self._restore(row, todo)
        for one, record in todo:
            restored = self._fixed(row, one) if record.pixels is None else list(record.pixels)
            if self.scorer.lacks(record, row):
                self.scorer.score(record, row, restored, one, self.dataset.degradation, self.seed)
                self.records.write(row, record)
            if 0 <= one.position < self.shown:
                self._write_pictures(row, one, restored[0])

    def _restore(self, row: str, todo: list[tuple[Scored, Record]]) -> None:
        """Compute the restorations that the records lack."""
        wanted = [(one, record, draw) for one, record in todo for draw in self._draws_left(record)]
        for part in _parts(wanted, self.batch_size):
            made = self.subject.restore(row, [one.item for one, _, _ in part], [draw for _, _, draw in part])
            for image, (one, record, draw) in zip(made.images, part, strict=True):
                pixels = one.codec.pixels(image)[None]
                if pixels.shape[1:] != one.clean.shape:
                    raise UserError(f"{one.key}: the restored image is {pixels.shape[1:]}, the clean {one.clean.shape}")
                record.pixels = pixels if record.pixels is None else np.concatenate([record.pixels, pixels])
                if draw == 0:
                    record.seconds, record.calls = made.seconds, made.calls

    def _draws_left(self, record: Record) -> range:
        draws = 1 if self.subject.one_draw else self.scorer.samples
        return range(0 if record.pixels is None else len(record.pixels), draws)

    def _fixed(self, row: str, one: Scored) -> list[np.ndarray]:
        if row == CLEAN:
            return [one.clean]
        return [one.degraded if row == INPUT else one.codec.pixels(self._simple(one.item)[row])]

    def _picture(self, row: str, one: "Scored | _Fact") -> Path:
        return self.home / "images" / slug(row) / f"{picture_name(one.position, one.key)}.png"

    def _picture_is_there(self, row: str, one: "Scored | _Fact") -> bool:
        return row == CLEAN or not 0 <= one.position < self.shown or self._picture(row, one).is_file()

    def _write_pictures(self, row: str, one: Scored, pixels: np.ndarray) -> None:
        if row == CLEAN:
            return
        pictures = {row: one.codec.image(pixels)}
        if row == [*self.fixed_rows, *self.subject_rows][0]:
            pictures |= {CLEAN: one.codec.image(one.clean), INPUT: one.codec.image(one.degraded)}
            pictures |= {"mask": one.item["mask"] * 2 - 1} if "mask" in one.item else {}
        for name, picture in pictures.items():
            write_picture(self._picture(name, one), Picture(shown(picture)), root=self.root)

    # Summing up

    def summarise(self, facts: list[_Fact]) -> None:
        """Write evaluation.json and per_image.csv from the records, and remove stale pictures."""
        facts = sorted(facts, key=lambda fact: fact.key)
        for before, after in itertools.pairwise(facts):
            if before.key == after.key:
                raise UserError(f"two items have the key '{after.key}'; keys must tell the items of a dataset apart")
        items = [fact for fact in facts if fact.position >= 0]
        references = facts if self._references() else items
        rows: list[Row] = []
        lines = io.StringIO(newline="")
        writer = Writer(lines)
        writer.writerow(["key", "row", "nfe", "seconds", *self.scorer.images])
        for name in [*self.fixed_rows, *self.subject_rows]:
            row = self._row(name, items, references, writer, rows[-1].name if rows else None)
            if row is not None:
                rows.append(row)
        per_image = lines.getvalue().encode("utf-8", "surrogateescape")
        write_whole(self.home / "per_image.csv", per_image, root=self.root)
        settings = dict(self.protocol.settings)
        stamp = Stamp(self.protocol.name, self.protocol.protocol.version, self.protocol.hash, settings)
        hashes = {fact.key: fact.pixels_hash for fact in items}
        result = Evaluation(
            self.subject.recipe,
            self.subject.method,
            self.subject.step,
            self.seed,
            stamp,
            Data(_digest_of(hashes), len(items)),
            rows,
            self.scorer.skipped,
            [
                *self.subject.warnings,
                *self.protocol.protocol.warnings,
                *warnings_of(self.scorer, len(items)),
                *equal_pairs([fact.key for fact in items if fact.equal], len(items)),
                *weights.warnings(self.metrics),
                *self.dataset.notes(self.indices.tolist()),
            ],
            self.subject.fingerprint,
            self.subject.capped,
        )
        self._remove_stale_pictures(items, [row.name for row in rows])
        if self.protocol.names:
            names = "".join(f"{name}\n" for name in self.protocol.names)
            write_whole(self.home / LIST_FILE, names.encode(), root=self.root)
        write_hashes(self.home / DATA_FILE, hashes, root=self.root)
        inputs = {fact.key: f"{fact.inputs_hash} {fact.subject_fingerprint}".strip() for fact in facts}
        write_hashes(self.home / INPUTS_FILE, inputs, root=self.root)
        write_evaluation(self.home / "evaluation.json", result, root=self.root)

    def _row(
        self, name: str, items: list[_Fact], references: list[_Fact], writer: Writer, earlier: str | None
    ) -> Row | None:
        """Summarise a row and write its lines of per_image.csv; None for a kept row with missing records."""
        values = {metric: np.empty(len(items)) for metric in self.scorer.images}
        seconds, lines, calls = [], [], 0
        for i, fact in enumerate(items):
            record = self.records.read(name, fact.key, self._fingerprint(name, fact))
            if record is None or self.scorer.lacks(record, name):
                if name in self.kept_rows:
                    return None
                raise UserError(f"{self.records.file(name, fact.key)}: gone while it was needed; evaluate again")
            for metric in values:
                values[metric][i] = record.scores[metric][0]
            calls = max(calls, record.calls)
            if record.seconds is not None:
                seconds.append(record.seconds)
            shares = [record.scores[metric][0] for metric in values]
            lines.append([fact.key, name, record.calls, "" if record.seconds is None else record.seconds, *shares])
        writer.writerows(lines)
        keys = [fact.key for fact in items]
        estimates: dict[str, Estimate] = {metric: mean(found, self.seed, keys) for metric, found in values.items()}
        for metric in self.scorer.sets:
            estimates[metric] = self._set_estimate(metric, name, items, references, earlier)
        ordered = {metric: estimates[metric] for metric in [*self.metrics, *estimates] if metric in estimates}
        # Median: the mean would include the warm-up of the first image.
        return Row(name, calls, len(items), ordered, statistics.median(seconds) if seconds else None)

    def _set_estimate(
        self, metric: str, row: str, items: list[_Fact], references: list[_Fact], earlier: str | None
    ) -> Estimate:
        """Estimate a distance between sets, from features that are memory-mapped.

        Args:
            earlier: The row before this one, which a paired metric compares it with.
        """
        distance = self.scorer.sets[metric]
        feature = self.scorer.feature(distance.extractor)
        files = [self.home / "records" / f"features-{side}.npy" for side in ("restored", "reference", "earlier")]
        restored = self.records.matrix(row, feature, self._keyed(row, items), files[0])
        if isinstance(distance, PairedKernelDistance):
            reference = self.records.matrix(CLEAN, feature, self._keyed(CLEAN, items), files[1])
            estimate = distance.estimate(restored, reference, seed=self.seed)
            if earlier is not None:
                before = self.records.matrix(earlier, feature, self._keyed(earlier, items), files[2])
                change = distance.difference(restored, before, reference, seed=self.seed)
                numbers = f"{change.value:+.3g} [{change.low:+.3g}, {change.high:+.3g}]"
                estimate = dataclasses.replace(estimate, note=f"{row} minus {earlier}: {numbers}")
        elif self.statistics is not None and isinstance(distance, FrechetDistance):
            estimate = distance.estimate(restored, self.statistics, seed=self.seed)
        else:
            reference = self.records.matrix(CLEAN, feature, self._keyed(CLEAN, references), files[1])
            places = {fact.key: i for i, fact in enumerate(references)}
            partners = np.array([places[fact.key] for fact in items])
            estimate = distance.estimate_matched(restored, reference, partners, seed=self.seed)
        for file in files:
            remove(file, root=self.root)
        if not isinstance(estimate, Estimate):
            raise UserError(f"metric '{metric}': estimate() gave {type(estimate).__name__}; an Estimate is needed")
        return estimate

    def _keyed(self, row: str, facts: list[_Fact]) -> list[tuple[str, str]]:
        return [(fact.key, self._fingerprint(row, fact)) for fact in facts]

    def _remove_stale_pictures(self, items: list[_Fact], rows: list[str]) -> None:
        """Remove pictures in `images/` that do not belong to this evaluation."""
        names = {f"{picture_name(fact.position, fact.key)}.png" for fact in items if fact.position < self.shown}
        folders = {slug(row) for row in [*rows, CLEAN, "mask", INPUT]}
        for file in (self.home / "images").glob("*/*.png"):
            generated = re.match(r"\d{4,}-", file.name) is not None  # a name from `picture_name`, not a user's file
            if generated and (file.parent.name not in folders or file.name not in names):
                remove(file, root=self.root)


def _digest_of(hashes: Mapping[str, str]) -> str:
    """SHA-256 over the hashes of the items' pixels, sorted by key."""
    return hashlib.sha256("".join(hashes[key] for key in sorted(hashes)).encode()).hexdigest()


def _same_pixels(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether an item of the same key has the same pixels under both protocols' settings."""
    return pixels_hash(one) == pixels_hash(other) and one.get("split") == other.get("split")


def _parts(things: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(things), size):
        yield things[start : start + size]
