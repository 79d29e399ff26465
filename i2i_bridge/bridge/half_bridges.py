"""Half-bridges: a Schroedinger bridge by iterative proportional fitting (IPF) with mean matching.

The reference is a chain of N steps of a process's diffusion dX = sqrt(beta_t) dW, at t_k = k / N,

    X_{k+1} = X_k + sqrt(2 gamma_{k+1}) z,     2 gamma_{k+1} = sigma^2(t_{k+1}) - sigma^2(t_k)

with X_0 from the data. Half-bridges replace one end of the chain in turn: the backward one starts at X_N from the prior
and reverses the transitions of the chain so far; the forward one then starts at X_0 from the data and reverses those of
the backward one. Their limit is the Schroedinger bridge of both ends. Transitions are Gaussian, with one variance for
both directions,

    X_{k+1} | X_k  ~  N(F_k(X_k), 2 gamma_{k+1} I),     X_k | X_{k+1}  ~  N(B_k(X_{k+1}), 2 gamma_{k+1} I)

and the mean of a reversed transition is the solution of a regression (De Bortoli et al. 2021, Prop. 3):

    B = argmin E || B_k(X_{k+1}) - (X_{k+1} + F_k(X_k) - F_k(X_{k+1})) ||^2     on chains of F
    F = argmin E || F_k(X_k) - (X_k + B_k(X_{k+1}) - B_k(X_k)) ||^2             on chains of B

Step k is the one between X_k and X_{k+1}, in either direction.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from i2i_bridge.bridge.base import Process, expand
from i2i_bridge.bridge.samplers import PredictX0
from i2i_bridge.randomness import Generator, randn_like

Kernel = Callable[[Tensor, Tensor], Tensor]
"""(x (B, C, H, W), k (B,)) -> mean of the state at the other end of step k, (B, C, H, W)."""


@dataclass(frozen=True)
class Chain:
    """The chain of N steps.

    Args:
        process: Its sigma^2 must be the same from both ends: sigma^2(t) + sigma^2(1 - t) = sigma^2(1).
        steps: N.
    """

    process: Process
    steps: int

    @property
    def variances(self) -> Tensor:
        """2 gamma_{k+1} of the steps k = 0, ..., N - 1; float64, (N,)."""
        return self.process.sigma(torch.linspace(0, 1, self.steps + 1, dtype=torch.float64)).square().diff()

    def backward(self, predict_x0: PredictX0) -> Kernel:
        """B_k(x) = x + 2 gamma_{k+1} / sigma^2(t) (x_0_hat(x, t) - x),     t = t_{k+1}.

        With E[X_0 | X_{k+1}] for x_0_hat this is E[X_k | X_{k+1}] of the reference.
        """
        return lambda x, k: self._towards(predict_x0, x, k, (k + 1).double() / self.steps)

    def forward(self, predict_xn: PredictX0) -> Kernel:
        """F_k(x) = x + 2 gamma_{k+1} / sigma^2(t) (x_N_hat(x, t) - x),     t = 1 - t_k, what is left of the chain."""
        return lambda x, k: self._towards(predict_xn, x, k, 1 - k.double() / self.steps)

    def walk(self, kernel: Kernel, start: Tensor, generator: Generator, *, backwards: bool) -> tuple[Tensor, Tensor]:
        """A chain of a kernel from `start`: X_0 or, backwards, X_N.

        Returns:
            The states X_0, ..., X_N, (N + 1, B, C, H, W), and the kernel's means of the steps 0, ..., N - 1.
        """
        states, means = [start], []
        deviations = self.variances.sqrt().tolist()
        for k in reversed(range(self.steps)) if backwards else range(self.steps):
            means.append(kernel(states[-1], torch.full((len(start),), k)))
            states.append(means[-1] + deviations[k] * randn_like(start, generator))
        order = slice(None, None, -1 if backwards else 1)
        return torch.stack(states[order]), torch.stack(means[order])

    def _towards(self, predict: PredictX0, x: Tensor, k: Tensor, t: Tensor) -> Tensor:
        share = self.variances[k] / self.process.sigma(t).square()
        return x + expand(share, x) * (predict(x, t) - x)


def matched(kernel: Kernel, x: Tensor, mean: Tensor, k: Tensor) -> Tensor:
    """The regression target of the reversed kernel at x: x + mean - kernel(x).

    Args:
        kernel: That of the chain.
        x: States at the end of step k that the kernel leads to.
        mean: The kernel's mean at the state that it came from.
        k: Steps, (B,).
    """
    return x + mean - kernel(x, k)
