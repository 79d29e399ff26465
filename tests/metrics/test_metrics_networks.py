"""The metrics that look through a network, with random weights in the real files' places."""

import copy
import io
import math
import textwrap

import numpy as np
import pytest
import torch
from conftest import shared_folder
from PIL import Image
from torch.nn import functional
from torchvision import models

from i2i_bridge import plugins
from i2i_bridge.cli.command import main
from i2i_bridge.errors import UserError
from i2i_bridge.images.pixels import to_tensor
from i2i_bridge.metrics import weights
from i2i_bridge.metrics.accuracy import Accuracy
from i2i_bridge.metrics.base import Sample, extract
from i2i_bridge.metrics.distribution import FID
from i2i_bridge.metrics.diversity import Diversity
from i2i_bridge.metrics.extractors import Inception, InceptionLegacyPytorch, ResNet50, codes
from i2i_bridge.metrics.perceptual import LPIPS, LPIPSVGG
from i2i_bridge.plugins import load_plugin
from i2i_bridge.registry import EXTRACTORS, METRICS


def photos(count, height=64, width=64, seed=0):
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    big = [np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)) for image in small]
    return torch.stack([to_tensor(image) for image in big])


def shaken(network, seed):
    """Random weights, batch norms included, that keep the signal alive through all layers."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
                fan = module.weight[0].numel()
                module.weight.copy_(torch.randn(module.weight.shape, generator=rng) * (2 / fan) ** 0.5)
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.copy_(torch.randn(module.running_mean.shape, generator=rng) * 0.1)
                module.running_var.copy_(torch.rand(module.running_var.shape, generator=rng) + 0.5)
    return network.eval()


def save(network, name, folder, prefix=""):
    (known,) = weights.known([name])
    kept = {key: value for key, value in network.state_dict().items() if key.startswith(prefix)}
    torch.save(kept, folder / known.file)
    return folder / known.file


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("weights")


@pytest.fixture(autouse=True)
def placed(folder, monkeypatch):
    monkeypatch.setenv(weights.VARIABLE, str(folder))


@pytest.fixture(scope="module")
def inception(folder):
    """torch-fidelity's network with random weights, which also lie in the folder."""
    from torch_fidelity import FeatureExtractorInceptionV3

    class Empty(FeatureExtractorInceptionV3):
        def load_state_dict(self, state, strict=True, assign=False):
            return super().load_state_dict(state, strict=bool(state))

    nothing = io.BytesIO()
    torch.save({}, nothing)
    nothing.seek(0)
    made = shaken(Empty("inception-v3-compat", ["2048"], feature_extractor_weights_path=nothing), 1)
    file = save(made, "inception", folder)
    return FeatureExtractorInceptionV3("trusted", ["2048"], feature_extractor_weights_path=str(file)).eval()


@pytest.fixture(scope="module")
def resnet(folder):
    from torchvision.models import resnet50

    made = shaken(resnet50(weights=None), 2)
    save(made, "resnet50", folder)
    return made


@pytest.mark.parametrize(("metric", "net"), [(LPIPS, "alex"), (LPIPSVGG, "vgg")], ids=["alex", "vgg"])
def test_lpips_is_the_packages_own(metric, net, folder, monkeypatch):
    """The package builds itself around a backbone; our path reads the same backbone from a file."""
    # kills: lpips-backbone-forgotten
    import lpips

    whole = {"alex": models.alexnet, "vgg": models.vgg16}[net]
    backbone = shaken(whole(weights=None) if net == "alex" else whole(weights=None, init_weights=False), 3)
    save(backbone, metric.backbone, folder, "features.")
    with monkeypatch.context() as patch:  # ours must not be handed it too
        patch.setattr(lpips.pretrained_networks.tv, whole.__name__, lambda pretrained: copy.deepcopy(backbone))
        theirs = lpips.LPIPS(net=net, verbose=False)
    restored, clean = photos(5, 48, 64, 1), photos(5, 48, 64, 2)
    before = torch.random.get_rng_state()
    ours = metric()
    values = ours(restored, clean)
    assert torch.equal(before, torch.random.get_rng_state())
    with torch.no_grad():
        alone = [theirs(restored[i : i + 1], clean[i : i + 1]).item() for i in range(5)]
    assert values.tolist() == alone and min(alone) > 1e-3
    # Batch size and order change no digit.
    assert ours(restored.flip(0), clean.flip(0)).tolist() == alone[::-1]
    assert ours(clean, clean).tolist() == [0.0] * 5
    grey = clean[:, :1]
    assert ours(grey, restored[:, :1])[0] == ours(grey.expand(-1, 3, -1, -1), restored[:, :1].expand(-1, 3, -1, -1))[0]
    side = metric.smallest
    assert ours(clean[:1, :, :side, :side], restored[:1, :, :side, :side]).isfinite().all()
    with pytest.raises(UserError, match=f"at least {side}x{side} pixels, got {side}x{side - 1}"):
        ours(clean[:1, :, : side - 1, :side], restored[:1, :, : side - 1, :side])


def test_networks_read_inside_inference_mode_are_like_others(inception, resnet, folder):
    # kills: lpips-of-inference-mode, extractor-of-inference-mode
    save(shaken(models.alexnet(weights=None), 3), LPIPS.backbone, folder, "features.")
    with torch.inference_mode():
        made = [LPIPS()._distance, Inception()._network, ResNet50()._network]
    assert not any(weight.is_inference() for network in made for weight in network.parameters())


def test_diversity_is_the_mean_over_pairs(folder):
    from torchvision.models import alexnet

    save(shaken(alexnet(weights=None), 3), "alexnet", folder, "features.")
    x = photos(4)
    metric = LPIPS()
    pairs = [float(metric(x[i : i + 1], x[j : j + 1])) for i in range(4) for j in range(i)]
    sample = Sample(x, x[0], x[0], {"key": "a"}, None, 0)
    assert Diversity().of(sample) == pytest.approx(np.mean(pairs), rel=1e-6)
    assert math.isnan(Diversity().of(Sample(x[:1], x[0], x[0], {"key": "a"}, None, 0)))


def test_inception_is_torch_fidelitys(inception):
    """Its features, bit for bit, from images in [-1, 1]; one by one or together."""
    images = photos(3, 40, 56)
    ours = extract(Inception(), images)
    alone = [inception(codes(images[i : i + 1]))[0].numpy() for i in range(3)]
    assert ours.dtype == np.float32 and ours.shape == (3, 2048)
    assert np.array_equal(ours, np.concatenate(alone)) and ours.std(0).max() > 1e-3
    assert np.array_equal(extract(Inception(), images.flip(0)), ours[::-1])


def test_legacy_pytorch_resizes_and_scales_as_its_name_says(inception, monkeypatch):
    """torch-fidelity's network behind F.interpolate and 2 x / 255 - 1."""
    # kills: legacy-with-antialias, legacy-scaled-as-tensorflow
    import torch_fidelity.feature_extractor_inceptionv3 as module

    images = photos(2, 330, 340)  # made smaller: antialias would show
    ours = extract(InceptionLegacyPytorch(), images)

    def resized(x, size, align_corners):
        scaled = 2 * functional.interpolate(x, size=size, mode="bilinear", align_corners=False) / 255 - 1
        return scaled * 128 + 128  # what the network's own (x - 128) / 128 undoes

    tensorflow = extract(Inception(), images)
    monkeypatch.setattr(module, "interpolate_bilinear_2d_like_tensorflow1x", resized)
    theirs = np.concatenate([inception(codes(images[i : i + 1]))[0].numpy() for i in range(2)])
    assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-5)
    assert np.abs(ours - tensorflow).max() > 100 * np.abs(ours - theirs).max()


def test_accuracy_is_torchvisions_resnet(resnet):
    """The whole image bicubic to 224, ImageNet's mean and std; right, wrong and no label."""
    # kills: accuracy-of-the-smallest
    images = photos(3, 72, 64)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    scaled = functional.interpolate((images + 1) / 2, size=224, mode="bicubic")
    with torch.no_grad():
        logits = resnet((scaled - mean[:, None, None]) / std[:, None, None])
        ours = ResNet50().classes(images)
    assert torch.allclose(ours, logits, rtol=1e-3, atol=1e-3 * logits.abs().max().item())
    metric = Accuracy()
    for image, row in zip(images, logits, strict=True):
        for label, value in ((int(row.argmax()), 100.0), (int(row.argmin()), 0.0)):
            assert metric.of(Sample(image[None], image, image, {"key": "a", "label": label}, None, 0)) == value
        assert math.isnan(metric.of(Sample(image[None], image, image, {"key": "a"}, None, 0)))
    with pytest.raises(UserError, match="label 1000 is not one of ImageNet's"):
        metric.of(Sample(images[:1], images[0], images[0], {"key": "a", "label": 1000}, None, 0))


TINY = """
import torch
from i2i_bridge import register_extractor
from i2i_bridge.metrics.base import Extractor

@register_extractor("tiny")
class Tiny(Extractor):
    '''A random network of mine.'''

    dimension = 16

    def __init__(self):
        rng = torch.Generator().manual_seed(0)
        self.kernels = torch.randn(16, 3, 5, 5, generator=rng) / 75**0.5

    def __call__(self, images):
        return torch.nn.functional.conv2d(images, self.kernels).relu().mean((2, 3))
"""


def test_a_network_of_ones_own(tmp_path, capsys):
    """--plugin gives fd-tiny and kid-tiny, under those names and never as FID."""
    # kills: plugin-distance-called-fid
    (tmp_path / "tiny.py").write_text(TINY)
    for words in (["list", "metrics"], ["show", "kid-tiny"], ["show", "tiny"], ["list", "extractors"]):
        with pytest.raises(SystemExit) as ended:
            main([*words, "--plugin", str(tmp_path / "tiny.py")])
        out = capsys.readouterr().out
        assert ended.value.code == 0 and "tiny" in out
    assert {"fd-tiny", "kid-tiny"} <= set(METRICS.names()) and "fid-tiny" not in METRICS.names()
    fd, kid = METRICS.get("fd-tiny")(), METRICS.get("kid-tiny")()
    assert (fd.label, kid.label) == ("FD-tiny", "KID-tiny x1e3") and fd.extractor == "tiny"
    assert fd.missing() is None and "not 2" in fd.missing(2)
    clean, noisy = photos(30, seed=1), photos(30, seed=1) + 0.5 * torch.randn(30, 3, 64, 64, generator=rng())
    features = [extract(EXTRACTORS.get("tiny")(), x.clamp(-1, 1)) for x in (noisy, clean)]
    assert features[0].shape == (30, 16) and features[0].dtype == np.float32
    assert fd.estimate(*features, seed=0).value == FID().estimate(*features, seed=0).value > 0
    estimate = kid.estimate(*features, seed=0)
    assert estimate.value > 3 * estimate.standard_error > 0
    # Loaded again, as in a worker: no clash with itself. A name of ours cannot be taken.
    plugins._files.clear()
    load_plugin(tmp_path / "tiny.py")
    (tmp_path / "thief.py").write_text(TINY.replace('"tiny"', '"inception"'))
    with pytest.raises(UserError, match="extractor 'inception' is already registered"):
        load_plugin(tmp_path / "thief.py")


def rng():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize(
    ("returned", "says"),
    [
        ("images.mean((1, 2, 3))", r"gave \(2,\) instead of features \(2, 16\)"),
        ("images.new_zeros(2, 5)", r"gave \(2, 5\) instead of"),
        ("'features'", "gave str instead of"),
        ("images.new_full((2, 16), float('nan'))", "not finite"),
    ],
)
def test_what_a_users_network_gives_is_checked(returned, says, tmp_path):
    body = TINY[: TINY.rindex("return ")] + f"return {returned}\n"
    (tmp_path / "odd.py").write_text(body)
    load_plugin(tmp_path / "odd.py")
    with pytest.raises(UserError, match=says):
        extract(EXTRACTORS.get("tiny")(), photos(2))
    plugins._files.clear()


MOBILENET = """
import importlib.util
import os
from functools import cached_property
from pathlib import Path

import torch
from i2i_bridge import register_extractor
from i2i_bridge.metrics.base import Extractor

FOLDER = Path({folder!r})


@register_extractor("mobilenetv2")
class MobileNetV2(Extractor):
    dimension = 1280

    @cached_property
    def network(self):
        spec = importlib.util.spec_from_file_location("mobilenet_v2_tf", FOLDER / "mobilenet_v2_tf.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        network = module.MobileNetV2TF()
        (file,) = FOLDER.glob("mobilenet_v2_tf_imagenet-*.pth")
        network.load_state_dict(torch.load(file, weights_only=True))
        return network.eval()

    def __call__(self, images):
        large = torch.nn.functional.interpolate(images, size=(160, 160), mode="bicubic", antialias=True)
        return self.network.forward_features(large.clamp(-1, 1))[1]
"""


def test_a_real_network_of_ones_own_orders_real_damage(tmp_path):
    """MobileNetV2's KID and FD rank 40 photos: clean < JPEG 40 < JPEG 10 < JPEG 5."""
    # kills: a distance that does not see damage
    shared = shared_folder()
    if not list((shared / "data/metric-weights").glob("mobilenet_v2_tf_imagenet-*.pth")):
        pytest.skip(f"{shared / 'data/metric-weights'} is not here")
    (tmp_path / "mobile.py").write_text(textwrap.dedent(MOBILENET.format(folder=str(shared / "data/metric-weights"))))
    load_plugin(tmp_path / "mobile.py")
    files = sorted((shared / "data/tiny-imagenet-mini/val").rglob("*.JPEG"))[::35][:40]
    pictures = [Image.open(file).convert("RGB") for file in files]
    assert len(pictures) == 40
    extractor = EXTRACTORS.get("mobilenetv2")()

    def features(quality):
        return extract(extractor, torch.stack([to_tensor(damaged(picture, quality)) for picture in pictures]))

    found = [features(quality) for quality in (None, 40, 10, 5)]
    fd, kid = METRICS.get("fd-mobilenetv2")(), METRICS.get("kid-mobilenetv2")()
    assert fd.label == "FD-mobilenetv2"
    partners = np.arange(40)
    for values in (
        [fd.estimate(one, found[0], seed=0).value for one in found],
        [kid.estimate_matched(one, found[0], partners, seed=0).value for one in found],
    ):
        assert values == sorted(values) and abs(values[0]) < 1e-6 < values[1]


def damaged(picture, quality):
    if quality is not None:
        stream = io.BytesIO()
        picture.save(stream, "JPEG", quality=quality)
        picture = Image.open(stream)
    return np.asarray(picture)
