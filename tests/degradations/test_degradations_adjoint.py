"""Linear operators for guidance: the adjoint, the pseudo-inverse, and that A is what a call does."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from i2i_bridge.degradations.base import Degradation
from i2i_bridge.degradations.blur import Blur
from i2i_bridge.degradations.linear import LinearOperator, convolved, cosine_transform, diagonal, mirrored
from i2i_bridge.errors import UserError
from i2i_bridge.randomness import generator, rand
from i2i_bridge.registry import DEGRADATIONS

LINEAR: list[dict[str, Any]] = [
    {"name": "sr4x", "filter": "pool"},
    {"name": "sr4x", "filter": "bicubic"},
    *(
        {"name": "downsample", "factor": factor, "kernel": kernel, "enlarge": enlarge}
        for factor, kernel, enlarge in (
            (2, "area", "nearest"),
            (3, "bilinear", "nearest"),
            (4, "bicubic", "bicubic"),
            (8, "lanczos", "bicubic"),
        )
    ),
    {"name": "blur", "kernel": "uniform"},
    {"name": "blur", "kernel": "gaussian"},
    {"name": "blur", "kernel": "uniform", "backend": "ddrm-compat"},
    {"name": "blur", "kernel": "gaussian", "backend": "ddrm-compat"},
    {"name": "inpaint", "mask": "freeform"},
    {"name": "crop-out", "fill": "white"},
    {"name": "colorization", "noise_std": 0.5},
    {"name": "noise", "std": 0.3},
    {"name": "defocus", "radius": 2.3},
    {"name": "gaussian-blur", "sigma": 1.5, "ratio": 0.5, "angle": 90},
    {"name": "motion-blur", "length": 7, "angle": 0},
]


def label(table: dict[str, Any]) -> str:
    return "-".join(str(value) for value in table.values())


def normal(height: int, width: int, seed: int) -> Tensor:
    return torch.randn(2, 3, height, width, dtype=torch.float64, generator=generator(seed, "test"))


def built(table: dict[str, Any], height: int, width: int) -> tuple[Degradation, LinearOperator]:
    degradation: Degradation = DEGRADATIONS.build(table)
    seeds = [generator(0, "mask", i) for i in range(2)]
    operator = degradation.linear(height, width, degradation(normal(height, width, 9), seeds).mask)
    assert operator is not None
    return degradation, operator


@pytest.mark.parametrize("table", LINEAR, ids=label)
@settings(max_examples=8, deadline=None)
@given(height=st.integers(1, 2), width=st.integers(1, 2), seed=st.integers(0, 10**6))
def test_adjoint_and_inverse(table: dict[str, Any], height: int, width: int, seed: int) -> None:
    # kills: pinv-is-the-adjoint; forward taken for the adjoint;
    # rows and columns exchanged; gains paired wrongly in the adjoint; small values inverted to infinity
    side = 48 if table.get("backend") == "ddrm-compat" else 24 * height
    height, width = side, side if table.get("backend") == "ddrm-compat" else 24 * width + 24
    _, operator = built(table, height, width)
    x, y = normal(height, width, seed), normal(height, width, seed + 1)
    shown, back = operator.forward(x), operator.adjoint(y)
    assert shown.dtype == back.dtype == torch.float64
    bound = 1e-10 * float(x.norm() * y.norm())
    assert abs(float((shown * y).sum() - (x * back).sum())) <= bound
    assert torch.allclose(operator.forward(operator.pinv(shown)), shown, atol=1e-7)
    # Moore-Penrose: A^+ A is symmetric too, so A^+ y is the smallest solution.
    other = normal(height, width, seed + 2)
    left = (operator.pinv(shown) * other).sum()
    right = (x * operator.pinv(operator.forward(other))).sum()
    assert abs(float(left - right)) <= 1e-6 * float(x.norm() * other.norm())


@pytest.mark.parametrize("table", LINEAR, ids=label)
def test_forward_is_what_a_call_does(table: dict[str, Any]) -> None:
    # kills: another kernel, phase, border or channel weight in `linear`; the offset of a darkening blur forgotten
    width = 48 if table.get("backend") == "ddrm-compat" else 72
    degradation, operator = built(table, 48, width)
    x_0 = rand((2, 3, 48, width), generator(3, "test")) * 2 - 1
    degraded = degradation(x_0, [generator(0, "mask", i) for i in range(2)])
    rest = degraded.x_1 - operator.forward(x_0) - operator.offset(x_0)
    if table["name"] == "colorization":
        assert degraded.condition is not None
        assert torch.allclose(operator.forward(x_0), degraded.condition, atol=1e-12)
    elif table["name"] == "noise":
        assert float(rest.std()) == pytest.approx(0.3, rel=0.05)
    else:
        known = torch.ones_like(x_0, dtype=torch.bool) if degraded.mask is None else degraded.mask.expand_as(x_0) == 0
        assert rest[known].abs().max() < 1e-9
    if degraded.mask is not None:
        assert operator.forward(x_0)[degraded.mask.expand_as(x_0) == 1].eq(0).all()
    # And in float32, where guidance will use it.
    assert operator.forward(x_0.float()).dtype == torch.float32
    assert torch.allclose(operator.forward(x_0.float()).double(), operator.forward(x_0), atol=1e-5)


def test_who_has_no_linear_operator_says_so() -> None:
    # kills: one sample's kernel taken for all; a slanted kernel taken for a symmetric one; a made-up hole
    for table in (
        {"name": "jpeg", "quality": 5},
        {"name": "defocus", "radius": [1, 2]},
        {"name": "motion-blur", "length": 9, "angle": 30},
        {"name": "motion-blur", "length": 9, "angle": 0, "direction": 0.5},
        {"name": "haze"},
        {"name": "mixture", "degradations": [{"name": "blur"}]},
    ):
        assert DEGRADATIONS.build(table).linear(48, 48) is None
    with pytest.raises(UserError, match=r"give its mask, 32 x 48"):
        DEGRADATIONS.build({"name": "inpaint"}).linear(32, 48)
    with pytest.raises(UserError, match="square"):
        Blur("uniform", "ddrm-compat").linear(32, 48)


def test_a_hole_is_zero_whatever_lies_under_it() -> None:
    # kills: a product with the mask, which keeps NaN
    x, mask = torch.full((1, 3, 8, 8), torch.nan), torch.ones(1, 1, 8, 8)
    assert diagonal(mask).forward(x).eq(0).all()


@pytest.mark.parametrize("size", [(13, 9), (16, 33), (3, 2)])
@pytest.mark.parametrize("product", [False, True])
def test_convolved_is_its_sum(product: bool, size: tuple[int, int]) -> None:
    # kills: taps-not-flipped, taps-exchanged; correlation; the circular border; one kernel for the batch
    x = normal(*size, 0)
    kernels = rand((2, 5, 5), generator(1, "test"))
    if product:
        kernels = kernels[:, :, :1] * kernels[:, :1]
    rows, columns = (mirrored(side, 2, 2, "symmetric") for side in size)
    padded = x[..., rows, :][..., columns]
    blurred = convolved(x, kernels)
    for b in range(2):
        flipped = kernels[b].flip(0, 1).expand(3, 1, 5, 5)
        expected = torch.nn.functional.conv2d(padded[b : b + 1], flipped, groups=3)[0]
        assert torch.allclose(blurred[b], expected, atol=1e-12)
    ones = torch.ones(1, 3, 4, 6)
    assert torch.allclose(convolved(ones, kernels[:1] / kernels[0].sum()), ones, atol=1e-6)


def test_cosine_transform_is_orthonormal() -> None:
    # kills: the first row not scaled down; DCT-I
    matrix = cosine_transform(7)
    assert torch.allclose(matrix @ matrix.T, torch.eye(7, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(matrix[1], torch.cos(torch.pi / 7 * (torch.arange(7).double() + 0.5)) * (2 / 7) ** 0.5)
