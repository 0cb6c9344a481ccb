"""Fit a classifier that combines what a pretrained network offers, or one strategy."""

from __future__ import annotations

import time
from numbers import Real
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from .._compat.sklearn import HasMethods, Interval, StrOptions, validate_parameters
from ..data import check_labels, naming
from ..data.types import RandomState, Samples, Targets
from ..features import BackboneEstimator, Count, all_or_nothing, reported
from ..finetuning import refuse_launcher
from ..transferability import subsample
from .blend import Blend, describe_blend
from .blend_fitting import BlendTask, fit_blend
from .choices import check_choices, check_combinable, sources_of
from .cross_validation import Labels
from .proposals import BLEND
from .strategies import available_strategies
from .study import Study
from .trials import check_takes_weights, combined_weights, run_settings, set_running

__all__ = ["TransferClassifier"]


class TransferClassifier(ClassifierMixin, BackboneEstimator):
    """Classify with a pretrained network: combine what it offers, or follow one strategy.

    Parameters
    ----------
    backbone : str, torch.nn.Module, callable or Backbone, default="efficientnet_lite0"
        As in :class:`PretrainedFeatureExtractor`.
    weights : str, Path or None, default="default"
        As in :class:`PretrainedFeatureExtractor`.
    image_size : int, default=None
        Side of the square given to the network, in pixels. None is what its weights were trained
        with; with "auto", 3 / 7, 4 / 7 and 9 / 7 of it instead.
    strategy : str, default="auto"
        "auto" takes the weighted mean of the probabilities of several models, see Notes. Or one
        of those of :func:`~sktransfer.selection.available_strategies`: "direct", the network's own
        classes mapped onto yours; "features", a linear classifier on those of the penultimate
        layer; "early", on those of an earlier layer; "head", a new head; "last", a new head and
        the last two stages; "all", all stages.
    estimator : classifier, default=None
        The classifier on features. None is a linear model whose penalty is chosen by
        cross-validation. With "auto" it needs ``predict_proba`` or ``decision_function``.
    class_map : dict, default=None
        The network's classes that mean each label, as in :class:`PretrainedClassifier`. None learns
        them from the samples. For "auto" and "direct".
    class_weight : dict, "balanced" or None, default=None
        Weights of the classes, by label; "balanced" gives each class the same sum of weights.
    max_epochs : int or "auto", default="auto"
        As in :class:`FineTunedClassifier`, for strategies that train. Blends ignore it.
    time_budget : float, default=None
        With "auto", about how many seconds ``fit`` may take: fewer input sizes are used, or a
        trained network joins the blend if there is time. With None no network is trained.
    batch_size : int or "auto", default="auto"
        Samples in a training step, as in :class:`FineTunedClassifier`.
    device : str, default="auto"
        As in :class:`PretrainedFeatureExtractor`.
    engine : {"auto", "torch", "openvino", "onnxruntime", "compile"}, default="auto"
        The library that runs the network, and the frozen stages of strategies that train.
    memory : None, str, Path, FeatureStore or object with a location, default=None
        Where features are stored, by sample. Without it they are in memory for the time of a
        fit, so that all strategies share them.
    random_state : int, RandomState instance or None, default=None
        Seed of the folds, of heads, and of the order of samples.
    verbose : int, default=0
        1 shows progress bars.

    Attributes
    ----------
    strategy_ : str
        The strategy that was fitted; "blend" with ``strategy="auto"``.
    estimator_ : estimator or Blend
        The fitted one.
    members_ : list of str or None
        With ``strategy="auto"``, the models that are combined.
    weights_ : ndarray of shape (n_members,) or None
        Their weights, the highest first, with a sum of 1.
    classes_ : ndarray of shape (n_classes,)
        The labels, sorted.
    backbone_ : Backbone
        The pretrained network, unchanged.
    truncated_rate_, oov_rate_ : float
        For texts, as in :class:`PretrainedFeatureExtractor`.
    n_features_in_ : int
        Numbers in a sample, where X is a table.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the columns, where X is a table with names.
    execution_ : dict
        As in :class:`PretrainedFeatureExtractor`; with several input sizes, "batch_size" is a
        dictionary by size. Empty where no network runs.

    See Also
    --------
    recommend_strategy : Recommend one strategy, with reasons and estimated times.
    TransferRegressor : The same for numbers.

    Notes
    -----
    The members of the blend of "auto" are linear models of features of several layers, poolings and
    input sizes, alone and side by side; the network's own classes, mapped onto yours; and from 40
    texts on, linear models of counts of words. Each sample passes the network once at each size.

    On up to 600 samples, models are cross-validated; each gets the penalty and the temperature with
    the smallest log loss [1]_, and the weights are those of the mixture that explains the labels
    best (:func:`~sktransfer.transferability.mixture_weights`). The network's own classes, mapped by
    ``class_map`` if it is given, begin with 0.8 pseudo-samples, and the others share 0.2. Without
    own classes, logistic regression on the penultimate layer begins with 1, and the others share 9.
    Members with a weight under 0.02 are left out, the others are fitted on all samples, and the
    weighted mean of their probabilities is calibrated. All of this uses the samples given to
    ``fit`` alone, so that a cross-validation of the whole estimator is unbiased.

    The whole network is trained if the ``time_budget`` suffices, there are at least 60 samples,
    eight for each class, and the mean is wrong for 5 % of them or more, and for 0.6 of the errors
    of the linear probe from which the training begins: at 3 / 7 of the usual size, without a fifth
    of the samples (at least 30). It gets the weight that explains these best, unless it is worse
    than the others there.

    References
    ----------
    .. [1] Guo et al., "On Calibration of Modern Neural Networks", ICML 2017.
       https://arxiv.org/abs/1706.04599

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sktransfer import TransferClassifier
    >>> digits = load_digits()
    >>> X, y = list(digits.images[:60] / 16), digits.target[:60]
    >>> model = TransferClassifier(strategy="features", image_size=64).fit(X[:40], y[:40])
    >>> model.predict(X[40:]).shape
    (20,)
    """

    classes_: np.ndarray
    estimator_: Any
    strategy_: str
    _parameter_constraints: dict[str, Any] = {
        **BackboneEstimator._parameter_constraints,
        "strategy": [str],
        "estimator": [HasMethods(["fit", "predict"]), None],
        "class_map": [dict, None],
        "max_epochs": [Count(0), StrOptions({"auto"})],
        "class_weight": [dict, StrOptions({"balanced"}), None],
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
        strategy: str = "auto",
        estimator: Any = None,
        class_map: dict[Any, Any] | None = None,
        class_weight: dict[Any, float] | str | None = None,
        max_epochs: int | str = "auto",
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
        self.strategy = strategy
        self.estimator = estimator
        self.class_map = class_map
        self.class_weight = class_weight
        self.max_epochs = max_epochs
        self.time_budget = time_budget
        self.batch_size = batch_size
        self.device = device
        self.engine = engine
        self.memory = memory
        self.random_state = random_state
        self.verbose = verbose

    @reported(n_phases=2)
    @all_or_nothing
    def fit(
        self,
        X: Samples,
        y: Targets,
        sample_weight: ArrayLike | None = None,
        X_unlabelled: Samples | None = None,
    ) -> Self:
        """Fit a blend, or the strategy that is given.

        Parameters
        ----------
        X : list, array, Series or DataFrame column of n_samples samples
            As in :meth:`PretrainedFeatureExtractor.fit`.
        y : array-like of shape (n_samples,)
            Labels of any type.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples, in the fit, in the trials of strategies and in the accuracies
            that are compared. Samples of weight 0 are in no trial.
        X_unlabelled : list, array, Series or DataFrame column of samples, default=None
            Samples of the same classes without labels, for ``strategy="auto"``: members are
            fitted on them too, with the labels that the blend predicts for them. At
            most 600 are used, drawn at random. -1 in ``y`` is a label like any other.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            For unknown names, unreadable samples, labels or weights that do not fit, a strategy
            that the network does not allow, a label missing from ``class_map``, or weights or
            ``X_unlabelled`` that the ``estimator`` or the ``strategy`` does not take.
        """
        if X_unlabelled is not None and self.strategy != "auto":
            raise ValueError(
                f"X_unlabelled is used by strategy='auto' only, not by {self.strategy!r}. Use "
                "sklearn.semi_supervised.SelfTrainingClassifier around the estimator instead."
            )
        refuse_launcher(self)
        start = time.perf_counter()
        # None or not by the strategy, which a type checker cannot know.
        self.members_: Any = None
        self.weights_: Any = None
        if self.strategy == "auto":
            samples, y = self._check(X, y)
            check_combinable(self.estimator)
            until = None if self.time_budget is None else start + self.time_budget
            self.strategy_ = "blend"
            self.estimator_ = self._fit_blend(samples, y, sample_weight, X_unlabelled, until)
            weights = self.estimator_.weights
            self.members_, self.weights_ = list(weights), np.array(list(weights.values()))
            self.classes_ = self.estimator_.classes
            return self
        study = self._study(X, y, sample_weight)
        # What is asked for by name is done, with epochs or without.
        with self._phase("compare"):  # with what the network allows
            possible = available_strategies(self.backbone_)
        if self.strategy not in possible:
            raise ValueError(
                f"strategy={self.strategy!r} is not possible with backbone "
                f"{self.backbone_.name!r}, which allows {possible}."
            )
        self.strategy_ = self.strategy
        self.estimator_ = self._in_phase("fit", study.fit, self.strategy_)
        self.classes_ = study.classes
        self._fitted()  # with the user's store from here on
        return self

    def _check(self, X, y) -> tuple[Any, np.ndarray]:
        """Check the parameters and the data, and load the network."""
        self._require(y)
        validate_parameters(self)
        check_choices(self)
        samples = self._fit_backbone(X)
        return samples, check_labels(y, len(samples), for_training=True)

    def _fit_blend(
        self, samples: Any, y: np.ndarray, sample_weight: Any, X_unlabelled: Any, until: Any
    ) -> Blend:
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        classes, codes = np.unique(y, return_inverse=True)
        weight = combined_weights(sample_weight, self.class_weight, y, self.estimator)
        weight = np.ones(len(y)) if weight is None else weight
        groups = self._sources(samples, y)
        weighted = np.flatnonzero(weight)
        task = BlendTask(
            self.backbone_,
            samples,
            Labels(y, codes, classes, weight),
            weighted[subsample(codes[weighted], BLEND["rows"], seed)],
            seed,
            run_settings(self),
            classifier=self.estimator,
            unlabelled=self._check_unlabelled(X_unlabelled),
            groups=None if groups is None else tuple(map(tuple, groups.values())),
            batch_size=self.batch_size,
            until=until,
            phase=self._phase,
        )
        return fit_blend(task, self._inspect(samples), self.image_size)

    def _check_unlabelled(self, X_unlabelled):
        """Return the samples without labels, checked."""
        if X_unlabelled is None:
            return None
        if self.estimator is not None:
            check_takes_weights(self.estimator)  # they are weighted by confidence
        return naming("X_unlabelled", self._check_new, X_unlabelled)

    def _fitted(self):
        """Return the fitted estimator, which runs as this one is asked to by now."""
        return set_running(self.estimator_, **run_settings(self))

    @property
    def execution_(self) -> dict[str, Any]:
        check_is_fitted(self)
        if isinstance(self.estimator_, Blend):
            return describe_blend(self.estimator_.outputs, run_settings(self))
        fitted = self._fitted()
        return getattr(fitted, "steps", [("", fitted)])[0][1].execution_

    def _study(self, X, y, sample_weight=None) -> Study:
        """Check the parameters, X, y and the weights, and return the study of them."""
        samples, y = self._check(X, y)
        return Study(
            self.backbone_,
            samples,
            y,
            int(check_random_state(self.random_state).randint(2**31 - 1)),
            weight=combined_weights(sample_weight, self.class_weight, y, self.estimator),
            classifier=self.estimator,
            class_map=self._sources(samples, y),
            max_epochs=self.max_epochs,
            batch_size=self.batch_size,
            run=run_settings(self),
            strategy=None if self.strategy == "auto" else self.strategy,
        )

    def _sources(self, samples, y: np.ndarray) -> dict | None:
        """Return the network's classes that mean each label of y, by position."""
        if self.class_map is None:
            return None
        n_outputs = list(self._inspect(samples).values())[-1].width
        return sources_of(self.class_map, np.unique(y), self.backbone_, n_outputs)

    def predict(self, X: Samples) -> np.ndarray:
        """Predict the most probable class.

        Parameters
        ----------
        X : list, array, Series or DataFrame column of n_samples samples

        Returns
        -------
        ndarray of shape (n_samples,)
        """
        samples: Any = self._transform_samples(X)
        if isinstance(self.estimator_, Blend):
            probabilities = self.estimator_.of_samples(samples, run_settings(self))
            return self.classes_[probabilities.argmax(axis=1)]
        return self._fitted().predict(samples)

    @available_if(lambda self: self._offers("predict_proba"))
    def predict_proba(self, X: Samples) -> np.ndarray:
        """Predict the probability of each class, if the estimator has this method.

        Parameters
        ----------
        X : list, array, Series or DataFrame column of n_samples samples

        Returns
        -------
        ndarray of shape (n_samples, n_classes), float64
            In the order of ``classes_``.
        """
        samples: Any = self._transform_samples(X)
        if isinstance(self.estimator_, Blend):
            return self.estimator_.of_samples(samples, run_settings(self))
        return self._fitted().predict_proba(samples)

    @available_if(lambda self: self._offers("decision_function"))
    def decision_function(self, X: Samples) -> np.ndarray:
        """Compute scores of the classes, if the estimator has this method.

        Parameters
        ----------
        X : list, array, Series or DataFrame column of n_samples samples

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_classes)
        """
        samples = self._transform_samples(X)
        return self._fitted().decision_function(samples)

    def _offers(self, method: str) -> bool:
        """Tell whether the classifier has a method: the fitted one, or the one to be fitted."""
        fitted = getattr(self, "estimator_", None)
        if fitted is not None and not isinstance(fitted, Blend):
            return hasattr(fitted, method)
        if fitted is not None or self.estimator is None or self.strategy == "auto":
            return method == "predict_proba"
        return hasattr(self.estimator, method)
