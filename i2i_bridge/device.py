"""The device: choice, precision, compiled blocks, and the machine facts that the last bits of a result depend on."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from i2i_bridge.errors import UserError
from i2i_bridge.libraries import reason


def compile_blocks(network: nn.Module, device: torch.device, backend: str | Callable[..., Any] = "inductor") -> None:
    """Compile a network's repeated blocks in place by torch.compile; each compiles at its first call.

    The blocks are the modules of the classes in the network's attribute `repeated`; without that attribute the whole
    network is compiled. Blocks of equal sizes share their code, and torch caches it on disk for the next run. Names of
    weights do not change.

    Args:
        network: Changed in place.
        device: The network's device.
        backend: Backend of torch.compile.

    Raises:
        UserError: torch cannot compile for the device (a CPU needs a C++ compiler, for example).
    """
    try:
        torch.compile(lambda x: x.sin() + 1, backend=backend)(torch.zeros(8, device=device))
    except Exception as error:
        raise UserError(
            f"train.compile: torch cannot compile for {device} here ({reason(error)}); set it to false"
        ) from error
    blocks = [module for module in network.modules() if isinstance(module, getattr(network, "repeated", ()))]
    # The recompile limit counts per class, over all its blocks: beyond it torch silently runs the rest eagerly. Each
    # size compiles twice, with and without gradients.
    dynamo: Any = torch._dynamo.config
    dynamo.recompile_limit = max(dynamo.recompile_limit, 4 * len(blocks))
    dynamo.accumulated_recompile_limit = max(dynamo.accumulated_recompile_limit, 4 * len(blocks))
    for module in blocks or [network]:
        module.compile(backend=backend)


def machine(device: torch.device, processes: int) -> dict[str, str]:
    """Versions and counts, each of which can change the last bits of a sum."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {
        "torch": str(torch.__version__),
        "threads": str(torch.get_num_threads()),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "device": name,
        "processes": str(processes),
    }


def resume_guarantee(before: Mapping[str, str], now: Mapping[str, str], also: Sequence[str] = ()) -> str:
    """Whether a resumed run is bitwise the same as one that never stopped, as text (docs/reliability.md).

    Args:
        before: The machine facts stored in the checkpoint.
        now: The machine facts of this process.
        also: Further changes, as text.
    """
    changed = [
        f"{name} {before.get(name, 'unknown')} -> {value}" for name, value in now.items() if before.get(name) != value
    ]
    changed += also
    if changed:
        return f"bitwise resume not guaranteed: {', '.join(changed)}"
    if now["device"] != "cpu":
        return f"same samples, times and noise; sums on {now['device']} may differ in their last bits"
    return "bit for bit as if it had never stopped"


PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


WIDE = 32
"""Fewest channels with which bf16 is faster on a CPU: with AMX a step was 7 % slower at 16 channels, faster at 32."""


def resolve_precision(precision: str, device: torch.device) -> torch.dtype:
    """The dtype of a precision name: auto is bfloat16 if the device supports it natively, else float32.

    CUDA devices with bfloat16 units and CPUs with avx512_bf16 or AMX do.

    Raises:
        UserError: The name is none of auto, fp32, bf16.
    """
    if precision == "auto":
        if device.type == "cuda":
            fast = torch.cuda.is_bf16_supported(including_emulation=False)
        else:
            fast = device.type == "cpu" and _cpu_computes_bf16()
        return torch.bfloat16 if fast else torch.float32
    if precision not in PRECISIONS:
        raise UserError(f"precision '{precision}' is unknown; give one of: auto, {', '.join(PRECISIONS)}")
    return PRECISIONS[precision]


def training_precision(
    precision: str, device: torch.device, channels: object, before: Mapping[str, str] | None
) -> torch.dtype:
    """The autocast dtype of a training. A resumed run keeps its dtype if the device supports it.

    'auto' of a new run is as in `resolve_precision`, but float32 for a network of fewer than WIDE channels on a CPU.

    Args:
        channels: The network's `channels`; anything but a number counts as wide.
        before: The machine facts stored in the checkpoint; None for a new run. Older checkpoints do not store the
            precision: it depended on the device only.

    Raises:
        UserError: As `resolve_precision`.
    """
    dtype = resolve_precision(precision, device)
    if precision != "auto" or dtype == torch.float32:
        return dtype
    if before is not None:
        return PRECISIONS.get(str(before.get("precision")), dtype)
    narrow = device.type == "cpu" and isinstance(channels, int) and channels < WIDE
    return torch.float32 if narrow else dtype


def _cpu_computes_bf16() -> bool:
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def resolve_device(name: str | torch.device | None) -> torch.device:
    """The device of a name; None means CUDA if available, else the CPU.

    Raises:
        UserError: This machine has no such device.
    """
    available = [
        "cpu",
        *(["cuda"] if torch.cuda.is_available() else []),
        *(["mps"] if torch.mps.is_available() else []),
    ]
    if name is None:
        return torch.device("cuda" if "cuda" in available else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"device '{name}' is unknown; here are: {', '.join(available)}") from error
    if device.type not in available or (device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()):
        raise UserError(f"device '{name}' is not here; here are: {', '.join(available)}")
    return device
