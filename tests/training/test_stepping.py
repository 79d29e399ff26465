"""Methods with companions in the training loop: which module each loss trains, and that checkpoints hold them all."""

import copy
import os

import pytest
import torch
from accelerate import Accelerator
from forking import together
from test_training import photos, recipe_for, same, scene  # noqa: F401 - photos is a fixture

from i2i_bridge import load_run
from i2i_bridge.errors import UserError
from i2i_bridge.runs.checkpoint import latest_checkpoint
from i2i_bridge.runs.restore import restore_files
from i2i_bridge.training.log import read_metrics
from i2i_bridge.training.state import TrainState
from i2i_bridge.training.step import training_step
from i2i_bridge.training.trainer import train

PIX2PIX = {
    "data": {"size": 32},
    "method": {"name": "pix2pix", "discriminator": {"n_layers": 1, "channels": 8}},
    "network": {"name": "pix2pix-unet", "levels": 5, "channels": 8},
    "train": {"lr": 2e-4, "betas": [0.5, 0.999], "schedule": "linear", "decay_from": 2, "ema_decay": 0.0},
}


def pix2pix(photos, **train_settings):  # noqa: F811
    return recipe_for(photos, **{**PIX2PIX, "train": {**PIX2PIX["train"], **train_settings}})


def everything(folder):
    checkpoint, _ = latest_checkpoint(folder / "checkpoints")
    parts = ("network", "ema", "optimizer", "discriminator", "discriminator-optimizer")
    return {part: checkpoint.tensors(part) for part in parts}


def batch_of(recipe, count=4):
    data = recipe.build_dataset("train")
    items = [data.sample(i) for i in range(count)]
    return {name: torch.stack([item[name] for item in items]) for name in ("x_0", "x_1")}


def equal(left, right):
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def test_each_loss_moves_its_own_module(photos, monkeypatch):  # noqa: F811
    # kills: generator-teaches-the-discriminator
    recipe = pix2pix(photos)
    state, accelerator = TrainState(recipe, torch.device("cpu")), Accelerator(cpu=True)
    seen = []
    update = state.update

    def spied(lr, name="network"):
        other = state.modules["network" if name == "discriminator" else "discriminator"]
        before = [p.detach().clone() for p in other.parameters()]
        mine = [p.detach().clone() for p in state.modules[name].parameters()]
        assert all(p.grad is None for p in other.parameters())
        assert all(p.grad is not None for p in state.modules[name].parameters())
        norm = update(lr, name)
        assert equal(before, other.parameters()) and not equal(mine, state.modules[name].parameters())
        seen.append(name)
        return norm

    monkeypatch.setattr(state, "update", spied)
    for _ in range(2):
        training_step(state, batch_of(recipe), accelerator, torch.float32)
    assert seen == ["discriminator", "network"] * 2 and state.step == 2


def test_the_generator_meets_the_discriminator_that_has_learned(photos):  # noqa: F811
    """The step against its meaning, written out with the losses of two micro-batches averaged."""
    # kills: generator-first, accumulated-gradients-not-averaged
    recipe = pix2pix(photos, micro_batch=2, lr=0.01)
    batch = batch_of(recipe)
    stepped, by_hand = (TrainState(recipe, torch.device("cpu")) for _ in range(2))
    outcome = training_step(stepped, batch, Accelerator(cpu=True), torch.float32)
    walks = [by_hand.method.losses({k: v[i : i + 2] for k, v in batch.items()}, torch.Generator()) for i in (0, 2)]
    untaught = copy.deepcopy(by_hand.method.discriminator)
    for name in ("discriminator", "network"):
        taken = [next(walk) for walk in walks]
        assert [found for found, _ in taken] == [name, name]
        loss = sum(value for _, value in taken) / 2
        assert loss.item() == pytest.approx(outcome.losses[name].item(), rel=1e-5)
        module = by_hand.modules[name]
        gradients = torch.autograd.grad(loss, list(module.parameters()), retain_graph=True)
        norm = torch.linalg.vector_norm(torch.stack([g.norm() for g in gradients]))
        assert norm.item() == pytest.approx(outcome.norms[name].item(), rel=1e-4)
        for parameter, gradient in zip(module.parameters(), gradients, strict=True):
            parameter.grad = gradient
        by_hand.update(0.01, name)
    assert not equal(untaught.parameters(), by_hand.method.discriminator.parameters())


def test_raw_weights_where_nothing_is_averaged(photos):  # noqa: F811
    # kills: ema-decay-0-averages
    recipe = pix2pix(photos)
    state = TrainState(recipe, torch.device("cpu"))
    for _ in range(3):
        training_step(state, batch_of(recipe), Accelerator(cpu=True), torch.float32)
    raw, kept = state.network.state_dict(), state.ema.state_dict()
    assert all(torch.equal(raw[name], kept[name]) for name in raw)
    assert int(raw["up.1.norm.num_batches_tracked"]) == 3


def test_every_module_has_the_schedule_s_rate(photos):  # noqa: F811
    """The discriminator's rate falls with the generator's: constant until step 2, then linear to the last step."""
    # kills: companions-keep-their-first-rate
    recipe = pix2pix(photos, steps=4)
    state, rates = TrainState(recipe, torch.device("cpu")), []
    for _ in range(4):
        training_step(state, batch_of(recipe), Accelerator(cpu=True), torch.float32)
        rates.append({name: optimizer.param_groups[0]["lr"] for name, optimizer in state.optimizers.items()})
    for step, rate in enumerate((2e-4, 2e-4, 2e-4, 1e-4)):
        assert rates[step] == {"network": pytest.approx(rate), "discriminator": pytest.approx(rate)}


def test_clipping_is_per_module(photos):  # noqa: F811
    recipe = pix2pix(photos, clip_norm=0.1)
    state = TrainState(recipe, torch.device("cpu"))
    for size, (name, module) in zip((2.0, 3.0), state.modules.items(), strict=True):
        for parameter in module.parameters():
            parameter.grad = torch.zeros_like(parameter)
        next(module.parameters()).grad[(0, 0, 0, 0)] = size
        assert state.update(1e-3, name).item() == pytest.approx(size)


def test_a_stopped_pix2pix_ends_with_the_same_bits(photos, tmp_path):  # noqa: F811
    # kills: companion-not-restored, companion-moments-not-restored
    settings = {**PIX2PIX, "network": {**PIX2PIX["network"], "levels": 6, "channels": 4}, "data": {"size": 64}}
    big = tmp_path / "big"
    for split, first in (("train", 0), ("val", 100)):
        (big / split).mkdir(parents=True)
        for i in range(6):
            scene(first + i, side=72).save(big / split / f"{i}.png")
    settings["data"] |= {"root": str(big), "validation_size": 64}
    recipe = recipe_for(photos, **{**settings, "train": {**PIX2PIX["train"], "steps": 5, "save_every": 100}})
    assert any(isinstance(module, torch.nn.Dropout) for module in recipe.build_network().modules())
    train(recipe, tmp_path / "whole", cpu=True)
    asked = iter([False, False, True])
    assert train(recipe, tmp_path / "parts", cpu=True, stop=lambda: next(asked)).step == 3
    assert train(recipe, tmp_path / "parts", cpu=True).finished
    assert same(everything(tmp_path / "whole"), everything(tmp_path / "parts"))
    rows = read_metrics(tmp_path / "whole")
    assert [row["lr"] for row in rows] == pytest.approx([2e-4, 2e-4, 2e-4, 2e-4 * 2 / 3, 2e-4 / 3])
    assert rows == [{**row, **{key: mine[key] for key in mine if key in TIMES}} for row, mine in
                    zip(read_metrics(tmp_path / "parts"), rows, strict=True)]  # fmt: skip
    assert all(row["loss_discriminator"] > 0 and row["loss"] > row["loss_discriminator"] for row in rows)
    header = (tmp_path / "parts" / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"loss", "loss_discriminator", "lr"} <= set(header)
    # The run restores, by one call, and the same picture for the same seed.
    run = load_run(tmp_path / "whole", device="cpu")
    outcome = restore_files(run, big / "val", tmp_path / "out", nfe=20, trajectory=True)
    assert outcome.nfe == 1 and outcome.written == 6 and not outcome.problems
    again = run.restore(big / "val" / "0.png", nfe=1)
    assert again.size == (72, 72) and again.tobytes() == run.restore(big / "val" / "0.png", nfe=7).tobytes()
    assert again.tobytes() != run.restore(big / "val" / "0.png", seed=1).tobytes()


TIMES = ("steps_per_second", "data_share", "memory_gb", "seconds_left")


def test_a_bridge_keeps_its_files(photos, tmp_path):  # noqa: F811
    train(recipe_for(photos, train={"steps": 1}), tmp_path / "run", cpu=True)
    (folder,) = (tmp_path / "run" / "checkpoints").iterdir()
    assert {path.stem for path in folder.iterdir()} == {"network", "ema", "optimizer", "manifest"}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_two_processes_train_pix2pix_as_one(photos, tmp_path):  # noqa: F811
    """Two halves of a batch: micro-batches of one process, or processes. Both modules share their gradients."""
    # kills: gradients-not-shared
    train(pix2pix(photos, micro_batch=2), tmp_path / "one", cpu=True)
    ended = together(2, lambda rank: train(pix2pix(photos), tmp_path / "two", cpu=True) and None, tmp_path / "log")
    assert [process.code for process in ended] == [0, 0], ended
    one, two = (read_metrics(tmp_path / name) for name in ("one", "two"))
    for key in ("loss", "loss_discriminator"):
        assert [row[key] for row in one] == pytest.approx([row[key] for row in two], rel=1e-2)
    assert one[0]["grad_norm"] == pytest.approx(two[0]["grad_norm"], rel=1e-4)


class Forgetful:
    """A plug-in method whose losses do not fit its modules."""

    def __init__(self, network, names):
        self.network, self.names = network, names

    def companions(self):
        return {}

    def losses(self, batch, generator):
        for name in self.names:
            yield name, next(self.network.parameters()).square().mean()


@pytest.mark.parametrize("names", [[], ["bridge"], ["network", "network"]])
def test_losses_must_fit_the_modules(photos, names):  # noqa: F811
    recipe = recipe_for(photos)
    state = TrainState(recipe, torch.device("cpu"))
    state.method = Forgetful(state.network, names)
    with pytest.raises(UserError, match=r"Forgetful\.losses must yield one loss for each of"):
        training_step(state, batch_of(recipe), Accelerator(cpu=True), torch.float32)


def test_a_waiting_method_holds_one_micro_batch(photos):  # noqa: F811
    """A method of one loss finishes a micro-batch before the next begins."""
    # kills: graphs-kept
    recipe = recipe_for(photos, train={"micro_batch": 1})
    state, live = TrainState(recipe, torch.device("cpu")), []
    losses = state.method.losses

    def spied(batch, generator):
        live.append(1)
        assert sum(live) == 1
        yield from losses(batch, generator)
        live.append(-1)

    state.method.losses = spied
    training_step(state, batch_of(recipe), Accelerator(cpu=True), torch.float32)
    assert sum(live) == 0 and len(live) == 8


GPU_IS_FULL = torch.OutOfMemoryError("no memory left")
CPU_IS_FULL = RuntimeError("[enforce fail at alloc_cpu.cpp:134] DefaultCPUAllocator: not enough memory: you tried ...")


def crowded(losses, most, after=0, error=GPU_IS_FULL):
    """The losses of a method on a machine where no more than `most` images fit, from loss number `after` on."""

    def limited(batch, draws):
        for number, loss in enumerate(losses(batch, draws)):
            if number >= after and len(batch["x_0"]) > most:
                raise error
            yield loss

    return limited


def test_another_error_halves_nothing(photos):  # noqa: F811
    state = TrainState(recipe_for(photos), torch.device("cpu"))
    state.method.losses = crowded(state.method.losses, 1, error=RuntimeError("shapes differ"))
    with pytest.raises(RuntimeError, match="shapes differ"):
        training_step(state, batch_of(recipe_for(photos)), Accelerator(cpu=True), torch.float32)
    assert state.micro_batch is None


@pytest.mark.parametrize("error", [GPU_IS_FULL, CPU_IS_FULL], ids=["GPU", "CPU"])
def test_out_of_memory_halves_the_micro_batch_and_keeps_the_batch(photos, error):  # noqa: F811
    # kills: out-of-memory-keeps-gradients, out-of-memory-drops-samples
    results = []
    for micro in (1, None):
        recipe = recipe_for(photos, train={"batch_size": 6} | ({"micro_batch": micro} if micro else {}))
        state = TrainState(recipe, torch.device("cpu"))
        if micro is None:
            inner, calls = state.method.losses, []

            def late(batch, draws, inner=inner, calls=calls):
                # The first micro-batch still fits and leaves its gradient behind, the next one does not.
                calls.append(1)
                return (crowded(inner, 1, error=error) if len(calls) > 1 else inner)(batch, draws)

            state.method.losses, state.micro_batch = late, 3
        done = [training_step(state, batch_of(recipe, 6), Accelerator(cpu=True), torch.float32) for _ in range(2)]
        assert state.micro_batch == 1 and state.step == 2
        results.append((done, state.network.state_dict()))
    (one, weights_one), (two, weights_two) = results
    assert one == two
    assert all(torch.equal(weights_one[name], weights_two[name]) for name in weights_one)


def test_out_of_memory_between_two_modules_trains_neither_twice(photos, monkeypatch):  # noqa: F811
    # kills: out-of-memory-trains-again, out-of-memory-counts-twice
    recipe = pix2pix(photos)
    roomy = TrainState(recipe, torch.device("cpu"))
    roomy.micro_batch = 2
    training_step(roomy, batch_of(recipe), Accelerator(cpu=True), torch.float32)
    state, updated = TrainState(recipe, torch.device("cpu")), []
    state.method.losses = crowded(state.method.losses, 2, after=1)
    update = state.update
    monkeypatch.setattr(state, "update", lambda lr, name: (updated.append(name), update(lr, name))[1])
    outcome = training_step(state, batch_of(recipe), Accelerator(cpu=True), torch.float32)
    assert updated == ["discriminator", "network"] == list(outcome.losses) == list(outcome.norms)
    assert state.micro_batch == 2 and state.step == 1
    counts = [name for name, _ in state.network.named_buffers() if name.endswith("num_batches_tracked")]
    assert counts, "no running statistics to count"
    there, wanted = dict(state.network.named_buffers()), dict(roomy.network.named_buffers())
    assert all(torch.equal(there[name], wanted[name]) for name in wanted)


def test_one_image_that_does_not_fit_is_told(photos):  # noqa: F811
    recipe = recipe_for(photos)
    state = TrainState(recipe, torch.device("cpu"))
    state.method.losses = crowded(state.method.losses, 0)
    with pytest.raises(UserError, match=r"one image at a time; set network\.checkpointing=true"):
        training_step(state, batch_of(recipe), Accelerator(cpu=True), torch.float32)
    assert state.step == 0


def test_a_training_says_that_it_went_on_in_smaller_parts(photos, tmp_path, monkeypatch):  # noqa: F811
    from i2i_bridge.methods.bridge import Bridge

    monkeypatch.setattr(Bridge, "losses", lambda self, *a, inner=Bridge.losses: crowded(inner.__get__(self), 2)(*a))
    said = []
    assert train(recipe_for(photos), tmp_path / "run", cpu=True, report=said.append).finished
    assert [line for line in said if "out of memory" in str(line)] == [
        "note: out of memory; from here on in micro-batches of 2, same batch and result"
    ]
