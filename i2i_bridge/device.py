"""The device: which one, its precision, compiled blocks, and what of a machine decides the bits of a result."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from i2i_bridge.errors import UserError


def compile_blocks(network: nn.Module, device: torch.device, backend: str | Callable[..., Any] = "inductor") -> None:
    """Have torch.compile translate, at their first call, the blocks that a network is built of.

    These are the modules of the classes in its attribute `repeated`; without one it is translated as a whole. Blocks of
    the same sizes share their code, and torch keeps it on disk for the next run. Names of weights stay as they are.

    Args:
        network: Changed in place.
        device: Where it is.
        backend: Of torch.compile.

    Raises:
        UserError: torch cannot compile for the device (a CPU needs a C++ compiler, say).
    """
    try:
        torch.compile(lambda x: x.sin() + 1, backend=backend)(torch.zeros(8, device=device))
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"train.compile: torch cannot compile for {device} here ({reason}); set it to false") from error
    blocks = [module for module in network.modules() if isinstance(module, getattr(network, "repeated", ()))]
    # The code of a class counts once for all its blocks; beyond the limit the rest would stay as they are, without a
    # word. Each size has code with and without gradients.
    dynamo: Any = torch._dynamo.config
    dynamo.recompile_limit = max(dynamo.recompile_limit, 4 * len(blocks))
    dynamo.accumulated_recompile_limit = max(dynamo.accumulated_recompile_limit, 4 * len(blocks))
    for module in blocks or [network]:
        module.compile(backend=backend)


def machine(device: torch.device, processes: int) -> dict[str, str]:
    """Versions and counts of which each can change the last bits of a sum."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {
        "torch": str(torch.__version__),
        "threads": str(torch.get_num_threads()),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "device": name,
        "processes": str(processes),
    }


def promise(before: Mapping[str, str], now: Mapping[str, str], also: Sequence[str] = ()) -> str:
    """What holds of a run that goes on here: bits, or tolerances (docs/reliability.md).

    Args:
        before: The facts that the checkpoint was written with.
        now: The facts of this start.
        also: Whatever else has changed, in words.
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
"""Channels from which on bfloat16 pays on a CPU: with AMX, 16 channels lost 7 % a step and 32 won."""


def resolve_precision(precision: str, device: torch.device) -> torch.dtype:
    """'auto' is bfloat16 where the device computes in it (CUDA, or a CPU with avx512_bf16 or AMX), else float32.

    Raises:
        UserError: It is none of auto, fp32, bf16.
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
    """What a training computes in. A resumed run keeps what it began with, where the device computes in it.

    'auto' of a new run is `resolve_precision`'s, but float32 for a network of fewer than WIDE channels on a CPU.

    Args:
        channels: The network's `channels`; anything but a number counts as wide.
        before: The facts that the checkpoint was written with; None of a new run. Those of older checkpoints do not say
            the precision: it went by the device alone.

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
    """The device to compute on; None is CUDA where there is one, else the CPU.

    Raises:
        UserError: There is no such device here.
    """
    there = ["cpu", *(["cuda"] if torch.cuda.is_available() else []), *(["mps"] if torch.mps.is_available() else [])]
    if name is None:
        return torch.device("cuda" if "cuda" in there else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"device '{name}' is unknown; here are: {', '.join(there)}") from error
    if device.type not in there or (device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()):
        raise UserError(f"device '{name}' is not here; here are: {', '.join(there)}")
    return device
