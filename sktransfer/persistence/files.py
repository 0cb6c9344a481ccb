"""Save and load estimators in files that hold no code: the file, its limits, and the part of skops.

A file is a zip, in which nothing is compressed, of these parts:

=========================== ================================================================
``contents.json``           versions, a summary, the networks, and a SHA-256 of each other part
``estimator.json``          the table of objects (``objects.py``)
``scikit-learn.skops``      objects of scikit-learn, if there are any
``arrays.safetensors``      arrays of NumPy
``networks/….safetensors``  tensors, a part for each network
=========================== ================================================================

Every JSON in it is limited in bytes, values and nesting before it is parsed.
"""

from __future__ import annotations

import functools
import hashlib
import io
import os
import re
import stat
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import safetensors.numpy
import safetensors.torch
import torch
from sklearn import metrics, model_selection
from sklearn.pipeline import Pipeline

from .._compat.sklearn import PRIVATE_TYPES, score_function
from ..backbones.serialization import LARGEST_VALUES, check_tensors, read_json, write_json
from ..data import check_interrupt, package_versions, warn_later_versions
from ..features import find_network
from .networks import read_network, write_network
from .objects import DamagedFileError, Reader, Writer

_TABLE, _SCIKIT, _ARRAYS = "estimator.json", "scikit-learn.skops", "arrays.safetensors"
_SUFFIX = ".safetensors"
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
        If the estimator holds an object that cannot be written, such as a lock, or a lambda.
    ValueError
        If ``self_contained`` is not possible for a network, or the estimator holds more values
        than :func:`load` takes. An earlier file stays as it is.
    ImportError
        If there are objects of scikit-learn, and skops is not installed.

    See Also
    --------
    load : Load the file.

    Notes
    -----
    The file is a zip of JSON, safetensors, and a part of skops, which holds the objects of
    scikit-learn, if there are any. It has no pickle. Parameters ``memory`` are not saved.

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
    writer = Writer(write_network, self_contained=self_contained)
    try:
        value = writer.write(estimator, type(estimator).__name__)
        table = {"estimator": value, "objects": writer.objects}
        parts = {_TABLE: write_json(table, _TABLE, **LARGEST_VALUES).encode()}
        if writer.scikit:
            parts[_SCIKIT] = _dump(writer.scikit)
        parts[_ARRAYS] = safetensors.numpy.save(writer.arrays)
        for name, tensors in writer.tensors.items():
            parts[name + _SUFFIX] = safetensors.torch.save(tensors)
        for name in parts:
            if name.endswith(_SUFFIX):
                check_tensors(parts[name], name)
    except RecursionError as error:
        raise TypeError("The estimator refers to itself, or is nested too deeply.") from error
    except ValueError as error:
        raise ValueError(f"The estimator cannot be saved: {error}") from error
    classes = getattr(estimator, "classes_", None)
    contents = {
        "versions": package_versions(),
        "estimator": _summary(estimator),
        "classes": _shown_classes(classes) if isinstance(classes, np.ndarray) else None,
        "networks": writer.networks,
        "modules": sorted(writer.named),
    }
    if kinds := _column_kinds(estimator):
        contents["columns"] = {str(name): kind for name, kind in kinds.items()}
    write_archive(path, contents, parts)


def _shown_classes(classes: np.ndarray) -> list[Any]:
    shown = classes[:_SHOWN].tolist()
    return [label if isinstance(label, str | int | float | list) else str(label) for label in shown]


def _column_kinds(estimator: Any) -> dict[Any, str] | None:
    """Return what the columns of a table are, also of a search or a threshold around a model."""
    try:
        return getattr(find_network(estimator).step, "column_kinds_", None)
    except TypeError:  # it has several networks, or none
        return None


def _summary(estimator) -> str:
    """Name the class of an estimator, with the steps of a pipeline."""
    if not isinstance(estimator, Pipeline):
        return type(estimator).__name__
    return f"Pipeline({', '.join(_summary(step) for _, step in estimator.steps)})"


@torch.inference_mode(False)  # what is loaded can be trained later
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
        versions = contents.get("versions")
        if not isinstance(versions, dict):
            raise DamagedFileError("it does not say which versions wrote it")
        warn_later_versions(versions, f"{os.fspath(path)!r}")
        table = read_json(_part(parts, _TABLE), _TABLE, **LARGEST_VALUES)
        scikit = _load(parts[_SCIKIT], trusted) if _SCIKIT in parts else []
        arrays, tensors = _read_tensors(parts)
        return Reader(arrays, tensors, scikit, modules or {}, read_network).read_table(table)
    except _UntrustedTypesError as error:
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


def _part(parts: Mapping[str, bytes], name: str) -> bytes:
    if name not in parts:
        raise DamagedFileError(f"it has no part {name!r}")
    return parts[name]


def _read_tensors(parts: Mapping[str, bytes]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the arrays, and the tensors of each network."""
    for name, part in parts.items():
        if name.endswith(_SUFFIX):
            check_tensors(part, name)
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

    Returns
    -------
    dict
        "format", "versions", "estimator", "classes", of a table its "columns" with what they are,
        "networks", "modules" that ``load`` must be given, "types" that it must trust, and "parts"
        with their sizes in bytes.

    Raises
    ------
    ValueError
        If the file is damaged or not one of :func:`save`.
    """
    try:
        contents, parts = read_archive(path)
        types = _untrusted_types(parts[_SCIKIT]) if _SCIKIT in parts else []
    except ValueError as error:
        raise _refused(path, error) from error
    sizes = {name: len(part) for name, part in parts.items()}
    return {key: v for key, v in contents.items() if key != "sha256"} | {
        "types": types,
        "parts": sizes,
    }


# -- the zip ---------------------------------------------------------------------------------------

CONTENTS = "contents.json"  # the first member: versions, networks, and a SHA-256 of each other one
FORMAT = 1  # of files
_MOST_MEMBERS = 10_000
_LARGEST_CONTENTS = {"most_bytes": 2**22, "most_values": 2**16}
_NAME = re.compile(r"[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*\.[a-z]+")


def write_archive(
    path: str | os.PathLike[str], contents: dict[str, Any], parts: Mapping[str, bytes]
) -> None:
    """Write a file, which replaces an earlier one when it is complete.

    ``contents`` is what JSON can hold. A ``ValueError`` if :func:`read_archive` would refuse the
    file for its size.
    """
    path = Path(path).expanduser()
    digests = {name: hashlib.sha256(part).hexdigest() for name, part in parts.items()}
    contents = {"format": FORMAT, **contents, "sha256": digests}
    table = write_json(contents, CONTENTS, **_LARGEST_CONTENTS, indent=1)
    if len(parts) >= _MOST_MEMBERS:
        raise ValueError(f"it has {len(parts):,} parts, of {_MOST_MEMBERS:,}")
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.absolute().parent)
    try:
        with os.fdopen(handle, "wb") as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
                for name, part in {CONTENTS: table.encode(), **parts}.items():
                    archive.writestr(zipfile.ZipInfo(name), part)  # without the time
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, _permissions(path))
        check_interrupt()
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _permissions(path: Path) -> int:
    """Return those of a file that is replaced, or of a new one, which temporary files lack."""
    if path.exists():
        return stat.S_IMODE(path.stat().st_mode)
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def read_archive(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Read a file and check it, without interpreting any part but the table of contents.

    Nothing is decompressed, since parts are stored as they are, so that a file needs no more memory
    than its size. ``DamagedFileError`` if anything is not as :func:`write_archive` writes it,
    ``ValueError`` if a later version of the package wrote the file.
    """
    with open(Path(path).expanduser(), "rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                size = os.fstat(file.fileno()).st_size
                names = set(_check_members(archive, size, _MOST_MEMBERS))
                contents = _read_contents(archive, names)
                parts = {name: archive.read(name) for name in contents["sha256"]}
        except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, OSError) as error:
            raise DamagedFileError(f"it is no complete zip file ({error})") from error
    for name, part in parts.items():
        if hashlib.sha256(part).hexdigest() != contents["sha256"][name]:
            raise DamagedFileError(f"{name!r} was changed after the file was saved")
    return contents, parts


def _check_members(archive: zipfile.ZipFile, size: int, most: int) -> dict[str, int]:
    """Check names and sizes of the members of a zip of so many bytes, and return the sizes."""
    members = archive.infolist()
    names = [member.filename for member in members]
    if len(members) > most or len(set(names)) < len(names):
        raise DamagedFileError(f"it has {len(members)} parts, or parts of the same name")
    for member in members:
        stored = member.compress_type == zipfile.ZIP_STORED and member.flag_bits & 1 == 0
        if not stored or member.file_size != member.compress_size:
            raise DamagedFileError(f"{member.filename[:80]!r} is compressed or encrypted")
        if not _NAME.fullmatch(member.filename):
            raise DamagedFileError(f"{member.filename[:80]!r} is not the name of a part")
    if sum(member.file_size for member in members) > size:
        raise DamagedFileError("its parts are larger than the file")
    return {member.filename: member.file_size for member in members}


def _read_contents(archive: zipfile.ZipFile, names: set[str]) -> dict[str, Any]:
    if CONTENTS not in names:
        raise DamagedFileError(f"it has no {CONTENTS!r}")
    try:
        contents = read_json(archive.read(CONTENTS), CONTENTS, **_LARGEST_CONTENTS)
    except ValueError as error:
        raise DamagedFileError(str(error)) from error
    if not isinstance(contents, dict) or not isinstance(contents.get("format"), int):
        raise DamagedFileError(f"{CONTENTS!r} is no table of contents")
    if contents["format"] > FORMAT:
        raise ValueError(
            f"it has format {contents['format']}, and this version of sktransfer reads formats up "
            f"to {FORMAT}: install a later version"
        )
    digests = contents.get("sha256")
    if not isinstance(digests, dict) or {*digests, CONTENTS} != names:
        raise DamagedFileError(f"{CONTENTS!r} names other parts than there are")
    return contents


# -- the part of skops -------------------------------------------------------------------------


_LARGEST_SCHEMA = {"most_bytes": 2**28, "most_values": 500_000}  # an object has six values
_MOST_ARRAYS = 50_000  # with the schema


class _UntrustedTypesError(TypeError):
    """A file has objects of types that are not trusted."""


def _skops() -> Any:
    try:
        import skops.io
    except ImportError:
        raise ImportError(
            "Files with objects of scikit-learn require skops: pip install 'sktransfer[files]'"
        ) from None
    return skops.io


def _dump(objects: list[Any]) -> bytes:
    """Write objects with all that they refer to."""
    skops = _skops()
    try:
        part = skops.dumps(objects)
    except RecursionError:
        raise
    except Exception as error:  # objects may raise anything when they are asked for their state
        raise TypeError(f"skops cannot write it ({type(error).__name__}: {error})") from error
    _check(part)
    return part


def _load(part: bytes, trusted: Sequence[str | type[Any]] | None) -> list[Any]:
    """Read objects of the types of NumPy, SciPy and scikit-learn, and of trusted ones."""
    skops = _skops()
    from skops.io.exceptions import UntrustedTypesFoundException

    _check(part)
    try:
        return skops.loads(part, trusted=[*_helpers_of_scikit(), *(trusted or ())])
    except UntrustedTypesFoundException as error:
        raise _UntrustedTypesError(
            f"{error}\nIf you know and trust them, pass their names as trusted= to sktransfer.load."
        ) from None
    except Exception as error:  # a hostile file can raise anything
        raise _unreadable(error) from error


def _untrusted_types(part: bytes) -> list[str]:
    skops = _skops()
    _check(part)
    try:
        types = skops.get_untrusted_types(data=part)
    except Exception as error:
        raise _unreadable(error) from error
    return sorted({*types} - {*_helpers_of_scikit()})


@functools.cache
def _helpers_of_scikit() -> tuple[str, ...]:
    """Name what scikit-learn's searches hold: splitters, scorers, their metrics, and calibrations.

    And the type of numbers that an imputer holds. None of them does anything when it is made. skops
    trusts estimators, and not these.
    """
    scorers = [metrics.get_scorer(name) for name in metrics.get_scorer_names()]
    helpers = {type(scorer) for scorer in scorers} | {score_function(scorer) for scorer in scorers}
    helpers |= {cls for cls in vars(model_selection).values() if hasattr(cls, "get_n_splits")}
    public = {f"{helper.__module__}.{helper.__qualname__}" for helper in helpers}
    return tuple(sorted(public | PRIVATE_TYPES | {"numpy.dtype"}))


def _unreadable(error: Exception) -> DamagedFileError:
    return DamagedFileError(f"its objects cannot be read ({type(error).__name__}: {error!s:.200})")


def _check(part: bytes) -> None:
    """Check the zip file of skops: no member is compressed, no array announces more than it has."""
    try:
        with zipfile.ZipFile(io.BytesIO(part)) as archive:
            for name, size in _check_members(archive, len(part), _MOST_ARRAYS).items():
                if name.endswith(".npy"):
                    with archive.open(name) as file:
                        _check_array(name, file, size)
                elif name.endswith(".json"):
                    _check_texts(read_json(archive.read(name), name, **_LARGEST_SCHEMA))
                elif not name.endswith(".bin"):
                    raise DamagedFileError(
                        f"its objects hold a part {name!r}, which this version does not read"
                    )
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise DamagedFileError(f"its objects are no zip file ({error})") from error


def _check_texts(node: Any) -> None:
    """Refuse JSON inside the texts of a schema, which skops parses and writes for scalars only."""
    if isinstance(node, dict):
        text = node.get("content")
        if isinstance(text, str) and text.lstrip()[:1] in ("[", "{"):
            raise DamagedFileError("its objects hold JSON that is no number or text")
    for inner in node.values() if isinstance(node, dict) else node:
        if isinstance(inner, dict | list):
            _check_texts(inner)


def _check_array(name: str, file: IO[bytes], size: int) -> None:
    try:
        version = np.lib.format.read_magic(file)
        read = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
        shape, _, dtype = read[version[0]](file)
        expected = dtype.itemsize * int(np.prod(shape, dtype=object))
    except Exception as error:  # the header is evaluated as a literal, which can raise anything
        raise DamagedFileError(f"array {name!r} has no valid header ({error!s:.100})") from error
    if dtype.hasobject or expected != size - file.tell():
        raise DamagedFileError(f"array {name!r} has not the size that it announces")
