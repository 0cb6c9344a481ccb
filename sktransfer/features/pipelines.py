"""Find the step of a pipeline that runs a network."""

from __future__ import annotations

import dataclasses
from typing import Any

from ..backbones import modality_of
from ..data import Modality
from .base import shallow_copy

__all__ = ["NetworkStep", "find_network"]


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
    """

    step: Any
    before: Any = None
    after: Any = None

    def samples(self, X: Any) -> Any:
        """Return the input of the step."""
        return X if self.before is None else self.before.transform(X)

    @property
    def modality(self) -> Modality:
        """What a sample is."""
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
        return step if self.after is None else Pipeline([("step", step), *self.after.steps])

    def check(self, X: Any) -> Any:
        """Return the input of the step as a list or an array of samples, none opened."""
        shape = getattr(self.step, "image_shape", None)
        return self.modality.check(self.samples(X), image_shape=shape)


def find_network(estimator: Any) -> NetworkStep:
    """Find the step that runs a network.

    Parameters
    ----------
    estimator : estimator of sktransfer, a pipeline with one, or a fitted search for one

    Returns
    -------
    NetworkStep

    Raises
    ------
    TypeError
        If the estimator and its steps have no backbone.
    """
    estimator = getattr(estimator, "best_estimator_", estimator)
    if hasattr(estimator, "backbone"):
        return NetworkStep(estimator)
    for i, (_, step) in enumerate(getattr(estimator, "steps", ())):
        if hasattr(step, "backbone"):
            last = i + 1 == len(estimator)
            return NetworkStep(
                step, estimator[:i] if i else None, estimator[i + 1 :] if not last else None
            )
    raise TypeError(f"{type(estimator).__name__} has no backbone, and no step that has one.")
