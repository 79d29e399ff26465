"""[latent]: a method between the latents of a frozen autoencoder, instead of between images."""

import dataclasses
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from i2i_bridge.bridge.predictor import keep_known
from i2i_bridge.methods.base import Batch, Method, states_of, trained_at
from i2i_bridge.randomness import Generator

IMAGES = ("x_0", "x_1", "condition")
"""Fields of a batch that are encoded."""
STD = 0.5
"""Standard deviation of latents, as large as that of images in [-1, 1]: noise and targets are made for these."""


class Autoencoder(Protocol):
    """The interface of an autoencoder between images and a bridge; its members are torch modules."""

    channels: int
    """Channels of latents."""
    factor: int
    """Sides of images over sides of latents."""

    def encode(self, x: Tensor) -> Tensor:
        """Latents (B, channels, H / factor, W / factor) of images (B, C, H, W) in [-1, 1]; without randomness."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Images (B, C, H, W) of latents."""
        ...


Cache = Callable[[Tensor, Callable[[Tensor], Tensor]], Tensor]
"""(image (1, C, H, W), encoder) -> its latents, read from the cache or computed by the encoder."""


@dataclass(frozen=True)
class Latent:
    """Latents of unit scale of a frozen autoencoder (E, D).

        z = 0.5 (E(x) - shift) / scale,     x = D(scale z / 0.5 + shift)

    Args:
        autoencoder: (E, D), in evaluation mode.
        shift: Mean of each channel of E(x) over images of both sides.
        scale: Standard deviation of each channel.
        cache: Where latents of training images are looked up first; None for none.
        cached: Fields of a training batch that are the same in every epoch, so that caching them pays.
    """

    autoencoder: Autoencoder
    shift: tuple[float, ...]
    scale: tuple[float, ...]
    cache: Cache | None = field(default=None, compare=False)
    cached: tuple[str, ...] = ()

    def encode(self, x: Tensor) -> Tensor:
        """Latents of images, float32, without gradients."""
        # Without autocast: otherwise training and restoring would encode differently.
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            return self.scaled(self.autoencoder.encode(x.float()).float())

    def decode(self, latents: Tensor) -> Tensor:
        """Images of latents, float32, without gradients."""
        with torch.no_grad(), torch.autocast(latents.device.type, enabled=False):
            return self.autoencoder.decode(self.unscaled(latents.float())).float()

    def scaled(self, latents: Tensor) -> Tensor:
        """z of E(x)."""
        shift, scale = self._moments(latents)
        return STD * (latents - shift) / scale

    def unscaled(self, latents: Tensor) -> Tensor:
        """E(x) of z."""
        shift, scale = self._moments(latents)
        return latents / STD * scale + shift

    def encode_each(self, name: str, x: Tensor) -> Tensor:
        """As `encode`, for the field `name` of a training batch, image by image.

        A batch's latents may differ in the last bits from those of its images alone, so that without this a resumed run
        would depend on what the cache holds.
        """
        images = [x[i : i + 1] for i in range(len(x))]
        if self.cache is None or name not in self.cached:
            return torch.cat([self.encode(image) for image in images])
        return torch.cat([self.cache(image, self.encode) for image in images])

    def item(self, item: dict[str, Any]) -> dict[str, Any]:
        """An item of a dataset with latents instead of images, on the CPU; without its mask."""
        device = next(iter(self._parameters()), torch.zeros(())).device
        encoded = {name: self.encode(item[name][None].to(device))[0].cpu() for name in IMAGES if name in item}
        return {name: value for name, value in item.items() if name not in ("mask", "direction")} | encoded

    def _parameters(self) -> Iterator[Tensor]:
        return self.autoencoder.parameters() if isinstance(self.autoencoder, nn.Module) else iter(())

    def _moments(self, like: Tensor) -> tuple[Tensor, Tensor]:
        shift, scale = (
            torch.tensor(values, dtype=torch.float32, device=like.device).reshape(1, -1, 1, 1)
            for values in (self.shift, self.scale)
        )
        return shift, scale


@dataclass
class LatentMethod:
    """A method between latents: images are encoded before it and decoded after it.

    A mask stays with the images: the method samples all latents, and known pixels of X_1 are put back into the decoded
    image, since the latents around a hole depend on what fills it.

    Args:
        method: The method of latents.
        latent: The autoencoder.
    """

    method: Method
    latent: Latent
    network: nn.Module = field(init=False)
    """The network of the inner method."""

    def __post_init__(self) -> None:
        self.network = self.method.network

    @property
    def condition_scale(self) -> float:
        """The scale of the inner method, which the number of network calls depends on."""
        scale: float = getattr(self.method, "condition_scale", 1.0)
        return scale

    def with_network(self, network: nn.Module) -> "LatentMethod":
        """A copy with another network of the inner method."""
        return dataclasses.replace(self, method=self.method.with_network(network))

    def companions(self) -> dict[str, nn.Module]:
        """The companions of the inner method."""
        return self.method.companions()

    def trained_at(self, step: int) -> list[str]:
        """As `Method.losses` describes it, of the inner method."""
        return trained_at(self.method, step, ["network", *self.companions()])

    def losses(self, batch: Batch, generator: Generator) -> Iterator[tuple[str, Tensor]]:
        """The losses of the inner method, on latents."""
        yield from self.method.losses(self._latents(batch, self.latent.encode_each), generator)

    def trajectory(self, batch: Batch, *, nfe: int, generator: Generator) -> Iterator[Tensor]:
        """The states of the inner method, each decoded."""
        for state in states_of(self.method, self._restored(batch), nfe=nfe, generator=generator):
            yield self._decoded(state, batch)

    def answer(self, batch: Batch, *, nfe: int, generator: Generator) -> Iterator[Tensor]:
        """The last state alone, decoded."""
        (last,) = deque(states_of(self.method, self._restored(batch), nfe=nfe, generator=generator), maxlen=1)
        yield self._decoded(last, batch)

    def _restored(self, batch: Batch) -> dict[str, Any]:
        return self._latents(batch, lambda name, x: self.latent.encode(x))

    def _latents(self, batch: Batch, encode: Callable[[str, Tensor], Tensor]) -> dict[str, Any]:
        latents: dict[str, Any] = {name: encode(name, batch[name]) for name in IMAGES if name in batch}
        if "direction" in batch:
            factor = self.latent.autoencoder.factor
            latents["direction"] = batch["direction"][..., ::factor, ::factor]
        return latents | {name: batch[name] for name in ("number", "label") if name in batch}

    def _decoded(self, state: Tensor, batch: Batch) -> Tensor:
        image, mask = self.latent.decode(state), batch.get("mask")
        return image if mask is None else keep_known(image, batch["x_1"], mask)


def latent_of(method: Method) -> Latent | None:
    """The `Latent` of a method between latents; None for a method between images."""
    return method.latent if isinstance(method, LatentMethod) else None


def frozen(autoencoder: Any, device: torch.device) -> Any:
    """The autoencoder on a device, in evaluation mode and without gradients."""
    if isinstance(autoencoder, nn.Module):
        autoencoder = autoencoder.to(device).eval().requires_grad_(False)
    return autoencoder
