"""The page of `i2i-bridge app`: restore an uploaded picture with trained runs, in a browser."""

from i2i_bridge.lazy import imported_at_first_use

__getattr__ = imported_at_first_use(__name__, {"Limits": "limits", "open_page": "server", "serve": "server"})
