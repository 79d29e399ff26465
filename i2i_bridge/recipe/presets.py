"""Method presets (`--method`): change a recipe's method and keep its data, degradation and evaluation.

A preset replaces [method], [process], [target], [network] or [train] of a recipe's table where the method needs it.
[data], [degradation] and [evaluate] never change, so that runs of two presets differ in the method only.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from i2i_bridge import registry
from i2i_bridge.errors import UserError, did_you_mean
from i2i_bridge.recipe.load import Preset
from i2i_bridge.recipe.schema import STUDENTS

Table = dict[str, Any]
Change = Callable[[Table, frozenset[str]], Table]

BATCH = 4
"""Largest batch of the Pix2pix preset; the paper trains with 1, 4 or 10."""

UNCONDITIONAL: Table = {
    "method": {"name": "unconditional-prior"},
    "process": {"name": "gaussian-prior"},
    "target": {"name": "eps"},
    "proposal": {"name": "posterior"},
    "network": {"condition_channels": 0},
    # Clipped: x_0_hat of a noise-predicting network is (X_t - c eps) / b, with 150 times the error of eps at t = 1.
    "sample": {"clip": True},
}
"""Tables of an unconditional prior of a recipe's clean images; [network] is merged, the other tables are replaced."""

KNOWN_OPERATOR: dict[str, Table] = {
    "unconditional-prior": UNCONDITIONAL,
    **{
        name: UNCONDITIONAL | {"sample": {"clip": True, "guidance": {"name": name}}}
        for name in ("ddnm", "dps", "pigdm")
    },
}
"""Tables of the known-operator methods: one prior serves all of them, since a guidance acts in sampling only."""


STARTS_FROM_X_1 = ("bridge", "ot-ode", "flow", "shortcut")
"""Presets that keep a recipe's [mean]; the others make one network call, or start from noise."""


@dataclass(frozen=True)
class _Preset:
    summary: str
    change: Change


def preset_names() -> list[str]:
    """The names that `--method` accepts: the presets, and registered methods without a preset."""
    return sorted({*_PRESETS, *registry.METHODS.names()})


def preset_summary(name: str) -> str:
    """One line on a preset or registered method."""
    if name in _PRESETS:
        return _PRESETS[name].summary
    return (registry.METHODS.documentation(name) or "(no description)").split("\n")[0]


def method_preset(name: str) -> Preset:
    """The preset of `--method NAME`, for `load_recipe`.

    Raises:
        UserError: There is no such method; the message names the nearest.

    Examples:
        >>> from i2i_bridge import load_recipe, method_preset
        >>> load_recipe("demo/jpeg", preset=method_preset("regression")).method["name"]
        'regression'
    """
    if name not in _PRESETS and name not in registry.METHODS:
        raise UserError(f"--method {name}: no such method{did_you_mean(name, preset_names())}")
    change = _PRESETS[name].change if name in _PRESETS else _registered(name)

    def labelled(table: Table, user_keys: frozenset[str]) -> Table:
        kept = table if name in STARTS_FROM_X_1 else _without(table, "mean")
        kept = kept if name in STUDENTS else _without(kept, "teacher")
        return change(kept, user_keys) | {"method_label": name}

    return labelled


def _registered(name: str) -> Change:
    return lambda table, user_keys: _without(table, "method") | {"method": {"name": name}}


def _without(table: Table, *keys: str) -> Table:
    return {key: value for key, value in table.items() if key not in keys}


def _subtable(table: Table, key: str) -> Table:
    """A copy of an inner table; {} for a value that is no table, which the check of the recipe reports."""
    value = table.get(key)
    return dict(value) if isinstance(value, dict) else {}


def _bridge_with(process: Table, target: Table, clip: bool = False) -> Change:
    """A preset of a bridge with this process and target: same network and training, the default sampler."""

    def change(table: Table, user_keys: frozenset[str]) -> Table:
        current_process, method = _subtable(table, "process"), _subtable(table, "method")
        if current_process.get("name", "i2sb") == process["name"] and method.get("name", "bridge") == "bridge":
            return table
        keeps_rate = all(name in _WITH_RATE for name in (current_process.get("name"), process["name"]))
        kept = {key: value for key, value in _subtable(table, "sample").items() if key not in ("sampler", "grid")}
        return _without(table, "method", "proposal") | {
            "process": process | (_diffusion_rate(current_process) if keeps_rate else {}),
            "target": target,
            "network": _bridge_network(table),
            "sample": kept | ({"clip": True} if clip else {}),
        }

    return change


_WITH_RATE = ("i2sb", "ot-ode")


def _diffusion_rate(process: Table) -> Table:
    """The diffusion rate of an I2SB bridge, also for its noiseless limit: the rate is chosen for the task."""
    beta_max = registry.PROCESSES.options(str(process["name"]))["beta_max"].default
    # For "auto" the defaults: the noiseless limit depends only on beta_max / beta_min, which "auto" keeps.
    process = {key: value for key, value in process.items() if value != "auto"}
    return {"beta_max": beta_max} | {key: process[key] for key in ("beta_max", "beta_min") if key in process}


def _bridge_network(table: Table) -> Table:
    """The network for a bridge: the recipe's, or a U-Net with inputs X_1 and t in place of a Pix2pix generator."""
    network = _subtable(table, "network")
    if network.get("name") != "pix2pix-unet":
        return network
    return {"name": "unet", "condition_channels": network.get("condition_channels") or _channels(table)}


def _channels(table: Table) -> int:
    return int(_subtable(table, "data").get("channels", 3))


def _palette(table: Table, user_keys: frozenset[str]) -> Table:
    # Clipped, as in Palette and DDPM: errors of eps grow by 1/b near t = 1.
    changed = _bridge_with({"name": "gaussian-prior"}, {"name": "eps"}, clip=True)(table, user_keys)
    network = changed["network"]
    return changed | {
        "network": network | {"condition_channels": network.get("condition_channels") or _channels(table)}
    }


def _regression(table: Table, user_keys: frozenset[str]) -> Table:
    return _without(table, "proposal") | {
        "method": {"name": "regression"},
        "network": _without(_bridge_network(table), "condition_dropout"),
        "sample": _without(_subtable(table, "sample"), "guidance", "condition_scale") | {"nfe": 1},
    }


def _pix2pix(table: Table, user_keys: frozenset[str]) -> Table:
    """The paper's settings (appendix 6.2) for the recipe's image size, with the recipe's number of training samples."""
    from i2i_bridge.networks.pix2pix import receptive_field

    data, train, current_network = (_subtable(table, key) for key in ("data", "train", "network"))
    size = data.get("size", 256)
    sides = size if isinstance(size, list | tuple) else [size]
    levels = 8
    while levels > 2 and any(int(side) % 2**levels for side in sides):
        levels -= 1
    # The width of the recipe's network, so that a small recipe stays small; at most 64, as in the paper.
    width = min(64, int(current_network.get("channels", 64)))
    layers = max(n for n in (1, 2, 3) if n == 1 or receptive_field(n) <= min(map(int, sides)))
    network = {"name": "pix2pix-unet", "levels": levels, "channels": width}
    if _own_condition(table):
        network["condition_channels"] = int(current_network.get("condition_channels", 0))

    batch, steps = int(train.get("batch_size", 256)), int(train.get("steps", 1))
    small = batch if "train.batch_size" in user_keys else min(batch, BATCH)
    if "train.steps" not in user_keys:
        steps = -(-steps * batch // small)
    training = _without(train, "micro_batch", "clip_norm", "weight_decay", "warmup_steps", "lr_gamma", "lr_step") | {
        "steps": steps,
        "batch_size": small,
        "lr": 2e-4,
        "betas": [0.5, 0.999],
        "schedule": "linear",
        "decay_from": steps // 2,
        "ema_decay": 0.0,
    }
    return _without(table, "process", "target", "proposal") | {
        "method": {"name": "pix2pix", "discriminator": {"name": "patchgan", "n_layers": layers, "channels": width}},
        "network": network,
        "train": training,
        "sample": {"nfe": 1},
    }


def _shortcut(table: Table, user_keys: frozenset[str]) -> Table:
    """The recipe's bridge, walked by the sampler whose steps the method learns."""
    return table | {
        "method": {"name": "shortcut"},
        "network": _without(_bridge_network(table), "condition_dropout"),
        "sample": _without(_subtable(table, "sample"), "condition_scale") | {"sampler": {"name": "deterministic"}},
    }


def _cdsb(table: Table, user_keys: frozenset[str]) -> Table:
    """The bridge's process, network and training; the first half has half of the steps, four more have the rest."""
    changed = _bridge_with({"name": "i2sb"}, {"name": "i2sb"})(table, user_keys)
    steps = int(_subtable(table, "train").get("steps", 1))
    half = max(steps // 8, 1)
    network = _without(changed["network"], "condition_dropout")
    return _without(changed, "proposal") | {
        "method": {"name": "cdsb", "first_steps": max(steps - 4 * half, 1), "half_steps": half},
        "target": {"name": "i2sb"},
        "network": network | {"condition_channels": network.get("condition_channels") or _channels(table)},
        "train": _without(_subtable(table, "train"), "regression_share", "at_source", "time", "weight", "loss"),
        "sample": _without(_subtable(changed, "sample"), "guidance", "condition_scale"),
    }


def _known_operator(name: str) -> Change:
    """A preset of an unconditional prior of the recipe's clean images, with a guidance towards X_1."""

    def change(table: Table, user_keys: frozenset[str]) -> Table:
        new = KNOWN_OPERATOR[name]
        kept = _without(_subtable(table, "sample"), "sampler", "grid", "guidance", "condition_scale")
        network = _without(_bridge_network(table), "condition_dropout") | new["network"]
        return table | new | {"network": network, "sample": kept | new["sample"]}

    return change


def _own_condition(table: Table) -> bool:
    """Whether the data have a condition beside X_1 (such as the clean grey image of a noisy X_1)."""
    degradation = _subtable(table, "degradation")
    has_condition = bool(degradation) and registry.DEGRADATIONS.build(degradation).condition_channels > 0
    return has_condition or bool(_subtable(table, "data").get("own_condition"))


_PRESETS: dict[str, _Preset] = {
    "bridge": _Preset("I2SB: the diffusion bridge from X_1 to X_0", _bridge_with({"name": "i2sb"}, {"name": "i2sb"})),
    "ot-ode": _Preset("The noiseless limit of the I2SB bridge", _bridge_with({"name": "ot-ode"}, {"name": "i2sb"})),
    "flow": _Preset(
        "Straight path from X_1 to X_0, by its velocity", _bridge_with({"name": "flow"}, {"name": "velocity"})
    ),
    "palette": _Preset("Conditional diffusion from noise; X_1 is only seen by the network", _palette),
    "regression": _Preset("The recipe's own network in one call, by mean squared error", _regression),
    "pix2pix": _Preset("Conditional GAN with an L1 loss, in one call", _pix2pix),
    "shortcut": _Preset("The recipe's bridge, whose one network also learns walks of few calls", _shortcut),
    "cdsb": _Preset("Schroedinger bridge from noise around X_1 by alternating half-bridges, two networks", _cdsb),
    "unconditional-prior": _Preset(
        "Diffusion of clean images that never sees X_1", _known_operator("unconditional-prior")
    ),
    "ddnm": _Preset("Unconditional prior, projected to A x_0_hat = y in each step", _known_operator("ddnm")),
    "dps": _Preset("Unconditional prior, led by the gradient of ||y - A x_0_hat||", _known_operator("dps")),
    "pigdm": _Preset("Unconditional prior, led by A^+ through the network's Jacobian", _known_operator("pigdm")),
}
