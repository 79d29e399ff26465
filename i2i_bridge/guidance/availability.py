"""Availability of known-operator methods for a degradation, with the reason if one is not available."""

import torch

from i2i_bridge.degradations.base import Degradation
from i2i_bridge.errors import UserError
from i2i_bridge.registry import GUIDANCES


def why_not(method: str, degradation: Degradation | None) -> str | None:
    """The reason why a known-operator method of the paper's tables is not available, in one line; None if it is.

    Args:
        method: The name of a guidance, or "ddrm".
        degradation: The recipe's degradation; None for a recipe that learns from pairs.

    Raises:
        UserError: There is no such method.
    """
    if method == "ddrm":
        return (
            "DDRM samples in the basis of A's singular vectors, with a noise level for each singular value; the"
            " operators here offer A, A^T and A^+ only (use 'ddnm')"
        )
    GUIDANCES.get(method)
    if degradation is None:
        return f"'{method}' needs a known operator A; a task learned from pairs has none"
    side = 8 * degradation.multiple
    mask = torch.zeros(1, 1, side, side) if degradation.masked else None
    if degradation.linear(side, side, mask) is None:
        kind = type(degradation).__name__
        return f"'{method}' needs a known linear operator A; the degradation {kind} {degradation.why_not_linear}"
    return None


def check_known(method: str, degradation: Degradation | None) -> None:
    """Check that a guidance is available for a degradation.

    Raises:
        UserError: It is not; the message gives the reason.
    """
    reason = why_not(method, degradation)
    if reason is not None:
        raise UserError(f"guidance {reason}")
