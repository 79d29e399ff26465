"""Learning rate and EMA decay as functions of the step."""

import math
from functools import partial

import pytest
import torch

from i2i_bridge.recipe.schema import TrainSettings
from i2i_bridge.training.schedule import ema_decay, learning_rate


def rate_of(settings):
    return partial(learning_rate, TrainSettings(**settings))


def test_learning_rate_is_a_function_of_the_step():
    rate = rate_of({"steps": 110, "lr": 1.0, "warmup_steps": 10, "schedule": "cosine"})
    assert [rate(0), rate(4), rate(9)] == pytest.approx([0.1, 0.5, 1.0])
    assert [rate(10), rate(60), rate(110)] == pytest.approx([1.0, 0.5, 0.0], abs=1e-12)
    linear = rate_of({"steps": 100, "lr": 1.0, "schedule": "linear"})
    assert [linear(0), linear(50), linear(100)] == pytest.approx([1.0, 0.5, 0.0])


def test_the_rate_may_stay_before_it_falls():
    # kills: decay-from-ignored
    settings = {"steps": 100, "lr": 1.0, "warmup_steps": 10, "schedule": "linear", "decay_from": 60}
    rate = rate_of(settings)
    assert [rate(n) for n in (4, 9, 10, 59, 60, 70, 80, 100)] == pytest.approx([0.5, 1, 1, 1, 1, 0.75, 0.5, 0])
    cosine = rate_of(settings | {"schedule": "cosine"})
    assert [cosine(n) for n in (60, 80, 100)] == pytest.approx([1, 0.5, 0], abs=1e-12)
    # As documented: of n falling steps the last one still runs at lr / n, and the next would at 0.
    assert [rate(99), rate(100)] == pytest.approx([1 / 40, 0])
    assert cosine(99) == pytest.approx((1 + math.cos(math.pi * 39 / 40)) / 2)
    # Longer than the run: it never falls.
    late = rate_of(settings | {"decay_from": 500})
    assert late(100) == 1


def test_the_step_schedule_is_torch_s():
    """lr gamma^floor(step / lr_step): the first fall is at step lr_step itself, as torch's StepLR has it."""
    # kills: step-schedule-off-by-one
    settings = {"steps": 100, "lr": 1.0, "schedule": "step", "lr_step": 10, "lr_gamma": 0.5}
    rate = rate_of(settings)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=1.0)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=10, gamma=0.5)
    for step in range(45):
        assert rate(step) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12), step
        optimizer.step()
        scheduler.step()
    assert [rate(step) for step in (8, 9, 10, 19, 20)] == [1, 1, 0.5, 0.5, 0.25]


def test_a_young_average_forgets_fast():
    """(1 + n) / (10 + n) until ema_decay is reached; 0 keeps no average."""
    # kills: ema-decay-0-averages
    settings = TrainSettings(steps=10, ema_decay=0.9)
    assert [ema_decay(settings, n) for n in (1, 2, 79, 80, 81, 1000)] == pytest.approx(
        [2 / 11, 0.25, 80 / 89, 0.9, 0.9, 0.9]
    )
    assert ema_decay(TrainSettings(steps=10, ema_decay=0.0), 5) == 0
