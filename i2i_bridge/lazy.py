"""Names that a package imports at their first use (PEP 562), so that importing the package itself stays light."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def imported_at_first_use(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` of a package, for names that are documented under its path.

    Args:
        package: `__name__` of the package.
        homes: The module of each name, below the package.
    """

    def attribute(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        return getattr(importlib.import_module(f"{package}.{homes[name]}"), name)

    return attribute
