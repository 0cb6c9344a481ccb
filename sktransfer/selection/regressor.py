"""Fit a regressor that combines what a pretrained network offers."""

from __future__ import annotations

import time
from numbers import Real
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import RegressorMixin
from sklearn.utils import Tags, check_random_state
from sklearn.utils.validation import check_is_fitted

from .._compat.sklearn import Interval
from ..data import NumericTarget, check_numbers, check_weights
from ..data.types import RandomState, Samples, Targets
from ..features import BackboneEstimator, all_or_nothing, reported
from ..finetuning import refuse_launcher
from ..transferability import subsample
from .blend import describe_blend
from .blend_fitting import BlendTask, fit_blend
from .cross_validation import Numbers
from .proposals import BLEND
from .trials import run_settings

__all__ = ["TransferRegressor"]


class TransferRegressor(RegressorMixin, BackboneEstimator):
    """Predict numbers with a pretrained network: combine layers, poolings and input sizes.

    Parameters
    ----------
    backbone : str, torch.nn.Module, callable or Backbone, default="efficientnet_lite0"
        As in :class:`PretrainedFeatureExtractor`.
    weights : str, Path or None, default="default"
        As in :class:`PretrainedFeatureExtractor`.
    image_size : int, default=None
        Side of the square given to the network, in pixels. None takes several, as
        :class:`TransferClassifier` does.
    time_budget : float, default=None
        About how many seconds ``fit`` may take. Fewer input sizes are used if they would take
        longer; where there is time, a trained network may join the blend. With None no network is
        trained.
    batch_size : int or "auto", default="auto"
        Samples in a training step, as in :class:`FineTunedRegressor`.
    device : str, default="auto"
        As in :class:`PretrainedFeatureExtractor`.
    engine : {"auto", "torch", "openvino", "onnxruntime", "compile"}, default="auto"
        The library that runs the network.
    memory : None, str, Path, FeatureStore or object with a location, default=None
        Where features are stored, by sample.
    random_state : int, RandomState instance or None, default=None
        Seed of the folds.
    verbose : int, default=0
        1 shows progress bars.

    Attributes
    ----------
    members_ : list of str
        The models that are combined.
    weights_ : ndarray of shape (n_members,)
        Their weights, the highest first, with a sum of 1.
    blend_ : Blend
        The fitted models.
    backbone_ : Backbone
        The pretrained network, unchanged.
    truncated_rate_, oov_rate_ : float
        For texts, as in :class:`PretrainedFeatureExtractor`.
    n_features_in_ : int
        Numbers in a sample, where X is a table.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the columns, where X is a table with names.
    execution_ : dict
        As in :class:`TransferClassifier`.

    See Also
    --------
    TransferClassifier : The same for labels.
    FineTunedRegressor : Train stages of the network.

    Notes
    -----
    Members are ridge regressions on features of several layers, poolings and input sizes, alone
    and side by side; for texts also on counts of words. On up to 600 samples they are
    cross-validated, and each gets the penalty with the smallest squared error. Weights are those of
    a greedy selection with replacement [1]_ by the squared error of the mean, averaged over 20
    bags. Several targets are standardised, have the same weights, and count alike.

    With a ``time_budget`` that suffices, at least 60 samples and a mean that leaves 5 % of the
    variance or more, and 0.6 of what a linear probe leaves, the whole network is trained as for
    :class:`TransferClassifier`. It gets the weight with the smallest squared error on samples held
    out.

    References
    ----------
    .. [1] Caruana et al., "Ensemble Selection from Libraries of Models", ICML 2004.
       https://doi.org/10.1145/1015330.1015432

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sktransfer import TransferRegressor
    >>> X = list(load_digits().images[:60] / 16)
    >>> y = [image.mean() for image in X]  # brightness
    >>> model = TransferRegressor(image_size=64, random_state=0).fit(X[:40], y[:40])
    >>> model.predict(X[40:]).shape
    (20,)
    """

    members_: list[str]
    weights_: np.ndarray
    _parameter_constraints: dict[str, Any] = {
        **BackboneEstimator._parameter_constraints,
        "time_budget": [Interval(Real, 0, None, closed="neither"), None],
        "random_state": ["random_state"],
    }
    for _name in ("image_shape", "n_jobs", "precision"):
        del _parameter_constraints[_name]
    del _name
    image_shape = None
    precision = "float32"

    def __init__(
        self,
        backbone: Any = "efficientnet_lite0",
        *,
        weights: Any = "default",
        image_size: int | None = None,
        time_budget: float | None = None,
        batch_size: int | str = "auto",
        device: str = "auto",
        engine: str = "auto",
        memory: Any = None,
        random_state: RandomState = None,
        verbose: int = 0,
    ):
        self.backbone = backbone
        self.weights = weights
        self.image_size = image_size
        self.time_budget = time_budget
        self.batch_size = batch_size
        self.device = device
        self.engine = engine
        self.memory = memory
        self.random_state = random_state
        self.verbose = verbose

    @reported(n_phases=2)
    @all_or_nothing
    def fit(self, X: Samples, y: Targets, sample_weight: ArrayLike | None = None) -> Self:
        """Fit the members and their weights.

        Parameters
        ----------
        X : list, array, Series or DataFrame column of n_samples samples
            As in :meth:`PretrainedFeatureExtractor.fit`.
        y : array-like of shape (n_samples,) or (n_samples, n_targets)
            Numbers.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples in the fit and in the errors that are compared.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            For unreadable samples, or for numbers or weights that do not fit.
        """
        refuse_launcher(self)
        start = time.perf_counter()
        self._require(y)
        samples = self._fit_backbone(X)
        y = check_numbers(y, len(samples))
        weight = check_weights(sample_weight, len(samples))
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        weighted = np.flatnonzero(weight)
        rows = weighted[subsample(np.zeros(len(weighted)), BLEND["rows"], seed)]
        numbers = Numbers(y, NumericTarget(y[weighted], weight[weighted]), weight)
        task = BlendTask(
            self.backbone_,
            samples,
            numbers,
            rows,
            seed,
            run_settings(self),
            batch_size=self.batch_size,
            until=None if self.time_budget is None else start + self.time_budget,
            phase=self._phase,
        )
        self.blend_: Any = fit_blend(task, self._inspect(samples), self.image_size)
        weights = self.blend_.weights
        self.members_, self.weights_ = list(weights), np.array(list(weights.values()))
        return self

    def predict(self, X: Samples) -> np.ndarray:
        """Predict numbers.

        Parameters
        ----------
        X : list, array, Series or DataFrame column of n_samples samples

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_targets)
            In the form of y.
        """
        samples: Any = self._transform_samples(X)
        numbers = self.blend_.of_samples(samples, run_settings(self))
        return numbers[:, 0] if self.blend_.scaler.is_flat else numbers

    @property
    def execution_(self) -> dict[str, Any]:
        check_is_fitted(self)
        return describe_blend(self.blend_.outputs, run_settings(self))

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
