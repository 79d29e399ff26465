"""The bridge as a method, with networks that know the answer."""

import pytest
import torch

from i2i_bridge.bridge.predictor import keep_known, predictor
from i2i_bridge.bridge.processes import I2SB, OTODE, BrownianBridge
from i2i_bridge.bridge.released import OfficialGrid
from i2i_bridge.bridge.samplers import deterministic, eta_sampler, ot_ode
from i2i_bridge.bridge.targets import I2SBTarget, PreconditionedTarget, X0Target
from i2i_bridge.bridge.time_grids import quadratic
from i2i_bridge.methods.bridge import Bridge


class CrossingPairs(torch.nn.Module):
    """E[X_0 | X_t(, X_1)] of two pairs that cross: X_1 = +1 belongs to X_0 = -1 and the other way round."""

    def __init__(self, process):
        super().__init__()
        self.process = process

    def forward(self, x_t, t, condition):
        if condition is not None:
            return -condition.sign()
        a, b, c = (v.reshape(-1, 1, 1, 1).to(x_t) for v in self.process.coefficients(t))
        if float(c.max()) == 0:
            return -x_t.sign()
        # log-odds of the pair (X_0, X_1) = (+1, -1) against (-1, +1)
        return torch.tanh((b - a) * x_t / c.square())


def right_partner(condition, nfe):
    process = BrownianBridge(0.36)
    bridge = Bridge(CrossingPairs(process), process, X0Target(), condition=condition)
    x_1 = torch.ones(4000, 1, 1, 1, dtype=torch.float64)
    *_, last = bridge.trajectory({"x_1": x_1}, nfe=nfe, generator=torch.Generator().manual_seed(0))
    return (last < 0).double().mean().item()


@pytest.mark.parametrize("nfe", [1, 5, 50])
def test_conditioning_on_x_1_keeps_the_coupling(nfe):
    # kills: condition-dropped
    assert right_partner(True, nfe) > 0.99


def test_without_x_1_only_the_marginals_are_kept():
    """Augmented Bridge Matching: the reason why X_1 conditioning is the default of translation."""
    assert right_partner(False, 1) > 0.99
    assert 0.5 < right_partner(False, 5) < 0.9
    assert right_partner(False, 50) < 0.5


def test_the_masked_loss_counts_known_pixels_as_zero():
    """The mean runs over all pixels, as in the released code: a small hole weighs little."""
    # kills: loss-divided-by-the-hole
    x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(2, 1, 8, 8)
    mask[0, :, 2:6, 2:6] = 1
    ((_, loss),) = Bridge(Echo(torch.zeros(1, 1, 1, 1)), OTODE(), X0Target()).losses(
        {"x_0": x, "x_1": x, "mask": mask}, torch.Generator()
    )
    assert loss.item() == pytest.approx(float(x[0, :, 2:6, 2:6].square().sum()) / x.numel(), rel=1e-5)


class Echo(torch.nn.Module):
    """Answers with a fixed image and remembers what it was shown."""

    def __init__(self, answer):
        super().__init__()
        self.answer = torch.nn.Parameter(answer)
        self.seen = []

    def forward(self, x_t, t, condition):
        self.seen.append((x_t, t, condition))
        return self.answer.expand_as(x_t)


def test_mask_keeps_known_pixels_to_the_last_bit_and_their_loss_at_zero():
    # kills: inverted-mask, mask-forgotten-in-loss
    g = torch.Generator().manual_seed(0)
    x_0 = torch.rand(2, 3, 8, 8, generator=g) * 2 - 1
    mask = torch.zeros(2, 1, 8, 8)
    mask[..., 2:6, 2:6] = 1
    x_1 = torch.where(mask > 0, torch.randn(2, 3, 8, 8, generator=g), x_0)
    for process in (I2SB(), OTODE()):
        network = Echo(torch.zeros(1, 3, 8, 8))
        bridge = Bridge(network, process, I2SBTarget())
        for nfe in (1, 4):
            *_, last = bridge.trajectory(
                {"x_1": x_1, "mask": mask}, nfe=nfe, generator=torch.Generator().manual_seed(1)
            )
            known = (mask == 0).expand_as(last)
            assert torch.equal(last[known], x_0[known])
            assert not torch.equal(last[~known], x_0[~known])
        ((_, loss),) = bridge.losses({"x_0": x_0, "x_1": x_1, "mask": mask}, torch.Generator().manual_seed(2))
        loss.backward()
        gradient = network.answer.grad[0]
        assert torch.equal(gradient[:, mask[0, 0] == 0], torch.zeros_like(gradient[:, mask[0, 0] == 0]))
        assert bool((gradient[:, mask[0, 0] == 1] != 0).all())


def test_loss_is_the_mean_squared_error_to_equation_12():
    # kills: division-by-sigma-squared
    x_0, x_1 = torch.full((1, 1, 2, 2), 0.2), torch.full((1, 1, 2, 2), 0.6)
    network = Echo(torch.zeros(1, 1, 1, 1))
    process = OTODE(0.3)
    ((_, loss),) = Bridge(network, process, I2SBTarget()).losses(
        {"x_0": x_0, "x_1": x_1}, torch.Generator().manual_seed(0)
    )
    x_t, t, _ = network.seen[0]
    wanted = ((x_t - x_0) / process.sigma(t).item()).square().mean()
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-6)
    assert 0 < t.item() <= 1


def test_times_are_even_over_the_whole_bridge():
    # kills: times-of-the-noisy-half
    network, x = Echo(torch.zeros(1, 1, 1, 1)), torch.zeros(4000, 1, 1, 1)
    list(Bridge(network, I2SB(), X0Target()).losses({"x_0": x, "x_1": x}, torch.Generator().manual_seed(0)))
    t = network.seen[0][1].sort().values
    assert (t - (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000).abs().max() < 0.03  # Kolmogorov-Smirnov
    assert t.min() > 0 and t.max() <= 1


def test_condition_is_x_1_or_the_pairs_own():
    # kills: condition-dropped
    x = torch.rand(1, 3, 4, 4)
    network = Echo(torch.zeros(1, 1, 1, 1))
    bridge = Bridge(network, I2SB(), X0Target(), condition=True)
    list(bridge.losses({"x_0": x, "x_1": x + 1}, torch.Generator()))
    list(bridge.losses({"x_0": x, "x_1": x + 1, "condition": x + 2}, torch.Generator()))
    assert torch.equal(network.seen[0][2], x + 1) and torch.equal(network.seen[1][2], x + 2)


def test_training_noise_does_not_depend_on_the_batch():
    g = torch.Generator().manual_seed(0)
    x_0, x_1 = torch.rand(4, 1, 4, 4, generator=g), torch.rand(4, 1, 4, 4, generator=g)

    def loss(rows):
        draws = [torch.Generator().manual_seed(i) for i in rows]
        ((_, value),) = Bridge(Echo(torch.zeros(1, 1, 1, 1)), I2SB(), I2SBTarget()).losses(
            {"x_0": x_0[rows], "x_1": x_1[rows]}, draws
        )
        return value.item()

    assert loss([0, 1, 2, 3]) == pytest.approx((loss([0, 1]) + loss([2, 3])) / 2, rel=1e-6)


def test_clip_limits_both_ends_and_nothing_between():
    # kills: clipped-at-black-of-another-range
    x = torch.tensor([[[[-0.9, -0.15, 0.0, 0.1, 0.9]]]])
    predict_x0 = predictor(lambda x, t, condition: x * 5, I2SB(), X0Target(), x, clip=True)
    assert torch.equal(predict_x0(x, torch.tensor([0.5])), torch.tensor([[[[-1.0, -0.75, 0.0, 0.5, 1.0]]]]))


def test_clip_limits_x_0_hat():
    predict_x0 = predictor(lambda x, t, condition: x * 5, I2SB(), X0Target(), torch.ones(1, 1, 1, 1), clip=True)
    assert predict_x0(torch.tensor([[[[0.9]]]]), torch.tensor([0.5])).item() == 1.0


def test_keep_known_is_exact_even_for_infinities():
    x_1 = torch.tensor([[[[0.1, 0.2]]]])
    kept = keep_known(torch.tensor([[[[float("inf"), 0.7]]]]), x_1, torch.tensor([[[[0.0, 1.0]]]]))
    assert torch.equal(kept, torch.tensor([[[[0.1, 0.7]]]]))


def test_the_network_is_told_the_processes_own_time():
    """The released checkpoints know index k as 1e-4 + k (1 - 1e-4) / (N - 1), in training and in sampling."""
    # kills: network-time-forgotten, network-time-forgotten-in-loss
    process, x = OfficialGrid(10, 0.3), torch.rand(1, 1, 4, 4)
    network = Echo(torch.zeros(1, 1, 1, 1))
    predictor(network, process, X0Target(), x)(x, torch.tensor([0.35], dtype=torch.float64))
    told = network.seen[0][1]
    assert told.item() == pytest.approx(1e-4 + 3 * (1 - 1e-4) / 9) and told.item() != pytest.approx(0.35)
    list(Bridge(network, process, X0Target()).losses({"x_0": x, "x_1": x}, torch.Generator().manual_seed(0)))
    index = (network.seen[1][1].item() - 1e-4) * 9 / (1 - 1e-4)
    assert index == pytest.approx(round(index), abs=1e-9)


def test_the_network_sees_the_targets_input():
    """c_in X_t, in training and in sampling (Eq. 22): X_t = 3 everywhere, Var(X_t) = 4."""
    # kills: input-scale-forgotten, input-scale-forgotten-in-loss
    network, three = Echo(torch.zeros(1, 1, 1, 1)), torch.full((2, 1, 4, 4), 3.0)
    bridge = Bridge(network, OTODE(), PreconditionedTarget(4.0, 4.0, 4.0 - 1e-6))
    list(bridge.losses({"x_0": three, "x_1": three}, torch.Generator().manual_seed(0)))
    list(bridge.trajectory({"x_1": three}, nfe=1, generator=torch.Generator()))
    for x, _, _ in network.seen:
        assert torch.allclose(x, torch.full_like(x, 1.5))


def test_the_loss_is_taken_where_the_proposal_says():
    # kills: proposal-ignored-in-loss
    class Sevens:
        def check(self, process):
            pass

        def sample(self, process, x_0, x_1, t, generator):
            return torch.full_like(x_0, 7.0)

    network, x = Echo(torch.zeros(1, 1, 1, 1)), torch.rand(1, 1, 4, 4)
    list(Bridge(network, I2SB(), X0Target(), proposal=Sevens()).losses({"x_0": x, "x_1": x}, torch.Generator()))
    assert torch.equal(network.seen[0][0], torch.full_like(x, 7.0))


def test_the_walk_uses_its_grid_sampler_options_and_clip():
    # kills: walk-on-another-grid, walk-without-options, walk-unclipped
    x = torch.rand(1, 1, 4, 4)

    def states(answer=0.5, seed=0, **choices):
        network = Echo(torch.full((1, 1, 1, 1), answer))
        bridge = Bridge(network, BrownianBridge(0.5), X0Target(), **choices)
        walked = list(bridge.trajectory({"x_1": x}, nfe=4, generator=torch.Generator().manual_seed(seed)))
        return walked, [t.item() for _, t, _ in network.seen]

    assert states(grid=quadratic)[1] == [1, 0.5625, 0.25, 0.0625]
    assert states()[1] == [1, 0.75, 0.5, 0.25]
    still, same = (states(sampler=ot_ode, seed=seed)[0] for seed in (1, 2))
    assert all(map(torch.equal, still, same)) and not torch.equal(still[0], states(seed=1)[0][0])
    options = states(sampler=eta_sampler, sampler_options={"eta": 0.0})[0]
    assert all(map(torch.equal, options, states(sampler=deterministic)[0]))
    assert not torch.equal(options[1], states(sampler=eta_sampler)[0][1])
    assert states(answer=5.0, clip=True)[0][-1].max() == 1 and states(answer=5.0)[0][-1].min() == 5
