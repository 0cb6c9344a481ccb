"""Write and read objects of scikit-learn by skops, which constructs trusted types only."""

from __future__ import annotations

import functools
import io
import json
import zipfile
from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn import metrics, model_selection

from ..backbones.serialization import read_json
from .archive import DamagedFileError, check_members

__all__ = ["UntrustedTypesError", "dump_objects", "load_objects", "untrusted_types"]


_LARGEST_SCHEMA = {"most_bytes": 2**28, "most_values": 500_000}  # an object has six values
_PRIVATE = {
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn.calibration._TemperatureScaling",
    "sklearn.metrics._scorer._PassthroughScorer",
}


class UntrustedTypesError(TypeError):
    """A file has objects of types that are not trusted."""


def _skops():
    try:
        import skops.io
    except ImportError:
        raise ImportError(
            "Files of sktransfer.save require skops: pip install 'sktransfer[files]'"
        ) from None
    return skops.io


def dump_objects(item: Any) -> bytes:
    """Write an object with all that it refers to.

    Parameters
    ----------
    item : object

    Returns
    -------
    bytes

    Raises
    ------
    TypeError
        If it holds an object that skops cannot write.
    """
    skops = _skops()
    try:
        return _compact(skops.dumps(item))
    except Exception as error:  # objects may raise anything when they are asked for their state
        raise TypeError(f"skops cannot write it ({type(error).__name__}: {error})") from error


def _compact(data: bytes) -> bytes:
    """Write the JSON of skops without spaces, which are more than half of it."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(made, "w") as new:
        for name in old.namelist():
            part = old.read(name)
            if name.endswith(".json"):
                part = json.dumps(json.loads(part), separators=(",", ":")).encode()
            new.writestr(zipfile.ZipInfo(name), part)
    return made.getvalue()


def load_objects(data: bytes, trusted: Sequence[str | type[Any]] | None) -> Any:
    """Read what :func:`dump_objects` wrote.

    Parameters
    ----------
    data : bytes
    trusted : sequence of str or type, or None
        Types that are constructed besides those of NumPy, SciPy and scikit-learn.

    Returns
    -------
    object

    Raises
    ------
    DamagedFileError
        If the bytes are not of that form.
    UntrustedTypesError
        If there are other types; the message lists them.
    """
    skops = _skops()
    from skops.io.exceptions import UntrustedTypesFoundException

    _check(data)
    try:
        return skops.loads(data, trusted=[*_helpers_of_scikit(), *(trusted or ())])
    except UntrustedTypesFoundException as error:
        raise UntrustedTypesError(
            f"{error}\nIf you know and trust them, pass their names as trusted= to sktransfer.load."
        ) from None
    except Exception as error:  # a hostile file can raise anything
        raise _unreadable(error) from error


def untrusted_types(data: bytes) -> list[str]:
    """List the types that must be trusted explicitly.

    Parameters
    ----------
    data : bytes
        What :func:`dump_objects` wrote.

    Returns
    -------
    list of str
    """
    skops = _skops()
    _check(data)
    try:
        found = skops.get_untrusted_types(data=data)
    except Exception as error:
        raise _unreadable(error) from error
    return sorted({*found} - {*_helpers_of_scikit()})


@functools.cache
def _helpers_of_scikit() -> tuple[str, ...]:
    """Name what scikit-learn's searches hold: splitters, scorers, their metrics, and calibrations.

    None of them does anything when it is made. skops trusts estimators, and not these.
    """
    scorers = [metrics.get_scorer(name) for name in metrics.get_scorer_names()]
    found = {type(scorer) for scorer in scorers} | {scorer._score_func for scorer in scorers}
    found |= {cls for cls in vars(model_selection).values() if hasattr(cls, "get_n_splits")}
    own = {f"{one.__module__}.{one.__qualname__}" for one in found}
    return tuple(sorted(own | _PRIVATE))


def _unreadable(error: Exception) -> DamagedFileError:
    return DamagedFileError(f"its objects cannot be read ({type(error).__name__}: {error!s:.200})")


def _check(data: bytes) -> None:
    """Check the zip file of skops: no member is compressed, no array announces more than it has."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for name in check_members(archive, len(data)):
                _check_member(name, archive.read(name))
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise DamagedFileError(f"its objects are no zip file ({error})") from error


def _check_member(name: str, content: bytes) -> None:
    if name.endswith(".npy"):
        _check_array(name, content)
    elif name.endswith(".json"):
        _check_texts(read_json(content, name, **_LARGEST_SCHEMA))
    elif not name.endswith(".bin"):
        raise DamagedFileError(
            f"its objects hold a part {name!r}, which this version does not read"
        )


def _check_texts(node: Any) -> None:
    """Refuse JSON inside the texts of a schema, which skops parses and writes for scalars only."""
    if isinstance(node, dict):
        text = node.get("content")
        if isinstance(text, str) and text.lstrip()[:1] in ("[", "{"):
            raise DamagedFileError("its objects hold JSON that is no number or text")
    for inner in node.values() if isinstance(node, dict) else node:
        if isinstance(inner, dict | list):
            _check_texts(inner)


def _check_array(name: str, content: bytes) -> None:
    file = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(file)
        read = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
        shape, _, dtype = read[version[0]](file)
        expected = dtype.itemsize * int(np.prod(shape, dtype=object))
    except Exception as error:  # the header is evaluated as a literal, which can raise anything
        raise DamagedFileError(f"array {name!r} has no valid header ({error!s:.100})") from error
    if dtype.hasobject or expected != len(content) - file.tell():
        raise DamagedFileError(f"array {name!r} has not the size that it announces")
