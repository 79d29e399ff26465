"""Targets: what the network learns, and how x_0_hat is read from its output.

Every target is linear, so three numbers per time describe it:

    x_0_hat = k_x X_t + k_1 X_1 + k_o F(c_in X_t, t),      target of F = (X_0 - k_x X_t - k_1 X_1) / k_o

The inverse holds by construction, for every target and process.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from i2i_bridge.bridge.base import Process, add_scaled, as_times, expand
from i2i_bridge.registry import register_target


class Weights(NamedTuple):
    """k_x, k_1, k_o and the input scale c_in: float64, the shape of t."""

    k_x: Tensor
    k_1: Tensor
    k_o: Tensor
    c_in: Tensor


class Target(ABC):
    """x_0_hat = k_x X_t + k_1 X_1 + k_o F(c_in X_t, t).

    Examples:
        >>> import torch
        >>> from i2i_bridge.bridge.processes import I2SB
        >>> from i2i_bridge.bridge.targets import I2SBTarget
        >>> x_0, x_1, t = torch.zeros(1, 3, 4, 4), torch.ones(1, 3, 4, 4), torch.tensor([0.5])
        >>> x_t = I2SB().marginal(x_0, x_1, t).mean
        >>> output = I2SBTarget().of(I2SB(), x_0, x_1, x_t, t)
        >>> torch.allclose(I2SBTarget().x_0_hat(I2SB(), output, x_t, x_1, t), x_0, atol=1e-6)
        True
    """

    @abstractmethod
    def weights(self, process: Process, t: Tensor | float) -> Weights:
        """The four numbers at times in (0, 1]; float64, the shape of t."""

    def check(self, process: Process) -> None:  # noqa: B027 - most targets fit every process
        """Refuse a process that the target does not fit.

        Raises:
            ValueError: The pair makes no sense; the message names one that does.
        """

    def of(self, process: Process, x_0: Tensor, x_1: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """What F should output (for i2sb: Eq. 12).

        F* = (X_0 - k_x X_t - k_1 X_1) / k_o

        Args:
            x_0: Clean images, (B, C, H, W).
            x_1: Degraded images, same shape.
            x_t: States, same shape.
            t: Times in (0, 1], (B,).
        """
        k_x, k_1, k_o, _ = (expand(value, x_t) for value in self.weights(process, t))
        return (x_0 - k_x * x_t - k_1 * x_1) / k_o

    def network_input(self, process: Process, x_t: Tensor, t: Tensor) -> Tensor:
        """c_in X_t."""
        c_in = self.weights(process, t).c_in
        return x_t if bool((c_in == 1).all()) else expand(c_in, x_t) * x_t

    def x_0_hat(self, process: Process, output: Tensor, x_t: Tensor, x_1: Tensor, t: Tensor) -> Tensor:
        """The predicted clean image, (B, C, H, W), from the network's output.

        x_0_hat = k_x X_t + k_1 X_1 + k_o F
        """
        k_x, k_1, k_o, _ = (expand(value, x_t) for value in self.weights(process, t))
        x_0_hat = k_x * x_t
        add_scaled(x_0_hat, k_1, x_1)
        add_scaled(x_0_hat, k_o, output)
        return x_0_hat


@register_target("i2sb")
@dataclass(frozen=True)
class I2SBTarget(Target):
    """The paper's target (Eq. 12): F = (X_t - X_0) / sigma_t, so x_0_hat = X_t - sigma_t F."""

    def check(self, process: Process) -> None:
        try:
            process.sigma(1.0)
        except ValueError as error:
            raise ValueError(
                f"target 'i2sb' divides by sigma_t, but {error}; use 'velocity', 'x0' or 'preconditioned'"
            ) from error

    def weights(self, process: Process, t: Tensor | float) -> Weights:
        sigma = process.sigma(t)
        one = torch.ones_like(sigma)
        return Weights(one, torch.zeros_like(sigma), -sigma, one)


@register_target("x0")
@dataclass(frozen=True)
class X0Target(Target):
    """The clean image itself (InDI, ResShift): F = X_0."""

    def weights(self, process: Process, t: Tensor | float) -> Weights:
        one = torch.ones_like(as_times(t))
        return Weights(torch.zeros_like(one), torch.zeros_like(one), one, one)


@register_target("eps")
@dataclass(frozen=True)
class EpsTarget(Target):
    """The noise z of X_t = a X_1 + b X_0 + c z (Palette, DDPM): x_0_hat = (X_t - a X_1 - c F) / b.

    Only for processes that keep a share of X_0 at t = 1 (b_1 > 0): elsewhere, as for a bridge and for 'source-noise',
    this is 0/0 there.
    """

    def check(self, process: Process) -> None:
        if process.pinned or float(process.coefficients(1.0).b) == 0:
            raise ValueError(
                f"target 'eps' is 0/0 at t = 1 of {type(process).__name__}, which has no share of X_0 there; use 'x0' "
                "or 'preconditioned'"
            )

    def weights(self, process: Process, t: Tensor | float) -> Weights:
        a, b, c = process.coefficients(t)
        return Weights(1 / b, -a / b, -c / b, torch.ones_like(b))


@register_target("velocity")
@dataclass(frozen=True)
class VelocityTarget(Target):
    """The difference of the path's ends (rectified flow): F = (X_t - X_0) / a_t, x_0_hat = X_t - a_t F.

    Only for straight paths, whose ends do not depend on t (b_t = 1 - a_t, c_t = sigma a_t): F is X_1 - X_0 on a
    noiseless path and X_1 + sigma z - X_0 on 'source-noise'. The noise of a bridge that is pinned at both ends has no
    such difference: F would grow without bound towards t = 0.
    """

    def check(self, process: Process) -> None:
        a, b, c = process.coefficients(torch.linspace(0.1, 1, 10, dtype=torch.float64))
        straight = bool(((a + b - 1).abs() < 1e-9).all()) and bool(((c / a - c[-1] / a[-1]).abs() < 1e-9).all())
        if not straight:
            raise ValueError(
                "target 'velocity' needs a straight path ('flow', 'ot-ode' or 'source-noise'), not "
                f"{type(process).__name__}; use 'i2sb' or 'x0'"
            )

    def weights(self, process: Process, t: Tensor | float) -> Weights:
        a = process.coefficients(t).a
        return Weights(torch.ones_like(a), torch.zeros_like(a), -a, torch.ones_like(a))


@register_target("nadb")
@dataclass(frozen=True)
class NADBTarget(Target):
    """The distance from X_0 over a power of t (NADB, CVPR 2026): F = (X_t - X_0) / t^exponent.

        x_0_hat = X_t - t^exponent F

    On the process 'nadb' with the same exponent F is X_1 - X_0 + scale t^(1 - exponent) (1 - t) z, whose noise fades
    towards t = 0; with (X_t - X_0) / sigma_t on 'i2sb' it does not. With an exponent of at most 1/2 it fits 'i2sb' and
    'brownian', too.

    Args:
        exponent: In (0, 1].
    """

    exponent: float = 0.4

    def __post_init__(self) -> None:
        if not 0 < self.exponent <= 1:
            raise ValueError(f"exponent must lie in (0, 1], got {self.exponent}")

    def check(self, process: Process) -> None:
        t = torch.tensor([1e-8, 1e-4], dtype=torch.float64)
        a, _, c = process.coefficients(t)
        nearer, near = (torch.maximum(a, c) / t**self.exponent).tolist()
        if nearer > 1.01 * near:
            raise ValueError(
                f"target 'nadb' with exponent {self.exponent} grows without bound towards t = 0 of "
                f"{type(process).__name__}; lower the exponent"
            )

    def weights(self, process: Process, t: Tensor | float) -> Weights:
        times = as_times(t)
        one = torch.ones_like(times)
        return Weights(one, torch.zeros_like(one), -(times**self.exponent), one)


@register_target("preconditioned")
@dataclass(frozen=True)
class PreconditionedTarget(Target):
    """Network input and target of unit variance (Eq. 22-23; EDM and DDBM preconditioning).

        c_in = Var(X_t)^(-1/2),   c_skip = Cov(X_0, X_t) / Var(X_t)
        c_out = sqrt(Var(X_0) - Cov(X_0, X_t)^2 / Var(X_t))
        x_0_hat = c_skip X_t + c_out F(c_in X_t, t)

    Args:
        var_0: Variance of a pixel of X_0.
        var_1: Variance of a pixel of X_1.
        cov_01: Covariance of the two. Training estimates the three from data where the recipe leaves them out
            (`estimate_moments`) and writes them into the run's recipe.
    """

    var_0: float = 0.25
    var_1: float = 0.25
    cov_01: float = 0.2

    def __post_init__(self) -> None:
        if not (self.var_0 > 0 and self.var_1 > 0 and self.cov_01**2 <= self.var_0 * self.var_1 * (1 + 1e-9)):
            raise ValueError(f"not the moments of a pair: var_0 {self.var_0}, var_1 {self.var_1}, cov_01 {self.cov_01}")

    def weights(self, process: Process, t: Tensor | float) -> Weights:
        a, b, c = process.coefficients(t)
        variance = a**2 * self.var_1 + b**2 * self.var_0 + 2 * a * b * self.cov_01 + c**2
        covariance = b * self.var_0 + a * self.cov_01
        # Var(X_0) Var(X_t) - Cov^2 written out: the difference of the two would cancel near t = 0.
        rest = a**2 * max(self.var_0 * self.var_1 - self.cov_01**2, 0.0) + self.var_0 * c**2
        return Weights(
            covariance / variance, torch.zeros_like(a), torch.sqrt(rest / variance), 1 / torch.sqrt(variance)
        )


def estimate_moments(pairs: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """Var(X_0), Var(X_1) and Cov(X_0, X_1) over all pixels of the given (x_0, x_1) batches, as Eq. 22-23 need.

    Raises:
        ValueError: There is no pair, or the images are constant.
    """
    count, sums = 0, torch.zeros(5, dtype=torch.float64)
    for x_0, x_1 in pairs:
        u, v = x_0.double().flatten(), x_1.double().flatten()
        sums += torch.stack([u.sum(), v.sum(), u.dot(u), v.dot(v), u.dot(v)])
        count += u.numel()
    if count == 0:
        raise ValueError("no pairs to estimate Var(X_0), Var(X_1) and Cov(X_0, X_1) from")
    mean_0, mean_1, square_0, square_1, product = (sums / count).tolist()
    moments = {
        "var_0": square_0 - mean_0**2,
        "var_1": square_1 - mean_1**2,
        "cov_01": product - mean_0 * mean_1,
    }
    if not (moments["var_0"] > 1e-12 and moments["var_1"] > 1e-12 and all(map(math.isfinite, moments.values()))):
        raise ValueError(f"the images hold no variation: {moments}")
    return moments
