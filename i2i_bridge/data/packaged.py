"""Photos that come inside an installed package's wheel: what `make demo` trains on, without any download."""

import importlib.util
from pathlib import Path
from typing import Any

from i2i_bridge.errors import UserError
from i2i_bridge.registry import register_dataset


@register_dataset("packaged_images")
class PackagedImages:
    """Clean images named as 'package:path/inside.png'. The package is located, never imported.

    Args:
        train: Images of the split 'train'.
        val: Images of every other split.
    """

    def __init__(self, train: list[str], val: list[str], split: str) -> None:
        both = set(train) & set(val)
        if both:
            raise UserError(f"{sorted(both)[0]}: in both train and val; held-out images must not be trained on")
        self.files = [(name.replace(":", "/"), _locate(name)) for name in (train if split == "train" else val)]
        if not self.files:
            raise UserError(f"no images for the split '{split}'")

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, Any]:
        name, path = self.files[index]
        return {"key": name, "x_0": path}


def _locate(name: str) -> Path:
    package, colon, inside = name.partition(":")
    if not colon or not package.isidentifier() or ".." in Path(inside).parts or Path(inside).is_absolute():
        raise UserError(f"'{name}': a packaged image reads package:path/inside.png")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"'{name}': the package {package} is not installed; run: pip install 'i2i-bridge[demo]'")
    home = Path(next(iter(spec.submodule_search_locations)))
    path = home / inside
    if not path.is_file() or not path.resolve().is_relative_to(home.resolve()):  # a link may lead out
        raise UserError(f"'{name}': {package} is installed, but holds no {inside}")
    return path
