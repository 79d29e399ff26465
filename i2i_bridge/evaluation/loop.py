"""The one evaluation loop: restore the images of a protocol at several NFE and score them beside the degraded input.

    FOLDER/evaluation/PROTOCOL/  evaluation.json  per_image.csv  images/ROW/NAME.png  records/

Every image is scored on its own and its record is kept, so the loop can be stopped anywhere, distributed over
processes, and extended by more rows later. The summary (summary.py) is computed from the records only, sorted by key.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from i2i_bridge.data.dataset import PairDataset
from i2i_bridge.distributed import Processes, processes
from i2i_bridge.errors import UserError, unwritable
from i2i_bridge.evaluation.items import EvaluatedItem, ItemFacts
from i2i_bridge.evaluation.plan import Plan
from i2i_bridge.evaluation.records import CLEAN, Record
from i2i_bridge.evaluation.results import INPUT, Evaluation, evaluation_folder, read_evaluation
from i2i_bridge.evaluation.subjects import Subject
from i2i_bridge.evaluation.summary import summarise
from i2i_bridge.recipe.protocol import Resolved
from i2i_bridge.storage.files import real_folder, refuse_links, sweep
from i2i_bridge.storage.lock import locked

Report = Callable[[int, int], None]
Result = TypeVar("Result")


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
    with ExitStack() as stack:

        def start() -> tuple[_Loop, list[ItemFacts]]:
            root = real_folder(folder)
            if group.rank == 0:
                _lock_and_clean(root, evaluation_folder(root, protocol.name), stack)
            loop = _Loop(Plan(subject, dataset, protocol, metrics, root), batch_size)
            return loop, [] if replace else loop.read_facts(group)

        loop, seen = _on_all_ranks(group, start)
        loop.plan.refuse_other_images(group.gather(seen))
        facts = group.gather(_on_all_ranks(group, lambda: loop.share(group, report)))
        _on_all_ranks(group, lambda: _write_summary(loop.plan, facts) if group.rank == 0 else None)
    return read_evaluation(loop.plan.root, protocol.name)


def _on_all_ranks(group: Processes, work: Callable[[], Result]) -> Result:
    """Call `work` on every rank. An error of one rank ends all ranks: otherwise the others would wait for it."""
    failure: UserError | None = None
    try:
        result = work()
    except UserError as error:
        failure = error
    problems = [text for text in group.gather([None if failure is None else str(failure)]) if text is not None]
    if problems:
        raise UserError(problems[0], 2 if failure is None else failure.code) from failure
    return result


def _write_summary(plan: Plan, facts: Sequence[ItemFacts]) -> None:
    try:
        summarise(plan, facts)
    except OSError as error:
        raise unwritable(plan.home, error) from error


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


@dataclass
class _Loop:
    """Computes the records of a plan that are missing or outdated."""

    plan: Plan
    batch_size: int
    known_facts: dict[tuple[int, int], ItemFacts] = field(default_factory=dict)
    """Facts that `read_facts` collected, by position and index."""

    def read_facts(self, group: Processes) -> list[ItemFacts]:
        """Facts of this rank's items if the folder holds an evaluation to compare them with, else []."""
        if self.plan.may_replace:
            self.known_facts = {place: self.plan.item(*place)[1] for place in self.plan.work[group.rank :: group.count]}
        return list(self.known_facts.values())

    def share(self, group: Processes, report: Report) -> list[ItemFacts]:
        """Bring the records of items rank, rank + count, ... up to date; return their facts."""
        share_of_work = self.plan.work[group.rank :: group.count]
        facts: list[ItemFacts] = []
        for part in _parts(share_of_work, self.batch_size):
            known = [self.known_facts.get(place) for place in part]
            finished = [fact for fact in known if fact is not None and self._is_finished(fact)]
            if len(finished) == len(part):
                facts += finished
            else:
                batch = [self.plan.item(*place) for place in part]
                facts += [fact for _, fact in batch]
                if self.plan.scorer.extractors:
                    self._update(CLEAN, batch)
                evaluated = [(item, fact) for item, fact in batch if item.position >= 0]
                for row in self.plan.rows if evaluated else []:
                    self._update(row, evaluated)
            report(len(facts), len(share_of_work))
        return facts

    def _is_finished(self, fact: ItemFacts) -> bool:
        """Whether all records and pictures of an item are complete."""
        rows = [CLEAN] if self.plan.scorer.extractors else []
        rows += self.plan.rows if fact.position >= 0 else []
        return all(self._finished_record(row, fact, self.plan.fingerprint(row, fact)) is not None for row in rows)

    def _finished_record(self, row: str, item: EvaluatedItem | ItemFacts, fingerprint: str) -> Record | None:
        """The record of an item if nothing of it and no picture is missing."""
        record = self.plan.records.read(row, item.key, fingerprint)
        if record is None or self.plan.scorer.lacks(record, row) or self.plan.pictures.lacks(row, item):
            return None
        return record

    def _update(self, row: str, batch: Sequence[tuple[EvaluatedItem, ItemFacts]]) -> None:
        """Compute the missing parts of the records of a row, and write its PNGs."""
        plan = self.plan
        missing: list[tuple[EvaluatedItem, Record]] = []
        for item, fact in batch:
            fingerprint = plan.fingerprint(row, fact)
            if self._finished_record(row, item, fingerprint) is None:
                record = plan.records.read(row, item.key, fingerprint, None)
                missing.append((item, record or Record(item.key, fingerprint)))
        if row in plan.kept_rows and any(self._draws_left(record) for _, record in missing):
            # The row was not requested in this call: drop it instead of restoring images for it.
            plan.kept_rows.discard(row)
            plan.subject_rows.remove(row)
            return
        if row in plan.subject_rows:
            self._restore(row, missing)
        for item, record in missing:
            restored = [self._fixed(row, item)] if record.pixels is None else list(record.pixels)
            if plan.scorer.lacks(record, row):
                plan.scorer.score(record, row, restored, item, plan.dataset.operator, plan.seed)
                plan.records.write(row, record)
            if plan.pictures.include(row, item):
                self._write_pictures(row, item, restored[0])

    def _restore(self, row: str, missing: Sequence[tuple[EvaluatedItem, Record]]) -> None:
        """Compute the restorations that the records lack."""
        wanted = [(item, record, draw) for item, record in missing for draw in self._draws_left(record)]
        for part in _parts(wanted, self.batch_size):
            made = self.plan.subject.restore(row, [item.fields for item, _, _ in part], [draw for _, _, draw in part])
            for image, (item, record, draw) in zip(made.images, part, strict=True):
                pixels = item.codec.pixels(image)[None]
                if pixels.shape[1:] != item.clean.shape:
                    sizes = f"the restored image is {pixels.shape[1:]}, the clean {item.clean.shape}"
                    raise UserError(f"{item.key}: {sizes}")
                record.pixels = pixels if record.pixels is None else np.concatenate([record.pixels, pixels])
                if draw == 0:
                    record.seconds, record.calls = made.seconds, made.calls

    def _draws_left(self, record: Record) -> range:
        draws = 1 if self.plan.subject.one_draw else self.plan.scorer.samples
        return range(0 if record.pixels is None else len(record.pixels), draws)

    def _fixed(self, row: str, item: EvaluatedItem) -> np.ndarray:
        """Pixels of a row without a network."""
        if row in (CLEAN, INPUT):
            return item.clean if row == CLEAN else item.degraded
        return item.codec.pixels(self.plan.simple_restorations(item.fields)[row])

    def _write_pictures(self, row: str, item: EvaluatedItem, pixels: np.ndarray) -> None:
        pictures = {row: item.codec.image(pixels)}
        if row == self.plan.rows[0]:
            pictures |= {CLEAN: item.codec.image(item.clean), INPUT: item.codec.image(item.degraded)}
            pictures |= {"mask": item.fields["mask"] * 2 - 1} if "mask" in item.fields else {}
        self.plan.pictures.write(item, pictures)


def _parts(sequence: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(sequence), size):
        yield sequence[start : start + size]
