"""What is installed, and what is wrong with it."""

import importlib.metadata
import os
import platform
import shutil
from pathlib import Path

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


def examine() -> tuple[dict[str, str], list[str]]:
    """Facts about versions, devices, weights and disk; and one line for each problem."""
    problems: list[str] = []
    facts = {"python": platform.python_version(), "system": f"{platform.system()} {platform.machine()}"}
    for package in PACKAGES:
        try:
            facts[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            facts[package] = "missing"
            problems.append(f"{package} is not installed; run: pip install {package}")
    facts |= _devices(problems)
    _check_torchvision(problems)
    facts["free disk here"] = f"{shutil.disk_usage(Path.cwd()).free / 1e9:.1f} GB"
    if shutil.disk_usage(Path.cwd()).free < 2e9:
        problems.append("less than 2 GB of free disk in this folder: checkpoints may not fit")
    folder = os.environ.get("I2I_WEIGHTS_DIR")
    facts["I2I_WEIGHTS_DIR"] = folder or "not set (LPIPS, FID, KID and accuracy are skipped)"
    if folder and not Path(folder).is_dir():
        problems.append(f"I2I_WEIGHTS_DIR={folder}: no such folder")
    return facts, problems


def _devices(problems: list[str]) -> dict[str, str]:
    try:
        import torch
    except Exception as error:
        problems.append(f"torch cannot be imported: {' '.join(str(error).split())}")
        return {}
    from i2i_bridge.precision import resolve_precision

    facts = {"cpu": f"{os.cpu_count()} cores, {torch.get_num_threads()} torch threads"}
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for i in range(torch.cuda.device_count()):
        memory = torch.cuda.get_device_properties(i).total_memory / 1e9
        facts[f"cuda:{i}"] = f"{torch.cuda.get_device_name(i)}, {memory:.0f} GB"
    if device.type == "cpu":
        facts["cuda"] = "none"
    facts["precision 'auto'"] = "bf16" if resolve_precision("auto", device) == torch.bfloat16 else "fp32"
    if tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2]) < (2, 10):
        problems.append(f"torch {torch.__version__} is older than 2.10")
    return facts


def _check_torchvision(problems: list[str]) -> None:
    # A CPU build of torch beside the ordinary torchvision imports neither; lpips needs both.
    try:
        import torch
        import torchvision

        torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    except Exception as error:
        problems.append(
            f"torch and torchvision do not fit ({' '.join(str(error).split())[:120]}); "
            "reinstall both together: pip install --force-reinstall torch torchvision"
        )
