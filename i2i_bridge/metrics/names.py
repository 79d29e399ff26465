"""Metrics by name, with options: `psnr-y:border=4`; read without an import of torch."""

from typing import Any

from i2i_bridge.errors import UserError
from i2i_bridge.registry import METRICS
from i2i_bridge.storage.toml import toml_value


def metric_table(name: str) -> dict[str, Any]:
    """Parse a metric with options, such as `psnr-y:border=4`, into a table: name = "psnr-y", border = 4.

    The options follow a colon, as KEY=VALUE separated by commas.

    Raises:
        UserError: The text has another form, or a key occurs twice.
    """
    base, _, text = name.partition(":")
    table: dict[str, Any] = {"name": base.strip()}
    for part in text.split(",") if text.strip() else ():
        option, equals, value = (word.strip() for word in part.partition("="))
        if not equals or not option or option in table:
            raise UserError(f"metric '{name}': options read NAME:KEY=VALUE, for example psnr-y:border=4")
        table[option] = toml_value(value)
    return table


def require_metric(name: str) -> None:
    """Reject a metric, given as for `metric_table`, that cannot be built; without options nothing is imported.

    Raises:
        UserError: Unknown metric or option, or an invalid value.
    """
    table = metric_table(name)
    METRICS.require(table["name"])
    if len(table) > 1:
        METRICS.build(table)
