"""Training on labels: new labels extend the head, and rows of earlier calls are kept."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..data import check_weights, class_target, naming
from .base import TunedEstimator
from .heads import grow
from .rehearsal import keep_rows, kept_rows
from .tail import Tail

__all__ = ["LabelTraining"]


class LabelTraining(TunedEstimator):
    """Base of the estimators that train on labels, which may be extended in later calls."""

    classes_: np.ndarray
    class_weight: Any
    rehearsal: int
    _seen: set[Any]

    def _learn(
        self, samples, y, sample_weight, labels: list | None, before, valid: tuple = (None, None)
    ) -> None:
        """Encode the labels, extend the head for new ones, and train.

        ``labels`` is None in ``fit``, and a list of further labels in ``partial_fit``, where more
        labels may follow. ``valid`` is X_val and y_val.
        """
        y = self._find_target(samples, y, labels or (), before)
        weight = check_weights(sample_weight, len(samples))
        self.classes_, target = self._target.classes, self._target.encode(y)
        tail, new = (None, ()) if before is None else self._continued(*before)
        # A label given only as classes= has a row in the head that was not trained yet.
        seen = self._target.present(target[weight > 0])
        earlier = set(self.classes_.tolist()) if before is None else self._seen
        first = [i for i, k in enumerate(self.classes_.tolist()) if k in seen and k not in earlier]
        total, kept = self._with_class_weight(target, weight, labels is not None)
        _check_total(total)
        new, saves = sorted({*new, *first}), labels is None
        given = self._check_validation(*valid)
        plain = self._fit_rows(samples, target, total, tail, new, kept, saves, given)
        # A label that this fit removed loses its row, which is new if the label comes back.
        self._seen = seen if before is None else (self._seen | seen) & set(self.classes_.tolist())
        self._keep(plain, target, weight)
        self._callback_fit_ctx.call_on_fit_task_end(estimator=self)

    def _find_target(self, samples, y, labels, before) -> np.ndarray:
        """Set the target of this fit and return the checked y."""
        earlier = None if before is None else self._target
        self._target, y = class_target(y, len(samples), labels)
        if earlier is not None and not self._goes_with(earlier):
            raise ValueError(
                f"y is {self._target.name} with {self._target.n_outputs} labels, which is not what "
                f"this model was fitted for ({earlier.name}, {earlier.n_outputs} classes)."
            )
        if self._target.labels is None and self.rehearsal:
            raise ValueError(
                "rehearsal= keeps rows of each class; an indicator matrix has no classes."
            )
        return y

    def _goes_with(self, earlier) -> bool:
        """Tell whether the target has the type of an earlier one and no fewer outputs."""
        several = self._target.labels is None
        same_number = self._target.n_outputs == earlier.n_outputs
        return type(self._target) is type(earlier) and (same_number or not several)

    def _continued(self, tail: Tail, known: np.ndarray) -> tuple[Tail, list[int]]:
        """Copy an earlier tail, extend its head, and return the indices of the new rows."""
        tail = self._copy_tail(tail)
        sources = _sources(self.classes_.tolist(), known.tolist())
        if sources != list(range(len(known))):
            grow(tail.head, sources, len(known))
        return tail, [i for i, source in enumerate(sources) if source is None]

    def _carried_rows(self) -> list[int | None]:
        if self.head_init != "auto" or self._target.labels is None:
            return super()._carried_rows()
        known = getattr(self.backbone_, "label_rows", {})
        return [known.get(label) for label in self._target.labels]

    def _label_rows(self) -> dict:
        # The row of a label that no sample had predicts that it never occurs.
        return {k: i for i, k in enumerate(self._target.labels or ()) if k in self._seen}

    def _with_class_weight(
        self, target, weight, more_may_come: bool
    ) -> tuple[np.ndarray, tuple | None]:
        """Apply ``class_weight`` to the rows of this call and to rows kept from earlier calls."""
        kept = kept_rows(self._kept, self.classes_)
        if self.class_weight is None:
            return weight, kept
        every = target if kept is None else np.concatenate([target, kept[1]])
        factors = self._target.class_factors
        factor = naming("class_weight", factors, self.class_weight, every, more_may_come)
        if kept is not None:
            kept = (*kept[:2], kept[2] * factor[len(target) :])
        return weight * factor[: len(target)], kept

    def _keep(self, plain, target: np.ndarray, weight: np.ndarray) -> None:
        """Keep activations of training rows, not of validation rows."""
        if not self.rehearsal:
            return
        trained = np.setdiff1d(np.flatnonzero(weight > 0), self.validation_indices_)
        groups = {
            self.classes_[code]: trained[target[trained] == code]
            for code in np.unique(target[trained])
        }
        seed = self._tuned.plan.seed
        self._kept = keep_rows(self._kept, plain, weight, groups, self.rehearsal, seed)

    def _output_names(self):
        labels = self._target.labels  # an indicator matrix has no class names
        return None if labels is None else [str(label) for label in labels]


def _check_total(weight: np.ndarray) -> None:
    with np.errstate(over="ignore"):
        total = weight.sum()
    if not (weight >= 0).all() or not 0 < total < np.inf:
        raise ValueError(
            "class_weight times sample_weight must be finite and not negative, nor all zero."
        )


def _sources(labels: list, known: list) -> list[int | None]:
    """Return the position of each label among the known labels, or None."""
    place = {label: i for i, label in enumerate(known)}
    return [place.get(label) for label in labels]
