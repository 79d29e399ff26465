from dataclasses import dataclass

import pytest
import torch

from i2i_bridge.bridge.processes import I2SB, NADB, OTODE, BrownianBridge, GaussianPrior, LinearFlow, VEBridge, VPBridge
from i2i_bridge.bridge.time_grids import EDGE, karras, log_snr, quadratic, uniform, uniform_lambda
from i2i_bridge.registry import TIME_GRIDS

GRIDS = [name for name in TIME_GRIDS.names() if name != "official"]  # which is for one process alone
PROCESSES = [I2SB(), OTODE(), BrownianBridge(), VEBridge(), VPBridge(), GaussianPrior(), LinearFlow(), NADB()]


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("nfe", [1, 2, 3, 10, 1000])
def test_every_grid_falls_from_one_to_exactly_zero(name, nfe):
    # kills: off-by-one-grid
    for process in PROCESSES:
        times = TIME_GRIDS.get(name)(process, nfe)
        assert times.dtype == torch.float64 and times.shape == (nfe + 1,)
        assert times[0] == 1 and times[-1] == 0
        assert bool((times.diff() < 0).all())


def test_spacing():
    process = BrownianBridge(0.5)
    assert uniform(process, 4).tolist() == [1, 0.75, 0.5, 0.25, 0]
    assert quadratic(process, 4).tolist() == [1, 0.5625, 0.25, 0.0625, 0]
    steps = log_snr(process, uniform_lambda(process, 9)[1:-1]).diff()
    assert torch.allclose(steps, steps[:1].expand_as(steps), rtol=1e-9)
    level = torch.exp(-log_snr(process, karras(process, 9)[1:-1])) ** (1 / 7)
    assert torch.allclose(level.diff(), level.diff()[:1].expand(7), rtol=1e-9)
    assert uniform_lambda(process, 10)[-2].item() == pytest.approx(EDGE / 10)


@pytest.mark.parametrize("process", [BrownianBridge(0.5), I2SB(), VPBridge(), OTODE()])
def test_the_one_inner_point_of_two_calls_lies_half_way(process):
    """Half-way between the edges in lambda, or for 'karras' in exp(-lambda / 7); not at an edge."""
    # kills: one-inner-point-at-the-edge
    edges = log_snr(process, torch.tensor([1 - EDGE / 2, EDGE / 2], dtype=torch.float64))
    for grid, told in ((uniform_lambda, lambda x: x), (karras, lambda x: torch.exp(-x / 7))):
        inner = log_snr(process, grid(process, 2)[1])
        assert told(inner).item() == pytest.approx(told(edges).mean().item(), rel=1e-9)


def test_log_snr_of_a_brownian_bridge():
    t = torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)
    assert torch.allclose(
        log_snr(BrownianBridge(0.5), t),
        0.5 * torch.log((1 - t) / t) - torch.log(torch.tensor(0.5, dtype=torch.float64)),
    )
    assert log_snr(I2SB(), 1.0).item() == -float("inf") and log_snr(I2SB(), 0.0).item() == float("inf")


@pytest.mark.parametrize("nfe", [0, -3, 1001])
def test_nonsense_nfe(nfe):
    for name in GRIDS:
        with pytest.raises(ValueError, match=r"1\.\.1000"):
            TIME_GRIDS.get(name)(I2SB(), nfe)


COUNTED = []


@dataclass(frozen=True)
class Counted(BrownianBridge):
    label: object = None

    def coefficients(self, t):
        COUNTED.append(t)
        return super().coefficients(t)


class Undecorated(I2SB):
    """Equal to another one of any rate: its own attribute is no field of the dataclass."""

    def __init__(self, rate):
        super().__init__()
        vars(self).update(rate=rate)

    def coefficients(self, t):
        return I2SB(self.rate).coefficients(t)


class Identity(Undecorated):
    def __init__(self, rate):
        vars(self).update(rate=rate)

    __eq__, __hash__ = object.__eq__, object.__hash__


@pytest.mark.parametrize("grid", [uniform_lambda, karras])
def test_a_bisected_grid_is_computed_once_for_a_frozen_process(grid):
    """kills: grid-computed-anew, kept-grid-given-away"""
    first = grid(Counted(0.7), 6)
    COUNTED.clear()
    again = grid(Counted(0.7), 6)
    assert torch.equal(again, first) and not COUNTED
    again.zero_()
    assert torch.equal(grid(Counted(0.7), 6), first), "a caller may change its own times"
    assert not torch.equal(grid(Counted(0.7), 7)[:7], first) and COUNTED
    assert torch.equal(grid(Counted(0.7, label=[1]), 6), first), "options that cannot be hashed"
    with pytest.raises(ValueError, match=r"1\.\.1000"):
        grid(Counted(0.7), 6.0)


@pytest.mark.parametrize("kind", [Undecorated, Identity])
def test_a_process_that_changes_gets_the_times_of_what_it_is_now(kind):
    """kills: grid-kept-for-any-process"""
    process = kind(0.3)
    before = karras(process, 5)
    vars(process).update(rate=3.0)
    assert not torch.equal(karras(process, 5), before)
    assert torch.equal(karras(process, 5), karras(I2SB(3.0), 5))
