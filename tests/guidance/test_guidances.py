"""Guidance with a known operator: every formula against linear algebra, in float64, where nothing is approximate."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_degradations_adjoint import LINEAR, label, normal
from torch import Tensor

from i2i_bridge.bridge.base import Process
from i2i_bridge.bridge.predictor import predictor
from i2i_bridge.bridge.processes import I2SB, GaussianPrior, LinearFlow
from i2i_bridge.bridge.samplers import ancestral, deterministic
from i2i_bridge.bridge.targets import X0Target
from i2i_bridge.degradations.base import Degraded
from i2i_bridge.degradations.linear import LinearOperator, cropped
from i2i_bridge.errors import UserError
from i2i_bridge.guidance.base import Guidance, Guided, Look, Measurement, error_variance, measure
from i2i_bridge.guidance.posterior import DPS, PiGDM
from i2i_bridge.guidance.projection import DDNM, BackProjection
from i2i_bridge.images.pixels import to_pixels, to_tensor
from i2i_bridge.methods.bridge import Bridge
from i2i_bridge.randomness import generator, rand
from i2i_bridge.registry import DEGRADATIONS, GUIDANCES

ALL: list[Guidance] = [DDNM(), BackProjection(), DPS(), PiGDM(), PiGDM("exact")]


def images(*shape: int, seed: int = 0) -> Tensor:
    return rand(shape, generator(seed, "test")) * 2 - 1


def measured(table: dict[str, Any], x_0: Tensor) -> Measurement:
    degradation = DEGRADATIONS.build(table)
    return measure(degradation, degradation(x_0, [generator(0, "mask", i) for i in range(len(x_0))]))


def looked(measurement: Measurement, x_0_hat: Tensor) -> Look:
    return Look(x_0_hat, x_0_hat, 0.5, 0.4, I2SB(), measurement)


def dense(matrix: Tensor, shape: tuple[int, ...]) -> LinearOperator:
    """A given as a matrix (M, N) on images of N values; A x is an image of M values."""
    inverse = torch.linalg.pinv(matrix)
    eye = torch.eye(len(matrix), dtype=matrix.dtype)

    def damped(y: Tensor, delta: float) -> Tensor:
        solved = torch.linalg.solve(matrix @ matrix.T + delta * eye, y.flatten(1).T)
        return (matrix.T @ solved).T.reshape(-1, *shape)

    return LinearOperator(
        lambda x: (x.flatten(1) @ matrix.T).reshape(len(x), 1, 1, -1),
        lambda y: (y.flatten(1) @ matrix).reshape(-1, *shape),
        lambda y: (y.flatten(1) @ inverse.T).reshape(-1, *shape),
        damped=damped,
    )


# ------------------------------------------------------------------------------------------------ data consistency


@pytest.mark.parametrize("table", LINEAR, ids=label)
@pytest.mark.parametrize("seed", [1, 2])
def test_ddnm_says_what_y_says_and_leaves_the_null_space_to_the_network(table: dict[str, Any], seed: int) -> None:
    """A D = y to 1e-5 after one step, and (I - A^+ A) D stays the network's."""
    # kills: ddnm-away-from-y; the adjoint for the inverse; the offset of a darkening blur left in y; a hole's fill in y
    width = 48 if table.get("backend") == "ddrm-compat" else 72
    x_0 = images(2, 3, 48, width, seed=seed)
    y = measured(table, x_0)
    x_0_hat = x_0 + 0.3 * normal(48, width, seed)
    guided = DDNM(noise_std=0)(looked(Measurement(y.operator, y.y), x_0_hat))
    assert y.residual(guided).abs().max() < 1e-5
    assert y.residual(x_0_hat).abs().max() > 0.1

    def unseen(x: Tensor) -> Tensor:
        return x - y.operator.pinv(y.operator.forward(x))

    assert torch.allclose(unseen(guided), unseen(x_0_hat), atol=1e-6)
    if table["name"] != "noise":
        # y was read rightly: what is true of X_0 is no fault of it.
        assert y.residual(x_0).abs().max() < 1e-9
        assert (guided - x_0).norm() < (x_0_hat - x_0).norm()


@pytest.mark.parametrize("table", LINEAR, ids=label)
@pytest.mark.parametrize("delta", [1e-3, 0.5])
def test_damped_inverse_solves_the_normal_equations(table: dict[str, Any], delta: float) -> None:
    """z = A^T (A A^T + delta I)^-1 y is the one with A^T A z + delta z = A^T y."""
    # kills: damping-forgotten
    width = 48 if table.get("backend") == "ddrm-compat" else 72
    operator, y = measured(table, images(2, 3, 48, width)).operator, normal(48, width, 4)
    z = operator.inverse(y, delta)
    assert torch.allclose(operator.adjoint(operator.forward(z)) + delta * z, operator.adjoint(y), atol=1e-9)
    assert torch.equal(operator.inverse(y), operator.pinv(y))


def test_an_operator_without_a_damped_inverse_says_so() -> None:
    with pytest.raises(UserError, match="noise_std = 0"):
        LinearOperator(torch.clone, torch.clone, torch.clone).inverse(torch.zeros(1, 1, 2, 2), 0.1)


def test_rounding_to_8_bits_is_not_blown_up_by_a_blurs_inverse() -> None:
    # kills: damping-forgotten
    smooth = torch.nn.functional.avg_pool2d(images(1, 3, 80, 80).float(), 9, 1, padding=4) * 3
    degradation = DEGRADATIONS.build({"name": "blur", "kernel": "uniform"})
    x_1 = degradation(smooth, generator(0, "test")).x_1
    rounded = to_tensor(to_pixels(x_1[0], torch.zeros(1, dtype=torch.uint8).numpy().dtype))[None]
    y = measure(degradation, Degraded(rounded))
    before = smooth + 0.1 * normal(80, 80, 1)[:1].float()
    after = DDNM()(looked(y, before))
    assert (after - smooth).norm() < 0.95 * (before - smooth).norm()
    assert (DDNM(noise_std=0)(looked(y, before)) - smooth).norm() > 10 * (before - smooth).norm()


def test_ddnm_knows_the_noise_that_the_degradation_adds() -> None:
    """x_1 = x_0 + 0.3 z: the guided image is the mean of both, weighted by their variances, and not x_1 itself."""
    # kills: measurement-noise-forgotten
    x_0 = images(1, 3, 32, 32)
    y = measured({"name": "noise", "std": 0.3}, x_0)
    x_0_hat = x_0 + 0.1
    guided = DDNM(noise_std=0, error_std=0.3)(looked(y, x_0_hat))
    assert torch.allclose(guided, (x_0_hat + y.y) / 2, atol=1e-9)
    assert DEGRADATIONS.build({"name": "noise", "std": [0.1, 0.2]}).measurement_std == 0.2


@pytest.mark.parametrize("table", [one for one in LINEAR if one["name"] != "noise"], ids=label)
def test_back_projection_is_the_gradient_of_the_squared_distance(table: dict[str, Any]) -> None:
    # kills: back-projection-uphill; the inverse for the adjoint
    x_0 = images(1, 3, 48, 48)
    y = measured(table, x_0)
    x_0_hat = (x_0 + 0.3 * normal(48, 48, 1)[:1]).requires_grad_()
    (gradient,) = torch.autograd.grad(y.residual(x_0_hat).square().sum() / 2, x_0_hat)
    guided = BackProjection(0.7)(looked(y, x_0_hat.detach()))
    assert torch.allclose(guided, x_0_hat.detach() - 0.7 * gradient, atol=1e-9)
    assert y.residual(guided).norm() < y.residual(x_0_hat).norm()


def test_padding_is_none_of_the_operators_business() -> None:
    """The image is padded to the network's stride; y ends where the image ends, and the margin stays the network's."""
    # kills: padding-measured
    x_0 = images(1, 3, 36, 44)
    degradation = DEGRADATIONS.build({"name": "sr4x"})
    x_1 = torch.nn.functional.pad(degradation(x_0, generator(0, "test")).x_1, (0, 20, 0, 12), mode="reflect")
    y = measure(degradation, Degraded(x_1), (36, 44))
    x_0_hat = images(1, 3, 48, 64, seed=2)
    for guidance in (DDNM(noise_std=0), DDNM(), BackProjection()):
        guided = guidance(looked(y, x_0_hat))
        assert guided.shape == x_0_hat.shape
        assert torch.allclose(degradation.reduce(guided[..., :36, :44]), degradation.reduce(x_0), atol=1e-3)
        assert torch.equal(guided[..., 36:, :], x_0_hat[..., 36:, :])
        assert torch.equal(guided[..., 44:], x_0_hat[..., 44:])
    # kills: offset-of-the-padded-size
    square = DEGRADATIONS.build({"name": "blur", "backend": "ddrm-compat"})
    operator = cropped(square.linear(32, 32), (32, 32), (48, 64))
    moved = operator.forward(x_0_hat) + operator.offset(x_0_hat)
    assert torch.allclose(moved, square(x_0_hat[..., :32, :32], generator(0, "test")).x_1, atol=1e-5)
    inside = (y.operator.forward(x_0_hat) * y.y).sum()
    assert float(inside) == pytest.approx(float((x_0_hat * y.operator.adjoint(y.y)).sum()), rel=1e-9)


# -------------------------------------------------------------------------------- a Gaussian prior, all in closed form

SHAPE = (1, 2, 3)


class GaussianImages:
    """X_0 ~ N(mean, covariance), six pixels: D, its Jacobian and the posterior given y are matrices."""

    def __init__(self, process: Process, covariance: Tensor) -> None:
        self.process, self.covariance = process, covariance
        self.mean = images(1, *SHAPE, seed=7)

    def gain(self, t: float) -> Tensor:
        """dD/dX_t = b Sigma (b^2 Sigma + c^2 I)^-1."""
        _, b, c = (float(v) for v in self.process.coefficients(t))
        spread = b * b * self.covariance + c * c * torch.eye(6, dtype=torch.float64)
        return b * torch.linalg.solve(spread, self.covariance)

    def network(self, x_t: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        """E[X_0 | X_t]."""
        _, b, _ = (float(v) for v in self.process.coefficients(t[0]))
        return self.mean + ((x_t - b * self.mean).flatten(1) @ self.gain(float(t[0])).T).reshape(-1, *SHAPE)

    def posterior(self, matrix: Tensor, y: Tensor, std: float, x_t: Tensor | None = None, t: float = 1.0) -> Tensor:
        """E[X_0 | y] or E[X_0 | X_t, y], by conditioning once on all that is known."""
        rows, known = [matrix], [y.flatten(1)]
        noise = [torch.full((len(matrix),), std**2, dtype=torch.float64)]
        if x_t is not None:
            _, b, c = (float(v) for v in self.process.coefficients(t))
            rows.append(b * torch.eye(6, dtype=torch.float64))
            known.append(x_t.flatten(1))
            noise.append(torch.full((6,), c * c, dtype=torch.float64))
        stacked, seen = torch.cat(rows), torch.cat(known, 1)
        total = stacked @ self.covariance @ stacked.T + torch.diag(torch.cat(noise))
        change = (seen - self.mean.flatten(1) @ stacked.T) @ torch.linalg.solve(total, stacked @ self.covariance)
        return self.mean + change.reshape(-1, *SHAPE)


def correlated() -> Tensor:
    root = images(6, 6, seed=11)
    return 0.3 * root @ root.T + 0.1 * torch.eye(6, dtype=torch.float64)


def guided_look(
    prior: GaussianImages, guidance: Guidance, y: Measurement, x_t: Tensor, t: float, times: Tensor | None = None
) -> Tensor:
    times = torch.linspace(1, 0, 11, dtype=torch.float64) if times is None else times
    guide = Guided(guidance, prior.process, y, times)
    predict_x0 = predictor(prior.network, prior.process, X0Target(), x_t, guide=guide)
    return predict_x0(x_t, torch.full((len(x_t),), t, dtype=torch.float64))


@settings(deadline=None, max_examples=25)
@given(t=st.floats(0.02, 1), variance=st.floats(0.05, 2), std=st.sampled_from([0.0, 0.2]), seed=st.integers(0, 10**6))
def test_pigdm_is_exact_where_r_t_is(t: float, variance: float, std: float, seed: int) -> None:
    """Prior of independent pixels: r_t^2 is Var(X_0 | X_t), and (6) is E[X_0 | X_t, y] to 1e-6, for any A and noise."""
    # kills: pigdm-sign, pigdm-without-tweedie, pigdm-r-t-of-one, pigdm-noise-over-nothing
    prior = GaussianImages(GaussianPrior(), variance * torch.eye(6, dtype=torch.float64))
    matrix = images(3, 6, seed=seed)
    x_t = images(4, *SHAPE, seed=seed + 1)
    y = images(4, 1, 1, 3, seed=seed + 2)
    measurement = Measurement(dense(matrix, SHAPE), y)
    got = guided_look(prior, PiGDM("exact", math.sqrt(variance), std), measurement, x_t, t)
    # Without noise, conditioning needs an invertible matrix: 1e-10 stands for 0.
    assert torch.allclose(got, prior.posterior(matrix, y, std or 1e-6, x_t, t), rtol=1e-6, atol=1e-6)
    _, b, c = (float(v) for v in prior.process.coefficients(t))
    assert error_variance(prior.process, t, variance) == pytest.approx(1 / (1 / variance + b * b / (c * c)), rel=1e-9)


@settings(deadline=None, max_examples=25)
@given(t=st.floats(0.02, 1), seed=st.integers(0, 10**6))
def test_a_score_added_is_this_much_added_to_x_0_hat(t: float, seed: int) -> None:
    """Equation (2) for dependent pixels: E[X_0 | X_t, y] = D + (c^2 / b) grad log p(y | X_t), all by linear algebra."""
    prior = GaussianImages(GaussianPrior(), correlated())
    matrix, std = images(3, 6, seed=seed), 0.3
    x_t, y = images(2, *SHAPE, seed=seed + 1), images(2, 1, 1, 3, seed=seed + 2)
    _, b, c = (float(v) for v in prior.process.coefficients(t))
    x_0_hat = prior.network(x_t, torch.tensor([t]))
    gain = prior.gain(t)
    # Cov[X_0 | X_t] = (c^2 / b) dD/dX_t, as the docstring of PiGDM says.
    covariance = matrix @ (c * c / b * gain) @ matrix.T + std**2 * torch.eye(3, dtype=torch.float64)
    rest = y.flatten(1) - x_0_hat.flatten(1) @ matrix.T
    score = torch.linalg.solve(covariance, rest.T).T @ matrix @ gain
    exact = prior.posterior(matrix, y, std, x_t, t)
    assert torch.allclose(x_0_hat + (c * c / b * score).reshape(-1, *SHAPE), exact, atol=1e-6)


def test_pigdm_adaptive_is_a_vector_jacobian_product_and_at_most_a_ddnm_step() -> None:
    # kills: pigdm-sign; the Jacobian dropped; b dropped
    prior = GaussianImages(GaussianPrior(), correlated())
    matrix, x_t = images(3, 6, seed=1), images(2, *SHAPE, seed=2)
    y = Measurement(dense(matrix, SHAPE), images(2, 1, 1, 3, seed=3))
    for t in (0.05, 0.4, 1.0):
        b = float(prior.process.coefficients(t).b)
        x_0_hat = prior.network(x_t, torch.tensor([t]))
        wanted = y.operator.pinv(y.residual(x_0_hat))
        got = guided_look(prior, PiGDM(noise_std=0), y, x_t, t) - x_0_hat
        assert torch.allclose(got.flatten(1), b * wanted.flatten(1) @ prior.gain(t), atol=1e-12)
        assert 0 < got.norm() <= wanted.norm()


class Curved(torch.nn.Module):
    """A small network that is not linear; its weights ask for no gradient, as those of a loaded run."""

    stride = 1

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Conv2d(1, 5, 3, padding=1, dtype=torch.float64)
        self.last = torch.nn.Conv2d(5, 1, 3, padding=1, dtype=torch.float64)
        draws = torch.Generator().manual_seed(5)
        for weight in self.parameters():
            torch.nn.init.normal_(weight, std=0.4, generator=draws)
        self.requires_grad_(False)
        self.calls = 0

    def forward(self, x_t: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        self.calls += 1
        return x_t + self.last(torch.tanh(self.first(x_t)))


def difference(function: Any, x: Tensor, step: float = 1e-6) -> Tensor:
    """The gradient of a scalar function by central differences."""
    gradient = torch.zeros_like(x)
    for i in range(x.numel()):
        nudge = torch.zeros_like(x).flatten()
        nudge[i] = step
        nudge = nudge.reshape(x.shape)
        gradient.view(-1)[i] = (function(x + nudge) - function(x - nudge)) / (2 * step)
    return gradient


@pytest.mark.parametrize("process", [GaussianPrior(), I2SB(), LinearFlow()], ids=lambda one: type(one).__name__)
def test_dps_on_x_0_hat_is_the_papers_step_on_the_state(process: Process) -> None:
    """Through an ancestral step, (4) gives X_s - (zeta / ||r||) grad ||r||^2: gradient by finite differences."""
    # kills: dps-uphill, dps-step-on-x-0-hat; the factor 2; the norm of the batch for that of each image
    network, times = Curved(), torch.tensor([1.0, 0.7, 0.2, 0.0], dtype=torch.float64)
    y = Measurement(dense(images(4, 6, seed=1), SHAPE), images(2, 1, 1, 4, seed=3))
    x_1 = images(2, *SHAPE, seed=2)
    plain = predictor(network, process, X0Target(), x_1)
    guided = predictor(network, process, X0Target(), x_1, guide=Guided(DPS(0.3), process, y, times))
    for i, t in enumerate((1.0, 0.7, 0.2)):
        x_t = images(2, *SHAPE, seed=20 + i) if not (t == 1 and process.pinned) else x_1
        step = times[i : i + 2]
        free, led = (
            next(iter(ancestral(process, one, x_1, step, torch.Generator().manual_seed(0), start=x_t)))
            for one in (plain, guided)
        )
        for row in range(2):
            mine = Measurement(y.operator, y.y[row : row + 1])

            def distance(x: Tensor, mine: Measurement = mine) -> float:
                return float(mine.residual(network(x, times)).norm())

            one = x_t[row : row + 1]
            moved = -0.3 / distance(one) * difference(lambda x: distance(x) ** 2, one)
            assert torch.allclose((led - free)[row : row + 1], moved, atol=1e-6)


def test_pigdms_gradient_is_the_finite_difference() -> None:
    network, process = Curved(), GaussianPrior()
    y = Measurement(dense(images(4, 6, seed=1), SHAPE), images(1, 1, 1, 4, seed=3))
    x_t, t = images(1, *SHAPE, seed=2), torch.tensor([0.3], dtype=torch.float64)
    guide = Guided(PiGDM(noise_std=0), process, y, torch.tensor([1.0, 0.3, 0.0]))
    got = predictor(network, process, X0Target(), x_t, guide=guide)(x_t, t) - network(x_t, t)
    wanted = y.operator.pinv(y.residual(network(x_t, t)))
    gradient = difference(lambda x: float((network(x, t) * wanted).sum()), x_t)
    assert torch.allclose(got, float(process.coefficients(t).b) * gradient, atol=1e-7)


@pytest.mark.parametrize(
    "guidance", [DDNM(noise_std=0), PiGDM(noise_std=0), DPS(0.05)], ids=lambda one: type(one).__name__
)
def test_sampling_goes_to_the_posterior(guidance: Guidance) -> None:
    """Dependent pixels: the mean of many samples comes much nearer to E[X_0 | y], and A X_0 to y."""
    # kills: ddnm-away-from-y, dps-uphill, pigdm-sign
    prior = GaussianImages(GaussianPrior(), correlated())
    matrix = images(2, 6, seed=4)
    y = (prior.mean.flatten(1) + 0.8 * images(1, 6, seed=5)) @ matrix.T
    measurement = Measurement(dense(matrix, SHAPE), y.reshape(1, 1, 1, 2).expand(4000, -1, -1, -1))
    times = torch.linspace(1, 0, 51, dtype=torch.float64)
    x_1 = torch.zeros(4000, *SHAPE, dtype=torch.float64)
    exact = prior.posterior(matrix, y, 1e-6)
    errors, gaps = [], []
    for guide in (None, Guided(guidance, prior.process, measurement, times)):
        predict_x0 = predictor(prior.network, prior.process, X0Target(), x_1, guide=guide)
        *_, last = ancestral(prior.process, predict_x0, x_1, times, torch.Generator().manual_seed(1))
        errors.append(float((last.mean(0) - exact).norm()))
        gaps.append(float(measurement.residual(last).flatten(1).norm(dim=1).mean()))
    assert errors[1] < 0.5 * errors[0]
    assert gaps[1] < 0.2 * gaps[0]


def test_exact_pigdm_samples_the_posterior_of_independent_pixels() -> None:
    """Mean and spread of E[X_0 | y]: the samplers' laws hold, since D is the exact conditional expectation."""
    # kills: pigdm-r-t-of-one, pigdm-without-tweedie
    prior = GaussianImages(GaussianPrior(), 0.5 * torch.eye(6, dtype=torch.float64))
    matrix, std = images(2, 6, seed=4), 0.3
    y = prior.mean.flatten(1) @ matrix.T + 0.7
    measurement = Measurement(dense(matrix, SHAPE), y.reshape(1, 1, 1, 2).expand(8000, -1, -1, -1))
    x_1 = torch.zeros(8000, *SHAPE, dtype=torch.float64)
    times = torch.linspace(1, 0, 101, dtype=torch.float64)
    guide = Guided(PiGDM("exact", math.sqrt(0.5), std), prior.process, measurement, times)
    predict_x0 = predictor(prior.network, prior.process, X0Target(), x_1, guide=guide)
    *_, last = deterministic(prior.process, predict_x0, x_1, times, torch.Generator().manual_seed(1))
    assert (last.mean(0) - prior.posterior(matrix, y, std)[0]).abs().max() < 0.05
    total = matrix @ prior.covariance @ matrix.T + std**2 * torch.eye(2, dtype=torch.float64)
    wanted = prior.covariance - prior.covariance @ matrix.T @ torch.linalg.solve(total, matrix @ prior.covariance)
    assert (torch.cov(last.flatten(1).T) - wanted).norm() < 0.1 * wanted.norm()


# ---------------------------------------------------------------------------------------------------- in the predictor


@pytest.mark.parametrize("guidance", ALL, ids=lambda one: type(one).__name__)
def test_guided_calls_are_counted_work_under_inference_mode_and_leave_no_graph(guidance: Guidance) -> None:
    # kills: gradients-forbidden
    network, process = Curved(), GaussianPrior()
    x_1, times = images(3, 1, 8, 8), torch.linspace(1, 0, 6, dtype=torch.float64)
    degradation = DEGRADATIONS.build({"name": "sr4x"})
    y = measure(degradation, degradation(x_1, generator(0, "test")))
    with torch.inference_mode():
        predict_x0 = predictor(network, process, X0Target(), x_1, guide=Guided(guidance, process, y, times))
        draws = [generator(0, "test", i) for i in range(3)]
        states = list(ancestral(process, predict_x0, x_1, times, draws))
    assert network.calls == 5
    assert not any(state.requires_grad for state in states)
    for i in range(3):
        # One image alone is what it is in a batch.
        alone = measure(degradation, degradation(x_1[i : i + 1], generator(0, "test")))
        guide = Guided(guidance, process, alone, times)
        predict_x0 = predictor(network, process, X0Target(), x_1[i : i + 1], guide=guide)
        *_, last = ancestral(process, predict_x0, x_1[i : i + 1], times, [generator(0, "test", i)])
        assert torch.allclose(last, states[-1][i : i + 1], atol=1e-9)


@pytest.mark.parametrize("guidance", ALL, ids=lambda one: type(one).__name__)
def test_known_pixels_stay_to_the_last_bit_and_clip_comes_before(guidance: Guidance) -> None:
    # kills: mask-before-guide
    network, process = Curved(), GaussianPrior()
    x_0 = images(2, 1, 8, 8)
    degraded = DEGRADATIONS.build({"name": "inpaint"})(x_0, generator(0, "test"))
    y = measure(DEGRADATIONS.build({"name": "inpaint"}), degraded)
    guide = Guided(guidance, process, y, torch.linspace(1, 0, 6, dtype=torch.float64))
    predict_x0 = predictor(network, process, X0Target(), degraded.x_1, mask=degraded.mask, clip=True, guide=guide)
    x_0_hat = predict_x0(images(2, 1, 8, 8, seed=3), torch.full((2,), 0.4, dtype=torch.float64))
    known = degraded.mask == 0 if degraded.mask is not None else torch.zeros(0)
    assert torch.equal(x_0_hat[known], x_0[known])


def test_options_out_of_range_are_refused() -> None:
    for table, words in (
        ({"name": "ddnm", "noise_std": -1.0}, "noise_std"),
        ({"name": "back-projection", "step": 0.0}, "step must be positive"),
        ({"name": "dps", "zeta": -1.0}, "zeta must be positive"),
        ({"name": "pigdm", "prior_std": 0.0}, "prior_std"),
        ({"name": "pigdm", "weight": "none"}, "weight"),
        ({"name": "dnm"}, "did you mean 'ddnm'"),
    ):
        with pytest.raises(UserError, match=words):
            GUIDANCES.build(table)
    with pytest.raises(ValueError, match="'gaussian-prior'"):
        PiGDM().check(I2SB())


class Raised:
    """A guide that leaves [-1, 1]."""

    through_network = False

    def __call__(self, x_0_hat: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        return x_0_hat + 2


def test_the_network_s_answer_is_clipped_and_the_guided_one_is_not() -> None:
    # kills: guided-answer-clipped
    x = images(1, 3, 4, 4)
    predict_x0 = predictor(lambda x_t, t, condition: 9 * x_t, I2SB(), X0Target(), x, clip=True, guide=Raised())
    assert torch.equal(predict_x0(x, torch.tensor([0.5], dtype=torch.float64)), (9 * x).clamp(-1, 1) + 2)


def test_a_measurement_has_the_hole_of_the_image_and_the_condition_of_the_pair() -> None:
    """Padded, the hole is cut as the image is; of a noisy colorization the clean grey condition is what is known."""
    # kills: hole-of-the-padded-size, condition-left-out-of-the-measurement
    x_0 = images(1, 3, 20, 28)
    degraded = DEGRADATIONS.build({"name": "inpaint"})(x_0, generator(0, "test"))
    assert degraded.mask is not None
    pad = (0, 4, 0, 12)
    x_1, mask = (torch.nn.functional.pad(part, pad, mode="reflect") for part in (degraded.x_1, degraded.mask))
    y = measure(DEGRADATIONS.build({"name": "inpaint"}), Degraded(x_1, mask), (20, 28))
    known = torch.where(degraded.mask > 0, 0.0, x_0)
    assert torch.equal(y.operator.forward(torch.nn.functional.pad(x_0, pad)), known) and torch.equal(y.y, known)

    colorization = DEGRADATIONS.build({"name": "colorization", "noise_std": 0.5})
    noisy = colorization(x_0, generator(0, "test"))
    bridge = Bridge(
        lambda x_t, t, condition: torch.zeros_like(x_t), I2SB(), X0Target(), guidance=DDNM(noise_std=0),
        degradation=colorization,
    )  # fmt: skip
    *_, restored = bridge.trajectory(
        {"x_1": noisy.x_1, "condition": noisy.condition}, nfe=2, generator=generator(0, "walk")
    )
    assert torch.allclose(colorization.linear(20, 28).forward(restored), noisy.condition, atol=1e-5)
