"""Guidance: a measurement y = A X_0 + noise with a known operator A changes x_0_hat inside a sampling step.

A sampler uses the network only through D = x_0_hat(X_t, t), so every known-operator method can be written as a change
of D. Some are defined that way (DDNM, back-projection); others add to the score or to the state, and are converted. By
Tweedie's formula, for X_t = a X_1 + b X_0 + c z,

    E[X_0 | X_t]    = (X_t - a X_1 + c^2 grad log p(X_t)) / b                                                     (1)
    E[X_0 | X_t, y] = D + (c^2 / b) grad_{X_t} log p(y | X_t)                                                     (2)

so a method that adds g to the score adds (c^2 / b) g to D. A method that adds g to the next state X_s adds g / k to D,
where k is the weight of D in the sampler's ancestral update (`samplers.update`).
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from i2i_bridge.bridge.base import Process
from i2i_bridge.bridge.samplers import points, update
from i2i_bridge.degradations.base import Degradation, Degraded
from i2i_bridge.degradations.linear import LinearOperator, cropped
from i2i_bridge.errors import UserError

ROUNDING = 2 / 255 / 12**0.5
"""Standard deviation of the rounding error of 8-bit images in [-1, 1]: 0.0023."""


@dataclass(frozen=True, eq=False)
class Measurement:
    """y = A X_0 + noise.

    Args:
        operator: A.
        y: Measurement, of the shape of A X_0; its part outside the range of A has no effect.
        std: Standard deviation of the noise, without rounding.
    """

    operator: LinearOperator
    y: Tensor
    std: float = 0.0

    def residual(self, x: Tensor) -> Tensor:
        """y - A x."""
        return self.y - self.operator.forward(x)


def measure(degradation: Degradation, degraded: Degraded, size: tuple[int, int] | None = None) -> Measurement:
    """The measurement of a degraded image: its operator A, and y = (degraded image without known noise) - offset.

    Args:
        size: Height and width before the image was padded at its right and lower edge; A acts on the unpadded image.

    Raises:
        UserError: The degradation has no linear operator.
    """
    padded = (degraded.x_1.shape[-2], degraded.x_1.shape[-1])
    height, width = padded if size is None else size
    mask = None if degraded.mask is None else degraded.mask[..., :height, :width]
    operator = degradation.linear(height, width, mask)
    if operator is None:
        raise UserError(
            f"guidance needs a linear degradation; {type(degradation).__name__} {degradation.why_not_linear}"
        )
    known = degradation.measurement(degraded)[..., :height, :width]
    y = known - operator.offset(known)
    if (height, width) != padded:
        operator = cropped(operator, (height, width), padded)
    return Measurement(operator, y, degradation.measurement_std)


@dataclass(frozen=True, eq=False)
class Look:
    """The arguments of a guidance: one network call and its place in the walk.

    Args:
        x_0_hat: D, (B, C, H, W).
        x_t: Input state of the network; D's autograd graph includes it if `through_network` is set.
        t: Time of x_t, the same for the whole batch.
        s: Next time of the walk, s < t.
        process: Process of the walk.
        measurement: The measurement that D is compared with.
    """

    x_0_hat: Tensor
    x_t: Tensor
    t: float
    s: float
    process: Process
    measurement: Measurement

    def step_weight(self) -> float:
        """k, the weight of D in the next state of an ancestral step from t to s; 1 in the last step."""

        point_t, point_s = points(self.process, torch.tensor([self.t, self.s], dtype=torch.float64))
        return update(point_t, point_s, 0.0 if self.process.deterministic else 1.0).k_d


class Guidance(ABC):
    """A change of D towards a measurement y. A member is a frozen dataclass; its fields are options of the recipe."""

    through_network: ClassVar[bool] = False
    """Whether gradients run through the network, for about three times the time and memory of a call."""

    def check(self, process: Process) -> None:  # noqa: B027 - most guidances fit every process
        """Check that the guidance fits a process.

        Raises:
            ValueError: It does not; the message names an alternative.
        """

    @abstractmethod
    def __call__(self, look: Look) -> Tensor:
        """The guided x_0_hat, (B, C, H, W)."""


@dataclass(frozen=True, eq=False)
class Guided:
    """A guidance bound to one measurement and one walk: the `Guide` of `bridge.predictor`.

    Args:
        times: Times of the walk, decreasing to 0.
    """

    guidance: Guidance
    process: Process
    measurement: Measurement
    times: Tensor

    @property
    def through_network(self) -> bool:
        return self.guidance.through_network

    def __call__(self, x_0_hat: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        t_now = float(t.flatten()[0])
        later = self.times[self.times < t_now]
        s = float(later.max()) if len(later) else 0.0
        guided: Any = self.guidance(Look(x_0_hat, x_t, t_now, s, self.process, self.measurement))
        if not isinstance(guided, Tensor) or guided.shape != x_0_hat.shape:
            given = tuple(guided.shape) if isinstance(guided, Tensor) else type(guided).__name__
            name = type(self.guidance).__name__
            raise UserError(
                f"guidance {name}: gave {given} for x_0_hat of shape {tuple(x_0_hat.shape)}; the shapes must agree"
            )
        return guided


def error_variance(process: Process, t: float, variance: float) -> float:
    """r_t^2 = v c^2 / (b^2 v + c^2): Var(X_0 | X_t) of a prior of independent pixels of variance v."""
    _, b, c = (float(value) for value in process.coefficients(t))
    return variance * c * c / (b * b * variance + c * c)
