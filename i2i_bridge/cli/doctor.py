"""The verbs `i2i-bridge doctor` (versions, devices, disk) and `i2i-bridge selftest` (small runs on this machine)."""

import importlib.metadata
import json
import os
import platform
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Literal

import typer
from packaging.version import Version

from i2i_bridge import console
from i2i_bridge.errors import plural
from i2i_bridge.storage.files import write_whole

PACKAGES = (
    "torch",
    "torchvision",
    "kornia",
    "albumentations",
    "einops",
    "accelerate",
    "lpips",
    "numpy",
    "pillow",
    "safetensors",
    "torchmetrics",
    "torch-fidelity",
)
OPENCVS = ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")
"""All install the folder cv2: the last one overwrites the files of the others."""
SAFE = {
    "torch": ("2.10", "loading files with weights_only can run code before it (CVE-2025-32434, CVE-2026-24747)"),
    "pillow": ("12.3", "it closed 13 vulnerabilities in decoders"),
    "safetensors": ("0.4.5", "it is the oldest version that was tested"),
}
"""Oldest versions without known vulnerabilities, and why."""


def doctor() -> None:
    """Show versions, devices, weights and disk, and name what is wrong with the installation."""
    facts, problems = examine()
    console.show_table(["", ""], [[name, value] for name, value in facts.items()])
    for problem in problems:
        console.say_error(problem)
    if problems:
        raise typer.Exit(2)
    console.say("no problem found")


def selftest(
    level: Annotated[
        Literal["quick", "full"],
        typer.Option("--level", help="quick: under a minute. full: more kills, a few minutes."),
    ] = "quick",
    folder: Annotated[Path, typer.Option("--dir", metavar="PATH", help="A folder on the disk to test.")] = Path(),
    file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the findings here, too.")] = None,
) -> None:
    """Test the guarantees on this machine: flush and lock of this disk, resume after a kill, device, two ranks."""
    from i2i_bridge.cli.selftest import run_checks

    findings = []
    for finding in run_checks(level, folder):
        findings.append(finding)
        console.say(
            f"{'ok' if finding.passed else 'FAILED':7}{finding.name:20}{finding.seconds:6.1f} s  {finding.detail}"
        )
    failed = [finding.name for finding in findings if not finding.passed]
    if file is not None:
        facts, problems = examine()
        record = {"level": level, "passed": not failed, "checks": [finding.row() for finding in findings]}
        write_whole(file, (json.dumps(record | {"machine": facts, "problems": problems}, indent=1) + "\n").encode())
    console.say(
        f"{len(findings) - len(failed)} of {len(findings)} hold" + (f"; not: {', '.join(failed)}" if failed else "")
    )
    if failed:
        raise typer.Exit(1)


def examine() -> tuple[dict[str, str], list[str]]:
    """Facts about versions, devices, weights and disk; and one line for each problem."""
    problems: list[str] = []
    facts = {"python": platform.python_version(), "system": f"{platform.system()} {platform.machine()}"}
    for package in PACKAGES:
        facts[package] = _version(package) or "missing"
        if facts[package] == "missing":
            problems.append(f"{package} is not installed; run: pip install {package}")
    for package, (least, why) in SAFE.items():
        version = _version(package)
        # By `release`: otherwise the 2.10.0a0 of an NVIDIA container would be older than 2.10.
        if version is not None and Version(version).release < Version(least).release:
            problems.append(f"{package} {version} is older than {least}: {why}; run: pip install -U {package}")
    _check_opencv(problems)
    facts |= _devices(problems)
    _check_torchvision(problems)
    _check_augmentation(problems)
    _check_folders(facts, problems)
    _check_start_method(facts, problems)
    return facts, problems


def _check_opencv(problems: list[str]) -> None:
    installed = [name for name in OPENCVS if _version(name)]
    if len(installed) > 1:
        problems.append(
            f"{' and '.join(installed)} are both installed and overwrite each other's files; keep one: "
            f"pip uninstall {' '.join(installed)}, then pip install {installed[-1]}"
        )


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _devices(problems: list[str]) -> dict[str, str]:
    try:
        import torch
    except Exception as error:
        problems.append(f"torch cannot be imported: {' '.join(str(error).split())}")
        return {}
    from i2i_bridge.device import resolve_precision
    from i2i_bridge.runs.backend import resolve_backend

    vectors = torch.backends.cpu.get_cpu_capability()
    cores, threads = plural(os.cpu_count() or 1, "core"), plural(torch.get_num_threads(), "torch thread")
    facts = {"cpu": f"{cores}, {threads}, vectors: {vectors}"}
    if vectors == "DEFAULT":
        problems.append(
            "torch uses no vector instructions of this processor (AVX2, NEON, ...): a network call takes several times "
            "as long; unset ATEN_CPU_CAPABILITY, or use another machine"
        )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for i in range(torch.cuda.device_count()):
        memory = torch.cuda.get_device_properties(i).total_memory / 1e9
        facts[f"cuda:{i}"] = f"{torch.cuda.get_device_name(i)}, {memory:.0f} GB"
    if device.type == "cpu":
        facts["cuda"] = "none"
    best = resolve_precision("auto", device)
    facts["precision 'auto'"] = "bf16" if best == torch.bfloat16 else "fp32"
    facts["backend 'auto'"] = resolve_backend("auto", device, best)
    if facts["backend 'auto'"] == "openvino":
        facts["backend 'auto'"] += " with --precision bf16, eager with fp32"
    return facts


def _check_torchvision(problems: list[str]) -> None:
    # With a CPU build of torch and a CUDA build of torchvision, importing torchvision (lpips does) fails.
    try:
        import torch
        import torchvision

        torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    except Exception as error:
        problems.append(
            f"torch and torchvision do not fit ({' '.join(str(error).split())[:120]}); "
            "reinstall both together: pip install --force-reinstall torch torchvision"
        )


def _check_augmentation(problems: list[str]) -> None:
    """Check that crops depend on the seed of each sample: seeds of albumentations repeat (its issue 2473)."""
    try:
        import numpy as np

        from i2i_bridge.data.transforms import Geometry

        pixels = np.arange(24 * 24, dtype=np.uint8).reshape(24, 24, 1).repeat(3, axis=2)
        geometry = Geometry(8, resize="none", crop="random", flip=True)
        drawn = [geometry({"x_0": pixels}, seed)["x_0"].tobytes() for seed in (1, 2, 3, 4, 1)]
    except Exception as error:
        problems.append(f"albumentations does not work ({' '.join(str(error).split())[:120]}); reinstall it")
        return
    if drawn[0] != drawn[4] or len(set(drawn)) < 3:
        problems.append("albumentations ignores the seed of a sample: augmentation repeats; reinstall 2.0.8")


def _check_folders(facts: dict[str, str], problems: list[str]) -> None:
    free = shutil.disk_usage(Path.cwd()).free
    facts["free disk here"] = f"{free / 1e9:.1f} GB"
    if free < 2e9:
        problems.append("less than 2 GB of free disk in this folder: checkpoints may not fit")
    folder = os.environ.get("I2I_WEIGHTS_DIR")
    facts["I2I_WEIGHTS_DIR"] = folder or "not set (LPIPS, FID, KID and accuracy are skipped)"
    if folder and not Path(folder).is_dir():
        problems.append(f"I2I_WEIGHTS_DIR={folder}: no such folder")
    from i2i_bridge.data.index import cache_folder

    cache = cache_folder()
    if cache is None:
        facts["cache"] = "none: this user has no home (large folders are listed at each start; I2I_CACHE_DIR names one)"
        return
    facts["cache"] = str(cache)
    existing = next(parent for parent in (cache, *cache.parents) if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        problems.append(
            f"{cache}: the cache cannot be written ({error.strerror}), so large folders are listed at each start; "
            "set I2I_CACHE_DIR to a folder of yours"
        )


def _check_start_method(facts: dict[str, str], problems: list[str]) -> None:
    import multiprocessing

    method = multiprocessing.get_start_method(allow_none=True) or multiprocessing.get_all_start_methods()[0]
    facts["start method"] = method
    if method == "fork" and sys.platform == "darwin":
        problems.append("data workers are forked, which crashes on macOS: unset what chose 'fork'")
