import pytest
import torch
import torchvision

from i2i_bridge.data.cards import open_source
from i2i_bridge.data.dataset import PairDataset
from i2i_bridge.data.items import decode_item
from i2i_bridge.data.loader import training_batches
from i2i_bridge.data.sources.torchvision import TorchvisionImages
from i2i_bridge.data.transforms import Geometry
from i2i_bridge.errors import UserError
from i2i_bridge.images.pixels import from_pil
from i2i_bridge.registry import DEGRADATIONS

FAKE = {
    "name": "torchvision",
    "dataset": "FakeData",
    "options": {"size": 12, "image_size": [3, 20, 20], "num_classes": 5},
}


def test_a_class_by_name_gives_images_and_labels():
    source = open_source({**FAKE, "holdout": 0.4}, "train")
    held = open_source({**FAKE, "holdout": 0.4}, "val")
    assert len(source) + len(held) == 12 and len(held) > 0
    theirs = torchvision.datasets.FakeData(size=12, image_size=(3, 20, 20), num_classes=5)
    for part in (source, held):
        for item in part:
            image, label = theirs[int(item["key"].partition("/")[2])]
            assert (decode_item(item, 3)["x_0"] == from_pil(image).pixels).all() and item["label"] == int(label)
    noise = DEGRADATIONS.build({"name": "noise", "std": 0.2})
    batch = next(training_batches(PairDataset(source, Geometry(8), noise, 3, 0, "train"), 4))
    assert batch["label"].dtype == torch.int64


class Halves(torchvision.datasets.VisionDataset):
    """A class like torchvision's: an option for the split, and files that must exist."""

    def __init__(self, root, train=True, transform=None, download=False):
        super().__init__(root)
        if not download:
            raise RuntimeError("Dataset not found. You can use download=True to download it")
        self.train = train

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return torch.full((3, 20, 20), 10 if self.train else 20, dtype=torch.uint8), "a caption"


class Thirds(Halves):
    def __init__(self, root, split="train", download=False):
        super().__init__(root, split == "train", download=download)
        self.asked = split


def test_parts_of_a_class_and_downloads_only_when_asked(tmp_path, monkeypatch):
    # kills: torchvision-always-the-training-part
    monkeypatch.setattr(torchvision.datasets, "Halves", Halves, raising=False)
    monkeypatch.setattr(torchvision.datasets, "Thirds", Thirds, raising=False)
    for split, code in (("train", 10), ("val", 20), ("test", 20)):
        for dataset in ("Halves", "Thirds"):
            source = TorchvisionImages(dataset, split, root=tmp_path, download=True, splits={"val": "test"})
            assert decode_item(source[0], 3)["x_0"][0, 0, 0] == code and "label" not in source[0]
    assert source.images.asked == "test"
    with pytest.raises(UserError, match=r"'Halves': Dataset not found.*`download = true` would fetch it"):
        TorchvisionImages("Halves", "train", root=tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset": "CIFAR11"}, "no image dataset 'CIFAR11'; did you mean 'CIFAR1"),
        ({"dataset": "CIFAR10"}, "needs to know where it lies: add data.root"),
        ({"dataset": "FakeData", "options": {"sise": 3}}, "unknown option 'sise'; did you mean 'size'"),
        ({"dataset": "FakeData", "options": {"transform": 3}}, "unknown option 'transform'"),
        ({"dataset": "FakeData", "download": True}, "cannot download"),
        ({"dataset": "VisionDataset", "root": "."}, "no image dataset 'VisionDataset'"),
    ],
)
def test_wrong_classes(options, message):
    with pytest.raises(UserError, match=message):
        open_source({"name": "torchvision", **options}, "train")
