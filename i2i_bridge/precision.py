"""In which numbers a network computes."""

from collections.abc import Mapping
from pathlib import Path

import torch

from i2i_bridge.errors import UserError

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
