"""How fast degradations and decoding are beside plain code for the same: `python tests/benchmarks/operators.py`.

Eight images of 256 x 256, one thread (--threads). Ours and theirs take turns in one run, so that a busy machine slows
both; a number is the median of the rounds, "ratio" that of theirs / ours: above 1, ours is faster. Not run by pytest.

A core of an AMD EPYC (Zen 5, AVX-512) beside other work, torch 2.14.1, kornia 0.9.0, Pillow as pinned; milliseconds of
processor time for all eight images, and the ratio of a second run; "one by one" is an image at a time, with NumPy and
SciPy:

    jpeg, pillow                      5.7     10.0   1.54   1.42  Pillow in a loop
    jpeg, pillow                      6.2    131.9  20.88  17.47  kornia's codec
    jpeg, ddrm                        7.6    120.8  15.54  15.97  kornia's codec
    jpeg, ddrm                        7.9     23.4   2.99   2.81  one by one
    jpeg, ddrm, [5, 30]               8.1    125.1  15.12  14.67  kornia's codec
    sr4x, pool                        2.0      7.7   3.79   3.85  one by one
    sr4x, bicubic                     3.3     28.1   8.74   8.70  one by one
    sr4x, bicubic                     3.5      5.9   1.74   1.77  kornia's resize
    sr4x, bicubic                     3.5      3.1   0.89   0.96  torch's interpolate
    downsample, bicubic               5.2      3.0   0.58   0.60  torch's interpolate
    downsample, bicubic               5.1      5.1   1.01   1.06  kornia's resize
    blur, uniform                     4.5     57.5  12.78  12.97  one by one
    blur, uniform                     4.6     75.6  16.60  15.44  kornia's box_blur
    blur, uniform                     4.7     45.6   9.78  10.73  torch's 9x9 convolution
    blur, gaussian                    3.1     19.8   6.32   6.50  one by one
    blur, gaussian                    3.0      3.3   1.12   1.07  kornia's gaussian_blur2d
    defocus [2, 10]                  26.8     13.5   0.51   0.54  kornia's filter2d, 21x21
    motion-blur [5, 21]              30.8     14.5   0.48   0.49  kornia's motion_blur
    gaussian-blur [2, 3], turned     27.3     18.4   0.66   0.71  kornia's filter2d, 25x25
    gaussian-blur [2, 3], round      16.0      9.6   0.61   0.61  kornia's, separable
    shot-noise                       78.9     70.3   0.91   0.89  NumPy's poisson
    noise                             6.1      5.3   0.85   0.90  torch's randn_like

One image after the other:

    decode + crop + flip               1.4      1.1   0.80  0.80  Pillow's decode alone
    crop + flip of a pair             0.020    0.019             seeded (the yardstick was 0.15)
    freeform masks, a second         1829 and 1135, 1938 and 1176 in the second run (target 500)

Slower than float32 code on purpose: what is made in float64 and rounded once is the same for any number of threads.
"""

import argparse
import io
import itertools
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from timing import Row, Sheet, clock
from torch import Tensor

from i2i_bridge.data.transforms import Geometry
from i2i_bridge.degradations.blur import blur_taps
from i2i_bridge.degradations.masks import brush_mask
from i2i_bridge.images.files import read_picture
from i2i_bridge.randomness import generator
from i2i_bridge.registry import DEGRADATIONS

BATCH, SIDE, ROUNDS, DECODES = 8, 256, 15, 400


def images() -> Tensor:
    """Waves with a little noise, as compressible as a photo."""
    rows, columns = torch.meshgrid(torch.arange(SIDE) / 30, torch.arange(SIDE) / 30, indexing="ij")
    phases = torch.arange(BATCH * 3).view(BATCH, 3, 1, 1)
    waves = torch.sin(rows * (1 + phases % 4) + columns + phases) * 0.8
    return waves + 0.1 * torch.randn(waves.shape, generator=generator(0, "benchmark"))


def pillow_jpeg(x: Tensor) -> Tensor:
    decoded = []
    for image in ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy():
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=10)
        decoded.append(np.asarray(Image.open(file)))
    return torch.from_numpy(np.stack(decoded)).permute(0, 3, 1, 2).float() / 127.5 - 1


def kornia_jpeg(x: Tensor) -> Tensor:
    from kornia.enhance import jpeg_codec_differentiable

    decoded: Tensor = jpeg_codec_differentiable((x + 1) / 2, torch.tensor([10.0]))
    return decoded


def one_by_one(act: Callable[[np.ndarray], np.ndarray]) -> Callable[[Tensor], Tensor]:
    """As one writes it for one image (C, H, W) with NumPy and SciPy, in float64."""

    def each(x: Tensor) -> Tensor:
        return torch.from_numpy(np.stack([act(image.astype(np.float64)) for image in x.numpy()])).float()

    return each


def plain_jpeg(image: np.ndarray) -> np.ndarray:
    from scipy.fft import dctn, idctn

    from i2i_bridge.degradations.jpeg import _TO_RGB, _TO_YCBCR, quantisation_tables

    def coded(plane: np.ndarray, table: np.ndarray) -> np.ndarray:
        height, width = plane.shape
        blocks = plane.reshape(height // 8, 8, width // 8, 8).transpose(0, 2, 1, 3)
        levels = np.round(dctn(blocks, axes=(2, 3), norm="ortho") / table)
        return idctn(levels * table, axes=(2, 3), norm="ortho").transpose(0, 2, 1, 3).reshape(height, width)

    luma_table, chroma_table = (table.numpy() for table in quantisation_tables(10))
    y, cb, cr = np.einsum("ij,jhw->ihw", np.array(_TO_YCBCR), (image + 1) * 127.5)
    luma = coded(y - 128, luma_table) + 128
    chroma = [coded(c[::2, ::2], chroma_table).repeat(2, 0).repeat(2, 1) for c in (cb, cr)]
    return np.einsum("ij,jhw->ihw", np.array(_TO_RGB), np.stack([luma, *chroma])) / 127.5 - 1


def plain_pool(image: np.ndarray) -> np.ndarray:
    channels, height, width = image.shape
    small = image.reshape(channels, height // 4, 4, width // 4, 4).mean(axis=(2, 4))
    return small.repeat(4, 1).repeat(4, 2)


def plain_bicubic(image: np.ndarray) -> np.ndarray:
    from scipy.ndimage import correlate1d

    from i2i_bridge.degradations.linear import cubic_taps

    for axis in (1, 2):
        image = correlate1d(image, np.array(cubic_taps()), axis=axis, mode="reflect", origin=0)
    return image[:, 2::4, 2::4].repeat(4, 1).repeat(4, 2)


def plain_blur(kernel: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    def act(image: np.ndarray) -> np.ndarray:
        from scipy.ndimage import convolve

        return np.stack([convolve(plane, kernel, mode="mirror") for plane in image])

    return act


GAUSSIAN = np.outer(blur_taps("gaussian"), blur_taps("gaussian"))


def kornia_fixed_gaussian(x: Tensor) -> Tensor:
    from kornia.filters import gaussian_blur2d

    blurred: Tensor = gaussian_blur2d(x, (5, 5), (10.0, 10.0))
    return blurred


def kornia_resized(x: Tensor) -> Tensor:
    from kornia.geometry.transform import resize

    small = resize(x, (SIDE // 4, SIDE // 4), interpolation="bicubic", antialias=True)
    enlarged: Tensor = resize(small, (SIDE, SIDE), interpolation="nearest")
    return enlarged


def kornia_box(x: Tensor) -> Tensor:
    from kornia.filters import box_blur

    blurred: Tensor = box_blur(x, (9, 9))
    return blurred


def torch_resized(x: Tensor) -> Tensor:
    small = F.interpolate(x, scale_factor=0.25, mode="bicubic", antialias=True)
    return F.interpolate(small, scale_factor=4, mode="nearest")


def torch_blur(x: Tensor) -> Tensor:
    return F.conv2d(F.pad(x, (4, 4, 4, 4), mode="reflect"), torch.full((3, 1, 9, 9), 1 / 81), groups=3)


def per_sample_filter(side: int) -> Callable[[Tensor], Tensor]:
    def act(x: Tensor) -> Tensor:
        from kornia.filters import filter2d

        kernels = torch.rand(len(x), side, side)
        filtered: Tensor = filter2d(x, kernels, normalized=True)
        return filtered

    return act


def kornia_motion(x: Tensor) -> Tensor:
    from kornia.filters import motion_blur

    blurred: Tensor = motion_blur(x, 21, torch.rand(len(x)) * 180, torch.zeros(len(x)), mode="bilinear")
    return blurred


def kornia_gaussian(x: Tensor) -> Tensor:
    from kornia.filters import gaussian_blur2d

    blurred: Tensor = gaussian_blur2d(x, (25, 25), torch.rand(len(x), 2) + 2)
    return blurred


def numpy_poisson(x: Tensor) -> Tensor:
    counts = np.random.default_rng(0).poisson(((x + 1) / 2).clamp(min=0).numpy() * 100)
    return torch.from_numpy(counts).float() / 50 - 1


OPERATORS: list[tuple[str, dict[str, Any], str, Callable[[Tensor], Tensor]]] = [
    ("jpeg, pillow", {"name": "jpeg", "quality": 10, "backend": "pillow"}, "Pillow in a loop", pillow_jpeg),
    ("jpeg, pillow", {"name": "jpeg", "quality": 10, "backend": "pillow"}, "kornia's codec", kornia_jpeg),
    ("jpeg, ddrm", {"name": "jpeg", "quality": 10}, "kornia's codec", kornia_jpeg),
    ("jpeg, ddrm", {"name": "jpeg", "quality": 10}, "one by one", one_by_one(plain_jpeg)),
    ("jpeg, ddrm, [5, 30]", {"name": "jpeg", "quality": [5, 30]}, "kornia's codec", kornia_jpeg),
    ("sr4x, pool", {"name": "sr4x", "filter": "pool"}, "one by one", one_by_one(plain_pool)),
    ("sr4x, bicubic", {"name": "sr4x", "filter": "bicubic"}, "one by one", one_by_one(plain_bicubic)),
    ("sr4x, bicubic", {"name": "sr4x", "filter": "bicubic"}, "kornia's resize", kornia_resized),
    ("sr4x, bicubic", {"name": "sr4x", "filter": "bicubic"}, "torch's interpolate", torch_resized),
    ("downsample, bicubic", {"name": "downsample"}, "torch's interpolate", torch_resized),
    ("downsample, bicubic", {"name": "downsample"}, "kornia's resize", kornia_resized),
    ("blur, uniform", {"name": "blur"}, "one by one", one_by_one(plain_blur(np.full((9, 9), 1 / 81)))),
    ("blur, uniform", {"name": "blur"}, "kornia's box_blur", kornia_box),
    ("blur, uniform", {"name": "blur"}, "torch's 9x9 convolution", torch_blur),
    ("blur, gaussian", {"name": "blur", "kernel": "gaussian"}, "one by one", one_by_one(plain_blur(GAUSSIAN))),
    ("blur, gaussian", {"name": "blur", "kernel": "gaussian"}, "kornia's gaussian_blur2d", kornia_fixed_gaussian),
    ("defocus [2, 10]", {"name": "defocus", "radius": [2, 10]}, "kornia's filter2d, 21x21", per_sample_filter(21)),
    ("motion-blur [5, 21]", {"name": "motion-blur", "length": [5, 21]}, "kornia's motion_blur", kornia_motion),
    (
        "gaussian-blur [2, 3], turned",
        {"name": "gaussian-blur", "sigma": [2, 3], "ratio": [0.5, 1], "angle": [0, 180]},
        "kornia's filter2d, 25x25",
        per_sample_filter(25),
    ),
    ("gaussian-blur [2, 3], round", {"name": "gaussian-blur", "sigma": [2, 3]}, "kornia's, separable", kornia_gaussian),
    ("shot-noise", {"name": "shot-noise"}, "NumPy's poisson", numpy_poisson),
    ("noise", {"name": "noise", "std": 0.1}, "torch's randn_like", lambda x: x + 0.1 * torch.randn_like(x)),
]


def compare(
    ours: Callable[[], Any],
    theirs: Callable[[], Any],
    rounds: int = ROUNDS,
    clock: Callable[[], float] = time.thread_time,
) -> tuple[float, float, float]:
    """Median seconds of both, and of the ratio theirs / ours within a round."""
    ours(), theirs()
    seconds: list[tuple[float, float]] = []
    for _ in range(rounds):
        one, two, three = clock(), (ours(), clock())[1], (theirs(), clock())[1]
        seconds.append((two - one, three - two))
    mine, yours = (statistics.median(column) for column in zip(*seconds, strict=True))
    return mine, yours, statistics.median(b / a for a, b in seconds)


def main(files: list[str], threads: int) -> None:
    torch.set_num_threads(threads)
    sheet = Sheet("operators")
    x = images()
    seeds = [generator(0, "benchmark", i) for i in range(BATCH)]
    rows: list[Row] = []
    for name, table, other, theirs in OPERATORS:
        degradation = DEGRADATIONS.build(table)
        if other == "one by one":  # the same operator, or the time says nothing
            assert (degradation(x, seeds).x_1 - theirs(x)).abs().max() < 1e-2, name
        sides = partial(degradation, x, seeds), partial(theirs, x)
        rows.append(row(name, other, *compare(*sides, clock=clock())))
    sheet.table("8 images of 256x256", rows)
    torch.set_num_threads(1)
    sheet.table("one image", [decode(files), pair()])
    sheet.table("freeform masks of 256x256", masks())


def row(name: str, other: str, mine: float, yours: float, ratio: float) -> Row:
    return {"what": name, "ours, ms": mine * 1e3, "theirs, ms": yours * 1e3, "ratio": ratio, "beside": other}


def decode(files: list[str]) -> Row:
    """Decode, crop to 256 x 256 and flip, beside Pillow's decoding alone; of given files, else a drawn 500 x 375."""
    with TemporaryDirectory() as folder:
        if not files:
            drawn = Path(folder) / "drawn.jpg"
            large = F.interpolate(images()[:1], (375, 500), mode="bicubic")[0].clamp(-1, 1)
            pixels = ((large + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).numpy()
            Image.fromarray(pixels).save(drawn, quality=90)
            files = [str(drawn)]
        geometry = Geometry(SIDE, resize="none", crop="random", flip=True)
        seed = iter(range(10**9))
        # Each side goes through the files in its own time, so that both of a round take the same one.
        our_turn, their_turn = itertools.cycle(files), itertools.cycle(files)

        def ours() -> None:
            geometry({"x_0": read_picture(next(our_turn)).pixels}, next(seed))

        def theirs() -> None:
            np.asarray(Image.open(next(their_turn)).convert("RGB"))

        return row("decode + crop + flip", "Pillow's decode alone", *compare(ours, theirs, DECODES))


def pair() -> Row:
    """Crop and flip both images of a pair, seeded; the yardstick took 151 us: 64, and 87 to seed."""
    geometry = Geometry(SIDE, resize="none", crop="random", flip=True)
    sides = dict.fromkeys(("x_0", "x_1"), np.zeros((375, 500, 3), np.uint8))
    seed = iter(range(10**9))
    mine, _, _ = compare(lambda: geometry(sides, next(seed)), lambda: None, DECODES)
    return row("crop + flip of a pair, seeded", "the yardstick", mine, 151e-6, 151e-6 / mine)


def masks() -> list[Row]:
    """Freeform masks in both bands of the recipes, on one core."""
    rows: list[Row] = []
    for band in ((0.1, 0.2), (0.2, 0.3)):
        seeds = [generator(0, "benchmark", i) for i in range(DECODES)]
        begins = time.thread_time()
        for seed in seeds:
            brush_mask(SIDE, SIDE, band, seed)
        rate = DECODES / (time.thread_time() - begins)
        rows.append({"area of the holes": f"{band[0]} to {band[1]}", "a second and core": rate, "target": 500.0})
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("files", nargs="*", help="photos to decode, instead of a drawn one")
    parser.add_argument(
        "--threads", type=int, default=1, help="of the operators; with one, the clock is the processor's"
    )
    options = parser.parse_args()
    main(options.files, options.threads)
