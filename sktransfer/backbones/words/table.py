"""Embed words: the stage that maps ids to vectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from .vectors import WordVectors


class WordTable(nn.Module):
    """Map ids to vectors. The vector of id 0, no token, is zero.

    Copies of the module share the vectors, and ``to(device)`` moves only the rows that are
    trained. Rows are looked up on the CPU, and the result is moved to the device of the ids.

    Parameters
    ----------
    index : Tensor of int64, shape (n,), default=None
        Ids whose rows belong to this module, sorted.
    rows : Tensor of shape (n, dim), default=None
        The rows of ``index``, which can be trained.
    token_weight : Tensor of shape (n_ids,), default=None
        The factor of each vector. The factor of id 0 is ignored.

    Examples
    --------
    >>> import torch
    >>> from sktransfer.backbones.words.table import WordTable
    >>> from sktransfer.backbones.words.vectors import WordVectors
    >>> table = WordTable(WordVectors.from_words(["a", "b"], [[1.0, 2.0], [3.0, 4.0]]))
    >>> table(torch.tensor([[2, 1, 0]]))
    tensor([[[3., 4.],
             [1., 2.],
             [0., 0.]]])
    """

    rows: nn.Parameter
    index: torch.Tensor
    token_weight: torch.Tensor | None

    def __init__(
        self,
        vectors: WordVectors,
        index: torch.Tensor | None = None,
        rows: torch.Tensor | None = None,
        token_weight: torch.Tensor | None = None,
    ):
        super().__init__()
        self.vectors = vectors
        index = torch.empty(0, dtype=torch.int64) if index is None else index
        self.register_buffer("index", index)
        self.rows = nn.Parameter(torch.empty(0, vectors.dim) if rows is None else rows)
        self.register_buffer("token_weight", token_weight)

    @property
    def n_words(self) -> int:
        return self.vectors.n_words

    @property
    def n_ids(self) -> int:
        return self.vectors.n_ids

    @property
    def dim(self) -> int:
        return self.vectors.dim

    @property
    def shares_all(self) -> bool:
        """Whether all vectors are the shared ones: no rows of its own and no weights."""
        return len(self.index) == 0 and self.token_weight is None

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Map ids ``(n, length)`` or ``(n, length, k)`` to vectors ``(n, length, dim)``."""
        return self._weighted(ids) if ids.ndim == 2 else self._mean(ids)

    def fused_pooling(self, pooling: Any) -> Callable[[torch.Tensor], torch.Tensor] | None:
        """Return one function for this stage and the pooling after it, or None.

        It maps ids to ``(n, dim)``. An engine that runs only this stage may call it instead. It
        reads the shared matrix, so that ids must be on the CPU, and computes in float32. None if
        the pooling is not the mean, or if this table has rows or weights of its own.
        """
        is_mean = isinstance(pooling, str) and pooling == "avg"
        return self._text_means if is_mean and self.shares_all else None

    @torch.no_grad()
    def _text_means(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the mean vector of each text's tokens, zeros for a text without tokens.

        Equal to :meth:`forward` and the mean over tokens, without the vectors in between. Texts
        are summed separately, so that the last bits of one do not depend on the others. Ids must
        not contain words whose vectors are all zero; ``WordPreprocessing`` leaves them out.
        """
        some = ids > 0
        counts = some.flatten(1).sum(1)
        starts = counts.cumsum(0) - counts
        rows, matrix = ids[some] - 1, self.vectors.matrix
        if ids.ndim == 2:
            return F.embedding_bag(rows, matrix, starts, mode="mean")
        n_parts = some.sum(2, keepdim=True)  # (n, length, 1)
        n_tokens = (n_parts > 0).sum(1, keepdim=True)  # (n, 1, 1)
        share = (1 / (n_parts * n_tokens).float()).expand(ids.shape)[some]
        return F.embedding_bag(rows, matrix, starts, mode="sum", per_sample_weights=share)

    def _mean(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the mean over those of k ids that are not 0."""
        some = ids != 0  # (n, length, k)
        counts = some.sum(-1).flatten()
        vectors = self._weighted(ids[some])  # in the order of tokens
        every = torch.arange(len(vectors), device=ids.device)
        starts = counts.cumsum(0) - counts
        if len(vectors) == 0:
            return vectors.new_zeros(*ids.shape[:2], self.dim)
        # Sums in the order of tokens, so that the last bits do not depend on other texts.
        return F.embedding_bag(every, vectors, starts, mode="mean").view(*ids.shape[:2], self.dim)

    def _weighted(self, ids: torch.Tensor) -> torch.Tensor:
        vectors = self._look_up(ids)
        if self.token_weight is None:
            return vectors
        weight = self.token_weight[ids].masked_fill(ids == 0, 0.0)
        return vectors * weight.unsqueeze(-1)

    def _look_up(self, ids: torch.Tensor) -> torch.Tensor:
        if len(self.index) == 0:
            return self._shared(ids)
        place = torch.searchsorted(self.index, ids).clamp_(max=len(self.index) - 1)
        own = self.index[place] == ids
        vectors = F.embedding(place, self.rows)
        own_or_none = own | (ids == 0)
        if own_or_none.all():  # in training; the shared table is not read
            return vectors.masked_fill(~own.unsqueeze(-1), 0.0)
        return torch.where(own.unsqueeze(-1), vectors, self._shared(ids))

    def _shared(self, ids: torch.Tensor) -> torch.Tensor:
        on_cpu = ids.cpu()
        # Indexing does not copy a matrix that is stored by columns, as that of the GloVe package.
        vectors = self.vectors.matrix[(on_cpu - 1).clamp_(min=0)]
        return vectors.masked_fill_((on_cpu == 0).unsqueeze(-1), 0.0).to(ids.device)

    def restricted(self, ids: np.ndarray) -> WordTable:
        """Return an equal table with rows of its own, which can be trained, for some ids."""
        index = torch.from_numpy(np.unique(ids).astype(np.int64)).to(self.index.device)
        index = index[index > 0]
        rows = self._look_up(index).detach().clone()
        return WordTable(self.vectors, index, rows, self.token_weight)

    def with_weights(self, token_weight: Any) -> WordTable:
        """Return this table with a factor for each id; another number of them is a ValueError."""
        weight = torch.tensor(np.asarray(token_weight), dtype=torch.float32)
        if weight.shape != (self.n_ids,):
            raise ValueError(f"token_weight has shape {tuple(weight.shape)}, not ({self.n_ids},)")
        return WordTable(self.vectors, self.index, self.rows.detach(), weight)

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        """Take over the sizes of loaded tensors: which rows are trained is part of the state."""
        for name in ("index", "rows", "token_weight"):
            given, own = state_dict.get(prefix + name), getattr(self, name)
            if given is None or (own is not None and own.shape == given.shape):
                continue
            empty = torch.empty_like(given, device=self.index.device)
            if name == "rows":
                own.data = empty  # keep the parameter, which an optimizer may hold
            else:
                setattr(self, name, empty)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        return f"{self.n_words} words, dim={self.dim}, {len(self.index)} rows of its own"
