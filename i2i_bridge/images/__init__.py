"""Image files, decoded pictures, and their conversion to tensors."""

from i2i_bridge.lazy import imported_at_first_use

__getattr__ = imported_at_first_use(
    __name__, {"read_picture": "files", "to_tensor": "pixels", "write_picture": "files"}
)
