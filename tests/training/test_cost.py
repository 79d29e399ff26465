"""The computed cost of a training: closed forms of a small network, and what a real training takes."""

import pytest
import torch
from torch import nn

from i2i_bridge import UserError, registry
from i2i_bridge.recipe.load import load_recipe
from i2i_bridge.recipe.presets import method_preset
from i2i_bridge.registry import register_network
from i2i_bridge.training import trainer
from i2i_bridge.training.cost import Cost, kept_bytes, memory_note, training_cost
from i2i_bridge.training.state import TrainState


class TwoConvolutions(nn.Module):
    """3 -> width -> 3 channels, 3x3, with a SiLU between."""

    def __init__(self, width: int = 8, channels: list[int] | None = None) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x_t, t, condition=None):
        return self.last(nn.functional.silu(self.first(x_t)))


@pytest.fixture(scope="module", autouse=True)
def network():
    register_network("test-two-convolutions")(TwoConvolutions)
    yield
    registry.NETWORKS._members.pop("test-two-convolutions")


SETTINGS = ["network={name='test-two-convolutions',width=8}", "data.size=[16,24]", "train.regression_share=0"]
PIXELS, WIDTH = 16 * 24, 8
LAYER = 2 * 9 * 3 * WIDTH * PIXELS
"""FLOPs of either convolution."""


def recipe(*settings, method=None):
    return load_recipe("demo/jpeg", [*SETTINGS, *settings], None if method is None else method_preset(method))


def test_flops_are_those_of_the_convolutions():
    # kills: cost-step-without-gradients
    cost = training_cost(recipe())
    assert cost.call == 2 * LAYER
    # Forward, gradients of both weights, and the gradient towards the input of the second layer alone.
    assert cost.step == 5 * LAYER


def test_kept_maps_are_the_inputs_of_each_layer():
    # kills: cost-maps-with-weights, cost-maps-of-whole-batch
    maps = 4 * PIXELS * (3 + WIDTH + WIDTH)  # x, the SiLU's input and its output
    assert training_cost(recipe()).maps[torch.float32] == maps
    assert training_cost(recipe()).maps[torch.bfloat16] == maps // 2
    assert kept_bytes(TwoConvolutions(), recipe(), 3) == 3 * maps


@pytest.mark.parametrize("method", [None, "pix2pix"])
def test_state_and_checkpoint_are_those_of_a_real_training(method):
    # kills: cost-state-without-average, cost-frozen-gradients
    settings = [] if method else ["train.freeze=['first.*']"]
    chosen = load_recipe("demo/pairs", [], method_preset(method)) if method else recipe(*settings)
    cost, state = training_cost(chosen), TrainState(chosen, torch.device("cpu"))
    tensors = [p for module in state.modules.values() for p in module.parameters()]
    gradients = [p for p in tensors if p.requires_grad]
    moments = [v for o in state.optimizers.values() for kept in o.state.values() for v in kept.values() if v.ndim]
    counted = [*tensors, *gradients, *moments, *state.ema.parameters()]
    assert cost.state == sum(4 * tensor.numel() for tensor in counted)
    assert cost.gradients == sum(4 * tensor.numel() for tensor in gradients)
    assert cost.checkpoint == sum(tensor.nbytes for part in state.parts().values() for tensor in part.values())


def test_a_step_that_does_not_fit_into_memory_is_said_with_what_fits():
    # kills: memory-without-the-state, memory-of-the-whole-batch, memory-of-one-process, memory-of-a-list
    chosen = recipe("train.batch_size=64")
    cost = training_cost(chosen)
    each = cost.maps[torch.float32]
    needed = cost.state + 64 * each
    assert memory_note(chosen, 1, needed + 1) is None and memory_note(chosen, 1, None) is None
    line = memory_note(chosen, 1, needed - 1)
    assert line is not None and line.startswith("warning: a step of 64 samples at once")
    assert line.endswith(f"train.micro_batch={(needed - 1 - cost.state) // (2 * each)} computes it in parts")
    # Two processes hold the state twice and half of the batch each; micro-batches are counted for each of them.
    assert memory_note(chosen, 2, needed + cost.state - 1) and not memory_note(chosen, 2, needed + cost.state + 1)
    small = recipe("train.batch_size=64", "train.micro_batch=8")
    assert memory_note(small, 1, cost.state + 8 * each + 1) is None
    assert memory_note(small, 1, cost.state + 8 * each - 1) and memory_note(small, 2, cost.state + 8 * each + 1)
    assert memory_note(chosen, 1, cost.state - 1).endswith("take a smaller network or images")
    # An option of a user's network of that name may be no number.
    listed = recipe("network.channels=[8,16]", "train.batch_size=64")
    assert memory_note(listed, 1, needed - 1) == line and memory_note(listed, 1, 10**12) is None


def test_a_training_says_it_before_it_loads_images(tmp_path, monkeypatch):
    # kills: memory-unsaid
    monkeypatch.setattr(trainer, "free_memory", lambda device: 1000)
    said = []
    changes = ["train.steps=1", "train.batch_size=2", "data.source.root=nowhere", "data.source.name=images"]
    with pytest.raises(UserError, match="nowhere"):
        trainer.train(load_recipe("demo/jpeg", changes), tmp_path / "run", cpu=True, report=said.append)
    assert len(said) == 1 and said[0].startswith("warning: a step of 2 samples at once needs about")


def test_hours_of_several_processes():
    # kills: cost-ring-sends-all
    cost = Cost({"network": 1}, call=1.0, step=30.0, state=0, maps={}, checkpoint=0, gradients=1000)
    assert cost.sent(1) == 0
    assert cost.sent(4) == 1500
    # 10 steps of 8 samples: 30 s of one process at 8 FLOPs a second, or 7.5 s of four, each 15 s in sending.
    assert cost.hours(8, 1, 1, 8.0, 100.0) == pytest.approx(30 / 3600)
    assert cost.hours(8, 10, 4, 8.0, 100.0) == pytest.approx(10 * (7.5 + 15) / 3600)


def test_the_papers_network():
    cost = training_cost(load_recipe("restoration/jpeg-10"))
    assert cost.parameters == {"network": 552_807_171}
    assert cost.call == pytest.approx(2_238.8e9, rel=1e-4)
    checkpointed = training_cost(load_recipe("restoration/jpeg-10", ["network.checkpointing=true"]))
    assert checkpointed.maps[torch.float32] < cost.maps[torch.float32] / 3
    assert cost.step + 0.7 * cost.call < checkpointed.step < cost.step + cost.call


def test_conditions_labels_and_directions_are_counted():
    small = ["network.channels=8", "network.channel_mult=[1,2]", "data.size=16"]
    plain = training_cost(load_recipe("demo/jpeg", small)).call
    seen = training_cost(load_recipe("demo/jpeg", [*small, "network.condition_channels=3"])).call
    assert seen - plain == 2 * 9 * 3 * 8 * 256  # three more channels into the first convolution
    assert training_cost(load_recipe("demo/jpeg", [*small, "network.classes=4"])).call > 0
    assert training_cost(load_recipe("demo/pairs", [*small, "data.direction=both"])).call > plain


def test_modules_that_learn_by_turns_are_averaged():
    """CDSB: half of the steps a diffusion's, the others of a chain of 5 calls and 2 states with a call more each."""
    # kills: cost-of-the-first-turn
    small = ["network.channels=8", "network.channel_mult=[1,2]", "data.size=16", "train.steps=803"]
    small += ["method.steps=5", "method.states=2"]
    preset = method_preset("cdsb")
    whole = training_cost(load_recipe("demo/jpeg", small, preset))
    half = training_cost(load_recipe("demo/jpeg", [*small, "method.first_steps=803"], preset))
    assert whole.step == pytest.approx(half.step / 2 + (7 * half.call + 2 * half.step) / 2, rel=1e-6)
    assert whole.parameters["forward"] == whole.parameters["network"]


def test_half_steps_of_shortcuts_are_counted():
    """Of a share of the samples, two calls without gradients."""
    # kills: cost-without-the-half-steps
    small = ["network.channels=8", "network.channel_mult=[1,2]", "data.size=16"]
    plain = training_cost(load_recipe("demo/jpeg", small))
    cost = training_cost(load_recipe("demo/jpeg", [*small, "method.share=0.4"], method_preset("shortcut")))
    assert cost.step == pytest.approx(plain.step + 0.8 * plain.call) and cost.call == plain.call


@pytest.mark.parametrize("method", [None, "flow"])
def test_a_perceptual_loss_is_left_out_and_named(method):
    small = ["network.channels=8", "network.channel_mult=[1,2]", "data.size=32"]
    preset = None if method is None else method_preset(method)
    plain = training_cost(load_recipe("demo/jpeg", small, preset))
    cost = training_cost(load_recipe("demo/jpeg", [*small, "method.perceptual=0.5"], preset))
    assert plain.notes == [] and ["method.perceptual" in note for note in cost.notes] == [True]
    assert cost.step == plain.step and cost.parameters == plain.parameters


@pytest.mark.parametrize("key", ["sigma_1", "beta_max"])
def test_a_noise_that_training_measures_is_a_number_here(key):
    process = [] if key == "sigma_1" else ["process.name=i2sb", "target.name=i2sb"]
    cost = training_cost(recipe(*process, f"process.{key}=auto"))
    (note,) = cost.notes
    assert note.startswith(f'process.{key} = "auto"') and cost.step == 5 * LAYER


def test_an_image_that_is_too_small_for_the_critic_is_refused():
    with pytest.raises(UserError, match="Expected more than 1 value per channel"):
        training_cost(load_recipe("demo/jpeg", ["data.size=16", "method.adversarial=0.1"]))


def test_a_network_that_reads_numbers_is_refused():
    class Reads(TwoConvolutions):
        def forward(self, x_t, t, condition=None):
            return super().forward(x_t, t) * float(t.sum())

    register_network("test-reads-numbers")(Reads)
    try:
        with pytest.raises(UserError, match="meta tensors"):
            training_cost(load_recipe("demo/jpeg", ["network={name='test-reads-numbers'}"]))
    finally:
        registry.NETWORKS._members.pop("test-reads-numbers")
