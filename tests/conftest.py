import itertools
import os
from collections.abc import Iterator
from pathlib import Path

# One thread, here and in the commands that tests start: on busy cores, threads of small networks wait for each other
# ten times longer than they compute.
os.environ["OMP_NUM_THREADS"] = "1"

import interpreter
import pytest
import torch
from hypothesis import HealthCheck, settings

from i2i_bridge.registry import KINDS
from i2i_bridge.storage import tensors

# Otherwise a busy machine fails property tests.
settings.register_profile("any-speed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any-speed")

# The first backward pass of a process decides whether autograd starts threads. After a torch.export it does, and then a
# fork of that process, as several tests make, cannot train: whether they pass would depend on the tests before them.
torch.zeros(1, requires_grad=True).sum().backward()


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
def reader(monkeypatch):
    """The reader of untrusted weights is forked: its own import of torch would cost each file a second and a half.

    Tests in test_hostile.py that are about that process start the real one.
    """
    monkeypatch.setattr(tensors, "subprocess", interpreter.Subprocess)


@pytest.fixture(scope="session")
def stores(tmp_path_factory) -> Iterator[Path]:
    """A new folder for each test; tmp_path_factory would look at all earlier ones each time."""
    root = tmp_path_factory.mktemp("stores")
    return (root / str(number) for number in itertools.count())


@pytest.fixture(autouse=True)
def store(stores, monkeypatch) -> Path:
    """The user's card store, empty: what a test registers stays in the test."""
    folder = next(stores)
    folder.mkdir()
    monkeypatch.setenv("I2I_HOME", str(folder))
    monkeypatch.delenv("I2I_DATA_DIR", raising=False)
    return folder
