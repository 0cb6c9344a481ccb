"""Make objects again from the records of a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import sparse
from sklearn.base import BaseEstimator
from sklearn.utils import Bunch
from torch import nn

from .._compat.torch import buffers_of
from ..backbones.serialization import LARGEST_VALUES, read_json
from .archive import DamagedFileError
from .kinds import ESTIMATORS, PLAIN
from .writing import KIND, is_loss, is_of_scikit, torch_code

__all__ = ["Reader"]


class Reader:
    """Replace the records in an object by what they describe.

    Parameters
    ----------
    arrays : mapping of str to ndarray
    tensors : mapping of str to mapping of str to Tensor
        Of each network that is in the file.
    named : mapping of str to object
        What the user gives by name.
    read_network : callable
        Given this reader and a record, returns the network.
    """

    arrays: Mapping[str, np.ndarray]
    tensors: Mapping[str, Mapping[str, torch.Tensor]]

    def __init__(
        self,
        arrays: Mapping[str, np.ndarray],
        tensors: Mapping[str, Mapping[str, torch.Tensor]],
        named: Mapping[str, Any],
        read_network: Callable[[Reader, dict[str, Any]], Any],
    ):
        self.arrays, self.tensors = arrays, tensors
        self.named = named
        self.read_network = read_network
        self.networks: dict[str, Any] = {}  # those with tensors in the file, by their part
        self._numbered: dict[int, Any] = {}
        self._arrays_read: dict[str, np.ndarray] = {}
        self._done: dict[int, Any] = {}  # objects of other packages, which are changed in place

    def read(self, item: Any) -> Any:
        """Return what an object of :meth:`Writer.write` was made from.

        Parameters
        ----------
        item : object

        Returns
        -------
        object
        """
        if isinstance(item, dict) and KIND in item:
            return self._read_record(item)
        if type(item) in (list, tuple):
            return type(item)(map(self.read, item))
        if type(item) is dict:
            return {key: self.read(value) for key, value in item.items()}
        is_object = isinstance(item, BaseEstimator) or is_of_scikit(item)
        if is_object and id(item) not in self._done:
            self._done[id(item)] = item
            for key, value in list(vars(item).items()):
                vars(item)[key] = self.read(value)
        return item

    def _read_record(self, record: dict) -> Any:
        kind = record[KIND]
        if kind == "same":
            return self._numbered[record["number"]]
        made = self._make(kind, record)
        if "number" in record:
            self._numbered[record["number"]] = made
        return made

    def _make(self, kind: str, record: dict) -> Any:
        if kind in ESTIMATORS:
            return self._estimator(ESTIMATORS[kind], record["state"])
        if kind in PLAIN:
            return self._plain(PLAIN[kind], record["state"])
        if kind in _READERS:
            return _READERS[kind](self, record)
        if kind == "network":
            return self.read_network(self, record)
        raise DamagedFileError(
            f"this version of sktransfer knows no objects of the kind {kind!r:.80}"
        )

    def _estimator(self, cls: type, state: dict) -> Any:
        made: Any = object.__new__(cls)
        made.__setstate__(_checked(cls, self.read(state)))
        return made

    def _plain(self, cls: type, state: dict) -> Any:
        made: Any = object.__new__(cls)
        state = _checked(cls, self.read(state))
        if issubclass(cls, nn.Module):
            made.__setstate__(state)
        else:
            vars(made).update(state)
        return made

    def _attributes(self, record: dict) -> dict:
        return _parsed(record["plain"]) | self.read(record["rest"])

    def find_named(self, name: str) -> Any:
        """Return what the user gives by a name.

        Raises
        ------
        ValueError
            If it is not given.
        """
        if name not in self.named:
            raise ValueError(
                f"it needs the function {name!r}, which a file does not hold: pass it as "
                f"load(path, modules={{{name!r}: function}})"
            )
        return self.named[name]

    def _named(self, record: dict) -> Any:
        return self.find_named(record["name"])

    def _json(self, record: dict) -> Any:
        return _parsed(record["text"])

    def _dictionary(self, record: dict) -> dict:
        return {key: self.read(value) for key, value in record["items"]}

    def _bunch(self, record: dict) -> Bunch:
        return Bunch(**self._dictionary(record))

    def _array(self, record: dict) -> np.ndarray:
        name = record["name"]
        if name not in self._arrays_read:  # once, so that a small file needs little memory
            found = self.arrays[name]
            if [found.dtype.name, list(found.shape)] != [record["type"], record["shape"]]:
                raise DamagedFileError(f"array {name!r:.80} has another type or shape")
            found = np.array(found)  # aligned, and can be written
            self._arrays_read[name] = found if record["order"] == "C" else found.T
        return self._arrays_read[name]

    def _objects(self, record: dict) -> np.ndarray:
        items, mask, shape = self.read(record["items"]), record["mask"], record["shape"]
        if type(items) is not list or not (mask is None or _is_mask(mask, len(items))):
            raise DamagedFileError("an array of objects has no list of items, or another mask")
        made = np.empty(len(items), object)
        made[:] = items
        if mask is not None:
            made = np.ma.MaskedArray(made, mask=np.array(mask, bool))
        if list(made.reshape(shape).shape) != shape:
            raise DamagedFileError("an array of objects has another shape than its items")
        return made.reshape(shape)

    def _tensor(self, record: dict) -> torch.Tensor:
        return self.tensors["tensors"][record["name"]]

    def _sparse(self, record: dict) -> Any:
        parts = tuple(self.read(record[name]) for name in ("data", "indices", "indptr"))
        made = _SPARSE[record["type"]](parts, shape=tuple(record["shape"]))
        made.check_format()
        return made

    def _path(self, record: dict) -> Path:
        return Path(record["text"])

    def _class(self, record: dict) -> Any:
        found = torch_code(record["name"])
        if found is None:
            raise DamagedFileError(f"{record['name']!r:.80} is no class of torch that it may name")
        return found

    def _loss(self, record: dict) -> Any:
        cls = self._class(record)
        if not is_loss(cls):
            raise DamagedFileError(f"{record['name']!r:.80} is no loss of torch")
        made, state = cls(), _checked(cls, self.read(record["state"]))
        for key, value in state.items():
            _check_setting(made, key, value)
            setattr(made, key, value)
        return made


_SPARSE = {
    cls.__name__: cls
    for cls in (sparse.csc_array, sparse.csc_matrix, sparse.csr_array, sparse.csr_matrix)
}

_READERS: dict[str, Callable[[Reader, dict[str, Any]], Any]] = {
    "Bunch": Reader._bunch,
    "array": Reader._array,
    "attributes": Reader._attributes,
    "class of torch": Reader._class,
    "dict": Reader._dictionary,
    "json": Reader._json,
    "loss of torch": Reader._loss,
    "named": Reader._named,
    "objects": Reader._objects,
    "path": Reader._path,
    "sparse": Reader._sparse,
    "tensor": Reader._tensor,
}


def _parsed(text: str) -> Any:
    return read_json(text, "a collection of values", **LARGEST_VALUES)


def _check_setting(loss: torch.nn.Module, key: str, value: Any) -> None:
    """Refuse what is no setting of a loss, and tensors that it does not have or cannot use."""
    name, settings = type(loss).__name__, vars(loss)
    if isinstance(value, torch.Tensor):
        if key not in buffers_of(loss):
            raise DamagedFileError(f"{name} has no tensor {key!r:.80}")
        if not value.isfinite().all():
            raise DamagedFileError(f"tensor {key!r} of {name} has numbers that are not finite")
    elif key in buffers_of(loss) and value is None:
        return
    elif key.startswith("_") or key not in settings or not _is_alike(value, settings[key]):
        raise DamagedFileError(f"{name} has no setting {key!r:.80} of this type")


def _is_mask(mask: Any, n_items: int) -> bool:
    is_list = type(mask) is list and len(mask) == n_items
    return is_list and all(type(value) is bool for value in mask)


def _is_alike(one: Any, other: Any) -> bool:
    return type(one) is type(other) or (isinstance(one, Real) and isinstance(other, Real))


def _checked(cls: type, state: Any) -> dict:
    """Return attributes of an object, none of which hides a method."""
    if not isinstance(state, dict):
        raise DamagedFileError(f"{cls.__name__} has no state")
    for key in state:
        of_class = getattr(cls, key, None) if isinstance(key, str) else cls
        if callable(of_class) or isinstance(of_class, property):
            raise DamagedFileError(f"{cls.__name__} has no attribute {key!r:.80}")
    return state
