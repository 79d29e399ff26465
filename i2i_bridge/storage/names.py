"""File names and paths: length limits, names from untrusted files, Unicode forms, and a leading ~."""

import hashlib
import os
import re
import unicodedata
from pathlib import Path

NAME_BYTES = 255
"""Maximum length of a file name in bytes on common file systems."""
NAME_LETTERS = 200
"""Maximum length in bytes of the name of a recipe, card or part; file names add a prefix or suffix to it."""


def extended_name(name: str, before: str = "", after: str = "", *, limit: int = NAME_BYTES) -> str:
    """A file name with a prefix and a suffix; if the result is too long, the end of `name` is replaced by a hash.

    Args:
        name: The name.
        before: The prefix.
        after: The suffix.
        limit: Maximum length in bytes.
    """
    room = limit - len(os.fsencode(before + after))
    encoded = os.fsencode(name)
    if len(encoded) > room:
        digest = hashlib.sha256(encoded).hexdigest()[:12]
        name = f"{encoded[: room - 13].decode('utf-8', 'ignore')}-{digest}"
    return f"{before}{name}{after}"


def file_name(name: str) -> str:
    """Check that an untrusted name can be used as a file name: no path separator, no leading dot.

    Returns:
        The name.

    Raises:
        ValueError: The name has other characters or is too long.
    """
    if not re.fullmatch(r"\w[\w .+()-]*(?<! )", name) or len(name.encode("utf-8", "replace")) > NAME_LETTERS:
        raise ValueError(
            "should be letters, digits, '.', '_', '-', '+', '(', ')' and spaces, a letter or digit first, at most "
            f"{NAME_LETTERS} bytes: it is used as a file name"
        )
    return name


def expanded(path: Path | str) -> Path:
    """A path with a leading ~ replaced by the home folder; unchanged if the user has no home."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def leads_out(text: str) -> bool:
    """Whether a text would, as a path, lead out of its folder, or is an address: absolute, with ~ or a drive, .. or ://."""
    parts = text.replace("\\", "/").split("/")
    return "://" in text or "::" in text or ".." in parts or text[:1] in ("/", "\\", "~") or text[1:2] == ":"


def normal_form(name: str) -> str:
    """A file name in Unicode form NFC; archives made on a Mac have decomposed accents (NFD)."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)
