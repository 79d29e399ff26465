"""Every kind of image file gives the documented array or the documented refusal, in training and in restoring alike."""

import resource
from pathlib import Path

import numpy as np
import pytest
import zoo

from i2i_bridge.data.items import decode_item
from i2i_bridge.errors import UserError
from i2i_bridge.images.files import read_picture
from i2i_bridge.images.folder import find_images
from i2i_bridge.images.pixels import opaque, visible, with_channels
from i2i_bridge.recipe.load import load_recipe
from i2i_bridge.runs.checkpoint import save_checkpoint
from i2i_bridge.runs.load import load_run
from i2i_bridge.runs.restore import restore_files
from i2i_bridge.runs.run import Run

DOCS = Path(__file__).parents[2] / "docs" / "images.md"


@pytest.fixture(scope="module")
def exhibits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("zoo")
    found = zoo.zoo(folder)
    assert len(found) >= 80 and len({exhibit.name for exhibit in found}) == len(found)
    return folder, found


def outcome(read):
    """Pixels, or the words of the refusal."""
    try:
        return read()
    except UserError as error:
        line = str(error)
        assert "\n" not in line and line.isprintable() and len(line) <= 300 + 260
        return line


def test_what_each_gives(exhibits):
    """The documented array, or one line that names the file and says the documented words; never much memory."""
    # kills: sixteen-bits-cut-off-are-filled, array-header-believed, pipes-block
    folder, found = exhibits
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for exhibit in found:
        got = outcome(lambda exhibit=exhibit: read_picture(folder / exhibit.name).pixels)
        if exhibit.says:
            assert isinstance(got, str) and exhibit.says in got, (exhibit.name, got)
            assert Path(exhibit.name).suffix in got and str(folder) in got
            continue
        assert not isinstance(got, str), (exhibit.name, got)
        if exhibit.pixels is None:
            assert got.shape == exhibit.shape and got.dtype == np.uint8, exhibit.name
        else:
            assert got.dtype == exhibit.pixels.dtype and np.array_equal(got, exhibit.pixels), exhibit.name
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < 100


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    recipe = load_recipe("jpeg-5", ["network.name=unet", "network.channels=2", "network.channel_mult=[1]"])
    save_checkpoint(folder / "checkpoints", 1, {"ema": recipe.build_network().state_dict()}, {}, 2)
    (folder / "recipe.toml").write_text(recipe.to_toml())
    return load_run(folder, device="cpu")


def test_training_and_restoring_agree(exhibits, run, monkeypatch, tmp_path):
    """The dataset, the library and the command line see the same pixels, and say the same words."""
    folder, found = exhibits
    seen = []

    def restored(self, batch, **options):
        seen.append(batch["x_1"])
        yield batch["x_1"]

    monkeypatch.setattr(Run, "trajectory", restored)
    for exhibit in found:
        file = folder / exhibit.name
        # Transparent parts: datasets show them on white, restoring keeps all colours that can be seen.
        plain = outcome(lambda file=file: with_channels(visible(read_picture(file)), 3))
        on_white = outcome(lambda file=file: with_channels(opaque(read_picture(file)), 3))
        trained = outcome(lambda file=file: decode_item({"key": "k", "x_0": file}, 3)["x_0"])
        seen.clear()
        through = outcome(lambda file=file: restore_files(run, file, tmp_path / "out.npy", nfe=1))
        library = outcome(lambda file=file: run.restore(file, nfe=1))
        if isinstance(plain, str):
            for other in (trained, library):
                assert isinstance(other, str) and plain.split(": ", 1)[-1] in other, exhibit.name
            assert isinstance(through, str), exhibit.name
            continue
        assert np.array_equal(trained, on_white), exhibit.name
        if plain.dtype == np.uint8:
            assert not isinstance(through, str), (exhibit.name, through)
            codes = np.rint((seen[0][0].numpy().transpose(1, 2, 0) + 1) * 127.5)
            assert np.array_equal(codes, plain), exhibit.name


def test_only_what_leads_to_a_file_is_listed(exhibits, tmp_path):
    folder, found = exhibits
    for name in (".hidden.png", "._mac.png", "Thumbs.db", "notes.txt"):
        (folder / name).write_bytes(b"x")
    listed = {path.name for path in find_images(folder)}
    for name in (
        ".hidden.png",
        "._mac.png",
        "Thumbs.db",
        "notes.txt",
        "endless.png",
        "dangling.png",
        "pipe.png",
    ):
        assert name not in listed
    readable = {exhibit.name for exhibit in found if not exhibit.says}
    assert readable <= listed


def test_the_table_in_the_docs_is_the_zoo(tmp_path):
    assert zoo.table(tmp_path) in DOCS.read_text(encoding="utf-8")
