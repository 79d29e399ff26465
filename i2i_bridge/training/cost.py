"""The cost of a training, computed from shapes: parameters, memory, FLOPs, bytes of a checkpoint and of an exchange."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from i2i_bridge.bridge.predictor import call_network
from i2i_bridge.errors import UserError
from i2i_bridge.libraries import reason
from i2i_bridge.methods.base import Batch, condition_of, label_of
from i2i_bridge.randomness import generator
from i2i_bridge.recipe.recipe import Recipe
from i2i_bridge.recipe.schema import STUDENTS
from i2i_bridge.training.state import NETWORK, TrainState

META = torch.device("meta")
MAPS = 20
"""Fewest maps of the first level's size that a U-Net keeps for its gradients; those of the recipes keep 40 and more."""


@dataclass(frozen=True)
class Cost:
    """What a training takes. FLOPs count multiplications and additions of convolutions and matrix products."""

    parameters: dict[str, int]
    """Numbers of parameters, by module: the network and its companions (a discriminator)."""
    call: float
    """FLOPs of a network call, for one image: restoring an image takes NFE of them."""
    step: float
    """FLOPs of a training step, for one sample: all losses and their gradients."""
    state: int
    """Bytes of weights, gradients, moments and moving average."""
    maps: dict[torch.dtype, int]
    """Bytes that each image of a micro-batch adds, by dtype of the maps: what the network keeps for its gradients."""
    checkpoint: int
    """Bytes of the tensors of one checkpoint."""
    gradients: int
    """Bytes of the gradients that several processes average in each step."""
    notes: list[str] = field(default_factory=list)
    """A line for each setting whose cost needs real numbers: that it is left out, or the number taken in its place."""

    def sent(self, processes: int) -> float:
        """Bytes that each process sends in a step: 2 (n - 1) / n of the gradients, by a ring of n processes."""
        return 2 * (processes - 1) / processes * self.gradients

    def hours(self, samples: int, steps: int, processes: int, flops: float, bandwidth: float) -> float:
        """Hours of a training whose processes compute and exchange one after the other.

            steps (samples step / (n flops) + sent(n) / bandwidth) / 3600

        Args:
            samples: Samples of a step, of all processes together.
            flops: FLOPs a second that each process reaches.
            bandwidth: Bytes a second between processes.
        """
        return steps * (samples * self.step / (processes * flops) + self.sent(processes) / bandwidth) / 3600


def training_cost(recipe: Recipe) -> Cost:
    """The cost of a recipe's training, without its data, memory or processor time: on torch's meta device.

    Raises:
        UserError: The method learns from another run, or a part of the recipe needs real numbers.
    """
    try:
        return _training_cost(*_on_shapes(recipe))
    except (RuntimeError, ValueError) as error:
        raise UserError(f"recipe {recipe.name}: a part of it does not run on shapes alone ({reason(error)})") from error


def memory_note(recipe: Recipe, processes: int, free: int | None) -> str | None:
    """A line for a training whose step does not fit into memory, else None; computed in float32, as on a CPU.

    Args:
        processes: Processes that share the batch and the memory.
        free: Free bytes; None if unknown.
    """
    settings = recipe.train
    batch = min(settings.batch_size, processes * (settings.micro_batch or settings.batch_size))
    channels = recipe.network.get("channels")
    if type(channels) is not int:  # the option of a user's network may mean something else
        channels = recipe.data.channels
    values = batch * math.prod(recipe.data.sides) * channels
    if free is None or 4 * MAPS * values < free:  # the exact cost takes seconds to compute
        return None
    try:
        cost = training_cost(recipe)
    except UserError:
        return None
    each = max(cost.maps[torch.float32], 1)
    needed = processes * cost.state + batch * each
    if needed < free:
        return None
    fits = (free - processes * cost.state) // (2 * processes * each)  # half of it is for data and the rest
    way = f"train.micro_batch={fits} computes it in parts" if fits >= 1 else "take a smaller network or images"
    return (
        f"warning: a step of {batch} samples at once needs about {needed / 1e9:.1f} GB of memory, and "
        f"{free / 1e9:.1f} GB are free; {way}"
    )


def _on_shapes(recipe: Recipe) -> tuple[Recipe, list[str]]:
    """The recipe without the settings that need real numbers, and a line for each."""
    process, method, notes = recipe.process, recipe.method, []
    if auto := recipe.auto_noise:
        process = {key: value for key, value in process.items() if key != auto}
        number = getattr(recipe.any_process(), auto)
        notes.append(f'process.{auto} = "auto" is measured in training; {number:g} is taken here, the cost is the same')
    if method.get("perceptual", 0) > 0:
        method = method | {"perceptual": 0.0}
        notes.append("method.perceptual is left out: its network's FLOPs and maps come on top")
    return recipe.model_copy(update={"process": process, "method": method}), notes


def _training_cost(recipe: Recipe, notes: list[str]) -> Cost:
    if recipe.method["name"] in STUDENTS or recipe.mean is not None or recipe.latent is not None:
        raise UserError(
            f"recipe {recipe.name}: its cost depends on another run; show the cost of the other run's recipe"
        )
    with META:
        state = TrainState(recipe, META)
    trained = {name: [p for p in module.parameters() if p.requires_grad] for name, module in state.modules.items()}
    # If a method trains its modules by turns, steps differ: take the mean of steps spread over the training.
    places = [(2 * i + 1) / 16 for i in range(8)] if hasattr(state.method, "trained_at") else [0.0]
    # Calls that a share of the samples makes more: counted apart, since a sample without a number makes none of them.
    more = float(getattr(state.method, "more_calls", 0.0))
    with FlopCounterMode(display=False) as steps:
        for place in places:
            number = torch.tensor([int(place * recipe.train.steps) * recipe.train.batch_size])
            batch = _batch(recipe, 1) if more else {**_batch(recipe, 1), "number": number}
            draws = [generator(recipe.train.seed, "cost", 0)]
            for name, loss in state.method.losses(batch, draws):
                loss.backward(inputs=trained[name])  # type: ignore[no-untyped-call]
    with torch.no_grad(), FlopCounterMode(display=False) as call:
        _call(state.network, recipe, 1)
    sizes = {name: sum(p.numel() for p in module.parameters()) for name, module in state.modules.items()}
    gradients = 4 * sum(p.numel() for parameters in trained.values() for p in parameters)
    checkpoint = sum(tensor.nbytes for part in state.parts().values() for tensor in part.values())
    maps = {}
    for dtype in (torch.float32, torch.bfloat16):
        network = state.network.to(dtype)
        maps[dtype] = kept_bytes(network, recipe, 2) - kept_bytes(network, recipe, 1)
    return Cost(
        parameters=sizes,
        call=call.get_total_flops(),
        step=steps.get_total_flops() / len(places) + more * call.get_total_flops(),
        # Weights and both moments of every module, the moving average of the network, gradients of what is trained.
        state=4 * (3 * sum(sizes.values()) + sizes[NETWORK]) + gradients,
        maps=maps,
        checkpoint=checkpoint,
        gradients=gradients,
        notes=notes,
    )


def kept_bytes(network: nn.Module, recipe: Recipe, images: int) -> int:
    """Bytes that autograd keeps of one call of the network for its gradients, without the weights.

    On the meta device the count is that of a GPU with the kernels of `networks.triton`. With network.checkpointing the
    largest block comes on top while it is recomputed.
    """
    weights = {id(parameter) for parameter in network.parameters()}
    seen: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        base = tensor if tensor._base is None else tensor._base
        if id(tensor) not in weights and id(base) not in weights:
            storage = base.untyped_storage()
            seen[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = _call(network, recipe, images)
    total = sum(seen.values())
    del output  # kept until here: the address of a freed storage, a key of `seen`, may be given to another
    return total


def _call(network: nn.Module, recipe: Recipe, images: int) -> Tensor:
    weight = next(network.parameters())
    batch = _batch(recipe, images, weight)
    t = torch.zeros(images, device=weight.device)
    condition, label = condition_of(batch, recipe.condition_channels > 0), label_of(batch, recipe.classes > 0)
    return call_network(network, batch["x_1"], t, condition, label)


def _batch(recipe: Recipe, images: int, like: Tensor | None = None) -> Batch:
    """Images, condition, direction and labels as training gives them to the method, all 0."""
    like = torch.zeros(0, device=META) if like is None else like
    extra = recipe.condition_channels

    def maps(channels: int) -> Tensor:
        return like.new_zeros(images, channels, *recipe.data.sides).to(memory_format=torch.channels_last)

    batch = {"x_0": maps(recipe.data.channels), "x_1": maps(recipe.data.channels), "number": torch.arange(images)}
    if extra:
        batch["condition"] = maps(extra)
    if recipe.data.direction == "both":
        batch["direction"] = maps(1)
    if recipe.classes:
        batch["label"] = torch.zeros(images, dtype=torch.int64, device=like.device)
    return batch
