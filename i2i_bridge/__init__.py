"""Paired image-to-image restoration and translation with diffusion bridges.

    from i2i_bridge import load_run
    load_run("runs/demo").restore("photo.png", nfe=10).save("restored.png")

X_0 is the clean or target image and X_1 the degraded or source image, as in I2SB (Liu et al., ICML 2023).
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from i2i_bridge.bridge.contract import check_network, check_process, check_sampler
    from i2i_bridge.degradations.base import Degradation, Degraded
    from i2i_bridge.degradations.contract import check_degradation
    from i2i_bridge.errors import UserError
    from i2i_bridge.metrics.base import Metric
    from i2i_bridge.metrics.contract import check_metric
    from i2i_bridge.registry import (
        register_dataset,
        register_degradation,
        register_extractor,
        register_guidance,
        register_metric,
        register_network,
        register_process,
        register_sampler,
        register_target,
        register_time_grid,
    )
    from i2i_bridge.runs.run import load_run

__all__ = [
    "Degradation",
    "Degraded",
    "Metric",
    "UserError",
    "__version__",
    "check_degradation",
    "check_metric",
    "check_network",
    "check_process",
    "check_sampler",
    "load_run",
    "register_dataset",
    "register_degradation",
    "register_extractor",
    "register_guidance",
    "register_metric",
    "register_network",
    "register_process",
    "register_sampler",
    "register_target",
    "register_time_grid",
]
__version__ = "0.1.0"

_HOMES = {
    "Degradation": "degradations.base",
    "Degraded": "degradations.base",
    "Metric": "metrics.base",
    "UserError": "errors",
    "check_degradation": "degradations.contract",
    "check_metric": "metrics.contract",
    "check_network": "bridge.contract",
    "check_process": "bridge.contract",
    "check_sampler": "bridge.contract",
    "load_run": "runs.run",
} | {name: "registry" for name in __all__ if name.startswith("register_")}
"""The module of each public name, imported when the name is first used (PEP 562): torch takes a second."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'i2i_bridge' has no attribute '{name}'")
    return getattr(importlib.import_module(f"i2i_bridge.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
