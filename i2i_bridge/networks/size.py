"""Build networks from tables, with a limit on the number of parameters checked before memory is allocated."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from i2i_bridge.errors import UserError
from i2i_bridge.registry import Registry

MAX_PARAMETERS = 4 * 10**9
"""Maximum number of parameters: 16 GB of weights; training needs five times that. No published restoration network has
as many."""


def build_checked(members: Registry, table: Mapping[str, Any], **given: Any) -> nn.Module:
    """Build the network of a table, after counting its parameters on torch's meta device.

    The meta build draws no random numbers, so the initial weights do not depend on the count.

    Raises:
        UserError: As `Registry.build`; more than 4 billion parameters; or sizes that are invalid for a tensor.
    """
    where = f"{members.kind} '{table.get('name')}'"
    try:
        with torch.device("meta"):
            trial: nn.Module = members.build(table, **given)
        count = sum(parameter.numel() for parameter in trial.parameters())
    except (NotImplementedError, RuntimeError, UserError) as error:
        # A plug-in may compute with its weights in the constructor, which fails only on the meta device.
        if "overflow" in str(error).lower():
            raise UserError(f"{where}: sizes that no tensor can have; make it smaller") from error
        count = 0
    check_count(count, where)
    try:
        network: nn.Module = members.build(table, **given)
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, MemoryError) or "alloc" in str(error) or "overflow" in str(error).lower():
            raise UserError(f"{where}: too large for this machine's memory; make it smaller") from error
        raise
    return network


def check_count(parameters: int, where: str) -> None:
    """Refuse a network of more than MAX_PARAMETERS.

    Raises:
        UserError: It has more.
    """
    if parameters > MAX_PARAMETERS:
        raise UserError(
            f"{where}: {parameters:.3g} parameters; at most {MAX_PARAMETERS:.0e} are built, make it smaller"
        )
