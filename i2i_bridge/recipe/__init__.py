"""Recipes: one TOML file holds every choice of a task."""

from i2i_bridge.lazy import imported_at_first_use

__getattr__ = imported_at_first_use(__name__, {"Recipe": "recipe", "load_recipe": "load", "parse_recipe": "load"})
