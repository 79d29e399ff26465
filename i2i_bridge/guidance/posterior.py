"""Posterior sampling: grad log p(y | X_t) through the network, for priors that were trained without y."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from i2i_bridge.bridge.base import Process
from i2i_bridge.guidance.base import ROUNDING, Guidance, Look, error_variance
from i2i_bridge.registry import register_guidance


@register_guidance("dps")
@dataclass(frozen=True)
class DPS(Guidance):
    """Diffusion posterior sampling: a gradient step on the state (Chung et al. 2023, Algorithm 1).

        X_s <- X_s - (zeta / ||y - A D||) grad_{X_t} ||y - A D||^2                                                (3)

    X_s = k D + ... in the sampler's step from t to s, so the same state comes from

        D <- D - (zeta / (k ||y - A D||)) grad_{X_t} ||y - A D||^2                                                (4)

    which by (2) is the score of p(y | X_t) = N(A D, I / (2 rho)) with rho = zeta b / (k c^2 ||y - A D||). Meant for the
    samplers 'ancestral', 'eta' and 'deterministic'. The norm is each image's own.

    Args:
        zeta: The step; the paper takes 0.1 to 1 for 1000 steps. Fewer steps bear and need larger ones.
    """

    zeta: float = 1.0

    through_network = True

    def __post_init__(self) -> None:
        if not self.zeta > 0:
            raise ValueError(f"zeta must be positive, got {self.zeta}")

    def __call__(self, look: Look) -> Tensor:
        distance = look.measurement.residual(look.x_0_hat).flatten(1).norm(dim=1)
        # grad ||.||^2 / ||.|| = 2 grad ||.||; the sum over the batch has each image's own gradient.
        (gradient,) = torch.autograd.grad(distance.sum(), look.x_t)
        return look.x_0_hat - 2 * self.zeta / look.step_weight() * gradient


@register_guidance("pigdm")
@dataclass(frozen=True)
class PiGDM(Guidance):
    """Pseudo-inverse guidance: a Gaussian p(X_0 | X_t), carried through A and the network (Song et al. 2023).

        p(X_0 | X_t) = N(D, r_t^2 I),   so   p(y | X_t) = N(A D, r_t^2 A A^T + noise_std^2 I)                     (5)
        g = (dD/dX_t)^T A^T (A A^T + (noise_std / r_t)^2 I)^-1 (y - A D);   without noise (dD/dX_t)^T A^+ (y - A D)
        grad log p(y | X_t) = g / r_t^2,   so by (2)   D <- D + c^2 / (b r_t^2) g                                 (6)

    dD/dX_t = (b / c^2) Cov[X_0 | X_t], so (6) is exact where that covariance is r_t^2 I; for images, whose pixels
    depend on each other, it overshoots. The weight r_t^2 / sigma_t^2 with sigma_t = c / b leaves

        D <- D + b g                                                                                              (7)

    a step that is at most that of DDNM in any direction.

    Args:
        weight: "adaptive" is (7), "exact" is (6).
        prior_std: sqrt(v) in r_t^2 = v c^2 / (b^2 v + c^2), the spread of a pixel of X_0; the paper takes 1.
        noise_std: Of y, besides the noise that the degradation itself adds. By default that of rounding to 8 bits.
    """

    weight: Literal["adaptive", "exact"] = "adaptive"
    prior_std: float = 1.0
    noise_std: float = ROUNDING

    through_network = True

    def __post_init__(self) -> None:
        if not (self.prior_std > 0 and self.noise_std >= 0):
            raise ValueError(f"prior_std > 0 and noise_std >= 0 are needed, got {self.prior_std} and {self.noise_std}")

    def check(self, process: Process) -> None:
        if not process.starts_from_noise:
            raise ValueError(
                f"guidance 'pigdm' is for a diffusion from noise (process 'gaussian-prior'), not"
                f" {type(process).__name__}; use 'ddnm' or 'back-projection'"
            )

    def __call__(self, look: Look) -> Tensor:
        y = look.measurement
        spread = error_variance(look.process, look.t, self.prior_std**2)
        with torch.no_grad():
            wanted = y.operator.inverse(y.residual(look.x_0_hat), (self.noise_std**2 + y.std**2) / spread)
        (g,) = torch.autograd.grad(look.x_0_hat, look.x_t, wanted)
        _, b, c = (float(value) for value in look.process.coefficients(look.t))
        return look.x_0_hat + (b if self.weight == "adaptive" else c * c / (b * spread)) * g
