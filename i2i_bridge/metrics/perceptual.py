"""LPIPS, computed by the lpips package from weights that the user has on disk."""

import warnings
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from i2i_bridge.errors import UserError, located
from i2i_bridge.metrics import weights
from i2i_bridge.metrics.base import Metric, in_colour, moved, one_by_one
from i2i_bridge.randomness import global_seed
from i2i_bridge.registry import register_metric


class Perceptual(Metric):
    """LPIPS of any backbone; see the registered ones. The backbone pools away images with sides below `smallest`."""

    higher_is_better = False
    name: ClassVar[str]
    net: ClassVar[str]
    """The lpips package's word for the backbone."""
    backbone: ClassVar[str]
    """The file's name in `weights`."""

    def missing(self, channels: int = 3) -> str | None:
        """Says which file is missing, or that there are too many channels."""
        if channels not in (1, 3):
            return f"{self.name} is for images of 1 or 3 channels, not {channels}"
        return weights.missing(self.backbone, self.name)

    @cached_property
    @torch.inference_mode(False)
    def _distance(self) -> torch.nn.Module:
        from lpips import LPIPS as Distance

        file, stored = weights.load(self.backbone, self.name)
        # pnet_rand: do not let the package fetch the backbone itself. It draws one, which is overwritten.
        with global_seed(0, torch.device("cpu")), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the package uses an old option of torchvision's
            distance: torch.nn.Module = Distance(net=self.net, pnet_rand=True, verbose=False)
        with located(file, f"not {self.backbone}'s weights", (KeyError, RuntimeError)), torch.no_grad():
            for name, slot in distance.get_submodule("net").named_parameters():
                slot.copy_(stored["features." + name.split(".", 1)[1]])
        return distance.eval().requires_grad_(False)

    def __call__(self, restored: Tensor, clean: Tensor) -> Tensor:
        if min(clean.shape[-2:]) < self.smallest:
            raise UserError(
                f"{self.name} needs images of at least {self.smallest}x{self.smallest} pixels,"
                f" got {clean.shape[-1]}x{clean.shape[-2]}"
            )
        distance = moved(self._distance, clean.device)
        with torch.inference_mode():
            return one_by_one(
                lambda *pair: distance(*pair).reshape(-1), in_colour(restored).float(), in_colour(clean).float()
            )


@register_metric("lpips")
class LPIPS(Perceptual):
    """Learned perceptual distance (Zhang et al. 2018), AlexNet backbone, version 0.1.

    The backbone is torchvision's `alexnet-owt-7be5be79.pth`, looked for in the folder that the environment variable
    I2I_WEIGHTS_DIR names; `i2i-bridge weights fetch lpips` gets it. The linear layers come with the lpips package.
    """

    label = "LPIPS (alex)"
    name, net, backbone, smallest = "lpips", "alex", "alexnet", 31


@register_metric("lpips-vgg")
class LPIPSVGG(Perceptual):
    """Learned perceptual distance (Zhang et al. 2018), VGG-16 backbone, version 0.1.

    The backbone is torchvision's `vgg16-397923af.pth`; see `lpips`. The two backbones' numbers are not comparable.
    """

    label = "LPIPS (vgg)"
    name, net, backbone, smallest = "lpips-vgg", "vgg", "vgg16", 16
