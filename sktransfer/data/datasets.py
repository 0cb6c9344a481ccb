"""Take images and labels out of datasets of torch and of Hugging Face."""

from __future__ import annotations

from typing import Any

import numpy as np

from .sources import Item, as_items, image_of, is_dataset

__all__ = ["from_dataset"]

_LABEL_KEYS = ("label", "labels", "fine_label", "target", "class", "cls")


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
        raise TypeError(
            f"{type(dataset).__name__} has no len() or no samples by position. Loop over it and "
            "collect the encoded images and labels: X, y = zip(*dataset)."
        )
    X: list[Item] = as_items(dataset, image)
    return X, np.asarray(_labels(dataset, label))


def _labels(dataset, key) -> Any:
    column = _column(dataset, key)
    if column is not None:
        return _named(dataset, column)
    if key is None and _transform_of_labels(dataset) is None:
        found = _known_labels(dataset)
        if found is not None:
            return found
    return [_label_of(dataset[i], key) for i in range(len(dataset))]


def _column(dataset, key) -> str | None:
    """Return the name of the column of labels of a dataset of Hugging Face."""
    names = getattr(dataset, "column_names", None)
    if not isinstance(names, list):
        return None
    return key if key in names else next((name for name in _LABEL_KEYS if name in names), None)


def _named(dataset, column: str) -> np.ndarray:
    labels = np.asarray(dataset[column])
    names = getattr(getattr(dataset, "features", {}).get(column), "names", None)
    return labels if names is None else np.asarray(names)[labels]


def _transform_of_labels(dataset):
    return getattr(dataset, "target_transform", None)


def _known_labels(dataset):
    """Return the labels that a dataset of torch has, without opening samples, or None."""
    if hasattr(dataset, "dataset") and hasattr(dataset, "indices"):  # Subset
        return _labels(dataset.dataset, None)[np.asarray(dataset.indices, int)]
    if hasattr(dataset, "datasets") and hasattr(dataset, "cumulative_sizes"):  # ConcatDataset
        return np.concatenate([np.asarray(_labels(part, None)) for part in dataset.datasets])
    for name in ("targets", "labels"):
        found = getattr(dataset, name, None)
        if found is not None and not callable(found) and len(found) == len(dataset):
            return _with_names(np.asarray(found), getattr(dataset, "classes", None))
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
