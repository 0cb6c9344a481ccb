"""Targets: check y, encode it and decode the outputs of a network, by an object for each task."""

from __future__ import annotations

import copy
import reprlib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import issparse
from scipy.special import expit, softmax
from sklearn.utils import check_array
from sklearn.utils.class_weight import compute_class_weight, compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets, type_of_target, unique_labels

from .._compat.sklearn import check_sample_weight, column_or_1d
from .samples import naming

_LEAST_TOTAL = float(np.finfo(np.float64).tiny)  # its reciprocal is finite


def sorted_labels(by_label: Mapping[Any, Any], name: str) -> list[Any]:
    """Return the labels of a dictionary, the parameter ``name``, sorted.

    A ``ValueError`` if there is none, or they are of several types.
    """
    if not by_label:
        raise ValueError(f"{name}={{}} names no label.")
    try:
        labels = np.unique(np.array(list(by_label))).tolist()
    except (TypeError, ValueError):  # None among texts, or tuples of several lengths
        labels = []
    if set(labels) != set(by_label):  # an array of both 1 and "z" is one of texts
        raise ValueError(
            f"Labels of {name} must be of one type, all texts or all numbers: {list(by_label)}."
        )
    return labels


def find_target(y: np.ndarray, task: str = "auto") -> type[Target]:
    """Return the kind of a target: labels, label sets, or numbers to regress on.

    "auto" takes numbers with a fractional part as numbers, and all else as labels. A ``ValueError``
    if there is no such task, or y holds nothing that could be a target.
    """
    if task not in ("auto", "classification", "regression"):
        raise ValueError(f"task={task!r}: expected 'auto', 'classification' or 'regression'.")
    if task == "regression":
        return NumericTarget
    kind = naming("y", type_of_target, y)
    if task == "auto" and kind.startswith("continuous"):
        return NumericTarget
    return IndicatorTarget if kind.startswith("multilabel") else ClassTarget


def encode_target(y: Any, task: str = "auto") -> tuple[type[Target], np.ndarray]:
    """Check y and encode it: labels as codes (integers), numbers to regress on as floats.

    "auto" takes whole numbers as labels, as scikit-learn does. Returns the kind,
    :class:`ClassTarget` or :class:`NumericTarget`, and the encoded y.
    """
    y = column_or_1d(check_target(y), warn=True, input_name="y")
    if find_target(y, task) is NumericTarget:
        return NumericTarget, check_numbers(y).astype(np.float64)
    if task == "auto" and _look_like_numbers(y):
        warnings.warn(
            f"y has {len(np.unique(y))} distinct whole numbers, which are taken as labels. If they "
            "are numbers to regress on set task='regression', else task='classification'.",
            stacklevel=2,
        )
    else:
        y = check_labels(y)
    return ClassTarget, np.unique(y, return_inverse=True)[1]


def _look_like_numbers(y: np.ndarray) -> bool:
    """Return whether labels are many whole numbers with gaps and few samples each."""
    if y.dtype.kind not in "iuf":
        return False
    n_labels = len(np.unique(y))
    return bool(20 < n_labels <= y.max() - y.min() and len(y) < 10 * n_labels)


def is_numbers(y: np.ndarray) -> bool:
    """Return whether an encoded target holds numbers (floats) and not codes (integers)."""
    return y.dtype.kind == "f"


class Target:
    """Base of the objects that encode y and decode outputs, one for each task.

    Attributes
    ----------
    name : {"multiclass", "multilabel", "regression"}
    loss : str
        The loss of the outputs, by its name in ``finetuning.training``.
    probe : str
        The linear model of the encoded target, by its name in ``transferability.probes``.
    """

    name: str
    loss: str
    probe: str

    @property
    def labels(self) -> list[Any] | None:
        """The label of each output; None where outputs stand for no labels."""
        return None

    @property
    def n_outputs(self) -> int:
        """How many outputs a network needs."""
        raise NotImplementedError

    @property
    def columns(self) -> list[str | int]:
        """The names of the columns of y; none if it had no names."""
        return []

    def check_names(self, names: Sequence[str | int], name: str) -> None:
        """Refuse columns that have other names, or another order, than those of this target.

        The names are those of :func:`column_names`. Nothing is known of columns without names.
        Positions are names where the others are positions in another order. The error is about the
        parameter ``name``.
        """
        given, known = list(names), self.columns
        positions: list[str | int] = [] if self.labels else list(range(self.n_outputs))
        if set(given) == set(known or positions) == set(positions):  # such as 1, 0 and 0, 1
            known = known or positions
        else:
            given = _without_positions(given)
        if given and known and given != known:
            shown, hint = reprlib.repr(known), ""
            if set(given) == set(known):
                hint = f": {name} = {name}[{shown}]"
            if given == positions:  # of an array that became a data frame, perhaps
                hint += f", or {name}.to_numpy() if its columns are those of fit, without names"
            raise ValueError(
                f"{name} has the columns {reprlib.repr(given)}, and in fit they were {shown}: give "
                f"these, in this order{hint}."
            )

    def encode(self, y: np.ndarray) -> np.ndarray:
        """Return what a loss compares outputs with, ``(n_samples,)`` or ``(n_samples, n)``."""
        raise NotImplementedError

    def decode(self, outputs: np.ndarray) -> np.ndarray:
        """Return predictions, in the form of y, from outputs ``(n_samples, n_outputs)``."""
        raise NotImplementedError

    def scaled(self, encoded: np.ndarray) -> np.ndarray:
        """Return an encoded target as a linear model takes it; by default as it is."""
        return encoded

    def strata(self, encoded: np.ndarray) -> np.ndarray:
        """Return the group of each row in a stratified split, ``(n_samples,)``; one by default."""
        return np.zeros(len(encoded), int)

    def state(self) -> dict[str, Any]:
        """Return what a file holds of this target: its name, and arrays and numbers by name."""
        return {"name": self.name} | vars(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return open_target, (self.state(),)


class ClassTarget(Target):
    """One label for each sample, encoded as its position in ``classes``.

    Parameters
    ----------
    classes : ndarray of shape (n_classes,)
        Sorted.
    """

    name: str = "multiclass"
    loss: str = "cross_entropy"
    probe: str = "multinomial"

    def __init__(self, classes: np.ndarray):
        self.classes = classes

    @property
    def labels(self) -> list[Any]:
        return self.classes.tolist()

    @property
    def n_outputs(self) -> int:
        return len(self.classes)

    def encode(self, y: np.ndarray) -> np.ndarray:
        """Return the position of each label, ``(n_samples,)``."""
        return np.searchsorted(self.classes, y)

    def decode(self, outputs: np.ndarray) -> np.ndarray:
        """Return the most probable label of each row of outputs."""
        return self.classes[outputs.argmax(axis=1)]

    def strata(self, encoded: np.ndarray) -> np.ndarray:
        """Return the class of each row."""
        return encoded

    def probabilities(self, outputs: np.ndarray) -> np.ndarray:
        """Return the probability of each class, ``(n_samples, n_classes)``."""
        return softmax(outputs, axis=1)

    def present(self, encoded: np.ndarray) -> set[Any]:
        """Return the labels that occur among encoded ones."""
        return set(self.classes[np.unique(encoded)].tolist())

    def class_factors(self, class_weight: Any, encoded: np.ndarray, partial: bool) -> np.ndarray:
        """Return the factor that ``class_weight``, a dictionary or "balanced", gives each row.

        ``partial`` tells whether a dictionary may name labels that come later.
        """
        if isinstance(class_weight, list):
            raise ValueError("a list is for an indicator matrix of labels.")
        if isinstance(class_weight, dict):
            weights = class_weight
            if partial:
                labels = set(self.classes.tolist())
                weights = {label: w for label, w in class_weight.items() if label in labels}
            return compute_class_weight(weights, classes=self.classes, y=self.classes)[encoded]
        factor, present = np.ones(len(self.classes)), np.unique(encoded)
        factor[present] = compute_class_weight(class_weight, classes=present, y=encoded)
        return factor[encoded]


class IndicatorTarget(Target):
    """Several labels for each sample, as an indicator matrix of 0 and 1.

    Parameters
    ----------
    n_labels : int
        Columns of the matrix.
    names : sequence of (str or int), default=()
        Of the columns, which are ``classes``; by default these are the positions.
    """

    classes: np.ndarray
    name: str = "multilabel"
    loss: str = "binary_cross_entropy"
    probe: str = "one_vs_rest"

    def __init__(self, n_labels: int, names: Sequence[str | int] = ()):
        self.classes = np.array(names) if names else np.arange(n_labels)

    @property
    def n_outputs(self) -> int:
        return len(self.classes)

    def encode(self, y: np.ndarray) -> np.ndarray:
        """Return the matrix as float32, ``(n_samples, n_labels)``."""
        return y.astype(np.float32)

    def decode(self, outputs: np.ndarray) -> np.ndarray:
        """Return 1 for the labels that are more probable than not, else 0."""
        return (outputs > 0).astype(int)

    def probabilities(self, outputs: np.ndarray) -> np.ndarray:
        """Return the probability of each label, ``(n_samples, n_labels)``."""
        return expit(outputs)

    @property
    def columns(self) -> list[str | int]:
        """The names of the labels; none where positions are their classes."""
        return _without_positions(self.classes.tolist())

    def present(self, encoded: np.ndarray) -> set[Any]:
        """Return no labels: of columns it is not known which are new."""
        return set()

    def class_factors(self, class_weight: Any, encoded: np.ndarray, partial: bool) -> np.ndarray:
        """Return the factor that ``class_weight`` gives each row, ``(n_samples,)``.

        Of a dictionary, the product of the weights of the labels that a row has.
        """
        if not isinstance(class_weight, dict):
            return compute_sample_weight(class_weight, encoded)
        if not class_weight:
            return np.ones(len(encoded))
        names = self.columns
        unknown = [label for label in class_weight if label not in names]
        if unknown and names:
            raise ValueError(f"{unknown[0]!r} is no column of y, which has {reprlib.repr(names)}.")
        if unknown:
            raise ValueError(
                "a dictionary gives the weights of columns by their names, and y has none: give a "
                "DataFrame, or a list with a dictionary for each column, such as "
                "[{0: 1.0, 1: 2.0}, {0: 1.0, 1: 1.0}]."
            )
        weights = np.array([class_weight.get(label, 1.0) for label in names], np.float64)
        return np.where(encoded == 1, weights, 1.0).prod(axis=1)


class NumericTarget(Target):
    """One or several numbers for each sample, which outputs give standardised.

    Parameters
    ----------
    y : ndarray of shape (n_samples,) or (n_samples, n_targets)
        Whose means and standard deviations are used.
    weight : ndarray of shape (n_samples,), default=None
        Of the samples, in means and standard deviations.
    names : sequence of (str or int), default=()
        Of the targets; positions are no names.

    Raises
    ------
    ValueError
        If numbers are so large that their variance is not finite.
    """

    mean: np.ndarray
    scale: np.ndarray
    is_flat: bool
    names: np.ndarray
    name: str = "regression"
    loss: str = "squared_error"
    probe: str = "ridge"

    def __init__(
        self,
        y: np.ndarray,
        weight: np.ndarray | None = None,
        names: Sequence[str | int] = (),
    ):
        from sklearn.preprocessing import StandardScaler  # imports all other scalers

        self.is_flat = y.ndim == 1  # and not a column
        if weight is not None:  # by a power of two, so that squares of it stay finite
            weight = np.ldexp(weight, -np.frexp(weight.max())[1])
        with np.errstate(over="ignore", invalid="ignore"):
            scaler = StandardScaler().fit(y.reshape(len(y), -1), sample_weight=weight)
        if not np.isfinite(scaler.var_).all():
            raise ValueError(f"y holds numbers as large as {np.abs(y).max():.3g}: scale them down.")
        self.mean, self.scale = scaler.mean_, scaler.scale_
        self.names = np.array(_without_positions(list(names)))

    @property
    def n_outputs(self) -> int:
        return len(self.mean)

    @property
    def columns(self) -> list[str | int]:
        """The names of the targets; none if y had no names."""
        return self.names.tolist()

    def in_the_form_of(self, y: np.ndarray) -> NumericTarget:
        """Return a target with the same units whose predictions have the form of y."""
        if (n_targets := 1 if y.ndim == 1 else y.shape[1]) != self.n_outputs:
            raise ValueError(f"y has {n_targets} targets, {self.n_outputs} before.")
        target = copy.copy(self)
        target.is_flat = y.ndim == 1
        return target

    def encode(self, y: np.ndarray) -> np.ndarray:
        """Return targets in the units of y as float64, ``(n_samples, n_targets)``."""
        return y.reshape(len(y), -1).astype(np.float64)

    def scaled(self, encoded: np.ndarray) -> np.ndarray:
        """Return standardised targets as float32, ``(n_samples, n_targets)``."""
        return ((encoded - self.mean) / self.scale).astype(np.float32)

    def in_units(self, outputs: np.ndarray) -> np.ndarray:
        """Return outputs in the units of y as float64, ``(n_samples, n_targets)``."""
        return outputs.astype(np.float64) * self.scale + self.mean

    def decode(self, outputs: np.ndarray) -> np.ndarray:
        """Return outputs in the units and in the shape of y."""
        values = self.in_units(outputs)
        return values[:, 0] if self.is_flat else values


def open_target(state: dict[str, Any]) -> Target:
    """Make a target again of what :meth:`Target.state` returned."""
    fields = dict(state)
    name = fields.pop("name")
    (cls,) = (c for c in (ClassTarget, IndicatorTarget, NumericTarget) if c.name == name)
    target = object.__new__(cls)
    vars(target).update(fields)
    return target


def class_target(y: Any, n_samples: int, classes: Sequence[Any] = ()) -> tuple[Any, np.ndarray]:
    """Make the target of a classifier, and check y: labels, or an indicator matrix.

    The columns of a DataFrame name its labels. ``classes`` are more labels than those in y. Errors
    are those of :func:`check_labels`, and ``ValueError`` if an indicator matrix has other values
    than 0 and 1.
    """
    _refuse_sets(y, "y", "")
    names = column_names(y)
    y = check_target(y, n_samples)
    naming("y", check_classification_targets, y)
    if not type_of_target(y).startswith("multilabel"):
        y = _check_one_column(y, "y")
        labels = naming("y", unique_labels, y, *classes)
        warn_of_one_class(labels)
        return ClassTarget(labels), y
    check_indicator(y)
    if len(y) > 1 and (y.sum(axis=1) == 1).all():
        warnings.warn(
            "Each row of y has a single 1, and y is an indicator matrix: each column is learned as "
            "a label of its own. If classes exclude each other, give y.argmax(axis=1).",
            stacklevel=2,
        )
    return IndicatorTarget(y.shape[1], names), y


def check_indicator(y: np.ndarray, *, name: str = "y") -> None:
    """Check that a matrix, the parameter ``name``, holds only 0 and 1."""
    if y.dtype.kind == "U" or not np.isin(y, (0, 1)).all():
        raise ValueError(
            f"{name} with several columns must be an indicator matrix of 0 and 1, got values "
            f"{np.unique(y)[:5].tolist()}."
        )


def column_names(y: Any) -> list[str | int]:
    """Return the names of the columns of a target.

    There are none for what is no data frame, and if names are missing or occur twice.
    """
    names = list(getattr(y, "columns", ()))
    is_named = any(all(type(name) is kind for name in names) for kind in (str, int))
    return names if is_named and len(set(names)) == len(names) else []


def _without_positions(names: list[str | int]) -> list[str | int]:
    """Return no names for the positions, which pandas gives columns without names."""
    return [] if names == list(range(len(names))) else names


# -- checks ----------------------------------------------------------------------------------------


def check_labels(
    y: Any, n_samples: int | None = None, *, name: str = "y", for_training: bool = False
) -> np.ndarray:
    """Check class labels, one for each sample, of one type.

    Every public function that takes labels calls this, or :func:`check_target`. ``n_samples`` of
    None accepts any number, ``name`` is the parameter that errors name, and ``for_training`` warns
    if there is one class only. A ``ValueError`` if labels are missing, have several types, are no
    labels, or are too many or too few.
    """
    _refuse_sets(y, name, ", for FineTunedClassifier or OneVsRestClassifier(model)")
    labels = _check_one_column(check_target(y, n_samples, name=name), name)
    if for_training:
        warn_of_one_class(np.unique(labels))
    return labels


def warn_of_one_class(labels: np.ndarray) -> None:
    """Warn if there is only one label to learn, of labels that are each there once."""
    if len(labels) == 1:
        (label,) = labels.tolist()
        warnings.warn(
            f"y has one class only, {label!r:.60}: every prediction will be this class.",
            stacklevel=3,
        )


def _refuse_sets(y: Any, name: str, taken_by: str) -> None:
    """Refuse sets and lists of labels, one for each sample, with the line to write."""
    if y is None or issparse(y):
        return
    raw = _as_raw(y)
    is_each = raw.ndim == 1 and raw.dtype == object
    sets = [x for x in raw if isinstance(x, set | frozenset | list | tuple)] if is_each else []
    if sets and all(isinstance(x, list | tuple) and len(x) == 1 for x in raw):
        raise ValueError(
            f"{name} holds lists with one label each, such as {reprlib.repr(sets[0])}: give the "
            f"labels, {name} = [row[0] for row in {name}]."
        )
    if sets:
        raise ValueError(
            f"{name} holds sets of labels, such as {reprlib.repr(sets[0])}: give a column for "
            f"each, sklearn.preprocessing.MultiLabelBinarizer().fit_transform({name}){taken_by}."
        )


def _check_one_column(y: np.ndarray, name: str) -> np.ndarray:
    if y.ndim == 2 and y.shape[1] != 1:
        raise ValueError(
            f"{name} should be a 1d array, got an array of shape {y.shape}.{_columns_hint(y, name)}"
        )
    if y.dtype.kind == "c":
        raise ValueError(f"{name} holds complex numbers, which are no labels.")
    naming(name, check_classification_targets, y)
    return column_or_1d(y, warn=True, input_name=name)


def _columns_hint(y: np.ndarray, name: str) -> str:
    """Say what to give instead of labels in several columns."""
    if y.dtype.kind in "biuf" and np.isin(y, (0, 1)).all():
        is_one_hot = (y.sum(axis=1) == 1).all()
        return " Its rows have a single 1 each: give y.argmax(axis=1)." if is_one_hot else ""
    return (
        f" If a row such as {reprlib.repr(y[0].tolist())} is a set of labels, give a column for "
        f"each label, sklearn.preprocessing.MultiLabelBinarizer().fit_transform({name}). If "
        "columns are targets of their own, fit a model for each: "
        "sklearn.multioutput.MultiOutputClassifier(model)."
    )


def check_target(y: Any, n_samples: int | None = None, *, name: str = "y") -> np.ndarray:
    """Check that a target has a value for every sample, whatever the task is.

    ``n_samples`` of None accepts any number of rows, and ``name`` is the parameter that errors
    name. A ``ValueError`` if values are missing (None, NaN, NaT, pandas' NA, or masked) or
    infinite, if texts and numbers are mixed, or if there are too many or too few rows.
    """
    if y is None:
        raise ValueError(f"This requires {name} to be passed, but the target {name} is None.")
    # In the array that numpy makes of ["a", NaN], NaN is the string "nan".
    raw = _as_raw(y)
    mask = np.ma.getmaskarray(y) if np.ma.isMaskedArray(y) else np.zeros(raw.shape, bool)
    missing = _is_missing(raw) | mask
    if missing.any():
        at = tuple(np.argwhere(missing)[0])
        value = "a masked value" if mask[at] else repr(raw[at])
        raise ValueError(
            f"Input {name} contains NaN or a missing label: {value} at {at[0] if at else 0}. "
            "Leave out samples without a label, or give them one."
        )
    array = naming(name, _as_array, raw, y)
    if array.ndim not in (1, 2):
        raise ValueError(f"{name} should be a 1d array, got an array of shape {array.shape}.")
    if not len(array):
        raise ValueError(f"{name} holds 0 values: at least one sample is needed.")
    if array.dtype.kind == "S":  # which scikit-learn < 1.7 would take
        raise ValueError(
            f"{name}: Support for labels represented as bytes is not supported. Convert the labels "
            "to a string or integer format."
        )
    if array.dtype.kind in "fc" and np.isinf(array).any():
        raise ValueError(
            f"Input {name} contains infinity, at {np.argwhere(np.isinf(array))[0][0]}."
        )
    if n_samples is not None and len(array) != n_samples:
        raise ValueError(
            f"{name} has {len(array)} values for {n_samples} samples: inconsistent numbers of "
            "samples."
        )
    return array


def _as_raw(y) -> np.ndarray:
    """Convert to an array of objects, unless the type of the elements is known."""
    if issparse(y):
        return y.toarray()
    if isinstance(y, np.ndarray) and y.dtype.kind != "T":  # strings of variable width
        return np.asarray(y)
    return np.asarray(y, dtype=object)


def _as_array(raw: np.ndarray, y) -> np.ndarray:
    """Convert a complete target to the type that numpy infers."""
    if raw.dtype != object:
        return raw
    kinds = {isinstance(label, str) for label in raw.flat}
    if len(kinds) > 1:
        raise ValueError("strings and values of other types are mixed. Give labels of one type.")
    if isinstance(y, np.ndarray):
        return raw
    array = np.asarray(y)
    # The columns of a pandas table with nullable types become objects.
    return np.array(array.tolist()) if array.dtype == object and kinds == {False} else array


def _is_missing(raw: np.ndarray) -> np.ndarray:
    """Return which values are None, NaN, NaT or pandas' NA, as a boolean mask."""
    if raw.dtype.kind in "fcmM":
        return np.isnan(raw)
    if raw.dtype != object:
        return np.zeros(raw.shape, bool)
    is_missing = np.fromiter((_is_missing_label(label) for label in raw.flat), bool, raw.size)
    return is_missing.reshape(raw.shape)


def _is_missing_label(label) -> bool:
    try:
        return label is None or bool(label != label)
    except TypeError:  # comparisons with pandas' NA have no truth value
        return True
    except ValueError:  # an array as a label, which is refused by its shape
        return False


def check_numbers(y: Any, n_samples: int | None = None, *, name: str = "y") -> np.ndarray:
    """Check numbers to regress on, as :func:`check_target` does; returns float64 or float32."""
    y = check_target(y, n_samples, name=name)
    if y.dtype.kind not in "biufO":
        raise ValueError(f"{name} must hold numbers to regress on, got {y.dtype} values.")
    floats = [np.float64, np.float32]
    return naming(name, check_array, y, dtype=floats, ensure_2d=False, input_name="y")


def check_weights(sample_weight: ArrayLike | None, n_samples: int) -> np.ndarray:
    """Check the weights of samples, and return them as float64; None is 1 for each sample.

    A ``ValueError`` if weights are no finite numbers, negative, all zero or nearly zero (a sum
    below 2.2e-308), masked, or too many or too few.
    """
    if np.ma.is_masked(sample_weight):
        raise ValueError("sample_weight holds masked values. Give each sample a weight, or 0.")
    if sample_weight is not None:
        given = naming("sample_weight", np.asarray, sample_weight)
        texts = given.dtype == object and any(isinstance(x, str | bytes) for x in given.flat)
        if texts or given.dtype.kind not in "biufO":
            raise ValueError(f"sample_weight: expected numbers, got {sample_weight!r:.60}")
    how: dict[str, Any] = {"dtype": np.float64, "ensure_non_negative": True}
    rows = np.empty((n_samples, 1))
    weight = naming("sample_weight", check_sample_weight, sample_weight, rows, **how)
    check_total(weight, "sample_weight")
    return weight


def check_total(weight: np.ndarray, name: str) -> None:
    """Check that the sum of weights, which ``name`` has, is finite and at least 2.2e-308."""
    with np.errstate(over="ignore"):
        total = weight.sum()
    if not _LEAST_TOTAL <= total < np.inf:
        raise ValueError(
            f"{name} has a sum of {total}: it must be positive and finite"
            f"{f', and at least {_LEAST_TOTAL:.3g}' if total > 0 else ''}."
        )
