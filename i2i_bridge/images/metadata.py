"""What a photo's file says beside its pixels, and what of it goes over into a restored file.

Kept are the colour profile, the density (dots per inch) and the EXIF fields of `KEPT`: when, with what and how a photo
was taken, and whose it is. Dropped are the place (GPS), serial numbers and owners of cameras, maker notes and
thumbnails, which show the old pixels. The orientation is applied to the pixels.
"""

import io
import math
from dataclasses import dataclass
from typing import Any

from PIL import Image

ORIENTATION = 0x0112
RESOLUTION = (0x011A, 0x011B, 0x0128)
"""Across, down, unit."""
EXIF_IFD = 0x8769
KEPT = {
    # ImageDescription, Make, Model, Software, DateTime, Artist, Copyright
    0: frozenset({0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x8298}),
    # Exposure, sensitivity, dates with fractions and zones, aperture, flash, focal length, lens, scene
    EXIF_IFD: frozenset(
        {0x829A, 0x829D, 0x8822, 0x8827, 0x8830, 0x9003, 0x9004, 0x9010, 0x9011, 0x9012, 0x9290, 0x9291, 0x9292}
        | {0xA001, 0xA402, 0xA403, 0xA404, 0xA405, 0xA406, 0xA407, 0xA408, 0xA409, 0xA40A, 0xA432, 0xA433, 0xA434}
        | set(range(0x9201, 0x920B))
    ),
}
"""EXIF tags that are carried over, by directory (0 is the first)."""
LONGEST_FIELD = 4000
"""Characters; longer EXIF fields are dropped."""
LARGEST_PROFILE = 4 << 20
"""Bytes; a larger profile is dropped. Those of printers, the largest, have 1 to 3 MB."""
SPACES = {b"GRAY": 1, b"RGB ": 3}
"""Channels of the pixels that a profile describes, by its header."""


@dataclass(frozen=True)
class Metadata:
    """What is carried over from one file to another.

    Args:
        profile: An ICC profile, unread.
        density: Dots per inch, across and down.
        exif: An EXIF block of kept fields only.
    """

    profile: bytes | None = None
    density: tuple[float, float] | None = None
    exif: bytes | None = None

    def profile_for(self, channels: int) -> bytes | None:
        """The profile if it describes pixels of that many channels."""
        return self.profile if self.profile is not None and SPACES.get(self.profile[16:20]) == channels else None


def metadata_of(image: Image.Image, orientation: int | None = None) -> Metadata:
    """The metadata of an opened image.

    Args:
        orientation: Of the file, where Pillow has applied it already, as it does when it loads a TIFF.
    """
    profile = image.info.get("icc_profile")
    if not (isinstance(profile, bytes) and 128 <= len(profile) <= LARGEST_PROFILE):
        profile = None
    exif = image.getexif()
    # WebP has no other place for the density than EXIF, where 2 are inches.
    inches = exif.get(RESOLUTION[2], 2) == 2
    density = _density(image.info.get("dpi", (exif.get(RESOLUTION[0]), exif.get(RESOLUTION[1])) if inches else None))
    if density is not None and (orientation or exif.get(ORIENTATION, 1)) in (5, 6, 7, 8):
        density = density[::-1]
    return Metadata(profile, density, _kept_fields(exif))


def exif_with_density(metadata: Metadata) -> bytes | None:
    """The EXIF block, with the density in it, for a format that has no other place for it."""
    if metadata.density is None:
        return metadata.exif
    exif = Image.Exif()
    if metadata.exif is not None:
        exif.load(metadata.exif)
    exif.update(zip(RESOLUTION, (*metadata.density, 2), strict=True))
    return exif.tobytes()


def _density(given: Any) -> tuple[float, float] | None:
    try:
        across, down = (float(value) for value in given)
    except (TypeError, ValueError, OverflowError, ZeroDivisionError):
        return None
    return (across, down) if all(math.isfinite(value) and 1 <= value <= 65535 for value in (across, down)) else None


def _kept_fields(exif: Image.Exif) -> bytes | None:
    kept = Image.Exif()
    for directory, tags in KEPT.items():
        try:
            fields = dict(exif.get_ifd(directory) if directory else exif)
        except Exception:  # a damaged directory, for which Pillow raises a dozen types
            continue
        for tag in sorted(tags & fields.keys()):
            if _can_be_written(tag, fields[tag]):
                (kept.get_ifd(directory) if directory else kept)[tag] = fields[tag]
    return kept.tobytes() if len(kept) or kept.get_ifd(EXIF_IFD) else None


def _can_be_written(tag: int, value: Any) -> bool:
    if isinstance(value, str | bytes | tuple) and len(value) > LONGEST_FIELD:
        return False
    alone = Image.Exif()
    alone[tag] = value
    try:
        alone.tobytes()
    except Exception:  # a value of another type than the tag's, out of a damaged file
        return False
    return True


def profile_name(profile: bytes) -> str:
    """What a profile calls itself, such as 'Display P3'."""
    from PIL import ImageCms

    try:
        name = str(ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(profile))))
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return "unreadable"
    return " ".join("".join(c if c.isprintable() else " " for c in name).split())[:60] or "unnamed"


def is_srgb(profile: bytes) -> bool:
    """Whether a profile says by its name that it is sRGB, which pixels without a profile are taken for."""
    return "srgb" in profile_name(profile).lower()


def as_srgb(image: Image.Image, profile: bytes) -> Image.Image | None:
    """The image's colours in sRGB, mode RGB; None where the profile is damaged or describes other pixels."""
    from PIL import ImageCms

    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
