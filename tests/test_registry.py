import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from i2i_bridge.errors import UserError
from i2i_bridge.registry import PROCESSES, SAMPLERS, Registry, load_plugin


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
        ({"name": "circle"}, "radius: field required"),
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
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert "already registered by i2i_bridge.samplers.ancestral" in done.stdout


def test_every_kind_has_members():
    assert {"i2sb", "official-grid", "flow"} <= set(PROCESSES.names())
    assert {"ancestral", "2m", "2m-sde", "heun"} <= set(SAMPLERS.names())


def test_plugin_files(tmp_path):
    good = tmp_path / "mine.py"
    good.write_text(
        "from i2i_bridge.registry import register_sampler\n@register_sampler('from-plugin')\ndef sampler(): pass\n"
    )
    load_plugin(good)
    assert "from-plugin" in SAMPLERS.names()
    broken = tmp_path / "broken.py"
    broken.write_text("import does_not_exist\n")
    for file, part in (
        (tmp_path / "none.py", "not an existing"),
        (tmp_path, "not an existing"),
        (broken, "ModuleNotFoundError"),
    ):
        with pytest.raises(UserError, match=part):
            load_plugin(file)
