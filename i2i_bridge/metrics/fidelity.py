"""Fidelity to the clean image: PSNR and SSIM, of all channels or of luma, computed by torchmetrics."""

import torch
from torch import Tensor

from i2i_bridge.errors import UserError, plural
from i2i_bridge.metrics.base import Metric, one_by_one
from i2i_bridge.registry import register_metric

WINDOW = 11
"""Side of SSIM's Gaussian window, in pixels."""


class Fidelity(Metric):
    """PSNR or SSIM of images without their border; see the registered ones.

    Args:
        border: Pixels that are cut off at each side before anything is computed.

    Raises:
        ValueError: The border is negative.
    """

    higher_is_better = True
    name: str
    unit = ""
    """What stands in brackets in the label."""
    window = 1
    """Smallest side that is left after cutting."""

    def __init__(self, border: int = 0) -> None:
        if border < 0:
            raise ValueError(f"border is {border}; 0 or more pixels are wanted")
        self.border = border
        self.smallest = self.window + 2 * border
        if border:
            self.label = f"{type(self).label.removesuffix(')')}{', ' if self.unit else ' ('}border {border})"

    def __call__(self, restored: Tensor, clean: Tensor) -> Tensor:
        """Values (B,), float64.

        Raises:
            UserError: The images are too small.
        """
        height, width = clean.shape[-2:]
        if min(height, width) < self.smallest:
            raise UserError(
                f"{self.name} needs images of at least {self.smallest}x{self.smallest} pixels, got {width}x{height}"
            )
        rows, columns = (slice(self.border, side - self.border) for side in (height, width))
        # In float64: variances are differences of near equals, and float32 would show in the fourth digit.
        pair = (self._signal(images[..., rows, columns].double()) for images in (restored, clean))
        return one_by_one(self._value, *pair)

    def _signal(self, images: Tensor) -> Tensor:
        """What is compared, in [0, 1], of images (B, C, H, W) in [-1, 1]."""
        return (images + 1) / 2

    def _value(self, restored: Tensor, clean: Tensor) -> Tensor:
        raise NotImplementedError


class Luma(Fidelity):
    """A fidelity of BT.601 luma, as MATLAB's rgb2ycbcr gives it."""

    def missing(self, channels: int = 3) -> str | None:
        """Says that the images have no colour."""
        grey = self.name.partition("-")[0]
        if channels == 3:
            return None
        return f"{self.name} is the luma of RGB images; of {plural(channels, 'channel')} take {grey}"

    def _signal(self, images: Tensor) -> Tensor:
        return luma(images)


def luma(images: Tensor) -> Tensor:
    """BT.601 luma in studio range, as MATLAB's rgb2ycbcr: Y = (16 + 65.481 R + 128.553 G + 24.966 B) / 255.

    R, G and B are in [0, 1]; black is Y = 16/255 and white 235/255. It is not rounded to 8 bits.

    Args:
        images: (B, 3, H, W) in [-1, 1].

    Returns:
        (B, 1, H, W).
    """
    weights = torch.tensor([65.481, 128.553, 24.966], dtype=images.dtype, device=images.device)
    # Not einsum: a sum written out has one order of adding on every machine.
    red, green, blue = ((images + 1) / 2 * weights[:, None, None]).unbind(1)
    return ((16 + red + green + blue) / 255)[:, None]


class _PSNR(Fidelity):
    unit = "dB"

    def _value(self, restored: Tensor, clean: Tensor) -> Tensor:
        from torchmetrics.functional.image import peak_signal_noise_ratio

        # An explicit range: torchmetrics would otherwise read it off the data.
        value = peak_signal_noise_ratio(restored, clean, data_range=(0.0, 1.0), reduction="none", dim=(1, 2, 3))
        return torch.as_tensor(value)


class _SSIM(Fidelity):
    window = WINDOW

    def _value(self, restored: Tensor, clean: Tensor) -> Tensor:
        from torchmetrics.functional.image import structural_similarity_index_measure

        _, full = structural_similarity_index_measure(
            restored, clean, data_range=(0.0, 1.0), reduction="none", return_full_image=True
        )
        half = WINDOW // 2
        return torch.as_tensor(full)[..., half:-half, half:-half].flatten(1).mean(1)


@register_metric("psnr")
class PSNR(_PSNR):
    """Peak signal-to-noise ratio in dB, over all pixels and channels of an image.

    10 log10(range^2 / MSE) with the range of all codes, 255 in 8 bits; infinite for equal images.
    `psnr:border=N` leaves out N pixels at each side.
    """

    label, name = "PSNR (dB)", "psnr"


@register_metric("ssim")
class SSIM(_SSIM):
    """Structural similarity (Wang et al. 2004), mean over channels: Gaussian window of 11 pixels, sigma 1.5.

    Of images in [0, 1], as the field does: unlike PSNR it depends on where black lies (on [-1, 1] a fifth may be lost).
    Over the pixels whose whole window lies inside the image, as in Wang's program and scikit-image: torchmetrics by
    itself counts the mirrored border too. `ssim:border=N` leaves out N pixels at each side first.
    """

    label, name = "SSIM", "ssim"


@register_metric("psnr-y")
class PSNRY(Luma, _PSNR):
    """PSNR of luma (Y of BT.601) in dB, as papers on super-resolution, JPEG and denoising report it.

    Y = 16 + 65.481 R + 128.553 G + 24.966 B with R, G, B in [0, 1] (MATLAB's rgb2ycbcr: 16 to 235), not rounded;
    10 log10(255^2 / MSE of Y). `psnr-y:border=N` leaves out N pixels at each side: the scale, in super-resolution.
    """

    label, name = "PSNR-Y (dB)", "psnr-y"


@register_metric("ssim-y")
class SSIMY(Luma, _SSIM):
    """SSIM of luma (Y of BT.601, as in `psnr-y`), by the window and range of `ssim`: L = 255 codes of Y.

    `ssim-y:border=N` leaves out N pixels at each side: the scale, in super-resolution.
    """

    label, name = "SSIM-Y", "ssim-y"
