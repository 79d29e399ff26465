"""Networks built from tables, refused by their number of parameters before any memory is taken."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from i2i_bridge.errors import UserError
from i2i_bridge.registry import Registry

MAX_PARAMETERS = 4 * 10**9
"""16 GB of weights alone; training holds five times that. No published restoration network has as many."""


def build_checked(members: Registry, table: Mapping[str, Any], **given: Any) -> nn.Module:
    """The network that a table means; built without memory (on torch's meta device) and counted first.

    The global generator is read by the second build only, so the initial weights are those of a build without a count.

    Raises:
        UserError: As `Registry.build`, more than 4 billion parameters, or sizes that no tensor can have.
    """
    where = f"{members.kind} '{table.get('name')}'"
    try:
        with torch.device("meta"):
            trial: nn.Module = members.build(table, **given)
        count = sum(parameter.numel() for parameter in trial.parameters())
    except (NotImplementedError, RuntimeError, UserError) as error:
        # A plug-in may compute with its weights while it is built, which the meta device cannot. The build tells.
        if "overflow" in str(error).lower():
            raise UserError(f"{where}: sizes that no tensor can have; make it smaller") from error
        count = 0
    if count > MAX_PARAMETERS:
        raise UserError(f"{where}: {count:.3g} parameters; at most {MAX_PARAMETERS:.0e} are built, make it smaller")
    try:
        network: nn.Module = members.build(table, **given)
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, MemoryError) or "alloc" in str(error) or "overflow" in str(error).lower():
            raise UserError(f"{where}: too large for this machine's memory; make it smaller") from error
        raise
    return network
