"""Estimate of memory and time for restoring large images, from a small probe."""

import gc
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from i2i_bridge.errors import UserError
from i2i_bridge.images.files import image_size
from i2i_bridge.images.pixels import Picture
from i2i_bridge.methods.mean import mean_calls
from i2i_bridge.randomness import generator
from i2i_bridge.runs.batch import to_batch
from i2i_bridge.runs.run import Run

LARGE = 2_000_000
"""Fewest pixels of an image for which an estimate is made; the probe costs a small share of such an image."""
SIDES = (64, 256)
"""Sides of the probe's images: the first warms up, the second is measured."""


@dataclass(frozen=True)
class Probe:
    """Time and memory of one network call.

    Args:
        seconds: Seconds per pixel of X_1.
        memory: Bytes per pixel, beyond the memory in use before; None if it could not be measured.
    """

    seconds: float
    memory: float | None


def announcement(run: Run, files: Sequence[Path], *, nfe: int, samples: int = 1) -> str | None:
    """A line on size, memory and time if the largest image has LARGE pixels or more; else, or if the probe fails, None.

    Seconds and bytes are taken as proportional to the pixels. With attention over all pixels they grow faster, so the
    line says 'at least'.

    Args:
        run: The run that restores.
        files: The images.
        nfe: Network calls for each sample of an image.
        samples: Samples of each image.
    """
    try:
        # In pixels of X_1: an image for super-resolution is enlarged before the network sees it.
        factor = _black_batch(run, SIDES[0])["x_1"].shape[-1] / SIDES[0]
        sizes = [_pixel_count(file) * factor**2 for file in files]
        largest = max(sizes)
        if largest < LARGE:
            return None
        probe = probed(run, factor)
    except Exception:  # otherwise a failed estimate would stop the restoration
        return None
    file = files[sizes.index(largest)]
    height, width = image_size(file)
    seconds = probe.seconds * sum(sizes) * nfe * samples
    parts = [f"{file}: {width}x{height} pixels" + (f", the largest of {len(files)} images" if len(files) > 1 else "")]
    parts.append(
        f"{nfe * samples} network calls{' each' if len(files) > 1 else ''}, at least {_duration(seconds)} in all"
    )
    warning = ""
    if probe.memory is not None:
        need, free = probe.memory * largest, free_memory(run.device)
        parts.append(f"at least {need / 1e9:.2g} GB of memory" + (f" of {free / 1e9:.2g} GB free" if free else ""))
        if free is not None and need > free:
            warning = "; that is more than is free: it will probably fail or swap, so make the image smaller or cut it"
    return f"{'; '.join(parts)} (by a probe of {SIDES[1]}x{SIDES[1]} pixels){warning}"


def probed(run: Run, factor: float = 1) -> Probe:
    """Restore two black images with one call each, and the calls of [mean], and measure the second.

    Args:
        run: The run that restores.
        factor: Factor by which the recipe enlarges an image.

    Raises:
        UserError: The black image does not fit the recipe.
    """
    _restore_black(run, max(round(SIDES[0] / factor), 8))
    gc.collect()
    cuda = run.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(run.device)
        before: float | None = float(torch.cuda.memory_allocated(run.device))
    else:
        before = _process_memory("VmRSS") if _reset_peak() else None
    start = time.perf_counter()
    pixels = _restore_black(run, max(round(SIDES[1] / factor), 8))
    seconds = (time.perf_counter() - start) / (1 + mean_calls(run.method))
    peak = float(torch.cuda.max_memory_allocated(run.device)) if cuda else _process_memory("VmHWM")
    memory = None if before is None or peak is None or peak <= before else (peak - before) / pixels
    return Probe(seconds / pixels, memory)


def _restore_black(run: Run, side: int) -> int:
    """Restore one black image with one network call; return the number of pixels of its X_1."""
    batch = _black_batch(run, side)
    run.restore_batch(batch, nfe=1, generator=[generator(0, "probe")])
    return batch["x_1"].shape[-2] * batch["x_1"].shape[-1]


def _black_batch(run: Run, side: int) -> dict[str, Tensor]:
    """The batch of one black image."""
    draws, data = [generator(0, "probe")], run.recipe.data
    black = Picture(np.zeros((side, side, data.channels), np.uint8))
    condition = Picture(np.zeros((side, side, run.recipe.condition_channels), np.uint8)) if data.own_condition else None
    try:
        return to_batch(run.recipe, black, None, condition, draws)
    except UserError:  # inpainting needs a mask
        mask = Picture(np.full((side, side, 1), 255, np.uint8))
        return to_batch(run.recipe, black, mask, condition, draws)


def free_memory(device: torch.device) -> int | None:
    """Free bytes of a CUDA device, else of the machine's memory; None if unknown."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError, IndexError):
        return None


def _process_memory(field: str) -> float | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(float(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))
    except (OSError, StopIteration, ValueError, IndexError):
        return None


def _reset_peak() -> bool:
    """Reset the peak memory of this process (VmHWM); False if the system cannot."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _pixel_count(file: Path) -> int:
    try:
        return math.prod(image_size(file))
    except UserError:  # reported when the file is read
        return 0


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(seconds, 1):.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"
