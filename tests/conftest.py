import os
from pathlib import Path

# One thread, here and in the commands that tests start: on busy cores, threads of small networks wait for each other
# ten times longer than they compute.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch
from hypothesis import HealthCheck, settings

from i2i_bridge.registry import KINDS

# Otherwise a busy machine fails property tests.
settings.register_profile("any-speed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any-speed")


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def shared_folder() -> Path:
    """Golden numbers and photos outside the repository; checks that need them skip where it is absent."""
    return Path(os.environ.get("I2I_SHARED", Path(__file__).parents[2] / "shared"))


@pytest.fixture
def golden() -> Path:
    folder = shared_folder() / "golden"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here")
    return folder


@pytest.fixture(autouse=True)
def registries_stay_as_they_are():
    """What a test registers is gone after it."""
    for registry in KINDS.values():
        registry._load()  # a module registers once: what a test imports first would be gone for the next
    before = {registry: dict(registry._members) for registry in KINDS.values()}
    yield
    for registry, members in before.items():
        registry._members = members


@pytest.fixture(autouse=True)
def store(tmp_path_factory, monkeypatch) -> Path:
    """The user's card store, empty: what a test registers stays in the test."""
    folder = tmp_path_factory.mktemp("store")
    monkeypatch.setenv("I2I_HOME", str(folder))
    monkeypatch.delenv("I2I_DATA_DIR", raising=False)
    return folder
