import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import interpreter
import pytest
import torch

from i2i_bridge.cli.catalogue import description
from i2i_bridge.errors import UserError
from i2i_bridge.plugins import load_plugin, loaded_plugins
from i2i_bridge.registry import KINDS, NETWORKS, PROCESSES, SAMPLERS, Registry, register_network


@pytest.fixture
def shapes():
    registry = Registry("shape", "json")

    @registry.register("circle")
    @dataclass(frozen=True)
    class Circle:
        radius: float
        style: Literal["solid", "dashed"] = "solid"
        centre: tuple[int, int] = (0, 0)

        def __post_init__(self):
            if self.radius <= 0:
                raise ValueError("radius must be positive")

    return registry


def test_build_checks_names_keys_types_and_ranges(shapes):
    assert shapes.build({"name": "circle", "radius": 2, "centre": [1, 2]}).centre == (1, 2)
    for table, part in (
        ({"name": "circel", "radius": 1.0}, "did you mean 'circle'"),
        ({"radius": 1.0}, "'name' is missing"),
        ({"name": "circle", "raduis": 1.0}, "unknown key 'raduis'; did you mean 'radius'"),
        ({"name": "circle"}, "radius: the key is missing"),
        ({"name": "circle", "radius": "big"}, "got 'big'"),
        ({"name": "circle", "radius": "2"}, "got '2'"),
        ({"name": "circle", "radius": 1.0, "style": "dotted"}, "'solid' or 'dashed'"),
        ({"name": "circle", "radius": -1.0}, "radius must be positive"),
    ):
        with pytest.raises(UserError) as caught:
            shapes.build(table)
        assert part in str(caught.value) and "\n" not in str(caught.value)


def test_a_name_belongs_to_one_member(shapes):
    with pytest.raises(UserError, match="already registered"):

        @shapes.register("circle")
        class Other:
            pass


def test_a_user_cannot_shadow_a_built_in():
    code = """
from i2i_bridge.registry import register_sampler
from i2i_bridge.errors import UserError
try:
    @register_sampler("ancestral")
    def mine(): pass
except UserError as error:
    print(error)
"""
    done = interpreter.python("-c", code, cwd=Path(__file__).parents[2])
    assert "already registered by i2i_bridge.bridge.samplers.ancestral" in done.stdout


def test_every_kind_has_members():
    assert {"i2sb", "official-grid", "flow"} <= set(PROCESSES.names())
    assert {"ancestral", "2m", "2m-sde", "heun"} <= set(SAMPLERS.names())


DEFAULTS = {
    "processes": {
        "i2sb": {"beta_max": 0.3, "beta_min": 0.1},
        "ot-ode": {"beta_max": 1.0, "beta_min": 0.1},
        "official-grid": {"interval": 1000, "beta_max": 0.3},
        "official-grid-ode": {"interval": 1000, "beta_max": 1.0},
        "brownian": {"sigma_1": 0.5},
        "ve-bridge": {"sigma_max": 1.0},
        "vp-bridge": {"beta_min": 0.1, "beta_d": 2.0},
        "gaussian-prior": {"beta_min": 0.1, "beta_max": 20.0},
        "nadb": {"exponent": 0.4, "scale": 0.75},
    },
    "targets": {"preconditioned": {"var_0": 0.25, "var_1": 0.25, "cov_01": 0.2}, "nadb": {"exponent": 0.4}},
    "proposals": {"mixture": {"forward_ratio": 0.5}},
    "samplers": {"eta": {"eta": 0.5}, "2m-sde": {"eta": 1.0}},
    "guidances": {
        "ddnm": {"noise_std": 2 / 255 / 12**0.5, "error_std": 0.1},
        "back-projection": {"step": 1.0},
        "cddb": {"step": 1.0},
        "dps": {"zeta": 1.0},
        "pigdm": {"weight": "adaptive", "prior_std": 1.0, "noise_std": 2 / 255 / 12**0.5},
    },
    "degradations": {
        "blur": {"kernel": "uniform", "backend": "honest"},
        "colorization": {"noise_std": 0.0},
        "crop-out": {"count": (1, 3), "size": (0.1, 0.4), "fill": "noise"},
        "defocus": {"radius": 4.0},
        "downsample": {"factor": 4, "kernel": "bicubic", "enlarge": "nearest"},
        "edges": {"detector": "canny", "sigma": 1.0, "threshold": 0.05, "width": 1, "ink": "black"},
        "gaussian-blur": {"sigma": 2.0, "ratio": 1.0, "angle": 0.0},
        "halftone": {"period": 6.0, "angle": 45.0, "ink": "black"},
        "haze": {"beta": (0.5, 2.0), "airlight": (0.7, 1.0)},
        "inpaint": {"mask": "center", "area": None, "fill": "noise"},
        "jpeg": {"backend": "ddrm"},
        "low-light": {"exposure": (0.1, 0.5), "gamma": (1.0, 2.5), "noise": 0.02},
        "mixture": {"weights": None},
        "motion-blur": {"length": 15.0, "angle": (0.0, 180.0), "direction": 0.0},
        "posterise": {"levels": 4},
        "quantise": {"bits": 8},
        "rain": {"density": (0.002, 0.01), "length": (9.0, 21.0), "angle": (70.0, 110.0), "brightness": (0.3, 0.7)},
        "resize": {"factor": (0.25, 1.0), "filter": "random"},
        "shot-noise": {"photons": 100.0, "read": 0.0},
        "sketch": {"sigma": 4.0, "darkness": 2.0},
        "sr4x": {"filter": "pool"},
    },
    "networks": {
        "adm256": {"condition_channels": 0, "dropout": 0.0, "time_scale": 1000.0},
        "pix2pix-unet": {"condition_channels": 0, "channels": 64, "levels": 8, "dropout": 0.5},
        "spandrel": {"options": {}},
        "unet": {
            "condition_channels": 0, "channels": 64, "channel_mult": (1, 2, 3, 4), "blocks_per_level": 2,
            "attention_factors": (), "head_channels": 64, "dropout": 0.0, "time_scale": 1000.0,
        },
    },
    "discriminators": {"patchgan": {"n_layers": 3, "channels": 64}},
    "methods": {"pix2pix": {"l1_weight": 100.0, "inference": "train"}},
}  # fmt: skip


@pytest.mark.parametrize("kind", DEFAULTS)
def test_a_default_means_what_it_meant_when_a_run_was_trained(kind):
    """A run folder stores only the options of its recipe; a changed default would change the models of old runs."""
    # kills: default-of-old-runs-changed
    for name, wanted in DEFAULTS[kind].items():
        options = KINDS[kind].options(name)
        assert {key: options[key].default for key in wanted} == wanted, name


def test_plugin_files(tmp_path):
    # kills: plugins-end-the-command
    good = tmp_path / "mine.py"
    good.write_text(
        "from i2i_bridge.registry import register_sampler\n@register_sampler('from-plugin')\ndef sampler(): pass\n"
    )
    load_plugin(good)
    assert "from-plugin" in SAMPLERS.names()
    broken = tmp_path / "broken.py"
    broken.write_text("import does_not_exist\n")
    ending = tmp_path / "ending.py"
    ending.write_text("raise SystemExit(0)\n")
    for file, part in (
        (ending, "ending.py, line 1, in <module>: SystemExit: 0"),
        (tmp_path / "none.py", "not an existing"),
        (tmp_path, "not an existing"),
        (broken, "ModuleNotFoundError"),
    ):
        with pytest.raises(UserError, match=part):
            load_plugin(file)


def test_two_plugin_files_of_one_name_are_two_modules(tmp_path):
    """Each stays importable by its own name, so that objects of its classes can be unpickled; loaded again is a no-op.

    kills: plugins-share-a-name
    """
    files = [tmp_path / folder / "shared_stem.py" for folder in "ab"]
    for file in files:
        file.parent.mkdir()
        file.write_text(
            "from i2i_bridge.registry import register_sampler\n"
            f"@register_sampler('of-{file.parent.name}')\nclass Part: folder = {file.parent.name!r}\n"
        )
    for file in [*files, *files]:
        load_plugin(file)
    parts = [SAMPLERS.get(f"of-{file.parent.name}") for file in files]
    copies = [pickle.loads(pickle.dumps(part())) for part in parts]
    assert [copy.folder for copy in copies] == ["a", "b"] and [type(copy) for copy in copies] == parts
    assert [loaded_plugins().count(str(file.resolve())) for file in files] == [1, 1]


@pytest.mark.parametrize("kind", KINDS)
def test_the_source_says_what_the_import_says(kind):
    # kills: a member that is registered in a way that the source does not show; an option, type or default misread
    registry = KINDS[kind]
    told = registry._source
    for name, source in told.items():
        member = registry.get(name)
        assert member.__module__ == source.module
        assert registry.documentation(name) == source.documentation != ""
        read = source.options()
        if read is None:
            continue
        live = registry.options(name)
        assert [option.name for option in read] == list(live)
        for option, parameter in zip(read, registry.option_texts(name), strict=True):
            assert (option.default, option.keyword_only) == (parameter.default, parameter.keyword_only)
            if "torch" not in parameter.type and "Module" not in parameter.type:  # what the library itself gives
                assert option.type == parameter.type
    registry._load()
    built_in = [name for name in registry.names() if registry.get(name).__module__.startswith("i2i_bridge.")]
    assert built_in == sorted(told)


def test_each_member_is_there_by_its_own_module_alone():
    # kills: a module that works only after another one was imported
    code = """
import os, torch
from i2i_bridge.registry import KINDS
for kind, registry in KINDS.items():
    for name in registry.names():
        if not os.fork():
            try:
                registry.get(name)
            except Exception as error:
                print(kind, name, error, flush=True)
            os._exit(0)
        os.wait()
"""
    done = interpreter.python("-c", code, cwd=Path(__file__).parents[2])
    assert (done.stdout, done.returncode) == ("", 0), done.stderr


def test_a_members_documentation_is_its_own():
    # kills: the docstring of torch's nn.Module shown for a network that has none; a dataclass's signature as one
    @register_network("undocumented")
    class Undocumented(torch.nn.Module):
        pass

    @register_network("undocumented-fields")
    @dataclass
    class Fields:
        width: int = 3

    assert NETWORKS.documentation("undocumented") == NETWORKS.documentation("undocumented-fields") == ""
    assert description("undocumented").splitlines()[:3] == ["networks: undocumented", "", "(no description)"]
    assert "  width: int = 3" in description("undocumented-fields")
