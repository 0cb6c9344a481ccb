"""Types of the arguments of public functions, for annotations."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import ArrayLike


class _Indexable(Protocol):
    """A list, an array, a Series, a DataFrame or a dataset: samples with positions."""

    def __len__(self) -> int: ...

    def __getitem__(self, position: Any, /) -> Any: ...


class _Splitter(Protocol):
    """A cross-validation generator of scikit-learn."""

    def split(self, X: Any, y: Any = None, groups: Any = None) -> Any: ...


Samples: TypeAlias = ArrayLike | _Indexable
Targets: TypeAlias = ArrayLike | _Indexable  # tables and sparse matrices among them
PathLike: TypeAlias = str | os.PathLike[str]
RandomState: TypeAlias = int | np.random.RandomState | None
Folds: TypeAlias = int | _Splitter | Iterable[tuple[np.ndarray, np.ndarray]]
