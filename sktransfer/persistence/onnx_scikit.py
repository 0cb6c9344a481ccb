"""Estimators of scikit-learn as graphs of ONNX, by skl2onnx."""

from __future__ import annotations

import copy
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
    if hasattr(joined, "flatten_transform"):  # is about transform alone
        joined = copy.copy(joined).set_params(flatten_transform=False)
        steps = [joined]
    settings: dict = {"initial_types": [(name, types[kind]([None, width]))], "target_opset": OPSETS}
    try:
        model = _converted(skl2onnx.to_onnx, joined, steps[-1], settings)
    except Exception as error:  # of any type, by estimator
        raise ValueError(
            f"skl2onnx cannot convert {type(steps[-1]).__name__} or a step before it "
            f"({type(error).__name__}: {error!s:.200})."
        ) from error
    names = _output_names(steps[-1])
    del model.graph.output[len(names) :]  # such as probabilities of votes
    _rename_outputs(model, names)
    if hasattr(steps[-1], "predict"):
        _reshape_outputs(model, joined, np.zeros((1, width)))
    return model


def _reshape_outputs(model: Any, estimator: Any, row: np.ndarray) -> None:
    """Give outputs the number of axes that those of the estimator have.

    skl2onnx returns a column of numbers, scores of two classes as two columns, and labels of
    discriminant analysis as a row.
    """
    from onnx import helper, numpy_helper

    graph = model.graph
    methods = {"scores": "decision_function", "prediction": "predict", LABEL: "predict"}
    for output in graph.output:
        shape = output.type.tensor_type.shape
        if output.name not in methods:
            continue
        expected = getattr(estimator, methods[output.name])(row)
        if expected.ndim != 1:  # labels of several classes are declared as a row
            del shape.dim[:]
            shape.dim.add().dim_param = "n"
            shape.dim.add().dim_value = expected.shape[1]
            continue
        inside = f"{output.name}_column"
        for node in graph.node:
            node.output[:] = [inside if name == output.name else name for name in node.output]
            node.input[:] = [inside if name == output.name else name for name in node.input]
        if output.name == "scores" and len(shape.dim) == 2:  # the last column is that of 1
            last = numpy_helper.from_array(np.array(-1), "last")
            graph.initializer.append(last)
            graph.node.append(helper.make_node("Gather", [inside, "last"], ["scores_last"], axis=1))
            inside = "scores_last"
        every = f"{output.name}_every"
        graph.initializer.append(numpy_helper.from_array(np.array([-1]), every))
        graph.node.append(helper.make_node("Reshape", [inside, every], [output.name]))
        del shape.dim[:]
        shape.dim.add().dim_param = "n"


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
        if hasattr(last, "predict_proba"):
            return [LABEL, PROBABILITIES]
        return [LABEL, "scores"] if hasattr(last, "decision_function") else [LABEL]
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
