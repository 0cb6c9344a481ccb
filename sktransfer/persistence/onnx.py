"""Export a fitted estimator as one ONNX graph, from samples to labels and probabilities."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.pipeline import Pipeline

from ..data import check_interrupt, package_versions
from ..data.types import Samples
from ..engines import export, onnx_model
from ..engines.quiet import quiet
from ..features import BackboneEstimator
from .onnx_graphs import OPSETS, Graph, after, torch_graph
from .onnx_scikit import LABEL, PROBABILITIES, scikit_graph
from .onnx_steps import features_graph, is_made_of_steps
from .torch_blends import as_linear
from .torch_models import exportable
from .torch_networks import Source

__all__ = ["to_onnx"]

_MOST = 2**31  # bytes of a file


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
        One sample is enough. Needed for networks whose preprocessing is not one of sktransfer, so
        that nothing else tells the shape of their input.

    Raises
    ------
    TypeError, ValueError
        If a part of the estimator has no equivalent in ONNX, such as an estimator that skl2onnx
        does not convert, or the file would have 2 GiB or more.
    ImportError
        If onnx, onnxscript or skl2onnx is not installed.

    Notes
    -----
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
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what the libraries will change
        graph = _convert(getattr(estimator, "best_estimator_", estimator), X)
    _describe(graph)
    _write(Path(path).expanduser(), _serialised(graph.model))


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
    if isinstance(estimator, Pipeline) and hasattr(estimator.steps[-1][1], "predict"):
        *first, (_, last) = estimator.steps
        return _joined(features_graph(Pipeline(first), X), last) if first else _convert(last, X)
    if is_made_of_steps(estimator):
        return features_graph(estimator, X)
    inner = getattr(estimator, "estimator_", None)
    if isinstance(inner, Pipeline | BackboneEstimator):
        return _convert(inner, X)  # the strategy of a TransferClassifier
    made = exportable(estimator, X)
    graph = torch_graph(made)
    if made.output != PROBABILITIES:
        return graph
    return Graph(_with_labels(graph.model, made.labels), graph.sources)


# -- after the network -------------------------------------------------------------------------


def _joined(graph: Graph, last: Any) -> Graph:
    """Join features with the classifier or regressor behind them."""
    scores = as_linear(last) if type(last).__module__.startswith("sktransfer") else None
    if scores is None:
        return after(graph, scikit_graph([last], graph.width))
    labels = getattr(last, "classes_", None)
    found = after(graph, _linear(scores, labels is not None, graph.width))
    return found if labels is None else Graph(_with_labels(found.model, labels), graph.sources)


def _linear(scores: torch.nn.Module, classifies: bool, width: int) -> Any:
    """Convert a linear model of this package."""
    module = torch.nn.Sequential(scores, torch.nn.Softmax(1)) if classifies else scores
    program = export(_AsFloat(module), (torch.zeros(2, width),), [(0,)])
    outputs = [PROBABILITIES if classifies else "prediction"]
    settings = {"input_names": ["columns"], "output_names": outputs}
    return onnx_model(program, opset_version=OPSETS[""], **settings)


class _AsFloat(torch.nn.Module):
    """Return numbers as float32."""

    def __init__(self, inner: torch.nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x).float()


# -- labels ------------------------------------------------------------------------------------


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
    kinds = {"i": np.int64, "u": np.int64, "f": np.float64, "b": np.bool_}
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
