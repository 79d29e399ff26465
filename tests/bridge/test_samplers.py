"""Each claim about the samplers; `kills` names the planted mistake (tests/mutants.py) that the test must catch."""

import itertools
import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from i2i_bridge.bridge.base import Coefficients, Process, as_times
from i2i_bridge.bridge.contract import check_sampler
from i2i_bridge.bridge.processes import I2SB, NADB, OTODE, BrownianBridge, GaussianPrior, LinearFlow, VEBridge, VPBridge
from i2i_bridge.bridge.released import OfficialGrid
from i2i_bridge.bridge.samplers import (
    ancestral,
    deterministic,
    eta_sampler,
    heun,
    ot_ode,
    points,
    second_order_multistep,
    second_order_multistep_sde,
    update,
)
from i2i_bridge.bridge.time_grids import log_snr, uniform, uniform_lambda
from i2i_bridge.registry import SAMPLERS, TIME_GRIDS

PROCESSES = [I2SB(), OTODE(), BrownianBridge(), VEBridge(2.0), VPBridge(), GaussianPrior(), LinearFlow(), NADB()]


def ids(process):
    return type(process).__name__


@pytest.mark.parametrize("process", PROCESSES, ids=ids)
@pytest.mark.parametrize("name", SAMPLERS.names())
@pytest.mark.parametrize("grid", ["uniform", "karras"])
def test_contract(process, name, grid):
    """Oracle returned exactly, calls == nfe, deterministic by generator, for every sampler, process and grid."""
    # kills: last-step-weight, hidden-extra-call, off-by-one-grid
    if name == "ot-ode" and isinstance(process, GaussianPrior):
        with pytest.raises(ValueError, match="starts from noise"):
            list(ot_ode(process, lambda x, t: x, torch.zeros(1, 1, 1, 1), uniform(process, 2), torch.Generator()))
        return
    assert check_sampler(SAMPLERS.get(name), process, TIME_GRIDS.get(grid)) == []


@pytest.mark.parametrize("name", SAMPLERS.names())
@pytest.mark.parametrize("grid", ["official", "uniform", "quadratic", "karras"])
def test_contract_on_a_table(name, grid):
    """On the released code's tables two times may lie in one cell, where no slope can be taken."""
    # kills: slope-over-an-empty-step
    assert check_sampler(SAMPLERS.get(name), OfficialGrid(12, 0.3), TIME_GRIDS.get(grid)) == []


@pytest.mark.parametrize("nfe", [3, 6, 7, 10])
def test_heun_s_fewer_steps_are_spread_as_the_grid_is(nfe):
    """On a uniform grid of n calls its m < n steps are of 1 / m each: not some of the grid's points, unevenly."""
    # kills: heun-takes-the-nearest-points
    process, told = BrownianBridge(), []

    def predict_x0(x, t):
        told.append(t.item())
        return 0.5 * x

    steps = len(list(heun(process, predict_x0, torch.zeros(1, 1, 1, 1), uniform(process, nfe), torch.Generator())))
    assert len(told) == nfe
    assert sorted(set(told), reverse=True) == pytest.approx(torch.linspace(1, 0, steps + 1).tolist()[:-1], abs=1e-6)


def test_heun_spends_its_calls_wherever_the_walk_ends():
    calls = []

    def predict_x0(x, t):
        calls.append(float(t[0]))
        return 0.5 * x

    times = torch.linspace(1, 0.2, 9, dtype=torch.float64)
    list(heun(I2SB(), predict_x0, torch.ones(1, 1, 1, 1), times, torch.Generator()))
    assert len(calls) == 8


def test_check_sampler_names_what_is_wrong():
    def greedy(process, predict_x0, x_1, times, generator, *, start=None):
        predict_x0(x_1, torch.full((x_1.shape[0],), 0.5))
        yield from ancestral(process, predict_x0, x_1, times, generator)

    def unfinished(process, predict_x0, x_1, times, generator, *, start=None):
        for state in ancestral(process, predict_x0, x_1, times, generator):
            yield state * 0.999

    def global_noise(process, predict_x0, x_1, times, generator, *, start=None):
        yield from ancestral(process, predict_x0, x_1 + 0 * torch.randn(1), times, generator)

    assert any("called" in line for line in check_sampler(greedy, I2SB(), uniform))
    assert any("oracle" in line for line in check_sampler(unfinished, I2SB(), uniform))
    assert any("global" in line for line in check_sampler(global_noise, I2SB(), uniform))


@given(st.integers(0, 5), st.floats(0.02, 0.98), st.floats(0.02, 0.98), st.floats(0, 1))
@settings(deadline=None, max_examples=150)
def test_update_keeps_the_law_of_the_state(which, one, other, eta):
    """(U) maps q(X_s | X_0, X_1) to q(X_t | X_0, X_1) for every process and eta: mean and variance, to 1e-12."""
    # kills: swapped-weights, posterior-variance, eta-only-on-noise
    process = PROCESSES[which]
    s_time, t_time = max(one, other), min(one, other)
    if s_time - t_time < 1e-6:
        return
    s_and_t = torch.tensor([s_time, t_time], dtype=torch.float64)
    s, t = points(process, s_and_t)
    step = update(s, t, 0.0 if process.deterministic else eta)
    x_0, x_1 = 0.6, -0.9
    (a_s, a_t), (b_s, b_t), (c_s, c_t) = (v.tolist() for v in process.coefficients(s_and_t))
    assert step.k_1 * x_1 + step.k_d * x_0 + step.k_s * (a_s * x_1 + b_s * x_0) == pytest.approx(
        a_t * x_1 + b_t * x_0, abs=1e-12
    )
    assert step.k_s**2 * c_s**2 + step.w**2 == pytest.approx(c_t**2, abs=1e-12)


def test_ancestral_step_equals_the_gaussian_product_posterior():
    """I2SB Prop. 3.3 written out: the product of N(X_0, sigma_t^2) and N(X_s, sigma_s^2 - sigma_t^2)."""
    # kills: swapped-weights, posterior-variance
    process = I2SB(0.3)
    s_time, t_time = 0.7, 0.4
    s, t = points(process, torch.tensor([s_time, t_time], dtype=torch.float64))
    here, step_variance = (
        process.sigma(t_time).item() ** 2,
        process.sigma(s_time).item() ** 2 - process.sigma(t_time).item() ** 2,
    )
    got = update(s, t, 1.0)
    assert got.k_d == pytest.approx(step_variance / (here + step_variance), rel=1e-12)
    assert got.k_s == pytest.approx(here / (here + step_variance), rel=1e-12)
    assert got.w**2 == pytest.approx(here * step_variance / (here + step_variance), rel=1e-12)


def test_ancestral_of_the_gaussian_prior_is_ddpm():
    """With a = 0 the rule is DDPM's posterior, beta_tilde included."""
    process = GaussianPrior()
    s_time, t_time = 0.5, 0.49
    s, t = points(process, torch.tensor([s_time, t_time], dtype=torch.float64))
    bar_s, bar_t = (process.coefficients(v).b.item() ** 2 for v in (s_time, t_time))
    alpha = bar_s / bar_t
    got = update(s, t, 1.0)
    assert got.w**2 == pytest.approx((1 - bar_t) / (1 - bar_s) * (1 - alpha), rel=1e-10)
    assert got.k_s == pytest.approx(math.sqrt(alpha) * (1 - bar_t) / (1 - bar_s), rel=1e-10)
    assert got.k_d == pytest.approx(math.sqrt(bar_t) * (1 - alpha) / (1 - bar_s), rel=1e-10)


class GaussianPair:
    """X_0 | X_1 ~ N(m, v), scalar: every conditional expectation is known."""

    def __init__(self, process, mean=0.3, variance=0.25, x_1=1.0):
        self.process, self.mean, self.variance, self.x_1 = process, mean, variance, x_1

    def predict_x0(self, x_t, t):
        a, b, c = (v.reshape(-1, 1, 1, 1) for v in self.process.coefficients(t))
        spread = b * b * self.variance + c * c
        gain = torch.where(spread > 0, b * self.variance / spread, torch.zeros_like(b))
        return self.mean + gain * (x_t - a * self.x_1 - b * self.mean)

    def moments(self, t):
        a, b, c = (v.item() for v in self.process.coefficients(t))
        return a * self.x_1 + b * self.mean, b * b * self.variance + c * c


def solver_order(solve, exact, pair, counts=(16, 32, 64)):
    begin, end = 0.9, 0.1
    edges = log_snr(pair.process, torch.tensor([begin, end], dtype=torch.float64))
    mean, variance = pair.moments(begin)
    start = torch.full((1, 1, 1, 1), mean + 1.3 * math.sqrt(variance), dtype=torch.float64)
    x_1 = torch.full_like(start, pair.x_1)
    errors = []
    for n in counts:
        lambdas = torch.linspace(float(edges[0]), float(edges[1]), n + 1, dtype=torch.float64)
        low, high = torch.zeros_like(lambdas), torch.ones_like(lambdas)
        for _ in range(60):
            middle = (low + high) / 2
            clean = log_snr(pair.process, middle) > lambdas
            low, high = torch.where(clean, middle, low), torch.where(clean, high, middle)
        result = solve(pair, x_1, (low + high) / 2, start)
        errors.append(abs(result - exact(pair, start.item(), begin, end)))
    return [math.log2(coarse / fine) for coarse, fine in itertools.pairwise(errors)]


def flow_map(pair, x, s, t):
    """The probability-flow ODE of a Gaussian keeps the number of standard deviations."""
    (mean_s, var_s), (mean_t, var_t) = pair.moments(s), pair.moments(t)
    return mean_t + math.sqrt(var_t / var_s) * (x - mean_s)


def walk(sampler):
    def solve(pair, x_1, times, start):
        *_, last = sampler(pair.process, pair.predict_x0, x_1, times, torch.Generator(), start=start)
        return last.item()

    return solve


@pytest.mark.parametrize("process", [BrownianBridge(0.5), I2SB(1.0), VPBridge(), NADB()], ids=ids)
def test_first_order_of_the_deterministic_sampler(process):
    for slope in solver_order(walk(deterministic), flow_map, GaussianPair(process)):
        assert slope == pytest.approx(1.0, abs=0.15)


@pytest.mark.parametrize("process", [BrownianBridge(0.5), I2SB(1.0), VPBridge(), NADB()], ids=ids)
@pytest.mark.parametrize("sampler", [second_order_multistep, heun], ids=["2m", "heun"])
def test_second_order_of_2m_and_heun(process, sampler):
    # kills: heun-is-euler, 2m-slope-sign
    for slope in solver_order(walk(sampler), flow_map, GaussianPair(process), counts=(32, 64, 128)):
        assert slope == pytest.approx(2.0, abs=0.15)


class Strangers(GaussianPair):
    """X_0 ~ N(m, v) and X_1 ~ N(1, 0.09), independent, X_1 unseen by the network: a noiseless path then bends."""

    def predict_x0(self, x_t, t):
        a, b, _ = (v.reshape(-1, 1, 1, 1) for v in self.process.coefficients(t))
        mean, spread = a * self.x_1 + b * self.mean, 0.09 * a * a + b * b * self.variance
        return self.mean + b * self.variance / spread * (x_t - mean)

    def moments(self, t):
        a, b, _ = (v.item() for v in self.process.coefficients(t))
        return a * self.x_1 + b * self.mean, 0.09 * a * a + b * b * self.variance


@pytest.mark.parametrize("process", [OTODE(), LinearFlow()], ids=ids)
@pytest.mark.parametrize(
    ("sampler", "order"), [(deterministic, 1), (ot_ode, 1), (second_order_multistep, 2), (heun, 2)]
)
def test_orders_on_noiseless_paths(process, sampler, order):
    # kills: heun-is-euler, 2m-slope-sign, noiseless-level-squared
    for slope in solver_order(walk(sampler), flow_map, Strangers(process), counts=(64, 128, 256)):
        assert slope == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize("process", [BrownianBridge(0.5), I2SB(1.0), VPBridge()], ids=ids)
def test_second_order_of_2m_sde_without_noise(process):
    """With eta = 0 it solves the same equation. Not for every pair: for some, the error passes through 0."""
    # kills: 2m-sde-gain-of-eta-one, 2m-sde-no-correction
    solve, pair = walk(partial(second_order_multistep_sde, eta=0.0)), GaussianPair(process, variance=1.0)
    for slope in solver_order(solve, flow_map, pair, counts=(64, 128, 256)):
        assert slope == pytest.approx(2.0, abs=0.15)


@pytest.mark.parametrize("process", [BrownianBridge(0.5), I2SB(1.0), VPBridge()], ids=ids)
def test_ancestral_mean_is_exact_and_its_spread_first_order(process):
    """On a Gaussian pair E[X_t | X_s] is linear, and the ancestral chain gets it exactly on any grid, since the
    posterior's mean is linear in X_0; what few steps lose is spread, and that error is of order 1."""
    # kills: swapped-weights, posterior-variance
    pair = GaussianPair(process, variance=0.04)
    (mean_s, var_s), (mean_t, var_t) = pair.moments(0.9), pair.moments(0.1)
    at_0, at_1 = (torch.full((1, 1, 1, 1), value, dtype=torch.float64) for value in (0.0, 1.0))
    slopes, errors = [], []
    for n in (16, 32, 64, 128):
        walk = points(process, torch.linspace(0.9, 0.1, n + 1, dtype=torch.float64))
        mean, slope, variance = mean_s + 1.0, 1.0, var_s
        for s, t in itertools.pairwise(walk):
            step, now = update(s, t, 1.0), torch.tensor([s.t], dtype=torch.float64)
            d_0, d_1 = (pair.predict_x0(x, now).item() for x in (at_0, at_1))
            gain = step.k_s + step.k_d * (d_1 - d_0)
            mean = gain * mean + step.k_d * d_0 + step.k_1 * pair.x_1
            slope, variance = slope * gain, gain * gain * variance + step.w**2
        slopes.append(slope)
        errors.append(abs(variance - var_t))
        assert mean == pytest.approx(mean_t + slope, abs=1e-12)
    assert max(slopes) - min(slopes) < 1e-12
    for coarse, fine in itertools.pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(1.0, abs=0.15)


@pytest.mark.parametrize("process", [BrownianBridge(0.5), I2SB(1.0), VPBridge(), GaussianPrior()], ids=ids)
@pytest.mark.parametrize(
    ("sampler", "options"),
    [
        *((eta_sampler, {"eta": eta}) for eta in (0.0, 0.4, 1.0)),
        (second_order_multistep, {}),
        (heun, {}),
        *((second_order_multistep_sde, {"eta": eta}) for eta in (0.0, 0.4, 1.0, 2.0)),
    ],
)
def test_with_an_oracle_every_state_follows_the_marginal(process, sampler, options):
    """Where x_0_hat = X_0, each X_t of the walk is a draw from q(X_t | X_0, X_1), whatever the sampler and its eta."""
    # kills: 2m-sde-gain-of-eta-one, 2m-sde-noise-of-eta-one, boot-noise-dropped
    pixels = 20_000
    x_0, x_1 = (torch.full((1, 1, 1, pixels), value, dtype=torch.float64) for value in (0.6, -0.9))
    # Not from t = 1 where the prior is not pinned: its b_1 is taken as 0 there.
    first = 1.0 if process.pinned else 0.95
    times = torch.linspace(first, 0, 7, dtype=torch.float64)
    start = None if process.pinned else process.marginal(x_0, x_1, first).sample(torch.Generator().manual_seed(8))
    seen = []

    def oracle(x_t, t):
        seen.append((x_t, float(t[0])))
        return x_0

    list(sampler(process, oracle, x_1, times, torch.Generator().manual_seed(9), start=start, **options))
    assert len(seen) == 6
    for x_t, t in seen[1:]:
        a, b, c = (float(value) for value in process.coefficients(t))
        assert x_t.mean().item() == pytest.approx(a * -0.9 + b * 0.6, abs=5 * c / math.sqrt(pixels))
        assert x_t.std().item() == pytest.approx(c, rel=5 / math.sqrt(2 * pixels))


def test_a_process_that_is_not_pinned_starts_around_its_share_of_x_1():
    """As ResShift and IR-SDE do: X_1 + noise, not noise alone."""
    # kills: start-without-x-1

    class Drifting(Process):
        pinned = False

        def coefficients(self, t):
            b = torch.exp(-5 * as_times(t))
            return Coefficients(1 - b, b, 0.4 * torch.sqrt(1 - b * b))

    seen = []

    def predict_x0(x_t, t):
        seen.append(x_t)
        return x_t

    x_1 = torch.full((1, 1, 1, 20_000), 2.0, dtype=torch.float64)
    list(ancestral(Drifting(), predict_x0, x_1, uniform(Drifting(), 1), torch.Generator().manual_seed(0)))
    assert seen[0].mean().item() == pytest.approx(2 * (1 - math.exp(-5)), abs=0.015)
    assert seen[0].std().item() == pytest.approx(0.4, rel=0.03)


def output_spread(sampler, nfe, grid, pixels=200_000):
    """Standard deviation of the restored X_0 over the true one, minus 1; standard error 0.7 / sqrt(pixels)."""
    pair = GaussianPair(BrownianBridge(0.5))
    x_1 = torch.ones(1, 1, 1, pixels, dtype=torch.float64)
    times = grid(pair.process, nfe)
    *_, last = sampler(pair.process, pair.predict_x0, x_1, times, torch.Generator().manual_seed(3))
    return last.std().item() / math.sqrt(pair.variance) - 1


def test_distribution_of_few_step_samplers():
    """At 8 steps the ancestral output is about 20 % too narrow; 2M-SDE is within 3 %."""
    # kills: posterior-variance, 2m-sde-no-correction, 2m-slope-sign
    assert output_spread(ancestral, 8, uniform) == pytest.approx(-0.2, abs=0.03)
    assert abs(output_spread(second_order_multistep_sde, 8, uniform_lambda)) < 0.03
    assert abs(output_spread(second_order_multistep, 8, uniform_lambda)) < 0.05


def test_distribution_converges():
    # kills: posterior-variance, noise-kept, boot-noise-dropped
    for sampler in (ancestral, deterministic, second_order_multistep, second_order_multistep_sde, heun):
        assert abs(output_spread(sampler, 100, uniform_lambda, 40_000)) < 0.045, sampler.__name__


def test_eta_is_between_its_ends():
    process, x_1 = I2SB(), torch.full((1, 1, 8, 8), 0.5)

    def last(**options):
        sampler = options.pop("sampler", eta_sampler)
        *_, state = sampler(
            process,
            lambda x, t: 0.7 * x,
            x_1,
            uniform(process, 6),
            torch.Generator().manual_seed(0),
            **options,
        )
        return state

    assert torch.equal(last(eta=1.0), last(sampler=ancestral))
    assert torch.equal(last(eta=0.0), last(sampler=deterministic))
    for eta in (-0.1, 1.1):
        with pytest.raises(ValueError, match=r"\[0, 1\]"):
            last(eta=eta)
    with pytest.raises(ValueError, match="negative"):
        last(sampler=second_order_multistep_sde, eta=-1.0)


def test_deterministic_processes_read_no_noise():
    # kills: noise-kept
    for process in (OTODE(), LinearFlow()):
        for name in SAMPLERS.names():
            generator = torch.Generator().manual_seed(5)
            list(
                SAMPLERS.get(name)(
                    process, lambda x, t: x * 0.5, torch.ones(1, 1, 2, 2), uniform(process, 5), generator
                )
            )
            assert torch.equal(generator.get_state(), torch.Generator().manual_seed(5).get_state()), name


def test_ot_ode_step_is_the_posterior_mean():
    process = OTODE(1.0)
    times = torch.tensor([1.0, 0.6, 0.0], dtype=torch.float64)
    x_1 = torch.tensor([[[[0.8]]]], dtype=torch.float64)
    states = list(ot_ode(process, lambda x, t: torch.full_like(x, -0.2), x_1, times, torch.Generator()))
    a, b, _ = process.coefficients(0.6)
    assert states[0].item() == pytest.approx(a.item() * 0.8 + b.item() * -0.2, rel=1e-12)
    assert states[1].item() == -0.2


@pytest.mark.parametrize("process", [VPBridge(), I2SB(), VEBridge(2.0), LinearFlow()], ids=ids)
def test_ot_ode_scales_the_state_whatever_the_weights_sum_to(process):
    """X_t = (a_t / a_s) X_s + (b_t - b_s a_t / a_s) D in every step; in 'vp-bridge' a + b is not 1."""
    # kills: ot-ode-for-weights-that-sum-to-1
    times = torch.tensor([1.0, 0.7, 0.3, 0.0], dtype=torch.float64)
    x_1 = torch.tensor([[[[0.8, -0.3]]]], dtype=torch.float64)
    answers = iter(torch.tensor([[0.1, 0.9], [-0.4, 0.2], [0.6, 0.5]], dtype=torch.float64).view(3, 1, 1, 1, 2))
    given = []

    def predict_x0(x, t):
        given.append(next(answers))
        return given[-1]

    states = [x_1, *ot_ode(process, predict_x0, x_1, times, torch.Generator())]
    a, b, _ = process.coefficients(times)
    for i, (x_s, x_t) in enumerate(itertools.pairwise(states)):
        wanted = a[i + 1] / a[i] * x_s + (b[i + 1] - b[i] * a[i + 1] / a[i]) * given[i]
        assert torch.allclose(x_t, wanted, rtol=0, atol=1e-12)


def test_per_sample_generators_make_the_batch_irrelevant():
    process = I2SB()
    x_1 = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))

    def restore(rows):
        generators = [torch.Generator().manual_seed(100 + i) for i in rows]
        *_, last = ancestral(process, lambda x, t: 0.5 * x, x_1[rows], uniform(process, 4), generators)
        return last

    assert torch.equal(restore([0, 1, 2])[1], restore([1])[0])


def test_a_thousand_calls():
    process = I2SB()
    calls = 0

    def predict_x0(x, t):
        nonlocal calls
        calls += 1
        return 0.9 * x

    *_, last = ancestral(process, predict_x0, torch.ones(1, 1, 2, 2), uniform(process, 1000), torch.Generator())
    assert calls == 1000 and bool(torch.isfinite(last).all())


@pytest.mark.parametrize("process", [I2SB(), GaussianPrior(), OTODE()], ids=ids)
@pytest.mark.parametrize("name", SAMPLERS.names())
def test_the_network_sees_the_given_state_and_the_grid_s_own_times(process, name):
    """The first call gets `start` itself; the times are those of the grid, float64 to the bit (heun resamples them)."""
    # kills: start-ignored-without-a-pin, times-in-single-precision
    if name == "ot-ode" and isinstance(process, GaussianPrior):
        pytest.skip("starts from noise")
    times = torch.tensor([0.9, 2 / 3, 0.1, 0.0], dtype=torch.float64)
    x_1, start = torch.zeros(2, 1, 2, 2), torch.full((2, 1, 2, 2), 0.7)
    seen, told = [], []

    def predict_x0(x, t):
        seen.append(x)
        told.append(t)
        return 0.5 * x

    list(SAMPLERS.get(name)(process, predict_x0, x_1, times, torch.Generator(), start=start))
    assert torch.equal(seen[0], start)
    assert all(t.dtype == torch.float64 and t.shape == (2,) and t[0] == t[1] for t in told)
    if name != "heun":
        assert torch.equal(torch.stack(told)[:, 0], times[:-1])


@pytest.mark.parametrize("first", [0.5, 0.9, 0.999])
def test_start_below_one_needs_a_state(first):
    # kills: bridge-begun-anywhere
    with pytest.raises(ValueError, match="start"):
        list(ancestral(I2SB(), lambda x, t: x, torch.zeros(1, 1, 1, 1), torch.tensor([first, 0.0]), torch.Generator()))
