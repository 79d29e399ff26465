"""Archives, unpacked without trust: nothing lands outside the folder, no links, no special files, no flooded disk.

Only plain files and folders are ever made, each by our own hand, so there is no link that a later member could follow.
"""

import lzma
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any, Literal

from i2i_bridge.errors import UserError

Report = Callable[[int, int], None]
"""Called with (bytes done, bytes in all)."""

RATIO, FLOOR = 20, 64 * 2**20
"""What comes out may be so many times the archive's size, and at least so many bytes: images hardly compress."""

BROKEN = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError)


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
        raise BadArchive(f"{archive}: damaged, or not a {kind} archive ({error})") from error
    except OSError as error:
        # The decompressors, too, raise OSError, yet without a number of the operating system's.
        if error.errno is None:
            raise BadArchive(f"{archive}: damaged, or not a {kind} archive ({error})") from error
        raise UserError(f"{archive}: cannot be unpacked ({error.strerror})") from error


class _Room:
    """Where members go, and how much may still come."""

    def __init__(self, archive: Path, folder: Path) -> None:
        self.archive, self.folder = archive, folder
        self.left = max(RATIO * archive.stat().st_size, FLOOR)

    def place(self, name: str) -> Path:
        """The path of a member inside the folder."""
        parts = PurePosixPath(name.replace("\\", "/")).parts
        if PurePosixPath(name).is_absolute() or PureWindowsPath(name).anchor or ".." in parts or "\0" in name:
            raise self.refuse(name, "outside of its folder")
        return self.folder.joinpath(*parts)

    def refuse(self, name: str, what: str) -> BadArchive:
        return BadArchive(f"{self.archive}: the member '{name}' is {what}; nothing was taken from it")

    def make_folder(self, name: str) -> None:
        self.place(name).mkdir(parents=True, exist_ok=True)

    def write(self, name: str, size: int, stream: IO[bytes]) -> None:
        path = self.place(name)
        self.left -= size
        if self.left < 0:
            raise BadArchive(f"{self.archive}: unpacks to more than {RATIO} times its size; nothing was taken from it")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with path.open("xb") as out:
                shutil.copyfileobj(stream, out, 2**20)
        except FileExistsError as error:
            raise self.refuse(name, "there twice") from error


def _tar(archive: Path, room: _Room, report: Report) -> None:
    size = archive.stat().st_size
    with archive.open("rb") as file, tarfile.open(fileobj=file, mode="r:*") as members:
        for member in members:
            if member.isdir():
                room.make_folder(member.name)
            elif member.isreg() and (stream := members.extractfile(member)) is not None:
                room.write(member.name, member.size, stream)
            else:
                raise room.refuse(member.name, "a link" if member.issym() or member.islnk() else "a special file")
            report(file.tell(), size)
        # The reader takes a broken header for the end. The true end is a block of zeros, and what follows it
        # is read for the checksum of the compression.
        rest: Any = members.fileobj
        rest.seek(members.offset)
        if rest.read(512) != bytes(512):
            raise BadArchive(f"{archive}: damaged: it ends in the middle")
        while rest.read(2**20):
            pass
    report(size, size)


def _zip(archive: Path, room: _Room, report: Report) -> None:
    with zipfile.ZipFile(archive) as members:
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
