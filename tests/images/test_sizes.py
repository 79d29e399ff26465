"""Image sizes: resizing, padding and enlargement before training and evaluation, and the notes that report them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from i2i_bridge.cli.data_check import check_data
from i2i_bridge.data.transforms import Geometry, enlarged, factor_between
from i2i_bridge.errors import UserError
from i2i_bridge.evaluation.evaluate import evaluate, open_evaluation
from i2i_bridge.images.files import read_picture, write_picture
from i2i_bridge.images.pixels import Picture
from i2i_bridge.recipe.load import load_recipe
from i2i_bridge.recipe.protocol import load_protocol, resolve
from i2i_bridge.runs.batch import to_batch
from i2i_bridge.runs.load import load_run
from i2i_bridge.runs.restore import restore_files
from i2i_bridge.storage.shipped import recipe_names
from i2i_bridge.training.identity import is_same_run
from i2i_bridge.training.trainer import train

SMALL = ["network.channels=8", "train.batch_size=2", "train.workers=0", "train.steps=2", "data.size=16"]


def noisy_pairs(root, size=(300, 260), n=6, std=40):
    """Photo-like clean sides with soft structure, and the same with noise of `std` codes."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[: size[1], : size[0]]
    for i in range(n):
        clean = 128 + 40 * np.sin(rows / (9 + i))[..., None] * np.cos(columns / 11)[..., None] * np.ones(3)
        for side, pixels in (("clean", clean), ("noisy", clean + rng.normal(0, std, clean.shape))):
            (root / side).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8)).save(root / side / f"{i}.png")
    return root


@pytest.mark.parametrize("split", ["train", "validation"])
def test_pairs_are_seen_with_the_noise_of_their_files(tmp_path, split):
    # kills: pairs-resized
    root = noisy_pairs(tmp_path / "p")
    dataset = load_recipe("demo/pairs", [f"data.root={root}", "data.source.holdout=0.3"]).build_dataset(split)
    assert len(dataset)
    for i in range(len(dataset)):
        seen = float((dataset[i]["x_1"] - dataset[i]["x_0"]).std()) * 127.5
        assert abs(seen - 40) < 2, seen


def test_every_resize_is_said(tmp_path):
    # kills: resize-in-silence
    root = noisy_pairs(tmp_path / "p", n=12)
    named = [f"data.root={root}", "data.source.holdout=0.3"]
    assert not any("resize" in line or "reduced" in line for line in check_data("demo/pairs", named).notes)
    reduced = ["data.resize=short_side", "data.load_size=128", "data.validation_size=64"]
    notes = check_data("demo/pairs", [*named, *reduced]).notes
    for start in ("train: images are reduced from 260 to 128 pixels", "val: images are reduced from 260 to 64 pixels"):
        (line,) = [line for line in notes if line.startswith(start)]
        assert "averaged away" in line and "data.resize=none data.load_size=none" in line
    recipe = load_recipe("demo/pairs", [*named, *reduced, "data.resize=none", "data.load_size=none"])
    assert recipe.data.load_size is None and recipe.notes_on(recipe.build_dataset("train")) == []
    said = []
    run = train(load_recipe("demo/pairs", [*named, *SMALL, "data.load_size=128"]), tmp_path / "run", report=said.append)
    assert any("note: images are reduced from 260 to 128" in str(line) for line in said)
    loaded = load_run(run.folder)
    rules = open_evaluation(loaded.recipe.model_copy(update={"data": loaded.recipe.data.model_copy(update={
        "validation_size": 32, "resize": "short_side"})})).rules  # fmt: skip
    result = evaluate(loaded, open_evaluation(loaded.recipe, rules).dataset, nfe=[1], metrics=["psnr"], protocol=rules)
    assert "images are reduced from 260 to 32 pixels" in result.warnings


def test_a_paper_s_resize_is_kept_and_said(tmp_path):
    (tmp_path / "photos").mkdir()
    for i in range(3):
        Image.new("RGB", (600, 500)).save(tmp_path / "photos" / f"{i}.png")
    recipe = load_recipe("restoration/jpeg-5", [f"data.root={tmp_path / 'photos'}"])
    (line,) = recipe.notes_on(recipe.build_dataset("train"))
    assert line.startswith("images are reduced from 500 to 256 pixels before they are degraded; data.resize is that of")
    assert "I2SB" in line


@pytest.mark.parametrize("name", recipe_names())
def test_shipped_recipes_of_pairs_without_a_paper_keep_native_pixels(name):
    recipe = load_recipe(name)
    data = recipe.data
    if recipe.degradation is None and data.card is None:  # the cards' advice is that of a paper
        assert data.resize == "none" and data.load_size is None and data.pad == "reflect"


def test_what_geometry_says_is_what_it_does():
    # kills: said-other-than-done
    rng = np.random.default_rng(1)
    for resize in ("short_side", "stretch", "none"):
        for load_size in (None, 48):
            geometry = Geometry(32, resize=resize, load_size=load_size, pad="reflect")
            for _ in range(20):
                height, width = rng.integers(8, 99, 2)
                pixels = np.zeros((height, width, 3), np.uint8)
                done = geometry._resized(pixels, False).shape[:2]
                assert done == geometry.resized_to(height, width)
                lines = "\n".join(geometry.changes([(height, width)]))
                assert ("reduced" in lines) == (min(done) < min(height, width))
                assert ("enlarged" in lines) == (min(done) > min(height, width))
                assert ("padded" in lines) == (min(done) < 32)
                assert geometry({"x_0": pixels}, 0)["x_0"].shape == (32, 32, 3)
    # The short side of a photo becomes 32 and its shape stays.
    assert Geometry(32, resize="short_side").resized_to(50, 100) == (32, 64)
    assert Geometry(32, resize="short_side").resized_to(100, 50) == (64, 32)
    assert Geometry(8).changes([(16, 20), (40, 32), (8, 8)]) == ["2 of 3 images are reduced from 16-32 to 8 pixels"]


def test_padding_reflects_and_is_refused_unless_asked_for():
    # kills: small-images-repeat-the-edge
    x = np.arange(6, dtype=np.uint8).reshape(1, 6, 1).repeat(9, 0)
    with pytest.raises(UserError, match=r"data\.pad = 'reflect'"):
        Geometry(9, resize="none")({"x_0": x}, 0)
    out = Geometry(9, resize="none", pad="reflect")({"x_0": x, "x_1": x + 1}, 0)
    assert out["x_0"][0, :, 0].tolist() == [0, 1, 2, 3, 4, 5, 4, 3, 2]
    assert np.array_equal(out["x_1"], out["x_0"] + 1)


def test_fingerprints_change_with_what_changes_pixels_alone():
    """Recipes that leave the new settings out keep the fingerprint that their numbers were published under."""

    # kills: pad-outside-the-fingerprint
    def fingerprint(*settings):
        recipe = load_recipe("translation/facades", settings)
        return resolve(load_protocol("held-out"), recipe.data, None, recipe.evaluate)

    plain = fingerprint()
    assert "pad" not in plain.settings and "enlarge" not in plain.settings
    assert fingerprint("data.pad=none", "data.enlarge=nearest").hash == plain.hash  # nothing is enlarged
    hashes = {fingerprint(*s).hash for s in ([], ["data.pad=reflect"], ["data.factor=4"], ["data.factor=2"],
              ["data.factor=4", "data.enlarge=nearest"])}  # fmt: skip
    assert len(hashes) == 5


# Pairs of two sizes


def two_sizes(root, factor=4, size=(96, 80), n=6):
    """HR/0.png with LR/0x4.png, where LR is the mean of each block of HR."""
    rng = np.random.default_rng(2)
    for i in range(n):
        small = rng.integers(0, 256, (size[1] // factor, size[0] // factor, 3)).astype(np.float64)
        large = small.repeat(factor, 0).repeat(factor, 1)
        for folder, name, pixels in (("HR", f"{i}", large), ("LR", f"{i}x{factor}", small)):
            (root / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(root / folder / f"{name}.png")
    (root / "card.toml").write_text(
        'name = "hrlr"\nsummary = "two sizes"\n[dataset]\nname = "paired_folders"\nroot = "."\nx_0 = "HR"\nx_1 = "LR"\n'
        f'x_1_name = "{{}}x{factor}"\nholdout = 0.4\n'
    )
    return root / "card.toml"


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_crops_of_two_sizes_begin_on_the_grid_of_the_small_image(tmp_path, factor):
    """With x_1 repeated, equal blocks: a crop anywhere else would cut them, and the sides would differ."""
    # kills: crops-off-the-grid
    card = two_sizes(tmp_path, factor, (factor * 24, factor * 20))
    recipe = load_recipe("demo/pairs", [f"data.card={card}", f"data.size={8 * factor}", "data.enlarge=nearest"])
    dataset = recipe.build_dataset("train")
    assert dataset.factor == factor
    corners = set()
    for number in range(40):
        item = dataset.sample(number)
        assert np.array_equal(item["x_0"], item["x_1"])
        blocks = item["x_0"].reshape(3, 8, factor, 8, factor)
        assert (blocks == blocks[:, :, :1, :, :1]).all()
        corners.add(item["x_0"][0, 0, 0].item())
    assert len(corners) > 10


def test_enlarging():
    # kills: enlarged-off-centre
    rng = np.random.default_rng(3)
    small = rng.integers(64, 192, (7, 9, 3), dtype=np.uint8)  # Pillow clips and rounds between its two passes
    for factor in (2, 3, 4):
        assert np.array_equal(enlarged(small, factor, "nearest")[::factor, factor - 1 :: factor], small)
        cubic = enlarged(small, factor, "bicubic")
        wanted = Image.fromarray(small).resize((9 * factor, 7 * factor), Image.Resampling.BICUBIC)
        assert np.abs(cubic.astype(int) - np.asarray(wanted)).max() <= 2
    # Floats are not rounded: inside, a ramp stays a ramp.
    ramp = enlarged(np.arange(8, dtype=np.float32)[None, :, None].repeat(8, 0), 2, "bicubic")
    assert ramp.dtype == np.float32 and np.allclose(ramp[8, 4:12, 0], np.arange(1.75, 5.5, 0.5))
    deep = enlarged(small.astype(np.uint16) * 257, 2, "bicubic")
    assert deep.dtype == np.uint16 and np.abs(deep / 257 - enlarged(small, 2, "bicubic")).max() <= 1
    assert [factor_between((8, 12), s) for s in ((8, 12), (4, 6), (2, 3), (4, 5), (16, 24), (3, 4))] == [
        1, 2, 4, None, None, None]  # fmt: skip


def test_pairs_of_two_sizes_from_check_to_restore(tmp_path):
    # kills: factor-forgotten-by-the-run
    card = two_sizes(tmp_path / "set")
    checked = check_data("demo/pairs", [f"data.card={card}", "data.validation_size=32"])
    assert not checked.problems and "x_1 is enlarged 4 times (bicubic)" in checked.notes
    assert not check_data(str(card), []).problems
    said = []
    recipe = load_recipe("demo/pairs", [f"data.card={card}", *SMALL, "data.validation_size=32", "sample.nfe=1"])
    train(recipe, tmp_path / "run", report=said.append)
    assert "note: x_1 is enlarged 4 times (bicubic)" in said
    run = load_run(tmp_path / "run")
    assert run.recipe.data.factor == 4
    assert is_same_run(run.recipe, run.recipe) and is_same_run(run.recipe, recipe)
    assert not is_same_run(run.recipe, recipe.model_copy(update={"data": recipe.data.model_copy(update={"factor": 2})}))
    said.clear()
    again = recipe.model_copy(update={"train": recipe.train.model_copy(update={"steps": 3})})
    assert train(again, tmp_path / "run", report=said.append).step == 3  # the same command, the same run
    rules = open_evaluation(run.recipe).rules
    result = evaluate(run, open_evaluation(run.recipe, rules).dataset, nfe=[1], metrics=["psnr"], protocol=rules)
    assert [row.name for row in result.rows] == ["input", "nfe 1"] and json.dumps(result.warnings).count("enlarged 4")
    small = sorted((tmp_path / "set" / "LR").iterdir())[0]
    write_picture(tmp_path / "alpha.png", Picture(read_picture(small).pixels, np.full((20, 24), 200, np.uint8)))
    for file in (small, tmp_path / "alpha.png"):
        restore_files(run, file, tmp_path / f"out-{file.name}", nfe=1)
        done = read_picture(tmp_path / f"out-{file.name}")
        assert done.pixels.shape == (80, 96, 3)
    assert done.alpha.shape == (80, 96) and (done.alpha == 200).all()
    # What restoring feeds the network is what training fed it.
    whole = load_recipe("demo/pairs", [f"data.card={card}", "data.size=[80,96]", "data.flip=false"])
    item = whole.build_dataset("train")[0]
    small = read_picture(tmp_path / "set" / "LR" / f"{item['key']}x4.png")
    batch = to_batch(run.recipe, small, None, None, [])
    assert np.array_equal(batch["x_1"][0], item["x_1"])


def test_other_sizes_are_refused_by_name(tmp_path):
    # kills: factors-mixed
    card = two_sizes(tmp_path, 4)
    Image.new("RGB", (48, 40)).save(tmp_path / "LR" / "1x4.png")
    problems = check_data("demo/pairs", [f"data.card={card}", "data.validation_size=32"]).problems
    assert len(problems) == 1 and "1x4.png" in problems[0] and "2 to 1" in problems[0] and "4 to 1" in problems[0]
    Image.new("RGB", (25, 20)).save(tmp_path / "LR" / "1x4.png")
    problems = check_data(str(card), []).problems
    assert len(problems) == 1 and "differ in size (x_0 96x80, x_1 25x20)" in problems[0]
    shutil.rmtree(tmp_path / "LR")
    Path(tmp_path / "LR").mkdir()
    for i in range(6):
        Image.new("RGB", (192, 160)).save(tmp_path / "LR" / f"{i}x4.png")
    assert "differ in size" in check_data(str(card), []).problems[0]  # the larger side is the target
