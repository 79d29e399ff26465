"""Random numbers from generators that are passed as arguments and keyed by (seed, purpose, index).

An example of a key is `(0, "degradation", "photo_17")`. A draw therefore does not depend on batch size, worker, number
of processes or order, and no function reads or changes a global generator.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from numbers import Integral

import torch
from torch import Tensor

from i2i_bridge.errors import UserError

Generator = torch.Generator | Sequence[torch.Generator]
"""One generator for a whole batch, or one for each sample of the batch."""


def key(seed: int, purpose: str, *index: int | str) -> int:
    """64-bit seed for (seed, purpose, index): a BLAKE2b hash, the same on every machine and in every Python process.

    Raises:
        UserError: The seed is no whole number: 3.0 would draw other numbers than 3.
    """
    if not isinstance(seed, Integral):
        raise UserError(f"seed {seed!r}: give a whole number")
    text = "\x1f".join([str(int(seed)), purpose, *(f"{type(part).__name__}:{part}" for part in index)])
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).digest())


def generator(seed: int, purpose: str, *index: int | str) -> torch.Generator:
    """A CPU generator keyed by (seed, purpose, index)."""
    return torch.Generator().manual_seed(key(seed, purpose, *index))


def evaluation_noise(seed: int, item: str, draw: int = 0) -> torch.Generator:
    """The generator of the sampling noise of an item, by its key, in evaluations, validations and reports.

    Draw 0 has no number in its key, so that it equals a single restoration.
    """
    return generator(seed, "evaluate", item, *([draw] if draw else []))


@contextmanager
def global_seed(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators inside the block and restore their state afterwards.

    For the initial weights of layers and for dropout, which accept no generator.
    """
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


def randn_like(x: Tensor, generator: Generator) -> Tensor:
    """Standard normal noise of x's shape (B, ...), dtype and device.

    With a sequence of B generators, sample i is drawn from generator i alone, so its noise is the same in any batch.
    The noise is drawn on the generator's device (usually the CPU), then moved.

    Raises:
        ValueError: The number of generators is not the batch size.
    """
    if isinstance(generator, torch.Generator):
        return torch.randn(x.shape, generator=generator, device=generator.device, dtype=x.dtype).to(x.device)
    if len(generator) != x.shape[0]:
        raise ValueError(f"{len(generator)} generators for a batch of {x.shape[0]}")
    draws = [torch.randn(x.shape[1:], generator=g, device=g.device, dtype=x.dtype) for g in generator]
    # One large image is not copied.
    return (draws[0][None] if len(draws) == 1 else torch.stack(draws)).to(x.device)


def rand(shape: Sequence[int], generator: Generator) -> Tensor:
    """Uniform numbers in [0, 1) of shape (B, ...), float64, on the CPU; per-sample generators as in `randn_like`."""
    if isinstance(generator, torch.Generator):
        return torch.rand(tuple(shape), generator=generator, device=generator.device, dtype=torch.float64).cpu()
    if len(generator) != shape[0]:
        raise ValueError(f"{len(generator)} generators for a batch of {shape[0]}")
    return torch.stack(
        [torch.rand(tuple(shape[1:]), generator=g, device=g.device, dtype=torch.float64).cpu() for g in generator]
    )


def per_sample(generator: Generator, batch: int) -> list[torch.Generator]:
    """A list of `batch` generators: those given, or the single given generator repeated.

    Raises:
        ValueError: The number of generators is not `batch`.
    """
    if isinstance(generator, torch.Generator):
        return [generator] * batch
    if len(generator) != batch:
        raise ValueError(f"{len(generator)} generators for a batch of {batch}")
    return list(generator)
