"""The same results before and after a change of the house. By hand, in two checkouts:

    python tests/same_results.py FILE      writes what this checkout gives, as JSON
    diff BEFORE AFTER                      is empty

Digests of the weights after a run of 12 steps of each method, of each `evaluation.json` and of restored pixels; the
words of a report page; the wheel's data files. Times are left out: they differ between two runs of one checkout.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
TIMES = {"seconds", "seconds_per_image", "when", "date", "version", "code", "environment", "machine"}
RECIPE = """
name = "small"
summary = "small"
task = "restoration"

[data]
card = "demo-photos"
size = 16
validation_size = 32
load_size = 64
resize = "short_side"
crop = "random"

[degradation]
name = "jpeg"
quality = 5

[process]
name = "i2sb"
beta_max = 0.3

[network]
name = "unet"
channels = 8
channel_mult = [1, 2]
blocks_per_level = 1

[train]
steps = 12
batch_size = 2
lr = 1e-3
workers = 0
save_every = 6
sample_every = 12
log_every = 4
precision = "fp32"

[sample]
nfe = 2

[evaluate]
nfe = [1, 2]
metrics = ["psnr", "ssim"]
"""


def command(folder: Path, *arguments: str) -> None:
    """`i2i-bridge` of this checkout, in a folder."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-m", "i2i_bridge.cli", *arguments]
    subprocess.run(line, cwd=folder, env=environment, check=True, capture_output=True)


def without_times(value: Any) -> Any:
    """A JSON value without what differs between two runs of one checkout."""
    if isinstance(value, dict):
        return {key: without_times(inner) for key, inner in value.items() if key not in TIMES}
    return [without_times(inner) for inner in value] if isinstance(value, list) else value


def page_text(file: Path) -> str:
    """The words of a page, without its scripts and pictures; its numbers are in `evaluation.json`, or times."""
    text = re.sub(r"(?s)<(script|style|svg).*?</\1>", "", file.read_text(encoding="utf-8"))
    return " ".join(re.sub(r"(?s)<[^>]*>|[\d.]+", " ", text).split())


def digest(data: bytes) -> str:
    """The first 16 digits of a SHA-256."""
    return hashlib.sha256(data).hexdigest()[:16]


def results(folder: Path) -> dict[str, Any]:
    """What this checkout gives, by name."""
    (folder / "small.toml").write_text(RECIPE)
    found: dict[str, Any] = {}
    for method in ("bridge", "regression", "pix2pix", "palette"):
        with_method = [] if method == "bridge" else ["--method", method]
        command(folder, "train", "small.toml", *with_method, "--out", f"runs/{method}", "--device", "cpu")
        command(folder, "evaluate", f"runs/{method}", "--device", "cpu")
        for file in sorted((folder / "runs" / method).glob("checkpoints/**/*.safetensors")):
            found[str(file.relative_to(folder))] = digest(file.read_bytes())
        for file in sorted((folder / "runs" / method).rglob("evaluation.json")):
            kept = without_times(json.loads(file.read_text()))
            found[str(file.relative_to(folder))] = digest(json.dumps(kept, sort_keys=True).encode())
    command(folder, "restore", "runs/bridge", "runs/bridge/samples", "out", "--nfe", "3", "--device", "cpu")
    for file in sorted((folder / "out").rglob("*.png")):
        found[str(file.relative_to(folder))] = digest(file.read_bytes())
    command(folder, "compare", "runs/bridge", "runs/regression", "--out", "page")
    found["page"] = page_text(folder / "page/index.html")
    listed = subprocess.run(
        ["git", "ls-files", "i2i_bridge", "recipes", "datasets"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    names = sorted(Path(name).name for name in listed.stdout.split() if not name.endswith(".py"))
    found["data files of the wheel"] = names
    return found


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        given = results(Path(place))
    Path(sys.argv[1]).write_text(json.dumps(given, indent=1, sort_keys=True) + "\n")
