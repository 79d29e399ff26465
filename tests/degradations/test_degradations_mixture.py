"""Mixture: choice of the member, each sample's result, and a user's input."""

from typing import Any

import pytest
import torch
from torch import Tensor

from i2i_bridge.degradations.mixture import Mixture
from i2i_bridge.degradations.noise import Noise
from i2i_bridge.errors import UserError
from i2i_bridge.randomness import generator, rand

NINE: list[dict[str, Any]] = [
    {"name": "jpeg", "quality": 5},
    {"name": "jpeg", "quality": 10},
    {"name": "blur", "kernel": "uniform"},
    {"name": "blur", "kernel": "gaussian"},
    {"name": "sr4x", "filter": "pool"},
    {"name": "sr4x", "filter": "bicubic"},
    {"name": "inpaint", "mask": "center"},
    {"name": "inpaint", "mask": "freeform", "area": [0.1, 0.2]},
    {"name": "inpaint", "mask": "freeform", "area": [0.2, 0.3]},
]


def images(batch: int = 2, channels: int = 3, height: int = 32, width: int = 32) -> Tensor:
    return rand((batch, channels, height, width), generator(0, "test")).float() * 2 - 1


def generators(batch: int) -> list[torch.Generator]:
    return [generator(0, "test", i) for i in range(batch)]


def test_mixture_picks_by_weight_for_each_sample() -> None:
    # kills: weights ignored or normalised wrongly; one pick for the whole batch; a member of weight 0 picked
    tables = [{"name": "noise", "std": float(std)} for std in (0, 1, 0, 1000)]
    mixture = Mixture(tables, weights=[0.0, 3.0, 0.0, 1.0])
    x_1 = mixture(torch.zeros(2000, 1, 8, 8), [generator(1, "m", i) for i in range(2000)]).x_1
    size = x_1.flatten(1).std(1)
    assert (size > 0).all()
    assert (size < 100).float().mean().item() == pytest.approx(0.75, abs=0.04)


def test_mixture_never_picks_a_member_of_weight_0(monkeypatch: pytest.MonkeyPatch) -> None:
    # kills: the lower bound counted as part of the member before it
    monkeypatch.setattr("i2i_bridge.degradations.mixture.rand", lambda shape, _: torch.zeros(shape).double())
    mixture = Mixture([{"name": "noise", "std": 1.0}, NINE[2]], weights=[0.0, 1.0])
    assert torch.equal(mixture(images(), generators(2)).x_1, mixture.members[1](images(), generators(2)).x_1)


def test_mixture_gives_each_sample_its_member_s_own_result() -> None:
    # kills: results scattered to the wrong samples; the wrong generator handed on
    mixture = Mixture(NINE)
    x_0 = images(24)
    degraded = mixture(x_0, generators(24))
    assert degraded.mask is not None
    seen = set()
    for i, one in enumerate(generators(24)):
        k = int(rand((1,), one).item() * 9)
        seen.add(k)
        alone = mixture.members[k](x_0[i : i + 1], [one])
        assert torch.allclose(degraded.x_1[i], alone.x_1[0], atol=1e-6)
        # A member without a mask knows no pixel exactly.
        mask = torch.ones(1, 32, 32) if alone.mask is None else alone.mask[0]
        assert torch.equal(degraded.mask[i], mask)
    assert len(seen) > 5


def test_mixture_has_no_mask_if_no_member_has() -> None:
    # kills: a mask of ones made up for tasks that know none
    assert Mixture(NINE[:6])(images(), generators(2)).mask is None


def test_mixture_asks_for_what_its_members_ask_for() -> None:
    # kills: max instead of the least common multiple; scale of the first member taken for all
    assert Mixture(NINE).multiple == 16
    assert Mixture(NINE).scale == 1
    assert Mixture(NINE[4:6]).scale == 4
    assert Mixture([{"name": "colorization"}]).condition_channels == 3
    # Stand-ins: the shipped members' multiples and scales all divide each other.
    odd = Mixture(NINE)
    members = [type("StandIn", (Noise,), {"multiple": k, "scale": k})(1.0) for k in (6, 4)]
    object.__setattr__(odd, "members", tuple(members))
    assert odd.multiple == 12
    assert odd.scale == 1
    with pytest.raises(UserError, match=r"24 x 32.*16"):
        Mixture(NINE)(images(height=24), generators(2))


def test_mixture_prepares_with_the_member_that_fits() -> None:
    # kills: a hole not filled; an image of full size enlarged; the mask of ones forgotten
    image, mask = images(), torch.zeros(1, 1, 32, 32)
    mask[..., :10] = 1
    holed = Mixture(NINE).prepare(image, generators(2), mask)
    assert holed.mask is not None
    assert torch.equal(holed.x_1[..., 10:], image[..., 10:])
    assert (holed.x_1[..., :10] - image[..., :10]).abs().mean() > 0.3
    whole = Mixture(NINE).prepare(image, generators(2))
    assert torch.equal(whole.x_1, image)
    assert whole.mask is not None
    assert whole.mask.eq(1).all()
    assert torch.equal(Mixture([NINE[4], NINE[6]]).prepare(image, generators(2)).x_1, image)
    assert Mixture(NINE[4:6]).prepare(image, generators(2)).x_1.shape == (2, 3, 128, 128)
