"""Folders of image files: which files are images, and which are left out."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from i2i_bridge.errors import UserError

JPEG_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif"})
PNM_SUFFIXES = frozenset({".ppm", ".pgm", ".pbm", ".pnm"})
IMAGE_SUFFIXES = (
    frozenset({".png", ".apng", ".webp", ".bmp", ".tif", ".tiff", ".tga", ".jp2", ".j2k", ".npy"})
    | JPEG_SUFFIXES
    | PNM_SUFFIXES
)
"""Suffixes of the files that are read as images."""
OTHER_IMAGES = frozenset(
    {".gif", ".heic", ".heif", ".avif", ".jxl", ".psd", ".exr", ".hdr", ".pfm", ".svg", ".ico", ".fits", ".dcm", ".npz"}
    | {".raw", ".dng", ".cr2", ".cr3", ".nef", ".nrw", ".arw", ".orf", ".rw2", ".raf", ".pef", ".srw", ".x3f"}
    | {".dib", ".pcx", ".dds", ".sgi", ".xbm", ".xpm", ".icns", ".mpo", ".jpx", ".j2c", ".jxr", ".bpg"}
)
"""Suffixes of image formats that are not supported; such files are reported when a folder is listed."""
ARCHIVES = frozenset({".zip", ".tar", ".gz", ".tgz", ".bz2", ".tbz2", ".xz", ".txz", ".zst", ".7z", ".rar"})
"""Suffixes of archives, which have to be unpacked before their images can be read."""
NAMED = 10
"""Maximum number of left-out files of a kind that a message names."""


@dataclass(frozen=True)
class Listing:
    """The result of `list_images`; all paths are relative to the listed folder."""

    images: list[str]
    """Image files, sorted."""
    folders: list[str]
    """Folders that were searched, each with a trailing slash."""
    left_out: list[str]
    """Unsupported image files, broken links, and links to folders (with a trailing slash), sorted."""


def list_images(folder: Path) -> Listing:
    """List all image files below a folder, including links to files.

    Links to folders are not followed; otherwise a circular link has no end, and images could be listed twice. Hidden
    files and special files are ignored.

    Raises:
        UserError: A folder cannot be listed.
    """
    images, folders, left_out, waiting = [], [], [], [""]
    while waiting:
        inside = waiting.pop()
        folders.append(inside)
        try:
            with os.scandir(folder / inside) as entries:
                for entry in entries:
                    name = entry.name
                    if name.startswith("."):
                        continue
                    suffix = name[name.rfind(".") :].lower()
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(f"{inside}{name}/")
                    elif entry.is_symlink() and _is_folder(entry):
                        left_out.append(f"{inside}{name}/")
                    elif suffix in IMAGE_SUFFIXES and _is_file(entry):
                        images.append(inside + name)
                    elif suffix in OTHER_IMAGES or (suffix in IMAGE_SUFFIXES and entry.is_symlink()):
                        left_out.append(inside + name)
        except OSError as error:
            raise UserError(f"{folder / inside}: cannot be listed ({error.strerror})") from error
    return Listing(sorted(images), folders, sorted(left_out))


def _is_file(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_file()
    except OSError:  # a loop of links
        return False


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def left_out_notes(folder: Path, names: Sequence[str]) -> list[str]:
    """Messages about the files that a listing left out, one per kind of file, each naming the first files."""
    kinds: dict[str, list[str]] = {}
    for name in names:
        suffix = "/" if name.endswith("/") else name[name.rfind(".") :].lower()
        kinds.setdefault(suffix, []).append(name.rstrip("/"))
    lines = []
    for suffix, files in kinds.items():
        shown = ", ".join(str(folder / name) for name in files[:NAMED])
        more = f" and {len(files) - NAMED} more" if len(files) > NAMED else ""
        if suffix == "/":
            why = "left out: links to folders are not followed; name that folder itself, or copy it"
        elif suffix in IMAGE_SUFFIXES:
            why = "left out: links that lead to no file"
        else:
            why = f"left out: {suffix} is not read here; convert to .png or .jpg"
        lines.append(f"{shown}{more}: {why}")
    return lines


def folder_notes(source: Path) -> list[str]:
    """The `left_out_notes` of a folder of inputs; none for a single file."""
    return left_out_notes(source, list_images(source).left_out) if source.is_dir() else []


def find_images(folder: Path) -> list[Path]:
    """All images below a folder, sorted by path; see `list_images`."""
    return sorted(folder / name for name in list_images(folder).images)
