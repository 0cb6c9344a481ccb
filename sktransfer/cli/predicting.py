"""Predictions of samples with the probabilities of their classes, for commands and the service."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ..data import TableSamples
from ..features import NetworkStep, checked_samples, find_network, takes_most_probable
from ..finetuning import FineTunedClassifier


class Prediction(NamedTuple):
    """The prediction of one sample.

    Parameters
    ----------
    value : object
        A label or a number; a list for several outputs.
    probabilities : list of (object, float), default=None
        Each class with its probability, in the order of ``classes_``. None where there are none.
    """

    value: Any
    probabilities: list[tuple[Any, float]] | None = None

    @property
    def is_list(self) -> bool:
        """Whether there are several outputs."""
        return isinstance(self.value, list)

    def ranked(self, k: int) -> Sequence[tuple[Any, float | None]]:
        """Return the prediction, then the other classes by probability, k in all.

        The prediction is not the most probable class where a threshold decides.
        """
        if self.is_list or self.probabilities is None:
            return [(self.value, None)]
        return sorted(self.probabilities, key=lambda pair: (pair[0] != self.value, -pair[1]))[:k]


def find_predictor(estimator: Any) -> NetworkStep:
    """Find the network of an estimator that predicts; others are a TypeError."""
    network = find_network(estimator)
    if not hasattr(estimator, "predict"):
        raise TypeError(
            f"{type(estimator).__name__} does not predict. Give a fitted classifier or regressor, "
            "or a pipeline that ends in one."
        )
    return network


def predict_samples(
    network: NetworkStep, samples: Any, *, refuse_unreadable: bool = False
) -> list[Prediction]:
    """Predict what ``predict`` of a fitted estimator says, and the probabilities.

    The network runs once, unless an estimator of its own decides on probabilities without a step
    for its features. Samples of a table are a dictionary for each row. With ``refuse_unreadable``,
    what cannot be read is an ``UnreadableSamplesError`` even if the estimator has
    ``on_error="nan"`` or "mean"; "mean" still fills cells that are missing.
    """
    network = network.raising() if refuse_unreadable else network
    X = network.samples(as_X(network, samples))
    if refuse_unreadable and network.reads_table:
        checked: Any = checked_samples(network.step, X)
        X = TableSamples(checked.kinds, checked.columns, checked.cells, fills_missing=False)
    model, X = network.behind(X)
    if not hasattr(model, "predict_proba"):
        return [Prediction(value) for value in np.asarray(model.predict(X)).tolist()]
    probabilities = model.predict_proba(X)
    classes: Any = getattr(model, "classes_", None)
    is_list = isinstance(probabilities, list) or isinstance(classes, list)
    is_vector = not is_list and classes is not None and np.ndim(classes) == 1
    if not is_vector or np.shape(probabilities)[1:] != np.shape(classes):  # of several outputs
        return [Prediction(value) for value in np.asarray(model.predict(X)).tolist()]
    names = np.asarray(classes)
    if isinstance(model, FineTunedClassifier) and model.target_.labels is None:
        values = (probabilities > 0.5).astype(int).tolist()  # label sets
    elif takes_most_probable(model):
        values = names[np.argmax(probabilities, axis=1)].tolist()
    else:
        values = np.asarray(model.predict(X)).tolist()
    rows = np.asarray(probabilities).tolist()
    return [
        Prediction(value, list(zip(names.tolist(), row, strict=True)))
        for value, row in zip(values, rows, strict=True)
    ]


def as_X(network: NetworkStep, samples: list[Any]) -> Any:
    """Return samples as an estimator takes them: rows of a table as a data frame of pandas."""
    if not network.reads_table:
        return samples
    from pandas import DataFrame

    return DataFrame(samples)
