"""Names of scikit-learn that are private or newer than the oldest version that is supported.

Private names were last seen in 1.9.1.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from sklearn import utils
from sklearn.base import BaseEstimator, _clone_parametrized
from sklearn.utils import _safe_indexing
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions, validate_params
from sklearn.utils.validation import _check_sample_weight, _num_samples

__all__ = [
    "OUTPUT_CONFIG",
    "PRIVATE_TYPES",
    "CallbackSupportMixin",
    "HasMethods",
    "Interval",
    "StrOptions",
    "begin_fit",
    "callback_state",
    "check_sample_weight",
    "clone_parametrized",
    "column_or_1d",
    "column_places",
    "end_fit",
    "fit_context",
    "num_samples",
    "safe_indexing",
    "score_function",
    "validate_parameters",
    "validate_params",
    "with_callbacks",
]

num_samples = _num_samples
safe_indexing = _safe_indexing
check_sample_weight = _check_sample_weight
clone_parametrized = _clone_parametrized

# The attribute in which ``set_output`` keeps what it is given.
OUTPUT_CONFIG = "_sklearn_output_config"

# What calibrations and searches hold beside public classes.
PRIVATE_TYPES = {
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn.calibration._TemperatureScaling",
    "sklearn.metrics._scorer._PassthroughScorer",
}

_Method = TypeVar("_Method", bound=Callable[..., Any])


def validate_parameters(estimator: BaseEstimator) -> None:
    """Check the parameters of an estimator against its table of constraints."""
    estimator._validate_params()


def score_function(scorer: Any) -> Any:
    """Return the metric of a scorer."""
    return scorer._score_func


def column_places(transformer: Any, name: str) -> np.ndarray:
    """Return the places of the columns that a step of a fitted ``ColumnTransformer`` takes."""
    return np.asarray(transformer._transformer_to_input_indices[name], int)


# -- versions before 1.9 -------------------------------------------------------------------------

_NAMES_INPUT = "input_name" in inspect.signature(utils.column_or_1d).parameters


def column_or_1d(y: Any, *, input_name: str, warn: bool = False) -> np.ndarray:
    """Ravel a column, as ``sklearn.utils.column_or_1d``; ``input_name=`` came with 1.9."""
    names = {"input_name": input_name} if _NAMES_INPUT else {}
    return utils.column_or_1d(y, warn=warn, **names)


try:
    from sklearn.callback import CallbackSupportMixin, with_callbacks
except ImportError:  # before 1.9, estimators have no set_callbacks, and nobody is told of fits

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Base of estimators that report their fits, which nothing listens to."""

    def with_callbacks(method: _Method) -> _Method:
        return method


class _NoContext:
    """A fit of which nobody is told."""

    max_subtasks = 0

    def subcontext(self, task_name: str) -> _NoContext:
        return self

    def call_on_fit_task_begin(self, estimator: Any) -> _NoContext:
        return self

    def call_on_fit_task_end(self, estimator: Any) -> None:
        pass


def begin_fit(estimator: Any, name: str = "fit", max_subtasks: int | None = 0) -> Any:
    """Tell the callbacks of an estimator that a method begins, and return its context.

    The method is decorated by ``with_callbacks``. It has ``max_subtasks`` phases; None if that is
    not known. Before scikit-learn 1.9, the context does nothing.
    """
    begin = getattr(estimator, "_init_callback_context", None)
    context = _NoContext() if begin is None else begin(name, max_subtasks=max_subtasks)
    context.call_on_fit_task_begin(estimator=estimator)
    return context


def fit_context(estimator: Any) -> Any:
    """Return the context of the fit that an estimator is in, or None."""
    return getattr(estimator, "_callback_fit_ctx", None)


def end_fit(estimator: Any) -> None:
    """Tell the callbacks of an estimator that its fit ends."""
    context = fit_context(estimator)
    if context is not None:
        context.call_on_fit_task_end(estimator=estimator)


def callback_state(estimator: Any) -> dict[str, Any]:
    """Return the attributes that ``with_callbacks`` needs at the end of a method."""
    names = ("_callback_fit_ctx", "_skl_callbacks_to_teardown")
    return {name: value for name, value in vars(estimator).items() if name in names}
