"""Metadata of image files, and the part of it that is copied to a restored file.

Copied are the colour profile, the density (dots per inch) and the EXIF fields of `KEPT`: date, camera, exposure, author
and copyright. Dropped are GPS positions, serial numbers and owners of cameras, maker notes, and thumbnails, which show
the old pixels. The orientation is applied to the pixels.
"""

import io
import math
from dataclasses import dataclass
from typing import Any

from PIL import Image

ORIENTATION = 0x0112
RESOLUTION = (0x011A, 0x011B, 0x0128)
"""EXIF tags of the density: horizontal, vertical, unit."""
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
"""EXIF tags that are copied, by directory (0 is the first)."""
LONGEST_FIELD = 4000
"""Maximum characters of an EXIF field; longer fields are dropped."""
LARGEST_PROFILE = 4 << 20
"""Maximum bytes of a colour profile; larger ones are dropped. The largest common ones, of printers, have 1 to 3 MB."""
SPACES = {b"GRAY": 1, b"RGB ": 3}
"""Number of channels by the colour space in the header of a profile."""


@dataclass(frozen=True)
class Metadata:
    """The metadata that is copied from one file to another.

    Args:
        profile: An ICC profile, not parsed.
        density: Dots per inch, horizontal and vertical.
        exif: An EXIF block with the fields of `KEPT` only.
    """

    profile: bytes | None = None
    density: tuple[float, float] | None = None
    exif: bytes | None = None

    def profile_for(self, channels: int) -> bytes | None:
        """The profile, or None if it is for another number of channels."""
        return self.profile if self.profile is not None and SPACES.get(self.profile[16:20]) == channels else None


def metadata_of(image: Image.Image, orientation: int | None = None) -> Metadata:
    """The metadata of an open image.

    Args:
        image: The image.
        orientation: The orientation of the file if Pillow has already applied it, as it does for a TIFF.
    """
    profile = image.info.get("icc_profile")
    if not (isinstance(profile, bytes) and 128 <= len(profile) <= LARGEST_PROFILE):
        profile = None
    exif = image.getexif()
    # A WebP stores the density in EXIF only; unit 2 means inches.
    inches = exif.get(RESOLUTION[2], 2) == 2
    density = _density(image.info.get("dpi", (exif.get(RESOLUTION[0]), exif.get(RESOLUTION[1])) if inches else None))
    if density is not None and (orientation or exif.get(ORIENTATION, 1)) in (5, 6, 7, 8):
        density = density[::-1]
    return Metadata(profile, density, _kept_fields(exif))


def exif_with_density(metadata: Metadata) -> bytes | None:
    """The EXIF block including the density, for a format that stores the density in EXIF only."""
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
        except Exception:  # a damaged directory, for which Pillow raises many types of exceptions
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
    except Exception:  # in a damaged file the value may have another type than the tag
        return False
    return True


def profile_name(profile: bytes) -> str:
    """The description in a colour profile, such as 'Display P3'."""
    from PIL import ImageCms

    try:
        name = str(ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(profile))))
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return "unreadable"
    return " ".join("".join(c if c.isprintable() else " " for c in name).split())[:60] or "unnamed"


def is_srgb(profile: bytes) -> bool:
    """Whether the description of a profile contains 'sRGB'. Pixels without a profile are taken as sRGB."""
    return "srgb" in profile_name(profile).lower()


def as_srgb(image: Image.Image, profile: bytes) -> Image.Image | None:
    """The image converted to sRGB, mode RGB; None if the profile is damaged or is for another kind of pixels."""
    from PIL import ImageCms

    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
