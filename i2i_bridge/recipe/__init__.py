"""Recipes: one TOML file holds every choice of a task."""

import importlib
from typing import Any

_HOMES = {"Recipe": "recipe", "load_recipe": "load", "parse_recipe": "load"}
"""Names that were documented under this path before it became a package, and their modules; imported at first use."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
