"""Files of estimators that anyone may open, networks for other programs, and model cards."""

from .cards import model_card
from .files import inspect_file, load, save
from .onnx import to_onnx

__all__ = ["inspect_file", "load", "model_card", "save", "to_onnx"]
