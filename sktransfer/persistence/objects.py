"""Estimators as JSON, arrays and objects of scikit-learn, and back.

An estimator is written as a table of objects, in JSON::

    {"objects": [{"kind": "numbers", "name": "0", ...},          # object 0
                 {"kind": "network", "how": "reference", ...},   # object 1
                 {"kind": "PretrainedFeatureExtractor", "state": {"backbone_": {"#": 1}, ...}}],
     "estimator": {"#": 2}}

``{"#": n}`` stands for object n. An object refers to earlier ones only, so that the table is read
from its start to its end. Arrays and tensors are in parts of their own. What is neither plain nor
of one of the kinds below is an object of scikit-learn, which skops writes: all of them are one
list, in which ``{"#": n}`` stands for each object of the table that they hold.
"""

from __future__ import annotations

import functools
import inspect
import pickle
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import sparse
from sklearn.base import BaseEstimator
from sklearn.utils import Bunch
from torch import nn

from .._compat.torch import LossBase, buffers_of
from ..backbones import Backbone, ImagePreprocessing, ProcessorPreprocessing
from ..backbones.fingerprint import is_library
from ..backbones.text_encoders import TokenizerPreprocessing
from ..data import ClassTarget, IndicatorTarget, NumericTarget
from ..features import (
    BackboneEstimator,
    LayerChoice,
    Output,
    PretrainedClassifier,
    PretrainedFeatureExtractor,
    SizeChoice,
)
from ..features.word_weights import TokenWeights
from ..finetuning import Augmentation, AverageWeights, FineTunedClassifier, FineTunedRegressor
from ..finetuning.adapters import describe_adapters, is_lora_config, make_config
from ..selection import Blend, TransferClassifier, TransferRegressor
from ..selection.candidates import (
    ClassifierCandidate,
    ClassMapCandidate,
    Counts,
    LinearCandidate,
    OwnClassesCandidate,
    ProductCandidate,
    Tabular,
    TunedCandidate,
)
from ..transferability import GlobalScaler, LinearProbe, RidgeProbe

# The classes of the package whose objects a file may hold, with the state of their pickles.
OWN: dict[str, Any] = {
    cls.__name__: cls
    for cls in (
        Augmentation,
        AverageWeights,
        Blend,
        ClassMapCandidate,
        ClassTarget,
        ClassifierCandidate,
        Counts,
        FineTunedClassifier,
        FineTunedRegressor,
        GlobalScaler,
        ImagePreprocessing,
        IndicatorTarget,
        LayerChoice,
        LinearCandidate,
        LinearProbe,
        NumericTarget,
        Output,
        OwnClassesCandidate,
        PretrainedClassifier,
        PretrainedFeatureExtractor,
        ProcessorPreprocessing,
        ProductCandidate,
        RidgeProbe,
        SizeChoice,
        Tabular,
        TokenWeights,
        TokenizerPreprocessing,
        TransferClassifier,
        TransferRegressor,
        TunedCandidate,
    )
}

_LARGEST = 2**22  # values that an object may have
_REF = "#"  # the only key of a dictionary that stands for an object of the table
_PLAIN = (str, int, float, bool, type(None))
_OF_OBJECT = ("state", "items", "value")  # of a record, whose parts are those of the object
_MANY = 8  # values from which a collection is shorter in the table than in skops


class DamagedFileError(ValueError):
    """A file is not one that ``sktransfer.save`` wrote, or was changed since."""


class Writer:
    """Write an object as a table.

    Parameters
    ----------
    write_network : callable
        Given this writer and a :class:`Backbone` or a module, returns the values of its record.
    self_contained : bool, default=False
        Whether tensors of published networks are written, too.

    Attributes
    ----------
    objects : list of dict
        The table.
    scikit : list
        Objects for skops. Those that hold objects of the table are copies.
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

    def __init__(
        self,
        write_network: Callable[[Writer, Any], dict[str, Any]],
        *,
        self_contained: bool = False,
    ):
        self.write_network = write_network
        self.self_contained = self_contained
        self.objects: list[dict[str, Any]] = []
        self.scikit: list[Any] = []
        self.arrays: dict[str, np.ndarray] = {}
        self.tensors: dict[str, dict[str, torch.Tensor]] = {}
        self.places: dict[int, str] = {}
        self.factories: dict[int, Any] = {}
        self.networks: list[dict[str, Any]] = []
        self.named: dict[str, Any] = {}
        # By id, with what was written, whose id would be used again otherwise:
        self._numbers: dict[int, tuple[int, Any]] = {}
        self._written: dict[int, tuple[Any, Any]] = {}

    def write(self, item: Any, place: str) -> Any:
        """Return the value of an object in JSON, after adding it to the table if it is not plain.

        ``place`` is that of the object in the estimator, for messages: attributes, keys and
        positions. A ``TypeError`` if no file can hold a part of the object.
        """
        if type(item) in _PLAIN:
            return item
        if type(item) is list:
            return [
                inner if type(inner) in _PLAIN else self.write(inner, f"{place}.{i}")
                for i, inner in enumerate(item)
            ]
        if type(item) is dict and _has_plain_keys(item):
            return {key: self.write(inner, f"{place}.{key}") for key, inner in item.items()}
        return self._reference(item, place)

    def _reference(self, item: Any, place: str) -> dict[str, int]:
        """Add an object to the table, once, and return what stands for it."""
        if id(item) not in self._numbers:
            kind, record = self._record(item, place)
            values: dict[str, Any] = {
                key: self.write(inner, place if key in _OF_OBJECT else f"{place}.{key}")
                for key, inner in record.items()
            }
            if kind in ("dict", "Bunch"):
                values["items"] = [
                    [self.write(key, f"a key of {place}"), self.write(inner, f"{place}.{key}")]
                    for key, inner in item.items()
                ]
            self.objects.append({"kind": kind} | values)
            self._numbers[id(item)] = len(self.objects) - 1, item
        return {_REF: self._numbers[id(item)][0]}

    def _record(self, item: Any, place: str) -> tuple[str, dict[str, Any]]:
        """Return the kind of an object, and what is written of it."""
        cls: Any = type(item)
        if cls in OWN.values():
            return cls.__name__, {"state": self._state(item)}
        if isinstance(item, BackboneEstimator):
            raise TypeError(
                f"{cls.__module__}.{cls.__name__} is not an estimator of sktransfer, so that a "
                "file cannot name its class. Save it with joblib."
            )
        if is_lora_config(item):
            return "LoraConfig", {"settings": describe_adapters(item)}
        if is_loss(cls):
            return "loss of torch", {"name": cls.__name__, "state": _settings_of_loss(item)}
        if isinstance(item, Backbone | nn.Module):
            return "network", self.write_network(self, item)
        code: Any = item if isinstance(item, types.FunctionType | type) else None
        if is_of_user(code):
            return "named", {"name": self.name_of(code, code.__name__, place)}
        if code is not None and code is _torch_code(code.__name__):
            return "class of torch", {"name": code.__name__}
        if isinstance(item, torch.Tensor):
            tensors = self.tensors.setdefault("tensors", {})
            name = str(len(tensors))
            tensors[name] = item.detach().cpu().resolve_conj().resolve_neg().contiguous()
            return "tensor", {"name": name}
        if sparse.issparse(item):
            kept = item if item.format in ("csr", "csc") else item.tocsr()
            parts = {name: getattr(kept, name) for name in ("data", "indices", "indptr")}
            return "sparse", {"type": type(kept).__name__, "shape": list(kept.shape), **parts}
        if isinstance(item, Path):
            return "path", {"text": str(item)}
        if cls in (tuple, set):
            return cls.__name__, {"items": list(item)}
        if cls is Bunch or (cls is dict and not _has_plain_keys(item)):
            return cls.__name__, {}  # its pairs follow
        if cls in (list, dict):
            return "values", {"value": item}
        if isinstance(item, np.generic) and item.dtype.type in _SCALARS.values():
            return "scalar", {"type": cls.__name__, "value": item.item()}
        array = self._array(item) if isinstance(item, np.ndarray) else None
        if array is not None:
            return array
        written = self._for_skops(item, place)
        _refuse_unwritable(written, place)
        self.scikit.append(written)
        return "scikit-learn", {"place": len(self.scikit) - 1}

    def _state(self, item: Any) -> dict[str, Any]:
        """Return the state that a pickle has, without what belongs to this machine."""
        state = dict(item.__getstate__() or {})
        if isinstance(item, BackboneEstimator):
            del state["_versions"]  # the file has them once
            if isinstance(item.backbone, types.FunctionType | type) and "backbone_" in state:
                self.factories[id(state["backbone_"])] = item.backbone
        return state | {"memory": None} if "memory" in state else state

    def _array(self, item: np.ndarray) -> tuple[str, dict[str, Any]] | None:
        """Return what is written of an array, or None for types that skops has alone."""
        if item.dtype == object and type(item) in (np.ndarray, np.ma.MaskedArray):
            values = np.ma.getdata(item).ravel().tolist()
            is_masked = isinstance(item, np.ma.MaskedArray)
            mask = np.ma.getmaskarray(item).ravel().tolist() if is_masked else None
            return "objects", {"items": values, "shape": list(item.shape), "mask": mask}
        if type(item) is not np.ndarray or not item.dtype.isnative or not item.itemsize:
            return None
        if item.dtype.kind == "U":
            codes = item.ravel().view(np.uint32).reshape(*item.shape, item.itemsize // 4)
            return "texts", {"codes": codes}
        if item.dtype.type not in _SCALARS.values():
            return None
        # Products of matrices can differ in their last bits by the order of the memory.
        order = "F" if item.flags.f_contiguous and not item.flags.c_contiguous else "C"
        name = str(len(self.arrays))
        self.arrays[name] = kept = (item.T if order == "F" else item).copy(order="C")
        about = {"order": order, "type": item.dtype.name, "shape": list(kept.shape)}
        return "numbers", {"name": name, **about}

    def _for_skops(self, item: Any, place: str) -> Any:
        """Return an object in which references stand for what skops cannot write.

        It is the same one if it holds nothing of that sort, and is not changed.
        """
        if item is None or isinstance(item, str | int | float):
            return item
        if id(item) not in self._written:
            self._written[id(item)] = self._without_own(item, place), item
        return self._written[id(item)][0]

    def _without_own(self, item: Any, place: str) -> Any:
        if _is_of_table(item):
            return self._reference(item, place)
        if type(item) in (list, dict) and len(item) >= _MANY and _is_plain(item):
            return self._reference(item, place)
        if type(item) in (list, tuple):
            inner = type(item)(self._for_skops(x, f"{place}.{i}") for i, x in enumerate(item))
            return item if all(map(_is, inner, item)) else inner
        if type(item) is dict:
            if not _has_plain_keys(item):
                return self._reference(item, place)
            written = {key: self._for_skops(x, f"{place}.{key}") for key, x in item.items()}
            return item if all(map(_is, written.values(), item.values())) else written
        if isinstance(item, np.ndarray) and item.dtype == object:
            values = np.ma.getdata(item).ravel().tolist()
            parts = (self._for_skops(x, f"{place}.{i}") for i, x in enumerate(values))
            return item if all(map(_is, parts, values)) else self._reference(item, place)
        if isinstance(item, BaseEstimator) or _is_of_scikit(item):
            state = {key: self._for_skops(x, f"{place}.{key}") for key, x in vars(item).items()}
            if all(map(_is, state.values(), vars(item).values())):
                return item
            copy = object.__new__(type(item))
            vars(copy).update(state)
            return copy
        return item

    def name_of(self, item: Any, name: str, place: str) -> str:
        """Return the name under which something must be given to ``load``.

        Items that are equal have one name, since the same can be given for both; other names that
        are in use get a number. A lambda is a ``TypeError``, which names its place.
        """
        if name == "<lambda>":
            raise TypeError(
                f"The estimator cannot be saved: a file cannot hold {place}, a lambda, and load "
                "could not be given it by a name. Write it as a function, with def."
            )
        n = 1
        while self.named.setdefault(name if n == 1 else f"{name}-{n}", item) != item:
            n += 1
        return name if n == 1 else f"{name}-{n}"


class Reader:
    """Make objects again from a table.

    Parameters
    ----------
    tensors : mapping of str to mapping of str to Tensor
        Of each network that is in the file.
    scikit : list
        What skops has read.
    named : mapping of str to object
        What the user gives by name.
    read_network : callable
        Given this reader and the values of a record, returns the network.

    Attributes
    ----------
    objects : list
        Those of the table that are read.
    networks : dict of str to Backbone
        Those with tensors in the file, by their part.
    """

    arrays: Mapping[str, np.ndarray]
    tensors: Mapping[str, Mapping[str, torch.Tensor]]
    scikit: list[Any]

    def __init__(
        self,
        arrays: Mapping[str, np.ndarray],
        tensors: Mapping[str, Mapping[str, torch.Tensor]],
        scikit: list[Any],
        named: Mapping[str, Any],
        read_network: Callable[[Reader, dict[str, Any]], Any],
    ):
        self.arrays, self.tensors, self.scikit = arrays, tensors, scikit
        self.named = named
        self.read_network = read_network
        self.objects: list[Any] = []
        self.networks: dict[str, Any] = {}
        self._arrays_read: dict[str, np.ndarray] = {}
        self._sizes: list[int] = []  # of each object, if it were written without references
        self._size = 0
        self._filled: dict[int, Any] = {}  # objects of scikit-learn, which are changed in place

    def read_table(self, table: Any) -> Any:
        """Return the estimator of a table, from JSON; an error for a table of another form."""
        for record in table["objects"]:
            self._size = 1
            values = {key: self.read(value) for key, value in record.items()}
            kind = values.pop("kind")
            if type(kind) is not str:
                raise DamagedFileError("it has an object whose kind is no text")
            self._sizes.append(self._size)
            self.objects.append(self._make(kind, values))
        return self.read(table["estimator"])

    def read(self, value: Any) -> Any:
        """Return a value of JSON with objects in the place of references."""
        if type(value) is list:
            return [inner if type(inner) in _PLAIN else self.read(inner) for inner in value]
        if type(value) is not dict:
            return value
        if _REF not in value:
            items = value.items()
            return {key: v if type(v) in _PLAIN else self.read(v) for key, v in items}
        number = value[_REF]
        if len(value) > 1 or type(number) is not int or not 0 <= number < len(self.objects):
            raise DamagedFileError(f"it has a reference to no earlier object, {value!r:.80}")
        # Objects that share others many times would take hours to be hashed or shown.
        self._size += self._sizes[number]
        if self._size > _LARGEST:
            raise DamagedFileError(f"its objects refer to each other more than {_LARGEST:,} times")
        return self.objects[number]

    def _make(self, kind: Any, record: dict[str, Any]) -> Any:
        """Make an object from what was written of it."""
        if kind in OWN:
            return _with_state(OWN[kind], record["state"])
        match kind:
            case "loss of torch":
                return _loss_with(record["name"], record["state"])
            case "LoraConfig":
                return make_config(record["settings"])
            case "network":
                return self.read_network(self, record)
            case "named":
                return self.find_named(record["name"])
            case "class of torch":
                return _known_torch_code(record["name"])
            case "tensor":
                return self.tensors["tensors"][record["name"]]
            case "sparse":
                parts = tuple(record[name] for name in ("data", "indices", "indptr"))
                matrix = _SPARSE[record["type"]](parts, shape=tuple(record["shape"]))
                matrix.check_format()
                return matrix
            case "path":
                return Path(record["text"])
            case "tuple":
                return tuple(record["items"])
            case "set":
                return set(record["items"])
            case "dict":
                return dict(record["items"])
            case "Bunch":
                return Bunch(**dict(record["items"]))
            case "values":
                return record["value"]
            case "scalar":
                return _SCALARS[record["type"]](record["value"])
            case "objects":
                return _array_of_objects(record["items"], record["shape"], record["mask"])
            case "texts":
                return _array_of_texts(record["codes"])
            case "numbers":
                return self._array(record)
            case "scikit-learn":
                return self._fill(self.scikit[record["place"]])
        raise DamagedFileError(
            f"this version of sktransfer knows no objects of the kind {kind!r:.80}"
        )

    def _array(self, record: dict[str, Any]) -> np.ndarray:
        name = record["name"]
        if name not in self._arrays_read:  # once, so that a small file needs little memory
            array = self.arrays[name]
            if [array.dtype.name, list(array.shape)] != [record["type"], record["shape"]]:
                raise DamagedFileError(f"array {name!r:.80} has another type or shape")
            array = np.array(array)  # aligned, and can be written
            self._arrays_read[name] = array if record["order"] == "C" else array.T
        return self._arrays_read[name]

    def _fill(self, item: Any) -> Any:
        """Put objects in the place of references, in an object of scikit-learn."""
        if type(item) in (list, tuple):
            return type(item)(map(self._fill, item))
        if type(item) is dict:
            return self.read(item) if _REF in item else {k: self._fill(v) for k, v in item.items()}
        is_object = isinstance(item, BaseEstimator) or _is_of_scikit(item)
        if is_object and id(item) not in self._filled:
            self._filled[id(item)] = item
            for key, value in list(vars(item).items()):
                vars(item)[key] = self._fill(value)
        return item

    def find_named(self, name: str) -> Any:
        """Return what the user gives by a name; ValueError if it is not given."""
        if name not in self.named:
            raise ValueError(
                f"it needs the function {name!r}, which a file does not hold: pass it as "
                f"load(path, modules={{{name!r}: function}})"
            )
        return self.named[name]


def _is(inner: Any, other: Any) -> bool:
    return inner is other


def _refuse_unwritable(item: Any, place: str) -> None:
    """Refuse what no file can hold, such as a lock, of which skops would write the type alone.

    It is what pickle refuses. The innermost such part is named by its place in the estimator.
    """
    error, seen = _pickle_error(item), {id(item)}
    while error:
        for inner, part in _parts(item, place):
            if id(part) not in seen and (why := _pickle_error(part)):
                item, place, error = part, inner, why
                seen.add(id(part))
                break
        else:
            if isinstance(item, types.FunctionType):
                _refuse_function(item, place)
            raise TypeError(f"The estimator cannot be saved: a file cannot hold {place} ({error})")


def _refuse_function(item: types.FunctionType, place: str) -> None:
    """Refuse a function that skops would write by its name, and no other process can import."""
    what = "a lambda" if item.__name__ == "<lambda>" else f"the function {item.__qualname__!r}"
    raise TypeError(
        f"The estimator cannot be saved: a file cannot hold {place}, {what}, and load could not "
        "import it by its name. Write it as a function, with def, outside of other functions."
    )


class _Nowhere:
    """A file that keeps nothing."""

    def write(self, content: bytes) -> int:
        return len(content)


def _pickle_error(item: Any) -> str:
    """Return why pickle refuses an object; "" if it does not."""
    try:
        # The content of arrays is not copied.
        pickle.Pickler(_Nowhere(), 5, buffer_callback=lambda buffer: None).dump(item)
    except RecursionError:
        raise
    except Exception as error:  # objects may raise anything when they are asked for their state
        return f"{type(error).__name__}: {error!s:.200}"
    return ""


def _parts(item: Any, place: str) -> Iterator[tuple[str, Any]]:
    """Return the parts of an object, each with its place, from that of the object."""
    if isinstance(item, type | types.ModuleType | types.FunctionType):  # its place says enough
        return
    named: Iterable[tuple[Any, Any]] = getattr(item, "__dict__", {}).items()
    if isinstance(item, dict):
        yield from ((f"a key of {place}", key) for key in item)
        named = item.items()
    elif isinstance(item, functools.partial):
        given = {"func": item.func, "args": item.args, "keywords": item.keywords}
        named = (given | vars(item)).items()
    elif isinstance(item, list | tuple | set | frozenset):
        named = enumerate(item)
    for name, part in named:
        yield f"{place}.{name}", part


def _has_plain_keys(item: dict[Any, Any]) -> bool:
    """Tell whether JSON can hold a dictionary as it is."""
    return all(type(key) is str for key in item) and _REF not in item


def _is_plain(item: Any) -> bool:
    """Tell whether an object is one of JSON."""
    if type(item) is dict:
        return all(type(key) is str and _is_plain(value) for key, value in item.items())
    if type(item) is list:
        return all(map(_is_plain, item))
    return type(item) in _PLAIN


def _is_of_scikit(item: Any) -> bool:
    """Tell whether an object is one of scikit-learn that may refer to others, such as a scorer."""
    return type(item).__module__.startswith("sklearn.") and hasattr(item, "__dict__")


def _is_of_table(item: Any) -> bool:
    """Tell whether an object is none that skops can write."""
    if isinstance(item, types.FunctionType | type):
        return is_of_user(item) or item is _torch_code(item.__name__)
    return type(item) in OWN.values() or isinstance(item, _OF_TABLE) or is_lora_config(item)


_OF_TABLE: tuple[Any, ...] = (Backbone, BackboneEstimator, Bunch, Path, nn.Module, torch.Tensor)
_OF_TABLE += (sparse.spmatrix, sparse.sparray)


def is_of_user(item: Any) -> bool:
    """Tell whether an object is a function or a class that must be given to ``load`` by name."""
    return isinstance(item, types.FunctionType | type) and not is_library(item)


# -- kinds of objects ----------------------------------------------------------------------------


_NUMBERS: list[Any] = [np.dtype(code).type for code in "?bBhHiIqQefd"]  # at most eight bytes
_SCALARS: dict[str, Any] = {cls.__name__: cls for cls in (np.str_, *_NUMBERS)}
_SPARSE: dict[str, Any] = {
    cls.__name__: cls
    for cls in (sparse.csc_array, sparse.csc_matrix, sparse.csr_array, sparse.csr_matrix)
}


def _with_state(cls: Any, state: Any) -> Any:
    """Make an object of the package, none of whose attributes hides a method."""
    item = object.__new__(cls)
    _check_attributes(cls, state)
    if hasattr(cls, "__setstate__"):
        item.__setstate__(state)
    else:
        vars(item).update(state)
    return item


def _check_attributes(cls: type, state: Any) -> None:
    if not isinstance(state, dict):
        raise DamagedFileError(f"{cls.__name__} has no state")
    for key in state:
        of_class = getattr(cls, key, None) if isinstance(key, str) else cls
        if callable(of_class) or isinstance(of_class, property):
            raise DamagedFileError(f"{cls.__name__} has no attribute {key!r:.80}")


def _array_of_texts(codes: Any) -> np.ndarray:
    if codes.dtype != np.uint32 or not codes.shape[-1] or codes.max(initial=0) > 0x10FFFF:
        raise DamagedFileError("an array of texts has codes that are no characters")
    return codes.view(f"U{codes.shape[-1]}")[..., 0]


def _array_of_objects(items: Any, shape: Any, mask: Any) -> np.ndarray:
    is_mask = type(mask) is list and all(type(value) is bool for value in mask)
    if type(items) is not list or not (mask is None or (is_mask and len(mask) == len(items))):
        raise DamagedFileError("an array of objects has no list of items, or another mask")
    array = np.empty(len(items), object)
    array[:] = items
    if mask is not None:
        array = np.ma.MaskedArray(array, mask=np.array(mask, bool))
    if list(array.reshape(shape).shape) != shape:
        raise DamagedFileError("an array of objects has another shape than its items")
    return array.reshape(shape)


def _torch_code(name: str) -> Any:
    """Return an optimizer, a module or a function of torch by name, or None."""
    for place, base in ((torch.optim, torch.optim.Optimizer), (nn, nn.Module)):
        code = getattr(place, name, None)
        if isinstance(code, type) and issubclass(code, base):
            return code
    code = getattr(nn.functional, name, None)
    return code if isinstance(code, types.FunctionType) and not name.startswith("_") else None


def _known_torch_code(name: Any) -> Any:
    code = _torch_code(name)
    if code is None:
        raise DamagedFileError(f"{name!r:.80} is no class of torch that it may name")
    return code


def is_loss(cls: Any) -> bool:
    """Tell whether a class is one of torch's losses that are settings alone, without weights."""
    is_class = isinstance(cls, type) and cls is _torch_code(cls.__name__)
    if not is_class or not issubclass(cls, LossBase):
        return False
    required = inspect.Parameter.empty  # as the sizes of weights are
    parameters = inspect.signature(cls).parameters.values()
    return not any(p.default is required and p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters)


def _settings_of_loss(loss: nn.Module) -> dict[str, Any]:
    settings = {key: value for key, value in vars(loss).items() if not key.startswith("_")}
    name, known = type(loss).__name__, vars(type(loss)())
    other = [key for key in settings if key not in known]
    if other:
        raise TypeError(
            f"loss={loss!r:.80} has {other}, which {name} of torch does not have and a file "
            "does not hold. Leave it out, give a loss of your own, or save with joblib."
        )
    return settings | buffers_of(loss)


def _loss_with(name: Any, settings: Any) -> nn.Module:
    cls = _known_torch_code(name)
    if not is_loss(cls):
        raise DamagedFileError(f"{name!r:.80} is no loss of torch")
    loss = cls()
    _check_attributes(cls, settings)
    for key, value in settings.items():
        _check_setting(loss, key, value)
        setattr(loss, key, value)
    return loss


def _check_setting(loss: nn.Module, key: str, value: Any) -> None:
    """Refuse what is no setting of a loss, and tensors that it does not have or cannot use."""
    name, settings = type(loss).__name__, vars(loss)
    if isinstance(value, torch.Tensor):
        if key not in buffers_of(loss):
            raise DamagedFileError(f"{name} has no tensor {key!r:.80}")
        if not value.isfinite().all():
            raise DamagedFileError(f"tensor {key!r} of {name} has numbers that are not finite")
        return
    if key in buffers_of(loss) and value is None:
        return
    default = settings.get(key)
    is_alike = type(value) is type(default) or all(isinstance(x, Real) for x in (value, default))
    if key.startswith("_") or key not in settings or not is_alike:
        raise DamagedFileError(f"{name} has no setting {key!r:.80} of this type")
