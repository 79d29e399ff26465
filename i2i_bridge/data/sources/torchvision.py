"""Datasets of torchvision.datasets, by class name."""

import inspect
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from i2i_bridge.data.index import Names
from i2i_bridge.data.source import is_integer
from i2i_bridge.data.sources.folders import Files
from i2i_bridge.data.splits import SPLITS, split_positions
from i2i_bridge.errors import UserError, did_you_mean, located
from i2i_bridge.registry import register_dataset
from i2i_bridge.storage.internet import VARIABLE, is_offline

SIDES = ("split", "image_set")
"""Names of the option that selects a split by name in torchvision's classes; others have a boolean `train`, or none."""


@register_dataset("torchvision")
class TorchvisionImages:
    """The images of a torchvision dataset as clean images, to be degraded; an integer target is the 'label'.

    Args:
        dataset: Name of the class, such as 'CIFAR10' or 'Flowers102'.
        root: The folder of the dataset's files, for classes that have an option `root`.
        options: Other options of the constructor, the same for every split.
        splits: The class's names of the splits, such as {val = "test"}. By default a class with an option `train` gets
            True for 'train' and False for other splits, and one with `split` or `image_set` gets the split's name.
        download: Allow the class to download missing files to root; has no effect with --offline.
        holdout: Share of the images held out of training, for classes without splits.
    """

    def __init__(
        self,
        dataset: str,
        split: str,
        root: Path | None = None,
        options: dict[str, Any] | None = None,
        splits: dict[str, str] | None = None,
        download: bool = False,
        holdout: float = 0.0,
    ) -> None:
        import torchvision

        known: dict[str, Any] = {
            name: member
            for name, member in vars(torchvision.datasets).items()
            if inspect.isclass(member)
            and issubclass(member, torchvision.datasets.VisionDataset)
            and member is not torchvision.datasets.VisionDataset
        }
        if dataset not in known:
            raise UserError(f"torchvision has no image dataset '{dataset}'{did_you_mean(dataset, known)}")
        parameters = inspect.signature(known[dataset]).parameters
        given = dict(options or {})
        for name in given:
            if name not in parameters or name in ("root", "download", "transform", "target_transform", "transforms"):
                raise UserError(f"torchvision '{dataset}': unknown option '{name}'{did_you_mean(name, parameters)}")
        if "root" in parameters:
            if root is None:
                raise UserError(f"torchvision '{dataset}' needs to know where it lies: add data.root=FOLDER")
            given["root"] = root
        if download:
            if "download" not in parameters:
                raise UserError(f"torchvision '{dataset}' cannot download; leave `download` out")
            given["download"] = not is_offline()  # offline, files that exist under root are used
        part = self._part(parameters, given, split, splits or {})
        self.name, self.split = dataset, split
        try:
            self.images = known[dataset](**given, **part)
        except (RuntimeError, ValueError, OSError, TypeError, ImportError) as error:
            hint = "" if download or "download" not in parameters else "; `download = true` would fetch it"
            hint = f"; --offline (or {VARIABLE}=1) forbids to fetch it" if download and is_offline() else hint
            raise UserError(f"torchvision '{dataset}': {error}{hint}") from error
        count = len(self.images)
        shared = holdout if not part else 0.0
        self.positions = split_positions(Names(map(str, range(count))), split, shared)
        self.files = Files(Path(dataset, *map(str, part.values())), Names(map(str, self.positions)))

    @staticmethod
    def _part(parameters: Any, given: dict[str, Any], split: str, splits: dict[str, str]) -> dict[str, Any]:
        """The constructor option that selects the split; empty if the class has none, or the user has set it."""
        if "train" in parameters and "train" not in given:
            wanted = splits.get(split, split)
            return {"train": wanted in SPLITS["train"]}
        name = next((name for name in SIDES if name in parameters and name not in given), None)
        return {} if name is None else {name: splits.get(split, split)}

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: int) -> dict[str, Any]:
        position = int(self.positions[index])
        where = f"torchvision '{self.name}' {self.split} {position}"
        with located(where, errors=(OSError, RuntimeError, ValueError)):
            given = self.images[position]
        image, *rest = given if isinstance(given, tuple) else (given,)
        if not isinstance(image, Image.Image | np.ndarray | Tensor):
            raise UserError(f"{where}: gives {type(image).__name__}, not an image")
        item: dict[str, Any] = {"key": f"{self.split}/{position}", "x_0": image, "file": where}
        return item | ({"label": int(rest[0])} if rest and is_integer(rest[0]) else {})
