"""Drawn parameters: ranges and names, and their values through mixture, compose and the items of a dataset."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import default_collate

from i2i_bridge.data.dataset import PairDataset
from i2i_bridge.data.transforms import Geometry
from i2i_bridge.degradations.jpeg import Jpeg
from i2i_bridge.degradations.kernel_blur import Defocus
from i2i_bridge.degradations.mixture import Mixture
from i2i_bridge.degradations.noise import Noise
from i2i_bridge.randomness import generator, rand
from i2i_bridge.registry import DEGRADATIONS


def images(batch: int = 4, side: int = 32) -> Tensor:
    return rand((batch, 3, side, side), generator(0, "test")).float() * 2 - 1


def generators(batch: int, seed: int = 0) -> list[torch.Generator]:
    return [generator(seed, "test", i) for i in range(batch)]


def test_what_is_reported_is_what_was_done() -> None:
    # kills: a second draw for the report; parameters of another sample; a range's end never drawn
    x_0 = images(64)
    degraded = Jpeg((5, 8))(x_0, generators(64))
    qualities = degraded.parameters["quality"]
    assert sorted(set(qualities.tolist())) == [5, 6, 7, 8]
    for i in range(8):
        alone = Jpeg(int(qualities[i]))(x_0[i : i + 1], generator(0, "not used"))
        assert torch.allclose(degraded.x_1[i], alone.x_1[0], atol=1e-6)
    degraded = Noise((0.1, 0.5))(torch.zeros(64, 3, 32, 32), generators(64))
    assert torch.allclose(degraded.x_1.flatten(1).std(1), degraded.parameters["std"], rtol=0.1)
    assert degraded.parameters["std"].min() < 0.15 < 0.45 < degraded.parameters["std"].max()


def test_a_fixed_number_draws_nothing() -> None:
    # kills: a range-of-one that moves every later draw, and so every trained model's noise
    x_0 = images(2)
    for fixed in (Noise(0.2), Jpeg(5), Defocus(2.0)):
        assert fixed(x_0, generators(2)).parameters == {}
        assert fixed.parameter_names == ()
    used, fresh = generators(1)[0], generators(1)[0]
    Noise(0.2)(x_0[:1], [used])
    torch.randn(3, 32, 32, generator=fresh)
    assert torch.equal(used.get_state(), fresh.get_state())


def test_mixture_reports_its_pick_and_nan_for_the_others() -> None:
    # kills: the pick off by one; numbers left over for a member that was not picked; equal names merged
    tables: list[dict[str, Any]] = [
        {"name": "noise", "std": [0.1, 0.2]},
        {"name": "blur"},
        {"name": "noise", "std": [0.5, 0.6]},
    ]
    mixture = Mixture(tables)
    x_0 = images(32)
    degraded = mixture(x_0, generators(32))
    assert set(degraded.parameters) == {"pick", "noise.std", "noise-2.std"} == set(mixture.parameter_names)
    for i, pick in enumerate(degraded.parameters["pick"].tolist()):
        std, std_2 = (float(degraded.parameters[name][i]) for name in ("noise.std", "noise-2.std"))
        assert math.isnan(std) == (pick != 0)
        assert math.isnan(std_2) == (pick != 2)
        spread = (degraded.x_1[i] - x_0[i]).std()
        if pick != 1:
            assert spread == pytest.approx(std if pick == 0 else std_2, rel=0.1)
    assert set(degraded.parameters["pick"].tolist()) == {0, 1, 2}


def test_compose_names_its_members_parameters() -> None:
    # kills: the later of two members of one name winning; a resize's sizes mixed up between samples
    tables: list[dict[str, Any]] = [
        {"name": "resize", "factor": [0.3, 1.5]},
        {"name": "noise", "std": [0.0, 0.1]},
        {"name": "resize", "factor": 0.5, "filter": "area"},
        {"name": "noise", "std": [0.4, 0.5]},
    ]
    compose = DEGRADATIONS.build({"name": "compose", "degradations": tables})
    degraded = compose(images(5), generators(5))
    assert set(degraded.parameters) == {"resize.factor", "resize.filter", "noise.std", "noise-2.std"}
    assert degraded.parameters["noise.std"].max() <= 0.1
    assert degraded.parameters["noise-2.std"].min() >= 0.4
    alone = compose(images(5)[3:4], generators(5)[3:4])
    for name, values in alone.parameters.items():
        assert values[0] == degraded.parameters[name][3]
    assert torch.allclose(alone.x_1[0], degraded.x_1[3], atol=1e-5)


class Photos:
    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> dict[str, Any]:
        pixels = np.random.default_rng(index).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        return {"x_0": pixels, "key": f"photo-{index}"}


def dataset(table: dict[str, Any]) -> PairDataset:
    degradation = DEGRADATIONS.build(table)
    return PairDataset(Photos(), Geometry(32, crop="center"), degradation, 3, 0, "train")  # type: ignore[arg-type]


def test_items_carry_what_was_drawn_and_collate() -> None:
    # kills: parameters lost in the dataset; an empty dict that default_collate trips over; a batch axis left
    mixed = dataset({"name": "mixture", "degradations": [{"name": "jpeg", "quality": [5, 30]}, {"name": "blur"}]})
    batch = default_collate([mixed.sample(n) for n in range(6)])
    assert batch["parameters"]["jpeg.quality"].shape == (6,)
    assert torch.equal(batch["parameters"]["pick"] == 0, ~batch["parameters"]["jpeg.quality"].isnan())
    assert "parameters" not in dataset({"name": "blur"})[0]
    # The validation item depends on its key alone, the training sample on its number.
    again = dataset({"name": "mixture", "degradations": mixed.degradation.degradations})  # type: ignore[union-attr]
    for one, two in ((mixed[2], again[2]), (mixed.sample(9), again.sample(9))):
        assert torch.equal(one["x_1"], two["x_1"])
        assert float(one["parameters"]["pick"]) == float(two["parameters"]["pick"])
