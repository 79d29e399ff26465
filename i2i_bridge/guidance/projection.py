"""Data consistency: change x_0_hat by the operator only, without gradients. Fits every process and sampler."""

from dataclasses import dataclass

from torch import Tensor

from i2i_bridge.guidance.base import ROUNDING, Guidance, Look
from i2i_bridge.registry import register_guidance


@register_guidance("ddnm")
@dataclass(frozen=True)
class DDNM(Guidance):
    """Range-null-space projection: what y determines comes from y, the rest from the network (Wang et al. 2023).

        D <- D - A^+ (A D - y)                                                                    (DDNM, Eq. 13)

    Then A D = A A^+ y = y, and (I - A^+ A) D is the network's. With noise in y the inverse of a blur would blow it up;
    so A^+ is damped, which gives the most likely X_0 under N(D, error_std^2 I) and y = A X_0 + N(0, noise_std^2 I):

        D <- D - A^T (A A^T + (noise_std / error_std)^2 I)^-1 (A D - y)

    Args:
        noise_std: Of y, in units of [-1, 1] images, besides the noise that the degradation itself adds. By default that
            of rounding to 8 bits, which changes nothing to speak of where A is well conditioned; 0 is exactly A^+.
        error_std: Of the network's x_0_hat.
    """

    noise_std: float = ROUNDING
    error_std: float = 0.1

    def __post_init__(self) -> None:
        if not (self.noise_std >= 0 and self.error_std > 0):
            raise ValueError(f"noise_std >= 0 and error_std > 0 are needed, got {self.noise_std} and {self.error_std}")

    def __call__(self, look: Look) -> Tensor:
        y = look.measurement
        damping = (self.noise_std**2 + y.std**2) / self.error_std**2
        return look.x_0_hat + y.operator.inverse(y.residual(look.x_0_hat), damping)


@register_guidance("back-projection")
@dataclass(frozen=True)
class BackProjection(Guidance):
    """A gradient step of ||A D - y||^2 / 2 with respect to D itself (CDDB, Chung et al. 2023).

        D <- D - step A^T (A D - y)

    No inverse, so noise in y is not blown up; but one step leaves A D short of y where A's singular values are small.

    Args:
        step: Converges for step < 2 / ||A||^2, which is 2 for the operators here that keep an even image as it is.
    """

    step: float = 1.0

    def __post_init__(self) -> None:
        if not self.step > 0:
            raise ValueError(f"step must be positive, got {self.step}")

    def __call__(self, look: Look) -> Tensor:
        y = look.measurement
        return look.x_0_hat + self.step * y.operator.adjoint(y.residual(look.x_0_hat))


@register_guidance("cddb")
@dataclass(frozen=True)
class CDDB(BackProjection):
    """Another name of back-projection, that of its paper on bridges (Chung et al. 2023)."""
