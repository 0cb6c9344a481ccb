"""Steps of pipelines as graphs: extractors, unions, column transformers, and scikit-learn's own."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from sklearn.base import is_classifier
from sklearn.compose import ColumnTransformer
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline

from .._compat.sklearn import column_places, safe_indexing
from ..data import split_columns
from ..features import PretrainedFeatureExtractor
from .onnx_graphs import FEATURES, OPSETS, Graph, after, module_graph, side_by_side, torch_graph
from .torch_blends import AffineScores
from .torch_models import export_features
from .torch_networks import Source

__all__ = [
    "LABEL",
    "PROBABILITIES",
    "after_steps",
    "features_graph",
    "is_made_of_steps",
    "scikit_graph",
]


def is_made_of_steps(estimator: Any) -> bool:
    """Tell whether an estimator transforms samples by an extractor or by several transformers."""
    return isinstance(estimator, tuple(_MAKERS))


def features_graph(estimator: Any, X: Any = None, columns: Sequence[Any] = ()) -> Graph:
    """Make a graph of a fitted transformer, from samples to features.

    Parameters
    ----------
    estimator : transformer
        An extractor, or a ``Pipeline``, ``FeatureUnion`` or ``ColumnTransformer`` of some.
    X : table or sequence of samples, default=None
        Needed for own modules, whose input has a shape that nothing else tells.
    columns : sequence, default=()
        Names of the columns of X, where it is part of a table.

    Returns
    -------
    Graph

    Raises
    ------
    TypeError, ValueError
        If a part has no equivalent.
    """
    for cls, make in _MAKERS.items():
        if isinstance(estimator, cls):
            return make(estimator, X, columns)
    raise TypeError(
        f"to_onnx cannot export {type(estimator).__name__} at this place: samples are taken by a "
        "PretrainedFeatureExtractor, or a Pipeline, FeatureUnion or ColumnTransformer of some."
    )


def _extractor(estimator: PretrainedFeatureExtractor, X, columns: Sequence) -> Graph:
    """Run each column through the network."""
    names = columns or (estimator.columns_ if len(estimator.columns_) > 1 else [None])
    columns_of_x = {} if X is None else split_columns(X, estimator.image_shape)
    given = list(columns_of_x.values()) or [None] * len(names)
    parts = []
    for i, (name, samples) in enumerate(zip(names, given, strict=True)):
        graph = torch_graph(export_features(estimator, samples, i), samples)
        parts.append((str(name), graph if name is None else _of_column(graph, name), None))
    return parts[0][1] if len(parts) == 1 else side_by_side(parts)


def _of_column(graph: Graph, name: Any) -> Graph:
    """Name the inputs of a graph after a column of a table."""
    names = {source.name: f"{name}/{source.name}" for source in graph.sources}
    return graph.named(names, column=str(name))


def _pipeline(estimator: Pipeline, X, columns: Sequence) -> Graph:
    first, *rest = (step for _, step in estimator.steps if step not in ("passthrough", None))
    return after_steps(features_graph(first, X, columns), rest)


def after_steps(graph: Graph, steps: Sequence[Any]) -> Graph:
    """Join features with transformers behind them."""
    waiting: list[Any] = []  # that skl2onnx converts together
    for step in [*steps, None]:
        if waiting and (step is None or isinstance(step, LinearDiscriminantAnalysis)):
            graph, waiting = after(graph, scikit_graph(waiting, graph.width)), []
        if isinstance(step, LinearDiscriminantAnalysis):
            shift = step.transform(np.zeros((1, graph.width)))
            coef = step.transform(np.eye(graph.width)) - shift
            module = AffineScores(coef, shift[0])
            graph = after(graph, module_graph(module, graph.width, FEATURES))
        elif step is not None:
            waiting.append(step)
    return graph


def _union(estimator: FeatureUnion, X, columns: Sequence) -> Graph:
    weights = estimator.transformer_weights or {}
    return side_by_side(
        [
            (name, features_graph(step, X, columns), weights.get(name))
            for name, step in estimator.transformer_list
            if step != "drop"
        ]
    )


def _columns(estimator: ColumnTransformer, X, columns: Sequence) -> Graph:
    weights, parts = estimator.transformer_weights or {}, []
    for name, step, asked in estimator.transformers_:
        places = column_places(estimator, name)
        if (isinstance(step, str) and step == "drop") or not len(places):
            continue
        labels = _labels(estimator, places)
        table = None if X is None else safe_indexing(X, places, axis=1)
        if _has_network(step):
            graph = features_graph(step, table, labels)
        else:
            graph = _table_graph(name, step, labels, asked, table)
        parts.append((name, graph, weights.get(name)))
    return side_by_side(parts)


def _labels(estimator: ColumnTransformer, places: np.ndarray) -> list[str]:
    """Return the names of columns, or their positions where they have none."""
    names = getattr(estimator, "feature_names_in_", None)
    return [str(place if names is None else names[place]) for place in places]


def _has_network(step: Any) -> bool:
    """Tell whether a transformer takes samples of a network."""
    inner: Any = getattr(step, "steps", None) or getattr(step, "transformer_list", ())
    return hasattr(step, "backbone") or any(_has_network(one) for _, one in inner)


def _table_graph(name: str, step: Any, columns: list[str], asked: Any, table: Any) -> Graph:
    """Convert a transformer of scikit-learn, which takes numbers or categories."""
    steps = [one for _, one in step.steps] if isinstance(step, Pipeline) else [step]
    if isinstance(asked, str | int):
        raise ValueError(
            f"to_onnx cannot export the {type(steps[0]).__name__} of column {columns[0]!r}, which "
            "is given its values one by one, as texts are: give the column as a list "
            f"([{columns[0]!r}]), or texts to a PretrainedFeatureExtractor."
        )
    _check_precision(steps[0], columns)
    kind = _kind_of_input(steps[0])
    model = scikit_graph(steps, len(columns), name, kind)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "n"
    about = {"columns": columns, "layout": f"(n, {len(columns)}), {kind}"}
    dtype = {"float32": np.float32, "int64": np.int64}.get(kind, object)
    rows = None if table is None else np.asarray(table).astype(dtype)
    return Graph(model, (Source(name, torch.zeros(2, len(columns)), (0,), about, rows=rows),))


def _kind_of_input(step: Any) -> str:
    """Return what a fitted transformer was given, as far as it keeps it."""
    categories = [np.asarray(values).dtype.kind for values in getattr(step, "categories_", ())]
    kept = [*categories, np.asarray(getattr(step, "statistics_", ())).dtype.kind]
    if any(kind in "OUS" for kind in kept):
        return "texts"
    # As float32, numbers above 2 ** 24 would be other categories.
    return "int64" if categories and set(categories) <= set("iu") else "float32"


_CENTRES = {"mean_": "scale_", "center_": "scale_", "data_min_": "data_range_"}
_LARGEST_CENTRE = 2**24 * 1e-4  # in units of the scale, for an error of 1e-4


def _check_precision(step: Any, columns: list[str]) -> None:
    """Refuse what graphs, which compute with float32, cannot subtract."""
    for centre, scale in _CENTRES.items():
        values, units = getattr(step, centre, None), getattr(step, scale, None)
        if values is None or units is None:
            continue
        large = np.abs(values) > _LARGEST_CENTRE * np.abs(units)
        if large.any():
            raise ValueError(
                f"to_onnx: column {columns[int(np.argmax(large))]!r} varies too little around a "
                "number that is too large for float32, in which graphs compute. Subtract a "
                "constant from it before fit."
            )


_MAKERS: dict[type[Any], Callable[[Any, Any, Sequence[Any]], Graph]] = {
    PretrainedFeatureExtractor: _extractor,
    Pipeline: _pipeline,
    FeatureUnion: _union,
    ColumnTransformer: _columns,
}


# -- estimators of scikit-learn, by skl2onnx ---------------------------------------------------


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
