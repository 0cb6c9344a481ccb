"""Features of extractors, alone or with others in a union or a column transformer, as graphs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from sklearn.compose import ColumnTransformer
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.utils import _safe_indexing

from ..data import split_columns
from ..features import PretrainedFeatureExtractor
from .onnx_graphs import FEATURES, Graph, after, module_graph, side_by_side, torch_graph
from .onnx_scikit import scikit_graph
from .torch_blends import AffineScores
from .torch_models import export_features
from .torch_networks import Source

__all__ = ["after_steps", "features_graph", "is_made_of_steps"]


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
        places = np.asarray(estimator._transformer_to_input_indices[name], int)
        if (isinstance(step, str) and step == "drop") or not len(places):
            continue
        labels = _labels(estimator, places)
        table = None if X is None else _safe_indexing(X, places, axis=1)
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
