import io
import itertools
import json
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from i2i_bridge.data.cards import open_source
from i2i_bridge.data.dataset import PairDataset
from i2i_bridge.data.items import decode_item
from i2i_bridge.data.loader import training_batches
from i2i_bridge.data.source import item_of
from i2i_bridge.data.sources.huggingface import HubImages
from i2i_bridge.data.transforms import Geometry
from i2i_bridge.errors import UserError

datasets = pytest.importorskip("datasets")


def picture(code):
    return Image.fromarray(np.full((20, 20, 3), code, np.uint8))


def encoded(code):
    data = io.BytesIO()
    picture(code).save(data, format="PNG")
    return data.getvalue()


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    """Fail the test if a connection is opened."""

    connect = socket.socket.connect

    def refuse(*_):
        raise AssertionError("a connection was opened")

    # Data-loader workers speak through sockets of this machine.
    monkeypatch.setattr(
        socket.socket, "connect", lambda s, to: connect(s, to) if s.family == socket.AF_UNIX else refuse()
    )
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def rows(numbers):
    features = datasets.Features(
        {
            "clean": datasets.Image(),
            "noisy": datasets.Image(),
            "kind": datasets.ClassLabel(names=["a", "b"]),
            "who": datasets.Value("string"),
        }
    )
    columns = {
        "clean": [picture(i) for i in numbers],
        "noisy": [picture(100 + i) for i in numbers],
        "kind": [i % 2 for i in numbers],
        "who": [f"photo {i}" for i in numbers],
    }
    return datasets.Dataset.from_dict(columns, features=features)


def codes(source, part):
    return [int(decode_item(item_of(source, i), 3)[part][0, 0, 0]) for i in range(len(source))]


COLUMNS = {"x_0": "clean", "x_1": "noisy", "label": "kind", "key": "who"}


@pytest.mark.parametrize("form", ["save_to_disk", "folder of parquet", "one file"])
def test_local_datasets_by_column_names(tmp_path, form):
    root = tmp_path / "data"
    parts = {"train": rows(range(3)), "validation": rows(range(3, 5))}
    if form == "save_to_disk":
        datasets.DatasetDict(parts).save_to_disk(root)
    elif form == "folder of parquet":
        for split, part in parts.items():
            part.to_parquet(root / f"{split}-00000-of-00001.parquet")
    else:
        parts["train"].to_parquet(root / "a.parquet")
        root = root / "a.parquet"
    source = open_source({"name": "huggingface", "root": str(root), **COLUMNS}, "train")
    assert codes(source, "x_0") == [0, 1, 2] and codes(source, "x_1") == [100, 101, 102]
    assert [source[i]["label"] for i in range(3)] == [0, 1, 0] and source[1]["key"] == "photo 1"
    if form == "one file":
        halves = [HubImages(split, root, **COLUMNS, holdout=0.5) for split in ("train", "val")]
        assert sorted(codes(halves[0], "x_0") + codes(halves[1], "x_0")) == [0, 1, 2]
        with pytest.raises(UserError, match="no split 'val'; there is train: set `splits`, or `holdout`"):
            HubImages("val", root, **COLUMNS)
        return
    assert codes(HubImages("val", root, **COLUMNS), "x_0") == [3, 4]
    assert codes(HubImages("val", root, **COLUMNS, splits={"val": "train"}), "x_0") == [0, 1, 2]
    with pytest.raises(UserError, match="no split 'tain'; did you mean 'train'"):
        HubImages("val", root, **COLUMNS, splits={"val": "tain"})


def test_columns_of_bytes_and_of_paths(tmp_path):
    picture(7).save(tmp_path / "7.png")
    table = datasets.Dataset.from_dict({"image": [encoded(5)], "other": ["7.png"], "number": [1.5]})
    table.to_parquet(tmp_path / "a.parquet")
    source = HubImages("train", tmp_path / "a.parquet", x_1="other")
    assert codes(source, "x_0") == [5] and codes(source, "x_1") == [7]
    assert source[0]["key"] == "train/0" and "label" not in source[0]
    with pytest.raises(UserError, match="row 0: the column 'number' holds float"):
        HubImages("train", tmp_path / "a.parquet", x_1="number")[0]
    with pytest.raises(UserError, match=r"row 0: the label 1.5 is no integer"):
        HubImages("train", tmp_path / "a.parquet", label="number")[0]


def test_workers_read_the_same(tmp_path):
    rows(range(6)).save_to_disk(tmp_path / "data")

    def stream(workers):
        data = PairDataset(HubImages("train", tmp_path / "data", **COLUMNS), Geometry(8), None, 3, 0, "train")
        batches = itertools.islice(training_batches(data, 4, workers=workers), 3)
        return [(batch["key"], batch["label"].tolist(), batch["x_1"].numpy().tobytes()) for batch in batches]

    assert stream(0) == stream(2)


def test_wrong_datasets(tmp_path):
    rows(range(2)).save_to_disk(tmp_path / "data")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 nothing")
    (tmp_path / "a.txt").touch()
    (tmp_path / "empty").mkdir()
    for options, message in (
        ({"root": tmp_path / "data"}, "no column 'image'"),
        ({"root": tmp_path / "data", "x_0": "claen"}, "no column 'claen'; did you mean 'clean'"),
        ({"root": tmp_path / "none"}, "none: no such file or folder"),
        ({"root": tmp_path / "a.txt"}, "not a data file; known: .parquet"),
        ({"root": tmp_path / "bad.parquet"}, r"bad.parquet: not a readable Hugging Face dataset"),
        ({"root": tmp_path / "empty"}, r"empty: not a readable Hugging Face dataset"),
        ({"hub": "some/name"}, "lies on the hub: `download = true` allows"),
        ({"hub": "some/name", "root": tmp_path}, "needs `root`, a folder or file, or `hub`"),
        ({}, "needs `root`, a folder or file, or `hub`"),
    ):
        with pytest.raises(UserError, match=message):
            HubImages("train", **options)


def test_our_folder_of_cards_does_not_hide_the_library():
    root = Path(__file__).parents[2]
    assert (root / "datasets").is_dir()
    code = "import sys; sys.path.insert(0, ''); import datasets; print(datasets.load_from_disk.__name__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "load_from_disk"


def test_without_the_library_one_line_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"pip install 'i2i-bridge\[hub\]'"):
        HubImages("train", tmp_path)


def card(root, lines):
    rows(range(2)).to_parquet(root / "train.parquet")
    (root / "README.md").write_text(f"---\n{lines}\n---\n# A data set\n")


OUTSIDE = ["https://example.com/x.parquet", "hf://datasets/a/b/x.parquet", "/etc/x.parquet", "../secret.parquet",
           "~/x.parquet", "a/../../x.parquet", "zip://x::https://example.com/y.zip", "C:/x.parquet"]  # fmt: skip


@pytest.mark.parametrize("place", OUTSIDE)
@pytest.mark.parametrize("form", ["text", "list", "split", "data_dir"])
def test_a_card_that_names_another_place_is_not_followed(tmp_path, place, form):
    # kills: card-leads-outside
    root = tmp_path / "data"
    root.mkdir()
    rows(range(5, 9)).to_parquet(tmp_path / "secret.parquet")
    named = {
        "text": f'data_files: "{place}"',
        "list": f'data_files: ["train.parquet", "{place}"]',
        "split": f'data_files: [{{split: train, path: ["train.parquet", "{place}"]}}]',
        "data_dir": f'data_dir: "{place}"',
    }[form]
    card(root, f"configs:\n- config_name: default\n  {named}")
    with pytest.raises(UserError, match=r"README\.md: names '.*', which is not in this folder"):
        HubImages("train", root, **COLUMNS)


def test_a_card_that_names_files_of_its_folder(tmp_path):
    root = tmp_path / "data"
    (root / "parts").mkdir(parents=True)
    rows(range(5, 9)).to_parquet(root / "parts" / "b.parquet")
    card(
        root,
        'configs:\n- config_name: default\n  data_files: [{split: train, path: "parts/*.parquet"}]\nhomepage: "http://x"',
    )
    assert codes(HubImages("train", root, **COLUMNS), "x_0") == [5, 6, 7, 8]


@pytest.mark.parametrize(
    "lines", ["configs: [[[", "a: &a [x, x]\nb: &b [*a, *a]\nconfigs: *b", "configs: 3", "- x", "\x00"]
)
def test_a_card_of_nonsense(tmp_path, lines):
    root = tmp_path / "data"
    root.mkdir()
    card(root, lines)
    try:
        HubImages("train", root, **COLUMNS)
    except UserError as error:
        assert str(root) in str(error)


def test_a_card_whose_lists_hold_one_another(tmp_path):
    """2^40 entries in a kilobyte."""
    lines = ["a0: &a0 [x, x]", *(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 40)), "configs: *a39"]
    card(tmp_path, "\n".join(lines))
    with pytest.raises(UserError, match="names more than 100000 places"):
        HubImages("train", tmp_path, **COLUMNS)


def test_a_yaml_of_its_own_is_refused(tmp_path):
    card(tmp_path, "license: mit")
    (tmp_path / ".huggingface.yaml").write_text("# x\n---\nconfigs:\n- data_files: https://example.com/x.parquet\n")
    with pytest.raises(UserError, match=r"huggingface\.yaml: is not read here"):
        HubImages("train", tmp_path, **COLUMNS)


def test_a_saved_dataset_whose_state_names_another_place(tmp_path):
    # kills: card-leads-outside
    rows(range(5, 9)).save_to_disk(tmp_path / "secret")
    secret = next((tmp_path / "secret").glob("*.arrow"))
    datasets.DatasetDict({"train": rows(range(3))}).save_to_disk(tmp_path / "data")
    state = tmp_path / "data" / "train" / "state.json"
    for place in (str(secret), f"../../secret/{secret.name}"):
        table = json.loads(state.read_text())
        state.write_text(json.dumps(table | {"_data_files": [{"filename": place}]}))
        with pytest.raises(UserError, match=r"state\.json: names '.*', which is not in this folder"):
            HubImages("train", tmp_path / "data", **COLUMNS)
    (tmp_path / "data" / "dataset_dict.json").write_text('{"splits": ["../secret"]}')
    with pytest.raises(UserError, match=r"dataset_dict\.json: names '../secret'"):
        HubImages("train", tmp_path / "data", **COLUMNS)
    for text in ("[" * 100_000, "[]", "3"):
        (tmp_path / "data" / "dataset_dict.json").write_text(text)
        with pytest.raises(UserError, match=r"dataset_dict\.json: cannot be read"):
            HubImages("train", tmp_path / "data", **COLUMNS)


@pytest.mark.parametrize("kind", ["text", "image"])
def test_a_column_of_paths_stays_in_the_folder(tmp_path, kind):
    # kills: column-leads-outside
    root = tmp_path / "data"
    root.mkdir()
    picture(9).save(tmp_path / "secret.png")
    picture(7).save(root / "7.png")
    paths = ["7.png", str(root / "7.png"), "../secret.png", str(tmp_path / "secret.png"), "a/../../secret.png"]
    if kind == "text":
        table = datasets.Dataset.from_dict({"image": paths})
    else:
        value = datasets.Value
        features = datasets.Features({"image": {"bytes": value("binary"), "path": value("string")}})
        table = datasets.Dataset.from_dict({"image": [{"bytes": None, "path": path} for path in paths]}, features)
    table.to_parquet(root / "a.parquet")
    source = HubImages("train", root / "a.parquet")
    assert codes_of(source, [0, 1]) == [7, 7]
    for i in (2, 3, 4):
        with pytest.raises(UserError, match="leads out of"):
            source[i]


def codes_of(source, numbers):
    return [int(decode_item(item_of(source, i), 3)["x_0"][0, 0, 0]) for i in numbers]


def test_rows_of_the_hub_name_files_of_its_caches_alone(tmp_path, monkeypatch):
    """kills: hub-row-leads-anywhere"""
    for name in ("cache", "elsewhere"):
        (tmp_path / name).mkdir()
        picture(7).save(tmp_path / name / "7.png")
    table = datasets.Dataset.from_dict({"image": [str(tmp_path / name / "7.png") for name in ("cache", "elsewhere")]})
    monkeypatch.setattr(datasets, "load_dataset", lambda *name, **options: datasets.DatasetDict({"train": table}))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    source = HubImages("train", hub="owner/name", download=True)
    assert codes_of(source, [0]) == [7]
    with pytest.raises(UserError, match="leads out of"):
        source[1]


def test_a_hub_that_does_not_answer_is_one_line(monkeypatch):
    asked = []

    def load_dataset(path, **options):
        asked.append((path, options))
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(UserError, match="hub 'owner/gone': ConnectionError: no route"):
        HubImages("train", hub="owner/gone", download=True, config="small", revision="abc")
    assert asked == [("owner/gone", {"name": "small", "revision": "abc"})]


def test_offline_holds_though_the_library_was_imported_before(monkeypatch):
    """The library looks at its own variable, once."""
    monkeypatch.setenv("I2I_OFFLINE", "1")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets, "load_dataset", lambda *name, **options: pytest.fail("asked the hub"))
    with pytest.raises(UserError, match="hub 'owner/name' needs the internet"):
        HubImages("train", hub="owner/name", download=True)
