"""Find samples that are nearly equal."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import normalize
from sklearn.utils.validation import check_array

_NEIGHBOURS = 20  # looked at for each sample, which bounds memory
_RATIO = 3.0  # of distances; the Notes of find_near_duplicates say what for


@dataclasses.dataclass(frozen=True, repr=False)
class NearDuplicates:
    """Pairs of samples that are nearly equal.

    Parameters
    ----------
    pairs : ndarray of shape (n_pairs, 2)
        Positions of the samples, ascending in each pair; the most similar pair first.
    similarity : ndarray of shape (n_pairs,)
        Cosine of the angle between their features.
    n_samples : int
    """

    pairs: np.ndarray
    similarity: np.ndarray
    n_samples: int

    @property
    def groups(self) -> list[list[int]]:
        """Samples that are connected by pairs, the largest group first."""
        ones = np.ones(len(self.pairs))
        graph = coo_array((ones, tuple(self.pairs.T)), shape=(self.n_samples, self.n_samples))
        codes = connected_components(graph, directed=False)[1]
        members = np.unique(self.pairs)
        by_code: dict[int, list[int]] = {}
        for i in members:
            by_code.setdefault(codes[i], []).append(int(i))
        return sorted(by_code.values(), key=lambda group: (-len(group), group))

    @property
    def redundant(self) -> np.ndarray:
        """Positions of all samples but the first of each group."""
        return np.sort(np.array([i for group in self.groups for i in group[1:]], dtype=int))

    def __repr__(self) -> str:
        n = len(self.groups)
        return f"<NearDuplicates: {len(self.pairs)} pairs in {n} groups, {self.n_samples} samples>"


def find_near_duplicates(
    extractor: Any, X: Any, *, threshold: float | str = "auto"
) -> NearDuplicates:
    """Find pairs of samples whose features point into nearly the same direction.

    Parameters
    ----------
    extractor : transformer
        Fitted, such as :class:`sktransfer.PretrainedFeatureExtractor`, or a pipeline that begins
        with one.
    X : list, array, Series or DataFrame column of n_samples samples
    threshold : float or "auto", default="auto"
        The smallest cosine of the angle between the features of a pair. "auto" compares with other
        samples; see Notes.

    Returns
    -------
    NearDuplicates

    Raises
    ------
    ValueError
        If the threshold is not in [-1, 1], or X is unreadable.

    Notes
    -----
    Each sample is compared with all others, and its 20 nearest are pairs with it where they are
    similar enough. Equal samples are found in any number.

    How similar different samples are depends on the network and on the data. With "auto", two
    samples are a pair if their distance, 1 less the cosine, is at most a third of that from one of
    them to its 20th neighbour (of fewer than 80 samples, to a neighbour so near that a quarter are
    nearer). With the default network and 245 photographs of ants and bees, no two of these are a
    pair, and at least 95 % of them are pairs with their copies that are mirrored, brightened,
    reduced to half the size, compressed as JPEG of quality 50, or cropped by 5 % at each side.

    Examples
    --------
    >>> from sklearn.datasets import load_sample_images
    >>> from sktransfer import PretrainedFeatureExtractor
    >>> from sktransfer.inspection import find_near_duplicates
    >>> palace, flower = load_sample_images().images
    >>> X = [palace, flower, palace[:, ::-1]]
    >>> find_near_duplicates(PretrainedFeatureExtractor().fit(X), X).pairs.tolist()
    [[0, 2]]
    """
    if not isinstance(threshold, str) and not -1 <= threshold <= 1:
        raise ValueError(f"threshold={threshold!r}: give a cosine, between -1 and 1, or 'auto'.")
    return near_duplicates_of(check_array(extractor.transform(X)), threshold)


def near_duplicates_of(features: np.ndarray, threshold: float | str = "auto") -> NearDuplicates:
    """Find near duplicates by features, ``(n_samples, n_features)``."""
    rows = normalize(features.astype(np.float32))
    _, first, inverse = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    inverse = inverse.ravel()
    equal = np.flatnonzero(first[inverse] != np.arange(len(rows)))
    pairs = [np.column_stack([first[inverse[equal]], equal])]
    similarity = [np.ones(len(equal))]
    if len(first) > 1:
        search = NearestNeighbors(metric="cosine", algorithm="brute").fit(rows[first])
        distance, near = search.kneighbors(rows[first], min(_NEIGHBOURS + 1, len(first)))
        cosine = 1 - distance
        at = np.column_stack([np.repeat(first, near.shape[1]), first[near].ravel()])
        least: Any = threshold
        if threshold == "auto":  # of each row; the first of its neighbours is the row itself
            place = int(np.clip(len(cosine) // 4, 2, _NEIGHBOURS))
            other = cosine[:, min(place, cosine.shape[1] - 1)]
            least = 1 - (1 - other[:, None]) / _RATIO
        similar = (cosine >= least).ravel() & (at[:, 0] != at[:, 1])
        pairs.append(np.sort(at[similar], axis=1))
        similarity.append(cosine.ravel()[similar])
    return _sorted(np.concatenate(pairs), np.concatenate(similarity), len(rows))


def _sorted(pairs: np.ndarray, similarity: np.ndarray, n_samples: int) -> NearDuplicates:
    pairs, first = np.unique(pairs, axis=0, return_index=True)
    similarity = similarity[first]
    order = np.argsort(-similarity, kind="stable")
    return NearDuplicates(pairs[order], similarity[order], n_samples)
