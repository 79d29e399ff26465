"""Bounds of a recipe's numbers and texts: a one-line error before anything is allocated."""

import pytest
import torch

from i2i_bridge.data.cards import load_card
from i2i_bridge.degradations.files import build_ops, parse_op
from i2i_bridge.errors import UserError
from i2i_bridge.networks.size import MAX_PARAMETERS, build_checked
from i2i_bridge.recipe.load import load_recipe
from i2i_bridge.recipe.protocol import load_protocol
from i2i_bridge.recipe.schema import (
    DataSettings,
    EvaluateSettings,
    MeanSettings,
    SampleSettings,
    Settings,
    TeacherSettings,
    TrainSettings,
)
from i2i_bridge.registry import DISCRIMINATORS, NETWORKS, register_network

HUGE = (10**19, -(10**30), "1e30", "inf", "-inf", "nan")
TABLES = {
    "data": DataSettings,
    "mean": MeanSettings,
    "teacher": TeacherSettings,
    "train": TrainSettings,
    "sample": SampleSettings,
    "evaluate": EvaluateSettings,
}


def numbers():
    """Every field of every table whose type has a number in it."""
    for table, model in TABLES.items():
        for name, field in model.model_fields.items():
            if any(word in str(field.annotation) + str(field.metadata) for word in ("int", "float", "Ge(", "Gt(")):
                yield f"{table}.{name}", isinstance(field.default, list | tuple) or "tuple" in str(field.annotation)


@pytest.mark.parametrize("setting", [setting for setting, _ in numbers()])
@pytest.mark.parametrize("value", HUGE)
def test_no_numeric_setting_takes_what_nobody_can_mean(setting, value):
    # kills: batch-without-bound, rate-without-bound
    pair = dict(numbers())[setting]
    for text in (f"{value}", f"[{value}, {value}]") if pair else (f"{value}",):
        with pytest.raises(UserError) as refused:
            load_recipe("jpeg-5", [f"{setting}={text}"])
        line = str(refused.value)
        assert setting.partition(".")[2] in line and len(line) < 400 and line.isprintable(), line


def test_the_search_for_numeric_settings_finds_them():
    found = [setting for setting, _ in numbers()]
    assert {"train.batch_size", "train.lr", "train.betas", "data.size", "data.value_range", "evaluate.nfe"} <= set(
        found
    )
    assert len(found) > 25 and all(issubclass(model, Settings) for model in TABLES.values())


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("train.batch_size=10_000_000", "less than or equal to"),
        ("train.workers=1_000_000_000", "less than or equal to"),
        ("train.lr=1e9", "less than or equal to"),
        ("data.size=1_000_000_000", "less than or equal to"),
        ("data.size=[60000, 60000]", "more than 64 million pixels"),
        ("data.validation_size=60000", "more than 64 million pixels"),
        ("data.channels=100_000_000", "less than or equal to"),
        ('data.root="a\\u0000b"', "null"),
        ("data.root=" + "a" * 5000, "4096"),
        ('method_label="\\u0000"', "null"),
        ('train_split="x"', "unknown key"),
        ("process.beta_max=1e300", "finite number of at most 1e"),
        ("process.beta_max=inf", "finite number of at most 1e"),
        ("degradation.quality=" + "9" * 30, "finite number of at most 1e"),
        ("network.time_scale=1e13", "finite number of at most 1e"),
        ('data.source={name="images", root=".", names="a\\u0000"}', "null"),
    ],
)
def test_settings_out_of_bounds(setting, says):
    with pytest.raises(UserError, match=says):
        load_recipe("jpeg-5", [setting]).build_dataset("train")


@pytest.mark.parametrize(
    "op", ["noise:std=1e9", "noise:std=inf", "jpeg:quality=1e30", "low-light:noise=1e30", "noise:std=nan"]
)
def test_options_of_op_out_of_bounds(op):
    with pytest.raises(UserError):
        build_ops([parse_op(op)])


def test_a_composition_of_thousands():
    for name in ("compose", "mixture"):
        with pytest.raises(UserError, match="at most 100"):
            build_ops([{"name": name, "degradations": [{"name": "noise", "std": 0.1}] * 101}])


@pytest.mark.parametrize(
    "table",
    [
        {"name": "unet", "channels": 10**8},
        {"name": "unet", "channels": 10**12},
        {"name": "unet", "channels": 32_768},
        {"name": "unet", "condition_channels": 10**12},
        {"name": "unet", "channel_mult": [1] * 1000},
        {"name": "unet", "channel_mult": [10**6]},
        {"name": "unet", "blocks_per_level": 10**9},
        {"name": "pix2pix-unet", "channels": 10**8},
        {"name": "pix2pix-unet", "levels": 10**9},
        {"name": "pix2pix-unet", "in_channels": 10**10},
    ],
    ids=str,
)
def test_an_absurd_network_is_refused_before_it_is_allocated(table):
    # kills: network-of-any-size
    with pytest.raises(UserError, match=r"make it smaller|at most|outside|levels"):
        build_checked(NETWORKS, table)


def test_an_absurd_discriminator_is_refused():
    with pytest.raises(UserError, match="parameters; at most"):
        build_checked(DISCRIMINATORS, {"name": "patchgan", "channels": 10**5}, in_channels=6)


def test_counting_changes_no_weight():
    """The initial weights are those of a plain build: runs of earlier versions resume on the same bits."""
    table = {"name": "unet", "channels": 8, "channel_mult": [1]}
    torch.manual_seed(3)
    plain = NETWORKS.build(table).state_dict()
    torch.manual_seed(3)
    checked = build_checked(NETWORKS, table)
    assert all(torch.equal(value, plain[name]) for name, value in checked.state_dict().items())
    assert all(value.device.type == "cpu" for value in checked.state_dict().values())
    assert MAX_PARAMETERS > 10**9


def test_a_plug_in_that_computes_while_it_is_built():
    @register_network("computes")
    class Computes(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(3))
            self.total = float(self.weight.detach().sum())

    try:
        assert build_checked(NETWORKS, {"name": "computes"}).total == 3.0
    finally:
        NETWORKS._members.pop("computes")


def test_cards_and_protocols(tmp_path):
    # kills: nan-in-a-card
    file = tmp_path / "a.toml"
    card = 'name = "a"\nsummary = "s"\ndataset = { name = "images" }\n'
    for line in (
        "channels = 100000000",
        "value_range = [0.0, inf]",
        "[statistics]\nx_0 = [nan, 0, 0, 0]\nx_1 = [0, 0, 0, 0]",
    ):
        file.write_text(card + line)
        with pytest.raises(UserError, match=r"a\.toml: (channels|value_range|statistics)"):
            load_card(file)
    for line in ("size = 1000000000", "n = 1e30", "n = 99999999999999999999"):
        file.write_text(f'name = "mine"\nversion = 1\nsummary = "s"\n{line}\n')
        with pytest.raises(UserError, match=r"a\.toml: (size|n)"):
            load_protocol(file)
    file.write_text(f'name = "{"m" * 300}"\nversion = 1\nsummary = "s"\n')
    with pytest.raises(UserError, match=r"a\.toml: name"):
        load_protocol(file)
