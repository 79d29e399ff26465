"""What tiles change: `python tests/benchmarks/tiles.py difference|pan|memory [RUN]`, of docs/performance.md.

difference: a photo of 1280 x 854 pixels with noise of 25 grey levels, or with holes, restored in tiles and whole.
pan: 5 frames of 160 x 128 pixels that move over a photo by (2, 3) pixels a frame, each with noise of its own; the mean
absolute difference of neighbouring frames at the same place of the scene, for one noise field and for one per frame.
memory: 6000 x 4000 pixels in tiles of 512, from file to file, in a process of its own; peak of its memory.
"""

import argparse
import itertools
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_image

from i2i_bridge import load_run, restore_files


def photo(width: int, height: int) -> np.ndarray:
    """A photo of scikit-learn, enlarged."""
    return np.asarray(Image.fromarray(load_sample_image("china.jpg")).resize((width, height), Image.Resampling.BICUBIC))


def noisy(image: np.ndarray, seed: int, std: float = 25) -> np.ndarray:
    """Noise of `std` grey levels, rounded to 8 bits."""
    noise = np.random.default_rng(seed).normal(0, std, image.shape)
    return np.rint(image + noise).clip(0, 255).astype(np.uint8)


def holes(image: np.ndarray) -> np.ndarray:
    """A mask of squares of 20 pixels, one in each 64 x 64 pixels."""
    y, x = np.indices(image.shape[:2]) % 64
    return (np.maximum(y, x) < 20).astype(np.uint8) * 255


def difference(name: str, calls: list[int]) -> None:
    run, clean = load_run(name), photo(1280, 854)
    masked = run.recipe.degradation is not None and run.recipe.degradation["name"] == "inpaint"
    degraded, mask = (clean, holes(clean)) if masked else (noisy(clean, 0), None)

    def psnr(result: np.ndarray) -> float:
        return float(10 * np.log10(255**2 / np.square(result.astype(float) - clean).mean()))

    for nfe in calls:
        whole = run.restore(degraded, nfe=nfe, mask=mask, tile=0)
        print(f"nfe {nfe}, whole: PSNR {psnr(whole):.2f}", flush=True)
        for tile, overlap in ((512, 64), (256, 64), (128, 32)):
            tiled = run.restore(degraded, nfe=nfe, mask=mask, tile=tile, overlap=overlap)
            rms = np.sqrt(np.square(tiled.astype(float) - whole).mean())
            print(f"nfe {nfe}, tile {tile}, overlap {overlap}: rms {rms:.3f}, PSNR {psnr(tiled):.2f}", flush=True)


def pan(name: str, calls: list[int]) -> None:
    run, scene = load_run(name), photo(400, 267)
    steps = [(2 * k, 3 * k) for k in range(5)]
    clean = [scene[top : top + 128, left : left + 160] for top, left in steps]

    def flicker(frames: list[np.ndarray]) -> float:
        # Pixel (y, x) of a frame is (y + 2, x + 3) of the frame before.
        pairs = itertools.pairwise(frames)
        return float(np.mean([np.abs(a[2:, 3:].astype(float) - b[:-2, :-3]).mean() for a, b in pairs]))

    for std in (5, 25):
        degraded = [noisy(frame, k, std) for k, frame in enumerate(clean)]
        print(f"noise {std}, input: {flicker(degraded):.2f}", flush=True)
        for nfe in calls:
            for what, seeds in (("one field", [0] * 5), ("a field for each frame", range(5))):
                frames = [run.restore(frame, nfe=nfe, seed=seed) for frame, seed in zip(degraded, seeds, strict=True)]
                print(f"noise {std}, nfe {nfe}, {what}: {flicker(frames):.2f}", flush=True)


def memory(name: str, calls: list[int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "large.jpg"
        Image.fromarray(photo(6000, 4000)).save(file, quality=95)
        # A process of its own: the memory of this one would count.
        words = [sys.executable, __file__, "file", name, "--nfe", str(calls[-1]), "--file", str(file)]
        subprocess.run(words, check=True)


def restored_file(name: str, calls: list[int], file: Path) -> None:
    """Restore a file in tiles beside itself; print the peak of this process's memory."""
    run, begun = load_run(name), time.process_time()

    def show(what: str) -> None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
        print(f"{what}: peak {peak:.2f} GB, {time.process_time() - begun:.0f} s of processor time", flush=True)

    def report(done: int, total: int) -> None:
        if done % 20 == 0:
            show(f"tiles {done}/{total}")

    restore_files(run, file, file.with_suffix(".png"), nfe=calls[-1], tile=512, overlap=64, report_tiles=report)
    show(f"nfe {calls[-1]}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["difference", "pan", "memory", "file"])
    parser.add_argument("run", nargs="?", default="pretrained/photos")
    parser.add_argument("--nfe", nargs="+", type=int, default=[1, 5])
    parser.add_argument("--file", type=Path, help="of 'file', which 'memory' starts")
    given = parser.parse_args()
    if given.what == "file":
        restored_file(given.run, given.nfe, given.file)
    else:
        {"difference": difference, "pan": pan, "memory": memory}[given.what](given.run, given.nfe)
