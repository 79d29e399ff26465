"""Estimate of memory and time for restoring large images, from a small probe."""

import contextlib
import gc
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from i2i_bridge.errors import NotFinite, UserError, plural
from i2i_bridge.images.files import image_size
from i2i_bridge.images.pixels import Picture
from i2i_bridge.methods.mean import network_calls
from i2i_bridge.methods.tiles import why_not_tiled
from i2i_bridge.randomness import generator
from i2i_bridge.runs.batch import to_batch

if TYPE_CHECKING:
    from i2i_bridge.runs.run import Run

LARGE = 2_000_000
"""Fewest pixels of an image that is restored in tiles by itself, and for which an estimate is made.

Networks are trained on far smaller images, whose statistics and attention a tile resembles more than such an image does
(docs/performance.md, "Tiles").
"""
HEAVY = 20_000
"""Bytes per pixel that few networks need: an image that fits at this rate is not probed either."""
SHARE = 0.8
"""Share of the free memory that an image restored whole may take; the estimate is a lower bound."""
TILES = (512, 256, 128)
"""Sides of automatic tiles, the largest that fits, so that a result depends on the memory only where little is free."""
MAX_FACTOR = 8
"""Bound on the usual factors of super-resolution. If the image enlarged so often is not large, no batch is made."""
WHOLE_ARRAYS = 5
"""float32 arrays of the whole image that a step of a walk in tiles holds: X_1, X_s, x_0_hat, X_t and the noise."""
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


@dataclass(frozen=True)
class Workload:
    """What restoring images will take, and which of them do not fit into memory.

    Args:
        line: A line for the user; None if no image is large.
        tiles: Side of the tiles in which an image is restored, for each image that does not fit whole.
        jobs: Worker processes that fit into memory together, at most as many as were asked for.
        jobs_line: A line for the user if they are fewer.
    """

    line: str | None = None
    tiles: Mapping[Path, int] = field(default_factory=dict)
    jobs: int = 1
    jobs_line: str | None = None


def workload_of(
    run: "Run", files: Sequence[Path], *, nfe: int, samples: int = 1, automatic: bool = False, jobs: int = 1
) -> Workload:
    """Estimate memory and time if the largest image is large; nothing is estimated if the probe fails.

    Seconds and bytes are taken as proportional to the pixels. With attention over all pixels they grow faster, so the
    line says 'at least'.

    Args:
        run: The run that restores.
        files: The images.
        nfe: Network calls for each sample of an image.
        samples: Samples of each image.
        automatic: Choose tiles for large images and those that do not fit whole, in one process; more of them do not
            change tiles.
        jobs: Worker processes that are asked for, each with an image at a time.
    """
    try:
        # In pixels of X_1: an image for super-resolution is enlarged before the network sees it.
        factor = _black_batch(run, SIDES[0])["x_1"].shape[-1] / SIDES[0]
        sizes = [pixel_count(file) * factor**2 for file in files]
        largest = max(sizes)
        free = free_memory(run.device)
        large = _is_large(largest, free)
        if not large and jobs == _jobs_that_fit(jobs, HEAVY * largest, free):
            return Workload(jobs=jobs)
        probe = probed(run, factor)
    except Exception:  # otherwise a failed estimate would stop the restoration
        return Workload(jobs=jobs)
    side = _side(run, probe, largest, free) if automatic else 0
    tiles = (
        {} if not side else {f: side for f, size in zip(files, sizes, strict=True) if _needs_tiles(probe, size, free)}
    )
    line = _line(run, files, sizes, nfe * samples, probe, free, tiles) if large else None
    each = max(_bytes(run, probe, size, tiles.get(file)) for file, size in zip(files, sizes, strict=True))
    fitting = jobs if probe.memory is None else _jobs_that_fit(jobs, each, free)
    if fitting == jobs:
        return Workload(line, tiles, jobs)
    takes = f"{(each + _own_memory()) / 1e9:.2g} GB of {(free or 0) / 1e9:.2g} GB free"
    return Workload(line, tiles, fitting, f"--jobs {fitting} instead of {jobs}: each process takes at least {takes}")


def _line(
    run: "Run",
    files: Sequence[Path],
    sizes: Sequence[float],
    calls: int,
    probe: Probe,
    free: int | None,
    tiles: Mapping[Path, int],
) -> str:
    """The line for the user on the size of images, time and memory."""
    pixels = max(sizes)
    file = files[sizes.index(pixels)]
    height, width = image_size(file)
    parts = [f"{file}: {width}x{height} pixels" + (f", the largest of {len(files)} images" if len(files) > 1 else "")]
    seconds = _duration(probe.seconds * sum(sizes) * calls)
    parts.append(f"{plural(calls, 'network call')}{' each' if len(files) > 1 else ''}, at least {seconds} in all")
    warning = ""
    if probe.memory is not None:
        need = _bytes(run, probe, pixels)
        parts.append(f"at least {need / 1e9:.2g} GB of memory" + (f" of {free / 1e9:.2g} GB free" if free else ""))
        if tiles:
            images, side = f"{len(tiles)} of the images are" if len(files) > 1 else "it is", tiles[file]
            warning = f"; {images} restored in tiles of {side}x{side} pixels (--tile 0: whole)"
        elif free is not None and need > free:
            warning = "; that is more than is free: it will probably fail or swap, so use --tile or a smaller image"
    return f"{'; '.join(parts)} (by a probe of {SIDES[1]}x{SIDES[1]} pixels){warning}"


def _jobs_that_fit(jobs: int, each: float, free: int | None) -> int:
    """How many processes fit into memory that hold the run and restore an image of so many bytes; at least one."""
    if free is None or jobs == 1:
        return jobs
    return min(jobs, max(int(SHARE * free / max(each + _own_memory(), 1)), 1))


def _own_memory() -> float:
    """Bytes that only this process holds, with the run open; a worker process with the same run takes as many."""
    return _process_memory("RssAnon") or 0


def automatic_tile(run: "Run", pixels: int) -> int:
    """Side of the tiles for an image of this many pixels, before the recipe enlarges it; 0: it is restored whole."""
    free = free_memory(run.device)
    if not _is_large(pixels * MAX_FACTOR**2, free):
        return 0
    try:
        factor = _black_batch(run, SIDES[0])["x_1"].shape[-1] / SIDES[0]
        largest = pixels * factor**2
        return _side(run, probed(run, factor), largest, free) if _is_large(largest, free) else 0
    except Exception:  # otherwise a failed estimate would stop the restoration
        return 0


def _is_large(pixels: float, free: int | None) -> bool:
    """Whether an image is so large that memory and time are estimated by a probe."""
    return pixels >= LARGE or (free is not None and pixels * HEAVY > free)


def _needs_tiles(probe: Probe, pixels: float, free: int | None) -> bool:
    """Whether an image is large, or does not fit into the free memory whole."""
    return pixels >= LARGE or (probe.memory is not None and free is not None and probe.memory * pixels > SHARE * free)


def _bytes(run: "Run", probe: Probe, pixels: float, tile: int | None = None) -> float:
    """Bytes of a restoration: in tiles of this side, or of the run's own, if there are any, else whole."""
    side = tile if run.tiles is None else run.tiles[0]
    return _tiled_bytes(run, probe, pixels, side) if side else (probe.memory or 0) * pixels


def _tiled_bytes(run: "Run", probe: Probe, pixels: float, side: int) -> float:
    """Bytes of a restoration in tiles: one tile in the network, and arrays of the whole image."""
    return (probe.memory or 0) * min(side * side, pixels) + WHOLE_ARRAYS * 4 * run.recipe.data.channels * pixels


def _side(run: "Run", probe: Probe, pixels: float, free: int | None) -> int:
    """Side of the tiles of an image that needs them: the largest that fits, else the smallest; 0: no tiles."""
    if run.tiles is not None or not _needs_tiles(probe, pixels, free) or why_not_tiled(run.method):
        return 0
    usable = []
    for side in TILES:
        with contextlib.suppress(UserError):  # smaller than the network takes
            run.tiled(side)
            usable.append(side)
    fitting = (side for side in usable if free is None or _tiled_bytes(run, probe, pixels, side) <= SHARE * free)
    return next(fitting, [0, *usable][-1])


def probed(run: "Run", factor: float = 1) -> Probe:
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
    seconds = (time.perf_counter() - start) / network_calls(run.method, 1)
    peak = float(torch.cuda.max_memory_allocated(run.device)) if cuda else _process_memory("VmHWM")
    memory = None if before is None or peak is None or peak <= before else (peak - before) / pixels
    return Probe(seconds / pixels, memory)


def _restore_black(run: "Run", side: int) -> int:
    """Restore one black image with one network call; return the number of pixels of its X_1."""
    batch = _black_batch(run, side)
    with contextlib.suppress(NotFinite):  # perhaps of this black image only
        run.restore_batch(batch, nfe=1, generator=[generator(0, "probe")])
    return batch["x_1"].shape[-2] * batch["x_1"].shape[-1]


def _black_batch(run: "Run", side: int) -> dict[str, Tensor]:
    """The batch of one black image."""
    draws, data = [generator(0, "probe")], run.recipe.data
    black = Picture(np.zeros((side, side, data.channels), np.uint8))
    condition = Picture(np.zeros((side, side, run.recipe.condition_channels), np.uint8)) if data.own_condition else None
    label = 0 if run.recipe.classes else None
    try:
        return to_batch(run.recipe, black, None, condition, draws, label=label)
    except UserError:  # inpainting needs a mask
        mask = Picture(np.full((side, side, 1), 255, np.uint8))
        return to_batch(run.recipe, black, mask, condition, draws, label=label)


def free_memory(device: torch.device) -> int | None:
    """Free bytes of a CUDA device, else of the machine's memory or of a container's share of it; None if unknown."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        machine = [next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))]
    except (OSError, StopIteration, ValueError, IndexError):
        machine = []
    return min([*machine, *group_memory()], default=None)


GROUP_FILES = {
    "": ("memory.max", "memory.current", "inactive_file"),
    "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}
"""Of control groups of version 2 and of version 1: limit, use, and the cached files in it, which the system drops."""


def group_memory(own: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> list[int]:
    """Bytes that each of this process's control groups with a limit (a container, a batch job) may still take."""
    try:
        rows = [line.split(":", 2) for line in own.read_text().splitlines()]
    except OSError:
        return []
    found = []
    for controller, (limit, used, cached) in GROUP_FILES.items():
        for path in (path for _, name, path in (row for row in rows if len(row) == 3) if name == controller):
            group = root / controller / path.strip("/")
            # A container sees its own group as the root, whatever the path says.
            for folder in (group, *(parent for parent in group.parents if parent.is_relative_to(root))):
                with contextlib.suppress(OSError, ValueError):
                    numbers = [int((folder / file).read_text()) for file in (limit, used)]
                    stat = dict(line.split(" ", 1) for line in (folder / "memory.stat").read_text().splitlines())
                    found.append(max(numbers[0] - numbers[1] + int(stat.get(cached, 0)), 0))
    return found


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


def pixel_count(file: Path) -> int:
    """Pixels of an image, from its header; 0 if it cannot be read."""
    try:
        return math.prod(image_size(file))
    except UserError:  # reported when the file is read
        return 0


def _duration(seconds: float) -> str:
    if seconds < 90:
        return plural(max(round(seconds), 1), "second")
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"
