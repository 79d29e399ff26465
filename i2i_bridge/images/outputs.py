"""What `restore` and `degrade` write for which input: names that never meet, formats, and what is done already."""

import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from i2i_bridge.errors import UserError
from i2i_bridge.images.files import IMAGE_SUFFIXES, JPEG_SUFFIXES, list_images, words_for_left_out
from i2i_bridge.storage.files import append
from i2i_bridge.storage.reader import LIST_LIMIT, open_regular, parse_json

FORMATS = {"png": ".png", "jpg": ".jpg", "webp": ".webp", "tif": ".tif"}
"""What `--format` takes, and the suffix of each."""
NAME_BYTES = 255
"""What a file system takes of a name."""
DONE_FILE = ".i2i-bridge-done.jsonl"
"""Beside the results of a folder: a line for each input that is done."""
LINE_BYTES = 2**16
"""No line of it is longer."""

Existing = Literal["resume", "skip", "overwrite"]
"""What becomes of an input whose results are there: `resume` keeps them where the same settings made them from the same
input, `skip` keeps whatever is there, and `overwrite` makes all again."""


@dataclass(frozen=True)
class Job:
    """An input, and the files that are written for it."""

    source: Path
    name: str
    """Path below the input folder, with slashes; of a single file its name."""
    outputs: dict[str, Path]
    """By ending: '' the result ('-1', '-2', ... of several samples), '-mask', '-degraded', '-trajectory', ..."""
    results: tuple[str, ...]
    """The endings of the results; the others are by-products, which may be none."""
    notes: dict[str, str]
    """By ending: that an output has another name than usual, since that name is another image's."""


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
    """A job for a file, or for every image below a folder, with outputs of distinct names.

    Results keep their input's name and suffix. With a format they get its suffix; JPEGs get .png where what is written
    is data (`lossless`), or where a file of that suffix is no JPEG inside.

    Args:
        source: The input, a file or a folder.
        target: A file, or a folder; what has no suffix is a folder.
        results: Endings of the results of one input.
        beside: By-products of one input: ending and suffix; an empty suffix means that of the result.
        format: One of `FORMATS`.
        quality: Checked only: PNG and TIFF have none.
        lossless: JPEG inputs give PNGs, unless the target or the format says otherwise.

    Raises:
        UserError: The input is missing or has no images, an output would overwrite it, or format, quality and suffix
            contradict each other.
    """
    if format is not None and format not in FORMATS:
        raise UserError(f"--format {format}: choose one of {', '.join(FORMATS)}")
    if quality is not None and not 1 <= quality <= 100:
        raise UserError(f"--quality {quality}: give a number from 1 to 100")
    wanted = None if format is None else FORMATS[format]
    plain = _plain_jobs(source, target, wanted, lossless)
    suffixes = {result.suffix.lower() for _, _, result in plain}
    if quality is not None and not suffixes & (JPEG_SUFFIXES | {".webp"}):
        raise UserError(f"--quality {quality}: is of JPEG and WebP only; the results are {', '.join(sorted(suffixes))}")
    endings, taken = tuple(results), set[Path]()
    named: dict[Path, Path] = {}
    # Whoever keeps the suffix keeps the name: of a.jpg and a.png, both written as PNG, the former becomes a.jpg.png.
    for file, _, result in sorted(plain, key=lambda job: job[0].suffix != job[2].suffix):
        others = (result.with_name(f"{file.name}{extra}{result.suffix}") for extra in _numbers())
        named[file] = next(
            free
            for free in (result, *itertools.islice(others, 100))
            if taken.isdisjoint(_named(free, ending, free.suffix) for ending in endings)
        )
        taken |= {_named(named[file], ending, result.suffix) for ending in endings}
    jobs = []
    for file, name, usual in plain:
        result = named[file]
        outputs = {ending: _named(result, ending, result.suffix) for ending in endings}
        notes = {} if result == usual else {endings[0]: f"{file}: written as {result.name}; {usual.name} is another's"}
        for ending, own in (beside or {}).items():
            suffix = own or result.suffix
            free = next(
                other for extra in _numbers() if (other := _named(result, f"{ending}{extra}", suffix)) not in taken
            )
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
    """See that no result overwrites a mask or condition.

    Raises:
        UserError: One would.
    """
    same = given.is_dir() and target.resolve() == given.resolve()
    if same or given.resolve() in {output.resolve() for job in jobs for output in job.outputs.values()}:
        raise UserError(f"{target}: the results would overwrite the {what} {given}; choose another output")


def _plain_jobs(source: Path, target: Path, wanted: str | None, lossless: bool) -> list[tuple[Path, str, Path]]:
    """(input, name, result) by the usual rule, without a look at the others."""

    def like(file: Path, result: Path) -> Path:
        suffix = file.suffix.lower()
        if wanted is not None:
            return result.with_suffix(wanted) if suffix != wanted else result
        if suffix in JPEG_SUFFIXES and (lossless or not _is_jpeg(file)):
            return result.with_suffix(".png")
        return result

    if source.is_file():
        into_folder = target.is_dir() or not target.suffix
        result = like(source, target / source.name) if into_folder else target
        if result.suffix.lower() not in IMAGE_SUFFIXES:
            raise UserError(f"{result}: not an image suffix; use one of {', '.join(sorted(IMAGE_SUFFIXES))}")
        if wanted is not None and _alike(result.suffix) != wanted:
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
        left_out = words_for_left_out(source, listing.left_out)
        raise UserError("; ".join([f"{source}: no images in this folder", *left_out]))
    names = [file.relative_to(source) for file in files]
    return [(file, name.as_posix(), like(file, target / name)) for file, name in zip(files, names, strict=True)]


def _alike(suffix: str) -> str:
    small = suffix.lower()
    return ".jpg" if small in JPEG_SUFFIXES else ".tif" if small == ".tiff" else small


def _is_jpeg(file: Path) -> bool:
    try:
        with open_regular(file) as stream:
            return stream.read(3) == b"\xff\xd8\xff"
    except OSError:  # said when it is read
        return True


def _numbers() -> Iterator[str]:
    yield ""
    yield from (f"-{number}" for number in itertools.count(2))


def _named(result: Path, ending: str, suffix: str) -> Path:
    """NAME + ending + suffix beside a result; a name too long for a file system is cut, and stays one of its own."""
    stem, room = result.stem, NAME_BYTES - len(os.fsencode(ending + suffix))
    if len(os.fsencode(stem)) > room:
        mark = f"~{hashlib.sha256(os.fsencode(stem)).hexdigest()[:8]}"
        while len(os.fsencode(stem + mark)) > room:
            stem = stem[:-1]
        stem += mark
    return result.with_name(f"{stem}{ending}{suffix}")


class DoneJobs:
    """Which inputs of a folder are done, so that a stopped folder goes on where it stopped.

    A file beside the results has a line for each: the input's size and time, a digest of all settings, and the size of
    every output. Whatever differs is made again. Nothing in it is believed beyond that: no name in it becomes a path.

    Args:
        folder: Where the results go; None for a single file, which is always made.
        existing: What becomes of results that are there.
        settings: All that decides the bytes of a result, as JSON.
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
        """None where a job is to be done; else what was recorded with it.

        Args:
            more: Other inputs, such as its mask.
        """
        there = all(job.outputs[ending].is_file() for ending in job.results)
        if self.existing == "overwrite" or not there:
            return None
        record = self.records.get(job.name, {})
        same = self.file is not None and {**record, "extra": None} == self._record(job, more, None)
        if same or self.existing == "skip":
            extra = record.get("extra")
            return extra if isinstance(extra, dict) else {}
        return None

    def add(self, job: Job, more: Iterable[Path] = (), extra: dict[str, Any] | None = None) -> None:
        """Record a job whose outputs are all written."""
        if self.file is None:
            return
        line = "\n" + json.dumps(self._record(job, more, extra or {})) + "\n"  # a line may have been cut off before it
        try:
            append(self.file, line.encode())
        except OSError:  # results count, this does not: the worst is that they are made once more
            self.file = None

    def _record(self, job: Job, more: Iterable[Path], extra: Any) -> dict[str, Any]:
        inputs = [[facts.st_size, facts.st_mtime_ns] for facts in (path.stat() for path in (job.source, *more))]
        outputs = {output.name: output.stat().st_size for output in job.outputs.values() if output.is_file()}
        return {"name": job.name, "settings": self.settings, "inputs": inputs, "outputs": outputs, "extra": extra}


def _records(file: Path) -> dict[str, dict[str, Any]]:
    """The last record of each name; lines that are none are passed over."""
    found: dict[str, dict[str, Any]] = {}
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
                    found[record["name"]] = record
    except OSError:
        return {}
    return found
