"""Further losses of a bridge, both of x_0_hat: a perceptual distance and an adversarial loss."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from i2i_bridge.errors import UserError
from i2i_bridge.metrics.base import in_colour, moved


@dataclass(frozen=True)
class PerceptualLoss:
    """weight * ST-LPIPS(x_0_hat, X_0) of the samples at t <= until (as LBM and PixelGen gate theirs).

    If much of X_0 is unknown, x_0_hat near t = 1 is an average over all solutions, and the perceptual distance of such
    a blur rewards detail that X_1 does not determine.

    Args:
        weight: Weight relative to the mean squared error of the network's output.
        until: Largest t at which the loss counts; 1 for all.
    """

    weight: float
    until: float = 1.0

    def check(self) -> None:
        """Check that the weights of ST-LPIPS are installed.

        Raises:
            UserError: The weights' package is not installed.
        """
        from i2i_bridge.metrics.packaged import ST_LPIPS_ALEX

        problem = ST_LPIPS_ALEX.missing("method.perceptual")
        if problem:
            raise UserError(problem)

    def __call__(self, x_0_hat: Tensor, x_0: Tensor, t: Tensor) -> Tensor:
        """The mean over the batch, with 0 for samples at t > until; a scalar.

        Args:
            x_0_hat: Predicted clean images, (B, C, H, W); clamped to [-1.5, 1.5].
            x_0: Clean images, same shape.
            t: Times, (B,).

        Raises:
            UserError: The weights' package is not installed, or the images do not have 1 or 3 channels.
        """
        from i2i_bridge.metrics.packaged import shift_tolerant_lpips

        if x_0.shape[1] not in (1, 3):
            raise UserError(f"method.perceptual is for images of 1 or 3 channels, not {x_0.shape[1]}")
        distance = moved(shift_tolerant_lpips(), x_0.device)
        early = (t <= self.until).to(x_0.device, torch.float32)
        with torch.autocast(x_0.device.type, enabled=False):
            distances = distance(in_colour(x_0_hat.float().clamp(-1.5, 1.5)), in_colour(x_0.float()))
        loss: Tensor = self.weight * (distances * early).mean()
        return loss


@dataclass(frozen=True)
class AdversarialLoss:
    """A critic D of pairs (X_1, image) and the loss that makes x_0_hat look like X_0 to it (non-saturating GAN).

        D:  softplus(D(X_1, x_0_hat)) + softplus(-D(X_1, X_0))
        F:  w softplus(-D(X_1, x_0_hat)),    w = share |d mse / d F| / |d softplus / d F|,   per sample

    The weight w makes the norm of the adversarial gradient at the network's output a fixed share of the squared error's
    gradient, so that `share` needs no tuning per task (the adaptive weight of VQGAN, Esser et al. 2021, at the output
    instead of the last layer).

    Args:
        critic: Logits of a pair, any shape; positive for "real".
        share: Ratio of the adversarial gradient's norm to the squared error's.
    """

    critic: nn.Module
    share: float

    def of_critic(self, x_1: Tensor, x_0_hat: Tensor, x_0: Tensor) -> Tensor:
        """The critic's loss, a mean over patches and batch; x_0_hat is detached."""
        fake, real = self._logits(x_1, x_0_hat.detach()), self._logits(x_1, x_0)
        return softplus(fake).mean() + softplus(-real).mean()

    def of_network(self, x_1: Tensor, x_0_hat: Tensor, output: Tensor, error: Tensor) -> Tensor:
        """The network's adversarial loss, weighted; a scalar.

        Args:
            x_1: Degraded images, (B, C, H, W).
            x_0_hat: Predicted clean images, computed from output.
            output: The network's output, same shape; a part of the graph.
            error: The mean of the other losses over the batch, a scalar computed from output.
        """
        logits = self._logits(x_1, x_0_hat)
        each = softplus(-logits).reshape(len(logits), -1).mean(1)
        (steered,) = torch.autograd.grad(error, output, retain_graph=True)
        (fooled,) = torch.autograd.grad(each.mean(), output, retain_graph=True)
        weights = self.share * _norms(steered) / (_norms(fooled) + 1e-12)
        loss: Tensor = (weights.detach() * each).mean()
        return loss

    def _logits(self, x_1: Tensor, image: Tensor) -> Tensor:
        logits: Tensor = self.critic(torch.cat([x_1, image.to(x_1.dtype)], dim=1))
        return logits.float()


def _norms(gradient: Tensor) -> Tensor:
    norms: Tensor = gradient.float().flatten(1).norm(dim=1)
    return norms
