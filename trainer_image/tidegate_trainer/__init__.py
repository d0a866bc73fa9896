"""Tidegate's trainer: reads a contract document, trains, exports ONNX and reports.

Importing this package imports neither torch nor pydantic, so that `tidegate_trainer.connect4` stays cheap for the
programs that only need positions (the load generator, the golden set).
"""

__version__ = "0.1.0"

__all__ = ["__version__"]
