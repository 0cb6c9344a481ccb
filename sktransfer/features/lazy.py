"""Transform collections of Dask: nothing is computed before the result is."""

from __future__ import annotations

from typing import Any

import numpy as np

from .function import FeatureFunction

__all__ = ["first_sample", "is_lazy", "transform_lazily"]


def is_lazy(X: object) -> bool:
    """Tell whether X is a collection of Dask.

    Parameters
    ----------
    X : object

    Returns
    -------
    bool
    """
    return type(X).__module__.partition(".")[0] in ("dask", "dask_expr")


def first_sample(X: Any) -> Any:
    """Return the first sample of a collection, in the form of the collection.

    Parameters
    ----------
    X : dask.array.Array, dask.dataframe.Series or DataFrame, or dask.bag.Bag

    Returns
    -------
    ndarray, Series, DataFrame or list of one sample
    """
    if hasattr(X, "chunks"):
        return X[:1].compute()
    return X.head(1, npartitions=-1) if hasattr(X, "head") else list(X.take(1, npartitions=-1))


def transform_lazily(extractor: Any, X: Any) -> Any:
    """Return the features of a collection as a collection of the same kind.

    Parameters
    ----------
    extractor : PretrainedFeatureExtractor
        Fitted.
    X : dask.array.Array, dask.dataframe.Series or DataFrame, or dask.bag.Bag

    Returns
    -------
    dask.array.Array of shape (n, n_features), dask.dataframe.DataFrame or dask.bag.Bag of vectors
    """
    from dask import delayed

    # A task of its own, whose result each worker is sent once.
    function = delayed(FeatureFunction(extractor), pure=True, traverse=False)
    if hasattr(X, "chunks"):
        return _array(X, function, extractor._n_features_out)
    if hasattr(X, "head"):
        names = extractor.get_feature_names_out()
        return X.map_partitions(_frame, function=function, names=names, meta=_empty(names))
    return X.map_partitions(_list, function)


def _array(X, function, width: int):
    X = X.rechunk(dict.fromkeys(range(1, X.ndim), -1))
    return X.map_blocks(
        _block,
        function=function,
        drop_axis=list(range(1, X.ndim)),
        new_axis=1,
        chunks=(X.chunks[0], (width,)),
        dtype=np.float32,
        meta=np.empty((0, 0), np.float32),
    )


def _block(samples: np.ndarray, function: FeatureFunction) -> np.ndarray:
    return function(samples)


def _frame(samples, function: FeatureFunction, names: np.ndarray):
    import pandas as pd

    return pd.DataFrame(function(samples), columns=names, index=samples.index)


def _empty(names: np.ndarray) -> Any:
    import pandas as pd

    return pd.DataFrame(np.empty((0, len(names)), np.float32), columns=names)


def _list(samples, function: FeatureFunction) -> list[np.ndarray]:
    return list(function(list(samples)))
