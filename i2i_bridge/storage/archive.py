"""Archives, unpacked without trust: nothing lands outside the folder, no links, no special files, no flooded disk.

Only plain files and folders are ever made, each by our own hand, so there is no link that a later member could follow.
"""

import bz2
import contextlib
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

from i2i_bridge.errors import UserError, brief
from i2i_bridge.storage.files import free_bytes
from i2i_bridge.storage.reader import open_regular

Report = Callable[[int, int], None]
"""Called with (bytes done, bytes in all)."""

RATIO, FLOOR = 20, 64 * 2**20
"""What comes out may be so many times the archive's size, and at least so many bytes: images hardly compress."""
RESERVE = 256 * 2**20
"""Bytes of the disk that stay free, whatever comes."""
BLOCK = 4096
"""Bytes of the disk that a file or folder takes at least: a million empty ones are no small thing."""
MAX_HEADER = 2**20
"""Bytes of the headers of a member of a tar, extended ones (pax, GNU) among them."""
TOO_MUCH = f"unpacks to more than {RATIO} times its size"
COMPRESSIONS: dict[bytes, Callable[[IO[bytes]], Any]] = {
    b"\x1f\x8b": lambda stream: gzip.GzipFile(fileobj=stream),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\0": lzma.LZMAFile,
    b"]\0\0": lzma.LZMAFile,
}
"""By the first bytes of a file."""

BROKEN = (
    tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, RuntimeError, ValueError,
    OverflowError, LookupError, MemoryError,
)  # fmt: skip


class BadArchive(UserError):
    """The archive itself is to blame, not the disk: it is no use to try again."""


def unpack(archive: Path, kind: Literal["tar", "zip"], folder: Path, report: Report = lambda done, total: None) -> None:
    """Unpack an archive into an empty folder.

    Args:
        archive: A tar, plain or compressed (gzip, bzip2, xz), or a zip.
        folder: Is made if missing.

    Raises:
        BadArchive: It is damaged, of another kind, too large, or a member would leave the folder, is neither file nor
            folder, or comes twice. The folder then holds a part, which must not be used.
        UserError: The disk is full, or cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (_tar if kind == "tar" else _zip)(archive, _Room(archive, folder), report)
    except BROKEN as error:
        raise BadArchive(f"{archive}: damaged, or not a {kind} archive ({brief(error)})") from error
    except OSError as error:
        # The decompressors, too, raise OSError, yet without a number of the operating system's.
        if error.errno is None:
            raise BadArchive(f"{archive}: damaged, or not a {kind} archive ({brief(error)})") from error
        raise UserError(f"{archive}: cannot be unpacked ({error.strerror})") from error


class _Room:
    """Where members go, and how much may still come."""

    def __init__(self, archive: Path, folder: Path) -> None:
        self.archive, self.folder = archive, folder
        self.left = max(RATIO * archive.stat().st_size, FLOOR)
        self._made: set[Path] = set()

    def place(self, name: str) -> Path:
        """The path of a member inside the folder."""
        parts = PurePosixPath(name.replace("\\", "/")).parts
        if PurePosixPath(name).is_absolute() or PureWindowsPath(name).anchor or ".." in parts or "\0" in name:
            raise self.refuse(name, "outside of its folder")
        return self.folder.joinpath(*parts)

    def refuse(self, name: str, what: str) -> BadArchive:
        return BadArchive(f"{self.archive}: the member '{brief(name)}' is {what}; nothing was taken from it")

    def take(self, size: int) -> None:
        """Count what a file or folder takes of the disk."""
        self.left -= max(size, BLOCK)
        if self.left < 0:
            raise BadArchive(f"{self.archive}: {TOO_MUCH}, {BLOCK} bytes a member at least; nothing was taken from it")
        if size + RESERVE > free_bytes(self.folder):
            raise UserError(f"{self.archive}: no room for what is in it; {RESERVE >> 20} MB of the disk stay free")

    def make_folder(self, name: str) -> None:
        self._make(self.place(name))

    def _make(self, path: Path) -> None:
        for folder in (*reversed(path.relative_to(self.folder).parents), path.relative_to(self.folder)):
            if folder not in self._made:
                self.take(0)
                (self.folder / folder).mkdir(exist_ok=True)
                self._made.add(folder)

    def write(self, name: str, size: int, stream: IO[bytes]) -> None:
        path = self.place(name)
        self.take(size)
        self._make(path.parent)
        try:
            with path.open("xb") as out:
                shutil.copyfileobj(stream, out, 2**20)
        except FileExistsError as error:
            raise self.refuse(name, "there twice") from error


class _Limited:
    """The unpacked bytes of a tar for tarfile, which would read headers of any size into memory.

    Args:
        stream: The bytes.
        end: No archive is longer, unpacked.
        refuse: Makes the error.
    """

    def __init__(self, stream: Any, end: int, refuse: Callable[[str], UserError]) -> None:
        self._stream, self._end, self._refuse = stream, end, refuse
        self.header = 0
        """Bytes read since the last member, its own header and the extended ones before it."""

    def read(self, size: int = -1) -> bytes:
        """At most 1 MB at once, and between two members."""
        self.header += size
        if not 0 <= size <= MAX_HEADER or self.header > MAX_HEADER:
            raise self._refuse(f"has a header of more than {MAX_HEADER} bytes")
        return bytes(self._stream.read(size))

    def seek(self, position: int) -> int:
        """To a place from the beginning."""
        # Compressed, what lies between is unpacked: a gigabyte of zeros is a megabyte.
        if position > self._end:
            raise self._refuse(TOO_MUCH)
        return int(self._stream.seek(position))

    def tell(self) -> int:
        """The place from the beginning."""
        return int(self._stream.tell())


@contextlib.contextmanager
def open_tar(
    stream: IO[bytes], end: int, refuse: Callable[[str], UserError], *, compressed: bool
) -> Iterator[tuple[Iterator[tarfile.TarInfo], tarfile.TarFile, Any]]:
    """Members of a tar, the tar, and its unpacked bytes; headers are limited, members forgotten once given.

    Args:
        end: No archive is longer, unpacked.
        refuse: Makes the error for an archive that is too long, or a header of more than 1 MB.
        compressed: Whether gzip, bzip2 and xz are read, too.

    Raises:
        BadArchive: See `refuse`.
        tarfile.TarError: And the other kinds in BROKEN: it is no tar, or damaged.
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
        tar.members = []  # type: ignore[attr-defined]  # tarfile keeps every member that it has seen
        limited.header = -(2**62)  # what the caller reads of the member counts elsewhere
        yield member


def _tar(archive: Path, room: _Room, report: Report) -> None:
    size = archive.stat().st_size

    def refuse(what: str) -> BadArchive:
        return BadArchive(f"{archive}: {what}; nothing was taken from it")

    end = room.left + FLOOR
    with open_regular(archive) as file, open_tar(file, end, refuse, compressed=True) as (members, tar, rest):
        for member in members:
            if member.isdir():
                room.make_folder(member.name)
            elif member.isreg() and (stream := tar.extractfile(member)) is not None:
                room.write(member.name, member.size, stream)
            else:
                raise room.refuse(member.name, "a link" if member.issym() or member.islnk() else "a special file")
            report(file.tell(), size)
        # The reader takes a broken header for the end. The true end is a block of zeros, and what follows it
        # is read for the checksum of the compression.
        rest.seek(tar.offset)
        if rest.read(512) != bytes(512):
            raise BadArchive(f"{archive}: damaged: it ends in the middle")
        while rest.read(2**20):
            if rest.tell() > end:
                raise refuse(TOO_MUCH)
    report(size, size)


def _zip(archive: Path, room: _Room, report: Report) -> None:
    with open_regular(archive) as file, zipfile.ZipFile(file) as members:
        total = max(sum(member.compress_size for member in members.infolist()), 1)
        done = 0
        for member in members.infolist():
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise room.refuse(member.filename, "a link" if kind == stat.S_IFLNK else "a special file")
            if member.is_dir():
                room.make_folder(member.filename)
            else:
                # zipfile never yields more than the size that the member declares.
                with members.open(member) as stream:
                    room.write(member.filename, member.file_size, stream)
            done += member.compress_size
            report(done, total)
