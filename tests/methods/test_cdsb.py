"""CDSB: half-bridges of Gaussians, whose Schroedinger bridge is known, and whole runs."""

import copy
import math

import pytest
import torch
from accelerate import Accelerator
from killing import digest, photos, recipe_of
from torch import nn

from i2i_bridge.bridge.half_bridges import Chain, matched
from i2i_bridge.bridge.processes import I2SB, BrownianBridge
from i2i_bridge.cli.command import main
from i2i_bridge.console import Progress, training_line
from i2i_bridge.errors import UserError
from i2i_bridge.methods.cdsb import CDSB
from i2i_bridge.methods.factory import build_method
from i2i_bridge.methods.latent import LatentMethod
from i2i_bridge.randomness import generator
from i2i_bridge.recipe.load import load_recipe
from i2i_bridge.recipe.presets import method_preset
from i2i_bridge.runs.checkpoint import latest_checkpoint
from i2i_bridge.runs.load import load_run
from i2i_bridge.training.log import read_metrics
from i2i_bridge.training.state import TrainState
from i2i_bridge.training.step import training_step
from i2i_bridge.training.trainer import train

M, V = 0.6, 0.3
"""X_0 | X_1 ~ N(M X_1, V), pixel by pixel."""
N = 40
SIGMA = 0.8
HALVES = 7


def draws(count, seed=0):
    return [torch.Generator().manual_seed(seed + i) for i in range(count)]


def pairs(count=1024, side=6, seed=0):
    """Pairs of the toy problem, whose X_1 is one number per image."""
    draw = torch.Generator().manual_seed(seed)
    x_1 = torch.randn(count, 1, 1, 1, generator=draw, dtype=torch.float64).expand(count, 1, side, side)
    z = torch.randn(count, 1, side, side, generator=draw, dtype=torch.float64)
    return M * x_1 + V**0.5 * z, x_1


class Linear(nn.Module):
    """F = a_k x + b_k X_1 + c_k with numbers of its own for each of the times k / N."""

    casts_inputs = True

    def __init__(self):
        super().__init__()
        self.numbers = nn.Parameter(torch.zeros(N + 1, 3, dtype=torch.float64))

    def forward(self, x, t, x_1):
        a, b, c = self.numbers[(t * N).round().long()][..., None, None, None].unbind(1)
        return a * x + b * x_1 + c


def solved(loss, numbers):
    """The minimum of a loss that is quadratic in the numbers, apart for each time: one step of Newton's method."""
    (slope,) = torch.autograd.grad(loss, numbers, create_graph=True)
    rows = [torch.autograd.grad(slope[:, i].sum(), numbers, retain_graph=True)[0] for i in range(3)]
    curved = torch.stack(rows, dim=1) + 1e-12 * torch.eye(3)
    with torch.no_grad():
        numbers -= torch.linalg.solve(curved, slope[..., None]).squeeze(-1)


@pytest.fixture(scope="module")
def halves():
    """The method after each of its halves, trained by least squares on its own losses."""
    x_0, x_1 = pairs()
    method = CDSB(
        Linear(), Linear(), BrownianBridge(SIGMA), steps=N, states=20, first_steps=1, half_steps=1, batch_size=len(x_0)
    )
    found = []
    for half in range(HALVES):
        number = torch.arange(half * len(x_0), (half + 1) * len(x_0))
        ((name, loss),) = method.losses({"x_0": x_0, "x_1": x_1, "number": number}, *draws(1, 100 + half))
        assert [name] == method.trained_at(half) and method.half(half) == half
        solved(loss, method.forward.numbers if name == "forward" else method.network.numbers)
        found.append(copy.deepcopy(method))
    return found


def restored(method, x_1=1.0, nfe=N):
    """Mean and variance of restorations of one X_1."""
    batch = {"x_1": torch.full((64, 1, 24, 24), x_1, dtype=torch.float64)}
    with torch.no_grad():
        *_, x_0_hat = method.trajectory(batch, nfe=nfe, generator=draws(64, 7))
    return x_0_hat.mean().item(), x_0_hat.var().item()


def coupled(method, x_1=1.0, *, backwards):
    """Covariance and variances of (X_0, X_N) of the chain of one network, from its end of the data or the prior."""
    side = torch.full((64, 1, 24, 24), x_1, dtype=torch.float64)
    z = torch.randn(side.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    start = side + SIGMA * z if backwards else M * side + V**0.5 * z
    chain = Chain(method.process, N)
    with torch.no_grad():
        kernel = method._kernel(chain, {"x_1": side}, backwards=backwards)
        states, _ = chain.walk(kernel, start, draws(64, 11), backwards=backwards)
    ends = torch.cov(torch.stack([states[0].flatten(), states[-1].flatten()]))
    return ends[0, 1].item(), ends[0, 0].item(), ends[1, 1].item()


def known():
    """Covariance of the ends of the Schroedinger bridge of N(., V) and N(., SIGMA^2) with a Brownian reference.

    Of all Gaussians with these variances the one with the smallest divergence to the reference X_N = X_0 + sigma z:
    c / sigma^2 + log(v_0 v_N - c^2) / 2 is largest where c^2 + sigma^2 c = v_0 v_N.
    """
    variance = SIGMA**2
    return (-variance + math.sqrt(variance**2 + 4 * V * variance)) / 2


def test_the_first_half_is_a_diffusion_of_the_data(halves):
    """The exact posterior of X_0 given X_N of the reference, with which a start from the prior misses both moments."""
    # kills: denoising-towards-the-state, prior-without-its-mean
    share = V / (V + SIGMA**2)
    mean = M + share * (1 - M)
    variance = share * SIGMA**2 + share**2 * SIGMA**2
    assert restored(halves[0]) == pytest.approx((mean, variance), abs=0.035)
    assert mean - M > 0.1 and coupled(halves[0], backwards=True)[0] == pytest.approx(share * SIGMA**2, abs=0.02)


def test_half_bridges_lead_to_the_exact_posterior(halves):
    """Mean and variance of the restorations are those of X_0 | X_1, up to the N steps; the first half is far off."""
    # kills: chain-starts-from-the-other-end, mean-matching-forgotten, half-bridges-exchanged
    found = [restored(method) for method in halves[::2]]
    apart = [abs(mean - M) + abs(variance - V) for mean, variance in found]
    assert found[-1] == pytest.approx((M, V), abs=0.035)
    assert apart[0] > 0.17 and apart[1] < apart[0] / 2 and apart[-1] < 0.05, apart
    assert restored(halves[-1], x_1=-2.0) == pytest.approx((-2 * M, V), abs=0.045)


@pytest.mark.parametrize("backwards", [False, True])
def test_the_ends_are_coupled_as_by_the_schroedinger_bridge(halves, backwards):
    """Covariance of X_0 and X_N, and the variances of both: of the forward chain from the data and of the backward one
    from the prior. The reference, which does not end at the prior, has V."""
    # kills: noise-of-half-the-variance, mean-matching-forgotten, half-bridges-exchanged
    covariance, first, last = coupled(halves[-1], backwards=backwards)
    assert (covariance, first, last) == pytest.approx((known(), V, SIGMA**2), abs=0.025)
    assert abs(known() - V) > 0.07


def test_a_chain_of_the_reference():
    """Without a learned drift a chain is the process's diffusion, with the symmetric rates of its schedule."""
    # kills: noise-of-half-the-variance
    process, start = I2SB(beta_max=2.0), torch.zeros(64, 1, 32, 32, dtype=torch.float64)
    chain = Chain(process, N)
    states, means = chain.walk(lambda x, k: x, start, draws(64), backwards=False)
    assert len(states) == N + 1 and torch.equal(means, states[:-1])
    expected = process.sigma(torch.arange(N + 1) / N)
    assert states.std((1, 2, 3, 4)) == pytest.approx(expected.numpy(), rel=0.02)
    assert torch.allclose(chain.variances, chain.variances.flip(0)) and chain.variances.argmax() in (N // 2 - 1, N // 2)
    # Backwards the same, from X_N.
    states, _ = chain.walk(lambda x, k: x, start, draws(64), backwards=True)
    assert states[-1].abs().max() == 0 and states[0].std().item() == pytest.approx(process.sigma(1.0).item(), rel=0.02)


def test_a_step_towards_a_known_end_is_that_of_the_bridge():
    """E[X_{k+1} | X_k, X_N] and E[X_k | X_{k+1}, X_0] of the diffusion: the share of the variance that is left."""
    # kills: forward-step-backwards
    process, k = I2SB(), torch.arange(N)
    chain, x = Chain(process, N), torch.randn(N, 1, 2, 2, generator=torch.Generator().manual_seed(0)).double()
    total = process.sigma(1.0) ** 2
    for kernel, left in (
        (chain.forward(lambda x, t: torch.full_like(x, 5.0)), total - process.sigma(k.double() / N) ** 2),
        (chain.backward(lambda x, t: torch.full_like(x, 5.0)), process.sigma((k + 1).double() / N) ** 2),
    ):
        share = (chain.variances / left)[:, None, None, None]
        assert torch.allclose(kernel(x, k), x + share * (5 - x), rtol=1e-6)
        assert torch.allclose(kernel(x, k)[left.argmin()], torch.full_like(x[0], 5.0))


def test_the_matched_mean_is_exact_for_a_linear_chain():
    """For X' = r X + s z and X ~ N(0, v) the regression of x' + F(x) - F(x') on x' is known."""
    # kills: mean-matching-forgotten
    r, s, v = 0.8, 0.5, 0.7
    draw = torch.Generator().manual_seed(0)
    x, z = torch.randn(2, 1, 10**6, generator=draw, dtype=torch.float64)
    x = v**0.5 * x
    kernel = lambda x, k: r * x  # noqa: E731
    end = r * x + s * z
    wanted = matched(kernel, end, r * x, torch.zeros(1))
    slope = (wanted * end).mean() / end.square().mean()
    assert slope.item() == pytest.approx(1 - r + r * r * v / (r * r * v + s * s), abs=0.003)


@pytest.mark.parametrize("half", [0, 1, 2])
def test_networks_that_say_nothing_cost_the_noise_of_one_step(half):
    """F = 0 says that X_t stays where it is: each step's error is its own noise, over whose variance it is counted."""
    # kills: cdsb-steps-count-by-their-noise
    x_0, x_1 = pairs(64, 16)
    process = I2SB(beta_max=2.0)
    method = CDSB(Linear(), Linear(), process, steps=4, states=4, first_steps=1, half_steps=1, batch_size=64)
    ((_, loss),) = method.losses({"x_0": x_0, "x_1": x_1, "number": torch.arange(64) + 64 * half}, draws(64))
    assert loss.item() == pytest.approx(1, abs=0.03)
    variances = Chain(process, 4).variances
    assert variances.max() > 1.5 * variances.min() and variances.max() < 0.5


def test_a_restored_image_is_clipped_where_the_recipe_says_so():
    # kills: cdsb-without-its-clip
    x_1 = pairs(2, 8)[1]
    for clip, largest in ((True, 1.0), (False, 5.0)):
        method = CDSB(Linear(), Linear(), BrownianBridge(SIGMA), steps=N, clip=clip)
        with torch.no_grad():
            method.network.numbers[:, 2] = 10.0
            *_, image = method.trajectory({"x_1": x_1}, nfe=2, generator=draws(2))
        assert image.abs().max() <= largest if clip else image.abs().max() > largest


def test_known_pixels_only_diffuse():
    """Outside the hole chains are free, restorations are X_1's pixels to the last bit, and there is no loss."""
    # kills: known-pixels-drift, hole-starts-from-its-fill
    x_0, _ = pairs(4, 8)
    mask = torch.zeros(4, 1, 8, 8, dtype=torch.float64)
    mask[..., :4] = 1
    x_1 = torch.where(mask > 0, 9.0, x_0)
    method = CDSB(Linear(), Linear(), BrownianBridge(SIGMA), steps=N, states=2, first_steps=0, half_steps=1)
    with torch.no_grad():
        method.network.numbers += 0.3
        method.forward.numbers += 0.3
    batch = {"x_1": x_1, "mask": mask}
    x = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    k, chain = torch.tensor([0, 9, 24, 39]), Chain(method.process, N)
    moved = method._kernel(chain, batch, backwards=False)(x, k) - x
    assert moved[..., 4:].abs().max() == 0 and moved[..., :4].abs().min() > 0
    pulled = method._kernel(chain, batch, backwards=True)(x, k) - x
    assert torch.allclose(pulled[..., 4:], ((x_1 - x) / (k + 1)[:, None, None, None])[..., 4:])
    *_, image = method.trajectory(batch, nfe=3, generator=draws(4))
    assert torch.equal(image[..., 4:], x_1[..., 4:])
    prior = method._prior(batch).mean
    assert prior[..., :4].abs().max() == 0 and torch.equal(prior[..., 4:], x_1[..., 4:])
    # Of the outputs of both networks, those outside the hole are of no consequence.
    for step, network in ((0, method.forward), (1, method.network)):
        whole = batch | {"x_0": x_0, "number": torch.tensor([step])}
        ((_, loss),) = method.losses(whole, draws(4))
        (slope,) = torch.autograd.grad(loss, network.numbers)
        half = {name: value[..., :4] if value.ndim == 4 else value for name, value in whole.items()}
        assert slope.abs().sum() > 0 and loss.isfinite() and half["mask"].min() == 1


def test_only_the_network_of_the_half_learns_and_chains_are_without_dropout():
    # kills: chain-in-training-mode, chain-through-the-gradient
    x_0, x_1 = pairs(4, 8)

    class Watched(Linear):
        def __init__(self):
            super().__init__()
            self.modes = []

        def forward(self, x, t, x_1):
            self.modes.append((self.training, torch.is_grad_enabled()))
            return super().forward(x, t, x_1)

    for step in (0, 1):
        method = CDSB(Watched(), Watched(), BrownianBridge(SIGMA), steps=N, states=2, first_steps=0, half_steps=1)
        ((name, loss),) = method.losses({"x_0": x_0, "x_1": x_1, "number": torch.tensor([step])}, draws(4))
        loss.backward()
        walker, learner = (method.network, method.forward) if name == "forward" else (method.forward, method.network)
        assert learner.modes == [(True, True)] and set(walker.modes) == {(False, False)}
        assert len(walker.modes) == N + 1 and walker.training
        assert walker.numbers.grad is None and learner.numbers.grad is not None


def test_between_latents_the_halves_are_the_same():
    # kills: latent-trains-all
    method = CDSB(Linear(), Linear(), BrownianBridge(SIGMA), first_steps=1, half_steps=1)
    for step, name in enumerate(("network", "forward", "network")):
        assert LatentMethod(method, None).trained_at(step) == method.trained_at(step) == [name]


def test_the_draws_of_a_sample_are_its_own():
    # kills: chain-noise-of-the-first-sample
    x_0, x_1 = pairs(4, 8)
    method = CDSB(Linear(), Linear(), BrownianBridge(SIGMA), N, 3, first_steps=1, half_steps=1, batch_size=4)

    def loss(part, step):
        batch = {"x_0": x_0[part], "x_1": x_1[part], "number": torch.arange(4 * step, 4 * step + 4)[part]}
        ((_, value),) = method.losses(batch, draws(4)[part])
        return value.item()

    for step in range(3):
        parts = loss(slice(0, 1), step) / 4 + loss(slice(1, 4), step) * 3 / 4
        assert loss(slice(0, 4), step) == pytest.approx(parts, rel=1e-9)


# Whole runs

FEW = [
    "train.steps=8",
    "network.dropout=0.1",
    "method.steps=3",
    "method.states=2",
    "method.first_steps=3",
    "method.half_steps=2",
]
"""Halves of 3, 2, 2 and 1 steps."""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return photos(tmp_path_factory.mktemp("pairs"))


@pytest.fixture(scope="module")
def recipe(root, tmp_path_factory):
    file = tmp_path_factory.mktemp("recipe") / "tiny.toml"
    file.write_text(recipe_of(root, seed=3).to_toml())
    return load_recipe(file, FEW, method_preset("cdsb"))


def test_the_method_samples_as_the_recipe_says(recipe):
    # kills: cdsb-on-the-uniform-grid, cdsb-without-the-samplers-options
    sample = recipe.sample.model_copy(
        update={"grid": "quadratic", "clip": True, "sampler": {"name": "eta", "eta": 0.3}}
    )
    method = build_method(recipe.model_copy(update={"sample": sample}), nn.Identity())
    assert method.grid(method.process, 2).tolist() == [1, 0.25, 0]
    assert method.clip and method.sampler_options == {"eta": 0.3} and method.batch_size == recipe.train.batch_size


@pytest.fixture(scope="module")
def whole(recipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    lines = []
    train(recipe, folder, cpu=True, report=lambda event: lines.append(event))
    return folder, lines


@pytest.mark.parametrize("stopped", [2, 4, 6])
def test_a_stopped_run_ends_with_the_same_bits(recipe, whole, tmp_path, stopped):
    """Within each half."""
    # kills: half-of-the-first-step
    folder, _ = whole
    left = iter([False] * (stopped - 1) + [True])
    assert train(recipe, tmp_path / "run", cpu=True, stop=lambda: next(left)).step == stopped
    assert train(recipe, tmp_path / "run", cpu=True).finished
    assert digest(tmp_path / "run") == digest(folder)


def test_each_half_trains_one_network(recipe):
    """Weights, moments and moving average of the other stay as they are."""
    # kills: idle-network-averaged, idle-module-steps
    state, accelerator = TrainState(recipe, torch.device("cpu")), Accelerator(cpu=True)
    data = recipe.build_dataset("train")
    moved = []
    for step in range(8):
        items = [data.sample(4 * step + i) for i in range(4)]
        batch = {name: torch.stack([item[name] for item in items]) for name in ("x_0", "x_1")}
        before = {name: {key: value.clone() for key, value in part.items()} for name, part in state.parts().items()}
        outcome = training_step(state, batch, accelerator, torch.float32)
        after = state.parts()
        changed = {
            name for name in before if any(not torch.equal(before[name][k], after[name][k]) for k in before[name])
        }
        name = "forward" if step in (3, 4, 7) else "network"
        assert changed == ({"forward", "forward-optimizer"} if name == "forward" else {"network", "optimizer", "ema"})
        assert {key for key, loss in outcome.losses.items() if not loss.isnan()} == {name}
        moved.append(name)
    assert len(set(moved)) == 2


def test_a_run_like_any_other(root, whole, tmp_path, capsys, monkeypatch):
    """Log, restoring by any number of calls, evaluation and comparison."""
    # kills: idle-loss-is-no-number
    folder, lines = whole
    assert not any("nan" in str(training_line(line)) for line in lines if isinstance(line, Progress))
    rows = read_metrics(folder)
    assert [row["loss"] is None for row in rows] == [step in (3, 4, 7) for step in range(8)]
    assert [row["loss_forward"] is None for row in rows] == [step not in (3, 4, 7) for step in range(8)]
    assert "loss_forward" in (folder / "metrics.csv").read_text().splitlines()[0]
    files = {file.stem for file in latest_checkpoint(folder / "checkpoints")[0].folder.iterdir()}
    assert files == {"network", "ema", "optimizer", "forward", "forward-optimizer", "manifest"}
    run = load_run(folder, device="cpu")
    x_1 = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    answers = [run.restore_batch({"x_1": x_1}, nfe=nfe, generator=[generator(0, "a")]) for nfe in (1, 3, 7)]
    assert all(answer.isfinite().all() for answer in answers) and not torch.equal(answers[0], answers[1])
    monkeypatch.chdir(tmp_path)
    for words in (
        ["evaluate", str(folder), "--nfe", "1", "3", "-n", "2"],
        ["compare", str(folder), "--nfe", "1", "3", "-n", "2", "--out", "page"],
        ["restore", str(folder), str(root / "clean" / "val" / "00.png"), "restored.png", "--nfe", "2"],
    ):
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == 0, capsys.readouterr().err
    assert (tmp_path / "restored.png").is_file() and "cdsb" in (tmp_path / "page" / "index.html").read_text()


def test_the_preset_keeps_the_bridge():
    """Process, rate and network are the recipe's; the halves share the steps, and end with a backward one."""
    # kills: cdsb-ends-forwards
    for steps in (5, 103, 750):
        settings = [f"train.steps={steps}", "process.name=i2sb", "process.beta_max=0.7"]
        changed, plain = (
            load_recipe("restoration/blur-gaussian", settings, preset) for preset in (method_preset("cdsb"), None)
        )
        assert changed.process == plain.process == {"name": "i2sb", "beta_max": 0.7} and changed.train == plain.train
        assert changed.network == plain.network | {"condition_channels": 3}
        method = build_method(changed, nn.Identity())
        assert method.trained_at(0) == ["network"] and method.half(steps - 1) == 4
        assert steps == 5 or 0 <= method.first_steps - steps / 2 < 4
    assert load_recipe("demo/inpaint", preset=method_preset("cdsb")).train.at_source == 0


@pytest.mark.parametrize(
    ("setting", "why"),
    [
        ("process.name=ve-bridge", "process.name = 'i2sb' or 'brownian', not 've-bridge'"),
        ("process.name=ot-ode", "not 'ot-ode'"),
        ("target.name=x0", "target.name = 'i2sb', not 'x0'"),
        ("network.condition_channels=0", "set network.condition_channels"),
        ("sample.guidance.name=ddnm", "takes no guidance; leave sample.guidance out"),
        ("method.steps=1", r"steps 1: must lie in 2\.\.1000"),
        ("method.states=21", r"states 21: must lie in 1\.\.20"),
        ("method.half_steps=0", "half_steps 0: must lie in 1"),
        ("method.first_steps=-1", "first_steps -1: must lie in 0"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(setting, why):
    recipe = load_recipe("demo/deblur", [setting], method_preset("cdsb"))
    with pytest.raises(UserError, match=why):
        build_method(recipe, nn.Identity())
