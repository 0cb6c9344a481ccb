"""Find the step of a pipeline, search or thresholded classifier that runs a network."""

from __future__ import annotations

import dataclasses
from typing import Any

from sklearn.frozen import FrozenEstimator
from sklearn.utils.validation import check_is_fitted

from ..backbones import modality_of
from ..data import ROWS, Modality
from .base import BackboneEstimator, checked_samples, shallow_copy


def find_network(estimator: Any) -> NetworkStep:
    """Find the step that runs a network.

    The estimator is one of sktransfer, a pipeline with one, or a search for one, or a classifier of
    scikit-learn with a threshold around one of these; fitted or not. A ``TypeError`` if it and its
    steps have no backbone.
    """
    estimator = getattr(estimator, "best_estimator_", estimator)
    if isinstance(estimator, FrozenEstimator):
        estimator = estimator.estimator
    if hasattr(estimator, "backbone"):
        return NetworkStep(estimator)
    for i, (_, step) in enumerate(getattr(estimator, "steps", ())):
        if hasattr(step, "backbone"):
            last = i + 1 == len(estimator)
            return NetworkStep(
                step, estimator[:i] if i else None, estimator[i + 1 :] if not last else None
            )
    if hasattr(estimator, "estimator"):
        from sklearn.model_selection import FixedThresholdClassifier, TunedThresholdClassifierCV

        # ``estimator_`` of other meta-estimators is not fitted, or takes other samples.
        is_threshold = isinstance(estimator, FixedThresholdClassifier | TunedThresholdClassifierCV)
        if is_threshold and hasattr(estimator, "estimator_"):
            return dataclasses.replace(find_network(estimator.estimator_), around=estimator)
        if is_threshold or hasattr(estimator, "refit"):  # a search, not fitted
            return find_network(estimator.estimator)
    raise TypeError(f"{type(estimator).__name__} has no backbone, and no step that has one.")


def fitted_network(estimator: Any) -> NetworkStep:
    """Find the step that runs a network, of an estimator that can predict.

    Errors are those of :func:`find_network` and :func:`check_refit`, and ``NotFittedError``.
    """
    network = find_network(estimator)
    check_refit(estimator)
    check_is_fitted(estimator)
    check_is_fitted(network.step)  # a pipeline asks its last step alone
    return network


def is_frozen(estimator: Any) -> bool:
    """Tell whether a fit leaves what predicts as it is, because of a FrozenEstimator.

    The estimator may be a pipeline that ends in one, or a search or threshold around one.
    """
    while estimator is not None and not isinstance(estimator, FrozenEstimator):
        steps = getattr(estimator, "steps", None)
        estimator = steps[-1][1] if steps else getattr(estimator, "estimator", None)
    return estimator is not None


def takes_most_probable(model: Any) -> bool:
    """Tell whether what ``predict`` of a classifier returns is known from its probabilities.

    So it is for estimators of sktransfer, unless a classifier of the user's predicts.
    """
    return isinstance(model, BackboneEstimator) and getattr(model, "estimator", None) is None


def check_refit(estimator: Any) -> None:
    """Refuse a search that fits no model with the best parameters, by ``refit=False``."""
    if not getattr(estimator, "refit", True):
        raise ValueError(
            f"{type(estimator).__name__} with refit=False keeps no model that could predict: set "
            "refit=True."
        )


@dataclasses.dataclass(frozen=True)
class NetworkStep:
    """The step of an estimator that runs a network.

    Parameters
    ----------
    step : estimator
        With the parameter ``backbone``.
    before : Pipeline or None
        The steps before it; None where there are none.
    after : Pipeline or None
        The steps behind it.
    around : FixedThresholdClassifier, TunedThresholdClassifierCV or None
        Fitted, what decides on the probabilities of all these steps.
    """

    step: Any
    before: Any = None
    after: Any = None
    around: Any = None

    def samples(self, X: Any) -> Any:
        """Return the input of the step."""
        return X if self.before is None else self.before.transform(X)

    @property
    def reads_table(self) -> bool:
        """Whether samples are rows of a table: by the fit, or else by the networks."""
        kinds = getattr(self.step, "column_kinds_", None)
        is_fitted = hasattr(self.step, "backbone_")
        return kinds is not None or (not is_fitted and isinstance(self.step.backbone, dict))

    @property
    def modality(self) -> Modality:
        """What a sample is."""
        if self.reads_table:
            return ROWS
        fitted = getattr(self.step, "backbone_", None)
        return modality_of(self.step.backbone) if fitted is None else fitted.modality

    def on_samples(self) -> Any:
        """Return the estimator from this step on, for samples as :meth:`check` returns them.

        Nothing that it computes goes to the store of features.
        """
        from sklearn.pipeline import Pipeline  # imports all its transformers

        changed = {"image_shape": None, "memory": None}
        known = {name: value for name, value in changed.items() if hasattr(self.step, name)}
        step = shallow_copy(self.step, **known)
        model = step if self.after is None else Pipeline([("step", step), *self.after.steps])
        return model if self.around is None else shallow_copy(self.around, estimator_=model)

    def behind(self, X: Any) -> tuple[Any, Any]:
        """Return the estimator behind the network, and its input for what :meth:`samples` returns.

        Where nothing follows the network, the estimator is the step itself, and X its input.
        """
        model = self.step
        if self.after is not None:
            model, X = self.after, self.step.transform(X)
        if self.around is not None:
            model = shallow_copy(self.around, estimator_=model)
        return model, X

    def raising(self) -> NetworkStep:
        """Return this step with ``on_error="raise"``, if it has ``on_error="nan"``."""
        if getattr(self.step, "on_error", None) != "nan":
            return self
        return dataclasses.replace(self, step=shallow_copy(self.step, on_error="raise"))

    def check(self, X: Any) -> Any:
        """Return the input of the step as a list, an array or a table of samples, none opened."""
        samples = self.samples(X)
        if self.reads_table:
            return checked_samples(self.step, samples)
        shape = getattr(self.step, "image_shape", None)
        return self.modality.check(samples, image_shape=shape)
