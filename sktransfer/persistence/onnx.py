"""Export a fitted estimator as one ONNX graph, from samples to labels and probabilities."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.base import is_classifier
from sklearn.pipeline import Pipeline, make_pipeline

from ..data import package_versions
from ..data.types import Samples
from ..engines import export, onnx_model
from ..engines.quiet import quiet
from .onnx_counts import counts_model, counts_source
from .torch_blends import as_linear
from .torch_models import exportable
from .torch_networks import Exportable, Source

__all__ = ["to_onnx"]

_OPSETS = {"": 18, "ai.onnx.ml": 3}
_FEATURES, _PROBABILITIES, _LABEL = "features", "probabilities", "label"


def to_onnx(estimator: Any, path: str | os.PathLike[str], *, X: Samples | None = None) -> None:
    """Export a fitted estimator as an ONNX file, which runs without sktransfer and torch.

    The file is one graph: from resized images or ids of tokens, through the scaling of pixels, the
    network, and the head or the classifier of scikit-learn, to labels and probabilities.

    Parameters
    ----------
    estimator : estimator
        A fitted estimator of sktransfer, or a ``Pipeline`` of a
        :class:`PretrainedFeatureExtractor` and estimators that skl2onnx converts.
    path : str or Path
        The file, which is replaced.
    X : sequence of samples, default=None
        One sample is enough. Needed for networks whose preprocessing is not one of sktransfer, so
        that nothing else tells the shape of their input.

    Raises
    ------
    TypeError, ValueError
        If a part of the estimator has no equivalent in ONNX, such as word vectors or an estimator
        that skl2onnx does not convert.
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
      0 is no token. The tokenizer is in the metadata, too, under the key ``tokenizer``.
    - ``words``: for blends of texts, the words of each text in lower case, ``(n, most words)``,
      filled up with ``""``.
    - ``input``: numbers, as the network takes them, ``(n, ...)``, float32.

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
        model, made = _convert(estimator, X)
    _describe(model, made)
    path = Path(path).expanduser()
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(model.SerializeToString())
    os.replace(temporary, path)


def _check_installed() -> None:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
        import skl2onnx  # noqa: F401
    except ImportError:
        raise ImportError(
            "to_onnx requires onnx, onnxscript and skl2onnx: pip install 'sktransfer[onnx]'"
        ) from None


def _convert(estimator: Any, X) -> tuple[Any, Exportable]:
    """Return the graph of an estimator, and what it was made from."""
    if not isinstance(estimator, Pipeline):
        inner = getattr(estimator, "estimator_", None)
        if isinstance(inner, Pipeline) or hasattr(inner, "to_backbone"):
            return _convert(inner, X)  # the strategy of a TransferClassifier
        made = exportable(estimator, X)
        return _finished(_torch_graph(made), made), made
    first, rest = estimator.steps[0][1], [step for _, step in estimator.steps[1:]]
    made = exportable(first, X)
    if not rest:
        return _finished(_torch_graph(made), made), made
    return _joined(_torch_graph(made), rest), made


def _torch_graph(made: Exportable) -> Any:
    """Convert a module, with its inputs and its output by name."""
    sources = made.sources
    if made.counts is not None:
        sources = (*sources, counts_source(made.counts))
    example = tuple(source.example for source in sources)
    program = export(made.module.eval(), example, [source.any_size for source in sources])
    names = [source.name for source in sources]
    model = onnx_model(
        program, input_names=names, output_names=[made.output], opset_version=_OPSETS[""]
    )
    _name_sizes(model, sources)
    return model if made.counts is None else _merge(counts_model(made.counts), model, "counts")


def _name_sizes(model: Any, sources: tuple[Source, ...]) -> None:
    """Name the axes of any size."""
    for value, source in zip(model.graph.input, sources, strict=True):
        for axis, name in zip(source.any_size, ("n", f"length_{source.name}"), strict=False):
            value.type.tensor_type.shape.dim[axis].dim_param = name
    for value in model.graph.output:
        value.type.tensor_type.shape.dim[0].dim_param = "n"
    del model.graph.value_info[:]  # which name these axes otherwise


def _merge(first: Any, second: Any, name: str) -> Any:
    """Join two graphs, of which the second takes an output of the first."""
    import onnx
    from onnx import compose

    second = compose.add_prefix(second, "after/", rename_inputs=False, rename_outputs=False)
    version = min(first.ir_version, second.ir_version)
    first.ir_version = second.ir_version = version
    _same_opsets(first, second)
    merged = compose.merge_models(first, second, io_map=[(name, name)])
    onnx.checker.check_model(merged)
    return merged


def _same_opsets(*models: Any) -> None:
    """Let models declare the same versions of operations, which merging requires."""
    from onnx import helper

    for model in models:
        found = {opset.domain for opset in model.opset_import}
        del model.opset_import[:]
        model.opset_import.extend(helper.make_opsetid(d, v) for d, v in _OPSETS.items())
        assert found <= {*_OPSETS, "pkg.onnxscript.torch_lib.common"}, found


# -- after the network -------------------------------------------------------------------------


def _joined(network: Any, rest: list) -> Any:
    """Join a network with the steps of scikit-learn behind it."""
    n_features = network.graph.output[0].type.tensor_type.shape.dim[1].dim_value
    scores = as_linear(rest[-1]) if type(rest[-1]).__module__.startswith("sktransfer") else None
    if scores is not None and len(rest) == 1:
        return _linear(network, scores, rest[-1], n_features)
    return _merge(network, _scikit_graph(rest, n_features), _FEATURES)


def _linear(network: Any, scores: torch.nn.Module, model: Any, n_features: int) -> Any:
    """Join a network with a linear model of this package."""
    labels = getattr(model, "classes_", None)
    output = "prediction" if labels is None else _PROBABILITIES
    module = scores if labels is None else torch.nn.Sequential(scores, torch.nn.Softmax(1))
    program = export(_AsFloat(module), (torch.zeros(2, n_features),), [(0,)])
    settings = {"input_names": [_FEATURES], "output_names": [output]}
    after = onnx_model(program, opset_version=_OPSETS[""], **settings)
    merged = _merge(network, after, _FEATURES)
    return merged if labels is None else _with_labels(merged, labels)


class _AsFloat(torch.nn.Module):
    """Return numbers as float32."""

    def __init__(self, inner: torch.nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x).float()


def _scikit_graph(rest: list, n_features: int) -> Any:
    """Convert estimators of scikit-learn, with outputs by name."""
    import skl2onnx
    from skl2onnx.common.data_types import FloatTensorType

    steps = rest[0] if len(rest) == 1 else make_pipeline(*rest)
    settings: dict = {
        "initial_types": [(_FEATURES, FloatTensorType([None, n_features]))],
        "target_opset": _OPSETS,
    }
    try:
        model = _converted(skl2onnx.to_onnx, steps, rest[-1], settings)
    except Exception as error:  # of any type, by estimator
        raise ValueError(
            f"skl2onnx cannot convert {type(rest[-1]).__name__} or a step before it "
            f"({type(error).__name__}: {error!s:.200})."
        ) from error
    _rename_outputs(model, _output_names(rest[-1]))
    return model


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
        return [_LABEL, _PROBABILITIES if hasattr(last, "predict_proba") else "scores"]
    return ["prediction"] if hasattr(last, "predict") else [f"{_FEATURES}_out"]


def _rename_outputs(model: Any, names: list[str]) -> None:
    from onnx import compose

    before = [output.name for output in model.graph.output]
    mapping = dict(zip(before, names, strict=True))
    graph = compose.add_prefix_graph(model.graph, "", inplace=True)
    for node in graph.node:
        node.output[:] = [mapping.get(name, name) for name in node.output]
        node.input[:] = [mapping.get(name, name) for name in node.input]
    for output in graph.output:
        output.name = mapping[output.name]


# -- labels ------------------------------------------------------------------------------------


def _finished(model: Any, made: Exportable) -> Any:
    """Add the labels to a graph of probabilities."""
    _same_opsets(model)
    if made.output != _PROBABILITIES:
        return model
    return _with_labels(model, made.labels)


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
    graph.output.append(helper.make_tensor_value_info(_LABEL, *about))
    graph.output.extend(others)
    return model


def _one_label(helper: Any) -> list:
    return [
        helper.make_node("ArgMax", [_PROBABILITIES], ["best"], axis=1, keepdims=0),
        helper.make_node("Gather", ["labels", "best"], [_LABEL]),
    ]


def _several_labels(helper: Any) -> list:
    to = helper.np_dtype_to_tensor_dtype(np.dtype(np.int64))
    return [
        helper.make_node("Greater", [_PROBABILITIES, "half"], ["above"]),
        helper.make_node("Cast", ["above"], [_LABEL], to=to),
    ]


def _plain_labels(labels: np.ndarray) -> np.ndarray:
    """Return labels in a type that ONNX has."""
    if labels.dtype.kind in "US" or labels.dtype == object:
        return np.array([str(label) for label in labels], object)
    kinds = {"i": np.int64, "u": np.int64, "f": np.float64, "b": np.bool_}
    return labels.astype(kinds[labels.dtype.kind])


def _describe(model: Any, made: Exportable) -> None:
    """Put into the metadata what a user must do with samples."""
    inputs = {source.name: source.about for source in made.sources}
    if made.counts is not None:
        inputs["words"] = {"layout": "(n, most words), words in lower case", "filled with": ""}
        inputs["words"]["pattern"] = made.counts.token_pattern
    about: dict = {"versions": package_versions(), "inputs": inputs}
    found = {"sktransfer": json.dumps(about)}
    for source in made.sources:
        found |= {} if source.tokenizer is None else {"tokenizer": source.tokenizer}
    del model.metadata_props[:]
    for key, value in found.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
