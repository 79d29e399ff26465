import numpy as np
import pytest
import torch

from i2i_bridge.bridge.released import OfficialGrid
from i2i_bridge.bridge.samplers import points, update


def test_literal_table_values():
    """A few values of the released schedule, to 12 digits; sums and symmetry as closed forms."""
    # kills: official-exclusive-sum, swapped-weights
    for beta_max, peak, total, middle in (
        (
            0.3,
            1.8650245370263857e-4,
            0.1410272507825739,
            (0.2658949564113424, 0.2655440178036158, 0.1878919283262132),
        ),
        (
            1.0,
            4.326635496782088e-4,
            0.24692869886046187,
            (0.3519900751156334, 0.3513749413806156, 0.24867680110521728),
        ),
    ):
        tables = OfficialGrid(1000, beta_max).tables
        assert tables.beta[0].item() == pytest.approx(1e-4, rel=1e-13)
        assert tables.beta[499].item() == pytest.approx(peak, rel=1e-12)
        assert tables.beta.sum().item() == pytest.approx(total, rel=1e-12)
        assert torch.equal(tables.beta, tables.beta.flip(0))
        assert tables.sigma[0].item() == pytest.approx(0.01, rel=1e-13)
        got = (tables.sigma[500].item(), tables.sigma_bar[500].item(), tables.std[500].item())
        assert got == pytest.approx(middle, rel=1e-12)


@pytest.mark.parametrize("interval", [38, 100, 1000])
def test_the_first_rate_is_the_same_on_every_grid(interval):
    """sqrt(beta_0) = 0.01 whatever N, on a straight line of N points to sqrt(beta_max / N), half of which counts."""
    # kills: first-rate-of-the-interval
    root = OfficialGrid(interval, 0.3).tables.beta.sqrt()
    assert root[0].item() == pytest.approx(0.01, rel=1e-12) and torch.equal(root, root.flip(0))
    slope = ((0.3 / interval) ** 0.5 - 0.01) / (interval - 1)
    assert torch.allclose(root.diff()[: interval // 2 - 1], torch.tensor(slope, dtype=torch.float64), atol=1e-14)


def test_indices_are_rounded_multiples():
    # kills: half-an-index-rounded-up
    grid = OfficialGrid(1000, 0.3)
    assert grid.indices(6) == [0, 166, 333, 500, 666, 832, 999]  # 166.5 is even 166, as Python's round has it
    assert grid.indices(1) == [0, 999]
    assert grid.indices(2) == [0, 500, 999]
    assert grid.indices(4) == [0, 250, 500, 749, 999]
    assert grid.indices(10) == [0, 100, 200, 300, 400, 500, 599, 699, 799, 899, 999]
    assert grid.indices(999) == list(range(1000))
    with pytest.raises(ValueError, match=r"1\.\.999"):
        grid.indices(1000)


def test_times_hit_their_indices():
    # kills: grid-index-rounds-up (in float64, 7 / 50 * 50 is above 7)
    for interval in (38, 50, 100, 1000):
        small = OfficialGrid(interval, 0.3)
        times = (torch.arange(interval, dtype=torch.float64) + 1) / interval
        assert small.index(times).tolist() == list(range(interval))
    grid = OfficialGrid(1000, 1.0)
    for nfe in (1, 3, 10, 999):
        times = grid.times(nfe)
        assert times[-1] == 0 and len(times) == nfe + 1
        assert grid.index(times[:-1]).tolist() == grid.indices(nfe)[:0:-1]
    assert grid.network_time(1.0).item() == 1.0
    assert grid.network_time(0.001).item() == pytest.approx(1e-4)


def test_tables_equal_the_released_ones(golden):
    arrays = np.load(golden / "schedule.npz")
    names = {
        "beta": "betas",
        "sigma": "std_fwd",
        "sigma_bar": "std_bwd",
        "mean_x_0": "mu_x0",
        "mean_x_1": "mu_x1",
        "std": "std_sb",
    }
    for beta_max in (0.3, 1.0):
        for interval in (1000, 100):
            tables = OfficialGrid(interval, beta_max).tables
            for ours, theirs in names.items():
                np.testing.assert_allclose(
                    getattr(tables, ours), arrays[f"b{beta_max}_n{interval}_{theirs}"], rtol=1e-12
                )


def test_posterior_equals_the_released_one(golden):
    arrays = np.load(golden / "p_posterior.npz")
    for beta_max in (0.3, 1.0):
        grid = OfficialGrid(1000, beta_max)
        for before, now in arrays["pairs_nprev_n"].tolist():
            s, t = points(grid, torch.tensor([(now + 1) / 1000, (before + 1) / 1000], dtype=torch.float64))
            of_x_0, of_x_n, variance = arrays[f"b{beta_max}_{before}_{now}_coef_mu0_mun_var"].tolist()
            if s.n == 0:
                continue  # index 999 is X_1 itself, where our walk starts
            step = update(s, t, eta=1.0)
            assert step.k_d == pytest.approx(of_x_0, abs=1e-5)
            assert step.k_s == pytest.approx(of_x_n, abs=1e-5)
            assert step.w**2 == pytest.approx(variance, abs=1e-7)
