"""Fidelity to the clean image: PSNR and SSIM, computed by torchmetrics."""

import torch
from torch import Tensor

from i2i_bridge.errors import UserError
from i2i_bridge.metrics.base import Metric, one_by_one
from i2i_bridge.registry import register_metric


@register_metric("psnr")
class PSNR(Metric):
    """Peak signal-to-noise ratio in dB, over all pixels and channels of an image.

    10 log10(range^2 / MSE), range = 2; infinite for equal images.
    """

    label = "PSNR (dB)"
    higher_is_better = True

    def __call__(self, restored: Tensor, clean: Tensor) -> Tensor:
        from torchmetrics.functional.image import peak_signal_noise_ratio

        def ratio(restored: Tensor, clean: Tensor) -> Tensor:
            # An explicit range: torchmetrics would otherwise read it off the data.
            value = peak_signal_noise_ratio(restored, clean, data_range=(-1.0, 1.0), reduction="none", dim=(1, 2, 3))
            return torch.as_tensor(value)

        return one_by_one(ratio, restored.double(), clean.double())


@register_metric("ssim")
class SSIM(Metric):
    """Structural similarity (Wang et al. 2004), mean over channels: Gaussian window of 11 pixels, sigma 1.5.

    Of images in [0, 1], as the field does: unlike PSNR it depends on where black lies (on [-1, 1] a fifth may be lost).
    Over the pixels whose whole window lies inside the image, as in Wang's program and scikit-image: torchmetrics by
    itself counts the mirrored border too.
    """

    label = "SSIM"
    higher_is_better = True

    def __call__(self, restored: Tensor, clean: Tensor) -> Tensor:
        from torchmetrics.functional.image import structural_similarity_index_measure

        if min(clean.shape[-2:]) < 11:
            raise UserError(f"SSIM needs images of at least 11x11 pixels, got {clean.shape[-1]}x{clean.shape[-2]}")

        def similarity(restored: Tensor, clean: Tensor) -> Tensor:
            restored, clean = (restored + 1) / 2, (clean + 1) / 2
            _, full = structural_similarity_index_measure(
                restored, clean, data_range=(0.0, 1.0), reduction="none", return_full_image=True
            )
            return torch.as_tensor(full)[..., 5:-5, 5:-5].flatten(1).mean(1)

        # In float64: the variances are differences of near equals, and float32 would show in the fourth digit.
        return one_by_one(similarity, restored.double(), clean.double())
