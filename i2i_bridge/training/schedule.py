"""Schedules: learning rate and EMA decay as functions of the step, so that a checkpoint needs no scheduler state."""

import torch

from i2i_bridge.recipe.schema import TrainSettings


def learning_rate(settings: TrainSettings, step: int) -> float:
    """Learning rate of a step, by `train.schedule`.

    With n = steps - start, start = max(warmup_steps, decay_from), and u = (step - start) / n in [0, 1]:

        lr (step + 1) / warmup_steps              step < warmup_steps, whatever the schedule
        lr (1 - u)                                linear
        lr (1 + cos(pi u)) / 2                    cosine
        lr lr_gamma^floor(step / lr_step)         step
        lr                                        constant

    Args:
        step: Number of the step, counted from 0.
    """
    if step < settings.warmup_steps:
        return settings.lr * (step + 1) / settings.warmup_steps
    start = max(settings.warmup_steps, settings.decay_from or 0)
    done = max(step - start, 0) / max(settings.steps - start, 1)
    if settings.schedule == "linear":
        return settings.lr * max(1 - done, 0.0)
    if settings.schedule == "cosine":
        # Not math.cos, which may differ in the last bit: a run of an earlier version must resume with the same bits.
        return settings.lr * 0.5 * (1 + float(torch.cos(torch.tensor(min(done, 1.0) * torch.pi, dtype=torch.float64))))
    if settings.schedule == "step":
        return settings.lr * settings.lr_gamma ** (step // settings.lr_step)
    return settings.lr


def ema_decay(settings: TrainSettings, updates: int) -> float:
    """Decay of the EMA at its n-th update: min(ema_decay, (1 + n) / (10 + n)), so that early weights fade fast."""
    return min(settings.ema_decay, (1 + updates) / (10 + updates))
