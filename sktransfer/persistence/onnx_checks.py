"""Compare a graph with its estimator before it is written."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import is_classifier
from sklearn.compose import ColumnTransformer
from sklearn.pipeline import FeatureUnion, Pipeline

from .._compat.sklearn import column_places, num_samples
from ..backbones import Backbone, ImagePreprocessing
from ..backbones.text_encoders import TokenizerPreprocessing
from ..backbones.words.word_ids import WordPreprocessing

if TYPE_CHECKING:
    from .onnx_graphs import Graph

N_ROWS = 32  # at least; up to twice as many are taken of X
TOLERANCE = 1e-4  # of probabilities, and of other numbers relative to the largest
MARGIN = 1e-3  # labels are compared where the two highest probabilities differ by more
_WORDS = "a good bad film not very long short story with that one never forgets , . !".split()


def inner_estimator(estimator: Any) -> Any:
    """Return the estimator that a fitted search predicts with; others are returned as they are."""
    return getattr(estimator, "best_estimator_", estimator)


# -- samples -----------------------------------------------------------------------------------


def rows_for_check(estimator: Any, X: Any = None) -> Any:
    """Return at least 32 samples: those of X, filled up with made ones.

    None if X is None and nothing tells what a sample is.
    """
    rng = np.random.default_rng(0)
    n = 0 if X is None else num_samples(X)
    if n >= N_ROWS:
        return X[: 2 * N_ROWS]
    samples = _made_rows(estimator, N_ROWS - n, rng)
    if X is None or n == 0:
        return samples
    if samples is None:
        return _mixed(X, n, rng)
    if hasattr(X, "iloc"):
        import pandas as pd

        rest = pd.DataFrame(samples, columns=X.columns, index=range(n, N_ROWS))
        return pd.concat([X, rest.astype(X.dtypes.to_dict())])
    if isinstance(X, np.ndarray) and isinstance(samples, np.ndarray):
        return np.concatenate([X, samples.astype(X.dtype)])
    return [*X, *samples]


def _mixed(X: Any, n: int, rng: np.random.Generator) -> Any:
    """Fill up arrays whose shape nothing tells, by means of two and some noise."""
    rows = np.asarray(X)
    i, j = rng.integers(n, size=(2, N_ROWS - n))
    weight = rng.random((N_ROWS - n, *[1] * (rows.ndim - 1)))
    mixed = weight * rows[i] + (1 - weight) * rows[j]
    if rows.dtype.kind == "f":
        mixed = mixed + 0.1 * rng.normal(size=mixed.shape) * rows.std()
    return np.concatenate([rows, mixed.astype(rows.dtype)])


def _made_rows(estimator: Any, n: int, rng: np.random.Generator) -> Any:
    """Make samples for a fitted estimator, or None if nothing tells what they are."""
    estimator = inner_estimator(estimator)
    if isinstance(estimator, Pipeline | FeatureUnion):
        parts = getattr(estimator, "steps", None) or estimator.transformer_list
        steps = (step for _, step in parts if step not in ("passthrough", "drop", None))
        return _made_rows(next(steps), n, rng)
    if isinstance(estimator, ColumnTransformer):
        return _made_table(estimator, n, rng)
    backbone = getattr(estimator, "backbone_", None)
    if backbone is None:
        inner = getattr(estimator, "estimator_", None)
        return None if inner is None else _made_rows(inner, n, rng)
    columns = getattr(estimator, "columns_", (0,))
    samples = [_made_samples(backbone, n, rng) for _ in columns]
    if None in samples:
        return None
    if getattr(estimator, "image_shape", None) is not None:
        flat = rng.integers(256, size=(n, *estimator.image_shape), dtype=np.uint8)
        return flat.reshape(n, -1)
    if len(columns) == 1:
        return samples[0]
    if all(isinstance(name, str) for name in columns):
        import pandas as pd

        return pd.DataFrame(dict(zip(columns, samples, strict=True)))
    return _table_of(samples)


def _made_samples(backbone: Backbone, n: int, rng: np.random.Generator) -> list[Any] | None:
    """Make images of several sizes, or texts of words that the network knows."""
    preprocess: Any = backbone.preprocess
    if isinstance(preprocess, ImagePreprocessing):
        n_channels, height, width = preprocess.input_shape
        shapes = [(int(height * s), int(width * s), n_channels) for s in rng.uniform(1, 2, n)]
        return [_made_image(*shape, rng) for shape in shapes]
    words = list(_WORDS)
    if isinstance(preprocess, WordPreprocessing):
        some = rng.integers(preprocess.vectors.n_words, size=100)
        words += [preprocess.vectors.vocabulary.word(int(i) + 1) for i in some]
    elif not isinstance(preprocess, TokenizerPreprocessing):
        return None
    lengths = rng.integers(1, 30, size=n)
    return [" ".join(rng.choice(words, size)) for size in lengths]


def _made_image(height: int, width: int, channels: int, rng: np.random.Generator) -> np.ndarray:
    """Make an image of large patches of color and some noise."""
    coarse = rng.integers(256, size=(4, 4, channels))
    rows, columns = (np.arange(size) * 4 // size for size in (height, width))
    image = coarse[rows][:, columns] + rng.integers(-30, 30, size=(height, width, channels))
    return image.clip(0, 255).astype(np.uint8)


def _made_table(estimator: ColumnTransformer, n: int, rng: np.random.Generator) -> Any:
    """Make a table for a column transformer."""
    columns: list[Any] = [np.zeros(n) for _ in range(estimator.n_features_in_)]
    for name, step, _ in estimator.transformers_:
        places = column_places(estimator, name)
        samples = None if isinstance(step, str) else _made_rows(step, n, rng)
        for i, place in enumerate(places):
            if samples is None:
                columns[place] = _made_numbers(step, i, n, rng)
            elif len(places) == 1:
                columns[place] = list(samples)
            else:
                columns[place] = list(
                    samples.iloc[:, i] if hasattr(samples, "iloc") else samples[:, i]
                )
    names = getattr(estimator, "feature_names_in_", None)
    if names is None:
        return _table_of(columns)
    import pandas as pd

    return pd.DataFrame(dict(zip(names, columns, strict=True)))


def _made_numbers(step: Any, i: int, n: int, rng: np.random.Generator) -> Any:
    """Make values of a column such as a transformer was fitted to."""
    first = step.steps[0][1] if isinstance(step, Pipeline) else step
    if hasattr(first, "categories_"):
        return rng.choice(first.categories_[i], n)
    kept = np.asarray(getattr(first, "statistics_", [0.0] * (i + 1)))
    if kept.dtype.kind in "OUS":
        return np.full(n, kept[i])
    centers = [getattr(first, name, None) for name in ("mean_", "center_", "data_min_")]
    center = next((float(c[i]) for c in centers if c is not None), 0.0)
    scales = [getattr(first, name, None) for name in ("data_range_", "scale_")]
    scale = next((float(s[i]) for s in scales if s is not None), 1.0)
    return center + scale * rng.normal(size=n)


def _table_of(columns: Sequence[Any]) -> np.ndarray:
    table = np.empty((len(columns[0]), len(columns)), object)
    for j, column in enumerate(columns):
        table[:, j] = list(column)
    return table


# -- answers -----------------------------------------------------------------------------------


def check_graph(estimator: Any, graph: Graph, content: bytes, rows: Any) -> str | None:
    """Run a graph in ONNX Runtime and compare its outputs with those of its estimator.

    The graph is as it will be written; its inputs were read from the rows. Returns what differs;
    None if nothing does, or, with a warning, if ONNX Runtime is not installed.
    """
    try:
        import onnxruntime
    except ImportError:
        warnings.warn(
            "The graph was not compared with the estimator, since onnxruntime is not installed: "
            "pip install 'sktransfer[onnx]'",
            stacklevel=3,
        )
        return None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # the comparison says what is wrong
    try:
        session = onnxruntime.InferenceSession(content, options)
        names = [output.name for output in session.get_outputs()]
        declared = {output.name: len(output.shape) for output in session.get_outputs()}
        for n in (num_samples(rows), 1):
            given = {s.name: s.rows[:n] for s in graph.sources if s.rows is not None}
            outputs = dict(zip(names, session.run(names, given), strict=True))
            for name, values in outputs.items():
                if values.ndim != declared[name]:
                    return f"{name} with {values.ndim} axes, of which it declares {declared[name]}"
            some = rows.iloc[:n] if hasattr(rows, "iloc") else rows[:n]
            differs = difference(estimator, outputs, some)
            if differs is not None:
                return differs
    except Exception as error:  # of a graph that the runtime refuses, by type of error
        return f"ONNX Runtime refuses the graph ({type(error).__name__}: {error!s:.200})"
    return None


_METHODS = {
    "features": "transform",
    "prediction": "predict",
    "probabilities": "predict_proba",
    "scores": "decision_function",
}


def difference(estimator: Any, outputs: dict[str, np.ndarray], rows: Any) -> str | None:
    """Compare outputs of a graph with those of an estimator; return the first difference."""
    for name, values in outputs.items():
        if name == "label":
            continue
        if not hasattr(estimator, _METHODS.get(name, "")):
            return f"an output {name!r}, which the estimator does not have"
        expected = np.asarray(getattr(estimator, _METHODS[name])(rows))
        if values.shape != expected.shape:
            return f"{name} of shape {values.shape} instead of {expected.shape}"
        size = 1.0 if name == "probabilities" else max(1.0, float(np.abs(expected).max(initial=0)))
        error = np.abs(values - expected).max(initial=0) / size
        if not error <= TOLERANCE:
            return f"{name} that differ by {error:.2g}"
    if not is_classifier(estimator):
        return None
    if "label" not in outputs:
        return "no labels"
    labels, expected = outputs["label"], np.asarray(estimator.predict(rows))
    if labels.shape != expected.shape:
        return f"labels of shape {labels.shape} instead of {expected.shape}"
    certain = np.ones(labels.shape, bool)
    for name in {"probabilities", "scores"} & set(outputs):
        certain = _are_certain(estimator, outputs[name].astype(float), name, labels.ndim)
    differ = (labels != expected) & certain
    if np.any(differ):
        i = np.argmax(differ.reshape(len(labels), -1).any(axis=1))
        return f"other labels, such as {labels[i]!r} instead of {expected[i]!r}"
    return None


def _are_certain(estimator: Any, scores: np.ndarray, name: str, n_axes: int) -> np.ndarray:
    """Tell for which labels rounding does not decide."""
    default = 0.5 if name == "probabilities" else 0.0
    threshold = getattr(estimator, "best_threshold_", getattr(estimator, "threshold", None))
    if threshold is not None:
        near = np.abs(scores - (default if threshold == "auto" else threshold)) <= MARGIN
        return ~np.asarray(near.any(axis=1) if scores.ndim == 2 else near)
    if scores.ndim == 1 or n_axes == 2:  # two classes by one score, or each label on its own
        return np.abs(scores - default) > MARGIN
    if scores.shape[1] == 1:  # the only label
        return np.ones(len(scores), bool)
    highest = np.sort(scores, axis=1)[:, -2:]
    return highest[:, 1] - highest[:, 0] > MARGIN
