"""Tiles: windows whose weights sum to 1, and blending that no order, batch or border shows in."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from i2i_bridge.bridge.base import BAND, add_scaled
from i2i_bridge.bridge.predictor import predictor
from i2i_bridge.bridge.processes import BrownianBridge
from i2i_bridge.bridge.samplers import ancestral
from i2i_bridge.bridge.targets import I2SBTarget
from i2i_bridge.bridge.tiles import TiledNetwork, blended, spans
from i2i_bridge.bridge.time_grids import uniform
from i2i_bridge.networks.unet import UNet
from i2i_bridge.randomness import global_seed

DEVICE = torch.device("cpu")


def images(seed, height, width, channels=2, batch=1):
    draws = torch.Generator().manual_seed(seed)
    return torch.randn(batch, channels, height, width, generator=draws, dtype=torch.float64)


class Convolutions(nn.Module):
    """`layers` 3x3 convolutions of x_t, t and the condition: no norm and no attention; reach of a pixel a layer."""

    casts_inputs = True

    def __init__(self, layers, channels=2, condition=0):
        super().__init__()
        widths = [channels + condition, *[4] * (layers - 1), channels]
        with global_seed(0, DEVICE):
            self.layers = nn.ModuleList([nn.Conv2d(a, b, 3, padding=1) for a, b in itertools.pairwise(widths)]).double()

    def forward(self, x_t, t, condition=None):
        h = x_t if condition is None else torch.cat([x_t, condition], dim=1)
        for layer in self.layers:
            h = torch.tanh(layer(h)) + t[:, None, None, None]
        return h


def drawn_unet():
    """A U-Net with norms and attention and random weights in every layer."""
    with global_seed(1, DEVICE):
        network = UNet(2, 2, channels=8, channel_mult=(1, 2), blocks_per_level=1, head_channels=8)
        for weight in network.parameters():
            nn.init.normal_(weight, std=0.15)
    return network.double().eval()


@given(
    st.integers(1, 40), st.integers(2, 12), st.integers(0, 6), st.sampled_from([1, 2, 8]), st.sampled_from([0.0, 0.5])
)
def test_weights_of_the_windows(length, side, overlap, stride, odd):
    """They cover the axis, sum to 1, are not negative, and at most two are at a pixel; edges inside weigh nothing."""
    # kills: tile-weights-do-not-sum-to-one, tile-edges-weigh, tile-neighbours-too-far
    length, side = length * stride, side * stride
    overlap = min(int((overlap + odd) * stride), side // 2)
    windows = spans(length, side, overlap, stride)
    total, count = torch.zeros(length, dtype=torch.float64), torch.zeros(length)
    for start, weights in windows:
        assert start % stride == 0 and start + len(weights) <= length and bool((weights >= 0).all())
        assert len(weights) == min(side, length)
        total[start : start + side] += weights
        count[start : start + side] += weights > 0
        if start:
            assert not weights[: overlap // 4].any()
        if start + side < length:
            assert not weights[side - overlap // 4 :].any()
    assert torch.allclose(total, torch.ones_like(total), rtol=0, atol=1e-15)
    assert count.max() <= 2
    starts = [start for start, _ in windows]
    assert starts == sorted(set(starts)) and all(b - a <= side - overlap for a, b in itertools.pairwise(starts))


@pytest.mark.parametrize("network", [Convolutions(2, condition=1), drawn_unet()], ids=["convolutions", "unet"])
def test_neither_order_nor_batch_of_the_windows_matters(network):
    """The order to the last bit; the batch as far as the network itself rounds alike in any batch."""
    # kills: tile-overwrites-its-neighbour, tile-times-of-one-window
    x, t = images(0, 72, 56, batch=2), torch.tensor([0.3, 0.8], dtype=torch.float64)
    condition = None if isinstance(network, UNet) else images(1, 72, 56, 1, batch=2)
    rows, columns = spans(72, 16, 8, 2), spans(56, 16, 8, 2)
    assert len(rows) > 4 and len(columns) > 4
    with torch.inference_mode():
        wanted = blended(network, x, t, condition, rows, columns)
        for seed in range(3):
            draws = torch.Generator().manual_seed(seed)
            mixed = [[axis[i] for i in torch.randperm(len(axis), generator=draws)] for axis in (rows, columns)]
            assert torch.equal(blended(network, x, t, condition, *mixed), wanted)
        for batch in (2, 3, 100):
            answer = blended(network, x, t, condition, rows, columns, batch=batch)
            assert torch.allclose(answer, wanted, rtol=0, atol=1e-13)
        # Each image of the batch for itself.
        alone = blended(network, x[1:], t[1:], None if condition is None else condition[1:], rows, columns)
        assert torch.allclose(alone, wanted[1:], rtol=0, atol=1e-13)


@pytest.mark.parametrize("size", [(72, 56), (70, 16), (33, 90), (16, 16)])
def test_a_network_of_a_short_reach_answers_as_on_the_whole_image(size):
    """Receptive field 9, overlap 16: reach 4 = overlap / 4. Twice as far does show."""
    # kills: tile-edges-weigh, tile-condition-of-another-place, tile-strip-unweighted
    x, t, condition = images(0, *size), torch.tensor([0.5], dtype=torch.float64), images(1, *size, 1)

    def error(layers):
        network = Convolutions(layers, condition=1)
        return (TiledNetwork(network, 32, 16, 1)(x, t, condition) - network(x, t, condition)).abs().max()

    assert error(4) < 1e-13
    assert size == (16, 16) or error(8) > 1e-10


def test_windows_start_at_multiples_of_the_stride():
    """Otherwise a network that pools would pool other pixels than in the whole image."""

    # kills: tile-starts-off-the-stride
    class Pooled(nn.Module):
        casts_inputs = True

        def forward(self, x_t, t, condition=None):
            return nn.functional.interpolate(nn.functional.avg_pool2d(x_t, 4), scale_factor=4)

    x, t = images(0, 68, 92), torch.ones(1, dtype=torch.float64)
    assert torch.allclose(TiledNetwork(Pooled(), 24, 8, 4)(x, t), Pooled()(x, t), rtol=0, atol=1e-15)


def test_a_pixel_keeps_its_noise_wherever_tiles_lie():
    """The states of an ancestral walk in tiles are those of the whole image; another seed gives others."""
    # kills: nothing blended inside the walk (a tile that walks alone draws its own noise)
    process, target, x_1, network = BrownianBridge(), I2SBTarget(), images(0, 40, 48), Convolutions(2)

    def walk(network, seed):
        predict = predictor(network, process, target, x_1)
        draws = [torch.Generator().manual_seed(seed)]
        return list(ancestral(process, predict, x_1, uniform(process, 4), draws))

    whole, other = walk(network, 7), walk(network, 8)
    for side, overlap in ((16, 8), (24, 12), (32, 8)):
        states = walk(TiledNetwork(network, side, overlap, 1), 7)
        assert len(states) == 4
        for state, wanted in zip(states, whole, strict=True):
            assert torch.allclose(state, wanted, rtol=0, atol=1e-12)
    assert not torch.allclose(whole[-2], other[-2], atol=1e-3)


def test_an_image_no_larger_than_a_tile_is_not_touched():
    # kills: tile-of-the-whole-image-blended
    network, x, t = drawn_unet(), images(0, 32, 24), torch.tensor([0.5], dtype=torch.float64)
    seen = []
    hook = network.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    with torch.inference_mode():
        assert torch.equal(TiledNetwork(network, 32, 8, 2)(x, t), network(x, t))
    hook.remove()
    assert seen[0] is x


def test_dropout_is_drawn_by_the_place_of_a_window():
    """As Pix2pix restores: in training mode, inside a seed."""

    # kills: tile-dropout-in-turn
    class Dropped(nn.Module):
        casts_inputs = True

        def forward(self, x_t, t, condition=None):
            return nn.functional.dropout(x_t, 0.5, training=self.training)

    x, t = images(0, 24, 24), torch.ones(1, dtype=torch.float64)
    rows, columns = spans(24, 16, 8), spans(24, 16, 8)
    network = Dropped().train()

    def answer(seed, *axes):
        return blended(network, x, t, None, *axes, seed=seed)

    assert torch.equal(answer(3, rows, columns), answer(3, rows[::-1], columns[::-1]))
    assert not torch.equal(answer(3, rows, columns), answer(4, rows, columns))
    tiled = TiledNetwork(network, 16, 8, 1, batch=2)
    outputs = []
    for seed in (5, 5, 6):
        with global_seed(seed, DEVICE):
            outputs.append(tiled(x, t))
    assert torch.equal(outputs[0], outputs[1]) and not torch.equal(outputs[0], outputs[2])


def test_each_call_on_windows_draws_its_own_dropout():
    """Neither a row nor a column of windows has one pattern of dropped values, which would show as a grid."""
    # kills: tile-dropout-of-a-row-alike, tile-dropout-of-a-column-alike
    patterns = []

    class Dropped(nn.Module):
        casts_inputs = True

        def forward(self, x_t, t, condition=None):
            patterns.append(nn.functional.dropout(torch.ones_like(x_t), 0.5, training=True))
            return patterns[-1]

    blended(Dropped(), images(0, 32, 32), torch.ones(1), None, spans(32, 16, 8), spans(32, 16, 8), seed=3)
    assert len(patterns) == 9
    assert all(not torch.equal(one, other) for one, other in itertools.combinations(patterns, 2))


@pytest.mark.parametrize("batch", [1, 2, 100])
def test_all_windows_of_an_image_have_its_label(batch):
    # kills: tile-label-of-another-image, tile-label-lost
    class Labelled(nn.Module):
        casts_inputs = True

        def forward(self, x_t, t, condition=None, label=None):
            return torch.zeros_like(x_t) + (-1 if label is None else label[:, None, None, None])

    labels = torch.tensor([3, 7])
    answer = TiledNetwork(Labelled().eval(), 16, 8, 1, batch)(images(0, 24, 40, batch=2), torch.ones(2), None, labels)
    assert torch.allclose(answer, labels.double()[:, None, None, None].expand_as(answer), atol=1e-12)


def test_low_precision_is_blended_in_float32():
    # kills: tiles-summed-in-bfloat16
    class Ones(nn.Module):
        casts_inputs = True

        def forward(self, x_t, t, condition=None):
            return torch.ones_like(x_t) * values

    values = torch.linspace(0.1, 1.9, 100, dtype=torch.bfloat16)[:, None, None, None]
    x = torch.zeros(100, 1, 64, 64, dtype=torch.bfloat16)
    output = TiledNetwork(Ones(), 16, 8, 1)(x, torch.ones(100))
    assert output.dtype == torch.bfloat16 and torch.equal(output, values.expand_as(x))


def test_products_of_large_images_are_added_in_parts():
    """The same bits as in one piece, and gradients where there are any."""
    # kills: parts-unscaled
    draws = torch.Generator().manual_seed(0)
    x, y = (torch.randn(2, 1, 1100, 1000, generator=draws) for _ in range(2))
    factor = torch.tensor([0.3, -1.7])[:, None, None, None]
    assert x.numel() > BAND
    with torch.no_grad():
        total = x.clone()
        add_scaled(total, factor, y)
    assert torch.equal(total, x + factor * y)
    y.requires_grad_()
    total = x.clone()
    add_scaled(total, factor, y)
    (gradient,) = torch.autograd.grad(total.sum(), y)
    assert torch.equal(gradient, factor.expand_as(y))
