"""Classes that texts describe, as the last stage of a network: zero-shot classification.

The texts of a class are embedded, normalized and averaged, and the mean is normalized, as in CLIP
(Radford et al., 2021) and open_clip. These vectors are the rows of a linear stage on top of the
normalized embedding of a sample. So a network with classes in words is a backbone like any other:
files, graphs, fine-tuning and blends need to know nothing of texts, nor of the network that read
them.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from numbers import Number
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from ..data import shorten, sorted_labels
from .backbone import Backbone, keep_last
from .model_folders import explained, find_folder, load_network, load_tokenizer, quiet, read_json
from .pooling import pool
from .stages import stages_of
from .text_encoders import TokenizerPreprocessing
from .weights import check_finite

# Sentence encoders have no temperature of their own. Their cosines are multiplied by this, divided
# by one less the mean cosine of unrelated sentences: that is 0.05 for MiniLM and 0.79 for e5, whose
# cosines differ by as much less. Chosen by benchmarks/zero_shot.py --scales.
_ENCODER_SCALE = 15.0
_UNRELATED = [
    "The train to the coast leaves at nine.",
    "She planted tomatoes behind the house.",
    "The court rejected the appeal.",
    "Prices of oil fell again this week.",
    "A new telescope found water on a distant planet.",
    "He scored twice in the second half.",
    "Boil the rice for twelve minutes.",
    "My phone does not charge anymore.",
]
_AT_ONCE = 64  # texts that a network reads at a time
_KEPT = 8  # sets of prompts that a network keeps
_SAME = 1e-4  # relative difference of our logits to those of the library
_APART = 1e-5  # distance of the vectors of two classes, which have length one
_BLOCK = 1024  # classes that are compared with all others at a time


def make_prompts(labels: Iterable[Any], templates: str | Iterable[str]) -> dict[Any, list[str]]:
    """Describe classes by templates, for ``prompts=`` of estimators.

    Parameters
    ----------
    labels : iterable of label, or mapping of label to str, number or list of these
        A mapping gives one or several names for each label, such as ``{0: "ant", 1: ["bee",
        "bumblebee"]}``. Without it, labels are names.
    templates : str or iterable of str
        Texts in which ``{}`` stands for the name, such as "a photo of a {}". Where an article
        depends on the name, it is part of the name: ``{0: "an ant", 1: "a bee"}``.

    Returns
    -------
    dict of label to list of str

    Raises
    ------
    ValueError
        If a template has no ``{}``, or nothing is given.
    TypeError
        For a text as ``labels``, or a name that is neither a text nor a number.

    Examples
    --------
    >>> from sktransfer import make_prompts
    >>> make_prompts({"ant": "an ant", "bee": "a bee"}, "a photo of {}")
    {'ant': ['a photo of an ant'], 'bee': ['a photo of a bee']}
    >>> make_prompts({0: ["ant", "termite"]}, ["a photo of {}s", "{}s on a leaf"])
    {0: ['a photo of ants', 'a photo of termites', 'ants on a leaf', 'termites on a leaf']}
    """
    if isinstance(labels, str):
        raise TypeError(f"labels={shorten(labels, 80)!r}: give a list of labels.")
    given = labels if isinstance(labels, Mapping) else {label: str(label) for label in labels}
    patterns = [templates] if isinstance(templates, str) else list(templates)
    wrong = [pattern for pattern in patterns if "{}" not in str(pattern)]
    if wrong or not patterns:
        what = f": {shorten(str(wrong[0]), 80)!r} has no {{}}" if wrong else " is empty"
        raise ValueError(f"templates{what}. The name of a class takes the place of {{}}.")
    return {
        label: [
            pattern.replace("{}", str(name))
            for pattern in patterns
            for name in _names(label, names)
        ]
        for label, names in given.items()
    }


def _names(label: Any, names: Any) -> list[Any]:
    """Return the names of a label, of which one may stand alone."""
    if isinstance(names, str | Number | np.generic):
        return [names]
    if not isinstance(names, Iterable):
        raise TypeError(f"labels[{label!r:.80}]={names!r:.80}: give a name, or a list of names.")
    return list(names)


class PromptedBackbone(Backbone):
    """A network whose last stage scores classes that texts describe.

    A pickle holds the original network and the vectors of the classes, so that the network for
    texts is not needed to open it.

    Parameters
    ----------
    origin : Backbone
        It is not changed, and shares its tensors.
    labels : list
        Of the classes.
    weight : ndarray of shape (n_classes, n_features), float32
        The vectors of the classes, times the scale of the logits.
    bias : float
        Is added to all logits.
    """

    added: nn.ModuleDict
    classes: tuple[str, ...]
    label_rows: dict[Any, int]
    labels: list[Any]
    module: nn.Module
    origin: Backbone
    stages: Mapping[str, nn.Module] | None

    def __init__(self, origin: Backbone, labels: list[Any], weight: np.ndarray, bias: float):
        own: dict[str, Any] = {"prepared": {}, "reference": None, "loaded_by": None}
        own |= {"class_ids": None, "cutter": None, "penultimate": "normalized"}
        vars(self).update(vars(origin) | own)
        self.origin, self.labels = origin, list(labels)
        self.label_rows = {label: row for row, label in enumerate(labels)}
        self.classes = tuple(map(str, labels))
        n_classes, n_features = weight.shape
        linear = nn.utils.skip_init(nn.Linear, n_features, n_classes, dtype=torch.float32)
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(weight))
            linear.bias.fill_(bias)
        check_finite(f"prompts of backbone {origin.name!r}", linear)
        self.added = nn.ModuleDict({"normalized": _Normalized(self.modality.has_tokens)})
        self.added["prompts"] = linear.eval()
        self.stages = stages_of(origin) | dict(self.added.items())
        self.module = nn.Sequential(origin.module, *self.added.values()).eval()

    @property
    def fingerprint(self) -> str:
        linear: Any = self.added["prompts"]
        digest = hashlib.sha256(self.origin.fingerprint.encode())
        for tensor in (linear.weight, linear.bias):
            digest.update(tensor.detach().numpy().tobytes())
        return digest.hexdigest()

    def with_image_size(self, image_size: int | None) -> Backbone:
        """Return this backbone for another input size; see :class:`Backbone`."""
        return self._around(self.origin.with_image_size(image_size))

    def with_channels(self, channels: int | Sequence[tuple[float, float]] | None) -> Backbone:
        """Return this backbone for images of other channels; see :class:`Backbone`."""
        return self._around(self.origin.with_channels(channels))

    def with_long_texts(self, long_texts: str | None) -> Backbone:
        """Return this backbone with another treatment of long texts; see :class:`Backbone`."""
        return self._around(self.origin.with_long_texts(long_texts))

    def with_prompt(self, prompt: str | None, *, is_text: bool = False) -> Backbone:
        """Return this backbone with another text before samples; classes stay as they are."""
        return self._around(self.origin.with_prompt(prompt, is_text=is_text))

    def _around(self, origin: Backbone) -> Backbone:
        if origin is self.origin:
            return self
        kept = self.prepared.setdefault("around", {})
        return keep_last(kept, origin, _KEPT, lambda: PromptedBackbone(origin, *self.state()))

    def state(self) -> tuple[list[Any], np.ndarray, float]:
        """Return the parameters of the constructor but the origin."""
        linear: Any = self.added["prompts"]
        return self.labels, linear.weight.detach().numpy(), float(linear.bias.detach()[0])

    def __reduce_ex__(self, protocol: Any) -> str | tuple[Any, ...]:
        return PromptedBackbone, (self.origin, *self.state())


class _Normalized(nn.Module):
    """Scale the vectors of samples to length one; those of tokens are averaged before."""

    def __init__(self, masked: bool):
        super().__init__()
        self.masked = masked

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.normalize(pool(x, "avg", masked=self.masked), dim=-1)


def with_prompts(backbone: Backbone, prompts: Mapping[Any, Any] | None) -> Backbone:
    """Return a network with classes that texts describe, kept for the last eight sets of prompts.

    The network is a sentence encoder, or the part for images of a network for images and texts, in
    the format of transformers. A ``ValueError`` for a network that has classes or does not read
    texts, or prompts that describe no classes.
    """
    if prompts is None:
        return backbone
    texts = _check_prompts(prompts)

    def make() -> PromptedBackbone:
        return PromptedBackbone(backbone, list(texts), *_describe(backbone, texts))

    # Networks of several prompts share the table.
    key = backbone, json.dumps(list(texts.items()))
    return keep_last(backbone.prepared.setdefault("prompted", {}), key, _KEPT, make)


def _check_prompts(prompts: Any) -> dict[Any, list[str]]:
    """Return the texts of each label, sorted by label."""
    if not isinstance(prompts, Mapping):
        raise TypeError(
            f"prompts={prompts!r:.80}: give a dictionary from each label to a text or a list of "
            "texts, as sktransfer.make_prompts(labels, 'a photo of a {}') makes it."
        )
    labels = sorted_labels(prompts, "prompts")
    texts: dict[Any, list[str]] = {}
    for label in labels:
        given = prompts[label]
        of_label = [given] if isinstance(given, str) else given
        is_list = isinstance(of_label, Sequence | np.ndarray) and len(of_label) > 0
        if not is_list or not all(isinstance(text, str) and text.strip() for text in of_label):
            raise ValueError(
                f"prompts[{label!r:.80}]={given!r:.80}: give a text that describes the class, "
                "or a list of such texts."
            )
        texts[label] = list(map(str, of_label))
    if len(labels) < 2:
        raise ValueError(
            f"prompts names one label, {labels[0]!r:.80}, whose probability would always be 1: add "
            "a text for what else there is."
        )
    label_of: dict[frozenset[tuple[str, float]], Any] = {}
    for label, of_label in texts.items():
        shares = {text: n / len(of_label) for text, n in Counter(of_label).items()}
        other = label_of.setdefault(frozenset(shares.items()), label)
        if other != label:
            raise ValueError(
                f"prompts describes the labels {other!r:.80} and {label!r:.80} by the same texts, "
                "so that nothing tells them apart."
            )
    return texts


def _describe(backbone: Backbone, texts: dict[Any, list[str]]) -> tuple[np.ndarray, float]:
    """Return the rows of the last stage, and what is added to all logits."""
    every = list(dict.fromkeys(text for of_label in texts.values() for text in of_label))
    with torch.inference_mode():
        if backbone.modality.has_tokens and backbone.classes is None:
            _check_lengths(backbone, every)
            vectors, scale, bias = _by_encoder(backbone, every)
        else:
            vectors, scale, bias = _by_text_tower(backbone, every)
        unknown = [text for text, v in zip(every, vectors, strict=True) if not bool(v.norm() > 0)]
        if unknown:
            raise ValueError(
                f"prompts: backbone {backbone.name!r} knows no word of {shorten(unknown[0], 80)!r}."
            )
        # As open_clip does: each text of a class counts alike, and each class has length one.
        of_text = dict(zip(every, F.normalize(vectors, dim=-1), strict=True))
        means = [
            torch.stack([of_text[text] for text in of_label]).mean(0) for of_label in texts.values()
        ]
        rows = F.normalize(torch.stack(means), dim=-1)
        _check_apart(backbone, list(texts), rows)
        return (scale * rows).numpy(), bias


def _check_apart(backbone: Backbone, labels: list[Any], rows: torch.Tensor) -> None:
    """Refuse two classes whose vectors are equal but for rounding."""
    for start in range(0, len(rows), _BLOCK):
        near = (rows[start : start + _BLOCK] @ rows.T > 1 - _APART).triu(start + 1)
        for i, j in near.nonzero().tolist():
            if float((rows[start + i] - rows[j]).norm()) <= _APART:
                raise ValueError(
                    f"prompts: backbone {backbone.name!r} has one vector for the texts of the "
                    f"labels {labels[start + i]!r:.80} and {labels[j]!r:.80}, so that nothing "
                    "tells them apart. Describe them by other words."
                )


def _check_lengths(backbone: Backbone, texts: list[str]) -> None:
    """Refuse texts of which a sentence encoder would read the beginning only."""
    preprocess = backbone.preprocess
    if not isinstance(preprocess, TokenizerPreprocessing) or preprocess.long_texts == "chunk":
        return
    for text in texts:
        length = preprocess.n_tokens(text)
        if length > preprocess.max_length:
            raise ValueError(
                f"prompts: {shorten(text, 80)!r} has {length} tokens, and backbone "
                f"{backbone.name!r} takes {preprocess.max_length}. Give a shorter text; "
                f"load_backbone({backbone.name!r}, long_texts='chunk') reads it whole."
            )


def _by_encoder(backbone: Backbone, texts: list[str]) -> tuple[torch.Tensor, float, float]:
    """Embed texts as samples are embedded.

    Cosines are multiplied by a scale that is found from those of unrelated texts; the bias is 0.
    """
    last = list(stages_of(backbone))[-1]
    tokens = [backbone.preprocess(text) for text in (*texts, *_UNRELATED)]
    vectors: dict[int, torch.Tensor] = {}
    for group, of_one_shape in backbone.modality.group(tokens):
        for start in range(0, len(group), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            (pooled,) = backbone.run(torch.stack(list(of_one_shape[part])), [(last, "avg")])
            vectors.update(zip(group[part].tolist(), pooled, strict=True))
    rows = torch.stack([vectors[i] for i in range(len(tokens))])
    unrelated, n = F.normalize(rows[len(texts) :], dim=-1), len(_UNRELATED)
    mean = (float((unrelated @ unrelated.T).sum()) - n) / (n * n - n)
    return rows[: len(texts)], _ENCODER_SCALE / max(1 - mean, 0.01), 0.0


def _by_text_tower(backbone: Backbone, texts: list[str]) -> tuple[torch.Tensor, float, float]:
    """Embed texts by the part for texts of a network of transformers, which is read for it.

    Cosines are multiplied by its scale, and its bias is added.
    """
    name, folder = _folder_with_texts(backbone)
    model: Any = load_network(name, folder, "default")
    if not hasattr(model, "get_text_features") or not hasattr(model, "logit_scale"):
        raise _no_text_tower(backbone, f"{type(model).__name__} does not compare images with texts")
    inputs = _tokenize(name, folder, model.config, texts)
    with explained(name, f"{type(model).__name__} cannot read the prompts"):
        vectors = torch.cat([_features(model.get_text_features(**part)) for part in inputs])
    scale = float(model.logit_scale.exp())
    bias = float(getattr(model, "logit_bias", torch.zeros(1)))
    _compare(backbone, model, inputs[0], vectors, scale, bias)
    return vectors, scale, bias


def _folder_with_texts(backbone: Backbone) -> tuple[str, Path]:
    """Find the folder of a network for images, which must hold one for texts, too."""
    if backbone.classes is not None:
        raise _no_text_tower(backbone, "it has classes of its own")
    name = "" if backbone.loaded_by is None else backbone.loaded_by[0]
    if not name.startswith("hf:"):
        raise _no_text_tower(backbone, "it is not from a folder of transformers with its weights")
    folder = find_folder(name, download=False)
    if "text_config" not in (read_json(folder / "config.json") or {}):
        raise _no_text_tower(backbone, "its folder has no part for texts")
    return name, folder


def _no_text_tower(backbone: Backbone, why: str) -> ValueError:
    return ValueError(
        f"prompts cannot be used with backbone {backbone.name!r}: {why}. Prompts are for sentence "
        "encoders, and for networks for images and texts in the format of transformers, such as "
        "'hf:openai/clip-vit-base-patch32' or 'hf:google/siglip2-base-patch16-224'. The classes "
        "of a classifier are mapped by class_map."
    )


def _tokenize(name: str, folder: Path, config: Any, texts: list[str]) -> list[dict[str, Any]]:
    """Return the ids of texts, in parts, padded as transformers' zero-shot pipeline does."""
    tokenizer, longest = load_tokenizer(name, folder), config.text_config.max_position_embeddings
    with quiet():
        lengths = [len(ids) for ids in tokenizer(texts)["input_ids"]]
    for text, length in zip(texts, lengths, strict=True):
        if length > longest:
            raise ValueError(
                f"prompts: {shorten(text, 80)!r} has {length} tokens, and backbone {name!r} takes "
                f"{longest}."
            )
    padding: dict[str, Any] = {"padding": True}
    if "siglip" in config.model_type:  # which was trained with texts of one length
        padding = {"padding": "max_length", "max_length": longest}
    parts = [texts[i : i + _AT_ONCE] for i in range(0, len(texts), _AT_ONCE)]
    return [dict(tokenizer(part, return_tensors="pt", **padding)) for part in parts]


def _features(output: Any) -> torch.Tensor:
    """Return the vectors of texts, which later versions of transformers have in an object."""
    return output if isinstance(output, torch.Tensor) else output.pooler_output


def _compare(
    backbone: Backbone,
    model: Any,
    inputs: dict[str, Any],
    vectors: torch.Tensor,
    scale: float,
    bias: float,
) -> None:
    """Refuse a network that compares images with texts in another way, as one image shows."""
    native = backbone.native or backbone
    if native.input_shape is None or native.input_shape[0] != 3:
        return
    image = torch.randn(1, *native.input_shape, generator=torch.Generator().manual_seed(0))
    expected = model(pixel_values=image, **inputs).logits_per_image
    rows = F.normalize(vectors[: expected.shape[1]], dim=-1)
    found = scale * F.normalize(native.module(image), dim=-1) @ rows.T + bias
    if not bool((found - expected).norm() <= _SAME * expected.norm()):
        raise _no_text_tower(
            backbone, f"{type(model).__name__} compares images with texts otherwise"
        )
