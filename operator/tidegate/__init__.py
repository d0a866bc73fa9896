"""Tidegate: takes a model from training to the last user, and back if it must."""

__version__ = "0.1.0"
