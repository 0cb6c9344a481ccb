"""Backbones as modules of torch that take resized samples, for export."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from sklearn.utils import check_array
from torch import nn

from ..backbones import Backbone, ImagePreprocessing, stages_of
from ..backbones.text_encoders import TokenizerPreprocessing
from ..backbones.words.table import WordTable
from ..backbones.words.word_ids import WordPreprocessing
from ..data import NumericTarget
from ..features import TokenWeights, open_sample

__all__ = [
    "Exportable",
    "Source",
    "Then",
    "TunedOutputs",
    "grouped",
    "make_networks",
]


@dataclasses.dataclass(frozen=True)
class Source:
    """An input of an exported model.

    Parameters
    ----------
    name : str
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
    sources : tuple of Source
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


# -- inputs ------------------------------------------------------------------------------------


class _ScaleBytes(nn.Module):
    """Turn images ``(n, height, width, 3)``, uint8, into the input of a network."""

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
    example = torch.stack([open_sample(sample, backbone) for sample in samples])
    about = {"layout": "as the preprocessing returns it", "shape": list(example.shape[1:])}
    return Source("input", example[:2], (0,), about, rows=example.numpy()), nn.Identity()


def _pixels(backbone: Backbone, preprocess: ImagePreprocessing, samples: Any) -> np.ndarray:
    """Resize images without scaling their pixels, ``(n, height, width, 3)``."""
    plain = dataclasses.replace(preprocess, mean=(0.0,) * 3, std=(1 / 255,) * 3)
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
    _, height, width = preprocess.input_shape
    about = dataclasses.asdict(preprocess) | {"layout": "(n, height, width, RGB), uint8"}
    pixels = torch.arange(2 * height * width * 3, dtype=torch.int64) * 31 % 256
    example = pixels.to(torch.uint8).view(2, height, width, 3)
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


# -- networks ----------------------------------------------------------------------------------


class Network(nn.Module):
    """Run the stages of a backbone and pool the outputs of layers.

    Parameters
    ----------
    backbone : Backbone
    prepare : torch.nn.Module
        From the input to that of the first stage.
    outputs : sequence of (str, pooling)
        A pooling may be :class:`TokenWeights`.
    """

    learned: nn.ModuleList
    names: list[str]
    outputs: list[tuple[Any, ...]]
    prepare: nn.Module
    stages: nn.ModuleList

    def __init__(self, backbone: Backbone, prepare: nn.Module, outputs: Sequence[tuple[Any, ...]]):
        super().__init__()
        stages = stages_of(backbone)
        last = max(list(stages).index(layer) for layer, _ in outputs)
        self.names = list(stages)[: last + 1]
        own = [with_rows(backbone, stages[name]) for name in self.names]
        self.backbone, self.prepare, self.stages = backbone, prepare, nn.ModuleList(own)
        self.outputs = [(layer, _exported(how, own[0])) for layer, how in outputs]
        self.learned = nn.ModuleList(how for _, how in self.outputs if isinstance(how, nn.Module))

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        x = self.prepare(x)
        stages = dict(zip(self.names, self.stages, strict=True))
        plain = [output for output in self.outputs if not isinstance(output[1], LearnedMean)]
        pooled = iter(self.backbone.run(x, plain, stages=stages))
        return [
            how(x) if isinstance(how, LearnedMean) else next(pooled).flatten(1)
            for _, how in self.outputs
        ]


def _exported(how: Any, first_stage: Any) -> Any:
    """Return a pooling in a form that can be exported."""
    return LearnedMean(first_stage, how) if isinstance(how, TokenWeights) else how


class Networks(nn.Module):
    """Run several networks, each on one of the inputs."""

    networks: nn.ModuleList

    def __init__(self, networks: Sequence[Network], inputs: list[int]):
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.inputs = inputs

    def forward(self, *inputs: torch.Tensor) -> list[list[torch.Tensor]]:
        pairs = zip(self.networks, self.inputs, strict=True)
        return [network(inputs[i]) for network, i in pairs]


def make_networks(
    estimator: Any, wanted: Sequence[tuple[Any, ...]], X: Any
) -> tuple[tuple[Source, ...], Networks]:
    """Return inputs and networks for pairs of a backbone and its outputs."""
    made = [(*_source(backbone, estimator, X), backbone, outs) for backbone, outs in wanted]
    nets = [Network(backbone, prepare, outs) for _, prepare, backbone, outs in made]
    by_name = {source.name: source for source, *_ in made}  # two networks may take one size
    places = [list(by_name).index(source.name) for source, *_ in made]
    return tuple(by_name.values()), Networks(nets, places)


class Then(nn.Module):
    """Run networks, and a module on the list of their outputs."""

    networks: Networks
    then: nn.Module

    def __init__(self, networks: Networks, then: nn.Module):
        super().__init__()
        self.networks, self.then = networks, then

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        n = 1 + max(self.networks.inputs)
        return self.then(self.networks(*inputs[:n]), *inputs[n:])


def grouped(logits: torch.Tensor, groups: Sequence[Sequence[int]]) -> torch.Tensor:
    """Return logits of labels, each of which means some classes of a network."""
    # One group after another: a class may be in several.
    return torch.stack([logits[:, list(group)].logsumexp(1) for group in groups], 1)


class TunedOutputs(nn.Module):
    """Turn the outputs of a tuned network into probabilities or numbers."""

    exclusive: bool
    is_flat: bool
    numbers: bool
    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, target: Any):
        super().__init__()
        self.is_flat = getattr(target, "is_flat", False)
        self.numbers = isinstance(target, NumericTarget)
        self.exclusive = getattr(target, "labels", None) is not None
        for name in ("mean", "scale"):
            value = np.asarray(getattr(target, name, 0.0), np.float64)
            self.register_buffer(name, torch.from_numpy(value))

    def forward(self, outputs: list[list[torch.Tensor]]) -> torch.Tensor:
        found = outputs[0][0].double()
        if self.numbers:
            found = found * self.scale + self.mean
            return (found[:, 0] if self.is_flat else found).float()
        return (found.softmax(1) if self.exclusive else found.sigmoid()).float()


# -- word vectors: the whole table is a tensor of the module -----------------------------------


_LARGEST_TABLE = 2**31 - 2**27  # bytes of a table; a file of ONNX holds less than 2 GiB


class WordRows(nn.Module):
    """Map ids to vectors as :class:`WordTable` does, by operations that ONNX has.

    Parameters
    ----------
    stage : WordTable
    name : str
        Of the backbone, for messages.
    """

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


def _mean_of_parts(found: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Return the mean over the ids of a token that are not 0, where tokens have several."""
    if ids.ndim == 2:
        return found
    return found.sum(2) / (ids > 0).sum(2).clamp_min(1).unsqueeze(-1)


class LearnedMean(nn.Module):
    """The mean of word vectors under the poolings "idf" and "sif", from ids.

    Parameters
    ----------
    rows : WordRows
    learned : TokenWeights
    """

    by_weight: bool
    weight: torch.Tensor
    component: torch.Tensor

    def __init__(self, rows: WordRows, learned: TokenWeights):
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
        vectors, weight = (_mean_of_parts(found, ids) for found in (vectors, weight))
        total = (weight if self.by_weight else weight > 0).sum(1)
        mean = vectors.sum(1) / torch.where(total > 0, total, 1)
        along = (mean * self.component).sum(1, keepdim=True)
        return mean - along * self.component


def with_rows(backbone: Backbone, stage: nn.Module) -> nn.Module:
    """Return a stage in a form that can be exported."""
    found: Any = stage
    return WordRows(found, backbone.name) if isinstance(stage, WordTable) else stage
