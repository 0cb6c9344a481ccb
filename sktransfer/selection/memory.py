"""The features of one study, kept in memory in front of the user's store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..features import FeatureStore, empty_table

__all__ = ["StudyMemory"]

_IN_MEMORY = 2**30  # bytes; further rows are kept in temporary files


class StudyMemory(FeatureStore):
    """Keep the features of one study in memory, in front of the user's store.

    It is the ``memory`` of the estimators of a study, so that each sample passes each frozen stage
    once.

    Parameters
    ----------
    behind : FeatureStore or None
        The user's store.

    Attributes
    ----------
    keeps : bool
        Whether new rows are kept. The last fit of a study needs none of them again.
    """

    location: Path  # that of the user's store, if there is one

    def __init__(self, behind: FeatureStore | None):
        self.behind = behind
        if behind is not None:
            self.location = behind.location
        self.keeps = True
        self._rows: dict[tuple[str, bytes], np.ndarray] = {}
        self._set_aside: set[tuple[str, bytes]] = set()
        self._n_bytes = 0

    @property
    def conversions(self) -> Path | None:
        """The folder of converted networks in the user's store, if there is one."""
        return None if self.behind is None else self.behind.conversions

    @property
    def generations(self) -> Path | None:
        """That of the user's store; None if there is none, and all rows are of this process."""
        return None if self.behind is None else self.behind.generations

    def get(self, recipe: str, digests: Sequence[bytes]) -> list[np.ndarray | None]:
        """Look up the features of samples, in memory first.

        Parameters
        ----------
        recipe, digests
            As in :meth:`FeatureStore.get`.

        Returns
        -------
        list of ndarray or None
        """
        found = [self._rows.get((recipe, digest)) for digest in digests]
        if self.behind is None:
            return found
        self._hand_on(self.behind, recipe, digests)
        missing = [i for i, row in enumerate(found) if row is None]
        rows = self.behind.get(recipe, [digests[i] for i in missing])
        for i, row in zip(missing, rows, strict=True):
            found[i] = row
        return found

    def _hand_on(self, store: FeatureStore, recipe: str, digests: Sequence[bytes]) -> None:
        """Put rows that were set aside into the user's store, now that they are used."""
        used = [d for d in dict.fromkeys(digests) if (recipe, d) in self._set_aside]
        if used:
            self._set_aside -= {(recipe, digest) for digest in used}
            rows = [self._rows[recipe, digest] for digest in used]
            store.try_put(recipe, used, _as_table(rows))

    def put(self, recipe: str, digests: Sequence[bytes], values: np.ndarray) -> None:
        """Keep the features of samples, in the user's store too.

        Parameters
        ----------
        recipe, digests, values
            As in :meth:`FeatureStore.put`.
        """
        self._keep(recipe, digests, values)
        if self.behind is not None:
            self.behind.try_put(recipe, digests, values)

    def try_put(self, recipe: str, digests: Sequence[bytes], values: np.ndarray) -> bool:
        """Keep the features of samples, as :meth:`put`; return True."""
        self.put(recipe, digests, values)
        return True

    def try_put_aside(self, recipe: str, digests: Sequence[bytes], values: np.ndarray) -> bool:
        """Keep large features that may not be used; the user's store gets them when they are."""
        self._keep(recipe, digests, values)
        if self.behind is not None and self.keeps:
            self._set_aside |= {(recipe, digest) for digest in digests}
        return True

    def _keep(self, recipe: str, digests: Sequence[bytes], values: np.ndarray) -> None:
        if not self.keeps:
            return
        self._n_bytes += values.nbytes
        if self._n_bytes > _IN_MEMORY and values.dtype != object:
            table = empty_table(values.shape, values.dtype, in_memory=0)
            table[:] = values
            values = table
        self._rows |= {(recipe, d): row for d, row in zip(digests, values, strict=True)}

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        return f"StudyMemory({self.behind!r})"


def _as_table(rows: list[np.ndarray]) -> np.ndarray:
    """Return rows, which may differ in length, as an array of objects."""
    table = np.empty(len(rows), object)
    for i, row in enumerate(rows):
        table[i] = row
    return table
