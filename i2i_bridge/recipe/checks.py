"""The rules of a recipe that concern more than one of its tables."""

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

from i2i_bridge import registry
from i2i_bridge.errors import UserError, located, plural
from i2i_bridge.metrics.names import require_metric
from i2i_bridge.plugins import plugin_errors
from i2i_bridge.recipe.protocol import load_protocol
from i2i_bridge.recipe.schema import STUDENTS, TrainSettings

if TYPE_CHECKING:
    from i2i_bridge.bridge.base import Process
    from i2i_bridge.recipe.recipe import Recipe

WITHOUT_CURRICULUM = ("regression", "pix2pix", "cdsb", "autoencoder")
"""Methods whose losses do not draw t by [train]; a recipe of theirs may have those keys, as it may be a bridge's."""


def check_used(recipe: "Recipe", keys: Collection[str]) -> None:
    """Refuse settings that the user gave and the recipe's method does not read.

    Otherwise a regression with `train.loss=l1` would be taken for one of that loss.

    Args:
        keys: The user's keys, such as "train.loss".

    Raises:
        UserError: A key has no effect.
    """
    name = str(recipe.method["name"])
    for key in ("regression_share", "at_source", "time", "weight", "loss"):
        default = TrainSettings.model_fields[key].default
        if name in WITHOUT_CURRICULUM and f"train.{key}" in keys and getattr(recipe.train, key) != default:
            raise UserError(f"train.{key} is for bridges, and method '{name}' does not read it; leave it out")
    for key, needed in (("perceptual_until", "perceptual"), ("discriminator", "adversarial")):
        given = any(one.startswith(f"method.{key}") for one in keys)
        options = registry.METHODS.options(name)
        if given and needed in options and not recipe.method.get(needed):
            raise UserError(f"method.{key} does nothing without method.{needed}; give its weight too, or leave it out")


def check_recipe(recipe: "Recipe") -> None:
    """Build each part of a recipe but the network's weights, and check that they fit together.

    Otherwise a wrong name, key or combination would show only in training.

    Raises:
        UserError: A name, key or value is wrong, or two settings do not go together; the first that is found.
    """
    _check_names(recipe)
    process, target = recipe.any_process(), recipe.build_target()
    target.check(process)
    registry.METHODS.check(recipe.method, recipe=None, network=None)
    _check_mean(recipe, process)
    _check_teacher(recipe)
    recipe.build_proposal().check(process)
    _try_sampler(recipe, process)
    _check_guidance(recipe, process)
    _check_direction(recipe)
    _check_latent(recipe)
    _check_perceptual(recipe)
    if not recipe.evaluate.protocol.endswith(".toml"):  # a file is read when it is used; it may not exist yet
        load_protocol(recipe.evaluate.protocol)
    if recipe.degradation is not None:
        recipe.build_degradation()
        if recipe.data.align == "crop":
            raise UserError("data.align = 'crop' is for pairs, but [degradation] makes x_1 from x_0; leave it out")
    recipe.build_augmentation()
    _check_network(recipe)


def _check_names(recipe: "Recipe") -> None:
    """Refuse unknown parts and unknown keys of parts, before torch is imported to build them."""
    tables = (
        (registry.PROCESSES, recipe.process),
        (registry.TARGETS, recipe.target),
        (registry.PROPOSALS, recipe.proposal),
        (registry.NETWORKS, recipe.network),
        (registry.DEGRADATIONS, recipe.degradation or {}),
        (registry.GUIDANCES, recipe.sample.guidance or {}),
    )
    for members, table in tables:
        members.check_keys(table)
    registry.TIME_GRIDS.require(recipe.sample.grid)
    for members, table in ((registry.METHODS, recipe.method), (registry.SAMPLERS, recipe.sample.sampler)):
        if isinstance(table.get("name"), str):
            members.require(table["name"])
    for metric in recipe.evaluate.metrics:
        require_metric(metric)
    if recipe.train.keep_best is not None:
        with located("train.keep_best"):
            require_metric(recipe.train.keep_best)
    elif recipe.train.patience is not None:
        raise UserError("train.patience needs train.keep_best, the metric that should improve")


def _check_mean(recipe: "Recipe", process: "Process") -> None:
    if recipe.mean is None:
        return
    if recipe.method["name"] != "bridge":
        raise UserError(f"[mean] is for method 'bridge', not '{recipe.method['name']}'; leave it out")
    if process.starts_from_noise:
        raise UserError(f"[mean]: process '{recipe.process['name']}' starts from noise, not from X_1; leave it out")


def _check_teacher(recipe: "Recipe") -> None:
    name = recipe.method["name"]
    if recipe.teacher is None and name in STUDENTS:
        raise UserError(
            f"method '{name}' learns from a trained bridge: give teacher.run, or use `i2i-bridge distill RUN`"
        )
    if recipe.teacher is not None and name not in STUDENTS:
        raise UserError(f"[teacher] is for the methods {' and '.join(STUDENTS)}, not '{name}'; leave it out")


def _try_sampler(recipe: "Recipe", process: "Process") -> None:
    """Sample two steps of one black pixel, so that wrong options or a wrong process are found before training."""
    import torch

    from i2i_bridge.randomness import generator

    sampler = registry.SAMPLERS.get(str(recipe.sample.sampler.get("name")))
    # Two channels: of one, a sampler that yields the first channel alone would pass.
    pixel, draws = torch.zeros(1, 2, 1, 1), generator(0, "recipe")
    with plugin_errors():
        times = registry.TIME_GRIDS.get(recipe.sample.grid)(process, 2)
        # Otherwise another number of calls is made than was asked for, or the result is a state that is not clean.
        if not isinstance(times, torch.Tensor) or times.shape != (3,) or times[2] != 0 or not (times.diff() < 0).all():
            raise UserError(
                f"grid '{recipe.sample.grid}': for 2 calls it must return a tensor of 3 times that fall to 0, got "
                f"{times.tolist() if isinstance(times, torch.Tensor) else type(times).__name__}"
            )
        states = sampler(process, lambda x_t, t: x_t, pixel, times, draws, **recipe.sampler_options())
        last = list(states)[-1:] if isinstance(states, Iterator) else []
    if not last or not isinstance(last[0], torch.Tensor) or last[0].shape != pixel.shape:
        raise UserError(
            f"sampler '{recipe.sample.sampler['name']}': it must yield tensors of x_1's shape, the result last"
        )


def _check_guidance(recipe: "Recipe", process: "Process") -> None:
    guidance = recipe.build_guidance()
    if guidance is None or recipe.sample.guidance is None:
        return
    from i2i_bridge.guidance.availability import check_known

    check_known(str(recipe.sample.guidance["name"]), recipe.build_degradation())
    guidance.check(process)


def _check_direction(recipe: "Recipe") -> None:
    if recipe.data.direction == "forward":
        return
    if recipe.sample.guidance is not None:
        raise UserError(
            f"sample.guidance leads to agreement with X_1 and is for data.direction = 'forward', not "
            f"'{recipe.data.direction}'; leave it out"
        )
    if recipe.data.direction == "both" and "condition_channels" not in registry.NETWORKS.options(
        str(recipe.network.get("name"))
    ):
        raise UserError(
            f"data.direction = 'both': network '{recipe.network.get('name')}' has no condition_channels, by which it "
            "would be told the direction; take another network, or two runs"
        )


def _check_latent(recipe: "Recipe") -> None:
    if recipe.latent is None:
        return
    registry.AUTOENCODERS.check(recipe.latent.encoder)
    if recipe.method["name"] == "autoencoder":
        raise UserError("[latent] is for methods that restore; method 'autoencoder' makes the encoder")
    for key, given in (
        ("[mean]", recipe.mean),
        ("[teacher]", recipe.teacher),
        ("sample.guidance", recipe.sample.guidance),
    ):
        if given is not None:
            raise UserError(f"[latent] and {key} do not go together; leave one of them out")
    if recipe.method.get("perceptual"):
        raise UserError("method.perceptual compares images and cannot see latents; leave it or [latent] out")
    degradation = recipe.build_degradation()
    conditioned = recipe.data.own_condition or (degradation is not None and degradation.condition_channels > 0)
    if conditioned and recipe.condition_channels != recipe.data.channels:
        raise UserError(
            f"[latent]: the condition has {plural(recipe.condition_channels, 'channel')}, and the encoder takes "
            f"images of {recipe.data.channels}"
        )


def _check_perceptual(recipe: "Recipe") -> None:
    if not recipe.method.get("perceptual") or "perceptual_until" not in registry.METHODS.options(recipe.method["name"]):
        return
    from i2i_bridge.metrics.packaged import STLPIPS

    least, channels = STLPIPS.smallest, recipe.data.channels
    if min(recipe.data.sides) < least:
        raise UserError(
            f"method.perceptual compares images of at least {least} x {least} pixels, but data.size is "
            f"{recipe.data.size}; raise it, or leave method.perceptual out"
        )
    if channels not in (1, 3):
        raise UserError(
            f"method.perceptual compares images of 1 or 3 channels, but data.channels is {channels}; leave it out"
        )


def _check_network(recipe: "Recipe") -> None:
    table = recipe.network_table()
    registry.NETWORKS.check(table)
    for key in ("in_channels", "out_channels"):
        if recipe.latent is not None and key in recipe.network:
            raise UserError(f"network.{key}: with [latent] it is that of the latents; leave it out")
        if recipe.latent is None and table.get(key, recipe.data.channels) != recipe.data.channels:
            raise UserError(f"network.{key} is {table[key]}, but data.channels is {recipe.data.channels}")
    if recipe.data.own_condition and not recipe.condition_channels:
        raise UserError("data.own_condition is set, but network.condition_channels is 0: nothing would see it")
    if recipe.data.direction == "both" and recipe.network.get("condition_dropout"):
        raise UserError(
            "network.condition_dropout: with data.direction = 'both' the condition holds the direction, which the "
            "network cannot do without; leave one of them out"
        )
    if recipe.sample.condition_scale not in (None, 1) and not recipe.network.get("condition_dropout"):
        raise UserError(
            f"sample.condition_scale is {recipe.sample.condition_scale:g}, but network.condition_dropout is 0: the "
            "network has not learned to do without its condition"
        )
