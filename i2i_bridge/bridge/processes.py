"""Bridges by name: the processes that a recipe can choose, each three closed forms a_t, b_t, c_t (`bridge.base`)."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from i2i_bridge.bridge.base import Coefficients, Process, as_times
from i2i_bridge.registry import register_process


def _bridge(sigma2: Tensor, sigma_bar2: Tensor) -> Coefficients:
    """I2SB Eq. 11 from the variances gathered on either side of t (their sum is the total)."""
    total = sigma2 + sigma_bar2
    return Coefficients(sigma2 / total, sigma_bar2 / total, torch.sqrt(sigma2) * torch.sqrt(sigma_bar2 / total))


@register_process("i2sb")
@dataclass(frozen=True)
class I2SB(Process):
    """The symmetric bridge of I2SB: beta rises from each end towards the middle (Liu et al. 2023, Sec. 4.1).

        beta_t = (sqrt(beta_min) + (sqrt(beta_max) - sqrt(beta_min)) t)^2  for t <= 1/2,   beta_{1-t} = beta_t
        sigma_t^2 = int_0^t beta,   sigma_bar_t^2 = int_t^1 beta
        a = sigma^2 / (sigma^2 + sigma_bar^2),   b = 1 - a,   c = sigma sigma_bar / sqrt(sigma^2 + sigma_bar^2)

    This is the released code's schedule in the limit of many steps: there the ramp runs over the whole
    interval and only its first half is used, so the peak is about 0.187 for beta_max = 0.3 and 0.433 for 1.0.

    Args:
        beta_max: End of the ramp; the paper takes 0.3 (JPEG, super-resolution) and 1.0 (deblurring, inpainting). "auto"
            sizes both rates, 3 to 1, to what X_1 leaves unknown.
        beta_min: Diffusion rate at both ends.
    """

    beta_max: float = 0.3
    beta_min: float = 0.1

    noise_key: ClassVar[str | None] = "beta_max"

    def __post_init__(self) -> None:
        if not (self.beta_min > 0 and self.beta_max > 0):
            raise ValueError(f"beta_min and beta_max must be positive, got {self.beta_min} and {self.beta_max}")

    def with_noise(self, factor: float) -> dict[str, float]:
        return {"beta_max": factor**2 * self.beta_max, "beta_min": factor**2 * self.beta_min}

    def _from_end(self, t: Tensor) -> Tensor:
        # int_0^t of the ramp for t <= 1/2, as a polynomial: no division by beta_max - beta_min, so equal rates are
        # no special case.
        p = math.sqrt(self.beta_min)
        q = math.sqrt(self.beta_max) - p
        return t * (p * p + p * q * t + q * q * t * t / 3)

    def _variance(self, t: Tensor) -> Tensor:
        total = 2 * self._from_end(torch.tensor(0.5, dtype=torch.float64))
        return torch.where(t <= 0.5, self._from_end(t), total - self._from_end(1 - t))

    def coefficients(self, t: Tensor | float) -> Coefficients:
        times = as_times(t)
        return _bridge(self._variance(times), self._variance(1 - times))

    def sigma(self, t: Tensor | float) -> Tensor:
        return torch.sqrt(self._variance(as_times(t)))


@register_process("ot-ode")
@dataclass(frozen=True)
class OTODE(I2SB):
    """The deterministic limit of the I2SB bridge: the same path of means, no noise (Prop. 3.4).

        X_t = a_t X_1 + b_t X_0,   a and b as in I2SB

    The paper uses it with beta_max = 1.0 for deblurring and inpainting. A constant rate
    (beta_max = beta_min) gives (1 - t) X_0 + t X_1 (Cor. 3.5).
    """

    beta_max: float = 1.0

    deterministic = True
    noise_key = None

    def coefficients(self, t: Tensor | float) -> Coefficients:
        a, b, c = super().coefficients(t)
        return Coefficients(a, b, torch.zeros_like(c))


@register_process("brownian")
@dataclass(frozen=True)
class BrownianBridge(Process):
    """Brownian bridge of constant rate (BBDM with s = sigma_1^2 / 2; I2SB with constant beta).

        a = t,   b = 1 - t,   c = sigma_1 sqrt(t (1 - t)),   sigma_t = sigma_1 sqrt(t)

    Args:
        sigma_1: Standard deviation that the unpinned Brownian motion gathers over [0, 1]; c peaks at half of it. "auto"
            sizes it to what X_1 leaves unknown.
    """

    sigma_1: float = 0.5

    noise_key = "sigma_1"

    def __post_init__(self) -> None:
        if not self.sigma_1 > 0:
            raise ValueError(f"sigma_1 must be positive, got {self.sigma_1}; use 'flow' for a noiseless path")

    def with_noise(self, factor: float) -> dict[str, float]:
        return {"sigma_1": factor * self.sigma_1}

    def coefficients(self, t: Tensor | float) -> Coefficients:
        times = as_times(t)
        return Coefficients(times, 1 - times, self.sigma_1 * torch.sqrt(times * (1 - times)))

    def sigma(self, t: Tensor | float) -> Tensor:
        return self.sigma_1 * torch.sqrt(as_times(t))


@register_process("ve-bridge")
@dataclass(frozen=True)
class VEBridge(Process):
    """Variance-exploding bridge (DDBM, Zhou et al. 2024): the diffusion sigma_t = sigma_max t, tied to X_1.

        a = t^2,   b = 1 - t^2,   c = sigma_max t sqrt(1 - t^2)

    Args:
        sigma_max: Standard deviation of the diffusion at t = 1; "auto" sizes it to what X_1 leaves unknown.
    """

    sigma_max: float = 1.0

    noise_key = "sigma_max"

    def __post_init__(self) -> None:
        if not self.sigma_max > 0:
            raise ValueError(f"sigma_max must be positive, got {self.sigma_max}")

    def with_noise(self, factor: float) -> dict[str, float]:
        return {"sigma_max": factor * self.sigma_max}

    def coefficients(self, t: Tensor | float) -> Coefficients:
        times = as_times(t)
        left = (1 - times) * (1 + times)
        return Coefficients(times * times, left, self.sigma_max * times * torch.sqrt(left))

    def sigma(self, t: Tensor | float) -> Tensor:
        return self.sigma_max * as_times(t)


@register_process("vp-bridge")
@dataclass(frozen=True)
class VPBridge(Process):
    """Variance-preserving bridge (DDBM, Zhou et al. 2024).

        E_t = beta_min t + beta_d t^2 / 2,   alpha_t = exp(-E_t / 2)
        rho_t^2 = exp(E_t) - 1,   rhobar_t^2 = rho_1^2 - rho_t^2
        a = (alpha_t / alpha_1) rho_t^2 / rho_1^2,   b = alpha_t rhobar_t^2 / rho_1^2
        c = alpha_t rho_t rhobar_t / rho_1

    sigma_t is alpha_t rho_t = sqrt(1 - alpha_t^2), the diffusion's own standard deviation.
    """

    beta_min: float = 0.1
    beta_d: float = 2.0

    def __post_init__(self) -> None:
        if not (self.beta_min > 0 and self.beta_d >= 0):
            raise ValueError(f"beta_min must be positive and beta_d not negative, got {self.beta_min}, {self.beta_d}")
        if self.beta_min + self.beta_d / 2 > 700:  # exp of more is infinite, and the coefficients NaN
            raise ValueError(f"beta_min + beta_d / 2 must be at most 700, got {self.beta_min}, {self.beta_d}")

    def _exponent(self, t: Tensor) -> Tensor:
        return t * (self.beta_min + self.beta_d * t / 2)

    def coefficients(self, t: Tensor | float) -> Coefficients:
        times = as_times(t)
        done = self._exponent(times)
        # E_1 - E_t factored, so that 1 - t keeps its accuracy near t = 1.
        left = (1 - times) * (self.beta_min + self.beta_d * (1 + times) / 2)
        total = torch.expm1(self._exponent(torch.ones((), dtype=torch.float64)))
        rho2, rho_bar2 = torch.expm1(done), torch.exp(done) * torch.expm1(left)
        alpha = torch.exp(-done / 2)
        return Coefficients(
            torch.exp(left / 2) * rho2 / total,
            alpha * rho_bar2 / total,
            alpha * torch.sqrt(rho2) * torch.sqrt(rho_bar2 / total),
        )

    def sigma(self, t: Tensor | float) -> Tensor:
        return torch.sqrt(-torch.expm1(-self._exponent(as_times(t))))

    def alpha(self, t: Tensor | float) -> Tensor:
        return torch.exp(-self._exponent(as_times(t)) / 2)


@register_process("gaussian-prior")
@dataclass(frozen=True)
class GaussianPrior(Process):
    """Variance-preserving diffusion from noise; X_1 enters only through the network's condition (Palette, SR3).

        E_t = beta_min t + (beta_max - beta_min) t^2 / 2,   a = 0,   b = exp(-E_t / 2),   c = sqrt(1 - exp(-E_t))

    Not pinned: sampling starts at c_1 z, and b_1 = exp(-E_1 / 2) (0.007 by default) is taken as 0 there.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    pinned = False

    def __post_init__(self) -> None:
        if not (self.beta_min > 0 and self.beta_max >= self.beta_min):
            raise ValueError(f"0 < beta_min <= beta_max is needed, got {self.beta_min} and {self.beta_max}")

    def coefficients(self, t: Tensor | float) -> Coefficients:
        times = as_times(t)
        exponent = times * (self.beta_min + (self.beta_max - self.beta_min) * times / 2)
        return Coefficients(torch.zeros_like(times), torch.exp(-exponent / 2), torch.sqrt(-torch.expm1(-exponent)))

    def sigma(self, t: Tensor | float) -> Tensor:
        return self.coefficients(t).c

    def alpha(self, t: Tensor | float) -> Tensor:
        return self.coefficients(t).b


@register_process("flow")
@dataclass(frozen=True)
class LinearFlow(Process):
    """Straight path between the pair (rectified flow on given pairs, InDI without noise).

    a = t,   b = 1 - t,   c = 0
    """

    deterministic = True

    def coefficients(self, t: Tensor | float) -> Coefficients:
        times = as_times(t)
        return Coefficients(times, 1 - times, torch.zeros_like(times))


@register_process("source-noise")
@dataclass(frozen=True)
class SourceNoise(Process):
    """Straight path from the noised source (PMRF, Ohayon et al. 2025; OFTSR; the base noise of ECSI).

        X_t = t (X_1 + sigma_s z) + (1 - t) X_0:    a = t,   b = 1 - t,   c = sigma_s t

    Not pinned: sampling draws z once, at the source, and the sampler 'deterministic' walks the straight line from
    there (X_t = (t/s) X_s + (1 - t/s) x_0_hat). 'ancestral' would draw the noise anew in every step.

    Args:
        sigma_s: Standard deviation of the noise at the source, for images in [-1, 1]. PMRF takes 0.2, and 0.05 where
            X_1 is noisy already; 'flow' is the limit 0. "auto" sizes it to what X_1 leaves unknown.
    """

    sigma_s: float = 0.1

    pinned = False
    drawn_once = True
    noise_key = "sigma_s"

    def __post_init__(self) -> None:
        if not self.sigma_s > 0:
            raise ValueError(f"sigma_s must be positive, got {self.sigma_s}; use 'flow' for a noiseless path")

    def with_noise(self, factor: float) -> dict[str, float]:
        return {"sigma_s": factor * self.sigma_s}

    def coefficients(self, t: Tensor | float) -> Coefficients:
        times = as_times(t)
        return Coefficients(times, 1 - times, self.sigma_s * times)


@register_process("nadb")
@dataclass(frozen=True)
class NADB(Process):
    """Bridge whose noise vanishes linearly at both ends (NADB, CVPR 2026, arXiv 2605.28962).

        a = t^exponent,   b = 1 - a,   c = scale t (1 - t)

    Near t = 0 the noise is far below the share of X_1, where that of 'i2sb' is above it. No linear SDE has these
    marginals (c^2 is no multiple of a b), so there is no sigma_t, and 'ancestral' looks back at X_1. b / c falls to
    exponent / scale as t goes to 1, and is taken as 0 at t = 1, where the state is X_1.

    Args:
        exponent: In (0, 1]. Below 1 the state leaves X_0 quickly.
        scale: c peaks at a quarter of it, at t = 1/2. "auto" sizes it to what X_1 leaves unknown.
    """

    exponent: float = 0.4
    scale: float = 0.75

    noise_key = "scale"

    def __post_init__(self) -> None:
        if not (0 < self.exponent <= 1 and self.scale > 0):
            raise ValueError(
                f"exponent must lie in (0, 1] and scale be positive, got {self.exponent} and {self.scale}; use 'flow' "
                "for a noiseless path"
            )

    def with_noise(self, factor: float) -> dict[str, float]:
        return {"scale": factor * self.scale}

    def coefficients(self, t: Tensor | float) -> Coefficients:
        times = as_times(t)
        # 1 - t^exponent keeps its accuracy near t = 1.
        left = -torch.expm1(self.exponent * torch.log(times))
        return Coefficients(times**self.exponent, left, self.scale * times * (1 - times))
