"""Plans: the numbers of a walk, read off the sampler, give the walk's own result."""

import itertools
from dataclasses import replace

import pytest
import torch
from torch import nn

from i2i_bridge import UserError, registry
from i2i_bridge.bridge.processes import I2SB, BrownianBridge, GaussianPrior, LinearFlow, SourceNoise
from i2i_bridge.bridge.samplers import ancestral, eta_sampler
from i2i_bridge.bridge.targets import EpsTarget, I2SBTarget, PreconditionedTarget, VelocityTarget, X0Target
from i2i_bridge.bridge.time_grids import uniform
from i2i_bridge.guidance.projection import DDNM
from i2i_bridge.methods.bridge import Bridge
from i2i_bridge.methods.mean import Mean
from i2i_bridge.methods.pix2pix import Pix2pix
from i2i_bridge.methods.regression import Regression
from i2i_bridge.randomness import randn_like
from i2i_bridge.runs.plan import plan_of, restored, sampler_weights


class Network(nn.Module):
    """An answer that depends on all inputs."""

    def __init__(self, factor=0.7):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor, dtype=torch.float64))

    def forward(self, x_t, t, condition):
        output = torch.sin(self.factor * x_t.roll(1, -1)) + t.reshape(-1, 1, 1, 1) * 0.3
        return output if condition is None else output + 0.5 * condition


def images(seed, channels=3):
    draws = torch.Generator().manual_seed(seed)
    return torch.rand(2, channels, 6, 7, generator=draws, dtype=torch.float64) * 2 - 1


def walked(method, nfe, batch, seed=3):
    *_, last = method.trajectory(batch, nfe=nfe, generator=torch.Generator().manual_seed(seed))
    return last.detach()


def planned(method, nfe, batch, seed=3):
    stages = plan_of(method, nfe)
    draws = torch.Generator().manual_seed(seed)
    noises = [randn_like(batch["x_1"], draws) for _ in range(sum(stage.draws for stage in stages))]
    networks = {"network": method.network}
    if getattr(method, "mean", None) is not None:
        networks["mean"] = method.mean.method.network

    def called(network):
        return lambda x, time, condition: network(x, torch.full((len(x),), time, dtype=torch.float64), condition)

    noise = iter(noises)
    result = restored(
        stages,
        {name: called(network) for name, network in networks.items()},
        batch["x_1"],
        batch.get("mask"),
        batch.get("condition"),
        noise,
        clip=lambda x: x.clamp(-1, 1),
        choose=lambda mask, a, b: torch.where(mask > 0.5, a, b),
    )
    assert next(noise, None) is None
    return result.detach()


FITTING = [
    (I2SB(), I2SBTarget()),
    (BrownianBridge(), PreconditionedTarget()),
    (GaussianPrior(), EpsTarget()),
    (LinearFlow(), VelocityTarget()),
    (SourceNoise(), X0Target()),
]
SAMPLERS = [name for name in registry.SAMPLERS.names() if name != "ot-ode"]


@pytest.mark.parametrize(
    ("parts", "sampler", "nfe"), [*itertools.product(FITTING, SAMPLERS, (1, 2, 5)), (FITTING[0], "ot-ode", 4)]
)
def test_a_plan_gives_the_result_of_the_walk(parts, sampler, nfe):
    """For every sampler of the package, with the same noise."""
    # kills: plan-forgets-the-answer-before, plan-forgets-c-in, plan-starts-without-noise
    process, target = parts
    method = Bridge(Network(), process, target, condition=True, sampler=registry.SAMPLERS.get(sampler))
    batch = {"x_1": images(0)}
    assert torch.allclose(planned(method, nfe, batch), walked(method, nfe, batch), atol=1e-9)


def test_masks_conditions_clipping_and_a_mean_are_in_the_plan():
    # kills: plan-without-known-pixels, plan-clips-nothing, plan-of-a-mean-unclipped, plan-mean-forgets-x-1
    x_1, condition = 1.4 * images(0), images(1)
    mask = (images(2, 1) > 0).double()
    mean = Mean(Bridge(Network(1.9), BrownianBridge(), X0Target(), condition=True), nfe=2)
    plain = Bridge(Network(), I2SB(beta_max=2.0), I2SBTarget(), condition=True, clip=True)
    for method in (
        plain,
        replace(plain, clip=False, mean=mean),
        Regression(Network(), I2SB(), I2SBTarget(), True, True),
    ):
        for batch in ({"x_1": x_1}, {"x_1": x_1, "mask": mask}, {"x_1": x_1, "mask": mask, "condition": condition}):
            assert torch.allclose(planned(method, 3, batch), walked(method, 3, batch), atol=1e-9)
    assert [stage.network for stage in plan_of(replace(plain, mean=mean), 3)] == ["mean", "network"]
    pix2pix = Pix2pix(Network(), nn.Identity(), condition=True, inference="eval")
    batch = {"x_1": x_1, "mask": mask, "condition": condition}
    assert torch.allclose(planned(pix2pix, 1, batch), walked(pix2pix, 1, batch), atol=1e-6)  # it says t in float32


def test_weights_of_the_ancestral_sampler_are_those_of_the_posterior():
    """p(X_s | X_0, X_t) of the Brownian bridge from t = 3/4 to s = 1/2: mean (2/3) X_t + (1/3) x_0_hat, variance 1/6.

    (t - s) / t = 1/3, and sigma_1^2 s (t - s) / t = 1/6 for sigma_1 = 1.
    """
    start, steps = sampler_weights(ancestral, BrownianBridge(1.0), uniform(BrownianBridge(), 4), {})
    (t, weights) = steps[1]
    assert (start.x_1, start.noise, t) == (1.0, 0.0, 0.75)
    assert (weights.x_t, weights.x_0_hat) == (pytest.approx(2 / 3, abs=1e-12), pytest.approx(1 / 3, abs=1e-12))
    assert abs(weights.noise) == pytest.approx((1 / 6) ** 0.5, abs=1e-12)
    assert (weights.x_1, weights.previous) == (0.0, 0.0)


def squared(process, predict_x0, x_1, times, generator, *, start=None):
    for state in eta_sampler(process, predict_x0, x_1, times, generator, start=start):
        yield state + 1e-6 * state.square()


def twice(process, predict_x0, x_1, times, generator, *, start=None):
    for state in eta_sampler(process, predict_x0, x_1, times, generator, start=start):
        yield state + randn_like(state, generator) + randn_like(state, generator)


@pytest.mark.parametrize(("sampler", "says"), [(squared, "no weighted sum"), (twice, "more than one noise image")])
def test_a_sampler_that_is_no_sum_is_refused(sampler, says):
    # kills: plan-of-any-sampler
    with pytest.raises(UserError, match=says):
        plan_of(Bridge(Network(), I2SB(), I2SBTarget(), sampler=sampler), 3)


def test_what_has_no_plan_is_refused_in_one_line():
    class Other:
        network = Network()

    guided = Bridge(Network(), I2SB(), I2SBTarget(), guidance=DDNM())
    for method, says in ((Pix2pix(Network(), nn.Identity()), "dropout"), (guided, "guidance DDNM"), (Other(), "Other")):
        with pytest.raises(UserError, match=says):
            plan_of(method, 2)
