"""Sampling proposals: where training draws X_t from."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from i2i_bridge.bridge.base import Process, expand
from i2i_bridge.randomness import Generator, rand, randn_like
from i2i_bridge.registry import register_proposal


class Proposal(Protocol):
    """Draws the training state X_t of a pair."""

    def check(self, process: Process) -> None:
        """Refuse a process that the proposal does not fit (ValueError)."""
        ...

    def sample(self, process: Process, x_0: Tensor, x_1: Tensor, t: Tensor, generator: Generator) -> Tensor:
        """X_t, (B, C, H, W), at times t (B,) in (0, 1]."""
        ...


@register_proposal("posterior")
@dataclass(frozen=True)
class PosteriorProposal:
    """X_t ~ q(X_t | X_0, X_1), the bridge's own marginal (Algorithm 1, Eq. 11)."""

    def check(self, process: Process) -> None:
        """Every process has a marginal."""

    def sample(self, process: Process, x_0: Tensor, x_1: Tensor, t: Tensor, generator: Generator) -> Tensor:
        """X_t = a_t X_1 + b_t X_0 + c_t z."""
        return process.marginal(x_0, x_1, t).sample(generator)


@register_proposal("mixture")
@dataclass(frozen=True)
class MixtureProposal:
    """A share of the samples from the forward SDE, the rest from q(X_t | X_0, X_1) (the ablation of Figure 10).

        with probability forward_ratio:  X_t = alpha_t X_0 + sigma_t z      (the forward SDE; alpha_t = 1 in I2SB)
        else:                            X_t ~ q(X_t | X_0, X_1)

    The forward SDE does not know X_1, so it leaves the states that sampling visits; q is the better choice in the
    paper.

    Args:
        forward_ratio: Share in [0, 1]; 0 is the posterior proposal.
    """

    forward_ratio: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.forward_ratio <= 1:
            raise ValueError(f"forward_ratio must lie in [0, 1], got {self.forward_ratio}")

    def check(self, process: Process) -> None:
        """Raises ValueError where there is no forward SDE."""
        try:
            process.sigma(1.0)
        except ValueError as error:
            has_none = f"proposal 'mixture' draws from the forward SDE, and {type(process).__name__} has none"
            raise ValueError(has_none) from error
        if process.deterministic:
            raise ValueError(f"proposal 'mixture' draws from the forward SDE, and {type(process).__name__} has none")

    def sample(self, process: Process, x_0: Tensor, x_1: Tensor, t: Tensor, generator: Generator) -> Tensor:
        """X_t of either kind, decided per sample."""
        chosen = expand(rand((x_0.shape[0],), generator) < self.forward_ratio, x_0).bool()
        forward, posterior = process.forward(x_0, t), process.marginal(x_0, x_1, t)
        mean = torch.where(chosen, forward.mean, posterior.mean)
        std = torch.where(chosen, forward.std, posterior.std)
        return mean + std * randn_like(x_0, generator)
