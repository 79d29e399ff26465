"""Check of a degradation against the contract of `Degradation`."""

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from i2i_bridge.degradations.base import Degradation, Degraded
from i2i_bridge.errors import UserError
from i2i_bridge.libraries import reason
from i2i_bridge.randomness import generator


def check_degradation(degradation: Degradation, channels: int = 3, size: int = 64) -> list[str]:
    """Check a degradation against the contract of `Degradation`, for authors of plug-ins.

    Args:
        channels: Channels of the test images.
        size: Height of the test images; rounded up to a valid multiple.

    Returns:
        Violations, one line each; empty if there is none.

    Examples:
        >>> from dataclasses import dataclass
        >>> from i2i_bridge import Degradation, Degraded, check_degradation
        >>> @dataclass(frozen=True)
        ... class Darken(Degradation):
        ...     gamma: float = 2.0
        ...
        ...     def __call__(self, x_0, generator):
        ...         return Degraded(((x_0 + 1) / 2) ** self.gamma * 2 - 1)
        >>> check_degradation(Darken())
        []
    """
    problems = []
    try:
        for problem in _faults(degradation, channels, size):
            problems.append(problem)
    except Exception as error:
        # Plug-in code may raise anything; the exception is the finding and ends the check.
        problems.append(f"raised {type(error).__name__}: {error}")
    return problems


def _faults(degradation: Degradation, channels: int, size: int) -> Iterator[str]:
    if not isinstance(degradation, Degradation):
        yield f"{type(degradation).__name__} is not a subclass of Degradation"
        return
    multiple, scale = degradation.multiple, degradation.scale
    size = -(-size // (multiple * scale)) * multiple * scale
    x_0 = _probe(channels, size, size)

    original, before = x_0.clone(), global_states()
    degraded = degradation(x_0, _trial_generators())
    if global_states() != before:
        yield "uses a global random generator; draw from the generator that is given"
    if not torch.equal(x_0, original):
        yield "changes x_0 in place"
        x_0 = original.clone()
    malformed = list(_malformed(degraded, x_0, degradation))
    yield from malformed
    if malformed:
        return
    if torch.equal(degraded.x_1, x_0):
        yield "x_1 equals x_0: nothing is degraded"

    if not _same(degraded, degradation(x_0.clone(), _trial_generators()), tolerance=0):
        yield "equal generators give different results"
    for i, one in enumerate(_trial_generators()):
        single = degradation(x_0[i : i + 1].clone(), [one])
        # With a tolerance: a library's convolution may sum in another order for another batch size.
        if not _same(degraded, single, tolerance=1e-4, sample=i):
            yield "a sample's result depends on the rest of the batch; sample i must draw from generator i"
            break
    for problem in _malformed(degradation(x_0.clone(), generator(0, "check")), x_0, degradation):
        yield f"with one generator for the batch: {problem}"
    exact = degradation(x_0.double(), _trial_generators())
    for problem in _malformed(exact, x_0.double(), degradation):
        yield f"for float64 images: {problem}"
    yield from _elsewhere(degradation, x_0)

    oblong = _probe(channels, size, size + multiple * scale)
    # A member may accept square images only, if it raises a UserError for others.
    with contextlib.suppress(UserError):
        for problem in _malformed(degradation(oblong, _trial_generators()), oblong, degradation):
            yield f"for an image that is not square: {problem}"
    if multiple > 1:
        try:
            degradation(_probe(channels, size + 1, size), _trial_generators())
            yield f"a side that is not a multiple of {multiple} is taken without a UserError"
        except UserError:
            pass

    yield from _nonlinear(degradation, degraded.mask, x_0)

    image = x_0[..., : size // scale, : size // scale].clone()
    mask = torch.zeros_like(x_0[:, :1])
    mask[..., : size // 2] = 1
    try:
        prepared = degradation.prepare(image, _trial_generators(), mask)
    except Exception as error:
        yield f"prepare() of images of 1/{scale} the size raised {type(error).__name__}: {error}"
        return
    if not isinstance(prepared, Degraded) or prepared.x_1.shape != x_0.shape or not prepared.x_1.isfinite().all():
        yield f"prepare() of images of 1/{scale} the size does not return finite x_1 of x_0's shape"


def _malformed(degraded: Degraded, x_0: Tensor, degradation: Degradation) -> Iterator[str]:
    if not isinstance(degraded, Degraded):
        yield f"returns {type(degraded).__name__}, not Degraded"
        return
    x_1, mask, condition = degraded.x_1, degraded.mask, degraded.condition
    yield from _misnamed(degraded, x_0, degradation)
    batch, _, height, width = x_0.shape
    if x_1.shape != x_0.shape:
        yield f"x_1 has shape {tuple(x_1.shape)} for x_0 of shape {tuple(x_0.shape)}"
        return
    if (mask is not None) != degradation.masked:
        yield f"masked is {degradation.masked}, but the results have {'no' if mask is None else 'a'} mask"
    if (0 if condition is None else condition.shape[1]) != degradation.condition_channels:
        yield f"condition_channels is {degradation.condition_channels}, but the condition has another number"
    for name, part in (("x_1", x_1), ("mask", mask), ("condition", condition)):
        if part is not None and part.dtype != x_0.dtype:
            yield f"{name} is {part.dtype} for x_0 of {x_0.dtype}"
        if part is not None and not part.isfinite().all():
            yield f"{name} has NaN or infinite values"
        if part is not None and (part.shape[0], *part.shape[2:]) != (batch, height, width):
            yield f"{name} has shape {tuple(part.shape)} for x_0 of shape {tuple(x_0.shape)}"
            return
    known = torch.ones_like(x_1, dtype=torch.bool)
    if mask is not None:
        if mask.shape[1] != 1 or not ((mask == 0) | (mask == 1)).all():
            yield "mask is not of one channel of zeros and ones"
            return
        known = (mask == 0).expand_as(x_1)
        if not torch.equal(x_1[known], x_0[known]):
            yield "x_1 differs from x_0 where mask = 0, which says that the pixels are known"
    values = x_1[known].float()
    # A wide bound: JPEG overshoots to 1.9, and noise of std 1 stays within 7.
    if values.numel() and values.abs().quantile(0.9) > 8:
        yield f"x_1 reaches {float(values.abs().max()):.4g}; images are in [-1, 1], not [0, 255]"
    elif values.numel() and values.min() >= 0:
        yield "x_1 is nowhere negative; images are in [-1, 1], not [0, 1]"


def _misnamed(degraded: Degraded, x_0: Tensor, degradation: Degradation) -> Iterator[str]:
    """Faults of the parameters; they may be NaN."""
    names = degradation.parameter_names
    if set(degraded.parameters) != set(names):
        yield f"parameter_names is {sorted(names)}, but the results have {sorted(degraded.parameters)}"
    for name, values in degraded.parameters.items():
        if values.shape != (len(x_0),) or values.dtype != torch.float32:
            yield (
                f"parameter '{name}' is {values.dtype} of shape {tuple(values.shape)}, not torch.float32 of"
                f" {(len(x_0),)}: one number for each sample"
            )


def _elsewhere(degradation: Degradation, x_0: Tensor) -> Iterator[str]:
    """Faults on other devices: "meta", which needs no hardware but has no values, and CUDA where there is one."""
    for device in ["meta", *(["cuda"] if torch.cuda.is_available() else [])]:
        try:
            degraded = degradation(x_0.to(device), _trial_generators())
        except Exception as error:
            words = str(error).lower()
            if device == "meta" and not ("same device" in words or "device meta" in words or "devices" in words):
                continue  # the degradation reads values, which "meta" tensors do not have
            yield f"for images on '{device}' raised {type(error).__name__}: {reason(error)}"
            continue
        for name, part in _parts(degraded).items():
            if part.device.type != device:
                yield f"{name} is on '{part.device.type}' for images on '{device}'"


def _nonlinear(degradation: Degradation, mask: Tensor | None, x_0: Tensor) -> Iterator[str]:
    """Faults of `linear`, tried in float64."""
    height, width = x_0.shape[-2:]
    operator = degradation.linear(height, width, mask)
    if operator is None:
        return
    x, other = x_0.double(), x_0.double().flip(-2, 1)
    shown = operator.forward(x)
    if shown.dtype != x.dtype:
        yield f"linear(): forward gives {shown.dtype} for torch.float64"
        return
    y = operator.forward(other).roll(3, -1) + 0.1 * other.roll(1, -1)
    scale = float(x.norm() * y.norm())
    if not _near(operator.forward(2 * x - 3 * other), 2 * shown - 3 * operator.forward(other), 1e-6):
        yield "linear(): forward is not linear"
    if abs(float((shown * y).sum() - (x * operator.adjoint(y)).sum())) > 1e-8 * scale:
        yield "linear(): <A x, y> differs from <x, A^T y>; adjoint is not forward's"
    # A wide bound: inverses of two-dimensional kernels may be iterative.
    if not _near(operator.forward(operator.pinv(shown)), shown, 1e-3):
        yield "linear(): A A^+ A x differs from A x; pinv is not forward's"
    if operator.damped is not None:
        damped = operator.damped(y, 0.1)
        if not _near(operator.adjoint(operator.forward(damped)) + 0.1 * damped, operator.adjoint(y), 1e-6):
            yield "linear(): damped is not A^T (A A^T + delta I)^-1"
    rests = [
        degradation(image.clone(), _trial_generators()).x_1 - operator.forward(image) - operator.offset(image)
        for image in (x, other)
    ]
    if mask is not None:
        rests = [torch.where(mask > 0, 0.0, rest) for rest in rests]
    if not _near(rests[0], rests[1], 1e-4):
        yield "linear(): x_1 - A x_0 depends on x_0; forward is not what a call does"
        return
    again = degradation(x.clone(), [generator(1, "check", i) for i in range(3)]).x_1
    same = torch.equal(again, degradation(x.clone(), _trial_generators()).x_1)
    if same and float(rests[0].abs().max()) > 1e-4:
        yield "linear(): x_1 is not A x_0 + offset, though nothing is random"


def _near(a: Tensor, b: Tensor, tolerance: float) -> bool:
    return a.shape == b.shape and bool((a - b).norm() <= tolerance * max(1.0, float(b.norm())))


def _probe(channels: int, height: int, width: int) -> Tensor:
    """Three different test images that cover [-1, 1]: waves with a little noise."""
    rows, columns = torch.arange(height)[:, None] / height, torch.arange(width) / width
    phases = torch.arange(3 * channels).view(3, channels, 1, 1)
    waves = torch.sin(9 * rows + (phases % 5) * columns * 3 + phases)
    noise = torch.rand(waves.shape, generator=generator(0, "check", "probe")) * 2 - 1
    return 0.8 * waves + 0.2 * noise


def _trial_generators() -> list[torch.Generator]:
    return [generator(0, "check", i) for i in range(3)]


def global_states() -> tuple[bytes, str, str]:
    watched = np.random.get_state(legacy=False)  # noqa: NPY002 (the global generator is what is watched)
    return torch.get_rng_state().numpy().tobytes(), repr(random.getstate()), repr(watched)


def _parts(degraded: Degraded) -> dict[str, Tensor]:
    parts = {"x_1": degraded.x_1, "mask": degraded.mask, "condition": degraded.condition}
    present = {name: part for name, part in parts.items() if part is not None}
    return present | {f"parameter '{name}'": values for name, values in degraded.parameters.items()}


def _same(a: Degraded, b: Degraded, tolerance: float, sample: int | None = None) -> bool:
    """Whether all parts agree; with `sample`, that sample of a is compared with b."""
    parts = {name: part if sample is None else part[sample : sample + 1] for name, part in _parts(a).items()}
    others = _parts(b)
    return parts.keys() == others.keys() and all(
        p.shape == q.shape and torch.allclose(p, q, rtol=0, atol=tolerance, equal_nan=True)
        for p, q in ((parts[name], others[name]) for name in parts)
    )
