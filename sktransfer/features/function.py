"""A function from samples to features that can be sent to other processes."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import xxhash
from sklearn.utils.validation import check_is_fitted

from .._compat.sklearn import OUTPUT_CONFIG
from ..backbones import keep_last
from ..data import Modality
from .base import shallow_copy
from .compute import Loader, SampleError, read_chunks

_KEPT = 2  # networks in a process

_LOCK = threading.Lock()
_PAYLOADS: dict[str, tuple[bytes, int]] = {}  # and the number of users
_LOADED: dict[str, tuple[Any, threading.Lock]] = {}


class Computed(NamedTuple):
    """Features of those among some samples that can be read."""

    positions: list[int]
    digests: list[bytes]
    features: np.ndarray
    failed: list[tuple[int, object, Exception]]


class FeatureFunction:
    """A function from samples to features, for tasks that other processes run.

    It is pickled as the name of the network and a fingerprint, or, for an own module, as the
    module. A process loads a network once, whatever the number of tasks, and keeps the last two.
    Threads of a process share it.

    Parameters
    ----------
    extractor : PretrainedFeatureExtractor
        Fitted.

    Attributes
    ----------
    key : str
        Identifies the pickled extractor.

    Examples
    --------
    >>> from sklearn.datasets import load_sample_images
    >>> from sktransfer import PretrainedFeatureExtractor
    >>> from sktransfer.features import FeatureFunction
    >>> photos = load_sample_images().images
    >>> function = FeatureFunction(PretrainedFeatureExtractor().fit(photos))
    >>> function(photos).shape
    (2, 1280)
    """

    key: str
    width: int

    def __init__(self, extractor: Any):
        check_is_fitted(extractor)
        extractor = _copy(extractor, verbose=0)  # each task would draw a bar
        self.payload: bytes | None = _code_pickler().dumps(extractor)
        self.key = xxhash.xxh3_128_hexdigest(self.payload)
        self.width = extractor.n_features_out_
        _keep(self.key, extractor)

    def __call__(self, samples: Any) -> np.ndarray:
        """Return the features of samples, as ``transform`` of the extractor takes them."""
        if not len(samples):
            return np.empty((0, self.width), np.float32)
        extractor, lock = self._load()
        with lock:
            return extractor.transform(samples)

    @property
    def modality(self) -> Modality:
        """The type of the samples."""
        return self._load()[0].backbone_.modality

    def light(self) -> FeatureFunction:
        """Return the function without the extractor, for processes that :func:`keep_payload`."""
        other = object.__new__(type(self))
        vars(other).update(vars(self), payload=None)
        return other

    def compute(self, samples: Sequence[Any]) -> Computed:
        """Compute the features of the samples that can be read, and list the others."""
        extractor, lock = self._load()
        extractor = _copy(extractor, on_error="nan")
        positions: list[int] = []
        digests: list[bytes] = []
        tables = [np.empty((0, self.width), np.float32)]
        failed: dict[int, Exception] = {}
        with Loader(0) as loader:
            for pairs in read_chunks(samples, self.modality, loader, by_value=False):
                errors = [key for _, key in pairs if isinstance(key, SampleError)]
                failed |= {error.position: error.cause for error in errors}
                read = [pair for pair in pairs if pair[0].position not in failed]
                if not read:
                    continue
                with lock:
                    features = extractor.transform([sample.content for sample, _ in read])
                bad = {i: ValueError(cause) for i, cause in extractor.bad_samples_.items()}
                for i in np.flatnonzero(~np.isfinite(features).all(axis=1)).tolist():
                    bad.setdefault(i, ValueError("the network gives NaN or infinity for it"))
                failed |= {read[i][0].position: why for i, why in bad.items()}
                good = [i for i in range(len(read)) if i not in bad]
                positions += [read[i][0].position for i in good]
                digests += [read[i][1] for i in good]
                tables.append(features[good] if bad else features)
        problems = [(i, samples[i], failed[i]) for i in sorted(failed)]
        return Computed(positions, digests, np.concatenate(tables), problems)

    def _load(self) -> tuple[Any, threading.Lock]:
        """Return the extractor of this process."""
        with _LOCK:
            if self.key in _LOADED:
                return _LOADED[self.key]
            payload = self.payload or _PAYLOADS.get(self.key, (None, 0))[0]
        if payload is None:
            raise RuntimeError("This process has not received the network of the function.")
        return _keep(self.key, pickle.loads(payload))

    def __dask_tokenize__(self) -> str:
        return self.key

    def __repr__(self) -> str:
        return f"FeatureFunction({self.key[:8]})"


def _code_pickler() -> Any:
    """Return cloudpickle, which sends the code of ``__main__``; joblib requires it."""
    try:
        import cloudpickle
    except ImportError:  # older versions of joblib contain it
        from joblib.externals import cloudpickle
    return cloudpickle


def keep_payload(key: str, payload: bytes) -> None:
    """Keep the pickled extractor of a function in this process."""
    with _LOCK:
        _, n_users = _PAYLOADS.get(key, (payload, 0))
        _PAYLOADS[key] = payload, n_users + 1


def drop_payload(key: str) -> None:
    """Forget a pickled extractor when it has been dropped as often as it was kept."""
    with _LOCK:
        payload, n_users = _PAYLOADS.pop(key, (b"", 1))
        if n_users > 1:
            _PAYLOADS[key] = payload, n_users - 1


def _keep(key: str, extractor) -> tuple[Any, threading.Lock]:
    with _LOCK:
        return keep_last(_LOADED, key, _KEPT, lambda: (extractor, threading.Lock()))


def _copy(extractor, **changed) -> Any:
    """Copy an extractor and share its attributes, except that it returns arrays."""
    other = shallow_copy(extractor, **changed)
    vars(other).pop(OUTPUT_CONFIG, None)
    return other


# -- collections of Dask ---------------------------------------------------------------------------


def first_sample(X: Any) -> Any:
    """Return the first sample of a collection of Dask, as a collection of one sample in memory."""
    if hasattr(X, "chunks"):
        return X[:1].compute()
    return X.head(1, npartitions=-1) if hasattr(X, "head") else list(X.take(1, npartitions=-1))


def transform_lazily(extractor: Any, X: Any) -> Any:
    """Return the features of a collection of Dask as a collection of the same kind.

    An array, or a data frame of a series or data frame, or a bag of vectors.
    """
    from dask import delayed

    # A task of its own, whose result each worker is sent once.
    function = delayed(FeatureFunction(extractor), pure=True, traverse=False)
    if hasattr(X, "chunks"):
        return _array(X, function, extractor.n_features_out_)
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
