"""Download a file over HTTP: partial downloads are resumed, and a file is verified before it gets its name."""

import contextlib
import hashlib
import http.client
import re
import time
import urllib.request
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, PrivateAttr

from i2i_bridge.errors import IO_ERROR, UserError, located, readable, unwritable
from i2i_bridge.storage.archive import RESERVE, Report
from i2i_bridge.storage.files import free_bytes, no_link, remove, replace, write_whole
from i2i_bridge.storage.internet import require
from i2i_bridge.storage.names import NAME_LETTERS, extended_name
from i2i_bridge.storage.reader import file_sha256, read_bytes
from i2i_bridge.storage.table import Table


class Download(Table):
    """A file to download: one entry [[download]] of a card."""

    url: Annotated[str, Field(pattern=r"^https?://[^\s]+$")]
    bytes: Annotated[int, Field(gt=0, le=2**53)] | None = None
    """Exact size in bytes, if known."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    md5: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")] | None = None
    unpack: Literal["tar", "zip", "none"] = "none"
    _file: str = PrivateAttr("")

    @property
    def file(self) -> str:
        """The file name: the last part of the URL, with characters invalid on some file system replaced; see `Card`."""
        return self._file or download_name(self.url)


def download_name(url: str) -> str:
    last = re.split(r"[?#]", url, maxsplit=1)[0].rstrip("/").rpartition("/")[2]
    name = extended_name(re.sub(r"[^\w.%+=~@ -]", "-", last).lstrip(".") or "download", limit=NAME_LETTERS)
    # These suffixes are reserved for downloads in progress.
    return f"{name}.file" if name.endswith((".part", ".version")) else name


BUSY = "another fetch is at work there"
"""Message of `locked` for a folder of downloads."""
TIMEOUT = 30.0
"""Socket timeout in seconds."""
ATTEMPTS = 3
"""Consecutive attempts without a new byte after which a download fails."""
PAUSE = 1.0
"""Seconds before the next attempt, doubled after each attempt without a new byte."""
LARGEST = 2**40
"""Maximum bytes of a file whose size neither the card nor the server states."""
SLOWEST, WINDOW = 1000, 60.0
"""A download of fewer than SLOWEST bytes per second over WINDOW seconds fails."""
NUMBER = re.compile(r"[0-9]{1,18}")
RANGE = re.compile(rf"bytes ({NUMBER.pattern})-{NUMBER.pattern}/({NUMBER.pattern})")
"""Content-Range of a partial response: first byte, last byte, total length."""
TRY_AGAIN = {408, 425, 429, 500, 502, 503, 504}


def download(source: Download, target: Path, report: Report = lambda done, total: None) -> str:
    """Download a file, or the missing rest of a partial download, and check its size and hash.

    The bytes are written to `target.part`. A partial download left by an interruption is resumed if the server supports
    it and if a hash or the server's validator (ETag or date) ensures that both parts belong to the same file.

    Args:
        source: The URL, with size and hash if known.
        target: The file; an existing file is only verified.
        report: Progress callback.

    Returns:
        The SHA-256 of the file.

    Raises:
        UserError: Offline mode, no connection, a server error, a web page instead of the file, a size or hash that
            differs from the card's, a size or rate beyond the limits, or a full or read-only disk. A file with wrong
            content is deleted, a partial download is kept.
    """
    if target.exists():
        return _verified(source, target)
    require(f"fetching {source.url}")
    partial = target.with_name(target.name + ".part")
    best = fruitless = 0
    while True:
        problem = "the server broke off"
        try:
            if _attempt(source, partial, report):
                break
        except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as error:
            problem = str(getattr(error, "reason", None) or error) or type(error).__name__
        size = _size(partial)
        fruitless = 0 if size > best else fruitless + 1
        best = max(best, size)
        if fruitless == ATTEMPTS:
            raise UserError(f"{source.url}: {problem} (after {size} bytes); run the same command again to resume")
        time.sleep(PAUSE * 2**fruitless)
    digest = _verified(source, partial)
    with located(target, "cannot be written", OSError):
        replace(partial, target)
    remove(_validator_file(partial))
    return digest


def _attempt(source: Download, partial: Path, report: Report) -> bool:
    """Send one request and append the received bytes to `partial`; returns whether the file is complete."""
    start = _size(partial)
    validator = _read_validator(partial)
    if not (validator or source.sha256 or source.md5) or (source.bytes and start > source.bytes):
        start = 0  # nothing ensures that both parts would belong to the same file
    if source.bytes and start == source.bytes:
        return True
    headers = {"User-Agent": "i2i-bridge", "Accept-Encoding": "identity"}
    if start:
        headers |= {"Range": f"bytes={start}-"} | ({"If-Range": validator} if validator else {})
    try:
        response = _opener().open(urllib.request.Request(source.url, headers=headers), timeout=TIMEOUT)
    except ValueError as error:  # an invalid URL, possibly of a redirect
        raise UserError(f"{source.url}: leads to an address that cannot be read ({error})") from error
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and start:  # the file has no bytes after `start`: it is complete, or another file
            if error.headers.get("Content-Range") == f"bytes */{start}":
                return True
            _discard(partial)
            return False
        if error.code in TRY_AGAIN:
            raise
        raise UserError(f"{source.url}: the server says {error.code} {error.reason}") from error
    with response:
        return _receive(response, source, partial, start, report)


def _receive(response: Any, source: Download, partial: Path, start: int, report: Report) -> bool:
    length = response.headers.get("Content-Length")
    total = int(length) if length and NUMBER.fullmatch(length.strip()) else None
    if response.status == 206:
        span = RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
        if span is None or int(span[1]) != start:
            _discard(partial)  # not the requested range; download from the beginning
            return False
        total = int(span[2])
    else:
        start = 0
    if response.headers.get_content_type() == "text/html":
        raise UserError(f"{source.url}: the server sent a web page instead of the file")
    if source.bytes and total is not None and total != source.bytes:
        raise UserError(f"{source.url}: the server has {total} bytes, the card says {source.bytes}: another file")
    limit = source.bytes or total
    try:
        if limit and limit - start > free_bytes(partial.parent) - RESERVE:
            raise UserError(
                f"{partial.parent}: no room for {limit - start} bytes; {RESERVE >> 20} MB stay free", IO_ERROR
            )
        out = open(partial, "ab" if start else "wb", opener=no_link)  # noqa: SIM115 - closed below
    except OSError as error:
        raise unwritable(partial, error) from error
    with out:
        done = start
        pace = Pace(source.url)
        if not start:
            _write_validator(partial, response)
        while chunk := response.read1(2**18):
            if not done and chunk.lstrip()[:9].lower().startswith((b"<!doctype", b"<html")):
                raise UserError(f"{source.url}: the server sent a web page instead of the file")
            done += len(chunk)
            if done > (limit or LARGEST):
                _discard(partial)
                raise UserError(f"{source.url}: more than the {limit or LARGEST} bytes that it may have; deleted")
            if free_bytes(partial.parent) < len(chunk) + RESERVE:
                raise UserError(
                    f"{partial.parent}: no room for more; {RESERVE >> 20} MB of the disk stay free", IO_ERROR
                )
            pace.add(len(chunk))
            with located(partial, "cannot be written", OSError):
                out.write(chunk)
            report(done, limit or 0)
    return limit is None or done == limit


class Pace:
    """Ends a download that is slower than SLOWEST bytes per second."""

    def __init__(self, url: str) -> None:
        self.url, self.bytes, self.since = url, 0, time.monotonic()

    def add(self, count: int) -> None:
        """Count received bytes.

        Raises:
            UserError: Fewer than SLOWEST bytes per second were received over WINDOW seconds.
        """
        self.bytes += count
        seconds = time.monotonic() - self.since
        if seconds >= WINDOW:
            if self.bytes < SLOWEST * seconds:
                raise UserError(f"{self.url}: less than {SLOWEST} bytes a second; run the same command again to resume")
            self.bytes, self.since = 0, time.monotonic()


def _verified(source: Download, path: Path) -> str:
    """Check a file against the card's size and hashes and return its SHA-256; a file that differs is deleted."""
    with readable(path):
        sha256 = file_sha256(path)
    facts: list[tuple[str, int | str | None, int | str]] = [
        ("size in bytes", source.bytes, _size(path)),
        ("sha256", source.sha256, sha256),
    ]
    if source.md5:
        with readable(path), path.open("rb") as stream:
            md5 = hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False))
            facts.append(("md5", source.md5, md5.hexdigest()))
    for what, wanted, got in facts:
        if wanted and wanted != got:
            _discard(path)
            raise UserError(f"{source.url}: the {what} is {got}, not {wanted}: another or a damaged file; deleted")
    return sha256


def _size(path: Path) -> int:
    with contextlib.suppress(OSError):
        return path.stat().st_size
    return 0


def _discard(partial: Path) -> None:
    remove(partial)
    remove(_validator_file(partial))


def _validator_file(partial: Path) -> Path:
    return partial.with_name(partial.name + ".version")


def _read_validator(partial: Path) -> str:
    """The validator saved by `_write_validator`, valid as a header value; '' if there is none."""
    try:
        validator = read_bytes(_validator_file(partial), 1000).decode("ascii")
    except (OSError, ValueError):
        return ""
    return validator if validator.isprintable() else ""


def _write_validator(partial: Path, response: Any) -> None:
    """Save the validator that identifies this version of the file: a strong ETag, or the modification date."""
    tag = response.headers.get("ETag", "")
    validator = tag if tag.startswith('"') else response.headers.get("Last-Modified", "")
    if validator.isascii() and validator.isprintable() and len(validator) <= 1000:
        write_whole(_validator_file(partial), validator.encode("ascii"))


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to http and https only, and never from https to http."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        scheme = urlsplit(newurl).scheme  # ValueError for an invalid URL: see _attempt
        if scheme not in ("http", "https") or (scheme == "http" and req.type == "https"):
            raise UserError(f"{req.full_url}: refused to be sent on to {newurl}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    # Not urllib's default opener, which also opens file:, ftp: and data: URLs.
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        _Redirects,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPErrorProcessor,
        urllib.request.UnknownHandler,
    ):
        opener.add_handler(handler())
    return opener
