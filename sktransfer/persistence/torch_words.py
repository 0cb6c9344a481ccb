"""Word vectors as modules of torch, for export: the whole table is a tensor of the module."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..backbones import Backbone
from ..backbones.words.table import WordTable
from ..features.word_weights import TokenWeights

__all__ = ["LearnedMean", "WordRows", "with_rows"]

_MOST = 2**31 - 2**27  # bytes of a table; a file of ONNX holds less than 2 GiB


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
        if n_bytes > _MOST:
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
