import pytest
import torch

from i2i_bridge.bridge.processes import OTODE, BrownianBridge, LinearFlow, VPBridge
from i2i_bridge.bridge.proposals import MixtureProposal, PosteriorProposal


def draw(proposal, n=40_000):
    process = BrownianBridge(1.0)
    x_0, x_1 = torch.zeros(n, 1, 1, 1), torch.full((n, 1, 1, 1), 4.0)
    return proposal.sample(process, x_0, x_1, torch.full((n,), 0.5), torch.Generator().manual_seed(0)).flatten()


def test_posterior_is_the_marginal():
    # kills: swapped-weights, missing-root
    x_t = draw(PosteriorProposal())
    assert x_t.mean().item() == pytest.approx(2.0, abs=0.01)
    assert x_t.std().item() == pytest.approx(0.5, abs=0.01)


def test_mixture_takes_its_share_from_the_forward_sde():
    """Figure 10: X_0 + sigma_t z with the given probability, else q(X_t | X_0, X_1)."""
    # kills: mixture-ratio-inverted, mixture-noise-of-the-forward-sde, mixture-noise-of-the-posterior
    forward = draw(MixtureProposal(1.0))
    assert forward.mean().item() == pytest.approx(0, abs=0.02)
    assert forward.std().item() == pytest.approx(0.5**0.5, abs=0.02)
    posterior = draw(MixtureProposal(0.0))
    assert torch.allclose(posterior.mean(), torch.tensor(2.0), atol=0.01)
    assert posterior.std().item() == pytest.approx(0.5, abs=0.01)
    share = draw(MixtureProposal(0.25))
    assert share.mean().item() == pytest.approx(0.75 * 2.0, abs=0.03)
    # Each kind with its own spread: the mean of both variances, and that of the means.
    assert share.var().item() == pytest.approx(0.75 * 0.25 + 0.25 * 0.5 + 0.25 * 0.75 * 2.0**2, rel=0.03)


def test_mistakes():
    with pytest.raises(ValueError, match="forward_ratio"):
        MixtureProposal(1.5)
    with pytest.raises(ValueError, match="does not diffuse"):
        MixtureProposal(0.5).sample(
            LinearFlow(),
            torch.zeros(1, 1, 1, 1),
            torch.zeros(1, 1, 1, 1),
            torch.tensor([0.5]),
            torch.Generator(),
        )


def test_the_forward_sde_of_a_variance_preserving_bridge_shrinks_the_image():
    # kills: forward-sde-keeps-the-image
    process, t = VPBridge(), torch.tensor([0.9], dtype=torch.float64)
    forward = process.forward(torch.ones(1, 1, 1, 1), t)
    assert forward.mean.item() ** 2 + forward.std.item() ** 2 == pytest.approx(1, rel=1e-6)
    assert forward.mean.item() == pytest.approx(0.638, abs=1e-3)


@pytest.mark.parametrize("process", [OTODE(), LinearFlow()])
def test_a_noiseless_process_has_no_forward_sde(process):
    with pytest.raises(ValueError, match="forward SDE"):
        MixtureProposal().check(process)
    PosteriorProposal().check(process)
