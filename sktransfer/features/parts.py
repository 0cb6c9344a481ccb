"""Parts of the samples: what the store has of them, and what is to be opened and computed."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import numpy as np

from ..backbones import Backbone
from .generations import CheckedStore
from .opened import Columns
from .opening import Sample, many_of, open_for
from .passes import Pass
from .tables import stacked

__all__ = ["Found", "Part"]


class Part:
    """Some samples in a row.

    Parameters
    ----------
    positions : list of int
        Of those that equal no earlier sample.
    repeated : dict of int to int
        Positions of the others, and of the samples that they equal.
    found : list of Found
        Features of the former, for each pass.
    n_samples : int
    """

    backbones: list[Backbone]
    found: list[Found]
    n_samples: int
    positions: list[int]
    repeated: dict[int, int]
    together: list[int]
    users: dict[int, list[int]]

    def __init__(
        self, positions: list[int], repeated: dict[int, int], found: list[Found], n_samples: int
    ):
        self.positions, self.repeated = positions, repeated
        self.found, self.n_samples = found, n_samples
        self.backbones = [one.one.backbone for one in found]
        passes = [k for k, one in enumerate(found) if one.missing]
        self.together = [k for k in passes if many_of(self.backbones[k])]
        users: dict[int, list[int]] = {}
        for k in sorted({*passes}.difference(self.together)):
            for i in found[k].missing:
                users.setdefault(i, []).append(k)
        self.users = dict(sorted(users.items()))  # the passes, for each sample to be opened alone

    def without(self, positions: Collection[int]) -> Part:
        """Return this part without some samples."""
        kept = [i for i, position in enumerate(self.positions) if position not in positions]
        found = [one.of(kept) for one in self.found]
        return Part([self.positions[i] for i in kept], self.repeated, found, self.n_samples)

    def openings(self, samples: list[Sample]) -> Iterator[Callable[..., Any]]:
        """Yield functions that open the samples that are missing in any pass."""
        for k in self.together:
            many = self.backbones[k].preprocess.many
            yield functools.partial(many, [samples[i].content for i in self.found[k].missing])
        for i, users in self.users.items():
            yield functools.partial(open_for, samples[i], [self.backbones[k] for k in users])

    def features(self, results: Iterator[list[Any]]) -> dict[tuple[Any, ...], np.ndarray]:
        """Compute the features that are missing, and return all."""
        groups = {k: next(results) for k in self.together}
        lengths = {k: len(one.missing) for k, one in enumerate(self.found) if k not in groups}
        # The results come second: zip would lose one where the users end.
        rows = zip(self.users.values(), results, strict=False)
        columns = Columns(rows, lengths, self.backbones[0].modality)
        features: dict[tuple, np.ndarray] = {}
        for k, one in enumerate(self.found):
            opened = groups.pop(k) if k in groups else columns.groups(k)
            features |= one.complete(opened)
        return features


class Found:
    """Some samples in one pass: what the store has of their features, and what is missing.

    Parameters
    ----------
    one : Pass
    samples : list of Sample
    digests : list of bytes
        Of the samples.
    """

    digests: list[bytes]
    one: Pass
    samples: list[Sample]
    store: CheckedStore | None

    def __init__(self, one: Pass, samples: list[Sample], digests: list[bytes]):
        self.one, self.samples, self.digests, self.store = one, samples, digests, one.store
        store, contents = one.store, [sample.content for sample in samples]
        self.missing: Sequence[int] = range(len(digests))
        self.found: dict[tuple[Any, ...], list[Any]] = {}
        if store is not None:
            self.found = store.get(contents, digests, one.outputs)
            if one.runner is None:
                columns = self.found.values()
                self.missing = sorted({i for c in columns for i, v in enumerate(c) if v is None})

    def of(self, places: list[int]) -> Found:
        """Return the same for some of the samples."""
        samples = [self.samples[i] for i in places]
        return Found(self.one, samples, [self.digests[i] for i in places])

    def complete(self, groups: list[Any]) -> dict[tuple[Any, ...], np.ndarray]:
        """Compute the missing features from preprocessed samples, store and return all."""
        new = self.one.compute(groups) if self.missing else {}
        if self.store is None:
            return {output: new[output] for output in self.one.outputs}
        if self.missing:
            self._put_aside(new, self.store)
            for output in self.one.outputs:
                self._put(output, new[output], self.store)
        ragged = self.one.backbone.modality.has_tokens
        return {k: stacked(rows, ragged and np.ndim(rows[0]) > 1) for k, rows in self.found.items()}

    def _put_aside(self, new: dict[Any, np.ndarray], store: CheckedStore) -> None:
        digests = [self.digests[i] for i in self.missing]
        for recipe in self.one.recipes.values():
            for output in recipe.whole_outputs:
                store.put_aside(output[0], digests, new[output[0]])

    def _put(self, output: tuple[int, str], rows: np.ndarray, store: CheckedStore) -> None:
        """Store the features of an output that were missing."""
        found = self.found[output]
        absent = [j for j, i in enumerate(self.missing) if found[i] is None]
        digests = [self.digests[self.missing[j]] for j in absent]
        store.put(output, digests, rows[absent])
        for j in absent:
            found[self.missing[j]] = rows[j]
