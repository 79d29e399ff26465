"""The curriculum: times keyed by the sample's number, and weights of errors."""

import math

import pytest
import torch
from scipy import stats

from i2i_bridge.bridge.processes import I2SB, BrownianBridge, GaussianPrior, LinearFlow, SourceNoise
from i2i_bridge.bridge.targets import EpsTarget, I2SBTarget, PreconditionedTarget, X0Target
from i2i_bridge.methods.curriculum import HUBER, Curriculum
from i2i_bridge.randomness import generator, rand
from i2i_bridge.recipe.schema import TrainSettings


def draws(first, count):
    return [generator(0, "t and noise", first + i) for i in range(count)]


def times(curriculum, steps, start=0):
    """All times of some steps, drawn as training draws them: one generator per sample, by its number."""
    size = curriculum.batch_size
    rows = []
    for step in range(start, start + steps):
        first = step * size
        rows.append(curriculum.times(size, draws(first, size), torch.arange(first, first + size)))
    return torch.stack(rows)


def test_without_a_curriculum_times_are_the_even_ones_to_the_last_bit():
    t = Curriculum(batch_size=4).times(4, draws(8, 4), torch.arange(8, 12))
    assert torch.equal(t, 1 - rand((4,), draws(8, 4)))


def test_the_regression_share_ends_exactly_with_its_steps():
    # kills: regression-share-off-by-one
    train = TrainSettings(steps=10, batch_size=3, regression_share=0.4)
    curriculum = Curriculum.of(train)
    assert curriculum.source_steps == 4
    t = times(curriculum, 10)
    assert bool((t[:4] == 1).all()) and bool((t[4:] < 1).all())
    # A validation loss, or a caller without numbers, sees the later times.
    assert bool((curriculum.times(3, draws(0, 3)) < 1).all())


def test_samples_at_the_source_have_their_share_and_leave_the_others_even():
    # kills: at-source-inverted
    t = times(Curriculum(at_source=0.2, batch_size=50), 200).flatten()
    at_source = int((t == 1).sum())
    assert abs(at_source - 2000) < 4 * math.sqrt(10_000 * 0.2 * 0.8)
    assert stats.kstest(t[t < 1].numpy(), "uniform").pvalue > 1e-3


def test_strata_hold_one_sample_each_and_do_not_depend_on_the_micro_batch():
    # kills: strata-by-position
    curriculum = Curriculum(time="stratified", batch_size=8)
    t = times(curriculum, 200)
    for row in t:
        assert sorted(((1 - row) * 8).floor().int().tolist()) == list(range(8))
    halves = [curriculum.times(4, draws(first, 4), torch.arange(first, first + 4)) for first in (0, 4)]
    assert torch.equal(torch.cat(halves), t[0])
    assert stats.kstest(t.flatten().numpy(), "uniform").pvalue > 1e-3
    # The strata of a step are shuffled: the first sample of a batch is not always the latest.
    assert len({int((1 - row[0]) * 8) for row in t}) == 8


def test_logit_normal_times():
    # kills: logit-normal-of-the-noise
    t = times(Curriculum(time="logit-normal", batch_size=100), 50).flatten()
    assert stats.kstest(torch.log(t / (1 - t)).numpy(), "norm").pvalue > 1e-3


T = torch.tensor([0.05, 0.3, 0.7, 1.0], dtype=torch.float64)


@pytest.mark.parametrize(
    ("process", "target"),
    [
        (I2SB(1.0), I2SBTarget()),
        (GaussianPrior(), EpsTarget()),
        (SourceNoise(0.3), X0Target()),
        (BrownianBridge(0.5), PreconditionedTarget(0.25, 0.3, 0.2)),
    ],
)
def test_weights_of_an_error_of_x_0_hat_are_the_closed_forms(process, target):
    """The error of F counts w, so that of x_0_hat counts w / k_o^2: min(1 / k_o^2, 5), and Karras et al.'s."""
    # kills: min-snr-without-the-output-scale, edm-without-the-output-scale
    k_o2 = target.weights(process, T).k_o.square()
    cut = Curriculum(weight="min-snr").weights(process, target, T) / k_o2
    assert torch.allclose(cut, torch.minimum(1 / k_o2, torch.tensor(5.0, dtype=torch.float64)))
    _, b, c = process.coefficients(T)
    for_x_0 = Curriculum(weight="edm").weights(process, target, T) / k_o2
    for i in range(3):
        s2, v = float((c[i] / b[i]) ** 2), 0.25
        assert float(for_x_0[i]) == pytest.approx((s2 + v) / (s2 * v), rel=1e-9)
    even = Curriculum().weights(process, target, T)
    assert torch.equal(even, torch.ones_like(T))


def test_edm_weights_of_a_preconditioned_denoiser_are_even():
    """EDM's preconditioning is built so that its weight is 1 for the network's output: a = 0, v = sigma_data^2."""
    process = GaussianPrior()
    weights = Curriculum(weight="edm").weights(process, PreconditionedTarget(0.25, 0.25, 0.0), T[:3])
    assert torch.allclose(weights, torch.ones(3, dtype=torch.float64), rtol=1e-9)


def test_a_noiseless_path_has_finite_weights():
    for weight in ("min-snr", "edm"):
        values = Curriculum(weight=weight).weights(LinearFlow(), X0Target(), T)
        assert bool(values.isfinite().all()) and bool((values > 0).all())


def test_norms_of_the_error():
    # kills: huber-with-another-knee
    output, wanted = torch.tensor([0.0, 0.0, 0.0]), torch.tensor([0.05, -2.0, HUBER])
    assert torch.allclose(Curriculum(loss="mse").error(output, wanted), torch.tensor([0.0025, 4.0, HUBER**2]))
    assert torch.allclose(Curriculum(loss="l1").error(output, wanted), torch.tensor([0.05, 2.0, HUBER]))
    huber = torch.tensor([0.5 * 0.05**2, HUBER * (2.0 - HUBER / 2), 0.5 * HUBER**2])
    assert torch.allclose(Curriculum(loss="huber").error(output, wanted), huber)
