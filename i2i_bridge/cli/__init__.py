"""The command `i2i-bridge`."""

import importlib
from typing import Any

_HOMES = {"main": "command"}
"""Module of each documented name of this package; imported at first use to keep `import i2i_bridge.cli` light."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
