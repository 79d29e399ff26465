"""What of a machine decides the bits of a result, and what a resumed run is promised."""

from collections.abc import Mapping, Sequence

import torch


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
