"""Paired image-to-image restoration and translation with diffusion bridges."""

__version__ = "0.1.0"
