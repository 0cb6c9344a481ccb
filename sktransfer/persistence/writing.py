"""Write objects as records: dictionaries of plain values, arrays and objects of scikit-learn."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import sparse
from sklearn.base import BaseEstimator
from sklearn.utils import Bunch
from torch import nn

from .._compat.torch import LossBase, buffers_of
from ..backbones import Backbone
from ..backbones.fingerprint import is_library
from ..backbones.serialization import LARGEST_VALUES, write_json
from ..features import BackboneEstimator
from .kinds import ESTIMATORS, PLAIN

__all__ = ["KIND", "Writer", "is_loss", "is_of_scikit", "torch_code"]

KIND = "#"  # the key that marks a dictionary as a record
_MANY = 8  # values from which a collection of plain ones is written as one text
_NUMBERS = "biuf"  # kinds of the types of arrays that safetensors holds


class Writer:
    """Replace the package's own objects, arrays and tensors in an object by records.

    Objects of other packages are copied if they refer to such an object, and not changed.

    Parameters
    ----------
    write_network : callable
        Given this writer and a :class:`Backbone` or a module, returns its record.

    Attributes
    ----------
    arrays : dict of str to ndarray
    tensors : dict of str to dict of str to Tensor
        The tensors of each network that is in the file.
    places : dict of int to str
        Their names in ``tensors``, by the ids of the modules.
    factories : dict of int to callable
        The function that made a network, by the id of the network.
    networks : list of dict
        A summary of each network.
    named : dict of str to object
        What must be given to ``load`` by name.
    """

    def __init__(self, write_network: Callable[[Writer, Any], dict[str, Any]]):
        self.write_network = write_network
        self.arrays: dict[str, np.ndarray] = {}
        self.tensors: dict[str, dict[str, torch.Tensor]] = {}
        self.places: dict[int, str] = {}
        self.factories: dict[int, Any] = {}
        self.networks: list[dict[str, Any]] = []
        self.named: dict[str, Any] = {}
        self._done: dict[int, tuple[Any, Any]] = {}  # what was written, and its result
        self._numbers: dict[int, int] = {}  # of records that others refer to

    def write(self, item: Any) -> Any:
        """Return a record for an object, or the object itself if it holds nothing of ours.

        Parameters
        ----------
        item : object

        Returns
        -------
        object
        """
        if isinstance(item, str | int | float | None):
            return item
        if id(item) not in self._done:
            self._done[id(item)] = item, self._record(item)
        elif id(item) in self._numbers:
            return {KIND: "same", "number": self._numbers[id(item)]}
        return self._done[id(item)][1]

    def _record(self, item: Any) -> Any:
        if is_loss(type(item)):
            return self._loss(item)
        if PLAIN.get(type(item).__name__) is type(item):
            state: Any = item.__getstate__()
            return {KIND: type(item).__name__, "state": self._attributes(state)}
        if isinstance(item, Backbone | nn.Module | BackboneEstimator):
            return self._shared(item)
        for cls, write in _WRITERS.items():
            if isinstance(item, cls):
                return write(self, item)
        return self._object(item) if is_of_scikit(item) else item

    def _shared(self, item: Any) -> dict:
        """Write an object that several others may refer to, with a number."""
        number = len(self._numbers)
        self._numbers[id(item)] = number
        estimator = isinstance(item, BackboneEstimator)
        record = self._estimator(item) if estimator else self.write_network(self, item)
        return record | {"number": number}

    def _estimator(self, item: Any) -> dict:
        name = type(item).__name__
        if ESTIMATORS.get(name) is not type(item):
            raise TypeError(
                f"{type(item).__module__}.{name} is not an estimator of sktransfer, so that a file "
                "cannot name its class. Save it with joblib."
            )
        state: Any = item.__getstate__()
        del state["_versions"]  # the file has them once
        if isinstance(item.backbone, types.FunctionType | type) and "backbone_" in state:
            self.factories[id(state["backbone_"])] = item.backbone
        return {KIND: name, "state": self._attributes(state)}

    def _attributes(self, state: dict) -> dict:
        """Write attributes, without a store, which is a place on the machine."""
        state = state | {"memory": None} if "memory" in state else state
        plain = {key: value for key, value in state.items() if _is_plain(value)}
        rest = {key: self.write(value) for key, value in state.items() if key not in plain}
        return {KIND: "attributes", "plain": _text(plain), "rest": rest}

    def name_of(self, item: Any, name: str) -> str:
        """Return the name under which something must be given to ``load``.

        Parameters
        ----------
        item : object
            Equal to another one if the same can be given for both.
        name : str

        Returns
        -------
        str
            With a number if the name is in use.
        """
        name, n = name.strip("<>"), 1
        while self.named.setdefault(name if n == 1 else f"{name}-{n}", item) != item:
            n += 1
        return name if n == 1 else f"{name}-{n}"

    def _scikit(self, item: BaseEstimator) -> Any:
        """Copy an estimator of another package, if it refers to something of ours."""
        name = type(item).__name__
        if ESTIMATORS.get(name) is type(item):
            state: Any = item.__getstate__()
            return {KIND: name, "state": self._attributes(state)}
        return self._object(item)

    def _object(self, item: Any) -> Any:
        before = vars(item)
        after = {key: self.write(value) for key, value in before.items()}
        if all(after[key] is before[key] for key in before):
            return item
        copy = object.__new__(type(item))
        vars(copy).update(after)
        return copy

    def _sequence(self, item: list | tuple) -> Any:
        if type(item) not in (list, tuple):
            return item
        if type(item) is list and _is_large_and_plain(item):
            return {KIND: "json", "text": _text(item)}
        written = type(item)(map(self.write, item))
        return item if all(map(_is, written, item)) else written

    def _dictionary(self, item: dict) -> Any:
        if type(item) not in (dict, Bunch):
            return item
        name, keys_are_texts = type(item).__name__, all(type(key) is str for key in item)
        if name == "dict" and keys_are_texts and _is_large_and_plain(item):
            return {KIND: "json", "text": _text(item)}
        if name == "Bunch" or not keys_are_texts or KIND in item:
            return {KIND: name, "items": [[k, self.write(v)] for k, v in item.items()]}
        written = {key: self.write(value) for key, value in item.items()}
        return item if all(written[key] is item[key] for key in item) else written

    def _array(self, item: np.ndarray) -> Any:
        if item.dtype == object:
            return self._objects(item)
        native = item.dtype.kind in _NUMBERS and item.dtype.isnative and item.itemsize <= 8
        if type(item) is not np.ndarray or not native:
            return item
        # Products of matrices can differ in their last bits by the order of the memory.
        order = "F" if item.flags.f_contiguous and not item.flags.c_contiguous else "C"
        name = str(len(self.arrays))
        self.arrays[name] = kept = (item.T if order == "F" else item).copy(order="C")
        about = {"order": order, "type": item.dtype.name, "shape": list(kept.shape)}
        return {KIND: "array", "name": name, **about}

    def _objects(self, item: np.ndarray) -> Any:
        """Write an array of objects, masked as those of a search are, if it holds any of ours."""
        values = np.ma.getdata(item).ravel().tolist()
        written = [self.write(value) for value in values]
        if all(map(_is, written, values)):
            return item
        mask = item.mask.ravel().tolist() if isinstance(item, np.ma.MaskedArray) else None
        return {KIND: "objects", "items": written, "shape": list(item.shape), "mask": mask}

    def _tensor(self, item: torch.Tensor) -> dict:
        own = self.tensors.setdefault("tensors", {})
        name = str(len(own))
        own[name] = item.detach().cpu().contiguous()
        return {KIND: "tensor", "name": name}

    def _sparse(self, item: Any) -> dict:
        kept = item if item.format in ("csr", "csc") else item.tocsr()
        parts = {name: self.write(getattr(kept, name)) for name in ("data", "indices", "indptr")}
        return {KIND: "sparse", "type": type(kept).__name__, "shape": list(kept.shape), **parts}

    def _path(self, item: Path) -> dict:
        return {KIND: "path", "text": str(item)}

    def _loss(self, item: nn.Module) -> dict:
        """Write a loss of torch by its class and its settings."""
        state = {k: v for k, v in vars(item).items() if not k.startswith("_")}
        name, settings = type(item).__name__, vars(type(item)())
        other = [key for key in state if key not in settings]
        if other:
            raise TypeError(
                f"loss={item!r:.80} has {other}, which {name} of torch does not have and a file "
                "does not hold. Leave it out, give a loss of your own, or save with joblib."
            )
        return {KIND: "loss of torch", "name": name, "state": self.write(state | buffers_of(item))}

    def _code(self, item: types.FunctionType | type) -> Any:
        """Replace a function or a class of the user's by its name."""
        if item is torch_code(item.__name__):
            return {KIND: "class of torch", "name": item.__name__}
        if is_library(item):
            return item
        return {KIND: "named", "name": self.name_of(item, item.__name__)}


def torch_code(name: str) -> Any:
    """Return an optimizer, a module or a function of torch by name, or None."""
    for place, base in ((torch.optim, torch.optim.Optimizer), (nn, nn.Module)):
        found = getattr(place, name, None)
        if isinstance(found, type) and issubclass(found, base):
            return found
    found = getattr(nn.functional, name, None)
    return found if isinstance(found, types.FunctionType) and not name.startswith("_") else None


def is_loss(cls: Any) -> bool:
    """Tell whether a class is one of torch's losses that are settings alone, without weights."""
    is_class = isinstance(cls, type) and cls is torch_code(cls.__name__)
    if not is_class or not issubclass(cls, LossBase):
        return False
    required = inspect.Parameter.empty  # as the sizes of weights are
    parameters = inspect.signature(cls).parameters.values()
    return not any(p.default is required and p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters)


def is_of_scikit(item: Any) -> bool:
    """Tell whether an object is one of scikit-learn that may refer to others, such as a scorer."""
    return type(item).__module__.startswith("sklearn.") and hasattr(item, "__dict__")


def _is(one: Any, other: Any) -> bool:
    return one is other


def _text(item: list | dict) -> str:
    return write_json(item, "a collection of values", **LARGEST_VALUES)


def _is_large_and_plain(item: list | dict) -> bool:
    """Tell whether JSON can hold a collection exactly, and shorter than skops does."""
    return len(item) >= _MANY and _is_plain(item)


def _is_plain(item: Any) -> bool:
    if type(item) is dict:
        return all(type(key) is str and _is_plain(value) for key, value in item.items())
    if type(item) is list:
        return all(map(_is_plain, item))
    return item is None or type(item) in (str, int, float, bool)


# In this order: the first class that an object is an instance of.
_WRITERS: dict[Any, Callable[[Writer, Any], Any]] = {
    BaseEstimator: Writer._scikit,
    list: Writer._sequence,
    tuple: Writer._sequence,
    dict: Writer._dictionary,
    np.ndarray: Writer._array,
    torch.Tensor: Writer._tensor,
    Path: Writer._path,
    type: Writer._code,
    types.FunctionType: Writer._code,
    **dict.fromkeys((sparse.spmatrix, sparse.sparray), Writer._sparse),
}
