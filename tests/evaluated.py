"""Evaluated folders as `evaluate` leaves them, of small synthetic scenes: what a comparison reads, without training."""

import csv
import json
import math

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter

from i2i_bridge.images.pixels import to_tensor
from i2i_bridge.metrics.base import bootstrap_interval
from i2i_bridge.metrics.fidelity import PSNR, SSIM
from i2i_bridge.recipe.load import load_recipe

METRICS = {"psnr": PSNR, "ssim": SSIM}


def scene(seed, size=64):
    """Shapes before a colour gradient."""
    rng = np.random.default_rng(seed)
    ramp = np.linspace(0, 1, size)[:, None, None]
    low, high = rng.integers(40, 220, (2, 1, 1, 3))
    image = Image.fromarray((low * (1 - ramp) + high * ramp).astype(np.uint8).repeat(size, 1))
    drawing = ImageDraw.Draw(image)
    for _ in range(7):
        x, y, w, h = rng.integers(0, size * 3 // 4, 2).tolist() + rng.integers(5, size // 2, 2).tolist()
        colour = tuple(rng.integers(0, 256, 3).tolist())
        shape = drawing.ellipse if rng.random() < 0.5 else drawing.rectangle
        shape((x, y, x + w, y + h), fill=colour)
    return image


def write_evaluated(
    folder, *, method="bridge", label=None, quality=(0.5, 0.7, 0.8), nfe=(1, 5, 20), images=6, seed=0,
    recipe="demo/deblur", overrides=(), protocol_hash="3f9c0a1b2c3d" + "0" * 52,
    digest="aa11bb22cc33dd44", size=64, settings=None,
):  # fmt: skip
    """A run folder without weights: recipe.toml, metrics.jsonl and evaluation/held-out of `images` blurred scenes.

    Args:
        quality: How much of the blur each row takes away, 0 to 1.
    """
    folder.mkdir(parents=True)
    resolved = load_recipe(recipe, [f"train.seed={seed}", *overrides])
    (folder / "recipe.toml").write_text(resolved.to_toml(), encoding="utf-8")
    rng = np.random.default_rng(seed + len(method))
    (folder / "metrics.jsonl").write_text(
        "".join(
            json.dumps({"step": step, "loss": (0.6 + 0.1 * rng.random()) / math.sqrt(step / 20)}) + "\n"
            for step in range(20, 760, 20)
        )
    )
    here = folder / "evaluation" / "held-out"
    rows = {"input": (0, 0.0), **{f"nfe {n}": (n, q) for n, q in zip(nfe, quality, strict=True)}}
    table, scores = [], {name: [] for name in rows}
    for i in range(images):
        clean = scene(i, size)
        blurred = clean.filter(ImageFilter.GaussianBlur(2.5))
        _save(clean, here, "clean", i)
        for name, (calls, share) in rows.items():
            mixed = Image.blend(blurred, clean, share)
            if share:
                noise = rng.normal(0, 3 + 2 * rng.random(), np.asarray(mixed).shape)
                mixed = Image.fromarray((np.asarray(mixed) + noise).clip(0, 255).astype(np.uint8))
            _save(mixed, here, name.replace(" ", "-"), i)
            pair = [to_tensor(np.asarray(image))[None] for image in (mixed, clean)]
            values = {metric: float(measure()(*pair)[0]) for metric, measure in METRICS.items()}
            scores[name].append(values)
            table.append({"key": f"photo {i}", "row": name, "nfe": calls, "seconds": 0.02 * calls, **values})
    with (here / "per_image.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(table[0]))
        writer.writeheader()
        writer.writerows(table)
    stored = {
        "recipe": resolved.name, "method": label or method, "step": 750, "seed": 0,
        "protocol": {
            "name": "held-out", "version": 1, "hash": protocol_hash,
            "settings": settings or {"split": "val", "size": [size, size], "resize": "short_side"},
        },
        "data": {"digest": digest, "items": images},
        "rows": [
            {
                "name": name, "nfe": calls, "images": images,
                "metrics": {metric: _estimate([values[metric] for values in scores[name]]) for metric in METRICS},
                "seconds_per_image": 0.0213 * calls if calls else None,
            }
            for name, (calls, _) in rows.items()
        ],
        "skipped": {"lpips": "lpips needs the file alexnet-owt-7be5be79.pth; set I2I_WEIGHTS_DIR to its folder"},
        "warnings": [f"{images} images are few: intervals are wide, and FID is not to be trusted below 2048."],
    }  # fmt: skip
    (here / "evaluation.json").write_text(json.dumps(stored, indent=1))
    return folder


def _save(image, here, row, i):
    file = here / "images" / row / f"{i:04d}-photo-{i}.png"
    file.parent.mkdir(parents=True, exist_ok=True)
    image.save(file)


def _estimate(values):
    low, high = bootstrap_interval(values, 0)
    error = float(torch.tensor(values).std() / math.sqrt(len(values)))
    return {"value": float(np.mean(values)), "low": low, "high": high, "standard_error": error, "note": ""}
