"""The metrics of one item: does the restored image explain what was measured, and how do restorations differ."""

import dataclasses
import math
from dataclasses import dataclass

import pytest
import torch

from i2i_bridge import registry
from i2i_bridge.degradations.base import Degradation, Degraded
from i2i_bridge.images.pixels import to_pixels, to_tensor
from i2i_bridge.metrics.base import Sample
from i2i_bridge.metrics.consistency import Consistency
from i2i_bridge.metrics.diversity import DiversityRMS
from i2i_bridge.randomness import generator, randn_like

SEED = 5


def image(seed, size=32):
    x = torch.rand(3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return written(torch.nn.functional.avg_pool2d(x[None], 3, 1, 1)[0])


def written(x):
    return to_tensor(to_pixels(x))


def sample(degradation, x_0_hat, x_0, seed=SEED):
    """An item as the validation dataset makes it."""
    degraded = degradation(x_0[None], [generator(seed, "validation degradation", "photo")])
    mask = {} if degraded.mask is None else {"mask": degraded.mask[0]}
    x_1 = written(degraded.x_1[0])
    return Sample(x_0_hat[None], x_0, x_1, {"key": "photo", **mask}, degradation, SEED)


def made(name, **options):
    return registry.DEGRADATIONS.build({"name": name, **options})


@dataclass(frozen=True)
class Speckle(Degradation):
    """Random and not linear: noise of a random strength."""

    def __call__(self, x_0, generator):
        return Degraded(x_0 * (1 + 0.3 * randn_like(x_0, generator)))


def test_the_dataset_draws_from_the_same_generator():
    """The purpose that the metric assumes is the dataset's own."""
    # kills: consistency-of-other-draws
    from i2i_bridge.data.dataset import PairDataset
    from i2i_bridge.data.transforms import Geometry

    class One:
        def __len__(self):
            return 1

        def __getitem__(self, index):
            return {"key": "photo", "x_0": to_pixels(image(0))}

    dataset = PairDataset(One(), Geometry(32, crop="center", flip=False), Speckle(), 3, SEED, "validation")
    item = dataset[0]
    given = Sample(item["x_0"][None], item["x_0"], written(item["x_1"]), item, Speckle(), SEED)
    assert Consistency().of(given) == 0.0


@pytest.mark.parametrize("name", ["inpaint", "jpeg"])
def test_consistency_is_of_the_first_restoration(name):
    """Further restorations, which a diversity needs, play no part."""
    # kills: consistency-of-the-last-restoration
    x_0 = image(1)
    degradation = made(name, **({"quality": 10} if name == "jpeg" else {}))
    one = sample(degradation, x_0, x_0)
    more = dataclasses.replace(one, restored=torch.stack([x_0, image(2), image(3)]))
    assert Consistency().of(more) == Consistency().of(one) == 0
    assert Consistency().of(dataclasses.replace(one, restored=more.restored.flip(0))) > 0.01


def test_a_linear_operator_measures_the_error_that_it_sees():
    """Of an error in the known half only the known half counts; what the operator removes costs nothing."""
    # kills: consistency-in-the-hole
    x_0 = image(1)
    inpaint = made("inpaint", mask="center")
    there = sample(inpaint, x_0, x_0)
    hole = there.item["mask"]
    assert Consistency().of(there) == 0
    assert Consistency().of(sample(inpaint, torch.where(hole > 0.5, -x_0, x_0), x_0)) == 0
    outside = torch.where(hole > 0.5, x_0, x_0 + 0.1)
    expected = 0.1 * math.sqrt(1 - float(hole.mean()))
    assert Consistency().of(sample(inpaint, outside, x_0)) == pytest.approx(expected, rel=1e-5)


def test_jpeg_is_applied_again():
    """No linear operator: the restored image is degraded as the item was. Its own JPEG image explains it best."""
    x_0, other = image(2), image(3)
    jpeg = made("jpeg", quality=10)
    assert Consistency().of(sample(jpeg, x_0, x_0)) == 0
    recoded = sample(jpeg, x_0, x_0)
    again = sample(jpeg, recoded.x_1, x_0)
    far = sample(jpeg, other, x_0)
    assert Consistency().of(again) < 0.2 * Consistency().of(far)
    expected = jpeg(other[None], generator(0, "any")).x_1 - jpeg(x_0[None], generator(0, "any")).x_1
    assert Consistency().of(far) == pytest.approx(float(expected.square().mean().sqrt()), rel=1e-5)


def test_unknown_operators_are_not_guessed():
    """NaN for pairs, and where the item's draws are not the evaluation's; a number where they are."""
    # kills: consistency-of-other-draws
    x_0, x_0_hat = image(4), image(5)
    assert Consistency().of(sample(Speckle(), x_0, x_0)) == 0
    assert Consistency().of(sample(Speckle(), x_0_hat, x_0)) > 0.05
    assert math.isnan(Consistency().of(sample(Speckle(), x_0_hat, x_0, seed=6)))
    known = sample(Speckle(), x_0, x_0)
    assert math.isnan(Consistency().of(Sample(known.restored, x_0, known.x_1, known.item, None, SEED)))


def test_diversity_rms_is_the_mean_over_pairs():
    # kills: diversity-of-the-first-pair
    levels = torch.tensor([0.0, 0.1, 0.3, 0.3])
    restored = levels[:, None, None, None].expand(4, 3, 8, 8)
    value = DiversityRMS().of(Sample(restored, restored[0], restored[0], {"key": "a"}, None, 0))
    assert value == pytest.approx((0.1 + 0.3 + 0.3 + 0.2 + 0.2 + 0.0) / 6, rel=1e-6)
    shuffled = Sample(restored[[2, 0, 3, 1]], restored[0], restored[0], {"key": "a"}, None, 0)
    assert DiversityRMS().of(shuffled) == pytest.approx(value, rel=1e-12)
    assert DiversityRMS.samples == 4
    assert math.isnan(DiversityRMS().of(Sample(restored[:1], restored[0], restored[0], {"key": "a"}, None, 0)))
