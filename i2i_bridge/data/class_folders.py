"""Clean images in folders of their class, the layout of ImageNet."""

from pathlib import Path
from typing import Any

from i2i_bridge.data.pairs import Files, counted_names
from i2i_bridge.data.splits import all_split_names, keep, split_folder
from i2i_bridge.errors import UserError
from i2i_bridge.registry import register_dataset


@register_dataset("class_folders")
class ClassFolders:
    """Clean images below root/[SPLIT/]CLASS/, to be degraded; each item has its class as 'label'.

    Labels count the classes by name, over all split folders together: a class that one split lacks moves no label.

    Args:
        root: The folder of the classes, or of the split folders.
        holdout: Where there are no split folders: this share of the images is held out of training.
        names: As in `images`: a list of the images that count.
    """

    def __init__(self, root: Path, split: str, holdout: float = 0.0, names: str | None = None) -> None:
        folder = split_folder(root, split)
        base = folder or root
        bases = [base] if folder is None else [root / name for name in all_split_names()]
        self.classes = sorted(
            {path.name for there in bases if there.is_dir() for path in there.iterdir() if _is_class(path)}
        )
        found, self.left_out = counted_names(root, base, split, names)
        self.files = Files(base, found.take(keep(found, split, holdout if folder is None else 0.0)))
        if not self.files:
            raise UserError("; ".join([f"{base}: no images for the split '{split}'", *self.left_out]))
        self._label = {name: number for number, name in enumerate(self.classes)}
        loose = next((name for name in found if "/" not in name), None)
        if loose is not None:
            raise UserError(f"{base / loose}: lies in no class folder; expected {base}/CLASS/{loose}")

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, Any]:
        name, path = self.files[index]
        return {"key": name, "x_0": path, "label": self._label[name.partition("/")[0]]}


def _is_class(path: Path) -> bool:
    return path.is_dir() and not path.name.startswith(".")
