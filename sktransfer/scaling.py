"""The scale and the penalty that every linear probe shares."""

from __future__ import annotations

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

__all__ = ["PROBE_C", "OneScale"]

# Inverse strength of a probe's L2 penalty, on features scaled as below. By cross-validation on
# hymenoptera's training part and on 200 and 600 digits, 0.1 is within 0.003 of the best accuracy
# among 1e-5 … 10.
PROBE_C = 0.1


class OneScale(TransformerMixin, BaseEstimator):
    """Centre each feature and divide all by one number, the root of their mean variance.

    A scale for each feature would lift the noise of rarely active ones: on digits that costs a
    linear classifier 1 to 7 points.

    Attributes
    ----------
    mean_ : ndarray of shape (n_features,)
    scale_ : float
        1.0 where no feature varies.
    n_features_in_ : int
    """

    def fit(self, X, y=None, sample_weight=None):
        """Learn the centre and the scale, each row by its weight."""
        X = validate_data(self, X, dtype=np.float64)
        self.mean_ = np.average(X, axis=0, weights=sample_weight)
        variance = np.average((X - self.mean_) ** 2, axis=0, weights=sample_weight)
        self.scale_ = float(np.sqrt(variance.mean())) or 1.0
        return self

    def transform(self, X):
        """Centre and divide."""
        check_is_fitted(self)
        return (validate_data(self, X, dtype=np.float64, reset=False) - self.mean_) / self.scale_
