"""Training: the one optimisation loop, its state, checkpoints and logs."""

import importlib
from typing import Any

_HOMES = {"train": "trainer"}
"""Names that were documented under this path before it became a package, and their modules; imported at first use."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
