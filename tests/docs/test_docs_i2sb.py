"""docs/is-my-i2sb-right.md: its numbers are the formula's, the toolkit's, and where there are some the golden ones'."""

import os
import re
from pathlib import Path

import numpy as np
import pytest

from i2i_bridge.cli.command import main

PAGE = (Path(__file__).parents[2] / "docs" / "is-my-i2sb-right.md").read_text(encoding="utf-8")
NAMES = ("beta", "sigma", "sigma_bar", "mean_x_0", "mean_x_1", "std")


def formula(beta_max: float, steps: int = 1000) -> dict[str, list[float]]:
    """The page's formulas, in Python's numbers and loops alone."""
    roots = [0.01 + k / (steps - 1) * ((beta_max / steps) ** 0.5 - 0.01) for k in range(steps // 2)]
    beta = [root**2 for root in roots] + [root**2 for root in reversed(roots)]
    done = [sum(beta[: k + 1]) for k in range(steps)]
    left = [sum(beta[k:]) for k in range(steps)]
    pairs = list(zip(done, left, strict=True))
    return {
        "beta": beta,
        "sigma": [a**0.5 for a in done],
        "sigma_bar": [b**0.5 for b in left],
        "mean_x_0": [b / (a + b) for a, b in pairs],
        "mean_x_1": [a / (a + b) for a, b in pairs],
        "std": [(a * b / (a + b)) ** 0.5 for a, b in pairs],
    }


def shown(capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as left:
        main(["show", "i2sb", "--check"])
    assert left.value.code == 0
    return capsys.readouterr().out


def test_what_is_shown_is_the_formula(capsys: pytest.CaptureFixture[str]) -> None:
    # kills: official-exclusive-sum; a table of other numbers than the process's
    tables = shown(capsys).strip().split("\n\n")
    assert len(tables) == 2
    for text, beta_max in zip(tables, (0.3, 1.0), strict=True):
        head, _, *rows = text.split("\n")
        wanted = formula(beta_max)
        total, largest = (float(number) for number in re.findall(r"0\.\d{9}", head))
        assert total == pytest.approx(sum(wanted["beta"]), abs=1e-9)
        assert largest == pytest.approx(max(wanted["std"]), abs=1e-9)
        assert [int(row.split()[0]) for row in rows] == [0, 1, 250, 500, 999]
        for row in rows:
            k, *numbers = row.split()
            assert [float(number) for number in numbers] == pytest.approx(
                [wanted[name][int(k)] for name in NAMES], abs=1e-9
            )


def test_the_page_shows_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    # kills: a number of the page that nobody computes
    (block,) = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)
    assert block.strip() == shown(capsys).split("\n\n")[0].strip()
    wanted, other = formula(0.3), formula(1.0)
    numbers = {
        "beta_0": wanted["beta"][0], "beta_499": wanted["beta"][499], "beta_999": wanted["beta"][999],
        "sum of beta": sum(wanted["beta"]), "sigma_0": wanted["sigma"][0], "sigma_500": wanted["sigma"][500],
        "sigma_bar_500": wanted["sigma_bar"][500], "mean_x_0 at 250": wanted["mean_x_0"][250],
        "std at 500, the peak": max(wanted["std"]), "std at 999": wanted["std"][999],
    }  # fmt: skip
    rows = dict(re.findall(r"^\| ([^|]+?) \| ([\d.]+) \|", PAGE, re.MULTILINE))
    assert rows.keys() == numbers.keys()
    assert {name: float(value) for name, value in rows.items()} == pytest.approx(numbers, rel=2e-6)
    total, peak = re.search(r"the sum is ([\d.]+) and the peak ([\d.]+)\.", PAGE).groups()  # type: ignore[union-attr]
    assert (float(total), float(peak)) == pytest.approx((sum(other["beta"]), max(other["std"])), rel=2e-6)


def test_the_formula_is_the_released_code_s() -> None:
    # kills: a formula that is only our own
    file = Path(os.environ.get("I2I_SHARED", "")) / "golden" / "schedule.npz"
    if "I2I_SHARED" not in os.environ or not file.is_file():
        pytest.skip("the golden arrays are not on this machine")
    keys = {
        "beta": "betas",
        "sigma": "std_fwd",
        "sigma_bar": "std_bwd",
        "mean_x_0": "mu_x0",
        "mean_x_1": "mu_x1",
        "std": "std_sb",
    }
    with np.load(file, allow_pickle=False) as golden:
        for beta_max in (0.3, 1.0):
            for name, values in formula(beta_max).items():
                assert np.allclose(golden[f"b{beta_max}_n1000_{keys[name]}"], values, rtol=1e-10)


def test_other_parts_have_no_check(capsys: pytest.CaptureFixture[str]) -> None:
    # kills: --check ignored in silence
    with pytest.raises(SystemExit) as left:
        main(["show", "jpeg", "--check"])
    assert left.value.code == 2
    assert "show i2sb --check" in capsys.readouterr().err
