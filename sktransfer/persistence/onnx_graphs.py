"""Graphs of ONNX: made of a module of torch, joined one after another, or side by side."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ..backbones import Backbone
from ..engines import export, onnx_model, retry_with_plain_attention
from .onnx_modules import Exportable, Source

OPSETS = {"": 18, "ai.onnx.ml": 3}
FEATURES = "features"


@dataclasses.dataclass(frozen=True)
class Graph:
    """A graph with one output, until labels are added.

    Parameters
    ----------
    model : onnx.ModelProto
    sources : tuple of Source
        Its inputs.
    """

    model: Any
    sources: tuple[Source, ...]

    @property
    def width(self) -> int:
        """The number of features."""
        return self.model.graph.output[0].type.tensor_type.shape.dim[1].dim_value

    def named(self, names: Mapping[str, str], **about: Any) -> Graph:
        """Return the graph with other names of inputs, and more said about them."""
        model = _renamed_inputs(self.model, names)
        sources = tuple(
            dataclasses.replace(
                source, name=names.get(source.name, source.name), about=source.about | about
            )
            for source in self.sources
        )
        return Graph(model, sources)


def torch_graph(exportable: Exportable, X: Any = None) -> Graph:
    """Convert a module, with its inputs and its output by name.

    X are the samples that the graph is checked with. A ``ValueError`` names a network that the
    libraries do not convert.
    """
    sources = exportable.sources
    if exportable.counts is not None:
        sources = (*sources, counts_source(exportable.counts))
    example = tuple(source.example for source in sources)
    module = exportable.module.eval()
    settings = {"input_names": [s.name for s in sources], "output_names": [exportable.output]}

    def convert() -> Any:
        program = export(module, example, [source.any_size for source in sources])
        return onnx_model(program, opset_version=OPSETS[""], **settings)

    try:
        model = retry_with_plain_attention(convert, module, example)
    except Exception as error:  # of any type, since it comes from two other libraries
        read = [getattr(part, "backbone", None) for part in module.modules()]
        names = sorted({each.name for each in read if isinstance(each, Backbone)})
        why = f"{type(error).__name__}: {error.__cause__ or error}".splitlines()[0]
        raise ValueError(
            f"to_onnx: torch.onnx cannot convert the network {', '.join(map(repr, names))} "
            f"({why:.200}). save() keeps the estimator in a file that this package loads; for a "
            "graph, use a network of another family, or of the same family from timm "
            "('timm:<name>')."
        ) from error
    _name_sizes(model, sources)
    _forget_code(model)
    _same_opsets(model)
    if exportable.counts is None:
        return Graph(model, sources)
    model = chained(counts_model(exportable.counts), model, "counts")
    return Graph(model, (*exportable.sources, words_source(exportable.counts, X)))


def module_graph(module: torch.nn.Module, width: int, output: str) -> Any:
    """Convert a module that takes features, "columns", of a width, to a model."""
    program = export(_AsFloat(module), (torch.zeros(2, width),), [(0,)])
    settings = {"input_names": ["columns"], "output_names": [output]}
    model = onnx_model(program, opset_version=OPSETS[""], **settings)
    _forget_code(model)
    return model


class _AsFloat(torch.nn.Module):
    """Return numbers as float32."""

    def __init__(self, inner: torch.nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x).float()


def _name_sizes(model: Any, sources: tuple[Source, ...]) -> None:
    """Name the axes of any size."""
    for value, source in zip(model.graph.input, sources, strict=True):
        kinds = ("n", f"length_{source.name}", f"parts_{source.name}")
        for axis, name in zip(source.any_size, kinds, strict=False):
            value.type.tensor_type.shape.dim[axis].dim_param = name
    for value in model.graph.output:
        value.type.tensor_type.shape.dim[0].dim_param = "n"
    del model.graph.value_info[:]  # which name these axes otherwise


def _forget_code(model: Any) -> None:
    """Remove what torch writes of the code that made each node, with paths of this machine."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.initializer, *graph.input, *graph.output):
        del part.metadata_props[:]


# -- one after another -------------------------------------------------------------------------


def after(graph: Graph, model: Any) -> Graph:
    """Join a graph with the model that follows it, which has one input."""
    first = _prefixed(graph.model, "before/")
    name = model.graph.input[0].name
    return Graph(chained(first, model, name, f"before/{FEATURES}"), graph.sources)


def chained(first: Any, second: Any, name: str, output: str | None = None) -> Any:
    """Join two models, of which the input ``name`` of the second is an output of the first.

    This has the same name if ``output`` is None.
    """
    import onnx
    from onnx import compose

    second = compose.add_prefix(second, "after/", rename_inputs=False, rename_outputs=False)
    _same_opsets(first, second)
    merged = compose.merge_models(first, second, io_map=[(output or name, name)])
    onnx.checker.check_model(merged)
    return merged


def _same_opsets(*models: Any) -> None:
    """Let models declare the same versions of operations, which merging requires."""
    from onnx import helper

    version = min(model.ir_version for model in models)
    for model in models:
        domains = {opset.domain for opset in model.opset_import}
        del model.opset_import[:]
        model.opset_import.extend(helper.make_opsetid(d, v) for d, v in OPSETS.items())
        model.ir_version = version
        assert domains <= {*OPSETS, "pkg.onnxscript.torch_lib.common"}, domains


def _prefixed(model: Any, prefix: str) -> Any:
    """Return a model with a prefix before all names but those of inputs."""
    from onnx import compose

    return compose.add_prefix(model, prefix, rename_inputs=False)


# -- side by side ------------------------------------------------------------------------------


def side_by_side(parts: Sequence[tuple[str, Graph, float | None]]) -> Graph:
    """Put the features of several graphs side by side. Equal inputs and tensors are shared.

    A part has a name, which tells inputs of one name apart, a graph, and a factor of its features.
    """
    sources: dict[str, Source] = {}
    models = []
    for i, (label, part, _) in enumerate(parts):
        graph = part.named({s.name: _free_name(s, label, sources) for s in part.sources})
        sources |= {source.name: source for source in graph.sources}
        models.append(_prefixed(graph.model, f"{i}/"))
    _same_opsets(*models)
    factors = [factor for *_, factor in parts]
    width = sum(graph.width for _, graph, _ in parts)
    return Graph(_concatenated(models, factors, width), tuple(sources.values()))


def _free_name(source: Source, label: str, taken: Mapping[str, Source]) -> str:
    """Return a name for an input, that of an equal one if there is one."""
    name, n = source.name, 1
    same = (source.about, source.attached)
    while name in taken and (taken[name].about, taken[name].attached) != same:
        name, n = f"{label}/{source.name}" if n == 1 else f"{label}-{n}/{source.name}", n + 1
    return name


def _concatenated(models: list, factors: list, width: int) -> Any:
    from onnx import TensorProto, helper

    nodes, tensors, places = [], [], []
    inputs: dict[str, Any] = {}
    for i, (model, factor) in enumerate(zip(models, factors, strict=True)):
        nodes += model.graph.node
        tensors += model.graph.initializer
        inputs |= {value.name: value for value in model.graph.input}
        places.append(model.graph.output[0].name)
        if factor is not None:
            tensors.append(helper.make_tensor(f"{i}/factor", TensorProto.FLOAT, [], [factor]))
            nodes.append(helper.make_node("Mul", [places[-1], f"{i}/factor"], [f"{i}/scaled"]))
            places[-1] = f"{i}/scaled"
    nodes.append(helper.make_node("Concat", places, [FEATURES], axis=1))
    output = helper.make_tensor_value_info(FEATURES, TensorProto.FLOAT, ["n", width])
    graph = helper.make_graph(nodes, FEATURES, [*inputs.values()], [output], tensors)
    _share_tensors(graph)
    settings = {"ir_version": models[0].ir_version, "opset_imports": models[0].opset_import}
    return helper.make_model(graph, functions=_functions(models), **settings)


def _functions(models: list) -> list:
    functions = {(f.domain, f.name): f for model in models for f in model.functions}
    return list(functions.values())


def _share_tensors(graph: Any) -> None:
    """Keep equal tensors once, such as the weights of a network that two columns pass through."""
    kept: dict[bytes, str] = {}
    names, tensors = {}, []
    for tensor in graph.initializer:
        name, tensor.name = tensor.name, ""
        key = hashlib.sha256(tensor.SerializeToString(deterministic=True)).digest()
        tensor.name = name
        names[name] = kept.setdefault(key, name)
        tensors += [tensor] if kept[key] == name else []
    tensors = [type(tensor).FromString(tensor.SerializeToString()) for tensor in tensors]
    del graph.initializer[:]
    graph.initializer.extend(tensors)
    _rename_uses(graph, names)


def _rename_uses(graph: Any, names: Mapping[str, str]) -> None:
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _rename_uses(attribute.g, names)


def _renamed_inputs(model: Any, names: Mapping[str, str]) -> Any:
    """Return a model with other names of inputs."""
    renamed = type(model)()
    renamed.CopyFrom(model)
    for value in renamed.graph.input:
        value.name = names.get(value.name, value.name)
    _rename_uses(renamed.graph, names)
    return renamed


# -- counts of words ---------------------------------------------------------------------------


def counts_source(vectorizer: Any) -> Source:
    """Return the input of the module that takes the counts."""
    n = len(vectorizer.vocabulary_)
    return Source("counts", torch.rand(2, n).double(), (0,), {})


def words_source(vectorizer: Any, texts: Sequence[str] | None) -> Source:
    """Return the input of the graph that makes the counts."""
    about = {"layout": "(n, most words), words in lower case", "filled with": ""}
    pattern, rows = vectorizer.token_pattern, None
    if texts is not None:
        of_texts = [re.findall(pattern, text.lower()) for text in texts]
        longest = max(1, *map(len, of_texts))
        rows = np.array([words + [""] * (longest - len(words)) for words in of_texts], object)
    return Source("words", torch.empty(0), (0, 1), about | {"pattern": pattern}, rows=rows)


def counts_model(vectorizer: Any) -> Any:
    """Make a graph of a fitted TfidfVectorizer, from words to weighted counts of length 1.

    It has ``sublinear_tf=True`` and the norm "l2", as blends have it. The input is "words", ``(n,
    most words)``, and the output "counts".
    """
    from onnx import TensorProto, helper, numpy_helper

    n = len(vectorizer.vocabulary_)
    constants = {
        "idf": np.asarray(vectorizer.idf_, np.float64),
        "one": np.array(1.0),
        "zero": np.array(0.0),
        "axis": np.array([1], np.int64),
    }
    nodes = [
        _frequencies(vectorizer),
        helper.make_node("Cast", ["frequency"], ["f"], to=TensorProto.DOUBLE),
        helper.make_node("Max", ["f", "one"], ["at_least_one"]),
        helper.make_node("Log", ["at_least_one"], ["logarithm"]),
        helper.make_node("Add", ["logarithm", "one"], ["sublinear"]),
        helper.make_node("Greater", ["f", "zero"], ["occurs"]),
        helper.make_node("Where", ["occurs", "sublinear", "zero"], ["tf"]),
        helper.make_node("Mul", ["tf", "idf"], ["weighted"]),
        helper.make_node("ReduceL2", ["weighted", "axis"], ["length"]),
        # The length is at least 1, as tf and idf are, or 0 for a text of which no word is known.
        helper.make_node("Max", ["length", "one"], ["divisor"]),
        helper.make_node("Div", ["weighted", "divisor"], ["counts"]),
    ]
    graph = helper.make_graph(
        nodes,
        "counts",
        [helper.make_tensor_value_info("words", TensorProto.STRING, ["n", "words"])],
        [helper.make_tensor_value_info("counts", TensorProto.DOUBLE, ["n", n])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, ir_version=9)


def _frequencies(vectorizer: Any) -> Any:
    """Make a node that counts the words and the pairs of words of a vectorizer."""
    from onnx import helper

    grams = sorted(vectorizer.vocabulary_.items(), key=lambda item: (item[0].count(" "), item[1]))
    n_single = sum(" " not in gram for gram, _ in grams)
    return helper.make_node(
        "TfIdfVectorizer",
        ["words"],
        ["frequency"],
        mode="TF",
        min_gram_length=vectorizer.ngram_range[0],
        max_gram_length=vectorizer.ngram_range[1],
        max_skip_count=0,
        ngram_counts=[0, n_single],
        ngram_indexes=[place for _, place in grams],
        pool_strings=[word for gram, _ in grams for word in gram.split(" ")],
    )
