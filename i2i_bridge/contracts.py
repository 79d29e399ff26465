"""Contract checks that authors of plug-ins call on their own parts; the tests run them over every registered one.

`check_degradation` stands beside its contract in degradations/contract.py.
"""

import itertools

import torch
from torch import Tensor

from i2i_bridge.processes import Process
from i2i_bridge.samplers import Sampler
from i2i_bridge.time_grids import TimeGrid, log_snr


def check_process(process: Process) -> list[str]:
    """What is wrong with a process, one line each; empty when it keeps the contract.

    Checked on a fine grid: shapes and float64, exact ends, c >= 0, and a signal-to-noise ratio that never rises from
    X_0 to X_1, so that every step of a sampler removes noise.
    """
    problems = []
    times = torch.linspace(0, 1, 1001, dtype=torch.float64).reshape(7, 143)
    a, b, c = process.coefficients(times)
    for name, value in (("a", a), ("b", b), ("c", c)):
        if value.shape != times.shape or value.dtype != torch.float64:
            problems.append(f"{name}: float64 of the shape of t is needed, got {value.dtype} {tuple(value.shape)}")
        if not bool(torch.isfinite(value).all()):
            problems.append(f"{name} is not finite everywhere in [0, 1]")
    if problems:
        return problems
    a, b, c = a.flatten(), b.flatten(), c.flatten()
    if (float(a[0]), float(b[0]), float(c[0])) != (0, 1, 0):
        problems.append(f"at t = 0 the state must be X_0 exactly, got a, b, c = {a[0]}, {b[0]}, {c[0]}")
    if process.pinned and not (abs(a[-1] - 1) < 1e-12 and b[-1] == 0 and c[-1] == 0):
        problems.append(f"a pinned process must be X_1 exactly at t = 1, got a, b, c = {a[-1]}, {b[-1]}, {c[-1]}")
    if bool((c < 0).any()):
        problems.append("c is negative somewhere")
    if process.deterministic != bool((c == 0).all()):
        problems.append(f"deterministic is {process.deterministic}, but c says otherwise")
    ratio = log_snr(process, times.flatten())
    if not bool((ratio[1:] <= ratio[:-1]).all()) or not bool(ratio[0] > ratio[-1]):
        problems.append("log(b / c) must fall from t = 0 to t = 1, so that each step removes noise")
    return problems


def check_sampler(sampler: Sampler, process: Process, grid: TimeGrid) -> list[str]:
    """What is wrong with a sampler on a process, one line each; empty when it keeps the contract.

    Checked for several NFE: as many calls of predict_x0 as `times` has steps, at times inside (0, 1] that fall; an
    oracle's X_0 returned to the last bit; x_1 untouched; the same images from the same generator; the global generator
    unread.
    """
    problems = []
    make = torch.Generator().manual_seed(0)
    x_0 = torch.rand(2, 3, 4, 4, generator=make) * 2 - 1
    x_1 = x_0 + 0.3 * torch.randn(2, 3, 4, 4, generator=make)
    before = torch.random.get_rng_state()
    for nfe in (1, 2, 3, 7, 10):
        seen: list[float] = []

        def oracle(x_t: Tensor, t: Tensor, seen: list[float] = seen) -> Tensor:
            seen.append(float(t[0]))
            return x_0

        runs = []
        times = grid(process, nfe)
        for _ in range(2):
            seen.clear()
            kept = x_1.clone()
            states = list(sampler(process, oracle, kept, times, torch.Generator().manual_seed(1)))
            if not torch.equal(kept, x_1):
                problems.append(f"nfe {nfe}: x_1 was changed in place")
            runs.append(states)
        if len(seen) != nfe:
            problems.append(f"nfe {nfe}: predict_x0 was called {len(seen)} times")
        if not all(0 < t <= 1 for t in seen) or any(later > earlier for earlier, later in itertools.pairwise(seen)):
            problems.append(f"nfe {nfe}: times {seen} must fall inside (0, 1]")
        if not all(bool(torch.isfinite(state).all()) for state in runs[0]):
            problems.append(f"nfe {nfe}: a state is not finite")
        if not torch.equal(runs[0][-1], x_0):
            problems.append(f"nfe {nfe}: with an oracle x_0_hat = X_0 the result is not X_0")
        if not all(torch.equal(left, right) for left, right in zip(*runs, strict=True)):
            problems.append(f"nfe {nfe}: two runs from equal generators differ")
    if not torch.equal(before, torch.random.get_rng_state()):
        problems.append("the global random generator was used")
    return problems
