"""What a guidance is: how a measurement y = A X_0 + noise with a known A moves x_0_hat inside a sampling step.

A sampler reads nothing of the network but D = x_0_hat(X_t, t). So every method with a known operator is a change of D.
Some are defined so (DDNM, back-projection); others add to the score or to the state, and are brought here. By Tweedie's
formula, for X_t = a X_1 + b X_0 + c z,

    E[X_0 | X_t]    = (X_t - a X_1 + c^2 grad log p(X_t)) / b                                                     (1)
    E[X_0 | X_t, y] = D + (c^2 / b) grad_{X_t} log p(y | X_t)                                                     (2)

so a method that adds g to the score adds (c^2 / b) g to D. One that adds g to the next state X_s adds g / k to D, where
k is the weight of D in the sampler's update (`samplers.update`), whose ancestral step is meant.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from i2i_bridge.bridge.processes import Process
from i2i_bridge.bridge.samplers import points, update
from i2i_bridge.degradations.base import Degradation, Degraded
from i2i_bridge.degradations.linear import LinearOperator, cropped
from i2i_bridge.errors import UserError

ROUNDING = 2 / 255 / 12**0.5
"""Standard deviation of the error that rounding to 8 bits makes in [-1, 1]: 0.0023."""


@dataclass(frozen=True, eq=False)
class Measurement:
    """y = A X_0 + noise.

    Args:
        operator: A.
        y: Of the shape of A X_0; what lies outside A's range is of no account.
        std: Standard deviation of the noise, apart from rounding.
    """

    operator: LinearOperator
    y: Tensor
    std: float = 0.0

    def residual(self, x: Tensor) -> Tensor:
        """y - A x."""
        return self.y - self.operator.forward(x)


def measure(degradation: Degradation, degraded: Degraded, size: tuple[int, int] | None = None) -> Measurement:
    """The measurement that a degraded image holds: its operator, and y = (what is known of A X_0 + offset) - offset.

    Args:
        size: Height and width before the image was padded at its right and lower edge; A knows nothing of the padding.

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
    """One network call, as a guidance sees it.

    Args:
        x_0_hat: D, (B, C, H, W).
        x_t: The state that the network looked at; D's graph reaches back to it where `through_network` is set.
        t: Its time, of the whole batch.
        s: The next time of the walk, s < t.
        process: Of the walk.
        measurement: What D is held against.
    """

    x_0_hat: Tensor
    x_t: Tensor
    t: float
    s: float
    process: Process
    measurement: Measurement

    def step_weight(self) -> float:
        """k, the weight of D in the next state of an ancestral step from t to s; 1 in the last step."""

        here, there = points(self.process, torch.tensor([self.t, self.s], dtype=torch.float64))
        return update(here, there, 0.0 if self.process.deterministic else 1.0).k_d


class Guidance(ABC):
    """D, y -> a better D. A member is a frozen dataclass whose fields are the options of `sample.guidance`."""

    through_network: ClassVar[bool] = False
    """Whether gradients run through the network: about three times the work and memory of a call."""

    def check(self, process: Process) -> None:  # noqa: B027 - most guidances fit every process
        """Refuse a process that the guidance does not fit.

        Raises:
            ValueError: The pair makes no sense; the message names one that does.
        """

    @abstractmethod
    def __call__(self, look: Look) -> Tensor:
        """The guided x_0_hat, (B, C, H, W)."""


@dataclass(frozen=True, eq=False)
class Guided:
    """A guidance tied to one measurement and one walk: the `Guide` of `bridge.predictor`.

    Args:
        times: Of the walk, decreasing to 0.
    """

    guidance: Guidance
    process: Process
    measurement: Measurement
    times: Tensor

    @property
    def through_network(self) -> bool:
        return self.guidance.through_network

    def __call__(self, x_0_hat: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        here = float(t.flatten()[0])
        later = self.times[self.times < here]
        there = float(later.max()) if len(later) else 0.0
        guided: Any = self.guidance(Look(x_0_hat, x_t, here, there, self.process, self.measurement))
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
