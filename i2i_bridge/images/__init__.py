"""Image files, decoded pictures, and their conversion to tensors."""

import importlib
from typing import Any

_HOMES = {"read_picture": "files", "to_tensor": "pixels", "write_picture": "files"}
"""Modules of names that were documented as `i2i_bridge.images.NAME` before it was a package."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
