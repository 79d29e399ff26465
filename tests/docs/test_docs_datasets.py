"""Every card of docs/datasets.md opens on a dataset of that layout, and the page says every option of every kind."""

import importlib.util
import io
import json
import re
import tarfile
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from i2i_bridge import check_dataset
from i2i_bridge.data.cards import load_card, open_source
from i2i_bridge.data.items import decode_item
from i2i_bridge.data.source import item_of
from i2i_bridge.registry import DATASETS

PAGE = (Path(__file__).parents[2] / "docs" / "datasets.md").read_text(encoding="utf-8")
CARDS = {tomllib.loads(text)["name"]: text for text in re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)}


def encoded(code, side=20):
    data = io.BytesIO()
    Image.fromarray(np.full((side, side, 3), code, np.uint8)).save(data, format="PNG")
    return data.getvalue()


def files(root, *names):
    """Images: 10 for the clean side, 20 for the degraded one."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        degraded = any(part in name for part in ("noisy", "trainA", "testA", "LR", "lq"))
        path.write_bytes(encoded(20 if degraded else 10, 5 if "LR" in name else 20))  # the card of LR is of x4


def shards(root):
    root.mkdir()
    for split in ("train", "val"):
        with tarfile.open(root / f"{split}-0000.tar", "w") as tar:
            for name, data in (("1.clean.png", encoded(10)), ("1.noisy.png", encoded(20)), ("1.cls", b"3")):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def halves(root):
    for split in ("train", "val"):
        (root / split).mkdir(parents=True)
        pixels = np.full((20, 40, 3), 20, np.uint8)
        pixels[:, :20] = 10  # BtoA: the target is left
        Image.fromarray(pixels).save(root / split / "1.png")


def lists(root):
    files(root, *(f"{side}/{i}.png" for side in ("clean", "noisy") for i in range(2)))
    rows = [f"clean/{i}.png,noisy/{i}.png,{part}" for i, part in enumerate(("train", "val"))]
    (root / "pairs.csv").write_text("\n".join(["target,photo,part", *rows]))


def lines(root):
    files(root, "a.png", "m.png")
    Image.new("L", Image.open(root / "a.png").size, 255).save(root / "m.png")
    for split in ("train", "val"):
        (root / f"{split}.jsonl").write_text(json.dumps({"x_0": "a.png", "mask": "m.png", "label": 3}))


def meta_info(root):
    files(root, *(name for i in range(9) for name in (f"gt/{i}.png", f"lq/{i}x4.png")))
    (root / "meta_info.txt").write_text("".join(f"{i}.png (20,20,3)\n" for i in range(9)))


def databases(root, entries):
    lmdb = pytest.importorskip("lmdb")
    for name, values in entries.items():
        (root / name).mkdir(parents=True)
        with lmdb.open(str(root / name), map_size=1 << 24) as environment, environment.begin(write=True) as transaction:
            for key, code in values.items():
                transaction.put(key.encode(), encoded(code))


def parquet(root):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"imageA": datasets.Image(), "imageB": datasets.Image()})
    row = {name: [{"bytes": encoded(code), "path": None}] for name, code in (("imageA", 10), ("imageB", 20))}
    parts = {split: datasets.Dataset.from_dict(row, features=features) for split in ("train", "dev")}
    datasets.DatasetDict(parts).save_to_disk(root)


def photos(root):
    if importlib.util.find_spec("skimage") is None:
        pytest.skip("scikit-image is not here")


FIXTURES = {
    "photos": lambda f: files(f / "photos", *(f"a/{i}.png" for i in range(30))),
    "animals": lambda f: files(f / "animals", "train/cat/1.png", "train/dog/2.png", "val/cat/3.png"),
    "denoise": lambda f: files(
        f / "denoise", *(f"{split}/{side}/1.png" for split in ("train", "val") for side in ("clean", "noisy"))
    ),
    "unaligned-names": lambda f: files(f / "horses", "trainA/1.png", "trainB/1.png", "testA/2.png", "testB/2.png"),
    "div2k": lambda f: files(f / "div2k", *(n for i in range(30) for n in (f"HR/{i:04d}.png", f"LR/{i:04d}x4.png"))),
    "one-folder": lambda f: files(f / "one", *(f"{i}_{side}.png" for i in range(9) for side in ("clean", "noisy"))),
    "facades": lambda f: halves(f / "facades"),
    "listed": lambda f: lists(f / "listed"),
    "json-lines": lambda f: lines(f / "lines"),
    "basicsr-list": lambda f: meta_info(f / "basicsr"),
    "shards": lambda f: shards(f / "shards"),
    "imagenet-lmdb": lambda f: databases(
        f / "imagenet",
        {f"{split}_faster_imagefolder.lmdb": {f"/x/{split}/n01/1.JPEG": 10} for split in ("train", "val")},
    ),
    "basicsr-lmdb": lambda f: databases(
        f / "sides", {f"{side}.lmdb": {str(i): code for i in range(9)} for side, code in (("gt", 10), ("lq", 20))}
    ),
    "columns": lambda f: parquet(f / "columns"),
    "fake": lambda f: None,
    "three-photos": photos,
}  # fmt: skip


@pytest.mark.parametrize("name", CARDS)
def test_every_card_of_the_page_opens(tmp_path, name):
    FIXTURES[name](tmp_path)
    (tmp_path / "card.toml").write_text(CARDS[name])
    card = load_card(tmp_path / "card.toml")
    keys = {}
    for split in ("train", "val"):
        source = open_source(card.dataset, split)
        assert check_dataset(source) == []
        items = [item_of(source, i) for i in range(len(source))]
        keys[split] = {item["key"] for item in items}
        pixels = decode_item(items[0], 3)
        if card.dataset["name"] not in ("torchvision", "packaged_images"):
            assert pixels["x_0"].max() == 10 and ("x_1" not in pixels or pixels["x_1"].min() == 20)
    if "holdout" in card.dataset:
        assert keys["train"] and keys["val"] and not keys["train"] & keys["val"]


def test_the_page_names_every_kind_and_option():
    kinds = [name for name in DATASETS.names() if DATASETS.get(name).__module__.startswith("i2i_bridge.")]
    assert {tomllib.loads(text)["dataset"]["name"] for text in CARDS.values()} == set(kinds)
    for kind in kinds:
        assert f"| [`{kind}`](#{kind}) |" in PAGE
        section = PAGE.split(f"\n## {kind}\n")[1].split("\n## ")[0]
        for option in DATASETS.options(kind):
            assert option == "split" or f"`{option}" in section or f"\n{option} = " in section, f"{kind}: {option}"
