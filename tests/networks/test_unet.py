"""The U-Net: names and shapes of ADM, each block against an independent formula, and its invariances."""

import copy
import math
from typing import TypeVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from i2i_bridge.errors import UserError
from i2i_bridge.networks import normalisation
from i2i_bridge.networks.blocks import AttentionBlock, ResidualBlock, attention, doubled_conv, modulations, sinusoid
from i2i_bridge.networks.normalisation import GroupNorm, GroupNormSiLU
from i2i_bridge.networks.unet import UNet, adm256
from i2i_bridge.registry import NETWORKS

M = TypeVar("M", bound=nn.Module)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randomised(module: M, seed: int = 0) -> M:
    """Randomise all weights, so that no branch is zero."""
    generator = seeded(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            scale = 0.1 if parameter.ndim == 1 else 1 / math.sqrt(parameter[0].numel())
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
            parameter.add_(parameter.ndim == 1 and name.endswith("weight"))
    return module


def small(**options: object) -> UNet:
    settings = {"channels": 8, "channel_mult": (1, 2, 3), "blocks_per_level": 1, "head_channels": 8} | options
    return randomised(UNet(**settings))  # type: ignore[arg-type]


def images(*shape: int, seed: int = 1, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=seeded(seed), dtype=dtype)


# --- time


def test_sinusoid_is_the_formula() -> None:
    # kills: time-sine-first;
    # [sin, cos] order; exponent 2k/(dim-2); max_period of another value; angles in float32
    t, dim = [0.0, 0.1234567, 1.0], 12
    frequencies = [1000.0 * 10000.0 ** (-2 * k / dim) for k in range(dim // 2)]
    wanted = [[f(u * w) for f in (math.cos, math.sin) for w in frequencies] for u in t]
    got = sinusoid(torch.tensor(t, dtype=torch.float64), dim)
    torch.testing.assert_close(got, torch.tensor(wanted, dtype=torch.float64), rtol=0, atol=1e-10)


def test_time_scale_is_the_unit_of_time() -> None:
    # kills: time_scale ignored, or applied twice; t not reaching the blocks
    network, rescaled = small().double(), small(time_scale=1.0).double()
    x, t = images(2, 3, 8, 8, dtype=torch.float64), torch.tensor([0.2, 0.7], dtype=torch.float64)
    torch.testing.assert_close(network(x, t), rescaled(x, 1000 * t), rtol=1e-9, atol=1e-9)
    assert (network(x, t) - rescaled(x, t)).abs().max() > 1e-2


# --- names and shapes of the published weights


def test_adm256_has_the_published_names_order_and_shapes() -> None:
    # kills: attention at a wrong level; a missing or misplaced block; wrong time width; shuffled order
    with torch.device("meta"):
        plain, conditioned = adm256(), adm256(condition_channels=3)
    assert sum(p.numel() for p in plain.parameters()) == 552_807_171
    assert sum(p.numel() for p in conditioned.parameters()) == 552_814_083
    shapes = {key: tuple(value.shape) for key, value in plain.state_dict().items()}
    keys = list(shapes)
    assert len(keys) == 566
    assert keys == [key for key, _ in plain.named_parameters()]
    assert (len(plain.input_blocks), len(plain.output_blocks)) == (18, 18)
    blocks = [m for m in plain.modules() if isinstance(m, ResidualBlock)]
    attentions = [m for m in plain.modules() if isinstance(m, AttentionBlock)]
    assert (len(blocks), sum(b.resample != "none" for b in blocks), len(attentions)) == (42, 10, 16)
    assert {(a.proj_out.in_channels, a.heads) for a in attentions} == {(512, 8), (1024, 16)}
    assert plain.stride == 32
    first = ["time_embed.0.weight", "time_embed.0.bias", "time_embed.2.weight", "time_embed.2.bias"]
    assert keys[:6] == [*first, "input_blocks.0.0.weight", "input_blocks.0.0.bias"]
    block = [f"input_blocks.1.0.{layer}" for layer in ("in_layers.0", "in_layers.2", "emb_layers.1")]
    block += [f"input_blocks.1.0.{layer}" for layer in ("out_layers.0", "out_layers.3")]
    assert keys[6:16] == [f"{layer}.{kind}" for layer in block for kind in ("weight", "bias")]
    assert keys[-4:] == ["out.0.weight", "out.0.bias", "out.2.weight", "out.2.bias"]
    literal = {
        "time_embed.0.weight": (1024, 256),
        "input_blocks.0.0.weight": (256, 3, 3, 3),
        "input_blocks.7.0.skip_connection.weight": (512, 256, 1, 1),
        "input_blocks.10.1.qkv.weight": (1536, 512, 1),
        "input_blocks.13.0.emb_layers.1.weight": (2048, 1024),
        "input_blocks.17.1.proj_out.weight": (1024, 1024, 1),
        "middle_block.1.norm.weight": (1024,),
        "output_blocks.2.2.in_layers.2.weight": (1024, 1024, 3, 3),
        "output_blocks.11.0.in_layers.0.weight": (768,),
        "output_blocks.11.1.in_layers.2.weight": (512, 512, 3, 3),
        "output_blocks.17.0.skip_connection.weight": (256, 512, 1, 1),
        "out.2.weight": (3, 256, 3, 3),
    }
    assert {key: shapes.get(key) for key in literal} == literal
    assert conditioned.state_dict()["input_blocks.0.0.weight"].shape == (256, 6, 3, 3)


def test_attention_sits_at_the_chosen_factors() -> None:
    # kills: factors counted after the resampling block; attention missing on the way up
    network = UNet(channels=8, channel_mult=(1, 1, 1), blocks_per_level=1, attention_factors=(2,))
    places = [name for name, m in network.named_modules() if isinstance(m, AttentionBlock)]
    assert places == ["input_blocks.3.1", "middle_block.1", "output_blocks.2.1", "output_blocks.3.1"]


# --- blocks against independent formulas


def reference_norm(x: Tensor, norm: nn.GroupNorm) -> Tensor:
    groups = x.reshape(x.shape[0], norm.num_groups, -1)
    centred = groups - groups.mean(2, keepdim=True)
    z = (centred / (centred.square().mean(2, keepdim=True) + 1e-5).sqrt()).reshape(x.shape)
    return z * norm.weight[:, None, None] + norm.bias[:, None, None]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("resample", "width"), [("none", 6), ("none", 4), ("down", 4), ("up", 4)])
def test_residual_block_is_its_formula(resample: str, width: int, layout: torch.memory_format) -> None:
    # kills: scale-without-one, doubled-skip-once;
    # scale and shift swapped; scale instead of 1 + scale; resampling after the convolution or not on
    # the skip; bilinear or max pooling; no skip convolution; activation left out
    block = randomised(ResidualBlock(4, width, 5, resample=resample)).double()  # type: ignore[arg-type]
    x, time = images(2, 4, 4, 6, dtype=torch.float64), images(2, 5, seed=2, dtype=torch.float64)

    def resampled(y: Tensor) -> Tensor:
        if resample == "up":
            return y.repeat_interleave(2, 2).repeat_interleave(2, 3)
        if resample == "down":
            return y.reshape(2, -1, 2, 2, 3, 2).mean((3, 5))
        return y

    def silu(y: Tensor) -> Tensor:
        return y / (1 + torch.exp(-y))

    p = dict(block.named_parameters())
    h = resampled(silu(reference_norm(x, block.in_layers[0])))
    h = F.conv2d(h, p["in_layers.2.weight"], p["in_layers.2.bias"], padding=1)
    affine = silu(time) @ p["emb_layers.1.weight"].T + p["emb_layers.1.bias"]
    scale, shift = affine[:, :width, None, None], affine[:, width:, None, None]
    h = silu(reference_norm(h, block.out_layers[0]) * (1 + scale) + shift)
    h = F.conv2d(h, p["out_layers.3.weight"], p["out_layers.3.bias"], padding=1)
    skip = resampled(x)
    if width != 4:
        skip = F.conv2d(skip, p["skip_connection.weight"], p["skip_connection.bias"])
    torch.testing.assert_close(block(x.to(memory_format=layout), time), skip + h, rtol=1e-9, atol=1e-9)


def test_attention_is_its_formula() -> None:
    # kills: heads-inside-qkv;
    # (qkv, head, c) layout instead of (head, qkv, c); missing 1/sqrt(c); q and k swapped; no residual
    block = randomised(AttentionBlock(12, 4)).double()
    with torch.no_grad():
        block.qkv.weight *= 3  # else the softmax is nearly flat and hides its scale
    x = images(2, 12, 4, 6, dtype=torch.float64)
    tokens = reference_norm(x, block.norm).reshape(2, 12, 24)
    qkv = torch.einsum("oc,bcn->bon", block.qkv.weight[..., 0], tokens) + block.qkv.bias[:, None]
    heads = []
    for head in range(3):
        q, k, v = (qkv[:, 12 * head + 4 * part :][:, :4] for part in range(3))
        weights = torch.einsum("bcn,bcm->bnm", q, k).div(2.0).exp()
        heads.append(torch.einsum("bnm,bcm->bcn", weights / weights.sum(2, keepdim=True), v))
    mixed = torch.einsum("oc,bcn->bon", block.proj_out.weight[..., 0], torch.cat(heads, dim=1))
    wanted = x + (mixed + block.proj_out.bias[:, None]).reshape(x.shape)
    torch.testing.assert_close(block(x), wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("tokens", [64, 256])
def test_attention_in_bfloat16_with_a_gradient_rounds_once(tokens: int) -> None:
    # kills: attention-in-bfloat16; the weights or their gradient rounded to bfloat16
    inputs = [images(2, 3, tokens, 32, seed=seed).bfloat16().requires_grad_() for seed in (1, 2, 3)]
    output_gradient = images(2, 3, tokens, 32, seed=4).bfloat16()
    exact = F.scaled_dot_product_attention(*(value.double() for value in inputs))
    wanted = (exact, *torch.autograd.grad(exact, inputs, output_gradient.double()))
    with torch.autocast("cpu", torch.bfloat16):
        output = attention(*inputs)
    got = (output, *torch.autograd.grad(output, inputs, output_gradient))
    for ours, theirs in zip(got, wanted, strict=True):
        assert ours.dtype == torch.bfloat16
        assert (ours - theirs).norm() < 2e-3 * theirs.norm()


def test_modulations_are_those_of_each_block() -> None:
    # kills: modulation-without-silu; a bias lost; scale and shift of another block
    blocks = [randomised(ResidualBlock(4, width, 8), seed) for seed, width in enumerate((6, 4, 6))]
    time = images(3, 8)
    assert modulations(blocks, time) == [None] * 3
    with torch.autocast("cpu", torch.bfloat16):
        half = modulations(blocks, time)
    for block, modulation in zip(blocks, half, strict=True):
        torch.testing.assert_close(modulation.float(), block.emb_layers(time), rtol=2e-2, atol=2e-2)


def test_a_copy_computes_with_its_own_modulations() -> None:
    # kills: the blocks of the network that was copied
    network = small()
    duplicate, fresh = copy.deepcopy(network), small()
    randomised(duplicate, 1)
    fresh.load_state_dict(duplicate.state_dict())
    x, t = images(2, 3, 8, 8), torch.tensor([0.2, 0.7])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(duplicate(x, t), fresh(x, t))


@pytest.fixture(params=["statistics by torch", "our statistics"])
def either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Test both implementations, for few and for many pixels, on small images."""
    monkeypatch.setattr(normalisation, "FEW_PIXELS", 256 if request.param == "statistics by torch" else 0)


@pytest.mark.usefixtures("either_way")
def test_group_norm_gradient_in_channels_last_is_torchs() -> None:
    # kills: norm-gradient-without-mean;
    # any term or factor of the hand-written gradient; statistics over the batch; wrong group size
    norm = randomised(GroupNorm(48)).double()
    assert norm.num_groups == 16
    x = (2 + 3 * images(3, 48, 4, 6, dtype=torch.float64)).contiguous(memory_format=torch.channels_last)
    x, output_gradient = x.requires_grad_(), images(3, 48, 4, 6, seed=2, dtype=torch.float64)
    inputs = (x, norm.weight, norm.bias)
    y = norm(x)
    assert "ChannelsLast" in type(y.grad_fn).__name__
    plain = F.group_norm(x, 16, norm.weight, norm.bias)
    torch.testing.assert_close(y, plain)
    got = torch.autograd.grad(y, inputs, output_gradient)
    wanted = torch.autograd.grad(plain, inputs, output_gradient)
    for ours, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_group_norm_gradient_in_bfloat16_sums_in_float32() -> None:
    # kills: sums over the pixels accumulated or kept in bfloat16
    norm = randomised(GroupNorm(32))
    x = images(2, 32, 32, 32).bfloat16().contiguous(memory_format=torch.channels_last).requires_grad_()
    output_gradient = (images(2, 32, 32, 32, seed=2) + 1).bfloat16()
    inputs = (x, norm.weight, norm.bias)
    got = torch.autograd.grad(norm(x), inputs, output_gradient)
    exact = F.group_norm(x.double(), 32, norm.weight.double(), norm.bias.double())
    wanted = torch.autograd.grad(exact, inputs, output_gradient.double())
    for ours, theirs, tolerance in zip(got, wanted, (5e-3, 5e-3, 1e-5), strict=True):
        assert (ours - theirs).norm() < tolerance * theirs.norm()


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("modulated", [False, True])
@pytest.mark.parametrize("kind", [GroupNorm, GroupNormSiLU])
def test_the_fast_norm_is_the_plain_formula(kind: type[GroupNorm], modulated: bool) -> None:
    # kills: norm-variance-about-zero, norm-shift-scaled, norm-gradient-without-silu;
    # a factor of the modulation lost on the way; sums over the wrong axes; the activation forgotten
    norm = randomised(kind(48)).double()
    x = 2 + 3 * images(3, 48, 4, 6, dtype=torch.float64)
    modulation = [images(3, 48, seed=seed, dtype=torch.float64).requires_grad_() for seed in (3, 4)] * modulated
    inputs, outputs = [norm.weight, norm.bias, *modulation], []
    for layout in (torch.contiguous_format, torch.channels_last):
        copy = x.contiguous(memory_format=layout).requires_grad_()
        y = norm(copy, *modulation)
        assert ("ChannelsLast" in type(y.grad_fn).__name__) == (layout is torch.channels_last)
        outputs.append((y, *torch.autograd.grad(y, [copy, *inputs], images(3, 48, 4, 6, seed=2, dtype=torch.float64))))
    plain = reference_norm(x, norm)
    if modulated:
        scale, shift = (value[..., None, None] for value in modulation)
        plain = plain * (1 + scale) + shift
    plain = plain * torch.sigmoid(plain) if kind is GroupNormSiLU else plain
    torch.testing.assert_close(outputs[0][0], plain, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("either_way")
def test_the_fast_norm_passes_gradcheck() -> None:
    # kills: norm-gradient-without-mean, norm-gradient-without-silu
    norm = randomised(GroupNormSiLU(6)).double()
    x = images(2, 6, 2, 3, dtype=torch.float64).contiguous(memory_format=torch.channels_last).requires_grad_()
    modulation = [images(2, 6, seed=seed, dtype=torch.float64).requires_grad_() for seed in (3, 4)]
    assert torch.autograd.gradcheck(norm, (x, *modulation))


@pytest.mark.parametrize(
    ("dtype", "side", "tolerance"),
    [(torch.float32, 128, 2e-6), (torch.float32, 16, 5e-6), (torch.bfloat16, 32, 6e-3), (torch.bfloat16, 8, 6e-3)],
)
def test_the_fast_norm_keeps_its_precision(dtype: torch.dtype, side: int, tolerance: float) -> None:
    # kills: norm-statistics-by-torch;
    # the square of a bfloat16 summed for the variance of a channel whose mean is far from 0
    norm = randomised(GroupNormSiLU(32))
    x = (images(2, 32, side, side) + 4).to(dtype).contiguous(memory_format=torch.channels_last)
    wanted = F.silu(F.group_norm(x.double(), 32, norm.weight.double(), norm.bias.double()))
    assert (norm(x) - wanted).norm() < tolerance * wanted.norm()
    assert norm(x).dtype == dtype


@pytest.mark.parametrize("mean", [0, 16, 64])
@pytest.mark.parametrize("side", [8, 16, 32, 64])
def test_the_fast_norm_in_bfloat16_rounds_once(side: int, mean: int) -> None:
    # kills: norm-rounded-twice, norm-variance-about-zero, norm-bfloat16-statistics-by-torch;
    # statistics in bfloat16; E[x^2] - E[x]^2 of sums that lose digits where the mean is large; the norm rounded before
    # the modulation, or both before SiLU
    norm = randomised(GroupNormSiLU(64)).bfloat16()
    x = (images(2, 64, side, side) + mean).bfloat16().contiguous(memory_format=torch.channels_last)
    scale, shift = (images(2, 64, seed=seed).mul(16).round().clamp(0, 60) / 64 for seed in (3, 4))  # exact in bfloat16
    got = norm(x, scale.bfloat16(), shift.bfloat16())
    plain = reference_norm(x.double(), norm.double())
    wanted = F.silu(plain * (1 + scale.double()[..., None, None]) + shift.double()[..., None, None])
    tolerance = 1e-4 + 1e-6 * mean**2
    assert ((got - wanted).abs() <= 2**-8 * wanted.abs() + tolerance).all()


def test_a_doubled_convolution_is_the_convolution_of_the_doubled_image() -> None:
    # kills: doubled-kernel-mirrored; a weight at the border counted twice; height and width exchanged; no bias
    conv = randomised(nn.Conv2d(5, 7, 3, padding=1)).double()
    x = images(2, 5, 4, 6, dtype=torch.float64).requires_grad_()
    ours, plain = doubled_conv(conv, x), conv(x.repeat_interleave(2, 2).repeat_interleave(2, 3))
    torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-12)
    output_gradient = images(2, 7, 8, 12, seed=2, dtype=torch.float64)
    inputs = (x, conv.weight, conv.bias)
    got = torch.autograd.grad(ours, inputs, output_gradient)
    torch.testing.assert_close(got, torch.autograd.grad(plain, inputs, output_gradient), rtol=1e-12, atol=1e-12)
    x_32, conv = x.detach().float().contiguous(memory_format=torch.channels_last), conv.float()
    torch.testing.assert_close(doubled_conv(conv, x_32), plain.float(), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("channels", "groups"), [(8, 8), (24, 8), (32, 32), (33, 1), (48, 16), (96, 32)])
def test_groups_divide_the_channels(channels: int, groups: int) -> None:
    # kills: 32 groups always; min(32, channels)
    assert GroupNorm(channels).num_groups == groups


# --- the whole network


@pytest.mark.parametrize("options", [{}, {"condition_channels": 2}, {"out_channels": 6}])
def test_output_is_exactly_zero_at_the_start(options: dict[str, int]) -> None:
    # kills: last convolution not zeroed
    network = UNet(channels=8, channel_mult=(1, 2), **options)  # type: ignore[arg-type]
    condition = images(2, 2, 8, 8) if options.get("condition_channels") else None
    assert not network(images(2, 3, 8, 8), torch.rand(2, generator=seeded()), condition).any()


def test_every_residual_branch_is_silent_at_the_start() -> None:
    # kills: out_layers.3 or proj_out not zeroed
    block, attention = ResidualBlock(8, 8, 4), AttentionBlock(8, 8)
    x = images(1, 8, 4, 4)
    assert torch.equal(block(x, images(1, 4)), x)
    assert torch.equal(attention(x), x)


@pytest.mark.parametrize("autocast", [False, True])
def test_the_network_in_bfloat16_is_near_the_one_in_float64(autocast: bool) -> None:
    # kills: modulations-of-other-blocks; a label's or time's embedding lost in bfloat16
    network = small(channel_mult=(1, 1), attention_factors=(2,), classes=3)
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x, t, label = images(2, 3, 16, 16), torch.tensor([0.1, 0.8]), torch.tensor([1, -1])
    wanted = network.double()(x.double(), t, None, label)
    network = network.float() if autocast else network.bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        output = network(x, t, None, label)
    assert (output - wanted).norm() < 0.04 * wanted.norm()


def test_condition_matters_and_comes_after_x_t() -> None:
    # kills: condition dropped; concatenated before x_t
    network = small(condition_channels=2)
    x, t = images(2, 3, 8, 8), torch.tensor([0.3, 0.9])
    condition = images(2, 2, 8, 8, seed=5).requires_grad_()
    network(x, t, condition).square().sum().backward()
    assert condition.grad is not None
    assert condition.grad.abs().amin((1, 2, 3)).min() > 0
    with torch.no_grad():
        network.input_blocks[0][0].weight[:, 3:] = 0
        assert torch.equal(network(x, t, condition), network(x, t, -condition))
        assert not torch.equal(network(x, t, condition), network(-x, t, condition))


def test_samples_do_not_mix() -> None:
    # kills: time of one sample used for another; statistics over the batch
    network = small(attention_factors=(2,)).double()
    x, t = images(3, 3, 8, 12, dtype=torch.float64), torch.tensor([0.0, 0.4, 1.0])
    alone = torch.cat([network(x[i : i + 1], t[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(network(x, t), alone, rtol=1e-9, atol=1e-9)
    assert (network(x, t) - network(x, t.flip(0)))[0].abs().max() > 1e-2


def test_transposed_image_and_kernels_give_the_transposed_output() -> None:
    # kills: height and width confused in attention or resampling (rectangular input)
    network = small(attention_factors=(1, 2)).double()
    x, t = images(1, 3, 8, 20, dtype=torch.float64), torch.tensor([0.5])
    y = network(x, t)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.copy_(module.weight.mT.clone())
    torch.testing.assert_close(network(x.mT, t), y.mT, rtol=1e-9, atol=1e-9)


def gradients(network: UNet, x: Tensor, t: Tensor) -> dict[str, Tensor]:
    network.zero_grad()
    network(x, t).square().mean().backward()
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_checkpointing_recomputes_and_gives_the_same_gradients(layout: torch.memory_format) -> None:
    # kills: a block left out of the graph; dropout redrawn in the second pass; the option ignored
    x, t = images(2, 3, 8, 8), torch.tensor([0.2, 0.8])
    found, calls = [], []
    for checkpointing in (False, True):
        network = small(checkpointing=checkpointing, attention_factors=(4,), dropout=0.3)
        network.to(memory_format=layout)  # type: ignore[call-overload]
        count: list[int] = []
        network.middle_block[1].register_forward_pre_hook(lambda *_, count=count: count.append(1))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            found.append(gradients(network, x, t))
        network.eval()
        network(x, t).sum().backward()
        calls.append(len(count))
    assert calls == [2, 3]  # twice in training, once in evaluation
    assert found[0].keys() == found[1].keys() == dict(network.named_parameters()).keys()
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-6)


def test_dropout_acts_in_training_only() -> None:
    # kills: dropout ignored, or alive in evaluation
    network = small(dropout=0.5)
    x, t = images(1, 3, 8, 8), torch.tensor([0.5])
    assert not torch.equal(network(x, t), network(x, t))
    network.eval()
    assert torch.equal(network(x, t), network(x, t))


def test_channels_last_runs_through_and_changes_nothing() -> None:
    # kills: a rearrangement that falls back to NCHW; a layout-dependent result or gradient
    network = small(attention_factors=(2,), condition_channels=0).double()
    x, t = images(2, 3, 8, 12, dtype=torch.float64), torch.tensor([0.2, 0.8])
    wanted, wanted_gradients = network(x, t), gradients(network, x, t)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    elsewhere = []

    def look(module: nn.Module, _: object, y: Tensor) -> None:
        if y.ndim == 4 and not y.is_contiguous(memory_format=torch.channels_last):
            elsewhere.append(module)

    for module in network.modules():
        module.register_forward_hook(look)
    torch.testing.assert_close(network(x, t), wanted, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(gradients(network, x, t), wanted_gradients, rtol=1e-8, atol=1e-10)
    assert elsewhere == []


@pytest.mark.parametrize("how", ["autocast", "weights"])
def test_bfloat16_stays_close_to_float32(how: str) -> None:
    # kills: time embedded in bfloat16 (t = 0.999 and 1 are one there: angles wrong by whole turns)
    network = small(channels=32, attention_factors=(2,)).eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x, t = images(4, 3, 16, 16), torch.tensor([0.0013, 0.501, 0.9973, 0.999])
    with torch.no_grad():
        wanted = network(x, t)
        with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
            got = (network if how == "autocast" else network.bfloat16())(x, t)
    assert got.dtype == torch.float32
    assert 1e-5 < (got - wanted).norm() / wanted.norm() < 0.03


# --- mistakes


@pytest.mark.parametrize(
    ("x", "t", "condition", "words"),
    [
        ((2, 4, 8, 8), (2,), (2, 2, 8, 8), r"\(2, 4, 8, 8\).*\(B, 3, H, W\)"),
        ((3, 8, 8), (3,), None, r"\(3, 8, 8\)"),
        ((2, 3, 8, 10), (2,), (2, 2, 8, 10), "8x10.*multiples of 4"),
        ((2, 3, 6, 8), (2,), (2, 2, 6, 8), "6x8.*multiples of 4"),
        ((2, 3, 8, 8), (1,), (2, 2, 8, 8), r"t has shape \(1,\), expected \(2,\)"),
        ((2, 3, 8, 8), (), (2, 2, 8, 8), r"t has shape \(\), expected \(2,\)"),
        ((2, 3, 8, 8), (2,), None, r"condition has shape None, expected \(2, 2, 8, 8\)"),
        ((2, 3, 8, 8), (2,), (2, 3, 8, 8), r"\(2, 3, 8, 8\), expected \(2, 2, 8, 8\)"),
        ((2, 3, 8, 8), (2,), (1, 2, 8, 8), r"\(1, 2, 8, 8\), expected \(2, 2, 8, 8\)"),
    ],
)
def test_wrong_shapes_are_named(
    x: tuple[int, ...], t: tuple[int, ...], condition: tuple[int, ...] | None, words: str
) -> None:
    network = small(condition_channels=2)
    with pytest.raises(ValueError, match=words):
        network(torch.zeros(x), torch.zeros(t), None if condition is None else torch.zeros(condition))


def test_a_condition_that_nobody_asked_for_is_refused() -> None:
    # kills: condition silently ignored
    with pytest.raises(ValueError, match=r"condition has shape \(1, 3, 8, 8\), expected None"):
        small()(torch.zeros(1, 3, 8, 8), torch.zeros(1), torch.zeros(1, 3, 8, 8))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"channel_mult": (1, 1.3)}, "channel_mult 1.3 of channels 64"),
        ({"channel_mult": ()}, "at least one level"),
        ({"channel_mult": (1, math.inf)}, "channel_mult inf"),
        ({"channels": 33}, "channels 33"),
        ({"blocks_per_level": 0}, "blocks_per_level 0"),
        ({"attention_factors": (16,)}, r"16 is none of.*\[1, 2, 4, 8\]"),
        ({"head_channels": 48}, "192 channels|256 channels.*head_channels 48; 16 would do"),
        ({"dropout": 1.0}, "dropout 1.0"),
        ({"time_scale": -1.0}, "time_scale -1.0"),
        ({"in_channels": 0}, "in_channels 0"),
        ({"condition_channels": -1}, "condition_channels -1"),
    ],
)
def test_wrong_options_are_named(options: dict[str, object], words: str) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=words):
        UNet(**options)  # type: ignore[arg-type]


def test_networks_are_built_from_a_recipe_table() -> None:
    # kills: annotations that TOML values cannot meet; an error that is not a UserError
    table = {"name": "unet", "channels": 8, "channel_mult": [1, 1.5], "attention_factors": [2]}
    network = NETWORKS.build(table, condition_channels=3)
    assert network(torch.zeros(1, 3, 4, 6), torch.zeros(1), torch.zeros(1, 3, 4, 6)).shape == (1, 3, 4, 6)
    assert network.stride == 2
    with torch.device("meta"):
        assert NETWORKS.build({"name": "adm256", "checkpointing": True}).checkpointing
    with pytest.raises(UserError, match="network 'unet': attention_factors: 3 is none of"):
        NETWORKS.build(table | {"attention_factors": [3]})
    with pytest.raises(UserError, match="unknown key 'chanels'; did you mean 'channels'"):
        NETWORKS.build({"name": "unet", "chanels": 8})
