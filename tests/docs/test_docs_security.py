"""docs/security.md names the functions that read files; each of them exists."""

import importlib
import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "security.md"
TABLE = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
READERS = [name for line in TABLE for name in re.findall(r"`([a-z_.0-9]+)`", line.split("|")[2]) if "." in name]


@pytest.mark.parametrize("name", READERS)
def test_readers_exist(name):
    module, _, member = f"i2i_bridge.{name}".rpartition(".")
    try:
        importlib.import_module(f"{module}.{member}")
    except ImportError:
        assert hasattr(importlib.import_module(module), member)
