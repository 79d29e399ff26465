"""Transforms of albumentations in recipes: both sides of a pair alike, keyed by sample; nothing else can be named."""

import inspect
import itertools
import random

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from i2i_bridge.data.augmentation import (
    UNUSABLE,
    Augmentation,
    albumentations_module,
    is_geometric,
    transform_names,
)
from i2i_bridge.data.loader import training_batches
from i2i_bridge.degradations.contract import global_states
from i2i_bridge.errors import UserError
from i2i_bridge.recipe.listing import table_settings
from i2i_bridge.recipe.load import parse_recipe
from i2i_bridge.training.trainer import train

AFFINE = {"name": "Affine", "rotate": [-20, 20], "scale": [0.8, 1.2], "p": 1.0}
OPTIONS = {
    "AdvancedBlur": {"sigma_x_limit": [1, 2], "sigma_y_limit": [1, 2]},
    "Affine": AFFINE,
    "CropAndPad": {"px": 3},
    "GridElasticDeform": {"num_grid_xy": [4, 4], "magnitude": 5},
    "XYMasking": {"num_masks_x": 2, "num_masks_y": 2, "mask_x_length": 5, "mask_y_length": 5},
}


def names():
    library = albumentations_module()
    return [
        name
        for name, member in vars(library).items()
        if isinstance(member, type)
        and issubclass(member, library.BasicTransform)
        and not issubclass(member, library.Transform3D)
        and member.__module__.startswith("albumentations.augmentations.")
        and name not in UNUSABLE
    ]


def filled(name):
    member = getattr(albumentations_module(), name)
    return is_geometric(member) and "fill" in inspect.signature(member).parameters


def pixels(seed=0, height=48, width=64, channels=3):
    draw = np.random.default_rng(seed)
    smooth = cv2.resize(draw.integers(0, 256, (9, 12, channels), dtype=np.uint8), (width, height))
    return smooth.reshape(height, width, channels)


def applied(tables, images, seed=0, **options):
    augmentation = Augmentation(tables, **options)
    return augmentation.painted(augmentation.moved(dict(images), seed), seed)


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[part], b[part]) for part in a)


@pytest.mark.parametrize("name", names())
def test_every_transform_is_a_function_of_its_seed_and_acts_alike_on_equal_sides(name):
    # kills: augment-not-reseeded, augment-a-draw-for-each-side, augment-needs-its-own-dtype
    table = {"name": name, "p": 1.0} | OPTIONS.get(name, {})
    for dtype, scale in ((np.uint8, 1), (np.uint16, 257)):
        x = pixels().astype(dtype) * scale
        before = global_states()
        first = applied([table], {"x_0": x, "x_1": x.copy()}, 3)
        assert global_states() == before
        random.seed(5)
        np.random.seed(5)  # noqa: NPY002 (a global generator must not matter)
        cv2.setRNGSeed(5)
        assert same(first, applied([table], {"x_0": x, "x_1": x.copy()}, 3))
        assert np.array_equal(first["x_0"], first["x_1"])
        assert first["x_0"].dtype == dtype and sorted(first["x_0"].shape) == sorted(x.shape)
    changed = [applied([table], {"x_0": pixels()}, seed)["x_0"] for seed in range(6)]
    assert any(result.shape != pixels().shape or not np.array_equal(result, pixels()) for result in changed)


def test_there_are_many():
    # kills: an allow-list that a newer albumentations empties
    assert len(names()) > 60 and {"Affine", "Perspective", "GaussNoise", "CoarseDropout"} < set(names())


@pytest.mark.parametrize("interpolation", [0, 1, 2, 4])
def test_a_moved_pair_is_equal_wherever_its_mask_is_0(interpolation):
    """All parts move alike, and pixels into which the hole was mixed are unknown."""
    # kills: augment-mask-stays, augment-mixed-pixels-known
    x_0, hole = pixels(), np.zeros((48, 64, 1), np.uint8)
    hole[15:30, 20:40] = 255
    x_1 = np.where(hole > 0, 255 - x_0, x_0)
    table = AFFINE | {"interpolation": interpolation}
    for seed in range(5):
        done = applied([table], {"x_0": x_0, "x_1": x_1, "mask": hole, "condition": x_0[..., :1]}, seed)
        known = done["mask"][..., 0] == 0
        assert set(np.unique(done["mask"])) == {0, 255}
        assert np.array_equal(done["x_0"][known], done["x_1"][known])
        assert np.array_equal(done["x_0"][..., :1], done["condition"])
        # Without an x_1 the mask alone tells where the hole is: it must lie where the pixels of a painted hole lie.
        painted = np.where(hole > 0, 255, 0).astype(np.uint8).repeat(3, 2)
        alone = applied([table], {"x_0": painted, "mask": hole}, seed)
        assert np.array_equal(alone["mask"] > 0, alone["x_0"][..., :1] > 0)
        assert not np.array_equal(alone["mask"], hole)


@pytest.mark.parametrize("name", [name for name in names() if filled(name)])
def test_a_hole_does_not_depend_on_the_fill_of_the_images(name):
    # kills: augment-mask-filled
    hole = np.zeros((48, 64, 1), np.uint8)
    hole[15:30, 20:40] = 255
    table = {"name": name, "p": 1.0} | OPTIONS.get(name, {})
    for seed in range(3):
        masks = [
            applied([table | fill], {"x_0": pixels(), "mask": hole}, seed)["mask"]
            for fill in ({}, {"fill": 255}, {"fill": [0, 9, 255]})
        ]
        assert np.array_equal(masks[0], masks[1]) and np.array_equal(masks[0], masks[2])


def test_a_pixel_wise_transform_acts_on_the_side_that_is_named():
    # kills: augment-on-the-other-side; known pixels that noise has changed
    x_0, x_1 = pixels(), pixels(1)
    noise = {"name": "GaussNoise", "p": 1.0}
    for on, changed in (("x_0", ["x_0"]), ("x_1", ["x_1"]), ("both", ["x_0", "x_1"])):
        done = applied([noise | {"on": on}], {"x_0": x_0, "x_1": x_1, "condition": x_0})
        assert [part for part, old in (("x_0", x_0), ("x_1", x_1)) if not np.array_equal(done[part], old)] == changed
        assert np.array_equal(done["condition"], x_0)
    hole = np.zeros((48, 64, 1), np.uint8)
    done = applied([noise | {"on": "x_1"}], {"x_0": x_0, "x_1": x_0.copy(), "mask": hole})
    known = done["mask"][..., 0] == 0
    assert np.array_equal(done["x_0"][known], done["x_1"][known]) and known.mean() < 0.1


def test_each_transform_has_draws_of_its_own():
    # kills: augment-one-seed-for-the-list
    grey = np.full((48, 64, 3), 128, np.uint8)
    noise = {"name": "GaussNoise", "p": 1.0, "std_range": [0.1, 0.1]}
    once, twice = (applied([noise] * count, {"x_0": grey})["x_0"].astype(float).std() for count in (1, 2))
    assert twice == pytest.approx(once * 2**0.5, rel=0.1)


def test_other_depths_keep_their_codes_and_floats_their_range():
    # kills: augment-needs-its-own-dtype; floats clipped at 1
    deep = np.random.default_rng(0).integers(0, 65536, (20, 24, 1)).astype(np.uint16)
    assert np.array_equal(applied([{"name": "HorizontalFlip", "p": 1.0}], {"x_0": deep})["x_0"], deep[:, ::-1])
    floats = np.random.default_rng(0).uniform(-50, 250, (20, 24, 2)).astype(np.float32)
    done = applied([{"name": "HorizontalFlip", "p": 1.0}], {"x_0": floats}, value_range=(-50.0, 250.0))["x_0"]
    assert done.dtype == np.float32 and np.allclose(done, floats[:, ::-1], atol=1e-3)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("pairs")
    for side, shift in (("clean", 0), ("noisy", 1)):
        for i in range(12):
            file = root / side / f"{i:02d}.png"
            file.parent.mkdir(exist_ok=True)
            Image.fromarray(np.roll(pixels(i), shift, 0)).save(file)
    return root


AUGMENT = [AFFINE, {"name": "HorizontalFlip"}, {"name": "ColorJitter"}, {"name": "GaussNoise", "on": "x_1", "p": 0.7}]


def recipe_of(root, **changes):
    table = {
        "name": "augmented",
        "summary": "a test",
        "task": "translation",
        "data": {
            "source": {"name": "paired_folders", "root": str(root), "x_0": "clean", "x_1": "noisy", "holdout": 0.25},
            "size": 16, "resize": "none", "crop": "random", "augment": AUGMENT,
        },
        "network": {"name": "unet", "channels": 8, "channel_mult": [1], "blocks_per_level": 1},
        "train": {"steps": 4, "batch_size": 4, "workers": 0, "precision": "fp32", "save_every": 100},
        "sample": {"nfe": 1},
    }  # fmt: skip
    for name, inner in changes.items():
        table[name] = table.get(name, {}) | inner
    return parse_recipe(table, "the test")


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_the_stream_depends_on_the_sample_alone(folders):
    """Not on workers, on where it starts, or on what was drawn before."""
    # kills: augment-not-reseeded
    data = recipe_of(folders).build_dataset("train")
    whole = list(itertools.islice(training_batches(data, 4, workers=0), 4))
    for workers in (1, 2):
        others = itertools.islice(training_batches(data, 4, workers=workers), 4)
        for one, other in zip(whole, others, strict=True):
            assert torch.equal(one["x_0"], other["x_0"]) and torch.equal(one["x_1"], other["x_1"])
    later = next(training_batches(recipe_of(folders).build_dataset("train"), 4, start_step=3, workers=0))
    assert torch.equal(whole[3]["x_1"], later["x_1"])
    again = [data.sample(number)["x_1"] for number in (0, len(data))]  # another epoch draws anew
    assert not torch.equal(*again)


def test_training_resumes_with_the_same_bits(folders, tmp_path):
    # kills: augment-not-reseeded
    from safetensors.torch import load_file

    recipe = recipe_of(folders)
    train(recipe, tmp_path / "whole", cpu=True)
    asked = iter([False, True])
    train(recipe, tmp_path / "parts", cpu=True, stop=lambda: next(asked))
    train(recipe_of(folders, train={"workers": 1}), tmp_path / "parts", cpu=True)
    files = [next((tmp_path / name).rglob("step-*4/*.safetensors")) for name in ("whole", "parts")]
    whole, parts = (load_file(file) for file in files)
    assert whole.keys() == parts.keys() and all(torch.equal(whole[name], parts[name]) for name in whole)


def test_validation_is_not_augmented(folders):
    # kills: augment-validation
    plain, augmented = recipe_of(folders, data={"augment": []}), recipe_of(folders)
    for index in range(2):
        one, other = (recipe.build_dataset("validation")[index] for recipe in (plain, augmented))
        assert torch.equal(one["x_0"], other["x_0"]) and torch.equal(one["x_1"], other["x_1"])
    assert not torch.equal(plain.build_dataset("train")[0]["x_0"], augmented.build_dataset("train")[0]["x_0"])


def test_a_photo_is_augmented_before_it_is_degraded(folders):
    # kills: x_1 made of the photo as it was
    source = {"name": "images", "root": str(folders / "clean"), "holdout": 0.25}
    recipe = recipe_of(
        folders, data={"source": source, "augment": AUGMENT[:3]}, degradation={"name": "posterise", "levels": 256}
    )
    item = recipe.build_dataset("train").sample(0)
    assert (item["x_0"] - item["x_1"]).abs().max() < 0.01
    with pytest.raises(UserError, match=r"x_1 is made from x_0; put it into \[degradation\]"):
        recipe_of(folders, data={"source": source}, degradation={"name": "noise", "std": 0.1})


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"name": "Afine"}, "unknown transform of albumentations 'Afine'; did you mean 'Affine'"),
        ({"name": "os"}, "unknown transform"),
        ({"name": "Compose", "transforms": []}, "unknown transform"),
        ({"name": "DualTransform"}, "unknown transform"),
        ({"rotate": 5}, "the key 'name' is missing"),
        ({"name": "RandomCrop", "height": 8, "width": 8}, "data.size"),
        ({"name": "Lambda"}, "runs no code"),
        ({"name": "FDA"}, "other images"),
        ({"name": "Affine", "rotates": 5}, "unknown key 'rotates'; did you mean 'rotate'"),
        ({"name": "Affine", "rotate": "much"}, "data.augment Affine: .*rotate"),
        ({"name": "Affine", "on": "x_1"}, "would part the pair"),
        ({"name": "GaussNoise", "on": "x_2"}, "known: both, x_0, x_1"),
        ({"name": "GaussNoise", "p": 2}, "p = 2 is outside 0..1"),
        ({"name": "Blur", "blur_limit": 10**6}, "outside 0..201"),
        ({"name": "GaussNoise", "std_range": [0.5, 0.1]}, "data.augment GaussNoise: std_range"),
        ({"name": "CLAHE", "tile_grid_size": [10**5, 8]}, "outside 1..64"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(folders, table, words):
    # kills: augment-any-name; a warning of the library instead of an error; a traceback
    with pytest.raises(UserError, match=words) as caught:
        recipe_of(folders, data={"augment": [table]})
    assert "\n" not in str(caught.value)


def test_a_lack_of_memory_is_no_mistake_in_the_table(folders, monkeypatch):
    """With `data.on_error = skip` the image would be passed over, and another machine would train on other images."""

    def exhausted(*images, **options):
        raise MemoryError

    monkeypatch.setattr(albumentations_module().ISONoise, "apply", exhausted)
    recipe = recipe_of(folders, data={"augment": [{"name": "ISONoise", "p": 1.0}]})
    with pytest.raises(UserError, match="not enough memory to read a training image"):
        next(training_batches(recipe.build_dataset("train"), 1))


def test_what_does_not_suit_the_images_is_one_line(folders):
    # kills: the library's exception passed on
    recipe = recipe_of(folders, data={"channels": 1, "augment": [{"name": "ISONoise", "p": 1.0}]})
    with pytest.raises(UserError, match=r"\.png.*data.augment ISONoise: "):
        recipe.build_dataset("train").sample(0)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"name": "Rotate", "limit": [30, 30], "crop_border": True, "p": 1.0}, "data.augment Rotate: .* the size of"),
        ({"name": "ToGray", "num_output_channels": 1, "p": 1.0}, "data.augment ToGray: .* channels of the image"),
    ],
)
def test_options_that_change_size_or_channels_are_one_line(table, words):
    # kills: an image of another shape passed on
    assert table["name"] in transform_names()
    with pytest.raises(UserError, match=words):
        applied([table], {"x_0": pixels()})


def test_it_is_among_the_settings():
    # kills: a setting that `show data` does not know
    assert "# augment =" in table_settings("data") or "augment = []" in table_settings("data")
    assert is_geometric(albumentations_module().Affine) and not is_geometric(albumentations_module().GaussNoise)
