"""`check_degradation` finds each violation of the contract, and none in a correct operator."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from i2i_bridge.degradations.base import Degradation, Degraded
from i2i_bridge.degradations.contract import check_degradation
from i2i_bridge.degradations.linear import LinearOperator
from i2i_bridge.errors import UserError
from i2i_bridge.randomness import Generator, randn_like


def broken(act: Callable[[Tensor, Generator], Any], **claims: Any) -> Degradation:
    """A degradation that does `act`."""

    @dataclass(frozen=True)
    class Broken(Degradation):
        masked = claims.get("masked", False)
        multiple = claims.get("multiple", 1)
        condition_channels = claims.get("condition_channels", 0)
        parameter_names = claims.get("parameter_names", ())
        linear = claims.get("linear", Degradation.linear)

        def __call__(self, x_0: Tensor, generator: Generator) -> Any:
            return act(x_0, generator)

    return Broken()


def half_mask(x_0: Tensor) -> Tensor:
    mask = torch.zeros_like(x_0[:, :1])
    mask[..., : x_0.shape[-1] // 2] = 1
    return mask


def numpy_global(x_0: Tensor, _: Generator) -> Degraded:
    import numpy as np

    return Degraded(x_0 * 0.5 + float(np.random.rand()))  # noqa: NPY002 (the mistake under test)


def one_draw_for_all(x_0: Tensor, generator: Generator) -> Degraded:
    first = generator if isinstance(generator, torch.Generator) else generator[0]
    return Degraded(x_0 + torch.randn(x_0.shape, generator=first))


def fresh_generator(x_0: Tensor, _: Generator) -> Degraded:
    surprise = torch.Generator()
    surprise.seed()
    return Degraded(x_0 + torch.randn(x_0.shape, generator=surprise))


def float32_only(x_0: Tensor, _: Generator) -> Degraded:
    return Degraded(x_0.float() * 0.5)


def halved(**claims: Any) -> Degradation:
    """x / 2 with a linear operator, sound but for what is claimed."""
    half = {name: (lambda x: x / 2) for name in ("forward", "adjoint")} | {"pinv": lambda y: 2 * y}

    def act(x_0: Tensor, generator: Generator) -> Degraded:
        return claims["call"](x_0) if "call" in claims else Degraded(x_0 / 2)

    operator = LinearOperator(**(half | {name: value for name, value in claims.items() if name != "call"}))
    return broken(act, linear=lambda self, height, width, mask=None: operator)


def left(x: Tensor) -> Tensor:
    return x.roll(-1, -1)


BROKEN: dict[str, tuple[Degradation, str]] = {
    "wrong type": (broken(lambda x, g: x * 0.5), "returns Tensor"),
    "shape": (broken(lambda x, g: Degraded(x[..., ::2, ::2])), "x_1 has shape (3, 3, 32, 32)"),
    "dtype": (broken(lambda x, g: Degraded((x * 0.5).double())), "torch.float64"),
    "float32 only": (broken(float32_only), "for float64 images: x_1 is torch.float32"),
    "left on the CPU": (broken(lambda x, g: Degraded(torch.full(x.shape, -0.5, dtype=x.dtype))), "x_1 is on 'cpu'"),
    "a table left on the CPU": (broken(lambda x, g: Degraded(x * torch.full((1, 3, 64, 1), 0.5))), "on 'meta' raised"),
    "parameter not announced": (
        broken(lambda x, g: Degraded(-x, parameters={"angle": torch.ones(len(x), device=x.device)})),
        "parameter_names is []",
    ),
    "parameter announced": (broken(lambda x, g: Degraded(-x), parameter_names=("angle",)), "the results have []"),
    "one parameter for the batch": (
        broken(lambda x, g: Degraded(-x, parameters={"angle": torch.ones(1)}), parameter_names=("angle",)),
        "one number for each sample",
    ),
    "parameters of the batch": (
        broken(
            lambda x, g: Degraded(-x, parameters={"mean": x.mean().expand(len(x)).float()}), parameter_names=("mean",)
        ),
        "rest of the batch",
    ),
    "forward with an offset": (halved(forward=lambda x: x / 2 + 1), "forward is not linear"),
    "forward in float32": (halved(forward=lambda x: x.float() / 2), "forward gives torch.float32"),
    "adjoint of another": (
        halved(forward=left, adjoint=left, pinv=lambda y: y.roll(1, -1), call=lambda x: Degraded(left(x))),
        "adjoint is not forward's",
    ),
    "adjoint as inverse": (halved(pinv=lambda y: y / 2), "pinv is not forward's"),
    "damped by too much": (halved(damped=lambda y, delta: y / (0.5 + 4 * delta)), "damped is not"),
    "forward of another": (halved(call=lambda x: Degraded(x / 4)), "depends on x_0"),
    "offset forgotten": (halved(call=lambda x: Degraded(x / 2 - 0.4)), "not A x_0 + offset"),
    "not finite": (broken(lambda x, g: Degraded((x - x.amin()).log())), "NaN or infinite"),
    "0 to 255": (broken(lambda x, g: Degraded((x + 1) * 127.5)), "not [0, 255]"),
    "0 to 1": (broken(lambda x, g: Degraded((x + 1) / 2)), "not [0, 1]"),
    "identity": (broken(lambda x, g: Degraded(x)), "nothing is degraded"),
    "in place": (broken(lambda x, g: Degraded(x.mul_(0.5))), "in place"),
    "torch's global generator": (broken(lambda x, g: Degraded(x + torch.randn_like(x))), "global random"),
    "numpy's global generator": (broken(numpy_global), "global random"),
    "python's global generator": (broken(lambda x, g: Degraded(x * random.random())), "global random"),
    "unseeded": (broken(fresh_generator), "equal generators give different results"),
    "batch mean": (broken(lambda x, g: Degraded(x - x.mean())), "rest of the batch"),
    "one draw for all": (broken(one_draw_for_all), "rest of the batch"),
    "mask of 0.5": (broken(lambda x, g: Degraded(-x, half_mask(x) / 2), masked=True), "zeros and ones"),
    "mask for each channel": (
        broken(lambda x, g: Degraded(-x, torch.ones_like(x)), masked=True),
        "zeros and ones",
    ),
    "mask inverted": (
        broken(lambda x, g: Degraded(torch.where(half_mask(x) > 0, x, -x), half_mask(x)), masked=True),
        "where mask = 0",
    ),
    "mask not announced": (
        broken(lambda x, g: Degraded(torch.where(half_mask(x) > 0, -x, x), half_mask(x))),
        "masked is False",
    ),
    "condition not announced": (broken(lambda x, g: Degraded(-x, None, x)), "condition_channels is 0"),
    "small condition": (
        broken(lambda x, g: Degraded(-x, None, x[..., ::2]), condition_channels=3),
        "condition has shape",
    ),
    "any side": (broken(lambda x, g: Degraded(-x), multiple=16), "not a multiple of 16"),
    "square only": (
        broken(lambda x, g: Degraded(-x) if x.shape[2] == x.shape[3] else Degraded(-x[..., :64])),
        "not square",
    ),
    "raises": (broken(lambda x, g: Degraded(x @ torch.ones(7, 7))), "raised RuntimeError"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_the_check_finds(name: str) -> None:
    # kills: the removal of any one of its checks
    degradation, words = BROKEN[name]
    assert any(words in problem for problem in check_degradation(degradation)), check_degradation(degradation)


def test_the_check_finds_a_small_prepared_image() -> None:
    # kills: the removal of the trial of prepare()
    class Small(Degradation):
        scale = 4

        def __call__(self, x_0: Tensor, generator: Generator) -> Degraded:
            return Degraded(-x_0)

    assert "prepare()" in " ".join(check_degradation(Small()))
    assert "not a subclass" in check_degradation(lambda x, g: Degraded(-x))[0]  # type: ignore[arg-type]


def test_the_check_passes_an_honest_plug_in_that_takes_square_images_only() -> None:
    # kills: a check so strict that sound operators fail
    assert check_degradation(halved()) == []

    def act(x_0: Tensor, generator: Generator) -> Degraded:
        if x_0.shape[2] != x_0.shape[3]:
            raise UserError("square images only")
        return Degraded(x_0 + randn_like(x_0, generator))

    assert check_degradation(broken(act), channels=1, size=33) == []
