"""Export a fitted estimator as one ONNX graph, from samples to labels and probabilities.

A graph begins with the networks (``onnx_modules.py``), or with transformers of scikit-learn for
columns of numbers. Steps behind it are joined one after another, transformers side by side
(``onnx_graphs.py``). Estimators of scikit-learn are converted by skl2onnx. The graph is compared
with the estimator before a file is written (``onnx_checks.py``).
"""

from __future__ import annotations

import copy
import json
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin, is_classifier
from sklearn.compose import ColumnTransformer
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.model_selection import FixedThresholdClassifier, TunedThresholdClassifierCV
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.utils.validation import check_is_fitted

from .._compat.sklearn import column_places, safe_indexing
from ..backbones.weights import first_line
from ..data import CATEGORY, NUMBER, check_interrupt, package_versions, split_columns
from ..data.types import Samples
from ..engines import quiet
from ..features import (
    BackboneEstimator,
    PretrainedFeatureExtractor,
    nothing_stored,
)
from ..selection import TransferClassifier, column_networks
from .onnx_checks import check_graph, inner_estimator, rows_for_check
from .onnx_graphs import FEATURES, OPSETS, Graph, after, module_graph, side_by_side, torch_graph
from .onnx_modules import AffineScores, Source, as_linear, export_features, exportable

LABEL, PROBABILITIES = "label", "probabilities"
_MOST = 2**31  # bytes of a file
_THRESHOLDS = (FixedThresholdClassifier, TunedThresholdClassifierCV)


@nothing_stored()
def to_onnx(estimator: Any, path: str | os.PathLike[str], *, X: Samples | None = None) -> None:
    """Export a fitted estimator as an ONNX file, which runs without sktransfer and torch.

    The file is one graph: from resized images or ids of tokens, through the scaling of pixels, the
    network, and the head or the classifier of scikit-learn, to labels and probabilities.

    Parameters
    ----------
    estimator : estimator
        A fitted estimator of sktransfer; or a ``Pipeline`` of a
        :class:`PretrainedFeatureExtractor` and estimators that skl2onnx converts, in which a
        ``FeatureUnion`` or ``ColumnTransformer`` may join several; or a search for one of these.
    path : str or Path
        The file, which is replaced.
    X : sequence of samples or table, default=None
        Samples that the graph is compared with; if there are fewer than 32, others are made. One
        sample is needed for networks whose preprocessing is not one of sktransfer, so that
        nothing else tells the shape of their input.

    Raises
    ------
    TypeError, ValueError
        If a part of the estimator has no equivalent in ONNX, such as an estimator that skl2onnx
        does not convert; if the graph does not answer as the estimator does; or if the file would
        have 2 GiB or more.
    ImportError
        If onnx, onnxscript or skl2onnx is not installed.

    Warns
    -----
    UserWarning
        If onnxruntime is not installed, so that the graph cannot be compared.

    Notes
    -----
    **Comparison.** Before a file is written, ONNX Runtime runs the graph on at least 32 samples.
    Names, shapes, probabilities (to 1e-4), other numbers (to 1e-4 of the largest) and labels, where
    the two highest probabilities differ by more than 1e-3, must be those of the estimator.

    **Inputs.** The metadata of the file, under the key ``sktransfer``, have an entry for each:

    - ``image_{height}x{width}``: images of that size as ``(n, height, width, 3)``, uint8, RGB;
      of a network for more channels with that many.
      They are resized before, since no operation of ONNX gives the same pixels; the entry has
      ``resize``, ``crop``, ``interpolation`` and ``crop_mode``. An estimator with several input
      sizes has an input for each. Networks of a blend share an input if they need the same of an
      image; otherwise the name of the network stands before, as in ``mine_image_224x224``.
    - ``ids``: ids of tokens as ``(n, length)``, int64. An id is that of the tokenizer plus one, and
      0 is no token. The tokenizer is in the metadata, too, under the key ``tokenizer``. For word
      vectors an id is the place of a word, plus one, in the list ``words`` of the metadata.
    - ``words``: for blends of texts, the words of each text in lower case, ``(n, most words)``,
      filled up with ``""``.
    - ``input``: numbers, as the network takes them, ``(n, ...)``, float32.

    For columns of a table, the name of the column stands before, as in ``photo/image_224x224``. A
    transformer of numbers or categories has an input of its name, ``(n, n_columns)``.

    **Outputs.** ``label`` and ``probabilities`` (or ``scores``, without ``predict_proba``) of
    classifiers, ``prediction`` of regressors, ``features`` of transformers. For several labels a
    sample, ``label`` has a 0 or 1 for each.

    Examples
    --------
    >>> import os, tempfile
    >>> import onnxruntime
    >>> from sklearn.datasets import load_sample_images
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from sktransfer import PretrainedFeatureExtractor, to_onnx
    >>> photos = load_sample_images().images
    >>> features = PretrainedFeatureExtractor(layer="stem", image_size=64)
    >>> model = make_pipeline(features, LogisticRegression()).fit(photos, ["house", "flower"])
    >>> file = os.path.join(tempfile.mkdtemp(), "model.onnx")
    >>> to_onnx(model, file)
    >>> session = onnxruntime.InferenceSession(file)
    >>> [(source.name, source.shape) for source in session.get_inputs()]
    [('image_64x64', ['n', 64, 64, 3])]
    >>> [output.name for output in session.get_outputs()]
    ['label', 'probabilities']
    """
    _check_installed()
    estimator = inner_estimator(estimator)
    _refuse_table(estimator)
    rows = rows_for_check(estimator, X)
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what the libraries will change
        graph = _convert(estimator, rows)
    _describe(graph)
    content = _serialised(graph.model)
    difference = check_graph(estimator, graph, content, rows)
    if difference is not None:
        raise ValueError(
            f"to_onnx: the graph does not answer as the estimator does: {difference}. The cause is "
            f"{_differing_step(estimator, rows)}. No file was written."
        )
    _write(Path(path).expanduser(), content)


def _refuse_table(estimator: Any) -> None:
    """Raise an error about a blend of a table, with the line of what can be exported."""
    kinds = getattr(estimator, "column_kinds_", None)
    if kinds is None:
        return
    parts = [
        f"(PretrainedFeatureExtractor({backbone.name!r}), [{column!r}])"
        for column, backbone in column_networks(estimator)
    ]
    for kind, step in ((NUMBER, "StandardScaler()"), (CATEGORY, "OneHotEncoder()")):
        if names := [name for name in kinds if kinds[name] == kind]:
            parts.append(f"({step}, {names!r})")
    raise ValueError(
        f"to_onnx exports blends of one column, and this {type(estimator).__name__} reads a table. "
        "Give a linear model of its columns: make_pipeline(make_column_transformer("
        f"{', '.join(parts)}), {'LogisticRegression' if is_classifier(estimator) else 'Ridge'}()), "
        "fitted."
    )


def _differing_step(estimator: Any, rows: Any) -> str:
    """Name the first step whose graph gives other features than the step; else the last one."""
    steps = getattr(estimator, "steps", [("", estimator)])
    for k in range(1, len(steps)):
        with quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            first = Pipeline(steps[:k])
            graph = _features_graph(first, rows)
            if check_graph(first, graph, _serialised(graph.model), rows) is not None:
                steps = steps[:k]
                break
    name, step = steps[-1]
    return f"step {name!r}, a {type(step).__name__}" if name else f"the {type(step).__name__}"


def _check_installed() -> None:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
        import skl2onnx  # noqa: F401
    except ImportError:
        raise ImportError(
            "to_onnx requires onnx, onnxscript and skl2onnx: pip install 'sktransfer[onnx]'"
        ) from None


def _write(path: Path, content: bytes) -> None:
    """Write a file, which replaces an earlier one when it is complete."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_bytes(content)
        check_interrupt()
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _serialised(model: Any) -> bytes:
    size = model.ByteSize()
    if size >= _MOST:
        raise ValueError(f"The graph has {size / 1e9:.1f} GB, and a file of ONNX less than 2 GiB.")
    return model.SerializeToString()


def _describe(graph: Graph) -> None:
    """Put into the metadata what a user must do with samples."""
    inputs: dict[str, dict[str, Any]] = {}
    texts: dict[str, str] = {}  # by name; those that are too long for an entry stand there once
    for source in graph.sources:
        inputs[source.name] = source.about
        if source.attached is not None:
            kind, text = source.attached
            name, n = kind, 1
            while texts.setdefault(name, text) != text:
                name, n = f"{kind}-{n + 1}", n + 1
            inputs[source.name] = source.about | {kind: name}
    texts["sktransfer"] = json.dumps({"versions": package_versions(), "inputs": inputs})
    del graph.model.metadata_props[:]
    for key, value in texts.items():
        entry = graph.model.metadata_props.add()
        entry.key, entry.value = key, value


# -- estimators ----------------------------------------------------------------------------------


def _convert(estimator: Any, X) -> Graph:
    """Return the graph of an estimator."""
    estimator = inner_estimator(estimator)
    if isinstance(estimator, _THRESHOLDS):
        inner = getattr(estimator, "estimator_", estimator.estimator)
        return _with_threshold(_convert(inner, X), estimator, inner)
    if isinstance(estimator, Pipeline) and hasattr(estimator.steps[-1][1], "predict"):
        *first, (_, last) = estimator.steps
        return _joined(_features_graph(Pipeline(first), X), last) if first else _convert(last, X)
    if isinstance(
        estimator, PretrainedFeatureExtractor | Pipeline | FeatureUnion | ColumnTransformer
    ):
        return _features_graph(estimator, X)
    if isinstance(estimator, TransferClassifier):
        inner = estimator.estimator_
        if isinstance(inner, Pipeline | BackboneEstimator):
            return _convert(inner, X)  # a strategy
    export = exportable(estimator, X)
    graph = torch_graph(export, X)
    if export.output != PROBABILITIES:
        return graph
    return Graph(_with_labels(graph.model, export.labels), graph.sources)


def _joined(graph: Graph, last: Any) -> Graph:
    """Join features with the classifier or regressor behind them."""
    last = inner_estimator(last)
    if isinstance(last, _THRESHOLDS):
        inner = getattr(last, "estimator_", last.estimator)
        return _with_threshold(_joined(graph, inner), last, inner)
    if isinstance(last, Pipeline):
        *first, (_, last) = last.steps
        return _joined(_after_steps(graph, [step for _, step in first]), last)
    is_discriminant = isinstance(last, LinearDiscriminantAnalysis)
    own = is_discriminant or type(last).__module__.startswith("sktransfer")
    scores = as_linear(last) if own else None
    if scores is None:
        return after(graph, _scikit_graph([last], graph.width))
    labels = getattr(last, "classes_", None)
    if labels is None:
        return after(graph, module_graph(scores, graph.width, "prediction"))
    module = torch.nn.Sequential(scores, torch.nn.Softmax(1))
    whole = after(graph, module_graph(module, graph.width, PROBABILITIES))
    return Graph(_with_labels(whole.model, labels), graph.sources)


# -- labels --------------------------------------------------------------------------------------


class _ScoresAsGiven(ClassifierMixin, BaseEstimator):
    """A classifier of two classes whose scores are X, to learn how a threshold uses them."""

    def __init__(self, classes: np.ndarray):
        self.classes_ = self.classes = classes

    def fit(self, X, y=None):
        return self

    def decision_function(self, X):
        self.asked_ = "scores"
        return np.asarray(X)[:, 0]


class _ProbabilitiesAsGiven(_ScoresAsGiven):
    def predict_proba(self, X):
        self.asked_ = PROBABILITIES
        return np.asarray(X)


def _with_threshold(graph: Graph, estimator: Any, inner: Any) -> Graph:
    """Replace the labels of a graph by those of a threshold of the scores of one class."""
    from onnx import TensorProto, helper, numpy_helper

    labels = estimator.classes_
    threshold: Any = getattr(estimator, "best_threshold_", getattr(estimator, "threshold", None))
    given = _ProbabilitiesAsGiven if hasattr(inner, "predict_proba") else _ScoresAsGiven
    asked = copy.copy(estimator)
    asked.estimator_ = asked.estimator = given(labels)
    (answer,) = asked.predict(np.zeros((1, 2)))
    score = asked.estimator_.asked_
    outputs = [output.name for output in graph.model.graph.output]
    if score not in outputs:
        raise ValueError(
            f"to_onnx cannot export {type(estimator).__name__} with response_method="
            f"{estimator.response_method!r}, since the graph of {type(inner).__name__} has "
            f"{' and '.join(outputs)} alone."
        )
    if threshold == "auto":
        threshold = 0.5 if score == PROBABILITIES else 0.0
    # A score of 0 of the positive class, which may be the first, is above the threshold or not.
    place = int((answer == labels[1]) == (threshold <= 0))
    model = graph.model
    for node in model.graph.node:
        node.output[:] = [f"{LABEL}_before" if n == LABEL else n for n in node.output]
        node.input[:] = [f"{LABEL}_before" if n == LABEL else n for n in node.input]
    constants = {
        "threshold": np.array(threshold, np.float32),
        "threshold_labels": _plain_labels(labels),
        "threshold_column": np.array(place),
    }
    if score != PROBABILITIES:
        del constants["threshold_column"]
    model.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in constants.items())
    (label,) = (output for output in model.graph.output if output.name == LABEL)
    dtype = constants["threshold_labels"].dtype
    label.type.tensor_type.elem_type = helper.np_dtype_to_tensor_dtype(dtype)
    nodes = []
    if score == PROBABILITIES:
        gathered = [score, "threshold_column"]
        nodes.append(helper.make_node("Gather", gathered, ["threshold_score"], axis=1))
    else:
        nodes.append(helper.make_node("Identity" if place else "Neg", [score], ["threshold_score"]))
    compared = "GreaterOrEqual" if place else "Less"
    nodes += [
        helper.make_node(compared, ["threshold_score", "threshold"], ["threshold_above"]),
        helper.make_node("Cast", ["threshold_above"], ["threshold_place"], to=TensorProto.INT64),
        helper.make_node("Gather", ["threshold_labels", "threshold_place"], [LABEL]),
    ]
    model.graph.node.extend(nodes)
    return graph


def _with_labels(model: Any, labels: np.ndarray | None) -> Any:
    """Add the label of the largest probability, or those of more than one half."""
    from onnx import TensorProto, helper, numpy_helper

    graph, others = model.graph, [*model.graph.output]
    if labels is None:  # each column is one
        half = numpy_helper.from_array(np.array(0.5, np.float32), "half")
        graph.initializer.append(half)
        graph.node.append(helper.make_node("Greater", [PROBABILITIES, "half"], ["above"]))
        graph.node.append(helper.make_node("Cast", ["above"], [LABEL], to=TensorProto.INT64))
        output = helper.make_tensor_value_info(LABEL, TensorProto.INT64, ["n", "labels"])
    else:
        names = numpy_helper.from_array(_plain_labels(labels), "labels")
        graph.initializer.append(names)
        largest = helper.make_node("ArgMax", [PROBABILITIES], ["best"], axis=1, keepdims=0)
        graph.node.append(largest)
        graph.node.append(helper.make_node("Gather", ["labels", "best"], [LABEL]))
        output = helper.make_tensor_value_info(LABEL, names.data_type, ["n"])
    del graph.output[:]
    graph.output.extend([output, *others])
    return model


def _plain_labels(labels: np.ndarray) -> np.ndarray:
    """Return labels in a type that ONNX has."""
    if labels.dtype.kind in "US" or labels.dtype == object:
        return np.array([str(label) for label in labels], object)
    large = labels.dtype.kind == "u" and labels.max(initial=0) >= 2**63
    kinds = {"i": np.int64, "u": np.uint64 if large else np.int64, "f": np.float64, "b": np.bool_}
    return labels.astype(kinds[labels.dtype.kind])


# -- transformers: networks, and what is behind or beside them -----------------------------------


def _features_graph(estimator: Any, X: Any = None, columns: Sequence[Any] = ()) -> Graph:
    """Make a graph of a fitted transformer, from samples to features.

    ``columns`` has the names of the columns of X, where it is part of a table.
    """
    if isinstance(estimator, PretrainedFeatureExtractor):
        return _extractor(estimator, X, columns)
    if isinstance(estimator, Pipeline):
        steps = [step for _, step in estimator.steps if step not in ("passthrough", None)]
        return _after_steps(_features_graph(steps[0], X, columns), steps[1:])
    if isinstance(estimator, FeatureUnion):
        weights = estimator.transformer_weights or {}
        parts = [
            (name, _features_graph(step, X, columns), weights.get(name))
            for name, step in estimator.transformer_list
            if step != "drop"
        ]
        return side_by_side(parts)
    if isinstance(estimator, ColumnTransformer):
        return _columns(estimator, X)
    raise TypeError(
        f"to_onnx cannot export {type(estimator).__name__} at this place: samples are taken by a "
        "PretrainedFeatureExtractor, or a Pipeline, FeatureUnion or ColumnTransformer of some."
    )


def _extractor(estimator: PretrainedFeatureExtractor, X, columns: Sequence) -> Graph:
    """Run each column through the network."""
    check_is_fitted(estimator)
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


def _after_steps(graph: Graph, steps: Sequence[Any]) -> Graph:
    """Join features with transformers behind them."""
    waiting: list[Any] = []  # that skl2onnx converts together
    for step in [*steps, None]:
        if waiting and (step is None or isinstance(step, LinearDiscriminantAnalysis)):
            graph, waiting = after(graph, _scikit_graph(waiting, graph.width)), []
        if isinstance(step, LinearDiscriminantAnalysis):
            shift = step.transform(np.zeros((1, graph.width)))
            coef = step.transform(np.eye(graph.width)) - shift
            module = AffineScores(coef, shift[0])
            graph = after(graph, module_graph(module, graph.width, FEATURES))
        elif step is not None:
            waiting.append(step)
    return graph


def _columns(estimator: ColumnTransformer, X) -> Graph:
    weights, parts = estimator.transformer_weights or {}, []
    for name, step, asked in estimator.transformers_:
        places = column_places(estimator, name)
        if (isinstance(step, str) and step == "drop") or not len(places):
            continue
        labels = _labels(estimator, places)
        table = None if X is None else safe_indexing(X, places, axis=1)
        if _has_network(step):
            graph = _features_graph(step, table, labels)
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
    return hasattr(step, "backbone") or any(_has_network(part) for _, part in inner)


def _table_graph(name: str, step: Any, columns: list[str], asked: Any, table: Any) -> Graph:
    """Convert a transformer of scikit-learn, which takes numbers or categories."""
    steps = [inner for _, inner in step.steps] if isinstance(step, Pipeline) else [step]
    if isinstance(asked, str | int):
        raise ValueError(
            f"to_onnx cannot export the {type(steps[0]).__name__} of column {columns[0]!r}, which "
            "is given its values one by one, as texts are: give the column as a list "
            f"([{columns[0]!r}]), or texts to a PretrainedFeatureExtractor."
        )
    _check_precision(steps[0], columns)
    kind = _kind_of_input(steps[0])
    model = _scikit_graph(steps, len(columns), name, kind)
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


# -- estimators of scikit-learn, by skl2onnx -----------------------------------------------------


def _scikit_graph(
    steps: Sequence[Any], width: int, name: str = "columns", kind: str = "float32"
) -> Any:
    """Convert estimators of scikit-learn that follow each other, with outputs by name."""
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
            f"({type(error).__name__}: {first_line(error)}). Use another estimator, such as "
            "LogisticRegression() or RandomForestClassifier(), or save(model, path)."
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
