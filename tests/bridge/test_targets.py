import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from i2i_bridge.bridge.base import Coefficients, Process, as_times
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
from i2i_bridge.bridge.targets import (
    EpsTarget,
    I2SBTarget,
    NADBTarget,
    PreconditionedTarget,
    VelocityTarget,
    X0Target,
    estimate_moments,
)

FITTING = [
    (I2SBTarget(), I2SB()),
    (I2SBTarget(), OTODE()),
    (I2SBTarget(), VPBridge()),
    (X0Target(), BrownianBridge()),
    (X0Target(), LinearFlow()),
    (EpsTarget(), GaussianPrior()),
    (VelocityTarget(), LinearFlow()),
    (VelocityTarget(), OTODE()),
    (VelocityTarget(), SourceNoise(0.2)),
    (PreconditionedTarget(), SourceNoise(0.2)),
    (PreconditionedTarget(), I2SB()),
    (PreconditionedTarget(), GaussianPrior()),
    (PreconditionedTarget(), NADB()),
    (X0Target(), NADB()),
    (NADBTarget(), NADB()),
    (NADBTarget(0.3), I2SB()),
]


@given(st.integers(0, len(FITTING) - 1), st.floats(0.01, 1.0), st.integers(0, 2**30))
@settings(deadline=None, max_examples=100)
def test_x_0_hat_inverts_the_target(which, t, seed):
    """A perfect network gives X_0 back, for every target, process and time."""
    target, process = FITTING[which]
    g = torch.Generator().manual_seed(seed)
    x_0, x_1 = (torch.rand(2, 3, 4, 4, generator=g, dtype=torch.float64) * 2 - 1 for _ in range(2))
    times = torch.full((2,), t, dtype=torch.float64)
    x_t = process.marginal(x_0, x_1, times).sample(g)
    output = target.of(process, x_0, x_1, x_t, times)
    assert torch.allclose(target.x_0_hat(process, output, x_t, x_1, times), x_0, atol=1e-9)


def test_i2sb_target_is_equation_12():
    # kills: division-by-sigma-squared
    process = BrownianBridge(sigma_1=0.8)
    x_0, x_t = torch.tensor([[[[0.3]]]]), torch.tensor([[[[0.9]]]])
    label = I2SBTarget().of(process, x_0, x_0, x_t, torch.tensor([0.25]))
    assert label.item() == pytest.approx((0.9 - 0.3) / (0.8 * 0.5), rel=1e-6)


class Drifting(Process):
    """a = 1 - e^-t, b = e^-t, c = 0.4 sqrt(1 - e^-2t) (IR-SDE): not pinned, and X_1 has a share."""

    pinned = False

    def coefficients(self, t):
        b = torch.exp(-as_times(t))
        return Coefficients(1 - b, b, 0.4 * torch.sqrt(1 - b * b))


def test_literal_velocity_and_eps():
    # kills: eps-adds-the-source
    x_0, x_1 = torch.tensor([[[[0.3]]]], dtype=torch.float64), torch.tensor([[[[-0.5]]]], dtype=torch.float64)
    t = torch.tensor([0.4], dtype=torch.float64)
    x_t = LinearFlow().marginal(x_0, x_1, t).mean
    assert VelocityTarget().of(LinearFlow(), x_0, x_1, x_t, t).item() == pytest.approx(-0.8)
    # From a noised source: X_1 + sigma z - X_0, the same at every t.
    # kills: velocity-of-the-mean
    process = SourceNoise(0.2)
    x_t = 0.4 * (x_1 + 0.2 * 1.7) + 0.6 * x_0
    assert VelocityTarget().of(process, x_0, x_1, x_t, t).item() == pytest.approx(-0.8 + 0.2 * 1.7)
    process = GaussianPrior()
    _, b, c = process.coefficients(t)
    x_t = b * x_0 + c * 1.7
    assert EpsTarget().of(process, x_0, x_1, x_t, t).item() == pytest.approx(1.7)
    # Also where X_1 has a share, as in ResShift and IR-SDE.
    process = Drifting()
    a, b, c = process.coefficients(t)
    assert EpsTarget().of(process, x_0, x_1, a * x_1 + b * x_0 + c * 1.7, t).item() == pytest.approx(1.7)


@pytest.mark.parametrize("process", [I2SB(), LinearFlow(), SourceNoise(0.2)])
def test_eps_needs_a_share_of_x_0_at_the_source(process):
    """x_0_hat divides by b_t: with b_1 = 0 the weights at t = 1, where sampling begins, are infinite."""
    # kills: eps-without-a-share
    assert not torch.isfinite(EpsTarget().weights(process, 1.0).k_x)
    with pytest.raises(ValueError, match="target 'eps' is 0/0 at t = 1"):
        EpsTarget().check(process)


def test_a_target_that_divides_by_sigma_says_what_to_use_instead():
    # kills: no-sigma-and-no-way-out
    for process in (SourceNoise(0.2), NADB(), LinearFlow()):
        with pytest.raises(ValueError, match=r"target 'i2sb' divides by sigma_t, .* no sigma_t.*; use "):
            I2SBTarget().check(process)
        X0Target().check(process)


def test_preconditioned_input_and_target_have_unit_variance():
    """Eq. 22-23 on data whose moments are known: Var(c_in X_t) = Var(target) = 1 at every t, X_0's part removed."""
    # kills: c-skip-squared, c-out-without-root
    g = torch.Generator().manual_seed(0)
    n = 400_000
    var_0, var_1, cov = 0.25, 0.36, 0.21
    x_0 = 0.5 * torch.randn(1, 1, 1, n, generator=g, dtype=torch.float64)
    rest = torch.randn(1, 1, 1, n, generator=g, dtype=torch.float64)
    x_1 = cov / var_0 * x_0 + (var_1 - cov**2 / var_0) ** 0.5 * rest
    target = PreconditionedTarget(var_0, var_1, cov)
    for process in (I2SB(1.0), OTODE(1.0), VPBridge()):
        for t in (0.02, 0.5, 1.0):
            times = torch.tensor([t], dtype=torch.float64)
            x_t = process.marginal(x_0, x_1, times).sample(g)
            wanted = target.of(process, x_0, x_1, x_t, times)
            assert target.network_input(process, x_t, times).var().item() == pytest.approx(1, abs=0.01)
            assert wanted.var().item() == pytest.approx(1, abs=0.015)
            # c_skip X_t is the regression of X_0 on X_t: nothing linear is left to learn.
            assert (wanted * x_t).mean().item() / x_t.std().item() == pytest.approx(0, abs=0.01)


def test_moments_are_estimated_from_data():
    # kills: moments-about-zero
    g = torch.Generator().manual_seed(1)
    pairs = []
    for _ in range(20):
        x_0 = 0.4 * torch.randn(8, 3, 32, 32, generator=g) + 0.2
        pairs.append((x_0, 0.5 * x_0 + 0.1 * torch.randn(8, 3, 32, 32, generator=g) + 0.3))
    moments = estimate_moments(pairs)
    assert moments["var_0"] == pytest.approx(0.16, rel=0.01)
    assert moments["cov_01"] == pytest.approx(0.08, rel=0.01)
    assert moments["var_1"] == pytest.approx(0.05, rel=0.01)
    PreconditionedTarget(**moments)
    with pytest.raises(ValueError, match="no pairs"):
        estimate_moments([])
    with pytest.raises(ValueError, match="variation"):
        estimate_moments([(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2))])


@pytest.mark.parametrize("t", [1e-6, 1 / 32, 1.0])
def test_nadb_target_is_the_difference_of_the_ends_and_noise_that_fades(t):
    """F = X_1 - X_0 + 0.75 t^0.6 (1 - t) z on 'nadb'; on 'i2sb' it stays bounded, too."""
    # kills: nadb-target-exponent, nadb-scale
    x_0, x_1, z = 0.3, -0.5, 1.7
    time = torch.tensor([t], dtype=torch.float64)
    process, target = NADB(), NADBTarget()
    a, b, c = process.coefficients(time)
    x_t = (a * x_1 + b * x_0 + c * z).reshape(1, 1, 1, 1)
    ends = (torch.full_like(x_t, end) for end in (x_0, x_1))
    wanted = x_1 - x_0 + 0.75 * t**0.6 * (1 - t) * z
    target.check(process)
    # X_t - X_0 is a difference of near-equals close to t = 0.
    assert target.of(process, *ends, x_t, time).item() == pytest.approx(wanted, rel=1e-9)
    for fitting in (I2SB(), BrownianBridge(), VPBridge(), VEBridge(), LinearFlow(), GaussianPrior(), SourceNoise()):
        NADBTarget(0.5).check(fitting)
    for exponent in (0.0, -0.4, 1.5):
        with pytest.raises(ValueError, match="exponent"):
            NADBTarget(exponent)


@pytest.mark.parametrize(
    ("target", "process"),
    [
        (EpsTarget(), I2SB()),
        (VelocityTarget(), I2SB()),
        (VelocityTarget(), GaussianPrior()),
        (VelocityTarget(), BrownianBridge(0.1)),
        (VelocityTarget(), VEBridge()),
        (I2SBTarget(), SourceNoise()),
        (I2SBTarget(), NADB()),
        (VelocityTarget(), NADB()),
        (NADBTarget(0.5), NADB()),
        (NADBTarget(0.6), I2SB()),
        (NADBTarget(0.6), BrownianBridge()),
        (I2SBTarget(), LinearFlow()),
    ],
)
def test_pairs_that_make_no_sense_are_refused(target, process):
    with pytest.raises(ValueError):
        target.check(process)


def test_labels_equal_the_released_ones(golden):
    import numpy as np

    from i2i_bridge.bridge.released import OfficialGrid

    arrays = {name: torch.from_numpy(value) for name, value in np.load(golden / "q_sample_label.npz").items()}
    for beta_max in (0.3, 1.0):
        grid, steps = OfficialGrid(1000, beta_max), arrays["steps"]
        t = (steps.double() + 1) / 1000
        tables = grid.tables
        for kind in ("sde", "ot"):
            noise = tables.std[steps].view(-1, 1, 1, 1) * arrays["noise_seed123"] if kind == "sde" else 0
            x_t = (
                tables.mean_x_0[steps].view(-1, 1, 1, 1) * arrays["x0"]
                + tables.mean_x_1[steps].view(-1, 1, 1, 1) * arrays["x1"]
                + noise
            )
            assert (x_t - arrays[f"b{beta_max}_xt_{kind}"]).abs().max() < 1e-6
            label = I2SBTarget().of(grid, arrays["x0"], arrays["x1"], arrays[f"b{beta_max}_xt_{kind}"], t)
            assert (label - arrays[f"b{beta_max}_label_{kind}"]).abs().max() < 1e-5
        x_0_hat = I2SBTarget().x_0_hat(grid, arrays["net_out"], arrays[f"b{beta_max}_xt_sde"], arrays["x1"], t)
        assert (x_0_hat - arrays[f"b{beta_max}_pred_x0"]).abs().max() < 1e-6


def test_each_sample_is_scaled_by_its_own_time():
    """c_in X_t of a batch is that of each sample alone, also where one of them has c_in = 1 exactly."""
    # kills: one-unscaled-sample-unscales-the-batch
    target, process = PreconditionedTarget(var_0=0.3, var_1=1.0, cov_01=0.2), I2SB()
    t = torch.tensor([1.0, 0.4], dtype=torch.float64)
    assert target.weights(process, t).c_in[0] == 1 and target.weights(process, t).c_in[1] != 1
    x_t = torch.full((2, 1, 2, 2), 0.5)
    together = target.network_input(process, x_t, t)
    for i in range(2):
        assert torch.equal(together[i : i + 1], target.network_input(process, x_t[i : i + 1], t[i : i + 1]))
    assert torch.allclose(together[1], target.weights(process, t).c_in[1].float() * x_t[1])
