"""The equations of docs/mathematics.md are evaluated as they stand there, and compared with what the code computes."""

import math
import re
from pathlib import Path

import pytest
import torch

from i2i_bridge.bridge.processes import I2SB, BrownianBridge, GaussianPrior, VPBridge
from i2i_bridge.bridge.samplers import ancestral, ot_ode, points, update
from i2i_bridge.bridge.targets import PreconditionedTarget
from i2i_bridge.registry import PROCESSES, TARGETS

PAGE = (Path(__file__).parents[2] / "docs" / "mathematics.md").read_text(encoding="utf-8")
TOKEN = re.compile(r"\\[a-zA-Z]+|[a-zA-Z]|\d+(?:\.\d+)?|[-+/^_(){}]")
TIMES = (0.1, 0.3, 0.5, 0.8)


def rows(heading):
    """The cells of the tables of a section, by the name in the first cell."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    return {name.strip("`"): row[1:] for row in cells for name in row[0].split(", ")}


class Formula:
    """The value of a formula in LaTeX: sums, products without a sign, fractions, roots, powers."""

    def __init__(self, text, values):
        text = re.sub(r"\\(?:left|right)(?![a-z])|\\,|\\quad|\$", "", text)
        self.tokens, self.values, self.place = TOKEN.findall(text), values, 0

    def peek(self):
        return self.tokens[self.place] if self.place < len(self.tokens) else ""

    def take(self):
        self.place += 1
        return self.tokens[self.place - 1]

    def sum(self):
        value = self.product()
        while self.peek() in ("+", "-"):
            value = value + self.product() if self.take() == "+" else value - self.product()
        return value

    def product(self):
        value = -self.product() if self.peek() == "-" and self.take() else self.power()
        while self.peek() not in ("", "+", "-", ")", "}"):
            if self.peek() == "/":
                self.take()
                value = value / self.power()
            else:
                value = value * self.power()
        return value

    def power(self):
        if self.peek() == "e":
            self.take()
            assert self.take() == "^"
            return math.exp(self.group())
        value = self.factor()
        if self.peek() == "^":
            self.take()
            value = value ** self.group()
        return value

    def group(self):
        if self.peek() != "{":
            return self.factor()
        self.take()
        value = self.sum()
        assert self.take() == "}"
        return value

    def factor(self):
        token = self.take()
        if token == "(":
            value = self.sum()
            assert self.take() == ")"
            return value
        if token == r"\frac":
            return self.group() / self.group()
        if token == r"\sqrt":
            return math.sqrt(self.group())
        if token[0].isdigit():
            return float(token)
        while token in (r"\bar", r"\hat"):
            token += self.take()
        if self.peek() == "_":
            self.take()
            index = self.take()
            if index == "{":
                index = ""
                while self.peek() != "}":
                    index += self.take()
                self.take()
            token += f"_{index}"
        return self.values[token]


def value(text, values):
    formula = Formula(text, values)
    result = formula.sum()
    assert formula.place == len(formula.tokens), f"{text}: read to {formula.place}"
    return result


def test_formulas_are_read_as_they_are_meant():
    values = {"t": 0.25, r"\sigma_max": 3.0, r"\bar\sigma_t": 2.0, r"\hatx_0": 5.0, "X_s": 7.0}
    for text, expected in {
        r"$1 - t$": 0.75,
        r"$\sigma_{max}\, t \sqrt{1 - t}$": 0.75 * math.sqrt(0.75),
        r"$-\frac{\bar\sigma_t^2}{4} + e^{-t / 2}$": -1 + math.exp(-0.125),
        r"$\left(1 - t\right) \hat x_0 / 2 - X_s$": 0.75 * 2.5 - 7,
        r"$2 t (1 - t)$": 0.375,
    }.items():
        assert value(text, values) == pytest.approx(expected), text


def numbers(name, process, t):
    """The symbols of the page for a process at a time."""
    found = {"t": t, "1": 1.0}
    if isinstance(process, VPBridge | GaussianPrior):
        exponent = (
            (lambda s: process.beta_min * s + process.beta_d * s * s / 2)
            if isinstance(process, VPBridge)
            else (lambda s: process.beta_min * s + (process.beta_max - process.beta_min) * s * s / 2)
        )
        rho2 = math.exp(exponent(t)) - 1, math.exp(exponent(1)) - 1
        found |= {r"\alpha_t": math.exp(-exponent(t) / 2), r"\alpha_1": math.exp(-exponent(1) / 2), "E_t": exponent(t)}
        found |= {
            r"\rho_t": math.sqrt(rho2[0]),
            r"\rho_1": math.sqrt(rho2[1]),
            r"\bar\rho_t": math.sqrt(rho2[1] - rho2[0]),
        }
    for symbol, option in {
        r"\sigma_1": "sigma_1", r"\sigma_max": "sigma_max", r"\sigma_s": "sigma_s", r"\gamma": "exponent", "k": "scale",
    }.items():  # fmt: skip
        if hasattr(process, option):
            found[symbol] = getattr(process, option)
    if name.startswith("official"):
        sigma = process.tables.sigma
        found |= {r"\sigma_k": float(sigma[process.index(t)]), "S": float(sigma[-1]) ** 2}
    elif isinstance(process, I2SB):
        # The schedule of the page, integrated by the midpoint rule.
        p, q = math.sqrt(process.beta_min), math.sqrt(process.beta_max)
        middles = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
        beta = (p + (q - p) * torch.minimum(middles, 1 - middles)) ** 2
        found[r"\sigma_t"] = math.sqrt(float(beta[middles < t].sum()) / 200_000)
        found[r"\bar\sigma_t"] = math.sqrt(float(beta[middles > t].sum()) / 200_000)
    return found


@pytest.mark.parametrize("name", [name for name in rows("The processes") if name in PROCESSES.names()])
def test_a_process_is_its_row(name):
    # kills: an equation of the page, or a process, that is another one
    process = PROCESSES.build({"name": name})
    row = rows("The processes")[name]
    if row[0].startswith("as `"):
        row = [rows("The processes")[row[0].split("`")[1]][0], *row[1:]]
    for t in TIMES:
        values = numbers(name, process, t)
        values["a_t"] = value(row[0], values)
        a, b, c = (float(part) for part in process.coefficients(t))
        assert (value(row[0], values), value(row[1], values), value(row[2], values)) == pytest.approx(
            (a, b, c), rel=1e-6, abs=1e-12
        ), (name, t)


@pytest.mark.parametrize("name", [name for name in rows("The targets") if name in TARGETS.names()])
def test_a_target_is_its_row(name):
    # kills: a weight of another target
    process = {"eps": GaussianPrior(), "velocity": PROCESSES.build({"name": "source-noise"})}.get(name, I2SB())
    target = TARGETS.build({"name": name})
    row = rows("The targets")[name]
    for t in TIMES:
        a, b, c = (float(part) for part in process.coefficients(t))
        values = {"a_t": a, "b_t": b, "c_t": c, "t": t, r"\sigma_t": float(process.sigma(t)) if name == "i2sb" else 0.0}
        values[r"\gamma"] = getattr(target, "exponent", 0.0)
        if isinstance(target, PreconditionedTarget):
            variance = a * a * target.var_1 + b * b * target.var_0 + 2 * a * b * target.cov_01 + c * c
            covariance = b * target.var_0 + a * target.cov_01
            values |= {"c_skip": covariance / variance, "c_out": math.sqrt(target.var_0 - covariance**2 / variance)}
        k_x, k_1, k_o, _ = (float(part) for part in target.weights(process, t))
        assert [value(cell, values) for cell in row[1:4]] == pytest.approx([k_x, k_1, k_o], rel=1e-6), (name, t)
        # F* of the page, from a state; then x_0_hat by the page's three weights is X_0 again.
        x_0, x_1, z = 0.3, -0.7, 1.1
        values |= {"X_0": x_0, "X_1": x_1, "X_t": a * x_1 + b * x_0 + c * z, "z": z}
        assert k_x * values["X_t"] + k_1 * x_1 + k_o * value(row[0], values) == pytest.approx(x_0), (name, t)


def step(text):
    """The right side of `X_t = ...` in a row of the paper's equations."""
    return text.split("X_t =")[1].strip("$ ")


@pytest.mark.parametrize(("paper", "sampler"), [("generation (Algorithm 2)", ancestral), ("noiseless limit", ot_ode)])
def test_a_step_is_its_equation(paper, sampler):
    # kills: a step of the page with another weight; noise of another size
    table = rows("The paper, equation by equation")
    (row,) = (cells for name, cells in table.items() if name.startswith(paper))
    process, s, t = I2SB(), 0.7, 0.4
    (a_s, b_s, _), (a_t, b_t, _) = (map(float, process.coefficients(time)) for time in (s, t))
    values = {"a_s": a_s, "b_s": b_s, "a_t": a_t, "b_t": b_t, "X_s": 0.9, r"\hatx_0": -0.2, "z": 0.0}
    values |= {r"\sigma_s": float(process.sigma(s)), r"\sigma_t": float(process.sigma(t))}
    start = torch.full((1, 1, 64, 64), 0.9, dtype=torch.float64)
    times = torch.tensor([s, t], dtype=torch.float64)
    draws = torch.Generator().manual_seed(0)
    (stepped,) = sampler(process, lambda x, _: torch.full_like(x, -0.2), start, times, draws, start=start)
    mean, std = value(step(row[0]), values), value(step(row[0]), values | {"z": 1.0})
    assert float(stepped.mean()) == pytest.approx(mean, abs=5 * (std - mean) / 64 + 1e-9)
    assert float(stepped.std()) == pytest.approx(std - mean, rel=0.05, abs=1e-9)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_the_update_rule_is_that_of_the_page(eta):
    # kills: r or w of another rule
    process = BrownianBridge()
    s, t = points(process, torch.tensor([0.7, 0.4]))
    (w,) = re.findall(r"^\| `eta` \| \$w = (.*?)\$", PAGE, re.MULTILINE)
    values = {r"\eta": eta, "c_t": t.n, "c_s": s.n, r"\lambda_s": s.log_snr, r"\lambda_t": t.log_snr}
    values |= {"a_t": t.base, "b_t": t.b, "a_s": s.base, "b_s": s.b, "w": value(w, values)}
    rule, r = re.search(r"\$\$X_t = (a_t X_1 .*?), \\qquad r = (.*?)\$\$", PAGE).groups()
    values["r"] = value(r, values)
    weights = []
    for symbol in ("X_1", r"\hatx_0", "X_s", "z"):
        weights.append(value(rule, values | dict.fromkeys(("X_1", r"\hatx_0", "X_s", "z"), 0.0) | {symbol: 1.0}))
    assert weights == pytest.approx(list(update(s, t, eta)), abs=1e-9)
