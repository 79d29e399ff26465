"""The command `i2i-bridge`."""

from i2i_bridge.lazy import imported_at_first_use

__getattr__ = imported_at_first_use(__name__, {"main": "command"})
