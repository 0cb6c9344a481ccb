"""Export a fitted estimator as one ONNX graph, from samples to labels and probabilities."""

from __future__ import annotations

import copy
import json
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.model_selection import FixedThresholdClassifier, TunedThresholdClassifierCV
from sklearn.pipeline import Pipeline

from ..data import check_interrupt, package_versions
from ..data.types import Samples
from ..engines import quiet
from ..features import BackboneEstimator, nothing_stored
from ..selection import TransferClassifier
from .onnx_checks import check_graph, inner_estimator, rows_for_check
from .onnx_graphs import Graph, after, module_graph, torch_graph
from .onnx_steps import (
    LABEL,
    PROBABILITIES,
    after_steps,
    features_graph,
    is_made_of_steps,
    scikit_graph,
)
from .torch_blends import as_linear
from .torch_models import exportable
from .torch_networks import Source

__all__ = ["to_onnx"]

_MOST = 2**31  # bytes of a file
_INT64 = 7  # TensorProto.INT64


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

    - ``image_{height}x{width}``: images of that size as ``(n, height, width, 3)``, uint8, RGB.
      They are resized before, since no operation of ONNX gives the same pixels; the entry has
      ``resize``, ``crop``, ``interpolation`` and ``crop_mode``. An estimator with several input
      sizes has an input for each.
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
    >>> from sktransfer import FineTunedClassifier, to_onnx
    >>> photos = load_sample_images().images
    >>> model = FineTunedClassifier(image_size=64, max_epochs=1).fit(photos, ["house", "flower"])
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
    rows = rows_for_check(estimator, X)
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what the libraries will change
        graph = _convert(estimator, rows)
    _describe(graph)
    content = _serialised(graph.model)
    found = check_graph(estimator, graph, content, rows)
    if found is not None:
        raise ValueError(
            f"to_onnx: the graph does not answer as the estimator does: {found}. The cause is "
            f"{_differing_step(estimator, rows)}. No file was written."
        )
    _write(Path(path).expanduser(), content)


def _differing_step(estimator: Any, rows: Any) -> str:
    """Name the first step whose graph gives other features than the step; else the last one."""
    steps = getattr(estimator, "steps", [("", estimator)])
    for k in range(1, len(steps)):
        with quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            first = Pipeline(steps[:k])
            graph = features_graph(first, rows)
            if check_graph(first, graph, _serialised(graph.model), rows) is not None:
                steps = steps[:k]
                break
    name, step = steps[-1]
    return f"step {name!r}, a {type(step).__name__}" if name else f"the {type(step).__name__}"


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


def _check_installed() -> None:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
        import skl2onnx  # noqa: F401
    except ImportError:
        raise ImportError(
            "to_onnx requires onnx, onnxscript and skl2onnx: pip install 'sktransfer[onnx]'"
        ) from None


def _convert(estimator: Any, X) -> Graph:
    """Return the graph of an estimator."""
    estimator = inner_estimator(estimator)
    if isinstance(estimator, FixedThresholdClassifier | TunedThresholdClassifierCV):
        inner = getattr(estimator, "estimator_", estimator.estimator)
        return _with_threshold(_convert(inner, X), estimator, inner)
    if isinstance(estimator, Pipeline) and hasattr(estimator.steps[-1][1], "predict"):
        *first, (_, last) = estimator.steps
        return _joined(features_graph(Pipeline(first), X), last) if first else _convert(last, X)
    if is_made_of_steps(estimator):
        return features_graph(estimator, X)
    if isinstance(estimator, TransferClassifier):
        inner = estimator.estimator_
        if isinstance(inner, Pipeline | BackboneEstimator):
            return _convert(inner, X)  # a strategy
    made = exportable(estimator, X)
    graph = torch_graph(made, X)
    if made.output != PROBABILITIES:
        return graph
    return Graph(_with_labels(graph.model, made.labels), graph.sources)


# -- after the network -------------------------------------------------------------------------


def _joined(graph: Graph, last: Any) -> Graph:
    """Join features with the classifier or regressor behind them."""
    last = inner_estimator(last)
    if isinstance(last, FixedThresholdClassifier | TunedThresholdClassifierCV):
        inner = getattr(last, "estimator_", last.estimator)
        return _with_threshold(_joined(graph, inner), last, inner)
    if isinstance(last, Pipeline):
        *first, (_, last) = last.steps
        return _joined(after_steps(graph, [step for _, step in first]), last)
    is_linear = isinstance(last, LinearDiscriminantAnalysis)
    own = is_linear or type(last).__module__.startswith("sktransfer")
    scores = as_linear(last) if own else None
    if scores is None:
        return after(graph, scikit_graph([last], graph.width))
    labels = getattr(last, "classes_", None)
    classifies = labels is not None
    module = torch.nn.Sequential(scores, torch.nn.Softmax(1)) if classifies else scores
    output = PROBABILITIES if classifies else "prediction"
    found = after(graph, module_graph(module, graph.width, output))
    return found if labels is None else Graph(_with_labels(found.model, labels), graph.sources)


# -- labels ------------------------------------------------------------------------------------


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
    from onnx import helper, numpy_helper

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
        helper.make_node("Cast", ["threshold_above"], ["threshold_place"], to=_INT64),
        helper.make_node("Gather", ["threshold_labels", "threshold_place"], [LABEL]),
    ]
    model.graph.node.extend(nodes)
    return graph


def _with_labels(model: Any, labels: np.ndarray | None) -> Any:
    """Add the label of the largest probability, or those of more than one half."""
    from onnx import helper, numpy_helper

    several = labels is None
    nodes = _several_labels(helper) if several else _one_label(helper)
    constant = np.array(0.5, np.float32) if labels is None else _plain_labels(labels)
    kept = numpy_helper.from_array(constant, "half" if several else "labels")
    dtype = helper.np_dtype_to_tensor_dtype(np.dtype(np.int64))
    graph, others = model.graph, [*model.graph.output]
    graph.initializer.append(kept)
    graph.node.extend(nodes)
    del graph.output[:]
    about = (dtype, ["n", "labels"]) if several else (kept.data_type, ["n"])
    graph.output.append(helper.make_tensor_value_info(LABEL, *about))
    graph.output.extend(others)
    return model


def _one_label(helper: Any) -> list:
    return [
        helper.make_node("ArgMax", [PROBABILITIES], ["best"], axis=1, keepdims=0),
        helper.make_node("Gather", ["labels", "best"], [LABEL]),
    ]


def _several_labels(helper: Any) -> list:
    to = helper.np_dtype_to_tensor_dtype(np.dtype(np.int64))
    return [
        helper.make_node("Greater", [PROBABILITIES, "half"], ["above"]),
        helper.make_node("Cast", ["above"], [LABEL], to=to),
    ]


def _plain_labels(labels: np.ndarray) -> np.ndarray:
    """Return labels in a type that ONNX has."""
    if labels.dtype.kind in "US" or labels.dtype == object:
        return np.array([str(label) for label in labels], object)
    large = labels.dtype.kind == "u" and labels.max(initial=0) >= 2**63
    kinds = {"i": np.int64, "u": np.uint64 if large else np.int64, "f": np.float64, "b": np.bool_}
    return labels.astype(kinds[labels.dtype.kind])


def _describe(graph: Graph) -> None:
    """Put into the metadata what a user must do with samples."""
    inputs: dict[str, dict] = {}
    found: dict[str, str] = {}
    for source in graph.sources:
        inputs[source.name] = source.about | _attach(source, found)
    found["sktransfer"] = json.dumps({"versions": package_versions(), "inputs": inputs})
    del graph.model.metadata_props[:]
    for key, value in found.items():
        entry = graph.model.metadata_props.add()
        entry.key, entry.value = key, value


def _attach(source: Source, found: dict[str, str]) -> dict[str, str]:
    """Add a long text to the metadata once, and return its name there."""
    if source.attached is None:
        return {}
    kind, text = source.attached
    name, n = kind, 1
    while found.setdefault(name, text) != text:
        name, n = f"{kind}-{n + 1}", n + 1
    return {kind: name}
