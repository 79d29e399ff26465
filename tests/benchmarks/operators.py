"""How fast degradations and decoding are beside plain code for the same: `python tests/benchmarks/operators.py`.

Eight images of 256 x 256, two threads. Ours and theirs take turns in one run, so that a busy machine slows both; a
number is the median of the rounds, and "ratio" that of theirs / ours: above 1, ours is faster. Not run by pytest.

Two cores of a shared machine, torch 2.14.1, kornia 0.9.0, Pillow as pinned; milliseconds for all eight images:

    jpeg, pillow                     8.6      7.8   0.91  Pillow in a loop (the measured yardstick was 27)
    jpeg, ddrm                      23.6     43.9   2.05  kornia's codec (the yardstick was 272)
    jpeg, ddrm, [5, 30]             24.4     37.8   1.39  kornia's codec
    sr4x, bicubic                    2.9      1.7   0.61  torch's interpolate: float32, other borders
    downsample, bicubic              3.6      1.7   0.46  torch's interpolate: float32; ours is float64
    blur, uniform                   11.7     18.9   1.62  torch's 9x9 convolution
    defocus [2, 10]                  44.8     11.9   0.27  kornia's filter2d, 21x21, float32; ours is float64
    motion-blur [5, 21]              43.5     16.2   0.37  kornia's motion_blur, all of one length
    gaussian-blur [2, 3], turned     40.7     15.3   0.38  kornia's filter2d, 25x25
    gaussian-blur [2, 3], round      45.1     15.4   0.34  kornia's, separable
    shot-noise                      71.0     66.0   0.92  NumPy's poisson
    noise                            5.3      4.5   0.86  torch's randn_like

One image after the other, in CPU time, two cores beside a load of 14 (it was 0.82 by the clock):

    decode + crop + flip             2.1      2.0   0.92  Pillow's decode alone: 0.90 to 0.93 over four runs
    crop + flip of a pair           0.05            seeded (the yardstick was 0.15)

Slower than float32 code on purpose: what is made in float64 and rounded once is the same for any number of threads.
"""

import io
import itertools
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from i2i_bridge.data.transforms import Geometry
from i2i_bridge.images import read_picture
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
    ("jpeg, ddrm", {"name": "jpeg", "quality": 10}, "kornia's codec", kornia_jpeg),
    ("jpeg, ddrm, [5, 30]", {"name": "jpeg", "quality": [5, 30]}, "kornia's codec", kornia_jpeg),
    ("sr4x, bicubic", {"name": "sr4x", "filter": "bicubic"}, "torch's interpolate", torch_resized),
    ("downsample, bicubic", {"name": "downsample"}, "torch's interpolate", torch_resized),
    ("blur, uniform", {"name": "blur"}, "torch's 9x9 convolution", torch_blur),
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
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[float, float, float]:
    """Median seconds of both, and of the ratio theirs / ours within a round."""
    ours(), theirs()
    seconds: list[tuple[float, float]] = []
    for _ in range(rounds):
        one, two, three = clock(), (ours(), clock())[1], (theirs(), clock())[1]
        seconds.append((two - one, three - two))
    mine, yours = (statistics.median(column) for column in zip(*seconds, strict=True))
    return mine, yours, statistics.median(b / a for a, b in seconds)


def main() -> None:
    torch.set_num_threads(2)
    x = images()
    seeds = [generator(0, "benchmark", i) for i in range(BATCH)]
    print(f"{'8 images of 256x256':30} {'ours':>9} {'theirs':>9} {'ratio':>6}")
    for name, table, other, theirs in OPERATORS:
        degradation = DEGRADATIONS.build(table)
        mine, yours, ratio = compare(lambda: degradation(x, seeds), lambda: theirs(x))  # noqa: B023 (used at once)
        print(f"{name:30} {mine * 1e3:7.1f}ms {yours * 1e3:7.1f}ms {ratio:6.2f}  {other}", flush=True)
    decode(sys.argv[1:])
    pair()


def decode(files: list[str]) -> None:
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

        mine, yours, ratio = compare(ours, theirs, DECODES, time.thread_time)
        print(
            f"{'decode + crop + flip':30} {mine * 1e3:7.1f}ms {yours * 1e3:7.1f}ms {ratio:6.2f}  Pillow's decode alone"
        )


def pair() -> None:
    """Crop and flip both images of a pair, seeded; the yardstick took 151 us: 64, and 87 to seed."""
    geometry = Geometry(SIDE, resize="none", crop="random", flip=True)
    sides = dict.fromkeys(("x_0", "x_1"), np.zeros((375, 500, 3), np.uint8))
    seed = iter(range(10**9))
    mine, _, _ = compare(lambda: geometry(sides, next(seed)), lambda: None, DECODES, time.thread_time)
    print(f"{'crop + flip of a pair, seeded':30} {mine * 1e6:7.0f}us")


if __name__ == "__main__":
    main()
