"""Pix2pix: its networks, its losses written out, and its one call."""

import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from i2i_bridge.methods.pix2pix import Pix2pix
from i2i_bridge.networks.pix2pix import PatchGAN, Pix2pixUNet, official_names, receptive_field, to_official


def parameters(module):
    return sum(p.numel() for p in module.parameters())


def unet_parameters(levels):
    """By the paper's notation: C64-C128-C256-C512-..., two numbers per BatchNorm channel, a bias at the image."""
    widths = [64, 128, 256] + [512] * (levels - 3)
    down = sum(16 * a * b for a, b in zip([3, *widths], widths, strict=False)) + 2 * sum(widths[1:-1])
    up = 16 * 512 * widths[-2] + sum(16 * 2 * b * a for a, b in itertools.pairwise(widths[:-1]))
    return down + up + 2 * sum(widths[:-1]) + 16 * 128 * 3 + 3


def test_sizes_of_the_networks():
    # kills: skips-not-joined
    with torch.device("meta"):
        for levels, count in ((8, 54_413_955), (7, unet_parameters(7)), (6, unet_parameters(6))):
            network = Pix2pixUNet(levels=levels)
            assert parameters(network) == count == unet_parameters(levels)
            assert network(torch.zeros(1, 3, 2**levels, 2 ** (levels + 1))).shape == (
                1,
                3,
                2**levels,
                2 ** (levels + 1),
            )
        assert parameters(PatchGAN(6)) == 2_768_705
        assert PatchGAN(6)(torch.zeros(1, 6, 256, 256)).shape == (1, 1, 30, 30)
        assert Pix2pixUNet(1, 2, levels=5)(torch.zeros(1, 1, 32, 32)).shape == (1, 2, 32, 32)


def test_receptive_fields():
    """Receptive fields of the published table, and the support of a logit's gradient."""
    # kills: patchgan-strides
    assert [receptive_field(n) for n in range(7)] == [1, 16, 34, 70, 142, 286, 574]
    for n in range(4):
        judge = PatchGAN(1, n, channels=2).eval()
        image = torch.rand(1, 1, 128, 128, generator=torch.Generator().manual_seed(n), requires_grad=True)
        logits = judge(image)
        logits[0, 0, logits.shape[2] // 2, logits.shape[3] // 2].backward()
        rows = image.grad[0, 0].abs().sum(1).nonzero()
        assert int(rows.max() - rows.min()) + 1 == receptive_field(n)


def test_initial_weights():
    # kills: norm-starts-at-zero
    for module in [*Pix2pixUNet(channels=32).modules(), *PatchGAN(6).modules()]:
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.BatchNorm2d):
            mean = 1.0 if isinstance(module, nn.BatchNorm2d) else 0.0
            slack = 0.1 / module.weight.numel() ** 0.5
            assert float((module.weight.detach() - mean).square().mean().sqrt()) == pytest.approx(0.02, abs=slack)
            assert float(module.weight.detach().mean()) == pytest.approx(mean, abs=slack)
            assert module.bias is None or not module.bias.any()


class Nested(nn.Module):
    """One level of the official layout, each holding the next, with its in-place activations."""

    def __init__(self, widths, level, dropout):
        super().__init__()
        self.outermost, innermost = level == 0, level == len(widths) - 1
        above = widths[level - 1] if level else 3
        width = widths[level]
        conv = nn.Conv2d(above, width, 4, 2, 1, bias=False)
        up = nn.ConvTranspose2d(width * (1 if innermost else 2), above, 4, 2, 1, bias=self.outermost)
        if self.outermost:
            layers = [conv, Nested(widths, 1, dropout), nn.ReLU(True), up, nn.Tanh()]
        elif innermost:
            layers = [nn.LeakyReLU(0.2, True), conv, nn.ReLU(True), up, nn.BatchNorm2d(above)]
        else:
            inner = Nested(widths, level + 1, dropout)
            layers = [nn.LeakyReLU(0.2, True), conv, nn.BatchNorm2d(width), inner, nn.ReLU(True), up]
            layers += [nn.BatchNorm2d(above)] + ([nn.Dropout(dropout)] if level >= 4 else [])
        self.model = nn.Sequential(*layers)

    def forward(self, x):
        return self.model(x) if self.outermost else torch.cat([x, self.model(x)], 1)


@pytest.mark.parametrize("levels", [5, 6, 8])
def test_the_official_layout_computes_the_same(levels):
    # kills: skip-after-inner, official-names-exchanged
    widths = [4 * min(2**level, 8) for level in range(levels)]
    theirs = nn.Module()
    theirs.model = Nested(widths, 0, 0.5)
    ours = Pix2pixUNet(channels=4, levels=levels)
    with torch.no_grad():
        for name, buffer in ours.named_buffers():
            if "running" in name:
                buffer.uniform_(0.5, 1.5)
    theirs.load_state_dict(to_official(ours), strict=True)
    assert set(official_names(levels)) == set(ours.state_dict())
    x = torch.rand(2, 3, 2**levels, 2**levels, generator=torch.Generator().manual_seed(0)) * 2 - 1
    for training in (False, True):
        ours.train(training)
        theirs.train(training)
        outputs = []
        for network in (ours, theirs.model):
            torch.manual_seed(7)  # the same dropout, drawn in the same order
            outputs.append(network(x))
        assert torch.allclose(*outputs, atol=1e-5)


class Painter(nn.Module):
    """A generator that paints one learned image."""

    def __init__(self, image):
        super().__init__()
        self.image = nn.Parameter(image)
        self.calls = []

    def forward(self, x_1, t, condition):
        self.calls.append((x_1, t, condition))
        return self.image.expand_as(x_1)


class Weigher(nn.Module):
    """A discriminator of one patch: a weighted sum over the pair's channels."""

    def __init__(self, weights):
        super().__init__()
        self.weights = nn.Parameter(torch.tensor(weights))

    def forward(self, pair):
        return (pair * self.weights.view(1, -1, 1, 1)).sum(1, keepdim=True)


X_0, X_1, FAKE = (torch.tensor([[[[a, b]]]]) for a, b in ((0.5, -0.5), (0.1, 0.9), (-0.2, 0.3)))


def test_the_losses_written_out():
    # kills: labels-exchanged, discriminator-not-halved, l1-weight-forgotten, pair-without-x-1
    method = Pix2pix(Painter(FAKE), Weigher([2.0, 3.0]), l1_weight=10.0)
    losses = method.losses({"x_0": X_0, "x_1": X_1}, torch.Generator())
    name, d_loss = next(losses)
    real, fake = 2 * X_1 + 3 * X_0, 2 * X_1 + 3 * FAKE
    assert name == "discriminator"
    # -log sigmoid(l) = softplus(-l), -log(1 - sigmoid(l)) = softplus(l)
    assert d_loss.item() == pytest.approx((F.softplus(fake).mean() + F.softplus(-real).mean()).item() / 2)
    name, g_loss = next(losses)
    assert name == "network" and next(losses, None) is None
    assert g_loss.item() == pytest.approx((F.softplus(-fake).mean() + 10 * (FAKE - X_0).abs().mean()).item())
    assert len(method.network.calls) == 1
    gradients = torch.autograd.grad(g_loss, [method.network.image, method.discriminator.weights], retain_graph=True)
    through_d = 3 * (torch.sigmoid(fake) - 1) / 2
    assert torch.allclose(gradients[0], through_d + 10 * torch.sign(FAKE - X_0) / 2, atol=1e-6)


def test_the_generator_is_not_in_the_discriminators_loss():
    # kills: fake-not-detached
    method = Pix2pix(Painter(FAKE), Weigher([2.0, 3.0]))
    _, loss = next(method.losses({"x_0": X_0, "x_1": X_1}, torch.Generator()))
    loss.backward()
    assert method.network.image.grad is None and method.discriminator.weights.grad.abs().sum() > 0


def test_a_mask_keeps_known_pixels_and_their_gradient_at_zero():
    # kills: pix2pix-mask-forgotten
    mask = torch.tensor([[[[1.0, 0.0]]]])
    batch = {"x_0": torch.where(mask > 0, X_0, X_1), "x_1": X_1, "mask": mask}
    method = Pix2pix(Painter(FAKE), Weigher([2.0, 3.0]))
    *_, (_, loss) = method.losses(batch, torch.Generator())
    loss.backward()
    gradient = method.network.image.grad[0, 0, 0]
    assert gradient[0] != 0 and gradient[1] == 0
    (restored,) = method.trajectory(batch, nfe=3, generator=torch.Generator())
    assert torch.equal(restored, torch.where(mask > 0, FAKE, X_1))


def test_a_condition_of_the_pairs_own_is_seen_by_both():
    method = Pix2pix(Painter(FAKE), Weigher([2.0, 5.0, 3.0]), condition=True)
    batch = {"x_0": X_0, "x_1": X_1, "condition": X_1 * 2}
    _, loss = next(method.losses(batch, torch.Generator()))
    real, fake = (2 * X_1 + 5 * 2 * X_1 + 3 * image for image in (X_0, FAKE))
    assert loss.item() == pytest.approx((F.softplus(fake).mean() + F.softplus(-real).mean()).item() / 2)
    assert torch.equal(method.network.calls[0][2], X_1 * 2)


@pytest.fixture(scope="module")
def worn():
    """A generator whose running statistics differ from those of its images."""
    torch.manual_seed(0)
    network = Pix2pixUNet(channels=4, levels=6).eval().requires_grad_(False)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.01, 0.1)
    return network


def restored(network, x_1, seeds, inference="train", nfe=1):
    method = Pix2pix(network, nn.Identity(), inference=inference)
    draws = [torch.Generator().manual_seed(seed) for seed in seeds]
    (only,) = method.trajectory({"x_1": x_1}, nfe=nfe, generator=draws)
    return only


def images(count):
    return torch.rand(count, 3, 64, 64, generator=torch.Generator().manual_seed(3)) * 2 - 1


def test_inference_as_in_training(worn):
    # kills: dropout-off-at-test, running-statistics-moved, statistics-of-the-batch
    x_1, before = images(3), {name: value.clone() for name, value in worn.state_dict().items()}
    glob = torch.random.get_rng_state()
    together = restored(worn, x_1, [1, 2, 3])
    for i in range(3):
        assert torch.equal(restored(worn, x_1[i : i + 1], [i + 1])[0], together[i])
    assert not torch.equal(restored(worn, x_1, [1, 2, 4])[2], together[2])  # dropout is drawn
    assert not worn.training and all(torch.equal(before[name], value) for name, value in worn.state_dict().items())
    assert torch.equal(glob, torch.random.get_rng_state())
    # The very numbers: each image normalised by itself.
    reference = Pix2pixUNet(channels=4, levels=6, dropout=0.0).train()
    reference.load_state_dict(worn.state_dict())
    undropped = Pix2pixUNet(channels=4, levels=6, dropout=0.0).eval()
    undropped.load_state_dict(worn.state_dict())
    assert torch.equal(restored(undropped, x_1[:1], [1]), reference(x_1[:1]))


def test_inference_by_running_statistics(worn):
    # kills: eval-ignored
    x_1 = images(2)
    plain = torch.cat([worn(x_1[i : i + 1]) for i in range(2)])
    assert torch.equal(restored(worn, x_1, [1, 2], "eval"), plain)
    assert torch.equal(restored(worn, x_1, [5, 6], "eval"), plain)
    assert not torch.allclose(restored(worn, x_1, [1, 2]), plain, atol=1e-3)


def test_one_call_whatever_is_asked(worn):
    calls = []
    worn.register_forward_hook(lambda *call: calls.append(call))
    one, twenty = (restored(worn, images(1), [1], nfe=nfe) for nfe in (1, 20))
    assert len(calls) == 2 and torch.equal(one, twenty)
