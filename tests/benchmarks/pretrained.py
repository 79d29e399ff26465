"""Makes a shipped run of a trained one, and measures it on photos: `python tests/benchmarks/pretrained.py --help`.

    pretrained.py export runs/pretrained-photos i2i_bridge/pretrained/photos
    pretrained.py measure PHOTOS    # the table of docs/pretrained.md; --methods, --cases and --count do a part

Each photo is degraded in every way of CASES and written to 8-bit codes, as a user's file is. Beside the run's answer
stand the input and OpenCV's non-local means, whose strength is the one of STRENGTHS with the best mean PSNR on four of
the photos: better than a user, who does not have the clean photo, can choose. PSNR is of 8-bit RGB; st-lpips, of
the 256 x 256 pixels in the middle, needs the extra `metrics`. Not run by pytest.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

from i2i_bridge import load_run
from i2i_bridge.images.pixels import to_pixels, to_tensor
from i2i_bridge.randomness import generator
from i2i_bridge.registry import DEGRADATIONS, METRICS
from i2i_bridge.runs.checkpoint import chosen_checkpoint, save_checkpoint
from i2i_bridge.storage.files import write_whole
from i2i_bridge.storage.shipped import RECIPE_FILE


def _noise(levels: float) -> dict[str, object]:
    return {"name": "noise", "std": levels / 127.5}


def _jpeg(quality: int) -> dict[str, object]:
    return {"name": "jpeg", "quality": quality, "backend": "pillow"}


def _blur(sigma: float) -> dict[str, object]:
    return {"name": "gaussian-blur", "sigma": sigma}


CASES: dict[str, list[dict[str, object]]] = {
    "clean": [],
    "noise 15": [_noise(15)],
    "noise 25": [_noise(25)],
    "noise 50": [_noise(50)],
    "JPEG 10": [_jpeg(10)],
    "JPEG 40": [_jpeg(40)],
    "blur 1.0": [_blur(1.0)],
    "blur 0.7, noise 15, JPEG 50": [_blur(0.7), _noise(15), _jpeg(50)],
}
STRENGTHS = (3, 5, 10, 20, 30)
"""h and hColor of `cv2.fastNlMeansDenoisingColored`."""
MIDDLE = 256
Restorer = Callable[[np.ndarray], np.ndarray]


def export(run: Path, folder: Path) -> None:
    """Write the moving average of a run's last checkpoint in bfloat16, with its recipe, as a run folder."""
    checkpoint, _ = chosen_checkpoint(run / "checkpoints")
    assert checkpoint is not None
    weights = {name: value.bfloat16() for name, value in checkpoint.tensors("ema").items()}
    save_checkpoint(folder / "checkpoints", checkpoint.step, {"ema": weights}, {}, keep=1)
    write_whole(folder / RECIPE_FILE, (run / RECIPE_FILE).read_bytes())


def degraded(pixels: np.ndarray, case: str, name: str) -> np.ndarray:
    """A photo (H, W, 3) uint8 as a case leaves it; the noise is keyed by the photo's name."""
    if not CASES[case]:
        return pixels
    operator = DEGRADATIONS.build({"name": "compose", "degradations": CASES[case]})
    return to_pixels(operator(to_tensor(pixels)[None], [generator(0, "measure", name)]).x_1[0])


def psnr(restored: np.ndarray, clean: np.ndarray) -> float:
    """Of 8-bit codes, in dB; the error is at least that of one pixel in a thousand wrong by one."""
    error = np.square(restored.astype(float) - clean).mean()
    return float(10 * np.log10(255**2 / max(error, 1e-3)))


def middle(pixels: np.ndarray) -> torch.Tensor:
    """The middle of an image (H, W, 3) as a batch of one in [-1, 1]."""
    top, left = (max((side - MIDDLE) // 2, 0) for side in pixels.shape[:2])
    return to_tensor(pixels[top : top + MIDDLE, left : left + MIDDLE])[None]


def non_local_means(strength: int) -> Restorer:
    return lambda pixels: cv2.fastNlMeansDenoisingColored(pixels, None, strength, strength)


def measure(photos: list[Path], run: str, cases: list[str], methods: list[str], out: Path | None) -> None:
    """Print a row for each case and method, and write them with the photos' own figures to a JSON file."""
    distance = METRICS.build({"name": "st-lpips"})
    clean = {file.stem: np.asarray(Image.open(file).convert("RGB")) for file in photos}
    loaded = load_run(run, device="cpu") if "run" in methods else None
    rows = []
    for case in cases:
        bad = {name: degraded(pixels, case, name) for name, pixels in clean.items()}
        for method in methods:
            restore: Restorer = lambda pixels: pixels  # noqa: E731
            strength = None
            if method == "nlm":
                some = list(clean)[:4]
                strength = max(
                    STRENGTHS, key=lambda h: sum(psnr(non_local_means(h)(bad[name]), clean[name]) for name in some)
                )
                restore = non_local_means(strength)
            elif loaded is not None and method == "run":
                restore = loaded.restore
            began = time.process_time()
            answers = {name: restore(pixels) for name, pixels in bad.items()}
            seconds = (time.process_time() - began) / len(answers)
            quality = [psnr(answers[name], clean[name]) for name in clean]
            far = [float(distance(middle(answers[name]), middle(clean[name]))[0]) for name in clean]
            gains = [after - psnr(bad[name], clean[name]) for after, name in zip(quality, clean, strict=True)]
            row = {
                "case": case, "method": method, "photos": len(clean), "strength": strength,
                "psnr": statistics.mean(quality), "st-lpips": statistics.mean(far), "least gain": min(gains),
                "seconds": seconds, "every psnr": quality, "every st-lpips": far,
            }  # fmt: skip
            rows.append(row)
            print(
                f"{case:30s} {method:6s} {row['psnr']:6.2f} dB  {row['st-lpips']:.4f}  "
                f"least gain {min(gains):6.2f} dB  {seconds:.2f} s" + (f"  h {strength}" if strength else ""),
                flush=True,
            )
            if out is not None:
                out.write_text(json.dumps(rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    one = verbs.add_parser("export")
    one.add_argument("run", type=Path)
    one.add_argument("folder", type=Path)
    two = verbs.add_parser("measure")
    two.add_argument("photos", type=Path)
    two.add_argument("--run", default="pretrained/photos")
    two.add_argument("--cases", nargs="*", default=list(CASES), choices=list(CASES))
    two.add_argument("--methods", nargs="*", default=["input", "nlm", "run"], choices=["input", "nlm", "run"])
    two.add_argument("--count", type=int, help="every n-th photo, so that about so many are left")
    two.add_argument("--out", type=Path)
    given = parser.parse_args()
    if given.verb == "export":
        export(given.run, given.folder)
        return
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    files = sorted(path for path in given.photos.rglob("*") if path.suffix.lower() in (".png", ".jpg", ".bmp"))
    step = max(1, len(files) // given.count) if given.count else 1
    measure(files[::step], given.run, given.cases, given.methods, given.out)


if __name__ == "__main__":
    main()
