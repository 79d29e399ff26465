"""[latent]: methods between the latents of a frozen autoencoder."""

import importlib.util
import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from killing import digest, photos, recipe_of
from safetensors.torch import save
from torch import nn
from torch.nn import functional

from i2i_bridge.bridge.processes import LinearFlow
from i2i_bridge.bridge.samplers import deterministic
from i2i_bridge.bridge.targets import VelocityTarget
from i2i_bridge.errors import UserError
from i2i_bridge.evaluation.evaluate import evaluate
from i2i_bridge.evaluation.subjects import fingerprint_of
from i2i_bridge.methods.autoencoder import AutoencoderTraining
from i2i_bridge.methods.bridge import Bridge
from i2i_bridge.methods.latent import Latent, LatentMethod
from i2i_bridge.methods.mean import network_calls
from i2i_bridge.networks.autoencoder import ConvolutionalAutoencoder
from i2i_bridge.recipe.load import parse_recipe
from i2i_bridge.registry import AUTOENCODERS
from i2i_bridge.runs.load import load_run
from i2i_bridge.training.init import recipe_from
from i2i_bridge.training.latents import CACHE, LatentCache, cached_fields
from i2i_bridge.training.trainer import train


class Shuffle:
    """The pixels of 2x2 squares as channels: exact, and an isometry."""

    channels, factor = 12, 2

    def __init__(self):
        self.count = 0

    def encode(self, x):
        self.count += len(x)
        return functional.pixel_unshuffle(x, 2)

    def decode(self, latents):
        return functional.pixel_shuffle(latents, 2)


class Odd(Shuffle):
    """Says another number of channels than it has."""

    channels = 5


@pytest.fixture(scope="module", autouse=True)
def registered():
    """The two as members of the registry, for this module."""
    AUTOENCODERS.register("shuffle")(Shuffle)
    AUTOENCODERS.register("odd")(Odd)
    yield
    for name in ("shuffle", "odd"):
        del AUTOENCODERS._members[name]


def plain(autoencoder=None):
    """Latents that are the autoencoder's own: the scale is that of STD."""
    return Latent(autoencoder or Shuffle(), (0.0,) * 12, (0.5,) * 12)


def images(seed, count=2, channels=3):
    return torch.rand(count, channels, 8, 8, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def draws(count=2):
    return [torch.Generator().manual_seed(i) for i in range(count)]


class Pointwise(nn.Module):
    """0.3 x_t + 0.2 condition + bias, value by value: it does not matter how the pixels lie. It keeps its inputs."""

    casts_inputs = True

    def __init__(self):
        super().__init__()
        self.bias, self.seen = nn.Parameter(torch.tensor(0.1)), []

    def forward(self, x_t, t, condition):
        self.seen.append(condition)
        return 0.3 * x_t + 0.2 * condition[:, : x_t.shape[1]] + self.bias


def bridge(network):
    return Bridge(network, LinearFlow(), VelocityTarget(), condition=True, sampler=deterministic)


def test_latents_are_decoded_to_their_image_and_have_the_scale_of_images():
    # kills: latents-scaled-twice, latents-not-centred
    x = 0.2 + 3 * images(0, 64)
    z = Shuffle().encode(x).transpose(0, 1).flatten(1)
    latent = Latent(Shuffle(), tuple(z.mean(1).tolist()), tuple(z.std(1).tolist()))
    encoded = latent.encode(x)
    assert torch.allclose(latent.decode(encoded), x, atol=1e-5)
    each = encoded.transpose(0, 1).flatten(1)
    assert torch.allclose(each.mean(1), torch.zeros(12), atol=1e-5)
    assert torch.allclose(each.std(1), torch.full((12,), 0.5), atol=1e-5)


@pytest.mark.parametrize("own", [False, True])
def test_through_an_isometry_a_method_of_single_values_is_the_same(own):
    """Loss, states and answer of a bridge between latents are those of the bridge between images."""
    # kills: condition-not-encoded, latents-not-decoded
    batch = {"x_0": images(0), "x_1": images(1)} | ({"condition": images(2)} if own else {})
    inside = bridge(Pointwise())
    method = LatentMethod(inside, plain())
    ((name, loss),) = method.losses(batch | {"number": torch.arange(2)}, draws())
    ((_, wanted),) = inside.losses(batch, draws())
    assert name == "network" and loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    states, others = (list(one.trajectory(batch, nfe=3, generator=draws())) for one in (method, inside))
    assert len(states) == len(others)
    assert all(torch.allclose(state, other, atol=1e-5) for state, other in zip(states, others, strict=True))
    (answer,) = method.answer(batch, nfe=3, generator=draws())
    assert torch.equal(answer, states[-1])


def test_known_pixels_are_put_back_and_the_hole_is_sampled():
    # kills: latents-over-known-pixels
    mask = torch.zeros(2, 1, 8, 8)
    mask[..., 3:6, 3:6] = 1
    x_1 = images(1)
    batch = {"x_1": x_1, "mask": mask}
    (answer,) = LatentMethod(bridge(Pointwise()), plain()).answer(batch, nfe=2, generator=draws())
    assert torch.equal(answer[(mask < 0.5).expand_as(x_1)], x_1[(mask < 0.5).expand_as(x_1)])
    free = LatentMethod(bridge(Pointwise()), plain()).answer({"x_1": x_1}, nfe=2, generator=draws())
    assert torch.allclose(answer[(mask > 0.5).expand_as(x_1)], next(iter(free))[(mask > 0.5).expand_as(x_1)])


def test_the_direction_reaches_the_network_at_the_size_of_latents():
    # kills: direction-lost-in-latents
    network = Pointwise()
    direction = torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1).expand(2, 1, 8, 8)
    method = LatentMethod(bridge(network), plain())
    list(method.losses({"x_0": images(0), "x_1": images(1), "direction": direction}, draws()))
    assert network.seen[0].shape == (2, 13, 4, 4) and torch.equal(network.seen[0][:, 12:], direction[..., ::2, ::2])


class Told:
    """A method that keeps its batches."""

    network = nn.Identity()

    def __init__(self):
        self.batches = []

    def losses(self, batch, generator):
        self.batches.append(batch)
        yield "network", torch.zeros(())

    def trajectory(self, batch, *, nfe, generator):
        self.batches.append(batch)
        yield batch["x_1"]


def test_number_and_label_are_those_of_the_images():
    """Without the number times are drawn without strata, and nothing is dropped from a condition."""
    # kills: label-lost-in-latents, number-lost-in-latents
    inside, numbers = Told(), {"number": torch.tensor([4, 5]), "label": torch.tensor([2, 0])}
    batch = {"x_0": images(0), "x_1": images(1)} | numbers
    method = LatentMethod(inside, plain())
    list(method.losses(batch, draws()))
    list(method.trajectory(batch, nfe=1, generator=draws()))
    for seen in inside.batches:
        assert seen["x_1"].shape == (2, 12, 4, 4)
        assert all(torch.equal(seen[name], value) for name, value in numbers.items())


def test_calls_of_a_scaled_condition_are_two_between_latents_too():
    # kills: condition-scale-lost-in-latents
    inside = replace(bridge(Pointwise()), condition_scale=2.0)
    assert network_calls(LatentMethod(inside, plain()), 3) == network_calls(inside, 3) == 6
    assert network_calls(LatentMethod(bridge(Pointwise()), plain()), 3) == 3


class Halves(nn.Module):
    """E(x) = x / 2, D(z) = z: without noise its error is x / 2."""

    def encode(self, x):
        return x / 2

    def decode(self, latents):
        return latents


def test_the_autoencoder_learns_both_sides():
    """The mean over both sides of mse + penalty E(x)^2; the noise of latents adds its variance."""
    # kills: autoencoder-sees-one-side, latents-not-held-near-0, latents-without-noise
    x_0, x_1 = images(0, 64), 0.1 * images(1, 64)
    batch = {"x_0": x_0, "x_1": x_1}
    for noise, penalty in ((0.0, 0.0), (0.0, 0.5), (0.3, 0.0)):
        ((_, loss),) = AutoencoderTraining(Halves(), noise, penalty).losses(batch, draws(64))
        square = (x_0.square().mean() + x_1.square().mean()).item() / 2 / 4
        assert loss.item() == pytest.approx(square * (1 + penalty) + noise**2, rel=0.05)


def test_sides_of_latents_and_images():
    network = ConvolutionalAutoencoder(latent_channels=6, halvings=3, channels=4)
    x = images(0)
    assert network.encode(x).shape == (2, 6, 1, 1) and network(x, None, None).shape == x.shape and network.stride == 8
    with pytest.raises(ValueError, match=r"halvings 9: outside 1\.\.6"):
        ConvolutionalAutoencoder(halvings=9)


def latent_recipe(root, encoder, **changes):
    """A bridge between latents of pairs of 16 pixels; its images come again in every epoch."""
    table = recipe_of(root, data="paired").model_dump(mode="json", exclude_none=True)
    table["data"] |= {"crop": "center", "flip": False, "size": 16, "validation_size": 16}
    table["network"] |= {"channel_mult": [1], "dropout": 0.0, "condition_channels": 3}
    table["latent"] = {"encoder": encoder}
    for name, change in changes.items():
        table[name] = table.get(name, {}) | change
    return parse_recipe(table, "tiny")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def first(root, tmp_path_factory):
    """The folder of a trained autoencoder."""
    table = recipe_of(root, data="paired").model_dump(mode="json", exclude_none=True)
    table |= {"method": {"name": "autoencoder"}, "network": {"name": "autoencoder", "halvings": 1, "channels": 4}}
    table["train"] |= {"steps": 2, "save_every": 2}
    folder = tmp_path_factory.mktemp("first") / "run"
    train(parse_recipe(table, "tiny"), folder)
    return folder


def test_a_run_between_latents_needs_its_own_folder_alone(root, first, tmp_path):
    """It is trained, resumed, opened, restores and is evaluated without the encoder's source."""
    # kills: encoder-read-at-its-source, other-encoder-accepted, latents-not-measured, latent-forgotten-on-resume
    source = tmp_path / "source"
    shutil.copytree(first, source)
    recipe = latent_recipe(root, {"name": "run", "source": str(source)}, train={"steps": 4, "save_every": 2})
    train(recipe, tmp_path / "whole")
    steps = iter([False, True])
    train(recipe, tmp_path / "parts", stop=lambda: next(steps))
    shutil.rmtree(source)
    lines = []
    shutil.rmtree(tmp_path / "parts" / CACHE)  # latents are computed again, to the same bits
    train(recipe, tmp_path / "parts", report=lines.append)
    assert any("resuming" in str(line) for line in lines)
    assert digest(tmp_path / "parts") == digest(tmp_path / "whole")

    run = load_run(tmp_path / "whole")
    settings = run.recipe.latent
    assert (settings.channels, settings.factor) == (4, 2) and len(settings.shift) == len(settings.scale) == 4
    dataset = run.recipe.build_dataset("train")
    latents = [run.method.latent.item(dataset[i])[side] for i in range(len(dataset)) for side in ("x_0", "x_1")]
    values = torch.stack(latents).transpose(0, 1).flatten(1)
    assert torch.allclose(values.mean(1), torch.zeros(4), atol=1e-3)
    assert torch.allclose(values.std(1), torch.full((4,), 0.5), atol=1e-3)

    odd = np.random.default_rng(0).integers(0, 256, (13, 17, 3), dtype=np.uint8)
    assert run.restore(odd, nfe=2).shape == odd.shape
    with pytest.raises(UserError, match=r"tile 64: the autoencoder of \[latent\] sees the image whole"):
        run.tiled(64)
    scored = evaluate(run, nfe=[1], metrics=["psnr"], count=1, report=lambda *_: None)
    assert all(math.isfinite(row.metrics["psnr"].value) for row in scored.rows)
    moved = settings.model_copy(update={"encoder": settings.encoder | {"source": "elsewhere"}})
    other = replace(run, recipe=run.recipe.model_copy(update={"latent": moved}))
    assert fingerprint_of(other) == fingerprint_of(run)

    fine = recipe_from(tmp_path / "whole", ["train.steps=1"])
    assert fine.latent.encoder["source"] == str(tmp_path / "whole" / "latent")
    weights = tmp_path / "whole" / "latent" / "checkpoints"
    shutil.rmtree(weights)
    with pytest.raises(UserError, match="no checkpoint yet"):
        load_run(tmp_path / "whole")


def test_a_copy_of_other_weights_is_refused(root, first, tmp_path):
    # kills: other-encoder-accepted
    recipe = latent_recipe(root, {"name": "run", "source": str(first)}, train={"steps": 1})
    train(recipe, tmp_path / "run")
    file = tmp_path / "run" / "recipe.toml"
    text = file.read_text()
    digits = load_run(tmp_path / "run").recipe.latent.sha256
    file.write_text(text.replace(digits, "0" * 64))
    with pytest.raises(UserError, match=r"latent: other weights than the run was trained with \(SHA-256"):
        load_run(tmp_path / "run")
    file.write_text(text)
    shutil.rmtree(tmp_path / "run" / "latent")
    with pytest.raises(UserError, match=r"latent: the copy of .* is missing; put it back"):
        load_run(tmp_path / "run")


def test_moments_and_noise_are_those_of_latents(root, tmp_path):
    """Each channel has the variance 0.25 over both sides together, whatever that of the images is."""
    # kills: moments-of-images
    settings = {"target": {"name": "preconditioned"}, "process": {"name": "brownian", "sigma_1": "auto"}}
    table = latent_recipe(root, {"name": "shuffle"}, train={"steps": 1}).model_dump(mode="json", exclude_none=True)
    train(parse_recipe(table | settings, "tiny"), tmp_path / "run")
    recipe = load_run(tmp_path / "run").recipe
    assert recipe.target["var_0"] + recipe.target["var_1"] == pytest.approx(2 * 0.25, rel=0.1)
    assert 0 < recipe.process["sigma_1"] < 1


def test_images_that_come_again_are_encoded_once(root, tmp_path):
    # kills: cache-without-the-encoder, damaged-latents-read, cache-never-read, latents-of-another-shape-read
    encoder, x = Shuffle(), images(0, 2)
    cache = LatentCache(tmp_path, "a" * 64, 12, 2)
    latent = replace(plain(encoder), cache=cache, cached=("x_0",))
    wanted = [latent.encode_each("x_0", x), latent.encode_each("x_0", x)]
    assert encoder.count == 2 and torch.equal(*wanted) and torch.equal(wanted[0], plain().encode(x))
    latent.encode_each("x_1", x)
    assert encoder.count == 4  # not a field whose images come again
    file = sorted((tmp_path / CACHE).rglob("*.safetensors"))[0]
    file.write_bytes(file.read_bytes()[:-5])
    assert torch.equal(latent.encode_each("x_0", x), wanted[0]) and encoder.count == 5
    assert torch.equal(latent.encode_each("x_0", x), wanted[0]) and encoder.count == 5  # mended
    file.write_bytes(save({"latents": torch.zeros(1, 12, 2, 2)}))
    assert torch.equal(latent.encode_each("x_0", x), wanted[0]) and encoder.count == 6  # of another shape
    other = replace(latent, cache=LatentCache(tmp_path, "b" * 64, 12, 2))
    other.encode_each("x_0", x)
    assert encoder.count == 8
    shutil.rmtree(tmp_path / CACHE)
    (tmp_path / CACHE).write_bytes(b"")  # no folder can be made there
    assert torch.equal(latent.encode_each("x_0", x), wanted[0]) and not latent.cache.tensors.writes


def test_only_images_that_come_again_are_cached(root):
    # kills: random-crops-cached
    pairs = latent_recipe(root, {"name": "shuffle"})
    assert cached_fields(pairs) == ("x_0", "x_1", "condition")
    assert cached_fields(latent_recipe(root, {"name": "shuffle"}, data={"crop": "random"})) == ()
    degraded = recipe_of(root).model_copy(update={"data": recipe_of(root).data.model_copy(update={"crop": "center"})})
    for direction, names in (("forward", ("x_0",)), ("reverse", ("x_1",)), ("both", ())):
        data = degraded.data.model_copy(update={"direction": direction})
        assert cached_fields(degraded.model_copy(update={"data": data})) == names


def test_what_does_not_fit_is_one_line(root, first, tmp_path):
    def refused(match, encoder=None, **changes):
        with pytest.raises(UserError, match=match):
            train(latent_recipe(root, encoder or {"name": "shuffle"}, **changes), tmp_path / "refused")
        assert not (tmp_path / "refused").exists()

    refused("latent.encoder: .*no such run|latent.encoder: ", {"name": "run", "source": str(tmp_path / "none")})
    refused("unknown autoencoder 'shufle'; did you mean 'shuffle'", {"name": "shufle"})
    refused("data.size 15: the encoder divides both sides by 2", data={"size": 15})
    refused("and the encoder divides by 2, so both sides must be multiples of 16", network={"channel_mult": [1] * 4})
    refused("autoencoder 'odd': encodes .* its channels and factor say", {"name": "odd"})
    refused("latent.channels: the encoder's is 12, the recipe says 4", latent={"channels": 4})
    refused(r"\[latent\] and \[mean\] do not go together", mean={"run": "x"})
    grey = {"data": {"channels": 1}, "network": {"condition_channels": 1}}
    refused("network.in_channels: with .latent. it is that of the latents", network={"in_channels": 3})
    refused("'run' does not take images of 1 channel ", {"name": "run", "source": str(first)}, **grey)
    refused("method.perceptual compares images", method={"perceptual": 0.1})
    refused("method 'autoencoder' makes the encoder", method={"name": "autoencoder"})
    train(recipe_of(root, data="paired", steps=1), tmp_path / "bridge")
    refused("a run of method 'bridge', not of 'autoencoder'", {"name": "run", "source": str(tmp_path / "bridge")})
    with pytest.raises(UserError, match="needs a network with encoder and decoder"):
        table = recipe_of(root, data="paired").model_dump(mode="json", exclude_none=True)
        train(parse_recipe(table | {"method": {"name": "autoencoder"}}, "tiny"), tmp_path / "refused")
    latent = latent_recipe(root, {"name": "shuffle"})
    with pytest.raises(UserError, match=r"latent\.channels is measured when training starts"):
        latent.build_network()


@pytest.mark.skipif(importlib.util.find_spec("diffusers") is None, reason="needs diffusers (the extra latent)")
def test_an_autoencoder_of_diffusers_is_read_from_its_folder(root, tmp_path):
    from diffusers import AutoencoderKL
    from safetensors.torch import save_file

    torch.manual_seed(0)
    model = AutoencoderKL(
        block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2, norm_num_groups=4,
        up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=3, layers_per_block=1,
    ).eval()  # fmt: skip
    source = tmp_path / "vae"
    source.mkdir()
    (source / "config.json").write_text(json.dumps({"_class_name": "AutoencoderKL", **model.config}))
    save_file(model.state_dict(), source / "diffusion_pytorch_model.safetensors")
    opened = AUTOENCODERS.build({"name": "autoencoder-kl", "source": str(source)})
    x = images(0)
    with torch.no_grad():
        assert torch.allclose(opened.encode(x), model.encode(x).latent_dist.mean, atol=1e-6)
        assert (opened.channels, opened.factor) == (3, 2) and opened.decode(opened.encode(x)).shape == x.shape
    recipe = latent_recipe(root, {"name": "autoencoder-kl", "source": str(source)}, train={"steps": 1})
    train(recipe, tmp_path / "run")
    shutil.rmtree(source)
    assert load_run(tmp_path / "run").restore(np.zeros((16, 16, 3), np.uint8), nfe=1).shape == (16, 16, 3)
    with pytest.raises(UserError, match=r"no such file|cannot be read|missing"):
        AUTOENCODERS.build({"name": "autoencoder-kl", "source": str(source)})
    huge = json.loads((tmp_path / "run" / "latent" / "config.json").read_text())
    huge |= {"block_out_channels": [2048] * 16, "layers_per_block": 8, "norm_num_groups": 4}
    huge |= {"down_block_types": ["DownEncoderBlock2D"] * 16, "up_block_types": ["UpDecoderBlock2D"] * 16}
    source.mkdir()
    (source / "config.json").write_text(json.dumps(huge))
    with pytest.raises(UserError, match=r"parameters; at most 4e\+09 are built"):
        AUTOENCODERS.build({"name": "autoencoder-kl", "source": str(source)})


def test_leftovers_in_the_cache_are_removed_where_it_is_no_link(root, tmp_path):
    # kills: leftovers-in-the-cache-stay, linked-cache-swept
    train(latent_recipe(root, {"name": "shuffle"}, train={"steps": 1}), tmp_path / "run")
    cache = tmp_path / "run" / CACHE
    inside = next(path for path in sorted(cache.iterdir()) if path.is_dir())
    cached = sorted(path for path in inside.iterdir())
    (inside / ".abc.safetensors.7.part").write_bytes(b"half")
    more = latent_recipe(root, {"name": "shuffle"}, train={"steps": 2})
    assert train(more, tmp_path / "run").finished and cached == [path for path in cached if path.is_file()]
    assert not list(cache.rglob(".*.part"))
    cache.rename(tmp_path / "elsewhere")
    cache.symlink_to(tmp_path / "elsewhere")
    left = tmp_path / "elsewhere" / inside.name / ".abc.safetensors.7.part"
    left.write_bytes(b"half")
    train(latent_recipe(root, {"name": "shuffle"}, train={"steps": 3}), tmp_path / "run")
    assert left.exists()


def test_the_cache_may_be_switched_off_on_resume(root, tmp_path):
    """It changes no result: the disk may be full."""
    # kills: cache-is-identity
    train(latent_recipe(root, {"name": "shuffle"}, train={"steps": 1}), tmp_path / "run")
    recipe = latent_recipe(root, {"name": "shuffle"}, train={"steps": 2}, latent={"cache": False})
    assert train(recipe, tmp_path / "run").finished
    assert load_run(tmp_path / "run").step == 2
