"""Restoration networks that the library spandrel knows (SwinIR, NAFNet, ESRGAN, SPAN, ...), frozen."""

import importlib.util
import inspect
import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from i2i_bridge.errors import UserError, brief, plural
from i2i_bridge.libraries import class_named, constructed, reason
from i2i_bridge.registry import register_network

LARGEST = 4096
"""Largest number among the options of a network."""


@register_network("spandrel")
class SpandrelNetwork(nn.Module):
    """A frozen network f of the library spandrel, as `i2i-bridge import spandrel` writes it; it ignores t.

        x_0_hat = 2 f((x_1 + 1) / 2) - 1

    f maps [0, 1] to [0, 1] and is padded by spandrel to the sides that it needs. Where f enlarges s times, x_1 is the
    small image with each pixel repeated s x s, and f gets every s-th pixel.

    Args:
        architecture: Name of the architecture in spandrel.
        model: Name of its class; an architecture may have several.
        options: Keyword arguments of the class.

    Raises:
        UserError: spandrel is not installed, or has no such architecture, class or option.
    """

    def __init__(self, architecture: str, model: str, options: dict[str, Any] = {}) -> None:  # noqa: B006 - read only
        super().__init__()
        known, members = _architecture(architecture)
        where = f"spandrel architecture '{architecture}'"
        member = class_named(f"{where}: class", model, members, {})
        limits = {key: (-LARGEST, LARGEST) for key in options}
        with _LinspaceOnHost():
            built: nn.Module = constructed(where, member, options, limits)
        self.model = built
        self.stride = self.smallest_side = 1
        self._described: Any = None
        if any(weight.is_meta for weight in built.parameters()):
            return  # its parameters are counted, and the weights that spandrel looks at have no values
        try:
            self._described = known.load(built.state_dict())
        except Exception as error:  # architectures raise anything
            raise UserError(f"{where}: {reason(error)}") from error
        self.model = self._described.model.requires_grad_(False)  # training refuses such a network
        self.stride = self.smallest_side = int(self._described.scale)

    def forward(self, x_1: Tensor, t: Tensor | None = None, condition: Tensor | None = None) -> Tensor:
        """x_0_hat in [-1, 1], (B, C, H, W).

        Args:
            x_1: Degraded images, (B, C, H, W) in [-1, 1]; H and W multiples of `stride`.
            t: Ignored; an argument of every network.
            condition: Ignored.
        """
        small = x_1[..., :: self.stride, :: self.stride]
        restored: Tensor = self._described((small + 1) / 2)
        return restored * 2 - 1


class _LinspaceOnHost(TorchFunctionMode):
    """Context in which linspace gives numbers on the meta device too: many networks read depths of dropout from it."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return function(*args, **(kwargs or {}) | ({"device": "cpu"} if function is torch.linspace else {}))


def _architecture(name: str) -> tuple[Any, dict[str, Any]]:
    """An architecture of spandrel, and its classes of networks by name."""
    if importlib.util.find_spec("spandrel") is None:
        raise UserError("network 'spandrel': the library is not installed: pip install \"i2i-bridge[spandrel]\"")
    from spandrel import MAIN_REGISTRY

    known = {str(support.architecture.id): support.architecture for support in MAIN_REGISTRY}
    found = class_named("spandrel architecture", name, known, {})
    members = {
        member.__name__: member
        for member in vars(sys.modules[type(found).__module__]).values()
        if isinstance(member, type) and issubclass(member, nn.Module)
    }
    return found, members


def described(tensors: Mapping[str, Tensor]) -> Any:
    """spandrel's description of the network to which the tensors of a file belong, with these as its weights.

    Raises:
        UserError: spandrel is not installed or does not know the network, or the network also takes a mask or gives
            other channels than it takes.
    """
    if importlib.util.find_spec("spandrel") is None:
        raise UserError('spandrel is not installed: pip install "i2i-bridge[spandrel]"')
    from spandrel import ImageModelDescriptor, ModelLoader
    from spandrel import UnsupportedModelError as Unsupported

    # Prefixes of data-parallel training and of Pix2pix-like code; spandrel removes them only where it reads the file.
    for prefix in ("module.", "netG."):
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    try:
        found: Any = ModelLoader().load_from_state_dict(dict(tensors))
    except Unsupported as error:
        raise UserError("spandrel knows no network with these tensors") from error
    except Exception as error:  # a network whose tensors are incomplete
        raise UserError(f"spandrel cannot build its network ({brief(reason(error), 200)})") from error
    if not isinstance(found, ImageModelDescriptor):
        raise UserError(f"{found.architecture.name} also takes a mask, which a regression has no input for")
    if found.input_channels != found.output_channels:
        raise UserError(
            f"{found.architecture.name} takes {plural(found.input_channels, 'channel')} and gives "
            f"{found.output_channels}; only equal numbers can be used"
        )
    found.model.eval()
    return found


def network_table(found: Any) -> dict[str, Any]:
    """The [network] of a recipe that builds a described network.

    Raises:
        UserError: An argument of the network cannot be written into a recipe.
    """
    architecture, model = str(found.architecture.id), found.model
    name = type(model).__name__
    _, members = _architecture(architecture)
    if members.get(name) is not type(model):
        raise UserError(f"{architecture}: its network '{name}' cannot be built from options")
    options = {}
    for key, parameter in inspect.signature(members[name]).parameters.items():
        value = model.hyperparameters.get(key, parameter.default)
        if value == parameter.default:
            continue
        try:
            options[key] = json.loads(json.dumps(value, allow_nan=False))
        except (TypeError, ValueError):
            options[key] = None
        if "null" in json.dumps(options[key]):  # TOML has none
            raise UserError(f"{architecture}: its option '{key}' cannot be written into a recipe")
    return {"name": "spandrel", "architecture": architecture, "model": name, "options": options}
