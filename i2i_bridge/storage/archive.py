"""Unpack untrusted tar and zip archives: nothing outside the folder, no links or special files, limited size.

tarfile and zipfile read the members; each is checked before its file is created here. Not by `tarfile.extract`, whose
filter "data" renames absolute paths, replaces an earlier file of the same name, and writes as many bytes as a sparse
member's map says, whatever its size.
"""

import bz2
import contextlib
import errno
import gzip
import lzma
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any, Literal

from i2i_bridge.errors import IO_ERROR, UserError, brief
from i2i_bridge.storage.files import free_bytes
from i2i_bridge.storage.reader import open_regular

Report = Callable[[int, int], None]
"""Progress callback, called with (bytes done, total bytes or 0 if unknown)."""

RATIO, FLOOR = 20, 64 * 2**20
"""Unpacked size limit: RATIO times the archive's size, or FLOOR bytes if that is more. Images hardly compress."""
RESERVE = 256 * 2**20
"""Bytes of free disk space that are never used."""
BLOCK = 4096
"""Bytes counted for a file or folder at least; otherwise a million empty files would count as nothing."""
MAX_HEADER = 2**20
"""Maximum bytes of the headers of a tar member, including extended headers (pax, GNU)."""
MAX_DEPTH = 64
"""Maximum folders of a member's path; otherwise removing them could exceed the open files and the stack."""
NEVER = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ)
"""Errors of a member's name: a file where another member needs a folder, or a name that the disk does not take."""
TOO_MUCH = f"unpacks to more than {RATIO} times its size"
COMPRESSIONS: dict[bytes, Callable[[IO[bytes]], Any]] = {
    b"\x1f\x8b": lambda stream: gzip.GzipFile(fileobj=stream),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\0": lzma.LZMAFile,
    b"]\0\0": lzma.LZMAFile,
}
"""Openers of compressed streams, by the first bytes of the file."""

BROKEN = (
    tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, RuntimeError, ValueError,
    OverflowError, LookupError, MemoryError,
)  # fmt: skip


class BadArchive(UserError):
    """The archive is damaged, too large or unsafe; unpacking it again would fail again."""


def unpack(archive: Path, kind: Literal["tar", "zip"], folder: Path, report: Report = lambda done, total: None) -> None:
    """Unpack an archive into an empty folder.

    Args:
        archive: A tar, plain or compressed (gzip, bzip2, xz), or a zip.
        folder: Created if missing.
        report: Progress callback.

    Raises:
        BadArchive: The archive is damaged, of another kind or too large, or a member has a path outside the folder, is
            neither a file nor a folder, or occurs twice. The folder then holds an incomplete result.
        UserError: The disk is full or cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (_unpack_tar if kind == "tar" else _unpack_zip)(archive, _Destination(archive, folder), report)
    except BROKEN as error:
        raise BadArchive(f"{archive}: damaged, or not a {kind} archive ({brief(error)})") from error
    except OSError as error:
        # The decompressors also raise OSError for damaged data, without an errno.
        if error.errno is None:
            raise BadArchive(f"{archive}: damaged, or not a {kind} archive ({brief(error)})") from error
        place = Path(error.filename or archive)
        if error.errno in NEVER and place.is_relative_to(folder):
            name = brief(place.relative_to(folder))
            raise BadArchive(f"{archive}: the member '{name}' cannot be unpacked ({error.strerror})") from error
        raise UserError(f"{archive}: cannot be unpacked ({error.strerror})") from error


class _Destination:
    """The destination folder and the number of bytes that may still be unpacked."""

    def __init__(self, archive: Path, folder: Path) -> None:
        self.archive, self.folder = archive, folder
        self.left = max(RATIO * archive.stat().st_size, FLOOR)
        self._created: set[Path] = set()

    def path(self, name: str) -> Path:
        """The path of a member, relative to the folder."""
        parts = PurePosixPath(name.replace("\\", "/")).parts
        if PurePosixPath(name).is_absolute() or PureWindowsPath(name).anchor or ".." in parts or "\0" in name:
            raise self.refuse(name, "outside of its folder")
        if len(parts) > MAX_DEPTH:
            raise self.refuse(name, f"more than {MAX_DEPTH} folders deep")
        return Path(*parts)

    def refuse(self, name: str, what: str) -> BadArchive:
        return BadArchive(f"{self.archive}: the member '{brief(name)}' is {what}; nothing was taken from it")

    def take(self, size: int) -> None:
        """Count the disk space of a file or folder, and check it against the limits."""
        self.left -= max(size, BLOCK)
        if self.left < 0:
            raise BadArchive(f"{self.archive}: {TOO_MUCH}, {BLOCK} bytes a member at least; nothing was taken from it")
        if size + RESERVE > free_bytes(self.folder):
            raise UserError(
                f"{self.archive}: no room for what is in it; {RESERVE >> 20} MB of the disk stay free", IO_ERROR
            )

    def make_folder(self, path: Path) -> None:
        for folder in (*reversed(path.parents), path):
            if folder not in self._created:
                self.take(0)
                (self.folder / folder).mkdir(exist_ok=True)
                self._created.add(folder)

    def write(self, name: str, size: int, stream: IO[bytes]) -> None:
        path = self.path(name)
        self.take(size)
        self.make_folder(path.parent)
        try:
            with (self.folder / path).open("xb") as out:
                shutil.copyfileobj(stream, out, 2**20)
        except FileExistsError as error:
            raise self.refuse(name, "there twice") from error


class _Limited:
    """The unpacked bytes of a tar, with limited headers; tarfile alone would read headers of any size into memory.

    Args:
        stream: The unpacked bytes.
        end: Maximum position in the stream.
        refuse: Returns the exception for a message.
    """

    def __init__(self, stream: Any, end: int, refuse: Callable[[str], UserError]) -> None:
        self._stream, self._end, self._refuse = stream, end, refuse
        self.header = 0
        """Bytes read since the last member: the next header and the extended headers before it."""

    def read(self, size: int = -1) -> bytes:
        """Read bytes: at most MAX_HEADER in one call, and in total between two members."""
        self.header += size
        if not 0 <= size <= MAX_HEADER or self.header > MAX_HEADER:
            raise self._refuse(f"has a header of more than {MAX_HEADER} bytes")
        return bytes(self._stream.read(size))

    def seek(self, position: int) -> int:
        """Set the position, in bytes from the beginning."""
        # Seeking in a compressed stream unpacks all bytes before the position; a megabyte may hold a gigabyte of zeros.
        if position > self._end:
            raise self._refuse(TOO_MUCH)
        return int(self._stream.seek(position))

    def tell(self) -> int:
        """The position, in bytes from the beginning."""
        return int(self._stream.tell())


@contextlib.contextmanager
def open_tar(
    stream: IO[bytes], end: int, refuse: Callable[[str], UserError], *, compressed: bool
) -> Iterator[tuple[Iterator[tarfile.TarInfo], tarfile.TarFile, Any]]:
    """Open a tar: an iterator over its members, the TarFile, and the unpacked stream.

    Headers are limited to MAX_HEADER bytes, and the TarFile keeps no list of the members.

    Args:
        stream: The archive.
        end: Maximum size of the unpacked archive in bytes.
        refuse: Returns the exception for an archive that is too long or a header that is too large.
        compressed: Whether gzip, bzip2 and xz are also accepted.

    Raises:
        UserError: The exception of `refuse`.
        tarfile.TarError: The file is no tar or is damaged; other types listed in BROKEN occur too.
    """
    start = stream.read(6)
    stream.seek(0)
    opener = next((opener for magic, opener in COMPRESSIONS.items() if start.startswith(magic)), None)
    with opener(stream) if compressed and opener else contextlib.nullcontext(stream) as plain:
        limited = _Limited(plain, end, refuse)
        with tarfile.TarFile(fileobj=limited, mode="r") as tar:  # type: ignore[arg-type]
            yield _members(tar, limited), tar, plain


def _members(tar: tarfile.TarFile, limited: _Limited) -> Iterator[tarfile.TarInfo]:
    before = -1
    while True:
        limited.header = 0
        member = tar.next()
        if member is None:
            return
        if member.offset <= before or member.size < 0:
            raise tarfile.ReadError("a header points backwards")
        before = member.offset
        tar.members = []  # type: ignore[attr-defined]  # otherwise tarfile keeps every member in memory
        limited.header = -(2**62)  # the caller's reads of the member's data are limited by _Destination.take
        yield member


def _unpack_tar(archive: Path, destination: _Destination, report: Report) -> None:
    size = archive.stat().st_size

    def refuse(what: str) -> BadArchive:
        return BadArchive(f"{archive}: {what}; nothing was taken from it")

    end = destination.left + FLOOR
    with open_regular(archive) as file, open_tar(file, end, refuse, compressed=True) as (members, tar, rest):
        for member in members:
            if member.isdir():
                destination.make_folder(destination.path(member.name))
            elif member.isreg() and (stream := tar.extractfile(member)) is not None:
                destination.write(member.name, member.size, stream)
            else:
                raise destination.refuse(
                    member.name, "a link" if member.issym() or member.islnk() else "a special file"
                )
            report(file.tell(), size)
        # tarfile treats a damaged header as the end of the archive; the true end is a block of zeros. The rest is read
        # because the compression's checksum is verified at the end of its stream.
        rest.seek(tar.offset)
        if rest.read(512) != bytes(512):
            raise BadArchive(f"{archive}: damaged: it ends in the middle")
        while rest.read(2**20):
            if rest.tell() > end:
                raise refuse(TOO_MUCH)
    report(size, size)


def _unpack_zip(archive: Path, destination: _Destination, report: Report) -> None:
    with open_regular(archive) as file, zipfile.ZipFile(file) as members:
        total = max(sum(member.compress_size for member in members.infolist()), 1)
        done = 0
        for member in members.infolist():
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise destination.refuse(member.filename, "a link" if kind == stat.S_IFLNK else "a special file")
            if member.is_dir():
                destination.make_folder(destination.path(member.filename))
            elif member.flag_bits & 1:
                raise destination.refuse(member.filename, "encrypted")
            else:
                # zipfile never yields more than the size that the member declares.
                with members.open(member) as stream:
                    destination.write(member.filename, member.file_size, stream)
            done += member.compress_size
            report(done, total)
