"""Save and load estimators in files that hold no code."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import safetensors.numpy
import safetensors.torch
from sklearn.pipeline import Pipeline

from ..backbones.serialization import check_tensors
from ..data import package_versions, warn_later_versions
from .archive import (
    DamagedFileError,
    UntrustedTypesError,
    dump_objects,
    load_objects,
    read_archive,
    untrusted_types,
    write_archive,
)
from .networks import NetworkWriter, read_network
from .reading import Reader
from .writing import Writer

__all__ = ["inspect_file", "load", "save"]

_OBJECTS, _ARRAYS, _SUFFIX = "estimator.skops", "arrays.safetensors", ".safetensors"
_SHOWN = 1000  # classes listed in the table of contents


def save(estimator: Any, path: str | os.PathLike[str], *, self_contained: bool = False) -> None:
    """Save an estimator in a file that anyone can load, because loading it executes nothing.

    Parameters
    ----------
    estimator : estimator
        Any estimator of sktransfer, or an estimator of scikit-learn that contains some, such as a
        ``Pipeline``; fitted or not.
    path : str or Path
        The file, which is replaced when the new one is complete.
    self_contained : bool, default=False
        Whether the weights of published networks are in the file. If not, the file has their name
        and fingerprint, and the machine that loads it must have the same weights. Tensors that
        were changed by training, and those of your own modules, are always in the file.

    Raises
    ------
    TypeError
        If the estimator holds an object that cannot be written, such as a lock.
    ValueError
        If ``self_contained`` is not possible for a network, or the estimator holds more values
        than :func:`load` takes. An earlier file stays as it is.
    ImportError
        If skops is not installed.

    See Also
    --------
    load : Load the file.

    Notes
    -----
    The file is a zip of JSON, safetensors, and a part of skops, which holds the objects of
    scikit-learn. It has no pickle. Parameters ``memory`` are not saved.

    Your own modules, and functions given as parameters, are in the file by their name alone:
    ``load(path, modules={name: function})`` gives them back.

    Examples
    --------
    >>> import os, tempfile
    >>> from sklearn.datasets import load_sample_images
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> import sktransfer
    >>> photos = load_sample_images().images
    >>> model = make_pipeline(sktransfer.PretrainedFeatureExtractor(), LogisticRegression())
    >>> file = os.path.join(tempfile.mkdtemp(), "model.skt")
    >>> sktransfer.save(model.fit(photos, ["house", "flower"]), file)
    >>> sktransfer.load(file).predict(photos).tolist()
    ['house', 'flower']
    """
    writer = Writer(NetworkWriter(self_contained))
    try:
        objects = dump_objects(writer.write(estimator))
    except RecursionError as error:
        raise TypeError("The estimator refers to itself, or is nested too deeply.") from error
    except ValueError as error:
        raise ValueError(f"The estimator cannot be saved: {error}") from error
    parts = {_OBJECTS: objects, _ARRAYS: safetensors.numpy.save(writer.arrays)}
    parts |= {f"{name}{_SUFFIX}": safetensors.torch.save(t) for name, t in writer.tensors.items()}
    _check_tensors(parts)
    contents = {
        "versions": package_versions(),
        "estimator": _summary(estimator),
        "classes": _classes(estimator),
        "networks": writer.networks,
        "modules": sorted(writer.named),
    }
    write_archive(path, contents, parts)


def _summary(estimator) -> str:
    """Name the class of an estimator, with the steps of a pipeline."""
    if not isinstance(estimator, Pipeline):
        return type(estimator).__name__
    return f"Pipeline({', '.join(_summary(step) for _, step in estimator.steps)})"


def _classes(estimator) -> list | None:
    classes = getattr(estimator, "classes_", None)
    return classes[:_SHOWN].tolist() if isinstance(classes, np.ndarray) else None


def load(
    path: str | os.PathLike[str],
    *,
    modules: Mapping[str, Callable[..., Any]] | None = None,
    trusted: Sequence[str | type[Any]] | None = None,
) -> Any:
    """Load an estimator that :func:`save` wrote. Nothing in the file is executed.

    Parameters
    ----------
    path : str or Path
    modules : mapping of str to callable, default=None
        What the file holds by name alone: for your own modules, functions without arguments that
        return a ``torch.nn.Module`` or a :class:`Backbone` with any weights; and functions that
        were parameters, as they are.
    trusted : sequence of str or type, default=None
        Types of objects that may be constructed besides those of sktransfer, NumPy and
        scikit-learn, such as a transformer of your own. The error lists what a file needs. Types
        are imported by their name, so that you should know them.

    Returns
    -------
    estimator
        Its predictions are the same, bit for bit, with the same versions of the packages.

    Raises
    ------
    ValueError
        If the file is damaged or not one of :func:`save`; if the weights on this machine are
        not those that it names; or if it needs something in ``modules``.
    TypeError
        If it holds types that are not trusted.
    FileNotFoundError, ImportError
        If weights that it names, or packages, are not installed. Nothing is downloaded.

    Warns
    -----
    UserWarning
        If the file was saved with a later major version of sktransfer, torch or scikit-learn.

    See Also
    --------
    save : Save an estimator; with an example.
    """
    try:
        contents, parts = read_archive(path)
        warn_later_versions(_versions(contents), f"{os.fspath(path)!r}")
        objects = load_objects(_part(parts, _OBJECTS), trusted)
        return Reader(*_read_tensors(parts), modules or {}, read_network).read(objects)
    except UntrustedTypesError as error:
        raise TypeError(f"{os.fspath(path)!r} cannot be loaded: {error}") from None
    except (OSError, ImportError, MemoryError):
        raise
    except Exception as error:  # what a hostile file holds can raise anything
        raise _refused(path, error) from error


def _refused(path: str | os.PathLike, error: Exception) -> ValueError:
    """Make the error for a file that cannot be loaded."""
    reason = str(error).strip() or type(error).__name__
    if not isinstance(error, ValueError):
        reason = f"its content does not fit together ({type(error).__name__}: {reason:.200})"
    return ValueError(f"{os.fspath(path)!r} cannot be loaded: {reason:.2000}")


def _versions(contents: dict) -> dict[str, str]:
    found = contents.get("versions")
    if not isinstance(found, dict):
        raise DamagedFileError("it does not say which versions wrote it")
    return found


def _part(parts: Mapping[str, bytes], name: str) -> bytes:
    if name not in parts:
        raise DamagedFileError(f"it has no part {name!r}")
    return parts[name]


def _check_tensors(parts: Mapping[str, bytes]) -> None:
    for name, part in parts.items():
        if name.endswith(_SUFFIX):
            check_tensors(part, name)


def _read_tensors(parts: Mapping[str, bytes]) -> tuple[dict, dict]:
    """Return the arrays, and the tensors of each network."""
    _check_tensors(parts)
    try:
        arrays = safetensors.numpy.load(_part(parts, _ARRAYS))
        tensors = {
            name.removesuffix(_SUFFIX): safetensors.torch.load(part)
            for name, part in parts.items()
            if name.endswith(_SUFFIX) and name != _ARRAYS
        }
    except (safetensors.SafetensorError, KeyError, TypeError) as error:
        raise DamagedFileError(f"its tensors cannot be read ({error})") from error
    return arrays, tensors


def inspect_file(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Say what a file of :func:`save` holds, without loading it.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    dict
        "format", "versions", "estimator", "classes", "networks", "modules" that ``load`` must be
        given, "types" that it must trust, and "parts" with their sizes in bytes.

    Raises
    ------
    ValueError
        If the file is damaged or not one of :func:`save`.
    """
    try:
        contents, parts = read_archive(path)
        types = untrusted_types(_part(parts, _OBJECTS))
    except ValueError as error:
        raise _refused(path, error) from error
    sizes = {name: len(part) for name, part in parts.items()}
    return {key: v for key, v in contents.items() if key != "sha256"} | {
        "types": types,
        "parts": sizes,
    }
