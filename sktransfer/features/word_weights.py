"""Learn weights of words from texts, without labels, for weighted means of word vectors."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from ..backbones import POOLINGS, Backbone, stages_of
from ..engines import resolve_device
from .output import Output, engine_for_outputs

LEARNED_POOLINGS = ("idf", "sif", "zipf")
ALL_POOLINGS = (*POOLINGS, *LEARNED_POOLINGS)

# Arora, Liang, Ma (2017) find 1e-3 to 1e-4 best and little difference between them.
_SIF_A = 1e-3
_RANKED = 10_000  # "zipf" gives words of a higher rank weights of more than 0.99


def is_learned(pooling: str | Callable[..., Any]) -> bool:
    """Tell whether a pooling has weights that are learned from texts."""
    return isinstance(pooling, str) and pooling in LEARNED_POOLINGS


def unlearned(pooling: str | Callable[..., Any]) -> str | Callable[..., Any]:
    """Return the pooling of the same width without learned weights."""
    return "avg" if is_learned(pooling) else pooling


def check_poolings(asked: Sequence[str | Callable[..., Any]], backbone: Backbone) -> None:
    """Check the parameter ``pooling`` for a backbone.

    A ``ValueError`` for an unknown name, for weights of words where there are no words, for
    features whose number would depend on the text, and for a class token where there is none.
    """
    shown = asked[0] if len(asked) == 1 else list(asked)
    wrong = [p for p in asked if not callable(p) and p not in ALL_POOLINGS]
    if wrong or not asked:
        raise ValueError(f"pooling={shown!r}: give callables or some of {ALL_POOLINGS}.")
    if any(map(is_learned, asked)) and not takes_weights(backbone):
        table = any(hasattr(stage, "with_weights") for stage in stages_of(backbone).values())
        raise ValueError(
            f"pooling={shown!r} weights words, and backbone {backbone.name!r} has "
            f"{'more stages than its' if table else 'no'} word vectors: use 'avg' or 'max'."
        )
    if "flatten" in asked and backbone.modality.has_tokens:
        raise ValueError("pooling='flatten' of texts gives vectors of different lengths.")
    if "cls" in asked and backbone.has_class_token is False:
        raise ValueError(
            f"pooling='cls': backbone {backbone.name!r} has no class token, and its first token is "
            "a patch or a register. Use 'avg' or 'max'."
        )


def takes_weights(backbone: Backbone) -> bool:
    """Tell whether a backbone is a table of word vectors, whose rows can be weighted."""
    stages = list(stages_of(backbone).values())
    return len(stages) == 1 and hasattr(stages[0], "with_weights")


def has_ranks(backbone: Backbone) -> bool:
    """Tell whether a backbone is a table of so many words that they are sorted by frequency.

    Files of word vectors are. A table of few words may be a list of the user's.
    """
    return takes_weights(backbone) and _table_of(backbone)[1].n_words >= _RANKED


@dataclasses.dataclass(frozen=True)
class TokenWeights:
    """Weights of words that "idf" or "sif" learned from texts, or "zipf" from their ranks.

    Parameters
    ----------
    pooling : {"idf", "sif", "zipf"}
    ids : ndarray of shape (n_seen,), int64
        Ids of the words that the texts hold, or of the first words, ascending.
    weights : ndarray of shape (n_seen,), float32
        Their weights.
    unseen : float
        The weight of every other word.
    component : ndarray of shape (n_features,) or None, default=None
        The direction that is removed from every vector, of length 1.

    Notes
    -----
    "idf": ``ln((1 + n) / (1 + df)) + 1`` for a word in ``df`` of ``n`` texts, as in
    :class:`sklearn.feature_extraction.text.TfidfTransformer`; the vector of a text is the
    weighted mean.

    "sif": ``a / (a + p)`` for a word that is a share ``p`` of all words, ``a = 1e-3``; the mean
    over all words of a text, less its part along the first singular vector of the texts learned
    from.

    "zipf": the mean with the weights of "sif", where the shares are those of the texts that the
    vectors were trained on: of n words that are sorted by frequency, the one of rank r is a share
    ``1 / (r (ln n + 0.5772))`` of all words (Zipf's law). Few texts tell little about how frequent
    words are.

    References
    ----------
    Arora, Liang, Ma (2017). A simple but tough-to-beat baseline for sentence embeddings. ICLR.

    Zipf (1949). Human Behavior and the Principle of Least Effort.
    """

    pooling: str
    ids: np.ndarray
    weights: np.ndarray
    unseen: float
    component: np.ndarray | None = None

    @classmethod
    def learn(
        cls,
        pooling: str,
        texts: Sequence[str],
        backbone: Backbone,
        *,
        batch_size: int | str = "auto",
        device: str = "auto",
    ) -> TokenWeights:
        """Learn weights, and for "sif" the common component, from texts, for word vectors."""
        if pooling == "zipf":
            return cls.by_rank(backbone)
        text, ids = _occurrences(_group_ids(texts, backbone))
        if pooling == "idf":
            pairs = np.unique(np.column_stack([ids, text]), axis=0)
            seen, df = np.unique(pairs[:, 0], return_counts=True)
            weights = np.log((1 + len(texts)) / (1 + df)) + 1
            return cls(pooling, seen, weights.astype(np.float32), float(np.log1p(len(texts)) + 1))
        seen, counts = np.unique(ids, return_counts=True)
        weights = _SIF_A / (_SIF_A + counts / max(1, counts.sum()))
        without_component = cls(pooling, seen, weights.astype(np.float32), 1.0)
        vectors = without_component.transform(texts, backbone, batch_size=batch_size, device=device)
        # Of the uncentred matrix, as in the paper.
        values, directions = np.linalg.eigh(vectors.T.astype(np.float64) @ vectors)
        component = directions[:, -1] if values[-1] > 0 else np.zeros(vectors.shape[1])
        return dataclasses.replace(without_component, component=component.astype(np.float32))

    @classmethod
    def by_rank(cls, backbone: Backbone) -> TokenWeights:
        """Return the weights of "zipf" for a backbone of word vectors, which need no texts."""
        n = _table_of(backbone)[1].n_words
        rank = np.arange(1, min(n, _RANKED) + 1)  # the id of a word is its place, from 1
        share = 1 / (rank * (np.log(n) + np.euler_gamma))
        weights = _SIF_A / (_SIF_A + share)
        return cls("zipf", rank.astype(np.int64), weights.astype(np.float32), 1.0)

    def transform(
        self,
        texts: Sequence[str],
        backbone: Backbone,
        *,
        batch_size: int | str = "auto",
        device: str = "auto",
    ) -> np.ndarray:
        """Return the vectors of texts, ``(n, n_features)``, with the backbone of :meth:`learn`."""
        name, table = _table_of(backbone)
        weight = self.dense(table.n_ids)
        stages = {name: table.with_weights(torch.from_numpy(weight))}
        outputs = [Output(backbone, name)]
        engine = engine_for_outputs(outputs, device=resolve_device(device), stages=stages)
        vectors = engine.run_groups(_group_ids(texts, backbone), batch_size)[0]
        if self.pooling == "idf":
            vectors = vectors / self._mean_weight(texts, backbone, weight)[:, None]
        if self.component is not None:
            # A sum for each row: what is left may be small, and the rounding of a matrix product,
            # which depends on the number of rows, would show in it.
            along = (vectors * self.component).sum(axis=1, keepdims=True)
            vectors = vectors - along * self.component
        return vectors

    def dense(self, n_ids: int) -> np.ndarray:
        """Return the weight of each id, ``(n_ids,)``; that of 0, no token, is 0."""
        weight = np.full(n_ids, self.unseen, np.float32)
        weight[self.ids] = self.weights
        weight[0] = 0.0
        return weight

    def _mean_weight(self, texts, backbone: Backbone, weight: np.ndarray) -> np.ndarray:
        """Return the mean weight of each text's tokens, or 1 where there are none."""
        mean = np.ones(len(texts), np.float32)
        for positions, group in _group_ids(texts, backbone):
            ids = group.numpy().reshape(*group.shape[:2], -1)  # (g, length, parts of a token)
            parts = np.maximum(1, (ids > 0).sum(2))
            token = weight[ids].sum(2) / parts  # (g, length)
            n_tokens = (ids > 0).any(2).sum(1)
            has_tokens = n_tokens > 0
            mean[positions[has_tokens]] = token.sum(1)[has_tokens] / n_tokens[has_tokens]
        return mean


def _table_of(backbone: Backbone) -> tuple[str, Any]:
    """Return the name of the only stage of word vectors, and the stage."""
    return next(iter(stages_of(backbone).items()))


def _group_ids(texts: Sequence[str], backbone: Backbone) -> list[tuple[np.ndarray, torch.Tensor]]:
    """Turn texts into ids of words, grouped by shape."""
    preprocess: Any = backbone.preprocess
    return preprocess.many(list(texts))


def _occurrences(groups) -> tuple[np.ndarray, np.ndarray]:
    """List all occurrences of ids, and the text of each."""
    text, words = [], []
    for positions, ids in groups:
        flat = ids.numpy().reshape(len(ids), -1)
        rows, columns = np.nonzero(flat)
        text.append(positions[rows])
        words.append(flat[rows, columns])
    return np.concatenate(text), np.concatenate(words)
