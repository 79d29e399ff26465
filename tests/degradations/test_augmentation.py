"""kornia's augmentations as degradations: all that are allowed keep the contract; nothing else can be named."""

import inspect
import random
from typing import Any

import kornia.augmentation
import numpy as np
import pytest
import torch
from torch import Tensor

from i2i_bridge.degradations.augmentation import UNUSABLE, Augmentation
from i2i_bridge.degradations.contract import check_degradation, global_states
from i2i_bridge.errors import UserError
from i2i_bridge.randomness import generator, rand
from i2i_bridge.recipe.listing import toml_text
from i2i_bridge.recipe.load import load_recipe
from i2i_bridge.recipe.protocol import with_defaults
from i2i_bridge.registry import DEGRADATIONS

MOTION = {"name": "kornia", "op": "RandomMotionBlur", "kernel_size": 7, "angle": [0, 180], "direction": [-1, 1]}
OPTIONS: dict[str, dict[str, Any]] = {
    "ColorJiggle": {"brightness": 0.3},
    "ColorJitter": {"contrast": 0.3},
    "RandomAffine": {"degrees": 20},
    "RandomBrightness": {"brightness": [0.5, 0.8]},
    "RandomContrast": {"contrast": [0.3, 0.6]},
    "RandomElasticTransform": {"alpha": [3, 3]},
    "RandomFisheye": {"center_x": [-0.3, 0.3], "center_y": [-0.3, 0.3], "gamma": [0.8, 0.9]},
    "RandomGamma": {"gamma": [0.5, 0.7]},
    "RandomGaussianBlur": {"kernel_size": 5, "sigma": [0.5, 2]},
    "RandomHue": {"hue": [0.1, 0.3]},
    "RandomMotionBlur": {key: value for key, value in MOTION.items() if key not in ("name", "op")},
    "RandomRotation": {"degrees": [5, 20]},
    "RandomRotation90": {"times": [1, 3]},
    "RandomSaturation": {"saturation": [0.2, 0.5]},
    "RandomShear": {"shear": [5, 20]},
    "RandomSnow": {"snow_coefficient": [0.4, 0.5], "brightness": [1.5, 2]},
    "RandomTranslate": {"translate_x": [0.1, 0.3]},
}


def allowed() -> list[str]:
    single = kornia.augmentation.AugmentationBase2D
    names = [
        name
        for name in kornia.augmentation.__all__
        if inspect.isclass(member := getattr(kornia.augmentation, name)) and issubclass(member, single)
    ]
    return [name for name in names if name not in UNUSABLE and "Base" not in name]


def images(batch: int = 3, side: int = 48) -> Tensor:
    return rand((batch, 3, side, side), generator(0, "test")).float() * 2 - 1


def generators(batch: int) -> list[torch.Generator]:
    return [generator(0, "test", i) for i in range(batch)]


def build(**options: Any) -> Any:
    return DEGRADATIONS.build({"name": "kornia"} | options)


@pytest.mark.parametrize("op", allowed())
def test_every_augmentation_keeps_the_contract(op: str) -> None:
    # kills: kornia-unseeded, kornia-one-seed-for-all; draws from numpy's or Python's generators
    assert check_degradation(build(op=op, **OPTIONS.get(op, {})), size=32) == []


def test_there_are_many() -> None:
    # kills: an allow-list that a newer kornia empties
    assert len(allowed()) > 40
    assert {"RandomMotionBlur", "RandomRain", "RandomPerspective", "RandomGaussianNoise"} < set(allowed())


def test_an_augmentation_is_kornia_s_own() -> None:
    # kills: kornia-in-another-range; options dropped
    x_0 = images(1)
    expected = kornia.augmentation.RandomInvert(p=1.0)((x_0 + 1) / 2) * 2 - 1
    assert torch.allclose(build(op="RandomInvert")(x_0, generators(1)).x_1, expected, atol=1e-6)
    blurred = kornia.augmentation.RandomGaussianBlur(5, (1.5, 1.5), p=1.0)((x_0 + 1) / 2) * 2 - 1
    drawn = build(op="RandomGaussianBlur", kernel_size=5, sigma=[1.5, 1.5])(x_0, generators(1)).x_1
    assert torch.allclose(drawn, blurred, atol=1e-5)


def test_a_sample_is_its_generator_s_alone_and_the_global_ones_stay() -> None:
    # kills: kornia-unseeded, kornia-one-seed-for-all
    x_0, noise = images(4), build(op="RandomGaussianNoise", std=0.2)
    before = global_states()
    together = noise(x_0, generators(4)).x_1
    assert global_states() == before
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002 (a global generator must not matter)
    for i in range(4):
        assert torch.equal(noise(x_0[i : i + 1], [generator(0, "test", i)]).x_1, together[i : i + 1])
    assert not torch.allclose(together[0] - x_0[0], together[1] - x_0[1], atol=0.1)
    assert (together - x_0).std().item() == pytest.approx(0.4, rel=0.05)  # of [0, 1], in [-1, 1]


def test_the_options_that_were_checked_are_those_in_use() -> None:
    # kills: options checked anew for each image, with whatever the table has become
    options: dict[str, Any] = {"p": 1.0}
    degradation, x_0 = Augmentation("RandomInvert", options), images(2)
    before = degradation(x_0, generators(2)).x_1
    options |= {"p": 0.0, "unknown": 1}
    assert torch.equal(degradation(x_0, generators(2)).x_1, before)


def test_every_image_is_changed_unless_p_is_given() -> None:
    # kills: kornia-leaves-half
    x_0 = images(1).expand(40, -1, -1, -1)
    changed = [
        (build(op="RandomInvert", **p)(x_0, generators(40)).x_1 != x_0).flatten(1).any(1) for p in ({}, {"p": 0.5})
    ]
    assert changed[0].all()
    assert 8 < changed[1].sum() < 32


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"op": "RandomMotionBlurr"},
            "unknown augmentation of kornia 'RandomMotionBlurr'; did you mean 'RandomMotionBlur'",
        ),
        ({"op": "os.system"}, "unknown augmentation"),
        ({"op": "__all__"}, "unknown augmentation"),
        ({"op": "AugmentationSequential"}, "unknown augmentation"),
        ({"op": "RandomCutMixV2"}, "unknown augmentation"),
        ({"op": "RandomRotation3D"}, "unknown augmentation"),
        ({"op": "RandomCrop", "size": [8, 8]}, "changes the size"),
        ({"op": "RandomDissolving"}, "downloads"),
        ({}, "op"),
        ({"op": 5}, "op"),
        ({"op": "RandomGaussianBlur", "sigma": [1, 2]}, "kernel_size' is missing"),
        ({"op": "RandomGaussianBlur", "kernel_sise": 5}, "unknown key 'kernel_sise'; did you mean 'kernel_size'"),
        ({"op": "RandomBoxBlur", "kernel_size": [10**9, 3]}, "kernel_size = 1000000000 is outside 1..201"),
        ({"op": "RandomMedianBlur", "kernel_size": [201, 201]}, "outside 1..15"),
        ({"op": "RandomInvert", "p": 1.5}, "p = 1.5 is outside 0..1"),
        ({"op": "RandomInvert", "same_on_batch": True}, "unknown key 'same_on_batch'"),
        ({"op": "RandomGaussianNoise", "std": 1e5}, "outside -10000..10000"),
        ({"op": "RandomPlanckianJitter", "mode": "x" * 100}, "at most 64"),
        ({"op": "RandomPlanckianJitter", "mode": "green"}, "RandomPlanckianJitter"),
        ({"op": "RandomInvert", "library_options": 3}, "library_options"),
        ({"op": "RandomGaussianNoise", "std": "strong"}, "GaussianNoise: std: should be a number, got 'strong'$"),
        ({"op": "RandomGaussianNoise", "std": [0.1, 0.2]}, "GaussianNoise: std: should be a number, got an array$"),
        (
            {"op": "RandomGaussianBlur", "kernel_size": 3, "sigma": ["x", 2]},
            r"Blur: sigma: should be a number or an array of numbers, got \('x', 2\)$",
        ),
        ({"op": "RandomPlanckianJitter", "mode": ["CIED"]}, "mode: should be a text, got an array$"),
        ({"op": "RandomClahe", "slow_and_differentiable": "yes"}, "should be true or false, got 'yes'$"),
    ],
)
def test_mistakes_are_one_line(options: dict[str, Any], words: str) -> None:
    # kills: kornia-any-name, kornia-text-for-a-number, kornia-array-for-a-number; a traceback of kornia's
    with pytest.raises(UserError, match=words) as caught:
        build(**options)
    assert "\n" not in str(caught.value)


def test_what_does_not_suit_the_images_is_one_line() -> None:
    # kills: kornia's exceptions passed on
    with pytest.raises(UserError, match="kornia RandomHue"):
        build(op="RandomHue", hue=[0.1, 0.2])(images()[:, :1], generators(3))


def test_a_recipe_keeps_its_options(tmp_path: Any) -> None:
    # kills: kornia-options-not-in-the-protocol; options lost in `show --all` or on the command line
    from i2i_bridge.recipe.listing import recipe_settings

    inner = ", ".join(f"{key} = {toml_text(value)}" for key, value in MOTION.items())
    recipe = load_recipe("demo/deblur", [f"degradation={{{inner}}}", "degradation.kernel_size=9"])
    assert recipe.degradation == MOTION | {"kernel_size": 9}
    assert recipe.build_degradation().library_options["kernel_size"] == 9
    assert "kernel_size = 9" in recipe_settings(recipe.model_dump(mode="json", exclude_none=True))
    assert with_defaults(MOTION) != with_defaults(MOTION | {"kernel_size": 9})
    nested = {"name": "compose", "degradations": [MOTION, {"name": "noise", "std": 0.1}]}
    assert DEGRADATIONS.build(nested)(images(), generators(3)).x_1.shape == (3, 3, 48, 48)
    assert isinstance(Augmentation("RandomInvert"), Augmentation)
