"""Estimators of scikit-learn as graphs of ONNX, by skl2onnx."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.base import is_classifier
from sklearn.pipeline import make_pipeline

from .onnx_graphs import FEATURES, OPSETS

__all__ = ["LABEL", "PROBABILITIES", "scikit_graph"]

PROBABILITIES, LABEL = "probabilities", "label"


def scikit_graph(
    steps: Sequence[Any], width: int, name: str = "columns", kind: str = "float32"
) -> Any:
    """Convert estimators that follow each other, with outputs by name.

    Parameters
    ----------
    steps : sequence of estimator
        Fitted.
    width : int
        Number of columns of their input.
    name : str, default="columns"
        Of the input.
    kind : {"float32", "int64", "texts"}, default="float32"
        Of the input.

    Returns
    -------
    onnx.ModelProto

    Raises
    ------
    ValueError
        If skl2onnx does not convert them.
    """
    import skl2onnx
    from skl2onnx.common.data_types import FloatTensorType, Int64TensorType, StringTensorType

    types = {"float32": FloatTensorType, "int64": Int64TensorType, "texts": StringTensorType}
    joined = steps[0] if len(steps) == 1 else make_pipeline(*steps)
    settings: dict = {"initial_types": [(name, types[kind]([None, width]))], "target_opset": OPSETS}
    try:
        model = _converted(skl2onnx.to_onnx, joined, steps[-1], settings)
    except Exception as error:  # of any type, by estimator
        raise ValueError(
            f"skl2onnx cannot convert {type(steps[-1]).__name__} or a step before it "
            f"({type(error).__name__}: {error!s:.200})."
        ) from error
    _rename_outputs(model, _output_names(steps[-1]))
    if hasattr(steps[-1], "predict") and not is_classifier(steps[-1]):
        _flatten_numbers(model, steps[-1].predict(np.zeros((1, width))).ndim)
    return model


def _flatten_numbers(model: Any, n_axes: int) -> None:
    """Return numbers in the shape of ``predict``; skl2onnx returns a column of them."""
    from onnx import helper, numpy_helper

    output = model.graph.output[0]
    shape = output.type.tensor_type.shape
    if len(shape.dim) == n_axes:
        return
    for node in model.graph.node:
        node.output[:] = ["column" if name == output.name else name for name in node.output]
    model.graph.initializer.append(numpy_helper.from_array(np.array([-1]), "every"))
    model.graph.node.append(helper.make_node("Reshape", ["column", "every"], [output.name]))
    del shape.dim[1:]


def _converted(convert: Any, steps: Any, last: Any, settings: dict) -> Any:
    """Convert with plain arrays of probabilities, where an estimator has the choice."""
    if not is_classifier(last):
        return convert(steps, **settings)
    try:
        return convert(steps, options={id(last): {"zipmap": False}}, **settings)
    except NameError:
        return convert(steps, **settings)


def _output_names(last: Any) -> list[str]:
    if is_classifier(last):
        return [LABEL, PROBABILITIES if hasattr(last, "predict_proba") else "scores"]
    return ["prediction"] if hasattr(last, "predict") else [FEATURES]


def _rename_outputs(model: Any, names: list[str]) -> None:
    """Name the outputs, and nothing else by these names."""
    graph = model.graph
    before = [output.name for output in graph.output]
    mapping = {name: f"{name}_inside" for name in names if name not in before}
    mapping |= dict(zip(before, names, strict=True))
    mapping |= {value.name: value.name for value in graph.input}
    for node in graph.node:
        node.output[:] = [mapping.get(name, name) for name in node.output]
        node.input[:] = [mapping.get(name, name) for name in node.input]
    for output in graph.output:
        output.name = mapping[output.name]
