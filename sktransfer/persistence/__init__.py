"""Files of estimators that anyone may open, networks for other programs, and model cards."""

from .files import inspect_file, load, save
from .onnx import to_onnx

__all__ = ["inspect_file", "load", "save", "to_onnx"]
