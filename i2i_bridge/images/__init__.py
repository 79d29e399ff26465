"""Images: files, pictures, tensors."""

import importlib
from typing import Any

_HOMES = {"read_picture": "files", "to_tensor": "pixels", "write_picture": "files"}
"""Where the names live that were documented under this path before it became a package; imported at first use."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
