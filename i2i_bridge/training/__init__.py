"""Training: the one optimisation loop, its state, checkpoints and logs."""

from i2i_bridge.lazy import imported_at_first_use

__getattr__ = imported_at_first_use(__name__, {"train": "trainer"})
