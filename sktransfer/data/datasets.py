"""Find images and labels in folders, tables and datasets."""

from __future__ import annotations

import os
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .columns import NUMBER, check_names
from .contents import Item, as_items, has_scheme, image_of, is_dataset
from .images import check_header
from .samples import UnreadableSamplesError, shorten

_SPLITS = {"train", "training", "val", "valid", "validation", "dev", "test", "testing"}
BY_SYSTEMS = {"thumbs.db", "desktop.ini", "__macosx"}  # that operating systems write
LEADING_ZERO = r"^\s*[+-]?0[0-9]"  # a column of CSV with such a cell is text: "001" is no number
BOOLEANS = {"true": 1, "false": 0}  # texts that mean them, in small letters
_BOOLEAN = "^(?i:true|false)$"  # pandas makes True of "true" if a column has nothing else

# Names of columns, the likely ones first. "file_name" is that of Hugging Face's metadata files.
IMAGE_COLUMNS = (
    "image",
    "file_name",
    "filename",
    "file",
    "path",
    "image_path",
    "filepath",
    "img",
    "url",
)
LABEL_COLUMNS = ("label", "class", "labels", "target", "y", "category", "class_name")
# Of a sample that is a dictionary.
_LABEL_KEYS = ("label", "labels", "fine_label", "target", "class", "cls")


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
    classes = _classes(root)
    files = [(file, name) for name in classes for file in list_files(root / name)]
    files = _readable(files, on_error)
    empty = [name for name in classes if name not in {name for _, name in files}]
    if empty:
        raise ValueError(f"{str(root)!r}: the sub-folders {empty[:10]} contain no images.")
    return [file for file, _ in files], np.array([name for _, name in files])


def list_splits(folder: str | os.PathLike[str]) -> list[str]:
    """List the sub-folders of a folder if they are splits, such as "train" and "test".

    There are none unless all sub-folders have names of splits and contain folders themselves.
    """
    folders = [entry for entry in _entries(Path(folder).expanduser()) if entry.is_dir()]
    are_splits = all(
        entry.name.lower() in _SPLITS and any(inner.is_dir() for inner in _entries(entry))
        for entry in folders
    )
    return [entry.name for entry in folders] if are_splits else []


def list_files(folder: str | os.PathLike[str]) -> list[str]:
    """List the files of a folder and of its sub-folders, sorted.

    ``~`` is the home folder. Links to folders are followed; hidden files and those that operating
    systems write are left out.
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
        if not entry.name.startswith(".") and entry.name.lower() not in BY_SYSTEMS
    )


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
    images = [entry for entry in entries if not entry.is_dir() and _problem(entry) is None]
    if images:
        raise ValueError(
            f"{len(images)} images, such as {str(images[0])!r}, are in no sub-folder, so that they "
            "have no label. Move them to the sub-folder of their class."
        )
    return classes


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


# -- tables ----------------------------------------------------------------------------------------


def load_image_table(
    table: Any,
    *,
    image: str | list[str] | None = None,
    label: str | list[str] | None = None,
    folder: str | os.PathLike[str] | None = None,
) -> tuple[Any, ...]:
    """Read images and labels from the columns of a table.

    Parameters
    ----------
    table : str, path-like or pandas.DataFrame
        A data frame, or the name of a file: CSV, TSV, Parquet or JSON lines, by its ending.
    image : str or list of str, default=None
        The column of images: names of files, URLs, encoded images, or dictionaries with "bytes"
        and "path", as Hugging Face writes them to Parquet. None is the first of "image",
        "file_name", "filename", "file", "path", "image_path", "filepath", "img" and "url" that
        exists. A list gives several images for each sample.
    label : str or list of str, default=None
        The column of labels. None is the one of "label", "class", "labels", "target", "y",
        "category" and "class_name" that exists; two of them are an error. A list gives a target
        with several columns.
    folder : str or path-like, default=None
        Where relative names of files begin: by default the folder of the table, and for a data
        frame the current one.

    Returns
    -------
    X : list, or ndarray of shape (n_samples, n_images)
        The images as they stand in the table. Relative names of files begin with ``folder``.
        Missing cells are None. No image is opened.
    y : ndarray of shape (n_samples,) or (n_samples, n_targets), or None
        None if ``label`` is None and no column has one of the usual names.

    Raises
    ------
    ValueError
        If a column does not exist, if several have a usual name of labels and ``label`` is None,
        if the file is empty, or if the ending of its name is not known.
    ImportError
        If pandas is not installed, or pyarrow for Parquet.

    Examples
    --------
    >>> import pandas as pd
    >>> from sktransfer import load_image_table
    >>> table = pd.DataFrame({"path": ["a.jpg", "b.jpg"], "label": ["cat", "dog"]})
    >>> X, y = load_image_table(table, folder="photos")
    >>> X, y.tolist()
    (['photos/a.jpg', 'photos/b.jpg'], ['cat', 'dog'])
    """
    frame, beside = open_table(table)
    base = Path(beside if folder is None else folder).expanduser()
    images = find_images(frame, image)
    labels = find_labels(frame, label)
    y = None if labels is None else frame[labels].to_numpy()
    if isinstance(images, list):
        columns = [image_cells(frame[name], base) for name in images]
        return _side_by_side(columns), y
    return image_cells(frame[images], base), y


def open_table(table: Any, texts: Collection[str] = ()) -> tuple[Any, ...]:
    """Read a table from a CSV, TSV, Parquet or JSON lines file, by the ending of its name.

    A column of a CSV or TSV file is text if one of its numbers begins with a zero, as in "001", and
    if it has true and false. So are ``texts``, as they stand in the file. A data frame is taken,
    too. Returns the data frame and the folder of the file.
    """
    if hasattr(table, "columns"):
        return table, Path()
    path = Path(table).expanduser()
    readers = {
        ".csv": lambda pd: _read_csv(pd, path, ",", texts),
        ".tsv": lambda pd: _read_csv(pd, path, "\t", texts),
        ".parquet": lambda pd: pd.read_parquet(path),
        ".pq": lambda pd: pd.read_parquet(path),
        ".jsonl": lambda pd: pd.read_json(path, lines=True, dtype=False),  # "001" stays text
    }
    if path.suffix.lower() not in readers:
        raise ValueError(f"{str(path)!r}: the name of a table ends in one of {sorted(readers)}.")
    return readers[path.suffix.lower()](_pandas()), path.parent


def _read_csv(pd, path: Path, separator: str, asked: Collection[str]):
    try:
        texts = pd.read_csv(path, sep=separator, dtype=str)
    except pd.errors.EmptyDataError:
        raise ValueError(f"{str(path)!r} is empty: it has not even names of columns.") from None
    as_they_stand = f"{LEADING_ZERO}|{_BOOLEAN}"
    kept = [
        name
        for name in texts
        if name in asked or texts[name].str.contains(as_they_stand, na=False).any()
    ]
    # In parts, which low_memory reads, the same cell may be a number here and a text there.
    return pd.read_csv(path, sep=separator, dtype=dict.fromkeys(kept, str), low_memory=False)


def open_columns(
    table: Any, kinds: Mapping[str, str], texts: Collection[str] = ()
) -> tuple[Any, ...]:
    """Read a table that has the columns of a fitted estimator, as :func:`open_table` does.

    The cells of a column are the same whatever else the file has: categories, what networks read
    and ``texts`` are text as it stands in the file, and a number is one beside a cell that is none.
    ``kinds`` are those of :func:`describe_columns`. A ``ValueError`` if the table lacks columns.
    """
    numbers = [name for name, kind in kinds.items() if kind == NUMBER]
    frame, folder = open_table(table, {*kinds, *texts}.difference(numbers))
    check_names(frame.columns, kinds)
    return frame.assign(**{name: as_numbers(frame[name]) for name in numbers}), folder


def as_numbers(column: Any) -> Any:
    """Convert the texts of a column of pandas that are numbers, true or false; others stay."""
    cells = column.tolist()
    if not any(isinstance(cell, str) for cell in cells):
        return column
    pd = _pandas()
    texts = [BOOLEANS.get(c.lower(), c) if isinstance(c, str) else None for c in cells]
    numbers = pd.to_numeric(pd.Series(texts, dtype=object), errors="coerce").tolist()
    converted = [
        cell if number != number else number for cell, number in zip(cells, numbers, strict=True)
    ]
    return pd.Series(converted, column.index, name=column.name).infer_objects()


def booleans_as_numbers(column: Any) -> Any:
    """Convert a column of the texts true and false, which are booleans in other files than CSV.

    The column itself is returned if other texts are among its cells, or if all are missing.
    """
    cells = column.dropna().tolist()
    are_booleans = all(isinstance(cell, str) and cell.lower() in BOOLEANS for cell in cells)
    return as_numbers(column) if cells and are_booleans else column


def _pandas():
    try:
        import pandas
    except ImportError:
        raise ImportError("Tables need pandas: pip install 'sktransfer[tables]'") from None
    return pandas


def find_images(frame: Any, image: str | list[str] | None = None) -> Any:
    """Find the column, or columns, of images in a table of pandas or polars.

    By default it is the first column that has one of the usual names. A ``ValueError`` if a column
    does not exist, or none has a usual name.
    """
    found = _column(frame, "image", image, IMAGE_COLUMNS)
    if found is None:
        raise ValueError(
            f"No column of images among {_names(frame)}: give image=. The first row of a file must "
            "be names of columns, such as image,label. Texts are read with pandas, and with --text "
            "on the command line."
        )
    return found


def find_labels(frame: Any, label: str | Sequence[str] | None = None) -> Any:
    """Find the column, or columns, of labels in a table of pandas or polars; None if there is none.

    By default it is the column that has one of the usual names. A ``ValueError`` if a column does
    not exist, or several have one of the usual names.
    """
    if label is None:
        usual = [name for name in LABEL_COLUMNS if name in list(frame.columns)]
        if len(usual) > 1:
            raise ValueError(f"Several columns may be labels, {usual}: give label={usual[0]!r}.")
    return _column(frame, "label", label, LABEL_COLUMNS)


def _column(frame, parameter: str, asked, usual: tuple[str, ...]):
    """Return the asked names if they exist, else the first usual one that does, else None."""
    names = list(frame.columns)
    if asked is None:
        return next((name for name in usual if name in names), None)
    missing = [name for name in ([asked] if isinstance(asked, str) else asked) if name not in names]
    if missing or not asked:
        raise ValueError(
            f"{parameter}={shorten(str(asked), 80)!r}: the table has the columns {_names(frame)}."
        )
    return asked


def _names(frame) -> str:
    return shorten(str(list(frame.columns)), 300)


def image_cells(column: Any, folder: Path) -> list[Any]:
    """Return the images of a column, without opening them; None where a cell is missing.

    Relative names of files begin in the folder.
    """
    missing = column.isna() if hasattr(column, "isna") else column.is_null()
    return [
        None if is_missing else _placed(cell, folder)
        for cell, is_missing in zip(column.to_list(), missing, strict=True)
    ]


def _placed(cell, base: Path):
    """Put a folder before a relative name of a file."""
    if isinstance(cell, dict) and cell.get("bytes") is None and cell.get("path"):
        return cell | {"path": _placed(cell["path"], base)}
    if not isinstance(cell, str) or has_scheme(cell) or cell.startswith("~"):
        return cell
    return os.fspath(base / cell)


def _side_by_side(columns: list[list]) -> np.ndarray:
    """Make an array of objects with one column for each list."""
    array = np.empty((len(columns[0]), len(columns)), object)
    for j, column in enumerate(columns):
        for i, sample in enumerate(column):  # an assignment of the column would unpack arrays
            array[i, j] = sample
    return array


# -- datasets --------------------------------------------------------------------------------------


def from_dataset(
    dataset: Any, *, image: str | int | None = None, label: str | int | None = None
) -> tuple[list[Any], np.ndarray]:
    """Take images and labels out of a dataset, such as those of torchvision and Hugging Face.

    Parameters
    ----------
    dataset : object
        With ``__len__`` and ``__getitem__``. A sample is a tuple that begins with the image and the
        label, or a dictionary.
    image, label : str or int, default=None
        Their keys, or positions, in a sample. None takes the first and the second of a tuple, and
        the usual names in a dictionary, such as "image" and "label".

    Returns
    -------
    X : list of n_samples objects
        Each opens a sample of the dataset when it is used. The dataset is never loaded as a whole,
        but opened files are not kept: each pass over X opens each sample again.
    y : ndarray of shape (n_samples,) or (n_samples, n_targets)
        The labels. Names of classes where the dataset has them (``classes`` of torchvision,
        ``ClassLabel`` of Hugging Face).

    Raises
    ------
    TypeError
        If the dataset has no ``__len__`` or ``__getitem__``, or a sample no label.

    Notes
    -----
    Labels are taken from ``targets`` or ``labels`` of the dataset, or from the column of labels,
    without opening an image. If the dataset has neither, each sample is opened once for its label.
    ``torch.utils.data.Subset`` and ``ConcatDataset`` are understood.

    Examples
    --------
    >>> import numpy as np
    >>> from sktransfer import from_dataset
    >>> class Squares:
    ...     def __len__(self):
    ...         return 3
    ...
    ...     def __getitem__(self, i):
    ...         return np.full((4, 4), 80 * i, np.uint8), "dark" if i == 0 else "light"
    >>> X, y = from_dataset(Squares())
    >>> X[1]
    item 1 of Squares
    >>> y.tolist()
    ['dark', 'light', 'light']
    """
    if not is_dataset(dataset):
        how = (
            "Loop over it and collect the encoded images and labels: X, y = zip(*dataset), or of "
            "rows that are dictionaries X, y = from_dataset(list(dataset))."
        )
        if hasattr(dataset, "dataset") and hasattr(dataset, "batch_size"):
            how = "Of a loader give its dataset: X, y = from_dataset(loader.dataset)."
        raise TypeError(f"{type(dataset).__name__} has no len() or no samples by position. {how}")
    X: list[Item] = as_items(dataset, image)
    return X, np.asarray(_labels(dataset, label))


def _labels(dataset, key) -> Any:
    column = _label_column(dataset, key)
    if column is not None:
        labels = np.asarray(dataset[column])
        names = getattr(getattr(dataset, "features", {}).get(column), "names", None)
        return labels if names is None else np.asarray(names)[labels]
    if key is None and getattr(dataset, "target_transform", None) is None:
        labels = _known_labels(dataset)
        if labels is not None:
            return labels
    return [_label_of(dataset[i], key) for i in range(len(dataset))]


def _label_column(dataset, key) -> str | None:
    """Return the name of the column of labels of a dataset of Hugging Face."""
    names = getattr(dataset, "column_names", None)
    if not isinstance(names, list):
        return None
    return key if key in names else next((name for name in _LABEL_KEYS if name in names), None)


def _known_labels(dataset):
    """Return the labels that a dataset of torch has, without opening samples, or None."""
    if hasattr(dataset, "dataset") and hasattr(dataset, "indices"):  # Subset
        return _labels(dataset.dataset, None)[np.asarray(dataset.indices, int)]
    if hasattr(dataset, "datasets") and hasattr(dataset, "cumulative_sizes"):  # ConcatDataset
        return np.concatenate([np.asarray(_labels(part, None)) for part in dataset.datasets])
    for name in ("targets", "labels"):
        labels = getattr(dataset, name, None)
        if labels is not None and not callable(labels) and len(labels) == len(dataset):
            return _with_names(np.asarray(labels), getattr(dataset, "classes", None))
    return None


def _with_names(labels: np.ndarray, classes) -> np.ndarray:
    """Replace codes by the names of classes, if there is a name for each code."""
    if classes is None or labels.ndim != 1 or labels.dtype.kind not in "iu":
        return labels
    fits = len(labels) and 0 <= labels.min() and labels.max() < len(classes)
    return np.asarray(classes)[labels] if fits else labels


def _label_of(item, key):
    if key is not None:
        return item[key]
    if isinstance(item, tuple | list) and len(item) > 1:
        return item[1]
    names = [name for name in _LABEL_KEYS if isinstance(item, dict) and name in item]
    if names:
        return item[names[0]]
    raise TypeError(
        f"A sample of the dataset is a {type(image_of(item)).__name__} without a label. Give "
        "label=, its key in a sample."
    )
