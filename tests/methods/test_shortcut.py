"""Shortcut training: one network whose long steps land where two half steps do."""

import itertools
from dataclasses import replace

import pytest
import torch
from killing import photos, recipe_of
from test_distillation import Linear, draws, pair, posterior_mean

from i2i_bridge.bridge.processes import I2SB, BrownianBridge, LinearFlow, SourceNoise
from i2i_bridge.bridge.samplers import ancestral, deterministic
from i2i_bridge.bridge.targets import X0Target
from i2i_bridge.bridge.time_grids import quadratic, uniform
from i2i_bridge.errors import UserError
from i2i_bridge.methods.curriculum import Curriculum
from i2i_bridge.methods.distillation import walked
from i2i_bridge.methods.factory import build_method
from i2i_bridge.methods.shortcut import Shortcut, one_answer
from i2i_bridge.recipe.load import load_recipe, parse_recipe
from i2i_bridge.recipe.presets import method_preset
from i2i_bridge.runs.load import load_run
from i2i_bridge.runs.plan import plan_of
from i2i_bridge.training.trainer import train

ALL = 1 - 1e-12
"""A share of the samples that leaves none out."""


class Exact:
    """The network that shortcut training leads to: level 0 is E[X_0 | X_t, X_1], level k is two of level k - 1.

    `first` is the answer of level 0.
    """

    def __init__(self, process, grid, steps, first=None):
        self.process, self.times, self.first = process, grid(process, steps), first or posterior_mean(process)

    def __call__(self, x_t, time, x_1):
        level = (time.ceil() - 1).long()
        assert bool((level == level[0]).all())
        return self.answer(x_t, time - level, x_1, int(level[0]))

    def answer(self, x_t, t, x_1, level):
        if level == 0:
            return self.first(x_t, t, x_1)
        below = lambda x, t: self.answer(x, t, x_1, level - 1)  # noqa: E731
        fine, coarse = self.times[:: 1 << (level - 1)], self.times[:: 1 << level]
        x, m = walked(self.process, below, x_1, x_t, t, fine, torch.Generator())
        x, _ = walked(self.process, below, x_1, x, m, fine, torch.Generator())
        return one_answer(self.process, x_1, x_t, t, x, coarse)


def method(process, grid, network=None, steps=8, **fields):
    network = network or Exact(process, grid, steps)
    curriculum = Curriculum(batch_size=4, seed=fields.pop("seed", 0), source_steps=fields.pop("source_steps", 0))
    return Shortcut(
        network, process, X0Target(), condition=True, sampler=deterministic, grid=grid, curriculum=curriculum,
        steps=steps, **{"share": ALL} | fields,
    )  # fmt: skip


def batch_of(step=0, count=4):
    x_0, x_1 = pair(count)
    return {"x_0": x_0, "x_1": x_1, "number": torch.arange(count) + count * step}


NOISELESS_WALKS = [LinearFlow(), SourceNoise(sigma_s=0.4)]
"""Processes that leave t = 1 without drawing noise, so that one step can stand for two."""


@pytest.mark.parametrize("process", [*NOISELESS_WALKS, I2SB(), BrownianBridge()], ids=lambda p: type(p).__name__)
def test_the_answer_of_one_step_lands_there(process):
    """The update (U) with D leads from X_t to X_s, from each time of a walk."""
    # kills: answer-without-the-state, answer-without-x-1
    times = quadratic(process, 4)
    x_0, x_1 = pair()
    t = times[[1, 2, 3, 3]]
    x_t = process.marginal(x_0, x_1, t).sample(draws(4))
    wanted = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    answer = one_answer(process, x_1, x_t, t, wanted, times)
    x_s, _ = walked(process, lambda x, t: answer, x_1, x_t, t, times, draws(4))
    assert torch.allclose(x_s, wanted, atol=1e-10)


@pytest.mark.parametrize("grid", [uniform, quadratic])
@pytest.mark.parametrize("process", NOISELESS_WALKS, ids=lambda p: type(p).__name__)
def test_two_half_steps_are_the_fixed_point(process, grid):
    """The loss of the exact answers is 0 at every level, and that of the bridge's own answers is not."""
    # kills: shortcut-of-its-own-level, shortcut-level-not-seen, shortcut-halves-on-its-own-walk
    levels = set()
    for step in range(12):
        found = method(process, grid)
        levels.add(int(found._level(batch_of(step)).max()))
        ((name, loss),) = found.losses(batch_of(step), draws(4))
        assert name == "network" and loss < 1e-10, (step, loss)
        plain = replace(found, network=lambda x, t, x_1: posterior_mean(process)(x, t - (t.ceil() - 1), x_1))
        if isinstance(process, SourceNoise):  # of a path without noise X_t and X_1 tell X_0, at every level
            assert next(plain.losses(batch_of(step), draws(4)))[1] > 1e-6
    assert levels == {1, 2, 3}


@pytest.mark.parametrize("grid", [uniform, quadratic])
@pytest.mark.parametrize("process", NOISELESS_WALKS, ids=lambda p: type(p).__name__)
def test_a_walk_of_few_calls_ends_where_the_bridges_does(process, grid):
    """With the exact answers 1, 2 and 4 calls restore what 8 calls do; those of the bridge alone do not."""
    # kills: walk-without-its-level, level-from-below
    x_1 = pair()[1]
    ends = {}
    for nfe in (1, 2, 4, 8):
        *_, ends[nfe] = method(process, grid).trajectory({"x_1": x_1}, nfe=nfe, generator=draws(4))
        assert torch.allclose(ends[nfe], ends[8] if 8 in ends else ends[1], atol=1e-9), nfe
    plain = Exact(process, grid, 8)
    *_, other = method(process, grid, network=lambda x, t, x_1: plain.first(x, t - (t.ceil() - 1), x_1)).trajectory(
        {"x_1": x_1}, nfe=1, generator=draws(4)
    )
    if isinstance(process, SourceNoise):
        assert (other - ends[8]).abs().max() > 1e-3


def test_levels_of_walks():
    """The level whose number of steps is nearest by ratio; none for other samplers."""
    # kills: level-of-other-samplers, level-by-the-next-power, graph-without-its-level
    found = method(LinearFlow(), uniform)
    assert [found.time_offset(nfe) for nfe in (1, 2, 3, 4, 5, 6, 8, 9, 100)] == [3, 2, 1, 1, 1, 0, 0, 0, 0]
    assert replace(found, sampler=ancestral).time_offset(1) == 0
    assert replace(found, steps=2).time_offset(1) == 1
    (stage,) = plan_of(found, 2)  # of an exported graph
    assert [call.time for call in stage.calls] == [3.0, 2.5] and [call.t for call in stage.calls] == [1.0, 0.5]


def test_which_samples_learn_shortcuts():
    """A share of them, by seed and number alone; one level a step; none in the regression at the start."""
    # kills: shortcuts-in-the-regression, shortcut-share-of-all, shortcut-levels-alike, shortcuts-by-position
    found = method(LinearFlow(), uniform, share=0.25, source_steps=10)
    levels = torch.stack([found._level(batch_of(step)) for step in range(610)])
    assert bool((levels[:10] == 0).all())
    learned = levels[10:]
    assert 0.21 < (learned > 0).double().mean() < 0.29
    for step in learned:
        assert len(set(step[step > 0].tolist())) <= 1
    counts = torch.bincount(learned[learned > 0], minlength=4)[1:]
    assert counts.min() > 120, counts
    alone = {"x_0": torch.zeros(1, 3, 8, 8), "number": torch.tensor([4 * 50 + 2])}
    assert int(found._level(alone)) == int(levels[50, 2])
    other = method(LinearFlow(), uniform, share=0.25, seed=1)
    assert any(not torch.equal(other._level(batch_of(step)), levels[step]) for step in range(10, 20))
    assert bool((found._level({"x_0": torch.zeros(2, 3, 8, 8)}) == 0).all())


def test_only_the_long_step_learns():
    """The gradient is that to fixed answers of the level below, and one sample's target is its own."""
    # kills: shortcut-through-the-target
    network = Linear(0)
    found = Shortcut(
        network, SourceNoise(sigma_s=0.4), X0Target(), sampler=deterministic, share=ALL,
        curriculum=Curriculum(batch_size=4), steps=4,
    )  # fmt: skip
    batch = batch_of(3)
    next(found.losses(batch, draws(4)))[1].backward()
    gradient = network.layer.weight.grad.clone()
    t = found._times(batch, draws(4))

    class Fixed(Shortcut):
        def _clean(self, *arguments):
            return clean

        def _times(self, *arguments):
            return t

    # The same draws again: the target is computed first, then held.
    generators = draws(4)
    times = found._times(batch, generators)
    x_t = found.proposal.sample(found.process, batch["x_0"], batch["x_1"], times, generators)
    clean = found._clean(batch, batch["x_1"], x_t, times, generators).detach()
    network.zero_grad()
    fixed = Fixed(**{name: getattr(found, name) for name in found.__dataclass_fields__})
    generators = draws(4)
    found._times(batch, generators)
    next(fixed.losses(batch, generators))[1].backward()
    assert torch.equal(network.layer.weight.grad, gradient) and gradient.abs().sum() > 0
    lonely = {name: value[2:3] for name, value in batch.items()}
    assert torch.allclose(
        found._clean(lonely, batch["x_1"][2:3], x_t[2:3], times[2:3], draws(1)), clean[2:3], atol=1e-12
    )


def test_recipes_of_shortcuts():
    # kills: shortcut-on-any-grid, shortcut-with-a-dropped-condition
    recipe = load_recipe("demo/denoise", [], method_preset("shortcut"))
    assert recipe.sample.sampler["name"] == "deterministic" and recipe.method["name"] == "shortcut"
    for settings, says in (
        (["method.steps=6"], "must be a power of 2 from 2 to 256"),
        (["method.share=1.0"], "must lie between 0 and 1"),
        (["network.condition_channels=3", "network.condition_dropout=0.1"], "the half steps .* see the condition"),
        (["sample.grid=karras"], "the times of 4 steps are not all among those of 8"),
    ):
        with pytest.raises(UserError, match=says):
            build_method(load_recipe("demo/denoise", settings, method_preset("shortcut")), Linear(0))


def test_a_run_of_shortcuts(tmp_path):
    """It trains, resumes to the bit, and restores with any number of calls."""
    table = recipe_of(photos(tmp_path / "photos"), steps=6).model_dump(mode="json", exclude_none=True)
    table |= {"method": {"name": "shortcut", "steps": 4, "share": 0.5}, "process": {"name": "flow"}}
    table["target"], table["sample"] = {"name": "velocity"}, {"nfe": 1, "sampler": {"name": "deterministic"}}
    recipe = parse_recipe(table, "tiny")
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    train(recipe, whole, cpu=True)
    seen = itertools.count()
    train(recipe, halves, cpu=True, stop=lambda: next(seen) == 3)
    train(recipe, halves, cpu=True)
    runs = [load_run(folder, device="cpu") for folder in (whole, halves)]
    x = torch.rand(1, 3, 16, 16)
    for nfe in (1, 2, 4):
        restored = [each.restore(x, nfe=nfe, seed=0, value_range=(0, 1)) for each in runs]
        assert torch.equal(*restored) and restored[0].shape == x.shape
