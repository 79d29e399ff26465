"""Output files of `restore` and `degrade`: unique names, formats, and the record of finished inputs."""

import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from i2i_bridge.errors import UserError, located
from i2i_bridge.images.folder import IMAGE_SUFFIXES, JPEG_SUFFIXES, left_out_notes, list_images
from i2i_bridge.storage.files import append
from i2i_bridge.storage.names import extended_name
from i2i_bridge.storage.reader import LIST_LIMIT, open_regular, parse_json

FORMATS = {"png": ".png", "jpg": ".jpg", "webp": ".webp", "tif": ".tif"}
"""The values of `--format` and their suffixes."""
DONE_FILE = ".i2i-bridge-done.jsonl"
"""Name of the record of finished inputs in an output folder, one line per input."""
LINE_BYTES = 2**16
"""Maximum bytes of a line of that record."""

Existing = Literal["resume", "skip", "overwrite"]
"""How to treat existing results: `resume` keeps those made from the same input with the same settings, `skip` keeps
all, `overwrite` keeps none."""


@dataclass(frozen=True)
class Job:
    """An input file and its output files."""

    source: Path
    name: str
    """Path relative to the input folder, with slashes; for a single file its name."""
    outputs: dict[str, Path]
    """Output files by name ending: '' for the result ('-1', '-2', ... for several samples), '-mask', ..."""
    results: tuple[str, ...]
    """The endings of the results; the other outputs are by-products, which may be missing."""
    notes: dict[str, str]
    """Messages by ending: the output has an unusual name, since the usual name belongs to another image."""


def plan_files(
    source: Path,
    target: Path,
    *,
    results: Iterable[str] = ("",),
    beside: Mapping[str, str] | None = None,
    format: str | None = None,
    quality: int | None = None,
    lossless: bool = False,
) -> list[Job]:
    """Plan the output files of an image, or of every image below a folder; all outputs have different names.

    A result has the name and suffix of its input, or the suffix of `format`. A JPEG input gives a .png if `lossless` is
    set, or if the content of the file is not JPEG.

    Args:
        source: The input, a file or a folder.
        target: The output, a file or a folder; a path without suffix is a folder.
        results: Endings of the results of one input.
        beside: By-products of one input: ending and suffix; an empty suffix means the suffix of the result.
        format: One of `FORMATS`.
        quality: Only checked here: PNG and TIFF have no quality.
        lossless: Write PNG for JPEG inputs, unless the target or the format says otherwise.

    Raises:
        UserError: The input is missing or has no images, an output would overwrite it, or format, quality and suffix
            contradict each other.
    """
    if format is not None and format not in FORMATS:
        raise UserError(f"--format {format}: choose one of {', '.join(FORMATS)}")
    if quality is not None and not 1 <= quality <= 100:
        raise UserError(f"--quality {quality}: give a number from 1 to 100")
    usual_results = _usual_results(source, target, None if format is None else FORMATS[format], lossless)
    suffixes = {result.suffix.lower() for _, _, result in usual_results}
    if quality is not None and not suffixes & (JPEG_SUFFIXES | {".webp"}):
        raise UserError(f"--quality {quality}: is of JPEG and WebP only; the results are {', '.join(sorted(suffixes))}")
    endings, taken = tuple(results), set[Path]()
    named: dict[Path, Path] = {}
    # Inputs that keep their suffix are named first: of a.jpg and a.png, both written as PNG, a.jpg becomes a.jpg.png.
    for file, _, result in sorted(usual_results, key=lambda job: job[0].suffix != job[2].suffix):
        numbered = (result.with_name(f"{file.name}{extra}{result.suffix}") for extra in _numbers())
        named[file] = next(
            free
            for free in (result, *itertools.islice(numbered, 100))
            if taken.isdisjoint(_named(free, ending, free.suffix) for ending in endings)
        )
        taken |= {_named(named[file], ending, result.suffix) for ending in endings}
    jobs = []
    for file, name, usual in usual_results:
        result = named[file]
        outputs = {ending: _named(result, ending, result.suffix) for ending in endings}
        notes = {} if result == usual else {endings[0]: f"{file}: written as {result.name}; {usual.name} is another's"}
        for ending, fixed_suffix in (beside or {}).items():
            suffix = fixed_suffix or result.suffix
            numbered = (_named(result, f"{ending}{extra}", suffix) for extra in _numbers())
            free = next(path for path in numbered if path not in taken)
            if free != _named(result, ending, suffix):
                notes[ending] = f"{file}: its '{ending[1:]}' is written as {free.name}; the usual name is another's"
            taken.add(free)
            outputs[ending] = free
        jobs.append(Job(file, name, outputs, endings, notes))
    if source.is_file():
        for output in jobs[0].outputs.values():
            if output.resolve() == source.resolve():
                raise UserError(f"{output}: the result would overwrite the input")
    return jobs


def keep_apart(jobs: Iterable[Job], target: Path, given: Path, what: str) -> None:
    """Check that no output overwrites a mask or condition.

    Args:
        jobs: The planned outputs.
        target: The output path, for the message.
        given: The file or folder of masks or conditions.
        what: 'mask' or 'condition', for the message.

    Raises:
        UserError: An output would.
    """
    same = given.is_dir() and target.resolve() == given.resolve()
    if same or given.resolve() in {output.resolve() for job in jobs for output in job.outputs.values()}:
        raise UserError(f"{target}: the results would overwrite the {what} {given}; choose another output")


def _usual_results(source: Path, target: Path, wanted: str | None, lossless: bool) -> list[tuple[Path, str, Path]]:
    """(input, name, result) of every input, before name collisions are resolved."""

    def with_format(file: Path, result: Path) -> Path:
        suffix = file.suffix.lower()
        if wanted is not None:
            return result.with_suffix(wanted) if suffix != wanted else result
        if suffix in JPEG_SUFFIXES and (lossless or not _is_jpeg(file)):
            return result.with_suffix(".png")
        return result

    if source.is_file():
        into_folder = target.is_dir() or not target.suffix
        result = with_format(source, target / source.name) if into_folder else target
        if result.suffix.lower() not in IMAGE_SUFFIXES:
            raise UserError(f"{result}: not an image suffix; use one of {', '.join(sorted(IMAGE_SUFFIXES))}")
        if wanted is not None and _usual_suffix(result.suffix) != wanted:
            raise UserError(f"{result}: the name says another format than --format {wanted[1:]}")
        return [(source, source.name, result)]
    if not source.is_dir():
        raise UserError(f"{source}: no such file or folder")
    if target.is_file():
        raise UserError(f"{target}: is a file, and {source} is a folder of images")
    if target.resolve().is_relative_to(source.resolve()):
        raise UserError(
            f"{target}: lies in the folder of the inputs: results would overwrite them, or be restored again"
        )
    listing = list_images(source)
    files = sorted(source / name for name in listing.images)
    if not files:
        notes = left_out_notes(source, listing.left_out)
        raise UserError("; ".join([f"{source}: no images in this folder", *notes]))
    names = [file.relative_to(source) for file in files]
    return [(file, name.as_posix(), with_format(file, target / name)) for file, name in zip(files, names, strict=True)]


def _usual_suffix(suffix: str) -> str:
    lower = suffix.lower()
    return ".jpg" if lower in JPEG_SUFFIXES else ".tif" if lower == ".tiff" else lower


def _is_jpeg(file: Path) -> bool:
    try:
        with open_regular(file) as stream:
            return stream.read(3) == b"\xff\xd8\xff"
    except OSError:  # reported when the file is read
        return True


def _numbers() -> Iterator[str]:
    yield ""
    yield from (f"-{number}" for number in itertools.count(2))


def _named(result: Path, ending: str, suffix: str) -> Path:
    """The path NAME + ending + suffix beside a result; a name that is too long is cut and gets a hash."""
    return result.with_name(extended_name(result.stem, after=f"{ending}{suffix}"))


@dataclass
class FilesOutcome:
    """The result of `process`."""

    written: int = 0
    skipped: int = 0
    """Images that were left as they are because their results exist (`existing`)."""
    problems: list[str] = field(default_factory=list)
    """One line for each image that could not be used."""
    notes: list[str] = field(default_factory=list)
    """One line for each file that was left out, and for each unusual name or image."""
    jobs: Sequence[Job] = ()
    """All inputs and their output files."""


def process(
    jobs: Sequence[Job],
    source: Path,
    outcome: FilesOutcome,
    work: Callable[[Job], None],
    report: Callable[[int, int], None],
) -> None:
    """Call `work` for every job, and `report` with (jobs done, jobs in all).

    The outcome gets the jobs. In a folder, the error of an image is added to the problems and does not stop the others.

    Raises:
        UserError: `work` raised it, and `source` is a single file.
    """
    outcome.jobs = jobs
    for number, job in enumerate(jobs, 1):
        try:
            with located(job.source):
                work(job)
        except UserError as error:
            if source.is_file():
                raise
            outcome.problems.append(str(error))
        report(number, len(jobs))


class DoneJobs:
    """Record of the finished inputs of a folder, by which an interrupted command is resumed.

    The record file in the output folder has a line for each input: size and modification time of the input, a digest of
    all settings, and the size of every output. If any of these differs, the input is processed again. The file is
    untrusted: no name in it is used as a path.

    Args:
        folder: The output folder; None for a single file, which is always processed.
        existing: How to treat existing results.
        settings: Everything that determines the bytes of a result; JSON-serialisable.
    """

    def __init__(self, folder: Path | None, existing: Existing, settings: Mapping[str, Any]) -> None:
        self.file = None if folder is None else folder / DONE_FILE
        self.existing = existing
        text = json.dumps(settings, sort_keys=True, default=str)
        self.settings = hashlib.sha256(text.encode()).hexdigest()
        self.records: dict[str, dict[str, Any]] = {}
        if self.file is not None and existing != "overwrite":
            self.records = _records(self.file)

    def extra(self, job: Job, more: Iterable[Path] = ()) -> dict[str, Any] | None:
        """The `extra` values recorded with a finished job; None if the job must be processed.

        Args:
            job: The job.
            more: Other input files, such as the mask.
        """
        complete = all(job.outputs[ending].is_file() for ending in job.results)
        if self.existing == "overwrite" or not complete:
            return None
        record = self.records.get(job.name, {})
        unchanged = self.file is not None and {**record, "extra": None} == self._record(job, more, None)
        if unchanged or self.existing == "skip":
            extra = record.get("extra")
            return extra if isinstance(extra, dict) else {}
        return None

    def add(self, job: Job, more: Iterable[Path] = (), extra: dict[str, Any] | None = None) -> None:
        """Record a job after all its outputs are written."""
        if self.file is None:
            return
        # The line before may be incomplete, after an interruption.
        line = f"\n{json.dumps(self._record(job, more, extra or {}))}\n"
        try:
            append(self.file, line.encode())
        except OSError:  # without a record the results are processed again, nothing worse
            self.file = None

    def _record(self, job: Job, more: Iterable[Path], extra: Any) -> dict[str, Any]:
        inputs = [[facts.st_size, facts.st_mtime_ns] for facts in (path.stat() for path in (job.source, *more))]
        outputs = {output.name: output.stat().st_size for output in job.outputs.values() if output.is_file()}
        return {"name": job.name, "settings": self.settings, "inputs": inputs, "outputs": outputs, "extra": extra}


def _records(file: Path) -> dict[str, dict[str, Any]]:
    """The last record of each name; invalid lines are skipped."""
    records: dict[str, dict[str, Any]] = {}
    try:
        if file.is_symlink():
            return {}
        with open_regular(file) as stream:
            while (line := stream.readline(LINE_BYTES)) and stream.tell() < LIST_LIMIT:
                try:
                    record = parse_json(line)
                except ValueError:
                    continue
                if isinstance(record, dict) and isinstance(record.get("name"), str):
                    records[record["name"]] = record
    except OSError:
        return {}
    return records
