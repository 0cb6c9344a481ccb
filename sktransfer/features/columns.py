"""Run several columns of samples through one network: missing cells and principal components."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import check_is_fitted

from ..data import named_among, split_columns, without_missing
from .output_blocks import SeveralBlocks
from .reporting import reported

__all__ = ["SeveralColumns"]

_ALL = range(2**62)


class _Table(NamedTuple):
    """Features of the samples of a column, and their rows; None if no cell is missing."""

    features: np.ndarray
    rows: np.ndarray | None = None
    n_samples: int | None = None


class SeveralColumns(SeveralBlocks):
    """Base of the extractor, which may be given several columns of samples.

    The first column decides about layers and sizes; all columns pass through one network. A
    subclass defines ``_fit_column``.
    """

    pca_: list[Any]
    _column_names: tuple[Any, ...] = (0,)
    _fit_column: Callable[..., Any]

    @reported()
    def _fit_columns(self, X, y) -> list[_Table] | None:
        """Fit to each column; return their tables if components are learned."""
        self._validate_params()
        columns = self._split(X)
        self.__dict__.pop("pca_", None)  # of an earlier fit
        self._column_names = tuple(columns)
        present = [self._present(column) for column in columns.values()]
        first = next((j for j, (_, rows, _) in enumerate(present) if _has_rows(rows)), 0)
        samples, rows, _ = present[first]
        self._fit_column(samples, y if rows is None or y is None else _safe_indexing(y, rows))
        if self.n_components is None:
            others = [c for j, (c, rows, _) in enumerate(present) if j != first and _has_rows(rows)]
            self._check_others(others)
            return None
        tables = [self._run_column(column) for column in columns.values()]
        self.pca_ = [self._learn(table.features) for table in tables]
        return tables

    def _check_others(self, columns: list) -> None:
        """Check the columns that the fit does not use, without opening samples."""
        if self.on_error == "raise":
            for column in columns:
                self._check_samples(column)

    def _split(self, X) -> dict:
        return {0: X} if self.image_shape is not None else split_columns(X)

    def _present(self, column) -> tuple:
        if self.missing == "error":
            return column, None, None
        return without_missing(column)

    def _transform_columns(self, X) -> np.ndarray:
        check_is_fitted(self)
        columns = self._split(X)
        self._check_columns(columns)
        bad: dict[int, str] = {}
        tables = [self._run_column(column, bad, name) for name, column in columns.items()]
        if self.on_error == "nan":
            self.bad_samples_: dict[int, str] = dict(sorted(bad.items()))
        return self._side_by_side(tables)

    def _check_columns(self, columns: dict) -> None:
        known, found = self._column_names, tuple(columns)
        named = all(isinstance(name, str) for name in (*known, *found))
        if len(known) != len(found) or (named and known != found):
            raise ValueError(
                f"X has {len(found)} columns of samples, {_listed(found)}, and in fit it had "
                f"{len(known)}, {_listed(known)}."
            )

    def _run_column(self, column, bad: dict | None = None, name: Any = 0) -> _Table:
        """Compute the features of the samples that are there."""
        samples, rows, n = self._present(column)
        if rows is not None and not len(rows):
            return _Table(np.empty((0, sum(self._widths)), np.float32), rows, n)
        if self.on_error != "nan":
            with named_among(_ALL if rows is None else rows):
                return _Table(self._run_samples(self._transform_samples(samples)), rows, n)
        features, causes = self._run_readable(samples)
        for i, cause in causes.items():
            place = i if rows is None else int(rows[i])
            label = f"column {name!r}: " if len(self._column_names) > 1 else ""
            (bad if bad is not None else {}).setdefault(place, label + cause)
        return _Table(features, rows, n)

    def _learn(self, features: np.ndarray) -> Any:
        """Learn the principal components of the rows that could be computed."""
        features = features[~np.isnan(features).any(axis=1)]
        # Both give the same components, without random numbers.
        solver = "covariance_eigh" if len(features) > features.shape[1] else "full"
        most = min(features.shape)
        if self.n_components > most:
            raise ValueError(
                f"n_components={self.n_components}: {features.shape[0]} samples of "
                f"{features.shape[1]} features have at most {most} components."
            )
        from sklearn.decomposition import PCA  # not when the package is imported

        from ..transferability import one_thread_if_small

        with one_thread_if_small(features):
            return PCA(self.n_components, svd_solver=solver).fit(features)

    def _side_by_side(self, tables: list[_Table]) -> np.ndarray:
        pcas = getattr(self, "pca_", None) or [None] * len(tables)
        parts = [self._filled(*pair) for pair in zip(tables, pcas, strict=True)]
        # A single block is not copied, which would need twice the memory of the output.
        return parts[0] if len(parts) == 1 else np.hstack(parts)

    def _filled(self, table: _Table, pca: Any) -> np.ndarray:
        """Return the output of a column, with a row for each missing cell."""
        features = table.features if pca is None else _components(table.features, pca)
        if table.rows is None:
            return features
        fill = 0 if self.missing == "zero" else np.nan
        shape = (table.n_samples or 0, features.shape[1])
        full = np.full(shape, fill, np.float32)
        full[table.rows] = features
        return full

    @property
    def columns_(self) -> tuple[Any, ...]:
        return self._column_names

    @property
    def n_features_out_(self) -> int:
        return self._n_features_out

    @property
    def _n_features_out(self) -> int:
        if hasattr(self, "pca_"):
            return sum(pca.n_components_ for pca in self.pca_)
        return sum(self._widths) * len(self._column_names)

    def _names_out(self) -> list[str]:
        """Return the names of the output of each column."""
        names = []
        for j, column in enumerate(self._column_names):
            label = f"{column}_" if len(self._column_names) > 1 else ""
            names += [f"{label}{self.backbone_.name}_{name}" for name in self._names_of(j)]
        return names

    def _names_of(self, j: int) -> list[str]:
        if hasattr(self, "pca_"):
            return [f"pca_{i}" for i in range(self.pca_[j].n_components_)]
        pairs = zip(self._blocks, self._widths, strict=True)
        return [f"{self._name_block(*block)}_{i}" for block, width in pairs for i in range(width)]

    def _name_block(self, i: int, layer: str, pooling) -> str:
        raise NotImplementedError


def _components(features: np.ndarray, pca: Any) -> np.ndarray:
    """Return the components of each row; NaN for rows with NaN."""
    readable = ~np.isnan(features).any(axis=1)
    found = np.full((len(features), pca.n_components_), np.nan, np.float32)
    if readable.any():
        found[readable] = pca.transform(features[readable])
    return found


def _has_rows(rows: np.ndarray | None) -> bool:
    return rows is None or len(rows) > 0


def _listed(names: tuple) -> str:
    return str(list(names[:10]))
