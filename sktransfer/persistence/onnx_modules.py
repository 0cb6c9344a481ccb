"""Fitted estimators as one module of torch: from resized samples or ids to predictions.

The module runs networks, each on one of its inputs (:class:`Source`), and gives the pooled outputs
to a head: that of the estimator, such as the forward of a blend.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.utils import check_array
from torch import nn

from ..backbones import Backbone, ImagePreprocessing, stages_of
from ..backbones.text_encoders import TokenizerPreprocessing
from ..backbones.words.table import WordTable
from ..backbones.words.word_ids import WordPreprocessing
from ..data import NumericTarget
from ..features import (
    ClassProbabilities,
    Output,
    PretrainedClassifier,
    PretrainedFeatureExtractor,
    TokenWeights,
)
from ..finetuning.estimator import TunedEstimator
from ..selection import Blend, ClassifierCandidate, TransferClassifier, TransferRegressor
from ..transferability import LinearProbe, RidgeProbe


@dataclasses.dataclass(frozen=True)
class Source:
    """An input of an exported model.

    Parameters
    ----------
    example : Tensor
        Of two samples.
    any_size : tuple of int
        The axes whose size is not fixed.
    about : dict
        What a user must do with a sample, in values for JSON.
    attached : tuple of (str, str), default=None
        A name and a text that are too long for ``about``, such as a vocabulary.
    rows : ndarray, default=None
        The input for the samples that the graph is checked with.
    """

    name: str
    example: torch.Tensor
    any_size: tuple[int, ...]
    about: dict[str, Any]
    attached: tuple[str, str] | None = None
    rows: np.ndarray | None = dataclasses.field(default=None, compare=False, repr=False)


@dataclasses.dataclass(frozen=True)
class Exportable:
    """A fitted estimator as a module.

    Parameters
    ----------
    module : torch.nn.Module
        From the inputs to features, probabilities or numbers.
    output : {"features", "probabilities", "prediction"}
    labels : ndarray, default=None
        Of the columns of probabilities; None where each column is a label of its own.
    counts : object, default=None
        A vectorizer whose features are the last input of the module.
    """

    sources: tuple[Source, ...]
    module: nn.Module
    output: str
    labels: np.ndarray | None = None
    counts: Any = None


def exportable(estimator: Any, X: Any = None) -> Exportable:
    """Make a module of a fitted estimator of sktransfer; an error tells why there is none.

    X is needed for own modules, whose input has a shape that nothing else tells.
    """
    if isinstance(estimator, PretrainedFeatureExtractor):
        return export_features(estimator, X)
    if isinstance(estimator, PretrainedClassifier):
        sources, module = _module(estimator, estimator.outputs_, _DirectUse(estimator), X)
        return Exportable(sources, module, "probabilities", estimator.classes_)
    if isinstance(estimator, TunedEstimator):
        backbone, target = estimator.to_backbone(), estimator.target_
        outputs = [Output(backbone, list(stages_of(backbone))[-1], "avg")]
        sources, module = _module(estimator, outputs, _TunedOutputs(target), X)
        output = "prediction" if isinstance(target, NumericTarget) else "probabilities"
        labels = None if target.labels is None else estimator.classes_
        return Exportable(sources, module, output, labels)
    if isinstance(estimator, TransferClassifier):
        return _export_blend(estimator.estimator_, estimator, X)
    if isinstance(estimator, TransferRegressor):
        return _export_blend(estimator.blend_, estimator, X)
    raise TypeError(f"{type(estimator).__name__} is not an estimator that to_onnx exports.")


def export_features(estimator: PretrainedFeatureExtractor, X: Any, column: int = 0) -> Exportable:
    """Make a module of the features of one column of samples; X is as in :func:`exportable`."""
    pcas = getattr(estimator, "pca_", ())
    head = _Features(pcas[column] if pcas else None)
    return Exportable(*_module(estimator, estimator.outputs_, head, X), "features")


def _export_blend(blend: Blend, estimator: Any, X: Any) -> Exportable:
    """Make a module of a blend, of one column of samples."""
    for candidate in blend.candidates:
        if isinstance(candidate, ClassifierCandidate) and not candidate.is_linear:
            raise ValueError(
                f"The blend holds a {type(candidate.estimator).__name__}, which is no linear "
                "function of features. to_onnx exports blends with estimator=None, or with "
                "LogisticRegression()."
            )
    sources, module = _module(estimator, blend.outputs, _BlendOutputs(blend), X)
    output = "prediction" if blend.classes is None else "probabilities"
    vectorizer = next(iter(blend.vectorizers.values()), None)
    return Exportable(sources, module, output, blend.classes, vectorizer)


# -- heads: from the pooled outputs to what the estimator returns --------------------------------


class _Features(nn.Module):
    """Put features side by side, and reduce them by principal components if there are some."""

    def __init__(self, pca: Any):
        super().__init__()
        self.scores = None
        if pca is not None:
            self.scores = AffineScores(pca.components_.T, -(pca.mean_ @ pca.components_.T))

    def forward(self, pooled: list[torch.Tensor]) -> torch.Tensor:
        features = torch.cat(pooled, 1)
        return features if self.scores is None else self.scores(features).float()


class _DirectUse(nn.Module):
    """The probabilities of :class:`PretrainedClassifier`, float32."""

    def __init__(self, estimator: PretrainedClassifier):
        super().__init__()
        self.of_logits = ClassProbabilities.of(estimator)

    def forward(self, pooled: list[torch.Tensor]) -> torch.Tensor:
        return self.of_logits(pooled).float()


class _TunedOutputs(nn.Module):
    """Turn the outputs of a tuned network into probabilities or numbers."""

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, target: Any):
        super().__init__()
        self.is_flat = getattr(target, "is_flat", False)
        self.is_numeric = isinstance(target, NumericTarget)
        self.is_exclusive = getattr(target, "labels", None) is not None
        for name in ("mean", "scale"):
            value = np.asarray(getattr(target, name, 0.0), np.float64)
            self.register_buffer(name, torch.from_numpy(value))

    def forward(self, pooled: list[torch.Tensor]) -> torch.Tensor:
        outputs = pooled[0].double()
        if self.is_numeric:
            outputs = outputs * self.scale + self.mean
            return (outputs[:, 0] if self.is_flat else outputs).float()
        return (outputs.softmax(1) if self.is_exclusive else outputs.sigmoid()).float()


class _BlendOutputs(nn.Module):
    """Call a blend with the outputs of its networks, and with counts of words."""

    def __init__(self, blend: Blend):
        super().__init__()
        self.blend = blend
        self.is_flat = blend.scaler is not None and blend.scaler.is_flat

    def forward(self, pooled: list[torch.Tensor], *counts: torch.Tensor) -> torch.Tensor:
        counted = [c.multiply_counts(i, counts[0].double()) for c, i in self.blend.counting]
        outputs = self.blend(pooled, counted)
        return (outputs[:, 0] if self.is_flat else outputs).float()


class AffineScores(nn.Module):
    """Logits, or numbers, that are a linear function of features."""

    coef: torch.Tensor
    intercept: torch.Tensor

    def __init__(self, coef: np.ndarray, intercept: np.ndarray):
        super().__init__()
        self.register_buffer("coef", torch.from_numpy(np.array(coef, np.float64)))
        self.register_buffer("intercept", torch.from_numpy(np.array(intercept, np.float64)))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features.double() @ self.coef + self.intercept


def as_linear(estimator: Any) -> AffineScores | None:
    """Return the scores of a fitted linear model as a module, or None for other models.

    They have a column each for two classes, whose softmax are the probabilities.
    """
    if isinstance(estimator, LinearProbe) and not hasattr(estimator.model_, "coef_"):
        return None
    kinds = LinearProbe | RidgeProbe | LogisticRegression | LinearDiscriminantAnalysis
    if not isinstance(estimator, kinds):
        return None
    coef = np.atleast_2d(estimator.coef_)
    intercept = np.broadcast_to(estimator.intercept_, len(coef))
    if hasattr(estimator, "classes_") and len(coef) == 1:
        zero = np.zeros_like(coef)
        coef, intercept = np.concatenate([zero, coef]), np.array([0.0, *intercept])
    return AffineScores(coef.T, intercept)


# -- networks ------------------------------------------------------------------------------------


def _module(
    estimator: Any, outputs: Sequence[Output], head: nn.Module, X: Any
) -> tuple[tuple[Source, ...], nn.Module]:
    """Return the inputs of an estimator, and the module of its networks and its head.

    Networks that need the same of a sample share an input. Inputs of one name that are made in
    different ways have the name of their network before their own.
    """
    places: dict[Backbone, list[int]] = {}
    for i, output in enumerate(outputs):
        places.setdefault(output.backbone, []).append(i)
    sources: list[Source] = []
    networks, inputs, owners = [], [], []
    for backbone, of_backbone in places.items():
        source, prepare = _source(backbone, estimator, X)
        networks.append(_Network(backbone, prepare, [outputs[i] for i in of_backbone]))
        same = [i for i, other in enumerate(sources) if _is_same(source, other)]
        inputs.append(same[0] if same else len(sources))
        if not same:
            sources.append(source)
            owners.append(re.sub(r"\W+", "_", backbone.name))
    names = [source.name for source in sources]
    for i, name in enumerate(names):
        if names.count(name) > 1:
            nth = owners[:i].count(owners[i])
            label = f"{owners[i]}_{nth + 1}" if nth else owners[i]
            sources[i] = dataclasses.replace(sources[i], name=f"{label}_{name}")
    return tuple(sources), _Whole(networks, inputs, list(places.values()), head)


def _is_same(source: Source, other: Source) -> bool:
    """Tell whether two inputs are made of samples in the same way."""
    # The mean and the standard deviation of colors are applied behind the input.
    how, how_other = (
        {key: value for key, value in each.about.items() if key not in ("mean", "std")}
        for each in (source, other)
    )
    is_equal = True
    if source.rows is not None and other.rows is not None:
        is_equal = np.array_equal(source.rows, other.rows)
    shapes = source.example.shape == other.example.shape
    return shapes and how == how_other and source.attached == other.attached and is_equal


class _Whole(nn.Module):
    """Run networks, each on one of the inputs, and a head on the list of their pooled outputs.

    Parameters
    ----------
    inputs : list of int
        The input of each network. Inputs behind these, counts of words, are given to the head.
    places : list of list of int
        Where the outputs of each network are in the list.
    """

    def __init__(
        self,
        networks: Sequence[_Network],
        inputs: list[int],
        places: list[list[int]],
        head: nn.Module,
    ):
        super().__init__()
        self.networks, self.head = nn.ModuleList(networks), head
        self.inputs, self.places = inputs, places

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        pooled: dict[int, torch.Tensor] = {}
        for network, i, places in zip(self.networks, self.inputs, self.places, strict=True):
            pooled |= zip(places, network(inputs[i]), strict=True)
        n_inputs = 1 + max(self.inputs)
        return self.head([pooled[i] for i in range(len(pooled))], *inputs[n_inputs:])


class _Network(nn.Module):
    """Run the stages of a backbone on its input, and pool the outputs of layers.

    A module prepares the input for the first stage.
    """

    def __init__(self, backbone: Backbone, prepare: nn.Module, outputs: Sequence[Output]):
        super().__init__()
        stages = stages_of(backbone)
        last = max(list(stages).index(output.layer) for output in outputs)
        self.names = list(stages)[: last + 1]
        own: list[Any] = [_with_rows(backbone, stages[name]) for name in self.names]
        self.backbone, self.prepare, self.stages = backbone, prepare, nn.ModuleList(own)
        learned: dict[int, _LearnedMean] = {}
        self.parts: list[list[Any]] = []  # of each output: a layer with a pooling, or a mean
        for output in outputs:
            how: Any = output.pooling
            parts: list[Any] = []
            for pooling in how if isinstance(how, tuple) and not callable(how) else (how,):
                if pooling == "zipf":
                    parts.append(_LearnedMean(own[0], TokenWeights.by_rank(backbone)))
                elif isinstance(pooling, TokenWeights):
                    if id(pooling) not in learned:
                        learned[id(pooling)] = _LearnedMean(own[0], pooling)
                    parts.append(learned[id(pooling)])
                else:
                    parts.append((output.layer, pooling))
            self.parts.append(parts)
        every = [part for parts in self.parts for part in parts]
        self.learned = nn.ModuleList(part for part in every if isinstance(part, _LearnedMean))
        self.plain = list(dict.fromkeys(part for part in every if isinstance(part, tuple)))

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        x = self.prepare(x)
        stages = dict(zip(self.names, self.stages, strict=True))
        pooled = dict(zip(self.plain, self.backbone.run(x, self.plain, stages=stages), strict=True))
        outputs = []
        for parts in self.parts:
            side_by_side = [
                part(x) if isinstance(part, _LearnedMean) else pooled[part].flatten(1)
                for part in parts
            ]
            outputs.append(torch.cat(side_by_side, 1))
        return outputs


# -- inputs --------------------------------------------------------------------------------------


class _ScaleBytes(nn.Module):
    """Turn images ``(n, height, width, channels)``, uint8, into the input of a network."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, preprocess: ImagePreprocessing):
        super().__init__()
        for name in ("mean", "std"):
            column = torch.tensor(getattr(preprocess, name), dtype=torch.float32).view(-1, 1, 1)
            self.register_buffer(name, column)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.permute(0, 3, 1, 2).to(torch.float32) * (1 / 255)
        return (x - self.mean) / self.std


def _source(backbone: Backbone, estimator: Any, X) -> tuple[Source, nn.Module]:
    """Return the input of a backbone, and what prepares it for the first stage."""
    if backbone.runtime is not None:
        raise ValueError(
            f"to_onnx: backbone {backbone.name!r} runs in {backbone.runtime}, and its graph is not "
            "joined with another one. Use save(), or run your graph, and the estimator behind it, "
            "one after the other."
        )
    preprocess: Any = backbone.preprocess
    samples: Any = X
    if X is not None:
        shape = getattr(estimator, "image_shape", None)
        samples = backbone.modality.check(X, image_shape=shape, validate=check_array)
    if isinstance(preprocess, ImagePreprocessing):
        rows = None if samples is None else _pixels(backbone, preprocess, samples)
        source, prepare = _image_source(preprocess), _ScaleBytes(preprocess)
        return dataclasses.replace(source, rows=rows), prepare
    if isinstance(preprocess, TokenizerPreprocessing | WordPreprocessing):
        if isinstance(preprocess, WordPreprocessing):
            source = _word_source(preprocess)
        else:
            source = _token_source(preprocess)
        rows = None if samples is None else _ids(preprocess, samples, source.example.ndim)
        return dataclasses.replace(source, rows=rows), nn.Identity()
    if backbone.modality.has_tokens:
        raise ValueError(
            f"Backbone {backbone.name!r} splits texts by code that to_onnx does not know. It "
            "exports networks for images and for numbers, sentence encoders, and word vectors."
        )
    if samples is None:
        raise ValueError(
            f"The preprocessing of backbone {backbone.name!r} does not tell the shape of its "
            "input: give to_onnx a sample, as X=[sample]."
        )
    example = torch.stack([backbone.open(sample) for sample in samples])
    about = {"layout": "as the preprocessing returns it", "shape": list(example.shape[1:])}
    return Source("input", example[:2], (0,), about, rows=example.numpy()), nn.Identity()


def _pixels(backbone: Backbone, preprocess: ImagePreprocessing, samples: Any) -> np.ndarray:
    """Resize images without scaling their pixels, ``(n, height, width, channels)``."""
    n = len(preprocess.mean)
    plain = dataclasses.replace(preprocess, mean=(0.0,) * n, std=(1 / 255,) * n)
    resized = [plain(backbone.modality.open(sample)).round() for sample in samples]
    return torch.stack(resized).to(torch.uint8).permute(0, 2, 3, 1).numpy()


def _ids(preprocess: Any, texts: Any, n_axes: int) -> np.ndarray:
    """Split texts into ids of tokens, filled up with 0."""
    groups = [(places, ids.numpy()) for places, ids in preprocess.many(list(texts))]
    groups = [(places, ids if ids.ndim == n_axes else ids[..., None]) for places, ids in groups]
    longest = np.max([ids.shape[1:] for _, ids in groups], axis=0)
    rows = np.zeros((len(texts), *longest), np.int64)
    for places, ids in groups:
        rows[(places, *(slice(size) for size in ids.shape[1:]))] = ids
    return rows


def _image_source(preprocess: ImagePreprocessing) -> Source:
    n, height, width = preprocess.input_shape
    channels = "RGB" if n == 3 else f"{n} channels"
    about = dataclasses.asdict(preprocess) | {"layout": f"(n, height, width, {channels}), uint8"}
    pixels = torch.arange(2 * height * width * n, dtype=torch.int64) * 31 % 256
    example = pixels.to(torch.uint8).view(2, height, width, n)
    return Source(f"image_{height}x{width}", example, (0,), about)


def _token_source(preprocess: TokenizerPreprocessing) -> Source:
    about = {
        "layout": "(n, length), int64: ids of the tokenizer plus one, filled up with 0",
        "max_length": preprocess.max_length,
        "prompt": preprocess.prompt,
        "characters": dict(preprocess.characters),
        "length": "a multiple of 8",
    }
    example = torch.tensor([[1, 3, 4, 5, 6, 7, 8, 2] * 2, [1, 9, 8, 2] + [0] * 12])
    return Source("ids", example, (0, 1), about, ("tokenizer", preprocess.tokenizer))


def _word_source(preprocess: WordPreprocessing) -> Source:
    vectors = preprocess.vectors
    own = preprocess.tokenizer is not None
    about = {
        "layout": "(n, length), int64: places among the words plus one, filled up with 0",
        "tokens": "of your tokenizer" if own else "of split_chunk, for the parts between spaces",
    }
    example = torch.tensor([[1] * 16, [1, 1] + [0] * 14])
    if vectors.subwords is not None:
        about["layout"] = "(n, length, parts), int64: one id of a word, or those of its n-grams"
        example = example[..., None].repeat(1, 1, 8)
    words = [vectors.vocabulary.word(i + 1) for i in range(vectors.n_words)]
    return Source("ids", example, tuple(range(example.ndim)), about, ("words", json.dumps(words)))


# -- word vectors: the whole table is a tensor of the module -----------------------------------


_LARGEST_TABLE = 2**31 - 2**27  # bytes of a table; a file of ONNX holds less than 2 GiB


class _WordRows(nn.Module):
    """Map ids to vectors as :class:`WordTable` does, by operations that ONNX has."""

    table: torch.Tensor

    def __init__(self, stage: WordTable, name: str):
        super().__init__()
        n_bytes = 4 * stage.n_ids * stage.dim
        if n_bytes > _LARGEST_TABLE:
            raise ValueError(
                f"The vectors of {name!r} have {n_bytes / 1e9:.1f} GB, and an ONNX file holds less "
                "than 2 GiB. Load fewer words, by max_words= or vocabulary= of load_word_vectors; "
                "subwords of FastText are not in its .vec files."
            )
        with torch.no_grad():  # id 0, no token, is the first row
            self.register_buffer("table", stage(torch.arange(stage.n_ids)[None])[0])

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Map ids ``(n, length)`` or ``(n, length, k)`` to vectors ``(n, length, dim)``."""
        return _mean_of_parts(nn.functional.embedding(ids, self.table), ids)


def _mean_of_parts(values: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Return the mean over the ids of a token that are not 0, where tokens have several."""
    if ids.ndim == 2:
        return values
    return values.sum(2) / (ids > 0).sum(2).clamp_min(1).unsqueeze(-1)


class _LearnedMean(nn.Module):
    """The mean of word vectors under the poolings "idf" and "sif", from ids."""

    by_weight: bool
    weight: torch.Tensor
    component: torch.Tensor

    def __init__(self, rows: _WordRows, learned: TokenWeights):
        super().__init__()
        self.rows = rows
        dense = torch.from_numpy(learned.dense(len(rows.table)))
        # Words whose vectors are zero are no tokens.
        self.register_buffer("weight", dense[:, None] * rows.table.any(1, keepdim=True))
        self.by_weight = learned.pooling == "idf"
        component = torch.zeros(rows.table.shape[1])
        if learned.component is not None:
            component = torch.from_numpy(learned.component)
        self.register_buffer("component", component)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        weight = nn.functional.embedding(ids, self.weight)  # (n, length, 1) or (n, length, k, 1)
        vectors = nn.functional.embedding(ids, self.rows.table) * weight
        vectors, weight = _mean_of_parts(vectors, ids), _mean_of_parts(weight, ids)
        total = (weight if self.by_weight else weight > 0).sum(1)
        mean = vectors.sum(1) / torch.where(total > 0, total, 1)
        along = (mean * self.component).sum(1, keepdim=True)
        return mean - along * self.component


def _with_rows(backbone: Backbone, stage: nn.Module) -> nn.Module:
    """Return a stage in a form that can be exported."""
    return _WordRows(stage, backbone.name) if isinstance(stage, WordTable) else stage
