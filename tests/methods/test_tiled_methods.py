"""Methods in tiles: the same walk, counted calls, and what cannot be tiled."""

from collections import deque

import pytest
import torch
from torch import nn

from i2i_bridge import UserError
from i2i_bridge.bridge.processes import BrownianBridge, LinearFlow
from i2i_bridge.bridge.targets import I2SBTarget, X0Target
from i2i_bridge.degradations.downsample import SuperResolution4x
from i2i_bridge.guidance.posterior import DPS
from i2i_bridge.guidance.projection import DDNM
from i2i_bridge.methods.bridge import Bridge
from i2i_bridge.methods.calls import counted_calls
from i2i_bridge.methods.mean import Mean
from i2i_bridge.methods.pix2pix import Pix2pix
from i2i_bridge.methods.regression import Regression
from i2i_bridge.methods.tiles import counted_tiles, tiled
from i2i_bridge.randomness import generator, global_seed


def network(seed=0):
    """Reach 2 pixels: in tiles that share 8, its output is that of the whole image."""
    with global_seed(seed, torch.device("cpu")):
        layers = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 1, 3, padding=1))

    class Reaching(nn.Module):
        casts_inputs = True

        def __init__(self):
            super().__init__()
            self.layers = layers.double()

        def forward(self, x_t, t, condition=None):
            return self.layers(x_t) * t[:, None, None, None]

    return Reaching().eval()


def batch(height=40, width=48):
    x_1 = torch.rand(1, 1, height, width, generator=generator(0, "test"), dtype=torch.float64) * 2 - 1
    mask = torch.zeros(1, 1, height, width, dtype=torch.float64)
    mask[..., 5:30, 10:40] = 1
    return {"x_1": x_1, "mask": mask}


def restored(method, given, nfe=3):
    with torch.inference_mode():
        (answer,) = deque(method.trajectory(given, nfe=nfe, generator=[generator(1, "restore")]), maxlen=1)
    return answer


METHODS = {
    "bridge": lambda: Bridge(network(), BrownianBridge(), I2SBTarget()),
    "two stages": lambda: Bridge(
        network(), BrownianBridge(), I2SBTarget(), mean=Mean(Regression(network(1), LinearFlow(), X0Target()))
    ),
    "regression": lambda: Regression(network(), LinearFlow(), X0Target()),
    "pix2pix": lambda: Pix2pix(network(), nn.Identity()),
}


@pytest.mark.parametrize("name", METHODS)
def test_every_method_restores_in_tiles_as_it_does_whole(name):
    """A short reach: the same image to rounding, the same network calls, all tiles in each; the mean's too."""
    # kills: mean-sees-the-whole-image, tiles-counted-as-calls
    method = METHODS[name]()
    parts = tiled(method, 16, 8, 1)
    sizes, hooks = [], []
    networks = [method.network, *([method.mean.method.network] if name == "two stages" else [])]
    for one in networks:
        hooks.append(one.register_forward_hook(lambda module, inputs, output: sizes.append(inputs[0].shape[-2:])))
    counts: list[int] = []
    given = batch()
    with counted_calls(parts) as calls, counted_tiles(parts, counts.append):
        answer = restored(parts, given)
    for hook in hooks:
        hook.remove()
    assert torch.allclose(answer, restored(method, given), rtol=0, atol=1e-12)
    assert not torch.allclose(answer, given["x_1"], atol=1e-3)
    expected = {"bridge": 3, "two stages": 4}.get(name, 1)
    assert calls.count == expected
    # 40x48 in tiles of 16 that share 8: 4 rows, 5 columns.
    assert counts == list(range(1, 20 * expected + 1)) and set(sizes) == {(16, 16)}
    # Tiles of tiles are tiles of the image.
    assert tiled(parts, 24, 8, 1).network.network is method.network


def test_guidance_in_tiles():
    """A guidance of x_0_hat sees the whole image; one through the network is refused in one line."""
    # kills: gradient-guidance-in-tiles
    given = {"x_1": batch()["x_1"]}
    guided = Bridge(network(), BrownianBridge(), I2SBTarget(), guidance=DDNM(), degradation=SuperResolution4x("pool"))
    assert torch.allclose(restored(tiled(guided, 16, 8, 4), given), restored(guided, given), rtol=0, atol=1e-12)
    through = Bridge(network(), BrownianBridge(), I2SBTarget(), guidance=DPS(), degradation=SuperResolution4x("pool"))
    with pytest.raises(UserError, match=r"guidance DPS differentiates .* restore the image whole") as caught:
        tiled(through, 16, 8, 4)
    assert "\n" not in str(caught.value)
