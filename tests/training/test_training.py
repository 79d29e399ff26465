"""Real, small trainings on a CPU."""

import itertools
import math
import os

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from durability import reseal
from forking import together
from PIL import Image, ImageDraw

from i2i_bridge import load_run
from i2i_bridge.cli.command import main
from i2i_bridge.errors import UserError
from i2i_bridge.evaluation.evaluate import evaluate, read_evaluation
from i2i_bridge.methods.factory import build_method
from i2i_bridge.methods.geometry import pad_to_stride
from i2i_bridge.recipe.load import parse_recipe
from i2i_bridge.report.page import write_report
from i2i_bridge.runs.restore import restore_files
from i2i_bridge.training.log import read_metrics
from i2i_bridge.training.state import TrainState
from i2i_bridge.training.step import training_step
from i2i_bridge.training.trainer import train


def scene(seed, side=48):
    """A picture with edges and flat areas, different for every seed."""
    draw = np.random.default_rng(seed)
    image = Image.new("RGB", (side, side), tuple(int(v) for v in draw.integers(0, 256, 3)))
    pen = ImageDraw.Draw(image)
    for _ in range(8):
        a, b = sorted(draw.integers(0, side, 2)), sorted(draw.integers(0, side, 2))
        colour = tuple(int(v) for v in draw.integers(0, 256, 3))
        (pen.ellipse if draw.random() < 0.5 else pen.rectangle)(
            [int(a[0]), int(b[0]), int(a[1]), int(b[1])], fill=colour
        )
    return image


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    root = tmp_path_factory.mktemp("photos")
    for split, count, first in (("train", 24, 0), ("val", 4, 1000)):
        (root / split).mkdir()
        for i in range(count):
            scene(first + i).save(root / split / f"{i:02d}.png")
    return root


def recipe_for(photos, **changes):
    table = {
        "name": "test",
        "summary": "a test",
        "task": "restoration",
        "data": {"root": str(photos), "source": {"name": "images"}, "size": 24, "resize": "none", "crop": "random",
        "validation_size": 48}, "degradation": {"name": "noise", "std": 0.3},
        "network": {"name": "unet", "channels": 16, "channel_mult": [1, 2], "blocks_per_level": 1},
        "train": {
            "steps": 4, "batch_size": 4, "lr": 2e-3, "workers": 0, "save_every": 2, "sample_every": 4, "log_every": 1,
            "precision": "fp32",
        },
        "evaluate": {"nfe": [1, 3], "metrics": ["psnr", "ssim", "lpips"]},
        "sample": {"nfe": 3},
    }  # fmt: skip
    for key, value in changes.items():
        table[key] = (
            {**table[key], **value} if isinstance(value, dict) and key in table and "name" not in value else value
        )
    return parse_recipe(table, "test")


def tensors_of(folder):
    from i2i_bridge.runs.checkpoint import latest_checkpoint

    checkpoint, _ = latest_checkpoint(folder / "checkpoints")
    return {part: checkpoint.tensors(part) for part in ("network", "ema", "optimizer")}


def same(left, right):
    return all(
        left[part].keys() == right[part].keys()
        and all(torch.equal(left[part][key], right[part][key]) for key in left[part])
        for part in left
    )


@pytest.fixture(scope="module")
def trained(photos, tmp_path_factory):
    """A small bridge on noisy scenes, after a second or two: 6 dB better than its input."""
    folder = tmp_path_factory.mktemp("runs") / "noise"
    recipe = recipe_for(
        photos,
        train={
            "steps": 100,
            "batch_size": 4,
            "lr": 4e-3,
            "log_every": 20,
            "save_every": 1000,
            "sample_every": 1000,
            "warmup_steps": 10,
            "schedule": "cosine",
            "ema_decay": 0.95,
        },
    )
    train(recipe, folder, cpu=True)
    return folder


def test_a_small_training_restores_held_out_images(trained):
    run = load_run(trained, device="cpu")
    result = evaluate(run, run.recipe.build_dataset("validation"), nfe=[1, 3], metrics=["psnr", "ssim", "lpips"])
    rows = {row.name: row for row in result.rows}
    assert rows["nfe 1"].metrics["psnr"].value > rows["input"].metrics["psnr"].value + 1.5
    assert rows["nfe 1"].metrics["ssim"].value > rows["input"].metrics["ssim"].value
    assert [row.nfe for row in result.rows] == [0, 1, 3]
    assert "alexnet" in result.skipped["lpips"]
    assert read_evaluation(trained) == result
    per_image = (trained / "evaluation" / "held-out" / "per_image.csv").read_text().splitlines()
    assert len(per_image) == 1 + 4 * 3


def test_evaluation_does_not_depend_on_order_or_other_nfe(trained):
    run = load_run(trained, device="cpu")
    data = run.recipe.build_dataset("validation")
    alone = evaluate(run, data, nfe=[3], metrics=["psnr"], count=2).rows[1].metrics["psnr"]
    together = evaluate(run, data, nfe=[1, 3], metrics=["psnr"], count=2).rows[2].metrics["psnr"]
    assert alone == together


def test_report_page(trained):
    run = load_run(trained, device="cpu")
    data = run.recipe.build_dataset("validation")
    evaluate(run, data, nfe=[1, 3], metrics=["psnr", "ssim"])
    page = write_report(run, data)
    text = page.read_text(encoding="utf-8")
    for name in ("comparison.png", "trajectory.png"):
        with Image.open(page.parent / name) as image:
            assert image.width > 100
    for part in ("The walk from X₁ to X₀", "Several answers", "spread at most", "Trained on:", "training loss"):
        assert part in text
    rows = read_evaluation(trained).rows
    assert f"{rows[1].metrics['psnr'].value:.2f}" in text and f"{rows[0].metrics['psnr'].value:.2f}" in text


def test_restore_keeps_size_depth_alpha_and_grey(trained, tmp_path):
    run = load_run(trained, device="cpu")
    for size in ((1, 1), (7, 33), (48, 48), (65, 30)):
        assert run.restore(scene(1).resize(size), nfe=2).size == size
    grey = run.restore(scene(1).convert("L"), nfe=1)
    assert grey.mode == "L"
    deep = Image.fromarray(np.asarray(scene(1).convert("L")).astype(np.uint16) * 257)
    assert run.restore(deep, nfe=1).mode == "I;16"
    opaque = scene(1).convert("RGBA")
    opaque.putalpha(Image.linear_gradient("L").resize((48, 48)))
    back = run.restore(opaque, nfe=1)
    assert back.mode == "RGBA" and np.array_equal(np.asarray(back)[..., 3], np.asarray(opaque)[..., 3])


def test_padding_mirrors_the_image():
    """0 1 2 3 -> 0 1 2 3 2 1 0 1, the edge not repeated; two multiples of the stride at least."""
    # kills: padding-repeats-the-edge
    row = torch.tensor([0.0, 1, 2, 3]).expand(1, 1, 4, 4)
    padded = pad_to_stride(row, 4, 8)
    assert padded.shape == (1, 1, 8, 8) and padded[0, 0, 0].tolist() == [0, 1, 2, 3, 2, 1, 0, 1]
    assert torch.equal(pad_to_stride(row.mT, 4, 8), padded.mT)
    assert pad_to_stride(torch.ones(1, 1, 1, 5), 2, 4).shape == (1, 1, 4, 6)


def test_restore_pads_without_touching_the_inside(trained):
    """A size that needs padding gives nearly the same inside as one that does not."""
    run = load_run(trained, device="cpu")
    whole = np.asarray(run.restore(scene(3), nfe=1)).astype(int)
    cut = np.asarray(run.restore(scene(3).crop((0, 0, 47, 47)), nfe=1)).astype(int)
    # The network normalises over the whole image, so a few codes may move, but nothing shifts.
    assert np.abs(whole[:24, :24] - cut[:24, :24]).mean() < 1.5


def test_seeds_give_diverse_and_repeatable_samples(trained):
    run = load_run(trained, device="cpu")
    first, again, other = (np.asarray(run.restore(scene(2), nfe=3, seed=seed)) for seed in (0, 0, 1))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_restore_files(trained, tmp_path):
    run = load_run(trained, device="cpu")
    (tmp_path / "in" / "deep").mkdir(parents=True)
    scene(1).save(tmp_path / "in" / "a.png")
    scene(2).save(tmp_path / "in" / "deep" / "b.jpg")
    (tmp_path / "in" / "broken.png").write_bytes(b"x")
    outcome = restore_files(run, tmp_path / "in", tmp_path / "out", nfe=2)
    assert sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("[!.]*.*")) == [
        "a.png",
        "deep/b.jpg",
    ]
    assert outcome.written == 2 and outcome.nfe == 2 and "broken.png" in outcome.problems[0]
    outcome = restore_files(run, tmp_path / "in" / "a.png", tmp_path / "many.png", nfe=3, samples=2, seed=5)
    alone = run.restore(tmp_path / "in" / "a.png", nfe=3, seed=6)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "many-2.png")), np.asarray(alone))
    restore_files(run, tmp_path / "in" / "a.png", tmp_path / "t.png", nfe=3, trajectory=True)
    with Image.open(tmp_path / "t-trajectory.png") as strip:
        assert strip.width == 4 * 48 + 3 * 2  # X_1 and three steps
        last = np.asarray(strip)[-48:, -48:]
    assert np.array_equal(last, np.asarray(Image.open(tmp_path / "t.png")))
    restore_files(run, tmp_path / "in" / "a.png", tmp_path / "d.png", nfe=1, degrade=True)
    assert (tmp_path / "d-degraded.png").is_file()
    for source, target, part in (
        (tmp_path / "none", tmp_path / "x", "no such file"),
        (tmp_path / "in", tmp_path / "in", "overwrite"),
        (tmp_path / "in" / "a.png", tmp_path / "in" / "a.png", "overwrite"),
        (tmp_path / "in" / "a.png", tmp_path / "a.xyz", "suffix"),
        (tmp_path / "in" / "broken.png", tmp_path / "y.png", "broken.png"),
    ):
        with pytest.raises(UserError, match=part):
            restore_files(run, source, target, nfe=1)


def test_one_batch_can_be_learned_by_heart(photos):
    # kills: optimizer-sees-no-gradient
    recipe = recipe_for(photos, train={"lr": 4e-3})
    state = TrainState(recipe, torch.device("cpu"))
    method = build_method(recipe, state.network)
    data = recipe.build_dataset("train")
    items = [data.sample(i) for i in range(4)]
    batch = {key: torch.stack([item[key] for item in items]) for key in ("x_0", "x_1")}
    losses = []
    for _ in range(60):
        ((_, loss),) = method.losses(batch, [torch.Generator().manual_seed(i) for i in range(4)])
        loss.backward()
        state.update(4e-3)
        state.end_step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 10


def test_a_stopped_run_ends_with_the_same_bits(photos, tmp_path):
    # kills: resume-replays-the-first-batches, moments-in-another-memory-order, ema-not-restored, optimizer-not-restored
    recipe = recipe_for(photos, train={"steps": 6, "save_every": 100})
    train(recipe, tmp_path / "whole", cpu=True)
    asked = iter([False, False, True])
    stopped = train(recipe, tmp_path / "parts", cpu=True, stop=lambda: next(asked))
    assert not stopped.finished and stopped.step == 3
    lines = []
    finished = train(recipe, tmp_path / "parts", cpu=True, report=lambda event: lines.append(str(event)))
    assert finished.finished and f"resuming {tmp_path / 'parts'} at step 3 of 6" in lines[1]
    assert same(tensors_of(tmp_path / "whole"), tensors_of(tmp_path / "parts"))
    assert [row["step"] for row in read_metrics(tmp_path / "parts")] == [1, 2, 3, 4, 5, 6]
    assert (tmp_path / "parts" / "metrics.csv").read_text().count("\n") == 7


def test_a_run_without_a_step_left_stays_as_it_is(photos, tmp_path):
    """Its recipe is that of the steps that were trained, and the line says that none is trained."""
    # kills: recipe-of-untrained-steps
    train(recipe_for(photos, train={"steps": 3}), tmp_path / "run", cpu=True)
    files = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    for steps in (2, 3):
        lines = []
        report = lambda event, lines=lines: lines.append(str(event))  # noqa: E731
        train(recipe_for(photos, train={"steps": steps, "lr": 0.5}), tmp_path / "run", cpu=True, report=report)
        assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == files
        assert f"has 3 steps and train.steps is {steps}: nothing to train" in " ".join(lines), lines


def test_every_step_drops_other_activations(photos):
    """The same batch twice: what nn.Dropout sets to 0 differs from step to step, and is the same when repeated."""
    # kills: dropout-of-every-step-alike, dropout-of-every-micro-batch-alike
    recipe = recipe_for(photos, network={"dropout": 0.5}, train={"micro_batch": 2})
    data = recipe.build_dataset("train")
    items = [data.sample(i) for i in (0, 1)] * 2  # both micro-batches hold the same images
    batch = {name: torch.stack([item[name] for item in items]) for name in ("x_0", "x_1")}

    def dropped():
        state, seen = TrainState(recipe, torch.device("cpu")), []
        layers = [module for module in state.network.modules() if isinstance(module, torch.nn.Dropout)]
        layers[0].register_forward_hook(lambda layer, given, out: seen.append(((out == 0) & (given[0] != 0)).clone()))
        for _ in range(2):
            training_step(state, batch, Accelerator(cpu=True), torch.float32)
        return seen

    first, again = dropped(), dropped()
    assert len(first) == 4  # two steps of two micro-batches
    for i, j in itertools.combinations(range(4), 2):
        assert 0.3 < (first[i] != first[j]).float().mean() < 0.7, (i, j)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_dropout_is_keyed_by_the_step(photos, tmp_path):
    # kills: dropout-from-global-state
    recipe = recipe_for(photos, network={"dropout": 0.3}, train={"steps": 4, "save_every": 2})
    torch.manual_seed(1)
    train(recipe, tmp_path / "whole", cpu=True)
    asked = iter([False, True])
    torch.manual_seed(2)
    train(recipe, tmp_path / "parts", cpu=True, stop=lambda: next(asked))
    train(recipe, tmp_path / "parts", cpu=True)
    assert same(tensors_of(tmp_path / "whole"), tensors_of(tmp_path / "parts"))
    train(recipe_for(photos), tmp_path / "without", cpu=True)
    assert not same(tensors_of(tmp_path / "whole"), tensors_of(tmp_path / "without"))


def test_a_curriculum_resumes_with_the_same_bits(photos, tmp_path):
    """Stopped in its first phase: the end of that phase, strata and the share at t = 1 are keyed by the step."""
    # kills: regression-share-counted-from-the-start-of-the-call
    settings = {"steps": 6, "regression_share": 0.5, "at_source": 0.3, "time": "stratified", "loss": "huber"}
    process = {"name": "source-noise", "sigma_s": 0.2}
    recipe = recipe_for(photos, train=settings, process=process, target={"name": "velocity"})
    train(recipe, tmp_path / "whole", cpu=True)
    asked = iter([False, True])
    train(recipe, tmp_path / "parts", cpu=True, stop=lambda: next(asked))
    train(recipe, tmp_path / "parts", cpu=True)
    assert same(tensors_of(tmp_path / "whole"), tensors_of(tmp_path / "parts"))


def test_micro_batches_and_workers_change_nothing(photos, tmp_path):
    # kills: accumulated-gradients-not-averaged
    train(recipe_for(photos), tmp_path / "one", cpu=True)
    train(recipe_for(photos, train={"micro_batch": 3}), tmp_path / "micro", cpu=True)
    train(recipe_for(photos, train={"workers": 2}), tmp_path / "workers", cpu=True)
    one, micro = tensors_of(tmp_path / "one"), tensors_of(tmp_path / "micro")
    assert same(one, tensors_of(tmp_path / "workers"))

    def logged(name, key):
        return [row[key] for row in read_metrics(tmp_path / name)]

    loss, micro_loss = logged("one", "loss"), logged("micro", "loss")
    norm, micro_norm = logged("one", "grad_norm"), logged("micro", "grad_norm")
    # Not bit for bit: sums run in another order, and Adam's first steps turn a rounding of a zero gradient into a
    # full step.
    assert loss[0] == pytest.approx(micro_loss[0], rel=1e-5) and norm[0] == pytest.approx(micro_norm[0], rel=1e-4)
    assert loss == pytest.approx(micro_loss, rel=1e-2) and not same(one, micro)


def test_sampling_and_saving_leave_training_alone(photos, tmp_path):
    train(recipe_for(photos), tmp_path / "quiet", cpu=True)
    train(recipe_for(photos, train={"save_every": 1, "sample_every": 1}), tmp_path / "busy", cpu=True)
    assert same(tensors_of(tmp_path / "quiet"), tensors_of(tmp_path / "busy"))
    assert len(list((tmp_path / "busy" / "samples").glob("*.png"))) == 4


def test_global_generators_are_neither_read_nor_set(photos, tmp_path):
    import random

    before = torch.random.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    train(recipe_for(photos), tmp_path / "a", cpu=True)
    after = torch.random.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    assert torch.equal(before[0], after[0]) and before[1:] == after[1:]
    torch.manual_seed(99)
    train(recipe_for(photos), tmp_path / "b", cpu=True)
    assert same(tensors_of(tmp_path / "a"), tensors_of(tmp_path / "b"))


def test_ema_is_the_average_of_the_weights(photos):
    # kills: ema-decay-inverted
    recipe = recipe_for(photos, train={"ema_decay": 0.9})
    state = TrainState(recipe, torch.device("cpu"))
    name, parameter = next(iter(state.network.named_parameters()))
    wanted = parameter.detach().clone()
    for n in range(1, 4):
        for p in state.network.parameters():
            p.grad = torch.ones_like(p)
        state.update(0.1)
        state.end_step()
        decay = min(0.9, (1 + n) / (10 + n))
        wanted = decay * wanted + (1 - decay) * parameter.detach()
    assert torch.allclose(state.ema.state_dict()[name], wanted, atol=1e-6)


def test_another_recipe_may_not_take_over_a_run(photos, tmp_path):
    train(recipe_for(photos), tmp_path / "a", cpu=True)
    with pytest.raises(UserError, match=r"train.seed: \d+ there, 77 here"):
        train(recipe_for(photos, train={"seed": 77}), tmp_path / "a", cpu=True)
    more = train(recipe_for(photos, train={"steps": 6}), tmp_path / "a", cpu=True)
    assert more.step == 6


def test_preconditioning_moments_are_estimated_and_written_down(photos, tmp_path):
    recipe = recipe_for(photos, target={"name": "preconditioned"})
    train(recipe, tmp_path / "a", cpu=True)
    target = load_run(tmp_path / "a", device="cpu").recipe.target
    assert 0 < target["cov_01"] <= math.sqrt(target["var_0"] * target["var_1"])
    assert target["var_1"] == pytest.approx(target["var_0"] + 0.3**2, rel=0.02)  # the noise adds its own
    assert train(recipe, tmp_path / "a", cpu=True).finished


def test_a_diverged_loss_stops_the_run(photos, tmp_path):
    # kills: endless-skipping
    recipe = recipe_for(photos, train={"steps": 50, "save_every": 1, "log_every": 50})
    # A rate that no recipe may have.
    recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update={"lr": 1e30})})
    with pytest.raises(UserError, match="not finite at step"):
        train(recipe, tmp_path / "a", cpu=True)
    # Saved at every step, reported at the last: nothing ruined was published between.
    from i2i_bridge.runs.checkpoint import latest_checkpoint

    checkpoint, _ = latest_checkpoint(tmp_path / "a" / "checkpoints")
    assert checkpoint is None or all(bool(x.isfinite().all()) for x in checkpoint.tensors("network").values())


def test_run_folders_that_are_not_whole(photos, tmp_path):
    with pytest.raises(UserError, match="not a run folder"):
        load_run(tmp_path)
    train(recipe_for(photos), tmp_path / "a", cpu=True)
    from safetensors.torch import load_file, save_file

    (folder,) = sorted((tmp_path / "a" / "checkpoints").glob("step-*"))[-1:]
    file = folder / "ema.safetensors"
    tensors = load_file(file)
    gone = tensors.pop(sorted(tensors)[0])
    assert gone is not None
    save_file(tensors, file)
    reseal(folder)
    with pytest.raises(UserError, match="is missing"):
        load_run(tmp_path / "a")


def test_a_step_is_adamw_with_clipping(photos):
    """One step written out (Loshchilov and Hutter 2019, Algorithm 2), from a gradient of norm 10 clipped to 0.5."""
    # kills: clipping-ignored, betas-ignored, weight-decay-ignored
    settings = {"clip_norm": 0.5, "betas": [0.7, 0.95], "weight_decay": 0.1, "lr": 0.01}
    state = TrainState(recipe_for(photos, train=settings), torch.device("cpu"))
    weight = next(p for p in state.network.parameters() if p.ndim == 4)
    draws = torch.Generator().manual_seed(0)
    moments, before = [0.0, 0.0], weight.detach().double().clone()
    for step in (1, 2):
        gradient = torch.randn(weight.shape, generator=draws)
        gradient *= 10 / gradient.norm()
        for parameter in state.network.parameters():
            parameter.grad = torch.zeros_like(parameter)
        weight.grad.copy_(gradient)
        assert state.update(0.01).item() == pytest.approx(10, rel=1e-5)
        clipped = gradient.double() * 0.05
        moments = [0.7 * moments[0] + 0.3 * clipped, 0.95 * moments[1] + 0.05 * clipped**2]
        first, second = moments[0] / (1 - 0.7**step), moments[1] / (1 - 0.95**step)
        before = before * (1 - 0.01 * 0.1) - 0.01 * first / (second.sqrt() + 1e-8)
    assert torch.allclose(weight.detach().double(), before, atol=1e-6)


def test_bf16_means_that_convolutions_compute_in_it(photos, tmp_path, monkeypatch):
    # kills: autocast-off
    seen = set()
    plain = torch.nn.Conv2d.forward

    def spied(self, x):
        out = plain(self, x)
        if torch.is_grad_enabled():
            seen.add(out.dtype)
        return out

    monkeypatch.setattr(torch.nn.Conv2d, "forward", spied)
    for precision, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        seen.clear()
        train(recipe_for(photos, train={"precision": precision, "steps": 1}), tmp_path / precision, cpu=True)
        assert seen == {dtype}
    kept = tensors_of(tmp_path / "bf16")
    assert {value.dtype for part in kept.values() for value in part.values()} == {torch.float32}


def test_the_schedule_reaches_the_optimizer(photos, tmp_path):
    """A rate that falls to nothing after the first step: the second leaves the weights where they are."""
    # kills: schedule-ignored
    fall = {"schedule": "step", "lr_step": 1, "lr_gamma": 1e-9}
    train(recipe_for(photos, train={**fall, "steps": 1}), tmp_path / "one", cpu=True)
    train(recipe_for(photos, train={**fall, "steps": 2}), tmp_path / "two", cpu=True)
    train(recipe_for(photos, train={"steps": 2}), tmp_path / "kept", cpu=True)
    one, two, kept = (tensors_of(tmp_path / name)["network"] for name in ("one", "two", "kept"))

    def moved(left, right):
        return max(float((left[name] - right[name]).abs().max()) for name in left)

    assert moved(one, two) < 1e-8 and moved(one, kept) > 1e-4


def test_the_average_takes_over_what_is_not_learned(photos):
    """Running statistics of a normalisation, say: buffers are copied."""
    # kills: buffers-left-behind
    state = TrainState(recipe_for(photos), torch.device("cpu"))
    for network, value in ((state.network, 3.0), (state.ema, 0.0)):
        network.register_buffer("count", torch.tensor([value]))
    for parameter in state.network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    state.update(0.1)
    state.end_step()
    assert state.ema.get_buffer("count").item() == 3


def test_a_restored_image_sees_no_dropout(photos, tmp_path):
    # kills: restored-in-training-mode
    train(recipe_for(photos, network={"dropout": 0.5}, train={"lr": 0.1}), tmp_path / "run", cpu=True)
    run = load_run(tmp_path / "run", device="cpu")
    first, again = (np.asarray(run.restore(scene(2), nfe=1)) for _ in range(2))
    assert np.array_equal(first, again) and not any(module.training for module in run.method.network.modules())


def test_every_sample_of_every_step_has_its_own_time_and_noise(photos, tmp_path, monkeypatch):
    # kills: times-and-noise-of-step-one
    from i2i_bridge.networks.unet import UNet

    seen, plain = [], UNet.forward

    def spied(self, x_t, t, condition=None):
        if self.training:
            seen.extend(t.tolist())
        return plain(self, x_t, t, condition)

    monkeypatch.setattr(UNet, "forward", spied)
    train(recipe_for(photos), tmp_path / "run", cpu=True)
    assert len(seen) == 4 * 4 and len(set(seen)) == 4 * 4


def test_what_restores_is_the_moving_average(photos, tmp_path):
    # kills: raw-weights-restore
    train(recipe_for(photos), tmp_path / "run", cpu=True)
    stored, run = tensors_of(tmp_path / "run"), load_run(tmp_path / "run", device="cpu")
    assert not same({"w": stored["ema"]}, {"w": stored["network"]})
    assert same({"w": dict(run.method.network.state_dict())}, {"w": stored["ema"]})


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_two_processes_train_as_one(photos, tmp_path, monkeypatch):
    """The same samples, times and noise, shared out: weights agree up to the order of sums, and one process talks."""
    # kills: gradients-not-shared, each-process-alone-on-a-cpu
    (tmp_path / "recipe.toml").write_text(recipe_for(photos, train={"micro_batch": 1}).to_toml())
    train(recipe_for(photos), tmp_path / "one", cpu=True)
    # Without --device: on a machine without a GPU both are processes of its CPU.
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    words = ["train", str(tmp_path / "recipe.toml"), "--out", str(tmp_path / "two")]
    ended = together(2, lambda rank: main(words), tmp_path / "log")
    assert [process.code for process in ended] == [0, 0], ended
    assert "".join(process.said for process in ended).count("step 4/4") == 1
    losses = [[row["loss"] for row in read_metrics(tmp_path / name)] for name in ("one", "two")]
    norms = [[row["grad_norm"] for row in read_metrics(tmp_path / name)] for name in ("one", "two")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-2) and norms[0][0] == pytest.approx(norms[1][0], rel=1e-4)


def test_a_refused_training_claims_no_folder(photos, tmp_path):
    # kills: folder-claimed-too-early
    for change, part in (
        ({"data": {"size": 25}}, "data.size 25: the network halves its input 1 times"),
        ({"network": {"channels": 7}}, "channels 7"),
        ({"data": {"size": 80}}, "smaller than the crop"),
    ):
        with pytest.raises(UserError, match=part):
            train(recipe_for(photos, **change), tmp_path / "run", cpu=True)
        assert not (tmp_path / "run").exists()
    train(recipe_for(photos, train={"steps": 1}), tmp_path / "run", cpu=True)


@pytest.mark.parametrize(
    ("method", "name"),
    [
        ({"name": "bridge", "adversarial": 0.5}, "critic"),
        ({"name": "pix2pix", "discriminator": {"n_layers": 5}}, "discriminator"),
    ],
)
def test_images_too_small_for_the_critic_are_refused_before_the_folder(photos, tmp_path, method, name):
    # kills: critic-of-any-size
    recipe = recipe_for(photos, method=method, data={"size": 16})
    with pytest.raises(UserError, match=rf"data.size 16: the {name} needs images of at least (24|96) pixels a side"):
        train(recipe, tmp_path / "run", cpu=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("sampler", "method", "said"),
    [("ancestral", "bridge", True), ("deterministic", "bridge", False), ("ancestral", "regression", False)],
)
def test_noise_at_the_source_that_the_sampler_draws_anew_is_noted(photos, tmp_path, sampler, method, said):
    # kills: noise-drawn-anew-in-silence
    given = {"process": {"name": "source-noise", "sigma_s": 0.2}, "target": {"name": "velocity"}}
    recipe = recipe_for(
        photos, train={"steps": 1}, method={"name": method}, sample={"sampler": {"name": sampler}}, **given
    )
    lines = []
    train(recipe, tmp_path / "run", cpu=True, report=lambda event: lines.append(str(event)))
    assert any("sample.sampler.name=deterministic" in line for line in lines) == said


def test_images_that_are_trained_on_are_not_called_held_out(photos, tmp_path):
    lines = []
    recipe = recipe_for(photos, data={"root": str(photos / "train")}, train={"steps": 1})
    train(recipe, tmp_path / "run", cpu=True, report=lambda event: lines.append(str(event)))
    assert any("24 of 24 validation images are trained on" in line for line in lines)
    run = load_run(tmp_path / "run", device="cpu")
    dataset = recipe.build_dataset("validation")
    evaluate(run, dataset, nfe=[1], metrics=["psnr"], count=2)
    page = write_report(run, dataset).read_text(encoding="utf-8")
    assert "24 of 24 were TRAINED ON" in page and "None was trained on" not in page


def test_train_compile_compiles_the_network_and_may_be_changed(photos, tmp_path, monkeypatch):
    # kills: compile-ignored
    from i2i_bridge.training import preparation

    compiled = []
    monkeypatch.setattr(preparation, "compile_blocks", lambda network, device: compiled.append(network))
    train(recipe_for(photos, train={"steps": 1}), tmp_path / "plain", cpu=True)
    assert not compiled
    train(recipe_for(photos, train={"steps": 1, "compile": True}), tmp_path / "compiled", cpu=True)
    assert [hasattr(network, "repeated") for network in compiled] == [True]
    # The same run goes on without it.
    lines = []
    train(recipe_for(photos, train={"steps": 2}), tmp_path / "compiled", cpu=True, report=lines.append)
    assert any("compile True -> False" in str(line) for line in lines)
