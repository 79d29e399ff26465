"""Each claim about the processes; `kills` names the planted mistake (tests/mutants.py) that the test must catch."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from i2i_bridge.bridge.base import Coefficients, Process
from i2i_bridge.bridge.contract import check_process
from i2i_bridge.bridge.processes import (
    I2SB,
    NADB,
    OTODE,
    BrownianBridge,
    GaussianPrior,
    LinearFlow,
    SourceNoise,
    VEBridge,
    VPBridge,
)
from i2i_bridge.bridge.released import OfficialGrid
from i2i_bridge.bridge.samplers import deterministic, points, update
from i2i_bridge.registry import PROCESSES

BRIDGES: list[Process] = [I2SB(0.3), I2SB(1.0), I2SB(0.05), BrownianBridge(0.7), VEBridge(2.0), VPBridge()]
EVERY: list[Process] = [
    *BRIDGES,
    OTODE(),
    LinearFlow(),
    GaussianPrior(),
    SourceNoise(0.3),
    NADB(),
    NADB(1.0, 0.2),
    NADB(0.1, 3.0),
    OfficialGrid(1000, 0.3),
    OfficialGrid(100, 1.0),
]


def ids(process: Process) -> str:
    return repr(process)


@pytest.mark.parametrize("process", EVERY, ids=ids)
def test_contract(process):
    assert check_process(process) == []


def test_every_registered_process_keeps_the_contract():
    for name in PROCESSES.names():
        assert check_process(PROCESSES.build({"name": name})) == [], name


@pytest.mark.parametrize("process", EVERY, ids=ids)
def test_ends_are_the_images_themselves(process):
    # kills: inclusive-cumulative-sum (sigma_0 > 0 at t = 0)
    x_0, x_1 = torch.full((1, 1, 2, 2), 0.25), torch.full((1, 1, 2, 2), -0.5)
    start = process.marginal(x_0, x_1, torch.tensor([0.0]))
    assert torch.equal(start.mean, x_0) and start.std.item() == 0
    if process.pinned:
        end = process.marginal(x_0, x_1, torch.tensor([1.0]))
        assert torch.equal(end.mean, x_1) and end.std.item() == 0


@given(
    st.lists(st.floats(1e-6, 1 - 1e-6), min_size=1, max_size=12, unique=True),
    st.sampled_from(range(len(BRIDGES))),
)
@settings(deadline=None, max_examples=150)
def test_recursion_of_posteriors_marginalises_to_q(inner, which):
    """Prop. 3.3: from X_1 down any grid, mean and variance of the chain equal those of q(X_t | X_0, X_1)."""
    # kills: swapped-weights, missing-root, off-by-one-grid, posterior-variance
    process = BRIDGES[which]
    times = torch.tensor([1.0, *sorted(inner, reverse=True)], dtype=torch.float64)
    walk = points(process, times)
    x_0, x_1 = 0.37, -0.81
    mean, variance = x_1, 0.0
    for s, t in itertools.pairwise(walk):
        if s.t - t.t < 1e-9:
            continue
        step = update(s, t, eta=1.0)
        mean = step.k_1 * x_1 + step.k_d * x_0 + step.k_s * mean
        variance = step.k_s**2 * variance + step.w**2
        a, b, c = (float(value) for value in process.coefficients(t.t))
        assert abs(mean - (a * x_1 + b * x_0)) < 1e-12
        assert abs(variance - c * c) < 1e-12


@pytest.mark.parametrize("process", BRIDGES, ids=ids)
def test_posterior_step_is_markov(process):
    """The ancestral step of a linear-SDE bridge never looks back at X_1: its weight is 0."""
    # kills: share-kept-by-subtraction
    # Not from t = 1, where X_s is X_1 itself; but from as near as you like.
    walk = points(process, torch.tensor([1 - 1e-9, 0.95, 0.8, 0.33, 0.1], dtype=torch.float64))
    for s, t in itertools.pairwise(walk):
        assert abs(update(s, t, eta=1.0).k_1) < 1e-14


def test_i2sb_closed_form_equals_numerical_integral():
    # kills: schedule-not-mirrored, missing-root
    beta_max, beta_min = 0.3, 0.1
    n = 200_000
    cells = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    towards_middle = torch.minimum(cells, 1 - cells)
    beta = (math.sqrt(beta_min) + (math.sqrt(beta_max) - math.sqrt(beta_min)) * towards_middle).square()
    gathered = beta.cumsum(0) / n
    edges = (torch.arange(n, dtype=torch.float64) + 1) / n
    assert torch.allclose(I2SB(beta_max).sigma(edges).square(), gathered, rtol=1e-9, atol=1e-12)


def test_i2sb_literal_values():
    # kills: swapped-weights, division-by-sigma-squared
    process = I2SB(beta_max=1.0)
    p, q = math.sqrt(0.1), 1 - math.sqrt(0.1)
    half = ((p + q / 2) ** 3 - p**3) / (3 * q)
    assert process.sigma(1.0).item() == pytest.approx(math.sqrt(2 * half), rel=1e-13)
    a, b, c = (value.item() for value in process.coefficients(0.5))
    assert (a, b) == pytest.approx((0.5, 0.5), abs=1e-15)
    assert c == pytest.approx(math.sqrt(half / 2), rel=1e-13)
    quarter = ((p + q / 4) ** 3 - p**3) / (3 * q)
    assert process.coefficients(0.25).a.item() == pytest.approx(quarter / (2 * half), rel=1e-12)


@pytest.mark.parametrize("process", BRIDGES, ids=ids)
def test_a_bridge_is_its_diffusion_tied_to_x_1(process):
    """What `forward` draws from and what the bridge is are one SDE: with rho = sigma / alpha and R = rho_1:

    a = (alpha_t / alpha_1) rho_t^2 / R^2,  b = alpha_t (1 - rho_t^2 / R^2),  c = alpha_t rho_t sqrt(1 - rho_t^2 / R^2)
    """
    # kills: ve-sigma-squared, forward-sde-keeps-the-image
    t = torch.linspace(0.05, 0.95, 7, dtype=torch.float64)
    alpha, alpha_1 = process.alpha(t), process.alpha(1.0)
    rho2 = (process.sigma(t) / alpha).square()
    share = rho2 / (process.sigma(1.0) / alpha_1).square()
    a, b, c = process.coefficients(t)
    assert torch.allclose(a, alpha / alpha_1 * share, rtol=1e-12, atol=0)
    assert torch.allclose(b, alpha * (1 - share), rtol=1e-12, atol=0)
    assert torch.allclose(c.square(), alpha.square() * rho2 * (1 - share), rtol=1e-12, atol=0)


def test_gaussian_prior_preserves_variance_at_the_rate_of_its_ramp():
    """b^2 = exp(-int_0^t beta) with beta from 0.1 to 20, b^2 + c^2 = 1, and no share of X_1."""
    # kills: prior-exponent-without-half, prior-forward-is-not-its-own
    n = 100_000
    cells = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    gathered = (0.1 + 19.9 * cells).cumsum(0)[n // 4 - 1 :: n // 4] / n
    t = torch.tensor([0.25, 0.5, 0.75, 1.0], dtype=torch.float64)
    process = GaussianPrior()
    a, b, c = process.coefficients(t)
    assert torch.equal(a, torch.zeros(4, dtype=torch.float64))
    assert torch.allclose(b, torch.exp(-gathered / 2), rtol=1e-8, atol=0)
    assert torch.allclose(b.square() + c.square(), torch.ones(4, dtype=torch.float64), atol=1e-15)
    assert b[-1].item() == pytest.approx(math.exp(-10.05 / 2), rel=1e-12)
    # Its forward SDE is the process itself.
    forward = process.forward(torch.ones(4, 1, 1, 1, dtype=torch.float64), t)
    assert torch.equal(forward.mean.flatten(), b) and torch.equal(forward.std.flatten(), c)


def test_released_grid_is_near_the_continuous_bridge():
    grid, exact = OfficialGrid(1000, 0.3), I2SB(0.3)
    t = torch.arange(1, 1000, dtype=torch.float64) / 1000
    for released, ours in zip(grid.coefficients(t), exact.coefficients(t), strict=True):
        assert (released - ours).abs().max() < 1e-3


def test_constant_rate_is_the_straight_line():
    """Cor. 3.5."""
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    straight = OTODE(beta_max=0.1, beta_min=0.1).coefficients(t)
    assert torch.allclose(straight.a, t, atol=1e-15) and torch.allclose(straight.b, 1 - t, atol=1e-15)
    noisy = I2SB(beta_max=0.49, beta_min=0.49).coefficients(t)
    for ours, brownian in zip(noisy, BrownianBridge(0.7).coefficients(t), strict=True):
        assert torch.allclose(ours, brownian, atol=1e-15)


def test_ot_ode_ignores_the_generator():
    """Prop. 3.4: the same means as I2SB and no noise at all."""
    # kills: noise-kept
    x_0, x_1 = torch.rand(3, 3, 4, 4), torch.rand(3, 3, 4, 4)
    t = torch.tensor([0.2, 0.5, 0.9])
    first, second = torch.Generator().manual_seed(1), torch.Generator().manual_seed(2)
    states = [OTODE(0.3).marginal(x_0, x_1, t).sample(g) for g in (first, second)]
    assert torch.equal(states[0], states[1])
    assert torch.equal(states[0], I2SB(0.3).marginal(x_0, x_1, t).mean)
    assert torch.equal(first.get_state(), torch.Generator().manual_seed(1).get_state())


@pytest.mark.parametrize("process", BRIDGES, ids=ids)
def test_a_sample_at_the_end_of_a_bridge_leaves_the_others_their_noise(process):
    """X_t of t = (1/2, 1): the first sample is a_t X_1 + b_t X_0 + c_t z, the second is X_1 to the bit."""
    # kills: one-pinned-sample-silences-the-batch
    x_0, x_1 = torch.full((2, 1, 64, 64), 0.25), torch.full((2, 1, 64, 64), -0.5)
    for t in ([0.5, 1.0], [1.0, 0.5]):
        noisy = t.index(0.5)
        state = process.marginal(x_0, x_1, torch.tensor(t)).sample(torch.Generator().manual_seed(0))
        a, b, c = (value.item() for value in process.coefficients(0.5))
        assert torch.equal(state[1 - noisy], x_1[1 - noisy])
        assert state[noisy].std().item() == pytest.approx(c, rel=0.05)
        assert state[noisy].mean().item() == pytest.approx(0.25 * b - 0.5 * a, abs=0.05 * c)


def test_rates_of_the_paper_are_the_defaults():
    """beta_max is 0.3 for I2SB (JPEG, super-resolution) and 1.0 for OT-ODE (deblurring, inpainting)."""
    # kills: ot-ode-beta-max-default, i2sb-beta-max-default, official-ode-beta-max-default
    t = torch.tensor([0.2, 0.6], dtype=torch.float64)
    for names, beta_max in ((("i2sb", "official-grid"), 0.3), (("ot-ode", "official-grid-ode"), 1.0)):
        for name in names:
            built = PROCESSES.build({"name": name}).coefficients(t)
            other = "official-grid" if name.startswith("official") else "i2sb"
            given = PROCESSES.build({"name": other, "beta_max": beta_max}).coefficients(t)
            assert torch.equal(built.a, given.a) and torch.equal(built.b, given.b), name


def test_vp_bridge_matches_its_definition_in_high_precision():
    # kills: vp-naive-difference
    from mpmath import exp, mp, mpf, sqrt

    mp.dps = 60
    low, slope = mpf("0.1"), mpf(2)
    for t in (mpf("1e-9"), mpf("0.3"), 1 - mpf("1e-9")):
        t = mpf(float(t))

        def exponent(s):
            return low * s + slope * s * s / 2

        rho2, rho2_end = exp(exponent(t)) - 1, exp(exponent(mpf(1))) - 1
        alpha, alpha_end = exp(-exponent(t) / 2), exp(-exponent(mpf(1)) / 2)
        wanted = (
            alpha / alpha_end * rho2 / rho2_end,
            alpha * (rho2_end - rho2) / rho2_end,
            alpha * sqrt(rho2) * sqrt(rho2_end - rho2) / sqrt(rho2_end),
        )
        for ours, exact in zip(VPBridge(0.1, 2.0).coefficients(float(t)), wanted, strict=True):
            assert ours.item() == pytest.approx(float(exact), rel=1e-13)


@pytest.mark.parametrize("process", [I2SB(0.3), BrownianBridge(), VEBridge(), VPBridge()], ids=ids)
@pytest.mark.parametrize("distance", [1e-6, 1e-9, 1e-12])
def test_coefficients_keep_relative_accuracy_at_both_ends(process, distance):
    """Near an end, c grows like the square root of the distance (VE: linearly at 0) and b vanishes linearly at X_1."""
    # kills: vp-naive-difference
    near = process.coefficients(1 - distance)
    nearer = process.coefficients(1 - distance / 4)
    exact = (1 - (1 - distance)) / (1 - (1 - distance / 4))  # what float64 makes of the distances
    assert (near.b / nearer.b).item() == pytest.approx(exact, rel=1e-5)
    assert (near.c / nearer.c).item() == pytest.approx(math.sqrt(exact), rel=1e-5)


def test_process_and_time_mistakes():
    x = torch.zeros(1, 3, 4, 4)
    with pytest.raises(ValueError, match="differ in shape"):
        I2SB().marginal(x, torch.zeros(1, 3, 4, 5), 0.5)
    # kills: one-good-time-excuses-the-others, vp-beyond-exp
    for t in (-0.1, 1.1, float("nan"), torch.tensor([0.5, 1.1]), torch.tensor([float("nan"), 0.5])):
        with pytest.raises(ValueError, match=r"\[0, 1\]"):
            I2SB().coefficients(t)
    for make in (
        lambda: I2SB(beta_max=0),
        lambda: BrownianBridge(0.0),
        lambda: VEBridge(-1),
        lambda: VPBridge(0),
        lambda: VPBridge(700.0, 2.0),
        lambda: GaussianPrior(2, 1),
        lambda: OfficialGrid(999),
        lambda: NADB(0.0),
        lambda: NADB(1.1),
        lambda: NADB(scale=0.0),
    ):
        with pytest.raises(ValueError):
            make()
    with pytest.raises(ValueError, match="no sigma_t"):
        LinearFlow().sigma(0.5)


def test_check_process_names_what_is_wrong():
    class Reversed(LinearFlow):
        def coefficients(self, t):
            a, b, c = super().coefficients(t)
            return Coefficients(b, a, c)

    class Restless(BrownianBridge):
        def coefficients(self, t):
            a, b, c = super().coefficients(t)
            return Coefficients(a, b, c + 0.01)

    assert any("X_0 exactly" in line for line in check_process(Reversed()))
    assert any("X_1 exactly" in line for line in check_process(Restless()))


def test_source_noise_is_drawn_once_and_the_walk_is_a_straight_line():
    """X_t = t (X_1 + sigma_s z) + (1 - t) X_0; with eta = 0 each step is Euler's: (t/s) X_s + (1 - t/s) x_0_hat."""
    # kills: source-noise-as-a-bridge
    process = SourceNoise(0.3)
    a, b, c = (value.tolist() for value in process.coefficients(torch.tensor([0.25, 1.0])))
    assert a == [0.25, 1.0] and b == [0.75, 0.0] and c == pytest.approx([0.075, 0.3], rel=1e-12)
    walk = points(process, torch.tensor([1.0, 0.7, 0.2, 0.0], dtype=torch.float64))
    for s, t in itertools.pairwise(walk):
        step = update(s, t, eta=0.0)
        assert (step.k_s, step.k_d) == pytest.approx((t.t / s.t, 1 - t.t / s.t), abs=1e-12)
        assert step.k_1 == pytest.approx(0, abs=1e-12) and step.w == 0
    x_1 = torch.full((20_000, 1, 1, 1), 0.5)
    start, *_ = deterministic(
        process, lambda x_t, t: x_t, x_1, torch.tensor([1.0, 0.0]).double(), torch.Generator().manual_seed(0)
    )
    assert start.mean().item() == pytest.approx(0.5, abs=0.01) and start.std().item() == pytest.approx(0.3, abs=0.01)
    assert not process.starts_from_noise and GaussianPrior().starts_from_noise
    with pytest.raises(ValueError, match="sigma_s"):
        SourceNoise(0)


def test_nadb_is_its_published_coefficients():
    """a = t^0.4, b = 1 - a, c = 0.75 t (1 - t), by hand at t = 1/32 (a = 1/4) and close to X_1."""
    # kills: nadb-exponent, nadb-scale
    a, b, c = (value.item() for value in NADB().coefficients(1 / 32))
    assert (a, b, c) == pytest.approx((0.25, 0.75, 0.75 * 31 / 1024), rel=1e-14)
    near = NADB(0.5, 0.2).coefficients(1 - 2**-40)
    assert near.b.item() == pytest.approx(2**-41, rel=1e-11) and near.c.item() == pytest.approx(0.2 * 2**-40, rel=1e-11)


def test_nadb_loses_signal_all_the_way_and_keeps_its_law_though_no_step_is_markov():
    """b / c = (1 - t^p) / (s t (1 - t)) falls strictly, from infinity to p / s: other than in a linear SDE's bridge it
    does not reach 0 before t = 1. The update keeps the law of X_t for every eta, by a share k_1 of X_1."""
    # kills: nadb-exponent
    process = NADB(0.4, 0.75)
    t = torch.linspace(1e-4, 1 - 1e-6, 2000, dtype=torch.float64)
    _, b, c = process.coefficients(t)
    assert bool((b / c).diff().lt(0).all())
    assert (b / c)[-1].item() == pytest.approx(0.4 / 0.75, rel=1e-5)
    walk = points(process, torch.tensor([1.0, 0.8, 0.5, 0.2, 0.01], dtype=torch.float64))
    for eta in (0.0, 0.6, 1.0):
        mean, variance, looks_back = -0.81, 0.0, 0.0
        for s, t in itertools.pairwise(walk):
            step = update(s, t, eta)
            mean = step.k_1 * -0.81 + step.k_d * 0.37 + step.k_s * mean
            variance = step.k_s**2 * variance + step.w**2
            looks_back = max(looks_back, abs(step.k_1)) if s.n else looks_back
            a, b, c = (value.item() for value in process.coefficients(t.t))
            assert mean == pytest.approx(a * -0.81 + b * 0.37, abs=1e-14)
            assert variance == pytest.approx(c * c, abs=1e-14)
        assert looks_back > 0.05
    with pytest.raises(ValueError, match="no sigma_t"):
        process.sigma(0.5)
