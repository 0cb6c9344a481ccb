"""Find images and labels in a folder with a sub-folder for each class."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from .base import UnreadableSamplesError
from .pixels import check_header

__all__ = ["list_files", "list_splits", "load_image_folder"]

_SPLITS = {"train", "training", "val", "valid", "validation", "dev", "test", "testing"}
_BY_SYSTEMS = {"thumbs.db", "desktop.ini", "__macosx"}  # that operating systems write


def load_image_folder(
    folder: str | os.PathLike[str], *, split: str | None = None, on_error: str = "raise"
) -> tuple[list[str], np.ndarray]:
    """List the images of a folder that has a sub-folder for each class.

    Parameters
    ----------
    folder : str or path-like
        Its sub-folders are the classes; images may lie in sub-folders of these. ``~`` is the home
        folder. Hidden files, and those that operating systems write, are ignored.
    split : str, default=None
        The sub-folder to use, such as "train", where the classes are sub-folders of splits.
    on_error : {"raise", "skip"}, default="raise"
        What to do with files that are not images: raise an error that lists them, or leave them
        out with a warning that lists them.

    Returns
    -------
    X : list of str
        Paths of the images, sorted by class and name. No image is decoded.
    y : ndarray of str, shape (n_samples,)
        The class of each, the name of its sub-folder.

    Raises
    ------
    FileNotFoundError, NotADirectoryError
        If there is no such folder.
    ValueError
        If it has no sub-folders, if a class has no images, if there are images without a class,
        or if there are splits and none is chosen.
    UnreadableSamplesError
        If the header of a file is not that of an image. Images that are damaged behind their
        header are found when they are opened.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from PIL import Image
    >>> from sktransfer import load_image_folder
    >>> folder = Path(tempfile.mkdtemp())
    >>> for name in ["ants/1.png", "ants/2.png", "bees/1.png"]:
    ...     (folder / name).parent.mkdir(exist_ok=True)
    ...     Image.new("RGB", (8, 8)).save(folder / name)
    >>> X, y = load_image_folder(folder)
    >>> [Path(path).name for path in X], y.tolist()
    (['1.png', '2.png', '1.png'], ['ants', 'ants', 'bees'])
    """
    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error={on_error!r}: give 'raise' or 'skip'.")
    root = _chosen(Path(folder).expanduser(), split)
    files = [(file, name) for name in _classes(root) for file in list_files(root / name)]
    files = _readable(files, on_error)
    _check_classes(root, {name for _, name in files})
    return [file for file, _ in files], np.array([name for _, name in files])


def list_splits(folder: str | os.PathLike[str]) -> list[str]:
    """List the sub-folders of a folder if they are splits, such as "train" and "test".

    Parameters
    ----------
    folder : str or path-like

    Returns
    -------
    list of str
        Empty unless all sub-folders have names of splits and contain folders themselves.
    """
    folders = [entry for entry in _entries(Path(folder).expanduser()) if entry.is_dir()]
    are_splits = all(entry.name.lower() in _SPLITS and _has_folders(entry) for entry in folders)
    return [entry.name for entry in folders] if are_splits else []


def list_files(folder: str | os.PathLike[str]) -> list[str]:
    """List the files of a folder and of its sub-folders.

    Parameters
    ----------
    folder : str or path-like
        ``~`` is the home folder. Links to folders are followed.

    Returns
    -------
    list of str
        Sorted paths, without hidden files and those that operating systems write.
    """
    return [os.fspath(file) for file in _walk(Path(folder).expanduser(), ())]


def _walk(folder: Path, above: tuple[str, ...]) -> Iterator[Path]:
    here = os.path.realpath(folder)
    if here in above:  # a link to a folder above it
        return
    for entry in _entries(folder):
        if entry.is_dir():
            yield from _walk(entry, (*above, here))
        else:
            yield entry


def _entries(folder: Path) -> list[Path]:
    """List what is in a folder by name, without what users did not put there."""
    return sorted(
        entry
        for entry in folder.iterdir()
        if not entry.name.startswith(".") and entry.name.lower() not in _BY_SYSTEMS
    )


def _has_folders(folder: Path) -> bool:
    return any(entry.is_dir() for entry in _entries(folder))


def _chosen(folder: Path, split: str | None) -> Path:
    """Return the folder of the split, or the folder itself if it has no splits."""
    splits = list_splits(folder)
    if split is not None and not (folder / split).is_dir():
        names = splits or [entry.name for entry in _entries(folder) if entry.is_dir()][:10]
        raise ValueError(f"split={split!r}: {str(folder)!r} has the sub-folders {names}.")
    if split is None and splits:
        raise ValueError(f"{str(folder)!r} has the splits {splits}: give split={splits[-1]!r}.")
    return folder if split is None else folder / split


def _classes(folder: Path) -> list[str]:
    entries = _entries(folder)
    classes = [entry.name for entry in entries if entry.is_dir()]
    if not classes:
        raise ValueError(
            f"{str(folder)!r} has no sub-folders. Each class needs a sub-folder with its images, "
            "whose name is the label."
        )
    _refuse_images_without_class([entry for entry in entries if not entry.is_dir()])
    return classes


def _refuse_images_without_class(files: list[Path]) -> None:
    images = [file for file in files if _problem(file) is None]
    if images:
        raise ValueError(
            f"{len(images)} images, such as {str(images[0])!r}, are in no sub-folder, so that they "
            "have no label. Move them to the sub-folder of their class."
        )


def _readable(files: list[tuple[str, str]], on_error: str) -> list[tuple[str, str]]:
    """Return the files that are images, and name the others."""
    problems: list[tuple] = [
        (i, file, why) for i, (file, _) in enumerate(files) if (why := _problem(file)) is not None
    ]
    if problems and on_error == "raise":
        raise UnreadableSamplesError(problems)
    if problems:
        warnings.warn(f"Left out: {UnreadableSamplesError(problems)}", stacklevel=3)
    bad = {i for i, *_ in problems}
    return [pair for i, pair in enumerate(files) if i not in bad]


def _problem(file: str | os.PathLike) -> Exception | None:
    try:
        check_header(file)
    except (OSError, ValueError) as error:
        return error
    return None


def _check_classes(folder: Path, found: set[str]) -> None:
    empty = [name for name in _classes(folder) if name not in found]
    if empty:
        raise ValueError(f"{str(folder)!r}: the sub-folders {empty[:10]} contain no images.")
