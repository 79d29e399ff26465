"""Samplers: the walk from X_1 to X_0.

One update rule carries all of them. From time s to an earlier time t, with D = x_0_hat(X_s, s):

    X_t = a_t X_1 + b_t D + r (X_s - a_s X_1 - b_s D) + w z,     r = sqrt(c_t^2 - w^2) / c_s                 (U)
    w = eta c_t sqrt(1 - SNR_s / SNR_t),     SNR = b^2 / c^2,    0 <= eta <= 1

It keeps the law of X_t given both ends for every eta and every process (DBIM, Zheng et al. 2025, Prop. 3.1;
DDIM is a = 0). eta = 1 is the Markov posterior of I2SB's Algorithm 2 and of DDPM, eta = 0 the probability-flow
ODE. Three limits are exact, not special treatment of a task: leaving X_1, where c_s = 0, draws the noise c_t z
for every eta; the last step, to t = 0, returns D itself; and a deterministic process (c = 0) takes a_t in the
place of the noise level, r = a_t / a_s, which is I2SB's OT-ODE.

A sampler is a generator function: it yields X_t after every step, the last one being the restored image. A
trajectory is `list(sampler(...))`. `times` has nfe + 1 points and predict_x0 is called exactly nfe times.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from i2i_bridge.bridge.base import Process, bands
from i2i_bridge.bridge.time_grids import log_snr
from i2i_bridge.randomness import Generator, randn_like
from i2i_bridge.registry import register_sampler

PredictX0 = Callable[[Tensor, Tensor], Tensor]
"""(x_t, t) -> x_0_hat: images (B, C, H, W) and times (B,) to images. Closes over network, X_1, mask and clip."""


class Sampler(Protocol):
    """A generator function over the states X_t.

    Examples:
        >>> import torch
        >>> from i2i_bridge.bridge.processes import I2SB
        >>> from i2i_bridge.bridge.samplers import ancestral
        >>> from i2i_bridge.bridge.time_grids import uniform
        >>> x_0, x_1 = torch.zeros(1, 3, 4, 4), torch.ones(1, 3, 4, 4)
        >>> draws = torch.Generator().manual_seed(0)
        >>> states = list(ancestral(I2SB(), lambda x_t, t: x_0, x_1, uniform(I2SB(), 5), draws))
        >>> len(states), torch.equal(states[-1], x_0)
        (5, True)
    """

    def __call__(
        self,
        process: Process,
        predict_x0: PredictX0,
        x_1: Tensor,
        times: Tensor,
        generator: Generator,
        *,
        start: Tensor | None = None,
    ) -> Iterator[Tensor]:
        """Yield X_t after every step; the last is the restored image.

        Args:
            process: The bridge.
            predict_x0: Called once per network call.
            x_1: Degraded images, (B, C, H, W).
            times: Decreasing, float64, (nfe + 1,).
            generator: One for the batch, or one per sample.
            start: The state at times[0]; by default X_1 of a bridge, or a draw where the process is not pinned.
        """
        ...


class Point(NamedTuple):
    """A time with its numbers. `base` weighs X_1 apart from the noise, `n` is the noise level (a_t where c = 0)."""

    t: float
    base: float
    b: float
    n: float
    log_snr: float


def points(process: Process, times: Tensor) -> list[Point]:
    """The numbers that an update needs at each time, as plain floats."""
    a, b, c = process.coefficients(times)
    zero = torch.zeros_like(a)
    base, n = (zero, a) if process.deterministic else (a, c)
    rows = torch.stack([times.double(), base, b, n, log_snr(process, times)], dim=1)
    return [Point(*row) for row in rows.tolist()]


class Update(NamedTuple):
    """The four weights of (U): X_t = k_1 X_1 + k_d D + k_s X_s + w z."""

    k_1: float
    k_d: float
    k_s: float
    w: float


def update(s: Point, t: Point, eta: float) -> Update:
    """The weights of one step (U) from s to t < s.

    For the Brownian family and eta = 1, k_1 = 0 (up to rounding) and the rest is the posterior p(X_t | X_0, X_s) of
    I2SB (Prop. 3.3).
    """
    if t.n == 0:
        return Update(0.0, 1.0, 0.0, 0.0)
    if s.n == 0:
        return Update(t.base, t.b, 0.0, t.n)
    kept, fresh = math.exp(2 * (s.log_snr - t.log_snr)), -math.expm1(2 * (s.log_snr - t.log_snr))
    # 1 - eta^2 fresh, without the difference of near-equals that it is close to X_1.
    r = t.n / s.n * math.sqrt((1 - eta) * (1 + eta) + eta * eta * kept)
    return Update(t.base - r * s.base, t.b - r * s.b, r, eta * t.n * math.sqrt(fresh))


def _begin(process: Process, x_1: Tensor, first: Point, generator: Generator, start: Tensor | None) -> Tensor:
    if start is not None:
        return start
    if process.pinned and first.t == 1:
        return x_1
    if process.pinned:
        raise ValueError(f"times start at {first.t}, where a bridge is not X_1; give its state there as `start`")
    return first.base * x_1 + first.n * randn_like(x_1, generator)


def _at(t: float, x: Tensor) -> Tensor:
    return torch.full((x.shape[0],), t, dtype=torch.float64)


def _apply(step: Update, x_1: Tensor, x_0_hat: Tensor, x_s: Tensor, generator: Generator) -> Tensor:
    if step.k_s == 0 and step.k_1 == 0 and step.w == 0:
        # The last step: the network's answer to the last bit, whatever X_s holds.
        return x_0_hat * step.k_d if step.k_d != 1 else x_0_hat
    # The noise's array becomes X_t: of a large photo, each further array of its size counts.
    x_t = randn_like(x_0_hat, generator).mul_(step.w) if step.w else torch.zeros_like(x_0_hat)
    for rows in bands(x_t):
        mean = step.k_d * x_0_hat[rows]
        mean += step.k_s * x_s[rows]
        if step.k_1:
            mean += step.k_1 * x_1[rows]
        x_t[rows].add_(mean)
    return x_t


@register_sampler("eta")
def eta_sampler(
    process: Process,
    predict_x0: PredictX0,
    x_1: Tensor,
    times: Tensor,
    generator: Generator,
    *,
    eta: float = 0.5,
    start: Tensor | None = None,
) -> Iterator[Tensor]:
    """The update rule (U) with a constant share eta of the posterior's noise (DBIM; DDIM).

    Args:
        eta: 0 (deterministic) to 1 (ancestral). Has no effect on a deterministic process.

    Raises:
        ValueError: eta lies outside [0, 1].
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must lie in [0, 1], got {eta}")
    walk = points(process, times)
    x = _begin(process, x_1, walk[0], generator, start)
    for s, t in itertools.pairwise(walk):
        step = update(s, t, 0.0 if process.deterministic else eta)
        # x_0_hat has no name here: otherwise the next call would hold it in memory, an array of the image's size.
        x = _apply(step, x_1, predict_x0(x, _at(s.t, x)), x, generator)
        yield x


@register_sampler("ancestral")
def ancestral(
    process: Process,
    predict_x0: PredictX0,
    x_1: Tensor,
    times: Tensor,
    generator: Generator,
    *,
    start: Tensor | None = None,
) -> Iterator[Tensor]:
    """Draws X_t from the posterior p(X_t | X_0 = x_0_hat, X_s): I2SB's Algorithm 2, DDPM; (U) with eta = 1."""
    return eta_sampler(process, predict_x0, x_1, times, generator, eta=1.0, start=start)


@register_sampler("deterministic")
def deterministic(
    process: Process,
    predict_x0: PredictX0,
    x_1: Tensor,
    times: Tensor,
    generator: Generator,
    *,
    start: Tensor | None = None,
) -> Iterator[Tensor]:
    """The probability-flow ODE, first order (DBIM with eta = 0, DDIM); noise only where the walk leaves X_1."""
    return eta_sampler(process, predict_x0, x_1, times, generator, eta=0.0, start=start)


@register_sampler("ot-ode")
def ot_ode(
    process: Process,
    predict_x0: PredictX0,
    x_1: Tensor,
    times: Tensor,
    generator: Generator,
    *,
    start: Tensor | None = None,
) -> Iterator[Tensor]:
    """The mean of the posterior and never any noise: X_t = (a_t / a_s) X_s + (b_t - b_s a_t / a_s) x_0_hat (Prop. 3.4).

    On the 'ot-ode' and 'flow' processes this is their ODE. On a noisy bridge it is the "mean ODE" of GOUB, which does
    not keep the bridge's spread: smoother pictures of higher PSNR.

    Raises:
        ValueError: The process has no share of X_1 to scale (a = 0).
    """
    a, b, _ = (values.tolist() for values in process.coefficients(times))
    if a[0] == 0:
        raise ValueError("sampler 'ot-ode' walks from X_1 and this process starts from noise; use 'deterministic'")
    x = _begin(process, x_1, points(process, times[:1])[0], generator, start)
    for i in range(len(times) - 1):
        r = a[i + 1] / a[i]
        step = Update(0.0, b[i + 1] - b[i] * r, r, 0.0)
        x = _apply(step, x_1, predict_x0(x, _at(float(times[i]), x)), x, generator)
        yield x


def _second_order(s: Point, t: Point, x_1: Tensor, x_s: Tensor, x_0_hat: Tensor, slope: Tensor | None) -> Tensor:
    # The probability-flow ODE with x_0_hat linear in lambda over the step:
    # X_t = base_t X_1 + n_t/n_s (X_s - base_s X_1) + b_t [(1 - e^-h) D + (e^-h + h - 1) dD/dlambda].
    r = t.n / s.n
    h = t.log_snr - s.log_snr
    x_t = r * x_s + (t.b - r * s.b) * x_0_hat + (t.base - r * s.base) * x_1
    return x_t if slope is None else x_t + t.b * (math.expm1(-h) + h) * slope


@register_sampler("heun")
def heun(
    process: Process,
    predict_x0: PredictX0,
    x_1: Tensor,
    times: Tensor,
    generator: Generator,
    *,
    start: Tensor | None = None,
) -> Iterator[Tensor]:
    """Heun's rule on the probability-flow ODE in lambda: predict, look again at the end, correct. Second order.

    A corrected step spends two network calls, so the walk takes about half as many steps: `times` is resampled to
    as many points as its nfe calls pay for. The step that leaves X_1 of a bridge and the last one are first order,
    since lambda is infinite at the ends; an odd call left over is spent on one more plain step.
    """
    nfe = len(times) - 1
    first, last = points(process, times[[0, -1]])
    ends = math.isinf(first.log_snr) + (last.n == 0)
    corrected, spare = divmod(max(nfe - ends, 0), 2)
    steps = min(nfe, ends) + corrected + spare
    walk = points(process, _resampled(times, steps))
    x = _begin(process, x_1, walk[0], generator, start)
    for i, (s, t) in enumerate(itertools.pairwise(walk)):
        x_0_hat = predict_x0(x, _at(s.t, x))
        if i < steps - (last.n == 0) - corrected or t.n == 0:
            x = _apply(update(s, t, 0.0), x_1, x_0_hat, x, generator)
        else:
            guess = _second_order(s, t, x_1, x, x_0_hat, None)
            h = t.log_snr - s.log_snr
            change = predict_x0(guess, _at(t.t, x)) - x_0_hat
            x = _second_order(s, t, x_1, x, x_0_hat, change / h if h else None)
        yield x


@register_sampler("2m")
def second_order_multistep(
    process: Process,
    predict_x0: PredictX0,
    x_1: Tensor,
    times: Tensor,
    generator: Generator,
    *,
    start: Tensor | None = None,
) -> Iterator[Tensor]:
    """Second-order multistep on the probability-flow ODE (DPM-Solver++ 2M, DBIM order 2): one call per step.

    The slope of x_0_hat in lambda comes from the previous step. Where there is none (the first step, and the one
    after leaving X_1, whose lambda is -inf) and in the last step the rule is first order.
    """
    walk = points(process, times)
    x = _begin(process, x_1, walk[0], generator, start)
    before: Tensor | None = None
    h_before = math.inf
    for s, t in itertools.pairwise(walk):
        x_0_hat = predict_x0(x, _at(s.t, x))
        if s.n == 0 or t.n == 0:
            x = _apply(update(s, t, 0.0), x_1, x_0_hat, x, generator)
        else:
            slope = None if before is None or not _is_step(h_before) else (x_0_hat - before) / h_before
            x = _second_order(s, t, x_1, x, x_0_hat, slope)
        before, h_before = x_0_hat, t.log_snr - s.log_snr
        yield x


@register_sampler("2m-sde")
def second_order_multistep_sde(
    process: Process,
    predict_x0: PredictX0,
    x_1: Tensor,
    times: Tensor,
    generator: Generator,
    *,
    eta: float = 1.0,
    start: Tensor | None = None,
) -> Iterator[Tensor]:
    """Second-order multistep on the reverse SDE (DPM-Solver++ 2M SDE), brought to bridges: one call per step.

        X_t = a_t X_1 + r (X_s - a_s X_1) + b_t (1 - e^{-(1+eta) h}) [D + h / (2 h_1) (D - D_u)] + w z
        r = c_t / c_s e^{-eta h},   w^2 = c_t^2 (1 - e^{-2 eta h}),   h = lambda_t - lambda_s

    h_1 and D_u are the step before's.

    Without the bracket's correction and with eta = 1 this is the ancestral rule, whose few-step images are too smooth;
    the correction restores their spread. On a deterministic process it is '2m' with this bracket.

    Args:
        eta: Share of noise, not negative; 1 is the reverse SDE, 0 the ODE.

    Raises:
        ValueError: eta is negative.
    """
    if eta < 0:
        raise ValueError(f"eta must not be negative, got {eta}")
    eta = 0.0 if process.deterministic else eta
    walk = points(process, times)
    x = _begin(process, x_1, walk[0], generator, start)
    before: Tensor | None = None
    h_before = math.inf
    for s, t in itertools.pairwise(walk):
        x_0_hat = predict_x0(x, _at(s.t, x))
        h = t.log_snr - s.log_snr
        if s.n == 0 or t.n == 0:
            x = _apply(update(s, t, 1.0), x_1, x_0_hat, x, generator)
        else:
            bracket = x_0_hat
            if before is not None and _is_step(h_before):
                bracket = x_0_hat + h / (2 * h_before) * (x_0_hat - before)
            # eta h is 0 for eta = 0, also in the first step of a flow, where h is infinite.
            decay = eta * h if eta else 0.0
            r = t.n / s.n * math.exp(-decay)
            step = Update(
                t.base - r * s.base,
                -t.b * math.expm1(-h - decay),
                r,
                t.n * math.sqrt(-math.expm1(-2 * decay)),
            )
            x = _apply(step, x_1, bracket, x, generator)
        before, h_before = x_0_hat, h
        yield x


def _is_step(h: float) -> bool:
    """Whether a slope can be taken over a step in lambda: not from an end, nor between two times of one table cell."""
    return 0 < h < math.inf


def _resampled(times: Tensor, steps: int) -> Tensor:
    positions = np.linspace(0, len(times) - 1, steps + 1)
    return torch.from_numpy(np.interp(positions, np.arange(len(times)), times.double().numpy()))
