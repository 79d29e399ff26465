"""Weight files of the networks of metrics: sources, licences and hashes, downloading, and reading.

Only `fetch` uses the internet.
"""

import contextlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from i2i_bridge.errors import UserError, did_you_mean, readable, unwritable
from i2i_bridge.storage.archive import Report
from i2i_bridge.storage.download import BUSY, Download, download
from i2i_bridge.storage.files import refuse_links, remove, replace
from i2i_bridge.storage.lock import LOCK_FILE, locked
from i2i_bridge.storage.reader import file_sha256, open_regular

if TYPE_CHECKING:  # torch takes a second to import
    from torch import Tensor

VARIABLE = "I2I_WEIGHTS_DIR"


@dataclass(frozen=True)
class Weights:
    """A published weights file."""

    name: str
    what: str
    url: str
    megabytes: int
    """Approximate size."""
    sha256: str
    """First eight digits of the SHA-256, which the publishers write into the file name."""
    licence: str
    metrics: tuple[str, ...]
    """Names of the metrics that need the file."""

    @property
    def file(self) -> str:
        """The published file name."""
        return self.url.rsplit("/", 1)[-1]

    def lines(self) -> list[str]:
        """Lines about the file, its licence and its size, to be shown before the user agrees."""
        return [
            f"{self.name}: {self.what}, for {', '.join(self.metrics)}",
            f"  licence: {self.licence}",
            f"  about {self.megabytes} MB from {self.url}",
        ]


TORCHVISION = "BSD-3-Clause (torchvision); trained on ImageNet, whose images are for research only"

KNOWN = (
    Weights(
        "alexnet",
        "AlexNet of torchvision",
        "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
        233,
        "7be5be79",
        TORCHVISION,
        ("lpips", "diversity"),
    ),
    Weights(
        "vgg16",
        "VGG-16 of torchvision",
        "https://download.pytorch.org/models/vgg16-397923af.pth",
        528,
        "397923af",
        TORCHVISION,
        ("lpips-vgg",),
    ),
    Weights(
        "inception",
        "Inception of the FID, converted from TensorFlow's by torch-fidelity",
        "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
        91,
        "6726825d",
        "Apache-2.0 (TensorFlow, torch-fidelity); trained on ImageNet, whose images are for research only",
        ("fid", "kid", "kid-paired", "fid-legacy-pytorch", "kid-legacy-pytorch", "kid-paired-legacy-pytorch"),
    ),
    Weights(
        "resnet50",
        "ResNet-50 of torchvision (IMAGENET1K_V1)",
        "https://download.pytorch.org/models/resnet50-0676ba61.pth",
        98,
        "0676ba61",
        TORCHVISION,
        ("accuracy", "fd-resnet50", "kid-resnet50", "kid-paired-resnet50"),
    ),
)


def folder() -> Path | None:
    """The folder of the files, from the environment variable I2I_WEIGHTS_DIR, or None."""
    named = os.environ.get(VARIABLE)
    return Path(named).expanduser() if named else None


def use_folder(path: Path) -> None:
    """Set I2I_WEIGHTS_DIR in this process and in those that it starts.

    Raises:
        UserError: There is no such folder.
    """
    if not path.expanduser().is_dir():
        raise UserError(f"{path}: no such folder of weights")
    os.environ[VARIABLE] = str(path)


def known(names: Iterable[str]) -> list[Weights]:
    """The files with these names, or needed by metrics with these names; all files if no name is given.

    Raises:
        UserError: A name is unknown; the message gives the nearest.
    """
    chosen: list[Weights] = []
    for name in names:
        matches = [weights for weights in KNOWN if name == weights.name or name in weights.metrics]
        if not matches:
            words = {word for weights in KNOWN for word in (weights.name, *weights.metrics)}
            raise UserError(f"no weights are known for '{name}'{did_you_mean(name, words)}")
        chosen += [weights for weights in matches if weights not in chosen]
    return chosen or list(KNOWN)


def missing(name: str, metric: str) -> str | None:
    """Why a metric's file cannot be used, in one line; None if it is in the folder."""
    (weights,) = known([name])
    place = folder()
    if place is None:
        return (
            f"{metric} needs the file {weights.file}; set {VARIABLE} to its folder"
            f" (i2i-bridge weights fetch {name} gets it)"
        )
    if not (place / weights.file).is_file():
        return f"{metric}: {place / weights.file} does not exist (i2i-bridge weights fetch {name} gets it)"
    return None


def load(name: str, metric: str) -> tuple[Path, dict[str, "Tensor"]]:
    """Path and tensors, by name, of a file in the folder. It is read as an untrusted file (`read_pt`).

    Raises:
        UserError: The file is missing, damaged, or holds anything but tensors.
    """
    from i2i_bridge.storage.tensors import read_pt

    problem = missing(name, metric)
    if problem:
        raise UserError(problem)
    (weights,) = known([name])
    place = folder() or Path()
    file = place / weights.file
    # Some published files have PyTorch's old format, which is read only if the hash is the published one.
    return file, read_pt(file.resolve(), legacy=_is_old(file) and state(weights, place) == "ok")


def _is_old(file: Path) -> bool:
    with readable(file), open_regular(file) as stream:
        return stream.read(4) != b"PK\x03\x04"


def state(weights: Weights, place: Path) -> str:
    """State of a file in a folder, by its hash: 'ok', 'missing', or 'wrong: ...'.

    Raises:
        UserError: The file cannot be read.
    """
    file = place / weights.file
    if not file.is_file():
        return "missing"
    try:
        digest = file_sha256(file)
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from error
    if digest.startswith(weights.sha256):
        return "ok"
    return f"wrong: its sha256 begins with {digest[:8]}, not {weights.sha256}: another or damaged file"


def warnings(metrics: Iterable[str]) -> list[str]:
    """One line for each file that these metrics use and that differs from the published one."""
    place = folder()
    if place is None:
        return []
    lines = []
    for weights in KNOWN:
        users = [metric for metric in metrics if metric in weights.metrics]
        if users and state(weights, place).startswith("wrong"):
            lines.append(
                f"{', '.join(users)}: {weights.file} is not the published file (see i2i-bridge weights verify);"
                " the numbers are not comparable with anybody's"
            )
    return lines


def fetch(weights: Weights, place: Path, report: Report = lambda done, total: None) -> bool:
    """Download a file into a folder, which is created if missing; a repeated call resumes the download.

    Returns:
        False if the file existed already.

    Raises:
        UserError: Another file of this name exists, no connection, a server error, a wrong hash (the file is deleted),
            or a full or read-only disk.
    """
    present = state(weights, place)
    if present == "ok":
        return False
    if present != "missing":
        raise UserError(f"{place / weights.file}: {present}; delete it, then fetch again")
    staging = place / ".fetching"
    refuse_links(place, [staging.name])
    try:
        staging.mkdir(parents=True, exist_ok=True)
        with locked(staging, BUSY):
            fresh = staging / weights.file
            digest = download(Download(url=weights.url), fresh, report)
            if not digest.startswith(weights.sha256):
                remove(fresh)
                raise UserError(
                    f"{weights.url}: the sha256 begins with {digest[:8]}, not {weights.sha256}: another or damaged"
                    " file, thrown away"
                )
            replace(fresh, place / weights.file)
    except OSError as error:
        raise unwritable(error.filename or place, error) from error
    if {path.name for path in staging.iterdir()} <= {LOCK_FILE}:  # else it holds a partial download of another file
        with contextlib.suppress(OSError):
            remove(staging)
    return True


def fetch_all(
    chosen: Iterable[Weights], place: Path, progress: Callable[[str], contextlib.AbstractContextManager[Report]]
) -> None:
    """Download several files (`fetch`), each with its own progress display."""
    for weights in chosen:
        with progress(weights.file) as report:
            fetch(weights, place, report)
