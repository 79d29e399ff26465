"""Paired image-to-image restoration and translation with diffusion bridges.

    from i2i_bridge import load_run
    load_run("runs/demo").restore("photo.png", nfe=10).save("restored.png")

X_0 is the clean or target image and X_1 the degraded or source image, as in I2SB (Liu et al., ICML 2023).
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from i2i_bridge.bridge.base import Coefficients, Gaussian, Process
    from i2i_bridge.bridge.contract import check_network, check_process, check_sampler
    from i2i_bridge.bridge.samplers import PredictX0, Sampler
    from i2i_bridge.bridge.targets import Target
    from i2i_bridge.data.contract import check_dataset
    from i2i_bridge.degradations.base import Degradation, Degraded
    from i2i_bridge.degradations.contract import check_degradation
    from i2i_bridge.degradations.linear import LinearOperator
    from i2i_bridge.errors import UserError
    from i2i_bridge.evaluation.evaluate import evaluate
    from i2i_bridge.evaluation.tune import tune
    from i2i_bridge.guidance.base import Guidance
    from i2i_bridge.methods.base import Method
    from i2i_bridge.metrics.base import Estimate, Extractor, ItemMetric, Metric, SetMetric
    from i2i_bridge.metrics.contract import check_metric
    from i2i_bridge.plugins import load_plugin
    from i2i_bridge.recipe.load import load_recipe
    from i2i_bridge.recipe.presets import method_preset
    from i2i_bridge.recipe.recipe import Recipe
    from i2i_bridge.registry import (
        register_autoencoder,
        register_dataset,
        register_degradation,
        register_discriminator,
        register_extractor,
        register_guidance,
        register_method,
        register_metric,
        register_network,
        register_process,
        register_proposal,
        register_sampler,
        register_target,
        register_time_grid,
    )
    from i2i_bridge.report.card import push_to_hub, save_pretrained
    from i2i_bridge.report.comparison import compare
    from i2i_bridge.runs.export import export
    from i2i_bridge.runs.load import load_run
    from i2i_bridge.runs.restore import restore_files
    from i2i_bridge.runs.run import Run
    from i2i_bridge.training.trainer import train

__all__ = [
    "Coefficients",
    "Degradation",
    "Degraded",
    "Estimate",
    "Extractor",
    "Gaussian",
    "Guidance",
    "ItemMetric",
    "LinearOperator",
    "Method",
    "Metric",
    "PredictX0",
    "Process",
    "Recipe",
    "Run",
    "Sampler",
    "SetMetric",
    "Target",
    "UserError",
    "__version__",
    "check_dataset",
    "check_degradation",
    "check_metric",
    "check_network",
    "check_process",
    "check_sampler",
    "compare",
    "evaluate",
    "export",
    "load_plugin",
    "load_recipe",
    "load_run",
    "method_preset",
    "push_to_hub",
    "register_autoencoder",
    "register_dataset",
    "register_degradation",
    "register_discriminator",
    "register_extractor",
    "register_guidance",
    "register_method",
    "register_metric",
    "register_network",
    "register_process",
    "register_proposal",
    "register_sampler",
    "register_target",
    "register_time_grid",
    "restore_files",
    "save_pretrained",
    "train",
    "tune",
]
__version__ = "0.1.0"

_HOMES = {
    "Coefficients": "bridge.base",
    "Degradation": "degradations.base",
    "Degraded": "degradations.base",
    "Estimate": "metrics.base",
    "Extractor": "metrics.base",
    "Gaussian": "bridge.base",
    "Guidance": "guidance.base",
    "ItemMetric": "metrics.base",
    "LinearOperator": "degradations.linear",
    "Method": "methods.base",
    "Metric": "metrics.base",
    "PredictX0": "bridge.samplers",
    "Process": "bridge.base",
    "Recipe": "recipe.recipe",
    "Run": "runs.run",
    "Sampler": "bridge.samplers",
    "SetMetric": "metrics.base",
    "Target": "bridge.targets",
    "UserError": "errors",
    "check_dataset": "data.contract",
    "check_degradation": "degradations.contract",
    "check_metric": "metrics.contract",
    "check_network": "bridge.contract",
    "check_process": "bridge.contract",
    "check_sampler": "bridge.contract",
    "compare": "report.comparison",
    "evaluate": "evaluation.evaluate",
    "export": "runs.export",
    "load_plugin": "plugins",
    "load_recipe": "recipe.load",
    "load_run": "runs.load",
    "method_preset": "recipe.presets",
    "push_to_hub": "report.card",
    "restore_files": "runs.restore",
    "save_pretrained": "report.card",
    "train": "training.trainer",
    "tune": "evaluation.tune",
} | {name: "registry" for name in __all__ if name.startswith("register_")}
"""The module of each public name, imported when the name is first used (PEP 562): torch takes a second to import."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'i2i_bridge' has no attribute '{name}'")
    return getattr(importlib.import_module(f"i2i_bridge.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
