"""The interface of bridges: how a clean image turns into its degraded partner.

Every process is one line,

    X_t = a_t X_1 + b_t X_0 + c_t z,        z ~ N(0, I),  t in [0, 1],

with X_0 the clean or target image (t = 0) and X_1 the degraded or source image (t = 1). That is the notation
of I2SB (Liu et al., ICML 2023); flow-matching papers number the ends the other way round. A process supplies
the three coefficients in float64, as closed forms that never subtract nearly equal numbers, so they keep
their relative accuracy at both ends. Samplers, targets and time grids read nothing else.

A *pinned* process is a true bridge: b_1 = c_1 = 0, so it starts exactly at X_1. A *deterministic* one has
c = 0 everywhere: an ordinary differential equation (OT-ODE, flow).
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from i2i_bridge.randomness import Generator, randn_like


class Coefficients(NamedTuple):
    """a_t (weight of X_1), b_t (weight of X_0), c_t (standard deviation): float64, the shape of t."""

    a: Tensor
    b: Tensor
    c: Tensor


class Gaussian(NamedTuple):
    """A normal distribution: mean (B, C, H, W) and a standard deviation broadcastable to it.

    Examples:
        >>> import torch
        >>> from i2i_bridge import Gaussian
        >>> x = Gaussian(torch.zeros(2, 3, 8, 8), torch.tensor(0.5)).sample(torch.Generator().manual_seed(0))
        >>> x.shape, bool((x.std() - 0.5).abs() < 0.05)
        (torch.Size([2, 3, 8, 8]), True)
    """

    mean: Tensor
    std: Tensor
    random: bool = True
    """False where the std is 0 everywhere; a field, since reading it from `std` would force a sync with the device."""

    def sample(self, generator: Generator) -> Tensor:
        """One draw, in the mean's dtype and on its device. A zero std reads no random number."""
        if not self.random:
            return self.mean
        return self.mean + self.std * randn_like(self.mean, generator)


def as_times(t: Tensor | float) -> Tensor:
    """Times as float64 on the CPU.

    Raises:
        ValueError: A time lies outside [0, 1] or is not a number.
    """
    times = torch.as_tensor(t, dtype=torch.float64, device="cpu")
    if not bool(((times >= 0) & (times <= 1)).all()):
        raise ValueError(f"times must lie in [0, 1], got {times.tolist()}")
    return times


BAND = 2**21
"""Number of values of a large image that are computed at once."""


def expand(values: Tensor, like: Tensor) -> Tensor:
    """Per-sample numbers (B,) or () as a tensor that broadcasts against images (B, C, H, W)."""
    return values.reshape(values.shape + (1,) * (like.ndim - values.ndim)).to(like.device, like.dtype)


def bands(x: Tensor) -> Iterator[tuple[Any, ...]]:
    """Yield indices of bands of rows of a large image (B, C, H, W), and one index of everything for a small tensor."""
    if x.numel() <= BAND:
        yield (...,)
        return
    step = max(BAND * x.shape[-2] // x.numel(), 1)
    for first in range(0, x.shape[-2], step):
        yield (..., slice(first, first + step), slice(None))


def add_scaled(total: Tensor, factor: Tensor | float, x: Tensor) -> None:
    """total += factor x, in place and in bands: otherwise factor x would be another array of the image's size."""
    for rows in bands(x):
        total[rows].add_(factor * x[rows])


class Process(ABC):
    """X_t = a_t X_1 + b_t X_0 + c_t z.

    Examples:
        >>> from i2i_bridge.bridge.processes import BrownianBridge
        >>> a, b, c = BrownianBridge(sigma_1=0.5).coefficients(0.5)
        >>> a.item(), b.item(), c.item()
        (0.5, 0.5, 0.25)
    """

    deterministic: ClassVar[bool] = False
    """c_t = 0 for every t."""
    pinned: ClassVar[bool] = True
    """b_1 = c_1 = 0: the process starts exactly at X_1."""
    drawn_once: ClassVar[bool] = False
    """All noise of a path is one draw, at the source. The sampler 'ancestral' would draw anew in every step."""
    noise_key: ClassVar[str | None] = None
    """The option that may be "auto" in a recipe; training then sets it by `with_noise`."""

    @abstractmethod
    def coefficients(self, t: Tensor | float) -> Coefficients:
        """a_t, b_t, c_t at times in [0, 1] of any shape, float64, same shape out."""

    def sigma(self, t: Tensor | float) -> Tensor:
        """sigma_t, the standard deviation gathered from time 0 to t; float64, the shape of t.

        Raises:
            ValueError: The process has no such quantity (a flow has no diffusion).
        """
        raise ValueError(f"{type(self).__name__} has no sigma_t, because it does not diffuse")

    def with_noise(self, factor: float) -> dict[str, float]:
        """Options that give the same a and b, and `factor` times this process's c.

        Args:
            factor: Positive.

        Raises:
            ValueError: The noise cannot be scaled alone.
        """
        raise ValueError(f"the noise of {type(self).__name__} cannot be scaled without changing its path")

    @property
    def starts_from_noise(self) -> bool:
        """Whether X_1 has no share of the state at t = 1 (a_1 = 0): sampling starts from noise alone."""
        return float(self.coefficients(1.0).a) == 0

    def network_time(self, t: Tensor | float) -> Tensor:
        """The time that is given to the network, in [0, 1]: t itself, except for checkpoints of other code."""
        return as_times(t)

    def marginal(self, x_0: Tensor, x_1: Tensor, t: Tensor | float) -> Gaussian:
        """Distribution of X_t given both ends (for I2SB: Prop. 3.3, Eq. 11).

            X_t | X_0, X_1  ~  N(a_t X_1 + b_t X_0, c_t^2 I)

        Args:
            x_0: Clean images, (B, C, H, W), in [-1, 1].
            x_1: Degraded images, same shape. May leave [-1, 1] where the task adds noise.
            t: Times in [0, 1], shape (B,) or ().

        Returns:
            Mean (B, C, H, W) and std broadcastable to it; the std is 0 at both ends of a pinned process.

        Raises:
            ValueError: The images differ in shape, or a time lies outside [0, 1].
        """
        if x_0.shape != x_1.shape:
            raise ValueError(f"x_0 {tuple(x_0.shape)} and x_1 {tuple(x_1.shape)} differ in shape")
        coefficients = self.coefficients(t)
        a, b, c = (expand(value, x_0) for value in coefficients)
        return Gaussian(a * x_1 + b * x_0, c, random=bool(coefficients.c.any()))

    def forward(self, x_0: Tensor, t: Tensor | float) -> Gaussian:
        """Distribution of X_t given X_0 alone: the diffusion before it is tied to X_1 (I2SB Eq. 6 with f = 0).

            X_t | X_0  ~  N(alpha_t X_0, sigma_t^2 I),      alpha_t = 1 unless the process preserves variance

        Raises:
            ValueError: The process does not diffuse.
        """
        if self.deterministic:
            raise ValueError(f"{type(self).__name__} does not diffuse: it has no forward SDE")
        return Gaussian(expand(self.alpha(t), x_0) * x_0, expand(self.sigma(t), x_0))

    def alpha(self, t: Tensor | float) -> Tensor:
        """alpha_t, the factor of X_0 in the forward diffusion; float64, the shape of t."""
        return torch.ones_like(as_times(t))
