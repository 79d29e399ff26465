"""LPIPS, computed by the lpips package from weights that the user has on disk."""

import os
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from i2i_bridge.errors import UserError
from i2i_bridge.metrics.base import Metric
from i2i_bridge.registry import register_metric

WEIGHTS_VARIABLE = "I2I_WEIGHTS_DIR"


@register_metric("lpips")
class LPIPS(Metric):
    """Learned perceptual distance (Zhang et al. 2018), AlexNet backbone, version 0.1.

    The backbone is torchvision's `alexnet-owt-7be5be79.pth`, looked for in the folder that the environment variable
    I2I_WEIGHTS_DIR names; nothing is downloaded. The linear layers come with the lpips package.
    """

    label = "LPIPS (alex)"
    higher_is_better = False
    backbone = "alexnet-owt-7be5be79.pth"

    def missing(self, channels: int = 3) -> str | None:
        if channels not in (1, 3):
            return f"lpips is for images of 1 or 3 channels, not {channels}"
        folder = os.environ.get(WEIGHTS_VARIABLE)
        if not folder:
            return f"lpips needs the file {self.backbone}; set {WEIGHTS_VARIABLE} to its folder"
        if not (Path(folder) / self.backbone).is_file():
            return f"lpips: {Path(folder) / self.backbone} does not exist"
        return None

    @cached_property
    def _distance(self) -> torch.nn.Module:
        from lpips import LPIPS as Distance

        missing = self.missing()
        if missing:
            raise UserError(missing)
        file = Path(os.environ[WEIGHTS_VARIABLE]) / self.backbone
        try:
            stored = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises ten different types here
            raise UserError(f"{file}: not a weights file of torchvision ({type(error).__name__})") from error
        # pnet_rand: do not let the package fetch the backbone itself.
        distance: torch.nn.Module = Distance(net="alex", pnet_rand=True, verbose=False)
        slots = dict(distance.get_submodule("net").named_parameters())
        try:
            with torch.no_grad():
                for name, slot in slots.items():
                    slot.copy_(stored["features." + name.split(".", 1)[1]])
        except (KeyError, RuntimeError, TypeError) as error:
            raise UserError(f"{file}: not AlexNet's weights ({error})") from error
        return distance.eval().requires_grad_(False)

    def __call__(self, restored: Tensor, clean: Tensor) -> Tensor:
        if clean.shape[1] == 1:
            restored, clean = restored.expand(-1, 3, -1, -1), clean.expand(-1, 3, -1, -1)
        with torch.inference_mode():
            values: Tensor = self._distance(restored.float(), clean.float())
        return values.reshape(-1)
