"""In which numbers a network computes."""

from pathlib import Path

import torch

from i2i_bridge.errors import UserError

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


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


def _cpu_computes_bf16() -> bool:
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags
