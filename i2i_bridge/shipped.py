"""Where the shipped dataset cards and recipes lie: inside an installed wheel, or beside the package in a checkout."""

from pathlib import Path


def shipped_folder(kind: str) -> Path:
    """The folder of shipped TOML files; kind is 'datasets' or 'recipes'."""
    package = Path(__file__).parent
    inside = package / "_shipped" / kind
    return inside if inside.is_dir() else package.parent / kind
