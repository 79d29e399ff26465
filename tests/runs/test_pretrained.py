"""Runs inside the package: found by name, read and never written to."""

import hashlib
import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from killing import photos, recipe_of
from PIL import Image

from i2i_bridge import load_run
from i2i_bridge.cli.command import main
from i2i_bridge.images.pixels import to_pixels, to_tensor
from i2i_bridge.randomness import generator
from i2i_bridge.recipe.load import load_recipe
from i2i_bridge.registry import DEGRADATIONS
from i2i_bridge.runs.checkpoint import MANIFEST, SEAL, latest_checkpoint
from i2i_bridge.storage import shipped
from i2i_bridge.training.trainer import train


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return photos(tmp_path_factory.mktemp("pairs"))


@pytest.fixture(scope="module")
def trained(root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("package") / "pretrained" / "toy"
    train(recipe_of(root, steps=1), folder, cpu=True)
    (folder / shipped.CARD_FILE).write_text("# The card\n")
    return folder


@pytest.fixture
def toy(trained, tmp_path, monkeypatch):
    """The folder of a shipped run `pretrained/toy`; the working directory is another one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(shipped, "PACKAGE", trained.parents[1])
    return trained


def contents(folder):
    """Every path below a folder, with the digest of a file."""
    paths = sorted(folder.rglob("*"))
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "" for path in paths}


def call(*words):
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    return ended.value.code


def test_a_name_is_the_run_in_the_package_unless_there_is_such_a_path(toy, root, tmp_path):
    """kills: shipped-run-before-a-path"""
    assert load_run("pretrained/toy").step == 1
    assert load_run("pretrained/toy").folder == toy
    train(recipe_of(root, steps=2), tmp_path / "pretrained" / "toy", cpu=True)
    assert load_run("pretrained/toy").step == 2
    assert shipped.pretrained_names() == ["pretrained/toy"]


def test_every_verb_takes_the_name_and_writes_nothing_into_the_package(toy, root, tmp_path, capsys):
    """kills: results-into-the-package"""
    before = contents(toy)
    noisy = root / "noisy" / "val"
    assert call("restore", "pretrained/toy", noisy, "restored") == 0
    assert sorted(path.name for path in (tmp_path / "restored").glob("*.png")) == ["00.png", "01.png", "02.png"]
    assert call("evaluate", "pretrained/toy", "--metric", "psnr", "--out", "scores") == 0
    assert not (tmp_path / "runs").exists()
    assert call("evaluate", "pretrained/toy", "--metric", "psnr") == 0
    assert call("report", "pretrained/toy") == 0
    assert call("compare", "pretrained/toy", "scores", "--out", "page") == 0
    copy = tmp_path / "runs" / "pretrained" / "toy"
    assert all((copy / path.relative_to(toy)).is_file() for path in before if before[path])
    assert contents(toy) == before


def test_a_verb_that_refuses_leaves_no_copy(toy, tmp_path, capsys):
    """3 validation images are too few to tune on; a copy that holds results stays."""
    # kills: copy-before-the-refusal, copy-with-results-removed
    copy = tmp_path / "runs" / "pretrained" / "toy"
    tune = ("tune", "pretrained/toy", "--nfe", "2", "--metric", "psnr", "--device", "cpu")
    for words, wrong in (
        (tune, "3 validation images; 4 are needed"),
        (("evaluate", "pretrained/toy", "--nfe", "1", "--metric", "nothing", "--device", "cpu"), "nothing"),
        (("evaluate", "pretrained/toy", "--root", "nowhere"), "nowhere"),
        (("report", "pretrained/toy"), "evaluate"),
        (("compare", "pretrained/toy", "nowhere"), "nowhere"),
    ):
        assert call(*words) == 2
        assert wrong in capsys.readouterr().err and not (tmp_path / "runs").exists(), words
    assert call("evaluate", "pretrained/toy", "--nfe", "1", "--metric", "psnr", "--device", "cpu") == 0
    before = contents(copy)
    assert call(*tune) == 2 and contents(copy) == before


def test_the_copy_of_another_version_is_not_mixed_with_it(toy, tmp_path, capsys):
    """kills: copy-of-another-version-kept"""
    copy = tmp_path / "runs" / "pretrained" / "toy"
    shutil.copytree(toy, copy)
    (copy / "recipe.toml").write_text((toy / "recipe.toml").read_text() + "\n")
    assert call("evaluate", "pretrained/toy") == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "rename runs/pretrained/toy" in said


def test_a_run_that_starts_from_it_names_it_without_a_path(toy, root, tmp_path, monkeypatch):
    """A path into an installation would not outlive it. kills: init-by-the-path-of-the-package"""
    (tmp_path / "tiny.toml").write_text(recipe_of(root, steps=2).to_toml())
    words = ("train", tmp_path / "tiny.toml", "--init", "pretrained/toy", "--out", tmp_path / "run", "--device", "cpu")
    assert call(*words) == 0
    assert load_recipe(tmp_path / "run" / "recipe.toml").train.init == "pretrained/toy"
    assert json.loads((tmp_path / "run" / "init.json").read_text())["source"] == "pretrained/toy"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert call(*words) == 0  # goes on, also from another folder


def test_what_there_is_is_listed_and_shown(toy, capsys):
    assert call("list", "pretrained") == 0
    assert "pretrained/toy" in capsys.readouterr().out
    assert call("show", "pretrained/toy") == 0
    assert "# The card" in capsys.readouterr().out
    assert call("restore", "pretrained/other", "in.png", "out.png") == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "pretrained/toy" in said


def test_the_photos_run_is_small_and_whole_and_of_its_recipe():
    """Weights of 5 MB at most, in bfloat16, trained by the recipe that is shipped beside them."""
    folder = shipped.folder_of_run(Path("pretrained/photos"))
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    assert sum(path.stat().st_size for path in files.values()) <= 5e6
    checkpoint = latest_checkpoint(folder / "checkpoints")[0]  # verifies the hashes
    assert {value.dtype for value in checkpoint.tensors("ema").values()} == {torch.bfloat16}
    inside = {f"checkpoints/{checkpoint.folder.name}/{part}" for part in ("ema.safetensors", MANIFEST, SEAL)}
    assert set(files) == inside | {"recipe.toml", shipped.CARD_FILE}
    digest = hashlib.sha256((checkpoint.folder / "ema.safetensors").read_bytes()).hexdigest()
    assert digest in files[shipped.CARD_FILE].read_text(encoding="utf-8")
    trained, recipe = load_recipe(files["recipe.toml"]), load_recipe("pretrained/blind-photos")
    assert checkpoint.step == recipe.train.steps
    for part in ("data", "degradation", "process", "target", "network", "method", "train", "sample"):
        assert getattr(trained, part) == getattr(recipe, part)


@pytest.mark.parametrize(
    ("op", "gain"),
    [
        ({"name": "noise", "std": 15 / 127.5}, 4.5),
        ({"name": "noise", "std": 50 / 127.5}, 7.5),
        ({"name": "jpeg", "quality": 10, "backend": "pillow"}, -0.1),
    ],
)
def test_the_photos_run_restores_a_photo_that_it_never_saw(op, gain):
    """Two thirds of the gain that was measured on this photo, in dB; JPEG gained 0.07 only, and must not lose."""
    clean = _cat()
    bad = to_pixels(DEGRADATIONS.build(op)(to_tensor(clean)[None], [generator(0, "test")]).x_1[0])
    restored = load_run("pretrained/photos", device="cpu").restore(bad)
    assert restored.shape == bad.shape and restored.dtype == np.uint8
    assert _psnr(restored, clean) > _psnr(bad, clean) + gain


def test_the_photos_run_leaves_a_clean_photo_alone():
    clean = _cat()
    assert _psnr(load_run("pretrained/photos", device="cpu").restore(clean), clean) > 38


def _cat():
    spec = importlib.util.find_spec("skimage")
    if spec is None:
        pytest.skip("scikit-image is not installed")
    return np.asarray(Image.open(Path(spec.origin).parent / "data" / "chelsea.png").convert("RGB"))[:256, 64:320]


def _psnr(image, clean):
    return 10 * np.log10(255**2 / np.square(image.astype(float) - clean).mean())
