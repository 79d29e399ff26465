"""A network's blocks translated by torch.compile."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from i2i_bridge.errors import UserError


def compile_blocks(network: nn.Module, device: torch.device, backend: str | Callable[..., Any] = "inductor") -> None:
    """Have torch.compile translate, at their first call, the blocks that a network is built of.

    These are the modules of the classes in its attribute `repeated`; without one it is translated as a whole. Blocks of
    the same sizes share their code, and torch keeps it on disk for the next run. Names of weights stay as they are.

    Args:
        network: Changed in place.
        device: Where it is.
        backend: Of torch.compile.

    Raises:
        UserError: torch cannot compile for the device (a CPU needs a C++ compiler, say).
    """
    try:
        torch.compile(lambda x: x.sin() + 1, backend=backend)(torch.zeros(8, device=device))
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"train.compile: torch cannot compile for {device} here ({reason}); set it to false") from error
    blocks = [module for module in network.modules() if isinstance(module, getattr(network, "repeated", ()))]
    # The code of a class counts once for all its blocks; beyond the limit the rest would stay as they are, without a
    # word. Each size has code with and without gradients.
    dynamo: Any = torch._dynamo.config
    dynamo.recompile_limit = max(dynamo.recompile_limit, 4 * len(blocks))
    dynamo.accumulated_recompile_limit = max(dynamo.accumulated_recompile_limit, 4 * len(blocks))
    for module in blocks or [network]:
        module.compile(backend=backend)
