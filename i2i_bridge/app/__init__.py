"""The page of `i2i-bridge app`: restore an uploaded picture with trained runs, in a browser."""

import importlib
from typing import Any

_HOMES = {"Limits": "limits", "open_page": "server", "serve": "server"}
"""Module of each documented name of this package; imported at first use to keep `import i2i_bridge.app` light."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
